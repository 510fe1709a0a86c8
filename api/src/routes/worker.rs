//! `/v1/workers`: who does the work, with what, and which models are loaded.

use axum::Json;
use chrono::{DateTime, Utc};
use domain::job::JobKind;
use domain::swap::Swap;
use domain::worker::{self, ResidentModel};
use domain::{ExportId, GenerationId, ImportId, Page, PageRequest, TrainingId, WorkerId};
use serde::Serialize;
use utoipa::ToSchema;

use super::{export, generation, import, training};
use crate::State;
use crate::extract::{PageQuery, Query};
use crate::problem::Result;

/// A live worker: one start of a process that does jobs.
#[derive(Serialize, ToSchema)]
pub struct Worker {
    pub id: WorkerId,
    /// The same after a restart; several workers may have one name.
    pub name: String,
    pub host: String,
    /// Of its engine.
    #[schema(example = "cuda:0")]
    pub device: String,
    /// Kinds of jobs that it takes.
    #[schema(example = json!(["generation", "training", "import"]))]
    pub queues: Vec<String>,
    /// Of Pyrograph.
    pub version: String,
    /// Bytes of its device's memory that its engine may use; null if it has not said so.
    #[schema(minimum = 1)]
    pub vram_budget: Option<i64>,
    /// Models that it has loaded.
    pub resident: Vec<ResidentModel>,
    /// What it works on now: an import may go on beside another job.
    pub jobs: Vec<CurrentJob>,
    /// The last request to load or unload each model, newest first.
    pub swaps: Vec<Swap>,
    pub started_at: DateTime<Utc>,
    /// It tells each 15 s, and whenever something is loaded or unloaded.
    pub last_seen_at: DateTime<Utc>,
}

/// A running job.
#[derive(Serialize, ToSchema)]
pub struct CurrentJob {
    pub kind: JobKind,
    /// Where it can be looked at; an absolute path.
    #[schema(format = "uri-reference")]
    pub url: String,
}

/// A page of workers.
#[derive(Serialize, ToSchema)]
pub struct WorkerPage {
    pub items: Vec<Worker>,
    /// Pass it as `cursor` to get the next page; null on the last.
    pub next_cursor: Option<String>,
}

impl From<worker::Worker> for Worker {
    fn from(worker: worker::Worker) -> Self {
        Self {
            id: worker.id,
            name: worker.name,
            host: worker.host,
            device: worker.device,
            queues: worker.queues,
            version: worker.version,
            vram_budget: worker.vram_budget,
            resident: worker.resident,
            jobs: worker.jobs.into_iter().map(CurrentJob::from).collect(),
            swaps: worker.swaps,
            started_at: worker.started_at,
            last_seen_at: worker.last_seen_at,
        }
    }
}

impl From<worker::CurrentJob> for CurrentJob {
    fn from(job: worker::CurrentJob) -> Self {
        let url = match job.kind {
            JobKind::Generation => generation::path(GenerationId(job.id)),
            JobKind::Training => training::path(TrainingId(job.id)),
            JobKind::Import => import::path(ImportId(job.id)),
            JobKind::Export => export::path(ExportId(job.id)),
        };
        Self { kind: job.kind, url }
    }
}

/// List the live workers, newest first
#[utoipa::path(
    get, path = "/v1/workers", tag = "workers", operation_id = "list_workers",
    params(PageQuery),
    responses((status = 200, description = "A page", body = WorkerPage)),
)]
pub async fn list(state: State, Query(query): Query<PageQuery>) -> Result<Json<WorkerPage>> {
    let page = PageRequest::parse(query.limit, query.cursor.as_deref())?;
    let Page { items, next_cursor } = worker::list(&state.pool, &page).await?.map(Worker::from);
    Ok(Json(WorkerPage { items, next_cursor }))
}
