//! Access to Postgres: pools, session settings, migrations and the time limit around each statement.

mod presence;

use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, PgPool, Postgres, Transaction};

pub use self::presence::Presence;
use crate::{Caller, Error, Result};

/// The schema, from the folder `migrations/`.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// The current time, at the precision of Postgres.
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// Limit after which a statement is cancelled. sqlx has no time limit, and a half-open connection never answers.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

/// Postgres for users' requests. Code that holds this can read and write rows in the name of a [`Caller`] only: the
/// pool behind it is private, and the functions of this crate that take it take a caller, too.
///
/// ```no_run
/// # async fn f(caller: &domain::Caller, database: &domain::Database, id: domain::DatasetId) -> domain::Result<()> {
/// domain::dataset::get(caller, database, id).await?;
/// # Ok(()) }
/// ```
///
/// Without a caller nothing can be read:
///
/// ```compile_fail,E0061
/// # async fn f(caller: &domain::Caller, database: &domain::Database, id: domain::DatasetId) -> domain::Result<()> {
/// domain::dataset::get(database, id).await?;
/// # Ok(()) }
/// ```
///
/// neither by SQL, for the pool cannot be had:
///
/// ```compile_fail,E0616
/// # async fn f(caller: &domain::Caller, database: &domain::Database, id: domain::DatasetId) -> domain::Result<()> {
/// sqlx::query("SELECT name FROM datasets").fetch_all(&database.0).await.unwrap();
/// # Ok(()) }
/// ```
///
/// ```compile_fail,E0624
/// # async fn f(caller: &domain::Caller, database: &domain::Database, id: domain::DatasetId) -> domain::Result<()> {
/// sqlx::query("SELECT name FROM datasets").fetch_all(database.pool(caller)).await.unwrap();
/// # Ok(()) }
/// ```
///
/// nor by the functions for workers and the reaper, which take a pool:
///
/// ```compile_fail,E0308
/// # async fn f(claim: &domain::job::Claim, database: &domain::Database) -> domain::Result<()> {
/// domain::generation::load_work(database, claim).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Database(PgPool);

impl Database {
    /// Code that has the pool can do everything anyway.
    pub fn new(pool: PgPool) -> Self {
        Self(pool)
    }

    /// The pool, for statements about the rows of the caller's project.
    pub(crate) fn pool(&self, _: &Caller) -> &PgPool {
        &self.0
    }

    /// Checks that the database responds. Errors: `Unavailable`.
    pub async fn check(&self) -> Result<()> {
        bounded(async { self.0.acquire().await?.ping().await }).await
    }
}

/// Separate pools, so that a burst of requests cannot keep a heartbeat from its connection.
#[derive(Debug, Clone)]
pub struct Pools {
    /// For users' requests.
    pub api: Database,
    /// For claims, beats and commits of workers, for the reaper and for migrations. The API does not have it.
    pub lease: PgPool,
    /// For LISTEN, which keeps its connection as long as there is a listener.
    pub listen: PgPool,
}

impl Pools {
    /// Connects to `url` (`postgres://…`) and makes sure that the database responds.
    ///
    /// # Errors
    /// `Unavailable` if it does not; `Invalid` for a malformed URL.
    pub async fn connect(url: &str) -> Result<Pools> {
        let options: PgConnectOptions =
            url.parse().map_err(|_| Error::invalid("DATABASE_URL", "is not a URL of a Postgres database"))?;
        let options = with_session_settings(options);
        let pool = |name: &str, most: u32| {
            PgPoolOptions::new()
                .max_connections(most)
                // Shorter than the limit of a statement; a machine that is busy compiling takes seconds for a
                // connection.
                .acquire_timeout(Duration::from_secs(8))
                .max_lifetime(Duration::from_mins(30))
                // A ping before each use costs a round trip; a connection that was idle for long is pinged below.
                .test_before_acquire(false)
                .before_acquire(|connection, idle| {
                    Box::pin(async move {
                        if idle.idle_for < Duration::from_secs(10) {
                            return Ok(true);
                        }
                        let ping = tokio::time::timeout(Duration::from_secs(1), connection.execute("SELECT 1"));
                        Ok(matches!(ping.await, Ok(Ok(_))))
                    })
                })
                .connect_lazy_with(options.clone().application_name(&format!("pyrograph {name}")))
        };
        let pools = Pools { api: Database(pool("api", 16)), lease: pool("lease", 8), listen: pool("listen", 4) };
        bounded(pools.lease.execute("SELECT 1")).await?;
        Ok(pools)
    }

    /// Waits for the connections that are in use, then closes all.
    pub async fn close(&self) {
        tokio::join!(self.listen.close(), self.api.0.close(), self.lease.close());
    }
}

/// Limits that the server enforces, so that a client that vanished holds neither a lock nor a row for long.
fn with_session_settings(options: PgConnectOptions) -> PgConnectOptions {
    options.options([
        ("idle_in_transaction_session_timeout", "10s"),
        ("statement_timeout", "15s"),
        ("lock_timeout", "3s"),
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "20s"),
        ("client_connection_check_interval", "5s"),
    ])
}

/// Brings the schema up to date; does nothing when it is.
///
/// Runs on a separate connection without the time limits of a session: a migration of a large installation takes as
/// long as it takes, and a second server waits for it.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    let mut connection = PgConnection::connect_with(&pool.connect_options()).await?;
    connection.execute("SET statement_timeout = 0; SET lock_timeout = 0").await?;
    MIGRATIONS.run(&mut connection).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(error) => error.into(),
        sqlx::migrate::MigrateError::VersionMissing(found) => {
            let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
            Error::conflict(format!(
                "a newer version of Pyrograph has changed this database (migration {found}, and this version knows \
                 {known}). Start that version, or restore a backup that is older than the upgrade."
            ))
        }
        sqlx::migrate::MigrateError::VersionMismatch(found) => Error::conflict(format!(
            "migration {found} of this database is not the one of this version of Pyrograph: another build, or someone \
             by hand, has changed the schema. Start the build that made it, or restore a backup."
        )),
        other => Error::internal(other),
    })?;
    connection.close().await?;
    Ok(())
}

/// Begins a transaction; use this and never `pool.begin()`.
///
/// It runs in a separate task, since sqlx 0.9 forgets a `BEGIN` whose future is dropped before the answer came (a
/// client hangs up, a limit passes): the pool would then hand out a connection inside a transaction that nobody ends,
/// and writes through it would be acknowledged and lost. A task is not dropped, and a finished transaction rolls back.
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin().await }).await.map_err(Error::internal)?;
    Ok(begun?)
}

/// Limits a statement, or a few short ones, to ten seconds.
pub async fn bounded<T, E>(statement: impl Future<Output = Result<T, E>>) -> Result<T>
where
    Error: From<E>,
{
    match tokio::time::timeout(STATEMENT_LIMIT, statement).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::unavailable(format!("the database did not answer within {STATEMENT_LIMIT:?}"))),
    }
}
