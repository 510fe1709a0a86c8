//! Accounting: what a project, and each of its keys and accounts, has used.
//!
//! | what | where | counts |
//! |---|---|---|
//! | who asked for a job | `jobs.key_id` | the key of the caller, kept after the key is gone; null without a key |
//! | | `jobs.account` | the account of the Hugging Face Hub of a caller with its token |
//! | device time of an attempt | `attempts.gpu_seconds` | from the claim to its end, for kinds that hold the device |
//! | stored bytes of a project | the sum of `stored_bytes.bytes` | objects of its rows, as `counted` in SQL says |
//!
//! Device time becomes known in the transaction that ends the attempt: that of the worker when it reports, or that of
//! the reaper, for which an attempt ended when its lease did. It belongs to the day on which the attempt ended.
//!
//! Stored bytes are inputs, pictures that generations carry, results, examples of datasets, models that are not shared,
//! and uploads of models with the size that they will have. A file that several models of a project have is stored once
//! and counts for each of them. Checkpoints of running trainings and files of unfinished imports do not count.

mod summary;

use sqlx::PgPool;

pub use self::summary::{GroupUsage, Usage, UsageGroup, UsageRequest, summary};

use crate::{Caller, Database, ProjectId, Result, bounded};

/// Most rows of the ledger that are merged in one statement.
const BATCH: i64 = 10_000;

/// Bytes that the caller's project has stored.
pub async fn stored_bytes(caller: &Caller, database: &Database) -> Result<i64> {
    let sum = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(bytes), 0)::bigint AS "bytes!" FROM stored_bytes WHERE project_id = $1"#,
        caller.project() as ProjectId,
    );
    bounded(sum.fetch_one(database.pool(caller))).await
}

/// Housekeeping, in all projects: merges rows of the ledger of stored bytes, so that its sum stays cheap. Cheap if
/// there is nothing to merge.
pub async fn merge_ledger(pool: &PgPool) -> Result<()> {
    loop {
        let merged = sqlx::query_scalar!(
            r#"WITH old AS (
                 DELETE FROM stored_bytes WHERE id IN (
                   SELECT id FROM stored_bytes s WHERE EXISTS (
                     SELECT FROM stored_bytes o WHERE o.project_id = s.project_id AND o.id <> s.id)
                   ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
                 RETURNING project_id, bytes),
               new AS (
                 INSERT INTO stored_bytes (project_id, bytes)
                 SELECT project_id, sum(bytes) FROM old GROUP BY project_id)
               SELECT count(*) AS "merged!" FROM old"#,
            BATCH,
        );
        if bounded(merged.fetch_one(pool)).await? < BATCH {
            return Ok(());
        }
    }
}
