//! The lease: its times, beat, progress. The claim starts it.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;

use super::{Claim, StageProgress};
use crate::database::bounded;
use crate::event;
use crate::{Error, Result};

/// The times of the queue. The defaults let another worker take over within 40 s of a machine's sudden death.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeasePolicy {
    /// How long a lease lasts after a claim or beat.
    pub ttl: Duration,
    /// How often the worker beats.
    pub beat: Duration,
    /// How often the reaper looks for expired leases.
    pub reaper_tick: Duration,
    /// How often an idle worker looks for a job, even if the doorbell does not ring.
    pub poll: Duration,
    /// Pause after the first failure; it doubles with each further failure, plus up to a quarter at random.
    pub failure_backoff: Duration,
    /// The same after a crash.
    pub crash_backoff: Duration,
    /// Longest pause, before the random part.
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
            backoff_cap: Duration::from_mins(10),
        }
    }
}

/// What a heartbeat returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// The end of the job was requested: stop soon and confirm with [`super::canceled`].
    pub cancel: bool,
}

/// Renews the lease. A lease that has run out can still be renewed, as long as nobody has taken the job back: hours of
/// work are not lost to a short outage.
///
/// # Errors
/// `LeaseLost`: stop all effects now. `Unavailable`: continue and beat again.
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

/// Reports the attempt's progress, and records it as an event; returns the event's number. `data` is an object with
/// details, such as `{"loss": 0.1}`. The caller limits itself to a few reports a second.
///
/// # Errors
/// `LeaseLost`.
pub async fn progress(pool: &PgPool, claim: &Claim, step: u32, total_steps: u32, data: Value) -> Result<i64> {
    let total_steps = i32::try_from(total_steps).unwrap_or(i32::MAX);
    let step = i32::try_from(step).unwrap_or(i32::MAX).min(total_steps);
    record(pool, claim, Some([step, total_steps]), data).await
}

/// Reports how far the attempt is with a stage before its first step; `None` means that the stage is over. The steps
/// stay as they were reported last. Otherwise like [`progress`].
///
/// # Errors
/// `LeaseLost`.
pub async fn stage_progress(pool: &PgPool, claim: &Claim, stage: Option<&StageProgress>) -> Result<i64> {
    record(pool, claim, None, stage.map_or_else(|| json!({}), |stage| json!(stage))).await
}

async fn record(pool: &PgPool, claim: &Claim, steps: Option<[i32; 2]>, data: Value) -> Result<i64> {
    let [step, total_steps] = steps.map_or([None; 2], |steps| steps.map(Some));
    let sequence = bounded(
        sqlx::query_scalar!(
            r#"WITH job AS (
                   UPDATE jobs SET step = COALESCE($4, step), total_steps = COALESCE($5, total_steps), progress = $6,
                                   last_sequence = last_sequence + 1
                   WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running'
                   RETURNING id, last_sequence, step, total_steps)
               INSERT INTO job_events (job_id, sequence, kind, data)
               SELECT id, last_sequence, 'progress',
                      jsonb_build_object('step', step, 'total_steps', total_steps) || $6 FROM job
               RETURNING sequence"#,
            claim.job.0,
            claim.epoch,
            claim.worker.0,
            step,
            total_steps,
            data,
        )
        .fetch_optional(pool),
    )
    .await?
    .ok_or(Error::LeaseLost)?;
    event::announce(pool, claim.job, sequence).await;
    Ok(sequence)
}
