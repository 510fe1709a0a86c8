//! Takes back the jobs of workers that vanished, but not those of workers that only could not reach the database.
//!
//! After an outage longer than a lease all leases have run out, and most of their holders are alive. So the reaper
//! rests for one lease time after the server has started, after a gap in its own access to the database, and when most
//! leases have run out at once.

use std::future::Future;
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, MissedTickBehavior};

use super::{LeasePolicy, elsewhere};
use crate::database::bounded;
use crate::event;
use crate::{JobId, Result};

/// Most jobs taken back in one statement.
const BATCH: i64 = 100;
/// With fewer leases than this, "more than half ran out at once" means nothing: one machine may have held them all.
const CROWD: i64 = 10;

/// The reaper. Any number of processes may run one.
#[derive(Debug)]
pub struct Reaper {
    policy: LeasePolicy,
    last_look: Option<Instant>,
    rests_until: Instant,
    /// When most leases were first found to have run out at once.
    crowd_since: Option<Instant>,
}

impl Reaper {
    pub fn new(policy: LeasePolicy) -> Reaper {
        // A live worker beats before the second tick.
        Reaper { policy, last_look: None, rests_until: Instant::now() + 2 * policy.beat, crowd_since: None }
    }

    /// Ticks for ever. Errors are logged, and the next tick tries again.
    pub async fn run(mut self, pool: PgPool) {
        let mut ticks = tokio::time::interval(self.policy.reaper_tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.tick(&pool).await {
                Ok(0) => {}
                Ok(count) => tracing::warn!(count, "took back jobs whose workers are gone"),
                Err(error) => tracing::warn!(%error, "the reaper could not look"),
            }
        }
    }

    /// Takes back jobs once, and returns how many.
    pub async fn tick(&mut self, pool: &PgPool) -> Result<u64> {
        elsewhere::open_to_all(pool).await?;
        self.guarded(pool, look(pool, self.policy.ttl)).await
    }

    async fn guarded(&mut self, pool: &PgPool, look: impl Future<Output = Result<Leases>>) -> Result<u64> {
        let leases = look.await?;
        let now = Instant::now();
        let gap = self.last_look.replace(now).is_some_and(|last| now - last > 3 * self.policy.reaper_tick);
        if gap {
            self.rests_until = now + self.policy.ttl;
        }
        if leases.expired == 0 {
            self.crowd_since = None;
            return Ok(0);
        }
        if now < self.rests_until || !leases.server_settled {
            tracing::debug!(expired = leases.expired, "the reaper rests");
            return Ok(0);
        }
        if leases.running >= CROWD && 2 * leases.expired > leases.running {
            let since = *self.crowd_since.get_or_insert_with(|| {
                tracing::warn!(
                    expired = leases.expired,
                    running = leases.running,
                    "most leases ran out at once; waiting for beats"
                );
                now
            });
            if now - since < self.policy.ttl {
                return Ok(0);
            }
        }
        let mut total = 0;
        loop {
            let taken = reap(pool, &self.policy, BATCH).await?;
            total += taken;
            if taken < BATCH.unsigned_abs() {
                self.crowd_since = None;
                return Ok(total);
            }
        }
    }
}

struct Leases {
    running: i64,
    expired: i64,
    /// The server has been up for longer than a lease lasts.
    server_settled: bool,
}

async fn look(pool: &PgPool, ttl: Duration) -> Result<Leases> {
    bounded(
        sqlx::query_as!(
            Leases,
            r#"SELECT count(*) AS "running!", count(*) FILTER (WHERE lease_until < clock_timestamp()) AS "expired!",
                   clock_timestamp() - pg_postmaster_start_time() > make_interval(secs => $1) AS "server_settled!"
               FROM jobs WHERE status = 'running'"#,
            ttl.as_secs_f64(),
        )
        .fetch_one(pool),
    )
    .await
}

/// Ends the attempts whose leases have run out, the oldest first, as crashes. Nothing shows that a worker used its
/// device any longer, so an attempt ended with its lease.
async fn reap(pool: &PgPool, policy: &LeasePolicy, limit: i64) -> Result<u64> {
    let taken = bounded(
        sqlx::query!(
            r#"WITH verdict AS MATERIALIZED (
                   SELECT id, lease_until, CASE
                       WHEN cancel_requested_at IS NOT NULL THEN 'canceled'
                       WHEN crashes + 1 >= max_crashes THEN 'failed'
                       ELSE 'queued' END AS status
                   FROM jobs WHERE status = 'running' AND lease_until < clock_timestamp()
                   ORDER BY lease_until LIMIT $1 FOR UPDATE SKIP LOCKED),
               job AS (
                   UPDATE jobs SET status = verdict.status, worker = NULL, lease_until = NULL, crashes = crashes + 1,
                       run_at = CASE verdict.status WHEN 'queued' THEN clock_timestamp()
                           + make_interval(secs => least($2 * power(2, least(crashes, 62)), $3) * (1 + random() / 4)) ELSE run_at END,
                       finished_at = CASE WHEN verdict.status <> 'queued' THEN clock_timestamp() END,
                       error_class = CASE verdict.status WHEN 'failed' THEN 'crash' END,
                       error_message = CASE verdict.status WHEN 'failed' THEN
                           'The worker vanished during each of ' || (crashes + 1) || ' attempts.' END,
                       last_sequence = last_sequence + 1
                   FROM verdict WHERE jobs.id = verdict.id
                   RETURNING jobs.id, jobs.epoch, jobs.status, jobs.run_at, jobs.error_message, jobs.last_sequence,
                       verdict.lease_until),
               attempt AS (
                   UPDATE attempts SET ended_at = greatest(started_at, job.lease_until), outcome = 'expired'
                   FROM job WHERE attempts.job_id = job.id AND attempts.epoch = job.epoch),
               event AS (
                   INSERT INTO job_events (job_id, sequence, kind, data)
                   SELECT id, last_sequence, CASE status WHEN 'queued' THEN 'retrying' ELSE status END,
                       CASE status
                           WHEN 'queued' THEN jsonb_build_object('reason', 'expired', 'message', 'the worker vanished',
                               'run_at', to_char(run_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
                           WHEN 'failed' THEN jsonb_build_object('class', 'crash', 'message', error_message)
                           ELSE '{}' END
                   FROM job)
               SELECT id AS "id: JobId", last_sequence FROM job"#,
            limit,
            policy.crash_backoff.as_secs_f64(),
            policy.backoff_cap.as_secs_f64(),
        )
        .fetch_all(pool),
    )
    .await?;
    for row in &taken {
        event::announce(pool, row.id, row.last_sequence).await;
    }
    Ok(taken.len() as u64)
}
