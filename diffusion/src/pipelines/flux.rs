//! FLUX.1 text to image, step by step as diffusers' `FluxPipeline` does it on the CPU, so that the same folder, prompt and
//! seed give the same picture.

use std::ops::ControlFlow;
use std::path::Path;

use ::image::RgbImage;
use burn::prelude::*;
use burn::tensor::DType;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Checkpoint};
use crate::device::weight_dtype;
use crate::image;
use crate::lora::{self, LoraFile, MatchReport, Network, Target};
use crate::networks::clip::{self, ClipTextModel};
use crate::networks::flux::{self, FluxInput, FluxTransformer};
use crate::networks::t5::{self, T5Encoder};
use crate::networks::vae::{self, Autoencoder};
use crate::noise::Noise;
use crate::schedulers::flow_match_euler::{self, FlowMatchEuler, Schedule};
use crate::tokenizers::{clip::ClipTokenizer, t5::T5Tokenizer};
use crate::{Error, Result};

/// Configs are small; anything larger than this is not one.
const CONFIG_LIMIT: u64 = 1 << 20;

/// A loaded FLUX.1 checkpoint, ready to make pictures.
#[derive(Debug)]
pub struct FluxPipeline {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    pub(crate) clip_tokenizer: ClipTokenizer,
    pub(crate) t5_tokenizer: T5Tokenizer,
    pub(crate) clip: ClipTextModel,
    pub(crate) t5: T5Encoder,
    pub(crate) transformer: FluxTransformer,
    pub(crate) vae: Autoencoder,
    scheduler: FlowMatchEuler,
    guided: bool,
    latent_channels: usize,
    vae_factor: usize,
    defaults: Defaults,
}

/// What a request may leave out: the file `pyrograph.json` in the model's folder, or FLUX.1-dev's values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Defaults {
    pub num_inference_steps: usize,
    pub guidance_scale: f64,
    pub true_cfg_scale: f64,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { num_inference_steps: 28, guidance_scale: 3.5, true_cfg_scale: 1.0, width: 1024, height: 1024 }
    }
}

/// A request for pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct TextToImage {
    pub prompt: String,
    /// What the pictures should not be; counts only with `true_cfg_scale` above 1, where its absence means "".
    pub negative_prompt: Option<String>,
    pub num_images: usize,
    pub num_inference_steps: usize,
    /// Told to models with a guidance embedding; the others ignore it.
    pub guidance_scale: f64,
    /// Classifier-free guidance away from the negative prompt, two calls a step, if above 1.
    pub true_cfg_scale: f64,
    /// Pixels, a multiple of [`FluxPipeline::size_multiple`].
    pub width: usize,
    /// Pixels, a multiple of [`FluxPipeline::size_multiple`].
    pub height: usize,
    /// Picture `i` is made from `seed + i`, so it does not depend on the batch that it was in.
    pub seed: u64,
}

/// How far a request is. Pictures are made one after the other; steps count through all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Denoising steps done, from 1.
    pub step: usize,
    /// Steps of one picture times the number of pictures.
    pub total_steps: usize,
}

/// A prompt as the transformer reads it.
#[derive(Debug, Clone)]
pub struct PromptEmbeddings {
    /// T5 states, `[1, length, joint_attention_dim]`
    pub hidden: Tensor<3>,
    /// CLIP's pooled state, `[1, pooled_projection_dim]`
    pub pooled: Tensor<2>,
}

/// What stays the same through the denoising of one picture.
#[derive(Debug, Clone)]
pub struct Denoising {
    pub prompt: PromptEmbeddings,
    /// The negative prompt and the true CFG scale, if that guidance is wanted.
    pub negative: Option<(PromptEmbeddings, f64)>,
    pub guidance_scale: f64,
    pub schedule: Schedule,
    /// Height of the picture in tokens.
    pub rows: usize,
    /// Width of the picture in tokens.
    pub columns: usize,
}

impl FluxPipeline {
    /// Loads a folder in diffusers' layout, strictly: a tensor that is missing, unused or of the wrong shape is an error.
    /// All sizes come from the `config.json` files.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        check_class(folder)?;
        let dtype = weight_dtype(device);
        let transformer_config: flux::Config = read_json(&folder.join("transformer/config.json"))?;
        let clip_config: clip::Config = read_json(&folder.join("text_encoder/config.json"))?;
        let t5_config: t5::Config = read_json(&folder.join("text_encoder_2/config.json"))?;
        let vae_config: vae::Config = read_json(&folder.join("vae/config.json"))?;
        let clip_tokenizer = ClipTokenizer::load(&folder.join("tokenizer"))?;
        let t5_tokenizer = T5Tokenizer::load(&folder.join("tokenizer_2"))?;
        check_sizes(folder, &transformer_config, &clip_config, &t5_config, &vae_config, &clip_tokenizer)?;

        let clip =
            ClipTextModel::new(&clip_config, device).load(Checkpoint::open(&folder.join("text_encoder"))?, dtype)?;
        let t5 = T5Encoder::new(&t5_config, device).load(Checkpoint::open(&folder.join("text_encoder_2"))?, dtype)?;
        let transformer = checkpoint::load_strict(
            FluxTransformer::new(&transformer_config, device),
            &Checkpoint::open(&folder.join("transformer"))?,
            dtype,
        )?;
        // The decoder overflows in bf16 at the contrasts of real checkpoints, and is small.
        let vae = checkpoint::load_strict(
            Autoencoder::new(&vae_config, device),
            &Checkpoint::open(&folder.join("vae"))?,
            DType::F32,
        )?;
        let scheduler: flow_match_euler::Config = read_json(&folder.join("scheduler/scheduler_config.json"))?;
        let defaults = folder.join("pyrograph.json");
        Ok(Self {
            device: device.clone(),
            dtype,
            clip_tokenizer,
            t5_tokenizer,
            clip,
            t5,
            transformer,
            vae,
            scheduler: FlowMatchEuler::new(scheduler)?,
            guided: transformer_config.guidance_embeds,
            latent_channels: vae_config.latent_channels,
            vae_factor: vae_config.factor(),
            defaults: if defaults.is_file() { read_json(&defaults)? } else { Defaults::default() },
        })
    }

    /// What a request may leave out.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Width and height of a picture are multiples of this many pixels.
    pub fn size_multiple(&self) -> usize {
        2 * self.vae_factor
    }

    /// Whether the transformer embeds the guidance scale. One that does not is guided by the true CFG scale.
    pub fn is_guided(&self) -> bool {
        self.guided
    }

    /// How far the noise levels of a training are moved towards noise.
    pub(crate) fn training_shift(&self) -> f64 {
        self.scheduler.training_shift()
    }

    /// Puts adapters on the transformer and the text encoders, each with its scale, in place of those that were on them; an
    /// empty list leaves the base as it was loaded. The base weights are never touched. An adapter of which nothing fits is
    /// an error, and then nothing has changed.
    pub fn attach(&mut self, loras: &[(&LoraFile, f64)]) -> Result<Vec<MatchReport>> {
        let mut targets = [
            Target::from(&mut self.transformer),
            Target::new(Network::TextEncoder, self.clip.linears()),
            Target::new(Network::TextEncoder2, self.t5.linears()),
        ];
        lora::attach(&mut targets, loras, &self.device)
    }

    /// Makes the pictures of a request. `on_step` hears of every step and may break it off: [`Error::Canceled`].
    pub fn generate(
        &self,
        request: &TextToImage,
        on_step: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Vec<RgbImage>> {
        let denoising = self.prepare(request)?;
        let total_steps = request.num_images * request.num_inference_steps;
        let mut pictures = Vec::with_capacity(request.num_images);
        let mut done = 0;
        for index in 0..request.num_images {
            let noise = self.noise(request.seed.wrapping_add(index as u64), denoising.rows, denoising.columns);
            let latents = self.denoise(&denoising, noise, &mut |_, _| {
                done += 1;
                on_step(Progress { step: done, total_steps })
            })?;
            pictures.push(image::from_tensor(self.decode(latents, denoising.rows, denoising.columns))?);
        }
        Ok(pictures)
    }

    /// Checks a request and encodes its prompts: all that its pictures share.
    pub fn prepare(&self, request: &TextToImage) -> Result<Denoising> {
        let multiple = self.size_multiple();
        for (name, side) in [("width", request.width), ("height", request.height)] {
            if side == 0 || side % multiple != 0 {
                return Err(Error::Invalid(format!("{name} is {side}, and has to be a multiple of {multiple}")));
            }
        }
        if request.num_images == 0 || request.num_inference_steps == 0 {
            return Err(Error::Invalid("at least one picture and one step are needed".into()));
        }
        let (rows, columns) = (request.height / multiple, request.width / multiple);
        let negative = if request.true_cfg_scale > 1.0 {
            let prompt = request.negative_prompt.as_deref().unwrap_or_default();
            Some((self.encode_prompt(prompt)?, request.true_cfg_scale))
        } else {
            None
        };
        Ok(Denoising {
            prompt: self.encode_prompt(&request.prompt)?,
            negative,
            guidance_scale: request.guidance_scale,
            schedule: self.scheduler.schedule(request.num_inference_steps, rows * columns),
            rows,
            columns,
        })
    }

    /// What both text encoders make of a prompt.
    pub fn encode_prompt(&self, prompt: &str) -> Result<PromptEmbeddings> {
        let pooled = self.clip.forward(&[self.clip_tokenizer.encode(prompt)?]).pooled;
        let hidden = self.t5.forward(&[self.t5_tokenizer.encode(prompt)?]);
        Ok(PromptEmbeddings { hidden, pooled })
    }

    /// The first latents of a picture, packed: `[1, rows · columns, 4 · latent channels]`.
    pub fn noise(&self, seed: u64, rows: usize, columns: usize) -> Tensor<3> {
        let shape = [1, self.latent_channels, 2 * rows, 2 * columns];
        pack(Noise::seeded(seed).normal_tensor(shape, &self.device))
    }

    /// From noise to the latents of a picture, both packed. `on_step` sees the number of each step from 0 and the latents
    /// after it, and may break it off: [`Error::Canceled`].
    pub fn denoise(
        &self,
        denoising: &Denoising,
        noise: Tensor<3>,
        on_step: &mut dyn FnMut(usize, &Tensor<3>) -> ControlFlow<()>,
    ) -> Result<Tensor<3>> {
        let Denoising { prompt, negative, guidance_scale, schedule, rows, columns } = denoising;
        let [_, text, _] = prompt.hidden.dims();
        let rotary = self.transformer.rotary(text, *rows, *columns, &self.device);
        let velocity = |latents: &Tensor<3>, prompt: &PromptEmbeddings, step: usize| {
            let input = FluxInput {
                hidden: latents.clone().cast(self.dtype),
                encoder_hidden: prompt.hidden.clone(),
                pooled: prompt.pooled.clone(),
                timestep: vec![schedule.time(step)],
                guidance: self.guided.then(|| vec![*guidance_scale as f32]),
            };
            self.transformer.forward(input, &rotary).cast(DType::F32)
        };
        let mut latents = noise;
        for step in 0..schedule.steps() {
            let mut wanted = velocity(&latents, prompt, step);
            if let Some((negative, scale)) = negative {
                let unwanted = velocity(&latents, negative, step);
                wanted = unwanted.clone() + (wanted - unwanted) * *scale;
            }
            latents = schedule.step(step, latents, wanted);
            if on_step(step, &latents).is_break() {
                return Err(Error::Canceled);
            }
        }
        Ok(latents)
    }

    /// Packed latents → values −1..1, `[1, 3, height, width]`.
    pub fn decode(&self, latents: Tensor<3>, rows: usize, columns: usize) -> Tensor<4> {
        self.vae.decode(self.vae.denormalise(unpack(latents, rows, columns)))
    }
}

/// Four neighbours of each channel become one token: `[batch, channels, 2 · rows, 2 · columns]` →
/// `[batch, rows · columns, 4 · channels]`.
pub fn pack(latents: Tensor<4>) -> Tensor<3> {
    let [batch, channels, height, width] = latents.dims();
    latents.reshape([batch, channels, height / 2, 2, width / 2, 2]).permute([0, 2, 4, 1, 3, 5]).reshape([
        batch,
        height * width / 4,
        4 * channels,
    ])
}

/// The inverse of [`pack`].
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

fn check_class(folder: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct Index {
        _class_name: String,
    }
    let path = folder.join("model_index.json");
    let index: Index = read_json(&path)?;
    match index._class_name.as_str() {
        "FluxPipeline" => Ok(()),
        other => Err(Error::malformed(path, format!("this is a {other}; only FluxPipeline (FLUX.1) can be loaded"))),
    }
}

/// The configs have to agree before anything is multiplied by anything.
fn check_sizes(
    folder: &Path,
    transformer: &flux::Config,
    clip: &clip::Config,
    t5: &t5::Config,
    vae: &vae::Config,
    tokenizer: &ClipTokenizer,
) -> Result<()> {
    transformer.check()?;
    clip.check()?;
    t5.check()?;
    vae.check()?;
    let pairs = [
        (
            "CLIP's width and the transformer's pooled_projection_dim",
            clip.hidden_size,
            transformer.pooled_projection_dim,
        ),
        ("T5's width and the transformer's joint_attention_dim", t5.d_model, transformer.joint_attention_dim),
        ("four latent channels and the transformer's in_channels", 4 * vae.latent_channels, transformer.in_channels),
        ("the transformer's in_channels and its output", transformer.in_channels, transformer.outputs()),
    ];
    if let Some((what, left, right)) = pairs.iter().find(|(_, left, right)| left != right) {
        return Err(Error::malformed(folder, format!("{what} do not agree: {left} and {right}")));
    }
    if tokenizer.length() > clip.max_position_embeddings {
        let positions = clip.max_position_embeddings;
        let reason = format!("the tokenizer makes {} ids, and CLIP has {positions} positions", tokenizer.length());
        return Err(Error::malformed(folder, reason));
    }
    Ok(())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let size = std::fs::metadata(path).map_err(Error::file(path))?.len();
    if size > CONFIG_LIMIT {
        return Err(Error::malformed(path, format!("{size} bytes are too many for a config")));
    }
    let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
    serde_json::from_str(&text).map_err(|error| Error::malformed(path, error.to_string()))
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
        // the first token holds the upper left square of each channel
        let first: Vec<f32> = tokens.clone().narrow(0, 0, 1).narrow(1, 0, 1).into_data().try_to_vec().unwrap();
        assert_eq!(first[..8], [0., 1., 6., 7., 24., 25., 30., 31.]);
        let back: Vec<f32> = unpack(tokens, 2, 3).into_data().try_to_vec().unwrap();
        assert_eq!(back, values);
    }
}
