//! The outbox: deliveries about jobs, as rows. A row becomes due in the transaction that changes the state
//! of its job (the trigger `deliver_job` of migration 0023), so that neither can be without the other. A sender leases
//! a row for one try, which has a time limit below that of the lease; what it reports is fenced, as for jobs.
//!
//! Not here: the sending itself (the crate `outbox`).

pub mod archive;
mod presigned;
pub mod request;
pub mod signing;
pub mod upload;
pub mod webhook;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::presigned::SecretUrl;
use crate::database::bounded;
use crate::{Caller, Database, DeliveryId, Error, JobId, Result, event};

/// How long a row is leased for a try.
const LEASE: Duration = Duration::from_secs(90);
/// Limit of a try, with the look at our own bucket. Less than the lease, so that no two tries overlap.
pub const TRY: Duration = Duration::from_mins(1);
/// Deliveries of one project to one kind of target that are under way, so that slow endpoints of one project do not
/// keep others waiting.
const AT_ONCE_EACH: i64 = 8;
/// How long the secrets of an upload that could not be delivered are kept.
pub const SECRETS_KEPT: Duration = Duration::from_hours(24);

/// What a delivery goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = DeliveryTarget)]
pub enum Target {
    /// A picture, to a URL of the caller.
    Upload,
    /// A picture and its request, to the archive.
    Archive,
    /// An event, to an endpoint.
    Webhook,
}

impl Target {
    /// The name in rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Archive => "archive",
            Self::Webhook => "webhook",
        }
    }
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// The job has not ended.
    Waiting,
    /// To be sent, or to be tried again.
    Pending,
    Succeeded,
    /// It is not tried again.
    Failed,
    /// Not sent, since the job did not succeed.
    Canceled,
}

impl DeliveryStatus {
    /// The name in rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

/// A delivery, as the database's JSON carries it.
#[derive(Clone, Debug, Deserialize)]
pub struct Delivery {
    pub status: DeliveryStatus,
    /// HTTP status of the last answer.
    pub status_code: Option<i32>,
    /// Number of tries.
    pub attempts: i32,
    pub error: Option<String>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// A delivery that is leased for one try.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub id: DeliveryId,
    pub target: Target,
    pub job: JobId,
    /// The public id of the job, for logs.
    pub subject: Uuid,
    /// The fencing token.
    pub epoch: i64,
    sender: Uuid,
    /// Number of this try, from 1.
    pub attempt: i32,
}

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    /// It is tried again after this time.
    Retry(Duration),
    /// As [`Outcome::Retry`], for trouble on our side, which does not count as a try.
    Later(Duration),
    /// It is not tried again.
    Failed,
}

/// The answer of the other side, as far as there was one. The sentence contains neither a query nor a body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub status_code: Option<u16>,
    pub error: Option<String>,
}

impl Answer {
    /// There was none, for this reason.
    pub fn error(error: impl Into<String>) -> Self {
        Self { status_code: None, error: Some(error.into()) }
    }
}

/// Leases deliveries to `target` that are due, at most `limit`, to `sender`, an id of the process.
pub async fn claim(pool: &PgPool, sender: Uuid, target: Target, limit: i64) -> Result<Vec<Claimed>> {
    bounded(
        sqlx::query_as!(
            Claimed,
            r#"WITH due AS (
                   SELECT id FROM deliveries d
                   WHERE status = 'pending' AND target = $1 AND due_at <= clock_timestamp()
                     AND (lease_until IS NULL OR lease_until < clock_timestamp())
                     AND (SELECT count(*) FROM deliveries o
                          WHERE o.project_id = d.project_id AND o.target = d.target
                            AND o.lease_until > clock_timestamp()) < $5
                   ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED)
               UPDATE deliveries d SET epoch = d.epoch + 1, attempts = d.attempts + 1, sender = $3,
                   lease_until = clock_timestamp() + make_interval(secs => $4)
               FROM due, jobs WHERE d.id = due.id AND jobs.id = d.job_id
               RETURNING d.id AS "id: DeliveryId", d.target AS "target: Target", d.job_id AS "job: JobId",
                   jobs.subject, d.epoch, d.sender AS "sender!", d.attempts AS attempt"#,
            target.as_str(),
            limit,
            sender,
            LEASE.as_secs_f64(),
            AT_ONCE_EACH,
        )
        .fetch_all(pool),
    )
    .await
}

/// Records how a try ended, and notifies those who wait for it.
///
/// # Errors
/// `LeaseLost`: the row was changed or deleted meanwhile, and nothing is recorded. `Unavailable`: report again.
pub async fn settle(pool: &PgPool, claimed: &Claimed, outcome: &Outcome, answer: &Answer) -> Result<()> {
    let (status, pause, counts) = match outcome {
        Outcome::Delivered => ("succeeded", Duration::ZERO, true),
        Outcome::Failed => ("failed", Duration::ZERO, true),
        Outcome::Retry(pause) => ("pending", *pause, true),
        Outcome::Later(pause) => ("pending", *pause, false),
    };
    let sequence = bounded(
        sqlx::query_scalar!(
            r#"WITH ended AS (
                   UPDATE deliveries SET status = $4, attempts = attempts - (NOT $6)::int, status_code = $7, error = $8,
                       sender = NULL, lease_until = NULL, due_at = clock_timestamp() + make_interval(secs => $5),
                       ended_at = CASE WHEN $4 <> 'pending' THEN clock_timestamp() END
                   WHERE id = $1 AND epoch = $2 AND sender = $3 AND status = 'pending'
                   RETURNING id, job_id, target, webhook_id, status),
               forgotten AS (
                   DELETE FROM delivery_secrets USING ended
                   WHERE delivery_id = ended.id AND ended.status = 'succeeded'),
               done AS (
                   UPDATE job_webhooks w SET query = NULL FROM ended JOIN jobs j ON j.id = ended.job_id
                   WHERE w.job_id = ended.job_id AND w.query IS NOT NULL AND ended.target = 'webhook'
                     AND ended.webhook_id IS NULL AND ended.status = 'succeeded'
                     AND j.status IN ('succeeded', 'canceled')
                     AND NOT EXISTS (
                       SELECT FROM deliveries o
                       WHERE o.job_id = ended.job_id AND o.target = 'webhook' AND o.webhook_id IS NULL
                         AND o.id <> ended.id AND o.status <> 'succeeded' AND o.event <> 'progress'))
               SELECT last_sequence FROM jobs JOIN ended ON ended.job_id = jobs.id"#,
            claimed.id as DeliveryId,
            claimed.epoch,
            claimed.sender,
            status,
            pause.as_secs_f64(),
            counts,
            answer.status_code.map(i32::from),
            answer.error.as_deref(),
        )
        .fetch_optional(pool),
    )
    .await?
    .ok_or(Error::LeaseLost)?;
    // Clients that wait for the delivery look again, as at an event.
    if status != "pending" {
        event::announce(pool, claimed.job, sequence).await;
    }
    Ok(())
}

/// The deliveries to one kind of target, of all projects.
#[derive(Debug, Clone)]
pub struct Queue {
    pub target: Target,
    /// Due, or to be tried again.
    pub pending: i64,
    /// Age of the oldest of these in seconds.
    pub oldest_seconds: Option<f64>,
    /// Failed within the last day.
    pub failed_today: i64,
}

/// The outbox of the installation, by kind of target.
pub async fn queues(caller: &Caller, database: &Database) -> Result<Vec<Queue>> {
    bounded(
        sqlx::query_as!(
            Queue,
            r#"SELECT t.target AS "target!: Target",
                      (SELECT count(*) FROM deliveries d WHERE d.target = t.target AND d.status = 'pending')
                        AS "pending!",
                      (SELECT extract(epoch FROM clock_timestamp() - min(d.created_at))::float8 FROM deliveries d
                       WHERE d.target = t.target AND d.status = 'pending') AS oldest_seconds,
                      (SELECT count(*) FROM deliveries d
                       WHERE d.target = t.target AND d.status = 'failed'
                         AND d.ended_at > clock_timestamp() - interval '1 day') AS "failed_today!"
               FROM unnest(ARRAY['upload', 'archive', 'webhook']) AS t(target)"#,
        )
        .fetch_all(database.pool(caller)),
    )
    .await
}

/// Deletes what would still be sent about a deleted job, except its webhooks: they say what has happened.
pub(crate) async fn forget(connection: &mut PgConnection, job: JobId) -> Result<()> {
    let forgotten = sqlx::query!("DELETE FROM deliveries WHERE job_id = $1 AND position IS NOT NULL", job as JobId);
    forgotten.execute(connection).await?;
    Ok(())
}

/// Forgets the secrets of uploads that were not delivered within a day: their job did not succeed, or the delivery
/// has failed. Those of webhooks, too.
pub(crate) async fn tidy(pool: &PgPool) -> Result<()> {
    bounded(
        sqlx::query!(
            "WITH abandoned AS (
                 UPDATE deliveries d SET status = CASE d.status WHEN 'waiting' THEN 'canceled' ELSE 'failed' END,
                     ended_at = clock_timestamp(), sender = NULL, lease_until = NULL, epoch = d.epoch + 1,
                     error = coalesce(d.error, 'It could not be delivered within a day.')
                 FROM jobs j
                 WHERE j.id = d.job_id AND d.target = 'upload' AND d.status IN ('waiting', 'pending')
                   AND greatest(j.finished_at, d.due_at) < clock_timestamp() - make_interval(secs => $1)
                   AND j.finished_at IS NOT NULL
                 RETURNING d.id)
             DELETE FROM delivery_secrets s USING deliveries d
             WHERE d.id = s.delivery_id
               AND (d.id IN (SELECT id FROM abandoned)
                    OR d.ended_at < clock_timestamp() - make_interval(secs => $1))",
            SECRETS_KEPT.as_secs_f64(),
        )
        .execute(pool),
    )
    .await?;
    webhook::tidy(pool).await
}
