//! Every route, on one page.

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::Redirect;
use axum::routing::get;
use domain::generation::MAX_PICTURE_CHARS;
use domain::{image_gate, zip_gate};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::router::UtoipaMethodRouterExt;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::observe::observe;
use crate::openapi::document;
use crate::problem::Problem;
use crate::routes::{
    dataset, event, export, generation, health, import, input, jobs, model, swap, training, upload, worker,
};
use crate::{State, openapi};

/// Largest JSON body, in bytes.
pub(crate) const JSON_LIMIT: usize = 1024 * 1024;
/// Largest form of pictures, in bytes: one archive and what surrounds it.
const PICTURES_LIMIT: usize = zip_gate::MAX_ARCHIVE_BYTES as usize + 1024 * 1024;
/// Largest form of one picture, in bytes.
const PICTURE_LIMIT: usize = image_gate::MAX_BYTES as usize + 1024 * 1024;
/// Largest request for a generation, in bytes: one that carries an image and a mask itself.
const GENERATION_LIMIT: usize = 2 * MAX_PICTURE_CHARS + JSON_LIMIT;

pub(crate) fn routes() -> OpenApiRouter<State> {
    let router = OpenApiRouter::with_openapi(document())
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        // datasets
        .routes(routes!(dataset::create, dataset::list))
        .routes(routes!(dataset::get, dataset::delete))
        .routes(routes!(dataset::add_images).layer(DefaultBodyLimit::max(PICTURES_LIMIT)))
        .routes(routes!(dataset::delete_image))
        .routes(routes!(dataset::create_upload))
        .routes(routes!(dataset::complete_upload))
        // trainings
        .routes(routes!(training::create, training::list))
        .routes(routes!(training::get, training::delete))
        .routes(routes!(training::cancel))
        // generations
        .routes(routes!(generation::create, generation::list).layer(DefaultBodyLimit::max(GENERATION_LIMIT)))
        .routes(routes!(generation::get, generation::delete))
        .routes(routes!(generation::cancel))
        .routes(routes!(input::create, input::list).layer(DefaultBodyLimit::max(PICTURE_LIMIT)))
        .routes(routes!(input::get, input::delete))
        // models; the import counts its bytes itself
        .routes(routes!(model::list))
        .routes(routes!(model::import).layer(DefaultBodyLimit::disable()))
        .routes(routes!(model::get, model::delete))
        .routes(routes!(model::inspect))
        .routes(routes!(swap::load))
        .routes(routes!(swap::unload))
        .routes(routes!(upload::create))
        .routes(routes!(upload::get))
        .routes(routes!(import::list))
        .routes(routes!(import::get))
        .routes(routes!(import::cancel))
        .routes(routes!(export::create))
        .routes(routes!(export::list))
        .routes(routes!(export::get))
        .routes(routes!(export::cancel))
        .routes(routes!(worker::list))
        // jobs of every kind
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(event::follow));
    event::follow_each_kind(router)
}

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
