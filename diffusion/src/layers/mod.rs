//! The layers that networks are built from. Parameter names and memory layout are PyTorch's, so that the path of a
//! parameter in a network is its key in the checkpoint. Layers depend on no network and no file.
//!
//! New layers hold zeros (norm weights: ones) that are allocated lazily: a network that is loaded right after
//! construction costs nothing. [`crate::training::initialise`] fills one that is trained from scratch.

mod activation;
mod adapted;
mod attention;
mod conv;
pub(crate) mod cpu_kernels;
mod embedding;
mod linear;
mod named;
mod norm;
mod packing;
mod resize;
mod sinusoidal;
mod weight;

pub use activation::{gelu_exact, gelu_gated, gelu_quick, gelu_tanh};
pub use adapted::{Changes, Kronecker, NormChanges};
pub use attention::{attention, join_heads, split_heads};
pub use conv::{Conv2d, ConvBranch};
pub use embedding::Embedding;
pub use linear::{Branch, Linear};
pub use named::{NamedLayers, NormSlot};
pub use norm::{GroupNorm, LayerNorm, RmsNorm, modulate};
pub(crate) use packing::{Codes, pack};
pub use resize::resize_nearest;
pub use sinusoidal::sinusoidal;
pub use weight::{Packed, Weight};

use burn::module::{Param, ParamId};
use burn::prelude::*;

/// A parameter of zeros, allocated on first use.
fn zeros<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    filled(shape, 0.0, device)
}

/// A parameter of ones, allocated on first use.
fn ones<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    filled(shape, 1.0, device)
}

fn filled<const D: usize>(shape: [usize; D], value: f32, device: &Device) -> Param<Tensor<D>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, require_grad| {
            let tensor = Tensor::full(shape, value, device);
            if require_grad { tensor.require_grad() } else { tensor }
        },
        device.clone(),
        true,
        shape.into(),
    )
}
