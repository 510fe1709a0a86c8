//! Webhooks: events of jobs that are posted to endpoints, those of a project and those that requests name. The trigger
//! `deliver_job` of migration 0023 writes them. Not here: the endpoints of a project (`crate::webhook`), and how an
//! event is signed and sent (the crate `outbox`).

pub mod history;

use outgoing::Guard;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use super::signing::{self, SigningSecret};
use super::{Claimed, SECRETS_KEPT, SecretUrl};
use crate::database::bounded;
use crate::faults::Faults;
use crate::{DeliveryId, Error, JobId, ProjectId, Result, WebhookId, begin};

/// Why events are not posted to a disabled webhook.
pub const DISABLED: &str = "The webhook is disabled.";
/// Why a webhook was disabled that its endpoint does not want any more.
const GONE: &str = "The endpoint answered 410 Gone.";

/// What a webhook may be notified of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum WebhookEvent {
    /// An attempt has begun. A job that is tried again begins again.
    Started,
    /// Steps were done; at most twice in a second, and never sent again.
    Progress,
    Succeeded,
    Failed,
    Canceled,
}

impl WebhookEvent {
    /// Those that are meant if a request names none.
    pub const BY_DEFAULT: [Self; 3] = [Self::Succeeded, Self::Failed, Self::Canceled];

    /// The name in rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Progress => "progress",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

/// An endpoint that is notified of the job that the request makes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"url": "https://example.com/pyrograph", "events": ["succeeded", "failed"]}))]
pub struct JobWebhookRequest {
    /// URL to which events are posted. Its query is shown nowhere.
    #[schema(min_length = 1, max_length = 8192)]
    pub url: String,
    /// Events to be posted; `succeeded`, `failed` and `canceled` by default.
    #[schema(min_items = 1, max_items = 5)]
    #[serde(default)]
    pub events: Option<Vec<WebhookEvent>>,
}

/// The endpoint that a job's request names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobWebhook {
    /// Its URL without the query.
    #[schema(format = "uri")]
    pub url: String,
    pub events: Vec<WebhookEvent>,
}

/// A checked endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub url: SecretUrl,
    pub events: Vec<WebhookEvent>,
}

impl Endpoint {
    /// Checks the field `webhook` of a request. Errors: `Invalid` or `Several` for the URL and the events.
    pub(crate) fn of(request: Option<&JobWebhookRequest>, guard: &Guard) -> Result<Option<Self>> {
        let Some(request) = request else { return Ok(None) };
        let mut faults = Faults::default();
        let url = faults.take(SecretUrl::parse("webhook.url", &request.url, guard).map(Some));
        let events = faults.take(checked_events("webhook.events", request.events.as_deref()));
        faults.check()?;
        Ok(url.map(|url| Self { url, events }))
    }

    /// As answers show it.
    pub(crate) fn shown(&self) -> JobWebhook {
        JobWebhook { url: self.url.address(), events: self.events.clone() }
    }
}

/// The events, or those that are meant without any. Errors: `Invalid` for an empty list, and for an event that is named
/// twice.
pub(crate) fn checked_events(field: &str, events: Option<&[WebhookEvent]>) -> Result<Vec<WebhookEvent>> {
    let Some(events) = events else { return Ok(WebhookEvent::BY_DEFAULT.to_vec()) };
    if events.is_empty() {
        return Err(Error::invalid(field, "Name at least one event."));
    }
    for (at, event) in events.iter().enumerate() {
        if events[..at].contains(event) {
            return Err(Error::invalid(format!("{field}[{at}]"), format!("`{}` is named twice.", event.as_str())));
        }
    }
    Ok(events.to_vec())
}

/// Their names, as rows have them.
pub(crate) fn names(events: &[WebhookEvent]) -> Vec<String> {
    events.iter().map(|event| event.as_str().to_owned()).collect()
}

/// Endpoints to be written with jobs, by columns.
#[derive(Debug, Default)]
pub(crate) struct NewEndpoints {
    pub jobs: Vec<uuid::Uuid>,
    pub urls: Vec<String>,
    pub queries: Vec<Option<String>>,
    /// Names, separated by commas.
    pub events: Vec<String>,
}

impl NewEndpoints {
    pub(crate) fn add(&mut self, job: uuid::Uuid, endpoint: &Endpoint) {
        self.jobs.push(job);
        self.urls.push(endpoint.url.address());
        self.queries.push(endpoint.url.query().map(str::to_owned));
        self.events.push(names(&endpoint.events).join(","));
    }
}

/// Writes the endpoint of a job, in the transaction that enqueues it.
pub(crate) async fn attach(connection: &mut PgConnection, job: JobId, endpoint: &Endpoint) -> Result<()> {
    let query = endpoint.url.query();
    sqlx::query!(
        "INSERT INTO job_webhooks (job_id, url, query, had_query, events) VALUES ($1, $2, $3, $4, $5)",
        job as JobId,
        endpoint.url.address(),
        query,
        query.is_some(),
        &names(&endpoint.events),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The endpoint of a failed job, for the one that repeats it. Errors: `Conflict` if its URL is forgotten.
pub(crate) async fn of_failed(connection: &mut PgConnection, failed: JobId) -> Result<Option<Endpoint>> {
    let row = sqlx::query!(
        r#"SELECT url, query, had_query, to_jsonb(events) AS "events!: Json<Vec<WebhookEvent>>" FROM job_webhooks
           WHERE job_id = $1 AND disabled_at IS NULL"#,
        failed as JobId,
    );
    let Some(row) = row.fetch_optional(connection).await? else { return Ok(None) };
    if row.had_query && row.query.is_none() {
        return Err(Error::conflict_in("webhook", "The URL of its webhook is forgotten: state a new `webhook`."));
    }
    Ok(Some(Endpoint { url: SecretUrl::join(&row.url, row.query.as_deref())?, events: row.events.0 }))
}

/// What a try needs.
#[derive(Debug)]
pub struct Post {
    pub url: SecretUrl,
    pub event: WebhookEvent,
    /// The same at each try.
    pub body: String,
    /// It is signed with each of them.
    pub secrets: Vec<SigningSecret>,
    /// `None`: the one that the request names.
    webhook: Option<WebhookId>,
}

/// `None` if the webhook is disabled, or its URL forgotten. Errors: `LeaseLost` if the row was changed or deleted
/// meanwhile.
pub async fn load(pool: &PgPool, claimed: &Claimed) -> Result<Option<Post>> {
    let row = bounded(
        sqlx::query!(
            r#"SELECT d.project_id AS "project: ProjectId", d.webhook_id AS "webhook: WebhookId",
                      d.event AS "event!: WebhookEvent", d.body::text AS "body!", coalesce(w.url, r.url) AS "url!",
                      coalesce(w.query, r.query) AS query,
                      coalesce(w.disabled_at, r.disabled_at) IS NOT NULL AS "disabled!",
                      coalesce(r.had_query AND r.query IS NULL, false) AS "forgotten!"
               FROM deliveries d LEFT JOIN webhooks w ON w.id = d.webhook_id
               LEFT JOIN job_webhooks r ON r.job_id = d.job_id AND d.webhook_id IS NULL
               WHERE d.id = $1 AND d.epoch = $2 AND d.sender = $3"#,
            claimed.id as DeliveryId,
            claimed.epoch,
            claimed.sender,
        )
        .fetch_optional(pool),
    )
    .await?
    .ok_or(Error::LeaseLost)?;
    if row.disabled || row.forgotten {
        return Ok(None);
    }
    Ok(Some(Post {
        url: SecretUrl::join(&row.url, row.query.as_deref())?,
        event: row.event,
        body: row.body,
        secrets: signing::of_project(pool, row.project).await?,
        webhook: row.webhook,
    }))
}

/// Disables the webhook of a try whose endpoint does not want any more, unless its URL was changed meanwhile, and ends
/// its other deliveries.
pub async fn disable_gone(pool: &PgPool, claimed: &Claimed, post: &Post) -> Result<()> {
    bounded(async {
        let mut tx = begin(pool).await?;
        if let Some(webhook) = post.webhook {
            let disabled = sqlx::query!(
                "UPDATE webhooks SET disabled_at = clock_timestamp(), disabled_reason = $4
                 WHERE id = $1 AND url = $2 AND query IS NOT DISTINCT FROM $3 AND disabled_at IS NULL",
                webhook as WebhookId,
                post.url.address(),
                post.url.query(),
                GONE,
            )
            .execute(&mut *tx)
            .await?;
            if disabled.rows_affected() > 0 {
                end_pending(&mut tx, webhook, Some(claimed.id)).await?;
            }
        } else {
            sqlx::query!(
                "WITH disabled AS (
                     UPDATE job_webhooks SET disabled_at = clock_timestamp(), query = NULL WHERE job_id = $1)
                 UPDATE deliveries SET status = 'failed', error = $3, ended_at = clock_timestamp(), sender = NULL,
                     lease_until = NULL, epoch = epoch + 1
                 WHERE job_id = $1 AND target = 'webhook' AND webhook_id IS NULL AND status = 'pending' AND id <> $2",
                claimed.job as JobId,
                claimed.id as DeliveryId,
                DISABLED,
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok::<_, Error>(())
    })
    .await
}

/// Ends what would still be posted to a webhook that is disabled, except one delivery.
pub(crate) async fn end_pending(
    connection: &mut PgConnection,
    webhook: WebhookId,
    except: Option<DeliveryId>,
) -> Result<()> {
    sqlx::query!(
        "UPDATE deliveries SET status = 'failed', error = $3, ended_at = clock_timestamp(), sender = NULL,
             lease_until = NULL, epoch = epoch + 1
         WHERE webhook_id = $1 AND status = 'pending' AND id IS DISTINCT FROM $2",
        webhook as WebhookId,
        except as Option<DeliveryId>,
        DISABLED,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets the queries of requests' URLs a day after the last event, and removes old progress and expired secrets.
pub(super) async fn tidy(pool: &PgPool) -> Result<()> {
    bounded(
        sqlx::query!(
            "WITH forgotten AS (
                 UPDATE job_webhooks w SET query = NULL FROM jobs j
                 WHERE w.query IS NOT NULL AND j.id = w.job_id
                   AND j.finished_at < clock_timestamp() - make_interval(secs => $1)
                   AND NOT EXISTS (
                     SELECT FROM deliveries d
                     WHERE d.job_id = w.job_id AND d.target = 'webhook' AND d.webhook_id IS NULL
                       AND (d.status = 'pending' OR d.ended_at > clock_timestamp() - make_interval(secs => $1)))),
             expired AS (DELETE FROM webhook_secrets WHERE expires_at < clock_timestamp())
             DELETE FROM deliveries
             WHERE event = 'progress' AND created_at < clock_timestamp() - make_interval(secs => $1)",
            SECRETS_KEPT.as_secs_f64(),
        )
        .execute(pool),
    )
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(webhook: serde_json::Value) -> Result<Option<Endpoint>> {
        let request: JobWebhookRequest = serde_json::from_value(webhook).unwrap();
        Endpoint::of(Some(&request), &Guard::default())
    }

    #[test]
    fn a_request_names_an_endpoint_and_events() {
        let endpoint = checked(json!({"url": "https://example.com/a?key=s3cret"})).unwrap().unwrap();
        assert_eq!(endpoint.events, WebhookEvent::BY_DEFAULT);
        assert_eq!(endpoint.shown().url, "https://example.com/a");
        for (webhook, field) in [
            (json!({"url": "https://10.0.0.1/"}), "webhook.url"),
            (json!({"url": "http://example.com/"}), "webhook.url"),
            (json!({"url": "https://example.com/", "events": []}), "webhook.events"),
            (json!({"url": "https://example.com/", "events": ["failed", "failed"]}), "webhook.events[1]"),
        ] {
            let error = checked(webhook).unwrap_err();
            assert!(matches!(&error, Error::Invalid { field: named, .. } if named == field), "{error}");
        }
        assert!(matches!(checked(json!({"url": "x", "events": []})), Err(Error::Several(errors)) if errors.len() == 2));
    }
}
