//! `/v1/webhooks`: endpoints that are notified of all jobs of a project, and the secret with which they are signed.

use axum::Json as Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::delivery::signing::{self, CurrentSecret, RotateRequest};
use domain::delivery::webhook::WebhookEvent;
use domain::webhook::{self, WebhookChanges, WebhookRequest};
use domain::{Caller, Page, WebhookId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::extract::{Json, OptionalJson, PageQuery, Path, Query};
use crate::problem::Result;

/// An endpoint that is notified of all jobs of a project.
#[derive(Serialize, ToSchema)]
pub(crate) struct Webhook {
    pub id: WebhookId,
    /// Where events are posted to, without the query of the URL, which may be a secret.
    #[schema(format = "uri")]
    pub url: String,
    pub events: Vec<WebhookEvent>,
    /// Whether events are posted.
    pub enabled: bool,
    /// Since when it is disabled. Null: it is enabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Why it is disabled.
    pub disabled_reason: Option<String>,
    pub created_at: DateTime<Utc>,
}

type WebhookPage = Page<Webhook>;

/// The secret with which all webhooks of a project are signed.
#[derive(Serialize, ToSchema)]
pub(crate) struct WebhookSecret {
    /// As libraries of Standard Webhooks take it.
    #[schema(pattern = "^whsec_[A-Za-z0-9+/]+=*$")]
    pub secret: String,
    pub created_at: DateTime<Utc>,
    /// Until then an older secret signs, too. Null: none does.
    pub previous_until: Option<DateTime<Utc>>,
}

impl From<webhook::Webhook> for Webhook {
    fn from(webhook: webhook::Webhook) -> Self {
        Self {
            id: webhook.id,
            url: webhook.url,
            events: webhook.events,
            enabled: webhook.disabled_at.is_none(),
            disabled_at: webhook.disabled_at,
            disabled_reason: webhook.disabled_reason,
            created_at: webhook.created_at,
        }
    }
}

fn shown(secret: &CurrentSecret) -> impl IntoResponse + use<> {
    let body = WebhookSecret {
        secret: secret.secret.reveal(),
        created_at: secret.created_at,
        previous_until: secret.previous_until,
    };
    ([(header::CACHE_CONTROL, "no-store")], Body(body))
}

/// Create a webhook
///
/// Events of all jobs of the project are posted to it, signed after Standard Webhooks.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks", operation_id = "create_webhook",
    security(("key" = ["admin"])),
    request_body = WebhookRequest,
    responses(
        (status = 201, description = "The new webhook", body = Webhook,
         headers(("Location" = String, description = "Path of the webhook"))),
        (status = 409, description = "The project has too many webhooks"),
    ),
)]
pub(crate) async fn create(caller: Caller, state: State, Json(request): Json<WebhookRequest>) -> Result<Response> {
    let webhook = webhook::create(&caller, &state.database, &state.outbound, request).await?;
    let location = format!("/v1/webhooks/{}", webhook.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Body(Webhook::from(webhook))).into_response())
}

/// List webhooks, newest first
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks", operation_id = "list_webhooks",
    security(("key" = ["admin"])),
    params(PageQuery),
    responses((status = 200, description = "One page of webhooks", body = WebhookPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<PageQuery>) -> Result<Body<WebhookPage>> {
    Ok(Body(webhook::list(&caller, &state.database, &query.page()?).await?.map(Webhook::from)))
}

/// Get a webhook
#[utoipa::path(
    get, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "get_webhook",
    security(("key" = ["admin"])),
    params(("id" = WebhookId, Path, description = "Id of the webhook")),
    responses((status = 200, description = "The webhook", body = Webhook)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(id): Path<WebhookId>) -> Result<Body<Webhook>> {
    Ok(Body(webhook::get(&caller, &state.database, id).await?.into()))
}

/// Change a webhook
///
/// Fields that are left out stay. An endpoint that answers 410 disables its webhook; enable it here.
#[utoipa::path(
    patch, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "change_webhook",
    security(("key" = ["admin"])),
    params(("id" = WebhookId, Path, description = "Id of the webhook")),
    request_body = WebhookChanges,
    responses((status = 200, description = "The changed webhook", body = Webhook)),
)]
pub(crate) async fn change(
    caller: Caller,
    state: State,
    Path(id): Path<WebhookId>,
    Json(changes): Json<WebhookChanges>,
) -> Result<Body<Webhook>> {
    Ok(Body(webhook::change(&caller, &state.database, &state.outbound, id, changes).await?.into()))
}

/// Delete a webhook
///
/// With everything that was or would be posted to it.
#[utoipa::path(
    delete, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "delete_webhook",
    security(("key" = ["admin"])),
    params(("id" = WebhookId, Path, description = "Id of the webhook")),
    responses((status = 204, description = "Deleted")),
)]
pub(crate) async fn delete(caller: Caller, state: State, Path(id): Path<WebhookId>) -> Result<StatusCode> {
    webhook::delete(&caller, &state.database, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Get the secret of webhooks
///
/// All webhooks of the project and of its requests are signed with it.
#[utoipa::path(
    get, path = "/v1/webhooks/secret", tag = "webhooks", operation_id = "get_webhook_secret",
    security(("key" = ["admin"])),
    responses((status = 200, description = "The secret", body = WebhookSecret)),
)]
pub(crate) async fn secret(caller: Caller, state: State) -> Result<Response> {
    Ok(shown(&signing::current(&caller, &state.database).await?).into_response())
}

/// Replace the secret of webhooks
///
/// Older secrets sign beside the new one until the overlap ends, so that receivers can change over.
#[utoipa::path(
    post, path = "/v1/webhooks/rotate-secret", tag = "webhooks", operation_id = "rotate_webhook_secret",
    security(("key" = ["admin"])),
    request_body = Option<RotateRequest>,
    responses(
        (status = 200, description = "The new secret", body = WebhookSecret),
        (status = 409, description = "Too many older secrets sign already; state a shorter overlap"),
    ),
)]
pub(crate) async fn rotate_secret(
    caller: Caller,
    state: State,
    OptionalJson(request): OptionalJson<RotateRequest>,
) -> Result<Response> {
    Ok(shown(&signing::rotate(&caller, &state.database, &request).await?).into_response())
}
