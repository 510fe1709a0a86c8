//! Jobs on a real Postgres: the queue, the lease, the ends, the reaper, the schema's own guard, and all of it at random against
//! a model.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod budgets;
mod canceling;
mod events;
mod fencing;
mod guard;
mod memory;
mod model;
mod queue;
mod reaping;
mod residency;

use std::time::Duration;

use domain::job::{self, Claim, JobKind, LeasePolicy, NewJob};
use domain::{JobId, Pools, WorkerId};
use embedded::TemporaryDatabase;
use sqlx::PgPool;

/// A database of the test's own.
struct Database {
    pools: Pools,
    _database: TemporaryDatabase,
}

impl Database {
    async fn fresh() -> Database {
        let database = TemporaryDatabase::create(&domain::MIGRATIONS).await.unwrap();
        Database { pools: Pools::connect(database.url()).await.unwrap(), _database: database }
    }

    fn pool(&self) -> &PgPool {
        &self.pools.api
    }
}

/// Leases that do not run out during a test, and pauses that do.
fn patient() -> LeasePolicy {
    LeasePolicy {
        ttl: Duration::from_secs(3600),
        failure_backoff: Duration::ZERO,
        crash_backoff: Duration::ZERO,
        ..LeasePolicy::default()
    }
}

async fn enqueue(pool: &PgPool, priority: i16) -> JobId {
    let mut tx = pool.begin().await.unwrap();
    let job =
        job::enqueue(&mut tx, NewJob { priority, total_steps: 10, ..NewJob::new(JobKind::Generation, JobId::new()) })
            .await
            .unwrap();
    tx.commit().await.unwrap();
    job
}

async fn claim(pool: &PgPool, policy: &LeasePolicy) -> Option<Claim> {
    job::claim(pool, &JobKind::ALL, WorkerId::new(), &[], policy).await.unwrap()
}

async fn succeed(pool: &PgPool, claim: &Claim) -> domain::Result<()> {
    let mut tx = pool.begin().await?;
    job::succeed(&mut tx, claim).await?;
    tx.commit().await?;
    Ok(())
}

/// Lets the lease of a running job run out.
async fn expire(pool: &PgPool, job: JobId) {
    sqlx::query(
        "UPDATE jobs SET lease_until = clock_timestamp() - interval '1 second' WHERE id = $1 AND status = 'running'",
    )
    .bind(job.0)
    .execute(pool)
    .await
    .unwrap();
}

/// Lets the pause before the next attempt pass.
async fn pass_pause(pool: &PgPool, job: JobId) {
    sqlx::query("UPDATE jobs SET run_at = clock_timestamp() WHERE id = $1 AND status = 'queued'")
        .bind(job.0)
        .execute(pool)
        .await
        .unwrap();
}
