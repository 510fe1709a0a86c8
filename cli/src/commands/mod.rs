//! One file per command: its flags, its help, and its implementation. Client commands (`generate`, `picture-info`,
//! `train`, `jobs`, `generations`, `trainings`, `models`, `datasets`, `workers`, `demo`) reach the product only through
//! the REST API; the others run a part of the product in this process.

pub(crate) mod archive;
pub(crate) mod database_options;
pub(crate) mod datasets;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod engine;
pub(crate) mod engine_flags;
pub(crate) mod generate;
pub(crate) mod generations;
mod job;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod listen_flags;
pub(crate) mod login_link;
pub(crate) mod migrate;
pub(crate) mod models;
pub(crate) mod openapi;
pub(crate) mod picture_info;
pub(crate) mod projects;
pub(crate) mod serve;
mod swap;
pub(crate) mod sweep;
pub(crate) mod train;
pub(crate) mod trainings;
pub(crate) mod up;
pub(crate) mod usage;
pub(crate) mod webhooks;
pub(crate) mod worker;
pub(crate) mod workers;

use std::str::FromStr;

use crate::failure::Failure;
use crate::output::unescaped;

/// The result of a command: nothing more than how it ended.
pub(crate) type Outcome = Result<(), Failure>;

/// Prints `value` as JSON on stdout, for `--json`.
pub(crate) fn print_json(value: &serde_json::Value) -> Outcome {
    unescaped(&format!("{value:#}"))
}

/// Parses a flag's whole number of type `T`.
pub(crate) fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "it is not a whole number, or too large".to_owned())
}

/// Parses a flag's number. JSON allows only finite ones.
pub(crate) fn finite(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| format!("'{text}' is not a finite number"))
}
