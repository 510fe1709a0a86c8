//! Leftovers: objects that no row names, at places of the bucket where no row can name them any more. An attempt that
//! is over may have stored something, also after its end: a worker that was stopped continues its last request when it
//! wakes. So may a client with a URL that is still valid after its upload was deleted. The place is looked at
//! half a minute after the attempt, or once the URL has expired. Not here: objects without a row elsewhere (`sweep`).

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use crate::job::Claim;
use crate::storage::layout;
use crate::{Error, Result, Storage, begin, bounded, deletion, named};

/// Places that are looked at in one go.
const BATCH: i64 = 200;
/// Until the next look after one that failed.
const PAUSE: Duration = Duration::from_secs(30);
/// How long looks are remembered that nobody takes, since the sweeper is off.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// For a worker that has lost its lease: asks for a look at what its attempt has stored. The end of the attempt has
/// asked for one, too, but the worker may have stored more since. Changes nothing while the attempt may still make
/// rows, which only the database knows: it is the end of this attempt that asks then.
pub async fn of_lost_attempt(pool: &PgPool, claim: &Claim) -> Result<()> {
    bounded(async {
        let mut tx = begin(pool).await?;
        // Waits for a commit of this attempt whose reply was lost.
        let running = sqlx::query_scalar!(
            r#"SELECT status = 'running' AND epoch = $2 AND worker = $3 AS "running!" FROM jobs WHERE id = $1
               FOR UPDATE"#,
            claim.job.0,
            claim.epoch,
            claim.worker.0,
        )
        .fetch_optional(&mut *tx)
        .await?;
        if running == Some(true) {
            return Ok::<_, Error>(());
        }
        sqlx::query!(
            "SELECT leave_behind($1, $2, $3, $4)",
            claim.kind.as_str(),
            claim.job.0,
            claim.subject,
            claim.epoch,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    })
    .await
}

/// Asks for a look at uploads whose rows are gone, once the URLs that were given out for them have expired: each the
/// key of one object, or a folder with a `/` at its end.
pub(crate) async fn of_uploads(connection: &mut PgConnection, expiries: &[(String, DateTime<Utc>)]) -> Result<()> {
    let prefixes: Vec<String> = expiries.iter().map(|(prefix, _)| prefix.clone()).collect();
    let times: Vec<DateTime<Utc>> = expiries.iter().map(|(_, expires_at)| *expires_at).collect();
    sqlx::query!(
        "INSERT INTO leftovers (prefix, due_at)
         SELECT prefix, expires_at + interval '30 seconds' FROM unnest($1::text[], $2::timestamptz[])
             AS left_behind (prefix, expires_at)
         WHERE expires_at > clock_timestamp()
         ON CONFLICT (prefix) DO UPDATE SET due_at = EXCLUDED.due_at",
        &prefixes,
        &times,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether a look is due.
pub(crate) async fn is_due(pool: &PgPool) -> Result<bool> {
    let due =
        sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM leftovers WHERE due_at <= clock_timestamp()) AS "due!""#);
    bounded(due.fetch_one(pool)).await
}

/// Puts off all looks that are due.
pub(crate) async fn put_off(pool: &PgPool, by: Duration) -> Result<()> {
    let later = sqlx::query!(
        "UPDATE leftovers SET due_at = clock_timestamp() + make_interval(secs => $1) WHERE due_at <= clock_timestamp()",
        by.as_secs_f64(),
    );
    bounded(later.execute(pool)).await?;
    Ok(())
}

/// Forgets looks that nobody has taken.
pub(crate) async fn forget_old(pool: &PgPool) -> Result<()> {
    let old = sqlx::query!(
        "DELETE FROM leftovers WHERE due_at < clock_timestamp() - make_interval(secs => $1)",
        KEPT.as_secs_f64(),
    );
    bounded(old.execute(pool)).await?;
    Ok(())
}

/// Looks at the places that are due, and deletes what no row names. The bucket must belong to this database. Returns
/// how many objects are gone.
pub(crate) async fn remove(pool: &PgPool, storage: &Storage) -> Result<usize> {
    let mut removed = 0;
    loop {
        // Another server skips them meanwhile, and has them again if this one does not finish.
        let due = bounded(
            sqlx::query!(
                "UPDATE leftovers SET due_at = clock_timestamp() + make_interval(secs => $2)
                 WHERE prefix IN (SELECT prefix FROM leftovers WHERE due_at <= clock_timestamp()
                                  ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
                 RETURNING prefix, due_at",
                BATCH,
                PAUSE.as_secs_f64(),
            )
            .fetch_all(pool),
        )
        .await?;
        for look in &due {
            match remove_below(pool, storage, &look.prefix, look.due_at).await {
                Ok(count) => removed += count,
                Err(error) => tracing::warn!(prefix = look.prefix, %error, "a look at leftovers is made again"),
            }
        }
        if due.len() < BATCH as usize {
            return Ok(removed);
        }
    }
}

async fn exists(storage: &Storage, key: &str) -> Result<bool> {
    match storage.head(key).await {
        Ok(_) => Ok(true),
        Err(Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Forgets the look that is due at `due_at` afterwards, but not another one that was asked for meanwhile.
async fn remove_below(pool: &PgPool, storage: &Storage, prefix: &str, due_at: DateTime<Utc>) -> Result<usize> {
    // The upload of one picture has no objects below it; it is one.
    let mut keys = if layout::place(prefix).is_some_and(|place| place.folder == "uploads") {
        if exists(storage, prefix).await? { vec![prefix.to_owned()] } else { Vec::new() }
    } else {
        storage.list(prefix).await?.into_iter().map(|(key, _)| key).collect()
    };
    keys.retain(|key| layout::place(key).is_some());
    let strays = named::strays(pool, keys).await?;
    bounded(async {
        let mut tx = begin(pool).await?;
        deletion::ask(&mut tx, &strays).await?;
        let done = sqlx::query!("DELETE FROM leftovers WHERE prefix = $1 AND due_at = $2", prefix, due_at);
        done.execute(&mut *tx).await?;
        tx.commit().await?;
        Ok::<_, Error>(())
    })
    .await?;
    if strays.is_empty() {
        return Ok(0);
    }
    tracing::info!(keys = ?strays, "deleting what an attempt or an upload has left behind");
    deletion::carry_out_these(pool, storage, strays).await
}
