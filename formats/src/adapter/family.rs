//! Which models an adapter was made for, told from its modules, the width of the text that they read, and its header.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::adapter::keys::Network;

/// A family of models whose networks have the same shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(as = AdapterFamily))]
pub enum Family {
    #[serde(rename = "flux")]
    Flux1,
    #[serde(rename = "sd15")]
    StableDiffusion1,
    #[serde(rename = "sd21")]
    StableDiffusion2,
    #[serde(rename = "sdxl")]
    StableDiffusionXl,
    /// Nothing in it tells which.
    StableDiffusion,
    /// Only text encoders are adapted, and nothing tells whose.
    TextEncoder,
}

impl Family {
    /// By network and path of the modules, with the inputs of their weights where known, and by the header of the file.
    pub fn of(modules: &[(Network, &str, Option<usize>)], header: &BTreeMap<String, String>) -> Self {
        let any = |network| modules.iter().any(|(its, ..)| *its == network);
        if any(Network::Transformer) {
            return Self::Flux1;
        }
        // cross-attention reads the text encoder's states: 768 of CLIP-L, 1024 of OpenCLIP-H, 2048 of both of XL
        let cross = |path: &str| path.ends_with("attn2.to_k") || path.ends_with("attn2.to_v");
        let reads = modules.iter().filter(|(_, path, _)| cross(path)).find_map(|(.., inputs)| *inputs);
        let deep = |path: &str| path.contains("transformer_blocks.2.") || path.starts_with("add_embedding.");
        let trained_on = header.get("ss_base_model_version").map_or("", String::as_str);
        match reads {
            Some(768) => Self::StableDiffusion1,
            Some(1024) => Self::StableDiffusion2,
            Some(2048) => Self::StableDiffusionXl,
            _ if trained_on.starts_with("sdxl") => Self::StableDiffusionXl,
            _ if trained_on.starts_with("sd_v1") => Self::StableDiffusion1,
            _ if trained_on.starts_with("sd_v2") => Self::StableDiffusion2,
            _ if trained_on.starts_with("flux") => Self::Flux1,
            _ if modules.iter().any(|(_, path, _)| deep(path)) => Self::StableDiffusionXl,
            _ if any(Network::Unet) && any(Network::TextEncoder2) => Self::StableDiffusionXl,
            _ if any(Network::Unet) => Self::StableDiffusion,
            _ => Self::TextEncoder,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flux1 => "a FLUX.1 LoRA",
            Self::StableDiffusion1 => "a Stable Diffusion 1.x LoRA",
            Self::StableDiffusion2 => "a Stable Diffusion 2.x LoRA",
            Self::StableDiffusionXl => "a Stable Diffusion XL LoRA",
            Self::StableDiffusion => "a Stable Diffusion LoRA (1.x, 2.x or XL)",
            Self::TextEncoder => "a LoRA of a text encoder only",
        })
    }
}
