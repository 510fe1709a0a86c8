//! Stable Diffusion XL's base model and its inpainting model. The UNet is conditioned on the concatenated states of
//! two CLIP text encoders, the pooled prompt and sizes (Podell et al., <https://arxiv.org/abs/2307.01952>).
//! Reproduces diffusers' `StableDiffusionXLPipeline`, `StableDiffusionXLImg2ImgPipeline` and
//! `StableDiffusionXLInpaintPipeline`: the same folder, prompt and seed give the same picture. The refiner is not
//! supported.

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
use crate::networks::unet::AddedConditions;
use crate::{Error, Result};

/// A loaded Stable Diffusion XL checkpoint, ready to make pictures.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py#L823-L1308>
#[derive(Debug)]
pub struct StableDiffusionXlPipeline {
    /// CLIP-L and OpenCLIP bigG; the latter also gives the pooled prompt.
    prompts: [ClipPrompt; 2],
    read: PromptCache<PromptEmbeddings>,
    keep: Keep,
    text_on_host: bool,
    latent_diffusion: LatentDiffusion,
    defaults: Defaults,
    /// Whether the embedding of an absent negative prompt is zeros instead of that of "".
    zeros_for_no_prompt: bool,
}

/// The embeddings of a prompt.
#[derive(Debug, Clone)]
struct PromptEmbeddings {
    /// Both encoders' states, `[1, length, both widths]`
    hidden: Tensor<3>,
    /// `[1, projection]`
    pooled: Tensor<2>,
}

impl StableDiffusionXlPipeline {
    /// Loads a folder in diffusers' layout or a single file. Loading is strict: a missing, unused or wrongly shaped
    /// tensor is an error. All sizes come from the `config.json` files, or from the tensors.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        Self::load_parts(&Parts::open(path, &Reading::default())?, device, LoadOptions::default())
    }

    pub(super) fn load_parts(parts: &Parts, device: &Device, options: LoadOptions) -> Result<Self> {
        let path = parts.path();
        let index = parts.index()?;
        if index.requires_aesthetics_score == Some(true) {
            return Err(Error::malformed(path, "this is the refiner of SDXL; only its base model makes pictures"));
        }
        let dtype = weight_dtype(device);
        let prompts = [
            ClipPrompt::open(parts, Part::TextEncoder, ClipTextModel::new, (device, dtype), options)?,
            ClipPrompt::open(parts, Part::TextEncoder2, ClipTextModel::with_projection, (device, dtype), options)?,
        ];
        let texts_stay = options.keep == Keep::All || options.text_on_host;
        let _stage = parts.reading().stage();
        if texts_stay {
            parts.reading().expect(prompts.iter().map(|prompt| prompt.encoder.bytes()).sum());
        }
        let (latent_diffusion, unet) = LatentDiffusion::load(parts, device, dtype, options)?;
        let [large, giant] = &prompts;
        agreement::stable_diffusion_xl(&unet, [&large.config, &giant.config])
            .map_err(|reason| Error::malformed(path, reason))?;
        if texts_stay {
            prompts.iter().try_for_each(|prompt| prompt.encoder.with(|_| ()))?;
        }
        let defaults = Family::Sdxl.defaults(latent_diffusion.traits(&unet));
        Ok(Self {
            prompts,
            read: PromptCache::default(),
            keep: options.keep,
            text_on_host: options.text_on_host,
            latent_diffusion,
            defaults: parts.defaults(defaults)?,
            zeros_for_no_prompt: index.force_zeros_for_empty_prompt.unwrap_or(true),
        })
    }

    /// Sets which networks stay loaded from now on.
    pub fn keep(&mut self, keep: Keep) {
        self.keep = keep;
        self.latent_diffusion.keep(keep);
        self.after_reading();
    }

    /// Whether any text encoder is loaded.
    pub fn has_text_encoders(&self) -> bool {
        self.prompts.iter().any(|prompt| prompt.encoder.is_loaded())
    }

    /// Unloads the text encoders unless they are kept.
    fn after_reading(&self) {
        if self.keep > Keep::All && !self.text_on_host {
            self.prompts.iter().for_each(|prompt| prompt.encoder.unload());
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

    /// Attaches adapters to the UNet and the text encoders, each with its scale, replacing the current ones. An empty
    /// list restores the base model. An adapter that matches no layer is an error, and then nothing changes.
    pub fn attach(&mut self, loras: &[(&LoraFile, f64)]) -> Result<Vec<MatchReport>> {
        let device = self.latent_diffusion.device.clone();
        let [large, giant] = &mut self.prompts;
        let mut targets = [
            self.latent_diffusion.target(),
            large.encoder.target(Network::TextEncoder),
            giant.encoder.target(Network::TextEncoder2),
        ];
        let reports = lora::attach(&mut targets, loras, &device)?;
        self.latent_diffusion.adapt();
        self.prompts.iter_mut().for_each(|prompt| prompt.encoder.adapt());
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

    /// The UNet's conditions for a request: the embeddings of the negative prompt, if guidance is used, and of the
    /// prompt. The size conditions state that the picture was neither resized nor cropped.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py#L729-L745>
    pub fn conditions(&self, request: &PictureRequest) -> Result<Conditions> {
        let (negative, syntax) = (request.negative_prompt.as_deref(), request.prompt_syntax);
        let wanted = self.chunk_count(&request.prompt, syntax)?;
        let layers = self.prompts.iter().map(|prompt| prompt.config.num_hidden_layers).min().unwrap_or(0);
        let skipped = request.skipped_layers(layers.saturating_sub(1))?;
        let mut prompts = Vec::with_capacity(2);
        if !self.latent_diffusion.is_guided(request) {
            prompts.push(self.encode((&request.prompt, syntax), wanted, skipped)?);
        } else if negative.is_none() && self.zeros_for_no_prompt {
            let PromptEmbeddings { hidden, pooled } = self.encode((&request.prompt, syntax), wanted, skipped)?;
            prompts.push(PromptEmbeddings { hidden: hidden.zeros_like(), pooled: pooled.zeros_like() });
            prompts.push(PromptEmbeddings { hidden, pooled });
        } else {
            let negative = negative.unwrap_or_default();
            let count = wanted.max(self.chunk_count(negative, syntax)?);
            // As in diffusers, `clip_skip` does not apply to the negative prompt.
            prompts.push(self.encode((negative, syntax), count, 0)?);
            prompts.push(self.encode((&request.prompt, syntax), count, skipped)?);
        }
        self.after_reading();
        let (height, width) = (request.height as f32, request.width as f32);
        let time_ids = vec![vec![height, width, 0.0, 0.0, height, width]; prompts.len()];
        let text_embeds = Tensor::cat(prompts.iter().map(|prompt| prompt.pooled.clone()).collect(), 0);
        let hidden = Tensor::cat(prompts.into_iter().map(|prompt| prompt.hidden).collect(), 0);
        Ok(Conditions { hidden, added: Some(AddedConditions { text_embeds, time_ids }) })
    }

    /// Number of chunks of a prompt, by the tokenizer that needs more of them.
    fn chunk_count(&self, prompt: &str, syntax: PromptSyntax) -> Result<usize> {
        let [large, giant] = &self.prompts;
        Ok(large.chunks(prompt, syntax)?.len().max(giant.chunks(prompt, syntax)?.len()))
    }

    /// Encodes a prompt. The last layer of both encoders is never used, and the final norm is not applied.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py#L283-L519>
    fn encode(&self, (prompt, syntax): (&str, PromptSyntax), count: usize, skipped: usize) -> Result<PromptEmbeddings> {
        let [large, giant] = &self.prompts;
        self.read.get_or(PromptKey { prompt: prompt.to_owned(), syntax, chunks: count, skipped }, || {
            self.latent_diffusion.before_reading();
            let read = |encoder: &ClipPrompt| {
                encoder.encode(encoder.chunks(prompt, syntax)?, count, |_, output| output.skipping(skipped + 1))
            };
            let ((narrow, _), (wide, pooled)) = (read(large)?, read(giant)?);
            let pooled = pooled.ok_or_else(|| Error::Invalid("the second text encoder projects nothing".into()))?;
            Ok(PromptEmbeddings { hidden: Tensor::cat(vec![narrow, wide], 2), pooled })
        })
    }
}
