//! The networks, one paper per file. Each has a `Config` that reads the published `config.json`, and names its
//! parameters exactly as the published checkpoints do. `pipelines` combines the networks.

pub mod autoencoder_tiny;
pub mod clip;
pub mod flux;
pub mod t5;
pub mod unet;
pub mod vae;
