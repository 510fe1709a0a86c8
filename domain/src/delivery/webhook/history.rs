//! Deliveries to webhooks, as the owners of the project see it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::super::DeliveryStatus;
use super::{DISABLED, WebhookEvent};
use crate::database::bounded;
use crate::job::JobKind;
use crate::{
    Caller, Database, DeliveryId, Error, JobId, Page, PageRequest, ProjectId, Result, WebhookId, begin, event,
};

/// An event that is posted to a webhook.
#[derive(Clone, Debug)]
pub struct WebhookDelivery {
    pub id: DeliveryId,
    /// The webhook of the project; `None`: the one that the request names.
    pub webhook: Option<WebhookId>,
    /// The public id of the job.
    pub job: Uuid,
    pub event: WebhookEvent,
    pub status: DeliveryStatus,
    /// HTTP status of the last answer.
    pub status_code: Option<i32>,
    /// Number of tries.
    pub attempts: i32,
    /// When it is tried again, unless it has ended.
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// Filters of a list; `None` does not filter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub webhook: Option<WebhookId>,
    /// Public id of a job.
    pub job: Option<Uuid>,
    pub status: Option<DeliveryStatus>,
}

macro_rules! select_deliveries {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            WebhookDelivery,
            r#"SELECT d.id AS "id: DeliveryId", d.webhook_id AS "webhook: WebhookId", j.subject AS job,
                      d.event AS "event!: WebhookEvent", d.status AS "status: DeliveryStatus", d.status_code,
                      d.attempts, CASE WHEN d.status = 'pending' THEN d.due_at END AS next_attempt_at, d.error,
                      d.created_at, d.ended_at
               FROM deliveries d JOIN jobs j ON j.id = d.job_id
               WHERE d.project_id = $1 AND d.target = 'webhook' "# + $rest
            $(, $argument)*
        )
    };
}

/// Lists the deliveries to the webhooks of the caller's project and of its requests, newest first.
pub async fn list(
    caller: &Caller,
    database: &Database,
    filter: &Filter,
    page: &PageRequest,
) -> Result<Page<WebhookDelivery>> {
    let rows = select_deliveries!(
        "AND ($2::uuid IS NULL OR d.id < $2) AND ($4::uuid IS NULL OR d.webhook_id = $4)
         AND ($5::uuid IS NULL OR d.job_id = (SELECT s.id FROM jobs s WHERE s.subject = $5))
         AND ($6::text IS NULL OR d.status = $6)
         ORDER BY d.id DESC LIMIT $3",
        caller.project() as ProjectId,
        page.before(),
        page.fetch_limit(),
        filter.webhook as Option<WebhookId>,
        filter.job,
        filter.status.map(DeliveryStatus::as_str),
    );
    let rows = bounded(rows.fetch_all(database.pool(caller))).await?;
    Ok(page.cut(rows, |delivery| delivery.id.into()))
}

/// Posts an event once more, with the same id. Errors: `NotFound`; `Forbidden` without the scope of the job's kind;
/// `Conflict` for one that is about to be posted, whose webhook is disabled, or whose URL is forgotten.
pub async fn redeliver(caller: &Caller, database: &Database, id: DeliveryId) -> Result<WebhookDelivery> {
    let pool = database.pool(caller);
    let mut tx = begin(pool).await?;
    let row = sqlx::query!(
        r#"SELECT d.status AS "status: DeliveryStatus", d.job_id AS "job: JobId", j.kind AS "kind: JobKind",
                  j.last_sequence, coalesce(w.disabled_at, r.disabled_at) IS NOT NULL AS "disabled!",
                  coalesce(r.had_query AND r.query IS NULL, false) AS "forgotten!"
           FROM deliveries d JOIN jobs j ON j.id = d.job_id LEFT JOIN webhooks w ON w.id = d.webhook_id
           LEFT JOIN job_webhooks r ON r.job_id = d.job_id AND d.webhook_id IS NULL
           WHERE d.id = $1 AND d.project_id = $2 AND d.target = 'webhook' FOR UPDATE OF d"#,
        id as DeliveryId,
        caller.project() as ProjectId,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::not_found("delivery", id))?;
    caller.require(row.kind.spec().scope)?;
    if row.status == DeliveryStatus::Pending {
        return Err(Error::conflict("The event is about to be posted."));
    }
    if row.disabled {
        return Err(Error::conflict(DISABLED));
    }
    if row.forgotten {
        return Err(Error::conflict("The URL that the request named is forgotten."));
    }
    sqlx::query!(
        "UPDATE deliveries SET status = 'pending', attempts = 0, status_code = NULL, error = NULL, epoch = epoch + 1,
             sender = NULL, lease_until = NULL, due_at = clock_timestamp(), ended_at = NULL
         WHERE id = $1",
        id as DeliveryId,
    )
    .execute(&mut *tx)
    .await?;
    let again = select_deliveries!("AND d.id = $2", caller.project() as ProjectId, id as DeliveryId);
    let again = again.fetch_one(&mut *tx).await?;
    tx.commit().await?;
    event::announce(pool, row.job, row.last_sequence).await;
    Ok(again)
}
