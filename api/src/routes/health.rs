//! `/healthz` and `/readyz`, for whoever watches over the process.

use axum::Json;
use domain::bounded;
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::problem::Result;

/// The process is well.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    #[schema(example = "ok")]
    pub status: &'static str,
    /// Version of the program.
    pub version: &'static str,
}

fn well() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Is the process alive?
#[utoipa::path(
    get, path = "/healthz", tag = "health", operation_id = "live",
    responses((status = 200, description = "It answers", body = Health)),
)]
pub(crate) async fn live() -> Json<Health> {
    well()
}

/// Can it do its work? Asks database and storage.
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "ready",
    responses((status = 200, description = "Database and storage answer", body = Health)),
)]
pub(crate) async fn ready(state: State) -> Result<Json<Health>> {
    let (database, storage) = tokio::join!(state.database.check(), bounded(state.storage.check()));
    database?;
    storage?;
    Ok(well())
}
