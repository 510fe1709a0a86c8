//! Trains a LoRA on the bundled pictures without any server, to find the settings that the demo uses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::prelude::*;
use diffusion::training::{LoraTrainer, LoraTrainingConfig, TrainingExample};

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long, default_value = "models/ember")]
    model: PathBuf,
    /// A folder of pairs: picture.png and picture.txt.
    #[arg(long, default_value = "datasets/pyrography")]
    data: PathBuf,
    #[arg(long, default_value_t = 300)]
    steps: usize,
    #[arg(long, default_value_t = 16)]
    rank: usize,
    #[arg(long, default_value_t = 16.0)]
    alpha: f64,
    #[arg(long, default_value_t = 2e-3)]
    learning_rate: f64,
    #[arg(long, default_value_t = 4)]
    batch: usize,
    #[arg(long, default_value = "out/ember/pyrography.safetensors")]
    output: PathBuf,
}

pub fn train(arguments: &Arguments) -> Result<()> {
    let mut examples = Vec::new();
    for file in std::fs::read_dir(&arguments.data)? {
        let image = file?.path();
        if image.extension().is_some_and(|extension| extension == "png") {
            let text = image.with_extension("txt");
            let caption = std::fs::read_to_string(&text).with_context(|| text.display().to_string())?;
            examples.push(TrainingExample { image, caption: caption.trim().to_string() });
        }
    }
    examples.sort_by(|a, b| a.image.cmp(&b.image));
    let config = LoraTrainingConfig {
        trigger_word: Some("pyrography".into()),
        steps: arguments.steps,
        rank: arguments.rank,
        alpha: arguments.alpha,
        learning_rate: arguments.learning_rate,
        batch_size: arguments.batch,
        resolution: 64,
        seed: 1,
    };
    let start = Instant::now();
    let mut trainer = LoraTrainer::new(&arguments.model, &examples, config, &Device::flex())?;
    let mut sum = 0.0;
    while let Some(step) = trainer.next() {
        let step = step?;
        sum += step.loss;
        if step.step % 25 == 0 {
            println!("step {} of {}, loss {:.4}, {:.1} s", step.step, step.total_steps, sum / 25.0, start.elapsed().as_secs_f64());
            sum = 0.0;
        }
    }
    Ok(trainer.save_adapter(&arguments.output, &BTreeMap::new())?)
}
