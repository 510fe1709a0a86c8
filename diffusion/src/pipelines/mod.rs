//! Pipelines: networks, tokenizers and a scheduler working together, from a prompt to pictures: encode, prepare, denoise,
//! decode. One family a file.

pub mod flux;
mod folder;
mod original;
mod request;

pub use original::Original;
pub use request::{Defaults, OnStep, PictureRequest, Progress};

use burn::prelude::*;

/// `made` where the mask is 1, `around` where it is 0.
fn repaint<const D: usize>(mask: Tensor<D>, made: Tensor<D>, around: Tensor<D>) -> Tensor<D> {
    (-mask.clone() + 1.0) * around + mask * made
}
