//! `/docs`: Swagger UI on our own page. All its addresses are relative, so that it works behind a proxy that serves the
//! API below a path.

use std::sync::Arc;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use utoipa_swagger_ui::Config;

use crate::State;
use crate::problem::Problem;

const INDEX: &str = include_str!("docs/index.html");
const SCRIPT: &str = include_str!("docs/initializer.js");

pub(crate) fn pages() -> axum::Router<State> {
    let to_docs = || get(async || Redirect::to("docs/"));
    axum::Router::new()
        .route("/", to_docs())
        .route("/docs", to_docs())
        .route("/docs/", get(async || page("text/html; charset=utf-8", INDEX)))
        .route("/docs/initializer.js", get(async || page("text/javascript; charset=utf-8", SCRIPT)))
        .route("/docs/{*file}", get(file))
}

fn page(media_type: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, media_type)], text).into_response()
}

/// A file of Swagger UI.
async fn file(Path(path): Path<String>) -> Response {
    match utoipa_swagger_ui::serve(&path, Arc::new(Config::default())) {
        Ok(Some(file)) if file.gzpipped => {
            let headers = [(header::CONTENT_TYPE, file.content_type), (header::CONTENT_ENCODING, "gzip".to_owned())];
            (headers, file.bytes.into_owned()).into_response()
        }
        Ok(Some(file)) => ([(header::CONTENT_TYPE, file.content_type)], file.bytes.into_owned()).into_response(),
        _ => Problem::new(StatusCode::NOT_FOUND, "There is no such file.").into_response(),
    }
}
