//! `/v1/trainings`: LoRAs trained on datasets.

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::delivery::webhook::JobWebhook;
use domain::job::{JobKind, JobStatus};
use domain::model::ModelRef;
use domain::training::{self, TrainingRequest};
use domain::{Caller, DatasetId, Page, TrainingId};
use requests::TrainingParams;
use serde::Serialize;
use utoipa::ToSchema;

use super::job::{self, Artifact, JobError, JobUrls, JobUsage, Progress, ReportParts};
use crate::State;
use crate::extract::{self, PageQuery, Path, Query};
use crate::problem::Result;

/// The training of a LoRA.
#[derive(Serialize, ToSchema)]
pub(crate) struct Training {
    pub id: TrainingId,
    pub status: JobStatus,
    /// Name of the LoRA to be made.
    pub name: String,
    pub dataset_id: DatasetId,
    /// The base checkpoint.
    pub model: ModelRef,
    #[serde(flatten)]
    pub params: TrainingParams,
    pub progress: Progress,
    /// Number of times the job was started.
    #[schema(minimum = 0)]
    pub attempts: i64,
    /// The LoRA: present once it exists, until it is deleted.
    pub output_model: Option<ModelRef>,
    /// The LoRA's file, once the training has succeeded.
    pub artifacts: Vec<Artifact>,
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

type TrainingPage = Page<Training>;

impl Training {
    async fn of(training: training::Training, state: &State) -> Result<Self> {
        let report = ReportParts::of(training.report, state, &training.name, Some(&training.model.name)).await?;
        Ok(Self {
            urls: JobUrls::below(path(training.id)),
            id: training.id,
            status: report.status,
            name: training.name,
            dataset_id: training.dataset_id,
            model: training.model,
            params: training.params,
            progress: report.progress,
            attempts: report.attempts,
            output_model: training.output_model,
            artifacts: report.artifacts,
            warnings: report.warnings,
            error: report.error,
            usage: report.usage,
            webhook: report.webhook,
            created_at: training.created_at,
            started_at: report.started_at,
            finished_at: report.finished_at,
        })
    }
}

fn path(id: TrainingId) -> String {
    JobKind::Training.path(id)
}

/// Train a LoRA
///
/// Takes a snapshot of the dataset and returns the queued training immediately. With `Prefer: wait=N` it waits up to N
/// (at most 60) seconds for the end, and returns 201 if the training has ended by then. The result is a model of kind
/// `lora`.
#[utoipa::path(
    post, path = "/v1/trainings", tag = "trainings", operation_id = "create_training",
    security(("key" = ["train"])),
    params(("Prefer" = Option<String>, Header, description = "`wait=N`: seconds to wait for the end",
            example = "wait=1")),
    request_body = TrainingRequest,
    responses(
        (status = 202, description = "Queued, or still running after the wait", body = Training,
         headers(("Location" = String, description = "Path of the training"),
                 ("Preference-Applied" = Option<String>, description = "The wait that was granted"))),
        (status = 201, description = "Ended within the wait; `status` is the outcome", body = Training,
         headers(("Location" = String, description = "Path of the training"),
                 ("Preference-Applied" = Option<String>, description = "The wait that was granted"))),
        (status = 404, description = "The dataset or the model that the body names does not exist"),
        (status = 409, description = "The name is taken, or the dataset has no pictures"),
    ),
)]
pub(crate) async fn create(
    caller: Caller,
    state: State,
    headers: HeaderMap,
    extract::Json(request): extract::Json<TrainingRequest>,
) -> Result<Response> {
    let mut training =
        training::create(&caller, &state.database, &state.catalog, &state.capacity, &state.outbound, request).await?;
    job::log_accepted(training.id);
    let waited = job::wait(&caller, &state, &headers, training.job_id).await?;
    if waited.is_some() {
        training = training::get(&caller, &state.database, training.id).await?;
    }
    let location = path(training.id);
    let body = Training::of(training, &state).await?;
    Ok(job::created(&location, &body, waited))
}

/// List trainings, newest first
#[utoipa::path(
    get, path = "/v1/trainings", tag = "trainings", operation_id = "list_trainings",
    security(("key" = ["read"])),
    params(PageQuery),
    responses((status = 200, description = "One page of trainings", body = TrainingPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<PageQuery>) -> Result<Json<TrainingPage>> {
    let page = training::list(&caller, &state.database, &query.page()?).await?;
    Ok(Json(page.try_map(|training| Training::of(training, &state)).await?))
}

/// Get a training
#[utoipa::path(
    get, path = "/v1/trainings/{id}", tag = "trainings", operation_id = "get_training",
    security(("key" = ["read"])),
    params(("id" = TrainingId, Path, description = "Id of the training")),
    responses((status = 200, description = "The current state of the training", body = Training)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(id): Path<TrainingId>) -> Result<Json<Training>> {
    let training = training::get(&caller, &state.database, id).await?;
    Ok(Json(Training::of(training, &state).await?))
}

/// Cancel a training
///
/// A queued training is canceled at once, a running one within a step. A training that has ended is returned unchanged.
#[utoipa::path(
    post, path = "/v1/trainings/{id}/cancel", tag = "trainings", operation_id = "cancel_training",
    security(("key" = ["train"])),
    params(("id" = TrainingId, Path, description = "Id of the training")),
    responses((status = 200, description = "The training; it may still be running for a moment", body = Training)),
)]
pub(crate) async fn cancel(caller: Caller, state: State, Path(id): Path<TrainingId>) -> Result<Json<Training>> {
    let training = training::cancel(&caller, &state.database, id).await?;
    Ok(Json(Training::of(training, &state).await?))
}

/// Delete a training and its checkpoints
///
/// The LoRA that it made is a separate model and is kept.
#[utoipa::path(
    delete, path = "/v1/trainings/{id}", tag = "trainings", operation_id = "delete_training",
    security(("key" = ["train"])),
    params(("id" = TrainingId, Path, description = "Id of the training")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "The training is queued or running; cancel it first"),
    ),
)]
pub(crate) async fn delete(caller: Caller, state: State, Path(id): Path<TrainingId>) -> Result<StatusCode> {
    training::delete(&caller, &state.database, &state.storage, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
