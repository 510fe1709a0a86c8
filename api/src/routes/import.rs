//! `/v1/imports`: models that are being imported. `POST /v1/models` creates one.

use axum::Json;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::delivery::webhook::JobWebhook;
use domain::import;
use domain::job::{JobKind, JobStatus};
use domain::model::ModelRef;
use domain::model::source::{Parts, Source};
use domain::{Caller, ImportId, ModelId, Page};
use serde::Serialize;
use utoipa::ToSchema;

use super::job::{JobError, JobUrls, JobUsage, Progress, ReportParts};
use crate::State;
use crate::extract::{PageQuery, Path, Query};
use crate::problem::Result;

/// The import of a model.
#[derive(Serialize, ToSchema)]
pub(crate) struct Import {
    pub id: ImportId,
    pub status: JobStatus,
    /// Name of the model to be made.
    pub name: String,
    /// Where the files come from. A URL is shown without its query string.
    pub source: Source,
    /// Commit of the Hugging Face repository that the source's revision resolved to. Null until it was resolved.
    pub source_commit: Option<String>,
    /// Sources of the parts (text encoders, VAE) that were supplied separately.
    pub parts: Option<Parts>,
    /// Checkpoint that supplies the parts that are in none of the files.
    pub parts_of_model_id: Option<ModelId>,
    /// Progress of the import. Its steps are files.
    pub progress: Progress,
    /// Number of times the job was started.
    #[schema(minimum = 0)]
    pub attempts: i64,
    /// The model: present once it exists, until it is deleted.
    pub output_model: Option<ModelRef>,
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

type ImportPage = Page<Import>;

impl Import {
    pub(crate) async fn of(import: import::Import, state: &State) -> Result<Self> {
        let report = ReportParts::of(import.report, state, &import.name, None).await?;
        Ok(Self {
            urls: JobUrls::below(path(import.id)),
            id: import.id,
            status: report.status,
            name: import.name,
            source: import.source,
            source_commit: import.source_commit,
            parts: import.parts,
            parts_of_model_id: import.parts_of_model_id,
            progress: report.progress,
            attempts: report.attempts,
            output_model: import.output_model,
            warnings: report.warnings,
            error: report.error,
            usage: report.usage,
            webhook: report.webhook,
            created_at: import.created_at,
            started_at: report.started_at,
            finished_at: report.finished_at,
        })
    }
}

pub(super) fn path(id: ImportId) -> String {
    JobKind::Import.path(id)
}

/// List imports, newest first
#[utoipa::path(
    get, path = "/v1/imports", tag = "models", operation_id = "list_imports",
    security(("key" = ["read"])),
    params(PageQuery),
    responses((status = 200, description = "One page of imports", body = ImportPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<PageQuery>) -> Result<Json<ImportPage>> {
    let page = import::list(&caller, &state.database, &query.page()?).await?;
    Ok(Json(page.try_map(|import| Import::of(import, &state)).await?))
}

/// Get an import
#[utoipa::path(
    get, path = "/v1/imports/{id}", tag = "models", operation_id = "get_import",
    security(("key" = ["read"])),
    params(("id" = ImportId, Path, description = "Id of the import")),
    responses((status = 200, description = "The current state of the import", body = Import)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(id): Path<ImportId>) -> Result<Json<Import>> {
    let import = import::get(&caller, &state.database, id).await?;
    Ok(Json(Import::of(import, &state).await?))
}

/// Cancel an import
///
/// A queued import is canceled at once, a running one within a moment. An import that has ended is returned unchanged.
#[utoipa::path(
    post, path = "/v1/imports/{id}/cancel", tag = "models", operation_id = "cancel_import",
    security(("key" = ["models"])),
    params(("id" = ImportId, Path, description = "Id of the import")),
    responses((status = 200, description = "The import; it may still be running for a moment", body = Import)),
)]
pub(crate) async fn cancel(caller: Caller, state: State, Path(id): Path<ImportId>) -> Result<Json<Import>> {
    let import = import::cancel(&caller, &state.database, id).await?;
    Ok(Json(Import::of(import, &state).await?))
}

/// Delete an import
///
/// The model that it made is kept.
#[utoipa::path(
    delete, path = "/v1/imports/{id}", tag = "models", operation_id = "delete_import",
    security(("key" = ["models"])),
    params(("id" = ImportId, Path, description = "Id of the import")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "The import is queued or running; cancel it first"),
    ),
)]
pub(crate) async fn delete(caller: Caller, state: State, Path(id): Path<ImportId>) -> Result<StatusCode> {
    import::delete(&caller, &state.database, &state.storage, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
