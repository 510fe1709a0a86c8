//! Previews: the current estimate of the picture that a running generation works on. Only the newest is kept, and it is
//! deleted when the attempt ends: it is neither a result nor an event that could be replayed. The engine makes it.

use sqlx::PgPool;

use crate::job::{Claim, JobStatus};
use crate::{Caller, Database, Error, JobId, ProjectId, Result, bounded, event};

/// Largest file of a preview, in bytes.
pub const MAX_BYTES: usize = 512 * 1024;

/// A preview of one picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Steps done and steps in total, as the job's progress counts them.
    pub step: i32,
    pub total_steps: i32,
    /// Index of the picture within the generation, from 0.
    pub position: i32,
    /// Width in pixels.
    pub width: i32,
    /// Height in pixels.
    pub height: i32,
    /// The JPEG file.
    pub jpeg: Vec<u8>,
}

/// Replaces the previous preview, in the name of an attempt, and notifies as an event does. Errors: `LeaseLost`;
/// `Invalid` for a file that is too large.
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

/// News for a follower that has received a job's events up to `sequence`, and its previews up to `revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The job has ended and there are no more events.
    pub over: bool,
    /// The newest preview with its revision, if the follower has not received it.
    pub preview: Option<(i64, Preview)>,
}

/// Errors: `NotFound`.
pub async fn news(caller: &Caller, database: &Database, job: JobId, sequence: i64, revision: i64) -> Result<News> {
    let row = sqlx::query!(
        r#"SELECT status AS "status: JobStatus", last_sequence, revision AS "revision?", p.step AS "step?", p.total_steps AS "total_steps?",
                  position AS "position?", width AS "width?", height AS "height?", jpeg AS "jpeg?"
           FROM jobs j LEFT JOIN previews p ON p.job_id = j.id AND p.revision > $2
           WHERE j.id = $1 AND j.project_id = $3"#,
        job as JobId,
        revision,
        caller.project() as ProjectId,
    );
    let row =
        bounded(row.fetch_optional(database.pool(caller))).await?.ok_or_else(|| Error::not_found("job", job.0))?;
    let preview = row.revision.zip(row.jpeg).map(|(revision, jpeg)| {
        let preview = Preview {
            step: row.step.unwrap_or_default(),
            total_steps: row.total_steps.unwrap_or_default(),
            position: row.position.unwrap_or_default(),
            width: row.width.unwrap_or_default(),
            height: row.height.unwrap_or_default(),
            jpeg,
        };
        (revision, preview)
    });
    Ok(News { over: row.status.is_terminal() && row.last_sequence <= sequence, preview })
}
