//! The service: the routes with what surrounds them, the documentation pages, the fallbacks and the layers.

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::Redirect;
use axum::routing::get;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::limits::JSON_LIMIT;
use crate::observe::observe;
use crate::openapi;
use crate::problem::Problem;
use crate::router::routes;
use crate::state::State;

/// The whole service.
pub fn app(state: State) -> axum::Router {
    let (router, _) = routes().split_for_parts();
    let contract: &'static str = openapi::text();
    router
        .route("/", get(async || Redirect::to("/docs/")))
        .route("/openapi.json", get(move || async move { ([(CONTENT_TYPE, "application/json")], contract) }))
        .merge(SwaggerUi::new("/docs").config(Config::from("/openapi.json")))
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
        .layer(middleware::from_fn_with_state(state.clone(), observe))
        .with_state(state)
}
