//! Objects that attempts and uploads have left in the bucket, and deletions of each kind while the bucket is away.

use std::net::SocketAddr;
use std::time::Duration;

use domain::generation::GenerationRequest;
use domain::job::{self, Claim, ErrorClass, JobKind, LeasePolicy};
use domain::model::intake::Intake;
use domain::project::{self, ProjectRequest};
use domain::storage::Keys;
use domain::upload::{self, UploadRequest};
use domain::{
    Caller, Storage, StorageConfig, StorageKey, dataset, deletion, import, input, leftover, model, sweep, training,
};
use embedded::S3;
use outgoing::Guard;
use serde_json::json;

use super::World;
use super::sweep::png;

impl World {
    /// As if everything that is to be looked at were due.
    async fn remove_leftovers(&self) -> usize {
        self.execute("UPDATE leftovers SET due_at = clock_timestamp()").await;
        sweep::remove_leftovers(self.pool(), &self.storage).await.unwrap()
    }

    async fn leftovers(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT prefix FROM leftovers ORDER BY prefix").fetch_all(self.pool()).await.unwrap()
    }

    async fn generate(&self) -> Claim {
        let request: GenerationRequest = serde_json::from_value(json!({"prompt": "an owl"})).unwrap();
        self.generations.create(&self.caller, request).await.unwrap();
        self.claim().await
    }

    async fn fail(&self, claim: &Claim) {
        job::fail(self.pool(), claim, &LeasePolicy::default(), ErrorClass::InvalidInput, "no").await.unwrap();
    }
}

fn picture(claim: &Claim, position: i32) -> String {
    StorageKey::Artifact { job: claim.job, epoch: claim.epoch, position, extension: "png" }.to_string()
}

#[tokio::test]
async fn what_an_attempt_has_stored_goes_once_it_is_over() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    let first = world.generate().await;
    assert!(world.leftovers().await.is_empty());
    world.put(&picture(&first, 0)).await;
    let second = world.take_over(&first).await;
    world.put(&picture(&second, 0)).await;
    let soon = "SELECT count(*) FROM leftovers WHERE due_at < clock_timestamp() + interval '40 seconds'";
    assert_eq!(world.count(soon).await, 1);
    assert_eq!(sweep::remove_leftovers(world.pool(), &world.storage).await.unwrap(), 0, "not due yet");
    assert_eq!(world.remove_leftovers().await, 1);
    assert!(!world.has(&picture(&first, 0)).await && world.has(&picture(&second, 0)).await);
    assert!(world.leftovers().await.is_empty(), "one look is enough");

    // The first worker wakes up, stores something, and notices that it has lost its lease.
    world.put(&picture(&first, 1)).await;
    leftover::of_lost_attempt(world.pool(), &first).await.unwrap();
    assert_eq!(world.remove_leftovers().await, 1);
    assert!(!world.has(&picture(&first, 1)).await && world.has(&picture(&second, 0)).await);

    // What the second one has stored is not touched as long as it may write rows.
    leftover::of_lost_attempt(world.pool(), &second).await.unwrap();
    assert!(world.leftovers().await.is_empty());
    world.fail(&second).await;
    assert_eq!(world.remove_leftovers().await, 1);
    assert!(!world.has(&picture(&second, 0)).await);
}

/// The same for a job that was deleted with its project.
#[tokio::test]
async fn what_is_stored_for_a_deleted_job_goes() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    let claim = world.generate().await;
    world.fail(&claim).await;
    world.execute("DELETE FROM generations").await;
    world.execute("DELETE FROM jobs").await;
    world.remove_leftovers().await;
    world.put(&picture(&claim, 0)).await;
    leftover::of_lost_attempt(world.pool(), &claim).await.unwrap();
    assert_eq!(world.remove_leftovers().await, 1);
    assert!(!world.has(&picture(&claim, 0)).await);
}

#[tokio::test]
async fn every_kind_of_job_is_looked_for_where_it_stores() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    let request = json!({"name": "clay", "dataset": world.dataset, "steps": 30});
    let request = serde_json::from_value(request).unwrap();
    let (caller, api) = (&world.caller, &world.pools.api);
    let guard = Guard::default();
    let training = training::create(caller, api, &world.catalog, &world.capacity, &guard, request).await.unwrap();
    let claim = world.claim().await;
    assert_eq!(claim.kind, JobKind::Training);
    let checkpoint = StorageKey::TrainingCheckpoint { training: training.id, epoch: 1, step: 7 }.to_string();
    let lora = StorageKey::Artifact { job: claim.job, epoch: 1, position: 0, extension: "safetensors" }.to_string();
    for key in [&checkpoint, &lora] {
        world.put(key).await;
    }
    world.fail(&claim).await;
    assert_eq!(world.remove_leftovers().await, 2);

    let source = json!({"kind": "url", "url": "https://example.com/clay.safetensors"});
    let request = serde_json::from_value(json!({"name": "ink", "source": source})).unwrap();
    import::create(caller, api, &world.storage, &guard, request).await.unwrap();
    let claim = world.claim().await;
    let mut intake = Intake::of_attempt(world.pool().clone(), world.storage.clone(), caller.project(), &claim);
    let mut stored = Vec::new();
    for path in ["README.md", "vae/config.json"] {
        let mut file = intake.file(path).await.unwrap();
        file.write(b"{}").await.unwrap();
        let file = file.finish().await.unwrap();
        intake.keep(&file);
        stored.push(file);
    }
    // The worker dies before it has recorded the second one.
    import::add_file(world.pool(), &claim, &stored[0]).await.unwrap();
    drop(intake);
    world.take_over(&claim).await;
    assert_eq!(world.remove_leftovers().await, 1);
    assert!(world.has(&stored[0].storage_key).await && !world.has(&stored[1].storage_key).await);
}

/// The objects may be all that is left of rows that were lost with the database.
#[tokio::test]
async fn nothing_goes_after_a_restore_until_that_is_accepted() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    sweep::count(world.pool(), &world.storage, Duration::ZERO).await.unwrap();
    let claim = world.generate().await;
    world.put(&picture(&claim, 0)).await;
    world.execute("UPDATE installation SET counter = counter - 1").await;
    world.fail(&claim).await;
    assert_eq!(world.remove_leftovers().await, 0);
    assert!(world.has(&picture(&claim, 0)).await);
    let due = "SELECT count(*) FROM leftovers WHERE due_at <= clock_timestamp()";
    assert_eq!((world.leftovers().await.len(), world.count(due).await), (1, 0), "put off");

    let policy = sweep::SweepPolicy::default();
    sweep::sweep(world.pool(), &world.storage, &policy, sweep::SweepMode::Accept).await.unwrap();
    assert_eq!(world.remove_leftovers().await, 1);
}

async fn start_upload(world: &World) -> upload::Upload {
    let request = json!({"file_name": "a.png", "media_type": "image/png"});
    let request: UploadRequest = serde_json::from_value(request).unwrap();
    upload::create(&world.caller, &world.pools.api, &world.storage, world.dataset, request).await.unwrap()
}

#[tokio::test]
async fn uploads_that_nobody_completes_go_after_a_day() {
    let world = World::new().await;
    let (caller, api) = (&world.caller, &world.pools.api);
    let picture = StorageKey::Upload { upload: start_upload(&world).await.id }.to_string();
    let request = serde_json::from_value(json!({"bytes": 5})).unwrap();
    let file = model::upload::create(caller, api, &world.storage, request).await.unwrap().id;
    let part = StorageKey::UploadPart { upload: file, number: 1 }.to_string();
    for key in [&picture, &part] {
        world.put(key).await;
    }
    let tidy = async || sweep::tidy(world.pool(), &world.storage).await.unwrap();
    let rows = "SELECT (SELECT count(*) FROM uploads) + (SELECT count(*) FROM model_uploads)";
    world.execute("UPDATE uploads SET expires_at = expires_at - interval '24 hours'").await;
    world.execute("UPDATE model_uploads SET used_at = used_at - interval '23 hours'").await;
    tidy().await;
    assert_eq!(world.count(rows).await, 2);
    // A client that asks for URLs is still at work.
    let seen = model::upload::get(caller, api, &world.storage, file).await.unwrap();
    assert!(seen.expires_at > domain::database::server_time(world.pool()).await.unwrap() + Duration::from_hours(23));
    world.execute("UPDATE uploads SET expires_at = expires_at - interval '2 hours'").await;
    world.execute("UPDATE model_uploads SET used_at = used_at - interval '2 hours'").await;
    tidy().await;
    assert_eq!(world.count(rows).await, 1);
    assert!(!world.has(&picture).await && world.has(&part).await);
    world.execute("UPDATE model_uploads SET used_at = used_at - interval '23 hours'").await;
    tidy().await;
    assert_eq!(world.count(rows).await, 0);
    assert!(!world.has(&part).await);
}

/// The URL of an upload is valid for an hour, also after its row is gone.
#[tokio::test]
async fn what_is_put_to_the_url_of_an_upload_that_is_over_goes_when_the_url_has_expired() {
    let world = World::new().await;
    sweep::meet(world.pool(), &world.storage).await.unwrap();
    let (caller, api) = (&world.caller, &world.pools.api);
    let completed = start_upload(&world).await.id;
    let key = StorageKey::Upload { upload: completed }.to_string();
    world.storage.put(&key, png(1), "image/png").await.unwrap();
    upload::complete(caller, api, &world.storage, world.dataset, completed).await.unwrap();
    assert!(!world.has(&key).await);
    let open = StorageKey::Upload { upload: start_upload(&world).await.id }.to_string();
    let request = serde_json::from_value(json!({"bytes": 5})).unwrap();
    let file = model::upload::create(caller, api, &world.storage, request).await.unwrap().id;
    model::upload::discard(world.pool(), &world.storage, &[file]).await.unwrap();
    let part = StorageKey::UploadPart { upload: file, number: 1 }.to_string();
    dataset::delete(caller, api, &world.storage, world.dataset).await.unwrap();

    for key in [&key, &open, &part] {
        world.put(key).await;
    }
    let in_an_hour = "SELECT count(*) FROM leftovers
                      WHERE due_at - clock_timestamp() BETWEEN interval '59 minutes' AND interval '61 minutes'";
    assert_eq!(world.count(in_an_hour).await, 3);
    assert_eq!(world.remove_leftovers().await, 3);
    for key in [&key, &open, &part] {
        assert!(!world.has(key).await, "{key}");
    }
}

/// Each deletion is answered at once, and its objects go when the bucket is back.
#[tokio::test]
async fn deletions_of_every_kind_outlast_a_bucket_that_is_away() {
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
    let api = &world.pools.api;
    let request = ProjectRequest { name: "shop".to_owned(), retention: None, archive: None };
    let shop = project::create(&world.caller, api, request).await.unwrap();
    let in_shop = Caller::operator(shop.id);

    // A dataset and a model with an object each, a job with a picture, and all of that in another project.
    let mut keys = Vec::new();
    for (value, caller) in [(1, &world.caller), (2, &in_shop)] {
        let request = serde_json::from_value(json!({"name": "clay"})).unwrap();
        let dataset = dataset::create(caller, api, request).await.unwrap().id;
        let request = serde_json::from_value(json!({"file_name": "a.png", "media_type": "image/png"})).unwrap();
        let upload = upload::create(caller, api, &storage, dataset, request).await.unwrap().id;
        keys.push(StorageKey::Upload { upload }.to_string());
        storage.put(&keys[keys.len() - 1], png(1), "image/png").await.unwrap();
        upload::complete(caller, api, &storage, dataset, upload).await.unwrap();
        input::create(caller, api, &storage, "image", png(2)).await.unwrap();
        let mut intake = Intake::new(caller, api, &storage);
        let mut file = intake.file("clay.safetensors").await.unwrap();
        file.write(&super::imports::lora(value)).await.unwrap();
        file.finish().await.unwrap();
        intake.finish("clay", None, None).await.unwrap();
    }
    let objects = async || {
        let mut count = 0;
        for folder in ["datasets", "inputs", "models", "uploads"] {
            count += storage.list(folder).await.unwrap().len();
        }
        count
    };
    assert_eq!(objects().await, 6);
    s3.stop().await;

    let caller = &world.caller;
    let page = domain::PageRequest::default();
    let datasets = dataset::list(caller, api, &page).await.unwrap().items;
    let clay = datasets.iter().find(|dataset| dataset.id != world.dataset).unwrap();
    dataset::delete(caller, api, &storage, clay.id).await.unwrap();
    model::delete(caller, api, &storage, "clay").await.unwrap();
    let input = input::list(caller, api, &page).await.unwrap().items[0].id;
    input::delete(caller, api, &storage, input).await.unwrap();
    let request = project::Deletion { confirm: "shop".to_owned(), move_shared_to: None };
    project::delete(caller, api, "shop", &request).await.unwrap();
    project::purge_deleted(world.pool(), &storage).await.unwrap();
    // Also of the two uploads, although they were completed.
    assert_eq!(world.count("SELECT count(*) FROM deletions WHERE done_at IS NULL").await, 8);

    let s3 = S3::start(folder.path(), address).await.unwrap();
    assert_eq!(objects().await, 6, "they are still there");
    world.execute("UPDATE deletions SET due_at = clock_timestamp()").await;
    assert_eq!(deletion::carry_out(world.pool(), &storage).await.unwrap(), 8);
    assert_eq!(objects().await, 0);
    s3.stop().await;
}
