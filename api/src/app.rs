//! The service: the routes with what surrounds them, the documentation pages, the fallbacks and the layers.

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::routing::get;

use crate::admission::admit;
use crate::guard::guard;
use crate::limits::JSON_LIMIT;
use crate::observe::observe;
use crate::problem::Problem;
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
        .layer(middleware::from_fn(observe))
        .with_state(state)
}
