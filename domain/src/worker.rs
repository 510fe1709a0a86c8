//! Worker processes, for people to look at. Nothing depends on these rows: whether a job is alive is told by its lease.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::database::bounded;
use crate::job::JobKind;
use crate::{Result, WorkerId};

/// One start of a worker process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    pub id: WorkerId,
    /// For people; the same after a restart.
    pub name: String,
    pub host: String,
    /// Such as `cpu` or `cuda:0`.
    pub device: String,
    /// Kinds of jobs that it claims.
    pub queues: Vec<String>,
    pub version: String,
    pub started_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub stopped_at: Option<DateTime<Utc>>,
}

/// Writes down that a process has started.
pub async fn register(
    pool: &PgPool,
    id: WorkerId,
    name: &str,
    host: &str,
    device: &str,
    queues: &[JobKind],
    version: &str,
) -> Result<()> {
    let queues: Vec<String> = queues.iter().map(|kind| kind.as_str().to_owned()).collect();
    bounded(
        sqlx::query!(
            "INSERT INTO workers (id, name, host, device, queues, version) VALUES ($1, $2, $3, $4, $5, $6)",
            id.0,
            name,
            host,
            device,
            &queues,
            version,
        )
        .execute(pool),
    )
    .await?;
    Ok(())
}

/// A sign of life.
pub async fn seen(pool: &PgPool, id: WorkerId) -> Result<()> {
    bounded(sqlx::query!("UPDATE workers SET last_seen_at = clock_timestamp() WHERE id = $1", id.0).execute(pool))
        .await?;
    Ok(())
}

/// An orderly end.
pub async fn stopped(pool: &PgPool, id: WorkerId) -> Result<()> {
    bounded(
        sqlx::query!(
            "UPDATE workers SET last_seen_at = clock_timestamp(), stopped_at = clock_timestamp() WHERE id = $1 AND stopped_at IS NULL",
            id.0,
        )
        .execute(pool),
    )
    .await?;
    Ok(())
}

/// Those that have not stopped, newest first, at most `limit`.
pub async fn list(pool: &PgPool, limit: i64) -> Result<Vec<Worker>> {
    bounded(
        sqlx::query_as!(
            Worker,
            r#"SELECT id AS "id: WorkerId", name, host, device, queues, version, started_at, last_seen_at, stopped_at
               FROM workers WHERE stopped_at IS NULL ORDER BY id DESC LIMIT $1"#,
            limit,
        )
        .fetch_all(pool),
    )
    .await
}
