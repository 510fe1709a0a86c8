//! How a checkpoint is kept in memory. This does not change what a pipeline can do; packed weights change pictures
//! slightly.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::layers::{NamedLayers, WeightStorage};

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
}

impl LoadOptions {
    /// Prepares the layers of a denoiser for loading. The few layers before and after the blocks are small, and all
    /// data passes through them: they stay in the model's dtype.
    pub(super) fn store(&self, layers: NamedLayers<'_>, device: &Device) {
        let NamedLayers { linears, convolutions, .. } = layers;
        for (_, linear) in linears.into_iter().filter(|(path, _)| Self::packs(path)) {
            linear.store(self.weights, device);
        }
        for (_, convolution) in convolutions.into_iter().filter(|(path, _)| Self::packs(path)) {
            convolution.store(self.weights.of_convolution(), device);
        }
    }

    /// Prepares the layers of a text encoder for loading.
    pub(super) fn store_text(&self, layers: NamedLayers<'_>, device: &Device) {
        for (_, linear) in layers.linears {
            linear.store(self.text_weights, device);
        }
    }

    /// Whether a denoiser layer is stored as the options say.
    pub(super) fn packs(path: &str) -> bool {
        path.contains("block")
    }
}
