//! Our own record: the request that makes this picture alone, and the models and settings it was made with.

use std::str::FromStr;

use formats::Scheduler;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Found, NamedLora, NamedModel, Program, Settings, Unmapped};
use crate::{GenerationParams, PromptSyntax};

/// The version that writes recipes.
const ENGINE: &str = concat!("pyrograph ", env!("CARGO_PKG_VERSION"));
/// Name of the weights' format that changes nothing.
const FULL: &str = "full";

/// The request for one picture, with its seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    #[serde(flatten)]
    pub params: GenerationParams<Digest>,
    pub seed: u64,
    /// The form in which older versions wrote `image`, `mask` and `strength`.
    #[serde(default)]
    pub source: Option<Source>,
    pub model: ModelDigest,
    #[serde(default)]
    pub loras: Vec<LoraDigest>,
    /// The format of the denoiser's weights, which changes pictures a little.
    #[serde(default = "full")]
    pub weights: String,
    /// The version of Pyrograph.
    pub engine: String,
}

/// A picture, by its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    image_sha256: String,
    mask_sha256: Option<String>,
    strength: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDigest {
    pub name: String,
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraDigest {
    pub name: String,
    pub sha256: String,
    pub scale: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder_scale: Option<f64>,
}

fn full() -> String {
    FULL.to_owned()
}

impl Recipe {
    /// The recipe of one picture of a request. A picture does not depend on the other pictures of its batch, nor on
    /// whether previews are made.
    pub fn new(
        params: GenerationParams<Digest>,
        seed: u64,
        model: ModelDigest,
        loras: Vec<LoraDigest>,
        weights: String,
    ) -> Self {
        let params = GenerationParams { num_images: 1, preview_every: None, ..params };
        let digest = |picture: &Option<Digest>| picture.as_ref().map(|picture| picture.sha256.clone());
        let source = digest(&params.image).zip(params.strength).map(|(image_sha256, strength)| Source {
            image_sha256,
            mask_sha256: digest(&params.mask),
            strength,
        });
        Self { params, seed, source, model, loras, weights, engine: ENGINE.to_owned() }
    }

    /// As JSON, on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether the weights were stored in their full precision.
    pub(super) fn has_full_weights(&self) -> bool {
        self.weights == FULL
    }
}

/// Reads a recipe. Errors: a sentence.
pub(super) fn read(json: &str) -> Result<Found, String> {
    let record: Map<String, Value> =
        serde_json::from_str(json).map_err(|error| format!("It is not a JSON object: {error}."))?;
    let mut unmapped = Vec::new();
    let known = updated(record.clone(), &mut unmapped);
    let recipe: Recipe =
        serde_json::from_value(Value::Object(known)).map_err(|error| format!("It is not a recipe: {error}."))?;
    if let Ok(Value::Object(understood)) = serde_json::to_value(&recipe) {
        let strange = record.into_iter().filter(|(name, _)| !understood.contains_key(name));
        unmapped
            .extend(strange.map(|(name, value)| Unmapped::new(name, value, "This version does not know the field.")));
    }
    if !recipe.has_full_weights() {
        let reason = "The worker chooses the format by its memory; another one changes the picture a little.";
        unmapped.push(Unmapped::new("weights", &recipe.weights, reason));
    }
    if recipe.engine != ENGINE {
        unmapped.push(Unmapped::new("engine", &recipe.engine, format!("This is {ENGINE}.")));
    }
    Ok(Found { program: Some(Program::Pyrograph), settings: settings(recipe), unmapped })
}

/// A record of an older version under today's names.
fn updated(mut record: Map<String, Value>, unmapped: &mut Vec<Unmapped>) -> Map<String, Value> {
    record.entry("num_images").or_insert(json!(1));
    if !record.contains_key("prompt_syntax") {
        // Tags were words then.
        let prompt = record.get("prompt").and_then(Value::as_str).unwrap_or_default();
        let has_tags = PromptSyntax::A1111.words(prompt) != prompt;
        let syntax = if has_tags { PromptSyntax::Plain } else { PromptSyntax::A1111 };
        record.insert("prompt_syntax".into(), json!(syntax));
    }
    if let (false, Some(Value::Object(source))) = (record.contains_key("image"), record.get("source").cloned()) {
        let picture = |name: &str| match source.get(name) {
            Some(Value::String(sha256)) => json!({ "sha256": sha256 }),
            _ => Value::Null,
        };
        record.insert("image".into(), picture("image_sha256"));
        record.insert("mask".into(), picture("mask_sha256"));
        record.insert("strength".into(), source.get("strength").cloned().unwrap_or_default());
    }
    if let Some(name) = record.get("scheduler").and_then(Value::as_str).map(str::to_owned) {
        // Once A1111's title.
        match Scheduler::from_str(&name) {
            Ok(scheduler) => record.insert("scheduler".into(), json!(scheduler)),
            Err(reason) => {
                unmapped.push(Unmapped::new("scheduler", name, reason));
                record.insert("scheduler".into(), Value::Null)
            }
        };
    }
    record
}

fn settings(recipe: Recipe) -> Settings {
    let Recipe { params, seed, model, loras, .. } = recipe;
    let digest = |picture: Option<Digest>| picture.map(|picture| picture.sha256);
    Settings {
        prompt: Some(params.prompt),
        negative_prompt: params.negative_prompt,
        prompt_syntax: Some(params.prompt_syntax),
        model: Some(NamedModel { name: model.name, sha256: Some(model.sha256) }),
        loras: loras
            .into_iter()
            .map(|lora| NamedLora {
                name: lora.name,
                sha256: Some(lora.sha256),
                scale: lora.scale,
                text_encoder_scale: lora.text_encoder_scale,
            })
            .collect(),
        num_inference_steps: Some(params.num_inference_steps.into()),
        cfg_scale: None,
        guidance_scale: Some(params.guidance_scale),
        true_cfg_scale: Some(params.true_cfg_scale),
        seed: Some(seed),
        scheduler: params.scheduler.map(|scheduler| scheduler.as_str().to_owned()),
        width: Some(params.width.into()),
        height: Some(params.height.into()),
        clip_skip: params.clip_skip.map(f64::from),
        strength: params.strength,
        image: digest(params.image),
        mask: digest(params.mask),
        output_format: Some(params.output_format),
        output_quality: params.output_quality,
    }
}
