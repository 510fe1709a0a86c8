//! Pseudo numerical methods (PNDM): DDIM steps whose noise prediction is averaged over several denoiser calls.
//!
//! Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds", <https://arxiv.org/abs/2202.09778>.
//! Linear multistep (PLMS) starts with three Runge–Kutta steps (PRK), or instead takes its first step twice
//! (Katherine Crowson's variant, which Stable Diffusion uses).

use burn::prelude::*;

use super::Plan;
use super::config::{Class, Config, PredictionType};
use super::noise_schedule::{Level, NoiseSchedule};
use crate::{Error, Result};

/// Denoiser calls in the three Runge–Kutta steps.
const RUNGE_KUTTA_CALLS: usize = 12;
/// Fewest steps with Runge–Kutta.
const RUNGE_KUTTA_STEPS: usize = 4;

/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_pndm.py#L265-L322>
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_pndm.py#L324-L392>
#[derive(Debug, Clone)]
pub(super) struct Pndm {
    noise: NoiseSchedule,
    timesteps: Vec<f64>,
    /// Training timesteps per step.
    stride: f64,
    /// The level after the last step.
    last: Level,
    prediction: PredictionType,
    runge_kutta: bool,
    /// Calls so far.
    calls: usize,
    /// The last denoiser outputs, newest last, at most four.
    outputs: Vec<Tensor<4>>,
    /// The latents at the start of a step of several calls.
    origin: Option<Tensor<4>>,
    /// The weighted sum of outputs within a Runge–Kutta step.
    sum: Option<Tensor<4>>,
}

impl Pndm {
    pub(super) fn new(config: &Config, noise: &NoiseSchedule, steps: usize) -> Result<(Plan, Self)> {
        let mut timesteps = noise.timesteps(config, Class::Pndm, steps)?;
        timesteps.iter_mut().for_each(|timestep| *timestep = timestep.round_ties_even());
        let stride = noise.len() / steps;
        let runge_kutta = !config.skip_prk_steps;
        if runge_kutta {
            if steps < RUNGE_KUTTA_STEPS {
                return Err(Error::Invalid(format!(
                    "{steps} steps: PNDM needs at least {RUNGE_KUTTA_STEPS}, or PLMS (skip_prk_steps)"
                )));
            }
            // Each step calls the denoiser once at its upper end, twice in the middle and once at the lower end.
            let half = (stride / 2) as f64;
            let calls = |step: usize| {
                let (upper, lower) = (timesteps[step], timesteps[step + 1]);
                [upper, lower + half, lower + half, lower]
            };
            let opening: Vec<f64> = (0..RUNGE_KUTTA_CALLS / 4).flat_map(calls).collect();
            timesteps.splice(..RUNGE_KUTTA_CALLS / 4, opening);
        } else if let Some(second) = timesteps.get(1).copied() {
            timesteps.insert(1, second);
        }
        let levels = timesteps.iter().map(|timestep| noise.level(*timestep)).collect();
        let solver = Self {
            noise: noise.clone(),
            timesteps: timesteps.clone(),
            stride: stride as f64,
            last: if config.ends_clean(Class::Pndm) { Level::CLEAN } else { noise.level(0.0) },
            prediction: config.prediction_type,
            runge_kutta,
            calls: 0,
            outputs: Vec::new(),
            origin: None,
            sum: None,
        };
        Ok((Plan { timesteps, levels, initial_scale: 1.0 }, solver))
    }

    /// Whether the first calls form one unit, so that sampling cannot start in the middle of them.
    pub(super) fn has_opening(&self) -> bool {
        self.runge_kutta
    }

    pub(super) fn step(&mut self, i: usize, latents: Tensor<4>, output: Tensor<4>) -> Tensor<4> {
        let call = self.calls;
        self.calls += 1;
        if self.runge_kutta && call < RUNGE_KUTTA_CALLS {
            self.runge_kutta(call, latents, output)
        } else {
            self.multistep(call, self.timesteps[i], latents, output)
        }
    }

    fn runge_kutta(&mut self, call: usize, latents: Tensor<4>, output: Tensor<4>) -> Tensor<4> {
        let part = call % 4;
        let origin = self.origin.get_or_insert(latents).clone();
        let half = (self.stride / 2.0).floor();
        let to = self.timesteps[call] - if part.is_multiple_of(2) { half } else { 0.0 };
        let from = self.timesteps[call - part];
        let weight = if part == 0 || part == 3 { 1.0 / 6.0 } else { 1.0 / 3.0 };
        let weighted = output.clone() * weight;
        let sum = match self.sum.take() {
            Some(sum) => sum + weighted,
            None => weighted,
        };
        if part == 0 {
            self.outputs.push(output.clone());
        }
        if part == 3 {
            self.origin = None;
            return self.transfer(from, to, origin, sum);
        }
        self.sum = Some(sum);
        self.transfer(from, to, origin, output)
    }

    fn multistep(&mut self, call: usize, timestep: f64, latents: Tensor<4>, output: Tensor<4>) -> Tensor<4> {
        if call == 1
            && let (Some(origin), [first]) = (self.origin.take(), self.outputs.as_slice())
        {
            // Repeats the first step with the mean of the predictions at both ends.
            let mean = (output + first.clone()) / 2.0;
            return self.transfer(timestep + self.stride, timestep, origin, mean);
        }
        if call == 0 {
            self.origin = Some(latents.clone());
        }
        self.outputs.push(output);
        if self.outputs.len() > 4 {
            self.outputs.remove(0);
        }
        let weights: &[f64] = match self.outputs.len() {
            1 => &[1.0],
            2 => &[-1.0 / 2.0, 3.0 / 2.0],
            3 => &[5.0 / 12.0, -16.0 / 12.0, 23.0 / 12.0],
            _ => &[-9.0 / 24.0, 37.0 / 24.0, -59.0 / 24.0, 55.0 / 24.0],
        };
        let weighted = self.outputs.iter().zip(weights).map(|(output, weight)| output.clone() * *weight);
        match weighted.reduce(|sum, output| sum + output) {
            Some(output) => self.transfer(timestep, timestep - self.stride, latents, output),
            None => latents,
        }
    }

    /// Moves latents from timestep `from` to `to` along the predicted noise: the paper's transfer part, a DDIM step.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_pndm.py#L409-L458>
    fn transfer(&self, from: f64, to: f64, latents: Tensor<4>, output: Tensor<4>) -> Tensor<4> {
        let level = |timestep: f64| if timestep < 0.0 { self.last } else { self.noise.level(timestep) };
        let (from, to) = (level(from), level(to));
        let epsilon = from.epsilon(self.prediction, latents.clone(), output);
        let lost = (to.signal * from.noise - from.signal * to.noise) / from.signal;
        latents * (to.signal / from.signal) - epsilon * lost
    }
}
