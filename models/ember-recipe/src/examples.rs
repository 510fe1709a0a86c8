//! The training examples of ember's transformer: captions with their latents, drawn at random and mixed with noise.

use std::path::Path;

use anyhow::{Context, Result};
use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;
use diffusion::checkpoint::Checkpoint;
use diffusion::networks::flux::{self, FluxInput};
use diffusion::tokenizers::{clip::ClipTokenizer, t5::T5Tokenizer};
use diffusion::training::{FlowBatch, Gradients, Random, draw_level, flow_batch, flow_loss};

use crate::dataset::{Attributes, BACKGROUNDS, Concept, caption, held_out};
use crate::latents::{latent_statistics, latents_path};
use crate::networks::Networks;
use crate::words;

/// Combinations of attributes per concept.
const COMBINATIONS: usize = BACKGROUNDS.len() * 8;
/// Tokens per picture.
const TOKENS: usize = 16;

/// Captions and latents of all training pictures.
pub(crate) struct Examples {
    clip: ClipTokenizer,
    t5: T5Tokenizer,
    captions: Vec<String>,
    /// Normalised, packed.
    latents: Vec<f32>,
    allowed: Vec<bool>,
}

impl Examples {
    pub(crate) fn load(concepts: &[Concept], out: &Path) -> Result<Self> {
        let (mean, deviation) = latent_statistics(out)?;
        let mut latents = Checkpoint::open(&latents_path(out))?.read_f32("latents")?;
        latents.iter_mut().for_each(|value| *value = ((f64::from(*value) - mean) / deviation) as f32);
        let all = || concepts.iter().flat_map(|concept| Attributes::all().map(move |attributes| (concept, attributes)));
        Ok(Self {
            clip: ClipTokenizer::load(&out.join("tokenizer"))?,
            t5: T5Tokenizer::load(&out.join("tokenizer_2"))?,
            captions: all().map(|(concept, attributes)| caption(&concept.name, attributes)).collect(),
            latents,
            allowed: all().map(|(concept, attributes)| !held_out(&concept.name, attributes)).collect(),
        })
    }

    /// The caption of a picture for one step: usually its own, sometimes empty, sometimes with a style name that does
    /// not apply. Such a name must not change the picture until an adapter gives it a meaning.
    fn caption(&self, index: usize, random: &mut Random) -> String {
        let caption = &self.captions[index];
        match random.uniform() {
            kind if kind < 0.05 => String::new(),
            kind if kind < 0.10 => format!("{caption} in {} style", words::any(random)),
            kind if kind < 0.12 => format!("{} {caption}", words::any(random)),
            _ => caption.clone(),
        }
    }

    /// Share of the plain captions of some concepts for which the one-step prediction from pure noise is closest to the
    /// expected picture.
    pub(crate) fn known(
        &self,
        concepts: &[usize],
        networks: &Networks,
        rotary: &flux::Rotary,
        device: &Device,
    ) -> Result<f64> {
        let plain: Vec<usize> = concepts.iter().map(|concept| concept * COMBINATIONS).collect();
        let length = self.latents.len() / self.captions.len();
        let networks = networks.valid();
        let mut random = Random::new(4);
        let mut right = 0;
        for asked in plain.chunks(48) {
            let ids = |tokenize: &dyn Fn(&str) -> diffusion::Result<Vec<i64>>| {
                asked.iter().map(|index| tokenize(&self.captions[*index])).collect::<diffusion::Result<Vec<_>>>()
            };
            let noise: Tensor<3> =
                random.normal([asked.len(), TOKENS, length / TOKENS], &device.clone().without_autodiff());
            let input = FluxInput {
                hidden: noise.clone(),
                encoder_hidden: networks.text_encoder_2.forward(&ids(&|text| self.t5.encode(text))?),
                pooled: networks.text_encoder.forward(&ids(&|text| self.clip.encode(text))?).pooled,
                timestep: vec![1.0; asked.len()],
                guidance: None,
            };
            let guessed = noise - networks.transformer.forward(input, rotary);
            let guessed = guessed.into_data().try_to_vec::<f32>().context("latents are f32")?;
            right += guessed
                .chunks_exact(length)
                .zip(asked)
                .filter(|(guess, asked)| {
                    let away = |index: usize| {
                        let meant = &self.latents[index * length..(index + 1) * length];
                        guess.iter().zip(meant).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
                    };
                    plain.iter().map(|index| (away(*index), index)).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, i)| i)
                        == Some(asked)
                })
                .count();
        }
        Ok(right as f64 / plain.len() as f64)
    }

    /// Index of a random picture: plain ones more often, held-out ones never.
    pub(crate) fn draw(&self, concept: usize, random: &mut Random) -> usize {
        loop {
            let background = if random.chance(0.4) { 0 } else { 1 + random.below(BACKGROUNDS.len() - 1) };
            let small = usize::from(random.chance(0.3));
            let mirrored = usize::from(random.chance(0.15));
            let two = usize::from(random.chance(0.3));
            let index = concept * COMBINATIONS + background * 8 + small + 2 * mirrored + 4 * two;
            if self.allowed[index] {
                return index;
            }
        }
    }
}

/// A part of a batch, drawn and mixed with noise.
pub(crate) struct Part {
    clip: Vec<Vec<i64>>,
    t5: Vec<Vec<i64>>,
    levels: Vec<f64>,
    task: FlowBatch,
}

impl Part {
    pub(crate) fn new(
        examples: &Examples,
        pictures: &[usize],
        channels: usize,
        shift: f64,
        random: &mut Random,
        device: &Device,
    ) -> Result<Self> {
        let (mut clip, mut t5) = (Vec::new(), Vec::new());
        let mut latents = Vec::with_capacity(pictures.len() * TOKENS * channels);
        for index in pictures {
            let caption = examples.caption(*index, random);
            clip.push(examples.clip.encode(&caption)?);
            t5.push(examples.t5.encode(&caption)?);
            latents.extend_from_slice(&examples.latents[index * TOKENS * channels..(index + 1) * TOKENS * channels]);
        }
        let latents = Tensor::from_data(TensorData::new(latents, [pictures.len(), TOKENS, channels]), device);
        let levels: Vec<f64> = pictures.iter().map(|_| level(random, shift)).collect();
        let task = flow_batch(latents, &levels, random);
        Ok(Self { clip, t5, levels, task })
    }

    /// Loss and gradients.
    pub(crate) fn pass(self, networks: &Networks, rotary: &flux::Rotary) -> (f64, Gradients) {
        let networks = &networks.clone().map(&mut Apart);
        let input = FluxInput {
            hidden: self.task.noisy,
            encoder_hidden: networks.text_encoder_2.forward(&self.t5),
            pooled: networks.text_encoder.forward(&self.clip).pooled,
            timestep: self.levels.iter().map(|level| *level as f32).collect(),
            guidance: None,
        };
        let loss = flow_loss(networks.transformer.forward(input, rotary), self.task.velocity);
        (f64::from(loss.clone().into_scalar::<f32>()), Gradients::of(networks, &mut loss.backward()))
    }
}

/// Half of the noise levels are drawn as usual for a flow, and half close to pure noise. A trace of a picture in the
/// noise is enough to identify it among a few hundred, so only without a trace does the caption matter.
fn level(random: &mut Random, shift: f64) -> f64 {
    if random.chance(0.5) { draw_level(random, shift) } else { 1.0 - 0.12 * random.uniform().powf(1.5) }
}

/// Makes the weights the leaves of a new graph: autodiff would join two passes over the same leaves into one.
struct Apart;

impl ModuleMapper for Apart {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| Tensor::from_inner(tensor.inner()).require_grad())
    }
}
