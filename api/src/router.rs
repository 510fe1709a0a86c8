//! Every route, on one page.

use axum::extract::DefaultBodyLimit;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::router::UtoipaMethodRouterExt;
use utoipa_axum::routes;

use crate::State;
use crate::document::document;
use crate::limits::{GENERATION_LIMIT, PICTURE_LIMIT, PICTURES_LIMIT};
use crate::routes::{
    artifact, audit, dataset, event, export, generation, health, import, input, jobs, key, model, outbox, picture_info,
    project, session, swap, training, upload, usage, webhook, webhook_delivery, worker,
};

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
        .routes(routes!(artifact::deliver))
        .routes(routes!(input::create, input::list).layer(DefaultBodyLimit::max(PICTURE_LIMIT)))
        .routes(routes!(input::get, input::delete))
        .routes(routes!(picture_info::read).layer(DefaultBodyLimit::max(PICTURE_LIMIT)))
        // models; the import counts its bytes itself
        .routes(routes!(model::list))
        .routes(routes!(model::import).layer(DefaultBodyLimit::disable()))
        .routes(routes!(model::get, model::change, model::delete))
        .routes(routes!(model::inspect))
        .routes(routes!(swap::load))
        .routes(routes!(swap::unload))
        .routes(routes!(upload::create))
        .routes(routes!(upload::get))
        .routes(routes!(import::list))
        .routes(routes!(import::get, import::delete))
        .routes(routes!(import::cancel))
        .routes(routes!(export::create))
        .routes(routes!(export::list))
        .routes(routes!(export::get, export::delete))
        .routes(routes!(export::cancel))
        .routes(routes!(worker::list))
        // access
        .routes(routes!(session::log_in, session::get, session::log_out))
        .routes(routes!(key::create, key::list))
        .routes(routes!(key::get, key::change, key::revoke))
        .routes(routes!(audit::list))
        .routes(routes!(project::create, project::list))
        .routes(routes!(project::get, project::change, project::delete))
        .routes(routes!(usage::get))
        // jobs of every kind
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get, jobs::delete))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(outbox::get))
        .routes(routes!(webhook::create, webhook::list))
        .routes(routes!(webhook::secret))
        .routes(routes!(webhook::rotate_secret))
        .routes(routes!(webhook::get, webhook::change, webhook::delete))
        .routes(routes!(webhook_delivery::list))
        .routes(routes!(webhook_delivery::redeliver))
        .routes(routes!(event::follow));
    event::follow_each_kind(router)
}
