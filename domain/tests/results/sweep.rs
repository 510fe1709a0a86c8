//! Objects without rows: which are deleted, when, and above all which are not. And deletions that outlast a bucket that
//! is away.

use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use domain::generation::GenerationRequest;
use domain::input::{self, Input};
use domain::job::{self, LeasePolicy};
use domain::storage::Keys;
use domain::sweep::{self, SweepMode, SweepPolicy, SweepReport};
use domain::{
    Database, DatasetId, Error, ExampleId, GenerationId, InputId, JobId, ModelId, Pools, Storage, StorageConfig,
    StorageKey, TrainingId, UploadId, deletion, generation,
};
use embedded::{S3, TemporaryDatabase};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use super::World;

/// As if a day had passed between any two sweeps.
const LATER: SweepPolicy = SweepPolicy { object_age: Duration::ZERO, grace: Duration::ZERO };

async fn sweep_later(pool: &PgPool, storage: &Storage) -> SweepReport {
    sweep::sweep(pool, storage, &LATER, SweepMode::Delete).await.unwrap()
}

pub(super) fn png(shade: u8) -> Bytes {
    let mut out = Cursor::new(Vec::new());
    let picture = image::RgbImage::from_pixel(16, 16, image::Rgb([shade, 1, 2]));
    image::DynamicImage::from(picture).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner().into()
}

impl World {
    pub(super) async fn input(&self, shade: u8) -> Input {
        input::create(&self.caller, &self.pools.api, &self.storage, "image", png(shade)).await.unwrap()
    }

    pub(super) async fn has(&self, key: &str) -> bool {
        match self.storage.head(key).await {
            Ok(_) => true,
            Err(Error::NotFound { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(self.pool()).await.unwrap();
    }

    /// Puts objects of inputs that have no row.
    async fn strays(&self, count: usize) -> Vec<String> {
        let keys: Vec<String> =
            (0..count).map(|_| StorageKey::Input { input: InputId::new(), extension: "png" }.to_string()).collect();
        for key in &keys {
            self.put(key).await;
        }
        keys
    }

    async fn all_there(&self, keys: &[String]) {
        for key in keys {
            assert!(self.has(key).await, "{key} is gone");
        }
    }
}

/// One key of each kind, without a row.
fn keys_of_every_kind() -> Vec<String> {
    let (dataset, job, upload) = (DatasetId::new(), JobId::new(), UploadId::new());
    [
        StorageKey::DatasetExample { dataset, example: ExampleId::new(), extension: "png" },
        StorageKey::Upload { upload },
        StorageKey::UploadPart { upload: UploadId::new(), number: 1 },
        StorageKey::Input { input: InputId::new(), extension: "webp" },
        StorageKey::Source { generation: GenerationId::new(), role: "image", extension: "png" },
        StorageKey::ModelFile { model: ModelId::new(), path: "vae/config.json".to_owned() },
        StorageKey::Artifact { job, epoch: 1, position: 0, extension: "png" },
        StorageKey::TrainingCheckpoint { training: TrainingId::new(), epoch: 2, step: 100 },
    ]
    .map(|key| key.to_string())
    .to_vec()
}

#[tokio::test]
async fn an_object_without_a_row_is_deleted_a_day_later_and_nothing_else() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    let named = world.input(1).await.storage_key;
    let strays = keys_of_every_kind();
    let others = ["archive/2026/picture.png", "notes.txt", "inputs/holiday.png", "models/mine/lora.safetensors"]
        .map(String::from);
    for key in strays.iter().chain(&others) {
        world.put(key).await;
    }
    let all: Vec<String> = strays.iter().chain(&others).chain([&named]).cloned().collect();

    // Younger than a day: their rows may be about to be written. They are listed all the same.
    let listed = sweep::sweep(world.pool(), &world.storage, &SweepPolicy::default(), SweepMode::DryRun).await.unwrap();
    let of_young = |mut report: SweepReport| {
        report.young_keys.sort();
        (report.objects, report.young, report.strays, report.young_strays, report.keys, report.young_keys)
    };
    let mut sorted = strays.clone();
    sorted.sort();
    assert_eq!(of_young(listed), (9, 9, 0, 8, vec![], sorted));
    let report = sweep::sweep(world.pool(), &world.storage, &SweepPolicy::default(), SweepMode::Delete).await.unwrap();
    assert_eq!((report.objects, report.young, report.strays, report.marked), (9, 9, 0, 0), "{report:?}");

    let dry = sweep::sweep(world.pool(), &world.storage, &LATER, SweepMode::DryRun).await.unwrap();
    assert_eq!((dry.strays, dry.young_strays, dry.marked, dry.deleted), (8, 0, 8, 0), "{dry:?}");
    assert_eq!(world.count("SELECT count(*) FROM sweep_marks").await, 0);
    let report = sweep_later(world.pool(), &world.storage).await;
    assert_eq!((report.strays, report.marked, report.deleted), (8, 8, 0), "{report:?}");
    // Not yet a day after the mark.
    let soon = SweepPolicy { grace: Duration::from_hours(24), ..LATER };
    let report = sweep::sweep(world.pool(), &world.storage, &soon, SweepMode::Delete).await.unwrap();
    assert_eq!((report.marked, report.deleted), (0, 0), "{report:?}");
    world.all_there(&all).await;

    let report = sweep_later(world.pool(), &world.storage).await;
    assert_eq!((report.strays, report.deleted), (8, 8), "{report:?}");
    for key in &strays {
        assert!(!world.has(key).await, "{key}");
    }
    world.all_there(&others).await;
    assert!(world.has(&named).await);
    assert_eq!(world.count("SELECT count(*) FROM sweep_marks").await, 0);
}

#[tokio::test]
async fn an_object_whose_row_was_written_meanwhile_stays() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    let input = world.input(1).await;
    world.execute("CREATE TABLE kept AS SELECT * FROM inputs").await;
    world.execute("DELETE FROM inputs").await;
    assert_eq!(sweep_later(world.pool(), &world.storage).await.marked, 1);
    world.execute("INSERT INTO inputs SELECT * FROM kept").await;
    let report = sweep_later(world.pool(), &world.storage).await;
    assert_eq!((report.strays, report.deleted), (0, 0), "{report:?}");
    assert_eq!(world.count("SELECT count(*) FROM sweep_marks").await, 0, "a new day begins if it loses its row again");
    world.all_there(&[input.storage_key]).await;
}

/// The attempt is about to write the rows of what it has stored.
#[tokio::test]
async fn what_a_running_attempt_stores_is_no_stray() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    let request: GenerationRequest = serde_json::from_value(json!({"prompt": "an owl"})).unwrap();
    world.generations.create(&world.caller, request).await.unwrap();
    let claim = world.claim().await;
    let stored = |epoch| StorageKey::Artifact { job: claim.job, epoch, position: 0, extension: "png" }.to_string();
    world.put(&stored(1)).await;
    assert_eq!(sweep_later(world.pool(), &world.storage).await.strays, 0);
    // Another attempt runs: what this one has stored never gets a row.
    let next = world.take_over(&claim).await;
    world.put(&stored(2)).await;
    let report = sweep_later(world.pool(), &world.storage).await;
    assert_eq!(report.keys, [stored(1)]);
    job::fail(world.pool(), &next, &LeasePolicy::default(), job::ErrorClass::InvalidInput, "no").await.unwrap();
    assert_eq!(sweep_later(world.pool(), &world.storage).await.strays, 2);
    assert!(!world.has(&stored(1)).await, "it was marked a day ago");
}

/// The database was lost, and the new one does not know the objects in the bucket.
#[tokio::test]
async fn an_empty_database_on_a_full_bucket_deletes_nothing() {
    let world = World::new().await;
    world.execute("DELETE FROM examples").await;
    let mut keys = world.strays(5).await;
    keys.extend([world.input(1).await.storage_key]);
    // Both a bucket that belongs to somebody, and one that an older version has filled.
    for signed in [false, true] {
        if signed {
            sweep::sweep(world.pool(), &world.storage, &LATER, SweepMode::Accept).await.unwrap();
            assert!(world.has("pyrograph.json").await);
        }
        let (_database, pools) = another_database().await;
        sweep::meet(&pools.lease, &world.storage).await.unwrap();
        for _ in 0..3 {
            let report = sweep_later(&pools.lease, &world.storage).await;
            assert!(report.stopped.is_some() && report.deleted == 0 && report.marked == 0, "{report:?}");
        }
        // Its first rows do not make the other objects its own.
        let bytes = png(9);
        let own = input::create(&world.caller, &pools.api, &world.storage, "image", bytes).await.unwrap();
        let report = sweep_later(&pools.lease, &world.storage).await;
        assert!(report.stopped.is_some(), "{report:?}");
        let accepted = sweep::sweep(&pools.lease, &world.storage, &LATER, SweepMode::Accept).await.unwrap();
        assert_eq!(accepted.stopped.is_some(), signed, "another installation's bucket is never accepted: {accepted:?}");
        if !signed {
            world.storage.delete("pyrograph.json").await.unwrap();
        }
        world.all_there(&keys).await;
        world.all_there(&[own.storage_key]).await;
    }
}

async fn another_database() -> (TemporaryDatabase, Pools) {
    let database = TemporaryDatabase::create(&domain::MIGRATIONS).await.unwrap();
    let pools = Pools::connect(database.url()).await.unwrap();
    (database, pools)
}

/// The rows of everything that was stored since the backup are missing.
#[tokio::test]
async fn a_database_restored_from_yesterday_deletes_nothing_until_that_is_accepted() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    let kept = world.input(1).await.storage_key;
    sweep::count(world.pool(), &world.storage, Duration::ZERO).await.unwrap();
    world.execute("CREATE TABLE backup AS SELECT * FROM installation").await;
    world.execute("CREATE TABLE backup_of_inputs AS SELECT * FROM inputs").await;
    for _ in 0..3 {
        sweep::count(world.pool(), &world.storage, Duration::ZERO).await.unwrap();
    }
    let since = world.input(2).await.storage_key;
    assert_eq!(sweep_later(world.pool(), &world.storage).await.strays, 0);

    world.execute("DELETE FROM inputs").await;
    world.execute("INSERT INTO inputs SELECT * FROM backup_of_inputs").await;
    world.execute("DELETE FROM installation").await;
    world.execute("INSERT INTO installation SELECT * FROM backup").await;
    for _ in 0..5 {
        // However often it counts, it does not catch up.
        sweep::count(world.pool(), &world.storage, Duration::ZERO).await.unwrap();
        let report = sweep_later(world.pool(), &world.storage).await;
        assert!(report.stopped.as_ref().is_some_and(|why| why.contains("--accept")), "{report:?}");
        assert_eq!((report.strays, report.marked, report.deleted), (1, 0, 0), "{report:?}");
    }
    world.all_there(&[kept.clone(), since.clone()]).await;

    let accepted = sweep::sweep(world.pool(), &world.storage, &LATER, SweepMode::Accept).await.unwrap();
    assert_eq!((accepted.stopped.as_deref(), accepted.marked, accepted.deleted), (None, 1, 0), "{accepted:?}");
    assert_eq!(sweep_later(world.pool(), &world.storage).await.deleted, 1);
    assert!(world.has(&kept).await && !world.has(&since).await);
}

#[tokio::test]
async fn two_installations_in_one_bucket_delete_nothing_of_each_other() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    let mut keys = vec![world.input(1).await.storage_key];
    let (_database, pools) = another_database().await;
    sweep::meet(&pools.lease, &world.storage).await.unwrap();
    keys.push(input::create(&world.caller, &pools.api, &world.storage, "image", png(2)).await.unwrap().storage_key);
    for _ in 0..3 {
        for pool in [world.pool(), &pools.lease] {
            sweep::count(pool, &world.storage, Duration::ZERO).await.unwrap();
            let report = sweep_later(pool, &world.storage).await;
            assert!(report.stopped.is_some() && report.marked == 0 && report.deleted == 0, "{report:?}");
            let accepted = sweep::sweep(pool, &world.storage, &LATER, SweepMode::Accept).await.unwrap();
            assert!(accepted.stopped.is_some() && accepted.deleted == 0, "{accepted:?}");
        }
    }
    world.all_there(&keys).await;
}

/// As when staging is made of a copy of the production database and keeps its bucket.
#[tokio::test]
async fn of_two_databases_with_one_id_only_one_goes_on() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    sweep::count(world.pool(), &world.storage, Duration::ZERO).await.unwrap();
    let key = world.input(1).await.storage_key;
    let (id, counter): (Uuid, i64) =
        sqlx::query_as("SELECT id, counter FROM installation").fetch_one(world.pool()).await.unwrap();
    let (_database, pools) = another_database().await;
    sqlx::query("INSERT INTO installation (id, counter) VALUES ($1, $2)")
        .bind(id)
        .bind(counter)
        .execute(&pools.lease)
        .await
        .unwrap();
    sweep::count(world.pool(), &world.storage, Duration::ZERO).await.unwrap();
    for _ in 0..3 {
        sweep::count(&pools.lease, &world.storage, Duration::ZERO).await.unwrap();
        let report = sweep_later(&pools.lease, &world.storage).await;
        assert!(report.stopped.is_some() && report.deleted == 0, "{report:?}");
    }
    assert_eq!(sweep_later(world.pool(), &world.storage).await.stopped, None);
    assert!(world.has(&key).await);
}

#[tokio::test]
async fn too_many_objects_without_a_row_stop_it() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    let few = world.strays(20).await;
    assert_eq!(sweep_later(world.pool(), &world.storage).await.marked, 20);
    let more = world.strays(1).await;
    for _ in 0..3 {
        let report = sweep_later(world.pool(), &world.storage).await;
        assert!(report.stopped.as_ref().is_some_and(|why| why.contains("21 of 21")), "{report:?}");
        assert_eq!((report.marked, report.deleted), (0, 0));
    }
    world.all_there(&few).await;
    world.all_there(&more).await;
    sweep::sweep(world.pool(), &world.storage, &LATER, SweepMode::Accept).await.unwrap();
    sweep_later(world.pool(), &world.storage).await;
    assert!(!world.has(&more[0]).await);
}

/// What a user has deleted does not count towards the limit.
#[tokio::test]
async fn objects_that_a_deletion_asked_for_do_not_stop_it() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    let keys = world.strays(30).await;
    sqlx::query("INSERT INTO deletions (key, due_at) SELECT unnest($1::text[]), clock_timestamp() + interval '1 day'")
        .bind(&keys)
        .execute(world.pool())
        .await
        .unwrap();
    let report = sweep_later(world.pool(), &world.storage).await;
    assert_eq!((report.strays, report.stopped), (30, None));
}

/// A bucket of an older version has no sign: it gets one if the objects of the rows are there.
#[tokio::test]
async fn a_bucket_of_an_older_version_is_recognised_by_the_objects_of_rows() {
    let world = World::new().await;
    world.execute("DELETE FROM examples").await;
    let inputs: Vec<String> = {
        let mut keys = Vec::new();
        for shade in 0..5 {
            keys.push(world.input(shade).await.storage_key);
        }
        keys
    };
    let report = sweep_later(world.pool(), &world.storage).await;
    assert_eq!(report.stopped, None);
    assert!(world.has("pyrograph.json").await);
    world.all_there(&inputs).await;
}

#[tokio::test]
async fn a_bucket_that_lacks_objects_of_rows_is_not_taken_for_ours() {
    let world = World::new().await;
    world.execute("DELETE FROM examples").await;
    let lost = world.input(0).await.storage_key;
    world.storage.delete(&lost).await.unwrap();
    let key = world.input(1).await.storage_key;
    let report = sweep_later(world.pool(), &world.storage).await;
    assert!(report.stopped.as_ref().is_some_and(|why| why.contains(&lost)), "{report:?}");
    // An operator may say that objects are missing.
    let accepted = sweep::sweep(world.pool(), &world.storage, &LATER, SweepMode::Accept).await.unwrap();
    assert_eq!(accepted.stopped, None);
    assert_eq!(sweep_later(world.pool(), &world.storage).await.stopped, None);
    assert!(world.has(&key).await);
}

/// After the answer 204 the picture goes as soon as the bucket is back, and nobody gets its URL any more.
#[tokio::test]
async fn a_deletion_outlasts_a_bucket_that_is_away() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path(), SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let storage = Storage::new(&StorageConfig {
        endpoint: s3.endpoint(),
        bucket: s3.bucket().to_owned(),
        region: "auto".to_owned(),
        keys: Keys::fixed(s3.access_key(), s3.secret_key()),
        public_endpoint: None,
    })
    .unwrap();
    let address: SocketAddr = s3.endpoint().trim_start_matches("http://").parse().unwrap();
    let input = input::create(&world.caller, &world.pools.api, &storage, "image", png(1)).await.unwrap();
    s3.stop().await;

    input::delete(&world.caller, &world.pools.api, &storage, input.id).await.unwrap();
    assert!(matches!(input::get(&world.caller, &world.pools.api, input.id).await, Err(Error::NotFound { .. })));
    assert_eq!(world.count("SELECT count(*) FROM deletions WHERE done_at IS NULL").await, 1);
    world.execute("UPDATE deletions SET due_at = clock_timestamp()").await;
    assert_eq!(deletion::carry_out(world.pool(), &storage).await.unwrap(), 0);

    let s3 = S3::start(folder.path(), address).await.unwrap();
    assert!(storage.head(&input.storage_key).await.is_ok(), "it is still there");
    assert_eq!(deletion::carry_out(world.pool(), &storage).await.unwrap(), 0, "the next try is not due");
    world.execute("UPDATE deletions SET due_at = clock_timestamp()").await;
    assert_eq!(deletion::carry_out(world.pool(), &storage).await.unwrap(), 1);
    assert!(matches!(storage.head(&input.storage_key).await, Err(Error::NotFound { .. })));
    assert_eq!(world.count("SELECT count(*) FROM deletions WHERE done_at IS NULL").await, 0);
    s3.stop().await;
}

#[tokio::test]
async fn an_object_that_a_row_names_is_never_deleted() {
    let world = World::new().await;
    let input = world.input(1).await;
    sqlx::query("INSERT INTO deletions (key) VALUES ($1)")
        .bind(&input.storage_key)
        .execute(world.pool())
        .await
        .unwrap();
    assert_eq!(deletion::carry_out(world.pool(), &world.storage).await.unwrap(), 0);
    assert!(world.has(&input.storage_key).await);
    assert_eq!(world.count("SELECT count(*) FROM deletions").await, 0);
}

#[tokio::test]
async fn a_generation_does_not_hand_out_the_url_of_a_deleted_input() {
    let world = World::new().await;
    let input = world.input(1).await;
    let request = json!({"prompt": "an owl", "image": input.id, "num_inference_steps": 1});
    let request: GenerationRequest = serde_json::from_value(request).unwrap();
    let made = world.generations.create(&world.caller, request).await.unwrap();
    assert_eq!(made.inputs, [input.id]);
    let database: &Database = &world.pools.api;
    generation::cancel(&world.caller, database, made.id).await.unwrap();
    assert_eq!(generation::get(&world.caller, database, made.id).await.unwrap().inputs, [input.id]);
    input::delete(&world.caller, database, &world.storage, input.id).await.unwrap();
    assert_eq!(generation::get(&world.caller, database, made.id).await.unwrap().inputs, []);
}

/// The sweeper would take the objects of a column that it does not know for strays.
#[tokio::test]
async fn every_storage_key_is_known_to_the_sweeper() {
    let world = World::new().await;
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT table_name || '.' || column_name FROM information_schema.columns
         WHERE table_schema = 'public' AND column_name LIKE '%key' AND data_type IN ('text', 'ARRAY', 'jsonb')
         ORDER BY 1",
    )
    .fetch_all(world.pool())
    .await
    .unwrap();
    let known = [
        "artifacts.storage_key",
        "deletions.key",
        "examples.storage_key",
        "inputs.storage_key",
        "sweep_marks.key",
        "training_checkpoints.storage_key",
        "uploads.storage_key",
    ];
    assert_eq!(columns, known, "a new column with keys of objects belongs into domain/src/named.rs");
}

/// Two servers start on a new installation at the same moment.
#[tokio::test]
async fn two_processes_that_sign_a_bucket_at_once_both_own_it() {
    let world = World::new().await;
    let sweeps = (0..4).map(|_| sweep::sweep(world.pool(), &world.storage, &LATER, SweepMode::Delete));
    for report in futures::future::join_all(sweeps).await {
        assert_eq!(report.unwrap().stopped, None);
    }
}

/// Row 45 of the promises: any number of servers may sweep while results are committed.
#[tokio::test(flavor = "multi_thread")]
async fn five_sweepers_remove_no_object_that_a_row_names() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    let strays = world.strays(15).await;
    let stop = Arc::new(AtomicBool::new(false));
    let sweepers: Vec<_> = (0..5)
        .map(|_| {
            let (pool, storage, stop) = (world.pool().clone(), world.storage.clone(), stop.clone());
            tokio::spawn(async move {
                // An object may be younger than its row by the time that an insert takes.
                let policy = SweepPolicy { object_age: Duration::from_secs(2), grace: Duration::ZERO };
                while !stop.load(Ordering::Relaxed) {
                    sweep::sweep(&pool, &storage, &policy, SweepMode::Delete).await.unwrap();
                }
            })
        })
        .collect();
    let mut named = Vec::new();
    for shade in 0..60 {
        named.push(world.input(shade).await.storage_key);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for sweeper in sweepers {
        sweeper.await.unwrap();
    }
    world.all_there(&named).await;
    for key in &strays {
        assert!(!world.has(key).await, "{key} is still there");
    }
}
