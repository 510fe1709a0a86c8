//! FLUX.1 from prompt to pixels, stage by stage, with random weights: text encoders, denoising steps, decoder, and
//! loading.

use std::collections::BTreeMap;

use anyhow::Result;
use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use diffusion::checkpoint::{self, Checkpoint, load_strict};
use diffusion::device::weight_dtype;
use diffusion::networks::clip::ClipTextModel;
use diffusion::networks::flux::{self, FluxInput, FluxTransformer};
use diffusion::networks::t5::T5Encoder;
use diffusion::networks::vae::Autoencoder;

use crate::clock;
use crate::figure::{Figure, Figures};
use crate::floor;
use crate::random_weights::draw;
use crate::scale::Scale;

/// Measures everything, most important first.
pub(crate) fn measure(scale: &Scale, device: &Device, figures: &mut Figures) -> Result<()> {
    steps(scale, device, figures)?;
    encoders(scale, device, figures)?;
    decoder(scale, device, figures)?;
    loading(scale, device, figures)
}

/// The first call again, in a process that finds the kernels cached by an earlier one.
pub(crate) fn warm_start(scale: &Scale, device: &Device, figures: &mut Figures) -> Result<()> {
    let network = draw(FluxTransformer::new(&scale.flux, device), weight_dtype(device));
    let input = input(scale, scale.sides[0], device);
    let rotary = network.rotary(scale.text, scale.sides[0] / 16, scale.sides[0] / 16, device);
    let (first, _) = clock::once(device, || network.forward(input, &rotary))?;
    figures.put(Figure::ours(format!("first step {} px, kernels kept", scale.sides[0]), first / 1e3, "s"))
}

fn steps(scale: &Scale, device: &Device, figures: &mut Figures) -> Result<()> {
    let dtype = weight_dtype(device);
    let (drawing, network) = clock::once(device, || draw(FluxTransformer::new(&scale.flux, device), dtype))?;
    figures.put(Figure::ours("drawing the transformer's weights", drawing / 1e3, "s"))?;
    if let Some(gib) = clock::reserved(device) {
        figures.put(Figure::ours("memory, transformer alone", gib, "GiB"))?;
    }
    for side in scale.sides {
        let input = input(scale, side, device);
        let rotary = network.rotary(scale.text, side / 16, side / 16, device);
        // One sampler step: one call, and the update of the latents.
        let step = || {
            let velocity = network.forward(input.clone(), &rotary);
            drop(input.hidden.clone() + velocity * 0.05);
        };
        let (first, median) = clock::first_and_median(device, scale.calls, step)?;
        let blocks = scale.flux.num_layers + scale.flux.num_single_layers;
        let flop = floor::transformer(blocks, scale.flux.width(), Scale::tokens(side) + scale.text);
        figures.put(Figure::ours(format!("step {side} px"), median, "ms").of_flop(flop))?;
        figures.put(Figure::ours(format!("first step {side} px"), first / 1e3, "s").with_note("compiles and tunes"))?;
    }
    if let Some(gib) = clock::reserved(device) {
        figures.put(Figure::ours("memory, denoising", gib, "GiB"))?;
    }
    Ok(())
}

fn input(scale: &Scale, side: usize, device: &Device) -> FluxInput {
    let dtype = weight_dtype(device);
    let normal = Distribution::Normal(0.0, 1.0);
    FluxInput {
        hidden: Tensor::random([1, Scale::tokens(side), scale.flux.in_channels], normal, (device, dtype)),
        encoder_hidden: Tensor::random([1, scale.text, scale.flux.joint_attention_dim], normal, (device, dtype)),
        pooled: Tensor::random([1, scale.flux.pooled_projection_dim], normal, (device, dtype)),
        timestep: vec![0.7],
        guidance: Some(vec![3.5]),
    }
}

fn encoders(scale: &Scale, device: &Device, figures: &mut Figures) -> Result<()> {
    let dtype = weight_dtype(device);
    let t5 = draw(T5Encoder::new(&scale.t5, device), dtype);
    let clip = draw(ClipTextModel::new(&scale.clip, device), dtype);
    let ids = |length: usize, end: i64| -> Vec<Vec<i64>> { vec![(0..length as i64).map(|id| id % end).collect()] };
    let (t5_ids, mut clip_ids) = (ids(scale.text, 60), ids(scale.clip.max_position_embeddings, 60));
    clip_ids[0].pop();
    clip_ids[0].push(scale.clip.eos_token_id);
    let encode = || drop((t5.forward(&t5_ids), clip.forward(&clip_ids)));
    let (first, median) = clock::first_and_median(device, scale.calls, encode)?;
    figures.put(Figure::ours("text encoders", median, "ms"))?;
    figures.put(Figure::ours("first text encoding", first / 1e3, "s"))
}

fn decoder(scale: &Scale, device: &Device, figures: &mut Figures) -> Result<()> {
    // In f32, as in the pipeline.
    let vae = draw(Autoencoder::new(&scale.vae, device), DType::F32);
    for side in scale.sides {
        let latents = [1, scale.vae.latent_channels, side / 8, side / 8];
        let latents = Tensor::<4>::random(latents, Distribution::Normal(0.0, 1.0), (device, DType::F32));
        let decode = || drop(vae.decode(latents.clone()));
        let (first, median) = clock::first_and_median(device, scale.calls.min(5), decode)?;
        figures.put(Figure::ours(format!("decoder {side} px"), median, "ms"))?;
        figures.put(Figure::ours(format!("first decoding {side} px"), first / 1e3, "s"))?;
    }
    Ok(())
}

/// Loads a tenth of the transformer from a file in the page cache to the device.
fn loading(scale: &Scale, device: &Device, figures: &mut Figures) -> Result<()> {
    let dtype = weight_dtype(device);
    let part = flux::Config {
        num_layers: scale.flux.num_layers.div_ceil(10),
        num_single_layers: scale.flux.num_single_layers.div_ceil(10),
        ..scale.flux.clone()
    };
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("diffusion_pytorch_model.safetensors");
    checkpoint::save(&draw(FluxTransformer::new(&part, device), dtype), &path, dtype, &BTreeMap::new())?;
    let bytes = std::fs::metadata(&path)?.len() as f64;
    let load = || load_strict(FluxTransformer::new(&part, device), &Checkpoint::open(&path)?, dtype);
    let (milliseconds, loaded) = clock::once(device, load)?;
    loaded?;
    let speed = bytes / 1e6 / milliseconds;
    figures.put(
        Figure::ours("loading weights", speed, "GB/s").with_note(format!("{:.2} GB from the page cache", bytes / 1e9)),
    )
}
