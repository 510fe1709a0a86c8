//! `/v1/generations`: pictures from a prompt and from other pictures.

mod bytes;

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::delivery::request::{ResponseFormat, Uploads};
use domain::delivery::webhook::JobWebhook;
use domain::generation::{self, GenerationRequest, LoraUse};
use domain::job::{JobKind, JobStatus};
use domain::model::ModelRef;
use domain::storage::READ_TTL;
use domain::{Caller, Error, GenerationId, InputId, Page, Storage, input};
use requests::GenerationParams;
use serde::Serialize;
use utoipa::ToSchema;

use super::job::{self, Artifact, JobError, JobUrls, JobUsage, Progress, ReportParts};
use crate::State;
use crate::extract::{self, PageQuery, Path, Query};
use crate::prefer::Wait;
use crate::problem::Result;

/// A request for pictures and its results.
#[derive(Serialize, ToSchema)]
pub(crate) struct Generation {
    pub id: GenerationId,
    pub status: JobStatus,
    pub model: ModelRef,
    pub loras: Vec<LoraUse>,
    #[serde(flatten)]
    pub params: GenerationParams<SourceImage>,
    /// Seed of the first picture. Picture `i` uses `seed + i`.
    #[schema(minimum = 0)]
    pub seed: i64,
    pub response_format: ResponseFormat,
    /// Where the pictures are uploaded to. Only in the answer to the request that stated it: URLs may be secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub upload_urls: Vec<String>,
    pub progress: Progress,
    /// Number of times the job was started.
    #[schema(minimum = 0)]
    pub attempts: i64,
    /// The pictures, once the generation has succeeded.
    pub artifacts: Vec<Artifact>,
    /// Notes about unexpected outcomes, such as a LoRA that fits only in part.
    pub warnings: Vec<String>,
    pub error: Option<JobError>,
    pub usage: JobUsage,
    /// The endpoint that its request names. Absent if it names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<JobWebhook>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub urls: JobUrls,
}

/// A picture that a generation starts from.
#[derive(Serialize, ToSchema)]
pub(crate) struct SourceImage {
    /// Identifier of the uploaded input. Null if the request carried the picture itself or named an earlier picture.
    pub input: Option<InputId>,
    /// Presigned URL to download the bytes. Valid for one hour; needs no other credentials. Null if the input was
    /// deleted.
    #[schema(format = "uri")]
    pub url: Option<String>,
    /// SHA-256 of the bytes, lower-case hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    /// Width in pixels.
    #[schema(minimum = 1)]
    pub width: u32,
    /// Height in pixels.
    #[schema(minimum = 1)]
    pub height: u32,
}

impl SourceImage {
    async fn of(source: Option<input::SourceImage>, inputs: &[InputId], storage: &Storage) -> Result<Option<Self>> {
        let Some(source) = source else { return Ok(None) };
        let exists = source.input.is_none_or(|input| inputs.contains(&input));
        Ok(Some(Self {
            url: if exists { Some(storage.presign_get(&source.storage_key, READ_TTL).await?.into()) } else { None },
            input: source.input,
            sha256: source.sha256,
            width: source.width,
            height: source.height,
        }))
    }
}

type GenerationPage = Page<Generation>;

impl Generation {
    async fn of(generation: generation::Generation, state: &State) -> Result<Self> {
        let report =
            ReportParts::of(generation.report, state, &generation.model.name, Some(&generation.model.name)).await?;
        let mut params = generation.params;
        let image = SourceImage::of(params.image.take(), &generation.inputs, &state.storage).await?;
        let mask = SourceImage::of(params.mask.take(), &generation.inputs, &state.storage).await?;
        Ok(Self {
            urls: JobUrls::below(path(generation.id)),
            id: generation.id,
            status: report.status,
            model: generation.model,
            loras: generation.loras,
            params: params.with_pictures(image, mask),
            seed: generation.seed,
            response_format: generation.response_format,
            upload_urls: generation.uploads.map(reveal).unwrap_or_default(),
            progress: report.progress,
            attempts: report.attempts,
            artifacts: report.artifacts,
            warnings: report.warnings,
            error: report.error,
            usage: report.usage,
            webhook: report.webhook,
            created_at: generation.created_at,
            started_at: report.started_at,
            finished_at: report.finished_at,
        })
    }

    /// As [`Self::of`], with the pictures themselves if their caller wants them in the JSON.
    async fn with_pictures(generation: generation::Generation, state: &State) -> Result<Self> {
        let in_base64 = bytes::in_base64(&generation, state).await?;
        let mut generation = Self::of(generation, state).await?;
        for (artifact, picture) in generation.artifacts.iter_mut().zip(in_base64) {
            artifact.b64_json = Some(picture);
        }
        Ok(generation)
    }
}

/// The URLs as they were stated.
fn reveal(uploads: Uploads) -> Vec<String> {
    uploads.urls.iter().map(|url| url.as_stated().to_owned()).collect()
}

fn path(id: GenerationId) -> String {
    JobKind::Generation.path(id)
}

/// Create a generation
///
/// Returns the queued generation immediately. With `Prefer: wait=N` it waits up to N (at most 60) seconds for the end,
/// and returns 201 if the generation has ended by then, with its uploads. Parameters left out take the model's
/// defaults. With `response_format: binary`, the body of a 201 is the picture itself.
#[utoipa::path(
    post, path = "/v1/generations", tag = "generations", operation_id = "create_generation",
    security(("key" = ["generate"])),
    params(("Prefer" = Option<String>, Header, description = "`wait=N`: seconds to wait for the end",
            example = "wait=1")),
    request_body = GenerationRequest,
    responses(
        (status = 202, description = "Queued, or still running after the wait", body = Generation,
         headers(("Location" = String, description = "Path of the generation"),
                 ("Preference-Applied" = Option<String>, description = "The wait that was granted"))),
        (status = 201, description = "Ended within the wait; `status` is the outcome. With `response_format: binary`, \
                                      the picture, with its metadata in headers `Pyrograph-…`",
         content((Generation = "application/json"), (Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"),
                 (Vec<u8> = "image/webp")),
         headers(("Location" = String, description = "Path of the generation"),
                 ("Preference-Applied" = Option<String>, description = "The wait that was granted"))),
        (status = 404, description = "A model or picture that the body names does not exist"),
    ),
)]
pub(crate) async fn create(
    caller: Caller,
    state: State,
    headers: HeaderMap,
    extract::Json(request): extract::Json<GenerationRequest>,
) -> Result<Response> {
    let format = request.response_format.unwrap_or_default();
    if format == ResponseFormat::Binary && Wait::from_headers(&headers).is_none() {
        let message = "`binary` answers with the picture, so it needs the header `Prefer: wait=N`.";
        return Err(Error::invalid("response_format", message).into());
    }
    let mut generation = state.generations.create(&caller, request).await?;
    job::log_accepted(generation.id);
    let waited = job::wait(&caller, &state, &headers, generation.job_id).await?;
    if waited.is_some() {
        let uploads = generation.uploads.take();
        generation = state.generations.get(&caller, generation.id).await?;
        generation.uploads = uploads;
    }
    let location = path(generation.id);
    if let (ResponseFormat::Binary, Some((wait, true)), [picture]) =
        (format, waited, generation.report.artifacts.as_slice())
    {
        return bytes::response(&generation, picture, &state, &location, wait).await;
    }
    let body = Generation::with_pictures(generation, &state).await?;
    Ok(job::created(&location, &body, waited))
}

/// List generations, newest first
#[utoipa::path(
    get, path = "/v1/generations", tag = "generations", operation_id = "list_generations",
    security(("key" = ["read"])),
    params(PageQuery),
    responses((status = 200, description = "One page of generations", body = GenerationPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<PageQuery>) -> Result<Json<GenerationPage>> {
    let page = generation::list(&caller, &state.database, &query.page()?).await?;
    Ok(Json(page.try_map(|generation| Generation::of(generation, &state)).await?))
}

/// Get a generation
#[utoipa::path(
    get, path = "/v1/generations/{id}", tag = "generations", operation_id = "get_generation",
    security(("key" = ["read"])),
    params(("id" = GenerationId, Path, description = "Id of the generation")),
    responses((status = 200, description = "The current state of the generation", body = Generation)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(id): Path<GenerationId>) -> Result<Json<Generation>> {
    let generation = state.generations.get(&caller, id).await?;
    Ok(Json(Generation::with_pictures(generation, &state).await?))
}

/// Cancel a generation
///
/// A queued generation is canceled at once, a running one within a denoising step. A generation that has ended is
/// returned unchanged.
#[utoipa::path(
    post, path = "/v1/generations/{id}/cancel", tag = "generations", operation_id = "cancel_generation",
    security(("key" = ["generate"])),
    params(("id" = GenerationId, Path, description = "Id of the generation")),
    responses((status = 200, description = "The generation; it may still be running for a moment", body = Generation)),
)]
pub(crate) async fn cancel(caller: Caller, state: State, Path(id): Path<GenerationId>) -> Result<Json<Generation>> {
    let generation = generation::cancel(&caller, &state.database, id).await?;
    Ok(Json(Generation::of(generation, &state).await?))
}

/// Delete a generation and its pictures
#[utoipa::path(
    delete, path = "/v1/generations/{id}", tag = "generations", operation_id = "delete_generation",
    security(("key" = ["generate"])),
    params(("id" = GenerationId, Path, description = "Id of the generation")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "The generation is queued or running; cancel it first"),
    ),
)]
pub(crate) async fn delete(caller: Caller, state: State, Path(id): Path<GenerationId>) -> Result<StatusCode> {
    generation::delete(&caller, &state.database, &state.storage, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
