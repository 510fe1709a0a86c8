//! Stable Diffusion 1 and 2 and their inpainting models: one CLIP text encoder conditions the UNet. Reproduces
//! diffusers' `StableDiffusionPipeline`, `StableDiffusionImg2ImgPipeline` and `StableDiffusionInpaintPipeline`: the
//! same folder, prompt and seed give the same picture. Unlike there, long prompts are split into chunks instead of
//! truncated.

use std::path::Path;

use ::image::RgbImage;
use burn::prelude::*;
use formats::networks::agreement;
use formats::{Defaults, Family, Part};
use memory::{Keep, LoadOptions};
use requests::PromptSyntax;

use super::clip_prompt::ClipPrompt;
use super::latent_diffusion::{Conditions, Denoising, LatentDiffusion};
use super::parts::Parts;
use super::prompt_cache::{PromptCache, PromptKey};
use super::{OnStep, PictureRequest};
use crate::checkpoint::Reading;
use crate::device::weight_dtype;
use crate::lora::{self, LoraFile, MatchReport, Network};
use crate::networks::clip::ClipTextModel;
use crate::prompt::Chunk;
use crate::{Error, Result};

/// A loaded Stable Diffusion 1 or 2 checkpoint, ready to make pictures.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion.py#L780-L1107>
#[derive(Debug)]
pub struct StableDiffusionPipeline {
    /// 1.x or 2.x.
    pub(super) family: Family,
    prompts: ClipPrompt,
    read: PromptCache<Tensor<3>>,
    keep: Keep,
    text_on_host: bool,
    latent_diffusion: LatentDiffusion,
    defaults: Defaults,
}

impl StableDiffusionPipeline {
    /// Loads a folder in diffusers' layout or a single file. Loading is strict: a missing, unused or wrongly shaped
    /// tensor is an error. All sizes come from the `config.json` files, or from the tensors. The safety checker is
    /// not loaded.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        Self::load_parts(&Parts::open(path, &Reading::default())?, device, LoadOptions::default())
    }

    pub(super) fn load_parts(parts: &Parts, device: &Device, options: LoadOptions) -> Result<Self> {
        let family = parts.family()?;
        let dtype = weight_dtype(device);
        let prompts = ClipPrompt::open(parts, Part::TextEncoder, ClipTextModel::new, (device, dtype), options)?;
        let text_stays = options.keep == Keep::All || options.text_on_host;
        let _stage = parts.reading().stage();
        if text_stays {
            parts.reading().expect(prompts.encoder.bytes());
        }
        let (latent_diffusion, unet) = LatentDiffusion::load(parts, device, dtype, options)?;
        let disagreement = |reason| Error::malformed(parts.path(), reason);
        agreement::stable_diffusion(&unet, &prompts.config).map_err(disagreement)?;
        if text_stays {
            prompts.encoder.with(|_| ())?;
        }
        let defaults = family.defaults(latent_diffusion.traits(&unet));
        Ok(Self {
            family,
            prompts,
            read: PromptCache::default(),
            keep: options.keep,
            text_on_host: options.text_on_host,
            latent_diffusion,
            defaults: parts.defaults(defaults)?,
        })
    }

    /// Sets which networks stay loaded from now on.
    pub fn keep(&mut self, keep: Keep) {
        self.keep = keep;
        self.latent_diffusion.keep(keep);
        self.after_reading();
    }

    /// Whether the text encoder is loaded.
    pub fn has_text_encoders(&self) -> bool {
        self.prompts.encoder.is_loaded()
    }

    /// Unloads the text encoder unless it is kept.
    fn after_reading(&self) {
        if self.keep > Keep::All && !self.text_on_host {
            self.prompts.encoder.unload();
            self.latent_diffusion.device.memory_cleanup();
        }
    }

    /// Defaults for the optional fields of a request. Pictures have the size that the UNet was trained with.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// The denoising part.
    pub fn latent_diffusion(&self) -> &LatentDiffusion {
        &self.latent_diffusion
    }

    /// Attaches adapters to the UNet and the text encoder, each with its scale, replacing the current ones. An empty
    /// list restores the base model. An adapter that matches no layer is an error, and then nothing changes.
    pub fn attach(&mut self, loras: &[(&LoraFile, f64)]) -> Result<Vec<MatchReport>> {
        let device = self.latent_diffusion.device.clone();
        let mut targets = [self.latent_diffusion.target(), self.prompts.encoder.target(Network::TextEncoder)];
        let reports = lora::attach(&mut targets, loras, &device)?;
        self.latent_diffusion.adapt();
        self.prompts.encoder.adapt();
        self.read.adapters_changed(&reports);
        Ok(reports)
    }

    /// Makes the pictures of a request. `on_step` is called after every step and can cancel: [`Error::Canceled`].
    pub fn generate(&self, request: &PictureRequest, on_step: OnStep) -> Result<Vec<RgbImage>> {
        self.latent_diffusion.generate(request, &self.prepare(request)?, on_step)
    }

    /// Validates a request and encodes its prompts and picture: everything that its pictures share.
    pub fn prepare(&self, request: &PictureRequest) -> Result<Denoising> {
        self.latent_diffusion.check(request)?;
        self.latent_diffusion.prepare(request, self.conditions(request)?)
    }

    /// The UNet's conditions for a request: the negative prompt's states, if guidance is used, and the prompt's.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion.py#L332-L512>
    pub fn conditions(&self, request: &PictureRequest) -> Result<Conditions> {
        let negative = request.negative_prompt.as_deref().unwrap_or_default();
        let wanted = self.prompts.chunks(&request.prompt, request.prompt_syntax)?;
        let skipped = request.skipped_layers(self.prompts.config.num_hidden_layers)?;
        let mut hidden = Vec::with_capacity(2);
        if self.latent_diffusion.is_guided(request) {
            let unwanted = self.prompts.chunks(negative, request.prompt_syntax)?;
            let count = wanted.len().max(unwanted.len());
            // As in diffusers, `clip_skip` does not apply to the negative prompt.
            hidden.push(self.encode((negative, request.prompt_syntax), unwanted, count, 0)?);
            hidden.push(self.encode((&request.prompt, request.prompt_syntax), wanted, count, skipped)?);
        } else {
            let count = wanted.len();
            hidden.push(self.encode((&request.prompt, request.prompt_syntax), wanted, count, skipped)?);
        }
        self.after_reading();
        Ok(Conditions { hidden: Tensor::cat(hidden, 0), added: None })
    }

    fn encode(
        &self,
        (prompt, syntax): (&str, PromptSyntax),
        chunks: Vec<Chunk>,
        count: usize,
        skipped: usize,
    ) -> Result<Tensor<3>> {
        let key = PromptKey { prompt: prompt.to_owned(), syntax, chunks: count, skipped };
        self.read.get_or(key, || {
            self.latent_diffusion.before_reading();
            let states =
                self.prompts.encode(chunks, count, |encoder, output| Ok(encoder.final_norm(output.skipping(skipped)?)));
            Ok(states?.0)
        })
    }
}
