//! Measures the speed and memory of loading weights: `load_weights PATH` prints one JSON object.
//!
//! A folder is loaded as a FLUX pipeline. A file contains `layers.N.weight`, square matrices in bf16.
//! `anonymous_bytes` is the peak of memory not backed by a file, above the process's baseline.

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use burn::prelude::*;
use burn::tensor::DType;
use diffusion::FluxPipeline;
use diffusion::checkpoint::{Checkpoint, load_strict};
use diffusion::layers::Linear;

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Module, Debug)]
struct Matrices {
    layers: Vec<Linear>,
}

impl Matrices {
    fn load(path: &Path, device: &Device) -> diffusion::Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let width = checkpoint.shape("layers.0.weight")?[0];
        let layers = checkpoint.names().map(|_| Linear::without_bias(width, width, device)).collect();
        load_strict(Self { layers }, &checkpoint, DType::BF16)
    }
}

/// Bytes of anonymous memory that this process has now.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("load_weights PATH")?;
    let (path, device) = (Path::new(&path), Device::flex());
    let (before, peak, done) = (anonymous_bytes(), AtomicU64::new(0), AtomicBool::new(false));
    let seconds = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let start = Instant::now();
        let loaded = if path.is_dir() {
            FluxPipeline::load(path, &device).map(drop)
        } else {
            Matrices::load(path, &device).map(|matrices| {
                peak.fetch_max(anonymous_bytes(), Ordering::Relaxed);
                drop(matrices);
            })
        };
        let seconds = start.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        loaded.map(|()| seconds)
    })?;
    let peak = peak.load(Ordering::Relaxed).saturating_sub(before);
    println!(r#"{{"seconds": {seconds:.4}, "anonymous_bytes": {peak}}}"#);
    Ok(())
}
