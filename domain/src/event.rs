//! What happens to a job, as rows that can be replayed from any point, and a feed that signals when to read them.
//!
//! Events are numbered 1, 2, 3 … for each job under the lock of its row, so a reader that has event `n` and asks for
//! later ones misses nothing. NOTIFY carries only `job:sequence`, is sent after the commit, and may be lost.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgExecutor, PgPool};
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

use crate::database::bounded;
use crate::job::Claim;
use crate::notice::{Notice, Notices};
use crate::{Caller, Database, Error, JobId, ProjectId, Result};

const CHANNEL: &str = "pyrograph_events";
/// A subscriber that falls further behind than this gets [`Signal::Resync`].
const BACKLOG: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum EventKind {
    Queued,
    Started,
    Progress,
    Checkpoint,
    Warning,
    Retrying,
    Succeeded,
    Failed,
    Canceled,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Queued => "queued",
            EventKind::Started => "started",
            EventKind::Progress => "progress",
            EventKind::Checkpoint => "checkpoint",
            EventKind::Warning => "warning",
            EventKind::Retrying => "retrying",
            EventKind::Succeeded => "succeeded",
            EventKind::Failed => "failed",
            EventKind::Canceled => "canceled",
        }
    }

    /// No event follows one of these.
    pub fn is_terminal(self) -> bool {
        matches!(self, EventKind::Succeeded | EventKind::Failed | EventKind::Canceled)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// 1, 2, 3 … for each job.
    pub sequence: i64,
    pub kind: EventKind,
    /// started `{attempt}` · progress `{step, total_steps, …}` · checkpoint `{step}` · warning `{message}` ·
    /// retrying `{reason, message, run_at}` · failed `{class, message}`.
    pub data: Value,
    pub created_at: DateTime<Utc>,
}

/// The events of a job that follow number `sequence` (0 = all), oldest first, at most `limit`.
pub async fn after(caller: &Caller, database: &Database, job: JobId, sequence: i64, limit: i64) -> Result<Vec<Event>> {
    bounded(
        sqlx::query_as!(
            Event,
            r#"SELECT sequence, kind AS "kind: EventKind", data, created_at
               FROM job_events
               WHERE job_id = $1 AND sequence > $2 AND EXISTS (SELECT FROM jobs WHERE id = $1 AND project_id = $4)
               ORDER BY sequence LIMIT $3"#,
            job.0,
            sequence,
            limit,
            caller.project() as ProjectId,
        )
        .fetch_all(database.pool(caller)),
    )
    .await
}

/// Adds an event in the name of an attempt, if it still holds its job. Call [`announce`] after the commit.
///
/// # Errors
/// `LeaseLost`.
pub async fn record(executor: impl PgExecutor<'_>, claim: &Claim, kind: EventKind, data: &Value) -> Result<i64> {
    bounded(
        sqlx::query_scalar!(
            r#"WITH job AS (
                   UPDATE jobs SET last_sequence = last_sequence + 1
                   WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running'
                   RETURNING id, last_sequence)
               INSERT INTO job_events (job_id, sequence, kind, data)
               SELECT id, last_sequence, $4, $5 FROM job
               RETURNING sequence"#,
            claim.job.0,
            claim.epoch,
            claim.worker.0,
            kind.as_str(),
            data,
        )
        .fetch_optional(executor),
    )
    .await?
    .ok_or(Error::LeaseLost)
}

/// Notifies listeners that events up to `sequence` are committed. A failure is only logged, since readers also poll.
pub async fn announce(pool: &PgPool, job: JobId, sequence: i64) {
    let payload = format!("{}:{sequence}", job.0);
    if let Err(error) = bounded(sqlx::query!("SELECT pg_notify($1, $2)", CHANNEL, payload).execute(pool)).await {
        tracing::debug!(sequence, %error, "event not announced");
    }
}

/// What a subscriber receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The job has events up to this one.
    Changed { job: JobId, sequence: i64 },
    /// Signals may have been lost: read the rows.
    Resync,
}

/// One listening connection for the whole process, shared by any number of subscribers.
#[derive(Debug, Clone)]
pub struct Feed {
    sender: broadcast::Sender<Signal>,
    _task: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Feed {
    /// Listens on a connection of `listen` until the last clone is dropped, through any number of reconnects.
    pub async fn start(listen: PgPool) -> Feed {
        let (sender, _) = broadcast::channel(BACKLOG);
        let mut notices = Notices::of(listen, CHANNEL);
        notices.ready().await;
        let to_all = sender.clone();
        let task = tokio::spawn(async move {
            loop {
                let signal = match notices.next().await {
                    Notice::Payload(payload) => parse(&payload).unwrap_or(Signal::Resync),
                    Notice::Reconnected => Signal::Resync,
                };
                // An error only means that nobody is subscribed.
                let _ = to_all.send(signal);
            }
        });
        Feed { sender, _task: Arc::new(AbortOnDrop(task.abort_handle())) }
    }

    /// Receives all that is announced from now on.
    pub fn subscribe(&self) -> Subscription {
        Subscription { receiver: self.sender.subscribe() }
    }
}

fn parse(payload: &str) -> Option<Signal> {
    let (job, sequence) = payload.split_once(':')?;
    Some(Signal::Changed { job: job.parse().ok()?, sequence: sequence.parse().ok()? })
}

#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Signal>,
}

impl Subscription {
    /// Waits for the next signal. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        match self.receiver.recv().await {
            Ok(signal) => signal,
            Err(broadcast::error::RecvError::Lagged(_)) => Signal::Resync,
            // The feed has stopped, and the process soon will: the caller's own polling is all that is left.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Waits until `job` may have new events. Cancel-safe.
    pub async fn news_of(&mut self, job: JobId) {
        loop {
            match self.next().await {
                Signal::Changed { job: other, .. } if other != job => {}
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_name_job_and_sequence() {
        let job = JobId::new();
        assert_eq!(parse(&format!("{}:12", job.0)), Some(Signal::Changed { job, sequence: 12 }));
        for wrong in ["", "12", "a:b", &format!("{}:", job.0), &job.0.to_string()] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
