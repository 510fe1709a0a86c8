//! `/v1/models/{model}/load` and `/unload`: hot swap. `/v1/workers` reports the outcome.

use axum::Json;
use axum::http::{StatusCode, header};
use domain::swap::{self, Swap, SwapAction};
use domain::{Caller, model};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::State;
use crate::extract::{OptionalJson, Path};
use crate::problem::Result;

/// Which workers to ask.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({}))]
pub(crate) struct SwapRequest {
    /// Name or identifier of a worker. If absent, every live worker that makes pictures is asked.
    #[serde(default)]
    worker: Option<String>,
}

/// The requests, one for each worker.
#[derive(Serialize, ToSchema)]
pub(crate) struct SwapList {
    pub swaps: Vec<Swap>,
}

/// Load a checkpoint in advance
///
/// Each worker downloads the files to its disk and loads them between two jobs, unloading other models if it must.
/// There is no guarantee: later work may need the memory, and a worker that restarts has nothing loaded. `GET
/// /v1/workers` reports the outcome.
#[utoipa::path(
    post, path = "/v1/models/{model}/load", tag = "models", operation_id = "load_model",
    security(("key" = ["models"])),
    params(("model" = String, Path, example = "ember", description = "Name or id of the checkpoint")),
    request_body = Option<SwapRequest>,
    responses(
        (status = 202, description = "One request for each worker", body = SwapList,
         headers(("Location" = String, description = "Path of the workers"))),
        (status = 404, description = "The model or the worker does not exist"),
        (status = 409, description = "No live worker makes pictures"),
        (status = 422, description = "The model is not a checkpoint"),
    ),
)]
pub(crate) async fn load(
    caller: Caller,
    state: State,
    Path(name_or_id): Path<String>,
    body: OptionalJson<SwapRequest>,
) -> Result<Asked> {
    ask(&caller, &state, &name_or_id, SwapAction::Load, body.0).await
}

/// Unload a checkpoint
///
/// Happens between two jobs: a job that uses the checkpoint is finished first. A later generation loads it again.
#[utoipa::path(
    post, path = "/v1/models/{model}/unload", tag = "models", operation_id = "unload_model",
    security(("key" = ["models"])),
    params(("model" = String, Path, example = "ember", description = "Name or id of the checkpoint")),
    request_body = Option<SwapRequest>,
    responses(
        (status = 202, description = "One request for each worker", body = SwapList,
         headers(("Location" = String, description = "Path of the workers"))),
        (status = 404, description = "The model or the worker does not exist"),
        (status = 409, description = "No live worker makes pictures"),
        (status = 422, description = "The model is not a checkpoint"),
    ),
)]
pub(crate) async fn unload(
    caller: Caller,
    state: State,
    Path(name_or_id): Path<String>,
    body: OptionalJson<SwapRequest>,
) -> Result<Asked> {
    ask(&caller, &state, &name_or_id, SwapAction::Unload, body.0).await
}

type Asked = (StatusCode, [(header::HeaderName, &'static str); 1], Json<SwapList>);

async fn ask(
    caller: &Caller,
    state: &State,
    name_or_id: &str,
    action: SwapAction,
    request: SwapRequest,
) -> Result<Asked> {
    let model = model::get(caller, &state.database, name_or_id).await?;
    let swaps = swap::request(caller, &state.database, &model, action, request.worker.as_deref()).await?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, "/v1/workers")], Json(SwapList { swaps })))
}
