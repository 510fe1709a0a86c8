//! A predictor and a corrector that share the denoiser calls: each prediction first corrects the previous step.
//!
//! Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
//! <https://arxiv.org/abs/2302.04867>, with x₀ prediction, of first and second order.

use burn::prelude::*;

use super::Plan;
use super::config::{Class, Config, PredictionType, SolverType};
use super::dpm_solver_multistep;
use super::noise_schedule::{Level, NoiseSchedule};
use crate::Result;

/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_unipc_multistep.py#L833-L960>
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_unipc_multistep.py#L962-L1097>
#[derive(Debug, Clone)]
pub(super) struct UniPc {
    /// One entry more than there are denoiser calls.
    levels: Vec<Level>,
    prediction: PredictionType,
    second_order: bool,
    lower_order_final: bool,
    /// Whether B(h) is h instead of e^h − 1.
    bh1: bool,
    /// The previous step, which the next call corrects.
    before: Option<Step>,
}

/// A step from `levels[at]` to the next.
#[derive(Debug, Clone)]
struct Step {
    at: usize,
    /// Latents at `levels[at]`.
    latents: Tensor<4>,
    /// The predicted x₀ at `levels[at]`.
    picture: Tensor<4>,
    /// The predicted x₀ one level earlier, for a second-order step.
    earlier: Option<Tensor<4>>,
}

impl UniPc {
    pub(super) fn new(config: &Config, noise: &NoiseSchedule, steps: usize) -> Result<(Plan, Self)> {
        let (plan, levels) = dpm_solver_multistep::plan(config, noise, Class::UniPc, steps)?;
        let solver = Self {
            levels,
            prediction: config.prediction_type,
            second_order: config.solver_order == 2,
            lower_order_final: config.lower_order_final,
            bh1: config.solver_type == Some(SolverType::Bh1),
            before: None,
        };
        Ok((plan, solver))
    }

    pub(super) fn step(&mut self, i: usize, latents: Tensor<4>, output: Tensor<4>) -> Tensor<4> {
        let picture = self.levels[i].picture(self.prediction, latents.clone(), output);
        let before = self.before.take();
        let latents = match &before {
            Some(before) => self.advance(before, Some(picture.clone())),
            None => latents,
        };
        let last = i + 2 == self.levels.len();
        // At zero noise h is infinite, and only the first order has a limit.
        let lower = last && (self.lower_order_final || self.levels[i + 1].noise == 0.0);
        let earlier = before.map(|before| before.picture).filter(|_| self.second_order && !lower);
        let step = Step { at: i, latents, picture, earlier };
        let next = self.advance(&step, None);
        self.before = Some(step);
        next
    }

    /// The latents at the end of a step: predicted, or corrected with `denoised`, the predicted x₀ there.
    fn advance(&self, step: &Step, denoised: Option<Tensor<4>>) -> Tensor<4> {
        let (from, to) = (self.levels[step.at], self.levels[step.at + 1]);
        let h = from.lambda() - to.lambda();
        let growth = h.exp_m1();
        let base = step.latents.clone() * (to.noise / from.noise) - step.picture.clone() * (to.signal * growth);

        let scale = if self.bh1 { h } else { growth };
        let first = growth / h - 1.0;
        let second = 2.0 * (first / h - 0.5);
        let slope = step.earlier.as_ref().map(|earlier| {
            let ratio = (from.lambda() - self.levels[step.at - 1].lambda()) / h;
            (ratio, (earlier.clone() - step.picture.clone()) / ratio)
        });
        // The weights match the Taylor series. First-order correction and second-order prediction use ½.
        let change = match (slope, denoised) {
            (None, None) => return base,
            (Some((_, slope)), None) => slope * 0.5,
            (None, Some(denoised)) => (denoised - step.picture.clone()) * 0.5,
            (Some((ratio, slope)), Some(denoised)) => {
                let of_slope = (first - second) / scale / (1.0 - ratio);
                slope * of_slope + (denoised - step.picture.clone()) * (first / scale - of_slope)
            }
        };
        base - change * (to.signal * scale)
    }
}
