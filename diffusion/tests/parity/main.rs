//! Parity with PyTorch and diffusers for each part: the same weights, inputs and seeds give the same numbers. The
//! expected values are in `../goldens`, written by `tests/reference` at the root of the repository. Each file states
//! its tolerances and their reasons. All tests are one binary, since linking takes longer than running them.

#![expect(clippy::print_stdout, reason = "tests print what they measure")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod autoencoder_tiny;
mod gguf;
mod golden;
mod gradients;
mod image;
mod lora;
mod lora_dialects;
mod lora_export;
mod lora_norms;
mod lora_pictures;
mod noise;
mod pipeline;
mod pipeline_variants;
mod preview;
mod scheduler;
mod schedulers;
mod single_file;
mod single_file_pictures;
mod stable_diffusion;
mod storage;
mod text_encoders;
mod transformer;
mod unet;
mod vae;
