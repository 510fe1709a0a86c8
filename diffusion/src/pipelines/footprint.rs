//! Estimates the device memory of a request from configs and headers, before any weight is read: weights, and temporary
//! tensors while pictures are made. `tests/memory.rs` compares the estimate with measurements. The caller decides what
//! to do with it.

use std::path::Path;

use burn::prelude::*;
use burn::tensor::DType;
use formats::{Defaults, Part};

use super::latent_diffusion::is_guided;
use super::parts::Parts;
use super::{LoadOptions, PictureRequest};
use crate::checkpoint::{AT_ONCE, Checkpoint};
use crate::image::LONGEST_SIDE;
use crate::layers::Linear;
use crate::networks::flux::{self, FluxTransformer};
use crate::networks::unet::{self, UNet2DConditionModel};
use crate::networks::{clip, t5, vae};
use crate::{Error, Result};

/// Most attention scores that are held at once, in values: see [`crate::layers::attention`].
const SCORES: usize = 1 << 24;
/// Number of tensors of each kind that are alive at the peak, measured on the CPU and rounded up: streams of a FLUX
/// block, tensors on the widest level of a UNet besides its skips, tensors on the finest level of the autoencoder's
/// decoder, and score tensors.
const FLUX_TENSORS: usize = 28;
const UNET_TENSORS: usize = 18;
pub(crate) const VAE_TENSORS: usize = 7;
const SCORE_TENSORS: usize = 3;
/// Other memory of the process, in bytes: tokenizers, threads, memory that the allocator retains.
pub(crate) const PROCESS: u64 = 48 << 20;
/// Number of temporary f32 tensors when a layer is unpacked.
const UNPACKED_TENSORS: usize = 5;
/// The largest picture that the autoencoder decodes without tiling, in pixels.
const LARGEST_WHOLE: usize = 1024 * 1024;

/// The sizes of a checkpoint.
#[derive(Debug, Clone)]
pub struct Footprint {
    /// Number of values in all text encoders.
    pub(crate) text_encoders: usize,
    /// Number of values in the autoencoder, which is f32 on every device.
    pub(crate) vae: usize,
    /// Channels of the autoencoder at the highest resolution.
    vae_channels: usize,
    /// The same of its encoder.
    pub(crate) vae_encoder_channels: usize,
    /// Number of values in the denoiser besides `packable`.
    denoiser: usize,
    /// Shapes of the weights that can be packed, `[out, in]`.
    packable: Vec<[usize; 2]>,
    pub(crate) kind: Denoiser,
    defaults: Defaults,
    /// Pixels per latent along each side.
    pub(crate) factor: usize,
}

#[derive(Debug, Clone)]
pub(crate) enum Denoiser {
    Flux { width: usize, heads: usize, text: usize, trained: Trained },
    Unet { config: Box<unet::Config> },
}

/// Sizes of what a training adds to a FLUX transformer.
#[derive(Debug, Clone)]
pub(crate) struct Trained {
    pub double_blocks: usize,
    pub single_blocks: usize,
    /// Number of values in all factors of rank 1.
    pub factors: usize,
    /// Channels of a packed token.
    pub channels: usize,
    /// Number of values in the prompt embeddings of one example.
    pub prompt: usize,
}

/// Memory of a request, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Weights that stay loaded while pictures are made.
    pub weights: u64,
    /// Peak of everything else.
    pub working: u64,
}

impl Needs {
    /// Weights and working memory together.
    pub fn total(&self) -> u64 {
        self.weights + self.working
    }
}

impl Footprint {
    /// Reads the configs and headers of the checkpoint that [`super::Pipeline::load`] would load.
    pub fn read(path: &Path) -> Result<Self> {
        let parts = Parts::open(path)?;
        let (vae, vae_weights): (vae::Config, _) = parts.network(Part::Vae)?;
        vae.check().map_err(Error::Invalid)?;
        let mut text_encoders = values(&parts.network::<clip::Config>(Part::TextEncoder)?.1);
        let family = parts.family()?;
        let is_flux = family.denoiser() == Part::Transformer;
        if is_flux {
            text_encoders += values(&parts.network::<t5::Config>(Part::TextEncoder2)?.1);
        } else if family.parts().contains(&Part::TextEncoder2) {
            text_encoders += values(&parts.network::<clip::Config>(Part::TextEncoder2)?.1);
        }
        // Layers allocate only when they are loaded, so an unloaded network gives the shapes at no cost.
        let device = Device::flex();
        let (all, packable, kind) = if is_flux {
            let (config, weights): (flux::Config, _) = parts.network(Part::Transformer)?;
            config.check().map_err(Error::Invalid)?;
            let mut transformer = FluxTransformer::new(&config, &device);
            let text = parts.t5_length()?;
            let trained = Trained {
                double_blocks: config.num_layers,
                single_blocks: config.num_single_layers,
                factors: transformer.block_linears().iter().flat_map(|(_, layer)| layer.weight.dims()).sum(),
                channels: config.in_channels,
                prompt: text * config.joint_attention_dim + config.pooled_projection_dim,
            };
            let packable = packable(transformer.linears());
            let kind = Denoiser::Flux { width: config.width(), heads: config.num_attention_heads, text, trained };
            (values(&weights), packable, kind)
        } else {
            let (config, weights): (unet::Config, _) = parts.network(Part::Unet)?;
            config.check().map_err(Error::Invalid)?;
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
            vae_encoder_channels: fine,
            denoiser: all.saturating_sub(whole),
            packable,
            kind,
            defaults: parts.defaults(guided)?,
            factor: vae.factor(),
        })
    }

    /// Number of values in the denoiser.
    pub(crate) fn denoiser(&self) -> usize {
        self.denoiser + self.packable.iter().map(|[outputs, inputs]| outputs * inputs).sum::<usize>()
    }

    /// One guided picture at the default size: an estimate for models without a request yet.
    pub fn usual_request(&self) -> PictureRequest {
        PictureRequest::new(&self.defaults, "", 0)
    }

    /// What a request needs of a model loaded with `options` in `dtype`. `adapters` is the size of the attached
    /// adapters in bytes.
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
        // During loading, values that were just read are in memory next to those already in place.
        let loading = bytes(self.denoiser(), DType::F32).min(AT_ONCE as u64);
        let denoising = self.denoising(request, dtype) + unpacked;
        let decoding = bytes(VAE_TENSORS * self.vae_channels * pixels.min(LARGEST_WHOLE), DType::F32);
        Needs {
            weights,
            working: denoising.max(decoding).max(read + read.min(AT_ONCE as u64)).max(loading) + pictures + PROCESS,
        }
    }

    /// Bytes of temporary tensors in one call of the denoiser. Norms and softmax are f32 on every device and counted as
    /// such.
    fn denoising(&self, request: &PictureRequest, dtype: DType) -> u64 {
        let [rows, columns] = [request.height, request.width].map(|side| side / self.factor.max(1));
        let mean = |f32s: usize, others: usize| (4 * f32s + dtype.size() * others) as u64;
        match &self.kind {
            Denoiser::Flux { width, heads, text, .. } => {
                let tokens = text + rows * columns / 4;
                let scores = SCORE_TENSORS * whole_scores(heads * tokens * tokens, dtype);
                mean(FLUX_TENSORS / 4 * tokens * width + scores, FLUX_TENSORS * 3 / 4 * tokens * width)
            }
            Denoiser::Unet { config } => {
                let batch = if is_guided(request, config.time_cond_proj_dim) { 2 } else { 1 };
                let (widest, skips) = activations(config, rows, columns);
                let scores = SCORE_TENSORS * whole_scores(batch * largest_scores(config, rows, columns), dtype);
                mean(batch * widest * UNET_TENSORS / 2 + scores, batch * (widest * UNET_TENSORS / 2 + skips))
            }
        }
    }
}

/// Attention scores held at once: none in f32, where the CPU's kernel runs; otherwise up to the limit.
fn whole_scores(scores: usize, dtype: DType) -> usize {
    if dtype == DType::F32 { 0 } else { scores.min(SCORES) }
}

/// Numbers of values for one picture of `rows` × `columns` latents: those of the widest block input including its skip
/// connection, and those of all skip connections together.
fn activations(unet: &unet::Config, rows: usize, columns: usize) -> (usize, usize) {
    let places = |level: usize| (rows >> level).max(1) * (columns >> level).max(1);
    let coarser = |level: usize| unet.channels((level + 1).min(unet.levels() - 1));
    let widest = (0..unet.levels()).map(|level| (unet.channels(level) + coarser(level)) * places(level)).max();
    let kept = |level: usize| (unet.layers_per_block.at(level) + 1) * unet.channels(level) * places(level);
    (widest.unwrap_or(0), (0..unet.levels()).map(kept).sum())
}

/// Number of scores in the largest self-attention of one picture.
fn largest_scores(unet: &unet::Config, rows: usize, columns: usize) -> usize {
    let scores = |level: usize| {
        let places = (rows >> level).max(1) * (columns >> level).max(1);
        unet.heads(level) * places * places
    };
    let attends = |level: &usize| unet.attends_down(*level) || unet.attends_up(*level);
    (0..unet.levels()).filter(attends).map(scores).max().unwrap_or(0)
}

/// Total number of values, from the headers alone.
fn values(checkpoint: &Checkpoint) -> usize {
    let shapes = checkpoint.names().filter_map(|name| checkpoint.shape(name).ok());
    shapes.map(|shape| shape.iter().product::<usize>()).sum()
}

fn packable(linears: Vec<(String, &mut Linear)>) -> Vec<[usize; 2]> {
    linears.into_iter().filter(|(path, _)| LoadOptions::packs(path)).map(|(_, linear)| linear.weight.dims()).collect()
}
