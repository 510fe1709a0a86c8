//! The archive: a record and a JPEG for each picture, also after an outage of its bucket.

use std::io::Cursor;
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::artifact::{NewArtifact, OutputKind};
use domain::delivery::{self, Target};
use domain::event::Feed;
use domain::job::{Claim, JobKind};
use domain::storage::Keys;
use domain::sweep::{self, SweepMode, SweepPolicy};
use domain::{Storage, StorageConfig, StorageKey, generation};
use md5::Md5;
use outbox::{Archive, Outbox};
use outgoing::{Guard, GuardedClients};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::test_server::{TestServer, hex, png, text};

/// A server with an archive in a bucket of another S3 server.
struct Archiving {
    _first: TestServer,
    server: TestServer,
    storage: Storage,
    archive: Archive,
    folder: tempfile::TempDir,
    s3: Option<embedded::S3>,
}

impl Archiving {
    async fn start() -> Self {
        let first = TestServer::with_checkpoint().await;
        let server = first.with(|state| state.with_archive()).await;
        let folder = tempfile::tempdir().unwrap();
        let s3 = embedded::S3::start(folder.path(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
        s3.create_bucket("archive").unwrap();
        let storage = storage_of(&s3, "archive");
        let archive = Archive::new(storage.clone(), "shop/2026".to_owned(), 65);
        Self { _first: first, server, storage, archive, folder, s3: Some(s3) }
    }

    /// Archives until the token is cancelled.
    async fn sender(&self) -> tokio_util::sync::DropGuard {
        let stop = CancellationToken::new();
        let clients = GuardedClients::new(Guard::default());
        let outbox = Outbox::new(self.server.pools.lease.clone(), self.server.storage.clone(), clients);
        let feed = Feed::start(self.server.pools.listen.clone()).await;
        tokio::spawn(outbox.with_archive(self.archive.clone()).run(Some(feed), stop.clone()));
        stop.drop_guard()
    }

    /// Waits until the outbox has no delivery that is due.
    async fn until_archived(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        while self.pending().await > 0 {
            assert!(Instant::now() < until, "{:#}", self.server.get("/v1/outbox").await.body);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn pending(&self) -> i64 {
        let queues = self.server.get("/v1/outbox").await.expect(200);
        let archive = queues.as_array().unwrap().iter().find(|queue| queue["target"] == "archive").unwrap();
        archive["pending"].as_i64().unwrap()
    }

    /// The names of all objects of the archive.
    async fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.storage.list("shop").await.unwrap().into_iter().map(|(key, _)| key).collect();
        names.sort();
        names
    }

    async fn record(&self, image_hash: &str) -> Value {
        let bytes = self.storage.get(&format!("shop/2026/input-{image_hash}.json")).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }
}

fn storage_of(s3: &embedded::S3, bucket: &str) -> Storage {
    let config = StorageConfig {
        endpoint: s3.endpoint(),
        bucket: bucket.to_owned(),
        region: "auto".to_owned(),
        keys: Keys::fixed(s3.access_key(), s3.secret_key()),
        public_endpoint: None,
    };
    Storage::new(&config).unwrap()
}

/// Finishes a claimed generation with these pictures. Returns their `image_hash`.
async fn finish(server: &TestServer, claim: &Claim, pictures: Vec<(&str, Vec<u8>)>) -> Vec<String> {
    let mut artifacts = Vec::new();
    for (position, (media_type, bytes)) in (0..).zip(pictures) {
        let extension = domain::artifact::extension(media_type);
        let key = StorageKey::Artifact { job: claim.job, epoch: claim.epoch, position, extension }.to_string();
        server.storage.put(&key, Bytes::from(bytes.clone()), media_type).await.unwrap();
        artifacts.push(NewArtifact {
            kind: OutputKind::Image,
            position,
            storage_key: key,
            media_type: media_type.to_owned(),
            width: Some(32),
            height: Some(32),
            bytes: bytes.len() as i64,
            sha256: hex(&Sha256::digest(&bytes)),
            md5: hex(&Md5::digest(&bytes)),
            seed: Some(5 + i64::from(position)),
        });
    }
    let hashes = artifacts.iter().map(|artifact| artifact.md5.clone()).collect();
    generation::finish(&server.pools.lease, claim, artifacts, &[]).await.unwrap();
    hashes
}

fn encoded(shade: u8, format: image::ImageFormat) -> Vec<u8> {
    let picture = image::load_from_memory(&png(32, 32, shade)).unwrap();
    let mut out = Cursor::new(Vec::new());
    picture.write_to(&mut out, format).unwrap();
    out.into_inner()
}

#[tokio::test]
async fn each_picture_leaves_a_record_and_a_jpeg() {
    let archiving = Archiving::start().await;
    let server = &archiving.server;
    let _sender = archiving.sender().await;
    let carried = format!("data:image/png;base64,{}", base64(&png(32, 32, 1)));
    let request = json!({
        "prompt": "a fox", "num_images": 3, "seed": 5, "image": carried, "response_format": "b64_json",
    });
    let created = server.post("/v1/generations", &request).await.expect(202);
    let jpeg = encoded(3, image::ImageFormat::Jpeg);
    let pictures = vec![
        ("image/png", png(32, 32, 2)),
        ("image/jpeg", jpeg.clone()),
        ("image/webp", encoded(4, image::ImageFormat::WebP)),
    ];
    let hashes = finish(server, &server.claim(JobKind::Generation).await, pictures).await;
    archiving.until_archived().await;
    let mut expected: Vec<String> = hashes
        .iter()
        .flat_map(|hash| [format!("shop/2026/input-{hash}.json"), format!("shop/2026/output-{hash}.jpg")])
        .collect();
    expected.sort();
    assert_eq!(archiving.names().await, expected);
    for (position, hash) in hashes.iter().enumerate() {
        assert_eq!(archiving.archive.verify(hash).await.unwrap(), Vec::<String>::new());
        let record = archiving.record(hash).await;
        assert_eq!(record["generation"], created["id"]);
        assert_eq!((&record["position"], &record["seed"]), (&json!(position), &json!(5 + position)));
        assert_eq!((&record["parameters"]["prompt"], &record["model"]["name"]), (&json!("a fox"), &json!("ember")));
        assert_eq!(text(&record["model"]["sha256"]).len(), 64);
        assert_eq!(record["parameters"]["image"]["sha256"], hex(&Sha256::digest(png(32, 32, 1))));
        assert!(record["seconds"].is_f64() && record["finished_at"].is_string());
        let shown = record.to_string();
        assert!(!shown.contains("base64") && !shown.contains("storage_key"), "{shown}");
    }
    let own = archiving.storage.get(&format!("shop/2026/output-{}.jpg", hashes[1])).await.unwrap();
    assert_eq!(own, jpeg, "a JPEG is archived as it is");
    // Other objects, and another hash.
    let key = format!("shop/2026/output-{}.jpg", hashes[0]);
    archiving.storage.replace(&key, jpeg.into(), "image/jpeg").await.unwrap();
    assert_eq!(archiving.archive.verify(&hashes[0]).await.unwrap().len(), 1);
    assert_eq!(archiving.archive.verify(&"0".repeat(32)).await.unwrap().len(), 2);
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test]
async fn an_outage_of_the_archive_delays_no_job_and_loses_no_pair() {
    let mut archiving = Archiving::start().await;
    let address = archiving.s3.as_ref().unwrap().endpoint().trim_start_matches("http://").parse().unwrap();
    archiving.s3.take().unwrap().stop().await;
    let sender = archiving.sender().await;
    let mut hashes = Vec::new();
    // The first picture is made twice: its record is that of the second time.
    for shade in [0, 1, 2, 3, 4, 0] {
        let path = archiving.server.post("/v1/generations", &json!({"prompt": "a fox"})).await;
        let path = path.header("location").to_owned();
        let claim = archiving.server.claim(JobKind::Generation).await;
        hashes.extend(finish(&archiving.server, &claim, vec![("image/png", png(32, 32, shade))]).await);
        assert_eq!(archiving.server.get(&path).await.expect(200)["status"], "succeeded");
    }
    // Each has failed at least once; the next tries are made earlier, as if the time had passed.
    let pool = archiving.server.pools.lease.clone();
    let tried = async || -> i64 {
        let count = "SELECT count(*) FROM deliveries WHERE attempts > 0 AND sender IS NULL";
        sqlx::query_scalar(count).fetch_one(&pool).await.unwrap()
    };
    while tried().await < 6 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The sender dies, too.
    drop(sender);
    archiving.s3 = Some(embedded::S3::start(archiving.folder.path(), address).await.unwrap());
    sqlx::query("UPDATE deliveries SET due_at = clock_timestamp()").execute(&pool).await.unwrap();
    let _senders = [archiving.sender().await, archiving.sender().await];
    archiving.until_archived().await;
    assert_eq!(archiving.names().await.len(), 10, "one pair for each picture");
    for hash in &hashes {
        assert_eq!(archiving.archive.verify(hash).await.unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_cannot_be_decoded_fails_and_a_deleted_picture_is_not_archived() {
    let archiving = Archiving::start().await;
    let server = &archiving.server;
    let paint = async |bytes: Vec<u8>| {
        let path = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.header("location").to_owned();
        let claim = server.claim(JobKind::Generation).await;
        finish(server, &claim, vec![("image/png", bytes)]).await;
        path
    };
    let deleted = paint(png(32, 32, 1)).await;
    server.delete(&deleted).await.expect(204);
    let broken = paint(b"no picture".to_vec()).await;
    let _sender = archiving.sender().await;
    archiving.until_archived().await;
    assert_eq!(archiving.names().await, Vec::<String>::new());
    assert_eq!(server.get(&broken).await.expect(200)["status"], "succeeded");
    let queues = server.get("/v1/outbox").await.expect(200);
    assert_eq!((&queues[1]["target"], &queues[1]["failed_today"]), (&json!("archive"), &json!(1)));
}

#[tokio::test]
async fn a_sender_without_the_archive_leaves_it_to_others() {
    let archiving = Archiving::start().await;
    let server = &archiving.server;
    server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let claim = server.claim(JobKind::Generation).await;
    let [hash] = finish(server, &claim, vec![("image/png", png(32, 32, 1))]).await.try_into().unwrap();
    let stop = CancellationToken::new();
    let clients = GuardedClients::new(Guard::default());
    let without = Outbox::new(server.pools.lease.clone(), server.storage.clone(), clients);
    let running = tokio::spawn(without.run(None, stop.clone()));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(archiving.pending().await, 1);
    stop.cancel();
    running.await.unwrap();
    // A sender that dies between the picture and the record.
    let dead = delivery::claim(&server.pools.lease, Uuid::now_v7(), Target::Archive, 1).await.unwrap();
    assert_eq!(dead.len(), 1);
    archiving
        .storage
        .put(&format!("shop/2026/output-{hash}.jpg"), Bytes::from_static(b"half"), "image/jpeg")
        .await
        .unwrap();
    sqlx::query("UPDATE deliveries SET lease_until = clock_timestamp()").execute(&server.pools.lease).await.unwrap();
    let _sender = archiving.sender().await;
    archiving.until_archived().await;
    assert_eq!(archiving.archive.verify(&hash).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn the_sweeper_leaves_an_archive_in_the_same_bucket() {
    let archiving = Archiving::start().await;
    let server = &archiving.server;
    for key in ["shop/2026/input-a.json", "input-b.json", "output-b.jpg"] {
        server.storage.put(key, Bytes::from_static(b"x"), "application/json").await.unwrap();
    }
    sweep::meet(&server.pools.lease, &server.storage).await.unwrap();
    let now = SweepPolicy { object_age: Duration::ZERO, grace: Duration::ZERO };
    for _ in 0..3 {
        sweep::sweep(&server.pools.lease, &server.storage, &now, SweepMode::Delete).await.unwrap();
    }
    for key in ["shop/2026/input-a.json", "input-b.json", "output-b.jpg"] {
        server.storage.get(key).await.unwrap();
    }
    for (prefix, own) in
        [("artifacts", true), ("models/x", true), ("shop/artifacts", false), ("", false), ("inputs2", false)]
    {
        assert_eq!(domain::storage::is_own_folder(prefix), own, "{prefix}");
    }
}

#[tokio::test]
async fn a_project_may_want_no_archive() {
    let archiving = Archiving::start().await;
    let server = &archiving.server;
    assert_eq!(server.get("/v1/projects/default").await.expect(200)["archive"], true);
    let off = server.send(server.request(Method::PATCH, "/v1/projects/default").json(&json!({"archive": false}))).await;
    assert_eq!(off.expect(200)["archive"], false);
    let _sender = archiving.sender().await;
    server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    finish(server, &server.claim(JobKind::Generation).await, vec![("image/png", png(32, 32, 1))]).await;
    assert_eq!((archiving.pending().await, server.count("deliveries").await), (0, 0));
    let wrong =
        server.send(server.request(Method::PATCH, "/v1/projects/default").json(&json!({"archive": "no"}))).await;
    wrong.refuses(422, "archive");
    let made = server.post("/v1/projects", &json!({"name": "shop", "archive": false})).await.expect(201);
    assert_eq!(made["archive"], false);
}
