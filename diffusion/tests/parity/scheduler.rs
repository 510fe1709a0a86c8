//! Noise levels against diffusers' `FlowMatchEulerDiscreteScheduler` as FluxPipeline sets it up.
//!
//! Tolerance: 1e-6 absolute on sigmas in 0..1. Both sides compute in f32, and exp differs in its last digit.

use crate::golden::{self, Golden, largest_difference};
use diffusion::schedulers::flow_match_euler::FlowMatchEuler;

const TOLERANCE: f64 = 1e-6;

fn check(pipeline: &str) {
    let golden = Golden::open(&format!("{pipeline}/reference"));
    let scheduler = FlowMatchEuler::new(golden::config(pipeline, "scheduler/scheduler_config.json")).unwrap();
    let mut seen = 0;
    for name in golden.names("scheduler.").into_iter().filter_map(|name| name.strip_suffix(".sigmas")) {
        let (tokens, steps) = name.split_once('.').unwrap();
        let (tokens, steps): (usize, usize) = (tokens.parse().unwrap(), steps.parse().unwrap());
        let schedule = scheduler.schedule(steps, tokens);

        assert_eq!(schedule.steps(), steps);
        let difference = largest_difference(schedule.sigmas(), golden.values(&format!("scheduler.{name}.sigmas")));
        assert!(difference <= TOLERANCE, "sigmas for {tokens} tokens in {steps} steps: {difference:.1e}");

        let times: Vec<f32> = (0..steps).map(|step| schedule.time(step)).collect();
        let expected: Vec<f32> =
            golden.values(&format!("scheduler.{name}.timesteps")).iter().map(|timestep| timestep / 1000.0).collect();
        let difference = largest_difference(&times, &expected);
        assert!(difference <= TOLERANCE, "times for {tokens} tokens in {steps} steps: {difference:.1e}");
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn the_dynamic_shift_follows_the_size() {
    check("flux-tiny");
}

#[test]
fn the_fixed_shift_does_not() {
    check("flux-tiny-cfg");
}
