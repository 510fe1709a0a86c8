//! Asking for the end of a job, at each moment of its life.

use std::time::{Duration, Instant};

use domain::event::Feed;
use domain::job::{self, AttemptOutcome, Call, Doorbell, Ending, ErrorClass, JobStatus, Reaper};
use domain::{Error, JobId};

use super::{Database, attempts, cancel, claim, enqueue, expire, look, patient, succeed, wait_terminal};

#[tokio::test]
async fn a_queued_job_ends_at_once_and_is_never_claimed() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    let seen = cancel(pool, job).await.unwrap();
    assert_eq!((seen.status, seen.epoch), (JobStatus::Canceled, 0));
    assert!(seen.finished_at.is_some());
    assert_eq!(claim(pool, &patient()).await, None);
    // Asking again changes nothing.
    assert_eq!(cancel(pool, job).await.unwrap(), seen);
}

#[tokio::test]
async fn a_running_job_hears_of_it_and_confirms() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let mut bell = Doorbell::listen(&database.pools.listen).await;
    let job = enqueue(pool, 0).await;
    let held = claim(pool, &patient()).await.unwrap();
    assert!(!job::beat(pool, &held, &patient()).await.unwrap().cancel);
    assert!(matches!(job::canceled(pool, &held).await, Err(Error::Conflict { .. })), "nobody asked");

    assert_eq!(cancel(pool, job).await.unwrap().status, JobStatus::Running);
    assert_eq!(tokio::time::timeout(Duration::from_mins(1), bell.next()).await.unwrap(), Call::Cancel(job));
    assert!(job::beat(pool, &held, &patient()).await.unwrap().cancel);
    job::canceled(pool, &held).await.unwrap();
    assert_eq!(look(pool, job).await.unwrap().status, JobStatus::Canceled);
    assert_eq!(attempts(pool, job).await.unwrap()[0].outcome, Some(AttemptOutcome::Canceled));
}

#[tokio::test]
async fn success_wins_over_a_request_that_was_not_confirmed() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    let held = claim(pool, &patient()).await.unwrap();
    cancel(pool, job).await.unwrap();
    succeed(pool, &held).await.unwrap();
    let seen = cancel(pool, job).await.unwrap();
    assert_eq!((seen.status, seen.step), (JobStatus::Succeeded, 10));
}

#[tokio::test]
async fn no_end_but_success_leads_to_another_attempt_once_asked() {
    let database = Database::fresh().await;
    let pool = database.pool();
    for end in ["fail", "crash", "release", "expire"] {
        let job = enqueue(pool, 0).await;
        let held = claim(pool, &patient()).await.unwrap();
        cancel(pool, job).await.unwrap();
        let ending = match end {
            "fail" => job::fail(pool, &held, &patient(), ErrorClass::Internal, "broken").await.unwrap(),
            "crash" => job::crash(pool, &held, &patient(), "killed").await.unwrap(),
            "release" => job::release(pool, &held, "the worker stops").await.unwrap(),
            _ => {
                expire(pool, job).await;
                let policy = domain::job::LeasePolicy { ttl: Duration::ZERO, beat: Duration::ZERO, ..patient() };
                assert_eq!(Reaper::new(policy).tick(pool).await.unwrap(), 1);
                Ending::Canceled
            }
        };
        assert_eq!(ending, Ending::Canceled, "{end}");
        let seen = look(pool, job).await.unwrap();
        assert_eq!((seen.status, seen.error_class), (JobStatus::Canceled, None), "{end}");
    }
}

#[tokio::test]
async fn an_unknown_job_is_not_found() {
    let database = Database::fresh().await;
    assert!(matches!(cancel(database.pool(), JobId::new()).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn who_waits_is_told_at_once_or_when_the_time_is_over() {
    let database = Database::fresh().await;
    let pool = database.pool().clone();
    let feed = Feed::start(database.pools.listen.clone()).await;
    let job = enqueue(&pool, 0).await;

    let since = Instant::now();
    let seen = wait_terminal(&pool, &feed, job, Duration::from_millis(300)).await.unwrap();
    assert_eq!(seen.status, JobStatus::Queued);
    assert!(since.elapsed() >= Duration::from_millis(300));

    let waiting = tokio::spawn({
        let (pool, feed) = (pool.clone(), feed.clone());
        async move { wait_terminal(&pool, &feed, job, Duration::from_mins(1)).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cancel(&pool, job).await.unwrap();
    let seen = tokio::time::timeout(Duration::from_mins(1), waiting).await.unwrap().unwrap();
    assert_eq!(seen.status, JobStatus::Canceled);
}
