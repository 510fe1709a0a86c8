//! The sampler of latent consistency models: each call predicts x₀ directly, then fresh noise returns it to the next
//! level.
//!
//! Luo et al., "Latent Consistency Models", <https://arxiv.org/abs/2310.04378>, algorithm 3.

use burn::prelude::*;

use super::Plan;
use super::config::{Class, Config, PredictionType};
use super::ddim::{check_signal, clipped};
use super::noise_schedule::{Level, NoiseSchedule};
use crate::noise::Noise;
use crate::{Error, Result};

/// Standard deviation of the data in the boundary condition.
const SIGMA_DATA: f64 = 0.5;

/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_lcm.py#L569-L664>
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_lcm.py#L548-L567>
#[derive(Debug, Clone)]
pub(super) struct Lcm {
    levels: Vec<Level>,
    /// Timesteps, scaled for the boundary condition.
    times: Vec<f64>,
    prediction: PredictionType,
    clip: Option<f64>,
}

impl Lcm {
    pub(super) fn new(config: &Config, noise: &NoiseSchedule, steps: usize) -> Result<(Plan, Self)> {
        let original = config.original_inference_steps;
        if steps > original || original > noise.len() {
            return Err(Error::Invalid(format!(
                "{steps} steps: LCM has at most the {original} of the solver that it was distilled from \
                 (original_inference_steps), and these at most the {} of training",
                noise.len()
            )));
        }
        let stride = noise.len() / original;
        let skipped = |step: usize| (step as f64 * (original as f64 / steps as f64)) as usize;
        let timesteps: Vec<f64> = (0..steps).map(|step| ((original - skipped(step)) * stride - 1) as f64).collect();
        let levels: Vec<Level> = timesteps.iter().map(|timestep| noise.level(*timestep)).collect();
        check_signal(&levels, config.prediction_type)?;
        let solver = Self {
            levels: levels.clone(),
            times: timesteps.iter().map(|timestep| timestep * config.timestep_scaling).collect(),
            prediction: config.prediction_type,
            clip: config.clip(Class::Lcm),
        };
        Ok((Plan { timesteps, levels, initial_scale: 1.0 }, solver))
    }

    pub(super) fn step(&self, i: usize, latents: Tensor<4>, output: Tensor<4>, noise: &mut Noise) -> Tensor<4> {
        let (shape, device) = (latents.dims(), latents.device());
        let deviation = self.times[i].hypot(SIGMA_DATA);
        let (skip, out) = ((SIGMA_DATA / deviation).powi(2), self.times[i] / deviation);
        let picture = clipped(self.levels[i].picture(self.prediction, latents.clone(), output), self.clip);
        let picture = picture * out + latents * skip;
        match self.levels.get(i + 1) {
            Some(level) => level.mix(picture, noise.normal_tensor(shape, &device)),
            None => picture,
        }
    }
}
