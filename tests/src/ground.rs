//! The real services below every installation: one Postgres for the whole test process with a database for each
//! installation, and an S3 server with a bucket for each.

use std::path::Path;
use std::sync::OnceLock;

use domain::storage::StorageConfig;
use embedded::{S3, TemporaryOptions, TemporaryPostgres};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

/// The runtime of the servers: each test has its own runtime, which ends with it.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime")
    })
}

/// Postgres is removed with the test process, so it may stay for all tests.
async fn postgres() -> &'static TemporaryPostgres {
    static POSTGRES: OnceCell<TemporaryPostgres> = OnceCell::const_new();
    let start = async || runtime().spawn(TemporaryPostgres::start()).await.expect("no panic").expect("Postgres starts");
    POSTGRES.get_or_init(start).await
}

/// Database and bucket of one installation.
pub struct Site {
    pub database_url: String,
    s3: S3,
    folder: TempDir,
    /// A server for this installation only.
    _own: Option<TemporaryPostgres>,
}

impl Site {
    /// An empty database and an empty bucket.
    pub async fn create() -> Self {
        Self::create_in(postgres().await).await
    }

    /// The same on a Postgres that no other test uses.
    pub async fn with_postgres(options: TemporaryOptions) -> Self {
        let start = runtime().spawn(TemporaryPostgres::start_with(options));
        let postgres = start.await.expect("no panic").expect("Postgres starts");
        let site = Self::create_in(&postgres).await;
        Self { _own: Some(postgres), ..site }
    }

    async fn create_in(postgres: &TemporaryPostgres) -> Self {
        let name = format!("journey_{}", uuid::Uuid::now_v7().simple());
        let mut admin =
            PgConnection::connect(&postgres.url("postgres").expect("a URL")).await.expect("Postgres answers");
        sqlx::query(AssertSqlSafe(format!("create database {name}")))
            .execute(&mut admin)
            .await
            .expect("create database");
        let _ = admin.close().await;

        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().to_owned();
        let s3 = runtime().spawn(async move { S3::start(&path, ([127, 0, 0, 1], 0).into()).await });
        let s3 = s3.await.expect("no panic").expect("S3 starts");
        Self { database_url: postgres.url(&name).expect("a URL"), s3, folder, _own: None }
    }

    /// The environment variables that give it to a process of the product.
    pub fn environment(&self) -> [(&'static str, String); 6] {
        [
            ("DATABASE_URL", self.database_url.clone()),
            ("PYROGRAPH_S3_ENDPOINT", self.s3.endpoint()),
            ("PYROGRAPH_S3_BUCKET", self.s3.bucket().to_owned()),
            ("PYROGRAPH_S3_REGION", "auto".to_owned()),
            ("PYROGRAPH_S3_ACCESS_KEY_ID", self.s3.access_key().to_owned()),
            ("PYROGRAPH_S3_SECRET_ACCESS_KEY", self.s3.secret_key().to_owned()),
        ]
    }

    /// The same for the storage code itself.
    pub fn storage(&self) -> StorageConfig {
        StorageConfig {
            endpoint: self.s3.endpoint(),
            bucket: self.s3.bucket().to_owned(),
            region: "auto".to_owned(),
            keys: domain::storage::Keys::fixed(self.s3.access_key(), self.s3.secret_key()),
            public_endpoint: None,
        }
    }

    /// Secrets that must never be visible outside: the storage's secret key and the database's password.
    pub fn secrets(&self) -> [String; 2] {
        let password = self.database_url.split([':', '@']).nth(2).expect("a URL with a password");
        [self.s3.secret_key().to_owned(), password.to_owned()]
    }

    /// Objects in the bucket, with or without a row.
    pub fn objects(&self) -> usize {
        files_in(&self.folder.path().join("objects").join(self.s3.bucket()))
    }
}

fn files_in(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("bucket").map(|entry| entry.expect("bucket").path());
    entries.map(|path| if path.is_dir() { files_in(&path) } else { 1 }).sum()
}
