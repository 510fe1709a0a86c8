//! Measures a device: whether our networks compute the right values on it, how fast they are at full size, and how that
//! compares with PyTorch on the same device and with the limits of the hardware.
//!
//! This is the hidden command `pyrograph gauge`, which `just gpu-check` runs. It needs only the binary, the goldens and ember;
//! weights of full size are random. The service never uses it. Not here: `just bench`, whose timed programs are in `examples/`.

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
