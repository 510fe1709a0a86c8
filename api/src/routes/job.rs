//! What generations, trainings, imports and exports have in common over HTTP: progress, artifacts, error, links, and
//! waiting for the end.

use std::fmt::Display;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::artifact::{self, OutputKind};
use domain::delivery::upload;
use domain::delivery::webhook::JobWebhook;
use domain::job::{ErrorClass, JobKind, JobStatus, Stage, wait_terminal};
use domain::prices::{Cost, Used};
use domain::report;
use domain::storage::READ_TTL;
use domain::{ArtifactId, Caller, JobId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::artifact::Delivery;
use crate::State;
use crate::prefer::{PREFERENCE_APPLIED, Wait};
use crate::problem::Result;

/// Progress of a job.
#[derive(Serialize, ToSchema)]
pub(crate) struct Progress {
    /// Steps completed by the attempt that reported last.
    #[schema(minimum = 0)]
    pub step: i32,
    /// Total number of steps; 0 while it is not known.
    #[schema(minimum = 0)]
    pub total_steps: i32,
    /// What a running generation or training does before its first step. Absent during the steps, and if the files are
    /// on the worker and the weights in memory within a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// Name of the model that is fetched or loaded. Absent if the files belong to no model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "flux-dev")]
    pub model: Option<String>,
    /// Bytes received or read so far, in an import or a stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub bytes: Option<i64>,
    /// Total number of bytes of an import or a stage; absent while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub total_bytes: Option<i64>,
    /// Estimated time until the stage ends, in seconds. Absent while it cannot be estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub seconds_left: Option<i64>,
    /// Loss over the last steps. Trainings only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Current time per step, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_per_step: Option<f64>,
}

/// Why a job failed.
#[derive(Serialize, ToSchema)]
pub(crate) struct JobError {
    pub class: ErrorClass,
    /// A sentence for people.
    pub message: String,
}

/// A result of a job.
#[derive(Serialize, ToSchema)]
pub(crate) struct Artifact {
    pub id: ArtifactId,
    pub kind: OutputKind,
    /// Position within the job.
    #[schema(minimum = 0)]
    pub position: i32,
    /// URL to download the bytes; needs no other credentials. It is presigned and valid for one hour, or, for a picture
    /// of a server with a CDN, that of the CDN.
    #[schema(format = "uri")]
    pub url: String,
    #[schema(example = "image/png")]
    pub media_type: String,
    /// Width in pixels, of images, masks and videos.
    pub width: Option<i32>,
    /// Height in pixels, of images, masks and videos.
    pub height: Option<i32>,
    #[schema(minimum = 1)]
    pub bytes: i64,
    /// SHA-256 of the bytes, lower-case hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    /// MD5 of the bytes, lower-case hex.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub image_hash: String,
    /// Seed that reproduces this picture. Images only.
    pub seed: Option<i64>,
    /// The bytes in Base64, in answers about one generation whose `response_format` is `b64_json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(content_encoding = "base64")]
    pub b64_json: Option<String>,
    /// Its upload to a URL of the caller. Absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    pub created_at: DateTime<Utc>,
}

/// What a job has used, in attempts that have ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct JobUsage {
    /// Seconds for which the devices of workers were held.
    #[schema(minimum = 0)]
    pub gpu_seconds: f64,
    /// Bytes of the results.
    #[schema(minimum = 0)]
    pub bytes: i64,
    /// By the server's table of prices. Absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// Paths to get, cancel and follow a job.
#[derive(Serialize, ToSchema)]
pub(crate) struct JobUrls {
    #[serde(rename = "self")]
    #[schema(format = "uri-reference")]
    pub this: String,
    /// POST here to cancel it.
    #[schema(format = "uri-reference")]
    pub cancel: String,
    /// Path of its stream of server-sent events.
    #[schema(format = "uri-reference")]
    pub events: String,
}

impl JobUrls {
    pub(crate) fn below(this: String) -> Self {
        Self { cancel: format!("{this}/cancel"), events: format!("{this}/events"), this }
    }
}

/// The parts of a report, as they are sent.
pub(crate) struct ReportParts {
    pub status: JobStatus,
    pub progress: Progress,
    pub attempts: i64,
    pub error: Option<JobError>,
    pub usage: JobUsage,
    pub webhook: Option<JobWebhook>,
    pub warnings: Vec<String>,
    pub artifacts: Vec<Artifact>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

impl ReportParts {
    /// `name` begins the names of the files that its artifacts are saved as; the price is that of `model`.
    pub(crate) async fn of(report: report::Report, state: &State, name: &str, model: Option<&str>) -> Result<Self> {
        let used = Used { gpu_seconds: report.gpu_seconds, bytes: report.artifacts.iter().map(|one| one.bytes).sum() };
        // A stage is that of the current attempt: a job that waits again or has ended is in none.
        let is_stale = |progress: &Value| report.status != JobStatus::Running && progress.get("stage").is_some();
        let progress = report.progress.filter(|progress| !is_stale(progress));
        let told = |name: &str| progress.as_ref().and_then(|progress| progress.get(name));
        let number = |name: &str| told(name).and_then(Value::as_f64);
        let count = |name: &str| told(name).and_then(Value::as_i64);
        Ok(Self {
            status: report.status,
            progress: Progress {
                step: report.step,
                total_steps: report.total_steps,
                stage: told("stage").and_then(|stage| Stage::deserialize(stage).ok()),
                model: told("model").and_then(Value::as_str).map(str::to_owned),
                bytes: count("bytes"),
                total_bytes: count("total_bytes"),
                seconds_left: count("seconds_left"),
                loss: number("loss"),
                seconds_per_step: number("seconds_per_step"),
            },
            attempts: report.attempts,
            error: report.error.map(|error| JobError { class: error.class, message: error.message }),
            usage: JobUsage {
                gpu_seconds: used.gpu_seconds,
                bytes: used.bytes,
                cost: state.prices.as_ref().map(|prices| prices.cost(model, used)),
            },
            webhook: report.webhook,
            warnings: report.warnings,
            artifacts: artifacts(report.artifacts, state, name).await?,
            started_at: report.started_at,
            finished_at: report.finished_at,
        })
    }
}

async fn artifacts(artifacts: Vec<artifact::Artifact>, state: &State, name: &str) -> Result<Vec<Artifact>> {
    let mut signed = Vec::with_capacity(artifacts.len());
    for artifact in artifacts {
        signed.push(Artifact {
            url: match state.cdn.as_ref().filter(|_| artifact.kind.is_public()) {
                Some(cdn) => format!("{}/{}", cdn.as_str(), artifact.storage_key),
                None => {
                    let file_name = artifact.file_name(name);
                    state.storage.presign_get_as(&artifact.storage_key, &file_name, READ_TTL).await?.into()
                }
            },
            id: artifact.id,
            kind: artifact.kind,
            position: artifact.position,
            media_type: artifact.media_type,
            width: artifact.width,
            height: artifact.height,
            bytes: artifact.bytes,
            sha256: artifact.sha256,
            image_hash: artifact.md5,
            seed: artifact.seed,
            b64_json: None,
            delivery: artifact.delivery.map(Delivery::from),
            created_at: artifact.created_at,
        });
    }
    Ok(signed)
}

/// Writes a line about a job that was just created, before its request waits for anything: the client may leave then.
/// `id` is that of the generation, training, import or export.
pub(crate) fn log_accepted(id: impl Display) {
    // Leads from the id of the request to that of the job, which the lines of its worker have.
    tracing::info!(job = %id, "accepted");
}

/// Waits for the end of `job`, and of the uploads of its pictures, as long as the client prefers. Returns whether both
/// have ended, and the wait that was granted.
pub(crate) async fn wait(
    caller: &Caller,
    state: &State,
    headers: &HeaderMap,
    job: JobId,
) -> Result<Option<(Wait, bool)>> {
    let Some(wait) = Wait::from_headers(headers) else { return Ok(None) };
    // With too many that wait, this one gets its answer at once, as the RFC allows.
    let Some(_permit) = state.admission.wait() else { return Ok(None) };
    let waiting = async {
        tokio::select! {
            ended = ended(caller, state, job, wait.limit()) => ended,
            () = state.stop.cancelled() => Ok(false),
        }
    };
    let ended = match &state.place {
        Some(place) => place.without(waiting).await,
        None => waiting.await,
    };
    ended.map(|ended| Some((wait, ended)))
}

async fn ended(caller: &Caller, state: &State, id: JobId, limit: Duration) -> Result<bool> {
    let until = Instant::now() + limit;
    let job = wait_terminal(caller, &state.database, &state.feed, id, limit).await?;
    match job.status {
        JobStatus::Succeeded if job.kind == JobKind::Generation => {
            let left = until.saturating_duration_since(Instant::now());
            Ok(upload::wait(caller, &state.database, &state.feed, id, left).await?)
        }
        status => Ok(status.is_terminal()),
    }
}

/// The response to a creation: 202, or 201 if the job ended within the wait.
pub(crate) fn created(location: &str, body: &impl Serialize, waited: Option<(Wait, bool)>) -> Response {
    let status = if waited.is_some_and(|(_, ended)| ended) { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    let mut response = (status, [(header::LOCATION, location)], Json(body)).into_response();
    if let Some((wait, _)) = waited {
        response.headers_mut().insert(PREFERENCE_APPLIED, wait.applied());
    }
    response
}
