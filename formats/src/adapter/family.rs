//! The model family of an adapter, detected from its modules, the width of the text states that they read, and its
//! header.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use super::Network;
use crate::Family;

/// The family that an adapter was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterFamily {
    Family(Family),
    /// Stable Diffusion 1.x, 2.x or XL; the file does not show which.
    StableDiffusion,
    /// Only text encoders are adapted; the file does not show which family's.
    TextEncoder,
}

impl AdapterFamily {
    /// Detects the family from network and path of the modules, with the input widths of their weights where known, and
    /// from the header of the file.
    pub fn of(modules: &[(Network, &str, Option<usize>)], header: &BTreeMap<String, String>) -> Self {
        let any = |network| modules.iter().any(|(its, ..)| *its == network);
        if any(Network::Transformer) {
            return Self::Family(Family::Flux);
        }
        // Cross-attention reads the text encoder's states: width 768 for CLIP-L, 1024 for OpenCLIP-H, 2048 for both of
        // XL's.
        let cross = |path: &str| path.ends_with("attn2.to_k") || path.ends_with("attn2.to_v");
        let reads = modules.iter().filter(|(_, path, _)| cross(path)).find_map(|(.., inputs)| *inputs);
        let deep = |path: &str| path.contains("transformer_blocks.2.") || path.starts_with("add_embedding.");
        let trained_on = header.get("ss_base_model_version").map_or("", String::as_str);
        Self::Family(match reads {
            Some(768) => Family::Sd15,
            Some(1024) => Family::Sd21,
            Some(2048) => Family::Sdxl,
            _ if trained_on.starts_with("sdxl") => Family::Sdxl,
            _ if trained_on.starts_with("sd_v1") => Family::Sd15,
            _ if trained_on.starts_with("sd_v2") => Family::Sd21,
            _ if trained_on.starts_with("flux") => Family::Flux,
            _ if modules.iter().any(|(_, path, _)| deep(path)) => Family::Sdxl,
            _ if any(Network::Unet) && any(Network::TextEncoder2) => Family::Sdxl,
            _ if any(Network::Unet) => return Self::StableDiffusion,
            _ => return Self::TextEncoder,
        })
    }

    /// The name in API responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Family(family) => family.as_str(),
            Self::StableDiffusion => "stable_diffusion",
            Self::TextEncoder => "text_encoder",
        }
    }
}

impl Serialize for AdapterFamily {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for AdapterFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Family(Family::Flux) => "a FLUX.1 LoRA",
            Self::Family(Family::Sd15) => "a Stable Diffusion 1.x LoRA",
            Self::Family(Family::Sd21) => "a Stable Diffusion 2.x LoRA",
            Self::Family(Family::Sdxl) => "a Stable Diffusion XL LoRA",
            Self::StableDiffusion => "a Stable Diffusion LoRA (1.x, 2.x or XL)",
            Self::TextEncoder => "a LoRA of a text encoder only",
        })
    }
}

/// The enumeration of [`AdapterFamily::as_str`] for OpenAPI.
#[cfg(feature = "schema")]
mod schema {
    use std::borrow::Cow;

    use utoipa::openapi::RefOr;
    use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
    use utoipa::{PartialSchema, ToSchema};

    use super::AdapterFamily;
    use crate::Family;

    impl PartialSchema for AdapterFamily {
        fn schema() -> RefOr<Schema> {
            // In the order in which the API lists them.
            let families = [Family::Flux, Family::Sd15, Family::Sd21, Family::Sdxl].map(AdapterFamily::Family);
            let all = families
                .into_iter()
                .chain([AdapterFamily::StableDiffusion, AdapterFamily::TextEncoder])
                .map(AdapterFamily::as_str);
            ObjectBuilder::new()
                .schema_type(Type::String)
                .description(Some("A family of models whose networks have the same shapes."))
                .enum_values(Some(all))
                .into()
        }
    }

    impl ToSchema for AdapterFamily {
        fn name() -> Cow<'static, str> {
            Cow::Borrowed("AdapterFamily")
        }
    }
}
