//! Schedulers: which noise levels a sampler visits, and the step from one to the next. One algorithm a file.
//! They know nothing of prompts or pictures.

pub mod config;
mod ddim;
mod euler;
pub mod flow_match_euler;
mod name;
mod noise_schedule;

use burn::prelude::*;

pub use config::{Class, Config};
pub use name::SchedulerName;

use crate::noise::Noise;
use crate::{Error, Result};
use ddim::Ddim;
use euler::Euler;
use noise_schedule::{Level, NoiseSchedule};

/// The noise that a model was trained with and the solver that takes it away: Stable Diffusion's schedulers, as
/// `scheduler_config.json` describes them. FLUX has [`flow_match_euler`].
#[derive(Debug, Clone)]
pub struct Scheduler {
    config: Config,
    class: Class,
    noise: NoiseSchedule,
}

/// The denoising of one picture or batch: where it stands, and what its solver remembers of earlier steps. Calls of the
/// denoiser are counted from 0 and have to be stepped through in order.
#[derive(Debug, Clone)]
pub struct Sampling {
    plan: Plan,
    /// As many as were asked for. PNDM calls the denoiser more often.
    steps: usize,
    /// Calls left out at the noisy end.
    start: usize,
    solver: Solver,
}

/// What all solvers have in common.
#[derive(Debug, Clone)]
struct Plan {
    /// What the denoiser is told in each call.
    timesteps: Vec<f64>,
    /// The noise in the latents before each call.
    levels: Vec<Level>,
    initial_scale: f64,
}

#[derive(Debug, Clone)]
enum Solver {
    Ddim(Ddim),
    Euler(Euler),
}

impl Scheduler {
    /// Refuses an unknown class, options that no solver here knows, and betas that are no noise.
    pub fn from_config(config: Config) -> Result<Self> {
        let class = config.class()?;
        config.check(class)?;
        let noise = NoiseSchedule::new(&config, class)?;
        Ok(Self { config, class, noise })
    }

    /// Another solver for the noise that the model was trained with, as `Other.from_config(scheduler.config)` in
    /// diffusers: what this config says stays, and what it leaves out is that class's default.
    pub fn with_name(&self, name: SchedulerName) -> Result<Self> {
        Self::from_config(self.config.named(name))
    }

    /// What the scheduler was made from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A denoising in `steps` steps: at least one, and at most as many as there are training timesteps.
    pub fn sampling(&self, steps: usize) -> Result<Sampling> {
        let limit = self.config.num_train_timesteps;
        if !(1..=limit).contains(&steps) {
            return Err(Error::Invalid(format!("{steps} steps: a denoising has from 1 to {limit}")));
        }
        let (config, noise) = (&self.config, &self.noise);
        let (plan, solver) = match self.class {
            Class::Ddim => Ddim::new(config, noise, steps).map(|(plan, solver)| (plan, Solver::Ddim(solver)))?,
            Class::Euler => Euler::new(config, noise, steps).map(|(plan, solver)| (plan, Solver::Euler(solver)))?,
            _ => return Err(Error::Invalid(format!("the {} is not supported", self.class.name()))),
        };
        Ok(Sampling { plan, steps, start: 0, solver })
    }
}

impl Sampling {
    /// The last part of the denoising, for latents that begin as a picture: `strength` 1 keeps every step, 0 keeps none, and
    /// between them the part of the steps that it says, rounded down.
    pub fn with_strength(self, strength: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&strength) {
            return Err(Error::Invalid(format!("strength is {strength}, and has to be from 0 to 1")));
        }
        let kept = (self.steps as f64 * strength) as usize;
        let start = if kept == 0 { self.plan.timesteps.len() } else { self.steps - kept };
        Ok(Self { start, ..self })
    }

    /// How often the denoiser is called.
    pub fn len(&self) -> usize {
        self.plan.timesteps.len() - self.start
    }

    /// Whether nothing is left to do: strength 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The training timestep that the denoiser is told in call `i`.
    pub fn timestep(&self, i: usize) -> f64 {
        self.plan.timesteps[self.start + i]
    }

    /// What noise of deviation 1 is multiplied with to be the latents of a whole denoising.
    pub fn initial_scale(&self) -> f64 {
        self.plan.initial_scale
    }

    /// What the denoiser sees of the latents in call `i`.
    pub fn scale_input(&self, i: usize, latents: Tensor<4>) -> Tensor<4> {
        match &self.solver {
            Solver::Euler(_) => latents / self.plan.levels[self.start + i].deviation(),
            Solver::Ddim(_) => latents,
        }
    }

    /// The latents before call `i` of a picture whose clean latents are `original`: the first ones of img2img, and those
    /// that inpainting puts around its mask. After the last call these are the clean ones.
    pub fn add_noise(&self, i: usize, original: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        match self.plan.levels.get(self.start + i) {
            Some(level) => level.mix(original, noise),
            None => original,
        }
    }

    /// The latents after call `i`, from those before it (not scaled) and the denoiser's answer. Solvers of a stochastic
    /// equation draw from `noise`, which should be the generator that made the first latents.
    pub fn step(&mut self, i: usize, latents: Tensor<4>, output: Tensor<4>, noise: &mut Noise) -> Tensor<4> {
        let i = self.start + i;
        match &mut self.solver {
            Solver::Ddim(solver) => solver.step(i, latents, output),
            Solver::Euler(solver) => solver.step(i, latents, output),
        }
    }
}
