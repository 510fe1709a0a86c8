//! Generations: requests for pictures. A request becomes [`GenerationParams`], which cannot be built with a wrong value; one
//! statement writes the generation and its queued job; the worker's result arrives in one fenced transaction. Not here: the
//! lifecycle of the job (`job`), or the making of pictures.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::artifact::{self, Artifact, ArtifactKind, NewArtifact};
use crate::event;
use crate::job::{self, Claim, ErrorClass, JobStatus};
use crate::model::{self, Catalog, Model, ModelFiles, ModelKind, ModelRef};
use crate::report::{JobError, Report};
use crate::{Error, GenerationId, JobId, ModelId, Page, PageRequest, Result, Storage, begin, bounded, integer};

/// Most characters of a prompt.
pub const MAX_PROMPT_CHARS: usize = 10_000;
/// Most pictures of one generation.
pub const MAX_IMAGES: u32 = 4;
/// Most LoRAs of one generation.
pub const MAX_LORAS: usize = 8;
/// Smallest and largest side, in pixels.
pub const SIDES: std::ops::RangeInclusive<u32> = 16..=2048;
/// Sides are multiples of this many pixels, whatever the model; its own grid is a power of two as well.
const GRID: u32 = 16;
/// The model that is meant when a request names none.
pub const DEFAULT_MODEL: &str = "ember";

/// What a client sends. Whatever is left out comes from the model's defaults.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerationRequest {
    /// What to show.
    #[schema(
        min_length = 1,
        max_length = 10000,
        pattern = r"^[^\u0000]*$",
        example = "a big fox on a blue background"
    )]
    pub prompt: String,
    /// What not to show; it has an effect when `true_cfg_scale` is above 1.
    #[schema(max_length = 10000, pattern = r"^[^\u0000]*$")]
    #[serde(default)]
    pub negative_prompt: Option<String>,
    /// Name or id of a checkpoint.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", default = "ember")]
    #[serde(default)]
    pub model: Option<String>,
    /// LoRAs to run with, at most eight.
    #[schema(max_items = 8)]
    #[serde(default)]
    pub loras: Vec<LoraRequest>,
    /// How many pictures; picture `i` uses `seed + i`.
    #[schema(minimum = 1, maximum = 4, default = 1)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub num_images: Option<u32>,
    /// Denoising steps.
    #[schema(minimum = 1, maximum = 200)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub num_inference_steps: Option<u32>,
    /// Strength of the guidance that is built into a guidance-distilled model.
    #[schema(minimum = 0, maximum = 30)]
    #[serde(default)]
    pub guidance_scale: Option<f64>,
    /// Strength of classifier-free guidance against the negative prompt; 1 is none.
    #[schema(minimum = 0, maximum = 30)]
    #[serde(default)]
    pub true_cfg_scale: Option<f64>,
    /// Pixels; a multiple of the model's `size_multiple`.
    #[schema(minimum = 16, maximum = 2048, multiple_of = 16)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub width: Option<u32>,
    /// Pixels; a multiple of the model's `size_multiple`.
    #[schema(minimum = 16, maximum = 2048, multiple_of = 16)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub height: Option<u32>,
    /// The same seed gives the same picture; absent or -1 draws one.
    #[schema(minimum = -1, maximum = 9223372036854775807_i64)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub seed: Option<i64>,
}

/// A LoRA of a request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraRequest {
    /// Name or id of a LoRA.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", example = "clay")]
    pub model: String,
    /// Factor on its effect: 1 as trained, 0 none.
    #[schema(minimum = -10, maximum = 10, default = 1.0)]
    #[serde(default)]
    pub scale: Option<f64>,
}

/// Parameters that are in range and on the model's grid, with nothing left out. Kept as JSON in the row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationParams {
    pub prompt: String,
    pub negative_prompt: Option<String>,
    pub num_images: u32,
    pub num_inference_steps: u32,
    pub guidance_scale: f64,
    pub true_cfg_scale: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// A LoRA that a generation runs with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LoraUse {
    pub model: ModelRef,
    pub scale: f64,
}

/// A generation that is not deleted.
#[derive(Clone, Debug)]
pub struct Generation {
    pub id: GenerationId,
    pub job_id: JobId,
    pub model: ModelRef,
    pub loras: Vec<LoraUse>,
    pub params: GenerationParams,
    /// Seed of the first picture.
    pub seed: i64,
    pub report: Report,
    pub created_at: DateTime<Utc>,
}

/// What a worker gets to do.
#[derive(Clone, Debug)]
pub struct GenerationWork {
    pub id: GenerationId,
    pub params: GenerationParams,
    /// Picture `i` uses `seed + i`, wrapping from 2⁶³ - 1 to 0.
    pub seed: i64,
    pub base: ModelFiles,
    pub loras: Vec<WorkLora>,
}

/// A LoRA of a piece of work.
#[derive(Clone, Debug)]
pub struct WorkLora {
    pub model: ModelFiles,
    pub scale: f64,
}

impl GenerationParams {
    /// Fills in the model's defaults and checks every value. Errors: `Invalid`, naming the field.
    pub fn parse(request: GenerationRequest, model: &Model) -> Result<Self> {
        if model.kind != ModelKind::Checkpoint {
            return Err(Error::invalid(
                "model",
                format!("`{}` is a LoRA: name it in `loras` and a checkpoint in `model`.", model.name),
            ));
        }
        let defaults = &model.defaults;
        check_prompt("prompt", &request.prompt, 1)?;
        if let Some(negative) = &request.negative_prompt {
            check_prompt("negative_prompt", negative, 0)?;
        }
        Ok(Self {
            prompt: request.prompt,
            negative_prompt: request.negative_prompt,
            num_images: in_range("num_images", request.num_images.unwrap_or(1), 1..=MAX_IMAGES)?,
            num_inference_steps: in_range(
                "num_inference_steps",
                request.num_inference_steps.unwrap_or(defaults.num_inference_steps),
                1..=200,
            )?,
            guidance_scale: in_range(
                "guidance_scale",
                request.guidance_scale.unwrap_or(defaults.guidance_scale),
                0.0..=30.0,
            )?,
            true_cfg_scale: in_range(
                "true_cfg_scale",
                request.true_cfg_scale.unwrap_or(defaults.true_cfg_scale),
                0.0..=30.0,
            )?,
            width: request.width.map_or(Ok(defaults.width), |pixels| on_grid("width", pixels, model))?,
            height: request.height.map_or(Ok(defaults.height), |pixels| on_grid("height", pixels, model))?,
        })
    }
}

fn check_prompt(field: &str, prompt: &str, least: usize) -> Result<()> {
    let count = prompt.chars().count();
    if !(least..=MAX_PROMPT_CHARS).contains(&count) || prompt.contains('\0') {
        return Err(Error::invalid(
            field,
            format!("It has {count} characters; {least} to {MAX_PROMPT_CHARS} are taken, none of them NUL."),
        ));
    }
    Ok(())
}

pub(crate) fn in_range<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Error::invalid(field, format!("{value} is outside the range {} to {}.", range.start(), range.end())))
}

/// A size that a request states is a multiple of 16, as the contract says for every model, and of the model's own grid.
pub(crate) fn on_grid(field: &str, pixels: u32, model: &Model) -> Result<u32> {
    let multiple = GRID.max(model.defaults.size_multiple);
    let pixels = in_range(field, pixels, SIDES)?;
    if pixels.is_multiple_of(multiple) {
        return Ok(pixels);
    }
    let below = (pixels / multiple).max(1) * multiple;
    Err(Error::invalid(
        field,
        format!(
            "{pixels} is not a multiple of {multiple}, as `{}` needs it; {below} and {} are.",
            model.name,
            below + multiple
        ),
    ))
}

/// A seed that is given, or one that is drawn. Drawn ones stay below 2³², which is what a `torch.Generator` on the CPU takes.
pub(crate) fn seed(requested: Option<i64>) -> Result<i64> {
    match requested {
        None | Some(-1) => Ok(i64::from(getrandom::u32().map_err(Error::internal)?)),
        Some(seed) => in_range("seed", seed, -1..=i64::MAX),
    }
}

/// Checks the request and writes the generation with its queued job, or nothing.
/// Errors: `NotFound` for a model that is not there, `Invalid` naming the field.
pub async fn create(pool: &PgPool, catalog: &Catalog, mut request: GenerationRequest) -> Result<Generation> {
    let model = catalog
        .get(request.model.as_deref().unwrap_or(DEFAULT_MODEL))
        .await
        .map_err(|error| error.in_field("model"))?;
    let seed = seed(request.seed)?;
    let lora_requests = std::mem::take(&mut request.loras);
    let params = GenerationParams::parse(request, &model)?;
    let loras = parse_loras(catalog, &model, lora_requests).await?;

    let (id, job) = (GenerationId::new(), JobId::new());
    let lora_ids: Vec<Uuid> = loras.iter().map(|lora| lora.model.id.into()).collect();
    let scales: Vec<f64> = loras.iter().map(|lora| lora.scale).collect();
    let mut needed = lora_ids.clone();
    needed.push(model.id.into());
    needed.sort_unstable();
    needed.dedup();
    let total_steps = params.num_inference_steps as i32;
    // `job::enqueue` and the row it is for, in one statement: this path carries the throughput of the service. The lock on the
    // models makes a deletion wait, and a deletion that was first leaves too few of them.
    let insert = sqlx::query_scalar!(
        r#"WITH needed AS (
             SELECT id FROM models WHERE id = ANY($1) AND deleted_at IS NULL FOR KEY SHARE
           ), job AS (
             INSERT INTO jobs (id, kind, total_steps, last_sequence)
             SELECT $2, 'generation', $3, 1 WHERE (SELECT count(*) FROM needed) = cardinality($1)
             RETURNING id, created_at
           ), queued AS (
             INSERT INTO job_events (job_id, sequence, kind) SELECT id, 1, 'queued' FROM job
           ), generation AS (
             INSERT INTO generations (id, job_id, model_id, params, seed, created_at) SELECT $4, id, $5, $6, $7, created_at FROM job
             RETURNING id, created_at
           ), lora AS (
             INSERT INTO generation_loras (generation_id, position, model_id, scale)
             SELECT generation.id, (l.position - 1)::int, l.model_id, l.scale
             FROM generation, unnest($8::uuid[], $9::float8[]) WITH ORDINALITY AS l(model_id, scale, position)
           )
           SELECT created_at AS "created_at!" FROM generation"#,
        &needed,
        job as JobId,
        total_steps,
        id as GenerationId,
        model.id as ModelId,
        Json(&params) as _,
        seed,
        &lora_ids,
        &scales,
    );
    let Some(created_at) = bounded(insert.fetch_optional(pool)).await? else {
        // What is remembered is older than what is there; asked again, the name may mean another model.
        catalog.forget();
        return Err(Error::unknown("model", "A model of this request was deleted just now; ask again."));
    };
    job::ring(pool);
    Ok(Generation {
        id,
        job_id: job,
        model: model.reference(),
        loras,
        params,
        seed,
        report: Report::queued(total_steps),
        created_at,
    })
}

async fn parse_loras(catalog: &Catalog, base: &Model, requests: Vec<LoraRequest>) -> Result<Vec<LoraUse>> {
    if requests.len() > MAX_LORAS {
        return Err(Error::invalid(
            "loras",
            format!("There are {} LoRAs; at most {MAX_LORAS} run together.", requests.len()),
        ));
    }
    let mut loras: Vec<LoraUse> = Vec::with_capacity(requests.len());
    for (position, request) in requests.into_iter().enumerate() {
        let field = |name: &str| format!("loras[{position}].{name}");
        let scale = in_range(&field("scale"), request.scale.unwrap_or(1.0), -10.0..=10.0)?;
        let lora = catalog.get(&request.model).await.map_err(|error| error.in_field(field("model")))?;
        if lora.kind != ModelKind::Lora {
            return Err(Error::invalid(field("model"), format!("`{}` is a checkpoint, not a LoRA.", lora.name)));
        }
        if lora.family != base.family {
            return Err(Error::invalid(
                field("model"),
                format!(
                    "`{}` is a LoRA of the family {}, and `{}` is of {}; they do not fit.",
                    lora.name, lora.family, base.name, base.family
                ),
            ));
        }
        loras.push(LoraUse { model: lora.reference(), scale });
    }
    Ok(loras)
}

/// A row as the queries below give it.
struct Row {
    id: GenerationId,
    job_id: JobId,
    model_id: ModelId,
    model_name: String,
    params: Json<GenerationParams>,
    seed: i64,
    warnings: Json<Vec<String>>,
    loras: Json<Vec<LoraUse>>,
    artifacts: Json<Vec<Artifact>>,
    status: JobStatus,
    step: i32,
    total_steps: i32,
    progress: Option<serde_json::Value>,
    epoch: i64,
    error_class: Option<ErrorClass>,
    error_message: Option<String>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Generation {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let error = match (row.error_class, row.error_message) {
            (Some(class), Some(message)) => Some(JobError { class, message }),
            _ => None,
        };
        Ok(Self {
            id: row.id,
            job_id: row.job_id,
            model: ModelRef { id: row.model_id, name: row.model_name },
            loras: row.loras.0,
            params: row.params.0,
            seed: row.seed,
            report: Report {
                status: row.status,
                step: row.step,
                total_steps: row.total_steps,
                progress: row.progress,
                attempts: row.epoch,
                error,
                warnings: row.warnings.0,
                artifacts: row.artifacts.0,
                started_at: row.started_at,
                finished_at: row.finished_at,
            },
            created_at: row.created_at,
        })
    }
}

macro_rules! select_generations {
    ($rest:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"SELECT g.id AS "id: GenerationId", g.job_id AS "job_id: JobId", g.model_id AS "model_id: ModelId", m.name AS model_name,
                      g.params AS "params: Json<GenerationParams>", g.seed, g.warnings AS "warnings: Json<Vec<String>>",
                      coalesce((SELECT jsonb_agg(jsonb_build_object('model', jsonb_build_object('id', l.model_id, 'name', n.name), 'scale', l.scale)
                                                 ORDER BY l.position)
                                FROM generation_loras l JOIN models n ON n.id = l.model_id WHERE l.generation_id = g.id), '[]')
                        AS "loras!: Json<Vec<LoraUse>>",
                      coalesce((SELECT jsonb_agg(to_jsonb(a) ORDER BY a.position) FROM artifacts a WHERE a.job_id = g.job_id), '[]')
                        AS "artifacts!: Json<Vec<Artifact>>",
                      j.status AS "status: JobStatus", j.step, j.total_steps, j.progress, j.epoch,
                      j.error_class AS "error_class: ErrorClass", j.error_message,
                      g.created_at, j.started_at, j.finished_at
               FROM generations g JOIN jobs j ON j.id = g.job_id JOIN models m ON m.id = g.model_id
               WHERE g.deleted_at IS NULL "# + $rest
            $(, $argument)*
        )
    };
}

/// Errors: `NotFound`.
pub async fn get(pool: &PgPool, id: GenerationId) -> Result<Generation> {
    bounded(select_generations!("AND g.id = $1", id as GenerationId).fetch_optional(pool))
        .await?
        .ok_or_else(|| Error::not_found("generation", id))?
        .try_into()
}

/// Newest first.
pub async fn list(pool: &PgPool, page: &PageRequest) -> Result<Page<Generation>> {
    let rows = select_generations!(
        "AND ($1::uuid IS NULL OR g.id < $1) ORDER BY g.id DESC LIMIT $2",
        page.before(),
        page.fetch_limit()
    )
    .fetch_all(pool)
    .await?;
    let generations = rows.into_iter().map(Generation::try_from).collect::<Result<Vec<_>>>()?;
    Ok(page.cut(generations, |generation| generation.id.into()))
}

/// The job of a generation. Errors: `NotFound`.
pub async fn job_id(pool: &PgPool, id: GenerationId) -> Result<JobId> {
    sqlx::query_scalar!(
        r#"SELECT job_id AS "job_id: JobId" FROM generations WHERE id = $1 AND deleted_at IS NULL"#,
        id as GenerationId
    )
    .fetch_optional(pool)
    .await?
    .ok_or_else(|| Error::not_found("generation", id))
}

/// Ends it: at once while it is queued, within a step while it runs. One that has ended stays as it is.
pub async fn cancel(pool: &PgPool, id: GenerationId) -> Result<Generation> {
    job::cancel(pool, job_id(pool, id).await?).await?;
    get(pool, id).await
}

/// Makes an ended generation invisible, forgets its prompt and deletes its pictures.
/// Errors: `NotFound`; `Conflict` while it is queued or running.
pub async fn delete(pool: &PgPool, storage: &Storage, id: GenerationId) -> Result<()> {
    let mut tx = begin(pool).await?;
    let row = sqlx::query!(
        r#"SELECT g.job_id AS "job_id: JobId", j.status AS "status: JobStatus" FROM generations g JOIN jobs j ON j.id = g.job_id
           WHERE g.id = $1 AND g.deleted_at IS NULL FOR UPDATE OF g"#,
        id as GenerationId,
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
    let keys =
        sqlx::query_scalar!("DELETE FROM artifacts WHERE job_id = $1 RETURNING storage_key", row.job_id as JobId)
            .fetch_all(&mut *tx)
            .await?;
    tx.commit().await?;
    storage.discard(keys).await;
    Ok(())
}

/// What the claimed job is to make.
pub async fn load_work(pool: &PgPool, claim: &Claim) -> Result<GenerationWork> {
    bounded(read_work(pool, claim)).await
}

async fn read_work(pool: &PgPool, claim: &Claim) -> Result<GenerationWork> {
    let mut connection = pool.acquire().await?;
    let row = sqlx::query!(
        r#"SELECT id AS "id: GenerationId", model_id AS "model_id: ModelId", params AS "params: Json<GenerationParams>", seed
           FROM generations WHERE job_id = $1"#,
        claim.job as JobId,
    )
    .fetch_one(&mut *connection)
    .await?;
    let loras = sqlx::query!(
        r#"SELECT model_id AS "model_id: ModelId", scale FROM generation_loras WHERE generation_id = $1 ORDER BY position"#,
        row.id as GenerationId,
    )
    .fetch_all(&mut *connection)
    .await?;
    let ids: Vec<ModelId> = loras.iter().map(|lora| lora.model_id).chain([row.model_id]).collect();
    let files = model::files(&mut connection, &ids).await?;
    let of = |id: ModelId| files.get(&id).cloned().ok_or_else(|| Error::not_found("model", id));
    Ok(GenerationWork {
        id: row.id,
        params: row.params.0,
        seed: row.seed,
        base: of(row.model_id)?,
        loras: loras
            .into_iter()
            .map(|lora| Ok(WorkLora { model: of(lora.model_id)?, scale: lora.scale }))
            .collect::<Result<_>>()?,
    })
}

/// Writes the pictures and makes the job succeed, in one transaction that only the holder of the lease can make.
/// Errors: `LeaseLost`, and then nothing has changed: what was stored for it is the caller's to remove.
pub async fn finish(pool: &PgPool, claim: &Claim, artifacts: Vec<NewArtifact>, warnings: &[String]) -> Result<()> {
    let sequence = bounded(commit(pool, claim, &artifacts, warnings)).await?;
    if let Some(sequence) = sequence {
        event::announce(pool, claim.job, sequence).await;
    }
    Ok(())
}

/// The one fenced transaction. `None` when it was committed before.
async fn commit(pool: &PgPool, claim: &Claim, artifacts: &[NewArtifact], warnings: &[String]) -> Result<Option<i64>> {
    let mut tx = begin(pool).await?;
    let sequence = job::succeed(&mut tx, claim).await?;
    if sequence.is_some() {
        artifact::insert(&mut tx, claim, ArtifactKind::Image, artifacts).await?;
        sqlx::query!("UPDATE generations SET warnings = $2 WHERE job_id = $1", claim.job as JobId, Json(warnings) as _)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(sequence)
}
