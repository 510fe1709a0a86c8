//! Access to Postgres: pools, session settings, migrations and the time limit around each statement.

mod address;
mod fitness;
mod pooler;
mod presence;

use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPoolOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection, PgPool, Postgres, Transaction};
use tokio::time::{Instant, sleep, timeout};

use self::address::Address;
use self::fitness::{Obstacle, Schema};
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

    /// The pool, for finding out who the caller is.
    pub(crate) fn before_caller(&self) -> &PgPool {
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

/// Where the database is, as `DATABASE_URL` and `PYROGRAPH_DATABASE_DIRECT_URL` say.
#[derive(Clone)]
pub struct Addresses {
    pub url: String,
    /// The same database without a pooler in transaction mode.
    pub direct_url: Option<String>,
}

/// Most connections of each pool. They are opened when they are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSizes {
    pub api: u32,
    pub lease: u32,
    pub listen: u32,
}

impl PoolSizes {
    /// For a worker: three connections.
    pub const WORKER: Self = Self { api: 1, lease: 2, listen: 1 };
    /// For a process that is both, as in tests.
    const ROOMY: Self = Self { api: 16, lease: 8, listen: 4 };

    /// For a server with `api` connections for requests.
    pub fn server(api: u32) -> Self {
        Self { api, lease: 2, listen: 2 }
    }
}

/// Why the database or the bucket cannot be used: one sentence, with what helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It never can with this configuration.
    #[error("{0}")]
    Permanent(String),
    /// It does not answer now.
    #[error("{0}")]
    Silent(String),
}

impl From<Unusable> for Error {
    fn from(error: Unusable) -> Self {
        match error {
            Unusable::Permanent(why) => Error::internal(why),
            Unusable::Silent(why) => Error::unavailable(why),
        }
    }
}

const URL: &str = "DATABASE_URL";
const DIRECT_URL: &str = "PYROGRAPH_DATABASE_DIRECT_URL";
/// How long a server may not answer at the start.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for one attempt to connect.
const ATTEMPT: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Pools {
    /// Connects to `url` (`postgres://…`), with room for everything in one process.
    pub async fn connect(url: &str) -> Result<Pools> {
        Ok(Self::open(&Addresses { url: url.to_owned(), direct_url: None }, PoolSizes::ROOMY).await?)
    }

    /// Connects, and makes sure that the database can serve. Waits for as long as the server starts or has no free
    /// connection.
    pub async fn open(addresses: &Addresses, sizes: PoolSizes) -> Result<Pools, Unusable> {
        let url = Address::parse(URL, &addresses.url).map_err(Unusable::Permanent)?;
        let direct = addresses.direct_url.as_ref().map(|direct| Address::parse(DIRECT_URL, direct)).transpose();
        let direct = direct.map_err(Unusable::Permanent)?;
        let shared = is_shared(&url, direct.is_none()).await?;
        let (api, session) = match (shared, direct) {
            (false, None) => (url.clone(), url),
            (true, None) => {
                return Err(Unusable::Permanent(format!(
                    "{URL} leads to a connection pooler in transaction mode, and LISTEN, migrations and prepared \
                     statements need sessions. Name its port for session mode or the server itself in {URL}, or in \
                     {DIRECT_URL}"
                )));
            }
            (shared, Some(direct)) => {
                if is_shared(&direct, true).await? {
                    return Err(Unusable::Permanent(format!(
                        "{DIRECT_URL} leads to a connection pooler in transaction mode; it must name the server itself \
                         or a pooler in session mode"
                    )));
                }
                if shared {
                    tracing::info!("{URL} leads to a pooler in transaction mode; {DIRECT_URL} is used instead");
                }
                (if shared { direct.clone() } else { url }, direct)
            }
        };
        let pools = Pools {
            api: Database(pool(&api, "api", sizes.api)),
            lease: pool(&session, "lease", sizes.lease),
            listen: pool(&session, "listen", sizes.listen),
        };
        // So that a process that has started has a connection.
        drop(acquire(&pools.lease).await?);
        Ok(pools)
    }

    /// Waits for the connections that are in use, then closes all.
    pub async fn close(&self) {
        tokio::join!(self.listen.close(), self.api.0.close(), self.lease.close());
    }
}

/// Connects once: is the database fit, where that matters, and does a pooler share its sessions?
async fn is_shared(address: &Address, must_be_fit: bool) -> Result<bool, Unusable> {
    let mut connection = reach(address).await?;
    if must_be_fit {
        let fault = timeout(STATEMENT_LIMIT, fitness::fault(&mut connection)).await;
        let fault =
            fault.map_err(|_| Unusable::Silent(format!("the server at {} does not answer", address.place())))?;
        match fault {
            Ok(None) => {}
            Ok(Some(fault)) => return Err(Unusable::Permanent(format!("{}: {fault}", address.variable))),
            Err(error) => return Err(Unusable::Silent(format!("the server at {} fails: {error}", address.place()))),
        }
    }
    let shared = pooler::shares_sessions(&mut connection, address).await;
    let _ = timeout(ATTEMPT, connection.close()).await;
    Ok(shared)
}

/// A connection, as soon as the server has one.
async fn reach(address: &Address) -> Result<PgConnection, Unusable> {
    let mut silent_since = None;
    let mut reported = String::new();
    let mut pause = Duration::from_millis(100);
    loop {
        let obstacle = match timeout(ATTEMPT, address.options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => fitness::explain(&error, address),
            Err(_) => Obstacle::Silent(format!("the server at {} does not answer", address.place())),
        };
        let why = match obstacle {
            Obstacle::Permanent(why) => return Err(Unusable::Permanent(why)),
            Obstacle::Silent(why) => {
                if silent_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(Unusable::Silent(why));
                }
                why
            }
            Obstacle::Busy(why) => {
                silent_since = None;
                why
            }
        };
        if why != reported {
            tracing::warn!("waiting for the database: {why}");
            reported = why;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A connection of a pool, however long the server has no free one.
async fn acquire(pool: &PgPool) -> Result<PoolConnection<Postgres>, Unusable> {
    loop {
        match pool.acquire().await {
            Ok(connection) => return Ok(connection),
            Err(sqlx::Error::PoolTimedOut) => tracing::warn!("waiting for a connection to the database"),
            Err(error) => return Err(Unusable::Silent(error.to_string())),
        }
    }
}

fn pool(address: &Address, name: &str, most: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(most)
        // Shorter than the limit of a statement; a machine that is busy compiling takes seconds for a connection.
        .acquire_timeout(Duration::from_secs(8))
        .max_lifetime(Duration::from_mins(30))
        .after_connect(|connection, _| Box::pin(async move { connection.execute(SESSION_SETTINGS).await.map(drop) }))
        // A ping before each use costs a round trip; a connection that was idle for long is pinged below.
        .test_before_acquire(false)
        .before_acquire(|connection, idle| {
            Box::pin(async move {
                if idle.idle_for < Duration::from_secs(10) {
                    return Ok(true);
                }
                let ping = timeout(Duration::from_secs(1), connection.execute("SELECT 1"));
                Ok(matches!(ping.await, Ok(Ok(_))))
            })
        })
        .connect_lazy_with(address.options.clone().application_name(&format!("pyrograph {name}")))
}

/// Limits that the server enforces, so that a client that vanished holds neither a lock nor a row for long. They are
/// set after connecting: poolers refuse them as parameters of the connection.
const SESSION_SETTINGS: &str = "
    SET idle_in_transaction_session_timeout = '10s';
    SET statement_timeout = '15s';
    SET lock_timeout = '3s';
    SET tcp_keepalives_idle = 10;
    SET tcp_keepalives_interval = 5;
    SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = '20s';
    SET client_connection_check_interval = '5s'";

/// Brings the schema up to date; does nothing when it is, so that a role without the right to change it can serve.
///
/// Runs without the time limits of a session: a migration of a large installation takes as long as it takes, and a
/// second server waits for it.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    let mut connection = acquire(pool).await?;
    if fitness::is_current(&mut connection).await? {
        return Ok(());
    }
    connection.execute("SET statement_timeout = 0; SET lock_timeout = 0").await?;
    let migrated = MIGRATIONS.run(&mut *connection).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(error) => error.into(),
        sqlx::migrate::MigrateError::VersionMissing(found) => newer(found),
        sqlx::migrate::MigrateError::VersionMismatch(found) => changed(found),
        other => Error::internal(other),
    });
    if migrated.is_err() || connection.execute(SESSION_SETTINGS).await.is_err() {
        let _ = connection.close().await;
    }
    migrated
}

/// Makes sure that the schema is this version's, for processes that do not change it. Errors: `Conflict`.
pub async fn check_schema(pool: &PgPool) -> Result<()> {
    let mut connection = acquire(pool).await?;
    match bounded(fitness::schema(&mut connection)).await? {
        Schema::Current | Schema::Hidden => Ok(()),
        Schema::Newer(found) => Err(newer(found)),
        Schema::Changed(found) => Err(changed(found)),
        Schema::Older => Err(Error::conflict(
            "the tables of this database are not those of this version of Pyrograph. Run `pyrograph migrate`, or start \
             `pyrograph serve`, which does the same.",
        )),
    }
}

fn newer(found: i64) -> Error {
    let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
    Error::conflict(format!(
        "a newer version of Pyrograph has changed this database (migration {found}, and this version knows {known}). \
         Start that version, or restore a backup that is older than the upgrade."
    ))
}

fn changed(found: i64) -> Error {
    Error::conflict(format!(
        "migration {found} of this database is not the one of this version of Pyrograph: another build, or someone by \
         hand, has changed the schema. Start the build that made it, or restore a backup."
    ))
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

/// The time on the clock of the database.
pub async fn server_time(pool: &PgPool) -> Result<DateTime<Utc>> {
    bounded(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(pool)).await
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
