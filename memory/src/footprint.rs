//! Estimates the memory of a request from configs alone, before any weight is read: weights, and temporary tensors
//! while pictures are made. `diffusion/tests/memory.rs` and `just real-size` compare the estimate with measurements.

use std::collections::BTreeMap;

use formats::networks::{Parameters, flux, unet, vae};
use formats::{Defaults, Family, Part};
use requests::GenerationParams;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sizes::Sizes;
use crate::{ComputeType, Keep, LoadOptions, WeightStorage};

/// Most attention scores that are held at once, in values: see `diffusion::layers::attention`.
const SCORES: usize = 1 << 24;
/// Number of tensors of each kind that are alive at the peak, measured on the CPU and rounded up: streams of a FLUX
/// block, tensors on the widest level of a UNet besides its skips, tensors on the finest level of the autoencoder's
/// decoder, and score tensors.
const FLUX_TENSORS: usize = 28;
const UNET_TENSORS: usize = 12;
const VAE_TENSORS: usize = 3;
const SCORE_TENSORS: usize = 3;
/// The same on a level of a UNet without attention.
const UNET_TENSORS_WITHOUT_ATTENTION: usize = 7;
/// What the decoder takes besides its tensors, as a multiple of the autoencoder's weights: measured with the published
/// autoencoders.
const VAE_SCRATCH: u64 = 1;
/// Of text encoders that were unloaded, the allocator of the CPU keeps one part in so many.
const RETAINED: u64 = 16;
/// Other memory of the process, in bytes: tokenizers, threads, memory that the allocator retains.
pub(crate) const PROCESS: u64 = 48 << 20;
/// Number of temporary f32 tensors when a layer is unpacked: by the kernel of the CPU, and by tensor operations.
const UNPACKED_BY_KERNEL: u64 = 2;
const UNPACKED_BY_OPERATIONS: u64 = 5;
/// Number of tensors of a text encoder's widest layer that are alive at the peak, and of tokens in the longest prompt.
const TEXT_TENSORS: usize = 6;
const TEXT_TOKENS: usize = 512;
/// The largest picture that the autoencoder decodes without tiling, in pixels.
const LARGEST_WHOLE: usize = 1024 * 1024;
/// The longest side of a usual picture, in pixels: configs come from strangers.
const LONGEST_SIDE: usize = 16_384;
/// Weights are read in portions of so many bytes, so that loading takes hardly more memory than the loaded model.
pub const READ_AT_ONCE: usize = 256 << 20;

/// The configs from which a model's networks are built. Stored with a model, so that its footprint is known before a
/// file is fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Networks {
    /// `config.json` of each network, or what it would be for a model in single files.
    pub configs: BTreeMap<Part, Value>,
    /// FLUX.1: number of tokens that its second text encoder reads. 0 otherwise.
    pub text_tokens: usize,
}

/// Of a request for pictures: what decides how much memory it takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Picture {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Number of pictures, made one after the other.
    pub num_images: usize,
    /// Stable Diffusion: above 1, each step calls the denoiser for two inputs together.
    pub guidance_scale: f64,
}

/// The sizes of a checkpoint.
#[derive(Debug, Clone)]
pub struct Footprint {
    /// The text encoders.
    pub(crate) text_encoders: Vec<Sizes>,
    /// Number of values in the autoencoder, which is f32 on every device.
    pub(crate) vae: usize,
    /// Channels of the autoencoder at the highest resolution.
    vae_channels: usize,
    /// The same of its encoder.
    pub(crate) vae_encoder_channels: usize,
    pub(crate) denoiser: Sizes,
    /// Each block of the denoiser that can be read on its own, in order.
    blocks: Vec<Sizes>,
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

impl<P> From<&GenerationParams<P>> for Picture {
    fn from(params: &GenerationParams<P>) -> Self {
        let [width, height, num_images] =
            [params.width, params.height, params.num_images].map(|number| number as usize);
        Self { width, height, num_images, guidance_scale: params.guidance_scale }
    }
}

/// Memory of a request, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Weights that stay loaded on the device after the request.
    pub weights: u64,
    /// Of the device at the peak, besides those.
    pub working: u64,
    /// Host memory, for text encoders that run on the CPU beside a card.
    pub host: u64,
}

impl Needs {
    /// Weights and working memory of the device together.
    pub fn total(&self) -> u64 {
        self.weights + self.working
    }
}

impl Footprint {
    /// The sizes of a model of `family`.
    ///
    /// # Errors
    /// A part of a sentence, if a config describes no network that is supported.
    pub fn of(family: Family, networks: &Networks) -> Result<Self, String> {
        let Networks { configs, text_tokens: text } = networks;
        let config = |part: Part| configs.get(&part).unwrap_or(&Value::Null);
        let parameters = |part: Part| Parameters::of(family, part, config(part));
        let vae: vae::Config = read(config(Part::Vae))?;
        let encoders = family.parts().iter().filter(|part| matches!(part, Part::TextEncoder | Part::TextEncoder2));
        let encoders = encoders.map(|part| Ok(Sizes::of(parameters(*part)?.iter(), |_| true)));
        let denoiser = parameters(family.denoiser())?;
        let (blocks, kind) = if family == Family::Flux {
            let config: flux::Config = read(config(Part::Transformer))?;
            let blocks = config.block_paths().into_iter().map(|path| {
                let prefix = format!("{path}.");
                Sizes::of(denoiser.iter().filter(|(key, _)| key.starts_with(&prefix)), |_| true)
            });
            let trained = denoiser.iter().filter(|(key, _)| flux::is_trained(key));
            let trained = Trained {
                double_blocks: config.num_layers,
                single_blocks: config.num_single_layers,
                factors: trained.filter(|(_, shape)| shape.len() == 2).flat_map(|(_, shape)| shape).sum(),
                channels: config.in_channels,
                prompt: text * config.joint_attention_dim + config.pooled_projection_dim,
            };
            let (width, heads) = (config.width(), config.num_attention_heads);
            (blocks.collect(), Denoiser::Flux { width, heads, text: *text, trained })
        } else {
            (Vec::new(), Denoiser::Unet { config: Box::new(read(config(Part::Unet))?) })
        };
        let latents = match &kind {
            Denoiser::Flux { .. } => 128,
            Denoiser::Unet { config } => config.sample_size.unwrap_or(64),
        };
        let side = latents.saturating_mul(vae.factor()).min(LONGEST_SIDE);
        let guided = Defaults {
            num_inference_steps: 1,
            guidance_scale: 7.5,
            strength: 1.0,
            width: side as u32,
            height: side as u32,
            ..Defaults::default()
        };
        let [fine, coarser] = [0, 1].map(|level| vae.block_out_channels.get(level).copied().unwrap_or(0));
        Ok(Self {
            text_encoders: encoders.collect::<Result<_, String>>()?,
            vae: Sizes::of(parameters(Part::Vae)?.iter(), |_| false).values(),
            vae_channels: fine.max(coarser),
            vae_encoder_channels: fine,
            denoiser: Sizes::of(denoiser.iter(), LoadOptions::packs),
            blocks,
            kind,
            defaults: guided,
            factor: vae.factor(),
        })
    }

    /// Number of blocks of the denoiser that need not stay loaded with it ([`LoadOptions::resident_blocks`]).
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The same with a model's own defaults.
    #[must_use]
    pub fn with_defaults(self, defaults: Defaults) -> Self {
        Self { defaults, ..self }
    }

    /// The defaults: without [`Self::with_defaults`], guided pictures of the size that the configs state.
    pub fn defaults(&self) -> Defaults {
        self.defaults
    }

    /// One picture with the defaults: an estimate for models without a request yet.
    pub fn usual_picture(&self) -> Picture {
        let Defaults { width, height, guidance_scale, .. } = self.defaults;
        Picture { width: width as usize, height: height as usize, num_images: 1, guidance_scale }
    }

    /// What a picture needs of a model that is loaded with `options`, with `adapters` bytes of adapters attached: the
    /// most that any of its stages takes, which are reading the prompt, denoising and decoding.
    pub fn needs(&self, picture: &Picture, options: LoadOptions, compute: ComputeType, adapters: u64) -> Needs {
        let bytes = |values: usize, compute: ComputeType| (values * compute.bytes()) as u64;
        let vae = bytes(self.vae, ComputeType::F32) + adapters;
        let (text, reading, host) = if options.text_on_host {
            (0, 0, self.text_bytes(options, ComputeType::F32) + self.reading(options, ComputeType::F32))
        } else {
            (self.text_bytes(options, compute), self.reading(options, compute), 0)
        };
        let denoiser = self.denoiser_bytes(options, compute);

        let denoising = self.denoising(picture, compute)
            + self.streaming(options, compute)
            + unpacked(options.weights, compute, self.denoiser.largest());
        let denoising = denoising.max(loading(&self.denoiser, options.weights));
        let pixels = picture.width * picture.height;
        let decoding = bytes(VAE_TENSORS * self.vae_channels * pixels.min(LARGEST_WHOLE), ComputeType::F32)
            + VAE_SCRATCH * bytes(self.vae, ComputeType::F32);
        // As bytes, and one as it is decoded.
        let pictures = (3 * picture.num_images * pixels) as u64 + bytes(3 * pixels, ComputeType::F32);

        let retained = if compute == ComputeType::F32 { text / RETAINED } else { 0 };
        let (kept, stages) = match options.keep {
            Keep::All => (text + denoiser, [text + denoiser + reading.max(denoising).max(decoding); 3]),
            Keep::Denoiser => (denoiser, [text + denoiser + reading, denoiser + denoising, denoiser + decoding]),
            Keep::One => (denoiser, [text + reading, denoiser + denoising + retained, denoiser + decoding + retained]),
            Keep::Nothing => (0, [text + reading, denoiser + denoising + retained, decoding + retained]),
        };
        let peak = stages.into_iter().max().unwrap_or(0) + pictures + PROCESS;
        Needs { weights: kept + vae, working: peak.saturating_sub(kept), host }
    }

    /// Bytes of the loaded weights of the text encoders.
    pub(crate) fn text_bytes(&self, options: LoadOptions, compute: ComputeType) -> u64 {
        self.text_encoders.iter().map(|sizes| sizes.bytes(options.text_weights, compute)).sum()
    }

    /// Bytes of the loaded weights of the denoiser.
    fn denoiser_bytes(&self, options: LoadOptions, compute: ComputeType) -> u64 {
        let absent = self.blocks.iter().skip(options.resident_blocks.unwrap_or(self.blocks.len()));
        let absent: u64 = absent.map(|block| block.bytes(options.weights, compute)).sum();
        self.denoiser.bytes(options.weights, compute).saturating_sub(absent)
    }

    /// Bytes of the blocks that are in memory at a time and not loaded with the denoiser: one computes while the next
    /// one is read.
    fn streaming(&self, options: LoadOptions, compute: ComputeType) -> u64 {
        let Some(resident) = options.resident_blocks else { return 0 };
        let blocks = self.blocks.iter().skip(resident).map(|block| block.bytes(WeightStorage::Half, compute));
        2 * blocks.max().unwrap_or(0)
    }

    /// Bytes of the largest block in full, in `compute`.
    pub(crate) fn largest_block(&self, compute: ComputeType) -> u64 {
        self.blocks.iter().map(|block| block.bytes(WeightStorage::Full, compute)).max().unwrap_or(0)
    }

    /// Bytes besides the weights while the text encoders are loaded and run.
    pub(crate) fn reading(&self, options: LoadOptions, compute: ComputeType) -> u64 {
        let each = self.text_encoders.iter().map(|sizes| {
            let activations = (TEXT_TENSORS * TEXT_TOKENS * sizes.widest() * ComputeType::F32.bytes()) as u64;
            let computing = unpacked(options.text_weights, compute, sizes.largest()) + activations;
            computing.max(loading(sizes, options.text_weights))
        });
        each.max().unwrap_or(0)
    }

    /// Bytes of temporary tensors in one call of the denoiser. Norms and softmax are f32 on every device and counted as
    /// such.
    fn denoising(&self, picture: &Picture, compute: ComputeType) -> u64 {
        let [rows, columns] = [picture.height, picture.width].map(|side| side / self.factor.max(1));
        let mean = |f32s: usize, others: usize| (4 * f32s + compute.bytes() * others) as u64;
        match &self.kind {
            Denoiser::Flux { width, heads, text, .. } => {
                let tokens = text + rows * columns / 4;
                let scores = SCORE_TENSORS * whole_scores(heads * tokens * tokens, compute);
                mean(FLUX_TENSORS / 4 * tokens * width + scores, FLUX_TENSORS * 3 / 4 * tokens * width)
            }
            Denoiser::Unet { config } => {
                // A UNet that embeds the guidance scale has one input.
                let is_guided = picture.guidance_scale > 1.0 && config.time_cond_proj_dim.is_none();
                let batch = if is_guided { 2 } else { 1 };
                let (widest, skips) = activations(config, rows, columns);
                let scores = SCORE_TENSORS * whole_scores(batch * largest_scores(config, rows, columns), compute);
                mean(batch * widest / 2 + scores, batch * (widest / 2 + skips))
            }
        }
    }
}

/// Attention scores held at once: none in f32, where the CPU's kernel runs; otherwise up to the limit.
fn whole_scores(scores: usize, compute: ComputeType) -> usize {
    if compute == ComputeType::F32 { 0 } else { scores.min(SCORES) }
}

/// Bytes of a layer in f32 while it computes, unless its weight is stored as it is used.
fn unpacked(storage: WeightStorage, compute: ComputeType, largest: u64) -> u64 {
    match (storage, compute) {
        (WeightStorage::Full, _) => 0,
        (_, ComputeType::F32) => UNPACKED_BY_KERNEL * largest,
        (WeightStorage::Half, _) => 0,
        _ => UNPACKED_BY_OPERATIONS * largest,
    }
}

/// Numbers of values for one picture of `rows` × `columns` latents: those that are alive at the peak on the level with
/// most of them, and those of all skip connections together.
fn activations(unet: &unet::Config, rows: usize, columns: usize) -> (usize, usize) {
    let places = |level: usize| (rows >> level).max(1) * (columns >> level).max(1);
    let coarser = |level: usize| unet.channels((level + 1).min(unet.levels() - 1));
    let tensors = |level: usize| {
        let attends = unet.attends_down(level) || unet.attends_up(level);
        if attends { UNET_TENSORS } else { UNET_TENSORS_WITHOUT_ATTENTION }
    };
    let alive = |level: usize| tensors(level) * (unet.channels(level) + coarser(level)) * places(level);
    let widest = (0..unet.levels()).map(alive).max();
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

/// Bytes of values that were just read and are not in place yet.
pub(crate) fn loading(sizes: &Sizes, storage: WeightStorage) -> u64 {
    let more = if storage > WeightStorage::Half { sizes.largest() } else { 0 };
    ((sizes.values() * ComputeType::F32.bytes()) as u64).min(READ_AT_ONCE as u64 + more)
}

fn read<C: DeserializeOwned>(config: &Value) -> Result<C, String> {
    C::deserialize(config).map_err(|error| error.to_string())
}
