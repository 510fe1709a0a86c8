//! The deterministic sampler of denoising diffusion implicit models (DDIM).
//!
//! Song et al., "Denoising Diffusion Implicit Models", <https://arxiv.org/abs/2010.02502>, equation 12 with σ = 0.

use burn::prelude::*;

use super::Plan;
use super::config::{Class, Config, PredictionType};
use super::noise_schedule::{Level, NoiseSchedule};
use crate::{Error, Result};

/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_ddim.py#L384-L514>
#[derive(Debug, Clone)]
pub(super) struct Ddim {
    levels: Vec<Level>,
    /// The level after each step: a fixed number of timesteps lower, which is not always the next entry of `levels`.
    targets: Vec<Level>,
    prediction: PredictionType,
    clip: Option<f64>,
}

impl Ddim {
    pub(super) fn new(config: &Config, noise: &NoiseSchedule, steps: usize) -> Result<(Plan, Self)> {
        let mut timesteps = noise.timesteps(config, Class::Ddim, steps)?;
        timesteps.iter_mut().for_each(|timestep| *timestep = timestep.round_ties_even());
        let levels: Vec<Level> = timesteps.iter().map(|timestep| noise.level(*timestep)).collect();
        let last = if config.ends_clean(Class::Ddim) { Level::CLEAN } else { noise.level(0.0) };
        let stride = (noise.len() / steps) as f64;
        let target = |timestep: &f64| if *timestep >= stride { noise.level(timestep - stride) } else { last };
        let targets = timesteps.iter().map(target).collect();
        let prediction = config.prediction_type;
        check_signal(&levels, prediction)?;
        let solver = Self { levels: levels.clone(), targets, prediction, clip: config.clip(Class::Ddim) };
        Ok((Plan { timesteps, levels, initial_scale: 1.0 }, solver))
    }

    pub(super) fn step(&self, i: usize, latents: Tensor<4>, output: Tensor<4>) -> Tensor<4> {
        let level = self.levels[i];
        let epsilon = level.epsilon(self.prediction, latents.clone(), output.clone());
        let picture = level.picture(self.prediction, latents, output);
        self.targets[i].mix(clipped(picture, self.clip), epsilon)
    }
}

/// Clips the predicted x₀ to `range`, if the config asks for it.
pub(super) fn clipped(picture: Tensor<4>, range: Option<f64>) -> Tensor<4> {
    match range {
        Some(range) => picture.clamp(-range, range),
        None => picture,
    }
}

/// Rejects an epsilon prediction at a level of pure noise, where x₀ cannot be computed from it.
pub(super) fn check_signal(levels: &[Level], prediction: PredictionType) -> Result<()> {
    if prediction == PredictionType::Epsilon && levels.iter().any(|level| level.signal == 0.0) {
        Err(Error::Invalid(
            "a model that predicts epsilon cannot begin at pure noise (rescale_betas_zero_snr with this spacing)"
                .into(),
        ))
    } else {
        Ok(())
    }
}
