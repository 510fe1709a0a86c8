//! Recognises a connection pooler that gives each transaction another session, as PgBouncer does in transaction mode.
//! LISTEN, session settings, prepared statements and the lock of the migrations need one session.

use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _};
use tokio::time::timeout;

use super::address::Address;

/// Longest wait for each answer. A pooler in session mode without a free session does not answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Whether connections to `address` share their sessions. `first` is one of them.
///
/// A second connection begins a transaction: in a shared session it gets the one that the first has just used, or else
/// takes another one away, which the first then does not get.
pub(super) async fn shares_sessions(first: &mut PgConnection, address: &Address) -> bool {
    let Ok(before) = session(first).await else { return false };
    // Without a free connection, nothing is known, and a direct server is the usual case.
    let Ok(Ok(mut second)) = timeout(ANSWER, address.options.connect()).await else { return false };
    let shared = match timeout(ANSWER, second.execute("BEGIN")).await {
        Ok(Ok(_)) => match session(&mut second).await {
            Ok(other) if other == before => true,
            Ok(_) => session(first).await.is_ok_and(|now| now != before),
            Err(_) => false,
        },
        // Statement mode refuses transactions.
        Ok(Err(_)) => true,
        Err(_) => false,
    };
    let _ = timeout(ANSWER, second.execute("ROLLBACK")).await;
    let _ = timeout(ANSWER, second.close()).await;
    shared
}

/// The server process behind a connection.
async fn session(connection: &mut PgConnection) -> sqlx::Result<i32> {
    let row = timeout(ANSWER, sqlx::raw_sql("SELECT pg_backend_pid() AS session").fetch_one(connection)).await;
    row.map_err(|_| sqlx::Error::PoolTimedOut)??.try_get("session")
}
