//! The claim: which worker gets which job, and when.
//!
//! Jobs of higher priority come first, then those that were enqueued first: a job that returns to the queue keeps its
//! place. But among the jobs of the highest priority, a worker prefers one whose model it has loaded already. That
//! passes older jobs over, and they must not starve: once the oldest was passed over for [`PASSED_OVER_AT_MOST`], or by
//! [`OVERTAKEN_AT_MOST`] others, preferences are ignored until all jobs that were passed over are claimed in their
//! order. A job that merely waits for its turn is not passed over, so a long queue does not turn preferences off. One
//! that returns to the queue counts as passed over by what ran in its place meanwhile. A worker ignores jobs that need
//! more memory than it may use, those that it could not do, and those of projects that have used up a quota.
//!
//! As long as a project has a quota that holds jobs back, claims are made one after another, so that no two of them
//! take the last place.

use std::time::Duration;

use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::{Claim, JobKind, LeasePolicy};
use crate::database::bounded;
use crate::event;
use crate::{JobId, Result, WorkerId, begin};

/// How long a job may be passed over, counted from the first claim that does so. Ten seconds below the promised minute,
/// to allow for slow statements.
pub const PASSED_OVER_AT_MOST: Duration = Duration::from_secs(50);
/// The same as a number of claims, which also bounds the cost of the query.
pub const OVERTAKEN_AT_MOST: i64 = 100;
/// How many of the jobs on one loaded model are considered: others may be claiming the first of them right now.
const NEAR: i64 = 8;
/// Key of the advisory lock of claims that take turns.
const CLAIM_LOCK: i64 = 0x0063_6c61_696d;

/// Claims the next job that is due, if there is one. `resident` are the digests of the models that the worker has
/// loaded. No two workers get the same job.
pub async fn claim(
    pool: &PgPool,
    kinds: &[JobKind],
    worker: WorkerId,
    resident: &[String],
    policy: &LeasePolicy,
) -> Result<Option<Claim>> {
    let wanted = Wanted { kinds, local: false, worker, resident, policy };
    wanted.claim(pool).await
}

/// As [`claim`], for a lane that takes only what asks nothing of the network.
pub async fn claim_local(
    pool: &PgPool,
    kinds: &[JobKind],
    worker: WorkerId,
    policy: &LeasePolicy,
) -> Result<Option<Claim>> {
    let wanted = Wanted { kinds, local: true, worker, resident: &[], policy };
    wanted.claim(pool).await
}

/// What a worker claims.
struct Wanted<'a> {
    kinds: &'a [JobKind],
    local: bool,
    worker: WorkerId,
    resident: &'a [String],
    policy: &'a LeasePolicy,
}

/// A claimed job, as the statement returns it.
struct Row {
    id: JobId,
    subject: Uuid,
    kind: JobKind,
    epoch: i64,
    failures: i32,
    crashes: i32,
    setbacks: i32,
    last_sequence: i64,
}

impl Wanted<'_> {
    async fn claim(&self, pool: &PgPool) -> Result<Option<Claim>> {
        let row = match bounded(self.next(pool, false)).await? {
            None if bounded(has_throttled(pool)).await? => bounded(self.next_in_turn(pool)).await?,
            row => row,
        };
        let Some(row) = row else { return Ok(None) };
        event::announce(pool, row.id, row.last_sequence).await;
        Ok(Some(Claim {
            job: row.id,
            subject: row.subject,
            kind: row.kind,
            epoch: row.epoch,
            worker: self.worker,
            failures: row.failures,
            crashes: row.crashes,
            setbacks: row.setbacks,
        }))
    }

    /// One claim at a time, so that each sees what the others have taken of the quotas.
    async fn next_in_turn(&self, pool: &PgPool) -> Result<Option<Row>> {
        let mut tx = begin(pool).await?;
        sqlx::query!("SELECT pg_advisory_xact_lock($1)", CLAIM_LOCK).execute(&mut *tx).await?;
        let row = self.next(&mut *tx, true).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Claims the next job. Unless the claims take turns, there is none as long as a project has quotas that hold jobs
    /// back.
    async fn next(&self, executor: impl PgExecutor<'_>, in_turn: bool) -> Result<Option<Row>> {
        let name = |kind: &JobKind| kind.as_str().to_owned();
        let kinds: Vec<String> = self.kinds.iter().map(name).collect();
        let on_device: Vec<String> = self.kinds.iter().filter(|kind| kind.holds_device()).map(name).collect();
        // In `near`, BETWEEN and the order by base leave the planner one index, which also serves the worst case: a
        // queue full of jobs on other models. `coalesce` keeps the planner from the belief that, where one project has
        // all jobs, this condition leaves none of them, so that it would read and sort the whole table.
        let claimed = sqlx::query_as!(
            Row,
            r#"WITH own AS MATERIALIZED (
                   SELECT (SELECT vram_budget FROM workers WHERE id = $2) AS memory),
               throttled AS MATERIALIZED (
                   SELECT id, max_running_jobs, max_gpu_seconds_per_day FROM projects
                   WHERE num_nonnulls(max_running_jobs, max_gpu_seconds_per_day) > 0),
               used_up AS MATERIALIZED (
                   SELECT id FROM throttled
                   WHERE max_running_jobs
                         <= (SELECT count(*) FROM jobs WHERE status = 'running' AND project_id = throttled.id)
                      OR max_gpu_seconds_per_day IS NOT NULL AND max_gpu_seconds_per_day <= gpu_seconds_today(id)),
               oldest AS MATERIALIZED (
                   SELECT id, priority, created_at FROM jobs
                   WHERE status = 'queued' AND kind = ANY($1) AND run_at <= clock_timestamp()
                     AND (memory IS NULL OR memory <= (SELECT own.memory FROM own)) AND $2 <> ALL(refused_by)
                     AND NOT coalesce(project_id = ANY(ARRAY(SELECT used_up.id FROM used_up)), false)
                     AND ($10 OR NOT EXISTS (SELECT FROM throttled))
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
                         AND NOT coalesce(project_id = ANY(ARRAY(SELECT used_up.id FROM used_up)), false)
                       ORDER BY base_sha256, created_at, id LIMIT $7) AS job),
               preferred AS MATERIALIZED (
                   SELECT jobs.id FROM near JOIN jobs ON jobs.id = near.id WHERE jobs.status = 'queued'
                   ORDER BY near.created_at, near.id LIMIT 1 FOR UPDATE OF jobs SKIP LOCKED),
               first AS MATERIALIZED (
                   SELECT id FROM jobs
                   WHERE EXISTS (SELECT FROM oldest) AND NOT EXISTS (SELECT FROM preferred)
                     AND status = 'queued' AND kind = ANY($1) AND run_at <= clock_timestamp()
                     AND (memory IS NULL OR memory <= (SELECT own.memory FROM own)) AND $2 <> ALL(refused_by)
                     AND NOT coalesce(project_id = ANY(ARRAY(SELECT used_up.id FROM used_up)), false)
                     AND (local OR NOT $8)
                   ORDER BY priority DESC, created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED),
               next AS (SELECT id FROM preferred UNION ALL SELECT id FROM first),
               job AS (
                   UPDATE jobs SET status = 'running', epoch = epoch + 1, worker = $2,
                       lease_until = clock_timestamp() + make_interval(secs => $3),
                       started_at = coalesce(started_at, clock_timestamp()), last_sequence = last_sequence + 1
                   FROM next WHERE jobs.id = next.id
                   RETURNING jobs.id, subject, kind, epoch, worker, failures, crashes, setbacks, last_sequence,
                       created_at, project_id),
               attempt AS (
                   INSERT INTO attempts (job_id, epoch, worker, project_id, holds_device, overtook)
                   SELECT id, epoch, worker, project_id, kind = ANY($9),
                       CASE WHEN id IN (SELECT id FROM preferred) AND id NOT IN (SELECT id FROM oldest)
                           THEN created_at END
                   FROM job),
               event AS (
                   INSERT INTO job_events (job_id, sequence, kind, data)
                   SELECT id, last_sequence, 'started', jsonb_build_object('attempt', epoch) FROM job)
               SELECT id AS "id: JobId", subject, kind AS "kind: JobKind", epoch, failures, crashes, setbacks,
                   last_sequence FROM job"#,
            &kinds,
            self.worker.0,
            self.policy.ttl.as_secs_f64(),
            self.resident,
            PASSED_OVER_AT_MOST.as_secs_f64(),
            OVERTAKEN_AT_MOST,
            NEAR,
            self.local,
            &on_device,
            in_turn,
        );
        Ok(claimed.fetch_optional(executor).await?)
    }
}

/// Whether any project has quotas that hold jobs back.
async fn has_throttled(pool: &PgPool) -> Result<bool> {
    let throttled = sqlx::query_scalar!(
        r#"SELECT EXISTS (
             SELECT FROM projects WHERE num_nonnulls(max_running_jobs, max_gpu_seconds_per_day) > 0) AS "throttled!""#
    );
    Ok(throttled.fetch_one(pool).await?)
}
