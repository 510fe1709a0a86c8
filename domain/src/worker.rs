//! Worker processes, as they report themselves: that they are alive, and which models they have loaded. Whether a job
//! is alive does not depend on these rows, but on its lease.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use memory::Budget;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::types::Json;

use crate::database::bounded;
use crate::job::JobKind;
use crate::liveness::GONE_AFTER;
use crate::model::ModelRef;
use crate::swap::Swap;
use crate::{Caller, Database, Page, PageRequest, ProjectId, Result, WorkerId};

/// Time between two reports.
pub const SEEN_EVERY: Duration = Duration::from_secs(15);
/// A live worker: one start of a process.
#[derive(Debug, Clone)]
pub struct Worker {
    pub id: WorkerId,
    /// The worker's name, for people; the same after a restart.
    pub name: String,
    pub host: String,
    /// The device it runs on, such as `cpu` or `cuda:0`.
    pub device: String,
    /// Kinds of jobs that it claims.
    pub queues: Vec<String>,
    pub version: String,
    /// Device memory that its engine may use, in bytes.
    pub vram_budget: Option<i64>,
    /// Why it claims no jobs at present.
    pub paused: Option<String>,
    pub started_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub resident: Vec<ResidentModel>,
    /// The jobs of the caller's project that it is working on.
    pub jobs: Vec<CurrentJob>,
    /// How many jobs of other projects it is working on.
    pub other_jobs: i64,
    /// The latest request about each model, newest first.
    pub swaps: Vec<Swap>,
}

/// A model that an engine has loaded, as the engine reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resident {
    /// `models.sha256`.
    pub sha256: String,
    /// Memory of its weights, in bytes.
    pub bytes: i64,
}

/// A loaded model, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResidentModel {
    /// The model. Null if it was deleted, or is one of another project.
    pub model: Option<ModelRef>,
    /// SHA-256 of the model, lower-case hex. Null if it is one of another project.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: Option<String>,
    /// Memory of its weights, in bytes.
    #[schema(minimum = 0)]
    pub bytes: i64,
}

/// A running job.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CurrentJob {
    pub kind: JobKind,
    /// The public id, which is that of its subject.
    pub id: uuid::Uuid,
}

/// A worker that has a model loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Residence {
    pub worker: WorkerId,
    /// The worker's name.
    pub name: String,
    /// The device it runs on, such as `cuda:0`.
    #[schema(example = "cuda:0")]
    pub device: String,
    /// Memory of the model's weights, in bytes.
    #[schema(minimum = 0)]
    pub bytes: i64,
}

/// Records that a process has started.
#[allow(clippy::too_many_arguments, reason = "a row")]
pub async fn register(
    pool: &PgPool,
    id: WorkerId,
    name: &str,
    host: &str,
    device: &str,
    queues: &[JobKind],
    version: &str,
    budget: Option<&Budget>,
) -> Result<()> {
    let queues: Vec<String> = queues.iter().map(|kind| kind.as_str().to_owned()).collect();
    bounded(
        sqlx::query!(
            // Written again if the reply to the first attempt was lost.
            "INSERT INTO workers (id, name, host, device, queues, version, vram_budget, budget)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (id) DO UPDATE
             SET last_seen_at = clock_timestamp(), vram_budget = excluded.vram_budget, budget = excluded.budget",
            id.0,
            name,
            host,
            device,
            &queues,
            version,
            budget.and_then(|budget| i64::try_from(budget.bytes).ok()),
            budget.map(Json) as _,
        )
        .execute(pool),
    )
    .await?;
    Ok(())
}

/// Records that a worker is alive, and what it has loaded now.
pub async fn seen(pool: &PgPool, id: WorkerId, resident: &[Resident]) -> Result<()> {
    bounded(
        sqlx::query!(
            "UPDATE workers SET last_seen_at = clock_timestamp(), resident = $2 WHERE id = $1",
            id.0,
            Json(resident) as _,
        )
        .execute(pool),
    )
    .await?;
    Ok(())
}

/// Records why a worker claims no jobs at present, or that it does again.
pub async fn pause(pool: &PgPool, id: WorkerId, reason: Option<&str>) -> Result<()> {
    bounded(sqlx::query!("UPDATE workers SET paused = $2 WHERE id = $1", id.0, reason).execute(pool)).await?;
    Ok(())
}

/// How many of the jobs that failed on this worker within the last `span` have succeeded on another one.
pub async fn done_by_others(pool: &PgPool, id: WorkerId, span: Duration) -> Result<i64> {
    let done = sqlx::query_scalar!(
        r#"SELECT count(DISTINCT failed.job_id) AS "count!" FROM attempts failed
           JOIN attempts done ON done.job_id = failed.job_id AND done.outcome = 'succeeded' AND done.worker <> $1
           WHERE failed.worker = $1 AND failed.outcome IN ('failed', 'crashed')
             AND failed.ended_at > clock_timestamp() - make_interval(secs => $2)"#,
        id.0,
        span.as_secs_f64(),
    );
    bounded(done.fetch_one(pool)).await
}

/// Records an orderly shutdown.
pub async fn stopped(pool: &PgPool, id: WorkerId) -> Result<()> {
    bounded(
        sqlx::query!(
            "UPDATE workers SET last_seen_at = clock_timestamp(), stopped_at = clock_timestamp(), resident = '[]'
             WHERE id = $1 AND stopped_at IS NULL",
            id.0,
        )
        .execute(pool),
    )
    .await?;
    Ok(())
}

struct Row {
    id: WorkerId,
    name: String,
    host: String,
    device: String,
    queues: Vec<String>,
    version: String,
    vram_budget: Option<i64>,
    paused: Option<String>,
    started_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
    resident: Json<Vec<ResidentModel>>,
    jobs: Json<Vec<CurrentJob>>,
    other_jobs: i64,
    swaps: Json<Vec<Swap>>,
}

impl From<Row> for Worker {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            name: row.name,
            host: row.host,
            device: row.device,
            queues: row.queues,
            version: row.version,
            vram_budget: row.vram_budget,
            paused: row.paused,
            started_at: row.started_at,
            last_seen_at: row.last_seen_at,
            resident: row.resident.0,
            jobs: row.jobs.0,
            other_jobs: row.other_jobs,
            swaps: row.swaps.0,
        }
    }
}

/// Lists the live workers, newest first, with the models, jobs and swaps of the caller's project. Of the jobs of others
/// there is only their number, and of their loaded models only the memory.
pub async fn list(caller: &Caller, database: &Database, page: &PageRequest) -> Result<Page<Worker>> {
    let rows = bounded(
        sqlx::query_as!(
            Row,
            r#"SELECT w.id AS "id: WorkerId", name, host, device, queues, version, vram_budget, paused, started_at,
                      last_seen_at,
                      coalesce((SELECT jsonb_agg(jsonb_build_object('sha256', seen.sha256, 'bytes', r.bytes,
                                       'model', seen.model))
                                FROM jsonb_to_recordset(w.resident) AS r(sha256 text, bytes bigint)
                                LEFT JOIN LATERAL (
                                  SELECT m.sha256, CASE WHEN m.deleted_at IS NULL
                                         THEN jsonb_build_object('id', m.id, 'name', m.name) END AS model
                                  FROM models m WHERE m.sha256 = r.sha256 AND (m.project_id = $4 OR m.shared)
                                  ORDER BY m.deleted_at IS NULL DESC, m.project_id = $4 DESC, m.id LIMIT 1
                                ) AS seen ON true), '[]')
                        AS "resident!: Json<Vec<ResidentModel>>",
                      coalesce((SELECT jsonb_agg(jsonb_build_object('kind', j.kind, 'id', j.subject) ORDER BY j.id)
                                FROM jobs j WHERE j.status = 'running' AND j.worker = w.id AND j.project_id = $4), '[]')
                        AS "jobs!: Json<Vec<CurrentJob>>",
                      (SELECT count(*) FROM jobs j
                       WHERE j.status = 'running' AND j.worker = w.id AND j.project_id <> $4) AS "other_jobs!",
                      coalesce((SELECT jsonb_agg(to_jsonb(s) || jsonb_build_object(
                                       'name', w.name, 'device', w.device, 'error', s.error_message,
                                       'model', jsonb_build_object('id', m.id, 'name', m.name))
                                       ORDER BY s.id DESC)
                                FROM swaps s JOIN models m ON m.id = s.model_id
                                WHERE s.worker = w.id AND (m.project_id = $4 OR m.shared)), '[]')
                        AS "swaps!: Json<Vec<Swap>>"
               FROM workers w
               WHERE stopped_at IS NULL AND last_seen_at > clock_timestamp() - make_interval(secs => $1)
                 AND ($2::uuid IS NULL OR id < $2)
               ORDER BY id DESC LIMIT $3"#,
            GONE_AFTER.as_secs_f64(),
            page.before(),
            page.fetch_limit(),
            caller.project() as ProjectId,
        )
        .fetch_all(database.pool(caller)),
    )
    .await?;
    Ok(page.cut(rows.into_iter().map(Worker::from).collect(), |worker| worker.id.into()))
}

/// The live workers that have models of these digests loaded, by digest.
pub async fn residences(
    caller: &Caller,
    database: &Database,
    digests: &[String],
) -> Result<HashMap<String, Vec<Residence>>> {
    let rows = bounded(
        sqlx::query!(
            r#"SELECT w.id AS "id: WorkerId", name, device, r.sha256 AS "sha256!", r.bytes AS "bytes!"
               FROM workers w, jsonb_to_recordset(w.resident) AS r(sha256 text, bytes bigint)
               WHERE stopped_at IS NULL AND last_seen_at > clock_timestamp() - make_interval(secs => $1) AND r.sha256 = ANY($2)
               ORDER BY w.id"#,
            GONE_AFTER.as_secs_f64(),
            digests,
        )
        .fetch_all(database.pool(caller)),
    )
    .await?;
    let mut residences: HashMap<String, Vec<Residence>> = HashMap::new();
    for row in rows {
        let residence = Residence { worker: row.id, name: row.name, device: row.device, bytes: row.bytes };
        residences.entry(row.sha256).or_default().push(residence);
    }
    Ok(residences)
}
