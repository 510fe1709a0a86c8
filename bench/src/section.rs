//! The sections of a run, most important first, each with a time limit, so that an aborted run has the best of the
//! results.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Section {
    /// Networks against the goldens.
    Goldens,
    /// FLUX.1-dev from prompt to pixels.
    Denoising,
    /// A LoRA training step.
    Training,
    /// The denoisers of Stable Diffusion.
    #[value(name = "unets")]
    UNets,
    /// Matrix products, attention and a copy.
    Kernels,
    /// The first step again, with cached kernels.
    WarmStart,
    /// The same in PyTorch and diffusers, if they are installed.
    Peers,
}

impl Section {
    pub const ALL: [Section; 7] =
        [Self::Goldens, Self::Denoising, Self::Training, Self::UNets, Self::Kernels, Self::WarmStart, Self::Peers];

    pub fn name(self) -> &'static str {
        match self {
            Self::Goldens => "goldens",
            Self::Denoising => "denoising",
            Self::Training => "training",
            Self::UNets => "unets",
            Self::Kernels => "kernels",
            Self::WarmStart => "warm-start",
            Self::Peers => "peers",
        }
    }

    /// Eight minutes in total.
    pub fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Goldens => 60,
            Self::Denoising => 120,
            Self::Training => 90,
            Self::UNets => 50,
            Self::Kernels => 40,
            Self::WarmStart => 20,
            Self::Peers => 100,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_run_takes_no_more_than_eight_minutes() {
        let seconds: u64 = Section::ALL.iter().map(|section| section.limit().as_secs()).sum();
        assert!(seconds <= 8 * 60, "{seconds} s");
    }
}
