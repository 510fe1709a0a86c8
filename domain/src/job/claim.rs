//! The claim: which worker gets which job, and when.
//!
//! Jobs of higher priority come first, then those that were enqueued first: a job that returns to the queue keeps its
//! place. But among the jobs of the highest priority, a worker prefers one whose model it has loaded already. That
//! passes older jobs over, and they must not starve: once the oldest was passed over for [`PASSED_OVER_AT_MOST`], or by
//! [`OVERTAKEN_AT_MOST`] others, preferences are ignored until all jobs that were passed over are claimed in their
//! order. A job that merely waits for its turn is not passed over, so a long queue does not turn preferences off. One
//! that returns to the queue counts as passed over by what ran in its place meanwhile. A worker ignores jobs that need
//! more memory than it may use, and those that it could not do.

use std::time::Duration;

use sqlx::PgPool;

use super::{Claim, JobKind, LeasePolicy};
use crate::database::bounded;
use crate::event;
use crate::{JobId, Result, WorkerId};

/// How long a job may be passed over, counted from the first claim that does so. Ten seconds below the promised minute,
/// to allow for slow statements.
pub const PASSED_OVER_AT_MOST: Duration = Duration::from_secs(50);
/// The same as a number of claims, which also bounds the cost of the query.
pub const OVERTAKEN_AT_MOST: i64 = 100;
/// How many of the jobs on one loaded model are considered: others may be claiming the first of them right now.
const NEAR: i64 = 8;

/// Claims the next job that is due, if there is one. `resident` are the digests of the models that the worker has
/// loaded. No two workers get the same job.
pub async fn claim(
    pool: &PgPool,
    kinds: &[JobKind],
    worker: WorkerId,
    resident: &[String],
    policy: &LeasePolicy,
) -> Result<Option<Claim>> {
    next(pool, kinds, false, worker, resident, policy).await
}

/// As [`claim`], for a lane that takes only what asks nothing of the network.
pub async fn claim_local(
    pool: &PgPool,
    kinds: &[JobKind],
    worker: WorkerId,
    policy: &LeasePolicy,
) -> Result<Option<Claim>> {
    next(pool, kinds, true, worker, &[], policy).await
}

async fn next(
    pool: &PgPool,
    kinds: &[JobKind],
    local: bool,
    worker: WorkerId,
    resident: &[String],
    policy: &LeasePolicy,
) -> Result<Option<Claim>> {
    let kinds: Vec<String> = kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
    let claimed = bounded(
        // In `near`, BETWEEN and the order by base leave the planner one index, which also serves the worst case: a
        // queue full of jobs on other models.
        sqlx::query!(
            r#"WITH own AS MATERIALIZED (
                   SELECT (SELECT vram_budget FROM workers WHERE id = $2) AS memory),
               oldest AS MATERIALIZED (
                   SELECT id, priority, created_at FROM jobs
                   WHERE status = 'queued' AND kind = ANY($1) AND run_at <= clock_timestamp()
                     AND (memory IS NULL OR memory <= (SELECT own.memory FROM own)) AND $2 <> ALL(refused_by)
                     AND (local OR NOT $8)
                   ORDER BY priority DESC, created_at, id LIMIT 1),
               patience AS MATERIALIZED (
                   SELECT oldest.priority FROM oldest WHERE cardinality($4::text[]) > 0 AND (
                       SELECT count(*) < $6 AND coalesce(min(started_at) > clock_timestamp() - make_interval(secs => $5), true)
                       FROM (SELECT attempts.started_at FROM attempts JOIN jobs ON jobs.id = attempts.job_id
                             WHERE attempts.overtook > oldest.created_at AND jobs.priority = oldest.priority
                             ORDER BY attempts.overtook LIMIT $6) AS overtaking)),
               near AS MATERIALIZED (
                   SELECT job.id, job.created_at FROM patience, unnest($4::text[]) AS base(sha256) CROSS JOIN LATERAL (
                       SELECT id, created_at FROM jobs
                       WHERE status = 'queued' AND base_sha256 BETWEEN base.sha256 AND base.sha256
                         AND priority = patience.priority AND kind = ANY($1) AND run_at <= clock_timestamp()
                         AND (memory IS NULL OR memory <= (SELECT own.memory FROM own)) AND $2 <> ALL(refused_by)
                       ORDER BY base_sha256, created_at, id LIMIT $7) AS job),
               preferred AS MATERIALIZED (
                   SELECT jobs.id FROM near JOIN jobs ON jobs.id = near.id WHERE jobs.status = 'queued'
                   ORDER BY near.created_at, near.id LIMIT 1 FOR UPDATE OF jobs SKIP LOCKED),
               first AS MATERIALIZED (
                   SELECT id FROM jobs
                   WHERE EXISTS (SELECT FROM oldest) AND NOT EXISTS (SELECT FROM preferred)
                     AND status = 'queued' AND kind = ANY($1) AND run_at <= clock_timestamp()
                     AND (memory IS NULL OR memory <= (SELECT own.memory FROM own)) AND $2 <> ALL(refused_by)
                     AND (local OR NOT $8)
                   ORDER BY priority DESC, created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED),
               next AS (SELECT id FROM preferred UNION ALL SELECT id FROM first),
               job AS (
                   UPDATE jobs SET status = 'running', epoch = epoch + 1, worker = $2,
                       lease_until = clock_timestamp() + make_interval(secs => $3),
                       started_at = coalesce(started_at, clock_timestamp()), last_sequence = last_sequence + 1
                   FROM next WHERE jobs.id = next.id
                   RETURNING jobs.id, subject, kind, epoch, worker, failures, crashes, setbacks, last_sequence,
                       created_at),
               attempt AS (
                   INSERT INTO attempts (job_id, epoch, worker, overtook)
                   SELECT id, epoch, worker,
                       CASE WHEN id IN (SELECT id FROM preferred) AND id NOT IN (SELECT id FROM oldest)
                           THEN created_at END
                   FROM job),
               event AS (
                   INSERT INTO job_events (job_id, sequence, kind, data)
                   SELECT id, last_sequence, 'started', jsonb_build_object('attempt', epoch) FROM job)
               SELECT id AS "id: JobId", subject, kind AS "kind: JobKind", epoch, failures, crashes, setbacks,
                   last_sequence FROM job"#,
            &kinds,
            worker.0,
            policy.ttl.as_secs_f64(),
            resident,
            PASSED_OVER_AT_MOST.as_secs_f64(),
            OVERTAKEN_AT_MOST,
            NEAR,
            local,
        )
        .fetch_optional(pool),
    )
    .await?;
    let Some(row) = claimed else { return Ok(None) };
    event::announce(pool, row.id, row.last_sequence).await;
    Ok(Some(Claim {
        job: row.id,
        subject: row.subject,
        kind: row.kind,
        epoch: row.epoch,
        worker,
        failures: row.failures,
        crashes: row.crashes,
        setbacks: row.setbacks,
    }))
}
