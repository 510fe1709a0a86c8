//! FLUX.1. Reproduces diffusers' `FluxPipeline`, `FluxImg2ImgPipeline` and `FluxInpaintPipeline` on the CPU step by
//! step, so that the same folder, prompt and seed give the same picture. Prompts are plain text: brackets have no
//! meaning.

use std::ops::ControlFlow;
use std::path::Path;

use ::image::RgbImage;
use burn::prelude::*;
use burn::tensor::DType;
use formats::networks::agreement;
use formats::{Defaults, Family, Part, Traits};
use memory::{Keep, LoadOptions};
use requests::{PromptSyntax, warnings};

use super::block_stream::BlockStream;
use super::on_demand::OnDemand;
use super::parts::Parts;
use super::prompt_cache::{PromptCache, PromptKey};
use super::stored::{place_of_text, store, store_text};
use super::{OnStep, Original, PictureRequest, Progress, clip_prompt};
use crate::checkpoint::{self, Checkpoint, Reading};
use crate::device::weight_dtype;
use crate::image;
use crate::lora::{self, LoraFile, MatchReport, Network};
use crate::networks::clip::{self, ClipTextModel};
use crate::networks::flux::{self, FluxInput, FluxTransformer};
use crate::networks::t5::{self, T5Encoder};
use crate::networks::vae::{self, Autoencoder};
use crate::noise::Noise;
use crate::schedulers::flow_match_euler::{FlowMatchEuler, Schedule};
use crate::tokenizers::{clip::ClipTokenizer, t5::T5Tokenizer};
use crate::{Error, Result};

/// A loaded FLUX.1 checkpoint, ready to make pictures.
///
/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/flux/pipeline_flux.py#L600-L970>
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/flux/pipeline_flux_img2img.py#L610-L658>
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/flux/pipeline_flux_inpaint.py#L631-L684>
#[derive(Debug)]
pub struct FluxPipeline {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    clip_tokenizer: ClipTokenizer,
    t5_tokenizer: T5Tokenizer,
    clip: OnDemand<ClipTextModel>,
    t5: OnDemand<T5Encoder>,
    read: PromptCache<PromptEmbeddings>,
    keep: Keep,
    text_on_host: bool,
    transformer: OnDemand<FluxTransformer>,
    /// The blocks that are not loaded with the transformer, if there are any.
    streamed: Option<BlockStream>,
    pub(crate) vae: Autoencoder,
    scheduler: FlowMatchEuler,
    /// Why the checkpoint's own scheduler does not run, if it does not.
    own_scheduler: Option<String>,
    guided: bool,
    latent_channels: usize,
    vae_factor: usize,
    /// What follows the reading of the weights.
    pub(crate) reading: Reading,
    defaults: Defaults,
}

/// The embeddings of a prompt.
#[derive(Debug, Clone)]
pub struct PromptEmbeddings {
    /// T5 states, `[1, length, joint_attention_dim]`
    pub hidden: Tensor<3>,
    /// CLIP's pooled state, `[1, pooled_projection_dim]`
    pub pooled: Tensor<2>,
}

/// The state that all pictures of a request share.
#[derive(Debug, Clone)]
pub struct Denoising {
    pub prompt: PromptEmbeddings,
    /// The negative prompt and the true CFG scale, if classifier-free guidance is used.
    pub negative: Option<(PromptEmbeddings, f64)>,
    pub guidance_scale: f64,
    /// Only the last steps, if they start from a picture.
    pub schedule: Schedule,
    pub original: Option<Original>,
    /// Height of the picture in tokens.
    pub rows: usize,
    /// Width of the picture in tokens.
    pub columns: usize,
}

/// The initial state of one picture.
#[derive(Debug, Clone)]
pub struct Start {
    /// Packed: `[1, rows · columns, 4 · latent channels]`
    pub latents: Tensor<3>,
    /// What inpainting preserves, if the request has a mask.
    kept: Option<Kept>,
}

/// The preserved part of the picture, packed like the latents.
#[derive(Debug, Clone)]
struct Kept {
    /// 1 where the picture is repainted.
    mask: Tensor<3>,
    clean: Tensor<3>,
    noise: Tensor<3>,
}

impl FluxPipeline {
    /// Loads a folder in diffusers' layout, or a single file with the other parts next to it. Loading is strict: a
    /// missing, unused or wrongly shaped tensor is an error. All sizes come from the `config.json` files, or from the
    /// tensors.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        Self::load_followed(path, device, LoadOptions::default(), &Reading::default())
    }

    /// Like [`Self::load`], with options for memory use. `reading` follows all reading of weights.
    pub fn load_followed(path: &Path, device: &Device, options: LoadOptions, reading: &Reading) -> Result<Self> {
        Self::load_parts(&Parts::open(path, reading)?, device, options)
    }

    pub(super) fn load_parts(parts: &Parts, device: &Device, options: LoadOptions) -> Result<Self> {
        let (path, dtype) = (parts.path(), weight_dtype(device));
        let (transformer_config, transformer): (flux::Config, _) = parts.network(Part::Transformer)?;
        let (clip_config, clip): (clip::Config, _) = parts.network(Part::TextEncoder)?;
        let (t5_config, t5): (t5::Config, _) = parts.network(Part::TextEncoder2)?;
        let (vae_config, vae): (vae::Config, _) = parts.network(Part::Vae)?;
        let clip_tokenizer = parts.clip_tokenizer(Part::TextEncoder)?;
        let t5_tokenizer = parts.t5_tokenizer()?;
        transformer_config
            .check()
            .and_then(|()| t5_config.check())
            .and_then(|()| vae_config.check())
            .map_err(Error::Invalid)?;
        agreement::flux(&transformer_config, &clip_config, &t5_config, &vae_config)
            .map_err(|reason| Error::malformed(path, reason))?;
        clip_prompt::check(path, &clip_config, &clip_tokenizer)?;
        if t5_tokenizer.vocabulary() > t5_config.vocab_size {
            let (known, there) = (t5_tokenizer.vocabulary(), t5_config.vocab_size);
            return Err(Error::malformed(path, format!("the tokenizer knows {known} tokens, and T5 {there}")));
        }

        let (text_device, text_dtype) = place_of_text(options, device);
        let mut network = ClipTextModel::new(&clip_config, &text_device);
        store_text(options, network.layers(), &text_device);
        let load = move |network: ClipTextModel, clip: &Checkpoint| network.load(clip.clone(), text_dtype);
        let clip = OnDemand::new(network, clip, &text_device, load, ClipTextModel::layers);
        let mut network = T5Encoder::new(&t5_config, &text_device);
        store_text(options, network.layers(), &text_device);
        let load = move |network: T5Encoder, t5: &Checkpoint| network.load(t5.clone(), text_dtype);
        let t5 = OnDemand::new(network, t5, &text_device, load, T5Encoder::layers);
        let mut network = FluxTransformer::new(&transformer_config, device);
        store(options, network.layers(), device);
        let streamed = options
            .resident_blocks
            .map(|resident| BlockStream::new(&transformer_config, &transformer, (device, dtype), resident));
        let absent = streamed.as_ref().map(BlockStream::paths).unwrap_or_default();
        let (texts_stay, transformer_stays) =
            (options.keep == Keep::All || options.text_on_host, options.keep <= Keep::Denoiser);
        let stage = parts.reading().stage();
        parts.reading().expect(vae.bytes());
        if texts_stay {
            parts.reading().expect(clip.bytes() + t5.bytes());
        }
        if transformer_stays {
            parts.reading().expect(transformer.bytes() - streamed.as_ref().map_or(0, BlockStream::bytes));
        }
        let load = move |network: FluxTransformer, transformer: &Checkpoint| {
            checkpoint::load_partly(network, transformer, dtype, &absent)
        };
        let transformer = OnDemand::new(network, transformer, device, load, FluxTransformer::layers);
        // Real checkpoints overflow in bf16 in the decoder, which is small.
        let vae = checkpoint::load_strict(Autoencoder::new(&vae_config, device), &vae, DType::F32)?;
        let scheduler = parts.flow_scheduler()?;
        let guided = transformer_config.guidance_embeds;
        let traits =
            Traits { guidance_embedded: guided, vae_factor: Some(vae_config.factor() as u32), ..Traits::default() };
        let defaults = Family::Flux.defaults(traits);
        let pipeline = Self {
            device: device.clone(),
            dtype,
            clip_tokenizer,
            t5_tokenizer,
            clip,
            t5,
            read: PromptCache::default(),
            keep: options.keep,
            text_on_host: options.text_on_host,
            transformer,
            streamed,
            vae,
            scheduler: FlowMatchEuler::new(scheduler.config.plain())?,
            own_scheduler: scheduler.unsupported,
            guided,
            latent_channels: vae_config.latent_channels,
            vae_factor: vae_config.factor(),
            reading: parts.reading().clone(),
            defaults: parts.defaults(defaults)?,
        };
        if texts_stay {
            pipeline.clip.with(|_| ())?;
            pipeline.t5.with(|_| ())?;
        }
        if transformer_stays {
            pipeline.transformer.with(|_| ())?;
        }
        drop(stage);
        Ok(pipeline)
    }

    /// Sets which networks stay loaded from now on.
    pub fn keep(&mut self, keep: Keep) {
        self.keep = keep;
        self.after_reading();
        if keep == Keep::Nothing {
            self.transformer.unload();
        }
    }

    /// Whether any text encoder is loaded.
    pub fn has_text_encoders(&self) -> bool {
        self.clip.is_loaded() || self.t5.is_loaded()
    }

    /// The transformer, with the adapters that are attached to it.
    pub(crate) fn into_transformer(self) -> Result<FluxTransformer> {
        self.clip.unload();
        self.t5.unload();
        drop(self.vae);
        self.transformer.into_loaded()
    }

    /// Unloads the text encoders unless they are kept.
    fn after_reading(&self) {
        if self.keep > Keep::All && !self.text_on_host {
            self.clip.unload();
            self.t5.unload();
            self.device.memory_cleanup();
        }
    }

    /// Defaults for the optional fields of a request.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Width and height of a picture are multiples of this many pixels.
    pub fn size_multiple(&self) -> usize {
        2 * self.vae_factor
    }

    /// Notes about settings of a request that have no effect.
    pub(super) fn notes(&self, request: &PictureRequest) -> Result<Vec<String>> {
        let mut sentences = Vec::new();
        if !self.guided && request.guidance_scale != self.defaults.guidance_scale {
            sentences.push(warnings::GUIDANCE.to_owned());
        }
        let negative = request.negative_prompt.as_ref().filter(|_| request.true_cfg_scale > 1.0);
        for (field, prompt) in [("prompt", Some(&request.prompt)), ("negative_prompt", negative)] {
            if let Some(prompt) = prompt
                && self.t5_tokenizer.truncates(prompt)?
            {
                sentences.push(warnings::too_long(field, "T5", self.t5_tokenizer.length()));
            }
        }
        Ok(sentences)
    }

    /// Whether the transformer embeds the guidance scale. Others only support the true CFG scale.
    pub fn is_guided(&self) -> bool {
        self.guided
    }

    /// The shift of the noise levels in training.
    pub(crate) fn training_shift(&self) -> f64 {
        self.scheduler.training_shift()
    }

    /// Attaches adapters to the transformer and the text encoders, each with its scale, replacing the current ones.
    /// An empty list restores the base model. The base weights never change. An adapter that matches no layer is an
    /// error, and then nothing changes.
    pub fn attach(&mut self, loras: &[(&LoraFile, f64)]) -> Result<Vec<MatchReport>> {
        let mut targets = [
            self.transformer.target(Network::Transformer),
            self.clip.target(Network::TextEncoder),
            self.t5.target(Network::TextEncoder2),
        ];
        let reports = lora::attach(&mut targets, loras, &self.device)?;
        self.transformer.adapt();
        self.clip.adapt();
        self.t5.adapt();
        self.read.adapters_changed(&reports);
        Ok(reports)
    }

    /// Makes the pictures of a request. `on_step` is called after every step and can cancel: [`Error::Canceled`].
    pub fn generate(&self, request: &PictureRequest, on_step: OnStep) -> Result<Vec<RgbImage>> {
        let denoising = self.prepare(request)?;
        let total_steps = request.num_images * denoising.schedule.steps();
        let mut denoised = Vec::with_capacity(request.num_images);
        let mut done = 0;
        for position in 0..request.num_images {
            let start = self.start(&denoising, request.seed.wrapping_add(position as u64));
            denoised.push(self.denoise(&denoising, start, &mut |_, _, predicted| {
                done += 1;
                let predicted = &unpack(predicted.clone(), denoising.rows, denoising.columns);
                on_step(Progress { step: done, total_steps, position, predicted_clean: predicted })
            })?);
        }
        if self.keep == Keep::Nothing {
            self.transformer.unload();
            self.device.memory_cleanup();
        }
        let pictures = denoised.into_iter().map(|latents| self.decode(latents, denoising.rows, denoising.columns));
        pictures.map(image::from_tensor).collect()
    }

    /// Validates a request and encodes its prompts and picture: everything that its pictures share.
    pub fn prepare(&self, request: &PictureRequest) -> Result<Denoising> {
        let multiple = self.size_multiple();
        request.check(multiple)?;
        let refused = [
            ("scheduler", "is flow matching alone", request.scheduler.is_some_and(|name| !name.matches_flow())),
            ("clip_skip", "leaves out no layers", request.clip_skip.is_some()),
            ("guidance_rescale", "rescales no guidance", request.guidance_rescale != 0.0),
        ];
        if let Some((field, why, _)) = refused.iter().find(|(_, _, wanted)| *wanted) {
            return Err(Error::Invalid(format!("{field} is not for FLUX, which {why}")));
        }
        if let (None, Some(reason)) = (request.scheduler, &self.own_scheduler) {
            return Err(request.without_scheduler(reason));
        }
        let (rows, columns) = (request.height / multiple, request.width / multiple);
        let mut schedule = self.scheduler.schedule(request.num_inference_steps, rows * columns);
        if request.image.is_some() {
            schedule = schedule.with_strength(request.strength)?;
        }
        if schedule.steps() == 0 {
            return Err(request.without_steps());
        }
        let negative = if request.true_cfg_scale > 1.0 {
            let prompt = request.negative_prompt.as_deref().unwrap_or_default();
            Some((self.embeddings(prompt)?, request.true_cfg_scale))
        } else {
            None
        };
        let prompt = self.embeddings(&request.prompt)?;
        self.after_reading();
        Ok(Denoising {
            prompt,
            negative,
            guidance_scale: request.guidance_scale,
            schedule,
            original: Original::encode(request, &self.vae, false, &self.device),
            rows,
            columns,
        })
    }

    /// Encodes a prompt with both text encoders.
    pub fn encode_prompt(&self, prompt: &str) -> Result<PromptEmbeddings> {
        if self.keep >= Keep::One && !self.text_on_host {
            self.transformer.unload();
            self.device.memory_cleanup();
        }
        let ids = [self.clip_tokenizer.encode(prompt)?];
        let pooled = self.clip.with(|clip| clip.forward(&ids).pooled)?;
        let ids = [self.t5_tokenizer.encode(prompt)?];
        let hidden = self.t5.with(|t5| t5.forward(&ids))?;
        let hidden = hidden.to_device(&self.device).cast(self.dtype);
        let pooled = pooled.to_device(&self.device).cast(self.dtype);
        Ok(PromptEmbeddings { hidden, pooled })
    }

    /// The cached embeddings of a prompt, or new ones.
    fn embeddings(&self, prompt: &str) -> Result<PromptEmbeddings> {
        let key = PromptKey { prompt: prompt.to_owned(), syntax: PromptSyntax::Plain, chunks: 1, skipped: 0 };
        self.read.get_or(key, || self.encode_prompt(prompt))
    }

    /// The initial latents for a seed.
    pub fn start(&self, denoising: &Denoising, seed: u64) -> Start {
        let Denoising { schedule, original, rows, columns, .. } = denoising;
        let mut noise = Noise::seeded(seed);
        let clean = original.as_ref().map(|original| original.draw(&self.vae, &mut noise));
        let shape = [1, self.latent_channels, 2 * rows, 2 * columns];
        let noise = pack(noise.normal_tensor(shape, &self.device));
        let Some(clean) = clean.map(pack) else {
            return Start { latents: noise, kept: None };
        };
        let latents = schedule.add_noise(0, clean.clone(), noise.clone());
        let mask = original.as_ref().and_then(Original::mask);
        let kept = mask.map(|mask| Kept { mask: pack(mask.repeat_dim(1, self.latent_channels)), clean, noise });
        Start { latents, kept }
    }

    /// Denoises from the start to the final latents, packed. `on_step` receives the step from 0, the latents after it
    /// and the predicted x₀, and can cancel: [`Error::Canceled`].
    pub fn denoise(
        &self,
        denoising: &Denoising,
        start: Start,
        on_step: &mut dyn FnMut(usize, &Tensor<3>, &Tensor<3>) -> ControlFlow<()>,
    ) -> Result<Tensor<3>> {
        let Denoising { prompt, negative, guidance_scale, schedule, rows, columns, .. } = denoising;
        let [_, text, _] = prompt.hidden.dims();
        let rotary = self.transformer.outline().rotary(text, *rows, *columns, &self.device);
        let velocity = |latents: &Tensor<3>, prompt: &PromptEmbeddings, step: usize| -> Result<Tensor<3>> {
            let input = FluxInput {
                hidden: latents.clone().cast(self.dtype),
                encoder_hidden: prompt.hidden.clone(),
                pooled: prompt.pooled.clone(),
                timestep: vec![schedule.time(step)],
                guidance: self.guided.then(|| vec![*guidance_scale as f32]),
            };
            let velocity = self.transformer.with(|transformer| match &self.streamed {
                Some(streamed) => streamed.forward(transformer, input, &rotary),
                None => Ok(transformer.forward(input, &rotary)),
            });
            Ok(velocity??.cast(DType::F32))
        };
        let Start { mut latents, kept } = start;
        for step in 0..schedule.steps() {
            let mut wanted = velocity(&latents, prompt, step)?;
            if let Some((negative, scale)) = negative {
                let unwanted = velocity(&latents, negative, step)?;
                wanted = unwanted.clone() + (wanted - unwanted) * *scale;
            }
            let mut predicted = schedule.predicted_clean(step, latents.clone(), wanted.clone());
            latents = schedule.step(step, latents, wanted);
            if let Some(Kept { mask, clean, noise }) = &kept {
                let around = schedule.add_noise(step + 1, clean.clone(), noise.clone());
                latents = super::repaint(mask.clone(), latents, around);
                predicted = super::repaint(mask.clone(), predicted, clean.clone());
            }
            if on_step(step, &latents, &predicted).is_break() {
                return Err(Error::Canceled);
            }
        }
        Ok(latents)
    }

    /// Packed latents → values in −1..1, `[1, 3, height, width]`.
    pub fn decode(&self, latents: Tensor<3>, rows: usize, columns: usize) -> Tensor<4> {
        self.vae.decode_sliced(self.vae.denormalise(unpack(latents, rows, columns)))
    }
}

/// Packs each 2×2 square of latents into one token: `[batch, channels, 2 · rows, 2 · columns]` →
/// `[batch, rows · columns, 4 · channels]`.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/flux/pipeline_flux.py#L520-L525>
pub fn pack(latents: Tensor<4>) -> Tensor<3> {
    let [batch, channels, height, width] = latents.dims();
    latents.reshape([batch, channels, height / 2, 2, width / 2, 2]).permute([0, 2, 4, 1, 3, 5]).reshape([
        batch,
        height * width / 4,
        4 * channels,
    ])
}

/// The inverse of [`pack`].
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/flux/pipeline_flux.py#L528-L541>
pub fn unpack(tokens: Tensor<3>, rows: usize, columns: usize) -> Tensor<4> {
    let [batch, _, wide] = tokens.dims();
    let channels = wide / 4;
    tokens.reshape([batch, rows, columns, channels, 2, 2]).permute([0, 3, 1, 4, 2, 5]).reshape([
        batch,
        channels,
        2 * rows,
        2 * columns,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_is_undone_by_unpacking() {
        let device = Device::flex();
        let values: Vec<f32> = (0..2 * 3 * 4 * 6).map(|value| value as f32).collect();
        let latents = Tensor::<4>::from_data(TensorData::new(values.clone(), [2, 3, 4, 6]), &device);
        let tokens = pack(latents);
        assert_eq!(tokens.dims(), [2, 6, 12]);
        // The first token holds the top left square of each channel.
        let first: Vec<f32> = tokens.clone().narrow(0, 0, 1).narrow(1, 0, 1).into_data().try_to_vec().unwrap();
        assert_eq!(first[..8], [0., 1., 6., 7., 24., 25., 30., 31.]);
        let back: Vec<f32> = unpack(tokens, 2, 3).into_data().try_to_vec().unwrap();
        assert_eq!(back, values);
    }
}
