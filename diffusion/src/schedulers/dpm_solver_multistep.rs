//! DPM-Solver++ in its second-order multistep form, as an ODE solver and as an SDE solver.
//!
//! Lu et al., "DPM-Solver++", <https://arxiv.org/abs/2211.01095>, algorithm 2 and its SDE variant.

use burn::prelude::*;

use super::Plan;
use super::config::{Algorithm, BetaSchedule, Class, Config, FinalSigma, PredictionType, SolverType};
use super::noise_schedule::{Level, NoiseSchedule, falling};
use crate::Result;
use crate::noise::Noise;

/// Below this many steps the last step is of first order, for stability.
const FEW_STEPS: usize = 15;

/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_dpmsolver_multistep.py#L847-L919>
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_dpmsolver_multistep.py#L921-L1045>
#[derive(Debug, Clone)]
pub(super) struct DpmSolverMultistep {
    /// One entry more than there are denoiser calls.
    levels: Vec<Level>,
    prediction: PredictionType,
    stochastic: bool,
    heun: bool,
    second_order: bool,
    /// Whether the last step is of first order regardless of the number of steps.
    ends_first_order: bool,
    /// The predicted x₀ of the previous call.
    before: Option<Tensor<4>>,
}

impl DpmSolverMultistep {
    pub(super) fn new(config: &Config, noise: &NoiseSchedule, steps: usize) -> Result<(Plan, Self)> {
        let (plan, levels) = plan(config, noise, Class::DpmSolverMultistep, steps)?;
        let solver = Self {
            levels,
            prediction: config.prediction_type,
            stochastic: config.algorithm_type == Algorithm::SdeDpmSolverPlusPlus,
            heun: config.solver_type == Some(SolverType::Heun),
            second_order: config.solver_order == 2,
            ends_first_order: config.euler_at_final
                || (config.lower_order_final && steps < FEW_STEPS)
                || config.final_sigmas_type == FinalSigma::Zero,
            before: None,
        };
        Ok((plan, solver))
    }

    pub(super) fn step(&mut self, i: usize, latents: Tensor<4>, output: Tensor<4>, noise: &mut Noise) -> Tensor<4> {
        let (from, to) = (self.levels[i], self.levels[i + 1]);
        let picture = from.picture(self.prediction, latents.clone(), output);
        let before = self.before.replace(picture.clone());

        let h = to.lambda() - from.lambda();
        // With fresh noise, the current latents decay twice as fast.
        let pace = if self.stochastic { 2.0 * h } else { h };
        let arrived = -to.signal * (-pace).exp_m1();
        let renewed = self.stochastic.then(|| noise.normal_tensor(latents.dims(), &latents.device()));
        let kept = to.noise / from.noise * if self.stochastic { (-h).exp() } else { 1.0 };

        let mut next = latents * kept + picture.clone() * arrived;
        let last = i + 2 == self.levels.len();
        if let Some(before) = before.filter(|_| self.second_order && !(last && self.ends_first_order)) {
            let ratio = (from.lambda() - self.levels[i - 1].lambda()) / h;
            let share = if self.heun { to.signal * ((-pace).exp_m1() / pace + 1.0) } else { 0.5 * arrived };
            next = next + (picture - before) * (share / ratio);
        }
        match renewed {
            Some(renewed) => next + renewed * (to.noise * (-(-pace).exp_m1()).sqrt()),
            None => next,
        }
    }
}

/// The plan of a solver that steps in λ (half the log signal-to-noise ratio), and its levels: one more than there are
/// denoiser calls.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_dpmsolver_multistep.py#L367-L497>
pub(super) fn plan(config: &Config, noise: &NoiseSchedule, class: Class, steps: usize) -> Result<(Plan, Vec<Level>)> {
    let mut timesteps = noise.timesteps_above_clean(config, class, steps)?;
    let mut sigmas: Vec<f64> = timesteps.iter().map(|timestep| noise.sigma_at(*timestep)).collect();
    let mut last = noise.last_sigma(config);
    if config.use_karras_sigmas {
        let (lowest, highest) = (noise.sigma_at(0.0), noise.sigma_at((noise.len() - 1) as f64));
        (timesteps, sigmas) = noise.karras(config, highest, lowest, steps);
        // DPM-Solver truncates the timesteps of a cosine schedule. All other cases round.
        let rounds = class == Class::UniPc || config.beta_schedule != Some(BetaSchedule::SquaredCosine);
        let whole = |timestep: &f64| if rounds { timestep.round_ties_even() } else { timestep.trunc() };
        timesteps = timesteps.iter().map(whole).collect();
        if class == Class::UniPc && config.final_sigmas_type == FinalSigma::SigmaMin {
            last = sigmas[steps - 1];
        }
    }
    let sigmas = falling(sigmas.into_iter().chain([last]))?;
    let levels: Vec<Level> = sigmas.into_iter().map(Level::preserving).collect();
    Ok((Plan { timesteps, levels: levels[..steps].to_vec(), initial_scale: 1.0 }, levels))
}
