//! Swaps: requests to workers to load or unload a model. A worker carries a swap out between two jobs. There is one at
//! a time for each worker and model, the latest that was requested, and it is deleted with its worker.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

use crate::database::bounded;
use crate::job::{self, JobKind};
use crate::liveness::GONE_AFTER;
use crate::model::{Model, ModelFile, ModelFiles, ModelKind, ModelRef};
use crate::{Caller, Database, Error, KeyId, ModelId, Result, SwapId, WorkerId};

/// The requested action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum SwapAction {
    Load,
    Unload,
}

impl SwapAction {
    pub fn as_str(self) -> &'static str {
        match self {
            SwapAction::Load => "load",
            SwapAction::Unload => "unload",
        }
    }
}

/// Status of a swap: `queued → running → succeeded | failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SwapStatus {
    /// Waits until the worker's current job has ended.
    Queued,
    Running,
    Succeeded,
    /// The swap failed; `error` is the reason. It is not retried.
    Failed,
}

/// A request to one worker to load or unload a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Swap {
    pub worker: WorkerId,
    /// The worker's name.
    pub name: String,
    /// The device it runs on, such as `cuda:0`.
    #[schema(example = "cuda:0")]
    pub device: String,
    pub model: ModelRef,
    pub action: SwapAction,
    pub status: SwapStatus,
    /// Why it failed, in a sentence for people.
    pub error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// The work of a swap.
#[derive(Debug, Clone)]
pub struct SwapWork {
    pub id: SwapId,
    pub action: SwapAction,
    pub model: ModelFiles,
    /// The model was deleted meanwhile, with its files.
    pub deleted: bool,
}

/// Asks the live workers that make pictures, or those of them with this name or id, to load or unload a checkpoint.
///
/// # Errors
/// `Invalid` for a model that is not a checkpoint; `Unknown` for a worker that does not exist; `Conflict` if no worker
/// can be asked.
pub async fn request(
    caller: &Caller,
    database: &Database,
    model: &Model,
    action: SwapAction,
    worker: Option<&str>,
) -> Result<Vec<Swap>> {
    let pool = database.pool(caller);
    if model.kind != ModelKind::Checkpoint {
        return Err(Error::invalid(
            "model",
            format!(
                "`{}` is {}: it runs beside a checkpoint, and only checkpoints stay loaded.",
                model.name,
                model.kind.title()
            ),
        ));
    }
    let kinds = JobKind::ALL.into_iter().filter(|kind| kind.keeps_models()).map(|kind| kind.as_str().to_owned());
    let kinds: Vec<String> = kinds.collect();
    let live = bounded(
        sqlx::query!(
            r#"SELECT id AS "id: WorkerId", name, device, queues && $4 AS "keeps_models!" FROM workers
               WHERE stopped_at IS NULL AND last_seen_at > clock_timestamp() - make_interval(secs => $1)
                 AND ($2::text IS NULL OR name = $2 OR id = $3)
               ORDER BY id"#,
            GONE_AFTER.as_secs_f64(),
            worker,
            worker.and_then(|worker| worker.parse::<Uuid>().ok()),
            &kinds,
        )
        .fetch_all(pool),
    )
    .await?;
    if let (Some(worker), true) = (worker, live.is_empty()) {
        return Err(Error::unknown("worker", format!("There is no live worker `{worker}`.")));
    }
    let asked: Vec<_> = live.into_iter().filter(|worker| worker.keeps_models).collect();
    if asked.is_empty() {
        let message = "makes pictures, and only those that do keep models loaded";
        return Err(match worker {
            Some(worker) => Error::conflict_in("worker", format!("No worker `{worker}` {message}.")),
            None => Error::conflict(format!("No live worker {message}; start one.")),
        });
    }
    let ids: Vec<Uuid> = asked.iter().map(|_| SwapId::new().0).collect();
    let workers: Vec<Uuid> = asked.iter().map(|worker| worker.id.0).collect();
    let created_at = bounded(
        sqlx::query_scalar!(
            "INSERT INTO swaps (id, worker, model_id, action, key_id, account)
             SELECT id, worker, $3, $4, $5, $6 FROM unnest($1::uuid[], $2::uuid[]) AS a(id, worker)
             ON CONFLICT (worker, model_id) DO UPDATE SET id = EXCLUDED.id, action = EXCLUDED.action, status = 'queued',
                 error_message = NULL, created_at = EXCLUDED.created_at, finished_at = NULL, key_id = EXCLUDED.key_id,
                 account = EXCLUDED.account
             RETURNING created_at",
            &ids,
            &workers,
            model.id as ModelId,
            action.as_str(),
            caller.key() as Option<KeyId>,
            caller.account(),
        )
        .fetch_all(pool),
    )
    .await?;
    job::ring(pool);
    Ok(asked
        .into_iter()
        .zip(created_at)
        .map(|(worker, created_at)| Swap {
            worker: worker.id,
            name: worker.name,
            device: worker.device,
            model: model.reference(),
            action,
            status: SwapStatus::Queued,
            error: None,
            created_at,
            finished_at: None,
        })
        .collect())
}

/// The oldest swap of this worker that has not ended, including one whose end could not be written; it runs from now
/// on.
pub async fn next(pool: &PgPool, worker: WorkerId) -> Result<Option<SwapWork>> {
    let row = bounded(
        sqlx::query!(
            r#"UPDATE swaps SET status = 'running' FROM models m
               WHERE swaps.id = (SELECT id FROM swaps WHERE worker = $1 AND status IN ('queued', 'running') ORDER BY id LIMIT 1)
                 AND m.id = swaps.model_id
               RETURNING swaps.id AS "id: SwapId", action AS "action: SwapAction", m.id AS "model_id: ModelId", name, family, sha256,
                   files AS "files: Json<Vec<ModelFile>>", warnings AS "warnings: Json<Vec<String>>",
                   networks AS "networks: Json<memory::Networks>", deleted_at IS NOT NULL AS "deleted!""#,
            worker.0,
        )
        .fetch_optional(pool),
    )
    .await?;
    Ok(row.map(|row| SwapWork {
        id: row.id,
        action: row.action,
        model: ModelFiles {
            id: row.model_id,
            name: row.name,
            family: row.family,
            sha256: row.sha256,
            files: row.files.0,
            warnings: row.warnings.0,
            networks: row.networks.map(|networks| networks.0),
        },
        deleted: row.deleted,
    }))
}

/// Records how it ended. Does nothing if another request has replaced it.
pub async fn end(pool: &PgPool, id: SwapId, error: Option<&str>) -> Result<()> {
    bounded(
        sqlx::query!(
            "UPDATE swaps SET status = CASE WHEN $2::text IS NULL THEN 'succeeded' ELSE 'failed' END, error_message = $2,
                 finished_at = clock_timestamp()
             WHERE id = $1 AND status = 'running'",
            id.0,
            error,
        )
        .execute(pool),
    )
    .await?;
    Ok(())
}
