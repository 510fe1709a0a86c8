//! What a request will take of a device's memory, told by configs and headers before any weight is read: weights, and what comes
//! and goes while pictures are made. An estimate, held to the truth by `tests/memory.rs`; what is done with it is its reader's
//! matter.

use std::path::Path;

use burn::prelude::*;
use burn::tensor::DType;
use formats::{Defaults, Part};

use super::latent_diffusion::is_guided;
use super::parts::Parts;
use super::{LoadOptions, PictureRequest};
use crate::Result;
use crate::checkpoint::{AT_ONCE, Checkpoint};
use crate::image::LONGEST_SIDE;
use crate::layers::Linear;
use crate::networks::flux::{self, FluxTransformer};
use crate::networks::unet::{self, UNet2DConditionModel};
use crate::networks::{clip, t5, vae};

/// Scores of attention that are kept whole, in values: see [`crate::layers::attention`].
const SCORES: usize = 1 << 24;
/// How many tensors of each kind are alive at once where the most are. Measured on the CPU, rounded up: of a FLUX block's
/// streams, of the widest level of a UNet beside its skips, of the finest level of the autoencoder's decoder, and of the scores.
const FLUX_TENSORS: usize = 28;
const UNET_TENSORS: usize = 18;
const VAE_TENSORS: usize = 7;
const SCORE_TENSORS: usize = 3;
/// What a process takes besides, in bytes: tokenizers, threads, what the allocator keeps.
const PROCESS: u64 = 48 << 20;
/// Tensors in f32 that a layer becomes on its way from packed weights.
const UNPACKED_TENSORS: usize = 5;
/// The largest picture that the autoencoder decodes as a whole, in pixels.
const LARGEST_WHOLE: usize = 1024 * 1024;

/// The sizes of a checkpoint.
#[derive(Debug, Clone)]
pub struct Footprint {
    /// Values of all text encoders.
    text_encoders: usize,
    /// Values of the autoencoder, which is f32 on every device.
    vae: usize,
    /// Channels of the autoencoder where pictures are largest.
    vae_channels: usize,
    /// Values of the denoiser besides `packable`.
    denoiser: usize,
    /// The weights that may be packed, `[out, in]`.
    packable: Vec<[usize; 2]>,
    kind: Denoiser,
    defaults: Defaults,
    /// Pixels for one latent, along each side.
    factor: usize,
}

#[derive(Debug, Clone)]
enum Denoiser {
    Flux { width: usize, heads: usize, text: usize },
    Unet { config: Box<unet::Config> },
}

/// Bytes that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Of the weights that stay while pictures are made.
    pub weights: u64,
    /// The most that there is beside them.
    pub working: u64,
}

impl Needs {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.working
    }
}

impl Footprint {
    /// Reads the configs and headers of what [`super::Pipeline::load`] loads.
    pub fn read(path: &Path) -> Result<Self> {
        let parts = Parts::open(path)?;
        let (vae, vae_weights): (vae::Config, _) = parts.network(Part::Vae)?;
        vae.check()?;
        let mut text_encoders = values(&parts.network::<clip::Config>(Part::TextEncoder)?.1);
        let family = parts.family()?;
        let is_flux = family.denoiser() == Part::Transformer;
        if is_flux {
            text_encoders += values(&parts.network::<t5::Config>(Part::TextEncoder2)?.1);
        } else if family.parts().contains(&Part::TextEncoder2) {
            text_encoders += values(&parts.network::<clip::Config>(Part::TextEncoder2)?.1);
        }
        // Layers are made when they are loaded, so that a network which is none yet tells its shapes for nothing.
        let device = Device::flex();
        let (all, packable, kind) = if is_flux {
            let (config, weights): (flux::Config, _) = parts.network(Part::Transformer)?;
            config.check()?;
            let packable = packable(FluxTransformer::new(&config, &device).linears());
            let text = parts.t5_length()?;
            (
                values(&weights),
                packable,
                Denoiser::Flux { width: config.width(), heads: config.num_attention_heads, text },
            )
        } else {
            let (config, weights): (unet::Config, _) = parts.network(Part::Unet)?;
            config.check()?;
            let packable = packable(UNet2DConditionModel::new(&config, &device).linears());
            (values(&weights), packable, Denoiser::Unet { config: Box::new(config) })
        };
        let latents = match &kind {
            Denoiser::Flux { .. } => 128,
            Denoiser::Unet { config } => config.sample_size.unwrap_or(64),
        };
        let side = latents.saturating_mul(vae.factor()).min(LONGEST_SIDE as usize);
        let guided = Defaults {
            num_inference_steps: 1,
            guidance_scale: 7.5,
            strength: 1.0,
            width: side as u32,
            height: side as u32,
            ..Defaults::default()
        };
        let whole: usize = packable.iter().map(|[outputs, inputs]| outputs * inputs).sum();
        let [fine, coarser] = [0, 1].map(|level| vae.block_out_channels.get(level).copied().unwrap_or(0));
        Ok(Self {
            text_encoders,
            vae: values(&vae_weights),
            vae_channels: fine.max(coarser),
            denoiser: all.saturating_sub(whole),
            packable,
            kind,
            defaults: parts.defaults(guided)?,
            factor: vae.factor(),
        })
    }

    /// One guided picture of the size that the model makes if nothing is said: what is to be expected where nothing is asked for yet.
    pub fn usual_request(&self) -> PictureRequest {
        PictureRequest::new(&self.defaults, "", 0)
    }

    /// What a request needs of a model that is laid into memory so, in `dtype`; `adapters` are the bytes of what hangs on it.
    pub fn needs(&self, request: &PictureRequest, options: LoadOptions, dtype: DType, adapters: u64) -> Needs {
        let bytes = |values: usize, dtype: DType| (values * dtype.size()) as u64;
        let packed: u64 = self.packable.iter().map(|shape| options.weights.bytes(*shape, dtype)).sum();
        let encoders = bytes(self.text_encoders, dtype);
        let (kept, read) = if options.keep_text_encoders { (encoders, 0) } else { (0, encoders) };
        let weights = kept + bytes(self.denoiser, dtype) + packed + bytes(self.vae, DType::F32) + adapters;
        let largest = self.packable.iter().map(|[outputs, inputs]| outputs * inputs).max().unwrap_or(0);
        let unpacked = match options.weights {
            crate::WeightStorage::Full => 0,
            _ => bytes(UNPACKED_TENSORS * largest, DType::F32),
        };
        let pixels = request.width * request.height;
        let pictures = bytes(3 * request.num_images * pixels, DType::U8) + bytes(3 * pixels, DType::F32);
        // While weights are read, some of them lie beside those that are in their place.
        let loading = bytes(
            self.denoiser + self.packable.iter().map(|[outputs, inputs]| outputs * inputs).sum::<usize>(),
            DType::F32,
        );
        let loading = loading.min(AT_ONCE as u64);
        let denoising = self.denoising(request, dtype) + unpacked;
        let decoding = bytes(VAE_TENSORS * self.vae_channels * pixels.min(LARGEST_WHOLE), DType::F32);
        Needs {
            weights,
            working: denoising.max(decoding).max(read + read.min(AT_ONCE as u64)).max(loading) + pictures + PROCESS,
        }
    }

    /// Bytes that come and go in one call of the denoiser. Norms and softmax are f32 on every device, and are counted so.
    fn denoising(&self, request: &PictureRequest, dtype: DType) -> u64 {
        let [rows, columns] = [request.height, request.width].map(|side| side / self.factor.max(1));
        let mean = |f32s: usize, others: usize| (4 * f32s + dtype.size() * others) as u64;
        match &self.kind {
            Denoiser::Flux { width, heads, text } => {
                let tokens = text + rows * columns / 4;
                let scores = SCORE_TENSORS * whole_scores(heads * tokens * tokens, dtype);
                mean(FLUX_TENSORS / 4 * tokens * width + scores, FLUX_TENSORS * 3 / 4 * tokens * width)
            }
            Denoiser::Unet { config } => {
                let batch = if is_guided(request, config.time_cond_proj_dim) { 2 } else { 1 };
                let (widest, skips) = config.activations(rows, columns);
                let scores = SCORE_TENSORS * whole_scores(batch * config.largest_scores(rows, columns), dtype);
                mean(batch * widest * UNET_TENSORS / 2 + scores, batch * (widest * UNET_TENSORS / 2 + skips))
            }
        }
    }
}

/// Scores that attention keeps whole: none in f32, which is the CPU's kernel; else as many as the limit allows.
fn whole_scores(scores: usize, dtype: DType) -> usize {
    if dtype == DType::F32 { 0 } else { scores.min(SCORES) }
}

/// All values below our keys, by the header alone.
fn values(checkpoint: &Checkpoint) -> usize {
    let shapes = checkpoint.names().filter_map(|name| checkpoint.shape(name).ok());
    shapes.map(|shape| shape.iter().product::<usize>()).sum()
}

fn packable(linears: Vec<(String, &mut Linear)>) -> Vec<[usize; 2]> {
    linears.into_iter().filter(|(path, _)| LoadOptions::packs(path)).map(|(_, linear)| linear.weight.dims()).collect()
}
