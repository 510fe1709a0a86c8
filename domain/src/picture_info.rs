//! Reads from a picture's file how it was made, as a request for a generation. Here: which models, LoRAs and inputs of
//! the caller's project the record means. How its values become those of a request is in `translate`; the records
//! themselves, in `requests::recipe`.

mod translate;

use std::sync::Arc;

use bytes::Bytes;
use formats::Guidance;
use requests::PromptSyntax;
use requests::recipe::{self, Found, NamedLora, NamedModel, Program, Unmapped};
use uuid::Uuid;

use self::translate::Translation;
use crate::generation::{DEFAULT_MODEL, GenerationRequest, LoraRequest, MAX_LORAS};
use crate::model::{self, Catalog, Model, ModelKind};
use crate::{Caller, Database, Error, ProjectId, Result};

/// A request that makes the picture, and what could not be translated into it.
#[derive(Debug)]
pub struct PictureInfo {
    /// The program that recorded how the picture was made.
    pub program: Option<Program>,
    /// `None` if the picture has no record.
    pub request: Option<GenerationRequest>,
    pub unmapped: Vec<Unmapped>,
}

/// Reads a picture. `model` is a checkpoint to translate for, instead of the one in the record. Errors: `Unsupported`
/// if the file is not a picture; `Unknown` or `Invalid` for `model`. A record that cannot be understood is no error.
pub async fn read(
    caller: &Caller,
    database: &Database,
    catalog: &Catalog,
    file: Bytes,
    model: Option<&str>,
) -> Result<PictureInfo> {
    let read = move || Some(recipe::read(&formats::picture::texts(&file)?));
    let found = tokio::task::spawn_blocking(read).await.map_err(Error::internal)?;
    let Found { program, mut settings, mut unmapped } =
        found.ok_or_else(|| Error::unsupported("image", "The file is not a PNG, JPEG or WebP picture."))?;
    let library = Library { caller, database, catalog };
    let chosen = match model {
        Some(name) => Some(library.checkpoint(name).await?),
        None => None,
    };
    if program.is_none() {
        return Ok(PictureInfo { program, request: None, unmapped });
    }
    // What a chosen model replaces is no loss.
    let mut replaced = Vec::new();
    let notes = if chosen.is_some() { &mut replaced } else { &mut unmapped };
    let recorded = match settings.model.take() {
        Some(recorded) => library.find(ModelKind::Checkpoint, &recorded, "model", notes).await?,
        None => None,
    };
    let (model, is_known) = match chosen.or_else(|| recorded.clone()) {
        Some(model) => (model, true),
        None => (library.checkpoint(DEFAULT_MODEL).await?, false),
    };
    if let Some(scale) = settings.guidance_scale.take() {
        match recorded.as_ref().unwrap_or(&model).family()?.guidance() {
            Guidance::Distilled => settings.distilled_scale = Some(scale),
            Guidance::ClassifierFree => settings.cfg_scale = Some(scale),
        }
    }
    let loras = library.loras(&model, &settings.loras, &mut unmapped).await?;
    settings.prompt = match settings.prompt.take() {
        Some(prompt) => Some(library.prompt(prompt, settings.prompt_syntax, program, &loras, &mut unmapped).await?),
        None => None,
    };
    let [image, mask] = library.pictures([settings.image.take(), settings.mask.take()], &mut unmapped).await?;

    let mut translation = Translation { program, model: &model, unmapped };
    let mut request = translation.request(settings, image, mask)?;
    request.model = is_known.then(|| model.name.clone());
    request.loras = loras.into_iter().map(|(_, lora)| lora).collect();
    Ok(PictureInfo { program, request: Some(request), unmapped: translation.unmapped })
}

/// The caller's models and pictures.
struct Library<'a> {
    caller: &'a Caller,
    database: &'a Database,
    catalog: &'a Catalog,
}

impl Library<'_> {
    async fn checkpoint(&self, name: &str) -> Result<Arc<Model>> {
        let model = self.catalog.get_named(self.caller, name).await.map_err(|error| error.in_field("model"))?;
        if model.kind == ModelKind::Checkpoint {
            return Ok(model);
        }
        Err(Error::invalid("model", format!("`{}` is {}; name a checkpoint.", model.name, model.kind.title())))
    }

    /// The model that a record names: the one with its hash, otherwise the one with its name.
    async fn find(
        &self,
        kind: ModelKind,
        recorded: &NamedModel,
        field: &str,
        unmapped: &mut Vec<Unmapped>,
    ) -> Result<Option<Arc<Model>>> {
        let NamedModel { name, sha256 } = recorded;
        if let Some(digest) = sha256
            && let Some(name) = model::by_digest(self.caller, self.database, kind, digest, name).await?
        {
            return self.catalog.get(self.caller, &name.to_string()).await.map(Some);
        }
        let model = match self.catalog.get_named(self.caller, name).await {
            Ok(model) if model.kind == kind => model,
            Ok(_) | Err(Error::NotFound { .. }) => {
                let shown = if name.is_empty() { sha256.as_deref().unwrap_or_default() } else { name };
                let reason = match kind {
                    ModelKind::Lora => "There is no such LoRA; add it, or name another one.",
                    _ => "There is no such checkpoint; add it, or name another one.",
                };
                unmapped.push(Unmapped::new(field, shown, reason));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if let Some(digest) = sha256 {
            let reason = format!("`{}` has other weights, so the picture will differ.", model.name);
            unmapped.push(Unmapped::new(format!("{field} hash"), digest, reason));
        }
        Ok(Some(model))
    }

    async fn loras(
        &self,
        base: &Model,
        recorded: &[NamedLora],
        unmapped: &mut Vec<Unmapped>,
    ) -> Result<Vec<(Arc<Model>, LoraRequest)>> {
        let mut loras = Vec::new();
        for lora in recorded {
            let named = NamedModel { name: lora.name.clone(), sha256: lora.sha256.clone() };
            let Some(model) = self.find(ModelKind::Lora, &named, "lora", unmapped).await? else { continue };
            let fits = |scale: f64| (-10.0..=10.0).contains(&scale);
            let why_not = if model.family != base.family {
                Some(format!("It is of the family {}, and `{}` is of {}.", model.family, base.name, base.family))
            } else if loras.len() == MAX_LORAS {
                Some(format!("At most {MAX_LORAS} LoRAs run together."))
            } else if !fits(lora.scale) || !lora.text_encoder_scale.is_none_or(fits) {
                Some("Its weight is outside the range -10 to 10.".to_owned())
            } else {
                None
            };
            match why_not {
                Some(reason) => unmapped.push(Unmapped::new("lora", &lora.name, reason)),
                None => {
                    let request = LoraRequest {
                        model: model.name.clone(),
                        scale: Some(lora.scale),
                        text_encoder_scale: lora.text_encoder_scale,
                    };
                    loras.push((model, request));
                }
            }
        }
        Ok(loras)
    }

    /// The prompt, without tags unless each means one of `loras`: those would be refused.
    async fn prompt(
        &self,
        prompt: String,
        syntax: Option<PromptSyntax>,
        program: Option<Program>,
        loras: &[(Arc<Model>, LoraRequest)],
        unmapped: &mut Vec<Unmapped>,
    ) -> Result<String> {
        let syntax = syntax.unwrap_or_default();
        let tags: Vec<_> = match syntax.networks(&prompt).loras.into_iter().collect() {
            Ok(tags) => tags,
            Err(reason) => {
                unmapped.push(Unmapped::new("prompt", &prompt, reason));
                return Ok(syntax.words(&prompt).into_owned());
            }
        };
        for tag in tags {
            let known = match self.catalog.get_named(self.caller, &tag.name).await {
                Ok(model) => loras.iter().any(|(lora, _)| lora.id == model.id),
                Err(Error::NotFound { .. }) => false,
                Err(error) => return Err(error),
            };
            if !known {
                if program != Some(Program::Pyrograph) {
                    unmapped.push(Unmapped::new("prompt", &tag, "The program of this picture read it as words."));
                }
                return Ok(syntax.words(&prompt).into_owned());
            }
        }
        Ok(prompt)
    }

    /// Ids of the inputs or artifacts with these bytes. A mask is of no use without its picture.
    async fn pictures(
        &self,
        digests: [Option<String>; 2],
        unmapped: &mut Vec<Unmapped>,
    ) -> Result<[Option<String>; 2]> {
        let mut ids = [None, None];
        for ((field, digest), id) in ["image", "mask"].into_iter().zip(digests).zip(&mut ids) {
            let Some(digest) = digest else { continue };
            *id = self.picture(&digest).await?.map(|id| id.to_string());
            if id.is_none() {
                let reason = "There is no input or picture with these bytes (SHA-256); upload it, and send its id.";
                unmapped.push(Unmapped::new(field, digest, reason));
            }
        }
        let [image, mask] = ids;
        Ok([image.clone(), mask.filter(|_| image.is_some())])
    }

    async fn picture(&self, sha256: &str) -> Result<Option<Uuid>> {
        let found = sqlx::query_scalar!(
            r#"SELECT id AS "id!" FROM (
                 SELECT id, 0 AS place FROM inputs WHERE project_id = $1 AND sha256 = $2
                 UNION ALL
                 SELECT a.id, 1 FROM artifacts a JOIN jobs j ON j.id = a.job_id
                 WHERE j.project_id = $1 AND a.sha256 = $2 AND a.kind IN ('image', 'mask')) AS known
               ORDER BY place, id DESC LIMIT 1"#,
            self.caller.project() as ProjectId,
            sha256,
        );
        Ok(found.fetch_optional(self.database.pool(self.caller)).await?)
    }
}
