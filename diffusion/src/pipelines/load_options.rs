//! How a checkpoint is kept in memory. This does not change what a pipeline can do; packed weights change pictures
//! slightly.

use crate::layers::{Linear, WeightStorage};

/// Options for loading a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// How the weights of the denoiser's blocks are stored. Each is packed as it is read, so that a model which does
    /// not fit unpacked is never in memory as a whole.
    pub weights: WeightStorage,
    /// Whether text encoders stay loaded. Otherwise they are read from disk for each prompt that is not cached, and
    /// unloaded before denoising. Pictures are identical bit for bit.
    pub keep_text_encoders: bool,
}

impl Default for LoadOptions {
    /// Full precision, with everything loaded at once.
    fn default() -> Self {
        Self { weights: WeightStorage::Full, keep_text_encoders: true }
    }
}

impl LoadOptions {
    /// Whether a denoiser layer is packed. The few layers before and after the blocks are small, and all data passes
    /// through them.
    pub(super) fn packs(path: &str) -> bool {
        path.contains("block")
    }

    /// Prepares the layers of a denoiser for loading.
    pub(super) fn store(&self, linears: Vec<(String, &mut Linear)>, device: &burn::prelude::Device) {
        if self.weights == WeightStorage::Full {
            return;
        }
        for (path, linear) in linears {
            if Self::packs(&path) {
                linear.store(self.weights, device);
            }
        }
    }
}
