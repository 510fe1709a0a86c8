//! `/s3`: the objects of a bucket that clients reach through this server; see [`crate::gateway`]. Not part of the
//! contract: clients follow the URLs that other answers contain.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{MethodRouter, get};

use crate::State;
use crate::problem::{Problem, Result};

pub(crate) fn route() -> (&'static str, MethodRouter<State>) {
    ("/s3/{*object}", get(pass_on).put(pass_on))
}

async fn pass_on(state: State, request: Request) -> Result<Response> {
    match &state.gateway {
        Some(gateway) => gateway.pass_on(request).await,
        None => Err(Problem::new(StatusCode::NOT_FOUND, "Files of this server are in a bucket at another address.")),
    }
}
