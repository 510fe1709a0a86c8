//! `/v1/jobs`: jobs of every kind. What only one kind has is at its own address, which `urls.subject` names.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::delivery::webhook::JobWebhook;
use domain::job::{JobKind, JobStatus};
use domain::jobs::{self, RetryRequest};
use domain::model::ModelRef;
use domain::{Caller, Error, Page, PageRequest};
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::job::{Artifact, JobError, JobUsage, Progress, ReportParts};
use crate::extract::{self, OptionalJson, Path, Query};
use crate::problem::Result;
use crate::{State, wording};

/// A generation, training, import or export, with the attributes that all of them have.
#[derive(Serialize, ToSchema)]
pub(crate) struct Job {
    /// Identifier of the generation, training, import or export.
    pub id: Uuid,
    pub kind: JobKind,
    pub status: JobStatus,
    /// Models that the job runs with.
    pub models: Vec<ModelRef>,
    /// Name of the model to be made, if the job makes one.
    pub output_name: Option<String>,
    pub progress: Progress,
    /// Number of times the job was started.
    #[schema(minimum = 0)]
    pub attempts: i64,
    /// The results, once the job has succeeded.
    pub artifacts: Vec<Artifact>,
    pub error: Option<JobError>,
    pub usage: JobUsage,
    /// The endpoint that its request names. Absent if it names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<JobWebhook>,
    /// Identifier of the failed job that this one repeats.
    pub retry_of: Option<Uuid>,
    /// Identifier of the latest job that repeats this one.
    pub retried_as: Option<Uuid>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub urls: AnyJobUrls,
}

/// Paths to get, cancel and repeat a job of any kind.
#[derive(Serialize, ToSchema)]
pub(crate) struct AnyJobUrls {
    #[serde(rename = "self")]
    #[schema(format = "uri-reference")]
    pub this: String,
    /// Path of the generation, training, import or export, with its parameters and results.
    #[schema(format = "uri-reference")]
    pub subject: String,
    /// POST here to cancel it.
    #[schema(format = "uri-reference")]
    pub cancel: String,
    /// POST here to repeat it, once it has failed.
    #[schema(format = "uri-reference")]
    pub retry: String,
    /// Path of its stream of server-sent events.
    #[schema(format = "uri-reference")]
    pub events: String,
}

type JobPage = Page<Job>;

/// Filters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct JobQuery {
    /// Only jobs of this kind.
    #[param(inline, value_type = Option<JobKind>)]
    pub kind: Option<String>,
    /// Only jobs with this status.
    #[param(inline, value_type = Option<JobStatus>)]
    pub status: Option<String>,
    /// Only jobs that run with this model. Name or identifier.
    #[param(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    pub model: Option<String>,
    /// Only jobs that were created at this time or later.
    #[param(value_type = Option<DateTime<Utc>>)]
    pub created_after: Option<String>,
    /// Only jobs that were created before this time.
    #[param(value_type = Option<DateTime<Utc>>)]
    pub created_before: Option<String>,
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    #[serde(default, deserialize_with = "extract::limit")]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^[A-Za-z0-9_-]{21}[AQgw]$")]
    pub cursor: Option<String>,
}

impl JobQuery {
    /// Errors: `Several`, with every wrong field except `model`, which the list itself checks.
    fn read(self) -> (jobs::Filter, Result<PageRequest, Error>) {
        let mut wrong = Vec::new();
        let filter = jobs::Filter {
            kind: read("kind", self.kind, named, &mut wrong),
            status: read("status", self.status, named, &mut wrong),
            model: self.model,
            created_after: read("created_after", self.created_after, instant, &mut wrong),
            created_before: read("created_before", self.created_before, instant, &mut wrong),
        };
        let page = PageRequest::parse(self.limit, self.cursor.as_deref());
        if wrong.is_empty() {
            return (filter, page);
        }
        wrong.extend(page.err());
        (filter, Err(Error::Several(wrong)))
    }
}

/// The value of a filter. One that cannot be read is added to `wrong`.
fn read<T>(
    field: &str,
    text: Option<String>,
    read: fn(&str) -> Result<T, String>,
    wrong: &mut Vec<Error>,
) -> Option<T> {
    read(&text?).map_err(|message| wrong.push(Error::invalid(field, message))).ok()
}

/// One of the names of an enum. Errors: a sentence with the names.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let text: StrDeserializer<serde::de::value::Error> = text.into_deserializer();
    T::deserialize(text).map_err(|error| wording::plain(&error.to_string()))
}

/// A time after RFC 3339, whose `+` a query string may have turned into a space. Errors: a sentence.
fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    let instant = DateTime::parse_from_rfc3339(&text.replace(' ', "+"));
    let message = |_| format!("`{text}` is not an instant such as `2026-01-31T12:00:00Z`.");
    instant.map(|instant| instant.to_utc()).map_err(message)
}

impl Job {
    async fn of(job: jobs::Job, state: &State) -> Result<Self> {
        let name = job.makes.as_deref().or(job.models.first().map(|model| model.name.as_str())).unwrap_or("pyrograph");
        let report = ReportParts::of(job.report, state, name, job.model.as_deref()).await?;
        let this = path(job.id);
        Ok(Self {
            id: job.id,
            kind: job.kind,
            status: report.status,
            models: job.models,
            output_name: job.makes,
            progress: report.progress,
            attempts: report.attempts,
            artifacts: report.artifacts,
            error: report.error,
            usage: report.usage,
            webhook: report.webhook,
            retry_of: job.retry_of,
            retried_as: job.retried_as,
            created_at: job.created_at,
            started_at: report.started_at,
            finished_at: report.finished_at,
            urls: AnyJobUrls {
                subject: job.kind.path(job.id),
                cancel: format!("{this}/cancel"),
                retry: format!("{this}/retry"),
                events: format!("{this}/events"),
                this,
            },
        })
    }
}

fn path(id: Uuid) -> String {
    format!("/v1/jobs/{id}")
}

/// List jobs of every kind, newest first
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", operation_id = "list_jobs",
    security(("key" = ["read"])),
    params(JobQuery),
    responses((status = 200, description = "One page of jobs", body = JobPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<JobQuery>) -> Result<Json<JobPage>> {
    let (filter, page) = query.read();
    let page = jobs::list(&caller, &state.database, &filter, page).await?;
    Ok(Json(page.try_map(|job| Job::of(job, &state)).await?))
}

/// Get a job
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "get_job",
    security(("key" = ["read"])),
    params(("id" = Uuid, Path, description = "Id of the generation, training, import or export")),
    responses((status = 200, description = "The current state of the job", body = Job)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(id): Path<Uuid>) -> Result<Json<Job>> {
    let job = jobs::get(&caller, &state.database, id).await?;
    Ok(Json(Job::of(job, &state).await?))
}

/// Cancel a job
///
/// A queued job is canceled at once, a running one within a moment. A job that has ended is returned unchanged. The key
/// also needs the scope of the kind: `generate`, `train`, or `models` for imports and exports.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job",
    security(("key" = ["read"])),
    params(("id" = Uuid, Path, description = "Id of the generation, training, import or export")),
    responses((status = 200, description = "The job; it may still be running for a moment", body = Job)),
)]
pub(crate) async fn cancel(caller: Caller, state: State, Path(id): Path<Uuid>) -> Result<Json<Job>> {
    let job = jobs::cancel(&caller, &state.database, id).await?;
    Ok(Json(Job::of(job, &state).await?))
}

/// Repeat a failed job
///
/// Creates a new job with the same parameters and its own identifier; its `retry_of` is the failed job. A training
/// starts at its first step again, on the same pictures. An import from a URL with a query string cannot be repeated:
/// the query string may be a secret, so it was discarded when the import ended. The key also needs the scope of the
/// kind: `generate`, `train`, or `models` for imports and exports. The pictures of a generation are uploaded to the
/// URLs that the failed one has stated; once these are forgotten, a day after it failed, the body must state new ones.
/// The same holds for the URL of a webhook that the failed one has named, if it has a query.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/retry", tag = "jobs", operation_id = "retry_job",
    security(("key" = ["read"])),
    params(("id" = Uuid, Path, description = "Id of the failed generation, training, import or export")),
    request_body = Option<RetryRequest>,
    responses(
        (status = 202, description = "The new job, queued", body = Job,
         headers(("Location" = String, description = "Path of the new job"))),
        (status = 404, description = "The job, or a model, input or picture that it needs, does not exist"),
        (status = 409, description = "The job or its last retry did not fail, or it cannot be repeated"),
    ),
)]
pub(crate) async fn retry(
    caller: Caller,
    state: State,
    Path(id): Path<Uuid>,
    OptionalJson(request): OptionalJson<RetryRequest>,
) -> Result<Response> {
    let job = jobs::retry(&caller, &state.database, &state.storage, id, &request, &state.outbound).await?;
    super::job::log_accepted(job.id);
    let location = path(job.id);
    let body = Json(Job::of(job, &state).await?);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], body).into_response())
}

/// Delete a job
///
/// Deletes a generation, training, import or export that has ended, with the files that only it has: the pictures of a
/// generation, the file of an export. A model that it made is kept. The key also needs the scope of the kind:
/// `generate`, `train`, or `models` for imports and exports.
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "delete_job",
    security(("key" = ["read"])),
    params(("id" = Uuid, Path, description = "Id of the generation, training, import or export")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "The job is queued or running; cancel it first"),
    ),
)]
pub(crate) async fn delete(caller: Caller, state: State, Path(id): Path<Uuid>) -> Result<StatusCode> {
    jobs::delete(&caller, &state.database, &state.storage, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
