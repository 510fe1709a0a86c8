//! Stable Diffusion 1 and 2 and their inpainting models: one CLIP text encoder, whose states the UNet reads. As diffusers'
//! `StableDiffusionPipeline`, `StableDiffusionImg2ImgPipeline` and `StableDiffusionInpaintPipeline`, for the same picture from the
//! same folder, prompt and seed; but prompts longer than one reading of the encoder are not cut off.

use std::path::Path;

use ::image::RgbImage;
use burn::prelude::*;
use formats::{Defaults, Family, Part};

use super::clip_prompt::ClipPrompt;
use super::latent_diffusion::{Conditions, Denoising, LatentDiffusion};
use super::parts::Parts;
use super::prompt_cache::{PromptCache, PromptKey};
use super::{LoadOptions, OnStep, PictureRequest};
use crate::device::weight_dtype;
use crate::lora::{self, LoraFile, MatchReport, Network};
use crate::networks::clip::ClipTextModel;
use crate::prompt::Chunk;
use crate::{Error, Result};

/// A loaded Stable Diffusion 1 or 2 checkpoint, ready to make pictures.
#[derive(Debug)]
pub struct StableDiffusionPipeline {
    /// 1.x or 2.x.
    pub(super) family: Family,
    prompts: ClipPrompt,
    read: PromptCache<Tensor<3>>,
    keeps_text_encoders: bool,
    latent_diffusion: LatentDiffusion,
    defaults: Defaults,
}

impl StableDiffusionPipeline {
    /// Loads a folder in diffusers' layout or a single file, strictly: a tensor that is missing, unused or of the wrong shape is
    /// an error. All sizes come from the `config.json` files, or from the tensors. The safety checker is not read.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        Self::load_with(path, device, LoadOptions::default())
    }

    /// The same, laid into memory in another way.
    pub fn load_with(path: &Path, device: &Device, options: LoadOptions) -> Result<Self> {
        let parts = Parts::open(path)?;
        let family = parts.family()?;
        let dtype = weight_dtype(device);
        let prompts = ClipPrompt::open(&parts, Part::TextEncoder, ClipTextModel::new, device, dtype)?;
        if options.keep_text_encoders {
            prompts.encoder.with(|_| ())?;
        }
        let (latent_diffusion, unet) = LatentDiffusion::load(&parts, device, dtype, options)?;
        let (read, told) = (unet.text_width(), prompts.config.hidden_size);
        if read != told || unet.addition_embed_type.is_some() {
            let reason =
                format!("the UNet reads prompts of width {read} for this text encoder's {told}, or more than a prompt");
            return Err(Error::malformed(path, reason));
        }
        let defaults = family.defaults(latent_diffusion.traits(&unet));
        Ok(Self {
            family,
            prompts,
            read: PromptCache::default(),
            keeps_text_encoders: options.keep_text_encoders,
            latent_diffusion,
            defaults: parts.defaults(defaults)?,
        })
    }

    /// Says whether text encoders stay loaded from now on.
    pub fn keep_text_encoders(&mut self, keep: bool) {
        self.keeps_text_encoders = keep;
        self.after_reading();
    }

    /// Whether the text encoder is loaded.
    pub fn has_text_encoders(&self) -> bool {
        self.prompts.encoder.is_present()
    }

    /// Lets the text encoder go, if it may not stay.
    fn after_reading(&self) {
        if !self.keeps_text_encoders {
            self.prompts.encoder.leave();
            self.latent_diffusion.device.memory_cleanup();
        }
    }

    /// What a request may leave out. Pictures are as large as those that the UNet was trained with.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// The part that denoises.
    pub fn latent_diffusion(&self) -> &LatentDiffusion {
        &self.latent_diffusion
    }

    /// Puts adapters on the UNet and the text encoder, each with its scale, in place of those that were on them; an empty list
    /// leaves the base as it was loaded. An adapter of which nothing fits is an error, and then nothing has changed.
    pub fn attach(&mut self, loras: &[(&LoraFile, f64)]) -> Result<Vec<MatchReport>> {
        let device = self.latent_diffusion.device.clone();
        let encoder = self.prompts.encoder.target(Network::TextEncoder, loras)?;
        let mut targets: Vec<_> = std::iter::once(self.latent_diffusion.target()).chain(encoder).collect();
        let reports = lora::attach(&mut targets, loras, &device)?;
        self.read.adapters_changed(&reports);
        Ok(reports)
    }

    /// Makes the pictures of a request. `on_step` hears of every step and may break it off: [`Error::Canceled`].
    pub fn generate(&self, request: &PictureRequest, on_step: OnStep) -> Result<Vec<RgbImage>> {
        self.latent_diffusion.generate(request, &self.prepare(request)?, on_step)
    }

    /// Checks a request and encodes its prompts and its picture: all that its pictures share.
    pub fn prepare(&self, request: &PictureRequest) -> Result<Denoising> {
        self.latent_diffusion.check(request)?;
        self.latent_diffusion.prepare(request, self.conditions(request)?)
    }

    /// What the UNet is told of a request: after the prompt's states the negative prompt's, if they guide.
    pub fn conditions(&self, request: &PictureRequest) -> Result<Conditions> {
        let negative = request.negative_prompt.as_deref().unwrap_or_default();
        let wanted = self.prompts.chunks(&request.prompt)?;
        let skipped = request.skipped_layers(self.prompts.config.num_hidden_layers)?;
        let mut hidden = Vec::with_capacity(2);
        if self.latent_diffusion.is_guided(request) {
            let unwanted = self.prompts.chunks(negative)?;
            let count = wanted.len().max(unwanted.len());
            // As in diffusers, the negative prompt is read by all layers whatever the other skips.
            hidden.push(self.encode(negative, unwanted, count, 0)?);
            hidden.push(self.encode(&request.prompt, wanted, count, skipped)?);
        } else {
            let count = wanted.len();
            hidden.push(self.encode(&request.prompt, wanted, count, skipped)?);
        }
        self.after_reading();
        Ok(Conditions { hidden: Tensor::cat(hidden, 0), added: None })
    }

    fn encode(&self, prompt: &str, chunks: Vec<Chunk>, count: usize, skipped: usize) -> Result<Tensor<3>> {
        let key = PromptKey { prompt: prompt.to_owned(), chunks: count, skipped };
        self.read.get_or(key, || {
            let states =
                self.prompts.encode(chunks, count, |encoder, output| Ok(encoder.final_norm(output.skipping(skipped)?)));
            Ok(states?.0)
        })
    }
}
