//! Times networks at their published sizes. The counterpart in PyTorch is `bench/peers/networks.py`.
//!
//! The arguments are a network and a size, `published` or `tiny`. Reads `forward N` from stdin and prints N times in
//! milliseconds, as JSON. Random weights, f32 on the CPU. `RAYON_NUM_THREADS` sets the number of threads.

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::io::BufRead;
use std::time::Instant;

use anyhow::{Result, bail};
use burn::prelude::*;
use diffusion::networks::{clip, flux, unet, vae};
use diffusion::noise::Noise;
use diffusion::training::{Random, initialise};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs one call and returns the sum of its output.
type Forward = Box<dyn Fn() -> Tensor<1>>;

fn random<M: Module>(network: M) -> M {
    initialise(network, 0.02, &mut Random::new(0))
}

/// 256×256 pixels, and a prompt of 77 tokens.
fn sd15_unet(tiny: bool, device: &Device) -> Result<Forward> {
    let (width, config) = if tiny {
        let config = r#"{"cross_attention_dim": 32, "attention_head_dim": 2, "layers_per_block": 1,
            "block_out_channels": [32, 64, 96, 128]}"#;
        (32, config)
    } else {
        (768, r#"{"cross_attention_dim": 768, "attention_head_dim": 8}"#)
    };
    let config: unet::Config = serde_json::from_str(config)?;
    let network = random(unet::UNet2DConditionModel::new(&config, device));
    let mut noise = Noise::seeded(0);
    let latents: Tensor<4> = noise.normal_tensor([1, 4, 32, 32], device);
    let text: Tensor<3> = noise.normal_tensor([1, 77, width], device);
    Ok(Box::new(move || network.forward(latents.clone(), &[500.0], text.clone(), None, None).sum()))
}

fn sd15_vae(tiny: bool, device: &Device) -> Result<Forward> {
    let config = if tiny {
        r#"{"latent_channels": 4, "layers_per_block": 2, "block_out_channels": [32, 32, 64, 64]}"#
    } else {
        r#"{"latent_channels": 4, "layers_per_block": 2, "block_out_channels": [128, 256, 512, 512]}"#
    };
    let config: vae::Config = serde_json::from_str(config)?;
    let network = random(vae::Autoencoder::new(&config, device));
    let latents: Tensor<4> = Noise::seeded(0).normal_tensor([1, 4, 32, 32], device);
    Ok(Box::new(move || network.decode(latents.clone()).sum()))
}

fn clip_l(tiny: bool, device: &Device) -> Forward {
    let (width, layers) = if tiny { (32, 2) } else { (768, 12) };
    let config = clip::Config {
        hidden_size: width,
        intermediate_size: 4 * width,
        num_attention_heads: layers,
        num_hidden_layers: layers,
        ..clip::Config::default()
    };
    let network = random(clip::ClipTextModel::new(&config, device));
    let ids: Vec<i64> = (0..77).map(|token| 600 * token).collect();
    Box::new(move || network.forward(std::slice::from_ref(&ids)).last_hidden_state.sum())
}

/// 256×256 pixels, and a prompt of 512 tokens. The context embedder is not part of a block and is kept small.
fn flux(tiny: bool, num_layers: usize, num_single_layers: usize, device: &Device) -> Forward {
    let published = flux::Config::default();
    let size = if tiny {
        flux::Config { attention_head_dim: 16, num_attention_heads: 2, axes_dims_rope: [4, 6, 6], ..published }
    } else {
        published
    };
    let config = flux::Config { num_layers, num_single_layers, joint_attention_dim: 256, ..size };
    let network = random(flux::FluxTransformer::new(&config, device));
    let mut noise = Noise::seeded(0);
    let input = flux::FluxInput {
        hidden: noise.normal_tensor([1, 256, 64], device),
        encoder_hidden: noise.normal_tensor([1, 512, 256], device),
        pooled: noise.normal_tensor([1, 768], device),
        timestep: vec![0.5],
        guidance: None,
    };
    let device = device.clone();
    // Computes the rotary angles in each call, as the counterpart does.
    Box::new(move || network.forward(input.clone(), &network.rotary(512, 16, 16, &device)).sum())
}

fn main() -> Result<()> {
    diffusion::device::join_pool(None);
    let device = Device::flex();
    let tiny = std::env::args().nth(2).as_deref() == Some("tiny");
    let forward = match std::env::args().nth(1).as_deref() {
        Some("unet") => sd15_unet(tiny, &device)?,
        Some("vae") => sd15_vae(tiny, &device)?,
        Some("clip") => clip_l(tiny, &device),
        Some("flux_double") => flux(tiny, 1, 0, &device),
        Some("flux_single") => flux(tiny, 0, 1, &device),
        other => bail!("{other:?} is none of unet, vae, clip, flux_double and flux_single"),
    };
    for line in std::io::stdin().lock().lines() {
        let count = line?.split_once(' ').map_or(Ok(1), |(_, count)| count.parse())?;
        let times = (0..count).map(|_| {
            let start = Instant::now();
            forward().into_data();
            1000.0 * start.elapsed().as_secs_f64()
        });
        println!("{:?}", times.collect::<Vec<f64>>());
    }
    Ok(())
}
