//! The networks that adapters change.

use serde::Serialize;

/// A network that adapters can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Network {
    /// FLUX.1's denoiser.
    Transformer,
    /// Stable Diffusion's denoiser.
    Unet,
    /// The first text encoder: CLIP-L, or the only one of Stable Diffusion 1 and 2.
    TextEncoder,
    /// The second text encoder: OpenCLIP-G in XL, T5 in FLUX.1.
    #[serde(rename = "text_encoder_2")]
    TextEncoder2,
}
