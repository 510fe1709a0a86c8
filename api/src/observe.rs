//! Around every request: an id, one line in the log, and a limit on the requests that are served at the same time. The
//! log gets the route, never the query, a header or a body: prompts and signatures stay out of it.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;
use uuid::Uuid;

use crate::State;
use crate::problem::Problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(crate) async fn observe(state: State, request: Request, next: Next) -> Response {
    let id = Uuid::now_v7();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("-", MatchedPath::as_str);
    let span = tracing::info_span!("request", %id);
    let begun = Instant::now();
    let mut response = match state.admission.try_acquire() {
        Ok(_permit) => next.run(request).instrument(span.clone()).await,
        Err(_) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The server has more requests than it can work on; try again.",
        )
        .into_response(),
    };
    let milliseconds = begun.elapsed().as_millis() as u64;
    tracing::info!(parent: &span, %method, route, status = response.status().as_u16(), milliseconds);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer())) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
