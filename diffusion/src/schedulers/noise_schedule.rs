//! The noise schedule of a model: the signal that remains at each training timestep, and the levels that a sampler
//! visits. The solvers implement the steps between levels.
//!
//! Ho et al., "Denoising Diffusion Probabilistic Models", <https://arxiv.org/abs/2006.11239>. Rounds like diffusers:
//! tables in f32, values computed from them in f64.

use burn::prelude::*;

use super::config::{BetaSchedule, Class, Config, FinalSigma, PredictionType, TimestepSpacing};
use crate::{Error, Result};

/// Replaces zero signal at the last level, where sigma would be infinite: the smallest positive f16.
const ALMOST_NOTHING: f32 = 1.0 / 16_777_216.0;
/// The rho of Karras et al.
const KARRAS_RHO: f64 = 7.0;

/// The noise schedule by training timestep.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_euler_discrete.py#L203-L275>
#[derive(Debug, Clone)]
pub(super) struct NoiseSchedule {
    /// ᾱ, the share of the variance that is signal, from near 1 to near 0.
    alphas_cumprod: Vec<f32>,
}

/// The composition of latents: `signal · picture + noise · ε`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Level {
    pub(super) signal: f64,
    pub(super) noise: f64,
}

impl Level {
    /// No noise.
    pub(super) const CLEAN: Self = Self { signal: 1.0, noise: 0.0 };

    /// Noise of standard deviation `sigma` added to an unscaled picture (variance exploding).
    pub(super) fn exploding(sigma: f32) -> Self {
        Self { signal: 1.0, noise: f64::from(sigma) }
    }

    /// The same signal-to-noise ratio with variance 1 (variance preserving).
    pub(super) fn preserving(sigma: f32) -> Self {
        let signal = 1.0 / f64::from(sigma).hypot(1.0);
        Self { signal, noise: f64::from(sigma) * signal }
    }

    /// The standard deviation of the latents if that of the pictures is 1; diffusers divides by it. Rounded to f32,
    /// so that it is exactly 1 where signal and noise have variance 1 together.
    pub(super) fn deviation(self) -> f64 {
        f64::from(self.signal.hypot(self.noise) as f32)
    }

    /// Half the log signal-to-noise ratio; infinite without noise.
    pub(super) fn lambda(self) -> f64 {
        self.signal.ln() - self.noise.ln()
    }

    /// Mixes picture and noise into latents of this level.
    pub(super) fn mix(self, picture: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        picture * self.signal + noise * self.noise
    }

    /// The predicted x₀ for `latents` of this level.
    pub(super) fn picture(self, kind: PredictionType, latents: Tensor<4>, output: Tensor<4>) -> Tensor<4> {
        match kind {
            PredictionType::Epsilon => (latents - output * self.noise) / self.signal,
            PredictionType::Sample => output,
            PredictionType::VPrediction => {
                let deviation = self.deviation();
                latents * (self.signal / deviation / deviation) - output * (self.noise / deviation)
            }
        }
    }

    /// The predicted noise ε for `latents` of this level, which have variance 1.
    pub(super) fn epsilon(self, kind: PredictionType, latents: Tensor<4>, output: Tensor<4>) -> Tensor<4> {
        match kind {
            PredictionType::Epsilon => output,
            PredictionType::Sample => (latents - output * self.signal) / self.noise,
            PredictionType::VPrediction => output * self.signal + latents * self.noise,
        }
    }
}

impl NoiseSchedule {
    /// From the betas of a config, as `class` reads it.
    pub(super) fn new(config: &Config, class: Class) -> Result<Self> {
        let betas = betas(config, class)?;
        if let Some(beta) = betas.iter().find(|beta| !(**beta > 0.0 && **beta < 1.0)) {
            return Err(Error::Invalid(format!("scheduler: a beta is {beta}, and has to be between 0 and 1")));
        }
        let mut alphas_cumprod = products(&betas);
        if alphas_cumprod.last() == Some(&0.0) {
            return Err(Error::Invalid("scheduler: the betas leave nothing of the picture".into()));
        }
        // PNDM ignores the flag and keeps its last level.
        if config.rescale_betas_zero_snr && class != Class::Pndm {
            alphas_cumprod = products(&without_last_signal(&alphas_cumprod));
            let in_sigmas = !matches!(class, Class::Ddim | Class::Lcm);
            if let Some(last) = alphas_cumprod.last_mut().filter(|_| in_sigmas) {
                *last = ALMOST_NOTHING;
            }
        }
        if alphas_cumprod.iter().any(|alpha| !alpha.is_finite()) {
            return Err(Error::Invalid("scheduler: the betas cannot be rescaled to zero SNR".into()));
        }
        Ok(Self { alphas_cumprod })
    }

    /// Number of training timesteps.
    pub(super) fn len(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// The level of a training timestep, with variance 1.
    pub(super) fn level(&self, timestep: f64) -> Level {
        let alpha = f64::from(self.alphas_cumprod[(timestep as usize).min(self.len() - 1)]);
        Level { signal: alpha.sqrt(), noise: (1.0 - alpha).sqrt() }
    }

    /// Timesteps from noisy to clean. Not yet rounded for [`TimestepSpacing::Linspace`].
    pub(super) fn timesteps(&self, config: &Config, class: Class, points: usize) -> Result<Vec<f64>> {
        let count = self.len();
        let timesteps: Vec<f64> = match config.spacing(class) {
            TimestepSpacing::Linspace => linspace(0.0, (count - 1) as f64, points).into_iter().rev().collect(),
            TimestepSpacing::Leading => (0..points)
                .rev()
                .map(|point| (point * (count / points)).saturating_add(config.steps_offset) as f64)
                .collect(),
            // For some counts (61, 103, …) diffusers' rounding adds a step at timestep −1. This code does not.
            TimestepSpacing::Trailing => {
                let ratio = count as f64 / points as f64;
                (0..points).map(|point| (count as f64 - point as f64 * ratio).round_ties_even() - 1.0).collect()
            }
        };
        match timesteps.iter().find(|timestep| !(0.0..count as f64).contains(*timestep)) {
            Some(timestep) => Err(Error::Invalid(format!(
                "{points} steps with steps_offset {} would need timestep {timestep}, and the model knows {count}",
                config.steps_offset
            ))),
            None => Ok(timesteps),
        }
    }

    /// Timesteps for solvers that treat the clean end as a separate point: spaces one more point and omits it.
    pub(super) fn timesteps_above_clean(&self, config: &Config, class: Class, steps: usize) -> Result<Vec<f64>> {
        let trailing = config.spacing(class) == TimestepSpacing::Trailing;
        let mut timesteps = self.timesteps(config, class, if trailing { steps } else { steps + 1 })?;
        timesteps.truncate(steps);
        timesteps.iter_mut().for_each(|timestep| *timestep = timestep.round_ties_even());
        Ok(timesteps)
    }

    /// σ (noise divided by signal) at a timestep, linear between training timesteps.
    pub(super) fn sigma_at(&self, timestep: f64) -> f64 {
        let sigma = |timestep: usize| {
            let alpha = self.alphas_cumprod[timestep.min(self.len() - 1)];
            f64::from(((1.0 - alpha) / alpha).sqrt())
        };
        let below = timestep as usize;
        timestep.fract() * (sigma(below + 1) - sigma(below)) + sigma(below)
    }

    /// `steps` noise levels from `highest` to `lowest` with the spacing of Karras et al.
    /// (<https://arxiv.org/abs/2206.00364>, equation 5), each with its timestep, which may be fractional.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_euler_discrete.py#L520-L556>
    pub(super) fn karras(&self, config: &Config, highest: f64, lowest: f64, steps: usize) -> (Vec<f64>, Vec<f64>) {
        let root = |sigma: f64| sigma.powf(1.0 / KARRAS_RHO);
        let (highest, lowest) = (root(config.sigma_max.unwrap_or(highest)), root(config.sigma_min.unwrap_or(lowest)));
        let ramp = linspace(0.0, 1.0, steps).into_iter();
        let sigmas: Vec<f64> = ramp.map(|part| (highest + part * (lowest - highest)).powf(KARRAS_RHO)).collect();
        let logarithms: Vec<f32> =
            (0..self.len()).map(|timestep| (self.sigma_at(timestep as f64) as f32).ln()).collect();
        let timesteps = sigmas.iter().map(|sigma| position(sigma.max(1e-10).ln(), &logarithms)).collect();
        (timesteps, sigmas)
    }

    /// The noise level after the last step.
    pub(super) fn last_sigma(&self, config: &Config) -> f64 {
        match config.final_sigmas_type {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => self.sigma_at(0.0),
        }
    }
}

/// Noise levels in f32. Rejects levels that do not decrease, for which a solver would divide by zero.
pub(super) fn falling(sigmas: impl Iterator<Item = f64>) -> Result<Vec<f32>> {
    let sigmas: Vec<f32> = sigmas.map(|sigma| sigma as f32).collect();
    let last = sigmas.len() - 2;
    let falls = |(at, pair): (usize, &[f32; 2])| pair[0] > pair[1] || (at == last && pair[0] == pair[1]);
    if sigmas.array_windows().enumerate().all(falls) && sigmas.iter().all(|sigma| sigma.is_finite()) {
        Ok(sigmas)
    } else {
        Err(Error::Invalid(format!(
            "the noise levels of {} steps do not fall: too many steps, or sigma_min and sigma_max are wrong",
            last + 1
        )))
    }
}

/// The fractional index of `value` in an increasing table, linear between two entries.
fn position(value: f64, table: &[f32]) -> f64 {
    let above = table.partition_point(|entry| f64::from(*entry) <= value);
    let low = above.saturating_sub(1).min(table.len().saturating_sub(2));
    let Some(&[from, to]) = table.get(low..low + 2).and_then(|pair| pair.first_chunk::<2>()) else {
        return 0.0;
    };
    let part = ((f64::from(from) - value) / f64::from(from - to)).clamp(0.0, 1.0);
    (1.0 - part) * low as f64 + part * (low + 1) as f64
}

/// `count` evenly spaced points from `start` to `stop`, rounded like `numpy.linspace`.
pub(super) fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let step = (stop - start) / count.saturating_sub(1).max(1) as f64;
    let at = |point| if point > 0 && point + 1 == count { stop } else { point as f64 * step + start };
    (0..count).map(at).collect()
}

fn betas(config: &Config, class: Class) -> Result<Vec<f32>> {
    let count = config.num_train_timesteps;
    if let Some(betas) = &config.trained_betas {
        return if betas.len() == count {
            Ok(betas.clone())
        } else {
            Err(Error::Invalid(format!("scheduler: {} trained_betas for {count} timesteps", betas.len())))
        };
    }
    let (start, end, schedule) = match class {
        Class::Lcm => (0.00085, 0.012, BetaSchedule::ScaledLinear),
        _ => (0.0001, 0.02, BetaSchedule::Linear),
    };
    let (start, end) = (config.beta_start.unwrap_or(start), config.beta_end.unwrap_or(end));
    Ok(match config.beta_schedule.unwrap_or(schedule) {
        BetaSchedule::Linear => linspace_single(start, end, count),
        BetaSchedule::ScaledLinear => {
            linspace_single(start.sqrt(), end.sqrt(), count).into_iter().map(|root| root * root).collect()
        }
        BetaSchedule::SquaredCosine => {
            let left = |part: f64| ((part + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
            let part = |timestep: usize| left(timestep as f64 / count as f64);
            (0..count).map(|timestep| (1.0 - part(timestep + 1) / part(timestep)).min(0.999) as f32).collect()
        }
    })
}

/// `count` evenly spaced points, rounded in f32 like `torch.linspace`: from either end to the middle.
fn linspace_single(start: f64, stop: f64, count: usize) -> Vec<f32> {
    let (start, stop) = (start as f32, stop as f32);
    let step = f64::from((stop - start) / count.saturating_sub(1).max(1) as f32);
    let at = |point: usize| {
        if point < count / 2 {
            f64::from(start) + step * point as f64
        } else {
            f64::from(stop) - step * (count - point - 1) as f64
        }
    };
    (0..count).map(|point| at(point) as f32).collect()
}

/// Cumulative products of 1 − β.
fn products(betas: &[f32]) -> Vec<f32> {
    let multiply = |product: &mut f64, beta: &f32| {
        *product *= f64::from(1.0 - beta);
        Some(*product as f32)
    };
    betas.iter().scan(1.0, multiply).collect()
}

/// Betas that keep the first level and leave zero signal at the last: Lin et al., algorithm 1.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_ddim.py#L103-L136>
fn without_last_signal(alphas_cumprod: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = alphas_cumprod.iter().map(|alpha| alpha.sqrt()).collect();
    let (Some(first), Some(last)) = (roots.first(), roots.last()) else { return Vec::new() };
    let stretch = first / (first - last);
    let alphas: Vec<f32> = roots.iter().map(|root| ((root - last) * stretch).powi(2)).collect();
    let before = [1.0].into_iter().chain(alphas.iter().copied());
    alphas.iter().zip(before).map(|(alpha, before)| 1.0 - alpha / before).collect()
}
