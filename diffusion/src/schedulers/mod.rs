//! Schedulers: the noise levels that a sampler visits, and the step from one to the next. Each algorithm has its own
//! file. Prompts and pictures do not occur here.

mod ddim;
mod dpm_solver_multistep;
mod euler;
mod euler_ancestral;
pub mod flow_match_euler;
mod lcm;
mod noise_schedule;
mod pndm;
mod unipc;

use burn::prelude::*;

pub use formats::scheduler::config::{self, Algorithm, Class, Config, PredictionType};

use crate::noise::Noise;
use crate::{Error, Result};
use ddim::Ddim;
use dpm_solver_multistep::DpmSolverMultistep;
use euler::Euler;
use euler_ancestral::EulerAncestral;
use lcm::Lcm;
use noise_schedule::{Level, NoiseSchedule};
use pndm::Pndm;
use unipc::UniPc;

/// The noise schedule that a model was trained with, and the solver that removes the noise: Stable Diffusion's
/// schedulers as described by `scheduler_config.json`. FLUX uses [`flow_match_euler`].
#[derive(Debug, Clone)]
pub struct Scheduler {
    config: Config,
    class: Class,
    noise: NoiseSchedule,
}

/// The denoising of one picture or batch: its position, and what its solver remembers of earlier steps. Denoiser calls
/// are counted from 0 and must be stepped through in order.
#[derive(Debug, Clone)]
pub struct Sampling {
    plan: Plan,
    /// The requested number of steps. PNDM calls the denoiser more often.
    steps: usize,
    /// Number of calls skipped at the noisy end.
    start: usize,
    prediction: PredictionType,
    solver: Solver,
}

/// What all solvers have in common.
#[derive(Debug, Clone)]
struct Plan {
    /// The timestep that the denoiser receives in each call.
    timesteps: Vec<f64>,
    /// The noise level of the latents before each call.
    levels: Vec<Level>,
    initial_scale: f64,
}

#[derive(Debug, Clone)]
enum Solver {
    Ddim(Ddim),
    Pndm(Pndm),
    Euler(Euler),
    EulerAncestral(EulerAncestral),
    DpmSolverMultistep(DpmSolverMultistep),
    UniPc(UniPc),
    Lcm(Lcm),
}

impl Scheduler {
    /// Rejects unknown classes, unsupported options, and invalid betas.
    pub fn from_config(config: Config) -> Result<Self> {
        let class = config.class().map_err(Error::Invalid)?;
        config.check(class).map_err(Error::Invalid)?;
        let noise = NoiseSchedule::new(&config, class)?;
        Ok(Self { config, class, noise })
    }

    /// The same noise schedule with another solver, as `Other.from_config(scheduler.config)` in diffusers: stated
    /// values stay, and missing ones take that class's defaults.
    pub fn with_name(&self, name: formats::Scheduler) -> Result<Self> {
        Self::from_config(self.config.named(name))
    }

    /// Like [`Self::with_name`], with the class's options from this config.
    pub fn with_class(&self, class: Class) -> Result<Self> {
        Self::from_config(Config { class_name: class.name().into(), ..self.config.clone() })
    }

    /// The config that the scheduler was made from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A1111's name of this solver, for display.
    pub fn title(&self) -> String {
        let karras = if self.config.use_karras_sigmas { " Karras" } else { "" };
        match self.class {
            Class::Ddim => "DDIM".into(),
            Class::Pndm => "PLMS".into(),
            Class::Euler => format!("Euler{karras}"),
            Class::EulerAncestral => "Euler a".into(),
            Class::DpmSolverMultistep => match self.config.algorithm_type {
                Algorithm::SdeDpmSolver | Algorithm::SdeDpmSolverPlusPlus => format!("DPM++ 2M SDE{karras}"),
                Algorithm::DpmSolver | Algorithm::DpmSolverPlusPlus => format!("DPM++ 2M{karras}"),
            },
            Class::UniPc => "UniPC".into(),
            Class::Lcm => "LCM".into(),
        }
    }

    /// A denoising with `steps` steps: at least one, and at most as many as there are training timesteps.
    pub fn sampling(&self, steps: usize) -> Result<Sampling> {
        let limit = self.config.num_train_timesteps;
        if !(1..=limit).contains(&steps) {
            return Err(Error::Invalid(format!("{steps} steps: a denoising has from 1 to {limit}")));
        }
        let (config, noise) = (&self.config, &self.noise);
        let (plan, solver) = match self.class {
            Class::Ddim => Ddim::new(config, noise, steps).map(|(plan, own)| (plan, Solver::Ddim(own))),
            Class::Pndm => Pndm::new(config, noise, steps).map(|(plan, own)| (plan, Solver::Pndm(own))),
            Class::Euler => Euler::new(config, noise, steps).map(|(plan, own)| (plan, Solver::Euler(own))),
            Class::EulerAncestral => {
                EulerAncestral::new(config, noise, steps).map(|(plan, own)| (plan, Solver::EulerAncestral(own)))
            }
            Class::DpmSolverMultistep => {
                DpmSolverMultistep::new(config, noise, steps).map(|(plan, own)| (plan, Solver::DpmSolverMultistep(own)))
            }
            Class::UniPc => UniPc::new(config, noise, steps).map(|(plan, own)| (plan, Solver::UniPc(own))),
            Class::Lcm => Lcm::new(config, noise, steps).map(|(plan, own)| (plan, Solver::Lcm(own))),
        }?;
        Ok(Sampling { plan, steps, start: 0, prediction: config.prediction_type, solver })
    }
}

impl Sampling {
    /// Keeps only the last steps, for latents that start from a picture: a `strength` of 1 keeps all steps, 0 none, and
    /// other values keep that share, rounded down.
    pub fn with_strength(self, strength: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&strength) {
            return Err(Error::Invalid(format!("strength is {strength}, and has to be from 0 to 1")));
        }
        if strength < 1.0 && matches!(&self.solver, Solver::Pndm(pndm) if pndm.has_opening()) {
            return Err(Error::Invalid("PNDM begins with Runge–Kutta steps and cannot start late; PLMS can".into()));
        }
        let kept = (self.steps as f64 * strength) as usize;
        let start = if kept == 0 { self.plan.timesteps.len() } else { self.steps - kept };
        Ok(Self { start, ..self })
    }

    /// Number of denoiser calls.
    pub fn len(&self) -> usize {
        self.plan.timesteps.len() - self.start
    }

    /// Whether no calls remain: strength 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The training timestep that the denoiser receives in call `i`.
    pub fn timestep(&self, i: usize) -> f64 {
        self.plan.timesteps[self.start + i]
    }

    /// Factor from standard normal noise to the initial latents of a complete denoising.
    pub fn initial_scale(&self) -> f64 {
        self.plan.initial_scale
    }

    /// The denoiser's input in call `i`, from the latents.
    pub fn scale_input(&self, i: usize, latents: Tensor<4>) -> Tensor<4> {
        match &self.solver {
            Solver::Euler(_) | Solver::EulerAncestral(_) => latents / self.plan.levels[self.start + i].deviation(),
            _ => latents,
        }
    }

    /// Adds noise to the clean latents `original`: the latents before call `i`. Used for the initial latents of image
    /// to image, and for the area around an inpainting mask. After the last call these are the clean latents.
    pub fn add_noise(&self, i: usize, original: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        match self.plan.levels.get(self.start + i) {
            Some(level) => level.mix(original, noise),
            None => original,
        }
    }

    /// The predicted x₀ (clean latents) in call `i`, from the latents before the call (unscaled) and the denoiser's
    /// output.
    pub fn predicted_clean(&self, i: usize, latents: Tensor<4>, output: Tensor<4>) -> Tensor<4> {
        self.plan.levels[self.start + i].picture(self.prediction, latents, output)
    }

    /// The latents after call `i`, from those before it (unscaled) and the denoiser's output. Stochastic solvers draw
    /// from `noise`, which should be the generator of the initial latents.
    pub fn step(&mut self, i: usize, latents: Tensor<4>, output: Tensor<4>, noise: &mut Noise) -> Tensor<4> {
        let i = self.start + i;
        match &mut self.solver {
            Solver::Ddim(solver) => solver.step(i, latents, output),
            Solver::Pndm(solver) => solver.step(i, latents, output),
            Solver::Euler(solver) => solver.step(i, latents, output),
            Solver::EulerAncestral(solver) => solver.step(i, latents, output, noise),
            Solver::DpmSolverMultistep(solver) => solver.step(i, latents, output, noise),
            Solver::UniPc(solver) => solver.step(i, latents, output),
            Solver::Lcm(solver) => solver.step(i, latents, output, noise),
        }
    }
}

#[cfg(test)]
mod tests {
    use formats::Scheduler as Name;

    use super::*;

    /// The solvers that remove noise; not flow matching.
    fn names() -> impl Iterator<Item = Name> {
        Name::ALL.into_iter().filter(|name| !name.matches_flow())
    }

    /// The config of Stable Diffusion 1.5.
    /// A config that may name anything.
    fn config_of(text: &str) -> Result<Config> {
        let value = formats::json::read(text.as_bytes()).map_err(Error::Invalid)?;
        let fields = value.as_object().ok_or_else(|| Error::Invalid("a scheduler config is an object".into()))?;
        Config::from_fields(fields).map_err(Error::Invalid)
    }

    fn published() -> Config {
        let text = r#"{
            "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_start": 0.00085,
            "beta_schedule": "scaled_linear", "clip_sample": false, "num_train_timesteps": 1000,
            "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null
        }"#;
        config_of(text).unwrap()
    }

    fn scheduler(name: Name) -> Scheduler {
        Scheduler::from_config(published()).unwrap().with_name(name).unwrap()
    }

    fn values(tensor: Tensor<4>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn every_number_of_steps_gives_finite_latents_and_falling_timesteps() {
        let device = Device::flex();
        for (name, spacing) in names().flat_map(|name| {
            use config::TimestepSpacing::{Leading, Linspace, Trailing};
            [Leading, Linspace, Trailing].map(|spacing| (name, spacing))
        }) {
            let config = Config { timestep_spacing: Some(spacing), ..published() };
            let scheduler = Scheduler::from_config(config).unwrap().with_name(name).unwrap();
            for steps in 1..=200 {
                if name == Name::Lcm && steps > 50 {
                    assert!(scheduler.sampling(steps).is_err());
                    continue;
                }
                let mut sampling = scheduler.sampling(steps).unwrap();
                let timesteps: Vec<f64> = (0..sampling.len()).map(|i| sampling.timestep(i)).collect();
                // PNDM repeats its second step; two of Karras' levels may round to the same timestep.
                assert!(timesteps.is_sorted_by(|a, b| a >= b), "{name} {spacing:?} {steps}: {timesteps:?}");
                let mut noise = Noise::seeded(1);
                let mut latents = noise.normal_tensor([1, 1, 2, 2], &device) * sampling.initial_scale();
                for i in 0..sampling.len() {
                    let seen = sampling.scale_input(i, latents.clone());
                    latents = sampling.step(i, latents, seen * 0.5, &mut noise);
                }
                assert!(values(latents).iter().all(|value| value.is_finite()), "{name} {spacing:?} {steps}");
            }
            for steps in [0, 1001] {
                assert!(scheduler.sampling(steps).is_err());
            }
        }
    }

    #[test]
    fn strength_says_how_many_of_the_steps_remain() {
        for name in names() {
            let sampling = scheduler(name).sampling(10).unwrap();
            let (all, first) = (sampling.len(), sampling.timestep(0));
            let whole = sampling.clone().with_strength(1.0).unwrap();
            assert_eq!((whole.len(), whole.timestep(0)), (all, first));
            let half = sampling.clone().with_strength(0.59).unwrap();
            assert_eq!((half.len(), half.timestep(0)), (all - 5, sampling.timestep(5)));
            for strength in [-0.1, 1.1, f64::NAN] {
                assert!(sampling.clone().with_strength(strength).is_err());
            }
        }
    }

    #[test]
    fn strength_0_leaves_the_picture_as_it_is() {
        let device = Device::flex();
        for name in names() {
            let sampling = scheduler(name).sampling(10).unwrap().with_strength(0.0).unwrap();
            assert!(sampling.is_empty());
            let picture = Noise::seeded(2).normal_tensor([1, 1, 2, 2], &device);
            let noise = Noise::seeded(3).normal_tensor([1, 1, 2, 2], &device);
            assert_eq!(values(sampling.add_noise(0, picture.clone(), noise)), values(picture));
        }
    }

    /// Computed from the denoiser's inputs, not from the solver's own levels.
    #[test]
    fn predicted_clean_latents_of_a_perfect_denoiser_are_the_picture_at_every_call() {
        let device = Device::flex();
        let picture = Noise::seeded(2).normal_tensor([1, 1, 4, 4], &device);
        let velocity = Config { prediction_type: PredictionType::VPrediction, ..published() };
        for (name, config) in names().flat_map(|name| [(name, published()), (name, velocity.clone())]) {
            let kind = config.prediction_type;
            let scheduler = Scheduler::from_config(config).unwrap().with_name(name).unwrap();
            for strength in [1.0, 0.5] {
                let mut sampling = scheduler.sampling(10).unwrap().with_strength(strength).unwrap();
                let mut noise = Noise::seeded(3);
                let mut latents = sampling.add_noise(0, picture.clone(), noise.normal_tensor(picture.dims(), &device));
                for i in 0..sampling.len() {
                    let sigma = scheduler.noise.sigma_at(sampling.timestep(i)) as f32;
                    let told = match &sampling.solver {
                        Solver::Euler(_) | Solver::EulerAncestral(_) => Level::exploding(sigma),
                        _ => Level::preserving(sigma),
                    };
                    let epsilon = (latents.clone() - picture.clone() * told.signal) / told.noise;
                    let output = match kind {
                        PredictionType::Epsilon => epsilon,
                        // The velocity α·ε − σ·x of the latents with variance 1.
                        _ => {
                            let Level { signal, noise } = Level::preserving(sigma);
                            epsilon * signal - picture.clone() * noise
                        }
                    };
                    let predicted_clean = values(sampling.predicted_clean(i, latents.clone(), output.clone()));
                    let wrong = predicted_clean.iter().zip(values(picture.clone())).map(|(a, b)| (a - b).abs());
                    let wrong = wrong.fold(0.0, f32::max);
                    assert!(wrong < 0.02, "{name} {kind:?} {strength}, call {i}: {wrong}");
                    latents = sampling.step(i, latents, output, &mut noise);
                }
            }
        }
    }

    #[test]
    fn runge_kutta_begins_at_the_beginning() {
        let pndm = Scheduler::from_config(Config { skip_prk_steps: false, ..published() }).unwrap();
        assert!(pndm.sampling(3).is_err());
        let sampling = pndm.sampling(8).unwrap();
        assert_eq!(sampling.len(), 12 + 5);
        assert!(sampling.clone().with_strength(0.5).is_err());
        assert_eq!(sampling.with_strength(1.0).unwrap().len(), 17);
    }

    #[test]
    fn another_solver_keeps_what_the_config_says_and_its_own_defaults() {
        let scheduler = scheduler(Name::Dpmpp2mSdeKarras);
        let config = scheduler.config();
        assert_eq!(config.class_name, "DPMSolverMultistepScheduler");
        assert_eq!((config.beta_start, config.steps_offset), (Some(0.00085), 1));
        assert!(config.use_karras_sigmas);
        // Fields that the config omits: PNDM spaces its steps from the clean end, DPM-Solver over the whole range.
        assert_eq!(scheduler.sampling(4).unwrap().timestep(0), 999.0);
        let plain = scheduler.with_name(Name::Dpmpp2m).unwrap();
        assert!(!plain.config().use_karras_sigmas);
        let back = plain.with_name(Name::Pndm).unwrap();
        assert_eq!(back.sampling(4).unwrap().timestep(0), 751.0);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let refusal = |text: &str| {
            let config = config_of(text).and_then(Scheduler::from_config);
            config.and_then(|scheduler| scheduler.sampling(4)).unwrap_err().to_string()
        };
        for (text, named) in [
            (r#"{"_class_name": "HeunDiscreteScheduler"}"#, "HeunDiscreteScheduler"),
            (r#"{"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}"#, "sigmoid"),
            (r#"{"_class_name": "DDIMScheduler", "prediction_type": "flow_prediction"}"#, "flow_prediction"),
            (r#"{"_class_name": "DDIMScheduler", "thresholding": true}"#, "thresholding"),
            (r#"{"_class_name": "DDIMScheduler", "clip_sample_range": -1}"#, "clip_sample_range"),
            (r#"{"_class_name": "DDIMScheduler", "num_train_timesteps": 0}"#, "num_train_timesteps"),
            (r#"{"_class_name": "DDIMScheduler", "num_train_timesteps": 4000000000}"#, "num_train_timesteps"),
            (r#"{"_class_name": "DDIMScheduler", "beta_end": 1.5}"#, "beta"),
            (r#"{"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2]}"#, "trained_betas"),
            (r#"{"_class_name": "DDIMScheduler", "steps_offset": 900}"#, "steps_offset"),
            (
                r#"{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}"#,
                "epsilon",
            ),
            (r#"{"_class_name": "PNDMScheduler", "prediction_type": "sample"}"#, "prediction_type"),
            (r#"{"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": true}"#, "use_beta_sigmas"),
            (r#"{"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"}"#, "log_linear"),
            (r#"{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true, "sigma_min": 999}"#, "sigma_min"),
            (r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}"#, "solver_order"),
            (r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}"#, "algorithm_type"),
            (r#"{"_class_name": "UniPCMultistepScheduler", "predict_x0": false}"#, "predict_x0"),
            (r#"{"_class_name": "LCMScheduler", "original_inference_steps": 0}"#, "original_inference_steps"),
            ("[1]", "object"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(named), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_config_is_read_as_python_writes_it() {
        let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity,
                       "use_karras_sigmas": null, "variance_type": null}"#;
        assert!(Scheduler::from_config(config_of(text).unwrap()).is_ok());
    }
}
