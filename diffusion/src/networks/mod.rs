//! The networks, one paper a file. Each has a `Config` that reads the published `config.json` and names its parameters
//! exactly as the published checkpoints do. How networks work together is in `pipelines`.

pub mod autoencoder_tiny;
pub mod clip;
pub mod flux;
pub mod t5;
pub mod unet;
pub mod vae;
