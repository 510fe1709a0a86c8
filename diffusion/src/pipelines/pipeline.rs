//! The common interface of all families.

use std::path::Path;

use ::image::RgbImage;
use burn::prelude::*;
use formats::{Defaults, Family};
use memory::{Keep, LoadOptions};

use super::flux::FluxPipeline;
use super::parts::Parts;
use super::stable_diffusion::StableDiffusionPipeline;
use super::stable_diffusion_xl::StableDiffusionXlPipeline;
use super::{OnStep, PictureRequest, Previewer};
use crate::Result;
use crate::checkpoint::Reading;
use crate::lora::{LoraFile, MatchReport};
use crate::networks::vae::Autoencoder;

/// A loaded checkpoint of any family, ready to make pictures.
#[derive(Debug)]
pub enum Pipeline {
    Flux(Box<FluxPipeline>),
    StableDiffusion(Box<StableDiffusionPipeline>),
    StableDiffusionXl(Box<StableDiffusionXlPipeline>),
}

impl Pipeline {
    /// Loads a folder in diffusers' layout, whose `model_index.json` names the family, or the file of a denoiser. The
    /// other parts are in that file or next to it: `text_encoder.safetensors`, `vae.safetensors` and so on, or `vae/`
    /// as in diffusers' layout. A class for one kind of request, such as `FluxInpaintPipeline`, also names the
    /// family; the kind depends on the request alone.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        Self::load_with(folder, device, LoadOptions::default())
    }

    /// Like [`Self::load`], with options for memory use.
    pub fn load_with(folder: &Path, device: &Device, options: LoadOptions) -> Result<Self> {
        Self::load_followed(folder, device, options, &Reading::default())
    }

    /// Like [`Self::load_with`]. `reading` follows all reading of weights: now, and whenever a network is loaded again.
    ///
    /// # Errors
    /// [`Error::Canceled`](crate::Error::Canceled) if `reading` ends it.
    pub fn load_followed(folder: &Path, device: &Device, options: LoadOptions, reading: &Reading) -> Result<Self> {
        let parts = Parts::open(folder, reading)?;
        Ok(match parts.family()? {
            Family::Flux => Self::Flux(Box::new(FluxPipeline::load_parts(&parts, device, options)?)),
            Family::Sd15 | Family::Sd21 => {
                Self::StableDiffusion(Box::new(StableDiffusionPipeline::load_parts(&parts, device, options)?))
            }
            Family::Sdxl => {
                Self::StableDiffusionXl(Box::new(StableDiffusionXlPipeline::load_parts(&parts, device, options)?))
            }
        })
    }

    /// The family of the checkpoint.
    pub fn family(&self) -> Family {
        match self {
            Self::Flux(_) => Family::Flux,
            Self::StableDiffusion(pipeline) => pipeline.family,
            Self::StableDiffusionXl(_) => Family::Sdxl,
        }
    }

    /// A request with only a prompt and a seed.
    pub fn request(&self, prompt: impl Into<String>, seed: u64) -> PictureRequest {
        PictureRequest::new(self.defaults(), prompt, seed)
    }

    /// Defaults for the optional fields of a request.
    pub fn defaults(&self) -> &Defaults {
        match self {
            Self::Flux(pipeline) => pipeline.defaults(),
            Self::StableDiffusion(pipeline) => pipeline.defaults(),
            Self::StableDiffusionXl(pipeline) => pipeline.defaults(),
        }
    }

    /// Width and height of a picture are multiples of this many pixels.
    pub fn size_multiple(&self) -> usize {
        match self {
            Self::Flux(pipeline) => pipeline.size_multiple(),
            Self::StableDiffusion(pipeline) => pipeline.latent_diffusion().size_multiple(),
            Self::StableDiffusionXl(pipeline) => pipeline.latent_diffusion().size_multiple(),
        }
    }

    /// A1111's name of the solver that is used when a request names none.
    pub fn solver(&self) -> String {
        match self {
            Self::Flux(_) => "Euler".into(),
            Self::StableDiffusion(pipeline) => pipeline.latent_diffusion().solver(),
            Self::StableDiffusionXl(pipeline) => pipeline.latent_diffusion().solver(),
        }
    }

    /// Attaches adapters to the networks, each with its scale, replacing the current ones. An empty list restores the
    /// base model. An adapter that matches no layer is an error, and then nothing changes.
    pub fn attach(&mut self, loras: &[(&LoraFile, f64)]) -> Result<Vec<MatchReport>> {
        match self {
            Self::Flux(pipeline) => pipeline.attach(loras),
            Self::StableDiffusion(pipeline) => pipeline.attach(loras),
            Self::StableDiffusionXl(pipeline) => pipeline.attach(loras),
        }
    }

    /// Sets which networks stay loaded from now on.
    pub fn keep(&mut self, keep: Keep) {
        match self {
            Self::Flux(pipeline) => pipeline.keep(keep),
            Self::StableDiffusion(pipeline) => pipeline.keep(keep),
            Self::StableDiffusionXl(pipeline) => pipeline.keep(keep),
        }
    }

    /// Whether any text encoder is loaded.
    pub fn has_text_encoders(&self) -> bool {
        match self {
            Self::Flux(pipeline) => pipeline.has_text_encoders(),
            Self::StableDiffusion(pipeline) => pipeline.has_text_encoders(),
            Self::StableDiffusionXl(pipeline) => pipeline.has_text_encoders(),
        }
    }

    /// The previewer of a request: the tiny autoencoder in the file `vae_approx`, or, if there is none for these
    /// latents, a linear map that is fitted to the checkpoint's autoencoder.
    ///
    /// # Errors
    /// `vae_approx` is not a tiny autoencoder.
    pub fn previewer(&self, vae_approx: Option<&Path>) -> Result<Previewer> {
        let device = match self {
            Self::Flux(pipeline) => &pipeline.device,
            Self::StableDiffusion(pipeline) => &pipeline.latent_diffusion().device,
            Self::StableDiffusionXl(pipeline) => &pipeline.latent_diffusion().device,
        };
        if let Some(file) = vae_approx
            && let Some(previewer) = Previewer::load(file, self.autoencoder(), device)?
        {
            return Ok(previewer);
        }
        Previewer::fit(self.autoencoder(), device)
    }

    /// The autoencoder between pictures and latents.
    pub fn autoencoder(&self) -> &Autoencoder {
        match self {
            Self::Flux(pipeline) => &pipeline.vae,
            Self::StableDiffusion(pipeline) => &pipeline.latent_diffusion().vae,
            Self::StableDiffusionXl(pipeline) => &pipeline.latent_diffusion().vae,
        }
    }

    /// Notes for the user about settings of a request that have less effect than they name, or none.
    pub fn notes(&self, request: &PictureRequest) -> Result<Vec<String>> {
        match self {
            Self::Flux(pipeline) => pipeline.notes(request),
            Self::StableDiffusion(pipeline) => Ok(pipeline.latent_diffusion().notes(request)),
            Self::StableDiffusionXl(pipeline) => Ok(pipeline.latent_diffusion().notes(request)),
        }
    }

    /// Makes the pictures of a request. `on_step` is called after every step and can cancel: [`Error::Canceled`].
    pub fn generate(&self, request: &PictureRequest, on_step: OnStep) -> Result<Vec<RgbImage>> {
        match self {
            Self::Flux(pipeline) => pipeline.generate(request, on_step),
            Self::StableDiffusion(pipeline) => pipeline.generate(request, on_step),
            Self::StableDiffusionXl(pipeline) => pipeline.generate(request, on_step),
        }
    }
}
