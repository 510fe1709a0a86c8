//! `/v1/outbox`: how far the deliveries of the installation are.

use axum::Json;
use domain::Caller;
use domain::delivery::{self, Target};
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::problem::Result;

/// The deliveries to one kind of target, of all projects.
#[derive(Serialize, ToSchema)]
pub(crate) struct OutboxQueue {
    pub target: Target,
    /// Number of deliveries that are due or will be tried again.
    #[schema(minimum = 0)]
    pub pending: i64,
    /// Age of the oldest of them, in seconds. Null if there is none.
    #[schema(minimum = 0)]
    pub oldest_seconds: Option<f64>,
    /// Number of deliveries that have failed within the last day.
    #[schema(minimum = 0)]
    pub failed_today: i64,
}

/// Show what waits to be sent
///
/// Counts uploads, archived pictures and webhooks of the whole installation.
#[utoipa::path(
    get, path = "/v1/outbox", tag = "jobs", operation_id = "get_outbox",
    security(("key" = ["admin"])),
    responses((status = 200, description = "One entry for each kind of target", body = Vec<OutboxQueue>)),
)]
pub(crate) async fn get(caller: Caller, state: State) -> Result<Json<Vec<OutboxQueue>>> {
    let queues = delivery::queues(&caller, &state.database).await?;
    let queue = |queue: delivery::Queue| OutboxQueue {
        target: queue.target,
        pending: queue.pending,
        oldest_seconds: queue.oldest_seconds,
        failed_today: queue.failed_today,
    };
    Ok(Json(queues.into_iter().map(queue).collect()))
}
