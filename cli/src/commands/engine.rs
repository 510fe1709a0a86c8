//! `pyrograph engine`: the child process that a worker starts. Hidden: it speaks only the worker's protocol.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use diffusion::device::DeviceChoice;
use worker::{EngineConfig, Fault};

use crate::configuration::{number, variable};
use crate::failure::Failure;

/// Own a device and run models for a worker (speaks only the worker's protocol on stdin and stdout)
#[derive(Debug, Args)]
pub struct Engine {
    /// Device: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// Folder where compiled kernels are kept for the next start
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
}

impl Engine {
    /// Serves stdin and stdout until they close.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let fault = match variable("PYROGRAPH_ENGINE_FAULT") {
            Some(text) => Some(text.parse::<Fault>().map_err(Failure::Usage)?),
            None => None,
        };
        Ok(worker::engine::run(EngineConfig {
            device: self.device,
            kernels: self.kernels,
            memory_limit: number("PYROGRAPH_ENGINE_MEMORY_BYTES")?,
            fault,
        }))
    }
}
