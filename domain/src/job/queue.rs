//! What a client does with a job: enqueue it, look at it, wait for its end, ask for its end.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tokio::time::Instant;
use uuid::Uuid;

use super::{ErrorClass, Job, JobKind, JobStatus, doorbell};
use crate::database::bounded;
use crate::delivery::webhook::{self, Endpoint};
use crate::event::{self, Feed};
use crate::{Caller, Database, Error, JobId, KeyId, ModelId, ProjectId, Result, WorkerId, quota};

/// How often a waiting client polls the row, even if no event arrives. A thousand clients may wait.
const POLL: Duration = Duration::from_secs(5);

/// Most jobs of a project that are canceled in one statement.
const CANCELED_AT_ONCE: i64 = 500;

/// A job to be enqueued.
#[derive(Debug, Clone, Copy)]
pub struct NewJob<'a> {
    /// Owner: the project of the row that the job is about.
    pub project: ProjectId,
    /// The key of the caller who asks for it, if there is one.
    pub key: Option<KeyId>,
    /// The account of the Hugging Face Hub of the caller who asks for it, if there is one.
    pub account: Option<&'a str>,
    pub kind: JobKind,
    /// Id of the generation, training, import or export; the job gets the same.
    pub subject: Uuid,
    /// Jobs of higher priority are claimed first.
    pub priority: i16,
    /// 0 = not known yet.
    pub total_steps: i32,
    /// Models that cannot be deleted while the job is queued or running.
    pub needs: &'a [ModelId],
    /// Name of the model to be made: no other job may make one of that name meanwhile.
    pub makes: Option<&'a str>,
    /// The failed job that it repeats.
    pub retry_of: Option<JobId>,
    /// Whether it asks nothing of the network. A repeated job is as the failed one.
    pub local: bool,
    /// The endpoint that is notified of it. That of a repeated job is written by the retry.
    pub webhook: Option<&'a Endpoint>,
}

impl<'a> NewJob<'a> {
    /// A job of the caller's project, of default priority, that needs no models and makes none.
    pub fn new(caller: &'a Caller, kind: JobKind, subject: impl Into<Uuid>) -> Self {
        let subject = subject.into();
        Self {
            project: caller.project(),
            key: caller.key(),
            account: caller.account(),
            kind,
            subject,
            priority: 0,
            total_steps: 0,
            needs: &[],
            makes: None,
            retry_of: None,
            local: false,
            webhook: None,
        }
    }
}

/// Enqueues a job with its first event, in the transaction of the row that it is about. After the commit, call
/// [`super::ring`].
///
/// # Errors
/// `Unknown` if a model that it needs has been deleted; `OverQuota`.
pub async fn enqueue(connection: &mut PgConnection, new: NewJob<'_>) -> Result<JobId> {
    let id = JobId(new.subject);
    bounded(quota::left(connection, new.project)).await?.take_job(0)?;
    let mut needs: Vec<Uuid> = new.needs.iter().map(|model| model.0).collect();
    needs.sort_unstable();
    needs.dedup();
    let inserted = bounded(
        // The lock keeps the models from being deleted until the transaction ends.
        sqlx::query!(
            "WITH needed AS (
                 SELECT id FROM models WHERE id = ANY($5) AND deleted_at IS NULL ORDER BY id FOR KEY SHARE),
             job AS (
                 INSERT INTO jobs (id, subject, kind, priority, total_steps, makes, retry_of, project_id, local,
                     key_id, account, last_sequence)
                 SELECT $1, $1, $2, $3, $4, $6, $7, $8, $9 OR EXISTS (SELECT FROM jobs WHERE id = $7 AND local), $10, $11, 1
                 WHERE (SELECT count(*) FROM needed) = cardinality($5)
                 RETURNING id),
             need AS (
                 INSERT INTO job_needs (job_id, model_id) SELECT job.id, needed.id FROM job, needed)
             INSERT INTO job_events (job_id, sequence, kind) SELECT id, 1, 'queued' FROM job",
            id.0,
            new.kind.as_str(),
            new.priority,
            new.total_steps,
            &needs,
            new.makes,
            new.retry_of.map(|job| job.0),
            new.project as ProjectId,
            new.local,
            new.key as Option<KeyId>,
            new.account,
        )
        .execute(&mut *connection),
    )
    .await?;
    if inserted.rows_affected() == 0 {
        return Err(Error::unknown("model", "A model that this request needs was deleted just now; ask again."));
    }
    if let Some(endpoint) = new.webhook {
        webhook::attach(connection, id, endpoint).await?;
    }
    Ok(id)
}

/// The job with this public id, of any kind or of one.
///
/// # Errors
/// `NotFound`, also if its subject was deleted.
pub async fn find(caller: &Caller, database: &Database, subject: Uuid, kind: Option<JobKind>) -> Result<JobId> {
    bounded(
        sqlx::query_scalar!(
            r#"SELECT id AS "id: JobId" FROM jobs
               WHERE subject = $1 AND project_id = $3 AND deleted_at IS NULL AND ($2::text IS NULL OR kind = $2)"#,
            subject,
            kind.map(JobKind::as_str),
            caller.project() as ProjectId,
        )
        .fetch_optional(database.pool(caller)),
    )
    .await?
    .ok_or_else(|| Error::not_found(kind.map_or("job", JobKind::as_str), subject))
}

/// Hides a terminal job from clients, in the transaction that deletes its subject.
pub async fn hide(connection: &mut PgConnection, job: JobId) -> Result<()> {
    sqlx::query!("UPDATE jobs SET deleted_at = clock_timestamp() WHERE id = $1 AND deleted_at IS NULL", job.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// # Errors
/// `NotFound`.
pub async fn get(caller: &Caller, database: &Database, id: JobId) -> Result<Job> {
    bounded(
        sqlx::query_as!(
            Job,
            r#"SELECT id AS "id: JobId", subject, kind AS "kind: JobKind", status AS "status: JobStatus", priority, run_at, epoch,
                      worker AS "worker: WorkerId", lease_until, failures, crashes, releases, cancel_requested_at, step, total_steps,
                      progress, error_class AS "error_class: ErrorClass", error_message, last_sequence, created_at, started_at, finished_at
               FROM jobs WHERE id = $1 AND project_id = $2"#,
            id.0,
            caller.project() as ProjectId,
        )
        .fetch_optional(database.pool(caller)),
    )
    .await?
    .ok_or_else(|| Error::not_found("job", id.0))
}

/// Waits until the job is terminal, but no longer than `limit`; returns its state at that time.
///
/// # Errors
/// `NotFound`.
pub async fn wait_terminal(
    caller: &Caller,
    database: &Database,
    feed: &Feed,
    id: JobId,
    limit: Duration,
) -> Result<Job> {
    let until = Instant::now() + limit;
    // Subscribed before the first read, so that an end between the two is not missed.
    let mut subscription = feed.subscribe();
    loop {
        let job = get(caller, database, id).await?;
        if job.status.is_terminal() || Instant::now() >= until {
            return Ok(job);
        }
        let next_look = until.min(Instant::now() + POLL);
        let _ = tokio::time::timeout_at(next_look, subscription.news_of(id)).await;
    }
}

/// Asks for the end of all jobs of a project, as [`cancel`] does.
pub(crate) async fn cancel_project(pool: &PgPool, project: ProjectId) -> Result<()> {
    loop {
        let canceled = bounded(
            sqlx::query!(
                r#"WITH unfinished AS MATERIALIZED (
                       SELECT id FROM jobs
                       WHERE project_id = $1 AND (status = 'queued' OR status = 'running')
                         AND cancel_requested_at IS NULL
                       LIMIT $2 FOR UPDATE),
                   job AS (
                       UPDATE jobs SET
                           cancel_requested_at = clock_timestamp(),
                           status = CASE status WHEN 'queued' THEN 'canceled' ELSE status END,
                           finished_at = CASE status WHEN 'queued' THEN clock_timestamp() END,
                           last_sequence = last_sequence + (status = 'queued')::int
                       FROM unfinished WHERE jobs.id = unfinished.id
                       RETURNING jobs.id, status, last_sequence),
                   event AS (
                       INSERT INTO job_events (job_id, sequence, kind)
                       SELECT id, last_sequence, 'canceled' FROM job WHERE status = 'canceled')
                   SELECT id AS "id: JobId", status AS "status: JobStatus", last_sequence FROM job"#,
                project as ProjectId,
                CANCELED_AT_ONCE,
            )
            .fetch_all(pool),
        )
        .await?;
        for row in &canceled {
            match row.status {
                JobStatus::Canceled => event::announce(pool, row.id, row.last_sequence).await,
                _ => doorbell::call_to_cancel(pool, row.id).await,
            }
        }
        if canceled.is_empty() {
            return Ok(());
        }
    }
}

/// Asks for the end of a job. A queued job ends at once. The worker of a running job learns of it at its next beat,
/// which a call over the doorbell brings forward; until the worker confirms it, the job may still succeed. A terminal
/// job is left unchanged.
///
/// # Errors
/// `NotFound`.
pub async fn cancel(caller: &Caller, database: &Database, id: JobId) -> Result<Job> {
    let pool = database.pool(caller);
    let canceled = bounded(
        sqlx::query!(
            r#"WITH job AS (
                   UPDATE jobs SET
                       cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),
                       status = CASE status WHEN 'queued' THEN 'canceled' ELSE status END,
                       finished_at = CASE status WHEN 'queued' THEN clock_timestamp() END,
                       last_sequence = last_sequence + (status = 'queued')::int
                   WHERE id = $1 AND project_id = $2 AND status IN ('queued', 'running')
                   RETURNING id, status, last_sequence),
               event AS (
                   INSERT INTO job_events (job_id, sequence, kind)
                   SELECT id, last_sequence, 'canceled' FROM job WHERE status = 'canceled')
               SELECT status AS "status: JobStatus", last_sequence FROM job"#,
            id.0,
            caller.project() as ProjectId,
        )
        .fetch_optional(pool),
    )
    .await?;
    match canceled {
        Some(row) if row.status == JobStatus::Canceled => event::announce(pool, id, row.last_sequence).await,
        Some(_) => doorbell::call_to_cancel(pool, id).await,
        None => {}
    }
    get(caller, database, id).await
}
