//! `/v1/exports`: LoRAs in another program's dialect. `POST /v1/models/{model}/export` creates one.

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::export::{self, Dtype, Format};
use domain::job::{JobKind, JobStatus};
use domain::model::ModelRef;
use domain::{Caller, ExportId, Page};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::job::{self, Artifact, JobError, JobUrls, JobUsage, ReportParts};
use crate::State;
use crate::extract::{PageQuery, Path, Query};
use crate::problem::Result;

/// A LoRA in another dialect.
#[derive(Serialize, ToSchema)]
pub(crate) struct Export {
    pub id: ExportId,
    pub status: JobStatus,
    pub model: ModelRef,
    pub format: Format,
    pub dtype: Dtype,
    /// Number of times the job was started.
    #[schema(minimum = 0)]
    pub attempts: i64,
    /// The file: present once the export has succeeded, until the model is deleted.
    pub artifacts: Vec<Artifact>,
    pub error: Option<JobError>,
    pub usage: JobUsage,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub urls: JobUrls,
}

type ExportPage = Page<Export>;

/// The file to make.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// Dialect of the file.
    #[param(inline)]
    pub format: Format,
    /// Data type of its values.
    #[serde(default)]
    #[param(schema_with = dtype_schema)]
    pub dtype: Dtype,
}

/// utoipa itself would put the default into another schema, of the type `object`.
fn dtype_schema() -> RefOr<Schema> {
    let mut schema = Dtype::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        object.default = serde_json::to_value(Dtype::default()).ok();
    }
    schema
}

impl Export {
    async fn of(export: export::Export, state: &State) -> Result<Self> {
        let report = ReportParts::of(export.report, state, &export.model.name, Some(&export.model.name)).await?;
        Ok(Self {
            urls: JobUrls::below(path(export.id)),
            id: export.id,
            status: report.status,
            model: export.model,
            format: export.format,
            dtype: export.dtype,
            attempts: report.attempts,
            artifacts: report.artifacts,
            error: report.error,
            usage: report.usage,
            created_at: export.created_at,
            started_at: report.started_at,
            finished_at: report.finished_at,
        })
    }
}

fn path(id: ExportId) -> String {
    JobKind::Export.path(id)
}

/// Export a LoRA in another program's dialect
///
/// The same export of a model is made only once: if it exists or is being made, that one is returned.
#[utoipa::path(
    post, path = "/v1/models/{model}/export", tag = "models", operation_id = "export_model",
    security(("key" = ["models"])),
    params(
        ("model" = String, Path, description = "Name or id of the LoRA"), ExportQuery,
        ("Prefer" = Option<String>, Header, description = "`wait=10` waits up to 10 seconds for the end"),
    ),
    responses(
        (status = 202, description = "The export is queued or running", body = Export,
         headers(("Location" = String, description = "Path of the export"))),
        (status = 201, description = "The export is finished", body = Export,
         headers(("Location" = String, description = "Path of the export"))),
        (status = 422, description = "The model is a checkpoint, or there is no such format"),
    ),
)]
pub(crate) async fn create(
    caller: Caller,
    state: State,
    Path(model): Path<String>,
    Query(query): Query<ExportQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let mut export = export::create(&caller, &state.database, &model, query.format, query.dtype).await?;
    if export.report.status == JobStatus::Queued {
        job::log_accepted(export.id);
    }
    let waited = job::wait(&caller, &state, &headers, export.job_id).await?;
    if waited.is_some() {
        export = export::get(&caller, &state.database, export.id).await?;
    }
    let location = path(export.id);
    if waited.is_none() && export.report.status == JobStatus::Succeeded {
        let body = Json(Export::of(export, &state).await?);
        return Ok((StatusCode::CREATED, [(header::LOCATION, location)], body).into_response());
    }
    Ok(job::created(&location, &Export::of(export, &state).await?, waited))
}

/// List exports, newest first
#[utoipa::path(
    get, path = "/v1/exports", tag = "models", operation_id = "list_exports",
    security(("key" = ["read"])),
    params(PageQuery),
    responses((status = 200, description = "One page of exports", body = ExportPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<PageQuery>) -> Result<Json<ExportPage>> {
    let page = export::list(&caller, &state.database, &query.page()?).await?;
    Ok(Json(page.try_map(|export| Export::of(export, &state)).await?))
}

/// Get an export
#[utoipa::path(
    get, path = "/v1/exports/{id}", tag = "models", operation_id = "get_export",
    security(("key" = ["read"])),
    params(("id" = ExportId, Path, description = "Id of the export")),
    responses((status = 200, description = "The current state of the export", body = Export)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(id): Path<ExportId>) -> Result<Json<Export>> {
    let export = export::get(&caller, &state.database, id).await?;
    Ok(Json(Export::of(export, &state).await?))
}

/// Cancel an export
///
/// A queued export is canceled at once, a running one within a moment. An export that has ended is returned unchanged.
#[utoipa::path(
    post, path = "/v1/exports/{id}/cancel", tag = "models", operation_id = "cancel_export",
    security(("key" = ["models"])),
    params(("id" = ExportId, Path, description = "Id of the export")),
    responses((status = 200, description = "The current state of the export", body = Export)),
)]
pub(crate) async fn cancel(caller: Caller, state: State, Path(id): Path<ExportId>) -> Result<Json<Export>> {
    let export = export::cancel(&caller, &state.database, id).await?;
    Ok(Json(Export::of(export, &state).await?))
}

/// Delete an export and its file
#[utoipa::path(
    delete, path = "/v1/exports/{id}", tag = "models", operation_id = "delete_export",
    security(("key" = ["models"])),
    params(("id" = ExportId, Path, description = "Id of the export")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "The export is queued or running; cancel it first"),
    ),
)]
pub(crate) async fn delete(caller: Caller, state: State, Path(id): Path<ExportId>) -> Result<StatusCode> {
    export::delete(&caller, &state.database, &state.storage, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
