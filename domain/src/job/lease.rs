//! The lease: claim, beat, progress.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;

use super::JobKind;
use crate::database::bounded;
use crate::event;
use crate::{Error, JobId, Result, WorkerId};

/// The times of the queue. The defaults let another worker take over within 40 s of a machine's sudden death.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeasePolicy {
    /// How long a lease lasts after a claim or beat.
    pub ttl: Duration,
    /// How often the worker beats.
    pub beat: Duration,
    /// How often the reaper looks for expired leases.
    pub reaper_tick: Duration,
    /// How often an idle worker looks for a job, whatever the doorbell says.
    pub poll: Duration,
    /// Pause after the first failure; it doubles with each, plus up to a quarter at random.
    pub failure_backoff: Duration,
    /// The same after a crash.
    pub crash_backoff: Duration,
    /// No pause is longer than this before the random part.
    pub backoff_cap: Duration,
}

impl Default for LeasePolicy {
    fn default() -> Self {
        LeasePolicy {
            ttl: Duration::from_secs(30),
            beat: Duration::from_secs(5),
            reaper_tick: Duration::from_secs(5),
            poll: Duration::from_secs(1),
            failure_backoff: Duration::from_secs(5),
            crash_backoff: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(600),
        }
    }
}

/// What an attempt holds: job, fencing epoch and worker go into the condition of all that it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub job: JobId,
    pub kind: JobKind,
    pub epoch: i64,
    pub worker: WorkerId,
    /// Of earlier attempts.
    pub failures: i32,
    /// Of earlier attempts.
    pub crashes: i32,
}

/// What the database says to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// Somebody asked for the end: stop soon and confirm with [`super::canceled`].
    pub cancel: bool,
}

/// Takes the next job that is due, if there is one: higher priority first, then who has waited longest. No two workers get the same.
pub async fn claim(pool: &PgPool, kinds: &[JobKind], worker: WorkerId, policy: &LeasePolicy) -> Result<Option<Claim>> {
    let kinds: Vec<String> = kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
    let claimed = bounded(
        sqlx::query!(
            r#"WITH next AS MATERIALIZED (
                   SELECT id FROM jobs
                   WHERE status = 'queued' AND kind = ANY($1) AND run_at <= clock_timestamp()
                   ORDER BY priority DESC, run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED),
               job AS (
                   UPDATE jobs SET status = 'running', epoch = epoch + 1, worker = $2,
                       lease_until = clock_timestamp() + make_interval(secs => $3),
                       started_at = coalesce(started_at, clock_timestamp()), last_sequence = last_sequence + 1
                   FROM next WHERE jobs.id = next.id
                   RETURNING jobs.id, kind, epoch, worker, failures, crashes, last_sequence),
               attempt AS (INSERT INTO attempts (job_id, epoch, worker) SELECT id, epoch, worker FROM job),
               event AS (
                   INSERT INTO job_events (job_id, sequence, kind, data)
                   SELECT id, last_sequence, 'started', jsonb_build_object('attempt', epoch) FROM job)
               SELECT id AS "id: JobId", kind AS "kind: JobKind", epoch, failures, crashes, last_sequence FROM job"#,
            &kinds,
            worker.0,
            policy.ttl.as_secs_f64(),
        )
        .fetch_optional(pool),
    )
    .await?;
    let Some(row) = claimed else { return Ok(None) };
    event::announce(pool, row.id, row.last_sequence).await;
    Ok(Some(Claim {
        job: row.id,
        kind: row.kind,
        epoch: row.epoch,
        worker,
        failures: row.failures,
        crashes: row.crashes,
    }))
}

/// Renews the lease. One that has run out can still be renewed, as long as nobody has taken the job back: hours of work are not lost
/// to a short outage.
///
/// # Errors
/// `LeaseLost`: stop all effects now. `Unavailable`: go on and beat again.
pub async fn beat(pool: &PgPool, claim: &Claim, policy: &LeasePolicy) -> Result<Beat> {
    bounded(
        sqlx::query_scalar!(
            r#"UPDATE jobs SET lease_until = clock_timestamp() + make_interval(secs => $4)
               WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running'
               RETURNING cancel_requested_at IS NOT NULL AS "cancel!""#,
            claim.job.0,
            claim.epoch,
            claim.worker.0,
            policy.ttl.as_secs_f64(),
        )
        .fetch_optional(pool),
    )
    .await?
    .map(|cancel| Beat { cancel })
    .ok_or(Error::LeaseLost)
}

/// Reports how far the attempt is, and makes it an event; returns the event's number. `data` is an object with details, such as
/// `{"loss": 0.1}`. The caller keeps to a few reports each second.
///
/// # Errors
/// `LeaseLost`.
pub async fn progress(pool: &PgPool, claim: &Claim, step: u32, total_steps: u32, data: Value) -> Result<i64> {
    let total_steps = i32::try_from(total_steps).unwrap_or(i32::MAX);
    let step = i32::try_from(step).unwrap_or(i32::MAX).min(total_steps);
    let mut details = json!({ "step": step, "total_steps": total_steps });
    if let (Value::Object(details), Value::Object(data)) = (&mut details, &data) {
        details.extend(data.clone());
    }
    let sequence = bounded(
        sqlx::query_scalar!(
            r#"WITH job AS (
                   UPDATE jobs SET step = $4, total_steps = $5, progress = $6, last_sequence = last_sequence + 1
                   WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running'
                   RETURNING id, last_sequence)
               INSERT INTO job_events (job_id, sequence, kind, data)
               SELECT id, last_sequence, 'progress', $7 FROM job
               RETURNING sequence"#,
            claim.job.0,
            claim.epoch,
            claim.worker.0,
            step,
            total_steps,
            data,
            details,
        )
        .fetch_optional(pool),
    )
    .await?
    .ok_or(Error::LeaseLost)?;
    event::announce(pool, claim.job, sequence).await;
    Ok(sequence)
}
