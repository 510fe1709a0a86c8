//! Jobs that need more memory than a worker may use: a worker that may use as much gets them; if there is none, they
//! fail.

use chrono::{DateTime, Utc};
use domain::job::{self, AttemptOutcome, Claim, Ending, ErrorClass, JobKind, JobStatus, Reaper};
use domain::{WorkerId, worker};
use memory::Budget;
use sqlx::PgPool;

use super::residency::{digests, enqueue_on};
use super::{Database, attempts, enqueue, look, patient};

/// A live worker with this memory budget.
async fn worker_with(pool: &PgPool, queues: &[JobKind], vram_budget: u64) -> WorkerId {
    let id = WorkerId::new();
    worker::register(pool, id, "worker", "host", "cpu", queues, "1", Some(&Budget::on_cpu(vram_budget))).await.unwrap();
    id
}

/// It was last seen an hour ago.
async fn vanish(pool: &PgPool, worker: WorkerId) {
    let statement = "UPDATE workers SET last_seen_at = last_seen_at - interval '1 hour' WHERE id = $1";
    sqlx::query(statement).bind(worker.0).execute(pool).await.unwrap();
}

async fn claim_as(pool: &PgPool, worker: WorkerId, models: &str) -> Option<Claim> {
    job::claim(pool, &JobKind::ALL, worker, &digests(models), &patient()).await.unwrap()
}

#[tokio::test]
async fn it_goes_to_a_worker_that_may_use_as_much() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let small = worker_with(pool, &JobKind::ALL, 10).await;
    let large = worker_with(pool, &JobKind::ALL, 30).await;
    let job = enqueue_on(pool, Some('b'), 0).await;
    let claim = claim_as(pool, small, "").await.unwrap();
    assert_eq!(job::does_not_fit(pool, &claim, 30, "it takes 30").await.unwrap(), Ending::Requeued);
    assert_eq!(claim_as(pool, small, "").await, None, "it is none of the small one's jobs");
    let attempts = attempts(pool, job).await.unwrap();
    assert_eq!(attempts[0].outcome, Some(AttemptOutcome::Refused));
    assert_eq!(claim_as(pool, WorkerId::new(), "b").await, None, "nor of one that does not say what it may use");
    let younger = enqueue(pool, 0).await;
    let place = |job| {
        sqlx::query_scalar::<_, DateTime<Utc>>("SELECT created_at FROM jobs WHERE id = $1").bind(job).fetch_one(pool)
    };
    assert!(place(job.0).await.unwrap() < place(younger.0).await.unwrap(), "it keeps its place");
    assert_eq!(claim_as(pool, small, "").await.map(|claim| claim.job), Some(younger));

    // A job that it cannot take is not passed over, so it does not count as overtaken.
    let fitting = enqueue_on(pool, Some('a'), 0).await;
    assert_eq!(claim_as(pool, small, "a").await.map(|claim| claim.job), Some(fitting));
    let overtaken: i64 =
        sqlx::query_scalar("SELECT count(*) FROM attempts WHERE overtook IS NOT NULL").fetch_one(pool).await.unwrap();
    assert_eq!(overtaken, 0);

    let claim = claim_as(pool, large, "b").await.unwrap();
    assert_eq!((claim.job, claim.failures, claim.crashes), (job, 0, 0));
    // Nor does it fit here, with the way this worker stores weights; and there is no other worker.
    assert_eq!(job::does_not_fit(pool, &claim, 30, "it takes 31 here").await.unwrap(), Ending::Failed);
    let seen = look(pool, job).await.unwrap();
    assert_eq!((seen.status, seen.error_class), (JobStatus::Failed, Some(ErrorClass::InvalidInput)));
    assert_eq!(seen.error_message.as_deref(), Some("it takes 31 here"));
}

#[tokio::test]
async fn it_ends_when_the_larger_worker_does_not_come_back() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let small = worker_with(pool, &JobKind::ALL, 10).await;
    let large = worker_with(pool, &JobKind::ALL, 30).await;
    let job = enqueue(pool, 0).await;
    let claim = claim_as(pool, small, "").await.unwrap();
    assert_eq!(job::does_not_fit(pool, &claim, 30, "it takes 30").await.unwrap(), Ending::Requeued);
    let mut reaper = Reaper::new(patient());
    // It may be restarting.
    worker::stopped(pool, large).await.unwrap();
    reaper.tick(pool).await.unwrap();
    assert_eq!(claim_as(pool, small, "").await, None);
    vanish(pool, large).await;
    reaper.tick(pool).await.unwrap();
    let claim = claim_as(pool, small, "").await.expect("open to all again");
    assert_eq!(claim.job, job);
    assert_eq!(job::does_not_fit(pool, &claim, 30, "it takes 30").await.unwrap(), Ending::Failed);
}

#[tokio::test]
async fn what_had_the_memory_waits_until_a_worker_that_has_it_comes_back() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let small = worker_with(pool, &JobKind::ALL, 10).await;
    let large = worker_with(pool, &JobKind::ALL, 30).await;
    let job = enqueue(pool, 0).await;
    let claim = claim_as(pool, large, "").await.unwrap();
    job::release(pool, &claim, "the worker stops").await.unwrap();
    vanish(pool, large).await;
    let claim = claim_as(pool, small, "").await.unwrap();
    assert_eq!(job::does_not_fit(pool, &claim, 30, "it takes 30").await.unwrap(), Ending::Requeued);
    let mut reaper = Reaper::new(patient());
    for _ in 0..3 {
        reaper.tick(pool).await.unwrap();
        assert_eq!(claim_as(pool, small, "").await, None, "nor does it use up attempts");
    }
    let back = worker_with(pool, &JobKind::ALL, 30).await;
    assert_eq!(claim_as(pool, back, "").await.map(|claim| claim.job), Some(job));
}

#[tokio::test]
async fn who_is_gone_or_does_other_work_does_not_count() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let small = worker_with(pool, &JobKind::ALL, 10).await;
    let silent = worker_with(pool, &JobKind::ALL, 100).await;
    vanish(pool, silent).await;
    worker_with(pool, &[JobKind::Import], 100).await;
    enqueue(pool, 0).await;
    let claim = claim_as(pool, small, "").await.unwrap();
    assert_eq!(job::does_not_fit(pool, &claim, 30, "it takes 30").await.unwrap(), Ending::Failed);
}

#[tokio::test]
async fn files_larger_than_a_disk_are_left_to_the_other_workers() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let [small, busy] = [worker_with(pool, &JobKind::ALL, 10).await, worker_with(pool, &JobKind::ALL, 10).await];
    let job = enqueue(pool, 0).await;
    let claim = claim_as(pool, small, "").await.unwrap();
    assert_eq!(job::no_room(pool, &claim, "12 of 8 MiB").await.unwrap(), Ending::Requeued);
    // The other worker has time for it much later, and the small one cannot do it meanwhile.
    sqlx::query("UPDATE jobs SET run_at = run_at - interval '1 hour'").execute(pool).await.unwrap();
    let mut reaper = Reaper::new(patient());
    reaper.tick(pool).await.unwrap();
    assert_eq!(claim_as(pool, small, "").await, None);
    let claim = claim_as(pool, busy, "").await.unwrap();
    assert_eq!((claim.job, claim.failures), (job, 0));
    // A failure there does not bring it back to the small one for good.
    job::set_back(pool, &claim, &patient(), "The disk is full.").await.unwrap();
    sqlx::query("UPDATE jobs SET run_at = run_at - interval '1 hour'").execute(pool).await.unwrap();
    reaper.tick(pool).await.unwrap();
    assert_eq!(claim_as(pool, small, "").await, None);

    vanish(pool, busy).await;
    reaper.tick(pool).await.unwrap();
    let claim = claim_as(pool, small, "").await.expect("open to all again");
    assert_eq!(job::no_room(pool, &claim, "12 of 8 MiB").await.unwrap(), Ending::Failed);
    let seen = look(pool, job).await.unwrap();
    assert_eq!((seen.status, seen.error_class), (JobStatus::Failed, Some(ErrorClass::Resource)));
    assert_eq!(seen.error_message.as_deref(), Some("12 of 8 MiB"));
}

#[tokio::test]
async fn only_the_holder_says_so() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let small = worker_with(pool, &JobKind::ALL, 10).await;
    worker_with(pool, &JobKind::ALL, 30).await;
    let job = enqueue(pool, 0).await;
    let stale = claim_as(pool, small, "").await.unwrap();
    job::release(pool, &stale, "the worker stops").await.unwrap();
    let current = claim_as(pool, small, "").await.unwrap();
    assert!(matches!(job::does_not_fit(pool, &stale, 30, "no").await, Err(domain::Error::LeaseLost)));
    let memory: Option<i64> =
        sqlx::query_scalar("SELECT memory FROM jobs WHERE id = $1").bind(job.0).fetch_one(pool).await.unwrap();
    assert_eq!(memory, None);
    job::release(pool, &current, "the worker stops").await.unwrap();
}
