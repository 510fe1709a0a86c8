//! InvokeAI's record: `invokeai_metadata`, and `sd-metadata` of versions before 3.

use serde_json::{Map, Value};

use super::{Found, NamedLora, NamedModel, Program, Settings, Unmapped, sampler};

/// Values about the program, or that are parts of others.
const IGNORED: [&str; 8] = [
    "app_version",
    "app_id",
    "generation_mode",
    "rand_device",
    "metadata_version",
    "model_weights",
    "created_by",
    "type",
];

/// Reads `invokeai_metadata`. Errors: a sentence.
pub(super) fn read(text: &str) -> Result<Found, String> {
    let mut record = Record::parse(text)?;
    let model = record.take("model").map(|model| name_of(&model));
    let loras = match record.take("loras") {
        Some(Value::Array(loras)) => loras.iter().map(lora).collect(),
        _ => Vec::new(),
    };
    let settings = Settings {
        prompt: record.text("positive_prompt"),
        negative_prompt: record.text("negative_prompt").filter(|text| !text.is_empty()),
        model: model.map(|name| NamedModel { name, sha256: None }),
        loras,
        num_inference_steps: record.number("steps"),
        cfg_scale: record.number("cfg_scale"),
        distilled_scale: record.number("guidance"),
        seed: record.seed(),
        width: record.number("width"),
        height: record.number("height"),
        clip_skip: record.number("clip_skip").filter(|layers| *layers > 0.0),
        strength: record.number("strength"),
        scheduler: record.scheduler("scheduler"),
        ..Settings::default()
    };
    record.found(settings)
}

/// Reads `sd-metadata`. Errors: a sentence.
pub(super) fn read_older(text: &str) -> Result<Found, String> {
    let mut outer = Record::parse(text)?;
    let model = outer.text("model_weights");
    let Some(Value::Object(image)) = outer.take("image") else { return Err("It describes no image.".into()) };
    let mut record = Record { values: image, unmapped: Vec::new() };
    let prompt = match record.take("prompt") {
        Some(Value::String(prompt)) => Some(prompt),
        Some(Value::Array(parts)) => {
            let parts: Vec<&str> = parts.iter().filter_map(|part| part["prompt"].as_str()).collect();
            Some(parts.join(" "))
        }
        _ => None,
    };
    // The negative prompt was written in square brackets.
    let (mut wanted, mut unwanted) = (String::new(), Vec::new());
    for (number, part) in prompt.unwrap_or_default().split('[').enumerate() {
        match part.split_once(']') {
            Some((negative, rest)) if number > 0 => {
                unwanted.push(negative.to_owned());
                wanted.push_str(rest);
            }
            _ => wanted.push_str(part),
        }
    }
    let settings = Settings {
        prompt: Some(wanted.trim().to_owned()),
        negative_prompt: (!unwanted.is_empty()).then(|| unwanted.join(", ")),
        model: model.map(|name| NamedModel { name, sha256: None }),
        num_inference_steps: record.number("steps"),
        cfg_scale: record.number("cfg_scale"),
        seed: record.seed(),
        width: record.number("width"),
        height: record.number("height"),
        strength: record.number("strength"),
        scheduler: record.scheduler("sampler"),
        ..Settings::default()
    };
    record.found(settings)
}

/// An object whose values are taken one by one.
struct Record {
    values: Map<String, Value>,
    unmapped: Vec<Unmapped>,
}

impl Record {
    fn parse(text: &str) -> Result<Self, String> {
        let values = serde_json::from_str(text).map_err(|error| format!("It is not a JSON object: {error}."))?;
        Ok(Self { values, unmapped: Vec::new() })
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.take(name)?.as_str().map(str::to_owned)
    }

    fn number(&mut self, name: &str) -> Option<f64> {
        let value = self.take(name)?;
        if value.as_f64().is_none() {
            self.unmapped.push(Unmapped::new(name, &value, "It is not one number."));
        }
        value.as_f64()
    }

    fn seed(&mut self) -> Option<u64> {
        let value = self.take("seed")?;
        if value.as_u64().is_none() {
            self.unmapped.push(Unmapped::new("seed", &value, "It is not a seed: an integer of at most 64 bits."));
        }
        value.as_u64()
    }

    fn scheduler(&mut self, name: &str) -> Option<String> {
        let sampler = self.text(name)?;
        match sampler::scheduler(&sampler, None) {
            Ok((scheduler, _)) => Some(scheduler.as_str().to_owned()),
            Err(reason) => {
                self.unmapped.push(Unmapped::new(name, sampler, reason));
                None
            }
        }
    }

    fn found(self, settings: Settings) -> Result<Found, String> {
        if settings.prompt.is_none() && settings.seed.is_none() {
            return Err("It has neither a prompt nor a seed.".into());
        }
        let mut unmapped = self.unmapped;
        let empty = |value: &Value| match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        let rest = self.values.into_iter().filter(|(name, value)| !IGNORED.contains(&name.as_str()) && !empty(value));
        unmapped.extend(rest.map(|(name, value)| Unmapped::new(name, value, "There is no such setting.")));
        let weighs = settings.prompt.iter().chain(&settings.negative_prompt).any(|text| has_weights(text));
        if weighs {
            let reason = "InvokeAI's weights, such as `word++`, are read as words.";
            unmapped.push(Unmapped::new("prompt", settings.prompt.clone().unwrap_or_default(), reason));
        }
        Ok(Found { program: Some(Program::Invokeai), settings, unmapped })
    }
}

/// `(a fox)1.3`, `word++`, `word--`
fn has_weights(text: &str) -> bool {
    let after_bracket = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-'));
    text.contains("++") || text.contains("--") || text.split(')').skip(1).any(after_bracket)
}

/// The name of a model, as a text or an object of several versions.
fn name_of(model: &Value) -> String {
    let names = [model, &model["name"], &model["model_name"]];
    names.iter().find_map(|name| name.as_str()).unwrap_or_default().to_owned()
}

fn lora(entry: &Value) -> NamedLora {
    let model = entry.get("model").or_else(|| entry.get("lora")).unwrap_or(entry);
    let scale = entry["weight"].as_f64().unwrap_or(1.0);
    NamedLora { name: name_of(model), sha256: None, scale, text_encoder_scale: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_read() {
        let record = json!({
            "app_version": "4.2.7", "generation_mode": "txt2img", "positive_prompt": "a fox", "negative_prompt": "",
            "width": 512, "height": 768, "seed": 2_661_204_016_u32, "rand_device": "cpu", "cfg_scale": 7.5,
            "cfg_rescale_multiplier": 0.5, "steps": 30, "scheduler": "euler_a", "clip_skip": 1,
            "model": {"key": "k", "hash": "blake3:00", "name": "Deliberate", "base": "sd-1", "type": "main"},
            "loras": [{"model": {"name": "ink"}, "weight": 0.75}, {"lora": {"model_name": "clay"}, "weight": 1}],
            "controlnets": [], "vae": null,
        });
        let Found { program, settings, unmapped } = read(&record.to_string()).unwrap();
        assert_eq!(program, Some(Program::Invokeai));
        let lora = |name: &str, scale| NamedLora { name: name.into(), sha256: None, scale, text_encoder_scale: None };
        let expected = Settings {
            prompt: Some("a fox".into()),
            model: Some(NamedModel { name: "Deliberate".into(), sha256: None }),
            loras: vec![lora("ink", 0.75), lora("clay", 1.0)],
            num_inference_steps: Some(30.0),
            cfg_scale: Some(7.5),
            seed: Some(2_661_204_016),
            scheduler: Some("euler_ancestral".into()),
            width: Some(512.0),
            height: Some(768.0),
            clip_skip: Some(1.0),
            ..Settings::default()
        };
        assert_eq!(settings, expected);
        assert_eq!(unmapped, [Unmapped::new("cfg_rescale_multiplier", 0.5, "There is no such setting.")]);
    }

    #[test]
    fn an_older_record_is_read() {
        let record = json!({
            "model": "stable diffusion", "model_weights": "stable-diffusion-1.5", "app_id": "invoke-ai/InvokeAI",
            "image": {"prompt": [{"prompt": "a fox [blurry] in (snow)1.2", "weight": 1}], "steps": 50, "cfg_scale": 7.5,
                      "threshold": 0.2, "height": 512, "width": 512, "seed": 7, "type": "txt2img",
                      "sampler": "k_euler_a"},
        });
        let Found { settings, unmapped, .. } = read_older(&record.to_string()).unwrap();
        assert_eq!(settings.prompt.as_deref(), Some("a fox  in (snow)1.2"));
        assert_eq!(settings.negative_prompt.as_deref(), Some("blurry"));
        assert_eq!(settings.scheduler.as_deref(), Some("euler_ancestral"));
        assert_eq!(settings.model.unwrap().name, "stable-diffusion-1.5");
        let named: Vec<&str> = unmapped.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(named, ["threshold", "prompt"]);
    }

    #[test]
    fn records_that_are_none() {
        for text in ["", "[]", "{}", r#"{"image": 7}"#, r#"{"steps": 3}"#] {
            assert!(read(text).is_err() && read_older(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_seed_that_is_none_is_listed() {
        for seed in [json!(1e20), json!(-1), json!("7")] {
            let Found { settings, unmapped, .. } =
                read(&json!({"positive_prompt": "a", "seed": seed}).to_string()).unwrap();
            assert_eq!((settings.seed, unmapped[0].field.as_str()), (None, "seed"), "{seed}");
        }
    }
}
