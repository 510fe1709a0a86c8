//! `/v1/webhook-deliveries`: deliveries to webhooks, those of the project and those that requests name.

use axum::Json;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::delivery::DeliveryStatus;
use domain::delivery::webhook::WebhookEvent;
use domain::delivery::webhook::history::{self, Filter};
use domain::{Caller, DeliveryId, Page, PageRequest, WebhookId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::State;
use crate::extract::{self, Path, Query};
use crate::problem::Result;

/// An event that is posted to a webhook.
#[derive(Serialize, ToSchema)]
pub(crate) struct WebhookDelivery {
    /// The header `webhook-id`, the same at each try.
    pub id: DeliveryId,
    /// The webhook of the project. Null: the one that the request names.
    pub webhook: Option<WebhookId>,
    /// Identifier of the generation, training, import or export.
    pub job: Uuid,
    pub event: WebhookEvent,
    pub status: DeliveryStatus,
    /// HTTP status of the last answer. Null if there was none.
    #[schema(minimum = 100, maximum = 999)]
    pub status_code: Option<i32>,
    /// Number of tries.
    #[schema(minimum = 0)]
    pub attempts: i32,
    /// When it is tried next. Null once it has ended.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Why the last try failed.
    pub error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

type WebhookDeliveryPage = Page<WebhookDelivery>;

impl From<history::WebhookDelivery> for WebhookDelivery {
    fn from(delivery: history::WebhookDelivery) -> Self {
        Self {
            id: delivery.id,
            webhook: delivery.webhook,
            job: delivery.job,
            event: delivery.event,
            status: delivery.status,
            status_code: delivery.status_code,
            attempts: delivery.attempts,
            next_attempt_at: delivery.next_attempt_at,
            error: delivery.error,
            created_at: delivery.created_at,
            ended_at: delivery.ended_at,
        }
    }
}

/// Filters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeliveryQuery {
    /// Only deliveries to this webhook of the project.
    pub webhook: Option<WebhookId>,
    /// Only deliveries about this generation, training, import or export.
    pub job: Option<Uuid>,
    /// Only deliveries with this status.
    #[param(inline)]
    pub status: Option<DeliveryStatus>,
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    #[serde(default, deserialize_with = "extract::limit")]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^[A-Za-z0-9_-]{21}[AQgw]$")]
    pub cursor: Option<String>,
}

/// List deliveries to webhooks, newest first
///
/// Deliveries of progress are listed for a day.
#[utoipa::path(
    get, path = "/v1/webhook-deliveries", tag = "webhooks", operation_id = "list_webhook_deliveries",
    security(("key" = ["read"])),
    params(DeliveryQuery),
    responses((status = 200, description = "One page of deliveries", body = WebhookDeliveryPage)),
)]
pub(crate) async fn list(
    caller: Caller,
    state: State,
    Query(query): Query<DeliveryQuery>,
) -> Result<Json<WebhookDeliveryPage>> {
    let page = PageRequest::parse(query.limit, query.cursor.as_deref())?;
    let filter = Filter { webhook: query.webhook, job: query.job, status: query.status };
    Ok(Json(history::list(&caller, &state.database, &filter, &page).await?.map(WebhookDelivery::from)))
}

/// Post an event to its webhook again
///
/// With the same `webhook-id`, and as many tries as the first time. The key also needs the scope of the job's kind:
/// `generate`, `train`, or `models` for imports and exports.
#[utoipa::path(
    post, path = "/v1/webhook-deliveries/{id}/redeliver", tag = "webhooks", operation_id = "redeliver_webhook",
    security(("key" = ["read"])),
    params(("id" = DeliveryId, Path, description = "Id of the delivery")),
    responses(
        (status = 202, description = "To be posted", body = WebhookDelivery),
        (status = 409, description = "It is about to be posted, its webhook is disabled, or its URL is forgotten"),
    ),
)]
pub(crate) async fn redeliver(
    caller: Caller,
    state: State,
    Path(id): Path<DeliveryId>,
) -> Result<(StatusCode, Json<WebhookDelivery>)> {
    let delivery = history::redeliver(&caller, &state.database, id).await?;
    Ok((StatusCode::ACCEPTED, Json(delivery.into())))
}
