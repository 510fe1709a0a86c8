//! Euler steps along the probability-flow ODE, for latents with noise added to an unscaled picture.
//!
//! Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
//! <https://arxiv.org/abs/2206.00364>, algorithm 1 without the second-order correction.

use burn::prelude::*;

use super::Plan;
use super::config::{Class, Config, PredictionType, TimestepSpacing};
use super::noise_schedule::{Level, NoiseSchedule, falling};
use crate::Result;

/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_euler_discrete.py#L685-L800>
/// - <https://github.com/crowsonkb/k-diffusion/blob/4601bf085320592473f681a62808ed873d17fad5/k_diffusion/sampling.py#L118-L135>
#[derive(Debug, Clone)]
pub(super) struct Euler {
    /// One entry more than there are denoiser calls.
    sigmas: Vec<f32>,
    prediction: PredictionType,
}

impl Euler {
    pub(super) fn new(config: &Config, noise: &NoiseSchedule, steps: usize) -> Result<(Plan, Self)> {
        let mut timesteps = noise.timesteps(config, Class::Euler, steps)?;
        let mut sigmas: Vec<f64> = timesteps.iter().map(|timestep| noise.sigma_at(*timestep)).collect();
        if config.use_karras_sigmas {
            (timesteps, sigmas) = noise.karras(config, sigmas[0], sigmas[steps - 1], steps);
        }
        let sigmas = falling(sigmas.into_iter().chain([noise.last_sigma(config)]))?;
        Ok((plan(timesteps, &sigmas, config, Class::Euler), Self { sigmas, prediction: config.prediction_type }))
    }

    pub(super) fn step(&self, i: usize, latents: Tensor<4>, output: Tensor<4>) -> Tensor<4> {
        descend(self.sigmas[i], self.sigmas[i + 1], self.prediction, latents, output)
    }
}

/// The plan of a solver whose latents are `picture + sigma · ε`.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_euler_discrete.py#L350-L481>
pub(super) fn plan(timesteps: Vec<f64>, sigmas: &[f32], config: &Config, class: Class) -> Plan {
    let levels: Vec<Level> = sigmas[..timesteps.len()].iter().map(|sigma| Level::exploding(*sigma)).collect();
    let initial_scale = match config.spacing(class) {
        TimestepSpacing::Leading => levels[0].deviation(),
        // With these spacings the first level is pure noise.
        TimestepSpacing::Trailing | TimestepSpacing::Linspace => levels[0].noise,
    };
    // The denoiser receives timesteps in f32.
    let timesteps = timesteps.into_iter().map(|timestep| f64::from(timestep as f32)).collect();
    Plan { timesteps, levels, initial_scale }
}

/// One Euler step from noise level `sigma` to `target`, towards the predicted x₀. Computed as a weighted mean of
/// latents and x₀: adding the derivative would lose precision from a first level of 4096 (zero SNR).
pub(super) fn descend(
    sigma: f32,
    target: f32,
    prediction: PredictionType,
    latents: Tensor<4>,
    output: Tensor<4>,
) -> Tensor<4> {
    let picture = Level::exploding(sigma).picture(prediction, latents.clone(), output);
    let kept = f64::from(target) / f64::from(sigma);
    latents * kept + picture * (1.0 - kept)
}
