//! Stable Diffusion's solvers against diffusers' over eight steps, three, one, and the last part of eight.
//!
//! Latents: relative L2 1e-5. Coefficients are computed in f64 here and in f32 there, and differences of logarithms
//! and exponentials in f32 are only accurate to 1e-6. Noise levels: 1e-6 each; torch's f32 square roots are off in
//! the last digit. Timesteps: equal if they are integers. Fractional ones are computed from f32 logarithms, whose
//! last digit differs in numpy; 2e-5 of a timestep is that digit divided by the smallest distance of two entries.

use burn::prelude::*;
use diffusion::noise::Noise;
use diffusion::schedulers::{Class, Config, Sampling, Scheduler};
use serde_json::Value;

use crate::golden::{self, Golden, largest_difference, values};

const TOLERANCE: f64 = 1e-5;
/// Euler starts at a noise level of 4096 if the last timestep is pure noise, and removes most of it in one step. One
/// digit of such latents is 5e-4, so diffusers' result differs by 6e-5 (three steps) to 2e-4 (one) from the same step
/// in f64.
const CANCELLATION_TOLERANCE: f64 = 3e-4;
const LEVEL_TOLERANCE: f64 = 1e-6;
const TIMESTEP_TOLERANCE: f32 = 2e-5;
const SHAPE: [usize; 4] = [1, 4, 5, 3];

/// The scheduler of a case: a model's config, optionally another class, and the changes by a request.
fn scheduler(case: &Value) -> Scheduler {
    let own = Scheduler::from_config(read(&case["config"])).unwrap();
    let taken = match case["class"].as_str() {
        Some(name) => own.with_class(Class::ALL.into_iter().find(|class| class.name() == name).unwrap()).unwrap(),
        None => own,
    };
    let mut config = serde_json::to_value(taken.config()).unwrap();
    for (field, value) in case["changes"].as_object().unwrap() {
        config[field] = value.clone();
    }
    Scheduler::from_config(read(&config)).unwrap()
}

fn read(config: &Value) -> Config {
    Config::from_fields(config.as_object().unwrap()).unwrap()
}

/// The amount and scale of noise in the latents before a call: ones for latents of pure noise.
fn noise_level(sampling: &Sampling, i: usize) -> f32 {
    let device = golden::device();
    values(sampling.add_noise(i, Tensor::zeros(SHAPE, &device), Tensor::ones(SHAPE, &device)))[0]
}

fn check(golden: &Golden, key: &str, sampling: Sampling, strength: Option<f64>) {
    let device = golden::device();
    let mut sampling = match strength {
        Some(strength) => sampling.with_strength(strength).unwrap(),
        None => sampling,
    };
    let timesteps: Vec<f32> = (0..sampling.len()).map(|i| sampling.timestep(i) as f32).collect();
    let expected = golden.values(&format!("{key}.timesteps"));
    assert_eq!(timesteps.len(), expected.len(), "{key}: calls");
    for (ours, theirs) in timesteps.iter().zip(expected) {
        let allowed = if theirs.fract() == 0.0 { 0.0 } else { TIMESTEP_TOLERANCE.max(theirs * f32::EPSILON) };
        assert!((ours - theirs).abs() <= allowed, "{key}: timesteps {timesteps:?} and {expected:?}");
    }

    let scale = golden.scalar(&format!("{key}.initial_scale"));
    assert!((sampling.initial_scale() / scale - 1.0).abs() <= LEVEL_TOLERANCE, "{key}: initial scale {scale}");
    if golden.has(&format!("{key}.sigmas")) {
        let exploding = scale != 1.0;
        for (i, sigma) in golden.values(&format!("{key}.sigmas"))[..timesteps.len()].iter().enumerate() {
            let sigma = f64::from(*sigma);
            let expected = if exploding { sigma } else { sigma / sigma.hypot(1.0) };
            let level = f64::from(noise_level(&sampling, i));
            assert!((level / expected - 1.0).abs() <= LEVEL_TOLERANCE, "{key}: level {i} is {level}, not {expected}");
        }
    }

    let mut noise = Noise::seeded(golden.note["seed"].as_u64().unwrap());
    let first = noise.normal_tensor(SHAPE, &device);
    let original = golden.tensor::<4>("original", &device);
    let mut latents = if strength.is_none() {
        first.clone() * sampling.initial_scale()
    } else {
        let latents = sampling.add_noise(0, original.clone(), first.clone());
        golden.check(&format!("{key}.start"), latents.clone(), TOLERANCE);
        latents
    };
    let pattern = golden.tensor::<4>("pattern", &device);
    let (mut after, mut around) = (Vec::new(), Vec::new());
    for i in 0..sampling.len() {
        let seen = sampling.scale_input(i, latents.clone());
        let output = seen * 0.5 + pattern.clone() * (0.1 * (i + 1) as f64);
        latents = sampling.step(i, latents, output, &mut noise);
        after.push(latents.clone());
        around.push(sampling.add_noise(i + 1, original.clone(), first.clone()));
    }
    assert_eq!(values(around.pop().unwrap()), values(original), "{key}: nothing is added after the last call");
    let tolerance = if key.starts_with("zero-snr-euler") { CANCELLATION_TOLERANCE } else { TOLERANCE };
    let name = format!("{key}.after");
    let stored = golden.tensor::<5>(&name, &device);
    for (i, latents) in after.into_iter().enumerate() {
        let expected = values(stored.clone().narrow(0, i, 1));
        let error = golden::relative_error(&values(latents), &expected);
        println!("{key} call {i}: {error:.1e}");
        assert!(error <= tolerance, "{key}: relative error {error:.2e} after call {i}");
    }
    if strength.is_some() {
        golden.check(&format!("{key}.around"), Tensor::stack::<5>(around, 0), TOLERANCE);
    }
}

fn check_all(kind: impl Fn(&str) -> bool) {
    let golden = Golden::open("schedulers");
    let mut seen = 0;
    for (name, case) in golden.note["cases"].as_object().unwrap() {
        if !kind(name) {
            continue;
        }
        let scheduler = scheduler(case);
        for (steps, strength) in [(8, None), (3, None), (1, None), (8, Some(0.6))] {
            let key = strength.map_or(format!("{name}.{steps}"), |strength| format!("{name}.{steps}.{strength}"));
            if golden.has(&format!("{key}.after")) {
                check(&golden, &key, scheduler.sampling(steps).unwrap(), strength);
                seen += 1;
            }
        }
    }
    assert!(seen > 0);
}

#[test]
fn stable_diffusion_1_5() {
    check_all(|name| name.starts_with("sd15"));
}

#[test]
fn stable_diffusion_2_1() {
    check_all(|name| name.starts_with("sd21"));
}

#[test]
fn stable_diffusion_xl() {
    check_all(|name| name.starts_with("sdxl"));
}

#[test]
fn zero_terminal_snr() {
    check_all(|name| name.starts_with("zero-snr"));
}

#[test]
fn each_class_by_its_own_defaults() {
    check_all(|name| !["sd15", "sd21", "sdxl", "zero-snr"].iter().any(|model| name.starts_with(model)));
}

/// FLUX latents at a denoising strength, as mixed by `scale_noise`.
#[test]
fn flow_matching_begins_late() {
    use diffusion::schedulers::flow_match_euler::{Config, FlowMatchEuler};

    let (golden, device) = (Golden::open("schedulers"), golden::device());
    let config = Config { shift: 3.0, ..Config::default() };
    for strength in ["0.6", "0.99", "1"] {
        let key = format!("flow.{strength}");
        let schedule = FlowMatchEuler::new(config.clone()).unwrap().schedule(8, 256);
        let schedule = schedule.with_strength(strength.parse().unwrap()).unwrap();
        let difference = largest_difference(schedule.sigmas(), golden.values(&format!("{key}.sigmas")));
        assert!(difference <= LEVEL_TOLERANCE, "{key}: {difference:.1e}");
        let (original, noise) = (golden.tensor::<4>("original", &device), golden.tensor::<4>("pattern", &device));
        golden.check(&format!("{key}.start"), schedule.add_noise(0, original.clone(), noise.clone()), TOLERANCE);
        let last = schedule.add_noise(schedule.steps(), original.clone(), noise);
        assert_eq!(values(last), values(original));
    }
}
