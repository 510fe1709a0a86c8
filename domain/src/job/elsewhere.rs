//! Which jobs are left to other workers: those that did not fit into a worker's memory or onto its disk, and those that
//! failed there.
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
/// those that have not tried it, then to any that may be able to do it. Returns whether there are. Changes nothing if
/// the claim does not hold the job.
pub(super) async fn prefer_others(pool: &PgPool, claim: &Claim) -> Result<bool> {
    let left = bounded(
        sqlx::query!(
            "WITH unable AS (
                 SELECT coalesce(array_agg(DISTINCT worker), '{}') AS workers FROM attempts
                 WHERE job_id = $1 AND outcome = 'refused')
             UPDATE jobs SET refused_by = array_append(
                 CASE WHEN memory IS NOT NULL OR others.untried THEN refused_by ELSE unable.workers END, $3)
             FROM unable, (
                 SELECT bool_or(w.id <> ALL(j.refused_by)) AS untried
                 FROM unable, jobs j JOIN workers w
                   ON j.kind = ANY(w.queues) AND (j.memory IS NULL OR w.vram_budget >= j.memory)
                 WHERE j.id = $1 AND w.id <> $3 AND w.id <> ALL(unable.workers) AND w.stopped_at IS NULL
                   AND w.paused IS NULL AND w.last_seen_at > clock_timestamp() - make_interval(secs => $4)) AS others
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
/// one that does not fit reports that, which ends it; so one that had the memory on another worker is not opened and
/// waits for a worker that has as much. One that merely failed elsewhere does not wait for long either;
/// workers that cannot do it, whose disks are too small, do not get it again while there are others.
pub(super) async fn open_to_all(pool: &PgPool) -> Result<()> {
    let opened = bounded(
        sqlx::query!(
            "UPDATE jobs SET memory = NULL, refused_by = '{}'
             WHERE status = 'queued' AND memory IS NOT NULL AND NOT EXISTS (
               SELECT FROM workers WHERE last_seen_at > clock_timestamp() - make_interval(secs => $1)
                 AND jobs.kind = ANY(queues) AND vram_budget >= jobs.memory AND id <> ALL(jobs.refused_by))
               AND NOT EXISTS (SELECT FROM attempts WHERE job_id = jobs.id AND outcome <> 'refused')",
            GONE_AFTER.as_secs_f64(),
        )
        .execute(pool),
    );
    let unfit = opened.await?.rows_affected();
    let opened = bounded(
        sqlx::query!(
            "WITH opened AS (
                 SELECT j.id, CASE WHEN EXISTS (
                     SELECT FROM workers w WHERE w.last_seen_at > clock_timestamp() - make_interval(secs => $1)
                       AND j.kind = ANY(w.queues) AND w.id <> ALL(unable.workers))
                   THEN unable.workers ELSE '{}' END AS refused_by
                 FROM jobs j CROSS JOIN LATERAL (
                   SELECT coalesce(array_agg(DISTINCT worker), '{}') AS workers FROM attempts
                   WHERE job_id = j.id AND outcome = 'refused') AS unable
                 WHERE j.status = 'queued' AND j.refused_by <> '{}' AND j.memory IS NULL
                   AND (j.run_at < clock_timestamp() - make_interval(secs => $2) OR NOT EXISTS (
                     SELECT FROM workers w WHERE w.last_seen_at > clock_timestamp() - make_interval(secs => $1)
                       AND w.stopped_at IS NULL AND w.paused IS NULL AND j.kind = ANY(w.queues)
                       AND w.id <> ALL(j.refused_by))))
             UPDATE jobs SET refused_by = opened.refused_by FROM opened
             WHERE jobs.id = opened.id AND jobs.status = 'queued' AND NOT jobs.refused_by <@ opened.refused_by",
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
