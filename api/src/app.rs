//! The service: the routes with what surrounds them, the documentation pages, the fallbacks and the layers.

use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, Method, StatusCode};
use axum::middleware;
use axum::routing::get;
use tower_http::cors::CorsLayer;

use crate::admission::admit;
use crate::guard::guard;
use crate::limits::JSON_LIMIT;
use crate::names::Names;
use crate::observe::observe;
use crate::problem::Problem;
use crate::protection::{Protection, protect};
use crate::rate::report;
use crate::state::State;
use crate::{docs, openapi, router, routes};

/// The whole service.
pub fn app(state: State) -> axum::Router {
    let (router, _) = router::routes().split_for_parts();
    let contract: &'static str = openapi::text();
    let (objects, object) = routes::object::route();
    router
        .route("/openapi.json", get(move || async move { ([(CONTENT_TYPE, "application/json")], contract) }))
        .route(objects, object)
        .merge(docs::pages())
        .fallback(async || {
            Problem::new(StatusCode::NOT_FOUND, "There is nothing at this address; /docs tells what there is.")
        })
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "This address does not take the method; `Allow` tells which it takes.",
            )
        })
        .layer(DefaultBodyLimit::max(JSON_LIMIT))
        .layer(middleware::from_fn_with_state(state.clone(), admit))
        .layer(middleware::from_fn_with_state(state.clone(), guard))
        .layer(middleware::from_fn(report))
        .layer(cors(&state.names))
        .layer(middleware::from_fn_with_state(Protection::of(&state), protect))
        .layer(middleware::from_fn(observe))
        .with_state(state)
}

/// Lets pages of the allowed origins call the API, with a key and without cookies (Fetch standard, section 3.3).
fn cors(names: &Names) -> CorsLayer {
    let exposed = [
        "content-disposition",
        "location",
        "preference-applied",
        "pyrograph-artifact",
        "pyrograph-generation",
        "pyrograph-gpu-seconds",
        "pyrograph-image-hash",
        "pyrograph-seed",
        "ratelimit",
        "ratelimit-policy",
        "retry-after",
        "x-request-id",
    ];
    CorsLayer::new()
        .allow_origin(names.origins().collect::<Vec<_>>())
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(tower_http::cors::AllowHeaders::mirror_request())
        .expose_headers(exposed.map(HeaderName::from_static))
        .max_age(Duration::from_mins(10))
}
