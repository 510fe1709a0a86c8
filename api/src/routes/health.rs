//! `/healthz` and `/readyz`: the probes for liveness and readiness.

use axum::Json;
use domain::{Error, bounded};
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::problem::Result;

/// Whether the address is a probe, which answers under any name, however busy the server is.
pub(crate) fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// A process that responds.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    #[schema(example = "ok")]
    pub status: &'static str,
    /// Version of Pyrograph.
    pub version: &'static str,
}

fn well() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Check liveness
#[utoipa::path(
    get, path = "/healthz", tag = "health", operation_id = "live",
    responses((status = 200, description = "The process responds", body = Health)),
)]
pub(crate) async fn live() -> Json<Health> {
    well()
}

/// Check readiness: database and storage
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "ready",
    responses((status = 200, description = "Database and storage respond", body = Health)),
)]
pub(crate) async fn ready(state: State) -> Result<Json<Health>> {
    let database = async {
        tokio::select! {
            answer = state.database.check() => answer,
            () = state.presence.lost() => Err(Error::unavailable("the database does not answer")),
        }
    };
    let storage = async { state.storage.check().await.map_err(Error::unavailable) };
    tokio::try_join!(database, bounded(storage))?;
    Ok(well())
}
