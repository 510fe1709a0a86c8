//! Measures a device: whether our networks compute the right values on it, how fast they are at full size, and how
//! that compares with PyTorch on the same device and with the limit of the hardware.
//!
//! This is the hidden command `pyrograph gauge` and `just gpu-check`. It needs only the binary, the goldens and
//! ember: weights of full size are random. The service never uses it.

#![expect(clippy::print_stderr, reason = "a program that reports its progress")]

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
