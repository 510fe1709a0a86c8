//! Imports: requests for a model from elsewhere. Creating one writes import and job in one transaction; files that came in are
//! remembered, so that another attempt goes on after them; the result is a model, made visible in the transaction that makes
//! the job succeed. Not here: the lifecycle of the job (`job`), the way over the network, or what a file must look like
//! (`model::intake`).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::types::Json;
use utoipa::ToSchema;

use crate::event;
use crate::job::{self, Claim, JobKind};
use crate::model::intake::{self, Intake};
use crate::model::parts::Part;
use crate::model::{self, ModelFile, ModelKind, ModelRef, upload};
use crate::report::{JobRow, Report};
use crate::training::lock_base;
use crate::{Error, ImportId, JobId, ModelId, Page, PageRequest, Result, Storage, UploadId, begin, bounded};

const MAX_URL_BYTES: usize = 2048;
const MAX_NAME_BYTES: usize = 96;
const MAX_REVISION_BYTES: usize = 128;
const MAX_PATH_BYTES: usize = 1000;
const MAX_VARIANT_BYTES: usize = 32;
/// Longer texts of a licence are not kept.
pub const MAX_LICENSE_BYTES: usize = 256 * 1024;

/// What a client sends.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// Name that the model will have.
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$", example = "clay")]
    pub name: String,
    pub source: Source,
    /// What it must turn out to be; absent takes any.
    #[serde(default)]
    pub kind: Option<ModelKind>,
    /// Name or id of the checkpoint that a LoRA or a decoder of previews was made for.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    #[serde(default)]
    pub base: Option<String>,
    /// Where the parts are that the source's file lacks.
    #[serde(default)]
    pub parts: Option<Parts>,
    /// Name or id of a checkpoint that has the parts which are still missing.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    #[serde(default)]
    pub parts_of: Option<String>,
}

/// Parts of a checkpoint that are given apart from its denoiser; each source has one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// CLIP, or OpenCLIP in Stable Diffusion 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<Source>,
    /// T5 in FLUX.1, OpenCLIP in Stable Diffusion XL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder_2: Option<Source>,
    /// The autoencoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<Source>,
}

impl Parts {
    /// Those that are given.
    pub fn each(&self) -> impl Iterator<Item = (Part, &Source)> {
        let parts = [&self.text_encoder, &self.text_encoder_2, &self.vae];
        Part::SEPARABLE.into_iter().zip(parts).filter_map(|(part, source)| Some((part, source.as_ref()?)))
    }

    /// Without what must not be seen, and what was taken off.
    fn without_queries(self) -> (Self, BTreeMap<Part, String>) {
        let mut queries = BTreeMap::new();
        let mut shown = |part, source: Option<Source>| {
            let (source, query) = source?.without_query();
            queries.extend(query.map(|query| (part, query)));
            Some(source)
        };
        let parts = Self {
            text_encoder: shown(Part::TextEncoder, self.text_encoder),
            text_encoder_2: shown(Part::TextEncoder2, self.text_encoder_2),
            vae: shown(Part::Vae, self.vae),
        };
        (parts, queries)
    }
}

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// One safetensors or GGUF file behind a URL.
    Url {
        /// `https`, at an address of the public internet; the operator may allow others. Its query string is used and never shown.
        #[schema(
            max_length = 2048,
            pattern = r"^https?://[A-Za-z0-9.:\[\]-]{1,255}(/[!-~]*)?$",
            example = "https://example.com/clay.safetensors"
        )]
        url: String,
        /// What the file must hash to, lower-case hex.
        #[schema(pattern = "^[0-9a-f]{64}$")]
        #[serde(default)]
        sha256: Option<String>,
    },
    /// A repository of the Hugging Face Hub: a diffusers folder, or one safetensors or GGUF file.
    HuggingFace {
        #[schema(
            pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$",
            example = "owner/name"
        )]
        repo: String,
        /// Branch, tag or commit; it is resolved to a commit first.
        #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$", default = "main")]
        #[serde(default = "main_branch")]
        revision: String,
        /// These files only; absent takes what the pipeline is loaded from, or the one file of weights.
        #[schema(min_items = 1, max_items = 200)]
        #[serde(default)]
        files: Option<Vec<String>>,
        /// Which weights, where there are several: `fp16` takes `model.fp16.safetensors`; absent takes the plain ones.
        #[schema(pattern = "^[A-Za-z0-9_]{1,32}$", example = "fp16")]
        #[serde(default)]
        variant: Option<String>,
    },
    /// A file or folder on the workers' machines, below the folder that their operator allowed.
    Path {
        /// Relative to that folder.
        #[schema(
            min_length = 1,
            max_length = 1000,
            pattern = r"^[^\u0000-\u001f\u007f./\\][^\u0000-\u001f\u007f]*$",
            example = "flux/clay.safetensors"
        )]
        path: String,
    },
    /// Files that were uploaded in parts: one safetensors or GGUF file, that and `text_encoder.safetensors` and so on, or those of a diffusers folder.
    Upload {
        #[schema(min_items = 1, max_items = 200)]
        files: Vec<UploadedFile>,
    },
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadedFile {
    /// Within the model.
    #[schema(pattern = "^[A-Za-z0-9_][ -~]{0,999}$", example = "vae/config.json")]
    pub path: String,
    /// Id of the upload.
    pub upload: UploadId,
}

fn main_branch() -> String {
    "main".to_owned()
}

/// An import.
#[derive(Clone, Debug)]
pub struct Import {
    pub id: ImportId,
    pub job_id: JobId,
    pub name: String,
    pub source: Source,
    pub source_commit: Option<String>,
    /// Where parts are that are given apart.
    pub parts: Option<Parts>,
    /// The checkpoint that has the other parts.
    pub parts_of_model_id: Option<ModelId>,
    /// The model, once there is one and until it is deleted.
    pub output_model: Option<ModelRef>,
    pub report: Report,
    pub created_at: DateTime<Utc>,
}

/// What a worker gets to do.
pub struct ImportWork {
    pub id: ImportId,
    pub name: String,
    pub source: Source,
    /// Of a repository that an earlier attempt has looked at.
    pub source_commit: Option<String>,
    /// May be a secret.
    pub url_query: Option<String>,
    pub parts: Parts,
    /// May be secrets.
    pub part_queries: BTreeMap<Part, String>,
    pub parts_of: Option<ModelId>,
    /// What earlier attempts have brought.
    pub files: Vec<ModelFile>,
}

impl Source {
    /// Whether it is well formed. Whether anything is there, and may be had, the worker finds out. Errors: `Invalid`, about the field
    /// `named` of the request.
    fn check(&self, named: &str) -> Result<()> {
        let invalid = |field: &str, message: &str| Err(Error::invalid(format!("{named}.{field}"), message));
        match self {
            Self::Url { url, .. } if !is_url(url) => {
                invalid("url", "It begins with `https://`, has no user name or password, and at most 2048 characters.")
            }
            Self::Url { sha256: Some(sha256), .. } if !is_sha256(sha256) => {
                invalid("sha256", "It has 64 characters of 0-9 and a-f.")
            }
            Self::HuggingFace { repo, .. } if !is_repo(repo) => invalid("repo", "A repository is named `owner/name`."),
            Self::HuggingFace { revision, .. }
                if revision.len() > MAX_REVISION_BYTES || !is_word(revision, |byte| b"._/-".contains(&byte)) =>
            {
                invalid("revision", "A revision is the name of a branch or tag, or a commit.")
            }
            Self::HuggingFace { files: Some(files), .. }
                if files.is_empty() || files.len() > intake::MAX_FILES || files.iter().any(|file| !is_path(file)) =>
            {
                invalid("files", "They are 1 to 200 paths within the repository.")
            }
            Self::HuggingFace { variant: Some(variant), .. }
                if variant.is_empty()
                    || variant.len() > MAX_VARIANT_BYTES
                    || !variant.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') =>
            {
                invalid("variant", "It has 1 to 32 letters and digits, such as `fp16`.")
            }
            Self::Path { path } if !is_local_path(path) => invalid(
                "path",
                "It is a path relative to the folder that the operator allowed, such as `flux/clay.safetensors`.",
            ),
            Self::Upload { files }
                if files.is_empty()
                    || files.len() > intake::MAX_FILES
                    || files.iter().any(|file| !is_path(&file.path)) =>
            {
                invalid("files", "They are 1 to 200, each with its path within the model.")
            }
            _ => Ok(()),
        }
    }

    /// Whether it may be a part: not several files.
    fn may_be_one_file(&self) -> bool {
        match self {
            Self::HuggingFace { files, .. } => files.as_ref().is_none_or(|files| files.len() == 1),
            Self::Upload { files } => files.len() == 1,
            Self::Url { .. } | Self::Path { .. } => true,
        }
    }

    /// Uploads that it is made of.
    pub fn uploads(&self) -> impl Iterator<Item = UploadId> {
        let files = if let Self::Upload { files } = self { files.as_slice() } else { &[] };
        files.iter().map(|file| file.upload)
    }

    /// Without what must not be seen, and the query string that was taken off.
    fn without_query(mut self) -> (Self, Option<String>) {
        let mut query = None;
        if let Self::Url { url, .. } = &mut self
            && let Some((address, rest)) = url.split_once('?')
        {
            query = Some(rest.to_owned());
            *url = address.to_owned();
        }
        (self, query)
    }
}

fn is_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else { return false };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    (1..=255).contains(&host.len())
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:[]-".contains(&byte))
        && path.bytes().all(|byte| byte.is_ascii_graphic())
        && url.len() <= MAX_URL_BYTES
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_repo(repo: &str) -> bool {
    let name = |part: &str| part.len() <= MAX_NAME_BYTES && is_word(part, |byte| b"._-".contains(&byte));
    repo.split_once('/').is_some_and(|(owner, rest)| name(owner) && name(rest))
}

/// A letter or digit, then more of them or of `others`.
fn is_word(text: &str, others: impl Fn(u8) -> bool) -> bool {
    text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others(byte))
}

fn is_path(path: &str) -> bool {
    path.len() <= MAX_PATH_BYTES
        && path.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && path.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Below a folder of our own, in the letters of any language; whether it stays there is seen where it is opened.
fn is_local_path(path: &str) -> bool {
    (1..=MAX_PATH_BYTES).contains(&path.chars().count())
        && !path.starts_with(['.', '/', '\\'])
        && path.chars().all(|character| character >= ' ' && character != '\u{7f}')
}

/// Checks the request and writes the import with its queued job, or nothing.
/// Errors: `NotFound` for base or upload; `Invalid` naming the field; `Conflict` for a name that is taken, or parts that are missing.
pub async fn create(pool: &PgPool, storage: &Storage, request: ImportRequest) -> Result<Import> {
    model::check_name(&request.name)?;
    let parts = request.parts.unwrap_or_default();
    let sources = parts.each().map(|(part, source)| (format!("parts.{}", part.as_str()), source));
    for (field, source) in [("source".to_owned(), &request.source)].into_iter().chain(sources) {
        source.check(&field)?;
        if field != "source" && !source.may_be_one_file() {
            return Err(Error::invalid(field, "A part is one file; name the one."));
        }
        if let Source::Upload { files } = source {
            for file in files {
                let whole = upload::whole(pool, storage, file.upload).await;
                whole.map_err(|error| error.in_field(format!("{field}.files")))?;
            }
        }
    }
    // The denoiser's file is called after the model, and a part's after the part.
    if let Some((part, _)) = parts.each().find(|(part, _)| part.as_str() == request.name) {
        let message = format!("A model with a part `{}` of its own cannot be called so.", part.as_str());
        return Err(Error::invalid("name", message));
    }
    let checkpoint = async |field: &str, name: &Option<String>| match name {
        None => Ok(None),
        Some(name) => match model::get(pool, name).await.map_err(|error| error.in_field(field))? {
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
    let mut tx = begin(pool).await?;
    for (field, needed) in [("base", &base), ("parts_of", &donor)] {
        if let Some(needed) = needed {
            lock_base(&mut tx, needed).await.map_err(|error| error.in_field(field))?;
        }
    }
    model::check_name_is_free(&mut tx, &request.name).await?;
    model::check_name_is_not_awaited(&mut tx, &request.name).await?;
    let job_id = job::enqueue(&mut tx, JobKind::Import, 0, 0).await?;
    let created_at = sqlx::query_scalar!(
        "INSERT INTO imports (id, job_id, name, kind, base_model_id, source, url_query, parts, part_queries, parts_of_model_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING created_at",
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
    )
    .fetch_one(&mut *tx)
    .await?;
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
        report: Report::queued(0),
        created_at,
    })
}

/// A row as the queries below give it.
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
        Self {
            id: row.id,
            job_id: row.job_id,
            name: row.name,
            source: row.source.0,
            source_commit: row.source_commit,
            parts: row.parts.map(|parts| parts.0),
            parts_of_model_id: row.parts_of_model_id,
            output_model: row.output_id.zip(row.output_name).map(|(id, name)| ModelRef { id, name }),
            report: row.job.0.report(Vec::new()),
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
                      to_jsonb(j) || jsonb_build_object('artifacts',
                          (SELECT jsonb_agg(to_jsonb(a) ORDER BY a.position) FROM artifacts a WHERE a.job_id = j.id)) AS "job!: Json<JobRow>",
                      i.created_at
               FROM imports i JOIN jobs j ON j.id = i.job_id
                    LEFT JOIN models o ON o.id = i.output_model_id AND o.deleted_at IS NULL "# + $rest
            $(, $argument)*
        )
    };
}

/// Errors: `NotFound`.
pub async fn get(pool: &PgPool, id: ImportId) -> Result<Import> {
    let row = select_imports!("WHERE i.id = $1", id as ImportId).fetch_optional(pool).await?;
    row.map(Import::from).ok_or_else(|| Error::not_found("import", id))
}

/// Newest first.
pub async fn list(pool: &PgPool, page: &PageRequest) -> Result<Page<Import>> {
    let rows = select_imports!(
        "WHERE ($1::uuid IS NULL OR i.id < $1) ORDER BY i.id DESC LIMIT $2",
        page.before(),
        page.fetch_limit()
    )
    .fetch_all(pool)
    .await?;
    Ok(page.cut(rows.into_iter().map(Import::from).collect(), |import| import.id.into()))
}

/// The job of an import. Errors: `NotFound`.
pub async fn job_id(pool: &PgPool, id: ImportId) -> Result<JobId> {
    sqlx::query_scalar!(r#"SELECT job_id AS "job_id: JobId" FROM imports WHERE id = $1"#, id as ImportId)
        .fetch_optional(pool)
        .await?
        .ok_or_else(|| Error::not_found("import", id))
}

/// Ends it: at once while it is queued, within a beat while it runs. One that has ended stays as it is.
pub async fn cancel(pool: &PgPool, id: ImportId) -> Result<Import> {
    job::cancel(pool, job_id(pool, id).await?).await?;
    get(pool, id).await
}

/// What the claimed job is to do, and what it has already.
pub async fn load_work(pool: &PgPool, claim: &Claim) -> Result<ImportWork> {
    let row = bounded(
        sqlx::query!(
            r#"SELECT id AS "id: ImportId", name, source AS "source: Json<Source>", source_commit, url_query,
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

/// Remembers which commit a revision named, for all attempts to keep to: that of the source, or of a part's source, whose revision
/// it becomes. Errors: `LeaseLost`, and then nothing has changed.
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

/// Remembers a file that is in the bucket. Errors: `LeaseLost`, and then nothing has changed.
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

/// Makes a model of the files in `intake` and the job succeed, in one transaction that only the holder of the lease can make. A
/// name that was taken meanwhile gets a number. Afterwards the files are the model's: [`Intake::committed`].
/// Errors: `LeaseLost`, and then nothing has changed; those of [`Intake::finish`].
pub async fn finish(
    pool: &PgPool,
    storage: &Storage,
    claim: &Claim,
    intake: &Intake,
    license: Option<&str>,
) -> Result<ModelId> {
    let (model, sequence, spare) = bounded(commit(pool, claim, intake, license)).await?;
    if let Some(sequence) = sequence {
        event::announce(pool, claim.job, sequence).await;
    }
    storage.discard(spare).await;
    Ok(model)
}

/// The one fenced transaction: the model, the number of the event unless it was committed before, and keys that are spare now.
async fn commit(
    pool: &PgPool,
    claim: &Claim,
    intake: &Intake,
    license: Option<&str>,
) -> Result<(ModelId, Option<i64>, Vec<String>)> {
    let mut tx = begin(pool).await?;
    let import = sqlx::query!(
        r#"SELECT name, kind, base_model_id AS "base: ModelId", output_model_id AS "output: ModelId" FROM imports WHERE job_id = $1"#,
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
    let described = intake.describe(&import.name, base.as_deref(), kind).await?;
    let mut model = intake.model(&import.name, described, false);
    let spare = intake.share(&mut tx, &mut model).await?;
    for number in 2.. {
        match intake::insert(&mut tx, &model).await {
            Err(Error::Conflict { .. }) => model.name = format!("{}-{number}", import.name),
            result => {
                result?;
                break;
            }
        }
    }
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

/// Removes files of imports that ended without a model, however they ended. Cheap when there are none.
pub async fn discard_leftovers(pool: &PgPool, storage: &Storage) -> Result<()> {
    let left = bounded(
        sqlx::query_scalar!(
            r#"UPDATE imports i SET files = '[]' FROM (
             SELECT i.id, i.files FROM imports i JOIN jobs j ON j.id = i.job_id
             WHERE i.files <> '[]' AND j.status IN ('failed', 'canceled') FOR UPDATE OF i SKIP LOCKED) AS gone
           WHERE i.id = gone.id RETURNING gone.files AS "files!: Json<Vec<ModelFile>>""#
        )
        .fetch_all(pool),
    )
    .await?;
    storage.discard(left.into_iter().flat_map(|files| files.0).map(|file| file.storage_key)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(url: &str) -> Source {
        Source::Url { url: url.into(), sha256: None }
    }

    #[test]
    fn addresses_are_well_formed() {
        for good in ["https://example.com/a.safetensors", "http://[::1]:8080/x?y=z", "https://a.b"] {
            assert!(url(good).check("source").is_ok(), "{good}");
        }
        for bad in [
            "ftp://a/b",
            "https://",
            "https:///x",
            "https://user:pass@host/x",
            "https://h/a b",
            "file:///etc/passwd",
            "HTTPS://a",
        ] {
            assert!(url(bad).check("source").is_err(), "{bad}");
        }
        let repo = |repo: &str, revision: &str| Source::HuggingFace {
            repo: repo.into(),
            revision: revision.into(),
            files: None,
            variant: None,
        };
        assert!(repo("owner/name", "refs/pr/1").check("source").is_ok());
        for (name, revision) in [("name", "main"), ("../x", "main"), ("a/b/c", "main"), ("a/b", "../x"), ("a/b", "")] {
            assert!(repo(name, revision).check("source").is_err(), "{name} {revision}");
        }
    }

    #[test]
    fn query_strings_of_parts_are_kept_apart() {
        let parts = Parts { vae: Some(url("https://a.b/c?token=secret")), ..Parts::default() };
        let (shown, queries) = parts.without_queries();
        assert_eq!(shown, Parts { vae: Some(url("https://a.b/c")), ..Parts::default() });
        assert_eq!(queries, BTreeMap::from([(Part::Vae, "token=secret".to_owned())]));
    }

    #[test]
    fn a_query_string_is_kept_apart() {
        let (shown, query) = url("https://a.b/c?token=secret").without_query();
        assert_eq!((shown, query.as_deref()), (url("https://a.b/c"), Some("token=secret")));
        assert_eq!(url("https://a.b/c").without_query().1, None);
    }
}
