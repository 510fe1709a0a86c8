//! What a job costs: the key that asked for it, and the seconds for which a device was held.

use std::time::Duration;

use domain::job::{self, Ending, ErrorClass, JobKind, LeasePolicy, NewJob, Reaper};
use domain::{Caller, JobId, KeyId, Principal, ProjectId, Scopes};
use sqlx::PgPool;

use super::{Database, cancel, claim, enqueue, patient, succeed};

/// Lets the running attempt of a job have begun this many seconds earlier.
async fn backdate(pool: &PgPool, job: JobId, seconds: f64) {
    sqlx::query(
        "UPDATE attempts SET started_at = started_at - make_interval(secs => $2)
         WHERE job_id = $1 AND ended_at IS NULL",
    )
    .bind(job.0)
    .bind(seconds)
    .execute(pool)
    .await
    .unwrap();
}

/// Seconds of all attempts, and their sum as answers have it.
async fn gpu_seconds(pool: &PgPool, job: JobId) -> (Vec<f64>, f64) {
    let attempts = sqlx::query_scalar("SELECT gpu_seconds FROM attempts WHERE job_id = $1 ORDER BY epoch");
    let sum = sqlx::query_scalar("SELECT (report ->> 'gpu_seconds')::float8 FROM job_reports WHERE job_id = $1");
    (attempts.bind(job.0).fetch_all(pool).await.unwrap(), sum.bind(job.0).fetch_one(pool).await.unwrap())
}

#[tokio::test]
async fn the_device_time_of_every_attempt_counts() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    let policy = patient();
    for (seconds, end) in [(100.0, "fail"), (20.0, "crash"), (3.0, "release"), (4000.0, "expire"), (5.0, "succeed")] {
        let held = claim(pool, &policy).await.unwrap();
        backdate(pool, job, seconds).await;
        match end {
            "fail" => {
                let ending = job::fail(pool, &held, &policy, ErrorClass::Internal, "no").await;
                assert_eq!(ending.unwrap(), Ending::Requeued);
            }
            "crash" => assert_eq!(job::crash(pool, &held, &policy, "no").await.unwrap(), Ending::Requeued),
            "release" => assert_eq!(job::release(pool, &held, "no").await.unwrap(), Ending::Requeued),
            "expire" => {
                // The lease ran out an hour before anybody looked.
                sqlx::query("UPDATE jobs SET lease_until = clock_timestamp() - interval '1 hour' WHERE id = $1")
                    .bind(job.0)
                    .execute(pool)
                    .await
                    .unwrap();
                let policy = LeasePolicy { ttl: Duration::ZERO, beat: Duration::ZERO, ..policy };
                assert_eq!(Reaper::new(policy).tick(pool).await.unwrap(), 1);
            }
            _ => succeed(pool, &held).await.unwrap(),
        }
    }
    let (attempts, sum) = gpu_seconds(pool, job).await;
    assert_eq!(attempts.len(), 5);
    for (seconds, expected) in attempts.iter().zip([100.0, 20.0, 3.0, 400.0, 5.0]) {
        assert!((expected..expected + 10.0).contains(seconds), "{seconds} of {expected}");
    }
    assert!((sum - attempts.iter().sum::<f64>()).abs() < 1e-6, "{sum}");
}

#[tokio::test]
async fn work_beside_the_engine_and_jobs_that_never_ran_hold_no_device() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let waiting = enqueue(pool, 0).await;
    cancel(pool, waiting).await.unwrap();
    assert_eq!(gpu_seconds(pool, waiting).await, (vec![], 0.0));

    let mut tx = pool.begin().await.unwrap();
    let caller = Caller::anonymous();
    let export = job::enqueue(&mut tx, NewJob::new(&caller, JobKind::Export, JobId::new())).await.unwrap();
    tx.commit().await.unwrap();
    let held = claim(pool, &patient()).await.unwrap();
    backdate(pool, export, 100.0).await;
    assert_eq!(gpu_seconds(pool, export).await, (vec![0.0], 0.0), "it runs");
    succeed(pool, &held).await.unwrap();
    assert_eq!(gpu_seconds(pool, export).await, (vec![0.0], 0.0));
}

#[tokio::test]
async fn a_job_knows_who_asked_for_it() {
    let database = Database::fresh().await;
    let pool = database.pool();
    // No row: the key is gone.
    let key = KeyId::new();
    for (principal, expected) in [
        (Principal::Key(key), (Some(key), None)),
        (Principal::Hub("jane".into()), (None, Some("jane".to_owned()))),
        (Principal::Anonymous, (None, None)),
    ] {
        let caller = Caller::new(ProjectId::DEFAULT, principal, Scopes::ALL);
        let mut tx = pool.begin().await.unwrap();
        let job = job::enqueue(&mut tx, NewJob::new(&caller, JobKind::Training, JobId::new())).await.unwrap();
        tx.commit().await.unwrap();
        let stored: (Option<KeyId>, Option<String>) =
            sqlx::query_as("SELECT key_id, account FROM jobs WHERE id = $1").bind(job.0).fetch_one(pool).await.unwrap();
        assert_eq!(stored, expected);
    }
}
