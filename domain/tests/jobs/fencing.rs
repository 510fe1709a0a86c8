//! An attempt that has lost its lease changes nothing, whichever function it calls.

use std::time::Duration;

use domain::event::{self, EventKind};
use domain::job::{self, Claim, ErrorClass, JobStatus, LeasePolicy, Reaper};
use domain::{Error, WorkerId};
use serde_json::json;
use sqlx::PgPool;

use super::{Database, claim, enqueue, expire, look, patient, succeed};

/// All that an attempt can do, with the arguments that it needs.
async fn everything_is_refused(pool: &PgPool, stale: &Claim) {
    let policy = patient();
    assert!(matches!(job::beat(pool, stale, &policy).await, Err(Error::LeaseLost)));
    assert!(matches!(job::progress(pool, stale, 1, 2, json!({})).await, Err(Error::LeaseLost)));
    assert!(matches!(event::record(pool, stale, EventKind::Warning, &json!({})).await, Err(Error::LeaseLost)));
    assert!(matches!(job::fail(pool, stale, &policy, ErrorClass::Internal, "late").await, Err(Error::LeaseLost)));
    assert!(matches!(job::crash(pool, stale, &policy, "late").await, Err(Error::LeaseLost)));
    assert!(matches!(job::release(pool, stale, "the worker stops").await, Err(Error::LeaseLost)));
    assert!(matches!(job::canceled(pool, stale).await, Err(Error::LeaseLost)));
    assert!(matches!(succeed(pool, stale).await, Err(Error::LeaseLost)));
}

/// The rows of a job, as text, to check that nothing has changed.
async fn everything(pool: &PgPool, claim: &Claim) -> String {
    sqlx::query_scalar(
        "SELECT (SELECT j::text FROM jobs j WHERE id = $1)
             || (SELECT string_agg(a::text, ';' ORDER BY epoch) FROM attempts a WHERE job_id = $1)
             || (SELECT string_agg(e::text, ';' ORDER BY sequence) FROM job_events e WHERE job_id = $1)",
    )
    .bind(claim.job.0)
    .fetch_one(pool)
    .await
    .unwrap()
}

async fn reaper() -> Reaper {
    Reaper::new(LeasePolicy {
        ttl: Duration::ZERO,
        beat: Duration::ZERO,
        reaper_tick: Duration::from_hours(1),
        ..patient()
    })
}

#[tokio::test]
async fn an_old_epoch_changes_nothing_while_another_worker_runs() {
    let database = Database::fresh().await;
    let pool = database.pool();
    enqueue(pool, 0).await;
    let stale = claim(pool, &patient()).await.unwrap();
    expire(pool, stale.job).await;
    assert_eq!(reaper().await.tick(pool).await.unwrap(), 1);
    let current = claim(pool, &patient()).await.unwrap();
    assert_eq!((current.job, current.epoch, current.crashes), (stale.job, 2, 1));

    let before = everything(pool, &stale).await;
    everything_is_refused(pool, &stale).await;
    assert_eq!(everything(pool, &stale).await, before);
    succeed(pool, &current).await.unwrap();
    // The epoch that succeeded may report again, without effect; the other one may not.
    let after = everything(pool, &current).await;
    succeed(pool, &current).await.unwrap();
    everything_is_refused(pool, &stale).await;
    assert_eq!(everything(pool, &current).await, after);
}

#[tokio::test]
async fn the_right_epoch_of_the_wrong_worker_changes_nothing() {
    let database = Database::fresh().await;
    let pool = database.pool();
    enqueue(pool, 0).await;
    let held = claim(pool, &patient()).await.unwrap();
    let before = everything(pool, &held).await;
    everything_is_refused(pool, &Claim { worker: WorkerId::new(), ..held }).await;
    everything_is_refused(pool, &Claim { epoch: held.epoch + 1, ..held }).await;
    everything_is_refused(pool, &Claim { epoch: 0, ..held }).await;
    assert_eq!(everything(pool, &held).await, before);
    job::beat(pool, &held, &patient()).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_ran_out_unnoticed_is_revived_by_a_beat() {
    let database = Database::fresh().await;
    let pool = database.pool();
    enqueue(pool, 0).await;
    let held = claim(pool, &patient()).await.unwrap();
    expire(pool, held.job).await;
    job::beat(pool, &held, &patient()).await.unwrap();
    assert_eq!(reaper().await.tick(pool).await.unwrap(), 0);
    expire(pool, held.job).await;
    succeed(pool, &held).await.unwrap();
    assert_eq!(look(pool, held.job).await.unwrap().status, JobStatus::Succeeded);
}

#[tokio::test]
async fn what_a_stale_attempt_wrote_in_its_transaction_goes_with_it() {
    let database = Database::fresh().await;
    let pool = database.pool();
    enqueue(pool, 0).await;
    let stale = claim(pool, &patient()).await.unwrap();
    job::release(pool, &stale, "the worker stops").await.unwrap();
    let current = claim(pool, &patient()).await.unwrap();

    for (attempt, accepted) in [(&stale, false), (&current, true)] {
        let mut tx = pool.begin().await.unwrap();
        sqlx::query(
            "INSERT INTO artifacts (id, job_id, position, epoch, kind, storage_key, media_type, bytes, sha256, md5)
             VALUES (gen_random_uuid(), $1, 0, $2, 'lora', $3, 'application/octet-stream', 1,
                     repeat('0', 64), repeat('0', 32))",
        )
        .bind(attempt.job.0)
        .bind(attempt.epoch)
        .bind(format!("{}/{}", attempt.subject, attempt.epoch))
        .execute(&mut *tx)
        .await
        .unwrap();
        let result = job::succeed(&mut tx, attempt).await;
        assert_eq!(result.is_ok(), accepted);
        if accepted {
            tx.commit().await.unwrap();
        }
    }
    let epochs: Vec<i64> = sqlx::query_scalar("SELECT epoch FROM artifacts WHERE job_id = $1")
        .bind(stale.job.0)
        .fetch_all(pool)
        .await
        .unwrap();
    assert_eq!(epochs, [current.epoch]);
}
