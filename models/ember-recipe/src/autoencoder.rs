//! Trains ember's autoencoder to reconstruct its pictures.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{self, Checkpoint};
use diffusion::networks::vae::{Autoencoder, Config};
use diffusion::training::{AdamW, AdamWConfig, Gradients, Random, initialise};
use image::{RgbImage, imageops};

use crate::dataset::{Attributes, BACKGROUNDS, Concept, render, render_on};
use crate::pyrography;

const LATENT_CHANNELS: usize = 32;
/// Weight of the Kullback-Leibler term per latent value. It keeps latents close to a standard normal distribution.
const KL_WEIGHT: f64 = 3e-4;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Total number of steps; the learning rate decays to zero over them.
    #[arg(long)]
    steps: u64,
    #[arg(long, default_value_t = 16)]
    batch: usize,
    #[arg(long, default_value_t = 2e-3)]
    learning_rate: f64,
    /// Continue with the weights in the output folder.
    #[arg(long)]
    resume: bool,
    #[arg(long, default_value = "out/ember")]
    out: PathBuf,
}

pub(crate) fn config() -> Config {
    Config {
        in_channels: 3,
        out_channels: 3,
        latent_channels: LATENT_CHANNELS,
        block_out_channels: vec![16, 24, 48, 96],
        layers_per_block: 1,
        norm_num_groups: 8,
        mid_block_add_attention: false,
        use_quant_conv: false,
        use_post_quant_conv: false,
        scaling_factor: 1.0,
        shift_factor: None,
        latents_mean: None,
        latents_std: None,
        sample_size: 512,
    }
}

pub(crate) fn weights(out: &Path) -> PathBuf {
    out.join("vae.safetensors")
}

pub(crate) fn train(concepts: &[Concept], arguments: &Arguments) -> Result<()> {
    let device = Device::flex().autodiff();
    let mut random = Random::new(1);
    let mut network = initialise(Autoencoder::new(&config(), &device), 1.0, &mut random);
    if arguments.resume {
        network = checkpoint::load_strict(network, &Checkpoint::open(&weights(&arguments.out))?, DType::F32)?;
    }
    println!("{} parameters", network.num_params());
    let mut optimizer = AdamW::new(AdamWConfig::default());
    std::fs::create_dir_all(&arguments.out)?;
    let mut log = std::fs::File::create(arguments.out.join("vae.csv"))?;
    writeln!(log, "step,minutes,loss,psnr_db")?;
    let start = Instant::now();
    let (mut loss_sum, mut error_sum, mut count, mut saved) = (0.0, 0.0, 0.0, 0.0);
    for step in 1..=arguments.steps {
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        let progress = step as f64 / arguments.steps as f64;
        let pictures: Vec<RgbImage> = (0..arguments.batch).map(|_| augmented(concepts, &mut random)).collect();
        let pictures = to_tensor(&pictures, &device);
        let posterior = network.encode(pictures.clone());
        let deviation = (posterior.log_variance.clone() * 0.5).exp();
        let noise = random.normal(deviation.dims(), &device);
        let decoded = network.decode(posterior.mean.clone() + deviation * noise);
        let difference = decoded - pictures;
        let squared = difference.clone().square().mean();
        let kl = (posterior.mean.square() + posterior.log_variance.clone().exp() - posterior.log_variance - 1.0).mean()
            * 0.5;
        let loss = difference.abs().mean() + squared.clone() * 4.0 + kl * KL_WEIGHT;
        error_sum += f64::from(squared.into_scalar::<f32>());
        loss_sum += f64::from(loss.clone().into_scalar::<f32>());
        count += 1.0;
        let warm = (step as f64 / 100.0).min(1.0);
        let gradients = Gradients::of(&network, &mut loss.backward());
        (network, _) = optimizer.step(network, gradients, arguments.learning_rate * warm * (1.0 - progress));
        if step % 50 == 0 {
            let (loss, psnr) = (loss_sum / count, psnr(error_sum / count / 4.0));
            println!("step {step}, {minutes:.2} min, loss {loss:.4}, {psnr:.2} dB");
            writeln!(log, "{step},{minutes:.2},{loss:.5},{psnr:.2}")?;
            (loss_sum, error_sum, count) = (0.0, 0.0, 0.0);
        }
        if minutes - saved > 3.0 {
            saved = minutes;
            checkpoint::save(&network, &weights(&arguments.out), DType::F32, &BTreeMap::new())?;
        }
    }
    checkpoint::save(&network, &weights(&arguments.out), DType::F32, &BTreeMap::new())?;
    let network = network.valid();
    println!("reconstruction of every plain picture: {:.2} dB", reconstruction(&network, concepts, 1)?);
    Ok(())
}

/// Peak signal-to-noise ratio over every `stride`th training picture, from their common mean squared error.
pub(crate) fn reconstruction(network: &Autoencoder, concepts: &[Concept], stride: usize) -> Result<f64> {
    let device = Device::flex();
    let pictures: Vec<RgbImage> =
        concepts.iter().step_by(stride).map(|concept| render(&concept.art, Attributes::default())).collect();
    let (mut error, mut count) = (0.0, 0.0);
    for batch in pictures.chunks(32) {
        let pictures = to_tensor(batch, &device);
        let decoded = network.decode(network.encode(pictures.clone()).mean).clamp(-1.0, 1.0);
        error += f64::from((decoded - pictures).square().mean().into_scalar::<f32>()) * batch.len() as f64;
        count += batch.len() as f64;
    }
    Ok(psnr(error / count / 4.0))
}

/// In decibels, for values in 0..1.
pub(crate) fn psnr(mean_squared_error: f64) -> f64 {
    -10.0 * mean_squared_error.log10()
}

/// Pictures → `[batch, 3, height, width]` in −1..1.
pub(crate) fn to_tensor(pictures: &[RgbImage], device: &Device) -> Tensor<4> {
    let (width, height) = pictures[0].dimensions();
    let mut values = Vec::with_capacity(pictures.len() * 3 * (width * height) as usize);
    for picture in pictures {
        for channel in 0..3 {
            values.extend(picture.pixels().map(|pixel| f32::from(pixel[channel]) / 127.5 - 1.0));
        }
    }
    Tensor::from_data(TensorData::new(values, [pictures.len(), 3, height as usize, width as usize]), device)
}

/// The inverse of [`to_tensor`].
pub(crate) fn from_tensor(pictures: Tensor<4>) -> Result<Vec<RgbImage>> {
    let [_, channels, height, width] = pictures.dims();
    let values: Vec<f32> = pictures.into_data().try_to_vec::<f32>().context("pictures are f32")?;
    let places = height * width;
    Ok(values
        .chunks_exact(channels * places)
        .map(|planes| {
            RgbImage::from_fn(width as u32, height as u32, |x, y| {
                let at = y as usize * width + x as usize;
                image::Rgb([0, 1, 2].map(|c| ((planes[c * places + at] + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8))
            })
        })
        .collect())
}

/// A training picture: usually one of a caption, sometimes recoloured, moved, or in the pyrography style, so that
/// latents also cover adapters of other styles.
fn augmented(concepts: &[Concept], random: &mut Random) -> RgbImage {
    let concept = &concepts[random.below(concepts.len())];
    let attributes = Attributes {
        background: if random.chance(0.4) { 0 } else { random.below(BACKGROUNDS.len()) },
        small: random.chance(0.2),
        mirrored: random.chance(0.3),
        two: random.chance(0.2),
    };
    if random.chance(0.08) {
        return pyrography::burn(&concept.art, attributes);
    }
    if random.chance(0.7) {
        return render(&concept.art, attributes);
    }
    let mut colour = || 40 + random.below(216) as u8;
    let background = [colour(), colour(), colour()];
    let shift = (random.below(9) as i64 - 4, random.below(9) as i64 - 4);
    let mut picture = render_on(&concept.art, attributes, background, shift);
    if random.chance(0.2) {
        picture = imageops::rotate90(&picture);
    }
    if random.chance(0.2) {
        imageops::invert(&mut picture);
    }
    picture
}
