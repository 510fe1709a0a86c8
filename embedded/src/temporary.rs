//! Databases for tests: one server for each test process, one fresh migrated database for each test.
//!
//! The server is the one that `PYROGRAPH_TEST_DATABASE_URL` or `DATABASE_URL` names, else a cluster in the folder for
//! temporary files, which is deleted when the process ends.

use std::path::{Path, PathBuf};

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tokio::sync::{Mutex, OnceCell};

use crate::Error;
use crate::cluster::{Cluster, Durability};
use crate::postgres::{start_or_find, url};

/// A cluster that is deleted when this value is dropped or the process ends, also by `kill -9`.
pub struct TemporaryPostgres {
    cluster: Cluster,
    port: u16,
    _guard: std::process::Child,
}

/// What a temporary cluster has besides the usual.
#[derive(Debug, Clone, Default)]
pub struct TemporaryOptions {
    /// The folder with the programs of another version.
    pub programs: Option<PathBuf>,
    /// Lines of postgresql.conf.
    pub settings: Vec<(&'static str, String)>,
    /// Files that only the server can read, in the folder above its data.
    pub files: Vec<(&'static str, String)>,
}

impl TemporaryPostgres {
    /// Creates and starts one; takes 2–3 s, most of it `initdb`.
    pub async fn start() -> Result<TemporaryPostgres, Error> {
        Self::start_with(TemporaryOptions::default()).await
    }

    /// As [`TemporaryPostgres::start`], with more.
    pub async fn start_with(options: TemporaryOptions) -> Result<TemporaryPostgres, Error> {
        let folder = temporary_root().join(format!("pyrograph-{}", uuid::Uuid::now_v7().simple()));
        // Where the checkout's set-up installs what this machine lacks.
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools");
        let (cluster, guard) = tokio::task::spawn_blocking(move || {
            let mut cluster = match &options.programs {
                Some(programs) => Cluster::prepare_with(&folder, programs, Durability::ThrownAway)?,
                None => Cluster::prepare(&folder, &tools, Durability::ThrownAway)?,
            };
            let guard = cluster.throw_away_with_us()?;
            for (name, value) in &options.settings {
                cluster.set(name, value);
            }
            for (name, content) in &options.files {
                cluster.add_file(name, content)?;
            }
            Ok::<_, Error>((cluster, guard))
        })
        .await??;
        let port = start_or_find(&cluster).await?;
        Ok(TemporaryPostgres { cluster, port, _guard: guard })
    }

    /// URL of the database `name`, which need not exist. `postgres` always exists.
    pub fn url(&self, name: &str) -> Result<String, Error> {
        url(&self.cluster, self.port, name)
    }

    /// Kills the server without a checkpoint and starts it again on a new port, as after a power failure.
    pub async fn crash(&mut self) -> Result<(), Error> {
        let cluster = self.cluster.clone();
        tokio::task::spawn_blocking(move || cluster.stop("immediate")).await??;
        self.port = start_or_find(&self.cluster).await?;
        Ok(())
    }

    /// Folder of its files, for tests that inspect them.
    pub fn folder(&self) -> &Path {
        self.cluster.folder()
    }
}

/// `TMPDIR` of root may be closed to other accounts, which would move the cluster to a permanent folder.
fn temporary_root() -> PathBuf {
    if rustix::process::geteuid().is_root() { PathBuf::from("/tmp") } else { std::env::temp_dir() }
}

/// A separate database for one test, with the migrations applied.
pub struct TemporaryDatabase {
    url: String,
}

struct Server {
    options: PgConnectOptions,
    template: String,
    _own: Option<TemporaryPostgres>,
}

static SERVER: OnceCell<Server> = OnceCell::const_new();
/// Postgres can copy a template only while no other connection uses it.
static TEMPLATE: Mutex<()> = Mutex::const_new(());

impl TemporaryDatabase {
    /// All tests of a process must pass the same `migrations`: they are applied once, to a template.
    pub async fn create(migrations: &Migrator) -> Result<TemporaryDatabase, Error> {
        let server = SERVER.get_or_try_init(|| server(migrations)).await?;
        Self::copy_of(&server.template, server).await
    }

    /// A database without any table, on the same server as those of [`Self::create`].
    pub async fn empty(migrations: &Migrator) -> Result<TemporaryDatabase, Error> {
        let server = SERVER.get_or_try_init(|| server(migrations)).await?;
        Self::copy_of("template0", server).await
    }

    async fn copy_of(template: &str, server: &Server) -> Result<TemporaryDatabase, Error> {
        let name = fresh_name();
        let _one_at_a_time = TEMPLATE.lock().await;
        let mut connection = server.options.connect().await?;
        copy(&mut connection, &name, template).await?;
        connection.close().await?;
        Ok(TemporaryDatabase { url: server.options.clone().database(&name).to_url_lossy().to_string() })
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

fn fresh_name() -> String {
    format!("pyrograph_test_{}", uuid::Uuid::now_v7().simple())
}

async fn copy(connection: &mut PgConnection, name: &str, template: &str) -> Result<(), Error> {
    let statement = format!(r#"CREATE DATABASE "{name}" TEMPLATE "{template}""#);
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

async fn server(migrations: &Migrator) -> Result<Server, Error> {
    let given = ["PYROGRAPH_TEST_DATABASE_URL", "DATABASE_URL"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|url| !url.is_empty()));
    let (url, own) = if let Some(url) = given {
        (url, None)
    } else {
        let own = TemporaryPostgres::start().await?;
        (own.url("postgres")?, Some(own))
    };
    let options: PgConnectOptions = url.parse()?;
    let mut connection = options.connect().await?;
    if own.is_none() {
        drop_leftovers(&mut connection).await?;
    }
    let template = fresh_name();
    copy(&mut connection, &template, "template0").await?;
    connection.close().await?;
    let mut connection = options.clone().database(&template).connect().await?;
    migrations.run(&mut connection).await?;
    connection.close().await?;
    Ok(Server { options, template, _own: own })
}

/// On a permanent server, deletes databases of earlier runs that are an hour old by the time in their names (UUID v7).
async fn drop_leftovers(connection: &mut PgConnection) -> Result<(), Error> {
    let an_hour_ago = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.as_secs().saturating_sub(3600));
    let names: Vec<String> =
        sqlx::query_scalar("SELECT datname FROM pg_database WHERE datname LIKE 'pyrograph_test_%'")
            .fetch_all(&mut *connection)
            .await?;
    for name in names {
        let made = name.strip_prefix("pyrograph_test_").and_then(|id| id.parse::<uuid::Uuid>().ok());
        let Some((seconds, _)) = made.and_then(|id| id.get_timestamp()).map(|time| time.to_unix()) else { continue };
        if seconds < an_hour_ago {
            let statement = format!(r#"DROP DATABASE IF EXISTS "{name}" WITH (FORCE)"#);
            sqlx::query(AssertSqlSafe(statement)).execute(&mut *connection).await?;
        }
    }
    Ok(())
}
