//! Taking jobs back from workers that vanished, but not from others.

use std::time::{Duration, Instant};

use domain::event::EventKind;
use domain::job::{self, AttemptOutcome, ErrorClass, JobStatus, LeasePolicy, Reaper};
use embedded::TemporaryPostgres;

use super::{Database, attempts, claim, enqueue, events, expire, look, patient};

fn eager() -> LeasePolicy {
    LeasePolicy { ttl: Duration::ZERO, beat: Duration::ZERO, ..patient() }
}

#[tokio::test]
async fn expired_leases_go_back_until_the_crash_budget_is_spent() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    let mut reaper = Reaper::new(eager());
    for round in 1..=3 {
        claim(pool, &patient()).await.unwrap();
        assert_eq!(reaper.tick(pool).await.unwrap(), 0, "the lease is good");
        expire(pool, job).await;
        assert_eq!(reaper.tick(pool).await.unwrap(), 1);
        let status = look(pool, job).await.unwrap().status;
        assert_eq!(status, if round < 3 { JobStatus::Queued } else { JobStatus::Failed });
    }
    let seen = look(pool, job).await.unwrap();
    assert_eq!((seen.crashes, seen.failures, seen.error_class), (3, 0, Some(ErrorClass::Crash)));
    assert!(seen.error_message.unwrap().contains("3 attempts"));
    let attempts = attempts(pool, job).await.unwrap();
    assert!(attempts.iter().all(|attempt| attempt.outcome == Some(AttemptOutcome::Expired)));
    let last = events(pool, job, seen.last_sequence - 1, 10).await.unwrap();
    assert_eq!(last.last().unwrap().kind, EventKind::Failed);
}

#[tokio::test]
async fn more_than_one_batch_is_taken_in_one_look() {
    let database = Database::fresh().await;
    let pool = database.pool();
    for _ in 0..230 {
        enqueue(pool, 0).await;
        claim(pool, &patient()).await.unwrap();
    }
    sqlx::query("UPDATE jobs SET lease_until = clock_timestamp() - interval '1 second'").execute(pool).await.unwrap();
    assert_eq!(Reaper::new(eager()).tick(pool).await.unwrap(), 230);
}

/// Row 45 of the promises: any number of servers may look for expired leases.
#[tokio::test(flavor = "multi_thread")]
async fn five_reapers_take_each_expired_lease_once() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let mut jobs = Vec::new();
    for _ in 0..120 {
        jobs.push(enqueue(pool, 0).await);
        claim(pool, &patient()).await.unwrap();
    }
    sqlx::query("UPDATE jobs SET lease_until = clock_timestamp() - interval '1 second'").execute(pool).await.unwrap();
    let reap = |_| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut reaper = Reaper::new(eager());
            let mut taken = 0;
            for _ in 0..10 {
                taken += reaper.tick(&pool).await.unwrap();
            }
            taken
        })
    };
    let taken = futures::future::try_join_all((0..5).map(reap)).await.unwrap();
    assert_eq!(taken.iter().sum::<u64>(), jobs.len() as u64, "{taken:?}");
    for job in jobs {
        assert_eq!(look(pool, job).await.unwrap().crashes, 1);
    }
}

#[tokio::test]
async fn when_most_leases_run_out_at_once_it_waits_for_beats() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let mut held = Vec::new();
    for _ in 0..12 {
        enqueue(pool, 0).await;
        held.push(claim(pool, &patient()).await.unwrap());
    }
    for claim in &held[..11] {
        expire(pool, claim.job).await;
    }
    let ttl = Duration::from_millis(600);
    let policy = LeasePolicy { ttl, beat: Duration::ZERO, reaper_tick: Duration::from_mins(1), ..patient() };
    let mut reaper = Reaper::new(policy);
    settle(pool, ttl).await;
    assert_eq!(reaper.tick(pool).await.unwrap(), 0, "a crowd is no single death");
    // Ten of them come back; the one that does not is taken.
    for claim in &held[..10] {
        job::beat(pool, claim, &patient()).await.unwrap();
    }
    assert_eq!(reaper.tick(pool).await.unwrap(), 1);

    for claim in &held[..10] {
        expire(pool, claim.job).await;
    }
    assert_eq!(reaper.tick(pool).await.unwrap(), 0);
    tokio::time::sleep(ttl).await;
    assert_eq!(reaper.tick(pool).await.unwrap(), 10, "after one lease time nobody is coming");
}

/// Waits until the server counts as settled for leases of this length.
async fn settle(pool: &sqlx::PgPool, ttl: Duration) {
    sqlx::query(
        "SELECT pg_sleep(greatest(0, $1 - extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()))::float8)",
    )
    .bind(ttl.as_secs_f64() + 0.05)
    .execute(pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn it_rests_when_it_has_just_started() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    claim(pool, &patient()).await.unwrap();
    expire(pool, job).await;
    let mut reaper = Reaper::new(LeasePolicy { beat: Duration::from_mins(10), ..eager() });
    assert_eq!(reaper.tick(pool).await.unwrap(), 0, "whoever is alive has not had time to beat");
}

#[tokio::test]
async fn it_rests_after_a_gap_in_its_own_sight() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    claim(pool, &patient()).await.unwrap();
    let policy = LeasePolicy {
        ttl: Duration::from_millis(500),
        beat: Duration::ZERO,
        reaper_tick: Duration::from_millis(500),
        ..patient()
    };
    settle(pool, policy.ttl).await;
    let mut reaper = Reaper::new(policy);
    assert_eq!(reaper.tick(pool).await.unwrap(), 0, "the lease is good");
    expire(pool, job).await;
    tokio::time::sleep(4 * policy.reaper_tick).await;
    assert_eq!(reaper.tick(pool).await.unwrap(), 0, "it had not looked for longer than three ticks");
    // From here on it looks often enough, and may act once a lease time has passed.
    let since = Instant::now();
    while reaper.tick(pool).await.unwrap() == 0 {
        assert!(since.elapsed() < Duration::from_mins(1), "it rests for ever");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn after_a_restart_of_the_server_leases_get_their_time_again() {
    let mut postgres = TemporaryPostgres::start().await.unwrap();
    let pools = domain::Pools::connect(&postgres.url("postgres").unwrap()).await.unwrap();
    domain::migrate(&pools.lease).await.unwrap();
    enqueue(&pools.lease, 0).await;
    let held = claim(&pools.lease, &patient()).await.unwrap();
    sqlx::query("CHECKPOINT").execute(&pools.lease).await.unwrap();
    pools.close().await;

    postgres.crash().await.unwrap();
    let pools = domain::Pools::connect(&postgres.url("postgres").unwrap()).await.unwrap();
    let pool = &pools.lease;
    expire(pool, held.job).await;
    let ttl = Duration::from_secs(8);
    let mut reaper =
        Reaper::new(LeasePolicy { ttl, beat: Duration::ZERO, reaper_tick: Duration::from_mins(1), ..patient() });
    assert_eq!(reaper.tick(pool).await.unwrap(), 0, "the server has only just started");
    settle(pool, ttl).await;
    assert_eq!(reaper.tick(pool).await.unwrap(), 1);
}
