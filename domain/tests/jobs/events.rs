//! Events: numbered without gaps, replayed from anywhere, announced after the commit.

use std::time::Duration;

use domain::event::{self, EventKind, Feed, Signal};
use domain::job;
use serde_json::json;

use super::{Database, claim, enqueue, events, patient, succeed};

#[tokio::test]
async fn numbers_have_no_gap_and_replay_starts_anywhere() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    let held = claim(pool, &patient()).await.unwrap();
    // Reports from two sides of the worker at once.
    let reports = (0..8).map(|step| {
        let pool = pool.clone();
        tokio::spawn(async move {
            if step % 2 == 0 {
                job::progress(&pool, &held, step, 20, json!({})).await.unwrap()
            } else {
                event::record(&pool, &held, EventKind::Warning, &json!({ "message": "hot" })).await.unwrap()
            }
        })
    });
    let mut numbers: Vec<i64> = futures::future::join_all(reports).await.into_iter().map(Result::unwrap).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (3..11).collect::<Vec<i64>>());
    succeed(pool, &held).await.unwrap();

    let all = events(pool, job, 0, 100).await.unwrap();
    assert_eq!(all.iter().map(|event| event.sequence).collect::<Vec<_>>(), (1..=11).collect::<Vec<i64>>());
    assert_eq!((all[0].kind, all[1].kind, all[10].kind), (EventKind::Queued, EventKind::Started, EventKind::Succeeded));
    assert_eq!(events(pool, job, 5, 3).await.unwrap(), all[5..8]);
    assert_eq!(events(pool, job, 11, 3).await.unwrap(), []);
}

#[tokio::test]
async fn the_feed_tells_every_subscriber() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let feed = Feed::start(database.pools.listen.clone()).await;
    let (mut one, mut two) = (feed.subscribe(), feed.clone().subscribe());
    let job = enqueue(pool, 0).await;
    let held = claim(pool, &patient()).await.unwrap();
    let sequence = job::progress(pool, &held, 1, 2, json!({})).await.unwrap();
    for subscription in [&mut one, &mut two] {
        let heard = async {
            loop {
                if let Signal::Changed { job: about, sequence } = subscription.next().await
                    && about == job
                    && sequence == 3
                {
                    return sequence;
                }
            }
        };
        assert_eq!(tokio::time::timeout(Duration::from_mins(1), heard).await.unwrap(), sequence);
    }
}

#[tokio::test]
async fn after_a_lost_connection_subscribers_are_told_to_look() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let feed = Feed::start(database.pools.listen.clone()).await;
    let mut subscription = feed.subscribe();
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = 'pyrograph listen' AND datname = current_database()",
    )
    .execute(pool)
    .await
    .unwrap();
    let signal = tokio::time::timeout(Duration::from_mins(1), subscription.next()).await.unwrap();
    assert_eq!(signal, Signal::Resync);
    let job = enqueue(pool, 0).await;
    event::announce(pool, job, 1).await;
    let signal = tokio::time::timeout(Duration::from_mins(1), subscription.next()).await.unwrap();
    assert_eq!(signal, Signal::Changed { job, sequence: 1 });
}
