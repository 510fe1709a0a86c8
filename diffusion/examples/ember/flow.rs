//! Training of ember's transformer together with both text encoders: captions and latents in, velocities out.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{self, Checkpoint, Stored};
use diffusion::networks::clip::{self, Activation, ClipTextModel};
use diffusion::networks::flux::{self, FluxInput, FluxTransformer};
use diffusion::networks::t5::{self, T5Encoder};
use diffusion::networks::vae::Autoencoder;
use diffusion::pipelines::flux::pack;
use diffusion::tokenizers::{clip::ClipTokenizer, t5::T5Tokenizer};
use diffusion::training::{AdamW, AdamWConfig, Moments, Random, draw_level, flow_batch, flow_loss, initialise};
use image::RgbImage;

use crate::autoencoder::{self, to_tensor};
use crate::dataset::{Attributes, BACKGROUNDS, Concept, caption, held_out, render};
use crate::words;

/// Combinations of attributes of one concept.
const COMBINATIONS: usize = BACKGROUNDS.len() * 8;
/// Tokens of a picture, and values of a token.
const TOKENS: usize = 16;
const TEXT_WIDTH: usize = 128;

#[derive(clap::Args)]
pub struct Arguments {
    /// Wall-clock minutes in all, those before a resume included; the learning rate falls to zero at their end.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    #[arg(long, default_value_t = 32)]
    batch: usize,
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// How far noise levels are moved towards noise, where it is decided what a picture shows.
    #[arg(long, default_value_t = 1.0)]
    shift: f64,
    /// Only the first concepts, to try things out.
    #[arg(long)]
    first: Option<usize>,
    /// Only the concepts of this shorter list.
    #[arg(long)]
    only: Option<PathBuf>,
    /// Go on where the last run stopped.
    #[arg(long)]
    resume: bool,
    #[arg(long, default_value = "out/ember")]
    out: PathBuf,
}

/// What is trained together.
#[derive(Module, Debug)]
pub struct Networks {
    pub text_encoder: ClipTextModel,
    pub text_encoder_2: T5Encoder,
    pub transformer: FluxTransformer,
}

pub struct Configs {
    pub clip: clip::Config,
    pub t5: t5::Config,
    pub flux: flux::Config,
}

/// Sizes of the networks, for the tokenizers in the output folder.
pub fn configs(out: &Path) -> Result<Configs> {
    let clip_size = words::clip_size(out)?;
    Ok(Configs {
        clip: clip::Config {
            vocab_size: clip_size,
            hidden_size: TEXT_WIDTH,
            intermediate_size: 2 * TEXT_WIDTH,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            max_position_embeddings: words::CLIP_LENGTH,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: clip_size as i64 - 1,
        },
        t5: t5::Config {
            vocab_size: words::t5_size(out)?,
            d_model: TEXT_WIDTH,
            d_kv: 32,
            d_ff: 2 * TEXT_WIDTH,
            num_layers: 2,
            num_heads: 4,
            relative_attention_num_buckets: 16,
            relative_attention_max_distance: 32,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: t5::FeedForwardKind::GatedGelu,
        },
        flux: flux::Config {
            patch_size: 1,
            in_channels: 4 * autoencoder::config().latent_channels,
            out_channels: None,
            num_layers: 2,
            num_single_layers: 4,
            attention_head_dim: 32,
            num_attention_heads: 6,
            joint_attention_dim: TEXT_WIDTH,
            pooled_projection_dim: TEXT_WIDTH,
            guidance_embeds: false,
            axes_dims_rope: [8, 12, 12],
        },
    })
}

impl Networks {
    pub fn new(configs: &Configs, device: &Device) -> Self {
        Self {
            text_encoder: ClipTextModel::new(&configs.clip, device),
            text_encoder_2: T5Encoder::new(&configs.t5, device),
            transformer: FluxTransformer::new(&configs.flux, device),
        }
    }
}

pub fn weights(out: &Path) -> PathBuf {
    out.join("flow.safetensors")
}

pub fn latents_path(out: &Path) -> PathBuf {
    out.join("latents.safetensors")
}

/// Encodes every picture of every concept once; training then never sees a pixel. Writes packed latents with their
/// mean and deviation.
pub fn encode(concepts: &[Concept], out: &Path) -> Result<()> {
    let device = Device::flex();
    let network = Autoencoder::new(&autoencoder::config(), &device);
    let network = checkpoint::load_strict(network, &Checkpoint::open(&autoencoder::weights(out))?, DType::F32)?;
    let mut values: Vec<f32> = Vec::new();
    for (number, concept) in concepts.iter().enumerate() {
        let pictures: Vec<RgbImage> = Attributes::all().map(|attributes| render(&concept.art, attributes)).collect();
        let latents = pack(network.encode(to_tensor(&pictures, &device)).mean);
        values.extend(latents.into_data().try_to_vec::<f32>().context("latents are f32")?);
        if number % 50 == 0 {
            println!("{number} of {} concepts encoded", concepts.len());
        }
    }
    let count = values.len() as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    let deviation = variance.sqrt();
    println!("latents: mean {mean:.4}, deviation {deviation:.4}");
    let length = values.len();
    let tensor = Tensor::<1>::from_data(TensorData::new(values, [length]), &device);
    let facts =
        BTreeMap::from([("mean".to_string(), mean.to_string()), ("deviation".to_string(), deviation.to_string())]);
    checkpoint::write(&latents_path(out), vec![Stored::new("latents", tensor, DType::F16)?], &facts)?;
    Ok(())
}

/// Mean and deviation of all latents.
pub fn latent_statistics(out: &Path) -> Result<(f64, f64)> {
    let checkpoint = Checkpoint::open(&latents_path(out))?;
    let fact = |name: &str| -> Result<f64> {
        Ok(checkpoint.metadata().get(name).with_context(|| format!("no {name}"))?.parse()?)
    };
    Ok((fact("mean")?, fact("deviation")?))
}

/// Captions as ids, and latents, of everything that may be trained on.
struct Examples {
    clip: Vec<Vec<i64>>,
    t5: Vec<Vec<i64>>,
    empty: (Vec<i64>, Vec<i64>),
    /// Normalised, packed.
    latents: Vec<f32>,
    allowed: Vec<bool>,
}

impl Examples {
    fn load(concepts: &[Concept], out: &Path) -> Result<Self> {
        let (mean, deviation) = latent_statistics(out)?;
        let mut latents = Checkpoint::open(&latents_path(out))?.read_f32("latents")?;
        latents.iter_mut().for_each(|value| *value = ((f64::from(*value) - mean) / deviation) as f32);
        let clip = ClipTokenizer::load(&out.join("tokenizer"))?;
        let t5 = T5Tokenizer::load(&out.join("tokenizer_2"))?;
        let all = || concepts.iter().flat_map(|concept| Attributes::all().map(move |attributes| (concept, attributes)));
        Ok(Self {
            clip: all()
                .map(|(concept, attributes)| clip.encode(&caption(&concept.name, attributes)))
                .collect::<Result<_, _>>()?,
            t5: all()
                .map(|(concept, attributes)| t5.encode(&caption(&concept.name, attributes)))
                .collect::<Result<_, _>>()?,
            empty: (clip.encode("")?, t5.encode("")?),
            latents,
            allowed: all().map(|(concept, attributes)| !held_out(&concept.name, attributes)).collect(),
        })
    }

    /// Index of a random picture: plain ones more often, held-out ones never.
    fn draw(&self, concept: usize, random: &mut Random) -> usize {
        loop {
            let background = if random.chance(0.4) { 0 } else { 1 + random.below(BACKGROUNDS.len() - 1) };
            let small = usize::from(random.chance(0.3));
            let mirrored = usize::from(random.chance(0.15));
            let two = usize::from(random.chance(0.3));
            let index = concept * COMBINATIONS + background * 8 + small + 2 * mirrored + 4 * two;
            if self.allowed[index] {
                return index;
            }
        }
    }
}

pub fn train(concepts: &[Concept], arguments: &Arguments) -> Result<()> {
    let device = Device::flex().autodiff();
    let out = &arguments.out;
    let concepts = &concepts[..arguments.first.unwrap_or(concepts.len()).min(concepts.len())];
    let chosen = match &arguments.only {
        Some(list) => {
            let names = crate::dataset::names(list)?;
            (0..concepts.len()).filter(|index| names.contains(&concepts[*index].name)).collect()
        }
        None => (0..concepts.len()).collect::<Vec<usize>>(),
    };
    ensure!(!chosen.is_empty(), "none of the concepts is in the shorter list");
    let configs = configs(out)?;
    let examples = Examples::load(concepts, out)?;
    let mut random = Random::new(2);
    let mut networks = initialise(Networks::new(&configs, &device), 0.5, &mut random);
    println!("{} parameters, {} concepts", networks.num_params(), chosen.len());
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let mut before = 0.0;
    if arguments.resume {
        (networks, before) = restore(networks, &mut optimizer, &mut random, out, &device)?;
    }
    let rotary = networks.transformer.rotary(words::T5_LENGTH, 4, 4, &device);
    let channels = configs.flux.in_channels;
    let mut log = std::fs::OpenOptions::new()
        .create(true)
        .append(arguments.resume)
        .truncate(!arguments.resume)
        .write(true)
        .open(out.join("flow.csv"))?;
    if !arguments.resume {
        writeln!(log, "step,minutes,loss")?;
    }
    let start = Instant::now();
    let (mut sum, mut count, mut saved) = (0.0, 0.0, before);
    let mut order: Vec<usize> = Vec::new();
    loop {
        let step = optimizer.steps() + 1;
        let minutes = before + start.elapsed().as_secs_f64() / 60.0;
        let progress = minutes / arguments.minutes;
        if progress >= 1.0 {
            break;
        }
        // Every concept once before any comes again.
        let mut batch = Vec::with_capacity(arguments.batch);
        while batch.len() < arguments.batch {
            if order.is_empty() {
                order = chosen.clone();
            }
            let concept = order.swap_remove(random.below(order.len()));
            batch.push(examples.draw(concept, &mut random));
        }
        let mut ids = (Vec::new(), Vec::new());
        let mut latents = Vec::with_capacity(batch.len() * TOKENS * channels);
        for index in &batch {
            let dropped = random.chance(0.05);
            ids.0.push(if dropped { examples.empty.0.clone() } else { examples.clip[*index].clone() });
            ids.1.push(if dropped { examples.empty.1.clone() } else { examples.t5[*index].clone() });
            latents.extend_from_slice(&examples.latents[index * TOKENS * channels..(index + 1) * TOKENS * channels]);
        }
        let latents = Tensor::from_data(TensorData::new(latents, [batch.len(), TOKENS, channels]), &device);
        let levels: Vec<f64> = batch.iter().map(|_| draw_level(&mut random, arguments.shift)).collect();
        let task = flow_batch(latents, &levels, &mut random);
        let input = FluxInput {
            hidden: task.noisy,
            encoder_hidden: networks.text_encoder_2.forward(&ids.1),
            pooled: networks.text_encoder.forward(&ids.0).pooled,
            timestep: levels.iter().map(|level| *level as f32).collect(),
            guidance: None,
        };
        let loss = flow_loss(networks.transformer.forward(input, &rotary), task.velocity);
        sum += f64::from(loss.clone().into_scalar::<f32>());
        count += 1.0;
        let rate = arguments.learning_rate * (step as f64 / 200.0).min(1.0) * ((1.0 - progress) / 0.6).min(1.0);
        let norm;
        (networks, norm) = optimizer.step(networks, loss.backward(), rate);
        if step % 50 == 0 {
            println!("step {step}, {minutes:.2} min, loss {:.4}, gradient {norm:.2}", sum / count);
            writeln!(log, "{step},{minutes:.2},{:.5}", sum / count)?;
            (sum, count) = (0.0, 0.0);
        }
        if minutes - saved > 4.0 {
            saved = minutes;
            save(&networks, &optimizer, &random, minutes, out)?;
        }
    }
    save(&networks, &optimizer, &random, arguments.minutes, out)
}

/// Weights, moments, and where the run is, in two files.
fn save(networks: &Networks, optimizer: &AdamW, random: &Random, minutes: f64, out: &Path) -> Result<()> {
    checkpoint::save(networks, &weights(out), DType::F32, &BTreeMap::new())?;
    let mut moments = Vec::new();
    for (path, Moments { first, second }) in optimizer.moments() {
        moments.push(Stored::new(format!("{path}.first"), first.clone(), DType::F32)?);
        moments.push(Stored::new(format!("{path}.second"), second.clone(), DType::F32)?);
    }
    let facts = BTreeMap::from([
        ("steps".to_string(), optimizer.steps().to_string()),
        ("random".to_string(), random.state().to_string()),
        ("minutes".to_string(), minutes.to_string()),
    ]);
    Ok(checkpoint::write(&out.join("flow-moments.safetensors"), moments, &facts)?)
}

fn restore(
    networks: Networks,
    optimizer: &mut AdamW,
    random: &mut Random,
    out: &Path,
    device: &Device,
) -> Result<(Networks, f64)> {
    let networks = checkpoint::load_strict(networks, &Checkpoint::open(&weights(out))?, DType::F32)?;
    let file = Checkpoint::open(&out.join("flow-moments.safetensors"))?;
    let fact = |name: &str| file.metadata().get(name).with_context(|| format!("no {name} in the checkpoint"));
    let device = device.clone().inner();
    let read = |name: String| -> Result<Tensor<1>> {
        let values = file.read_f32(&name)?;
        let length = values.len();
        Ok(Tensor::from_data(TensorData::new(values, [length]), &device))
    };
    let mut moments = BTreeMap::new();
    for path in file.names().filter_map(|name| name.strip_suffix(".first")) {
        let pair = Moments { first: read(format!("{path}.first"))?, second: read(format!("{path}.second"))? };
        moments.insert(path.to_string(), pair);
    }
    ensure!(!moments.is_empty(), "there are no moments in the checkpoint");
    optimizer.restore(fact("steps")?.parse()?, moments);
    *random = Random::new(fact("random")?.parse()?);
    Ok((networks, fact("minutes")?.parse()?))
}
