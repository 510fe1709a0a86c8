//! Imports: requests for a model from elsewhere. Creating one writes import and job in one transaction. Received files
//! are recorded, so that another attempt continues after them. The result is a model, made visible in the transaction
//! that makes the job succeed. Not here: the lifecycle of the job (`job`), the download, or what a file must look like
//! (`model::intake`).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use outgoing::Guard;
use serde::Deserialize;
use serde_json::json;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::delivery::webhook::{Endpoint, JobWebhookRequest};
use crate::event;
use crate::job::{self, Claim, JobKind, JobStatus, NewJob};
use crate::model::intake::{self, Intake};
use crate::model::parts::Part;
use crate::model::source::{Parts, Source};
use crate::model::{self, ModelFile, ModelKind, ModelRef, upload};
use crate::report::{JobRow, Report};
use crate::{
    Caller, Database, Error, ImportId, JobId, ModelId, Page, PageRequest, ProjectId, Result, Storage, UploadId, audit,
    begin, bounded, deletion, object, quota,
};

/// Longest text of a licence that is stored, in bytes.
pub const MAX_LICENSE_BYTES: usize = 256 * 1024;

/// Parameters to create an import.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "name": "schnell", "source": {"kind": "hugging_face", "repo": "black-forest-labs/FLUX.1-schnell"}
}))]
pub struct ImportRequest {
    /// Name of the model to be made.
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$", example = "clay")]
    pub name: String,
    #[serde(deserialize_with = "object::required")]
    pub source: Source,
    /// Kind that the files must be. If absent, any kind is accepted.
    #[serde(default)]
    pub kind: Option<ModelKind>,
    /// Name or identifier of the checkpoint that a LoRA or a preview decoder was made for.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    #[serde(default)]
    pub base: Option<String>,
    /// Sources of the parts (text encoders, VAE) that the source's file lacks.
    #[serde(default, deserialize_with = "object::optional")]
    pub parts: Option<Parts>,
    /// Name or identifier of a checkpoint that supplies the parts that are still missing.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    #[serde(default)]
    pub parts_of: Option<String>,
    /// An endpoint that is notified of this import, beside the webhooks of the project.
    #[serde(default, deserialize_with = "object::optional")]
    pub webhook: Option<JobWebhookRequest>,
}

/// An import.
#[derive(Clone, Debug)]
pub struct Import {
    pub id: ImportId,
    pub job_id: JobId,
    pub name: String,
    pub source: Source,
    pub source_commit: Option<String>,
    /// Sources of the parts (text encoders, VAE) that were supplied separately.
    pub parts: Option<Parts>,
    /// The checkpoint that supplies the other parts.
    pub parts_of_model_id: Option<ModelId>,
    /// The model: present once it exists, until it is deleted.
    pub output_model: Option<ModelRef>,
    pub report: Report,
    pub created_at: DateTime<Utc>,
}

/// The work of a claimed import.
pub struct ImportWork {
    pub id: ImportId,
    /// Owner of the import and of its model.
    pub project: ProjectId,
    pub name: String,
    pub source: Source,
    /// Commit that an earlier attempt resolved for a Hugging Face repository.
    pub source_commit: Option<String>,
    /// Query string of the source's URL. May be a secret.
    pub url_query: Option<String>,
    pub parts: Parts,
    /// Query strings of the parts' URLs. May be secrets.
    pub part_queries: BTreeMap<Part, String>,
    pub parts_of: Option<ModelId>,
    /// Files that earlier attempts have stored.
    pub files: Vec<ModelFile>,
}

/// Checks the request, whose webhook `outbound` must allow, and writes the import with its queued job, or nothing.
/// Errors: `NotFound` for base or upload; `Invalid` naming the field; `Conflict` for a name that is taken, missing
/// parts or an upload of another import.
pub async fn create(
    caller: &Caller,
    database: &Database,
    storage: &Storage,
    outbound: &Guard,
    request: ImportRequest,
) -> Result<Import> {
    model::check_name(&request.name)?;
    let webhook = Endpoint::of(request.webhook.as_ref(), outbound)?;
    let parts = request.parts.unwrap_or_default();
    let mut uploads: Vec<(String, UploadId)> = Vec::new();
    let sources = parts.each().map(|(part, source)| (format!("parts.{}", part.as_str()), source));
    for (field, source) in [("source".to_owned(), &request.source)].into_iter().chain(sources) {
        source.check(&field)?;
        source.check_caller(caller)?;
        if field != "source" && !source.may_be_one_file() {
            return Err(Error::invalid(field, "A part is one file; name the one."));
        }
        if let Source::Upload { files } = source {
            for (position, file) in files.iter().enumerate() {
                let field = format!("{field}.files[{position}].upload");
                if let Some((other, _)) = uploads.iter().find(|(_, upload)| *upload == file.upload) {
                    return Err(Error::invalid(field, format!("`{other}` names the same upload.")));
                }
                let complete = upload::check_complete(caller, database, storage, file.upload).await;
                complete.map_err(|error| error.in_field(&field))?;
                uploads.push((field, file.upload));
            }
        }
    }
    // The denoiser's file is named after the model, and a part's after the part.
    if let Some((part, _)) = parts.each().find(|(part, _)| part.as_str() == request.name) {
        let message = format!("A model with a part `{}` of its own cannot be called so.", part.as_str());
        return Err(Error::invalid("name", message));
    }
    let checkpoint = async |field: &str, name: &Option<String>| match name {
        None => Ok(None),
        Some(name) => match model::get(caller, database, name).await.map_err(|error| error.in_field(field))? {
            model if model.kind == ModelKind::Checkpoint => Ok(Some(model)),
            model => Err(Error::invalid(field, format!("It is {}, and must be a checkpoint.", model.kind.title()))),
        },
    };
    let base = checkpoint("base", &request.base).await?;
    let donor = checkpoint("parts_of", &request.parts_of).await?;
    let (source, url_query) = request.source.without_query();
    let (parts, part_queries) = parts.without_queries();
    let parts = Some(parts).filter(|parts| *parts != Parts::default());
    let id = ImportId::new();
    let (pool, project) = (database.pool(caller), caller.project());
    let mut tx = begin(pool).await?;
    quota::left(&mut tx, project).await?;
    model::reserve_name(&mut tx, project, &request.name).await?;
    reserve_uploads(&mut tx, project, &uploads).await?;
    let needs: Vec<ModelId> = base.iter().chain(&donor).map(|model| model.id).collect();
    let local = std::iter::once(&source)
        .chain(parts.iter().flat_map(Parts::each).map(|(_, source)| source))
        .all(Source::is_local);
    let makes = Some(request.name.as_str());
    let webhook = webhook.as_ref();
    let job = NewJob { needs: &needs, makes, local, webhook, ..NewJob::new(caller, JobKind::Import, id) };
    let job_id = job::enqueue(&mut tx, job).await?;
    let created_at = sqlx::query_scalar!(
        "INSERT INTO imports (id, job_id, name, kind, base_model_id, source, url_query, parts, part_queries, parts_of_model_id, project_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING created_at",
        id as ImportId,
        job_id as JobId,
        request.name,
        request.kind.map(ModelKind::as_str),
        base.map(|base| base.id) as Option<ModelId>,
        Json(&source) as _,
        url_query,
        parts.as_ref().map(Json) as _,
        (!part_queries.is_empty()).then(|| Json(&part_queries)) as _,
        donor.as_ref().map(|donor| donor.id) as Option<ModelId>,
        project as ProjectId,
    )
    .fetch_one(&mut *tx)
    .await?;
    audit::record(&mut tx, caller, "model.import", id, json!({ "name": request.name })).await?;
    tx.commit().await?;
    job::ring(pool);
    Ok(Import {
        id,
        job_id,
        name: request.name,
        source,
        source_commit: None,
        parts,
        parts_of_model_id: donor.map(|donor| donor.id),
        output_model: None,
        report: Report { webhook: webhook.map(Endpoint::shown), ..Report::queued(0) },
        created_at,
    })
}

/// Keeps uploads for an import that this transaction writes; each is named with the field that states it. Errors:
/// `Unknown` for one that was deleted; `Conflict` for one of another import, which deletes it after making a model of
/// it.
async fn reserve_uploads(
    connection: &mut PgConnection,
    project: ProjectId,
    uploads: &[(String, UploadId)],
) -> Result<()> {
    if uploads.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = uploads.iter().map(|(_, upload)| (*upload).into()).collect();
    let field = |id: Uuid| {
        let named = uploads.iter().find(|(_, upload)| Uuid::from(*upload) == id);
        named.map_or_else(String::new, |(field, _)| field.clone())
    };
    let there = sqlx::query_scalar!("SELECT id FROM model_uploads WHERE id = ANY($1) ORDER BY id FOR UPDATE", &ids)
        .fetch_all(&mut *connection)
        .await?;
    if let Some(gone) = ids.iter().find(|id| !there.contains(id)) {
        return Err(Error::not_found("upload", gone).in_field(field(*gone)));
    }
    // A separate statement, so that it sees the imports committed by those that held the lock.
    let taken = sqlx::query!(
        r#"SELECT u.id AS "upload!", i.id AS "import: ImportId", j.status AS "status: JobStatus"
           FROM unnest($1::uuid[]) AS u (id), imports i JOIN jobs j ON j.id = i.job_id
           WHERE i.project_id = $2 AND j.status NOT IN ('failed', 'canceled')
             AND position(u.id::text IN concat(i.source, i.parts)) > 0 LIMIT 1"#,
        &ids,
        project as ProjectId,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(taken) = taken else { return Ok(()) };
    let (upload, import, status) = (taken.upload, taken.import, taken.status.as_str());
    let message = format!("The upload {upload} belongs to the import {import}, which is {status}.");
    Err(Error::conflict_in(field(upload), message))
}

/// Checks that the caller may use the sources of this import, and that its uploads are still complete; an id of another
/// kind of job passes. Errors: `Forbidden`; `Conflict` if an upload was deleted.
pub(crate) async fn check_sources(caller: &Caller, database: &Database, storage: &Storage, id: Uuid) -> Result<()> {
    let row = sqlx::query!(
        r#"SELECT source AS "source: Json<Source>", parts AS "parts: Json<Parts>" FROM imports
           WHERE id = $1 AND project_id = $2"#,
        id,
        caller.project() as ProjectId,
    );
    let Some(row) = bounded(row.fetch_optional(database.pool(caller))).await? else { return Ok(()) };
    let parts = row.parts.map(|parts| parts.0).unwrap_or_default();
    for source in std::iter::once(&row.source.0).chain(parts.each().map(|(_, source)| source)) {
        source.check_caller(caller)?;
        for id in source.uploads() {
            upload::check_complete(caller, database, storage, id).await.map_err(|error| match error {
                Error::NotFound { .. } => Error::conflict(format!("The upload {id} that this import needs is gone.")),
                other => other,
            })?;
        }
    }
    Ok(())
}

/// Makes the same request again, as a new job that starts without files. Errors: `Conflict` if a query string of its
/// URLs was discarded, if the name has been taken, or if another import has its uploads; `Unknown` if a model that it
/// needs has been deleted.
pub(crate) async fn retry(caller: &Caller, connection: &mut PgConnection, failed: JobId) -> Result<ImportId> {
    let project = caller.project();
    let row = sqlx::query!(
        r#"SELECT name, base_model_id AS "base: ModelId", parts_of_model_id AS "donor: ModelId", query_forgotten,
                  source AS "source: Json<Source>", parts AS "parts: Json<Parts>"
           FROM imports WHERE job_id = $1 AND project_id = $2"#,
        failed as JobId,
        project as ProjectId,
    )
    .fetch_one(&mut *connection)
    .await?;
    if row.query_forgotten {
        return Err(Error::conflict(
            "The query string of this import's URL may be a secret and was forgotten when it ended, so it \
             cannot be retried; \
             import the model again with the whole URL.",
        ));
    }
    model::reserve_name(connection, project, &row.name).await?;
    let parts = row.parts.map(|parts| parts.0).unwrap_or_default();
    let sources = std::iter::once(&row.source.0).chain(parts.each().map(|(_, source)| source));
    let uploads: Vec<_> = sources.flat_map(Source::uploads).map(|upload| (String::new(), upload)).collect();
    let reserved = reserve_uploads(connection, project, &uploads).await;
    // The request for another attempt has no fields.
    reserved.map_err(|error| match error {
        Error::Conflict { message, .. } | Error::Unknown { message, .. } => Error::conflict(message),
        other => other,
    })?;
    let id = ImportId::new();
    let needs: Vec<ModelId> = row.base.into_iter().chain(row.donor).collect();
    let makes = Some(row.name.as_str());
    let job = NewJob { needs: &needs, makes, retry_of: Some(failed), ..NewJob::new(caller, JobKind::Import, id) };
    let job = job::enqueue(connection, job).await?;
    sqlx::query!(
        "INSERT INTO imports (id, job_id, name, kind, base_model_id, source, parts, parts_of_model_id, project_id)
         SELECT $2, $3, name, kind, base_model_id, source, parts, parts_of_model_id, project_id FROM imports WHERE job_id = $1",
        failed as JobId,
        id as ImportId,
        job as JobId,
    )
    .execute(connection)
    .await?;
    Ok(id)
}

/// A row as the queries below return it.
struct Row {
    id: ImportId,
    job_id: JobId,
    name: String,
    source: Json<Source>,
    source_commit: Option<String>,
    parts: Option<Json<Parts>>,
    parts_of_model_id: Option<ModelId>,
    output_id: Option<ModelId>,
    output_name: Option<String>,
    job: Json<JobRow>,
    created_at: DateTime<Utc>,
}

impl From<Row> for Import {
    fn from(row: Row) -> Self {
        let renamed = model::renamed(&row.name, row.output_name.as_deref());
        Self {
            id: row.id,
            job_id: row.job_id,
            name: row.name,
            source: row.source.0,
            source_commit: row.source_commit,
            parts: row.parts.map(|parts| parts.0),
            parts_of_model_id: row.parts_of_model_id,
            output_model: row.output_id.zip(row.output_name).map(|(id, name)| ModelRef { id, name }),
            report: row.job.0.report(renamed.into_iter().collect()),
            created_at: row.created_at,
        }
    }
}

macro_rules! select_imports {
    ($rest:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"SELECT i.id AS "id: ImportId", i.job_id AS "job_id: JobId", i.name, i.source AS "source: Json<Source>", i.source_commit,
                      i.parts AS "parts: Json<Parts>", i.parts_of_model_id AS "parts_of_model_id: ModelId",
                      o.id AS "output_id?: ModelId", o.name AS "output_name?",
                      r.report AS "job!: Json<JobRow>",
                      i.created_at
               FROM imports i JOIN job_reports r ON r.job_id = i.job_id
                    LEFT JOIN models o ON o.id = i.output_model_id AND o.deleted_at IS NULL "# + $rest
            $(, $argument)*
        )
    };
}

/// Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, id: ImportId) -> Result<Import> {
    let row = select_imports!("WHERE i.id = $1 AND i.project_id = $2", id as ImportId, caller.project() as ProjectId);
    let row = row.fetch_optional(database.pool(caller)).await?;
    row.map(Import::from).ok_or_else(|| Error::not_found("import", id))
}

/// Lists imports, newest first.
pub async fn list(caller: &Caller, database: &Database, page: &PageRequest) -> Result<Page<Import>> {
    let rows = select_imports!(
        "WHERE i.project_id = $1 AND ($2::uuid IS NULL OR i.id < $2) ORDER BY i.id DESC LIMIT $3",
        caller.project() as ProjectId,
        page.before(),
        page.fetch_limit()
    )
    .fetch_all(database.pool(caller))
    .await?;
    Ok(page.cut(rows.into_iter().map(Import::from).collect(), |import| import.id.into()))
}

/// Cancels it: at once while it is queued, within a beat while it runs. One that has ended is left unchanged.
pub async fn cancel(caller: &Caller, database: &Database, id: ImportId) -> Result<Import> {
    job::cancel(caller, database, job::find(caller, database, id.into(), Some(JobKind::Import)).await?).await?;
    get(caller, database, id).await
}

/// Deletes an ended import. The model that it made is kept. Errors: `NotFound`; `Conflict` while it is queued or
/// running.
pub async fn delete(caller: &Caller, database: &Database, storage: &Storage, id: ImportId) -> Result<()> {
    let mut tx = begin(database.pool(caller)).await?;
    let row = sqlx::query!(
        r#"SELECT i.job_id AS "job_id: JobId", j.status AS "status: JobStatus" FROM imports i JOIN jobs j ON j.id = i.job_id
           WHERE i.id = $1 AND i.project_id = $2 FOR UPDATE OF i"#,
        id as ImportId,
        caller.project() as ProjectId,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::not_found("import", id))?;
    if !row.status.is_terminal() {
        return Err(Error::conflict(format!("The import is {}; cancel it first.", row.status.as_str())));
    }
    job::hide(&mut tx, row.job_id).await?;
    // Files of an import that made no model.
    let files = sqlx::query_scalar!(
        r#"DELETE FROM imports WHERE id = $1 RETURNING files AS "files: Json<Vec<ModelFile>>""#,
        id as ImportId
    )
    .fetch_one(&mut *tx)
    .await?;
    let keys: Vec<String> = files.0.into_iter().map(|file| file.storage_key).collect();
    deletion::ask(&mut tx, &keys).await?;
    tx.commit().await?;
    deletion::now(database.pool(caller), storage, keys).await;
    Ok(())
}

/// The work of the claimed job, with the files that are stored already.
pub async fn load_work(pool: &PgPool, claim: &Claim) -> Result<ImportWork> {
    let row = bounded(
        sqlx::query!(
            r#"SELECT id AS "id: ImportId", project_id AS "project: ProjectId", name, source AS "source: Json<Source>", source_commit, url_query,
                      parts AS "parts: Json<Parts>", part_queries AS "part_queries: Json<BTreeMap<Part, String>>",
                      parts_of_model_id AS "parts_of: ModelId", files AS "files: Json<Vec<ModelFile>>"
               FROM imports WHERE job_id = $1"#,
            claim.job as JobId,
        )
        .fetch_one(pool),
    )
    .await?;
    Ok(ImportWork {
        id: row.id,
        project: row.project,
        name: row.name,
        source: row.source.0,
        source_commit: row.source_commit,
        url_query: row.url_query,
        parts: row.parts.map(|parts| parts.0).unwrap_or_default(),
        part_queries: row.part_queries.map(|queries| queries.0).unwrap_or_default(),
        parts_of: row.parts_of,
        files: row.files.0,
    })
}

/// Records the commit that a revision resolved to, so that all attempts use the same: for the source, or for a part's
/// source, where it replaces the revision. Errors: `LeaseLost`, and then nothing has changed.
pub async fn pin_commit(pool: &PgPool, claim: &Claim, part: Option<Part>, commit: &str) -> Result<()> {
    let held = bounded(
        sqlx::query_scalar!(
            r#"WITH held AS (SELECT id FROM jobs WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running' FOR SHARE),
                    pinned AS (UPDATE imports SET
                      source_commit = CASE WHEN $5::text IS NULL THEN $4 ELSE source_commit END,
                      parts = CASE WHEN $5 IS NULL THEN parts ELSE jsonb_set(parts, ARRAY[$5, 'revision'], to_jsonb($4::text)) END
                      FROM held WHERE job_id = held.id)
               SELECT count(*) AS "held!" FROM held"#,
            claim.job as JobId,
            claim.epoch,
            claim.worker.0,
            commit,
            part.map(Part::as_str),
        )
        .fetch_one(pool),
    )
    .await?;
    if held == 1 { Ok(()) } else { Err(Error::LeaseLost) }
}

/// Records a file that is in the bucket. Errors: `LeaseLost`, and then nothing has changed.
pub async fn add_file(pool: &PgPool, claim: &Claim, file: &ModelFile) -> Result<()> {
    let held = bounded(
        sqlx::query_scalar!(
            r#"WITH held AS (SELECT id FROM jobs WHERE id = $1 AND epoch = $2 AND worker = $3 AND status = 'running' FOR SHARE),
                    added AS (UPDATE imports SET files = files || $4 FROM held WHERE job_id = held.id AND NOT files @> $4)
               SELECT count(*) AS "held!" FROM held"#,
            claim.job as JobId,
            claim.epoch,
            claim.worker.0,
            Json([file]) as _,
        )
        .fetch_one(pool),
    )
    .await?;
    if held == 1 { Ok(()) } else { Err(Error::LeaseLost) }
}

/// Makes a model of the files in `intake` and the job succeed, in one transaction that only the holder of the lease can
/// make. Errors: `LeaseLost`, and then nothing has changed; those of [`Intake::finish`].
pub async fn finish(
    pool: &PgPool,
    storage: &Storage,
    claim: &Claim,
    intake: &Intake,
    license: Option<&str>,
) -> Result<ModelId> {
    let sound = intake.sound_files().await?;
    let (model, sequence, spare) = bounded(commit(pool, claim, intake, &sound, license)).await?;
    if let Some(sequence) = sequence {
        event::announce(pool, claim.job, sequence).await;
    }
    deletion::now(pool, storage, spare).await;
    Ok(model)
}

/// The one fenced transaction. Returns the model, the number of the event unless it was committed before, and keys that
/// are no longer needed.
async fn commit(
    pool: &PgPool,
    claim: &Claim,
    intake: &Intake,
    sound: &BTreeSet<String>,
    license: Option<&str>,
) -> Result<(ModelId, Option<i64>, Vec<String>)> {
    let mut tx = begin(pool).await?;
    let import = sqlx::query!(
        r#"SELECT project_id AS "project: ProjectId", name, kind, base_model_id AS "base: ModelId", output_model_id AS "output: ModelId" FROM imports WHERE job_id = $1"#,
        claim.job as JobId,
    )
    .fetch_one(&mut *tx)
    .await?;
    let Some(sequence) = job::succeed(&mut tx, claim).await? else {
        let model = import.output.ok_or_else(|| Error::internal("an import succeeded without a model"))?;
        return Ok((model, None, vec![]));
    };
    let base = import.base.map(|base| base.to_string());
    let kind = import.kind.as_deref().map(str::parse).transpose()?;
    let mut described = intake.describe(&import.name, base.as_deref(), kind).await?;
    let networks = described.networks.take();
    let mut model = intake.model(&import.name, described, false);
    let spare = intake.share(&mut tx, &mut model, sound).await?;
    intake::insert_made(&mut tx, claim, &mut model, networks.as_ref()).await?;
    sqlx::query!(
        "WITH done AS (
           UPDATE imports SET output_model_id = $2, files = '[]' WHERE job_id = $1 RETURNING source, source_commit)
         UPDATE models SET source = done.source, source_commit = done.source_commit, license = $3 FROM done WHERE id = $2",
        claim.job as JobId,
        model.id as ModelId,
        license,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok((model.id, Some(sequence), spare))
}

/// Removes files of imports that ended without a model, for any reason. Cheap if there are none.
pub async fn discard_leftovers(pool: &PgPool, storage: &Storage) -> Result<()> {
    let keys = bounded(async {
        let mut tx = begin(pool).await?;
        let left = sqlx::query_scalar!(
            r#"UPDATE imports i SET files = '[]' FROM (
             SELECT i.id, i.files FROM imports i JOIN jobs j ON j.id = i.job_id
             WHERE i.files <> '[]' AND j.status IN ('failed', 'canceled') FOR UPDATE OF i SKIP LOCKED) AS gone
           WHERE i.id = gone.id RETURNING gone.files AS "files!: Json<Vec<ModelFile>>""#
        )
        .fetch_all(&mut *tx)
        .await?;
        let keys: Vec<String> = left.into_iter().flat_map(|files| files.0).map(|file| file.storage_key).collect();
        deletion::ask(&mut tx, &keys).await?;
        tx.commit().await?;
        Ok::<_, Error>(keys)
    })
    .await?;
    deletion::now(pool, storage, keys).await;
    Ok(())
}
