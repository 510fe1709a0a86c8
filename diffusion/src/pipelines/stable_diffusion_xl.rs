//! Stable Diffusion XL's base model and its inpainting model: two CLIP text encoders, whose states the UNet reads side by side,
//! and the pooled prompt and sizes, which it is told besides (Podell et al., <https://arxiv.org/abs/2307.01952>). As diffusers'
//! `StableDiffusionXLPipeline`, `StableDiffusionXLImg2ImgPipeline` and `StableDiffusionXLInpaintPipeline`, for the same picture from
//! the same folder, prompt and seed. The refiner does not belong here.

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
use crate::networks::unet::{self, AddedConditions};
use crate::{Error, Result};

/// Original height and width, crop from above and left, wanted height and width.
const TOLD_SIZES: usize = 6;

/// A loaded Stable Diffusion XL checkpoint, ready to make pictures.
#[derive(Debug)]
pub struct StableDiffusionXlPipeline {
    /// CLIP-L and OpenCLIP bigG, which also says what the prompt is as a whole.
    prompts: [ClipPrompt; 2],
    read: PromptCache<PromptEmbeddings>,
    keeps_text_encoders: bool,
    latent_diffusion: LatentDiffusion,
    defaults: Defaults,
    /// Whether no negative prompt means zeros rather than "".
    zeros_for_no_prompt: bool,
}

/// A prompt as the UNet is told it.
#[derive(Debug, Clone)]
struct PromptEmbeddings {
    /// Both encoders' states, `[1, length, both widths]`
    hidden: Tensor<3>,
    /// `[1, projection]`
    pooled: Tensor<2>,
}

impl StableDiffusionXlPipeline {
    /// Loads a folder in diffusers' layout or a single file, strictly: a tensor that is missing, unused or of the wrong shape is
    /// an error. All sizes come from the `config.json` files, or from the tensors.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        Self::load_with(path, device, LoadOptions::default())
    }

    /// The same, laid into memory in another way.
    pub fn load_with(path: &Path, device: &Device, options: LoadOptions) -> Result<Self> {
        let parts = Parts::open(path)?;
        let index = parts.index()?;
        if index.requires_aesthetics_score == Some(true) {
            return Err(Error::malformed(path, "this is the refiner of SDXL; only its base model makes pictures"));
        }
        let dtype = weight_dtype(device);
        let prompts = [
            ClipPrompt::open(&parts, Part::TextEncoder, ClipTextModel::new, device, dtype)?,
            ClipPrompt::open(&parts, Part::TextEncoder2, ClipTextModel::with_projection, device, dtype)?,
        ];
        if options.keep_text_encoders {
            prompts.iter().try_for_each(|prompt| prompt.encoder.with(|_| ()))?;
        }
        let (latent_diffusion, unet) = LatentDiffusion::load(&parts, device, dtype, options)?;
        check_widths(path, &prompts, &unet)?;
        let defaults = Family::Sdxl.defaults(latent_diffusion.traits(&unet));
        Ok(Self {
            prompts,
            read: PromptCache::default(),
            keeps_text_encoders: options.keep_text_encoders,
            latent_diffusion,
            defaults: parts.defaults(defaults)?,
            zeros_for_no_prompt: index.force_zeros_for_empty_prompt.unwrap_or(true),
        })
    }

    /// Says whether text encoders stay loaded from now on.
    pub fn keep_text_encoders(&mut self, keep: bool) {
        self.keeps_text_encoders = keep;
        self.after_reading();
    }

    /// Whether any text encoder is loaded.
    pub fn has_text_encoders(&self) -> bool {
        self.prompts.iter().any(|prompt| prompt.encoder.is_present())
    }

    /// Lets the text encoders go, if they may not stay.
    fn after_reading(&self) {
        if !self.keeps_text_encoders {
            self.prompts.iter().for_each(|prompt| prompt.encoder.leave());
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

    /// Puts adapters on the UNet and the text encoders, each with its scale, in place of those that were on them; an empty list
    /// leaves the base as it was loaded. An adapter of which nothing fits is an error, and then nothing has changed.
    pub fn attach(&mut self, loras: &[(&LoraFile, f64)]) -> Result<Vec<MatchReport>> {
        let device = self.latent_diffusion.device.clone();
        let [large, giant] = &mut self.prompts;
        let large = large.encoder.target(Network::TextEncoder, loras)?;
        let giant = giant.encoder.target(Network::TextEncoder2, loras)?;
        let encoders = large.into_iter().chain(giant);
        let mut targets: Vec<_> = std::iter::once(self.latent_diffusion.target()).chain(encoders).collect();
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

    /// What the UNet is told of a request: after the prompt's embeddings the negative prompt's, if they guide; and that the
    /// picture was never another size or cropped.
    pub fn conditions(&self, request: &PictureRequest) -> Result<Conditions> {
        let negative = request.negative_prompt.as_deref();
        let wanted = self.chunk_count(&request.prompt)?;
        let layers = self.prompts.iter().map(|prompt| prompt.config.num_hidden_layers).min().unwrap_or(0);
        let skipped = request.skipped_layers(layers.saturating_sub(1))?;
        let mut prompts = Vec::with_capacity(2);
        if !self.latent_diffusion.is_guided(request) {
            prompts.push(self.encode(&request.prompt, wanted, skipped)?);
        } else if negative.is_none() && self.zeros_for_no_prompt {
            let PromptEmbeddings { hidden, pooled } = self.encode(&request.prompt, wanted, skipped)?;
            prompts.push(PromptEmbeddings { hidden: hidden.zeros_like(), pooled: pooled.zeros_like() });
            prompts.push(PromptEmbeddings { hidden, pooled });
        } else {
            let negative = negative.unwrap_or_default();
            let count = wanted.max(self.chunk_count(negative)?);
            // As in diffusers, the negative prompt is read by all layers whatever the other skips.
            prompts.push(self.encode(negative, count, 0)?);
            prompts.push(self.encode(&request.prompt, count, skipped)?);
        }
        self.after_reading();
        let (height, width) = (request.height as f32, request.width as f32);
        let time_ids = vec![vec![height, width, 0.0, 0.0, height, width]; prompts.len()];
        let text_embeds = Tensor::cat(prompts.iter().map(|prompt| prompt.pooled.clone()).collect(), 0);
        let hidden = Tensor::cat(prompts.into_iter().map(|prompt| prompt.hidden).collect(), 0);
        Ok(Conditions { hidden, added: Some(AddedConditions { text_embeds, time_ids }) })
    }

    /// Chunks of a prompt, by the tokenizer that makes more of them.
    fn chunk_count(&self, prompt: &str) -> Result<usize> {
        let [large, giant] = &self.prompts;
        Ok(large.chunks(prompt)?.len().max(giant.chunks(prompt)?.len()))
    }

    /// The last layer of either encoder is never read, and none is normed.
    fn encode(&self, prompt: &str, count: usize, skipped: usize) -> Result<PromptEmbeddings> {
        let [large, giant] = &self.prompts;
        self.read.get_or(PromptKey { prompt: prompt.to_owned(), chunks: count, skipped }, || {
            let read = |encoder: &ClipPrompt| {
                encoder.encode(encoder.chunks(prompt)?, count, |_, output| output.skipping(skipped + 1))
            };
            let ((narrow, _), (wide, first)) = (read(large)?, read(giant)?);
            let pooled = first.and_then(|output| output.text_embeds);
            let pooled = pooled.ok_or_else(|| Error::Invalid("the second text encoder projects nothing".into()))?;
            Ok(PromptEmbeddings { hidden: Tensor::cat(vec![narrow, wide], 2), pooled })
        })
    }
}

/// The configs have to agree before anything is multiplied by anything.
fn check_widths(folder: &Path, [large, giant]: &[ClipPrompt; 2], unet: &unet::Config) -> Result<()> {
    let (told, channels) = unet.added().unwrap_or_default();
    let pairs = [
        (
            "both text encoders' widths and the UNet's cross_attention_dim",
            large.config.hidden_size + giant.config.hidden_size,
            unet.text_width(),
        ),
        (
            "the pooled prompt with six sizes and the UNet's projection_class_embeddings_input_dim",
            giant.config.projection_dim + TOLD_SIZES * channels,
            told,
        ),
    ];
    match pairs.iter().find(|(_, left, right)| left != right) {
        Some((what, left, right)) => Err(Error::malformed(folder, format!("{what} do not agree: {left} and {right}"))),
        None => Ok(()),
    }
}
