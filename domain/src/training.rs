//! Trainings: requests for a LoRA. Creating one takes an immutable snapshot of the dataset and writes training and job
//! in one transaction. Checkpoints let another attempt continue. The result is a model, made visible in the transaction
//! that makes the job succeed. Not here: the lifecycle of the job (`job`), or the learning.

use chrono::{DateTime, Utc};
use outgoing::Guard;
use requests::{TrainingParams, in_range, training_limits as limits};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;

use crate::artifact::{self, NewArtifact};
use crate::capacity::Capacity;
use crate::database::now;
use crate::delivery::webhook::{Endpoint, JobWebhookRequest};
use crate::event::{self, EventKind};
use crate::faults::Faults;
use crate::generation::{DEFAULT_MODEL, on_grid};
use crate::integer;
use crate::job::{self, Claim, JobKind, JobStatus, NewJob};

use crate::model::described::is_trigger_word;
use crate::model::{self, Catalog, Model, ModelFile, ModelFiles, ModelKind, ModelRef};
use crate::report::{JobRow, Report};
use crate::{
    Caller, Database, DatasetId, Error, JobId, ModelId, Page, PageRequest, ProjectId, Result, Storage, TrainingId,
    begin, bounded, dataset, deletion, object, quota,
};

/// Checkpoints that are kept: the last, and the one before it in case the last cannot be read.
const CHECKPOINTS_KEPT: i64 = 2;

/// Parameters to create a training.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "name": "clay", "dataset": "019a0000-0000-7000-8000-000000000000", "model": "ember", "trigger_word": "clay style",
    "steps": 400
}))]
pub struct TrainingRequest {
    /// Name of the LoRA to be made.
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$", example = "clay")]
    pub name: String,
    /// Identifier of the dataset to learn from.
    pub dataset: DatasetId,
    /// Name or identifier of the checkpoint to train on; `ember` by default.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", example = "ember")]
    #[serde(default)]
    pub model: Option<String>,
    /// Word put in front of each caption, to trigger the style with.
    #[schema(min_length = 1, max_length = 100, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$", example = "clay style")]
    #[serde(default)]
    pub trigger_word: Option<String>,
    /// Number of training steps; 1000 by default.
    #[schema(minimum = 1, maximum = 100000)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, 1, 100_000>")]
    pub steps: Option<u32>,
    /// Rank of the adapter; 16 by default.
    #[schema(minimum = 1, maximum = 512)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, 1, 512>")]
    pub rank: Option<u32>,
    /// Scale of the adapter is `alpha / rank`; absent means `rank`.
    #[schema(minimum = 0.001, maximum = 4096)]
    #[serde(default)]
    pub alpha: Option<f64>,
    /// Learning rate; 0.0001 by default.
    #[schema(minimum = 0.0000001, maximum = 1)]
    #[serde(default)]
    pub learning_rate: Option<f64>,
    /// Pictures in each step; 1 by default.
    #[schema(minimum = 1, maximum = 64)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, 1, 64>")]
    pub batch_size: Option<u32>,
    /// Side of a square picture, in pixels; pictures of other shapes get the same area. If absent, the base's.
    #[schema(minimum = 32, maximum = 2048, multiple_of = 16)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, 32, 2048>")]
    pub resolution: Option<u32>,
    /// Seed of the training; absent or -1 picks a random one.
    #[schema(minimum = -1, maximum = 9223372036854775807_i64)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, -1, { i64::MAX }>")]
    pub seed: Option<i64>,
    /// An endpoint that is notified of this training, beside the webhooks of the project.
    #[serde(default, deserialize_with = "object::optional")]
    pub webhook: Option<JobWebhookRequest>,
}

/// A picture as it was when the training was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub storage_key: String,
    pub sha256: String,
    pub caption: String,
    pub media_type: String,
}

/// A training that is not deleted.
#[derive(Clone, Debug)]
pub struct Training {
    pub id: TrainingId,
    pub job_id: JobId,
    pub name: String,
    pub dataset_id: DatasetId,
    /// The base checkpoint.
    pub model: ModelRef,
    pub params: TrainingParams,
    /// The LoRA: present once it exists, until it is deleted.
    pub output_model: Option<ModelRef>,
    pub report: Report,
    pub created_at: DateTime<Utc>,
}

/// The work of a claimed training.
#[derive(Clone, Debug)]
pub struct TrainingWork {
    pub id: TrainingId,
    pub params: TrainingParams,
    pub examples: Vec<Snapshot>,
    pub base: ModelFiles,
    /// The checkpoint to continue from.
    pub checkpoint: Option<CheckpointRef>,
}

/// A stored state of a training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRef {
    pub step: i32,
    pub epoch: i64,
    pub storage_key: String,
    pub sha256: String,
    pub bytes: i64,
}

/// A state that a worker has stored, before its row exists.
#[derive(Clone, Debug)]
pub struct NewCheckpoint {
    pub step: i32,
    pub storage_key: String,
    pub sha256: String,
    pub bytes: i64,
}

/// Errors: `Invalid` for a base that nothing is trained on.
fn check_base(base: &Model) -> Result<()> {
    if base.kind != ModelKind::Checkpoint {
        return Err(Error::invalid(
            "model",
            format!("`{}` is {}; a training needs a checkpoint as its base.", base.name, base.kind.title()),
        ));
    }
    if !base.family()?.is_trainable() {
        return Err(Error::invalid(
            "model",
            format!("`{}` is of the family {}; LoRAs are trained on FLUX.1 so far.", base.name, base.family),
        ));
    }
    Ok(())
}

/// Fills in defaults and checks every value; a wrong one is added to `faults`. Without a base, adds the values that no
/// base takes.
fn params(request: &TrainingRequest, base: Option<&Model>, faults: &mut Faults) -> TrainingParams {
    if request.trigger_word.as_ref().is_some_and(|word| !is_trigger_word(word)) {
        let message = "It has 1 to 100 characters, none of them a control character.";
        faults.take(Err::<(), _>(Error::invalid("trigger_word", message)));
    }
    let rank = faults.take(in_range("rank", request.rank.unwrap_or(16), limits::RANK));
    let alpha = request.alpha.unwrap_or(f64::from(rank.max(1)));
    let usual = base.map_or(*limits::RESOLUTION.start(), |base| base.defaults.width);
    let resolution = in_range("resolution", request.resolution.unwrap_or(usual), limits::RESOLUTION);
    let resolution = resolution.map_err(Error::from).and_then(|pixels| match (request.resolution, base) {
        (Some(_), Some(base)) => on_grid("resolution", pixels, base),
        _ => Ok(pixels),
    });
    TrainingParams {
        trigger_word: request.trigger_word.clone(),
        steps: faults.take(in_range("steps", request.steps.unwrap_or(1000), limits::STEPS)),
        rank,
        alpha: faults.take(in_range("alpha", alpha, limits::ALPHA)),
        learning_rate: faults.take(in_range(
            "learning_rate",
            request.learning_rate.unwrap_or(1e-4),
            limits::LEARNING_RATE,
        )),
        batch_size: faults.take(in_range("batch_size", request.batch_size.unwrap_or(1), limits::BATCH_SIZE)),
        resolution: faults.take(resolution),
        seed: faults.take(crate::limits::seed(request.seed, 1)),
    }
}

/// Checks the request, whose webhook `outbound` must allow, and writes the training with its snapshot and its queued
/// job, or nothing. Errors: `NotFound` for model or dataset; `Invalid` naming the field, also if no running worker has
/// the memory for it; `Conflict` for a name that is taken or an empty dataset.
pub async fn create(
    caller: &Caller,
    database: &Database,
    catalog: &Catalog,
    capacity: &Capacity,
    outbound: &Guard,
    request: TrainingRequest,
) -> Result<Training> {
    let mut faults = Faults::default();
    faults.take(model::check_name(&request.name));
    let webhook = faults.take(Endpoint::of(request.webhook.as_ref(), outbound));
    let base = catalog.get(caller, request.model.as_deref().unwrap_or(DEFAULT_MODEL)).await;
    let base = base.map_err(|error| error.in_field("model")).and_then(|base| check_base(&base).map(|()| base));
    let params = params(&request, base.as_deref().ok(), &mut faults);
    let base = match base {
        Ok(base) => base,
        Err(error) => return faults.fail(error),
    };
    faults.check()?;
    let id = TrainingId::new();

    let (pool, project) = (database.pool(caller), caller.project());
    // Before the transaction, which has a connection already. The transaction checks the dataset.
    let examples = dataset::example_count(caller, database, request.dataset).await?;
    if examples > 0 {
        capacity.check_training(caller, &base, &params, examples).await?;
    }
    let mut tx = begin(pool).await?;
    quota::left(&mut tx, project).await?;
    dataset::lock(caller, &mut tx, request.dataset).await.map_err(|error| error.in_field("dataset"))?;
    let examples: Vec<Snapshot> = dataset::examples(&mut tx, request.dataset)
        .await?
        .into_iter()
        .map(|example| Snapshot {
            storage_key: example.storage_key,
            sha256: example.sha256,
            caption: example.caption,
            media_type: example.media_type,
        })
        .collect();
    if examples.is_empty() {
        return Err(Error::conflict_in("dataset", "The dataset has no pictures yet; add some before training on it."));
    }
    model::reserve_name(&mut tx, project, &request.name).await?;
    let total_steps = params.steps as i32;
    let job = NewJob {
        total_steps,
        needs: &[base.id],
        makes: Some(&request.name),
        webhook: webhook.as_ref(),
        ..NewJob::new(caller, JobKind::Training, id)
    };
    let job = job::enqueue(&mut tx, job).await.inspect_err(|_| catalog.forget())?;
    let created_at = sqlx::query_scalar!(
        "INSERT INTO trainings (id, job_id, name, dataset_id, model_id, config, examples, dataset_sha256, project_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING created_at",
        id as TrainingId,
        job as JobId,
        request.name,
        request.dataset as DatasetId,
        base.id as ModelId,
        Json(&params) as _,
        Json(&examples) as _,
        snapshot_sha256(&examples),
        project as ProjectId,
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    job::ring(pool);
    Ok(Training {
        id,
        job_id: job,
        name: request.name,
        dataset_id: request.dataset,
        model: base.reference(),
        params,
        output_model: None,
        report: Report { webhook: webhook.as_ref().map(Endpoint::shown), ..Report::queued(total_steps) },
        created_at,
    })
}

/// Makes the same request again on the same snapshot, as a new job that starts at the first step. Errors: `Conflict` if
/// a picture of the snapshot has been deleted, or if the name has been taken; `Unknown` if the base has been deleted.
pub(crate) async fn retry(caller: &Caller, connection: &mut PgConnection, failed: JobId) -> Result<TrainingId> {
    let project = caller.project();
    let row = sqlx::query!(
        r#"SELECT name, dataset_id AS "dataset_id: DatasetId", model_id AS "model_id: ModelId", config AS "config: Json<TrainingParams>",
                  examples AS "examples: Json<Vec<Snapshot>>"
           FROM trainings WHERE job_id = $1 AND project_id = $2"#,
        failed as JobId,
        project as ProjectId,
    )
    .fetch_one(&mut *connection)
    .await?;
    let gone = || {
        Error::conflict(
            "Pictures of the dataset that this training began with have been deleted; start a new training.",
        )
    };
    dataset::lock(caller, connection, row.dataset_id).await.map_err(|error| match error {
        Error::NotFound { .. } => gone(),
        other => other,
    })?;
    let there = dataset::examples(connection, row.dataset_id).await?;
    let is_there = |picture: &Snapshot| there.iter().any(|example| example.storage_key == picture.storage_key);
    if !row.examples.0.iter().all(is_there) {
        return Err(gone());
    }
    model::reserve_name(connection, project, &row.name).await?;
    let id = TrainingId::new();
    let job = NewJob {
        total_steps: row.config.0.steps as i32,
        needs: &[row.model_id],
        makes: Some(&row.name),
        retry_of: Some(failed),
        ..NewJob::new(caller, JobKind::Training, id)
    };
    let job = job::enqueue(connection, job).await?;
    sqlx::query!(
        "INSERT INTO trainings (id, job_id, name, dataset_id, model_id, config, examples, dataset_sha256, project_id)
         SELECT $2, $3, name, dataset_id, model_id, config, examples, dataset_sha256, project_id FROM trainings WHERE job_id = $1",
        failed as JobId,
        id as TrainingId,
        job as JobId,
    )
    .execute(connection)
    .await?;
    Ok(id)
}

/// SHA-256 over the lines `sha256 NUL caption LF` in order: the same pictures with the same captions have the same
/// digest.
fn snapshot_sha256(examples: &[Snapshot]) -> String {
    let mut hash = Sha256::new();
    for example in examples {
        hash.update(format!("{}\0{}\n", example.sha256, example.caption));
    }
    hex::encode(hash.finalize())
}

/// A row as the queries below return it.
struct Row {
    id: TrainingId,
    job_id: JobId,
    name: String,
    dataset_id: DatasetId,
    model_id: ModelId,
    model_name: String,
    config: Json<TrainingParams>,
    output_id: Option<ModelId>,
    output_name: Option<String>,
    warnings: Json<Vec<String>>,
    job: Json<JobRow>,
    created_at: DateTime<Utc>,
}

impl From<Row> for Training {
    fn from(row: Row) -> Self {
        let renamed = model::renamed(&row.name, row.output_name.as_deref());
        Self {
            id: row.id,
            job_id: row.job_id,
            name: row.name,
            dataset_id: row.dataset_id,
            model: ModelRef { id: row.model_id, name: row.model_name },
            params: row.config.0,
            output_model: row.output_id.zip(row.output_name).map(|(id, name)| ModelRef { id, name }),
            report: row.job.0.report(row.warnings.0.into_iter().chain(renamed).collect()),
            created_at: row.created_at,
        }
    }
}

macro_rules! select_trainings {
    ($rest:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"SELECT t.id AS "id: TrainingId", t.job_id AS "job_id: JobId", t.name, t.dataset_id AS "dataset_id: DatasetId",
                      t.model_id AS "model_id: ModelId", m.name AS model_name, t.config AS "config: Json<TrainingParams>",
                      o.id AS "output_id?: ModelId", o.name AS "output_name?", t.warnings AS "warnings: Json<Vec<String>>",
                      r.report AS "job!: Json<JobRow>",
                      t.created_at
               FROM trainings t JOIN job_reports r ON r.job_id = t.job_id JOIN models m ON m.id = t.model_id
                    LEFT JOIN models o ON o.id = t.output_model_id AND o.deleted_at IS NULL
               WHERE t.deleted_at IS NULL "# + $rest
            $(, $argument)*
        )
    };
}

/// Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, id: TrainingId) -> Result<Training> {
    let row = select_trainings!("AND t.id = $1 AND t.project_id = $2", id as TrainingId, caller.project() as ProjectId);
    let row = row.fetch_optional(database.pool(caller)).await?;
    row.map(Training::from).ok_or_else(|| Error::not_found("training", id))
}

/// Lists trainings, newest first.
pub async fn list(caller: &Caller, database: &Database, page: &PageRequest) -> Result<Page<Training>> {
    let rows = select_trainings!(
        "AND t.project_id = $1 AND ($2::uuid IS NULL OR t.id < $2) ORDER BY t.id DESC LIMIT $3",
        caller.project() as ProjectId,
        page.before(),
        page.fetch_limit()
    )
    .fetch_all(database.pool(caller))
    .await?;
    Ok(page.cut(rows.into_iter().map(Training::from).collect(), |training| training.id.into()))
}

/// Cancels it: at once while it is queued, within a step while it runs. One that has ended is left unchanged.
pub async fn cancel(caller: &Caller, database: &Database, id: TrainingId) -> Result<Training> {
    job::cancel(caller, database, job::find(caller, database, id.into(), Some(JobKind::Training)).await?).await?;
    get(caller, database, id).await
}

/// Makes an ended training invisible and deletes its checkpoints. The LoRA that it made is a separate model and is
/// kept.
/// Errors: `NotFound`; `Conflict` while it is queued or running.
pub async fn delete(caller: &Caller, database: &Database, storage: &Storage, id: TrainingId) -> Result<()> {
    let mut tx = begin(database.pool(caller)).await?;
    let row = sqlx::query!(
        r#"SELECT t.job_id AS "job_id: JobId", j.status AS "status: JobStatus" FROM trainings t JOIN jobs j ON j.id = t.job_id
           WHERE t.id = $1 AND t.project_id = $2 AND t.deleted_at IS NULL FOR UPDATE OF t"#,
        id as TrainingId,
        caller.project() as ProjectId,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::not_found("training", id))?;
    if !row.status.is_terminal() {
        return Err(Error::conflict(format!("The training is {}; cancel it first.", row.status.as_str())));
    }
    sqlx::query!(
        "UPDATE trainings SET deleted_at = clock_timestamp(), examples = '[]' WHERE id = $1",
        id as TrainingId
    )
    .execute(&mut *tx)
    .await?;
    job::hide(&mut tx, row.job_id).await?;
    // The LoRA's object belongs to the model from here on; only the artifact's row is deleted.
    sqlx::query!("DELETE FROM artifacts WHERE job_id = $1", row.job_id as JobId).execute(&mut *tx).await?;
    let keys = sqlx::query_scalar!(
        "DELETE FROM training_checkpoints WHERE training_id = $1 RETURNING storage_key",
        id as TrainingId
    )
    .fetch_all(&mut *tx)
    .await?;
    deletion::ask(&mut tx, &keys).await?;
    tx.commit().await?;
    deletion::now(database.pool(caller), storage, keys).await;
    Ok(())
}

/// The work of the claimed job, and the checkpoint to start from.
pub async fn load_work(pool: &PgPool, claim: &Claim) -> Result<TrainingWork> {
    bounded(read_work(pool, claim)).await
}

async fn read_work(pool: &PgPool, claim: &Claim) -> Result<TrainingWork> {
    let mut connection = pool.acquire().await?;
    let row = sqlx::query!(
        r#"SELECT id AS "id: TrainingId", model_id AS "model_id: ModelId", config AS "config: Json<TrainingParams>",
                  examples AS "examples: Json<Vec<Snapshot>>"
           FROM trainings WHERE job_id = $1"#,
        claim.job as JobId,
    )
    .fetch_one(&mut *connection)
    .await?;
    let checkpoint = sqlx::query_as!(
        CheckpointRef,
        "SELECT step, epoch, storage_key, sha256, bytes FROM training_checkpoints WHERE training_id = $1 ORDER BY step DESC, epoch DESC LIMIT 1",
        row.id as TrainingId,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let base = model::files(&mut connection, &[row.model_id])
        .await?
        .remove(&row.model_id)
        .ok_or_else(|| Error::not_found("model", row.model_id))?;
    Ok(TrainingWork { id: row.id, params: row.config.0, examples: row.examples.0, base, checkpoint })
}

/// Writes a checkpoint's row and its event, if the attempt still holds the job, and discards older ones.
/// Errors: `LeaseLost`, and then nothing has changed.
pub async fn add_checkpoint(pool: &PgPool, storage: &Storage, claim: &Claim, checkpoint: NewCheckpoint) -> Result<()> {
    let (sequence, old) = bounded(commit_checkpoint(pool, claim, checkpoint)).await?;
    event::announce(pool, claim.job, sequence).await;
    deletion::now(pool, storage, old).await;
    Ok(())
}

/// The fenced transaction: returns the event's number, and the keys of objects that are no longer needed.
async fn commit_checkpoint(pool: &PgPool, claim: &Claim, checkpoint: NewCheckpoint) -> Result<(i64, Vec<String>)> {
    let mut tx = begin(pool).await?;
    let sequence =
        event::record(&mut *tx, claim, EventKind::Checkpoint, &serde_json::json!({ "step": checkpoint.step })).await?;
    let before = sqlx::query_scalar!(
        r#"SELECT coalesce(max(c.step), 0) AS "step!"
           FROM training_checkpoints c JOIN trainings t ON t.id = c.training_id
           WHERE t.job_id = $1"#,
        claim.job as JobId,
    );
    if checkpoint.step > before.fetch_one(&mut *tx).await? {
        job::restore_budgets(&mut tx, claim).await?;
    }
    sqlx::query!(
        "INSERT INTO training_checkpoints (training_id, step, epoch, storage_key, sha256, bytes)
         SELECT id, $2, $3, $4, $5, $6 FROM trainings WHERE job_id = $1
         ON CONFLICT (training_id, step, epoch) DO NOTHING",
        claim.job as JobId,
        checkpoint.step,
        claim.epoch,
        checkpoint.storage_key,
        checkpoint.sha256,
        checkpoint.bytes,
    )
    .execute(&mut *tx)
    .await?;
    let old = sqlx::query_scalar!(
        "DELETE FROM training_checkpoints WHERE storage_key IN (
           SELECT c.storage_key FROM training_checkpoints c JOIN trainings t ON t.id = c.training_id
           WHERE t.job_id = $1 ORDER BY c.step DESC, c.epoch DESC OFFSET $2)
         RETURNING storage_key",
        claim.job as JobId,
        CHECKPOINTS_KEPT,
    )
    .fetch_all(&mut *tx)
    .await?;
    deletion::ask(&mut tx, &old).await?;
    tx.commit().await?;
    Ok((sequence, old))
}

/// Writes the LoRA as model and artifact and makes the job succeed, in one transaction that only the holder of the
/// lease can make. Errors: `LeaseLost`, and then nothing has changed.
pub async fn finish(
    pool: &PgPool,
    storage: &Storage,
    claim: &Claim,
    adapter: NewArtifact,
    warnings: &[String],
) -> Result<ModelId> {
    let finished = bounded(commit(pool, claim, adapter, warnings)).await?;
    if let Some(sequence) = finished.sequence {
        event::announce(pool, claim.job, sequence).await;
    }
    deletion::now(pool, storage, finished.checkpoints).await;
    Ok(finished.model)
}

struct Finished {
    model: ModelId,
    /// `None` if it was committed before.
    sequence: Option<i64>,
    /// Keys of the checkpoints, which are no longer needed.
    checkpoints: Vec<String>,
}

/// The one fenced transaction.
async fn commit(pool: &PgPool, claim: &Claim, adapter: NewArtifact, warnings: &[String]) -> Result<Finished> {
    let mut tx = begin(pool).await?;
    let Some(sequence) = job::succeed(&mut tx, claim).await? else {
        let made = sqlx::query_scalar!(
            r#"SELECT output_model_id AS "id: ModelId" FROM trainings WHERE job_id = $1"#,
            claim.job as JobId
        );
        let model =
            made.fetch_one(&mut *tx).await?.ok_or_else(|| Error::internal("a training succeeded without a model"))?;
        return Ok(Finished { model, sequence: None, checkpoints: vec![] });
    };
    let training = sqlx::query!(
        r#"SELECT t.id AS "id: TrainingId", t.project_id AS "project: ProjectId", t.name, t.model_id AS "model_id: ModelId",
                  t.config AS "config: Json<TrainingParams>",
                  m.family, m.defaults AS "defaults: Json<model::Defaults>"
           FROM trainings t JOIN models m ON m.id = t.model_id WHERE t.job_id = $1"#,
        claim.job as JobId,
    )
    .fetch_one(&mut *tx)
    .await?;
    let mut model = Model {
        id: ModelId::new(),
        name: training.name.clone(),
        kind: ModelKind::Lora,
        family: training.family,
        base_model_id: Some(training.model_id),
        files: vec![ModelFile {
            path: format!("{}.safetensors", training.name),
            storage_key: adapter.storage_key.clone(),
            sha256: adapter.sha256.clone(),
            bytes: adapter.bytes,
        }],
        bytes: adapter.bytes,
        sha256: adapter.sha256.clone(),
        trigger_word: training.config.0.trigger_word,
        training_id: Some(training.id),
        defaults: training.defaults.0,
        warnings: Vec::new(),
        built_in: false,
        shared: false,
        project: training.project,
        created_at: now(),
    };
    model::intake::insert_made(&mut tx, claim, &mut model, None).await?;
    artifact::insert(&mut tx, claim, &[adapter]).await?;
    sqlx::query!(
        "UPDATE trainings SET output_model_id = $2, warnings = $3 WHERE id = $1",
        training.id as TrainingId,
        model.id as ModelId,
        Json(warnings) as _,
    )
    .execute(&mut *tx)
    .await?;
    let checkpoints = sqlx::query_scalar!(
        "DELETE FROM training_checkpoints WHERE training_id = $1 RETURNING storage_key",
        training.id as TrainingId
    )
    .fetch_all(&mut *tx)
    .await?;
    deletion::ask(&mut tx, &checkpoints).await?;
    tx.commit().await?;
    Ok(Finished { model: model.id, sequence: Some(sequence), checkpoints })
}

/// Deletes the checkpoints of trainings that ended: a retry starts at the first step, so nothing reads them. Cheap if
/// there are none.
pub async fn discard_leftovers(pool: &PgPool, storage: &Storage) -> Result<()> {
    let keys = bounded(async {
        let mut tx = begin(pool).await?;
        let keys = sqlx::query_scalar!(
            "DELETE FROM training_checkpoints WHERE storage_key IN (
               SELECT c.storage_key FROM training_checkpoints c JOIN trainings t ON t.id = c.training_id
                      JOIN jobs j ON j.id = t.job_id
               WHERE j.status IN ('succeeded', 'failed', 'canceled') FOR UPDATE OF c SKIP LOCKED)
             RETURNING storage_key"
        )
        .fetch_all(&mut *tx)
        .await?;
        deletion::ask(&mut tx, &keys).await?;
        tx.commit().await?;
        Ok::<_, Error>(keys)
    })
    .await?;
    deletion::now(pool, storage, keys).await;
    Ok(())
}
