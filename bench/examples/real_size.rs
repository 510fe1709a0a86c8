//! What packed weights change, and what packing and streaming cost, for FLUX.1-dev at its published size:
//! `real_size precision|streaming CHECKPOINT` prints one line of a table for each way. `bench/real_size/run.py` makes
//! the checkpoints.
//!
//! The values of the checkpoint are bf16, so that weights in 16 bits are exact, and streamed blocks, too.

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::error::Error;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use WeightStorage::{Full, Half, Int4, Int8};
use burn::prelude::*;
use diffusion::checkpoint::Reading;
use diffusion::{FluxPipeline, Keep, LoadOptions, PictureRequest, WeightStorage};
use rustix::fs::{Advice, fadvise};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROMPT: &str = "a big fox on a blue background";
const SIDE: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    const USAGE: &str = "real_size precision|streaming CHECKPOINT";
    let [what, path] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| USAGE)?;
    match what.as_str() {
        "precision" => precision(Path::new(&path)),
        "streaming" => streaming(Path::new(&path)),
        _ => Err(USAGE.into()),
    }
}

/// What packed weights change, and what they cost. The exact denoiser is streamed, since no machine here can hold it.
fn precision(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut exact: Option<Tensor<3>> = None;
    for text_weights in [Full, Half, Int8, Int4] {
        let options = LoadOptions { text_weights, keep: Keep::Nothing, ..LoadOptions::default() };
        let pipeline = load(path, options)?;
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
        let (velocity, seconds) = call(path, weights, resident_blocks)?;
        let error = exact.as_ref().map_or(0.0, |exact| relative(exact, &velocity));
        let streamed = if resident_blocks.is_some() { ", all blocks streamed" } else { "" };
        println!("| FLUX.1-dev, {SIDE}² | {weights}{streamed} | {error:.1e} | {seconds:.1} s |");
        exact.get_or_insert(velocity);
    }
    Ok(())
}

/// What it costs to read all blocks from the disk, three times in turns. Nothing of them is in the page cache.
fn streaming(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut seconds = [f64::INFINITY; 2];
    for _ in 0..3 {
        for (least, resident_blocks) in seconds.iter_mut().zip([None, Some(0)]) {
            *least = least.min(call(path, Half, resident_blocks)?.1);
        }
    }
    let [resident, streamed] = seconds;
    let cost = streamed / resident;
    println!("| resident | {resident:.1} s |\n| all blocks streamed | {streamed:.1} s, {cost:.2}× |");
    Ok(())
}

fn load(path: &Path, options: LoadOptions) -> Result<FluxPipeline, Box<dyn Error>> {
    Ok(FluxPipeline::load_followed(path, &Device::flex(), options, &Reading::default())?)
}

/// What a call of the denoiser changes, and its seconds.
fn call(
    path: &Path,
    weights: WeightStorage,
    resident_blocks: Option<usize>,
) -> Result<(Tensor<3>, f64), Box<dyn Error>> {
    let options =
        LoadOptions { weights, text_weights: Int4, keep: Keep::Denoiser, resident_blocks, ..LoadOptions::default() };
    let pipeline = load(path, options)?;
    let request = PictureRequest {
        width: SIDE,
        height: SIDE,
        num_inference_steps: 1,
        ..PictureRequest::new(pipeline.defaults(), PROMPT, 7)
    };
    let denoising = pipeline.prepare(&request)?;
    let start = pipeline.start(&denoising, 7);
    forget(&path.join("transformer"))?;
    let (noise, started) = (start.latents.clone(), Instant::now());
    let mut called = None;
    pipeline.denoise(&denoising, start, &mut |_, latents, _| {
        called = Some((latents.clone() - noise.clone(), started.elapsed().as_secs_f64()));
        ControlFlow::Continue(())
    })?;
    called.ok_or_else(|| "no step".into())
}

/// Drops the files of a folder from the page cache.
fn forget(folder: &Path) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(folder)? {
        fadvise(File::open(entry?.path())?, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// ‖a − b‖ / ‖a‖
fn relative(a: &Tensor<3>, b: &Tensor<3>) -> f64 {
    let norm = |tensor: Tensor<3>| tensor.powi_scalar(2).sum().into_scalar::<f32>().sqrt();
    f64::from(norm(a.clone() - b.clone()) / norm(a.clone()))
}
