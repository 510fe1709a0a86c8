//! AUTOMATIC1111's text of parameters: the prompt, the negative prompt, and a line of `Name: value` pairs.
//!
//! References:
//! - <https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/82a973c/modules/processing.py>
//! - <https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/82a973c/modules/infotext_utils.py>

use std::collections::HashMap;
use std::fmt::{Display, Write as _};
use std::str::FromStr;

use formats::Guidance;
use serde::de::IgnoredAny;

use super::{Found, NamedLora, NamedModel, Program, Recipe, Settings, Unmapped, sampler};
use crate::PromptSyntax;
use crate::prompt::LoraTag;

const NEGATIVE: &str = "Negative prompt";
const STEPS: &str = "Steps";
const SAMPLER: &str = "Sampler";
const SCHEDULE: &str = "Schedule type";
const CFG: &str = "CFG scale";
const DISTILLED_CFG: &str = "Distilled CFG Scale";
const SEED: &str = "Seed";
const SIZE: &str = "Size";
const MODEL_HASH: &str = "Model hash";
const MODEL: &str = "Model";
const STRENGTH: &str = "Denoising strength";
const CLIP_SKIP: &str = "Clip skip";
const LORA_HASHES: &str = "Lora hashes";
const RNG: &str = "RNG";
const VERSION: &str = "Version";
/// Names that only we write.
const WEIGHTS: &str = "Weights";
const SYNTAX: &str = "Prompt syntax";
const OURS: &str = "pyrograph";

const TOO_LARGE: &str = "It is too large.";

/// Fewest pairs that make a line the one of the parameters.
const LEAST_PAIRS: usize = 3;
/// Most pairs that are read.
const MOST_PAIRS: usize = 1000;

/// The meaning of `guidance_scale` in a recipe, according to the text in the same file.
pub(super) fn guidance(text: &str) -> Option<Guidance> {
    let last = text.lines().last()?;
    let has = |name: &str| last.contains(&format!(", {name}: "));
    has(CFG).then(|| if has(DISTILLED_CFG) { Guidance::Distilled } else { Guidance::ClassifierFree })
}

impl Recipe {
    /// The recipe in A1111's notation. `scheduler` is A1111's title of the one that was used; `guidance` is the meaning
    /// of the guidance scales.
    pub fn parameters(&self, scheduler: &str, guidance: Guidance) -> String {
        let params = &self.params;
        // The LoRAs follow, those that the prompt names among them.
        let mut text = params.prompt_syntax.words(&params.prompt).into_owned();
        for lora in &self.loras {
            let (name, scale, text_encoder_scale) = (lora.name.clone(), lora.scale, lora.text_encoder_scale);
            let _ = write!(text, " {}", LoraTag { name, scale, text_encoder_scale });
        }
        if let Some(negative) = &params.negative_prompt {
            let _ = write!(text, "\n{NEGATIVE}: {negative}");
        }
        let _ = write!(text, "\n{STEPS}: {}, {SAMPLER}: {scheduler}", params.num_inference_steps);
        let _ = match guidance {
            Guidance::Distilled => {
                write!(text, ", {CFG}: {}, {DISTILLED_CFG}: {}", params.true_cfg_scale, params.guidance_scale)
            }
            Guidance::ClassifierFree => write!(text, ", {CFG}: {}", params.guidance_scale),
        };
        let _ = write!(
            text,
            ", {SEED}: {}, {SIZE}: {}x{}, {MODEL_HASH}: {}, {MODEL}: {}",
            self.seed,
            params.width,
            params.height,
            short(&self.model.sha256),
            self.model.name,
        );
        if let Some(strength) = params.strength {
            let _ = write!(text, ", {STRENGTH}: {strength}");
        }
        if let Some(layers) = params.clip_skip {
            // A1111 counts from 1, where 1 skips no layer.
            let _ = write!(text, ", {CLIP_SKIP}: {}", layers + 1);
        }
        if !self.loras.is_empty() {
            let hashes: Vec<_> =
                self.loras.iter().map(|lora| format!("{}: {}", lora.name, short(&lora.sha256))).collect();
            let _ = write!(text, ", {LORA_HASHES}: \"{}\"", hashes.join(", "));
        }
        if params.prompt_syntax != PromptSyntax::A1111 {
            let _ = write!(text, ", {SYNTAX}: {}", params.prompt_syntax.as_str());
        }
        if !self.has_full_weights() {
            let _ = write!(text, ", {WEIGHTS}: {}", self.weights);
        }
        let _ = write!(text, ", {VERSION}: {}", self.engine);
        text
    }
}

/// The first ten digits, as AUTOMATIC1111 shows hashes.
fn short(sha256: &str) -> &str {
    sha256.get(..10).unwrap_or(sha256)
}

/// Reads a text of parameters. Errors: a sentence.
pub(super) fn read(text: &str) -> Result<Found, String> {
    let lines: Vec<&str> = text.trim().lines().collect();
    let is_last = |line: &&str| {
        let pairs = pairs(line);
        pairs.len() >= LEAST_PAIRS && pairs.iter().any(|(name, _)| name == STEPS || name == SEED)
    };
    let last = lines.iter().rposition(is_last).ok_or("It has no line of parameters as A1111 writes it.")?;
    let (mut prompt, mut negative) = (Vec::new(), None::<Vec<&str>>);
    for line in &lines[..last] {
        let line = line.trim();
        match (line.strip_prefix(NEGATIVE).and_then(|rest| rest.strip_prefix(':')), &mut negative) {
            (Some(rest), None) => negative = Some(vec![rest.trim()]),
            (_, Some(negative)) => negative.push(line),
            (_, None) => prompt.push(line),
        }
    }
    let mut reading = Reading { pairs: pairs(lines[last]), unmapped: Vec::new() };
    let settings = reading.settings(&prompt.join("\n"), negative.map(|lines| lines.join("\n")));
    let ours = reading.take(VERSION).is_some_and(|version| version.starts_with(OURS));
    let Reading { pairs, mut unmapped } = reading;
    unmapped.extend(pairs.into_iter().map(|(name, value)| Unmapped::new(name, value, "There is no such setting.")));
    for line in &lines[last + 1..] {
        unmapped.push(Unmapped::new("parameters", line, "The line follows the parameters and is not part of them."));
    }
    let program = if ours { Program::Pyrograph } else { Program::A1111 };
    Ok(Found { program: Some(program), settings, unmapped })
}

struct Reading {
    pairs: Vec<(String, String)>,
    unmapped: Vec<Unmapped>,
}

impl Reading {
    fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(known, _)| known == name)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(known, _)| known == name)?;
        Some(self.pairs.remove(at).1)
    }

    fn parsed<T: FromStr + Display>(&mut self, name: &str) -> Option<T> {
        let text = self.take(name)?;
        let value = number(&text);
        value.map_err(|reason| self.unmapped.push(Unmapped::new(name, text, reason))).ok()
    }

    fn seed(&mut self) -> Option<u64> {
        if self.pairs.iter().any(|(name, value)| name == SEED && value == "-1") {
            let text = self.take(SEED)?;
            self.unmapped.push(Unmapped::new(SEED, text, "It stands for a random seed, which the text does not name."));
            return None;
        }
        self.parsed(SEED)
    }

    fn settings(&mut self, prompt: &str, negative_prompt: Option<String>) -> Settings {
        let ours = self.pairs.iter().any(|(name, value)| name == VERSION && value.starts_with(OURS));
        let prompt_syntax = self.take(SYNTAX).and_then(|name| name.parse().ok()).unwrap_or_default();
        let loras = self.loras(prompt, ours);
        let [width, height] = self.size();
        let model_hash = self.take(MODEL_HASH).filter(|hash| is_sha256(hash));
        let model = self.take(MODEL);
        let hires = self.pairs.iter().any(|(name, _)| name.starts_with("Hires"));
        if hires && let Some(strength) = self.take(STRENGTH) {
            self.unmapped.push(Unmapped::new(STRENGTH, strength, "It is that of the second pass (Hires. fix)."));
        }
        if self.has(RNG) && self.pairs.iter().any(|(name, value)| name == RNG && value == "CPU") {
            // Ours are those of the CPU.
            self.take(RNG);
        }
        self.take("Hashes");
        Settings {
            // The text is A1111's, so tags at the end stand for the LoRAs in any syntax.
            prompt: Some(PromptSyntax::A1111.words(prompt).into_owned()),
            negative_prompt: negative_prompt.filter(|text| !text.is_empty()),
            prompt_syntax: Some(prompt_syntax),
            model: model.or(model_hash.is_some().then(String::new)).map(|name| NamedModel { name, sha256: model_hash }),
            loras,
            num_inference_steps: self.parsed(STEPS),
            cfg_scale: self.parsed(CFG),
            distilled_scale: self.parsed(DISTILLED_CFG),
            seed: self.seed(),
            scheduler: self.scheduler(),
            width,
            height,
            clip_skip: self.parsed(CLIP_SKIP).map(|layers: f64| layers - 1.0).filter(|layers| ours || *layers > 0.0),
            strength: self.parsed(STRENGTH),
            ..Settings::default()
        }
    }

    fn loras(&mut self, prompt: &str, ours: bool) -> Vec<NamedLora> {
        // A1111's own hashes leave out the header of the file.
        let hashes = self.take(LORA_HASHES).filter(|_| ours).unwrap_or_default();
        let hashes: HashMap<&str, &str> = hashes.split(", ").filter_map(|pair| pair.split_once(": ")).collect();
        let networks = PromptSyntax::A1111.networks(prompt);
        for tag in networks.hypernetworks {
            self.unmapped.push(Unmapped::new("prompt", tag, "Hypernetworks are not supported."));
        }
        let lora = |tag: LoraTag| NamedLora {
            sha256: hashes.get(tag.name.as_str()).filter(|hash| is_sha256(hash)).map(|hash| (*hash).to_owned()),
            name: tag.name,
            scale: tag.scale,
            text_encoder_scale: tag.text_encoder_scale,
        };
        match networks.loras.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(tags) => tags.into_iter().map(lora).collect(),
            Err(reason) => {
                self.unmapped.push(Unmapped::new("prompt", prompt, reason));
                Vec::new()
            }
        }
    }

    fn size(&mut self) -> [Option<f64>; 2] {
        let Some(size) = self.take(SIZE) else { return [None, None] };
        let sides = size.split_once('x').map(|(width, height)| [width, height].map(number::<f64>));
        let reason = match sides {
            Some([Ok(width), Ok(height)]) => return [Some(width), Some(height)],
            Some([Ok(_) | Err(TOO_LARGE), Ok(_) | Err(TOO_LARGE)]) => TOO_LARGE,
            _ => "It is not a size, as 512x768 is one.",
        };
        self.unmapped.push(Unmapped::new(SIZE, size, reason));
        [None, None]
    }

    fn scheduler(&mut self) -> Option<String> {
        let (sampler, schedule) = (self.take(SAMPLER)?, self.take(SCHEDULE));
        match sampler::scheduler(&sampler, schedule.as_deref()) {
            Ok((scheduler, other)) => {
                let other = other.map(|reason| Unmapped::new(SCHEDULE, schedule.unwrap_or_default(), reason));
                self.unmapped.extend(other);
                Some(scheduler.as_str().to_owned())
            }
            Err(reason) => {
                self.unmapped.push(Unmapped::new(SAMPLER, sampler, reason));
                None
            }
        }
    }
}

/// Errors: a sentence.
fn number<T: FromStr + Display>(text: &str) -> Result<T, &'static str> {
    let is_whole = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<T>() {
        // An `f64` does not hold every integer of more than 53 bits.
        Ok(number) if !is_whole || number.to_string() == without_zeros(text) => Ok(number),
        _ if is_whole => Err(TOO_LARGE),
        _ => Err("It is not a number."),
    }
}

/// The digits of a number without those in front that say nothing.
fn without_zeros(digits: &str) -> &str {
    match digits.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    }
}

/// Whether it is the beginning of a SHA-256, long enough to identify a file.
fn is_sha256(text: &str) -> bool {
    (10..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// `Name: value, Other: "quoted, value"`. JSON that is not quoted, as Civitai writes it, is one value.
fn pairs(line: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = line;
    while pairs.len() < MOST_PAIRS
        && let Some((name, after)) = rest.split_once(':')
    {
        // Text before a comma without a colon belongs to no pair.
        let name = name.rsplit_once(',').map_or(name, |(_, name)| name).trim();
        let value = after.trim_start();
        let length = value_length(value);
        let (text, after) = value.split_at(length);
        rest = after.split_once(',').map_or("", |(_, rest)| rest);
        let is_name = name.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | ' ' | '-' | '/' | '.' | '(' | ')'));
        if is_name {
            let unquoted = text.starts_with('"').then(|| serde_json::from_str(text).ok()).flatten();
            pairs.push((name.to_owned(), unquoted.unwrap_or_else(|| text.trim().to_owned())));
        }
    }
    pairs
}

/// Length of the value at the beginning of `text`, in bytes.
fn value_length(text: &str) -> usize {
    if text.starts_with(['"', '{', '[']) {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
        if let Some(Ok(_)) = values.next() {
            return values.byte_offset();
        }
    }
    text.find(',').unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a fox, (red:1.2) <lora:ink:0.5:0.8> <lora:clay>\nin the snow\n\
        Negative prompt: blurry,\nugly: very\n\
        Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 18446744073709551615, \
        Size: 512x768, Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, VAE hash: c6a580b13a, \
        Denoising strength: 0.7, Clip skip: 2, RNG: CPU, Hires upscale: 2, Hires upscaler: Latent, \
        ADetailer model: \"a: \\\"b\\\", c\", Lora hashes: \"ink: 0123456789ab, clay: 1123456789ab\", \
        Hashes: {\"model\": \"6ce0161689\", \"lora:ink\": \"x, y\"}, Version: v1.10.1";

    #[test]
    fn a_text_of_a1111_is_read() {
        let Found { program, settings, unmapped } = read(TEXT).unwrap();
        assert_eq!(program, Some(Program::A1111));
        let lora = |name: &str, scale, text_encoder_scale| NamedLora {
            name: name.into(),
            sha256: None,
            scale,
            text_encoder_scale,
        };
        let expected = Settings {
            prompt: Some("a fox, (red:1.2)  \nin the snow".into()),
            negative_prompt: Some("blurry,\nugly: very".into()),
            prompt_syntax: Some(PromptSyntax::A1111),
            model: Some(NamedModel { name: "v1-5-pruned-emaonly".into(), sha256: Some("6ce0161689".into()) }),
            loras: vec![lora("ink", 0.8, Some(0.5)), lora("clay", 1.0, None)],
            num_inference_steps: Some(30.0),
            cfg_scale: Some(7.0),
            seed: Some(u64::MAX),
            scheduler: Some("dpmpp_2m_karras".into()),
            width: Some(512.0),
            height: Some(768.0),
            clip_skip: Some(1.0),
            ..Settings::default()
        };
        assert_eq!(settings, expected);
        let named: Vec<&str> = unmapped.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(named, [STRENGTH, "VAE hash", "Hires upscale", "Hires upscaler", "ADetailer model"]);
        assert_eq!(unmapped[4].value, "a: \"b\", c");
    }

    #[test]
    fn numbers_of_many_digits_are_too_large() {
        let text = "Steps: 1234567890123456789012, Seed: 99999999999999999999, Size: 512x98765432109876543210, \
            CFG scale: 7.50, Clip skip: 02";
        let Found { settings, unmapped, .. } = read(text).unwrap();
        let listed: Vec<_> = unmapped.iter().map(|one| (one.field.as_str(), one.reason.as_str())).collect();
        assert_eq!(listed, [(SIZE, TOO_LARGE), (STEPS, TOO_LARGE), (SEED, TOO_LARGE)]);
        assert_eq!(unmapped[1].value, "1234567890123456789012");
        assert_eq!((settings.num_inference_steps, settings.seed), (None, None));
        assert_eq!((settings.cfg_scale, settings.clip_skip), (Some(7.5), Some(1.0)));
    }

    #[test]
    fn values_that_are_none_are_listed() {
        let text = "Steps: many, Sampler: Heun, Seed: -1, Size: big, CFG scale: 7\nTemplate: {a|b}";
        let Found { settings, unmapped, .. } = read(text).unwrap();
        assert_eq!((settings.prompt.as_deref(), settings.cfg_scale), (Some(""), Some(7.0)));
        for field in [STEPS, SAMPLER, SEED, SIZE, "parameters"] {
            assert!(unmapped.iter().any(|one| one.field == field), "{field}: {unmapped:?}");
        }
        let of_seed = unmapped.iter().find(|one| one.field == SEED).unwrap();
        assert!(of_seed.reason.contains("random seed"), "{of_seed:?}");
        for text in ["", "a fox", "a: b, c: d, e: f", "Steps: 3", ",,::", "Steps: \"", "\u{0}:\u{0}"] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
