//! Requests to a pipeline, with the checks that apply to all families. Each family rejects what it does not support.

use std::ops::ControlFlow;
use std::path::Path;

use ::image::{GrayImage, RgbImage};
use burn::prelude::*;
use formats::Defaults;
use memory::Picture;
use requests::{GenerationParams, PromptSyntax};

use crate::image::{self, LONGEST_SIDE};
use crate::{Error, Result, prompt};

/// A request for pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct PictureRequest {
    /// What the pictures should show. Stable Diffusion reads weights in it ([`crate::prompt`]); for FLUX it is plain
    /// text.
    pub prompt: String,
    /// What the pictures should not show, if classifier-free guidance is on. `None` means "" or the model's default.
    pub negative_prompt: Option<String>,
    /// Stable Diffusion: whether the prompts have weights and breaks. Neither holds tags of LoRAs.
    pub prompt_syntax: PromptSyntax,
    /// The picture to start from, of any size. It is stretched to `width` × `height`.
    pub image: Option<RgbImage>,
    /// Where `image` is repainted: values from 128 up; the rest is kept. Of any size; stretched like the picture.
    pub mask: Option<GrayImage>,
    /// Denoising strength, 0 to 1: how much of `image` may change, as the share of the steps that are run, at least
    /// one. Ignored without `image`.
    pub strength: f64,
    /// Number of pictures, made one after the other.
    pub num_images: usize,
    /// Denoising steps from noise to a picture. PNDM calls the denoiser more often.
    pub num_inference_steps: usize,
    /// Stable Diffusion: scale of classifier-free guidance, which is on above 1. FLUX: an input of models with a
    /// guidance embedding; other models ignore it.
    pub guidance_scale: f64,
    /// FLUX: scale of classifier-free guidance with the negative prompt, on above 1. It needs two denoiser calls per
    /// step.
    pub true_cfg_scale: f64,
    /// Stable Diffusion: how far the guided prediction is rescaled to the contrast of the unguided one, 0 to 1 ([Lin et
    /// al. 2023](https://arxiv.org/abs/2305.08891), section 3.4).
    pub guidance_rescale: f64,
    /// The scheduler; `None` means the model's own. FLUX.1 takes only `FlowMatchEuler`, Stable Diffusion all others.
    pub scheduler: Option<formats::Scheduler>,
    /// Stable Diffusion: how many of the text encoder's last layers are skipped for the prompt. As in diffusers, the
    /// negative prompt is not affected.
    pub clip_skip: Option<usize>,
    /// Width in pixels, a multiple of the pipeline's `size_multiple`.
    pub width: usize,
    /// Height in pixels, a multiple of the pipeline's `size_multiple`.
    pub height: usize,
    /// Picture `i` uses `seed + i`, so a picture does not depend on its batch.
    pub seed: u64,
}

/// The progress of a request. Pictures are made one after the other; steps count through all of them.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Finished denoising steps, from 1.
    pub step: usize,
    /// Steps per picture times the number of pictures.
    pub total_steps: usize,
    /// Index of the current picture, from 0.
    pub position: usize,
    /// The predicted x₀ of that picture: clean, normalised latents, `[1, latent channels, height, width]`, for
    /// [`super::Previewer`].
    pub predicted_clean: &'a Tensor<4>,
}

/// Called after every step; can cancel the request.
pub type OnStep<'a> = &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>;

impl From<&PictureRequest> for Picture {
    fn from(request: &PictureRequest) -> Self {
        let PictureRequest { width, height, num_images, guidance_scale, .. } = *request;
        Self { width, height, num_images, guidance_scale }
    }
}

impl PictureRequest {
    /// A request with only a prompt and a seed; everything else is a default.
    pub fn new(defaults: &Defaults, prompt: impl Into<String>, seed: u64) -> Self {
        Self {
            prompt: prompt.into(),
            negative_prompt: None,
            prompt_syntax: PromptSyntax::default(),
            image: None,
            mask: None,
            strength: defaults.strength,
            num_images: 1,
            num_inference_steps: defaults.num_inference_steps as usize,
            guidance_scale: defaults.guidance_scale,
            true_cfg_scale: defaults.true_cfg_scale,
            guidance_rescale: 0.0,
            scheduler: None,
            clip_skip: None,
            width: defaults.width as usize,
            height: defaults.height as usize,
            seed,
        }
    }

    /// The request for `params`, with its pictures read from files. Errors: a file is not a picture.
    pub fn read<P: AsRef<Path>>(params: &GenerationParams<P>, seed: u64) -> Result<Self> {
        Ok(Self {
            prompt: params.prompt_syntax.words(&params.prompt).into_owned(),
            negative_prompt: params.negative_prompt.clone(),
            prompt_syntax: params.prompt_syntax,
            image: params.image.as_ref().map(|file| image::read(file.as_ref())).transpose()?,
            mask: params.mask.as_ref().map(|file| image::read_mask(file.as_ref())).transpose()?,
            strength: params.strength.unwrap_or(1.0),
            num_images: params.num_images as usize,
            num_inference_steps: params.num_inference_steps as usize,
            guidance_scale: params.guidance_scale,
            true_cfg_scale: params.true_cfg_scale,
            guidance_rescale: 0.0,
            scheduler: params.scheduler,
            clip_skip: params.clip_skip.map(|layers| layers as usize),
            width: params.width as usize,
            height: params.height as usize,
            seed,
        })
    }

    /// Rejects what no family supports, with a sentence that names the field.
    pub(super) fn check(&self, size_multiple: usize) -> Result<()> {
        for (name, side) in [("width", self.width), ("height", self.height)] {
            if side == 0 || side % size_multiple != 0 {
                return Err(Error::Invalid(format!("{name} is {side}, and has to be a multiple of {size_multiple}")));
            }
            if side > LONGEST_SIDE as usize {
                return Err(Error::Invalid(format!("{name} is {side}, and may be {LONGEST_SIDE}")));
            }
        }
        if self.num_images == 0 || self.num_inference_steps == 0 {
            return Err(Error::Invalid("num_images and num_inference_steps have to be at least 1".into()));
        }
        for (name, value) in [("strength", self.strength), ("guidance_rescale", self.guidance_rescale)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::Invalid(format!("{name} is {value}, and has to be from 0 to 1")));
            }
        }
        for (name, value) in [("guidance_scale", self.guidance_scale), ("true_cfg_scale", self.true_cfg_scale)] {
            if !value.is_finite() {
                return Err(Error::Invalid(format!("{name} is {value}, and has to be a number")));
            }
        }
        if self.mask.is_some() && self.image.is_none() {
            return Err(Error::Invalid("mask is given without an image to repaint".into()));
        }
        let sizes = [
            ("image", self.image.as_ref().map(RgbImage::dimensions)),
            ("mask", self.mask.as_ref().map(GrayImage::dimensions)),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| size.is_some_and(|(wide, high)| wide == 0 || high == 0))
        {
            return Err(Error::Invalid(format!("{name} has no pixels")));
        }
        prompt::check_length("prompt", &self.prompt)?;
        prompt::check_length("negative_prompt", self.negative_prompt.as_deref().unwrap_or_default())
    }

    /// Number of skipped layers of a text encoder, of which `layers` can be the last one used.
    pub(super) fn skipped_layers(&self, layers: usize) -> Result<usize> {
        match self.clip_skip.unwrap_or(0) {
            skipped if skipped < layers => Ok(skipped),
            skipped => Err(Error::Invalid(format!("clip_skip is {skipped}, and has to be below {layers} here"))),
        }
    }

    /// The error if the request names no scheduler, and the checkpoint's own does not run for this reason.
    pub(super) fn without_scheduler(&self, reason: &str) -> Error {
        Error::Invalid(format!("scheduler has to be named, since the checkpoint's own does not run: {reason}"))
    }

    /// The error for a strength that leaves no denoising steps. diffusers rejects it too.
    pub(super) fn without_steps(&self) -> Error {
        let Self { strength, num_inference_steps, .. } = self;
        Error::Invalid(format!("strength {strength} leaves none of num_inference_steps {num_inference_steps}"))
    }
}
