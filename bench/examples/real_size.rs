//! What packed weights change, and what packing and streaming cost, for FLUX.1-dev at its published size:
//! `real_size CHECKPOINT` prints one line of a table for each way. `bench/real_size/run.py` makes the checkpoint.
//!
//! The values of the checkpoint are bf16, so that weights in 16 bits are exact, and streamed blocks, too.

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use WeightStorage::{Full, Half, Int4, Int8};
use burn::prelude::*;
use diffusion::checkpoint::Reading;
use diffusion::{FluxPipeline, Keep, LoadOptions, PictureRequest, WeightStorage};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROMPT: &str = "a big fox on a blue background";
const SIDE: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("real_size CHECKPOINT")?;
    let path = Path::new(&path);
    let mut exact: Option<Tensor<3>> = None;
    for text_weights in [Full, Half, Int8, Int4] {
        let options = LoadOptions { text_weights, keep: Keep::Nothing, ..LoadOptions::default() };
        let pipeline = FluxPipeline::load_followed(path, &Device::flex(), options, &Reading::default())?;
        let states = pipeline.encode_prompt(PROMPT)?.hidden;
        let start = Instant::now();
        pipeline.encode_prompt(PROMPT)?;
        let seconds = start.elapsed().as_secs_f64();
        let error = exact.as_ref().map_or(0.0, |exact| relative(exact, &states));
        println!("| T5-XXL and CLIP-L | {text_weights} | {error:.1e} | {seconds:.1} s |");
        exact.get_or_insert(states);
    }
    let mut exact: Option<Tensor<3>> = None;
    for (weights, resident_blocks) in [(Half, Some(0)), (Int8, None), (Int4, None)] {
        let options =
            LoadOptions { weights, text_weights: Int4, keep: Keep::One, resident_blocks, ..LoadOptions::default() };
        let pipeline = FluxPipeline::load_followed(path, &Device::flex(), options, &Reading::default())?;
        let (velocity, seconds) = call(&pipeline)?;
        let error = exact.as_ref().map_or(0.0, |exact| relative(exact, &velocity));
        let streamed = if resident_blocks.is_some() { ", all blocks streamed" } else { "" };
        println!("| FLUX.1-dev, {SIDE}² | {weights}{streamed} | {error:.1e} | {seconds:.1} s |");
        exact.get_or_insert(velocity);
    }
    Ok(())
}

/// What the first call of the denoiser changes, and the seconds of the second one.
fn call(pipeline: &FluxPipeline) -> Result<(Tensor<3>, f64), Box<dyn Error>> {
    let request = PictureRequest {
        width: SIDE,
        height: SIDE,
        num_inference_steps: 2,
        ..PictureRequest::new(pipeline.defaults(), PROMPT, 7)
    };
    let denoising = pipeline.prepare(&request)?;
    let start = pipeline.start(&denoising, 7);
    let noise = start.latents.clone();
    let (mut change, mut last, mut seconds) = (None, Instant::now(), 0.0);
    pipeline.denoise(&denoising, start, &mut |_, latents, _| {
        change.get_or_insert_with(|| latents.clone() - noise.clone());
        seconds = last.elapsed().as_secs_f64();
        last = Instant::now();
        ControlFlow::Continue(())
    })?;
    Ok((change.ok_or("no step")?, seconds))
}

/// ‖a − b‖ / ‖a‖
fn relative(a: &Tensor<3>, b: &Tensor<3>) -> f64 {
    let norm = |tensor: Tensor<3>| tensor.powi_scalar(2).sum().into_scalar::<f32>().sqrt();
    f64::from(norm(a.clone() - b.clone()) / norm(a.clone()))
}
