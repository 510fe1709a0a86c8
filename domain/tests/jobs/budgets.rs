//! How often a job may fail, crash and be released, and how long it waits in between.

use std::time::Duration;

use domain::event::EventKind;
use domain::job::{self, AttemptOutcome, Ending, ErrorClass, JobStatus, LeasePolicy};

use super::{Database, attempts, claim, enqueue, events, look, pass_pause, patient};

#[tokio::test]
async fn the_third_failure_is_final_and_tells_why() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    for expected in [Ending::Requeued, Ending::Requeued, Ending::Failed] {
        let held = claim(pool, &patient()).await.unwrap();
        assert_eq!(
            job::fail(pool, &held, &patient(), ErrorClass::Upstream, "storage is away").await.unwrap(),
            expected
        );
    }
    let seen = look(pool, job).await.unwrap();
    assert_eq!((seen.status, seen.failures, seen.crashes), (JobStatus::Failed, 3, 0));
    assert_eq!(
        (seen.error_class, seen.error_message.as_deref()),
        (Some(ErrorClass::Upstream), Some("storage is away"))
    );
    assert_eq!(claim(pool, &patient()).await, None);

    let attempts = attempts(pool, job).await.unwrap();
    assert_eq!(attempts.len(), 3);
    assert!(
        attempts.iter().all(|attempt| attempt.outcome == Some(AttemptOutcome::Failed) && attempt.ended_at.is_some())
    );
    let kinds: Vec<EventKind> = events(pool, job, 0, 100).await.unwrap().into_iter().map(|event| event.kind).collect();
    use EventKind::{Failed, Queued, Retrying, Started};
    assert_eq!(kinds, [Queued, Started, Retrying, Started, Retrying, Started, Failed]);
}

#[tokio::test]
async fn wrong_input_is_never_tried_again() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    let held = claim(pool, &patient()).await.unwrap();
    let ending =
        job::fail(pool, &held, &patient(), ErrorClass::InvalidInput, "the LoRA matches nothing").await.unwrap();
    assert_eq!(ending, Ending::Failed);
    assert_eq!(look(pool, job).await.unwrap().failures, 1);
}

#[tokio::test]
async fn crashes_have_a_budget_of_their_own() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    // Two failures and two crashes: neither budget is spent.
    for _ in 0..2 {
        let held = claim(pool, &patient()).await.unwrap();
        job::fail(pool, &held, &patient(), ErrorClass::Timeout, "no progress").await.unwrap();
        let held = claim(pool, &patient()).await.unwrap();
        assert_eq!(job::crash(pool, &held, &patient(), "signal 9").await.unwrap(), Ending::Requeued);
    }
    let held = claim(pool, &patient()).await.unwrap();
    assert_eq!((held.failures, held.crashes, held.epoch), (2, 2, 5));
    assert_eq!(job::crash(pool, &held, &patient(), "signal 9").await.unwrap(), Ending::Failed);
    let seen = look(pool, job).await.unwrap();
    assert_eq!((seen.error_class, seen.failures, seen.crashes), (Some(ErrorClass::Crash), 2, 3));
}

#[tokio::test]
async fn giving_back_costs_nothing_but_has_an_end() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    for round in 1..=20 {
        let held = claim(pool, &patient()).await.expect("a released job is due at once");
        let ending = job::release(pool, &held, "the worker stops").await.unwrap();
        assert_eq!(ending, if round == 20 { Ending::Failed } else { Ending::Requeued });
    }
    let seen = look(pool, job).await.unwrap();
    assert_eq!((seen.failures, seen.crashes, seen.releases, seen.error_class), (0, 0, 20, Some(ErrorClass::Resource)));
    assert_eq!(seen.error_message.as_deref(), Some("given back too often: the worker stops"));
    let told = events(pool, job, 0, 100).await.unwrap();
    let retrying = told.iter().find(|event| event.kind == domain::event::EventKind::Retrying).unwrap();
    assert_eq!(retrying.data["message"], "the worker stops");
    assert!(retrying.data["run_at"].as_str().unwrap().ends_with('Z'), "{}", retrying.data);
    assert_eq!(told.last().unwrap().data["message"], "given back too often: the worker stops");
}

#[tokio::test]
async fn each_failure_waits_twice_as_long() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    let policy = LeasePolicy { failure_backoff: Duration::from_secs(100), ..patient() };
    for expected in [100.0, 200.0] {
        let held = claim(pool, &policy).await.unwrap();
        job::fail(pool, &held, &policy, ErrorClass::Internal, "once more").await.unwrap();
        let pause: f64 =
            sqlx::query_scalar("SELECT extract(epoch FROM run_at - clock_timestamp())::float8 FROM jobs WHERE id = $1")
                .bind(job.0)
                .fetch_one(pool)
                .await
                .unwrap();
        assert!((expected - 10.0..=expected * 1.25).contains(&pause), "{pause}");
        assert_eq!(claim(pool, &policy).await, None, "claimed before its time");
        pass_pause(pool, job).await;
    }
}
