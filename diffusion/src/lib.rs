//! Diffusion models in Rust on [Burn](https://burn.dev): networks, schedulers, pipelines, LoRA and training.
//!
//! This crate works with tensors and files on the local disk. It uses no database, no network, no jobs and no
//! environment variables (except CUDA_PATH, which CUDA itself uses), and it never downloads anything. All sampling
//! randomness comes from one generator, so that a seed gives the same picture on every machine.

pub mod checkpoint;
pub mod device;
pub mod error;
pub mod image;
pub mod layers;
pub mod lora;
pub mod networks;
pub mod noise;
pub mod pipelines;
pub mod prompt;
pub mod schedulers;
pub mod tokenizers;
pub mod training;

pub use device::{DeviceChoice, OpenDevice};
pub use error::{Error, Result};
pub use lora::{LoraFile, MatchReport};
pub use memory::{Keep, LoadOptions, WeightStorage};
pub use pipelines::flux::FluxPipeline;
pub use pipelines::{PictureRequest, Pipeline, Previewer, Progress};
