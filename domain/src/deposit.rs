//! Objects that are stored before the rows that will name them. An object is deleted again only if its row certainly
//! does not exist: the transaction never reached its `COMMIT`, or the database says that it was rolled back. If the
//! reply to the `COMMIT` is lost and the database does not say what became of it, the object stays for the sweeper.

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::{PgConnection, PgPool};
use tokio::time::{Instant, sleep, timeout};

use crate::storage::Storage;
use crate::{Error, Result, begin, bounded};

/// How long objects may wait for their rows. Well below the day after which the sweeper looks at them.
const MOST_WAIT: Duration = Duration::from_hours(20);
/// Limit for the statements before the `COMMIT`.
const WRITING: Duration = Duration::from_mins(1);
/// How long the database is asked what became of a transaction.
const SECOND_LOOK: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// Objects without rows. If dropped, it deletes them, also when a request is dropped because its client disconnected.
/// Each key must belong to this deposit alone.
pub(crate) struct Deposit {
    storage: Storage,
    keys: Vec<String>,
    since: Instant,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Committed,
    RolledBack,
    Unknown,
}

impl Deposit {
    pub(crate) fn new(storage: &Storage) -> Self {
        Self { storage: storage.clone(), keys: Vec::new(), since: Instant::now() }
    }

    /// To be called before the object is stored: an interrupted put may store it all the same.
    pub(crate) fn add(&mut self, key: &str) {
        if self.keys.is_empty() {
            self.since = Instant::now();
        }
        self.keys.push(key.to_owned());
    }

    /// The object has another owner from now on, who deletes it when necessary.
    pub(crate) fn release(&mut self, key: &str) {
        self.keys.retain(|own| own != key);
    }

    /// Deletes the objects.
    pub(crate) async fn discard(mut self) {
        let keys = std::mem::take(&mut self.keys);
        self.storage.discard(keys).await;
    }

    /// Runs `write` in a transaction that makes the rows of the objects, and commits it. It runs in a separate task:
    /// a client that disconnects cannot interrupt it between the `COMMIT` and its reply. Returns `Ok` also if that
    /// reply was lost and the rows exist. After an error the objects are deleted unless their rows may exist.
    pub(crate) async fn commit<T, W>(self, pool: &PgPool, write: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let pool = pool.clone();
        tokio::spawn(self.decide(pool, write)).await.map_err(Error::internal)?
    }

    async fn decide<T, W>(mut self, pool: PgPool, write: W) -> Result<T>
    where
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>>,
    {
        if !self.keys.is_empty() && self.since.elapsed() > MOST_WAIT {
            self.discard().await;
            return Err(Error::conflict("The request took longer than 20 hours; send it again, in smaller pieces."));
        }
        let written = async {
            let mut tx = begin(&pool).await?;
            let value = write(&mut tx).await?;
            let transaction = sqlx::query_scalar!(r#"SELECT pg_current_xact_id()::text AS "id!""#);
            let transaction = transaction.fetch_one(&mut *tx).await?;
            Ok::<_, Error>((tx, value, transaction))
        };
        let written = match timeout(WRITING, written).await {
            Ok(written) => written,
            Err(_) => Err(Error::unavailable(format!("the database did not answer within {WRITING:?}"))),
        };
        let (tx, value, transaction) = match written {
            Ok(written) => written,
            Err(error) => {
                self.discard().await;
                return Err(error);
            }
        };
        // From here on the rows may exist, so nothing is deleted when this task is dropped.
        let keys = std::mem::take(&mut self.keys);
        let Err(error) = bounded(tx.commit()).await else { return Ok(value) };
        match fate(&pool, &transaction).await {
            Fate::Committed => {
                tracing::warn!(%error, "the reply to a commit was lost; its rows exist");
                Ok(value)
            }
            Fate::RolledBack => {
                self.storage.discard(keys).await;
                Err(error)
            }
            Fate::Unknown => {
                tracing::warn!(%error, ?keys, "it is not known whether a transaction was committed; its objects stay");
                Err(Error::unavailable(error))
            }
        }
    }
}

impl Drop for Deposit {
    fn drop(&mut self) {
        let keys = std::mem::take(&mut self.keys);
        if keys.is_empty() {
            return;
        }
        let storage = self.storage.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { storage.discard(keys).await });
        }
    }
}

/// Asks the database what became of a transaction whose reply was lost. A second look for the row itself would not do:
/// the server may still be working on the `COMMIT`.
async fn fate(pool: &PgPool, transaction: &str) -> Fate {
    let since = Instant::now();
    while since.elapsed() < SECOND_LOOK {
        let status = sqlx::query_scalar!("SELECT pg_xact_status($1::text::xid8)", transaction).fetch_one(pool);
        match bounded(status).await {
            Ok(status) => match status.as_deref() {
                Some("committed") => return Fate::Committed,
                Some("aborted") => return Fate::RolledBack,
                Some("in progress") => {}
                _ => return Fate::Unknown,
            },
            Err(error) if error.is_transient() => {}
            // Another server has taken over, and does not know the transaction.
            Err(_) => return Fate::Unknown,
        }
        sleep(PAUSE).await;
    }
    Fate::Unknown
}
