//! `pyrograph engine`: the child process of a worker. Hidden, since it speaks only the worker's protocol.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use worker::{EngineConfig, Fault};

use super::engine_flags::EngineFlags;
use crate::configuration::{ByteSize, variable};
use crate::failure::Failure;
use crate::signal;

/// Own a device and run models for a worker (speaks only the worker's protocol on stdin and stdout)
#[derive(Debug, Args)]
pub(crate) struct Engine {
    #[command(flatten)]
    flags: EngineFlags,
    /// Folder where compiled kernels are kept for the next start
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
}

impl Engine {
    /// Serves stdin and stdout until they close. Signals that ask to stop are ignored: they reach the worker too.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        signal::ignore_requests().context("could not ignore signals")?;
        let fault = match variable("PYROGRAPH_ENGINE_FAULT") {
            Some(text) => Some(text.parse::<Fault>().map_err(Failure::Usage)?),
            None => None,
        };
        Ok(worker::engine::run(EngineConfig {
            device: self.flags.device,
            kernels: self.kernels,
            vram_budget: self.flags.vram_budget.map(|ByteSize(bytes)| bytes),
            weights: self.flags.weights.unwrap_or_default(),
            offload: self.flags.offload.unwrap_or_default(),
            fault,
        }))
    }
}
