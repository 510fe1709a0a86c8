//! Models: checkpoints to run, LoRAs to run on top of them, and decoders that make their previews. A row never changes,
//! except by its deletion and by being shared with all projects. A name means the project's own model first, then a
//! shared one. Here: the rows, how a name or id finds one, and the rule for deleting. How files are added
//! is in `model::intake`; what weights must look like, in `weights_gate`.

mod abandoned;
pub mod built_in;
pub(crate) mod described;
mod family;
mod file_path;
pub mod inspect;
pub mod intake;
pub mod parts;
pub mod source;
pub mod upload;
pub(crate) mod vae_approx;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
pub use formats::Defaults;
use formats::Family;
pub use formats::adapter::{CONFIG_FILE, MAX_CONFIG_BYTES, config_beside, is_peft};
use memory::Networks;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

pub use self::abandoned::abandoned;
use self::source::Source;
use crate::faults::Faults;
use crate::{
    Caller, Database, Error, ModelId, Page, PageRequest, ProjectId, Result, Storage, TrainingId, audit, begin, bounded,
    deletion, named,
};

/// Most characters of a name.
pub const MAX_NAME_CHARS: usize = 63;
/// Key of the advisory lock that a deletion takes.
const DELETION_LOCK: i64 = 0x6d6f_6465_6c73;
/// Most characters of a family's name, in a filter.
const MAX_FAMILY_CHARS: usize = 63;

/// Kind of a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// A whole pipeline: text encoders, denoiser, VAE.
    Checkpoint,
    /// Low-rank weights to apply to a checkpoint of the same family.
    Lora,
    /// A tiny decoder (TAESD) that makes previews for checkpoints of its family.
    VaeApprox,
}

impl ModelKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Lora => "lora",
            Self::VaeApprox => "vae_approx",
        }
    }

    /// The name in a sentence.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Checkpoint => "a checkpoint",
            Self::Lora => "a LoRA",
            Self::VaeApprox => "a decoder of previews",
        }
    }
}

impl std::str::FromStr for ModelKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "checkpoint" => Ok(Self::Checkpoint),
            "lora" => Ok(Self::Lora),
            "vae_approx" => Ok(Self::VaeApprox),
            other => Err(Error::invalid(
                "kind",
                format!("`{other}` is not a kind of model; use `checkpoint`, `lora` or `vae_approx`."),
            )),
        }
    }
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Path within the model's folder.
    pub path: String,
    pub storage_key: String,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
    pub bytes: i64,
}

/// A model that is not deleted.
#[derive(Clone, Debug)]
pub struct Model {
    pub id: ModelId,
    pub name: String,
    pub kind: ModelKind,
    pub family: String,
    pub base_model_id: Option<ModelId>,
    pub files: Vec<ModelFile>,
    pub bytes: i64,
    pub sha256: String,
    pub trigger_word: Option<String>,
    pub training_id: Option<TrainingId>,
    pub defaults: Defaults,
    /// Assumptions made when the files were read, and parts of them without effect.
    pub warnings: Vec<String>,
    pub built_in: bool,
    /// Whether every project may use it.
    pub shared: bool,
    pub project: ProjectId,
    pub created_at: DateTime<Utc>,
}

impl Model {
    /// Errors: `Internal` for a family that this version does not know.
    pub fn family(&self) -> Result<Family> {
        self.family.parse().map_err(Error::internal)
    }
}

/// A reference to a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(title = "ModelRef")]
pub struct ModelRef {
    pub id: ModelId,
    pub name: String,
}

/// What a worker needs to download and use a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFiles {
    pub id: ModelId,
    pub name: String,
    pub family: String,
    pub sha256: String,
    pub files: Vec<ModelFile>,
    /// As in [`Model`].
    pub warnings: Vec<String>,
    /// Configs of a checkpoint's networks; `None` if they are not known yet.
    pub networks: Option<Networks>,
}

/// A warning about the model `name`, as a job that uses it lists it.
pub fn job_warning(name: &str, warning: &str) -> String {
    format!("{name}: {warning}")
}

/// The warnings of a job: those of the models that it uses, then those that its engine `reported`, each once.
pub fn job_warnings<'a>(models: impl IntoIterator<Item = &'a ModelFiles>, reported: Vec<String>) -> Vec<String> {
    let of_model = |model: &'a ModelFiles| model.warnings.iter().map(|warning| job_warning(&model.name, warning));
    let mut seen = HashSet::new();
    let all = models.into_iter().flat_map(of_model).chain(reported);
    all.filter(|warning| seen.insert(warning.clone())).collect()
}

/// A row of `models`, before its texts become types.
struct Row {
    id: ModelId,
    name: String,
    kind: String,
    family: String,
    base_model_id: Option<ModelId>,
    files: Json<Vec<ModelFile>>,
    bytes: i64,
    sha256: String,
    trigger_word: Option<String>,
    training_id: Option<TrainingId>,
    defaults: Json<Defaults>,
    warnings: Json<Vec<String>>,
    built_in: bool,
    shared: bool,
    project: ProjectId,
    created_at: DateTime<Utc>,
}

impl TryFrom<Row> for Model {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: row.id,
            name: row.name,
            kind: row.kind.parse().map_err(Error::internal)?,
            family: row.family,
            base_model_id: row.base_model_id,
            files: row.files.0,
            bytes: row.bytes,
            sha256: row.sha256,
            trigger_word: row.trigger_word,
            training_id: row.training_id,
            defaults: row.defaults.0,
            warnings: row.warnings.0,
            built_in: row.built_in,
            shared: row.shared,
            project: row.project,
            created_at: row.created_at,
        })
    }
}

macro_rules! select_models {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"SELECT id AS "id: ModelId", name, kind, family, base_model_id AS "base_model_id: ModelId",
                      files AS "files: Json<Vec<ModelFile>>", bytes, sha256, trigger_word, training_id AS "training_id: TrainingId",
                      defaults AS "defaults: Json<Defaults>", warnings AS "warnings: Json<Vec<String>>", built_in,
                      shared, project_id AS "project: ProjectId", created_at
               FROM models WHERE deleted_at IS NULL "# + $rest
            $(, $argument)*
        )
    };
}

impl Model {
    pub fn reference(&self) -> ModelRef {
        ModelRef { id: self.id, name: self.name.clone() }
    }
}

const fn is_family_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
}

/// Finds a model by id or by name. Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, name_or_id: &str) -> Result<Model> {
    find(database.pool(caller), caller.project(), name_or_id).await
}

/// The model with this id or name that a project has, or else one that is shared. Errors: `NotFound`.
async fn find(pool: &PgPool, project: ProjectId, name_or_id: &str) -> Result<Model> {
    let id = name_or_id.parse::<Uuid>().ok();
    select_models!(
        "AND (project_id = $1 OR shared) AND (id = $2 OR name = $3)
         ORDER BY project_id = $1 DESC, built_in DESC, id LIMIT 1",
        project as ProjectId,
        id,
        name_or_id
    )
    .fetch_optional(pool)
    .await?
    .ok_or_else(|| Error::not_found("model", name_or_id))?
    .try_into()
}

/// Ids of the models with this id or name; if none has the name today, of those that had it.
pub(crate) async fn ids(pool: &PgPool, project: ProjectId, name_or_id: &str) -> Result<Vec<Uuid>> {
    let id = name_or_id.parse::<Uuid>().ok();
    let ids = sqlx::query_scalar!(
        "SELECT id FROM models
         WHERE (project_id = $1 OR shared) AND (id = $2 OR name = $3 AND (deleted_at IS NULL OR NOT EXISTS (
           SELECT FROM models m WHERE (m.project_id = $1 OR m.shared) AND m.name = $3 AND m.deleted_at IS NULL)))",
        project as ProjectId,
        id,
        name_or_id,
    );
    Ok(ids.fetch_all(pool).await?)
}

/// For workers: the model that a row of their work names. Errors: `NotFound`.
pub async fn by_id(pool: &PgPool, id: ModelId) -> Result<Model> {
    select_models!("AND id = $1", id as ModelId)
        .fetch_optional(pool)
        .await?
        .ok_or_else(|| Error::not_found("model", id))?
        .try_into()
}

/// The model of this kind whose SHA-256, or that of one of its files, begins with `digest`; of several, the one named
/// `name`, otherwise the newest.
pub(crate) async fn by_digest(
    caller: &Caller,
    database: &Database,
    kind: ModelKind,
    digest: &str,
    name: &str,
) -> Result<Option<ModelId>> {
    let found = sqlx::query_scalar!(
        r#"SELECT id AS "id: ModelId" FROM models
           WHERE deleted_at IS NULL AND (project_id = $1 OR shared) AND kind = $2
             AND (starts_with(sha256, $3)
                  OR EXISTS (SELECT FROM jsonb_array_elements(files) file WHERE starts_with(file->>'sha256', $3)))
           ORDER BY starts_with(sha256, $3) DESC, project_id = $1 DESC, name = $4 DESC, id DESC LIMIT 1"#,
        caller.project() as ProjectId,
        kind.as_str(),
        digest,
        name,
    );
    Ok(found.fetch_optional(database.pool(caller)).await?)
}

/// Lists the models of the project and those that are shared, newest first, optionally of one kind or one family.
/// Errors: those of `page`, with `Invalid` for a text that cannot be a family.
pub async fn list(
    caller: &Caller,
    database: &Database,
    kind: Option<ModelKind>,
    family: Option<&str>,
    page: Result<PageRequest>,
) -> Result<Page<Model>> {
    let mut faults = Faults::default();
    let page = faults.take(page);
    if let Some(family) = family
        && (family.is_empty() || family.len() > MAX_FAMILY_CHARS || !family.bytes().all(is_family_byte))
    {
        let message = "A family is named by a-z, 0-9, `.`, `_` and `-`, such as `flux`.";
        faults.take(Err::<(), _>(Error::invalid("family", message)));
    }
    faults.check()?;
    let rows = select_models!(
        "AND (project_id = $1 OR shared) AND ($2::text IS NULL OR kind = $2) AND ($3::text IS NULL OR family = $3)
         AND ($4::uuid IS NULL OR id < $4) ORDER BY id DESC LIMIT $5",
        caller.project() as ProjectId,
        kind.map(ModelKind::as_str),
        family,
        page.before(),
        page.fetch_limit(),
    )
    .fetch_all(database.pool(caller))
    .await?;
    let models = rows.into_iter().map(Model::try_from).collect::<Result<Vec<_>>>()?;
    Ok(page.cut(models, |model| model.id.into()))
}

/// Where an imported model came from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub source: Option<Source>,
    pub source_commit: Option<String>,
    /// Text of the licence.
    pub license: Option<String>,
}

/// Empty for a model that was not imported. Errors: `NotFound`.
pub async fn origin(caller: &Caller, database: &Database, id: ModelId) -> Result<Origin> {
    let row = sqlx::query!(
        r#"SELECT source AS "source: Json<Source>", source_commit, license FROM models
           WHERE id = $1 AND (project_id = $2 OR shared)"#,
        id as ModelId,
        caller.project() as ProjectId,
    )
    .fetch_optional(database.pool(caller))
    .await?
    .ok_or_else(|| Error::not_found("model", id))?;
    Ok(Origin { source: row.source.map(|source| source.0), source_commit: row.source_commit, license: row.license })
}

/// Makes the model invisible and deletes its bytes, except files that another model also holds. Errors: `NotFound`;
/// `Forbidden` for a model that another project shares; `Conflict` for a built-in model, and while unfinished jobs need
/// it. LoRAs that name a checkpoint as their base do not prevent its deletion: a LoRA outlives its base.
pub async fn delete(caller: &Caller, database: &Database, storage: &Storage, name_or_id: &str) -> Result<()> {
    let model = get(caller, database, name_or_id).await?;
    if model.built_in {
        return Err(Error::conflict(format!("`{}` came with Pyrograph and cannot be deleted.", model.name)));
    }
    check_owner(caller, &model)?;
    let mut tx = begin(database.pool(caller)).await?;
    lock_deletions(&mut tx).await?;
    // The lock keeps new generations and trainings from naming the model until this is decided.
    let locked =
        sqlx::query!("SELECT id FROM models WHERE id = $1 AND deleted_at IS NULL FOR UPDATE", model.id as ModelId)
            .fetch_optional(&mut *tx)
            .await?;
    if locked.is_none() {
        return Err(Error::not_found("model", name_or_id));
    }
    let needed = sqlx::query_scalar!(
        r#"SELECT EXISTS (
             SELECT FROM job_needs n JOIN jobs j ON j.id = n.job_id
             WHERE n.model_id = $1 AND (j.status = 'queued' OR j.status = 'running')) AS "needed!""#,
        model.id as ModelId,
    )
    .fetch_one(&mut *tx)
    .await?;
    if needed {
        return Err(Error::conflict(format!(
            "`{}` is needed by jobs that are queued or running; cancel them or wait.",
            model.name
        )));
    }
    sqlx::query!("UPDATE models SET deleted_at = clock_timestamp() WHERE id = $1", model.id as ModelId)
        .execute(&mut *tx)
        .await?;
    // A trained LoRA's file is also the artifact of its training; both are deleted together.
    let mut keys: Vec<String> = model.files.into_iter().map(|file| file.storage_key).collect();
    sqlx::query!(
        "UPDATE jobs SET deleted_at = clock_timestamp() FROM exports e
         WHERE e.job_id = jobs.id AND e.model_id = $1 AND jobs.deleted_at IS NULL",
        model.id as ModelId
    )
    .execute(&mut *tx)
    .await?;
    keys.extend(
        sqlx::query_scalar!(
            "DELETE FROM artifacts a USING exports e WHERE a.job_id = e.job_id AND e.model_id = $1 RETURNING a.storage_key",
            model.id as ModelId
        )
        .fetch_all(&mut *tx)
        .await?,
    );
    sqlx::query!(
        "DELETE FROM artifacts a USING trainings t WHERE a.job_id = t.job_id AND t.output_model_id = $1",
        model.id as ModelId
    )
    .execute(&mut *tx)
    .await?;
    // Other models may share a file.
    let named = named::named(&mut tx, &keys).await?;
    keys.retain(|key| !named.contains(key));
    deletion::ask(&mut tx, &keys).await?;
    audit::record(&mut tx, caller, "model.delete", model.id, json!({ "name": model.name })).await?;
    tx.commit().await?;
    deletion::now(database.pool(caller), storage, keys).await;
    Ok(())
}

/// One deletion at a time, until the transaction ends: of two models that share a file, each would leave the file to
/// the other.
pub(crate) async fn lock_deletions(connection: &mut sqlx::PgConnection) -> Result<()> {
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", DELETION_LOCK).execute(connection).await?;
    Ok(())
}

/// Shares a model with all projects, or no longer. Jobs that use it already run on. Errors: `NotFound`; `Forbidden` for
/// a model of another project; `Conflict` for a built-in model, which stays shared.
pub async fn share(caller: &Caller, database: &Database, name_or_id: &str, shared: bool) -> Result<Model> {
    let model = get(caller, database, name_or_id).await?;
    check_owner(caller, &model)?;
    if model.built_in && !shared {
        return Err(Error::conflict(format!("`{}` came with Pyrograph and stays shared.", model.name)));
    }
    let mut tx = begin(database.pool(caller)).await?;
    sqlx::query!("UPDATE models SET shared = $2 WHERE id = $1", model.id as ModelId, shared).execute(&mut *tx).await?;
    let details = json!({ "name": model.name, "shared": shared });
    audit::record(&mut tx, caller, "model.share", model.id, details).await?;
    tx.commit().await?;
    Ok(Model { shared, ..model })
}

/// Errors: `Forbidden`.
fn check_owner(caller: &Caller, model: &Model) -> Result<()> {
    if model.project == caller.project() {
        return Ok(());
    }
    let message = format!("`{}` belongs to another project, which shares it; only that one can change it.", model.name);
    Err(Error::Forbidden { message })
}

/// A cache of models by name or id: creating a generation then costs one round trip. A row never changes, except by its
/// deletion and its sharing, and the statement that inserts a generation checks for that.
#[derive(Clone, Debug)]
pub struct Catalog {
    database: Database,
    known: Arc<RwLock<HashMap<(ProjectId, String), Remembered>>>,
}

/// A model, and when it was read.
type Remembered = (Instant, Arc<Model>);

/// How long a model is cached.
const REMEMBERED: Duration = Duration::from_secs(2);
/// Most names that are cached at once.
const MOST_REMEMBERED: usize = 1024;

impl Catalog {
    pub fn new(database: Database) -> Self {
        Self { database, known: Arc::default() }
    }

    /// As [`get`].
    pub async fn get(&self, caller: &Caller, name_or_id: &str) -> Result<Arc<Model>> {
        let key = (caller.project(), name_or_id.to_owned());
        if let Ok(known) = self.known.read()
            && let Some((since, model)) = known.get(&key)
            && since.elapsed() < REMEMBERED
        {
            return Ok(model.clone());
        }
        let model = Arc::new(get(caller, &self.database, name_or_id).await?);
        if let Ok(mut known) = self.known.write() {
            if known.len() >= MOST_REMEMBERED {
                known.clear();
            }
            known.insert(key, (Instant::now(), model.clone()));
        }
        Ok(model)
    }

    /// As [`Self::get`], by any name that people use for a model: also that of its file, with folders and extension, in
    /// other letters than a model's name may have. The first match wins.
    pub async fn get_named(&self, caller: &Caller, name: &str) -> Result<Arc<Model>> {
        let mut error = None;
        for name in spellings(name) {
            match self.get(caller, &name).await {
                Err(missing @ Error::NotFound { .. }) => error = error.or(Some(missing)),
                other => return other,
            }
        }
        Err(error.unwrap_or_else(|| Error::not_found("model", name)))
    }

    /// Clears the cache, after a deletion.
    pub fn forget(&self) {
        if let Ok(mut known) = self.known.write() {
            known.clear();
        }
    }
}

/// The files of models that a job runs with, deleted or not: the lock at creation and the rule for deleting keep the
/// files.
pub(crate) async fn files(
    connection: &mut sqlx::PgConnection,
    ids: &[ModelId],
) -> Result<HashMap<ModelId, ModelFiles>> {
    let uuids: Vec<Uuid> = ids.iter().map(|id| (*id).into()).collect();
    let rows = sqlx::query!(
        r#"SELECT id AS "id: ModelId", name, family, sha256, files AS "files: Json<Vec<ModelFile>>",
                  warnings AS "warnings: Json<Vec<String>>", networks AS "networks: Json<Networks>"
           FROM models WHERE id = ANY($1)"#,
        &uuids,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            (
                row.id,
                ModelFiles {
                    id: row.id,
                    name: row.name,
                    family: row.family,
                    sha256: row.sha256,
                    files: row.files.0,
                    warnings: row.warnings.0,
                    networks: row.networks.map(|networks| networks.0),
                },
            )
        })
        .collect())
}

/// Records the networks of a checkpoint that was imported before they were stored.
pub async fn learn_networks(pool: &PgPool, id: ModelId, networks: &Networks) -> Result<()> {
    let learned = sqlx::query!(
        "UPDATE models SET networks = $2 WHERE id = $1 AND networks IS NULL",
        id as ModelId,
        Json(networks) as _
    );
    bounded(learned.execute(pool)).await?;
    Ok(())
}

/// Extensions of files with weights, which are often written with a model's name.
pub const WEIGHTS: [&str; 5] = [".safetensors", ".sft", ".gguf", ".ckpt", ".pt"];

/// A name as it is written, without folders and extension, and in letters that [`check_name`] allows.
pub fn spellings(name: &str) -> Vec<String> {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let stem = WEIGHTS.iter().find_map(|extension| file.strip_suffix(extension)).unwrap_or(file);
    let plain = stem.to_ascii_lowercase().replace(|c: char| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-'), "-");
    let mut spellings = vec![name.to_owned(), stem.to_owned(), plain];
    spellings.retain(|name| !name.is_empty() && name.len() <= MAX_NAME_CHARS);
    spellings.dedup();
    spellings
}

/// Checks a name for a new model: 1 to 63 characters of `a-z`, `0-9`, `.`, `_`, `-`, the first a letter or digit. A
/// name that reads as an id would hide the model with that id.
pub fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let shaped = name.len() <= MAX_NAME_CHARS
        && name.bytes().next().is_some_and(allowed)
        && name.bytes().all(|byte| allowed(byte) || matches!(byte, b'.' | b'_' | b'-'));
    if !shaped {
        return Err(Error::invalid(
            "name",
            "A name has 1 to 63 characters of a-z, 0-9, `.`, `_` and `-`, and begins with a letter or digit.",
        ));
    }
    if name.parse::<Uuid>().is_ok() {
        return Err(Error::invalid("name", "A name may not look like an id (a UUID)."));
    }
    Ok(())
}

/// Errors with `Conflict` if a model of that name exists in the project.
pub(crate) async fn check_name_is_free(
    connection: &mut sqlx::PgConnection,
    project: ProjectId,
    name: &str,
) -> Result<()> {
    let taken = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM models WHERE project_id = $1 AND name = $2 AND deleted_at IS NULL) AS "taken!""#,
        project as ProjectId,
        name,
    )
    .fetch_one(connection)
    .await?;
    if taken {
        return Err(Error::conflict_in(
            "name",
            format!("There is a model named `{name}` already; choose another name or delete that one."),
        ));
    }
    Ok(())
}

/// Takes the name until the transaction ends: all that make a model of that name, or ask for one, come through here.
/// Errors with `Conflict` if a model of the project has it, or if a queued or running job will make one.
pub(crate) async fn reserve_name(connection: &mut sqlx::PgConnection, project: ProjectId, name: &str) -> Result<()> {
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(format!("{project} {name}")).into();
    let lock = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", lock).execute(&mut *connection).await?;
    check_name_is_free(connection, project, name).await?;
    let awaited = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM jobs WHERE project_id = $1 AND makes = $2 AND status IN ('queued', 'running')) AS "awaited!""#,
        project as ProjectId,
        name,
    )
    .fetch_one(connection)
    .await?;
    if awaited {
        return Err(Error::conflict_in(
            "name",
            format!("A job that is queued or running will make `{name}`; choose another name or cancel that one."),
        ));
    }
    Ok(())
}

/// The warning of a job whose model `made` has another name than was asked for.
pub(crate) fn renamed(asked: &str, made: Option<&str>) -> Option<String> {
    let made = made.filter(|made| *made != asked)?;
    Some(format!("name: `{asked}` was taken meanwhile by a model that comes with Pyrograph; the model is `{made}`."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_lists_each_warning_once_under_the_name_of_its_model() {
        let model = |name: &str, warnings: &[&str]| ModelFiles {
            id: ModelId::new(),
            name: name.into(),
            family: "sd15".into(),
            sha256: String::new(),
            files: Vec::new(),
            networks: None,
            warnings: warnings.iter().map(|warning| (*warning).to_owned()).collect(),
        };
        let models = [model("dev", &["no scheduler"]), model("ink", &["no alpha"]), model("ink", &["no alpha"])];
        let reported = vec!["ink: no alpha".to_owned(), "ink: 2 layers are not in this model".to_owned()];
        let listed = job_warnings(&models, reported);
        assert_eq!(listed, ["dev: no scheduler", "ink: no alpha", "ink: 2 layers are not in this model"]);
    }

    #[test]
    fn a_model_has_several_spellings() {
        for (name, expected) in [
            ("ink", &["ink"][..]),
            ("ink.safetensors", &["ink.safetensors", "ink"]),
            ("styles/Ink V2.safetensors", &["styles/Ink V2.safetensors", "Ink V2", "ink-v2"]),
            (r"styles\ink", &[r"styles\ink", "ink"]),
            ("", &[]),
            (&"a".repeat(64), &[]),
        ] {
            assert_eq!(spellings(name), expected, "{name}");
        }
    }

    #[test]
    fn names_are_plain() {
        for good in ["ember", "0", "my-style_2.1", &"a".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "Ember", "-x", "a b", "a/b", "é", &"a".repeat(64), "01930000-0000-7000-8000-000000000000"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
