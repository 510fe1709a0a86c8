//! The parts of a model, and where files of each family keep them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Family, Header};

/// A network of a model, named as its folder in diffusers' layout.
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

use Part::*;

/// How the names of tensors of a part differ from diffusers' and transformers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// The UNet of latent-diffusion and generative-models.
    LdmUnet,
    /// The transformer of Black Forest Labs.
    BflFlux,
    /// The autoencoder of latent-diffusion.
    LdmVae,
    /// CLIP of transformers.
    Clip,
    OpenClip,
    /// T5 of transformers or of llama.cpp.
    T5,
}

/// Where a part may be in a file: below `prefix`, if a tensor's name goes on with `mark`.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub prefix: &'static str,
    pub mark: &'static str,
    pub naming: Naming,
}

/// Prefixes of the denoiser: in a whole model, and in a file of its own.
pub(crate) const DENOISERS: [&str; 3] = ["model.diffusion_model.", "", "diffusion_model."];

/// Prefixes of the parts of a whole model in one file; the denoiser has no name of its own here.
const WHOLE_MODEL: [(&str, Option<Part>); 8] = [
    ("first_stage_model.", Some(Vae)),
    ("vae.", Some(Vae)),
    ("cond_stage_model.", Some(TextEncoder)),
    ("conditioner.embedders.0.", Some(TextEncoder)),
    ("conditioner.embedders.1.", Some(TextEncoder2)),
    ("text_encoders.clip_l.", Some(TextEncoder)),
    ("text_encoders.t5xxl.", Some(TextEncoder2)),
    ("model.diffusion_model.", None),
];

impl Part {
    /// All of them.
    pub const NETWORKS: [Self; 5] = [Unet, Transformer, Vae, TextEncoder, TextEncoder2];
    /// Those that may come in a file of their own beside the denoiser.
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

    /// The separable part of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::SEPARABLE.into_iter().find(|part| part.as_str() == name)
    }

    /// The separable part that a file in the model's own folder holds, by its name: `vae.safetensors`.
    pub fn of_file(path: &str) -> Option<Self> {
        path.strip_suffix(".safetensors").or_else(|| path.strip_suffix(".gguf")).and_then(Self::named)
    }

    /// The name in a model's folder of a file that was called `file`.
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

    /// The part that a tensor of a whole model in one file belongs to; `None` for names without such a prefix.
    pub fn of_tensor(name: &str, denoiser: Self) -> Option<Self> {
        let found = WHOLE_MODEL.iter().find(|(prefix, _)| name.starts_with(prefix));
        found.map(|(_, part)| part.unwrap_or(denoiser))
    }

    /// Where files of `family` may keep it.
    pub fn places(self, family: Family) -> &'static [Place] {
        const UNET: [Place; 3] = [
            place(DENOISERS[0], "input_blocks.", Naming::LdmUnet),
            place(DENOISERS[1], "input_blocks.", Naming::LdmUnet),
            place(DENOISERS[2], "input_blocks.", Naming::LdmUnet),
        ];
        const FLUX: [Place; 3] = [
            place(DENOISERS[0], "double_blocks.", Naming::BflFlux),
            place(DENOISERS[1], "double_blocks.", Naming::BflFlux),
            place(DENOISERS[2], "double_blocks.", Naming::BflFlux),
        ];
        const VAE: [Place; 3] = [
            place("first_stage_model.", "decoder.", Naming::LdmVae),
            place("vae.", "decoder.", Naming::LdmVae),
            place("", "decoder.mid.", Naming::LdmVae),
        ];
        // Files of the oldest versions of transformers have no `text_model.`.
        const CLIP_1: [Place; 3] = [
            place("cond_stage_model.transformer.", "text_model.", Naming::Clip),
            place("cond_stage_model.transformer.", "embeddings.", Naming::Clip),
            place("", "text_model.", Naming::Clip),
        ];
        const CLIP_2: [Place; 2] = [
            place("cond_stage_model.model.", "transformer.resblocks.", Naming::OpenClip),
            place("", "transformer.resblocks.", Naming::OpenClip),
        ];
        const CLIP_XL: [Place; 2] = [
            place("conditioner.embedders.0.transformer.", "text_model.", Naming::Clip),
            place("", "text_model.", Naming::Clip),
        ];
        const BIG_G: [Place; 3] = [
            place("conditioner.embedders.1.model.", "transformer.resblocks.", Naming::OpenClip),
            place("", "transformer.resblocks.", Naming::OpenClip),
            place("", "text_model.", Naming::Clip),
        ];
        const CLIP_FLUX: [Place; 2] = [
            place("text_encoders.clip_l.transformer.", "text_model.", Naming::Clip),
            place("", "text_model.", Naming::Clip),
        ];
        const T5: [Place; 3] = [
            place("text_encoders.t5xxl.transformer.", "encoder.block.", Naming::T5),
            place("", "encoder.block.", Naming::T5),
            place("", "enc.blk.", Naming::T5),
        ];
        match (family, self) {
            (Family::Sd15 | Family::Sd21 | Family::Sdxl, Unet) => &UNET,
            (Family::Flux, Transformer) => &FLUX,
            (_, Vae) => &VAE,
            (Family::Sd15, TextEncoder) => &CLIP_1,
            (Family::Sd21, TextEncoder) => &CLIP_2,
            (Family::Sdxl, TextEncoder) => &CLIP_XL,
            (Family::Sdxl, TextEncoder2) => &BIG_G,
            (Family::Flux, TextEncoder) => &CLIP_FLUX,
            (Family::Flux, TextEncoder2) => &T5,
            (Family::Sd15 | Family::Sd21, TextEncoder2 | Transformer) | (Family::Sdxl, Transformer) => &[],
            (Family::Flux, Unet) => &[],
        }
    }

    /// Where a file of `family` keeps it, if it does.
    pub fn place_in(self, header: &Header, family: Family) -> Option<Place> {
        let is_there = |place: &&Place| header.has(&format!("{}{}", place.prefix, place.mark));
        self.places(family).iter().find(is_there).copied()
    }
}

impl fmt::Display for Part {
    /// The name for people.
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

const fn place(prefix: &'static str, mark: &'static str, naming: Naming) -> Place {
    Place { prefix, mark, naming }
}

/// Whether a file in the model's own folder holds weights.
pub fn is_root_weights(path: &str) -> bool {
    !path.contains('/') && [".safetensors", ".gguf"].iter().any(|end| path.ends_with(end))
}

/// `name.safetensors`, or `name.gguf` if that is how `file` ends.
pub fn named_as(name: &str, file: &str) -> String {
    let end = if file.to_ascii_lowercase().ends_with(".gguf") { "gguf" } else { "safetensors" };
    format!("{name}.{end}")
}
