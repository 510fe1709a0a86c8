//! `scheduler_config.json` of a model that removes noise: the noise schedule that it was trained with, and its authors'
//! choice of solver. `diffusion::schedulers` computes the coefficients from it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Scheduler;

/// Upper limit on training timesteps; no model has more.
const TIMESTEP_LIMIT: usize = 100_000;
/// Half the log signal-to-noise ratio is above this at every timestep, so that clipping to less changes nothing.
const NO_LAMBDA_BELOW: f64 = -10.0;

/// `scheduler_config.json` of any [`Class`]. Fields whose default depends on the class are options, so that a config
/// can be used with another class: stated values stay and the rest take that class's defaults, as with diffusers'
/// `from_config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// diffusers' class name, such as `EulerDiscreteScheduler`.
    #[serde(rename = "_class_name")]
    pub class_name: String,

    pub num_train_timesteps: usize,
    pub beta_start: Option<f64>,
    pub beta_end: Option<f64>,
    pub beta_schedule: Option<BetaSchedule>,
    /// Explicit betas instead of a schedule.
    pub trained_betas: Option<Vec<f32>>,
    /// Rescales the betas so that the last timestep is pure noise (Lin et al., <https://arxiv.org/abs/2305.08891>).
    pub rescale_betas_zero_snr: bool,
    pub prediction_type: PredictionType,

    pub timestep_spacing: Option<TimestepSpacing>,
    pub steps_offset: usize,
    pub use_karras_sigmas: bool,
    pub sigma_min: Option<f64>,
    pub sigma_max: Option<f64>,
    pub final_sigmas_type: FinalSigma,

    /// Whether DDIM and LCM clip the predicted x₀ to ±`clip_sample_range`.
    pub clip_sample: Option<bool>,
    pub clip_sample_range: f64,
    /// Whether DDIM and PNDM end at zero noise instead of the lowest training noise level.
    pub set_alpha_to_one: Option<bool>,
    /// PNDM: start with linear multistep (PLMS) instead of Runge–Kutta.
    pub skip_prk_steps: bool,

    pub algorithm_type: Algorithm,
    pub solver_type: Option<SolverType>,
    pub solver_order: usize,
    pub lower_order_final: bool,
    pub euler_at_final: bool,
    pub predict_x0: bool,

    /// LCM: number of solver steps that the model was distilled from.
    pub original_inference_steps: usize,
    pub timestep_scaling: f64,

    // The fields below are read only to reject unsupported values.
    pub thresholding: bool,
    pub use_exponential_sigmas: bool,
    pub use_beta_sigmas: bool,
    pub use_lu_lambdas: bool,
    pub use_flow_sigmas: bool,
    pub interpolation_type: Interpolation,
    pub timestep_type: TimestepType,
    pub lambda_min_clipped: Option<f64>,
    pub disable_corrector: Vec<usize>,
}

/// How the noise grows over the training timesteps.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/schedulers/scheduling_ddim.py#L51-L100>
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Betas from `beta_start` to `beta_end` in equal steps.
    Linear,
    /// Square roots of the betas in equal steps, as in latent diffusion.
    ScaledLinear,
    /// A squared-cosine schedule of the cumulative signal (Nichol and Dhariwal, <https://arxiv.org/abs/2102.09672>).
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

/// What the denoiser predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// The velocity of Salimans and Ho, <https://arxiv.org/abs/2202.00512>.
    VPrediction,
    /// The clean picture, x₀.
    Sample,
}

/// How the sampled timesteps are spaced (Lin et al., <https://arxiv.org/abs/2305.08891>, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimestepSpacing {
    /// Equal integer steps counted from the clean end, which omit the highest noise levels.
    Leading,
    /// Equal steps counted from the noisy end.
    Trailing,
    /// Equal steps from one end to the other.
    Linspace,
}

/// The noise level after the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// Zero.
    Zero,
    /// The lowest noise level of training.
    SigmaMin,
}

/// The DPM-Solver variant. Those that integrate the noise prediction are rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    #[serde(rename = "dpmsolver")]
    DpmSolver,
    /// Deterministic. A DEIS config's `deis` means this too.
    #[serde(rename = "dpmsolver++", alias = "deis")]
    DpmSolverPlusPlus,
    #[serde(rename = "sde-dpmsolver")]
    SdeDpmSolver,
    /// Stochastic: adds fresh noise in each step.
    #[serde(rename = "sde-dpmsolver++")]
    SdeDpmSolverPlusPlus,
}

/// The form of a second-order step. DPM-Solver supports the first two and UniPC the last two. Each uses its default for
/// the other's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SolverType {
    Midpoint,
    Heun,
    LogRho,
    Bh1,
    Bh2,
}

/// How noise levels between two training timesteps are interpolated. Only `Linear` is supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    Linear,
    LogLinear,
}

/// What conditions the denoiser: a timestep, or a logarithm of the noise level (not supported).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimestepType {
    Discrete,
    Continuous,
}

/// The solvers under diffusers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Ddim,
    Pndm,
    Euler,
    EulerAncestral,
    DpmSolverMultistep,
    UniPc,
    Lcm,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 7] =
        [Self::Ddim, Self::Pndm, Self::Euler, Self::EulerAncestral, Self::DpmSolverMultistep, Self::UniPc, Self::Lcm];

    /// The value of `_class_name`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "DDIMScheduler",
            Self::Pndm => "PNDMScheduler",
            Self::Euler => "EulerDiscreteScheduler",
            Self::EulerAncestral => "EulerAncestralDiscreteScheduler",
            Self::DpmSolverMultistep => "DPMSolverMultistepScheduler",
            Self::UniPc => "UniPCMultistepScheduler",
            Self::Lcm => "LCMScheduler",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            class_name: Class::Pndm.name().into(),
            num_train_timesteps: 1000,
            beta_start: None,
            beta_end: None,
            beta_schedule: None,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            use_karras_sigmas: false,
            sigma_min: None,
            sigma_max: None,
            final_sigmas_type: FinalSigma::Zero,
            clip_sample: None,
            clip_sample_range: 1.0,
            set_alpha_to_one: None,
            skip_prk_steps: false,
            algorithm_type: Algorithm::DpmSolverPlusPlus,
            solver_type: None,
            solver_order: 2,
            lower_order_final: true,
            euler_at_final: false,
            predict_x0: true,
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            thresholding: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            use_lu_lambdas: false,
            use_flow_sigmas: false,
            interpolation_type: Interpolation::Linear,
            timestep_type: TimestepType::Discrete,
            lambda_min_clipped: None,
            disable_corrector: Vec::new(),
        }
    }
}

impl Config {
    /// The fields of a config; `null` means the default. Errors: a field that has a value of another kind.
    pub fn from_fields(fields: &Map<String, Value>) -> Result<Self, String> {
        let stated = fields.iter().filter(|(_, value)| !value.is_null());
        let stated: Map<String, Value> = stated.map(|(name, value)| (name.clone(), value.clone())).collect();
        let error = match serde_json::from_value(stated.clone().into()) {
            Ok(config) => return Ok(config),
            Err(error) => error.to_string(),
        };
        let alone = |name: &str, value: &Value| Map::from_iter([(name.to_owned(), value.clone())]);
        let is_wrong =
            |(name, value): &(&String, &Value)| serde_json::from_value::<Self>(alone(name, value).into()).is_err();
        Err(match stated.iter().find(is_wrong) {
            Some((name, value)) => format!("`{name}` is {value}, which is not supported"),
            None => error,
        })
    }

    /// The same noise schedule with the solver `name`, and without options that are not supported.
    /// [`Config::class`] refuses a flow-matching scheduler.
    pub fn named(&self, name: Scheduler) -> Self {
        let mut config = Self { class_name: name.class_name().into(), ..self.clone() };
        match name {
            Scheduler::Pndm => config.skip_prk_steps = true,
            Scheduler::Dpmpp2m => config.solve_dpm(Algorithm::DpmSolverPlusPlus, false),
            Scheduler::Dpmpp2mKarras => config.solve_dpm(Algorithm::DpmSolverPlusPlus, true),
            Scheduler::Dpmpp2mSde => config.solve_dpm(Algorithm::SdeDpmSolverPlusPlus, false),
            Scheduler::Dpmpp2mSdeKarras => config.solve_dpm(Algorithm::SdeDpmSolverPlusPlus, true),
            _ => {}
        }
        config.leave_out_unsupported();
        config
    }

    /// Applies the fixes of diffusers' `StableDiffusionPipeline`. The first published configs lack these values, and
    /// their models were sampled with them. Inpainting models also skip the Runge–Kutta steps.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion.py#L200-L298>
    pub fn repair_first_models(&mut self, inpaints: bool) {
        (self.steps_offset, self.clip_sample) = (1, Some(false));
        self.skip_prk_steps |= inpaints;
    }

    fn solve_dpm(&mut self, algorithm: Algorithm, karras: bool) {
        (self.algorithm_type, self.use_karras_sigmas, self.solver_order) = (algorithm, karras, 2);
    }

    /// The solver that `_class_name` names.
    pub fn class(&self) -> Result<Class, String> {
        let known = Class::ALL.into_iter().find(|class| class.name() == self.class_name);
        known.ok_or_else(|| format!("the scheduler {} is not supported", self.class_name))
    }

    /// The timestep spacing, or the class's default.
    pub fn spacing(&self, class: Class) -> TimestepSpacing {
        self.timestep_spacing.unwrap_or(match class {
            Class::Ddim | Class::Pndm | Class::Lcm => TimestepSpacing::Leading,
            _ => TimestepSpacing::Linspace,
        })
    }

    /// The range to clip the predicted x₀ to, if any.
    pub fn clip(&self, class: Class) -> Option<f64> {
        let clips = match class {
            Class::Ddim => self.clip_sample.unwrap_or(true),
            Class::Lcm => self.clip_sample.unwrap_or(false),
            _ => false,
        };
        clips.then_some(self.clip_sample_range)
    }

    /// Whether the last step ends at zero noise.
    pub fn ends_clean(&self, class: Class) -> bool {
        self.set_alpha_to_one.unwrap_or(class != Class::Pndm)
    }

    /// Rejects unsupported values instead of sampling wrongly. Fields that the class does not read are ignored. Errors:
    /// a part of a sentence.
    pub fn check(&self, class: Class) -> Result<(), String> {
        self.check_noise()?;
        if self.prediction_type == PredictionType::Sample && matches!(class, Class::EulerAncestral | Class::Pndm) {
            return Err(format!("the option prediction_type sample is not supported by the {}", class.name()));
        }
        match self.unsupported(class).first() {
            Some(option) => Err(format!("the option {option} is not supported by the {}", class.name())),
            None => Ok(()),
        }
    }

    /// Rejects a noise schedule that no solver can use.
    pub(super) fn check_noise(&self) -> Result<(), String> {
        let count = self.num_train_timesteps;
        if !(1..=TIMESTEP_LIMIT).contains(&count) {
            return Err(format!("`num_train_timesteps` is {count}"));
        }
        let is_beta = |beta: f64| beta > 0.0 && beta < 1.0;
        if let Some(betas) = &self.trained_betas {
            if betas.len() != count {
                return Err(format!("there are {} `trained_betas` for {count} timesteps", betas.len()));
            }
            if let Some(beta) = betas.iter().find(|beta| !is_beta(f64::from(**beta))) {
                return Err(format!("one of `trained_betas` is {beta}, and has to be between 0 and 1"));
            }
        } else if self.beta_schedule != Some(BetaSchedule::SquaredCosine) {
            for (field, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
                if let Some(beta) = beta.filter(|beta| !is_beta(*beta)) {
                    return Err(format!("`{field}` is {beta}, and a beta has to be between 0 and 1"));
                }
            }
        }
        Ok(())
    }

    /// The stated options that the class has in diffusers and not here.
    pub fn unsupported(&self, class: Class) -> Vec<&'static str> {
        let (dpm, unipc) = (class == Class::DpmSolverMultistep, class == Class::UniPc);
        let (euler, ancestral, pndm) = (class == Class::Euler, class == Class::EulerAncestral, class == Class::Pndm);
        let sigmas = euler || dpm || unipc;
        let algorithms = [Algorithm::DpmSolverPlusPlus, Algorithm::SdeDpmSolverPlusPlus];
        let all = [
            ("thresholding", self.thresholding && !(euler || ancestral || pndm)),
            ("use_exponential_sigmas", self.use_exponential_sigmas && sigmas),
            ("use_beta_sigmas", self.use_beta_sigmas && sigmas),
            ("use_lu_lambdas", self.use_lu_lambdas && dpm),
            ("use_flow_sigmas", self.use_flow_sigmas && (dpm || unipc)),
            ("interpolation_type log_linear", self.interpolation_type != Interpolation::Linear && euler),
            ("timestep_type continuous", self.timestep_type != TimestepType::Discrete && euler),
            ("lambda_min_clipped", self.lambda_min_clipped.is_some_and(|least| least > NO_LAMBDA_BELOW) && dpm),
            ("algorithm_type that solves for the noise", !algorithms.contains(&self.algorithm_type) && dpm),
            ("solver_order other than 1 and 2", !(1..=2).contains(&self.solver_order) && (dpm || unipc)),
            (
                "clip_sample_range that is not positive",
                self.clip(class).is_some_and(|range| range.is_nan() || range <= 0.0),
            ),
            ("predict_x0 false", !self.predict_x0 && unipc),
            ("disable_corrector", !self.disable_corrector.is_empty() && unipc),
        ];
        all.into_iter().filter(|(_, stated)| *stated).map(|(option, _)| option).collect()
    }

    fn leave_out_unsupported(&mut self) {
        let plain = Self::default();
        let Self { thresholding, use_exponential_sigmas, use_beta_sigmas, use_lu_lambdas, use_flow_sigmas, .. } = plain;
        let Self { interpolation_type, timestep_type, lambda_min_clipped, predict_x0, disable_corrector, .. } = plain;
        *self = Self {
            thresholding,
            use_exponential_sigmas,
            use_beta_sigmas,
            use_lu_lambdas,
            use_flow_sigmas,
            interpolation_type,
            timestep_type,
            lambda_min_clipped,
            predict_x0,
            disable_corrector,
            algorithm_type: match self.algorithm_type {
                Algorithm::DpmSolver | Algorithm::DpmSolverPlusPlus => Algorithm::DpmSolverPlusPlus,
                Algorithm::SdeDpmSolver | Algorithm::SdeDpmSolverPlusPlus => Algorithm::SdeDpmSolverPlusPlus,
            },
            solver_order: self.solver_order.clamp(1, 2),
            clip_sample_range: if self.clip_sample_range > 0.0 { self.clip_sample_range } else { 1.0 },
            ..self.clone()
        };
    }
}
