//! How the layers of a network are prepared for loading, as [`LoadOptions`] say.

use burn::prelude::*;
use burn::tensor::DType;
use memory::LoadOptions;

use crate::device::weight_dtype;
use crate::layers::NamedLayers;

/// Prepares the layers of a denoiser.
pub(super) fn store(options: LoadOptions, layers: NamedLayers<'_>, device: &Device) {
    let NamedLayers { linears, convolutions, .. } = layers;
    for (_, linear) in linears.into_iter().filter(|(path, _)| LoadOptions::packs(path)) {
        linear.store(options.weights, device);
    }
    for (_, convolution) in convolutions.into_iter().filter(|(path, _)| LoadOptions::packs(path)) {
        convolution.store(options.weights.of_convolution(), device);
    }
}

/// Prepares the layers of a text encoder.
pub(super) fn store_text(options: LoadOptions, layers: NamedLayers<'_>, device: &Device) {
    for (_, linear) in layers.linears {
        linear.store(options.text_weights, device);
    }
}

/// Where the text encoders of a pipeline on `device` run, and their dtype.
pub(super) fn place_of_text(options: LoadOptions, device: &Device) -> (Device, DType) {
    let device = if options.text_on_host { Device::flex() } else { device.clone() };
    let dtype = weight_dtype(&device);
    (device, dtype)
}
