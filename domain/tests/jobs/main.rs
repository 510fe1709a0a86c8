//! Jobs on a real Postgres: the queue, the lease, the ends, the reaper, the schema's own guard, and all of it at random
//! against a model.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod accounting;
mod budgets;
mod canceling;
mod elsewhere;
mod events;
mod fencing;
mod guard;
mod memory;
mod model;
mod needs;
mod queue;
mod quotas;
mod reaping;
mod residency;

use std::time::Duration;

use domain::event::{self, Event, Feed};
use domain::job::{self, Attempt, Claim, Job, JobKind, LeasePolicy, NewJob};
use domain::{Caller, JobId, Pools, WorkerId};
use embedded::TemporaryDatabase;
use sqlx::PgPool;

/// A database for one test.
struct Database {
    pools: Pools,
    temporary: TemporaryDatabase,
}

impl Database {
    fn url(&self) -> &str {
        self.temporary.url()
    }

    async fn fresh() -> Database {
        let database = TemporaryDatabase::create(&domain::MIGRATIONS).await.unwrap();
        Database { pools: Pools::connect(database.url()).await.unwrap(), temporary: database }
    }

    fn pool(&self) -> &PgPool {
        &self.pools.lease
    }
}

/// Leases that do not run out during a test, and pauses that do.
fn patient() -> LeasePolicy {
    LeasePolicy {
        ttl: Duration::from_hours(1),
        failure_backoff: Duration::ZERO,
        crash_backoff: Duration::ZERO,
        ..LeasePolicy::default()
    }
}

async fn enqueue(pool: &PgPool, priority: i16) -> JobId {
    let mut tx = pool.begin().await.unwrap();
    let job = job::enqueue(
        &mut tx,
        NewJob { priority, total_steps: 10, ..NewJob::new(&Caller::anonymous(), JobKind::Generation, JobId::new()) },
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();
    job
}

/// What a client sees and does.
async fn look(pool: &PgPool, job: JobId) -> domain::Result<Job> {
    job::get(&Caller::anonymous(), &domain::Database::new(pool.clone()), job).await
}

async fn cancel(pool: &PgPool, job: JobId) -> domain::Result<Job> {
    job::cancel(&Caller::anonymous(), &domain::Database::new(pool.clone()), job).await
}

async fn attempts(pool: &PgPool, job: JobId) -> domain::Result<Vec<Attempt>> {
    job::attempts(&Caller::anonymous(), &domain::Database::new(pool.clone()), job).await
}

async fn events(pool: &PgPool, job: JobId, sequence: i64, limit: i64) -> domain::Result<Vec<Event>> {
    event::after(&Caller::anonymous(), &domain::Database::new(pool.clone()), job, sequence, limit).await
}

async fn wait_terminal(pool: &PgPool, feed: &Feed, job: JobId, limit: Duration) -> domain::Result<Job> {
    job::wait_terminal(&Caller::anonymous(), &domain::Database::new(pool.clone()), feed, job, limit).await
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
