//! The end of an attempt, as its worker reports it. The reaper ends an attempt whose worker does not report.
//!
//! There are two budgets: failures (the work returned an error) and crashes (it vanished). A release costs neither, but
//! the number of releases is limited. Trouble of the worker's machine costs nothing. After a failure, a crash or
//! trouble, the job goes to another worker if there is one. A training that records a checkpoint has its budgets back.
//! Once the end of the job was requested, every end of an attempt except success makes the job canceled.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use super::{Claim, ErrorClass, JobStatus, LeasePolicy, elsewhere};
use crate::database::bounded;
use crate::event;
use crate::liveness::GONE_AFTER;
use crate::{Error, Result};

/// Longest pause after trouble with a machine, before the random part. The worker pauses as well, so this only lets
/// other jobs go first in case the trouble is with this one.
const LONGEST_SETBACK: Duration = Duration::from_mins(1);

/// State of the job after the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// There is another attempt, after a pause.
    Requeued,
    /// This was the last attempt.
    Failed,
    /// The end of the job had been requested.
    Canceled,
}

/// Reports an error. There is another attempt after a pause, unless the error's class makes retrying useless or the
/// budget is spent.
///
/// # Errors
/// `LeaseLost`: nothing changed. `Unavailable`: report again.
pub async fn fail(
    pool: &PgPool,
    claim: &Claim,
    policy: &LeasePolicy,
    class: ErrorClass,
    message: &str,
) -> Result<Ending> {
    let pause = backoff(policy.failure_backoff, claim.failures, policy.backoff_cap);
    if class.is_retried() {
        elsewhere::prefer_others(pool, claim).await?;
    }
    end(pool, claim, "failed", class.is_retried(), class, message, pause).await
}

/// Reports that the engine died under the work. Errors as [`fail`].
pub async fn crash(pool: &PgPool, claim: &Claim, policy: &LeasePolicy, message: &str) -> Result<Ending> {
    let pause = backoff(policy.crash_backoff, claim.crashes, policy.backoff_cap);
    elsewhere::prefer_others(pool, claim).await?;
    end(pool, claim, "crashed", true, ErrorClass::Crash, message, pause).await
}

/// Returns the unfinished job because of trouble with the worker's machine, at no cost: another worker claims it at
/// once; if there is none, it pauses. Errors as [`fail`].
pub async fn set_back(pool: &PgPool, claim: &Claim, policy: &LeasePolicy, why: &str) -> Result<Ending> {
    let pause = if elsewhere::prefer_others(pool, claim).await? {
        Duration::ZERO
    } else {
        backoff(policy.failure_backoff, claim.setbacks, LONGEST_SETBACK.min(policy.backoff_cap))
    };
    end(pool, claim, "set back", true, ErrorClass::Resource, why, pause).await
}

/// Releases the unfinished job, for another worker to claim at once; `why` is the reason. Errors as [`fail`].
pub async fn release(pool: &PgPool, claim: &Claim, why: &str) -> Result<Ending> {
    end(pool, claim, "released", true, ErrorClass::Resource, why, Duration::ZERO).await
}

/// Reports that the work does not fit into the memory that this worker may use, and needs at least `memory` bytes.
/// Another worker that may use as much, and was seen recently, gets the job, which keeps its place in the queue; if
/// there is none, the job fails with `message`. Errors as [`fail`].
pub async fn does_not_fit(pool: &PgPool, claim: &Claim, memory: i64, message: &str) -> Result<Ending> {
    let why = format!("for a worker that may use more memory: {message}");
    refuse(pool, claim, Some(memory), ErrorClass::InvalidInput, message, &why).await
}

/// Reports that the files of the work are larger than this worker's disk. Another worker that was seen recently and has
/// not refused the job gets it, which keeps its place in the queue; if there is none, the job fails with `message`.
/// Errors as [`fail`].
pub async fn no_room(pool: &PgPool, claim: &Claim, message: &str) -> Result<Ending> {
    let why = format!("for a worker with a larger disk: {message}");
    refuse(pool, claim, None, ErrorClass::Resource, message, &why).await
}

/// Leaves the job to another worker, which may use as much `memory`, for the reason `why`; or ends it with `message`. A
/// job that had the memory on another worker waits for one, since its worker may come back.
async fn refuse(
    pool: &PgPool,
    claim: &Claim,
    memory: Option<i64>,
    class: ErrorClass,
    message: &str,
    why: &str,
) -> Result<Ending> {
    let elsewhere = bounded(
        sqlx::query_scalar!(
            r#"SELECT EXISTS (
                 SELECT FROM workers w JOIN jobs j ON j.id = $5 AND w.id <> ALL(j.refused_by)
                   AND (greatest(j.memory, $3) IS NULL OR w.vram_budget >= greatest(j.memory, $3))
                 WHERE w.last_seen_at > clock_timestamp() - make_interval(secs => $1)
                   AND $2 = ANY(w.queues) AND w.id <> $4)
                 OR $3 IS NOT NULL AND EXISTS (
                   SELECT FROM attempts WHERE job_id = $5 AND epoch <> $6 AND worker <> $4 AND outcome <> 'refused')
                 AS "elsewhere!""#,
            GONE_AFTER.as_secs_f64(),
            claim.kind.as_str(),
            memory,
            claim.worker.0,
            claim.job.0,
            claim.epoch,
        )
        .fetch_one(pool),
    )
    .await?;
    if !elsewhere {
        return end(pool, claim, "failed", false, class, message, Duration::ZERO).await;
    }
    // Under the condition of all that an attempt changes. The update stays true if the next statement is not reached.
    bounded(
        sqlx::query!(
            "UPDATE jobs SET memory = greatest(memory, $4), refused_by = array_append(refused_by, $3)
             WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running'",
            claim.job.0,
            claim.epoch,
            claim.worker.0,
            memory,
        )
        .execute(pool),
    )
    .await?;
    end(pool, claim, "refused", true, class, why, Duration::ZERO).await
}

/// Confirms that the work has stopped because its end was requested.
///
/// # Errors
/// As [`fail`], and `Conflict` if the end was not requested.
pub async fn canceled(pool: &PgPool, claim: &Claim) -> Result<()> {
    let requested = bounded(
        sqlx::query_scalar!(
            r#"SELECT cancel_requested_at IS NOT NULL AS "requested!" FROM jobs
               WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running'"#,
            claim.job.0,
            claim.epoch,
            claim.worker.0,
        )
        .fetch_optional(pool),
    )
    .await?;
    match requested {
        None => Err(Error::LeaseLost),
        Some(false) => Err(Error::conflict("Nobody asked for the end of this job.")),
        // A request is never withdrawn, so what was read still holds.
        Some(true) => end(pool, claim, "canceled", false, ErrorClass::Internal, "", Duration::ZERO).await.map(drop),
    }
}

/// Marks the job as succeeded within the transaction that writes its results; returns the number of the event, to be
/// announced after the commit. `None` if this very attempt has succeeded before: the reply to its commit was lost,
/// everything is written, and nothing must be written again. A request to cancel that was not confirmed yet comes too
/// late.
///
/// # Errors
/// `LeaseLost`: roll back.
pub async fn succeed(connection: &mut PgConnection, claim: &Claim) -> Result<Option<i64>> {
    let sequence = bounded(
        sqlx::query_scalar!(
            r#"WITH job AS (
                   UPDATE jobs SET status = 'succeeded', worker = NULL, lease_until = NULL, step = total_steps,
                       finished_at = clock_timestamp(), last_sequence = last_sequence + 1
                   WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running'
                   RETURNING id, epoch, last_sequence),
               attempt AS (
                   UPDATE attempts SET ended_at = clock_timestamp(), outcome = 'succeeded'
                   FROM job WHERE attempts.job_id = job.id AND attempts.epoch = job.epoch)
               INSERT INTO job_events (job_id, sequence, kind) SELECT id, last_sequence, 'succeeded' FROM job
               RETURNING sequence"#,
            claim.job.0,
            claim.epoch,
            claim.worker.0,
        )
        .fetch_optional(&mut *connection),
    )
    .await?;
    if sequence.is_some() {
        return Ok(sequence);
    }
    let before = bounded(
        sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM attempts WHERE job_id = $1 AND epoch = $2 AND worker = $3 AND outcome = 'succeeded') AS "before!""#,
            claim.job.0,
            claim.epoch,
            claim.worker.0,
        )
        .fetch_one(connection),
    )
    .await?;
    if before { Ok(None) } else { Err(Error::LeaseLost) }
}

/// Restores the budgets of a job that has recorded progress from which another attempt continues, in the transaction
/// that records it. A job that gets further with each attempt ends, however many it takes.
///
/// # Errors
/// `LeaseLost`: roll back.
pub async fn restore_budgets(connection: &mut PgConnection, claim: &Claim) -> Result<()> {
    let restored = sqlx::query!(
        "UPDATE jobs SET failures = 0, crashes = 0, releases = 0
         WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running'",
        claim.job.0,
        claim.epoch,
        claim.worker.0,
    );
    match restored.execute(connection).await?.rows_affected() {
        0 => Err(Error::LeaseLost),
        _ => Ok(()),
    }
}

async fn end(
    pool: &PgPool,
    claim: &Claim,
    outcome: &str,
    retry: bool,
    class: ErrorClass,
    message: &str,
    pause: Duration,
) -> Result<Ending> {
    let row = bounded(
        sqlx::query!(
            r#"WITH verdict AS MATERIALIZED (
                   SELECT id, CASE
                       WHEN cancel_requested_at IS NOT NULL THEN 'canceled'
                       WHEN NOT $5 THEN 'failed'
                       WHEN $4 = 'failed' AND failures + 1 >= max_failures THEN 'failed'
                       WHEN $4 = 'crashed' AND crashes + 1 >= max_crashes THEN 'failed'
                       WHEN $4 IN ('released', 'refused') AND releases + 1 >= max_releases THEN 'failed'
                       ELSE 'queued' END AS status
                   FROM jobs WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running' FOR UPDATE),
               job AS (
                   UPDATE jobs SET status = verdict.status, worker = NULL, lease_until = NULL,
                       failures = failures + ($4 = 'failed')::int,
                       crashes = crashes + ($4 = 'crashed')::int,
                       releases = releases + ($4 IN ('released', 'refused'))::int,
                       setbacks = setbacks + ($4 = 'set back')::int,
                       run_at = CASE WHEN verdict.status = 'queued' AND $4 <> 'refused'
                           THEN clock_timestamp() + make_interval(secs => $8) ELSE run_at END,
                       finished_at = CASE WHEN verdict.status <> 'queued' THEN clock_timestamp() END,
                       error_class = CASE verdict.status WHEN 'failed' THEN $6 END,
                       error_message = CASE WHEN verdict.status = 'failed'
                           THEN CASE WHEN $4 IN ('released', 'refused') THEN 'given back too often: ' ELSE '' END || $7 END,
                       last_sequence = last_sequence + 1
                   FROM verdict WHERE jobs.id = verdict.id
                   RETURNING jobs.id, jobs.epoch, jobs.status, jobs.run_at, jobs.last_sequence, jobs.error_message),
               attempt AS (
                   UPDATE attempts SET ended_at = clock_timestamp(),
                       outcome = CASE $4 WHEN 'set back' THEN 'released' ELSE $4 END,
                       error = CASE WHEN $4 IN ('failed', 'crashed', 'refused', 'set back') THEN $7 END
                   FROM job WHERE attempts.job_id = job.id AND attempts.epoch = job.epoch),
               event AS (
                   INSERT INTO job_events (job_id, sequence, kind, data)
                   SELECT id, last_sequence, CASE status WHEN 'queued' THEN 'retrying' ELSE status END,
                       CASE status
                           WHEN 'queued' THEN jsonb_build_object('message', $7::text,
                               'reason', CASE $4 WHEN 'set back' THEN 'released' ELSE $4 END,
                               'run_at', to_char(run_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
                           WHEN 'failed' THEN jsonb_build_object('class', $6::text, 'message', error_message)
                           ELSE '{}' END
                   FROM job)
               SELECT status AS "status: JobStatus", last_sequence FROM job"#,
            claim.job.0,
            claim.epoch,
            claim.worker.0,
            outcome,
            retry,
            class.as_str(),
            message,
            pause.as_secs_f64(),
        )
        .fetch_optional(pool),
    )
    .await?
    .ok_or(Error::LeaseLost)?;
    event::announce(pool, claim.job, row.last_sequence).await;
    match row.status {
        JobStatus::Queued => {
            if pause.is_zero() {
                super::ring(pool);
            }
            Ok(Ending::Requeued)
        }
        JobStatus::Canceled => Ok(Ending::Canceled),
        _ => Ok(Ending::Failed),
    }
}

/// `first · 2^earlier`, at most `cap`, plus up to a quarter, so that jobs that failed together do not return together.
fn backoff(first: Duration, earlier: i32, cap: Duration) -> Duration {
    let factor = 2f64.powi(earlier.clamp(0, 62));
    let pause = (first.as_secs_f64() * factor).min(cap.as_secs_f64());
    // The random bits of a UUID v7 are good enough to spread retries.
    let random = f64::from(uuid::Uuid::now_v7().as_bytes()[15]) / 255.0;
    Duration::from_secs_f64(pause * (1.0 + random / 4.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_the_cap() {
        let (first, cap) = (Duration::from_secs(5), Duration::from_mins(10));
        for (earlier, expected) in
            [(0, 5.0), (1, 10.0), (2, 20.0), (6, 320.0), (7, 600.0), (40, 600.0), (i32::MAX, 600.0)]
        {
            let pause = backoff(first, earlier, cap).as_secs_f64();
            assert!((expected..=expected * 1.25).contains(&pause), "{earlier}: {pause}");
        }
        assert_eq!(backoff(Duration::ZERO, 3, cap), Duration::ZERO);
    }
}
