//! A LoRA training step of rank 16, with gradient checkpointing.

use std::time::Instant;

use anyhow::{Context, Result};
use burn::prelude::*;
use burn::tensor::Distribution;
use diffusion::device::weight_dtype;
use diffusion::networks::flux::FluxTransformer;
use diffusion::training::{Cache, LoraTrainer, Subject, TrainingParams};

use crate::clock;
use crate::figure::{Figure, Figures};
use crate::floor;
use crate::random_weights::draw;
use crate::scale::Scale;

pub(crate) fn measure(scale: &Scale, device: &Device, figures: &mut Figures) -> Result<()> {
    let dtype = weight_dtype(device);
    let normal = Distribution::Normal(0.0, 1.0);
    // The smaller size first, since it fits on every GPU.
    for side in scale.sides.into_iter().rev() {
        let text = [1, scale.text, scale.flux.joint_attention_dim];
        let cache = Cache::of_one(
            (side / 16, side / 16),
            Tensor::random([1, Scale::tokens(side), scale.flux.in_channels], normal, (device, dtype)),
            Tensor::random(text, normal, (device, dtype)),
            Tensor::random([1, scale.flux.pooled_projection_dim], normal, (device, dtype)),
        );
        let config = TrainingParams {
            trigger_word: None,
            steps: scale.calls as u32 + 2,
            rank: 16,
            alpha: 16.0,
            learning_rate: 1e-4,
            batch_size: 1,
            resolution: side as u32,
            seed: 1,
        };
        let transformer = draw(FluxTransformer::new(&scale.flux, device), dtype);
        let subject = Subject { transformer, dtype, shift: 1.0, guided: true };
        let mut trainer = LoraTrainer::of(subject, cache, 1, config, device);
        trainer.set_gradient_checkpointing(true);
        let mut times = Vec::new();
        loop {
            let start = Instant::now();
            // Each step reads its loss, and so waits for the device.
            let Some(step) = trainer.next() else { break };
            step?;
            times.push(start.elapsed().as_secs_f64());
        }
        let first = *times.first().context("no step was made")?;
        let mut later = times.split_off(2);
        later.sort_by(f64::total_cmp);
        let blocks = scale.flux.num_layers + scale.flux.num_single_layers;
        let forward = floor::transformer(blocks, scale.flux.width(), Scale::tokens(side) + scale.text);
        let median = 1e3 * later[later.len() / 2];
        let step = Figure::ours(format!("training step {side} px"), median, "ms");
        figures.put(step.of_flop(floor::training(forward, true)))?;
        figures.put(Figure::ours(format!("first training step {side} px"), first, "s"))?;
        if let Some(gib) = clock::reserved(device) {
            figures.put(Figure::ours(format!("memory, training {side} px"), gib, "GiB"))?;
        }
    }
    Ok(())
}
