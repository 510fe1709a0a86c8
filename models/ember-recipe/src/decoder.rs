//! Trains only ember's decoder, with fixed latents. It can run while the transformer learns those latents.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{self, Checkpoint};
use diffusion::networks::vae::Autoencoder;
use diffusion::pipelines::flux::{pack, unpack};
use diffusion::training::{AdamW, AdamWConfig, Gradients, Random};
use image::RgbImage;

use crate::autoencoder::{config, psnr, reconstruction, to_tensor, weights};
use crate::dataset::{Attributes, Concept, render};
use crate::latents::latents_path;
use crate::pyrography;

/// Shares of the training pictures: those without attributes, and those of another style.
const PLAIN: f64 = 0.45;
const BURNT: f64 = 0.04;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Total number of steps; the learning rate decays to zero over them.
    #[arg(long)]
    steps: u64,
    #[arg(long, default_value_t = 8)]
    batch: usize,
    #[arg(long, default_value_t = 1.5e-3)]
    learning_rate: f64,
    #[arg(long, default_value = "out/ember")]
    out: PathBuf,
}

pub(crate) fn train(concepts: &[Concept], arguments: &Arguments) -> Result<()> {
    let device = Device::flex().autodiff();
    let out = &arguments.out;
    let mut random = Random::new(3);
    let network = Autoencoder::new(&config(), &device);
    let mut network = checkpoint::load_strict(network, &Checkpoint::open(&weights(out))?, DType::F32)?;
    let channels = config().latent_channels;
    let length = channels * 64;
    let codes: Vec<Attributes> = Attributes::all().collect();
    let captioned = Checkpoint::open(&latents_path(out))?.read_f32("latents")?;
    let burnt = encode_burnt(&network.valid(), concepts)?;
    // A picture is rendered on first use.
    let mut pictures: BTreeMap<usize, RgbImage> = BTreeMap::new();
    let all = concepts.len() * codes.len();
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let mut log = std::fs::File::create(out.join("decoder.csv"))?;
    writeln!(log, "step,minutes,loss,psnr_db")?;
    let start = Instant::now();
    let (mut loss_sum, mut error_sum, mut count, mut saved) = (0.0, 0.0, 0.0, 0.0);
    for step in 1..=arguments.steps {
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        let progress = step as f64 / arguments.steps as f64;
        let mut latents = Vec::with_capacity(arguments.batch * length);
        let mut meant = Vec::with_capacity(arguments.batch);
        for _ in 0..arguments.batch {
            let concept = random.below(concepts.len());
            let kind = random.uniform();
            let index = if kind < BURNT {
                all + concept
            } else if kind < BURNT + PLAIN {
                concept * codes.len()
            } else {
                concept * codes.len() + random.below(codes.len())
            };
            let from = if index < all {
                &captioned[index * length..][..length]
            } else {
                &burnt[(index - all) * length..][..length]
            };
            latents.extend_from_slice(from);
            let picture = pictures.entry(index).or_insert_with(|| {
                if index < all {
                    render(&concepts[concept].art, codes[index % codes.len()])
                } else {
                    pyrography::burn(&concepts[concept].art, Attributes::default())
                }
            });
            meant.push(picture.clone());
        }
        let latents = Tensor::from_data(TensorData::new(latents, [arguments.batch, 16, 4 * channels]), &device);
        let difference = network.decode(unpack(latents, 4, 4)) - to_tensor(&meant, &device);
        let squared = difference.clone().square().mean();
        let loss = difference.abs().mean() + squared.clone() * 8.0;
        error_sum += f64::from(squared.into_scalar::<f32>());
        loss_sum += f64::from(loss.clone().into_scalar::<f32>());
        count += 1.0;
        let warm = (step as f64 / 100.0).min(1.0);
        let gradients = Gradients::of(&network, &mut loss.backward());
        (network, _) = optimizer.step(network, gradients, arguments.learning_rate * warm * (1.0 - progress));
        if step % 100 == 0 {
            let (loss, psnr) = (loss_sum / count, psnr(error_sum / count / 4.0));
            println!("step {step}, {minutes:.2} min, loss {loss:.4}, {psnr:.2} dB");
            writeln!(log, "{step},{minutes:.2},{loss:.5},{psnr:.2}")?;
            (loss_sum, error_sum, count) = (0.0, 0.0, 0.0);
        }
        if minutes - saved > 3.0 {
            saved = minutes;
            checkpoint::save(&network, &weights(out), DType::F32, &BTreeMap::new())?;
        }
    }
    checkpoint::save(&network, &weights(out), DType::F32, &BTreeMap::new())?;
    println!("reconstruction of every plain picture: {:.2} dB", reconstruction(&network.valid(), concepts, 1)?);
    Ok(())
}

/// Packed latents of every concept in the other style.
fn encode_burnt(network: &Autoencoder, concepts: &[Concept]) -> Result<Vec<f32>> {
    let mut latents = Vec::new();
    for concepts in concepts.chunks(32) {
        let pictures: Vec<RgbImage> =
            concepts.iter().map(|concept| pyrography::burn(&concept.art, Attributes::default())).collect();
        let mean = network.encode(to_tensor(&pictures, &Device::flex())).mean;
        latents.extend(pack(mean).into_data().try_to_vec::<f32>().context("latents are f32")?);
    }
    Ok(latents)
}
