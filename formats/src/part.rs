//! The parts of a model, and the names of their files. [`crate::Place`] defines where a file stores them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A network of a model, named like its folder in diffusers' layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Stable Diffusion's denoiser.
    Unet,
    /// FLUX.1's denoiser.
    Transformer,
    /// CLIP ViT-L, or OpenCLIP ViT-H in Stable Diffusion 2.
    TextEncoder,
    /// OpenCLIP ViT-bigG in Stable Diffusion XL, T5 in FLUX.1.
    #[serde(rename = "text_encoder_2")]
    TextEncoder2,
    Vae,
}

use Part::{TextEncoder, TextEncoder2, Transformer, Unet, Vae};

impl Part {
    /// All parts.
    pub const NETWORKS: [Self; 5] = [Unet, Transformer, Vae, TextEncoder, TextEncoder2];
    /// The parts that can be stored in separate files next to the denoiser.
    pub const SEPARABLE: [Self; 3] = [TextEncoder, TextEncoder2, Vae];

    /// The name of its folder in diffusers' layout.
    pub const fn as_str(self) -> &'static str {
        match self {
            Unet => "unet",
            Transformer => "transformer",
            TextEncoder => "text_encoder",
            TextEncoder2 => "text_encoder_2",
            Vae => "vae",
        }
    }

    /// The part with that folder name, if it is separable.
    pub fn named(name: &str) -> Option<Self> {
        Self::SEPARABLE.into_iter().find(|part| part.as_str() == name)
    }

    /// The separable part that a file in the model's folder contains, by the file's name: `vae.safetensors`.
    pub fn of_file(path: &str) -> Option<Self> {
        path.strip_suffix(".safetensors").or_else(|| path.strip_suffix(".gguf")).and_then(Self::named)
    }

    /// The name that a file originally called `file` gets in a model's folder.
    pub fn file_name(self, file: &str) -> String {
        named_as(self.as_str(), file)
    }

    /// The folder of a text encoder's tokenizer.
    pub const fn tokenizer(self) -> Option<&'static str> {
        match self {
            TextEncoder => Some("tokenizer"),
            TextEncoder2 => Some("tokenizer_2"),
            Unet | Transformer | Vae => None,
        }
    }
}

impl fmt::Display for Part {
    /// The name for display.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unet => "UNet",
            Transformer => "transformer",
            Vae => "autoencoder",
            TextEncoder => "text encoder",
            TextEncoder2 => "second text encoder",
        })
    }
}

/// Whether a file in the model's folder contains weights, by its name.
pub fn is_root_weights(path: &str) -> bool {
    !path.contains('/') && [".safetensors", ".gguf"].iter().any(|end| path.ends_with(end))
}

/// `name.safetensors`, or `name.gguf` if `file` ends in `.gguf`.
pub fn named_as(name: &str, file: &str) -> String {
    let end = if file.to_ascii_lowercase().ends_with(".gguf") { "gguf" } else { "safetensors" };
    format!("{name}.{end}")
}
