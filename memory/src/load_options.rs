//! How a checkpoint is kept in memory. This does not change what a pipeline can do; packed weights change pictures
//! slightly.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::WeightStorage;

/// Options for loading a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadOptions {
    /// How the weights of the denoiser's blocks are stored. Each is converted as it is read, so that a model which does
    /// not fit unpacked is never in memory as a whole.
    pub weights: WeightStorage,
    /// The same for the layers of the text encoders.
    pub text_weights: WeightStorage,
    /// Which networks stay loaded.
    pub keep: Keep,
    /// Number of the denoiser's blocks that stay loaded with it; `None` for all. The others are read for each call, one
    /// ahead of the computation, and always stored as [`WeightStorage::Half`]. Only FLUX.1 has blocks that can be read
    /// on their own.
    pub resident_blocks: Option<usize>,
    /// Whether the text encoders run on the CPU, in host memory, beside a card. They compute in f32 there.
    pub text_on_host: bool,
}

/// Which networks stay loaded when they have done their part of a request. The autoencoder, which is small, always
/// does. Pictures are identical bit for bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// All of them.
    #[default]
    All,
    /// The denoiser. Text encoders are read for each prompt that is not cached, beside the denoiser.
    Denoiser,
    /// One of text encoders and denoiser: whichever is needed. The denoiser stays loaded until the next new prompt.
    One,
    /// Nothing: the denoiser is also unloaded before pictures are decoded.
    Nothing,
}

impl Keep {
    /// From the fastest to the one that takes the least memory.
    pub const ALL: [Self; 4] = [Self::All, Self::Denoiser, Self::One, Self::Nothing];

    /// The name in log lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Denoiser => "denoiser",
            Self::One => "one",
            Self::Nothing => "nothing",
        }
    }
}

impl fmt::Display for LoadOptions {
    /// Such as `int8, text half on the host, keep one, 7 blocks resident`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, text_weights, keep, resident_blocks, text_on_host } = self;
        let host = if *text_on_host { " on the host" } else { "" };
        write!(f, "{weights}, text {text_weights}{host}, keep {}", keep.as_str())?;
        resident_blocks.map_or(Ok(()), |blocks| write!(f, ", {blocks} blocks resident"))
    }
}

impl LoadOptions {
    /// Whether a denoiser layer is stored as the options say. The few layers before and after the blocks are small, and
    /// all data passes through them: they stay in the model's type.
    pub fn packs(path: &str) -> bool {
        path.contains("block")
    }
}
