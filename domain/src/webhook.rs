//! Webhooks of a project: endpoints that are notified of all its jobs. Not here: their deliveries (`delivery`).

use chrono::{DateTime, Utc};
use outgoing::Guard;
use serde::Deserialize;
use serde_json::json;
use sqlx::types::Json;
use utoipa::ToSchema;

use crate::database::bounded;
use crate::delivery::SecretUrl;
use crate::delivery::webhook::{WebhookEvent, checked_events, end_pending, names};
use crate::faults::Faults;
use crate::{Caller, Database, Error, Page, PageRequest, ProjectId, Result, WebhookId, audit, begin};

/// Most webhooks of a project.
const MOST: i64 = 50;

/// A webhook to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"url": "https://example.com/pyrograph"}))]
pub struct WebhookRequest {
    /// URL to which events are posted. Its query is shown nowhere.
    #[schema(min_length = 1, max_length = 8192)]
    pub url: String,
    /// Events to be posted; `succeeded`, `failed` and `canceled` by default.
    #[schema(min_items = 1, max_items = 5)]
    #[serde(default)]
    pub events: Option<Vec<WebhookEvent>>,
}

/// Changes of a webhook. Fields that are left out stay.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"enabled": true}))]
pub struct WebhookChanges {
    /// URL to which events are posted.
    #[schema(min_length = 1, max_length = 8192)]
    #[serde(default)]
    pub url: Option<String>,
    /// Events to be posted.
    #[schema(min_items = 1, max_items = 5)]
    #[serde(default)]
    pub events: Option<Vec<WebhookEvent>>,
    /// Whether events are posted. Disabling it ends the deliveries that are pending.
    #[serde(default)]
    pub enabled: Option<bool>,
}

/// A webhook.
#[derive(Clone, Debug)]
pub struct Webhook {
    pub id: WebhookId,
    /// Its URL without the query.
    pub url: String,
    pub events: Vec<WebhookEvent>,
    pub created_at: DateTime<Utc>,
    /// Since when nothing is posted to it.
    pub disabled_at: Option<DateTime<Utc>>,
    /// A sentence.
    pub disabled_reason: Option<String>,
}

/// A row as the queries below return it.
struct Row {
    id: WebhookId,
    url: String,
    events: Json<Vec<WebhookEvent>>,
    created_at: DateTime<Utc>,
    disabled_at: Option<DateTime<Utc>>,
    disabled_reason: Option<String>,
}

impl From<Row> for Webhook {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            url: row.url,
            events: row.events.0,
            created_at: row.created_at,
            disabled_at: row.disabled_at,
            disabled_reason: row.disabled_reason,
        }
    }
}

macro_rules! select_webhooks {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"SELECT id AS "id: WebhookId", url, to_jsonb(events) AS "events!: Json<Vec<WebhookEvent>>", created_at,
                      disabled_at, disabled_reason
               FROM webhooks WHERE project_id = $1 "# + $rest
            $(, $argument)*
        )
    };
}

/// Creates a webhook of the caller's project. Errors: `Invalid`; `Conflict` if the project has too many.
pub async fn create(caller: &Caller, database: &Database, guard: &Guard, request: WebhookRequest) -> Result<Webhook> {
    let mut faults = Faults::default();
    let url = faults.take(SecretUrl::parse("url", &request.url, guard).map(Some));
    let events = faults.take(checked_events("events", request.events.as_deref()));
    faults.check()?;
    let Some(url) = url else { return Err(Error::internal("a URL without faults is none")) };
    let (id, project) = (WebhookId::new(), caller.project());
    let mut tx = begin(database.pool(caller)).await?;
    // Two at once are counted one after the other.
    sqlx::query!("SELECT id FROM projects WHERE id = $1 FOR NO KEY UPDATE", project as ProjectId)
        .fetch_one(&mut *tx)
        .await?;
    let count =
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhooks WHERE project_id = $1"#, project as ProjectId);
    if count.fetch_one(&mut *tx).await? >= MOST {
        return Err(Error::conflict(format!("A project has at most {MOST} webhooks.")));
    }
    let created_at = sqlx::query_scalar!(
        "INSERT INTO webhooks (id, project_id, url, query, events) VALUES ($1, $2, $3, $4, $5) RETURNING created_at",
        id as WebhookId,
        project as ProjectId,
        url.address(),
        url.query(),
        &names(&events),
    )
    .fetch_one(&mut *tx)
    .await?;
    audit::record(&mut tx, caller, "webhook.create", id, json!({ "events": events })).await?;
    tx.commit().await?;
    Ok(Webhook { id, url: url.address(), events, created_at, disabled_at: None, disabled_reason: None })
}

/// Lists the webhooks of the caller's project, newest first.
pub async fn list(caller: &Caller, database: &Database, page: &PageRequest) -> Result<Page<Webhook>> {
    let rows = select_webhooks!(
        "AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        caller.project() as ProjectId,
        page.before(),
        page.fetch_limit(),
    );
    let rows = bounded(rows.fetch_all(database.pool(caller))).await?;
    Ok(page.cut(rows.into_iter().map(Webhook::from).collect(), |webhook| webhook.id.into()))
}

/// Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, id: WebhookId) -> Result<Webhook> {
    let row = select_webhooks!("AND id = $2", caller.project() as ProjectId, id as WebhookId);
    let row = bounded(row.fetch_optional(database.pool(caller))).await?;
    row.map(Webhook::from).ok_or_else(|| Error::not_found("webhook", id))
}

/// Changes a webhook. Errors: `NotFound`; `Invalid`.
pub async fn change(
    caller: &Caller,
    database: &Database,
    guard: &Guard,
    id: WebhookId,
    changes: WebhookChanges,
) -> Result<Webhook> {
    let mut faults = Faults::default();
    let url = changes.url.as_deref().map(|url| SecretUrl::parse("url", url, guard)).transpose();
    let url = faults.take(url);
    let events = changes.events.as_deref().map(|events| checked_events("events", Some(events))).transpose();
    let events = faults.take(events);
    faults.check()?;
    let (project, event_names) = (caller.project(), events.as_deref().map(names));
    let mut tx = begin(database.pool(caller)).await?;
    let changed = sqlx::query!(
        "UPDATE webhooks SET url = coalesce($3, url), query = CASE WHEN $3::text IS NULL THEN query ELSE $4 END,
             events = coalesce($5, events),
             disabled_at = CASE WHEN $6 THEN NULL WHEN NOT $6 THEN coalesce(disabled_at, clock_timestamp())
                 ELSE disabled_at END,
             disabled_reason = CASE WHEN $6 THEN NULL WHEN NOT $6 THEN coalesce(disabled_reason, $7)
                 ELSE disabled_reason END
         WHERE project_id = $1 AND id = $2",
        project as ProjectId,
        id as WebhookId,
        url.as_ref().map(SecretUrl::address),
        url.as_ref().and_then(SecretUrl::query),
        event_names.as_deref(),
        changes.enabled,
        "It was disabled on request.",
    )
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() == 0 {
        return Err(Error::not_found("webhook", id));
    }
    if changes.enabled == Some(false) {
        end_pending(&mut tx, id, None).await?;
    }
    let details = json!({ "url": url.is_some().then_some("changed"), "events": events, "enabled": changes.enabled });
    audit::record(&mut tx, caller, "webhook.change", id, details).await?;
    let row = select_webhooks!("AND id = $2", project as ProjectId, id as WebhookId).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(row.into())
}

/// Deletes a webhook with everything that was or would be posted to it. Errors: `NotFound`.
pub async fn delete(caller: &Caller, database: &Database, id: WebhookId) -> Result<()> {
    let mut tx = begin(database.pool(caller)).await?;
    let deleted = sqlx::query!(
        "DELETE FROM webhooks WHERE project_id = $1 AND id = $2",
        caller.project() as ProjectId,
        id as WebhookId
    );
    if deleted.execute(&mut *tx).await?.rows_affected() == 0 {
        return Err(Error::not_found("webhook", id));
    }
    audit::record(&mut tx, caller, "webhook.delete", id, json!({})).await?;
    tx.commit().await?;
    Ok(())
}
