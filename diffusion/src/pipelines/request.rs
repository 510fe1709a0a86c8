//! What is asked of a pipeline, whatever its family, and what holds for all of them. What only some can do is refused by those
//! that cannot.

use std::ops::ControlFlow;
use std::path::Path;

use ::image::{GrayImage, RgbImage};
use burn::prelude::*;
use formats::Defaults;
use requests::GenerationParams;

use crate::image::{self, LONGEST_SIDE};
use crate::{Error, Result, prompt};

/// A request for pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct PictureRequest {
    /// What the pictures should show. Stable Diffusion reads weights in it ([`crate::prompt`]); FLUX takes all of it for text.
    pub prompt: String,
    /// What they should not show, where guidance away from something is on; its absence means "" or what the model has for it.
    pub negative_prompt: Option<String>,
    /// The picture to start from, of any size: it is stretched to `width` × `height` first.
    pub image: Option<RgbImage>,
    /// Where `image` is made anew: from 128 on, the rest stays. Of any size, stretched as the picture is.
    pub mask: Option<GrayImage>,
    /// How much of `image` is given up, 0 to 1: the share of the steps that are taken, at least one. Without `image` it says
    /// nothing.
    pub strength: f64,
    /// Pictures, made one after the other.
    pub num_images: usize,
    /// Steps from noise to a picture. PNDM calls the denoiser more often.
    pub num_inference_steps: usize,
    /// Stable Diffusion: classifier-free guidance, on above 1. FLUX: told to models with a guidance embedding; the others ignore
    /// it.
    pub guidance_scale: f64,
    /// FLUX: classifier-free guidance away from the negative prompt, two calls a step, on above 1.
    pub true_cfg_scale: f64,
    /// Stable Diffusion: how far guidance is brought back to the contrast of the answer without it, 0 to 1
    /// ([Lin et al. 2023](https://arxiv.org/abs/2305.08891), section 3.4).
    pub guidance_rescale: f64,
    /// The scheduler; the model's own if none is given. FLUX.1 takes `FlowMatchEuler` only, Stable Diffusion all others.
    pub scheduler: Option<formats::Scheduler>,
    /// Stable Diffusion: how many of the text encoder's last layers are left out for the prompt (not for the negative one, as in
    /// diffusers).
    pub clip_skip: Option<usize>,
    /// Pixels, a multiple of the pipeline's `size_multiple`.
    pub width: usize,
    /// Pixels, a multiple of the pipeline's `size_multiple`.
    pub height: usize,
    /// Picture `i` is made from `seed + i`, so it does not depend on the batch that it was in.
    pub seed: u64,
}

/// How far a request is. Pictures are made one after the other; steps count through all of them.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Denoising steps done, from 1.
    pub step: usize,
    /// Steps of one picture times the number of pictures.
    pub total_steps: usize,
    /// The picture at hand, from 0.
    pub position: usize,
    /// What the denoiser takes that picture for by now: clean latents, normalised, `[1, latent channels, height, width]`. For
    /// [`super::Previewer`].
    pub predicted_clean: &'a Tensor<4>,
}

/// Hears of every step and may break the request off.
pub type OnStep<'a> = &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>;

impl PictureRequest {
    /// A request that leaves everything out but the prompt and the seed.
    pub fn new(defaults: &Defaults, prompt: impl Into<String>, seed: u64) -> Self {
        Self {
            prompt: prompt.into(),
            negative_prompt: None,
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

    /// The request of `params`, with its pictures read from files. Errors: a file that is no picture.
    pub fn read<P: AsRef<Path>>(params: &GenerationParams<P>, seed: u64) -> Result<Self> {
        Ok(Self {
            prompt: params.prompt.clone(),
            negative_prompt: params.negative_prompt.clone(),
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

    /// Refuses what no family can do, with a sentence that names the field.
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

    /// How many layers of a text encoder are skipped, of those that may be the last one read.
    pub(super) fn skipped_layers(&self, layers: usize) -> Result<usize> {
        match self.clip_skip.unwrap_or(0) {
            skipped if skipped < layers => Ok(skipped),
            skipped => Err(Error::Invalid(format!("clip_skip is {skipped}, and has to be below {layers} here"))),
        }
    }

    /// The sentence for a strength that leaves no step of a denoising, where diffusers gives up too.
    pub(super) fn without_steps(&self) -> Error {
        let Self { strength, num_inference_steps, .. } = self;
        Error::Invalid(format!("strength {strength} leaves none of num_inference_steps {num_inference_steps}"))
    }
}
