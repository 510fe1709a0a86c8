//! A job that failed on one worker is retried on another, if there is one; trouble with a machine costs nothing.

use std::time::Duration;

use domain::job::{self, Claim, Ending, ErrorClass, JobKind, JobStatus, LeasePolicy, Reaper};
use domain::{Caller, PageRequest, WorkerId, worker};
use memory::Budget;
use sqlx::PgPool;

use super::{Database, attempts, enqueue, events, look, patient, succeed};

async fn worker(pool: &PgPool, queues: &[JobKind]) -> WorkerId {
    let id = WorkerId::new();
    worker::register(pool, id, "worker", "host", "cpu", queues, "1", Some(&Budget::on_cpu(1 << 30))).await.unwrap();
    id
}

async fn claim_as(pool: &PgPool, worker: WorkerId) -> Option<Claim> {
    job::claim(pool, &JobKind::ALL, worker, &[], &patient()).await.unwrap()
}

async fn fail(pool: &PgPool, claim: &Claim) -> Ending {
    job::fail(pool, claim, &patient(), ErrorClass::Internal, "it does not work here").await.unwrap()
}

/// The queued jobs became due this much earlier.
async fn wait_for(pool: &PgPool, seconds: f64) {
    sqlx::query("UPDATE jobs SET run_at = run_at - make_interval(secs => $1) WHERE status = 'queued'")
        .bind(seconds)
        .execute(pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn one_bad_worker_beside_a_healthy_one_fails_no_job() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let (bad, healthy) = (worker(pool, &JobKind::ALL).await, worker(pool, &JobKind::ALL).await);
    let mut jobs = Vec::new();
    for _ in 0..6 {
        jobs.push(enqueue(pool, 0).await);
    }
    // The bad one is always faster.
    for _ in 0..6 {
        while let Some(claim) = claim_as(pool, bad).await {
            assert_eq!(fail(pool, &claim).await, Ending::Requeued);
        }
        let claim = claim_as(pool, healthy).await.unwrap();
        succeed(pool, &claim).await.unwrap();
    }
    for job in jobs {
        let seen = look(pool, job).await.unwrap();
        assert_eq!((seen.status, seen.failures, seen.epoch), (JobStatus::Succeeded, 1, 2));
    }
    let hour = Duration::from_hours(1);
    assert_eq!(worker::done_by_others(pool, bad, hour).await.unwrap(), 6);
    assert_eq!(worker::done_by_others(pool, bad, Duration::ZERO).await.unwrap(), 0);
    assert_eq!(worker::done_by_others(pool, healthy, hour).await.unwrap(), 0);
}

#[tokio::test]
async fn a_job_waits_only_for_workers_that_would_take_it() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let first = worker(pool, &JobKind::ALL).await;
    let [other_kind, silent, stopped, paused] = [
        worker(pool, &[JobKind::Import]).await,
        worker(pool, &JobKind::ALL).await,
        worker(pool, &JobKind::ALL).await,
        worker(pool, &JobKind::ALL).await,
    ];
    sqlx::query("UPDATE workers SET last_seen_at = last_seen_at - interval '1 hour' WHERE id = $1")
        .bind(silent.0)
        .execute(pool)
        .await
        .unwrap();
    worker::stopped(pool, stopped).await.unwrap();
    worker::pause(pool, paused, Some("its disk is full")).await.unwrap();
    enqueue(pool, 0).await;
    let claim = claim_as(pool, first).await.unwrap();
    fail(pool, &claim).await;
    let claim = claim_as(pool, first).await.expect("there is no other worker");
    assert_eq!(claim.failures, 1);
    assert_ne!(other_kind, first);
}

/// Two workers take turns, so a job does not spend its last attempts on the worse of them.
#[tokio::test]
async fn after_every_worker_has_tried_they_take_turns() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let (one, other) = (worker(pool, &JobKind::ALL).await, worker(pool, &JobKind::ALL).await);
    enqueue(pool, 0).await;
    let claim = claim_as(pool, one).await.unwrap();
    fail(pool, &claim).await;
    assert_eq!(claim_as(pool, one).await, None);
    let claim = claim_as(pool, other).await.unwrap();
    fail(pool, &claim).await;
    assert_eq!(claim_as(pool, other).await, None);
    let claim = claim_as(pool, one).await.unwrap();
    assert_eq!(fail(pool, &claim).await, Ending::Failed);
}

#[tokio::test]
async fn it_does_not_wait_long_for_another_worker() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let (one, other) = (worker(pool, &JobKind::ALL).await, worker(pool, &JobKind::ALL).await);
    let mut reaper = Reaper::new(patient());
    for gone in [false, true] {
        let job = enqueue(pool, 0).await;
        let claim = claim_as(pool, one).await.unwrap();
        job::crash(pool, &claim, &patient(), "signal 9").await.unwrap();
        reaper.tick(pool).await.unwrap();
        assert_eq!(claim_as(pool, one).await, None, "the other one has just been seen");
        if gone {
            worker::stopped(pool, other).await.unwrap();
        } else {
            // It is busy.
            wait_for(pool, 61.0).await;
        }
        reaper.tick(pool).await.unwrap();
        let claim = claim_as(pool, one).await.expect("open to all again");
        assert_eq!(claim.job, job);
        succeed(pool, &claim).await.unwrap();
    }
}

#[tokio::test]
async fn trouble_with_a_machine_costs_nothing_and_never_ends_a_job() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    for _ in 0..30 {
        let claim = claim_as(pool, WorkerId::new()).await.unwrap();
        assert_eq!(job::set_back(pool, &claim, &patient(), "storage is away").await.unwrap(), Ending::Requeued);
    }
    let seen = look(pool, job).await.unwrap();
    assert_eq!((seen.failures, seen.crashes, seen.releases, seen.status), (0, 0, 0, JobStatus::Queued));
    let last = attempts(pool, job).await.unwrap().pop().unwrap();
    assert_eq!(last.outcome, Some(job::AttemptOutcome::Released));
    assert_eq!(last.error.as_deref(), Some("storage is away"));
    let event = events(pool, job, seen.last_sequence - 1, 10).await.unwrap().pop().unwrap();
    assert_eq!(
        (event.data["reason"].as_str(), event.data["message"].as_str()),
        (Some("released"), Some("storage is away"))
    );
}

#[tokio::test]
async fn after_trouble_another_worker_continues_at_once_and_alone_it_pauses() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let policy = LeasePolicy { failure_backoff: Duration::from_secs(10), ..LeasePolicy::default() };
    let one = worker(pool, &JobKind::ALL).await;
    let job = enqueue(pool, 0).await;
    let pause = async || -> f64 {
        sqlx::query_scalar("SELECT extract(epoch FROM run_at - clock_timestamp())::float8 FROM jobs WHERE id = $1")
            .bind(job.0)
            .fetch_one(pool)
            .await
            .unwrap()
    };
    for expected in [10.0, 20.0, 40.0, 60.0, 60.0] {
        let claim = claim_as(pool, one).await.unwrap();
        job::set_back(pool, &claim, &policy, "the disk is full").await.unwrap();
        assert!((expected - 5.0..=expected * 1.25).contains(&pause().await));
        wait_for(pool, 100.0).await;
    }
    let other = worker(pool, &JobKind::ALL).await;
    let claim = claim_as(pool, one).await.unwrap();
    job::set_back(pool, &claim, &policy, "the disk is full").await.unwrap();
    assert_eq!(claim_as(pool, one).await, None);
    assert_eq!(claim_as(pool, other).await.map(|claim| claim.job), Some(job));
}

#[tokio::test]
async fn a_pause_is_shown_with_its_reason() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let id = worker(pool, &JobKind::ALL).await;
    let shown = async || {
        let database = domain::Database::new(pool.clone());
        let page = worker::list(&Caller::anonymous(), &database, &PageRequest::default()).await.unwrap();
        page.items.into_iter().next().unwrap().paused
    };
    assert_eq!(shown().await, None);
    worker::pause(pool, id, Some("its disk is full")).await.unwrap();
    assert_eq!(shown().await.as_deref(), Some("its disk is full"));
    worker::pause(pool, id, None).await.unwrap();
    assert_eq!(shown().await, None);
}
