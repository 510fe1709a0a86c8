//! `/v1/workers`: the live workers, their devices, and the models that they have loaded.

use axum::Json;
use chrono::{DateTime, Utc};
use domain::job::JobKind;
use domain::swap::Swap;
use domain::worker::{self, ResidentModel};
use domain::{Caller, Page, WorkerId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::extract::{PageQuery, Query};
use crate::problem::Result;

/// A live worker: one run of a process that does jobs.
#[derive(Serialize, ToSchema)]
pub(crate) struct Worker {
    pub id: WorkerId,
    /// The worker's name. It stays the same after a restart; several workers may share a name.
    pub name: String,
    pub host: String,
    /// The device of its engine.
    #[schema(example = "cuda:0")]
    pub device: String,
    /// Kinds of jobs that it takes.
    #[schema(example = json!(["generation", "training", "import"]))]
    pub queues: Vec<String>,
    /// Its version of Pyrograph.
    pub version: String,
    /// Device memory that its engine may use, in bytes. Null if it has not reported it.
    #[schema(minimum = 1)]
    pub vram_budget: Option<i64>,
    /// Why it claims no jobs at present, such as a full disk. Null if it claims jobs.
    #[schema(example = "The disk of the worker is full.")]
    pub paused: Option<String>,
    /// Models that it has loaded.
    pub resident: Vec<ResidentModel>,
    /// Jobs of the caller's project that it is working on. An import may run beside another job.
    pub jobs: Vec<CurrentJob>,
    /// How many jobs of other projects it is working on.
    #[schema(minimum = 0)]
    pub other_jobs: i64,
    /// The latest request to load or unload each model, newest first.
    pub swaps: Vec<Swap>,
    pub started_at: DateTime<Utc>,
    /// Time of its last report. A worker reports every 15 s, and when a model is loaded or unloaded.
    pub last_seen_at: DateTime<Utc>,
}

/// A running job.
#[derive(Serialize, ToSchema)]
pub(crate) struct CurrentJob {
    pub kind: JobKind,
    /// Absolute path of the job.
    #[schema(format = "uri-reference")]
    pub url: String,
}

type WorkerPage = Page<Worker>;

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
            paused: worker.paused,
            resident: worker.resident,
            jobs: worker.jobs.into_iter().map(CurrentJob::from).collect(),
            other_jobs: worker.other_jobs,
            swaps: worker.swaps,
            started_at: worker.started_at,
            last_seen_at: worker.last_seen_at,
        }
    }
}

impl From<worker::CurrentJob> for CurrentJob {
    fn from(job: worker::CurrentJob) -> Self {
        Self { kind: job.kind, url: job.kind.path(job.id) }
    }
}

/// List the live workers, newest first
#[utoipa::path(
    get, path = "/v1/workers", tag = "workers", operation_id = "list_workers",
    security(("key" = ["read"])),
    params(PageQuery),
    responses((status = 200, description = "One page of workers", body = WorkerPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<PageQuery>) -> Result<Json<WorkerPage>> {
    Ok(Json(worker::list(&caller, &state.database, &query.page()?).await?.map(Worker::from)))
}
