//! Our own record: the request that makes this picture alone, and the models and settings it was made with.

use std::str::FromStr;

use formats::{Guidance, Scheduler};
use serde::de::DeserializeOwned;
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

/// Reads a recipe. `guidance` is the meaning of its `guidance_scale`, if another text of the file shows it. A value
/// that its field may not have is listed, and the rest is used. Errors: a sentence.
pub(super) fn read(json: &str, guidance: Option<Guidance>) -> Result<Found, String> {
    let record: Map<String, Value> =
        serde_json::from_str(json).map_err(|error| format!("It is not a JSON object: {error}."))?;
    let mut unmapped = Vec::new();
    let record = updated(record, &mut unmapped);
    if let Some(field) = ["prompt", "model", "seed", "engine"].iter().find(|field| !record.contains_key(**field)) {
        return Err(format!("It is not a recipe: it has no `{field}`."));
    }
    let mut fields = Fields { record, unmapped };
    let settings = fields.settings(guidance);
    let (weights, engine) = (fields.take::<String>("weights"), fields.take::<String>("engine"));
    let Fields { record, mut unmapped } = fields;
    unmapped.extend(
        record.into_iter().map(|(name, value)| Unmapped::new(name, value, "This version does not know the field.")),
    );
    if let Some(weights) = weights.filter(|weights| weights != FULL) {
        let reason = "The worker chooses the format by its memory; another one changes the picture a little.";
        unmapped.push(Unmapped::new("weights", weights, reason));
    }
    if let Some(engine) = engine.filter(|engine| engine != ENGINE) {
        unmapped.push(Unmapped::new("engine", engine, format!("This is {ENGINE}.")));
    }
    Ok(Found { program: Some(Program::Pyrograph), settings, unmapped })
}

/// The fields of a record that have not been read yet.
struct Fields {
    record: Map<String, Value>,
    unmapped: Vec<Unmapped>,
}

impl Fields {
    /// Removes and reads a field. A value that is not of the type is listed.
    fn take<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        let value = self.record.remove(field)?;
        self.read(field, value)
    }

    fn read<T: DeserializeOwned>(&mut self, field: &str, value: Value) -> Option<T> {
        if value.is_null() {
            return None;
        }
        T::deserialize(&value)
            .inspect_err(|_| {
                self.unmapped.push(Unmapped::new(field, shown(&value), "The field cannot have this value."));
            })
            .ok()
    }

    fn settings(&mut self, guidance: Option<Guidance>) -> Settings {
        // A recipe is of one picture, and `updated` has read the older form of the fields about pictures.
        for field in ["num_images", "preview_every", "source"] {
            self.record.remove(field);
        }
        let output_format = self.take("output_format");
        // The quality is one of that format.
        let output_quality = self.take("output_quality").filter(|quality: &u8| {
            if output_format.is_none() {
                self.unmapped.push(Unmapped::new("output_quality", quality, "Its file format is not known."));
            }
            output_format.is_some()
        });
        let (scale, true_cfg_scale) = (self.take::<f64>("guidance_scale"), self.take::<f64>("true_cfg_scale"));
        // Only distilled models have a `true_cfg_scale` other than 1.
        let guidance = guidance.or(true_cfg_scale.filter(|scale| *scale != 1.0).map(|_| Guidance::Distilled));
        let (cfg_scale, distilled_scale, guidance_scale) = match guidance {
            Some(Guidance::Distilled) => (true_cfg_scale, scale, None),
            Some(Guidance::ClassifierFree) => (scale, None, None),
            None => (true_cfg_scale, None, scale),
        };
        Settings {
            prompt: self.take("prompt"),
            negative_prompt: self.take("negative_prompt"),
            prompt_syntax: self.take("prompt_syntax"),
            model: self
                .take("model")
                .map(|model: ModelDigest| NamedModel { name: model.name, sha256: Some(model.sha256) }),
            loras: self.loras(),
            num_inference_steps: self.take::<u32>("num_inference_steps").map(f64::from),
            cfg_scale,
            distilled_scale,
            guidance_scale,
            seed: self.take("seed"),
            scheduler: self.take("scheduler").map(|scheduler: Scheduler| scheduler.as_str().to_owned()),
            width: self.take::<u32>("width").map(f64::from),
            height: self.take::<u32>("height").map(f64::from),
            clip_skip: self.take::<u32>("clip_skip").map(f64::from),
            strength: self.take("strength"),
            image: self.take("image").map(|picture: Digest| picture.sha256),
            mask: self.take("mask").map(|picture: Digest| picture.sha256),
            output_format,
            output_quality,
        }
    }

    fn loras(&mut self) -> Vec<NamedLora> {
        let loras: Vec<Value> = self.take("loras").unwrap_or_default();
        let loras = loras.into_iter().enumerate().filter_map(|(position, lora)| {
            let lora: LoraDigest = self.read(&format!("loras[{position}]"), lora)?;
            Some(NamedLora {
                name: lora.name,
                sha256: Some(lora.sha256),
                scale: lora.scale,
                text_encoder_scale: lora.text_encoder_scale,
            })
        });
        loras.collect()
    }
}

/// A text without the quotes of JSON, any other value as JSON.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Map<String, Value> {
        let model = ModelDigest { name: "ember".into(), sha256: "0".repeat(64) };
        let lora = LoraDigest { name: "clay".into(), sha256: "1".repeat(64), scale: 0.5, text_encoder_scale: None };
        let params = GenerationParams::new("a fox", 4, [64, 32]);
        let recipe = Recipe::new(params, 7, model, vec![lora], FULL.into());
        serde_json::from_str(&recipe.to_json()).unwrap()
    }

    #[test]
    fn a_value_that_cannot_be_is_listed_and_the_rest_is_used() {
        let whole = read(&Value::Object(recipe()).to_string(), None).unwrap();
        assert_eq!((whole.unmapped.as_slice(), whole.settings.seed), (&[][..], Some(7)));
        let mut record = recipe();
        for (field, value, is_left) in [
            ("seed", json!(-5), Settings { seed: None, ..whole.settings.clone() }),
            ("width", json!(-64), Settings { width: None, ..whole.settings.clone() }),
            ("output_format", json!("gif"), Settings { output_format: None, ..whole.settings.clone() }),
            ("prompt", json!(3), Settings { prompt: None, ..whole.settings.clone() }),
            ("model", json!("ember"), Settings { model: None, ..whole.settings.clone() }),
            ("loras", json!({}), Settings { loras: Vec::new(), ..whole.settings.clone() }),
        ] {
            let right = record.insert(field.into(), value.clone()).unwrap();
            let found = read(&Value::Object(record.clone()).to_string(), None).unwrap();
            let listed = [Unmapped::new(field, shown(&value), "The field cannot have this value.")];
            assert_eq!((found.settings, found.unmapped.as_slice()), (is_left, &listed[..]), "{field}");
            record.insert(field.into(), right);
        }
        record["loras"].as_array_mut().unwrap().push(json!({"name": "ink"}));
        let found = read(&Value::Object(record).to_string(), None).unwrap();
        assert_eq!((found.settings, found.unmapped[0].field.as_str()), (whole.settings, "loras[1]"));
    }

    #[test]
    fn an_object_of_another_kind_is_no_recipe() {
        assert!(read("{}", None).unwrap_err().contains("`prompt`"));
    }
}
