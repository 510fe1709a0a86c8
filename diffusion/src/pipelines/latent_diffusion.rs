//! What Stable Diffusion's families have in common: a UNet that denoises latents under classifier-free guidance, from noise, from
//! a picture, or around a mask, step by step as diffusers does it on the CPU. How prompts become conditions differs from family
//! to family.
//!
//! Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", <https://arxiv.org/abs/2112.10752>; guidance
//! from Ho and Salimans, "Classifier-Free Diffusion Guidance", <https://arxiv.org/abs/2207.12598>.

use std::ops::ControlFlow;

use ::image::RgbImage;
use burn::prelude::*;
use burn::tensor::DType;
use formats::{Part, Traits};

use super::parts::Parts;
use super::{LoadOptions, OnStep, Original, PictureRequest, Progress, repaint};
use crate::checkpoint::load_strict;
use crate::image;
use crate::layers::sinusoidal;
use crate::lora::{Network, Target};
use crate::networks::unet::{self, AddedConditions, NamedLayers, UNet2DConditionModel};
use crate::networks::vae::{self, Autoencoder};
use crate::noise::Noise;
use crate::schedulers::{self, Sampling, Scheduler};
use crate::{Error, Result};

/// UNet, autoencoder and scheduler of a checkpoint.
#[derive(Debug)]
pub struct LatentDiffusion {
    pub(super) device: Device,
    pub(super) dtype: DType,
    pub(super) unet: UNet2DConditionModel,
    pub(super) vae: Autoencoder,
    scheduler: schedulers::Config,
    latent_channels: usize,
    /// Whether the UNet sees the mask and the rest of the picture beside the latents: 9 channels for 4.
    repaints: bool,
    /// The width of the embedded guidance scale of a UNet that was distilled to be told it, in place of two calls
    /// (Luo et al., "Latent Consistency Models", <https://arxiv.org/abs/2310.04378>).
    guidance_channels: Option<usize>,
}

/// What the UNet is told in every call.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// The prompt, `[1, length, cross_attention_dim]`, with guidance preceded by the negative one: `[2, …]`
    pub hidden: Tensor<3>,
    /// The same for what SDXL is told besides.
    pub added: Option<AddedConditions>,
}

/// What stays the same through the denoising of all pictures of a request.
#[derive(Debug, Clone)]
pub struct Denoising {
    conditions: Conditions,
    guidance: Option<Guidance>,
    /// The guidance scale as the UNet is told it: `[1, guidance channels]`
    told_guidance: Option<Tensor<2>>,
    sampling: Sampling,
    original: Option<Original>,
    strength: f64,
    /// Height and width in latents.
    size: [usize; 2],
}

#[derive(Debug, Clone, Copy)]
struct Guidance {
    scale: f64,
    rescale: f64,
}

/// Where the denoising of one picture starts.
#[derive(Debug, Clone)]
pub struct Start {
    /// `[1, latent channels, height, width]`
    pub latents: Tensor<4>,
    /// The generator that made them, for the steps that draw too.
    noise: Noise,
    /// What stays where nothing is made anew, if the UNet does not see to it itself.
    kept: Option<Kept>,
    /// What the UNet sees beside the latents: mask and latents of the rest of the picture.
    seen: Option<Tensor<4>>,
}

#[derive(Debug, Clone)]
struct Kept {
    mask: Tensor<4>,
    clean: Tensor<4>,
    noise: Tensor<4>,
}

impl LatentDiffusion {
    /// Loads its parts strictly, and gives the UNet's config back for the family to check.
    pub(super) fn load(
        parts: &Parts,
        device: &Device,
        dtype: DType,
        options: LoadOptions,
    ) -> Result<(Self, unet::Config)> {
        let (unet_config, unet_weights): (unet::Config, _) = parts.network(Part::Unet)?;
        let (vae_config, vae_weights): (vae::Config, _) = parts.network(Part::Vae)?;
        unet_config.check()?;
        vae_config.check()?;
        let latent = vae_config.latent_channels;
        let repaints = unet_config.in_channels == 2 * latent + 1;
        let fits = (repaints || unet_config.in_channels == latent) && unet_config.out_channels == latent;
        if !fits {
            let unet::Config { in_channels, out_channels, .. } = unet_config;
            let reason =
                format!("no pipeline has a UNet from {in_channels} to {out_channels} channels for {latent} latents");
            return Err(Error::malformed(parts.path(), reason));
        }
        vae_config.check_colours(parts.path())?;
        let mut scheduler = parts.scheduler()?;
        if unet_config.addition_embed_type.is_none() {
            scheduler.repair_first_models(repaints);
        }
        let mut unet = UNet2DConditionModel::new(&unet_config, device);
        options.store(unet.linears(), device);
        // In f32 whatever the rest is: it overflows in half precision (`force_upcast`), and is small.
        let vae = Autoencoder::new(&vae_config, device);
        let loaded = Self {
            device: device.clone(),
            dtype,
            unet: load_strict(unet, &unet_weights, dtype)?,
            vae: load_strict(vae, &vae_weights, DType::F32)?,
            scheduler,
            latent_channels: latent,
            repaints,
            guidance_channels: unet_config.time_cond_proj_dim,
        };
        Ok((loaded, unet_config))
    }

    /// What A1111 calls the checkpoint's own solver; its class in diffusers, if it is none that runs here.
    pub fn solver(&self) -> String {
        let own = Scheduler::from_config(self.scheduler.clone());
        own.map_or_else(|_| self.scheduler.class_name.clone(), |scheduler| scheduler.title())
    }

    /// What the defaults of the checkpoint depend on, with the UNet's config.
    pub(super) fn traits(&self, unet: &unet::Config) -> Traits {
        Traits {
            guidance_embedded: unet.time_cond_proj_dim.is_some(),
            sample_size: unet.sample_size.map(|side| side as u64),
            vae_factor: Some(self.vae.factor() as u32),
        }
    }

    /// Width and height of a picture are multiples of this many pixels.
    pub fn size_multiple(&self) -> usize {
        self.vae.factor()
    }

    /// What adapters may hang on in the UNet.
    pub(super) fn target(&mut self) -> Target<'_> {
        let NamedLayers { linears, convolutions } = self.unet.layers();
        Target::new(Network::Unet, linears).with_convolutions(convolutions)
    }

    /// Refuses what these families cannot do, before anything is computed.
    pub(super) fn check(&self, request: &PictureRequest) -> Result<()> {
        request.check(self.size_multiple())?;
        if request.true_cfg_scale != 1.0 {
            return Err(Error::Invalid(
                "true_cfg_scale is FLUX's: Stable Diffusion is guided by guidance_scale".into(),
            ));
        }
        if self.repaints && request.mask.is_none() {
            return Err(Error::Invalid(
                "mask and image are missing: this model only makes parts of pictures anew".into(),
            ));
        }
        Ok(())
    }

    /// Plans the steps and encodes the picture of a request.
    pub(super) fn prepare(&self, request: &PictureRequest, conditions: Conditions) -> Result<Denoising> {
        // A checkpoint whose own solver does not run here still runs with another one.
        let config = request.scheduler.map_or_else(|| self.scheduler.clone(), |name| self.scheduler.named(name));
        let mut sampling = Scheduler::from_config(config)?.sampling(request.num_inference_steps)?;
        if request.image.is_some() {
            sampling = sampling.with_strength(request.strength)?;
        }
        if sampling.is_empty() {
            return Err(request.without_steps());
        }
        let factor = self.vae.factor();
        Ok(Denoising {
            conditions,
            guidance: self
                .is_guided(request)
                .then_some(Guidance { scale: request.guidance_scale, rescale: request.guidance_rescale }),
            told_guidance: self.guidance_channels.map(|channels| {
                let scale = 1000.0 * (request.guidance_scale - 1.0) as f32;
                sinusoidal(&[scale], channels, false, 1, &self.device).cast(self.dtype)
            }),
            sampling,
            original: Original::encode(request, &self.vae, self.repaints, &self.device),
            strength: request.strength,
            size: [request.height / factor, request.width / factor],
        })
    }

    /// Whether a request wants guidance by two calls, and so a negative prompt.
    pub(super) fn is_guided(&self, request: &PictureRequest) -> bool {
        is_guided(request, self.guidance_channels)
    }

    /// Makes the pictures of a request that was prepared. `on_step` may break it off: [`Error::Canceled`].
    pub(super) fn generate(
        &self,
        request: &PictureRequest,
        denoising: &Denoising,
        on_step: OnStep,
    ) -> Result<Vec<RgbImage>> {
        let total_steps = request.num_images * denoising.sampling.len();
        let mut pictures = Vec::with_capacity(request.num_images);
        let mut done = 0;
        for position in 0..request.num_images {
            let start = self.start(denoising, request.seed.wrapping_add(position as u64));
            let latents = self.denoise(denoising, start, &mut |_, _, foreseen| {
                done += 1;
                on_step(Progress { step: done, total_steps, position, foreseen })
            })?;
            pictures.push(image::from_tensor(self.decode(latents))?);
        }
        Ok(pictures)
    }

    /// The first latents of the picture of a seed. Draws in the order of diffusers: the picture's latents where they are
    /// needed, the noise, and with a mask the latents of the rest.
    pub fn start(&self, denoising: &Denoising, seed: u64) -> Start {
        let Denoising { sampling, original, strength, size: [height, width], .. } = denoising;
        let mut generator = Noise::seeded(seed);
        let mask = original.as_ref().and_then(Original::mask);
        // With all of the strength a masked picture starts from noise alone; one without a mask keeps a trace of itself.
        let from_noise = mask.is_some() && *strength == 1.0;
        let needed = original.as_ref().filter(|_| !(from_noise && self.repaints));
        let clean = needed.map(|original| original.draw(&self.vae, &mut generator));
        let noise = generator.normal_tensor([1, self.latent_channels, *height, *width], &self.device);
        let masked = original.as_ref().and_then(|original| original.draw_masked(&self.vae, &mut generator));
        let latents = match &clean {
            Some(clean) if !from_noise => sampling.add_noise(0, clean.clone(), noise.clone()),
            _ => noise.clone() * sampling.initial_scale(),
        };
        let seen = mask.clone().zip(masked).map(|(mask, masked)| Tensor::cat(vec![mask, masked], 1));
        let kept = mask.zip(clean).filter(|_| !self.repaints).map(|(mask, clean)| Kept { mask, clean, noise });
        Start { latents, noise: generator, kept, seen }
    }

    /// From the start to the latents of a picture. `on_step` sees the number of each call of the UNet from 0, the latents
    /// after it and the clean ones that it foresees, and may break it off: [`Error::Canceled`].
    pub fn denoise(
        &self,
        denoising: &Denoising,
        start: Start,
        on_step: &mut dyn FnMut(usize, &Tensor<4>, &Tensor<4>) -> ControlFlow<()>,
    ) -> Result<Tensor<4>> {
        let Denoising { conditions, guidance, told_guidance, .. } = denoising;
        let mut sampling = denoising.sampling.clone();
        let Start { mut latents, mut noise, kept, seen } = start;
        for call in 0..sampling.len() {
            let mut sample = sampling.scale_input(call, latents.clone());
            if let Some(seen) = &seen {
                sample = Tensor::cat(vec![sample, seen.clone()], 1);
            }
            if guidance.is_some() {
                sample = sample.repeat_dim(0, 2);
            }
            let Conditions { hidden, added } = conditions.clone();
            let timestep = [sampling.timestep(call)];
            let told = told_guidance.clone();
            let answer = self.unet.forward(sample.cast(self.dtype), &timestep, hidden, added, told).cast(DType::F32);
            let output = match guidance {
                Some(guidance) => guidance.apply(answer),
                None => answer,
            };
            let mut foreseen = sampling.foreseen(call, latents.clone(), output.clone());
            latents = sampling.step(call, latents, output, &mut noise);
            if let Some(Kept { mask, clean, noise }) = &kept {
                let around = sampling.add_noise(call + 1, clean.clone(), noise.clone());
                latents = repaint(mask.clone(), latents, around);
                foreseen = repaint(mask.clone(), foreseen, clean.clone());
            }
            if on_step(call, &latents, &foreseen).is_break() {
                return Err(Error::Canceled);
            }
        }
        Ok(latents)
    }

    /// Latents → values −1..1, `[1, 3, height, width]`.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        self.vae.decode_sliced(self.vae.denormalise(latents))
    }
}

impl Guidance {
    /// The answers to the negative and to the wanted prompt, `[2, …]` → away from the first, `[1, …]`.
    fn apply(self, answers: Tensor<4>) -> Tensor<4> {
        let (unwanted, wanted) = (answers.clone().narrow(0, 0, 1), answers.narrow(0, 1, 1));
        let guided = unwanted.clone() + (wanted.clone() - unwanted) * self.scale;
        if self.rescale == 0.0 {
            return guided;
        }
        let deviation = |x: Tensor<4>| {
            let count = x.dims().iter().product();
            x.reshape([1, 1, 1, count]).var(3).sqrt()
        };
        let rescaled = guided.clone() * (deviation(wanted) / deviation(guided.clone()));
        rescaled * self.rescale + guided * (1.0 - self.rescale)
    }
}

/// Whether a request wants two calls for each step. A UNet that is told the guidance scale, in as many channels, never does.
pub(super) fn is_guided(request: &PictureRequest, guidance_channels: Option<usize>) -> bool {
    request.guidance_scale > 1.0 && guidance_channels.is_none()
}
