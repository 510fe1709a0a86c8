//! The networks, one paper per file. Each is built from the `Config` of `formats::networks`, which reads the published
//! `config.json`, and has the parameters that are listed there, named exactly as the published checkpoints do.
//! `pipelines` combines the networks.

pub mod autoencoder_tiny;
pub mod clip;
pub mod flux;
pub mod t5;
pub mod unet;
pub mod vae;
