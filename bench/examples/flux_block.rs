//! Times the FLUX transformer with one double block. The counterpart in PyTorch is `bench/peers/flux_block.py`.
//!
//! Reads `forward N` or `training N` from stdin and prints N times in milliseconds, as JSON. Width 512, 8 heads, 384
//! image tokens and 128 text tokens, f32 on the CPU. `RAYON_NUM_THREADS` sets the number of threads.

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::io::BufRead;
use std::time::Instant;

use burn::prelude::*;
use diffusion::networks::flux::{Config, FluxInput, FluxTransformer};
use diffusion::noise::Noise;
use diffusion::training::{Random, initialise};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// (rows, columns) of image tokens.
const PICTURE: (usize, usize) = (16, 24);
const TEXT: usize = 128;

struct Block {
    transformer: FluxTransformer,
    input: FluxInput,
    device: Device,
}

impl Block {
    fn new(device: Device) -> Self {
        let config = Config {
            in_channels: 64,
            num_layers: 1,
            num_single_layers: 0,
            attention_head_dim: 64,
            num_attention_heads: 8,
            joint_attention_dim: 512,
            pooled_projection_dim: 256,
            guidance_embeds: false,
            axes_dims_rope: [16, 24, 24],
            ..Config::default()
        };
        let transformer = initialise(FluxTransformer::new(&config, &device), 0.02, &mut Random::new(0));
        let mut noise = Noise::seeded(0);
        let input = FluxInput {
            hidden: noise.normal_tensor([1, PICTURE.0 * PICTURE.1, 64], &device),
            encoder_hidden: noise.normal_tensor([1, TEXT, 512], &device),
            pooled: noise.normal_tensor([1, 256], &device),
            timestep: vec![0.5],
            guidance: None,
        };
        Self { transformer, input, device }
    }

    /// Computes the rotary angles in each call, as the counterpart does.
    fn forward(&self) -> Tensor<3> {
        let rotary = self.transformer.rotary(TEXT, PICTURE.0, PICTURE.1, &self.device);
        self.transformer.forward(self.input.clone(), &rotary)
    }
}

fn main() {
    diffusion::device::join_pool(None);
    let inference = Block::new(Device::flex());
    let training = Block::new(Device::flex().autodiff());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (name, count) = line.split_once(' ').unwrap_or((&line, "1"));
        let run = || {
            let start = Instant::now();
            match name {
                "forward" => drop(inference.forward().sum().into_data()),
                _ => drop(training.forward().square().mean().backward()),
            }
            1000.0 * start.elapsed().as_secs_f64()
        };
        let times: Vec<f64> = (0..count.parse().unwrap_or(1)).map(|_| run()).collect();
        println!("{times:?}");
    }
}
