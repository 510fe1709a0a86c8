//! Which worker gets which job, and when.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use domain::job::{self, Call, Claim, Doorbell, ErrorClass, JobKind, JobStatus, LeasePolicy, NewJob, Reaper};
use domain::{Caller, Error, JobId, WorkerId};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use super::{Database, claim, enqueue, expire, look, pass_pause, patient, succeed};

#[tokio::test]
async fn priority_first_and_then_who_waited_longest() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let mut expected = Vec::new();
    for priority in [0, 5, -3, 5, 0] {
        expected.push((enqueue(pool, priority).await, priority));
    }
    expected.sort_by_key(|(_, priority)| -priority);
    for (job, _) in expected {
        assert_eq!(claim(pool, &patient()).await.unwrap().job, job);
    }
    assert_eq!(claim(pool, &patient()).await, None);
}

/// Ends an attempt in one of the ways after which there is another.
async fn interrupt(pool: &PgPool, claim: &Claim, way: &str) {
    match way {
        "failed" => drop(job::fail(pool, claim, &patient(), ErrorClass::Internal, "no").await.unwrap()),
        "crashed" => drop(job::crash(pool, claim, &patient(), "no").await.unwrap()),
        "released" => drop(job::release(pool, claim, "no").await.unwrap()),
        "set back" => drop(job::set_back(pool, claim, &patient(), "no").await.unwrap()),
        _ => {
            expire(pool, claim.job).await;
            let eager = LeasePolicy { ttl: Duration::ZERO, beat: Duration::ZERO, ..patient() };
            assert_eq!(Reaper::new(eager).tick(pool).await.unwrap(), 1);
        }
    }
}

#[tokio::test]
async fn an_interrupted_job_keeps_its_place() {
    let database = Database::fresh().await;
    let pool = database.pool();
    for way in ["failed", "crashed", "released", "set back", "expired"] {
        let first = enqueue(pool, 0).await;
        let held = claim(pool, &patient()).await.unwrap();
        assert_eq!(held.job, first);
        for _ in 0..3 {
            enqueue(pool, 0).await;
        }
        interrupt(pool, &held, way).await;
        assert_eq!(claim(pool, &patient()).await.unwrap().job, first, "{way}");
        sqlx::query("DELETE FROM jobs").execute(pool).await.unwrap();
    }
}

#[tokio::test]
async fn a_pause_delays_a_job_and_does_not_move_it() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let policy = LeasePolicy { failure_backoff: Duration::from_hours(1), ..patient() };
    let [first, second, third] = [enqueue(pool, 0).await, enqueue(pool, 0).await, enqueue(pool, 0).await];
    let held = claim(pool, &policy).await.unwrap();
    assert_eq!(held.job, first);
    job::fail(pool, &held, &policy, ErrorClass::Internal, "once more").await.unwrap();
    assert_eq!(claim(pool, &policy).await.unwrap().job, second);
    pass_pause(pool, first).await;
    assert_eq!(claim(pool, &policy).await.unwrap().job, first);
    assert_eq!(claim(pool, &policy).await.unwrap().job, third);
}

/// A claim reads a few entries of an index, however many jobs are queued, and however many of them pause.
#[tokio::test]
async fn a_claim_reads_little_of_a_long_queue() {
    const CLAIMS: i64 = 20;
    let database = Database::fresh().await;
    // One connection, whose statistics can be asked for.
    let pool = PgPoolOptions::new().max_connections(1).connect(database.url()).await.unwrap();
    sqlx::query(
        "INSERT INTO jobs (id, subject, kind, project_id, base_sha256, last_sequence, run_at)
         SELECT id, id, 'generation', '00000000-0000-7000-8000-000000000000', repeat(to_hex(n % 16), 64), 1,
             clock_timestamp() + make_interval(hours => (n % 100 = 0)::int)
         FROM (SELECT gen_random_uuid() AS id, n FROM generate_series(1, 20000) AS n) AS new",
    )
    .execute(&pool)
    .await
    .unwrap();
    sqlx::query("VACUUM ANALYZE jobs").execute(&pool).await.unwrap();
    for resident in [vec![], vec!["a".repeat(64)], vec!["0".repeat(63) + "f"]] {
        let [scans, entries] = reads_of_jobs(&pool).await;
        for _ in 0..CLAIMS {
            job::claim(&pool, &JobKind::ALL, WorkerId::new(), &resident, &patient()).await.unwrap().unwrap();
        }
        let [more_scans, more_entries] = reads_of_jobs(&pool).await;
        assert_eq!(more_scans, scans, "the table was read");
        let each = (more_entries - entries) / CLAIMS;
        assert!(each < 200, "{each} entries of indexes for each claim");
    }
}

/// How often the table was read whole, and how many entries of its indexes.
async fn reads_of_jobs(pool: &PgPool) -> [i64; 2] {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(pool).await.unwrap();
    let (scans, entries) = sqlx::query_as(
        "SELECT (SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'jobs'),
                (SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname = 'jobs')",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    [scans, entries]
}

#[tokio::test]
async fn a_worker_gets_only_kinds_that_it_names() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    let worker = WorkerId::new();
    assert_eq!(job::claim(pool, &[JobKind::Training], worker, &[], &patient()).await.unwrap(), None);
    assert_eq!(job::claim(pool, &[], worker, &[], &patient()).await.unwrap(), None);
    let claim = job::claim(pool, &[JobKind::Generation], worker, &[], &patient()).await.unwrap().unwrap();
    assert_eq!((claim.job, claim.kind, claim.epoch, claim.worker), (job, JobKind::Generation, 1, worker));
}

#[tokio::test]
async fn a_rolled_back_request_leaves_no_job() {
    let database = Database::fresh().await;
    let mut tx = database.pool().begin().await.unwrap();
    let job = job::enqueue(&mut tx, NewJob::new(&Caller::anonymous(), JobKind::Training, JobId::new())).await.unwrap();
    tx.rollback().await.unwrap();
    assert!(matches!(look(database.pool(), job).await, Err(Error::NotFound { noun: "job", .. })));
    assert_eq!(claim(database.pool(), &patient()).await, None);
}

#[tokio::test]
async fn no_two_workers_ever_hold_the_same_job() {
    const JOBS: usize = 120;
    let database = Database::fresh().await;
    for _ in 0..JOBS {
        enqueue(database.pool(), 0).await;
    }
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let pool = database.pools.lease.clone();
        workers.spawn(async move {
            let mut held = Vec::new();
            while let Some(claim) = claim(&pool, &patient()).await {
                held.push(claim);
            }
            held
        });
    }
    let claims = workers.join_all().await.concat();
    assert_eq!(claims.len(), JOBS);
    assert_eq!(claims.iter().map(|claim| claim.job).collect::<HashSet<_>>().len(), JOBS);
    for claim in &claims {
        succeed(database.pool(), claim).await.unwrap();
    }
}

#[tokio::test]
async fn the_doorbell_wakes_a_listener_and_rings_are_folded() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let mut bell = Doorbell::listen(&database.pools.listen).await;
    for _ in 0..200 {
        job::ring(pool);
    }
    let since = Instant::now();
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), bell.next()).await.unwrap(), Call::Work);
    let mut heard = 1;
    while tokio::time::timeout(Duration::from_millis(500), bell.next()).await.is_ok_and(|call| call == Call::Work) {
        heard += 1;
    }
    let windows = since.elapsed().as_millis() / 10 + 2;
    assert!(heard < 100 && heard <= windows, "{heard} rings in {windows} windows of 10 ms");

    // A ring that comes while nothing is pending is not lost.
    job::ring(pool);
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), bell.next()).await.unwrap(), Call::Work);
}

#[tokio::test]
async fn a_listener_survives_the_loss_of_its_connection() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let mut bell = Doorbell::listen(&database.pools.listen).await;
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = 'pyrograph listen' AND datname = current_database()",
    )
    .execute(pool)
    .await
    .unwrap();
    // First it reports that calls may have been lost, then it receives them again.
    assert_eq!(tokio::time::timeout(Duration::from_mins(1), bell.next()).await.unwrap(), Call::Work);
    job::ring(pool);
    assert_eq!(tokio::time::timeout(Duration::from_mins(1), bell.next()).await.unwrap(), Call::Work);
}

#[tokio::test]
async fn progress_is_kept_with_the_job() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    let held = claim(pool, &LeasePolicy::default()).await.unwrap();
    job::progress(pool, &held, 3, 20, serde_json::json!({ "loss": 0.25 })).await.unwrap();
    let seen = look(pool, job).await.unwrap();
    assert_eq!((seen.status, seen.step, seen.total_steps), (JobStatus::Running, 3, 20));
    assert_eq!(seen.progress.unwrap()["loss"], 0.25);
    // More steps than there are is the caller's mistake, and does not end the job.
    job::progress(pool, &held, 99, 20, serde_json::Value::Null).await.unwrap();
    assert_eq!(look(pool, job).await.unwrap().step, 20);
}
