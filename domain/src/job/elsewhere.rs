//! Which jobs are left to other workers: those that did not fit into a worker's memory, and those that failed there.
//! `jobs.refused_by` names the workers that do not claim a job again. When no other worker takes it, it becomes open to
//! all, so that no job waits for a worker that does not come.

use std::time::Duration;

use sqlx::PgPool;

use super::Claim;
use crate::Result;
use crate::database::bounded;
use crate::liveness::GONE_AFTER;

/// How long a job that failed on one worker waits for another one, counted from the end of its pause.
const LEFT_AT_MOST: Duration = Duration::from_mins(1);

/// Leaves the job to other workers from its next attempt on, if there are any that claim jobs of its kind now: first to
/// those that have not tried it, then to any. Returns whether there are. Changes nothing if the claim does not hold the
/// job.
pub(super) async fn prefer_others(pool: &PgPool, claim: &Claim) -> Result<bool> {
    let left = bounded(
        sqlx::query!(
            "UPDATE jobs SET refused_by = CASE
                 WHEN memory IS NOT NULL OR others.untried THEN array_append(refused_by, $3) ELSE ARRAY[$3] END
             FROM (SELECT bool_or(w.id <> ALL(j.refused_by)) AS untried
                   FROM jobs j JOIN workers w
                     ON j.kind = ANY(w.queues) AND (j.memory IS NULL OR w.vram_budget >= j.memory)
                   WHERE j.id = $1 AND w.id <> $3 AND w.stopped_at IS NULL AND w.paused IS NULL
                     AND w.last_seen_at > clock_timestamp() - make_interval(secs => $4)) AS others
             WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running' AND $3 <> ALL(refused_by)
               AND (others.untried OR (others.untried IS NOT NULL AND memory IS NULL))",
            claim.job.0,
            claim.epoch,
            claim.worker.0,
            GONE_AFTER.as_secs_f64(),
        )
        .execute(pool),
    );
    Ok(left.await?.rows_affected() > 0)
}

/// Opens to all workers the jobs that were left to others, if no other was seen recently. The next worker that claims
/// one that does not fit reports that, which ends it. One that merely failed elsewhere does not wait for long either.
pub(super) async fn open_to_all(pool: &PgPool) -> Result<()> {
    let opened = bounded(
        sqlx::query!(
            "UPDATE jobs SET memory = NULL, refused_by = '{}'
             WHERE status = 'queued' AND memory IS NOT NULL AND NOT EXISTS (
               SELECT FROM workers WHERE last_seen_at > clock_timestamp() - make_interval(secs => $1)
                 AND jobs.kind = ANY(queues) AND vram_budget >= jobs.memory AND id <> ALL(jobs.refused_by))",
            GONE_AFTER.as_secs_f64(),
        )
        .execute(pool),
    );
    let unfit = opened.await?.rows_affected();
    let opened = bounded(
        sqlx::query!(
            "UPDATE jobs SET refused_by = '{}'
             WHERE status = 'queued' AND refused_by <> '{}' AND memory IS NULL
               AND (run_at < clock_timestamp() - make_interval(secs => $2) OR NOT EXISTS (
                 SELECT FROM workers WHERE last_seen_at > clock_timestamp() - make_interval(secs => $1)
                   AND stopped_at IS NULL AND paused IS NULL AND jobs.kind = ANY(queues)
                   AND id <> ALL(jobs.refused_by)))",
            GONE_AFTER.as_secs_f64(),
            LEFT_AT_MOST.as_secs_f64(),
        )
        .execute(pool),
    );
    if unfit + opened.await?.rows_affected() > 0 {
        super::ring(pool);
    }
    Ok(())
}
