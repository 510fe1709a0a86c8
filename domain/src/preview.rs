//! How the picture that a running generation works on looks by now. Only the newest is kept, and none once the attempt has ended:
//! it is no result, and no event, which could be read again. How it is made is the engine's matter.

use sqlx::PgPool;

use crate::job::Claim;
use crate::{Error, JobId, Result, bounded, event};

/// Largest file of a preview, in bytes.
pub const MAX_BYTES: usize = 512 * 1024;

/// A picture on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Steps done and steps in all, as the job's progress counts them.
    pub step: i32,
    pub total_steps: i32,
    /// Which picture of the generation it is, from 0.
    pub position: i32,
    /// Pixels.
    pub width: i32,
    /// Pixels.
    pub height: i32,
    /// The file.
    pub jpeg: Vec<u8>,
}

/// Puts a preview in the place of the one before, in the name of an attempt, and rings as an event does.
/// Errors: `LeaseLost`; `Invalid` for a file that is too large.
pub async fn record(pool: &PgPool, claim: &Claim, preview: &Preview) -> Result<()> {
    if preview.jpeg.len() > MAX_BYTES {
        return Err(Error::invalid("preview", format!("It has {} bytes; {MAX_BYTES} are kept.", preview.jpeg.len())));
    }
    let sequence = bounded(
        sqlx::query_scalar!(
            r#"WITH job AS (
                 SELECT id, last_sequence FROM jobs WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running' FOR UPDATE
               ), kept AS (
                 INSERT INTO previews (job_id, revision, step, total_steps, position, width, height, jpeg)
                 SELECT id, ($2 << 32) + 1, $4, $5, $6, $7, $8, $9 FROM job
                 ON CONFLICT (job_id) DO UPDATE SET revision = previews.revision + 1, step = $4, total_steps = $5, position = $6,
                                                    width = $7, height = $8, jpeg = $9
               )
               SELECT last_sequence FROM job"#,
            claim.job.0,
            claim.epoch,
            claim.worker.0,
            preview.step,
            preview.total_steps,
            preview.position,
            preview.width,
            preview.height,
            preview.jpeg,
        )
        .fetch_optional(pool),
    )
    .await?
    .ok_or(Error::LeaseLost)?;
    event::announce(pool, claim.job, sequence).await;
    Ok(())
}

/// The newest preview of a job and its revision, if that is above `revision`.
pub async fn after(pool: &PgPool, job: JobId, revision: i64) -> Result<Option<(i64, Preview)>> {
    let row = sqlx::query!(
        "SELECT revision, step, total_steps, position, width, height, jpeg FROM previews WHERE job_id = $1 AND revision > $2",
        job as JobId,
        revision,
    );
    let row = bounded(row.fetch_optional(pool)).await?;
    Ok(row.map(|row| {
        let preview = Preview {
            step: row.step,
            total_steps: row.total_steps,
            position: row.position,
            width: row.width,
            height: row.height,
            jpeg: row.jpeg,
        };
        (row.revision, preview)
    }))
}
