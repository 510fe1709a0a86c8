//! The recipe of `models/ember`, the built-in checkpoint: trains it from nothing but pictures and their names, and
//! measures it. `models/ember/README.md` tells how long each part takes and what came out.

mod autoencoder;
mod dataset;
mod flow;
mod pyrography;
mod words;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

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
    /// Encodes all pictures and makes the tokenizers.
    Encode {
        #[arg(long, default_value = "out/ember")]
        out: PathBuf,
    },
    /// Trains the transformer and the text encoders.
    Flow(flow::Arguments),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // Everything runs inside the pool: a step has hundreds of short parallel loops, and entering the pool from outside
    // costs two changes of thread each, which is most of the time on a busy machine.
    rayon::ThreadPoolBuilder::new().build()?.install(|| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<()> {
    let concepts = dataset::load(&arguments.concepts, &arguments.art)?;
    match &arguments.command {
        Command::Autoencoder(arguments) => autoencoder::train(&concepts, arguments),
        Command::Encode { out } => {
            words::write(&concepts, out)?;
            flow::encode(&concepts, out)
        }
        Command::Flow(arguments) => flow::train(&concepts, arguments),
    }
}
