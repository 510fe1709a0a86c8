//! The database as a whole: what the pools guarantee when futures are dropped midway, and what migrations preserve.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod migrating;
mod migrations;
mod unusable;

use std::time::Duration;

use domain::{MIGRATIONS, Pools, begin};
use embedded::TemporaryDatabase;

/// A client that disconnects, or a time limit, may drop a future anywhere, also between `BEGIN` and its reply.
#[tokio::test]
async fn a_begin_that_was_given_up_leaves_no_transaction_open() {
    let database = TemporaryDatabase::create(&MIGRATIONS).await.unwrap();
    let pool = Pools::connect(database.url()).await.unwrap().lease;
    for round in 0..400 {
        let limit = Duration::from_micros(round * 13 % 1500);
        let _ = tokio::time::timeout(limit, begin(&pool)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let open: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(open, 0);
}
