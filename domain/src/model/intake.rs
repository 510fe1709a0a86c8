//! How a model's files are added: streamed to the bucket one by one under ids that are not known yet, hashed and
//! checked on the way, and made visible together by one insert, or removed. Not here: HTTP, folders on the user's disk.

use std::collections::{BTreeMap, BTreeSet};

use formats::adapter::{CHANGES_NOTHING, CONFIG_FILE, Contents, MAX_CONFIG_BYTES};
use formats::detect::Denoiser;
use formats::folder::{self, Folder, INDEX, SCHEDULER};
use formats::{Configs, Family, Header, Part, Sniffer, Traits, detect, is_root_weights, json, weights};
use memory::Networks;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use sqlx::types::Json;

use super::described::{Described, is_trigger_word};
use super::file_path::{check_path, media_type, within};
use super::parts::Layout;
use super::{Defaults, Model, ModelFile, ModelKind, check_name, check_name_is_free, family, reserve_name, vae_approx};
use crate::database::now;
use crate::deposit::Deposit;
use crate::job::Claim;
use crate::limits::{MAX_FILE_BYTES, MAX_FILES};
use crate::storage::{ObjectWriter, StorageKey};
use crate::weights_gate::invalid;
use crate::{
    Caller, Database, Error, JobId, KeyId, ModelId, Principal, ProjectId, Result, Scopes, Storage, audit, bounded,
    deletion, quota, weights_gate,
};

/// Largest file that is not weights, in bytes (a tokenizer's vocabulary is the largest of them).
pub const MAX_TEXT_BYTES: usize = 32 * 1024 * 1024;
/// Largest JSON file that is read, in bytes. Larger ones (vocabularies) contain nothing that is needed here.
const CONFIG_BYTES: usize = 256 * 1024;
/// Most alpha tensors that are read, each by a request to the bucket. Other LoRAs get no warning.
const MAX_ALPHAS: usize = 2048;
/// Largest shard index that is read, in bytes.
const INDEX_BYTES: usize = 8 * 1024 * 1024;
const FIELD: &str = "file";

/// A model that is being added. If dropped before [`Intake::finish`], it removes what it stored.
pub struct Intake {
    pool: PgPool,
    storage: Storage,
    project: ProjectId,
    /// Who adds it; `None` for a worker and for the built-in model.
    caller: Option<Caller>,
    /// The attempt at an import that fetches the files, whose keys begin with it; `None` for files that were sent.
    attempt: Option<Claim>,
    model: ModelId,
    files: Vec<ModelFile>,
    /// The small JSON files, which describe the model.
    configs: Configs,
    weights: BTreeMap<String, Header>,
    /// Objects to remove unless the intake succeeds.
    deposit: Deposit,
    /// Keys that belong to other models.
    borrowed: Vec<String>,
}

/// A file that is being added.
pub struct FileIntake<'a> {
    intake: &'a mut Intake,
    path: String,
    /// What its sender calls it, for messages.
    called: String,
    key: String,
    writer: ObjectWriter,
    bytes: u64,
    content: Content,
}

enum Content {
    Weights(Sniffer),
    Text(Vec<u8>),
}

impl Intake {
    pub fn new(caller: &Caller, database: &Database, storage: &Storage) -> Self {
        let intake = Self::of_project(database.pool(caller).clone(), storage.clone(), caller.project());
        Self { caller: Some(caller.clone()), ..intake }
    }

    /// For an attempt at an import: the model will belong to `project`.
    pub fn of_attempt(pool: PgPool, storage: Storage, project: ProjectId, claim: &Claim) -> Self {
        Self { attempt: Some(*claim), ..Self::of_project(pool, storage, project) }
    }

    /// The model will belong to `project`.
    pub(crate) fn of_project(pool: PgPool, storage: Storage, project: ProjectId) -> Self {
        Self {
            pool,
            deposit: Deposit::new(&storage),
            storage,
            project,
            caller: None,
            attempt: None,
            model: ModelId::new(),
            files: Vec::new(),
            configs: BTreeMap::new(),
            weights: BTreeMap::new(),
            borrowed: Vec::new(),
        }
    }

    /// Checks whether a model may have this name, as far as possible before the end.
    pub async fn check_name(&self, name: &str) -> Result<()> {
        check_name(name)?;
        reserve_name(&mut *self.pool.acquire().await?, self.project, name).await
    }

    /// Opens the next file. Errors: `Invalid` for a path that is not plain and relative, `Unsupported` for a kind of
    /// file that no model needs, `TooLarge` for one file too many.
    pub async fn file(&mut self, path: &str) -> Result<FileIntake<'_>> {
        let called = path;
        let path = &*within(path);
        check_path(path).map_err(|message| Error::invalid(FIELD, message))?;
        if self.files.len() >= MAX_FILES {
            return Err(Error::too_large(FIELD, format!("A model has at most {MAX_FILES} files.")));
        }
        if self.files.iter().any(|file| file.path == path) {
            return Err(Error::invalid(FIELD, format!("`{path}` was sent twice.")));
        }
        let Some(media_type) = media_type(path) else {
            return Err(Error::unsupported(
                FIELD,
                format!(
                    "`{path}` is not taken: a model's folder is made of .safetensors, .gguf, .json, .txt, .md and \
                         .model files. Pickles (.bin, .pt, .ckpt) are never read."
                ),
            ));
        };
        let is_weights = [".safetensors", ".gguf"].iter().any(|end| path.ends_with(end));
        let content = if is_weights { Content::Weights(Sniffer::default()) } else { Content::Text(Vec::new()) };
        let key = match &self.attempt {
            None => StorageKey::ModelFile { model: self.model, path: path.to_owned() },
            Some(Claim { subject, epoch, .. }) => {
                StorageKey::ImportedFile { import: (*subject).into(), epoch: *epoch, path: path.to_owned() }
            }
        }
        .to_string();
        self.deposit.add(&key);
        let writer = self.storage.writer(&key, media_type).await?;
        let (path, called) = (path.to_owned(), called.to_owned());
        Ok(FileIntake { intake: self, path, called, key, writer, bytes: 0, content })
    }

    /// Adds a file that is in the bucket already, without its bytes: one of this import's earlier attempt or, if
    /// `borrowed`, one of another model. Errors: `NotFound` if the object is not there.
    pub async fn adopt(&mut self, file: ModelFile, borrowed: bool) -> Result<()> {
        if [".safetensors", ".gguf"].iter().any(|end| file.path.ends_with(end)) {
            let header = weights_gate::stored(&self.storage, &file.storage_key, file.bytes.unsigned_abs()).await?;
            self.weights.insert(file.path.clone(), header);
        } else if file.path.ends_with(".json") && is_read(&file.path, file.bytes.unsigned_abs()) {
            let text = self.storage.get(&file.storage_key).await?;
            self.configs.insert(file.path.clone(), read_json(&file.path, &text)?);
        } else {
            self.storage.head(&file.storage_key).await?;
        }
        if borrowed {
            self.borrowed.push(file.storage_key.clone());
        }
        self.files.push(file);
        Ok(())
    }

    /// Takes the parts that a checkpoint in files lacks from another checkpoint, `donor`. The bytes are stored only
    /// once. It also takes the donor's scheduler and defaults, if both are for the same kind of denoiser. Errors:
    /// `Invalid`.
    pub async fn borrow_parts(&mut self, donor: &Model) -> Result<()> {
        let refused = |message: String| Err(Error::invalid("parts_of", message));
        let layout = if self.configs.contains_key(INDEX) { None } else { Layout::of(&self.weights, &self.configs)? };
        let Some(Layout { denoiser: Denoiser { family, guidance_embedded }, missing, .. }) = layout else {
            return match self.weights.values().next() {
                Some(header) if !self.configs.contains_key(INDEX) && !is_whole(header) => {
                    Err(invalid(detect::other_file(header)))
                }
                _ => refused("Only the file of a checkpoint lacks parts.".to_owned()),
            };
        };
        if donor.kind != ModelKind::Checkpoint || donor.family != family.as_str() {
            return refused(format!("`{}` is no checkpoint of {}.", donor.name, family.title()));
        }
        let mut taken: Vec<ModelFile> = Vec::new();
        for part in missing {
            taken.extend(part_files(donor, part));
        }
        if self.guided_of(donor).await? == Some(guidance_embedded) || !family.matches_flow() {
            let kept = [SCHEDULER, "pyrograph.json"];
            taken.extend(donor.files.iter().filter(|file| kept.contains(&file.path.as_str())).cloned());
        }
        for file in taken {
            if self.files.iter().all(|there| there.path != file.path) {
                self.adopt(file, true).await?;
            }
        }
        Ok(())
    }

    /// Whether the denoiser of a FLUX.1 takes a guidance scale.
    async fn guided_of(&self, model: &Model) -> Result<Option<bool>> {
        if let Some(config) = model.files.iter().find(|file| file.path == "transformer/config.json") {
            let config = read_json(&config.path, &self.storage.get(&config.storage_key).await?)?;
            return Ok(config.get("guidance_embeds").and_then(Value::as_bool));
        }
        let Some(main) = main_file(model) else { return Ok(None) };
        let header = weights_gate::stored(&self.storage, &main.storage_key, main.bytes.unsigned_abs()).await?;
        Ok(Some(header.has_anywhere("guidance_in.")))
    }

    /// The file is about to get an owner, which removes it when necessary. To be called before the owner's row is
    /// written: if the reply to that is lost, the row may name the object.
    pub fn keep(&mut self, file: &ModelFile) {
        self.deposit.release(&file.storage_key);
    }

    /// Makes the model visible. One file alone is a LoRA or a preview decoder, for which `base` may name the checkpoint
    /// it was made for, or a whole checkpoint; several files are a checkpoint, by its `model_index.json` or by the
    /// denoiser in one of them. The insert runs to its end even if the caller stops waiting.
    pub async fn finish(self, name: &str, base: Option<&str>, kind: Option<ModelKind>) -> Result<Model> {
        let described = match check_name(name) {
            Ok(()) => self.describe(name, base, kind).await,
            Err(error) => Err(error),
        };
        match described {
            Ok(described) => self.insert(name, described, false).await,
            Err(error) => {
                self.abandon().await;
                Err(error)
            }
        }
    }

    /// Removes the stored objects.
    pub async fn abandon(self) {
        self.deposit.discard().await;
    }

    /// What the files are. Errors: `Invalid` if they are no model, or not of the required `kind`.
    pub(crate) async fn describe(&self, name: &str, base: Option<&str>, kind: Option<ModelKind>) -> Result<Described> {
        let described = self.read(name, base).await?;
        if kind.is_some_and(|kind| kind != described.kind) {
            return Err(Error::invalid("kind", format!("The files are {}.", described.kind.title())));
        }
        Ok(described)
    }

    async fn read(&self, name: &str, base: Option<&str>) -> Result<Described> {
        let Some(index) = self.configs.get(INDEX) else {
            if let Some(layout) = Layout::of(&self.weights, &self.configs)? {
                let networks = layout.check(&self.weights, &self.configs)?;
                let traits = layout.traits(&self.configs);
                return checkpoint(layout.denoiser.family, traits, networks, &self.configs, base, layout.notes);
            }
            let [(path, header)] = &self.weights.iter().collect::<Vec<_>>()[..] else {
                return Err(Error::internal("a LoRA of several files"));
            };
            let others = self.files.iter().filter(|file| file.path != **path);
            if let Some(other) = others.clone().find(|file| file.path != CONFIG_FILE || others.clone().count() > 1) {
                return Err(Error::invalid(
                    FIELD,
                    format!(
                        "`{}` is not taken: a model is the one file `{path}`, to which a LoRA may add its \
                         {CONFIG_FILE}, or a folder with its model_index.json.",
                        other.path
                    ),
                ));
            }
            let base = match base {
                None => None,
                Some(name) => {
                    Some(super::find(&self.pool, self.project, name).await.map_err(|error| error.in_field("base"))?)
                }
            };
            if let Some(base) = base.as_ref().filter(|base| base.kind != ModelKind::Checkpoint) {
                let message = format!("`{}` is {}; a base is a checkpoint.", base.name, base.kind.title());
                return Err(Error::invalid("base", message));
            }
            if let Some(latent_channels) = vae_approx::latent_channels(header).filter(|_| self.files.len() == 1) {
                return vae_approx::describe(latent_channels, name, base.as_ref());
            }
            if !detect::is_adapter(header) {
                return Err(invalid(detect::other_file(header)));
            }
            let mut about = family::of_lora(header, &self.configs)?;
            if self.has_zero_alphas(path, header).await? {
                about.warnings.push(CHANGES_NOTHING.to_owned());
            }
            let family = about.base_family().as_str();
            if let Some(base) = &base {
                check_base(base, family)?;
            }
            let trigger_word =
                header.metadata.get("modelspec.trigger_phrase").filter(|word| is_trigger_word(word)).cloned();
            return Ok(Described {
                kind: ModelKind::Lora,
                family: family.to_owned(),
                base: base.map(|base| base.id),
                defaults: None,
                networks: None,
                trigger_word,
                warnings: about.warnings,
            });
        };
        let family = detect::family_of_folder(index, &self.configs)
            .map_err(|reason| Error::invalid(FIELD, format!("model_index.json: {reason}.")))?;
        let paths: BTreeSet<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        let folder = Folder { paths: &paths, configs: &self.configs, weights: &self.weights };
        let (networks, notes) = folder.check(family).map_err(|reason| Error::invalid(FIELD, reason))?;
        checkpoint(family, detect::traits_of_folder(family, &self.configs), networks, &self.configs, base, notes)
    }

    /// Whether the LoRA `path` has no effect, since its alpha tensors are 0. Usually the first one is not, and no more
    /// are read.
    async fn has_zero_alphas(&self, path: &str, header: &Header) -> Result<bool> {
        let config = self.configs.get(CONFIG_FILE).map(ToString::to_string);
        let contents = Contents::read(header, config.as_deref()).map_err(invalid)?;
        let Some(alphas) = contents.deciding_alphas().filter(|alphas| (1..=MAX_ALPHAS).contains(&alphas.len())) else {
            return Ok(false);
        };
        let Some(file) = self.files.iter().find(|file| file.path == path) else { return Ok(false) };
        for alpha in alphas {
            let Some(tensor) = header.tensors.get(alpha) else { return Ok(false) };
            let place = tensor.start..tensor.start + tensor.length as u64;
            let bytes = self.storage.get_range(&file.storage_key, place).await?;
            // A zero of every type.
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The new row, of the added files.
    pub(crate) fn model(&self, name: &str, described: Described, built_in: bool) -> Model {
        Model {
            id: self.model,
            name: name.to_owned(),
            kind: described.kind,
            family: described.family,
            base_model_id: described.base,
            bytes: self.files.iter().map(|file| file.bytes).sum(),
            sha256: match (described.kind, self.files.as_slice()) {
                (ModelKind::Lora | ModelKind::VaeApprox, [file]) => file.sha256.clone(),
                _ => folder_sha256(&self.files),
            },
            files: self.files.clone(),
            trigger_word: described.trigger_word,
            training_id: None,
            defaults: described.defaults.unwrap_or_default(),
            warnings: described.warnings,
            built_in,
            shared: built_in,
            project: self.project,
            created_at: now(),
        }
    }

    pub(super) async fn insert(self, name: &str, mut described: Described, built_in: bool) -> Result<Model> {
        let networks = described.networks.take();
        let mut model = self.model(name, described, built_in);
        let sound = self.sound_files().await?;
        let Self { pool, storage, caller, deposit, borrowed, .. } = self;
        let (model, spare) = deposit
            .commit(&pool, move |connection| {
                Box::pin(async move {
                    if !built_in {
                        quota::left(connection, model.project).await?.take_bytes(model.bytes)?;
                    }
                    // A new version brings its model, also if a job will make one of that name.
                    if built_in {
                        check_name_is_free(connection, model.project, &model.name).await?;
                    } else {
                        reserve_name(connection, model.project, &model.name).await?;
                    }
                    let spare = share(connection, &mut model, &sound, &borrowed).await?;
                    insert(connection, &model, networks.as_ref()).await?;
                    if let Some(caller) = &caller {
                        let details = serde_json::json!({ "name": model.name });
                        audit::record(connection, caller, "model.create", model.id, details).await?;
                    }
                    Ok((model, spare))
                })
            })
            .await?;
        deletion::now(&pool, &storage, spare).await;
        Ok(model)
    }

    /// Keys under which other models hold the same bytes, and at which these really are. Where the object is missing,
    /// it is stored again, from the file that was just added: the other models need it, too. To be called before the
    /// transaction, which must not wait for the bucket.
    pub(crate) async fn sound_files(&self) -> Result<BTreeSet<String>> {
        let hashes: Vec<String> = self.files.iter().map(|file| file.sha256.clone()).collect();
        let held = bounded(async { held_files(&mut *self.pool.acquire().await?, None, &hashes).await }).await?;
        let mut sound = BTreeSet::new();
        for file in &self.files {
            let Some(keys) = held.get(&file.sha256) else { continue };
            for key in keys.iter().filter(|key| **key != file.storage_key) {
                if self.storage.holds(key, file.bytes).await? || self.repair(file, key).await {
                    sound.insert(key.clone());
                }
            }
        }
        Ok(sound)
    }

    async fn repair(&self, file: &ModelFile, key: &str) -> bool {
        match self.storage.copy(&file.storage_key, key).await {
            Ok(()) => {
                tracing::warn!(key, path = file.path, "an object of a model was missing; it is stored again");
                true
            }
            Err(error) => {
                tracing::warn!(key, path = file.path, %error, "an object of a model is missing");
                false
            }
        }
    }

    /// Replaces files by those that other models hold, as [`share`].
    pub(crate) async fn share(
        &self,
        connection: &mut sqlx::PgConnection,
        model: &mut Model,
        sound: &BTreeSet<String>,
    ) -> Result<Vec<String>> {
        share(connection, model, sound, &self.borrowed).await
    }
}

/// Replaces each file of `model` that another model holds by that one, if it is among the `sound` ones: the same bytes
/// are stored once for all projects. Every project still uploads or downloads them itself first. Asks for the deletion
/// of the objects that are no longer needed and returns their keys; until the commit, the other models cannot be
/// deleted. Errors: `Internal` if a borrowed file was deleted with its model; another attempt stores its own.
async fn share(
    connection: &mut sqlx::PgConnection,
    model: &mut Model,
    sound: &BTreeSet<String>,
    borrowed: &[String],
) -> Result<Vec<String>> {
    let hashes: Vec<String> = model.files.iter().map(|file| file.sha256.clone()).collect();
    let held = held_files(connection, None, &hashes).await?;
    let mut spare = Vec::new();
    for file in &mut model.files {
        let keys = held.get(&file.sha256).map_or(&[][..], Vec::as_slice);
        if keys.contains(&file.storage_key) {
            continue;
        }
        match keys.iter().find(|key| sound.contains(*key)) {
            Some(key) => {
                let own = std::mem::replace(&mut file.storage_key, key.clone());
                spare.extend((!borrowed.contains(&own)).then_some(own));
            }
            None if borrowed.contains(&file.storage_key) => {
                return Err(Error::internal(format!("the model that held `{}` was deleted meanwhile", file.path)));
            }
            None => {}
        }
    }
    deletion::ask(connection, &spare).await?;
    Ok(spare)
}

/// Storage keys by sha256, of those of `hashes` that a model of this project, or of any, holds. Such a model cannot be
/// deleted before the transaction ends.
async fn held_files(
    connection: &mut sqlx::PgConnection,
    project: Option<ProjectId>,
    hashes: &[String],
) -> Result<BTreeMap<String, Vec<String>>> {
    let models = sqlx::query_scalar!(
        r#"SELECT files AS "files: Json<Vec<ModelFile>>" FROM models m
           WHERE deleted_at IS NULL AND ($2::uuid IS NULL OR project_id = $2) AND EXISTS (
             SELECT 1 FROM jsonb_array_elements(m.files) file WHERE file->>'sha256' = ANY($1)) FOR KEY SHARE OF m"#,
        hashes,
        project as Option<ProjectId>,
    )
    .fetch_all(connection)
    .await?;
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in models.into_iter().flat_map(|files| files.0).filter(|file| hashes.contains(&file.sha256)) {
        let keys = held.entry(file.sha256).or_default();
        if !keys.contains(&file.storage_key) {
            keys.push(file.storage_key);
        }
    }
    Ok(held)
}

/// For workers: where a model of the project holds a file with these bytes, if one does and the object is there. Files
/// of other projects do not count, since knowing a digest does not mean having the bytes.
pub async fn held_file(
    pool: &PgPool,
    storage: &Storage,
    project: ProjectId,
    sha256: &str,
) -> Result<Option<ModelFile>> {
    let held = bounded(async { held_files(&mut *pool.acquire().await?, Some(project), &[sha256.to_owned()]).await });
    for storage_key in held.await?.remove(sha256).unwrap_or_default() {
        match storage.head(&storage_key).await {
            Ok(head) => {
                let (path, sha256, bytes) = (String::new(), sha256.to_owned(), head.bytes as i64);
                return Ok(Some(ModelFile { path, storage_key, sha256, bytes }));
            }
            // The file is brought again, which repairs the other model.
            Err(Error::NotFound { .. }) => tracing::warn!(storage_key, "an object of a model is missing"),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

impl FileIntake<'_> {
    /// The same file, by another name in messages than its path within the model.
    #[must_use]
    pub fn called(self, name: &str) -> Self {
        Self { called: name.to_owned(), ..self }
    }

    /// Adds the next bytes. Errors: those of the safetensors gate as soon as the header is complete, `TooLarge`.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > MAX_FILE_BYTES {
            return Err(Error::too_large(FIELD, format!("`{}` is larger than 64 GiB.", self.called)));
        }
        match &mut self.content {
            Content::Weights(sniffer) => {
                sniffer.push(bytes).map_err(|refusal| weights_gate::refused(refusal, &self.called))?;
            }
            Content::Text(text) if text.len() + bytes.len() > MAX_TEXT_BYTES => {
                return Err(Error::too_large(FIELD, format!("`{}` is larger than 32 MiB.", self.called)));
            }
            Content::Text(text) => text.extend_from_slice(bytes),
        }
        self.writer.write(bytes).await
    }

    /// Ends the file and returns its description.
    pub async fn finish(self) -> Result<ModelFile> {
        let Self { intake, path, called, key, writer, bytes, content } = self;
        match content {
            Content::Weights(sniffer) => {
                let header = sniffer.finish(bytes).map_err(|refusal| weights_gate::refused(refusal, &called))?;
                intake.weights.insert(path.clone(), header);
            }
            Content::Text(text) if path.ends_with(".json") => {
                let value = read_json(&path, &text)?;
                if path == CONFIG_FILE && text.len() as u64 > MAX_CONFIG_BYTES {
                    let message = format!("`{path}` is larger than {MAX_CONFIG_BYTES} bytes.");
                    return Err(Error::too_large(FIELD, message));
                }
                if is_read(&path, text.len() as u64) {
                    intake.configs.insert(path.clone(), value);
                }
            }
            Content::Text(_) => {}
        }
        let written = writer.finish().await?;
        let file = ModelFile { path, storage_key: key, sha256: written.sha256, bytes: written.bytes as i64 };
        intake.files.push(file.clone());
        Ok(file)
    }
}

/// The files of a part, under their names in another model: its folder and its tokenizer's, its own file, or the file
/// that holds all parts.
fn part_files(model: &Model, part: Part) -> Vec<ModelFile> {
    let folder = format!("{}/", part.as_str());
    if model.files.iter().any(|file| file.path.starts_with(&folder)) {
        let tokenizer = part.tokenizer().map(|name| format!("{name}/"));
        let wanted = |path: &str| path.starts_with(&folder) || tokenizer.as_ref().is_some_and(|t| path.starts_with(t));
        return model.files.iter().filter(|file| wanted(&file.path)).cloned().collect();
    }
    let own = ["safetensors", "gguf"].map(|end| format!("{}.{end}", part.as_str()));
    let file = model.files.iter().find(|file| own.contains(&file.path)).or_else(|| main_file(model));
    file.map(|file| ModelFile { path: part.file_name(&file.path), ..file.clone() }).into_iter().collect()
}

/// The file with the denoiser, of a checkpoint in files.
fn main_file(model: &Model) -> Option<&ModelFile> {
    let roots = || model.files.iter().filter(|file| is_root_weights(&file.path));
    roots().find(|file| roots().count() == 1 || Part::of_file(&file.path).is_none())
}

pub(super) fn read_json(path: &str, text: &[u8]) -> Result<Value> {
    json::read(text).map_err(|error| Error::invalid(FIELD, format!("`{path}` is not JSON: {error}.")))
}

/// Whether a file without a denoiser is a model by itself: a LoRA, or a preview decoder.
fn is_whole(header: &Header) -> bool {
    detect::is_adapter(header) || vae_approx::latent_channels(header).is_some()
}

/// Whether the value of a JSON file is kept.
fn is_read(path: &str, bytes: u64) -> bool {
    let limit = match path {
        CONFIG_FILE => MAX_CONFIG_BYTES,
        path if weights::is_index(path) => INDEX_BYTES as u64,
        _ => CONFIG_BYTES as u64,
    };
    bytes <= limit
}

fn checkpoint(
    family: Family,
    traits: Traits,
    networks: BTreeMap<Part, Value>,
    configs: &Configs,
    base: Option<&str>,
    mut warnings: Vec<String>,
) -> Result<Described> {
    if base.is_some() {
        return Err(Error::invalid("base", "A checkpoint has no base: it stands alone."));
    }
    let own = folder::scheduler(family, configs).map_err(|reason| Error::invalid(FIELD, reason))?;
    let defaults = family::defaults(family, traits, configs)?;
    let defaults = Defaults { scheduler_required: own.is_some(), ..defaults };
    warnings.extend(own.map(|reason| {
        let others = family.schedulers();
        format!("Requests have to name a `scheduler` ({others}), since the checkpoint's own does not run: {reason}.")
    }));
    Ok(Described {
        kind: ModelKind::Checkpoint,
        family: family.as_str().to_owned(),
        base: None,
        defaults: Some(defaults),
        networks: Some(Networks { configs: networks, text_tokens: family::text_tokens(family, traits, configs) }),
        trigger_word: None,
        warnings,
    })
}

/// Writes the row of a model. Errors: `Conflict` for a name that its project has.
async fn insert(connection: &mut sqlx::PgConnection, model: &Model, networks: Option<&Networks>) -> Result<()> {
    let inserted = sqlx::query!(
        "INSERT INTO models (id, name, kind, family, base_model_id, files, bytes, sha256, trigger_word, training_id, defaults, built_in, created_at, project_id, warnings,
                             networks, shared)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
         ON CONFLICT (project_id, name) WHERE deleted_at IS NULL DO NOTHING",
        model.id as ModelId,
        model.name,
        model.kind.as_str(),
        model.family,
        model.base_model_id as Option<ModelId>,
        Json(&model.files) as _,
        model.bytes,
        model.sha256,
        model.trigger_word,
        model.training_id as Option<crate::TrainingId>,
        Json(&model.defaults) as _,
        model.built_in,
        model.created_at,
        model.project as ProjectId,
        Json(&model.warnings) as _,
        networks.map(Json) as _,
        model.shared,
    )
    .execute(connection)
    .await?;
    if inserted.rows_affected() == 0 {
        return Err(Error::conflict_in(
            "name",
            format!("There is a model named `{}` already; choose another name or delete that one.", model.name),
        ));
    }
    Ok(())
}

/// Writes the row of a model that the job of `claim` has made, and its entry in the audit log. Its name was reserved;
/// if a built-in model of a newer version has it all the same, the model gets a number ([`super::renamed`] says so).
pub(crate) async fn insert_made(
    connection: &mut sqlx::PgConnection,
    claim: &Claim,
    model: &mut Model,
    networks: Option<&Networks>,
) -> Result<()> {
    let reserved = model.name.clone();
    let mut number = 1;
    while let Err(error) = insert(connection, model, networks).await {
        let Error::Conflict { .. } = error else { return Err(error) };
        number += 1;
        model.name = format!("{reserved}-{number}");
    }
    record_made(connection, claim, model).await
}

/// Writes down the model that a job has made, with who asked for the job and the id of the training or import.
async fn record_made(connection: &mut sqlx::PgConnection, claim: &Claim, model: &Model) -> Result<()> {
    let asker = sqlx::query!(r#"SELECT key_id AS "key: KeyId", account FROM jobs WHERE id = $1"#, claim.job as JobId)
        .fetch_one(&mut *connection)
        .await?;
    let principal = match (asker.key, asker.account) {
        (Some(key), _) => Principal::Key(key),
        (None, Some(account)) => Principal::Hub(account.into()),
        (None, None) => Principal::Anonymous,
    };
    let caller = Caller::new(model.project, principal, Scopes::of(&[]));
    let details = serde_json::json!({ "name": model.name, claim.kind.as_str(): claim.subject });
    audit::record(connection, &caller, "model.create", model.id, details).await
}

/// A LoRA and its base are of one family.
fn check_base(base: &Model, family: &str) -> Result<()> {
    if base.family != family {
        return Err(Error::invalid(
            "base",
            format!("The LoRA is of the family {family}, and `{}` of {}.", base.name, base.family),
        ));
    }
    Ok(())
}

/// SHA-256 over the lines `path NUL sha256 LF` in the order of the paths.
pub(super) fn folder_sha256(files: &[ModelFile]) -> String {
    let mut lines: Vec<String> = files.iter().map(|file| format!("{}\0{}\n", file.path, file.sha256)).collect();
    lines.sort_unstable();
    hex::encode(Sha256::digest(lines.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_digest_in_any_order() {
        let file =
            |path: &str| ModelFile { path: path.into(), storage_key: String::new(), sha256: "0".repeat(64), bytes: 1 };
        let (a, b) = (folder_sha256(&[file("a"), file("b")]), folder_sha256(&[file("b"), file("a")]));
        assert_eq!(a, b);
        assert_ne!(a, folder_sha256(&[file("a")]));
    }
}
