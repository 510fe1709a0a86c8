//! `/healthz` and `/readyz`: the probes for liveness and readiness.

use std::fmt::Display;
use std::time::Duration;

use axum::Json;
use domain::Error;
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::problem::Result;

/// Longest wait for the bucket, as for the database.
const STORAGE_LIMIT: Duration = Duration::from_secs(10);

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
        // While it counts as lost, requests are refused, also if it has just come back.
        tokio::select! {
            biased;
            () = state.presence.lost() => Err(Error::unavailable("the database does not answer")),
            answer = state.database.check() => answer,
        }
    };
    tokio::try_join!(database, storage_answers(state.storage.check()))?;
    Ok(well())
}

/// Errors: `Unavailable`, with the reason of the check, or if it takes longer than [`STORAGE_LIMIT`].
async fn storage_answers<E: Display>(check: impl Future<Output = Result<(), E>>) -> domain::Result<()> {
    match tokio::time::timeout(STORAGE_LIMIT, check).await {
        Ok(answer) => answer.map_err(Error::unavailable),
        Err(_) => Err(Error::unavailable(format!("the bucket did not answer within {STORAGE_LIMIT:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_that_hangs_is_named() {
        let hangs = std::future::pending::<Result<(), Error>>();
        let error = storage_answers(hangs).await.unwrap_err();
        assert!(matches!(&error, Error::Unavailable(why) if why == "the bucket did not answer within 10s"), "{error}");
    }
}
