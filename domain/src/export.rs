//! Exports: requests for a LoRA in another program's dialect. The same export of a model is made once: a repeated
//! request returns the one that exists or is being made. Not here: the lifecycle of the job (`job`), or how a dialect
//! is written.

use chrono::{DateTime, Utc};
pub use formats::adapter::{Dtype, Format};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::artifact::{self, NewArtifact};
use crate::event;
use crate::job::{self, Claim, JobKind, JobStatus, NewJob};
use crate::model::{self, ModelFiles, ModelKind, ModelRef};
use crate::report::{JobRow, Report};
use crate::{
    Caller, Database, Error, JobId, ModelId, Page, PageRequest, ProjectId, Result, Storage, begin, bounded, deletion,
    quota,
};

crate::id::public! {
    ExportId,
}

/// An export.
#[derive(Clone, Debug)]
pub struct Export {
    pub id: ExportId,
    pub job_id: JobId,
    pub model: ModelRef,
    pub format: Format,
    pub dtype: Dtype,
    pub report: Report,
    pub created_at: DateTime<Utc>,
}

/// The work of a claimed export.
pub struct ExportWork {
    pub model: ModelFiles,
    pub format: Format,
    pub dtype: Dtype,
}

/// Largest adapter that is exported, in bytes. The worker holds several copies of it in memory.
const MAX_BYTES: i64 = 4 << 30;

/// Writes an export with its queued job, or finds one that succeeded or is unfinished. Errors: `NotFound`; `Invalid`
/// for a checkpoint.
pub async fn create(
    caller: &Caller,
    database: &Database,
    name_or_id: &str,
    format: Format,
    dtype: Dtype,
) -> Result<Export> {
    let model = model::get(caller, database, name_or_id).await?;
    if model.kind != ModelKind::Lora {
        let message = format!("`{}` is {}; what is exported is a LoRA.", model.name, model.kind.title());
        return Err(Error::invalid("model", message));
    }
    if model.files.iter().map(|file| file.bytes).sum::<i64>() > MAX_BYTES {
        return Err(Error::invalid(
            "model",
            format!("`{}` is larger than 4 GiB, too large to be exported.", model.name),
        ));
    }
    let (pool, project) = (database.pool(caller), caller.project());
    let mut tx = begin(pool).await?;
    quota::left(&mut tx, project).await?;
    // One request at a time, and not while the model is being deleted.
    sqlx::query_scalar!(
        r#"SELECT 1 AS "one!" FROM models WHERE id = $1 AND deleted_at IS NULL FOR UPDATE"#,
        model.id as ModelId
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::not_found("model", name_or_id))?;
    if let Some(id) = same(project, &mut tx, model.id, format, dtype).await? {
        tx.commit().await?;
        return get(caller, database, id).await;
    }
    let id = insert(caller, &mut tx, model.id, format, dtype, None).await?;
    tx.commit().await?;
    job::ring(pool);
    get(caller, database, id).await
}

/// The same export, if it has succeeded or is unfinished.
async fn same(
    project: ProjectId,
    connection: &mut PgConnection,
    model: ModelId,
    format: Format,
    dtype: Dtype,
) -> Result<Option<ExportId>> {
    let there = sqlx::query_scalar!(
        r#"SELECT e.id AS "id: ExportId" FROM exports e JOIN jobs j ON j.id = e.job_id
           WHERE e.model_id = $1 AND e.format = $2 AND e.dtype = $3 AND e.project_id = $4 AND j.status IN ('queued', 'running', 'succeeded')
           ORDER BY e.id DESC LIMIT 1"#,
        model as ModelId,
        format.as_str(),
        dtype.as_str(),
        project as ProjectId,
    );
    Ok(there.fetch_optional(connection).await?)
}

/// Writes an export with its queued job.
async fn insert(
    caller: &Caller,
    connection: &mut PgConnection,
    model: ModelId,
    format: Format,
    dtype: Dtype,
    retry_of: Option<JobId>,
) -> Result<ExportId> {
    let id = ExportId::new();
    let job = NewJob { needs: &[model], retry_of, ..NewJob::new(caller, JobKind::Export, id) };
    let job_id = job::enqueue(connection, job).await?;
    sqlx::query!(
        "INSERT INTO exports (id, job_id, model_id, format, dtype, project_id) VALUES ($1, $2, $3, $4, $5, $6)",
        id as ExportId,
        job_id as JobId,
        model as ModelId,
        format.as_str(),
        dtype.as_str(),
        caller.project() as ProjectId,
    )
    .execute(connection)
    .await?;
    Ok(id)
}

/// Locks the model of this export until the transaction ends: one request at a time, and not while the model is being
/// deleted. An id of another kind of job locks nothing.
pub(crate) async fn lock_model(caller: &Caller, connection: &mut PgConnection, id: Uuid) -> Result<()> {
    sqlx::query!(
        "SELECT m.id FROM models m JOIN exports e ON e.model_id = m.id WHERE e.id = $1 AND e.project_id = $2
         FOR UPDATE OF m",
        id,
        caller.project() as ProjectId,
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// Makes the same request again, as a new job. The caller has locked the model. Errors: `Unknown` if the model has been
/// deleted, `Conflict` if the same export has been made meanwhile.
pub(crate) async fn retry(caller: &Caller, connection: &mut PgConnection, failed: JobId) -> Result<ExportId> {
    let row = sqlx::query!(
        r#"SELECT model_id AS "model_id: ModelId", format AS "format: Format", dtype AS "dtype: Dtype" FROM exports
           WHERE job_id = $1 AND project_id = $2"#,
        failed as JobId,
        caller.project() as ProjectId,
    )
    .fetch_one(&mut *connection)
    .await?;
    if let Some(id) = same(caller.project(), connection, row.model_id, row.format, row.dtype).await? {
        return Err(Error::conflict(format!("The same export has been made meanwhile, as {id}.")));
    }
    insert(caller, connection, row.model_id, row.format, row.dtype, Some(failed)).await
}

/// A row as the queries below return it.
struct Row {
    id: ExportId,
    job_id: JobId,
    model_id: ModelId,
    model_name: String,
    format: Format,
    dtype: Dtype,
    job: Json<JobRow>,
    created_at: DateTime<Utc>,
}

impl From<Row> for Export {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            job_id: row.job_id,
            model: ModelRef { id: row.model_id, name: row.model_name },
            format: row.format,
            dtype: row.dtype,
            report: row.job.0.report(Vec::new()),
            created_at: row.created_at,
        }
    }
}

macro_rules! select_exports {
    ($rest:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"SELECT e.id AS "id: ExportId", e.job_id AS "job_id: JobId", e.model_id AS "model_id: ModelId", m.name AS model_name,
                      e.format AS "format: Format", e.dtype AS "dtype: Dtype",
                      r.report AS "job!: Json<JobRow>",
                      e.created_at
               FROM exports e JOIN job_reports r ON r.job_id = e.job_id JOIN models m ON m.id = e.model_id WHERE m.deleted_at IS NULL "# + $rest
            $(, $argument)*
        )
    };
}

/// Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, id: ExportId) -> Result<Export> {
    let row = select_exports!("AND e.id = $1 AND e.project_id = $2", id as ExportId, caller.project() as ProjectId);
    let row = row.fetch_optional(database.pool(caller)).await?;
    row.map(Export::from).ok_or_else(|| Error::not_found("export", id))
}

/// Lists exports, newest first.
pub async fn list(caller: &Caller, database: &Database, page: &PageRequest) -> Result<Page<Export>> {
    let rows = select_exports!(
        "AND e.project_id = $1 AND ($2::uuid IS NULL OR e.id < $2) ORDER BY e.id DESC LIMIT $3",
        caller.project() as ProjectId,
        page.before(),
        page.fetch_limit()
    )
    .fetch_all(database.pool(caller))
    .await?;
    Ok(page.cut(rows.into_iter().map(Export::from).collect(), |export| export.id.into()))
}

/// Cancels it: at once while it is queued, within a beat while it runs. One that has ended is left unchanged.
pub async fn cancel(caller: &Caller, database: &Database, id: ExportId) -> Result<Export> {
    job::cancel(caller, database, job::find(caller, database, id.into(), Some(JobKind::Export)).await?).await?;
    get(caller, database, id).await
}

/// Deletes an ended export with its file. Errors: `NotFound`; `Conflict` while it is queued or running.
pub async fn delete(caller: &Caller, database: &Database, storage: &Storage, id: ExportId) -> Result<()> {
    let mut tx = begin(database.pool(caller)).await?;
    let row = sqlx::query!(
        r#"SELECT e.job_id AS "job_id: JobId", j.status AS "status: JobStatus"
           FROM exports e JOIN jobs j ON j.id = e.job_id JOIN models m ON m.id = e.model_id
           WHERE e.id = $1 AND e.project_id = $2 AND m.deleted_at IS NULL FOR UPDATE OF e"#,
        id as ExportId,
        caller.project() as ProjectId,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::not_found("export", id))?;
    if !row.status.is_terminal() {
        return Err(Error::conflict(format!("The export is {}; cancel it first.", row.status.as_str())));
    }
    job::hide(&mut tx, row.job_id).await?;
    let keys =
        sqlx::query_scalar!("DELETE FROM artifacts WHERE job_id = $1 RETURNING storage_key", row.job_id as JobId)
            .fetch_all(&mut *tx)
            .await?;
    sqlx::query!("DELETE FROM exports WHERE id = $1", id as ExportId).execute(&mut *tx).await?;
    deletion::ask(&mut tx, &keys).await?;
    tx.commit().await?;
    deletion::now(database.pool(caller), storage, keys).await;
    Ok(())
}

/// The work of the claimed job.
pub async fn load_work(pool: &PgPool, claim: &Claim) -> Result<ExportWork> {
    bounded(async {
        let mut connection = pool.acquire().await?;
        let row = sqlx::query!(
            r#"SELECT model_id AS "model_id: ModelId", format AS "format: Format", dtype AS "dtype: Dtype" FROM exports WHERE job_id = $1"#,
            claim.job as JobId,
        )
        .fetch_one(&mut *connection)
        .await?;
        let mut files = model::files(&mut connection, &[row.model_id]).await?;
        let model = files.remove(&row.model_id).ok_or_else(|| Error::not_found("model", row.model_id))?;
        Ok::<_, Error>(ExportWork { model, format: row.format, dtype: row.dtype })
    })
    .await
}

/// Writes the artifact and makes the job succeed, in one transaction that only the holder of the lease can make.
/// Errors: `LeaseLost`, and then nothing has changed.
pub async fn finish(pool: &PgPool, claim: &Claim, made: &NewArtifact) -> Result<()> {
    let sequence = bounded(async {
        let mut tx = begin(pool).await?;
        let sequence = job::succeed(&mut tx, claim).await?;
        if sequence.is_some() {
            artifact::insert(&mut tx, claim, std::slice::from_ref(made)).await?;
            tx.commit().await?;
        }
        Ok::<_, Error>(sequence)
    })
    .await?;
    if let Some(sequence) = sequence {
        event::announce(pool, claim.job, sequence).await;
    }
    Ok(())
}
