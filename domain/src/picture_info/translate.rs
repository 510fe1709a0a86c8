//! The values of a record as those of a request to a model. A value that the request could not have is listed instead.

use std::fmt::Display;
use std::ops::RangeInclusive;

use formats::{Family, Guidance, Scheduler};
use requests::recipe::{Program, Settings, Unmapped};
use requests::{PromptSyntax, generation_limits as limits, in_range};

use crate::Result;
use crate::generation::{GenerationRequest, MAX_PROMPT_CHARS, on_grid};
use crate::model::Model;

pub(super) struct Translation<'a> {
    pub program: Option<Program>,
    /// The model that the request is for.
    pub model: &'a Model,
    pub unmapped: Vec<Unmapped>,
}

impl Translation<'_> {
    /// The request without model and LoRAs. `image` and `mask` are ids.
    pub(super) fn request(
        &mut self,
        settings: Settings,
        image: Option<String>,
        mask: Option<String>,
    ) -> Result<GenerationRequest> {
        let family = self.model.family()?;
        let [width, height] = self.size(settings.width, settings.height);
        let steps = self.whole("num_inference_steps", settings.num_inference_steps, limits::STEPS);
        let (cfg_scale, distilled_scale) = (settings.cfg_scale, settings.distilled_scale);
        let (guidance_scale, true_cfg_scale) = match (family.guidance(), distilled_scale) {
            (Guidance::Distilled, scale) => (scale, cfg_scale),
            (Guidance::ClassifierFree, None) => (cfg_scale, None),
            (Guidance::ClassifierFree, Some(scale)) => {
                let reason = format!("It is an input of distilled models, which {family} does not have.");
                self.note::<()>("guidance_scale", scale, reason);
                (cfg_scale, None)
            }
        };
        let strength = self.strength(settings.strength, image.is_some(), steps, family);
        let prompt = match settings.prompt {
            Some(prompt) => self.prompt("prompt", Some(prompt)),
            None => self.note("prompt", "", "The prompt could not be read."),
        };
        Ok(GenerationRequest {
            prompt: prompt.filter(|text| !text.is_empty()).unwrap_or_else(|| {
                // A request has a prompt of at least one character; this one has no words either.
                " ".to_owned()
            }),
            negative_prompt: self.prompt("negative_prompt", settings.negative_prompt),
            prompt_syntax: settings.prompt_syntax.filter(|syntax| *syntax != PromptSyntax::default()),
            seed: settings.seed.and_then(|seed| match i64::try_from(seed) {
                Ok(seed) => Some(seed),
                Err(_) => self.note("seed", seed, format!("Seeds end at {}.", i64::MAX)),
            }),
            guidance_scale: self.within("guidance_scale", guidance_scale, limits::GUIDANCE),
            true_cfg_scale: self.within("true_cfg_scale", true_cfg_scale, limits::GUIDANCE),
            num_inference_steps: steps,
            width,
            height,
            scheduler: settings.scheduler.and_then(|name| self.scheduler(name, family)),
            clip_skip: self.clip_skip(settings.clip_skip, family),
            strength,
            image,
            mask,
            output_format: settings.output_format,
            output_quality: settings.output_quality,
            ..GenerationRequest::default()
        })
    }

    /// Lists a value. Returns nothing, in place of the value.
    fn note<T>(&mut self, field: &str, value: impl ToString, reason: impl Into<String>) -> Option<T> {
        self.unmapped.push(Unmapped::new(field, value, reason));
        None
    }

    fn within<T: PartialOrd + Display + Copy>(
        &mut self,
        field: &str,
        value: Option<T>,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        let value = value?;
        in_range(field, value, range).or_else(|error| self.note(field, value, error.message).ok_or(())).ok()
    }

    fn whole(&mut self, field: &str, value: Option<f64>, range: RangeInclusive<u32>) -> Option<u32> {
        let value = value?;
        if value.fract() != 0.0 {
            return self.note(field, value, "It is not a whole number.");
        }
        let value = self.within(field, Some(value), f64::from(*range.start())..=f64::from(*range.end()))?;
        self.within(field, Some(value as u32), range)
    }

    fn prompt(&mut self, field: &str, prompt: Option<String>) -> Option<String> {
        let prompt = prompt?.replace('\0', "");
        if prompt.chars().count() <= MAX_PROMPT_CHARS {
            return Some(prompt);
        }
        self.note(field, &prompt, format!("It is longer than {MAX_PROMPT_CHARS} characters."))
    }

    /// Both sides, or neither: the model's own other side would change the proportions. Each side that is left out is
    /// listed.
    fn size(&mut self, width: Option<f64>, height: Option<f64>) -> [Option<u32>; 2] {
        const ALONE: &str =
            "The other side is missing or not possible, and this one alone would change the proportions.";
        let mut side = |field: &str, pixels: Option<f64>| {
            let pixels = self.whole(field, pixels, limits::SIDES)?;
            match on_grid(field, pixels, self.model) {
                Ok(pixels) => Some(pixels),
                Err(error) => self.note(field, pixels, error.to_string()),
            }
        };
        match (side("width", width), side("height", height)) {
            (Some(width), None) => [self.note("width", width, ALONE), None],
            (None, Some(height)) => [None, self.note("height", height, ALONE)],
            both => both.into(),
        }
    }

    fn scheduler(&mut self, name: String, family: Family) -> Option<String> {
        let scheduler: Scheduler = match name.parse() {
            Ok(scheduler) => scheduler,
            Err(reason) => return self.note("scheduler", name, reason),
        };
        if family.takes(scheduler) {
            return Some(scheduler.as_str().to_owned());
        }
        // Other programs have no other name for the scheduler of flow matching, which is the model's own.
        if family.matches_flow() && scheduler == Scheduler::Euler {
            return None;
        }
        self.note("scheduler", name, format!("{family} does not support it; the model's own is used."))
    }

    fn clip_skip(&mut self, layers: Option<f64>, family: Family) -> Option<u32> {
        let layers = self.whole("clip_skip", layers, limits::CLIP_SKIP)?;
        if !family.skips_clip_layers() {
            return if layers == 0 {
                None
            } else {
                self.note("clip_skip", layers, format!("{family} skips no layers."))
            };
        }
        if self.program == Some(Program::A1111) && matches!(family, Family::Sd21 | Family::Sdxl) {
            return self.note("clip_skip", layers, format!("A1111 skips no layers of {family}."));
        }
        Some(layers)
    }

    fn strength(&mut self, strength: Option<f64>, has_image: bool, steps: Option<u32>, family: Family) -> Option<f64> {
        let strength = self.within("strength", strength, limits::STRENGTH)?;
        if !has_image {
            let reason = "It is about the picture that the generation started from; send that as `image`, too.";
            return self.note("strength", strength, reason);
        }
        let steps = steps.unwrap_or(self.model.defaults.num_inference_steps);
        if family.steps_taken(steps, strength) == 0 {
            return self.note("strength", strength, format!("It leaves none of {steps} steps."));
        }
        Some(strength)
    }
}
