//! `/v1/models`: checkpoints and LoRAs.

use axum::Json;
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
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
use crate::extract::{self, Multipart, Path, Query, is_json};
use crate::limits::JSON_LIMIT;
use crate::problem::{Problem, Result};

/// Most bytes of a text part.
const TEXT_BYTES: u64 = 1024;

/// Weights: a checkpoint to run, a LoRA to run on top of one, or a tiny decoder (`vae_approx`: TAESD, TAESDXL, TAEF1) that shows checkpoints of its
/// family at work.
#[derive(Serialize, ToSchema)]
pub(crate) struct Model {
    pub id: ModelId,
    /// Unique among the models.
    pub name: String,
    pub kind: ModelKind,
    /// Architecture; a LoRA or a decoder fits checkpoints of its family.
    #[schema(example = "flux")]
    pub family: String,
    /// Checkpoint that a LoRA was trained on, where known.
    pub base_model_id: Option<ModelId>,
    /// Training that made it, if one did.
    pub training_id: Option<TrainingId>,
    /// Word that calls what a LoRA learned.
    pub trigger_word: Option<String>,
    /// What a request may leave out; checkpoints only.
    pub defaults: Option<Defaults>,
    /// Sum over the files.
    #[schema(minimum = 0)]
    pub bytes: i64,
    /// Of the one file of a LoRA or a decoder; of a checkpoint, over the lines `path NUL sha256 LF` in the order of the paths.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    /// Live workers that have it loaded; checkpoints only.
    pub resident_on: Vec<Residence>,
    /// Came with Pyrograph and cannot be deleted.
    pub built_in: bool,
    pub created_at: DateTime<Utc>,
}

/// A model with its files.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelDetail {
    #[serde(flatten)]
    pub model: Model,
    pub files: Vec<ModelFile>,
    /// Where it was imported from; null for one that was sent, trained or built in.
    pub source: Option<Source>,
    /// Commit of the Hub's repository that the source's revision named.
    pub source_commit: Option<String>,
    /// Text of the licence that lay beside the files, if one did.
    pub license: Option<String>,
    /// Presigned: reads the file of a LoRA for one hour; null for a checkpoint, which has several.
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
    /// Lower-case hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    /// Presigned: reads the bytes for one hour, without any other credentials.
    #[schema(format = "uri")]
    pub url: String,
}

type ModelPage = Page<Model>;

/// The form: `name`, perhaps `base`, `kind` or `parts_of`, and one or more files, each with its relative path as its file name; the parts
/// that a checkpoint's file lacks may follow under their own names.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes the form; its parts are read one by one")]
pub(crate) struct ModelForm {
    /// Name that the model will have.
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$")]
    name: String,
    /// Name or id of the checkpoint that a LoRA or a decoder of previews was made for.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    base: Option<String>,
    /// What it must turn out to be; absent takes any.
    #[schema(inline)]
    kind: Option<ModelKind>,
    /// One `.safetensors` file is a LoRA or a checkpoint, one `.gguf` file a checkpoint's denoiser; several files with `model_index.json`
    /// are a checkpoint.
    #[schema(value_type = Vec<String>, format = Binary, min_items = 1)]
    file: Vec<Vec<u8>>,
    /// The text encoder, where `file` has none: CLIP, or OpenCLIP in Stable Diffusion 2.
    #[schema(value_type = Option<String>, format = Binary)]
    text_encoder: Option<Vec<u8>>,
    /// The second text encoder, where `file` has none: T5 in FLUX.1, OpenCLIP in Stable Diffusion XL.
    #[schema(value_type = Option<String>, format = Binary)]
    text_encoder_2: Option<Vec<u8>>,
    /// The autoencoder, where `file` has none.
    #[schema(value_type = Option<String>, format = Binary)]
    vae: Option<Vec<u8>>,
    /// Name or id of a checkpoint that has the parts which are still missing.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    parts_of: Option<String>,
}

/// Which models.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ModelQuery {
    /// Only models of this kind.
    #[param(inline)]
    pub kind: Option<ModelKind>,
    /// Only models of this family.
    #[param(pattern = "^[a-z0-9._-]{1,63}$", example = "flux")]
    pub family: Option<String>,
    /// Most items of the page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    pub limit: Option<i64>,
    /// `next_cursor` of the page before.
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
            defaults: (model.kind == ModelKind::Checkpoint).then_some(model.defaults),
            bytes: model.bytes,
            sha256: model.sha256.clone(),
            resident_on: Vec::new(),
            built_in: model.built_in,
            created_at: model.created_at,
        }
    }
}

/// Fills in where the models are loaded.
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
        let url = files.first().filter(|_| model.kind != ModelKind::Checkpoint).map(|file| file.url.clone());
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
    params(ModelQuery),
    responses((status = 200, description = "A page", body = ModelPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<ModelQuery>) -> Result<Json<ModelPage>> {
    let page = PageRequest::parse(query.limit, query.cursor.as_deref())?;
    let mut models = model::list(&caller, &state.database, query.kind, query.family.as_deref(), &page)
        .await?
        .map(|model| Model::from(&model));
    locate(&caller, &mut models.items, &state).await?;
    Ok(Json(models))
}

/// Bring a model in
///
/// As a form with its files, and then it is there at once; or as JSON that says where a worker shall get it from, and then the
/// answer is an import to follow. Safetensors, and GGUF for a denoiser; a pickle is refused by its content, whatever its name. The family
/// is found by the tensors' names. A checkpoint's file that lacks text encoders or autoencoder needs them beside it, or `parts_of`.
#[utoipa::path(
    post, path = "/v1/models", tag = "models", operation_id = "import_model",
    request_body(content((ModelForm = "multipart/form-data"), (ImportRequest = "application/json"))),
    responses(
        (status = 202, description = "Of JSON: the import is queued", body = Import,
         headers(("Location" = String, description = "Path of the import"))),
        (status = 201, description = "Of a form: the model is there", body = ModelDetail,
         headers(("Location" = String, description = "Path of the model"))),
        (status = 404, description = "The base or the upload is not there"),
        (status = 409, description = "The name is taken, or parts of the upload are missing"),
    ),
)]
pub(crate) async fn import(caller: Caller, state: State, mut request: Request) -> Result<Response> {
    if is_json(request.headers()) {
        DefaultBodyLimit::max(JSON_LIMIT).apply(&mut request);
        let extract::Json(request) = extract::Json::from_request(request, &state).await?;
        let import = import::create(&caller, &state.database, &state.storage, request).await?;
        return Ok(job::created(&super::import::path(import.id), &Import::of(import, &state.storage).await?, None));
    }
    let form = Multipart::from_request(request, &state).await?;
    import_form(caller, state, form).await
}

async fn import_form(caller: Caller, state: State, mut form: Multipart) -> Result<Response> {
    let mut import = Intake::new(&caller, &state.database, &state.storage);
    match take_model(&caller, &state, &mut form, &mut import).await {
        Ok(model) => {
            let location = format!("/v1/models/{}", model.id);
            let body = ModelDetail::of(&caller, model, &state).await?;
            Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response())
        }
        Err(problem) => {
            import.abandon().await;
            form.drain().await;
            Err(problem)
        }
    }
}

async fn take_model(caller: &Caller, state: &State, form: &mut Multipart, import: &mut Intake) -> Result<model::Model> {
    let unprocessable = |field: &str, message: &str| Problem::field(StatusCode::UNPROCESSABLE_ENTITY, field, message);
    let (mut name, mut base, mut kind, mut parts_of) = (None, None, None, None);
    while let Some(mut part) = form.next().await? {
        match part.name() {
            "name" if name.is_none() => {
                let text = part.text(TEXT_BYTES).await?;
                // Gigabytes may follow: a name that will not do is better refused now.
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
                    "There is no such part; send `name`, perhaps `base`, `kind` or `parts_of`, and `file` parts, or `text_encoder`, `text_encoder_2` and `vae`.",
                ));
            }
        }
    }
    let name = name.ok_or_else(|| unprocessable("name", "The part `name` is missing."))?;
    if let Some(donor) = parts_of {
        let donor = model::get(caller, &state.database, &donor).await.map_err(|error| error.in_field("parts_of"))?;
        import.borrow_parts(&donor).await?;
    }
    Ok(import.finish(&name, base.as_deref(), kind).await?)
}

/// Look at a model and get URLs of its files
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "models", operation_id = "get_model",
    params(("model" = String, Path, description = "Name or id of the model")),
    responses((status = 200, description = "The model", body = ModelDetail)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(name_or_id): Path<String>) -> Result<Json<ModelDetail>> {
    let model = model::get(&caller, &state.database, &name_or_id).await?;
    Ok(Json(ModelDetail::of(&caller, model, &state).await?))
}

/// Look into a model's files
///
/// What their headers say: of a LoRA the dialect, algorithms, ranks and layers, and those that no model here has; of a checkpoint its
/// networks with their sizes and types. Nothing of the weights is read.
#[utoipa::path(
    get, path = "/v1/models/{model}/inspect", tag = "models", operation_id = "inspect_model",
    params(("model" = String, Path, description = "Name or id of the model")),
    responses((status = 200, description = "What is in it", body = Inspection)),
)]
pub(crate) async fn inspect(caller: Caller, state: State, Path(name_or_id): Path<String>) -> Result<Json<Inspection>> {
    let model = model::get(&caller, &state.database, &name_or_id).await?;
    Ok(Json(inspect::inspect(&state.storage, &model).await?))
}

/// Delete a model and its files
#[utoipa::path(
    delete, path = "/v1/models/{model}", tag = "models", operation_id = "delete_model",
    params(("model" = String, Path, description = "Name or id of the model")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "It came with Pyrograph, or unfinished jobs need it"),
    ),
)]
pub(crate) async fn delete(caller: Caller, state: State, Path(name_or_id): Path<String>) -> Result<StatusCode> {
    let deleted = model::delete(&caller, &state.database, &state.storage, &name_or_id).await;
    state.catalog.forget();
    deleted?;
    Ok(StatusCode::NO_CONTENT)
}
