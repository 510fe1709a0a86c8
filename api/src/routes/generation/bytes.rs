//! Pictures within responses: as Base64 in JSON, or as the body itself.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::artifact::Artifact;
use domain::delivery::request::ResponseFormat;
use domain::generation;
use futures::future::try_join_all;

use crate::State;
use crate::prefer::{PREFERENCE_APPLIED, Wait};
use crate::problem::Result;

const GENERATION: HeaderName = HeaderName::from_static("pyrograph-generation");
const ARTIFACT: HeaderName = HeaderName::from_static("pyrograph-artifact");
const SEED: HeaderName = HeaderName::from_static("pyrograph-seed");
const IMAGE_HASH: HeaderName = HeaderName::from_static("pyrograph-image-hash");
const GPU_SECONDS: HeaderName = HeaderName::from_static("pyrograph-gpu-seconds");

/// The pictures of a generation in Base64, in their order, if its caller wants them so.
pub(super) async fn in_base64(generation: &generation::Generation, state: &State) -> Result<Vec<String>> {
    if generation.response_format != ResponseFormat::B64Json {
        return Ok(Vec::new());
    }
    let read = async |artifact: &Artifact| Ok(STANDARD.encode(state.storage.get(&artifact.storage_key).await?));
    try_join_all(generation.report.artifacts.iter().map(read)).await
}

/// The response whose body is the picture; its metadata are headers.
pub(super) async fn response(
    generation: &generation::Generation,
    picture: &Artifact,
    state: &State,
    location: &str,
    wait: Wait,
) -> Result<Response> {
    let bytes = state.storage.get(&picture.storage_key).await?;
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = StatusCode::CREATED;
    let mut add = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    };
    add(header::CONTENT_TYPE, picture.media_type.clone());
    add(header::CONTENT_DISPOSITION, format!("inline; filename=\"{}\"", picture.file_name(&generation.model.name)));
    add(header::LOCATION, location.to_owned());
    add(GENERATION, generation.id.to_string());
    add(ARTIFACT, picture.id.to_string());
    add(IMAGE_HASH, picture.md5.clone());
    add(GPU_SECONDS, format!("{:.3}", generation.report.gpu_seconds));
    if let Some(seed) = picture.seed {
        add(SEED, seed.to_string());
    }
    response.headers_mut().insert(PREFERENCE_APPLIED, wait.applied());
    Ok(response)
}
