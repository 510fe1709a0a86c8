//! Refuses requests that a page in a browser should not send: see [`crate::Names`].

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::State;
use crate::gateway;
use crate::routes::health;

pub(crate) async fn guard(state: State, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    // A probe knows an address at most, and a signed URL is protected by its signature.
    if !health::is_probe(path) && !gateway::is_below(path) {
        let checked = state.names.check(request.method(), request.uri(), request.version(), request.headers());
        if let Err(problem) = checked {
            return problem.into_response();
        }
    }
    next.run(request).await
}
