//! Whether the scheduler that a checkpoint states in its `scheduler_config.json` runs here. If it does not, the noise
//! schedule beside it may still be used with a scheduler that a request names.

use serde_json::{Map, Value};

use super::{Scheduler, config, flow};
use crate::Family;

/// Fields that describe the model's training rather than a solver. Without them no solver can run.
const OF_TRAINING: [&str; 7] = [
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
];

/// A checkpoint's scheduler.
#[derive(Debug, Clone, PartialEq)]
pub struct Stated<C> {
    /// The config, without fields that could not be read.
    pub config: C,
    /// Why the checkpoint's own scheduler does not run, as a part of a sentence. A request then has to name one.
    pub unsupported: Option<String>,
}

impl Stated<config::Config> {
    /// Reads the config of a model that removes noise. Errors: a part of a sentence, if no solver can run with it.
    pub fn of_noise(value: &Value) -> Result<Self, String> {
        let fields = object(value)?;
        let (config, mut unsupported) = match config::Config::from_fields(fields) {
            Ok(config) => (config, None),
            Err(error) => {
                let kept = fields.iter().filter(|(name, _)| OF_TRAINING.contains(&name.as_str()));
                let kept: Map<String, Value> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
                (config::Config::from_fields(&kept)?, Some(error))
            }
        };
        config.check_noise()?;
        if unsupported.is_none() {
            unsupported = config.class().and_then(|class| config.check(class)).err();
        }
        Ok(Self { config, unsupported })
    }
}

impl Stated<flow::Config> {
    /// Reads the config of a model that matches a flow. Errors: a part of a sentence, if no solver can run with it.
    pub fn of_flow(value: &Value) -> Result<Self, String> {
        let class = object(value)?.get("_class_name").and_then(Value::as_str);
        let class = class.unwrap_or(Scheduler::FlowMatchEuler.class_name());
        if !class.starts_with("FlowMatch") {
            return Err(format!("`_class_name` is {class}, which is not a scheduler of flow matching"));
        }
        let stated = value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let stated: Map<String, Value> = stated.map(|(name, value)| (name.clone(), value.clone())).collect();
        let config: flow::Config = serde_json::from_value(stated.into()).map_err(|error| error.to_string())?;
        let unsupported = if class == Scheduler::FlowMatchEuler.class_name() {
            config.unsupported().first().map(|option| format!("the option {option} is not supported"))
        } else {
            Some(format!("the scheduler {class} is not supported"))
        };
        Ok(Self { config, unsupported })
    }
}

/// Why a checkpoint's own scheduler does not run here, if it does not. Errors: a part of a sentence, if no scheduler
/// can run with this config.
pub fn of_checkpoint(family: Family, config: &Value) -> Result<Option<String>, String> {
    if family.matches_flow() {
        Stated::of_flow(config).map(|stated| stated.unsupported)
    } else {
        Stated::of_noise(config).map(|stated| stated.unsupported)
    }
}

fn object(value: &Value) -> Result<&Map<String, Value>, String> {
    value.as_object().ok_or_else(|| "it is not a JSON object".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn noise(changes: Value) -> Result<Stated<config::Config>, String> {
        let mut config: Value = serde_json::from_str(Family::Sd15.published_scheduler(false)).unwrap();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        Stated::of_noise(&config)
    }

    #[test]
    fn a_solver_that_is_not_here_leaves_the_noise_schedule() {
        for (changes, named) in [
            (json!({"_class_name": "HeunDiscreteScheduler"}), "HeunDiscreteScheduler"),
            (json!({"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5}), "EDMDPM"),
            (json!({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}), "solver_order"),
            (json!({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}), "algorithm_type"),
            (json!({"_class_name": "DPMSolverMultistepScheduler", "solver_type": "logrho2"}), "solver_type"),
            (json!({"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"}), "log_linear"),
            (json!({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "karras"}), "timestep_spacing"),
            (json!({"_class_name": "DDIMScheduler", "thresholding": true}), "thresholding"),
            (json!({"steps_offset": "1"}), "steps_offset"),
            (json!({"steps_offset": 0.5}), "steps_offset"),
        ] {
            let stated = noise(changes.clone()).unwrap();
            let why = stated.unsupported.unwrap();
            assert!(why.contains(named), "{changes}: {why}");
            for scheduler in Scheduler::ALL.into_iter().filter(|scheduler| !scheduler.matches_flow()) {
                let config = stated.config.named(scheduler);
                let checked = config.class().and_then(|class| config.check(class));
                assert_eq!(checked, Ok(()), "{changes} with {scheduler}");
                assert_eq!((config.beta_start, config.beta_end), (Some(0.00085), Some(0.012)), "{changes}");
            }
        }
    }

    #[test]
    fn a_config_of_python_is_supported() {
        for changes in [
            r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "variance_type": null,
                "euler_at_final": true, "use_flow_sigmas": false, "flow_shift": 1.0}"#,
            r#"{"_class_name": "DDIMScheduler", "steps_offset": 1.0, "num_train_timesteps": 1000.0}"#,
            r#"{"_class_name": "LCMScheduler", "original_inference_steps": 50.0}"#,
        ] {
            let stated = noise(crate::json::read(changes.as_bytes()).unwrap()).unwrap();
            assert_eq!(stated.unsupported, None, "{changes}");
        }
    }

    #[test]
    fn a_noise_schedule_that_is_not_here_leaves_nothing() {
        for (changes, named) in [
            (json!({"beta_schedule": "exp"}), "`beta_schedule`"),
            (json!({"prediction_type": "flow_prediction"}), "`prediction_type`"),
            (json!({"num_train_timesteps": "1000"}), "`num_train_timesteps`"),
            (json!({"num_train_timesteps": 0}), "`num_train_timesteps`"),
            (json!({"beta_end": 1.5}), "`beta_end`"),
            (json!({"trained_betas": [0.1, 0.2]}), "`trained_betas`"),
        ] {
            let refused = noise(changes).unwrap_err();
            assert!(refused.contains(named), "{refused}");
        }
        assert!(Stated::of_noise(&json!([1])).is_err());
    }

    #[test]
    fn a_flow_has_one_solver() {
        let own = |config: Value| of_checkpoint(Family::Flux, &config);
        let euler = "FlowMatchEulerDiscreteScheduler";
        assert_eq!(own(json!({"_class_name": euler, "shift": 3.0, "shift_terminal": null})), Ok(None));
        let option = own(json!({"_class_name": euler, "use_karras_sigmas": true})).unwrap().unwrap();
        assert!(option.contains("use_karras_sigmas"), "{option}");
        let heun = own(json!({"_class_name": "FlowMatchHeunDiscreteScheduler"})).unwrap().unwrap();
        assert!(heun.contains("FlowMatchHeun"), "{heun}");
        assert!(own(json!({"_class_name": "DDIMScheduler"})).unwrap_err().contains("DDIMScheduler"));
    }
}
