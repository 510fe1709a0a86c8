//! What a client does with a job: put it into the queue, look at it, wait for its end, ask for its end.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tokio::time::Instant;

use super::{ErrorClass, Job, JobKind, JobStatus, doorbell};
use crate::database::bounded;
use crate::event::{self, Feed};
use crate::{Error, JobId, Result, WorkerId};

/// Who waits looks at the row this often, whatever the feed says.
const POLL: Duration = Duration::from_secs(1);

/// Puts a job into the queue, in the transaction of the row that it is about, with its first event. After the commit, [`super::ring`].
/// `total_steps` 0 = not known yet.
pub async fn enqueue(connection: &mut PgConnection, kind: JobKind, priority: i16, total_steps: i32) -> Result<JobId> {
    let id = JobId::new();
    bounded(
        sqlx::query!(
            "WITH job AS (
                 INSERT INTO jobs (id, kind, priority, total_steps, last_sequence) VALUES ($1, $2, $3, $4, 1) RETURNING id)
             INSERT INTO job_events (job_id, sequence, kind) SELECT id, 1, 'queued' FROM job",
            id.0,
            kind.as_str(),
            priority,
            total_steps,
        )
        .execute(connection),
    )
    .await?;
    Ok(id)
}

/// # Errors
/// `NotFound`.
pub async fn get(pool: &PgPool, id: JobId) -> Result<Job> {
    bounded(
        sqlx::query_as!(
            Job,
            r#"SELECT id AS "id: JobId", kind AS "kind: JobKind", status AS "status: JobStatus", priority, run_at, epoch,
                      worker AS "worker: WorkerId", lease_until, failures, crashes, releases, cancel_requested_at, step, total_steps,
                      progress, error_class AS "error_class: ErrorClass", error_message, last_sequence, created_at, started_at, finished_at
               FROM jobs WHERE id = $1"#,
            id.0,
        )
        .fetch_optional(pool),
    )
    .await?
    .ok_or_else(|| Error::not_found("job", id))
}

/// Waits until the job is terminal, but no longer than `limit`; returns it as it then is.
///
/// # Errors
/// `NotFound`.
pub async fn wait_terminal(pool: &PgPool, feed: &Feed, id: JobId, limit: Duration) -> Result<Job> {
    let until = Instant::now() + limit;
    // Subscribed before the first look, so that an end between the two is heard.
    let mut subscription = feed.subscribe();
    loop {
        let job = get(pool, id).await?;
        if job.status.is_terminal() || Instant::now() >= until {
            return Ok(job);
        }
        let next_look = until.min(Instant::now() + POLL);
        let _ = tokio::time::timeout_at(next_look, subscription.news_of(id)).await;
    }
}

/// Asks for the end of a job. One that is queued ends at once. One that runs is told at its worker's next beat, which a call over
/// the doorbell brings forward; until the worker confirms it may still succeed. A terminal one stays as it is.
///
/// # Errors
/// `NotFound`.
pub async fn cancel(pool: &PgPool, id: JobId) -> Result<Job> {
    let canceled = bounded(
        sqlx::query!(
            r#"WITH job AS (
                   UPDATE jobs SET
                       cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),
                       status = CASE status WHEN 'queued' THEN 'canceled' ELSE status END,
                       finished_at = CASE status WHEN 'queued' THEN clock_timestamp() END,
                       last_sequence = last_sequence + (status = 'queued')::int
                   WHERE id = $1 AND status IN ('queued', 'running')
                   RETURNING id, status, last_sequence),
               event AS (
                   INSERT INTO job_events (job_id, sequence, kind)
                   SELECT id, last_sequence, 'canceled' FROM job WHERE status = 'canceled')
               SELECT status AS "status: JobStatus", last_sequence FROM job"#,
            id.0,
        )
        .fetch_optional(pool),
    )
    .await?;
    match canceled {
        Some(row) if row.status == JobStatus::Canceled => event::announce(pool, id, row.last_sequence).await,
        Some(_) => doorbell::call_to_cancel(pool, id).await,
        None => {}
    }
    get(pool, id).await
}
