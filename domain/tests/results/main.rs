//! Results of attempts: artifacts, checkpoints and models appear with the success of exactly one attempt.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod callers;
mod generations;
mod imports;
mod leftovers;
mod previews;
mod quotas;
mod sweep;
mod trainings;
mod usage;

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use domain::capacity::Capacity;
use domain::generation::GenerationService;
use domain::job::{self, Claim, JobKind, LeasePolicy};
use domain::model::Catalog;
use domain::{Caller, DatasetId, ExampleId, ModelId, Pools, Storage, StorageConfig, StorageKey, WorkerId};
use embedded::{S3, TemporaryDatabase};
use sqlx::PgPool;

/// Database, bucket, a checkpoint named `ember` and a dataset with two pictures.
struct World {
    pools: Pools,
    caller: Caller,
    storage: Storage,
    catalog: Catalog,
    capacity: Capacity,
    generations: GenerationService,
    dataset: DatasetId,
    _database: TemporaryDatabase,
    _s3: S3,
    _folder: tempfile::TempDir,
}

const SHA256: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const MD5: &str = "00112233445566778899aabbccddeeff";

impl World {
    async fn new() -> World {
        let database = TemporaryDatabase::create(&domain::MIGRATIONS).await.unwrap();
        let pools = Pools::connect(database.url()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let s3 = S3::start(folder.path(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
        let storage = Storage::new(&StorageConfig {
            endpoint: s3.endpoint(),
            bucket: s3.bucket().to_owned(),
            region: "auto".to_owned(),
            keys: domain::storage::Keys::fixed(s3.access_key(), s3.secret_key()),
            public_endpoint: None,
        })
        .unwrap();
        let dataset = DatasetId::new();
        let catalog = Catalog::new(pools.api.clone());
        let world = World {
            capacity: Capacity::new(pools.api.clone()),
            generations: GenerationService::new(pools.api.clone(), catalog.clone(), storage.clone()),
            catalog,
            caller: Caller::anonymous(),
            pools,
            storage,
            dataset,
            _database: database,
            _s3: s3,
            _folder: folder,
        };
        world.furnish().await;
        world
    }

    fn pool(&self) -> &PgPool {
        &self.pools.lease
    }

    async fn furnish(&self) {
        sqlx::query(
            "INSERT INTO models (id, project_id, name, kind, family, files, bytes, sha256, built_in, defaults)
             VALUES ($1, $3, 'ember', 'checkpoint', 'flux', '[]', 0, $2, true, '{\"size_multiple\": 16}')",
        )
        .bind(ModelId::new().0)
        .bind(SHA256)
        .bind(self.caller.project().0)
        .execute(self.pool())
        .await
        .unwrap();
        sqlx::query("INSERT INTO datasets (id, project_id, name) VALUES ($1, $2, 'clay')")
            .bind(self.dataset.0)
            .bind(self.caller.project().0)
            .execute(self.pool())
            .await
            .unwrap();
        for position in 0..2 {
            let example = ExampleId::new();
            let key = StorageKey::DatasetExample { dataset: self.dataset, example, extension: "png" }.to_string();
            sqlx::query(
                "INSERT INTO examples
                     (id, dataset_id, position, storage_key, sha256, media_type, width, height, bytes, caption)
                 VALUES ($1, $2, $3, $4, $5, 'image/png', 64, 64, 100, 'a fox')",
            )
            .bind(example.0)
            .bind(self.dataset.0)
            .bind(position)
            .bind(key)
            .bind(SHA256)
            .execute(self.pool())
            .await
            .unwrap();
        }
    }

    async fn claim(&self) -> Claim {
        let policy = LeasePolicy { ttl: std::time::Duration::from_hours(1), ..LeasePolicy::default() };
        job::claim(self.pool(), &JobKind::ALL, WorkerId::new(), &[], &policy).await.unwrap().expect("a job is due")
    }

    /// Another attempt takes the job over.
    async fn take_over(&self, stale: &Claim) -> Claim {
        job::release(self.pool(), stale, "the worker stops").await.unwrap();
        let claim = self.claim().await;
        assert_eq!((claim.job, claim.epoch), (stale.job, stale.epoch + 1));
        claim
    }

    async fn count(&self, statement: &'static str) -> i64 {
        sqlx::query_scalar(statement).fetch_one(self.pool()).await.unwrap()
    }

    async fn put(&self, key: &str) {
        self.storage.put(key, Bytes::from_static(b"bytes"), "application/octet-stream").await.unwrap();
    }
}
