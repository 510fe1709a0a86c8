//! Writes an adapter in another dialect, as the service exports it.
//!
//!     cargo run -p diffusion --example export_adapter -- ADAPTER.safetensors kohya|peft|comfy OUT.safetensors

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use diffusion::LoraFile;
use diffusion::lora::{Dtype, Format, export};

#[derive(Parser)]
struct Arguments {
    adapter: PathBuf,
    format: String,
    out: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let format: Format = serde_json::from_value(arguments.format.into()).context("the format")?;
    export(&LoraFile::open(&arguments.adapter)?, format, Dtype::F32, &arguments.out)?;
    Ok(())
}
