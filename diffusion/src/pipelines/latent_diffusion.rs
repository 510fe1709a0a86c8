//! The common part of the Stable Diffusion families: a UNet that denoises latents with classifier-free guidance, from
//! noise (text to image), from a picture (image to image) or around a mask (inpainting). Reproduces diffusers on the
//! CPU step by step. The families encode their prompts themselves.
//!
//! Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models",
//! <https://arxiv.org/abs/2112.10752>; guidance from Ho and Salimans, "Classifier-Free Diffusion Guidance",
//! <https://arxiv.org/abs/2207.12598>.

use std::ops::ControlFlow;

use ::image::RgbImage;
use burn::prelude::*;
use burn::tensor::DType;
use formats::networks::agreement;
use formats::scheduler::Stated;
use formats::{Part, Traits};
use memory::{Keep, LoadOptions};
use requests::warnings;

use super::on_demand::OnDemand;
use super::parts::Parts;
use super::stored::store;
use super::{OnStep, Original, PictureRequest, Progress, repaint};
use crate::checkpoint::{Checkpoint, load_strict};
use crate::image;
use crate::layers::sinusoidal;
use crate::lora::{Network, Target};
use crate::networks::unet::{self, AddedConditions, UNet2DConditionModel};
use crate::networks::vae::{self, Autoencoder};
use crate::noise::Noise;
use crate::schedulers::{self, Sampling, Scheduler};
use crate::{Error, Result};

/// Options of DPM-Solver that its names state.
const STATED_BY_NAME: [&str; 2] = ["algorithm_type", "solver_order"];

/// UNet, autoencoder and scheduler of a checkpoint.
///
/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion_img2img.py#L735-L798>
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion_inpaint.py#L765-L808>
#[derive(Debug)]
pub struct LatentDiffusion {
    pub(super) device: Device,
    pub(super) dtype: DType,
    unet: OnDemand<UNet2DConditionModel>,
    keep: Keep,
    pub(super) vae: Autoencoder,
    scheduler: Stated<schedulers::Config>,
    latent_channels: usize,
    /// Whether the UNet takes the mask and the masked picture as extra channels: 9 instead of 4.
    repaints: bool,
    /// Width of the embedded guidance scale of a UNet that was distilled to take it instead of two calls per step
    /// (Luo et al., "Latent Consistency Models", <https://arxiv.org/abs/2310.04378>).
    guidance_channels: Option<usize>,
}

/// The conditions of every UNet call.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// The prompt, `[1, length, cross_attention_dim]`. With guidance the negative prompt comes first: `[2, …]`
    pub hidden: Tensor<3>,
    /// The same for SDXL's added conditions.
    pub added: Option<AddedConditions>,
}

/// The state that all pictures of a request share.
#[derive(Debug, Clone)]
pub struct Denoising {
    conditions: Conditions,
    guidance: Option<Guidance>,
    /// The embedded guidance scale: `[1, guidance channels]`
    embedded_guidance: Option<Tensor<2>>,
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

/// The initial state of one picture.
#[derive(Debug, Clone)]
pub struct Start {
    /// `[1, latent channels, height, width]`
    pub latents: Tensor<4>,
    /// The generator after the initial draws, for solvers that add noise.
    noise: Noise,
    /// What inpainting preserves, if the UNet does not take the mask itself.
    kept: Option<Kept>,
    /// The extra channels of an inpainting UNet: mask and latents of the masked picture.
    seen: Option<Tensor<4>>,
}

#[derive(Debug, Clone)]
struct Kept {
    mask: Tensor<4>,
    clean: Tensor<4>,
    noise: Tensor<4>,
}

impl LatentDiffusion {
    /// Loads its parts strictly, and returns the UNet's config for the family to check.
    pub(super) fn load(
        parts: &Parts,
        device: &Device,
        dtype: DType,
        options: LoadOptions,
    ) -> Result<(Self, unet::Config)> {
        let (unet_config, unet_weights): (unet::Config, _) = parts.network(Part::Unet)?;
        let (vae_config, vae_weights): (vae::Config, _) = parts.network(Part::Vae)?;
        unet_config.check().map_err(Error::Invalid)?;
        vae_config.check().map_err(Error::Invalid)?;
        let latent = vae_config.latent_channels;
        let repaints = unet_config.in_channels == 2 * latent + 1;
        agreement::latents(&unet_config, &vae_config).map_err(|reason| Error::malformed(parts.path(), reason))?;
        let mut scheduler = parts.noise_scheduler()?;
        if unet_config.addition_embed_type.is_none() {
            scheduler.config.repair_first_models(repaints);
        }
        let mut unet = UNet2DConditionModel::new(&unet_config, device);
        store(options, unet.layers(), device);
        let load = move |unet, weights: &Checkpoint| load_strict(unet, weights, dtype);
        let unet = OnDemand::new(unet, unet_weights, device, load, UNet2DConditionModel::layers);
        parts.reading().expect(vae_weights.bytes());
        if options.keep <= Keep::Denoiser {
            parts.reading().expect(unet.bytes());
            unet.with(|_| ())?;
        }
        // Always f32: it overflows in half precision (`force_upcast`), and is small.
        let vae = Autoencoder::new(&vae_config, device);
        let loaded = Self {
            device: device.clone(),
            dtype,
            unet,
            keep: options.keep,
            vae: load_strict(vae, &vae_weights, DType::F32)?,
            scheduler,
            latent_channels: latent,
            repaints,
            guidance_channels: unet_config.time_cond_proj_dim,
        };
        Ok((loaded, unet_config))
    }

    /// A1111's name of the checkpoint's own solver, or its diffusers class if it is not supported.
    pub fn solver(&self) -> String {
        let config = &self.scheduler.config;
        let own = Scheduler::from_config(config.clone());
        own.map_or_else(|_| config.class_name.clone(), |scheduler| scheduler.title())
    }

    /// The options of the checkpoint's config that a request's scheduler leaves out, each as a sentence.
    fn left_out(&self, request: &PictureRequest) -> Vec<String> {
        let Some(name) = request.scheduler else { return Vec::new() };
        let config = schedulers::Config { class_name: name.class_name().into(), ..self.scheduler.config.clone() };
        let left_out = config.class().map(|class| config.unsupported(class)).unwrap_or_default();
        // A name such as `dpmpp_2m` states the algorithm itself.
        let left_out =
            left_out.into_iter().filter(|option| !STATED_BY_NAME.iter().any(|known| option.starts_with(known)));
        left_out.map(|option| format!("scheduler: {name} runs without the checkpoint's option {option}")).collect()
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

    /// The UNet's layers that adapters can be attached to.
    pub(super) fn target(&mut self) -> Target<'_> {
        self.unet.target(Network::Unet)
    }

    /// Lets the adapters that were attached to the UNet take effect.
    pub(super) fn adapt(&mut self) {
        self.unet.adapt();
    }

    /// Sets which networks stay loaded from now on.
    pub(super) fn keep(&mut self, keep: Keep) {
        self.keep = keep;
        if keep == Keep::Nothing {
            self.unload();
        }
    }

    /// Makes room for the text encoders, unless the UNet stays loaded beside them.
    pub(super) fn before_reading(&self) {
        if self.keep >= Keep::One {
            self.unload();
        }
    }

    fn unload(&self) {
        self.unet.unload();
        self.device.memory_cleanup();
    }

    /// Rejects what these families do not support, before any computation.
    pub(super) fn check(&self, request: &PictureRequest) -> Result<()> {
        request.check(self.size_multiple())?;
        if request.true_cfg_scale != 1.0 {
            return Err(Error::Invalid(
                "true_cfg_scale is FLUX's: Stable Diffusion is guided by guidance_scale".into(),
            ));
        }
        if self.repaints && request.mask.is_none() {
            return Err(Error::Invalid(
                "mask and image are missing: this model can only repaint parts of a picture".into(),
            ));
        }
        Ok(())
    }

    /// Plans the steps and encodes the picture of a request.
    pub(super) fn prepare(&self, request: &PictureRequest, conditions: Conditions) -> Result<Denoising> {
        let config = match (request.scheduler, &self.scheduler.unsupported) {
            (Some(name), _) => self.scheduler.config.named(name),
            (None, None) => self.scheduler.config.clone(),
            (None, Some(reason)) => return Err(request.without_scheduler(reason)),
        };
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
            embedded_guidance: self.guidance_channels.map(|channels| {
                let scale = 1000.0 * (request.guidance_scale - 1.0) as f32;
                sinusoidal(&[scale], channels, false, 1, &self.device).cast(self.dtype)
            }),
            sampling,
            original: Original::encode(request, &self.vae, self.repaints, &self.device),
            strength: request.strength,
            size: [request.height / factor, request.width / factor],
        })
    }

    /// Whether a request uses classifier-free guidance and so a negative prompt.
    pub(super) fn is_guided(&self, request: &PictureRequest) -> bool {
        is_guided(request, self.guidance_channels)
    }

    /// Notes about a negative prompt without effect, and about options that a request's scheduler leaves out.
    pub(super) fn notes(&self, request: &PictureRequest) -> Vec<String> {
        let negative = request.negative_prompt.as_deref().is_some_and(|prompt| !prompt.trim().is_empty());
        let ignored = (negative && self.guidance_channels.is_some()).then(|| warnings::NEGATIVE_PROMPT.to_owned());
        ignored.into_iter().chain(self.left_out(request)).collect()
    }

    /// Makes the pictures of a prepared request. `on_step` can cancel: [`Error::Canceled`].
    pub(super) fn generate(
        &self,
        request: &PictureRequest,
        denoising: &Denoising,
        on_step: OnStep,
    ) -> Result<Vec<RgbImage>> {
        let total_steps = request.num_images * denoising.sampling.len();
        let mut denoised = Vec::with_capacity(request.num_images);
        let mut done = 0;
        for position in 0..request.num_images {
            let start = self.start(denoising, request.seed.wrapping_add(position as u64));
            denoised.push(self.denoise(denoising, start, &mut |_, _, predicted| {
                done += 1;
                on_step(Progress { step: done, total_steps, position, predicted_clean: predicted })
            })?);
        }
        if self.keep == Keep::Nothing {
            self.unload();
        }
        denoised.into_iter().map(|latents| image::from_tensor(self.decode(latents))).collect()
    }

    /// The initial latents for a seed. Draws in the same order as diffusers: the picture's latents if needed, the
    /// noise, and with a mask the latents of the masked picture.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion_inpaint.py#L688-L749>
    pub fn start(&self, denoising: &Denoising, seed: u64) -> Start {
        let Denoising { sampling, original, strength, size: [height, width], .. } = denoising;
        let mut generator = Noise::seeded(seed);
        let mask = original.as_ref().and_then(Original::mask);
        // At a strength of 1, inpainting starts from pure noise; image to image keeps a trace of the picture.
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

    /// Denoises from the start to the final latents. `on_step` receives the number of the UNet call from 0, the
    /// latents after it and the predicted x₀, and can cancel: [`Error::Canceled`].
    pub fn denoise(
        &self,
        denoising: &Denoising,
        start: Start,
        on_step: &mut dyn FnMut(usize, &Tensor<4>, &Tensor<4>) -> ControlFlow<()>,
    ) -> Result<Tensor<4>> {
        let Denoising { conditions, guidance, embedded_guidance, .. } = denoising;
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
            let embedded = embedded_guidance.clone();
            let sample = sample.cast(self.dtype);
            let answer = self.unet.with(|unet| unet.forward(sample, &timestep, hidden, added, embedded))?;
            let answer = answer.cast(DType::F32);
            let output = match guidance {
                Some(guidance) => guidance.apply(answer),
                None => answer,
            };
            let mut predicted = sampling.predicted_clean(call, latents.clone(), output.clone());
            latents = sampling.step(call, latents, output, &mut noise);
            if let Some(Kept { mask, clean, noise }) = &kept {
                let around = sampling.add_noise(call + 1, clean.clone(), noise.clone());
                latents = repaint(mask.clone(), latents, around);
                predicted = repaint(mask.clone(), predicted, clean.clone());
            }
            if on_step(call, &latents, &predicted).is_break() {
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
    /// Combines the predictions for the negative prompt and the prompt, `[2, …]`, into the guided one, `[1, …]`.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion.py#L69-L92>
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

/// Whether a request needs two UNet calls per step. A UNet that embeds the guidance scale never does.
pub(super) fn is_guided(request: &PictureRequest, guidance_channels: Option<usize>) -> bool {
    request.guidance_scale > 1.0 && guidance_channels.is_none()
}
