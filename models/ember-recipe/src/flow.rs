//! Trains ember's transformer together with both text encoders to predict velocities from captions and latents.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{self, Checkpoint, Stored};
use diffusion::training::{AdamW, AdamWConfig, Gradients, Moments, Random, initialise};

use crate::dataset::Concept;
use crate::examples::{Examples, Part};
use crate::networks::{Networks, configs, weights};
use crate::words;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Total number of steps, including those before a resume; the learning rate decays to zero over them.
    #[arg(long)]
    steps: u64,
    #[arg(long, default_value_t = 32)]
    batch: usize,
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// Shift of the noise levels towards noise, where the content of a picture is decided.
    #[arg(long, default_value_t = 1.0)]
    shift: f64,
    /// Use only the first concepts, for experiments.
    #[arg(long)]
    first: Option<usize>,
    /// Parts of a batch, each computed on its own core.
    #[arg(long, default_value_t = 2)]
    parts: usize,
    /// Use only the concepts of this shorter list.
    #[arg(long)]
    only: Option<PathBuf>,
    /// Continue from the last checkpoint.
    #[arg(long)]
    resume: bool,
    #[arg(long, default_value = "out/ember")]
    out: PathBuf,
}

pub(crate) fn train(concepts: &[Concept], arguments: &Arguments) -> Result<()> {
    let device = Device::flex().autodiff();
    let out = &arguments.out;
    let concepts = &concepts[..arguments.first.unwrap_or(concepts.len()).min(concepts.len())];
    let chosen: Vec<usize> = match &arguments.only {
        Some(list) => {
            let names = crate::dataset::names(list)?;
            (0..concepts.len()).filter(|index| names.contains(&concepts[*index].name)).collect()
        }
        None => (0..concepts.len()).collect(),
    };
    ensure!(!chosen.is_empty(), "none of the concepts is in the shorter list");
    ensure!(
        arguments.parts > 0 && arguments.batch.is_multiple_of(arguments.parts),
        "a batch of {} has no {} equal parts",
        arguments.batch,
        arguments.parts
    );
    let pool = || rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pools = (0..arguments.parts).map(|_| pool()).collect::<Result<Vec<_>, _>>()?;
    let configs = configs(out)?;
    let examples = Examples::load(concepts, out)?;
    let mut random = Random::new(2);
    let mut networks = initialise(Networks::new(&configs, &device), 0.5, &mut random);
    println!("{} parameters, {} concepts", networks.num_params(), chosen.len());
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let mut before = 0.0;
    if arguments.resume {
        (networks, before) = restore(networks, &mut optimizer, &mut random, out, &device)?;
    }
    let rotary = networks.transformer.rotary(words::T5_LENGTH, 4, 4, &device);
    let channels = configs.flux.in_channels;
    let mut log = std::fs::OpenOptions::new()
        .create(true)
        .append(arguments.resume)
        .truncate(!arguments.resume)
        .write(true)
        .open(out.join("flow.csv"))?;
    if !arguments.resume {
        writeln!(log, "step,minutes,loss")?;
    }
    let start = Instant::now();
    let (mut sum, mut count, mut saved) = (0.0, 0.0, before);
    let mut order: Vec<usize> = Vec::new();
    let mut minutes = before;
    for step in optimizer.steps() + 1..=arguments.steps {
        minutes = before + start.elapsed().as_secs_f64() / 60.0;
        let progress = step as f64 / arguments.steps as f64;
        let parts: Vec<Part> = (0..arguments.parts)
            .map(|_| {
                // Every concept is used once before any repeats.
                let mut pictures = Vec::with_capacity(arguments.batch / arguments.parts);
                while pictures.len() < arguments.batch / arguments.parts {
                    if order.is_empty() {
                        order.clone_from(&chosen);
                    }
                    let concept = order.swap_remove(random.below(order.len()));
                    pictures.push(examples.draw(concept, &mut random));
                }
                Part::new(&examples, &pictures, channels, arguments.shift, &mut random, &device)
            })
            .collect::<Result<_>>()?;
        let passes = side_by_side(&pools, parts, |part| part.pass(&networks, &rotary))?;
        sum += passes.iter().map(|(loss, _)| loss).sum::<f64>() / passes.len() as f64;
        count += 1.0;
        let rate = arguments.learning_rate * (step as f64 / 200.0).min(1.0) * ((1.0 - progress) / 0.6).min(1.0);
        let norm;
        let gradients = Gradients::mean(passes.into_iter().map(|(_, gradients)| gradients).collect());
        (networks, norm) = optimizer.step(networks, gradients, rate);
        if step % 50 == 0 {
            println!("step {step}, {minutes:.2} min, loss {:.4}, gradient {norm:.2}", sum / count);
            writeln!(log, "{step},{minutes:.2},{:.5}", sum / count)?;
            (sum, count) = (0.0, 0.0);
        }
        if step % 500 == 0 {
            println!(
                "step {step}: {:.0} % of the names are known",
                100.0 * examples.known(&chosen, &networks, &rotary, &device)?
            );
        }
        if minutes - saved > 4.0 {
            saved = minutes;
            save(&networks, &optimizer, &random, minutes, out)?;
        }
    }
    save(&networks, &optimizer, &random, minutes, out)
}

/// Runs each task in its own thread pool: tensors of this size keep one core busy and do not scale to two.
fn side_by_side<T: Send, R: Send>(
    pools: &[rayon::ThreadPool],
    work: Vec<T>,
    of: impl Fn(T) -> R + Sync,
) -> Result<Vec<R>> {
    std::thread::scope(|scope| {
        let started: Vec<_> =
            pools.iter().zip(work).map(|(pool, piece)| scope.spawn(|| pool.install(|| of(piece)))).collect();
        started.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a part of the batch failed"))).collect()
    })
}

/// Saves weights, moments and the state of the run in two files.
fn save(networks: &Networks, optimizer: &AdamW, random: &Random, minutes: f64, out: &Path) -> Result<()> {
    checkpoint::save(networks, &weights(out), DType::F32, &BTreeMap::new())?;
    let mut moments = Vec::new();
    for (path, Moments { first, second }) in optimizer.moments() {
        moments.push(Stored::new(format!("{path}.first"), first.clone(), DType::F32)?);
        moments.push(Stored::new(format!("{path}.second"), second.clone(), DType::F32)?);
    }
    let facts = BTreeMap::from([
        ("steps".to_string(), optimizer.steps().to_string()),
        ("random".to_string(), random.state().to_string()),
        ("minutes".to_string(), minutes.to_string()),
    ]);
    Ok(checkpoint::write(&out.join("flow-moments.safetensors"), moments, &facts)?)
}

fn restore(
    networks: Networks,
    optimizer: &mut AdamW,
    random: &mut Random,
    out: &Path,
    device: &Device,
) -> Result<(Networks, f64)> {
    let networks = checkpoint::load_strict(networks, &Checkpoint::open(&weights(out))?, DType::F32)?;
    let file = Checkpoint::open(&out.join("flow-moments.safetensors"))?;
    let fact = |name: &str| file.metadata().get(name).with_context(|| format!("no {name} in the checkpoint"));
    let device = device.clone().inner();
    let read = |name: String| -> Result<Tensor<1>> {
        let values = file.read_f32(&name)?;
        let length = values.len();
        Ok(Tensor::from_data(TensorData::new(values, [length]), &device))
    };
    let mut moments = BTreeMap::new();
    for path in file.names().filter_map(|name| name.strip_suffix(".first")) {
        let pair = Moments { first: read(format!("{path}.first"))?, second: read(format!("{path}.second"))? };
        moments.insert(path.to_string(), pair);
    }
    ensure!(!moments.is_empty(), "there are no moments in the checkpoint");
    optimizer.restore(fact("steps")?.parse()?, moments);
    *random = Random::new(fact("random")?.parse()?);
    Ok((networks, fact("minutes")?.parse()?))
}
