//! Euler steps along the straight trajectories of rectified flow.
//!
//! Liu et al., "Flow Straight and Fast", <https://arxiv.org/abs/2209.03003>. The resolution-dependent shift of the
//! noise levels is from Esser et al., <https://arxiv.org/abs/2403.03206>, section 5.3.2. Reads the
//! `scheduler_config.json` of diffusers' `FlowMatchEulerDiscreteScheduler` and rounds to f32 where that does.

use burn::prelude::*;
pub use formats::scheduler::flow::{Config, TimeShift};

use crate::{Error, Result};

/// The scheduler of FLUX.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_flow_match_euler_discrete.py#L423-L522>
#[derive(Debug, Clone)]
pub struct FlowMatchEuler {
    config: Config,
}

/// The noise levels of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// `steps + 1` sigmas, from noise (near 1) to 0.
    sigmas: Vec<f32>,
    num_train_timesteps: f32,
}

impl FlowMatchEuler {
    /// Rejects variants that no FLUX checkpoint uses instead of sampling wrongly.
    pub fn new(config: Config) -> Result<Self> {
        match config.unsupported().first() {
            Some(option) => Err(Error::Invalid(format!("the scheduler option {option} is not supported"))),
            None => Ok(Self { config }),
        }
    }

    /// The noise levels for `steps` steps on a picture of `tokens` latent tokens: evenly spaced from 1 to 1/steps, then
    /// shifted.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_flow_match_euler_discrete.py#L283-L382>
    pub fn schedule(&self, steps: usize, tokens: usize) -> Schedule {
        let config = &self.config;
        let mut sigmas: Vec<f32> = (0..steps).map(|step| even(step, steps) as f32).collect();
        if config.use_dynamic_shifting {
            let mu = self.shift_for(tokens);
            let weight = match config.time_shift_type {
                TimeShift::Exponential => mu.exp() as f32,
                TimeShift::Linear => mu as f32,
            };
            sigmas.iter_mut().for_each(|sigma| *sigma = weight / (weight + (1.0 / *sigma - 1.0)));
        } else {
            let (shift, excess) = (config.shift as f32, (config.shift - 1.0) as f32);
            sigmas.iter_mut().for_each(|sigma| *sigma = shift * *sigma / (1.0 + excess * *sigma));
        }
        if let (Some(terminal), Some(&last)) = (config.shift_terminal.filter(|t| *t != 0.0), sigmas.last()) {
            let factor = (1.0 - last) / (1.0 - terminal) as f32;
            sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / factor);
        }
        sigmas.push(0.0);
        Schedule { sigmas, num_train_timesteps: config.num_train_timesteps as f32 }
    }

    /// The static shift of the noise levels, as used in training. The dynamic shift applies to sampling only.
    pub fn training_shift(&self) -> f64 {
        if self.config.use_dynamic_shifting { 1.0 } else { self.config.shift }
    }

    /// Interpolates linearly in the number of tokens between the two published points. Larger pictures get a larger
    /// shift.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/flux/pipeline_flux.py#L73-L83>
    fn shift_for(&self, tokens: usize) -> f64 {
        let config = &self.config;
        let span = config.max_image_seq_len as f64 - config.base_image_seq_len as f64;
        let slope = (config.max_shift - config.base_shift) / span;
        let offset = config.base_shift - slope * config.base_image_seq_len as f64;
        tokens as f64 * slope + offset
    }
}

/// Point `step` of `steps` evenly spaced points from 1 to 1/steps, rounded like `numpy.linspace`.
fn even(step: usize, steps: usize) -> f64 {
    let stop = 1.0 / steps as f64;
    match step {
        0 => 1.0,
        _ if step + 1 == steps => stop,
        _ => step as f64 * ((stop - 1.0) / (steps - 1) as f64) + 1.0,
    }
}

impl Schedule {
    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.sigmas.len() - 1
    }

    /// All `steps + 1` noise levels; the last is 0.
    pub fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// The denoiser's time condition at `step`: sigma, rounded by a conversion to the timestep and back.
    pub fn time(&self, step: usize) -> f32 {
        self.sigmas[step] * self.num_train_timesteps / 1000.0
    }

    /// Keeps the last steps, for latents that start from a picture. A denoising strength of 1 keeps all steps and 0
    /// none. Other values keep that share of them, rounded up, as in diffusers' FLUX pipelines.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/flux/pipeline_flux_img2img.py#L477-L486>
    pub fn with_strength(mut self, strength: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&strength) {
            return Err(Error::Invalid(format!("strength is {strength}, and has to be from 0 to 1")));
        }
        let steps = self.steps() as f64;
        self.sigmas.drain(..(steps - steps * strength) as usize);
        Ok(self)
    }

    /// Adds noise to the clean latents `original`: the latents before `step`, of the same shape. After the last step
    /// these are the clean ones.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_flow_match_euler_discrete.py#L188-L236>
    pub fn add_noise<const D: usize>(&self, step: usize, original: Tensor<D>, noise: Tensor<D>) -> Tensor<D> {
        let sigma = self.sigmas[step];
        noise * sigma + original * (1.0 - sigma)
    }

    /// The predicted x₀ (clean latents) at `step`. All tensors have the same shape.
    pub fn predicted_clean<const D: usize>(&self, step: usize, latents: Tensor<D>, velocity: Tensor<D>) -> Tensor<D> {
        latents - velocity * self.sigmas[step]
    }

    /// One Euler step along the predicted velocity. Returns the latents at `step + 1`, of the same shape.
    pub fn step<const D: usize>(&self, step: usize, latents: Tensor<D>, velocity: Tensor<D>) -> Tensor<D> {
        latents + velocity * (self.sigmas[step + 1] - self.sigmas[step])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(config: Config, steps: usize, tokens: usize) -> Vec<f32> {
        FlowMatchEuler::new(config).unwrap().schedule(steps, tokens).sigmas
    }

    #[test]
    fn without_a_shift_levels_are_even() {
        assert_eq!(schedule(Config::default(), 4, 64), [1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!(schedule(Config::default(), 1, 64), [1.0, 0.0]);
    }

    #[test]
    fn a_static_shift_stays_longer_in_the_noise() {
        let shifted = schedule(Config { shift: 3.0, ..Config::default() }, 4, 64);
        for (got, wanted) in shifted.iter().zip([1.0, 0.9, 0.75, 0.5, 0.0]) {
            assert!((got - wanted).abs() < 1e-6, "{shifted:?}");
        }
    }

    #[test]
    fn the_dynamic_shift_depends_on_size() {
        let config = Config { use_dynamic_shifting: true, ..Config::default() };
        let at = |tokens| schedule(config.clone(), 2, tokens)[1];
        // mu = 0.5 at 256 tokens and 1.15 at 4096: e^mu / (e^mu + 1) at sigma ½
        assert!((at(256) - 0.622_459_35).abs() < 1e-6);
        assert!((at(4096) - 0.759_510_9).abs() < 1e-6);
    }

    #[test]
    fn a_strength_keeps_the_last_steps() {
        let kept = |strength| {
            let schedule = FlowMatchEuler::new(Config::default()).unwrap().schedule(4, 64);
            schedule.with_strength(strength).map(|schedule| schedule.sigmas)
        };
        assert_eq!(kept(1.0).unwrap(), [1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!(kept(0.6).unwrap(), [0.75, 0.5, 0.25, 0.0]);
        assert_eq!(kept(0.0).unwrap(), [0.0]);
        assert!(kept(1.1).is_err() && kept(f64::NAN).is_err());
    }

    #[test]
    fn unknown_variants_are_refused() {
        let config = Config { use_karras_sigmas: true, ..Config::default() };
        assert!(FlowMatchEuler::new(config).is_err());
    }
}
