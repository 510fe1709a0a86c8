//! Pipelines combine networks, tokenizers and a scheduler to turn a prompt into pictures: encode, prepare, denoise,
//! decode. Each family has its own file; [`Pipeline`] is the common interface.

mod block_stream;
mod clip_prompt;
pub mod flux;
mod folder;
pub mod latent_diffusion;
mod networks;
mod on_demand;
mod original;
mod parts;
mod pipeline;
mod preview;
mod prompt_cache;
mod request;
pub mod stable_diffusion;
pub mod stable_diffusion_xl;
mod stored;

pub use networks::{footprint, networks};
pub use original::Original;
pub use pipeline::Pipeline;
pub use preview::Previewer;
pub use request::{OnStep, PictureRequest, Progress};

use burn::prelude::*;

/// Blends two tensors: `made` where the mask is 1, `around` where it is 0.
fn repaint<const D: usize>(mask: Tensor<D>, made: Tensor<D>, around: Tensor<D>) -> Tensor<D> {
    (-mask.clone() + 1.0) * around + mask * made
}
