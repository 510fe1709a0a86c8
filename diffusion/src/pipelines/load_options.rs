//! How a checkpoint is laid into memory. None of it changes what a pipeline can do; packed weights change its pictures a little.

use crate::layers::{Linear, WeightStorage};

/// What may be chosen when a pipeline is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// How the weights of the denoiser's blocks are stored. They are packed one by one while they are read, so that a model
    /// which does not fit as it is in the file never lies in memory as a whole.
    pub weights: WeightStorage,
    /// Whether text encoders stay loaded. Otherwise they are read from the disk for each prompt that is not among the last
    /// ones, and leave the device before the denoising begins; pictures are the same, bit by bit.
    pub keep_text_encoders: bool,
}

impl Default for LoadOptions {
    /// Everything as it is in the file, and loaded at once.
    fn default() -> Self {
        Self { weights: WeightStorage::Full, keep_text_encoders: true }
    }
}

impl LoadOptions {
    /// Whether a layer of a denoiser is packed at all. The few before and after its blocks are small, and all that goes in and
    /// out passes them.
    pub(super) fn packs(path: &str) -> bool {
        path.contains("block")
    }

    /// Prepares the layers of a denoiser for what will be loaded into them.
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
