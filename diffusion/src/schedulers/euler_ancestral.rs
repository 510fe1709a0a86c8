//! Euler steps that overshoot the next noise level and return to it with fresh noise.
//!
//! Crowson, k-diffusion's `sample_euler_ancestral`. The split of the noise is from Song et al.,
//! "Denoising Diffusion Implicit Models", <https://arxiv.org/abs/2010.02502>, equation 16 with η = 1.

use burn::prelude::*;

use super::Plan;
use super::config::{Class, Config, PredictionType};
use super::euler;
use super::noise_schedule::{NoiseSchedule, falling};
use crate::Result;
use crate::noise::Noise;

/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_euler_ancestral_discrete.py#L376-L476>
/// - <https://github.com/crowsonkb/k-diffusion/blob/4601bf085320592473f681a62808ed873d17fad5/k_diffusion/sampling.py#L139-L155>
#[derive(Debug, Clone)]
pub(super) struct EulerAncestral {
    /// One entry more than there are denoiser calls.
    sigmas: Vec<f32>,
    prediction: PredictionType,
}

impl EulerAncestral {
    pub(super) fn new(config: &Config, noise: &NoiseSchedule, steps: usize) -> Result<(Plan, Self)> {
        let timesteps = noise.timesteps(config, Class::EulerAncestral, steps)?;
        let sigmas = falling(timesteps.iter().map(|timestep| noise.sigma_at(*timestep)).chain([0.0]))?;
        let plan = euler::plan(timesteps, &sigmas, config, Class::EulerAncestral);
        Ok((plan, Self { sigmas, prediction: config.prediction_type }))
    }

    /// Draws noise in the last step too, although its weight is 0, as diffusers does.
    pub(super) fn step(&self, i: usize, latents: Tensor<4>, output: Tensor<4>, noise: &mut Noise) -> Tensor<4> {
        let (shape, device) = (latents.dims(), latents.device());
        let (from, to) = (self.sigmas[i], self.sigmas[i + 1]);
        // In f32: after a first level of 4096 (zero SNR) the remainder depends on rounding.
        let up = (to.powi(2) * (from.powi(2) - to.powi(2)) / from.powi(2)).sqrt();
        let down = (to.powi(2) - up.powi(2)).sqrt();
        let below = euler::descend(from, down, self.prediction, latents, output);
        below + noise.normal_tensor(shape, &device) * up
    }
}
