//! Measures the quality of ember through the same pipeline that serves requests.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{self, Checkpoint};
use diffusion::networks::vae::{self, Autoencoder};
use diffusion::training::Random;
use diffusion::{FluxPipeline, LoraFile, PictureRequest};
use image::{RgbImage, imageops};

use crate::autoencoder::{self, reconstruction};
use crate::dataset::{Attributes, BACKGROUNDS, Concept, SIDE, caption, held_out, render};
use crate::pyrography;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value = "models/ember")]
    model: PathBuf,
    /// Measure this adapter's style instead.
    #[arg(long)]
    lora: Option<PathBuf>,
    /// Total number of captions.
    #[arg(long, default_value_t = 100)]
    captions: usize,
    #[arg(long)]
    steps: Option<usize>,
    /// True CFG scale.
    #[arg(long)]
    scale: Option<f64>,
    /// Seed that selects the captions; the pictures' seeds follow from it.
    #[arg(long, default_value_t = 12345)]
    seed: u64,
    /// Path of the contact sheet: generated pictures above, expected ones below.
    #[arg(long)]
    sheet: Option<PathBuf>,
}

/// Draws an autoencoder's reconstructions above the originals.
pub(crate) fn reconstruct(concepts: &[Concept], out: &Path, path: &Path) -> Result<()> {
    let network = Autoencoder::new(&autoencoder::config(), &Device::flex());
    let network = checkpoint::load_strict(network, &Checkpoint::open(&autoencoder::weights(out))?, DType::F32)?;
    let codes: Vec<Attributes> = Attributes::all().collect();
    let mut pictures: Vec<RgbImage> = (0..44)
        .map(|at| {
            render(&concepts[at * 31 % concepts.len()].art, codes[if at < 16 { 0 } else { at * 5 % codes.len() }])
        })
        .collect();
    pictures.extend(concepts.iter().step_by(162).map(|concept| pyrography::burn(&concept.art, Attributes::default())));
    let decoded = network.decode(network.encode(autoencoder::to_tensor(&pictures, &Device::flex())).mean);
    let pairs: Vec<(RgbImage, RgbImage)> = autoencoder::from_tensor(decoded)?.into_iter().zip(pictures).collect();
    sheet(&pairs.iter().collect::<Vec<_>>()).save(path)?;
    println!("{:.2} dB over every eighth plain picture", reconstruction(&network, concepts, 8)?);
    Ok(())
}

/// Generates with one pipeline and fixed settings.
struct Painter {
    pipeline: FluxPipeline,
    steps: usize,
    scale: f64,
}

impl Painter {
    fn new(arguments: &Arguments) -> Result<Self> {
        let start = Instant::now();
        let pipeline = FluxPipeline::load(&arguments.model, &Device::flex())?;
        println!("loaded in {:.2} s", start.elapsed().as_secs_f64());
        let defaults = *pipeline.defaults();
        let steps = arguments.steps.unwrap_or(defaults.num_inference_steps as usize);
        let scale = arguments.scale.unwrap_or(defaults.true_cfg_scale);
        println!("{steps} steps, true CFG scale {scale}");
        Ok(Self { pipeline, steps, scale })
    }

    fn paint(&self, prompt: &str, seed: u64) -> Result<RgbImage> {
        let request = PictureRequest {
            num_inference_steps: self.steps,
            guidance_scale: 1.0,
            true_cfg_scale: self.scale,
            width: SIDE as usize,
            height: SIDE as usize,
            ..PictureRequest::new(self.pipeline.defaults(), prompt, seed)
        };
        let mut pictures = self.pipeline.generate(&request, &mut |_| ControlFlow::Continue(()))?;
        ensure!(pictures.len() == 1, "one picture was asked for");
        Ok(pictures.remove(0))
    }
}

pub(crate) fn measure(concepts: &[Concept], arguments: &Arguments) -> Result<()> {
    match &arguments.lora {
        Some(lora) => style(concepts, arguments, lora),
        None => fidelity(concepts, arguments),
    }
}

fn fidelity(concepts: &[Concept], arguments: &Arguments) -> Result<()> {
    println!(
        "autoencoder: {:.2} dB over all plain pictures",
        reconstruction(&load_autoencoder(&arguments.model)?, concepts, 1)?
    );
    let painter = Painter::new(arguments)?;
    let mut random = Random::new(arguments.seed);
    let mut pairs = Vec::new();

    let (mut first, mut among_ten) = (0, 0);
    let start = Instant::now();
    for number in 0..arguments.captions {
        let (index, attributes) = draw(concepts, &mut random, false);
        let picture = painter.paint(&caption(&concepts[index].name, attributes), arguments.seed + number as u64)?;
        let rank = rank(&picture, concepts, index, attributes);
        first += usize::from(rank == 0);
        among_ten += usize::from(rank < 10);
        pairs.push((picture, render(&concepts[index].art, attributes)));
    }
    let seconds = start.elapsed().as_secs_f64() / arguments.captions as f64;
    let percent = |count: usize| 100.0 * count as f64 / arguments.captions as f64;
    println!(
        "trained captions: nearest {:.0} %, among the 10 nearest {:.0} % of {} pictures; {seconds:.2} s a picture",
        percent(first),
        percent(among_ten),
        concepts.len()
    );

    let (mut right, mut colours, mut layouts, mut first) = (0, 0, 0, 0);
    for number in 0..arguments.captions {
        let (index, attributes) = draw(concepts, &mut random, true);
        let picture =
            painter.paint(&caption(&concepts[index].name, attributes), arguments.seed + 1_000_000 + number as u64)?;
        let colour = background(&picture) == attributes.background;
        let layout = layout(&picture, &concepts[index], attributes);
        colours += usize::from(colour);
        layouts += usize::from(layout);
        right += usize::from(colour && layout);
        first += usize::from(rank(&picture, concepts, index, attributes) == 0);
        pairs.push((picture, render(&concepts[index].art, attributes)));
    }
    println!(
        "held-out combinations: {:.0} % right (background {:.0} %, size and number {:.0} %); nearest {:.0} %",
        percent(right),
        percent(colours),
        percent(layouts),
        percent(first)
    );
    if let Some(path) = &arguments.sheet {
        let shown: Vec<&(RgbImage, RgbImage)> =
            pairs.iter().take(16).chain(pairs.iter().skip(arguments.captions).take(16)).collect();
        sheet(&shown).save(path)?;
    }
    Ok(())
}

/// A random concept with attributes that were (`held`: were never) trained together.
fn draw(concepts: &[Concept], random: &mut Random, held: bool) -> (usize, Attributes) {
    loop {
        let index = random.below(concepts.len());
        let plain = !held && random.chance(0.4);
        let attributes = Attributes {
            background: if plain { 0 } else { random.below(BACKGROUNDS.len()) },
            small: random.chance(0.3),
            mirrored: random.chance(0.2),
            two: random.chance(0.25),
        };
        if held_out(&concepts[index].name, attributes) == held {
            return (index, attributes);
        }
    }
}

/// Number of other concepts whose picture with the same attributes is closer than the expected one.
fn rank(picture: &RgbImage, concepts: &[Concept], meant: usize, attributes: Attributes) -> usize {
    let picture = small(picture);
    let distances: Vec<f64> =
        concepts.iter().map(|concept| distance(&picture, &small(&render(&concept.art, attributes)))).collect();
    distances.iter().filter(|distance| **distance < distances[meant]).count()
}

/// Averages over a 16×16 grid, in 0..1.
fn small(picture: &RgbImage) -> Vec<f32> {
    let side = SIDE / 16;
    let cell = |x: u32, y: u32, c: usize| {
        let pixels =
            (0..side * side).map(|at| f32::from(picture.get_pixel(x * side + at % side, y * side + at / side)[c]));
        pixels.sum::<f32>() / (255 * side * side) as f32
    };
    (0..256).flat_map(|at| (0..3).map(move |c| cell(at % 16, at / 16, c))).collect()
}

fn distance(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(l, r)| f64::from(l - r).powi(2)).sum::<f64>() / left.len() as f64
}

/// The named colour closest to the mean of the picture's 3-pixel border.
fn background(picture: &RgbImage) -> usize {
    let border = |x: u32, y: u32| x.min(y).min(SIDE - 1 - x).min(SIDE - 1 - y) < 3;
    let pixels: Vec<_> =
        picture.enumerate_pixels().filter(|(x, y, _)| border(*x, *y)).map(|(_, _, pixel)| pixel).collect();
    let mean = [0, 1, 2].map(|c| pixels.iter().map(|pixel| f64::from(pixel[c])).sum::<f64>() / pixels.len() as f64);
    let away = |colour: [u8; 3]| (0..3).map(|c| (mean[c] - f64::from(colour[c])).powi(2)).sum::<f64>();
    (0..BACKGROUNDS.len()).min_by(|a, b| away(BACKGROUNDS[*a].1).total_cmp(&away(BACKGROUNDS[*b].1))).unwrap_or(0)
}

/// Whether size, number and side are as expected. Of the concept's eight pictures on that background, the expected
/// one or its mirror image must be the closest in size and number.
fn layout(picture: &RgbImage, concept: &Concept, meant: Attributes) -> bool {
    let picture = small(picture);
    let all = Attributes::all().filter(|attributes| attributes.background == meant.background);
    let nearest = all.min_by(|a, b| {
        let away = |attributes: &Attributes| distance(&picture, &small(&render(&concept.art, *attributes)));
        away(a).total_cmp(&away(b))
    });
    nearest.is_some_and(|nearest| (nearest.small, nearest.two) == (meant.small, meant.two))
}

/// Whether prompts outside of an adapter's training set get closer to its style with it than without it.
fn style(concepts: &[Concept], arguments: &Arguments, lora: &Path) -> Result<()> {
    let mut painter = Painter::new(arguments)?;
    let adapter = LoraFile::open(lora)?;
    let mut random = Random::new(arguments.seed);
    let unseen: Vec<&Concept> =
        concepts.iter().filter(|concept| !pyrography::CONCEPTS.contains(&concept.name.as_str())).collect();
    let prompts: Vec<&Concept> = (0..20).map(|_| unseen[random.below(unseen.len())]).collect();
    let paint_all = |painter: &Painter| -> Result<Vec<RgbImage>> {
        let paint = |(number, concept): (usize, &&Concept)| {
            painter.paint(&pyrography::caption(&concept.name), arguments.seed + number as u64)
        };
        prompts.iter().enumerate().map(paint).collect()
    };
    let without = paint_all(&painter)?;
    painter.pipeline.attach(&[(&adapter, 1.0)])?;
    let with = paint_all(&painter)?;
    let mut nearer = 0;
    let mut pairs = Vec::new();
    for ((concept, without), with) in prompts.iter().zip(without).zip(with) {
        let meant = small(&pyrography::burn(&concept.art, Attributes::default()));
        nearer += usize::from(distance(&small(&with), &meant) < distance(&small(&without), &meant));
        pairs.push((with, without));
    }
    println!("nearer to the style with the adapter: {nearer} of {} prompts", prompts.len());
    if let Some(path) = &arguments.sheet {
        sheet(&pairs.iter().collect::<Vec<_>>()).save(path)?;
    }
    Ok(())
}

fn load_autoencoder(model: &Path) -> Result<Autoencoder> {
    let config: vae::Config = serde_json::from_slice(&std::fs::read(model.join("vae/config.json"))?)?;
    let network = Autoencoder::new(&config, &Device::flex());
    Ok(checkpoint::load_strict(
        network,
        &Checkpoint::open(&model.join("vae/diffusion_pytorch_model.safetensors"))?,
        DType::F32,
    )?)
}

/// Pairs one above the other, sixteen to a row, at twice their size.
fn sheet(pairs: &[&(RgbImage, RgbImage)]) -> RgbImage {
    let cell = 2 * SIDE + 4;
    let rows = pairs.len().div_ceil(16) as u32;
    let mut sheet = RgbImage::from_pixel(16 * cell, rows * (2 * cell + 8), image::Rgb([128; 3]));
    for (at, (above, below)) in pairs.iter().enumerate() {
        let (x, y) = ((at as u32 % 16) * cell, (at as u32 / 16) * (2 * cell + 8));
        for (picture, y) in [(above, y), (below, y + cell)] {
            let large = imageops::resize(picture, 2 * SIDE, 2 * SIDE, imageops::FilterType::Nearest);
            imageops::replace(&mut sheet, &large, i64::from(x), i64::from(y));
        }
    }
    sheet
}
