//! The recipe of `models/ember`, the built-in checkpoint: trains it from scratch on pictures and their names, and
//! measures it. `models/ember/README.md` lists the time of each part and the results.

#![expect(clippy::print_stdout, reason = "a program that reports its progress")]

mod assemble;
mod autoencoder;
mod dataset;
mod decoder;
mod examples;
mod flow;
mod latents;
mod measure;
mod networks;
mod pyrography;
mod words;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// glibc returns large freed tensors to the kernel, which then has to clear them again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Trains and measures ember, the built-in checkpoint")]
struct Arguments {
    /// The list of concepts.
    #[arg(long, default_value = "models/ember-recipe/concepts.tsv")]
    concepts: PathBuf,
    /// The folder of 64 px Noto emoji (`img/google/64` of the npm package emoji-datasource-google 16.0.0).
    #[arg(long, default_value = "out/ember/art")]
    art: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trains the autoencoder.
    Autoencoder(autoencoder::Arguments),
    /// Trains only the decoder, with fixed latents.
    Decoder(decoder::Arguments),
    /// Draws the autoencoder's reconstructions of some pictures.
    Reconstruct {
        #[arg(long, default_value = "out/ember")]
        out: PathBuf,
        #[arg(long, default_value = "out/ember/reconstruction.png")]
        sheet: PathBuf,
    },
    /// Encodes all pictures and makes the tokenizers.
    Encode {
        #[arg(long, default_value = "out/ember")]
        out: PathBuf,
        /// Use only the first concepts, for experiments.
        #[arg(long)]
        first: Option<usize>,
    },
    /// Trains the transformer and the text encoders.
    Flow(flow::Arguments),
    /// Writes the trained model's folder.
    Assemble {
        #[arg(long, default_value = "out/ember")]
        out: PathBuf,
        #[arg(long, default_value = "models/ember")]
        model: PathBuf,
    },
    /// Measures the model, or an adapter for it.
    Measure(measure::Arguments),
    /// Writes the bundled dataset of another style.
    Pyrography {
        #[arg(long, default_value = "datasets/pyrography")]
        folder: PathBuf,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // Everything runs inside the pool. A step has hundreds of short parallel loops, and entering the pool from
    // outside costs two context switches each, which is most of the time on a busy machine.
    rayon::ThreadPoolBuilder::new().build()?.install(|| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<()> {
    let concepts = dataset::load(&arguments.concepts, &arguments.art)?;
    match &arguments.command {
        Command::Autoencoder(arguments) => autoencoder::train(&concepts, arguments),
        Command::Decoder(arguments) => decoder::train(&concepts, arguments),
        Command::Reconstruct { out, sheet } => measure::reconstruct(&concepts, out, sheet),
        Command::Encode { out, first } => {
            words::write(&concepts, out)?;
            latents::encode(&concepts[..first.unwrap_or(concepts.len()).min(concepts.len())], out)
        }
        Command::Flow(arguments) => flow::train(&concepts, arguments),
        Command::Assemble { out, model } => assemble::assemble(out, model),
        Command::Measure(arguments) => measure::measure(&concepts, arguments),
        Command::Pyrography { folder } => pyrography::write(&concepts, folder),
    }
}
