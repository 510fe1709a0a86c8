//! What a device is worth: whether our networks compute on it what they should, how fast they are at full size, and how far that
//! is from PyTorch on the same device and from what the hardware can do at all.
//!
//! The body of the hidden command `pyrograph gauge`, and of `just gpu-check`. It needs nothing but the binary, the goldens and
//! ember: weights of full size are drawn at random. The service never uses it.

mod clock;
mod denoising;
mod figure;
mod floor;
mod goldens;
mod kernels;
mod machine;
mod plan;
mod random_weights;
mod report;
mod scale;
mod section;
mod training;
mod unets;

pub use plan::Gauge;
