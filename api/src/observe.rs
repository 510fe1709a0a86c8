//! Around every request: an id, and one line in the log. The log gets the route, never the query, a header that is not
//! an id, or a body: prompts and signatures stay out of it.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Instrument, Span};

use crate::request_id::{RequestId, TraceParent};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

pub(crate) async fn observe(mut request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).and_then(RequestId::read).unwrap_or_else(RequestId::new);
    let trace = request.headers().get(TRACE_PARENT).and_then(TraceParent::read);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("-", MatchedPath::as_str);
    let span = match &trace {
        Some(trace) => tracing::info_span!("request", %id, trace = trace.trace()),
        None => tracing::info_span!("request", %id),
    };
    request.extensions_mut().insert(id.clone());
    let mut line = Line { span, method, route: route.to_owned(), begun: Instant::now(), status: None };
    let mut response = next.run(request).instrument(line.span.clone()).await;
    line.status = Some(response.status().as_u16());
    drop(line);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(trace) = trace.and_then(|trace| HeaderValue::from_str(&trace.answer()).ok()) {
        headers.insert(TRACE_PARENT, trace);
    }
    response
}

/// The line of a request, written when this is dropped. If the client leaves, the future of its request is dropped, and
/// this with it.
struct Line {
    span: Span,
    method: Method,
    route: String,
    begun: Instant,
    /// `None` until there is a response.
    status: Option<u16>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let Self { span, method, route, begun, status } = self;
        let milliseconds = begun.elapsed().as_millis() as u64;
        match status {
            Some(status) => tracing::info!(parent: &*span, %method, route, status, milliseconds),
            None => tracing::info!(parent: &*span, %method, route, milliseconds, "ended without a response"),
        }
    }
}
