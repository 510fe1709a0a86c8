//! `/v1/models`: checkpoints and LoRAs.

use axum::Json;
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::generation::GRID;
use domain::import::{self, ImportRequest};
use domain::model::inspect::{self, Inspection};
use domain::model::intake::Intake;
use domain::model::parts::Part;
use domain::model::source::Source;
use domain::model::{self, Defaults, ModelKind};
use domain::storage::READ_TTL;
use domain::worker::{Residence, residences};
use domain::{Caller, ModelId, Page, PageRequest, TrainingId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::import::Import;
use super::job;
use crate::State;
use crate::extract::{self, Multipart, Path, Query, is_json, or_json};
use crate::limits::JSON_LIMIT;
use crate::problem::{Problem, Result};

/// Largest text part of a form, in bytes.
const TEXT_BYTES: u64 = 1024;

/// A model: a checkpoint to run, a LoRA to run on top of one, or a tiny decoder (`vae_approx`: TAESD, TAESDXL, TAEF1)
/// that makes previews for checkpoints of its family.
#[derive(Serialize, ToSchema)]
pub(crate) struct Model {
    pub id: ModelId,
    /// Name of the model, unique within the project.
    pub name: String,
    pub kind: ModelKind,
    /// Architecture. A LoRA or a decoder fits checkpoints of its family.
    #[schema(example = "flux")]
    pub family: String,
    /// Checkpoint that a LoRA was trained on, if known.
    pub base_model_id: Option<ModelId>,
    /// Training that made the model, if one did. It may have been deleted since.
    pub training_id: Option<TrainingId>,
    /// Word that triggers what a LoRA has learned.
    pub trigger_word: Option<String>,
    /// Defaults for parameters that a request leaves out. Checkpoints only.
    pub defaults: Option<Defaults>,
    /// Total size of the files, in bytes.
    #[schema(minimum = 0)]
    pub bytes: i64,
    /// SHA-256, lower-case hex. For a LoRA or a decoder of one file, of that file; otherwise over the lines `path NUL
    /// sha256 LF` in the order of the paths.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    /// Assumptions made when the files were read, and parts of them without effect. A job that uses the model lists
    /// them too.
    pub warnings: Vec<String>,
    /// Live workers that have the model loaded. Checkpoints only.
    pub resident_on: Vec<Residence>,
    /// Whether the model came with Pyrograph. Such a model cannot be deleted.
    pub built_in: bool,
    /// Whether every project may use it.
    pub shared: bool,
    pub created_at: DateTime<Utc>,
}

/// Changes of a model.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"shared": true}))]
pub(crate) struct ModelChanges {
    /// Whether every project may use it.
    pub shared: bool,
}

/// A model with its files.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelDetail {
    #[serde(flatten)]
    pub model: Model,
    pub files: Vec<ModelFile>,
    /// Where the model was imported from. Null if it was uploaded by form, trained or built in.
    pub source: Option<Source>,
    /// Commit of the Hugging Face repository that the source's revision resolved to.
    pub source_commit: Option<String>,
    /// Text of the licence that came with the files, if any.
    pub license: Option<String>,
    /// Presigned URL to download the weights of a LoRA, valid for one hour. Null for a checkpoint, which has several
    /// files.
    #[schema(format = "uri")]
    pub url: Option<String>,
}

/// One file of a model.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelFile {
    /// Path within the model's folder.
    #[schema(example = "vae/config.json")]
    pub path: String,
    #[schema(minimum = 0)]
    pub bytes: i64,
    /// SHA-256 of the bytes, lower-case hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    /// Presigned URL to download the bytes. Valid for one hour; needs no other credentials.
    #[schema(format = "uri")]
    pub url: String,
}

type ModelPage = Page<Model>;

/// The form: `name`, optionally `base`, `kind` or `parts_of`, and one or more files, each with its relative path as its
/// file name. Parts that the checkpoint's file lacks may follow under their own names.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes the form; its parts are read one by one")]
pub(crate) struct ModelForm {
    /// Name of the model to be made.
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$")]
    name: String,
    /// Name or identifier of the checkpoint that a LoRA or a preview decoder was made for.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    base: Option<String>,
    /// Kind that the files must be. If absent, any kind is accepted.
    #[schema(inline)]
    kind: Option<ModelKind>,
    /// One `.safetensors` file is a LoRA or a checkpoint, one `.gguf` file the denoiser of a checkpoint; several files
    /// with `model_index.json` are a checkpoint. A LoRA that PEFT saved brings its `adapter_config.json` along, which
    /// states its alpha.
    #[schema(value_type = Vec<String>, format = Binary, min_items = 1)]
    file: Vec<Vec<u8>>,
    /// The text encoder, if `file` has none: CLIP, or OpenCLIP for Stable Diffusion 2.
    #[schema(value_type = Option<String>, format = Binary)]
    text_encoder: Option<Vec<u8>>,
    /// The second text encoder, if `file` has none: T5 for FLUX.1, OpenCLIP for Stable Diffusion XL.
    #[schema(value_type = Option<String>, format = Binary)]
    text_encoder_2: Option<Vec<u8>>,
    /// The autoencoder (VAE), if `file` has none.
    #[schema(value_type = Option<String>, format = Binary)]
    vae: Option<Vec<u8>>,
    /// Name or identifier of a checkpoint that supplies the parts that are still missing.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    parts_of: Option<String>,
}

/// Filters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ModelQuery {
    /// Only models of this kind.
    #[param(inline)]
    pub kind: Option<ModelKind>,
    /// Only models of this family.
    #[param(pattern = "^[a-z0-9._-]{1,63}$")]
    pub family: Option<String>,
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    #[serde(default, deserialize_with = "extract::limit")]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^[A-Za-z0-9_-]{21}[AQgw]$")]
    pub cursor: Option<String>,
}

impl From<&model::Model> for Model {
    fn from(model: &model::Model) -> Self {
        Self {
            id: model.id,
            name: model.name.clone(),
            kind: model.kind,
            family: model.family.clone(),
            base_model_id: model.base_model_id,
            training_id: model.training_id,
            trigger_word: model.trigger_word.clone(),
            defaults: (model.kind == ModelKind::Checkpoint)
                .then(|| Defaults { size_multiple: model.defaults.size_multiple.max(GRID), ..model.defaults }),
            bytes: model.bytes,
            sha256: model.sha256.clone(),
            warnings: model.warnings.clone(),
            resident_on: Vec::new(),
            built_in: model.built_in,
            shared: model.shared,
            created_at: model.created_at,
        }
    }
}

/// Fills in which workers have the models loaded.
async fn locate(caller: &Caller, models: &mut [Model], state: &State) -> Result<()> {
    let digests: Vec<String> = models.iter().map(|model| model.sha256.clone()).collect();
    let found = residences(caller, &state.database, &digests).await?;
    for model in models {
        model.resident_on = found.get(&model.sha256).cloned().unwrap_or_default();
    }
    Ok(())
}

impl ModelDetail {
    async fn of(caller: &Caller, model: model::Model, state: &State) -> Result<Self> {
        let origin = model::origin(caller, &state.database, model.id).await?;
        let mut shown = Model::from(&model);
        locate(caller, std::slice::from_mut(&mut shown), state).await?;
        let mut files = Vec::with_capacity(model.files.len());
        for file in model.files {
            let url = state.storage.presign_get(&file.storage_key, READ_TTL).await?.into();
            files.push(ModelFile { path: file.path, bytes: file.bytes, sha256: file.sha256, url });
        }
        let weights = files.iter().find(|file| file.path != model::CONFIG_FILE);
        let url = weights.filter(|_| model.kind != ModelKind::Checkpoint).map(|file| file.url.clone());
        Ok(Self {
            model: shown,
            files,
            source: origin.source,
            source_commit: origin.source_commit,
            license: origin.license,
            url,
        })
    }
}

/// List models, newest first
#[utoipa::path(
    get, path = "/v1/models", tag = "models", operation_id = "list_models",
    security(("key" = ["read"])),
    params(ModelQuery),
    responses((status = 200, description = "One page of models", body = ModelPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<ModelQuery>) -> Result<Json<ModelPage>> {
    let page = PageRequest::parse(query.limit, query.cursor.as_deref());
    let mut models = model::list(&caller, &state.database, query.kind, query.family.as_deref(), page)
        .await?
        .map(|model| Model::from(&model));
    locate(&caller, &mut models.items, &state).await?;
    Ok(Json(models))
}

/// What a request to add a model has made.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Added {
    Model(Box<ModelDetail>),
    Import(Box<Import>),
}

/// Add a model
///
/// A form carries the model's files, and the model exists when the response arrives. A JSON body names a source from
/// which a worker fetches the files, and the response is an import to follow. Accepts safetensors, and GGUF for a
/// denoiser; a pickle is recognised by its content and refused. The family is detected from the names of the tensors. A
/// checkpoint's file without text encoders or autoencoder needs them as separate parts, or `parts_of`.
#[utoipa::path(
    post, path = "/v1/models", tag = "models", operation_id = "import_model",
    security(("key" = ["models"])),
    params(("Prefer" = Option<String>, Header,
            description = "`wait=N`, for JSON: seconds to wait for the end of the import", example = "wait=1")),
    request_body(content((ModelForm = "multipart/form-data"), (ImportRequest = "application/json"))),
    responses(
        (status = 202, description = "For JSON: the import", body = Import,
         headers(("Location" = String, description = "Path of the import"),
                 ("Preference-Applied" = Option<String>, description = "The wait that was granted"))),
        (status = 201, description = "For a form: the new model. For JSON: the import, if it ended within the wait",
         body = Added,
         headers(("Location" = String, description = "Path of the model or the import"),
                 ("Preference-Applied" = Option<String>, description = "The wait that was granted"))),
        (status = 404, description = "The base or the upload does not exist"),
        (status = 409, description = "The name is taken, or parts of the upload are missing"),
    ),
)]
pub(crate) async fn import(caller: Caller, state: State, mut request: Request) -> Result<Response> {
    if is_json(request.headers()) {
        DefaultBodyLimit::max(JSON_LIMIT).apply(&mut request);
        let headers = request.headers().clone();
        let extract::Json(request) = extract::Json::from_request(request, &state).await?;
        let mut import = import::create(&caller, &state.database, &state.storage, &state.outbound, request).await?;
        job::log_accepted(import.id);
        let waited = job::wait(&caller, &state, &headers, import.job_id).await?;
        if waited.is_some() {
            import = import::get(&caller, &state.database, import.id).await?;
        }
        return Ok(job::created(
            &super::import::path(import.id),
            &Added::Import(Import::of(import, &state).await?.into()),
            waited,
        ));
    }
    let form = Multipart::from_request(request, &state).await.map_err(or_json)?;
    import_form(caller, state, form).await
}

async fn import_form(caller: Caller, state: State, mut form: Multipart) -> Result<Response> {
    let mut import = Intake::new(&caller, &state.database, &state.storage);
    let about = match take_model(&caller, &state, &mut form, &mut import).await {
        Ok(about) => about,
        Err(problem) => {
            import.abandon().await;
            form.drain().await;
            return Err(problem);
        }
    };
    // The form was read to its end.
    let model = import.finish(&about.name, about.base.as_deref(), about.kind).await?;
    let location = format!("/v1/models/{}", model.id);
    let body = Added::Model(ModelDetail::of(&caller, model, &state).await?.into());
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response())
}

/// What a form says of its model, beside the files.
struct About {
    name: String,
    base: Option<String>,
    kind: Option<ModelKind>,
}

async fn take_model(caller: &Caller, state: &State, form: &mut Multipart, import: &mut Intake) -> Result<About> {
    let unprocessable = |field: &str, message: &str| Problem::field(StatusCode::UNPROCESSABLE_ENTITY, field, message);
    let (mut name, mut base, mut kind, mut parts_of) = (None, None, None, None);
    while let Some(mut part) = form.next().await? {
        match part.name() {
            "name" if name.is_none() => {
                let text = part.text(TEXT_BYTES).await?;
                // Gigabytes may follow, so a bad name is refused now.
                import.check_name(&text).await?;
                name = Some(text);
            }
            "base" if base.is_none() => base = Some(part.text(TEXT_BYTES).await?),
            "kind" if kind.is_none() => kind = Some(part.text(TEXT_BYTES).await?.parse()?),
            "parts_of" if parts_of.is_none() => parts_of = Some(part.text(TEXT_BYTES).await?),
            field @ ("file" | "text_encoder" | "text_encoder_2" | "vae") => {
                let component = Part::named(field);
                let path = part.file_name().ok_or_else(|| {
                    unprocessable(field, "The part has no file name; give it the path within the model.")
                })?;
                let path = component.map_or_else(|| path.clone(), |component| component.file_name(&path));
                let mut file = import.file(&path).await?;
                while let Some(bytes) = part.chunk().await? {
                    file.write(&bytes).await?;
                }
                file.finish().await?;
            }
            twice @ ("name" | "base" | "kind" | "parts_of") => return Err(unprocessable(twice, "It is there twice.")),
            other => {
                return Err(unprocessable(
                    other,
                    "There is no such part; send `name`, perhaps `base`, `kind` or `parts_of`, and `file` parts, or \
                     `text_encoder`, `text_encoder_2` and `vae`.",
                ));
            }
        }
    }
    let name = name.ok_or_else(|| unprocessable("name", "The part `name` is missing."))?;
    if let Some(donor) = parts_of {
        let donor = model::get(caller, &state.database, &donor).await.map_err(|error| error.in_field("parts_of"))?;
        import.borrow_parts(&donor).await?;
    }
    Ok(About { name, base, kind })
}

/// Get a model and the URLs of its files
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "models", operation_id = "get_model",
    security(("key" = ["read"])),
    params(("model" = String, Path, example = "ember", description = "Name or id of the model")),
    responses((status = 200, description = "The model", body = ModelDetail)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(name_or_id): Path<String>) -> Result<Json<ModelDetail>> {
    let model = model::get(&caller, &state.database, &name_or_id).await?;
    Ok(Json(ModelDetail::of(&caller, model, &state).await?))
}

/// Inspect a model's files
///
/// Reads the headers of the files. For a LoRA: the dialect, algorithms, ranks and layers, including layers that no
/// model here has. For a checkpoint: its networks with their sizes and data types. The weights themselves are not read.
#[utoipa::path(
    get, path = "/v1/models/{model}/inspect", tag = "models", operation_id = "inspect_model",
    security(("key" = ["read"])),
    params(("model" = String, Path, example = "ember", description = "Name or id of the model")),
    responses((status = 200, description = "The contents of the files", body = Inspection)),
)]
pub(crate) async fn inspect(caller: Caller, state: State, Path(name_or_id): Path<String>) -> Result<Json<Inspection>> {
    let model = model::get(&caller, &state.database, &name_or_id).await?;
    Ok(Json(inspect::inspect(&state.storage, &model).await?))
}

/// Share a model
///
/// A shared model can be used by every project, and is stored and loaded once for all. A name means the project's own
/// model first, then a shared one.
#[utoipa::path(
    patch, path = "/v1/models/{model}", tag = "models", operation_id = "change_model",
    security(("key" = ["admin"])),
    params(("model" = String, Path, example = "ember", description = "Name or id of the model")),
    request_body = ModelChanges,
    responses(
        (status = 200, description = "The changed model", body = ModelDetail),
        (status = 409, description = "The model came with Pyrograph and stays shared"),
    ),
)]
pub(crate) async fn change(
    caller: Caller,
    state: State,
    Path(name_or_id): Path<String>,
    extract::Json(changes): extract::Json<ModelChanges>,
) -> Result<Json<ModelDetail>> {
    let model = model::share(&caller, &state.database, &name_or_id, changes.shared).await?;
    state.catalog.forget();
    Ok(Json(ModelDetail::of(&caller, model, &state).await?))
}

/// Delete a model and its files
///
/// Its exports are deleted with it, and their jobs. The training or import that made it stays, without `output_model`.
#[utoipa::path(
    delete, path = "/v1/models/{model}", tag = "models", operation_id = "delete_model",
    security(("key" = ["models"])),
    params(("model" = String, Path, example = "ember", description = "Name or id of the model")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "The model came with Pyrograph, or unfinished jobs need it"),
    ),
)]
pub(crate) async fn delete(caller: Caller, state: State, Path(name_or_id): Path<String>) -> Result<StatusCode> {
    let deleted = model::delete(&caller, &state.database, &state.storage, &name_or_id).await;
    state.catalog.forget();
    deleted?;
    Ok(StatusCode::NO_CONTENT)
}
