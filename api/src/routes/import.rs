//! `/v1/imports`: models on their way in. They begin with `POST /v1/models`.

use axum::Json;
use chrono::{DateTime, Utc};
use domain::import;
use domain::job::{JobKind, JobStatus};
use domain::model::ModelRef;
use domain::model::source::{Parts, Source};
use domain::{Caller, ImportId, ModelId, Page, Storage};
use serde::Serialize;
use utoipa::ToSchema;

use super::job::{JobError, JobUrls, Progress, ReportParts};
use crate::State;
use crate::extract::{PageQuery, Path, Query};
use crate::problem::Result;

/// A model on its way in.
#[derive(Serialize, ToSchema)]
pub(crate) struct Import {
    pub id: ImportId,
    pub status: JobStatus,
    /// Name that the model will have.
    pub name: String,
    /// A URL is shown without its query string.
    pub source: Source,
    /// Commit of the Hub's repository that the source's revision named, once it was looked up.
    pub source_commit: Option<String>,
    /// Where the parts come from that were given apart.
    pub parts: Option<Parts>,
    /// Checkpoint that has the parts which no file holds.
    pub parts_of_model_id: Option<ModelId>,
    /// Its steps are files.
    pub progress: Progress,
    /// How often the work was started.
    #[schema(minimum = 0)]
    pub attempts: i64,
    /// The model, once there is one and until it is deleted.
    pub output_model: Option<ModelRef>,
    pub error: Option<JobError>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub urls: JobUrls,
}

type ImportPage = Page<Import>;

impl Import {
    pub(crate) async fn of(import: import::Import, storage: &Storage) -> Result<Self> {
        let report = ReportParts::of(import.report, storage).await?;
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
            error: report.error,
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
    params(PageQuery),
    responses((status = 200, description = "A page", body = ImportPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<PageQuery>) -> Result<Json<ImportPage>> {
    let page = import::list(&caller, &state.database, &query.page()?).await?;
    Ok(Json(page.try_map(|import| Import::of(import, &state.storage)).await?))
}

/// Look at an import
#[utoipa::path(
    get, path = "/v1/imports/{id}", tag = "models", operation_id = "get_import",
    params(("id" = ImportId, Path, description = "Id of the import")),
    responses((status = 200, description = "The import as it is now", body = Import)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(id): Path<ImportId>) -> Result<Json<Import>> {
    let import = import::get(&caller, &state.database, id).await?;
    Ok(Json(Import::of(import, &state.storage).await?))
}

/// End an import
///
/// At once while it is queued, within a moment while it runs. One that has ended is answered unchanged.
#[utoipa::path(
    post, path = "/v1/imports/{id}/cancel", tag = "models", operation_id = "cancel_import",
    params(("id" = ImportId, Path, description = "Id of the import")),
    responses((status = 200, description = "The import; it may still be running for a moment", body = Import)),
)]
pub(crate) async fn cancel(caller: Caller, state: State, Path(id): Path<ImportId>) -> Result<Json<Import>> {
    let import = import::cancel(&caller, &state.database, id).await?;
    Ok(Json(Import::of(import, &state.storage).await?))
}
