//! Deletions of objects. A deletion is a row, written in the transaction that deletes the object's own row, and is
//! tried until it is done: an object whose deletion was acknowledged does not outlive a failure of the bucket.

use std::time::Duration;

use futures::{StreamExt, stream};
use sqlx::{PgConnection, PgPool};

use crate::named::named;
use crate::{Result, Storage, bounded};

/// Objects deleted at the same time.
const AT_ONCE: usize = 8;
/// Deletions taken from the table at once.
const BATCH: i64 = 200;
/// How long a request waits for its own deletions; they continue without it.
const PATIENCE: Duration = Duration::from_secs(5);
/// After the request itself has tried, and between two tries, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Longest time between two tries: an object goes soon after the bucket is back.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How long a done deletion is kept.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// Asks for the deletion of objects that no row names any more, in the transaction that makes it so.
pub(crate) async fn ask(connection: &mut PgConnection, keys: &[String]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO deletions (key, due_at)
         SELECT DISTINCT key, clock_timestamp() + make_interval(secs => $2) FROM unnest($1::text[]) key
         ON CONFLICT (key) DO UPDATE
           SET asked_at = EXCLUDED.asked_at, due_at = EXCLUDED.due_at, tries = 0, done_at = NULL",
        keys,
        FIRST_PAUSE.as_secs_f64(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Carries out deletions that were committed just now, and waits for them for a few seconds. Never fails:
/// [`carry_out`] tries the others again.
pub(crate) async fn now(pool: &PgPool, storage: &Storage, keys: Vec<String>) {
    if keys.is_empty() {
        return;
    }
    let (pool, storage) = (pool.clone(), storage.clone());
    let deleting = tokio::spawn(async move {
        if let Err(error) = carry_out_these(&pool, &storage, keys).await {
            tracing::warn!(%error, "objects whose rows are deleted stay for now");
        }
    });
    let _ = tokio::time::timeout(PATIENCE, deleting).await;
}

/// Carries out the deletions that are due. Returns how many objects are gone.
pub async fn carry_out(pool: &PgPool, storage: &Storage) -> Result<usize> {
    let mut done = 0;
    loop {
        let due = bounded(
            sqlx::query_scalar!(
                "UPDATE deletions SET tries = tries + 1,
                     due_at = clock_timestamp() + make_interval(secs => least($2 * power(2, least(tries, 30)), $3))
                 WHERE key IN (SELECT key FROM deletions WHERE done_at IS NULL AND due_at <= clock_timestamp()
                               ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
                 RETURNING key",
                BATCH,
                FIRST_PAUSE.as_secs_f64(),
                LONGEST_PAUSE.as_secs_f64(),
            )
            .fetch_all(pool),
        )
        .await?;
        let count = due.len();
        done += carry_out_these(pool, storage, due).await?;
        if count < BATCH as usize {
            return Ok(done);
        }
    }
}

/// Forgets deletions that were done long ago.
pub(crate) async fn forget_done(pool: &PgPool) -> Result<()> {
    bounded(
        sqlx::query!(
            "DELETE FROM deletions WHERE done_at < clock_timestamp() - make_interval(secs => $1)",
            KEPT.as_secs_f64(),
        )
        .execute(pool),
    )
    .await?;
    Ok(())
}

/// Carries out deletions that are asked for, due or not. Returns how many of the objects are gone.
pub(crate) async fn carry_out_these(pool: &PgPool, storage: &Storage, mut keys: Vec<String>) -> Result<usize> {
    // Never an object that a row names: it would be a bug to ask for it, and the object cannot be made again.
    let named = named(&mut *pool.acquire().await?, &keys).await?;
    if !named.is_empty() {
        tracing::error!(keys = ?named, "objects were to be deleted that rows name; they stay");
        bounded(sqlx::query!("DELETE FROM deletions WHERE key = ANY($1)", &named).execute(pool)).await?;
        keys.retain(|key| !named.contains(key));
    }
    let deleted: Vec<_> =
        stream::iter(keys).map(|key| delete_one(storage.clone(), key)).buffer_unordered(AT_ONCE).collect().await;
    let deleted: Vec<String> = deleted.into_iter().flatten().collect();
    bounded(
        sqlx::query!(
            "UPDATE deletions SET done_at = clock_timestamp() WHERE key = ANY($1) AND done_at IS NULL",
            &deleted
        )
        .execute(pool),
    )
    .await?;
    Ok(deleted.len())
}

/// Returns the key if the object is gone.
async fn delete_one(storage: Storage, key: String) -> Option<String> {
    match storage.delete(&key).await {
        Ok(()) => Some(key),
        Err(error) => {
            tracing::warn!(key, %error, "an object could not be deleted; it will be tried again");
            None
        }
    }
}
