//! One file per command: its flags, its help, what it does. Client commands (`generate`, `train`, `jobs`, `generations`,
//! `trainings`, `models`, `datasets`, `workers`, `demo`) reach the product only through the REST API; the others run a part of the product in this process.

pub mod datasets;
pub mod demo;
pub mod engine;
pub mod engine_flags;
pub mod generate;
pub mod generations;
mod job;
pub mod jobs;
pub mod migrate;
pub mod models;
pub mod openapi;
pub mod serve;
mod swap;
pub mod train;
pub mod trainings;
pub mod up;
pub mod worker;
pub mod workers;

use crate::failure::Failure;
use crate::output::say;

/// What a command needs to say: nothing more than how it ended.
pub type Outcome = Result<(), Failure>;

/// Prints `value` on stdout, the way `--json` promises.
pub fn print_json(value: &serde_json::Value) -> Outcome {
    say!("{value:#}")
}

/// Reads a number as a flag's value. JSON knows no other than finite ones.
pub fn finite(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| format!("'{text}' is not a finite number"))
}
