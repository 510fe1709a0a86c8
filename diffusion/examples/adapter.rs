//! Uses the library alone: trains a LoRA on a folder of captioned pictures, then makes a picture without and with it.
//!
//! `cargo run --release -p diffusion --example adapter -- MODEL PICTURES "a prompt"`
//!
//! PICTURES contains pairs of `name.png` and `name.txt`. Writes the adapter, `without.png` and `with.png` to
//! `out/adapter`.

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use diffusion::training::{LoraTrainer, TrainingExample, TrainingParams};
use diffusion::{DeviceChoice, FluxPipeline, LoraFile, PictureRequest, device};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    model: PathBuf,
    pictures: PathBuf,
    prompt: String,
    #[arg(long)]
    trigger_word: Option<String>,
    #[arg(long, default_value_t = 300)]
    steps: u32,
    #[arg(long, default_value_t = 8)]
    rank: u32,
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    #[arg(long, default_value_t = 4)]
    batch_size: u32,
    #[arg(long, default_value_t = 4)]
    num_images: usize,
    #[arg(long, default_value_t = 0)]
    seed: i64,
    #[arg(long, default_value = "out/adapter")]
    out: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    device::join_pool(None);
    let device = device::open(DeviceChoice::Auto)?.device;
    let mut pipeline = FluxPipeline::load(&arguments.model, &device)?;
    let defaults = *pipeline.defaults();
    let config = TrainingParams {
        trigger_word: arguments.trigger_word.clone(),
        steps: arguments.steps,
        rank: arguments.rank,
        alpha: f64::from(arguments.rank),
        learning_rate: arguments.learning_rate,
        batch_size: arguments.batch_size,
        resolution: defaults.width,
        seed: arguments.seed,
    };

    let start = Instant::now();
    let mut trainer = LoraTrainer::new(&arguments.model, &examples(&arguments.pictures)?, config, &device)?;
    println!("examples encoded in {:.1} s", start.elapsed().as_secs_f64());
    let mut losses = Vec::new();
    for step in &mut trainer {
        let step = step?;
        losses.push(step.loss);
        if step.step % 50 == 0 {
            let mean = losses.drain(..).sum::<f64>() / 50.0;
            println!(
                "step {} of {}: loss {mean:.4}, {:.1} s",
                step.step,
                step.total_steps,
                start.elapsed().as_secs_f64()
            );
        }
    }
    std::fs::create_dir_all(&arguments.out)?;
    let adapter = arguments.out.join("adapter.safetensors");
    trainer.save_adapter(&adapter, &BTreeMap::new())?;

    let request = |prompt: String| PictureRequest {
        num_images: arguments.num_images,
        ..PictureRequest::new(&defaults, prompt, arguments.seed.unsigned_abs())
    };
    let draw = |pipeline: &FluxPipeline, prompt: String, name: &str| -> Result<()> {
        let start = Instant::now();
        let pictures = pipeline.generate(&request(prompt), &mut |_| ControlFlow::Continue(()))?;
        let mut row = image::RgbImage::new(defaults.width * pictures.len() as u32, defaults.height);
        for (at, picture) in pictures.iter().enumerate() {
            image::imageops::replace(&mut row, picture, at as i64 * i64::from(defaults.width), 0);
        }
        row.save(arguments.out.join(name))?;
        println!("{name}: {} pictures in {:.1} s", pictures.len(), start.elapsed().as_secs_f64());
        Ok(())
    };
    draw(&pipeline, arguments.prompt.clone(), "without.png")?;
    let report = pipeline.attach(&[(&LoraFile::open(&adapter)?, 1.0)])?;
    println!("{} modules adapted", report[0].matched);
    let words = arguments.trigger_word.iter().chain([&arguments.prompt]).map(String::as_str).collect::<Vec<_>>();
    draw(&pipeline, words.join(" "), "with.png")
}

fn examples(folder: &Path) -> Result<Vec<TrainingExample>> {
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let image = entry?.path();
        if image.extension().is_some_and(|extension| extension == "png") {
            let caption = std::fs::read_to_string(image.with_extension("txt")).unwrap_or_default();
            examples.push(TrainingExample { image, caption: caption.trim().to_owned() });
        }
    }
    // The order of a folder differs between machines and would change the training.
    examples.sort_by(|a, b| a.image.cmp(&b.image));
    Ok(examples)
}
