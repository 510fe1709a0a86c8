//! Generations: requests for pictures. A checked request becomes [`GenerationParams`]; the [`GenerationService`] writes
//! the generation and its queued job in one statement; the worker's result arrives in one fenced transaction. Not here:
//! the lifecycle of the job (`job`), or the making of pictures.

mod loras;
mod request;
mod retry;
mod service;
mod warnings;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

pub(crate) use request::on_grid;
pub use request::{
    GRID, GenerationParams, GenerationRequest, LoraRequest, MAX_LORAS, MAX_PICTURE_CHARS, MAX_PROMPT_CHARS,
};
pub(crate) use retry::retry;
pub use service::GenerationService;

use crate::artifact::{self, NewArtifact};
use crate::delivery::request::{ResponseFormat, Uploads};
use crate::event;
use crate::job::{self, Claim, JobKind, JobStatus};
use crate::model::{self, ModelFiles, ModelRef, vae_approx};
use crate::report::{JobRow, Report};
use crate::{
    Caller, Database, Error, GenerationId, InputId, JobId, ModelId, Page, PageRequest, ProjectId, Result, Storage,
    begin, bounded, deletion, delivery,
};

/// The model of a request that names none.
pub const DEFAULT_MODEL: &str = "ember";

/// A LoRA that a generation runs with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LoraUse {
    pub model: ModelRef,
    pub scale: f64,
    /// The scale on the text encoders, if it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder_scale: Option<f64>,
}

/// A generation that is not deleted.
#[derive(Clone, Debug)]
pub struct Generation {
    pub id: GenerationId,
    pub job_id: JobId,
    pub model: ModelRef,
    pub loras: Vec<LoraUse>,
    pub params: GenerationParams,
    /// Uploaded inputs among its pictures that have not been deleted.
    pub inputs: Vec<InputId>,
    /// Seed of the first picture.
    pub seed: i64,
    pub response_format: ResponseFormat,
    /// Where the pictures are uploaded to. Only the function that creates a generation returns it.
    pub uploads: Option<Uploads>,
    pub report: Report,
    pub created_at: DateTime<Utc>,
}

/// The work of a claimed generation.
#[derive(Clone, Debug)]
pub struct GenerationWork {
    pub id: GenerationId,
    pub params: GenerationParams,
    /// Picture `i` uses `seed + i`, wrapping from 2⁶³ - 1 to 0.
    pub seed: i64,
    pub base: ModelFiles,
    pub loras: Vec<WorkLora>,
    /// The decoder for its previews, if it wants previews and the project has a decoder for them.
    pub vae_approx: Option<ModelFiles>,
}

impl GenerationWork {
    /// The warnings of the models that it uses, and those that the engine reported.
    pub fn warnings(&self, reported: Vec<String>) -> Vec<String> {
        model::job_warnings(std::iter::once(&self.base).chain(self.loras.iter().map(|lora| &lora.model)), reported)
    }
}

/// A LoRA of the work.
#[derive(Clone, Debug)]
pub struct WorkLora {
    pub model: ModelFiles,
    pub scale: f64,
    pub text_encoder_scale: Option<f64>,
}

/// A row as the queries below return it.
struct Row {
    id: GenerationId,
    project_id: ProjectId,
    job_id: JobId,
    model_id: ModelId,
    model_name: String,
    params: Json<GenerationParams>,
    inputs: Vec<Uuid>,
    seed: i64,
    response_format: ResponseFormat,
    warnings: Json<Vec<String>>,
    loras: Json<Vec<LoraUse>>,
    job: Json<JobRow>,
    created_at: DateTime<Utc>,
}

impl From<Row> for Generation {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            job_id: row.job_id,
            model: ModelRef { id: row.model_id, name: row.model_name },
            loras: row.loras.0,
            params: row.params.0,
            inputs: row.inputs.into_iter().map(InputId::from).collect(),
            seed: row.seed,
            response_format: row.response_format,
            uploads: None,
            report: row.job.0.report(row.warnings.0),
            created_at: row.created_at,
        }
    }
}

macro_rules! select_generations {
    ($rest:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"SELECT g.id AS "id: GenerationId", g.project_id AS "project_id: ProjectId", g.job_id AS "job_id: JobId", g.model_id AS "model_id: ModelId", m.name AS model_name,
                      g.params AS "params: Json<GenerationParams>",
                      CASE WHEN jsonb_typeof(g.params -> 'image') = 'object' THEN
                        ARRAY(SELECT i.id FROM inputs i
                              WHERE i.id IN ((g.params #>> '{image,input}')::uuid, (g.params #>> '{mask,input}')::uuid))
                        ELSE '{}' END
                        AS "inputs!", g.seed, g.response_format AS "response_format: ResponseFormat",
                      g.warnings AS "warnings: Json<Vec<String>>",
                      coalesce((SELECT jsonb_agg(jsonb_build_object('model', jsonb_build_object('id', l.model_id, 'name', n.name),
                                                    'scale', l.scale, 'text_encoder_scale', l.text_encoder_scale)
                                                 ORDER BY l.position)
                                FROM generation_loras l JOIN models n ON n.id = l.model_id WHERE l.generation_id = g.id), '[]')
                        AS "loras!: Json<Vec<LoraUse>>",
                      r.report AS "job!: Json<JobRow>",
                      g.created_at
               FROM generations g JOIN job_reports r ON r.job_id = g.job_id JOIN models m ON m.id = g.model_id
               WHERE g.deleted_at IS NULL "# + $rest
            $(, $argument)*
        )
    };
}

/// Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, id: GenerationId) -> Result<Generation> {
    let found = get_many(database, &[(caller.clone(), id)]).await?.pop().flatten();
    found.ok_or_else(|| Error::not_found("generation", id))
}

/// Several generations, each for its own caller, in the order asked for; `None` for one that is not in the caller's
/// project.
async fn get_many(database: &Database, asked: &[(Caller, GenerationId)]) -> Result<Vec<Option<Generation>>> {
    let Some((first, _)) = asked.first() else { return Ok(Vec::new()) };
    let projects: Vec<Uuid> = asked.iter().map(|(caller, _)| caller.project().into()).collect();
    let ids: Vec<Uuid> = asked.iter().map(|(_, id)| (*id).into()).collect();
    let rows = select_generations!(
        // The first condition makes the planner use the primary key, even before the table has statistics.
        "AND g.id = ANY($2) AND (g.project_id, g.id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))",
        &projects,
        &ids
    );
    let rows = bounded(rows.fetch_all(database.pool(first))).await?;
    // The same one may be asked for twice, also by a caller of another project.
    let found: HashMap<(ProjectId, GenerationId), Generation> =
        rows.into_iter().map(|row| ((row.project_id, row.id), row.into())).collect();
    Ok(asked.iter().map(|(caller, id)| found.get(&(caller.project(), *id)).cloned()).collect())
}

/// Lists generations, newest first.
pub async fn list(caller: &Caller, database: &Database, page: &PageRequest) -> Result<Page<Generation>> {
    let rows = select_generations!(
        "AND g.project_id = $1 AND ($2::uuid IS NULL OR g.id < $2) ORDER BY g.id DESC LIMIT $3",
        caller.project() as ProjectId,
        page.before(),
        page.fetch_limit()
    )
    .fetch_all(database.pool(caller))
    .await?;
    Ok(page.cut(rows.into_iter().map(Generation::from).collect(), |generation| generation.id.into()))
}

/// Cancels it: at once while it is queued, within a step while it runs. One that has ended is left unchanged.
pub async fn cancel(caller: &Caller, database: &Database, id: GenerationId) -> Result<Generation> {
    job::cancel(caller, database, job::find(caller, database, id.into(), Some(JobKind::Generation)).await?).await?;
    get(caller, database, id).await
}

/// Makes an ended generation invisible, erases its prompt, and deletes its pictures and those that its request carried.
/// Errors: `NotFound`; `Conflict` while it is queued or running.
pub async fn delete(caller: &Caller, database: &Database, storage: &Storage, id: GenerationId) -> Result<()> {
    let mut tx = begin(database.pool(caller)).await?;
    let row = sqlx::query!(
        r#"SELECT g.job_id AS "job_id: JobId", j.status AS "status: JobStatus", g.params AS "params: Json<GenerationParams>"
           FROM generations g JOIN jobs j ON j.id = g.job_id
           WHERE g.id = $1 AND g.project_id = $2 AND g.deleted_at IS NULL FOR UPDATE OF g"#,
        id as GenerationId,
        caller.project() as ProjectId,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::not_found("generation", id))?;
    if !row.status.is_terminal() {
        return Err(Error::conflict(format!("The generation is {}; cancel it first.", row.status.as_str())));
    }
    sqlx::query!(
        "UPDATE generations SET deleted_at = clock_timestamp(), params = '{}' WHERE id = $1",
        id as GenerationId
    )
    .execute(&mut *tx)
    .await?;
    job::hide(&mut tx, row.job_id).await?;
    delivery::forget(&mut tx, row.job_id).await?;
    let mut keys =
        sqlx::query_scalar!("DELETE FROM artifacts WHERE job_id = $1 RETURNING storage_key", row.job_id as JobId)
            .fetch_all(&mut *tx)
            .await?;
    keys.extend(request::own_objects(&row.params.0));
    deletion::ask(&mut tx, &keys).await?;
    tx.commit().await?;
    deletion::now(database.pool(caller), storage, keys).await;
    Ok(())
}

/// The work of the claimed job.
pub async fn load_work(pool: &PgPool, claim: &Claim) -> Result<GenerationWork> {
    bounded(read_work(pool, claim)).await
}

async fn read_work(pool: &PgPool, claim: &Claim) -> Result<GenerationWork> {
    let mut connection = pool.acquire().await?;
    let row = sqlx::query!(
        r#"SELECT id AS "id: GenerationId", project_id AS "project: ProjectId", model_id AS "model_id: ModelId",
                  params AS "params: Json<GenerationParams>", seed
           FROM generations WHERE job_id = $1"#,
        claim.job as JobId,
    )
    .fetch_one(&mut *connection)
    .await?;
    let loras = sqlx::query!(
        r#"SELECT model_id AS "model_id: ModelId", scale, text_encoder_scale FROM generation_loras
           WHERE generation_id = $1 ORDER BY position"#,
        row.id as GenerationId,
    )
    .fetch_all(&mut *connection)
    .await?;
    let ids: Vec<ModelId> = loras.iter().map(|lora| lora.model_id).chain([row.model_id]).collect();
    let files = model::files(&mut connection, &ids).await?;
    let of = |id: ModelId| files.get(&id).cloned().ok_or_else(|| Error::not_found("model", id));
    let base = of(row.model_id)?;
    let vae_approx = match row.params.0.preview_every {
        Some(_) => vae_approx::of_family(&mut connection, row.project, &base.family).await?,
        None => None,
    };
    Ok(GenerationWork {
        id: row.id,
        params: row.params.0,
        seed: row.seed,
        base,
        vae_approx,
        loras: loras
            .into_iter()
            .map(|lora| {
                let (scale, text_encoder_scale) = (lora.scale, lora.text_encoder_scale);
                Ok(WorkLora { model: of(lora.model_id)?, scale, text_encoder_scale })
            })
            .collect::<Result<_>>()?,
    })
}

/// Writes the pictures and the engine's warnings, beside those from the creation, and makes the job succeed, in one
/// transaction that only the holder of the lease can make. Errors: `LeaseLost`, and then nothing has changed, and the
/// sweeper finds the pictures.
pub async fn finish(pool: &PgPool, claim: &Claim, artifacts: Vec<NewArtifact>, warnings: &[String]) -> Result<()> {
    let sequence = bounded(commit(pool, claim, &artifacts, warnings)).await?;
    if let Some(sequence) = sequence {
        event::announce(pool, claim.job, sequence).await;
    }
    Ok(())
}

/// The one fenced transaction. `None` if it was committed before.
async fn commit(pool: &PgPool, claim: &Claim, artifacts: &[NewArtifact], warnings: &[String]) -> Result<Option<i64>> {
    let mut tx = begin(pool).await?;
    let sequence = job::succeed(&mut tx, claim).await?;
    if sequence.is_some() {
        artifact::insert(&mut tx, claim, artifacts).await?;
        sqlx::query!(
            "UPDATE generations SET warnings = warnings || (
               SELECT coalesce(jsonb_agg(added), '[]') FROM jsonb_array_elements($2::jsonb) added
               WHERE NOT warnings @> added)
             WHERE job_id = $1",
            claim.job as JobId,
            Json(warnings) as _
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(sequence)
}
