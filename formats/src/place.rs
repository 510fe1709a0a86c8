//! Where the files of each family store the parts of a model, and the configs published with them.

use crate::{Family, Header, Part};
use Part::{TextEncoder, TextEncoder2, Transformer, Unet, Vae};

/// How the tensor names of a part differ from those of diffusers and transformers.
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

/// A place for a part in a file: below `prefix`, if a tensor's name continues with `mark`.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub prefix: &'static str,
    pub mark: &'static str,
    pub naming: Naming,
}

/// Prefixes of the denoiser: in a complete model, and in its own file.
pub(crate) const DENOISERS: [&str; 3] = ["model.diffusion_model.", "", "diffusion_model."];

/// Prefixes of the parts of a complete model in one file. The denoiser has no special name here.
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
    /// The part that a tensor of a complete model in one file belongs to; `None` for names without such a prefix.
    pub fn of_tensor(name: &str, denoiser: Part) -> Option<Part> {
        let found = WHOLE_MODEL.iter().find(|(prefix, _)| name.starts_with(prefix));
        found.map(|(_, part)| part.unwrap_or(denoiser))
    }
}

impl Family {
    /// The places where its files may store a part.
    pub fn places(self, part: Part) -> &'static [Place] {
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
        // The oldest versions of transformers wrote no `text_model.`.
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
        const T5: [Place; 4] = [
            place("text_encoders.t5xxl.transformer.", "encoder.block.", Naming::T5),
            place("text_encoders.t5xxl.transformer.", "enc.blk.", Naming::T5),
            place("", "encoder.block.", Naming::T5),
            place("", "enc.blk.", Naming::T5),
        ];
        match (self, part) {
            (Family::Sd15 | Family::Sd21 | Family::Sdxl, Unet) => &UNET,
            (Family::Flux, Transformer) => &FLUX,
            (_, Vae) => &VAE,
            (Family::Sd15, TextEncoder) => &CLIP_1,
            (Family::Sd21, TextEncoder) => &CLIP_2,
            (Family::Sdxl, TextEncoder) => &CLIP_XL,
            (Family::Sdxl, TextEncoder2) => &BIG_G,
            (Family::Flux, TextEncoder) => &CLIP_FLUX,
            (Family::Flux, TextEncoder2) => &T5,
            _ => &[],
        }
    }

    /// The published config of a part, as JSON; `None` for a part that the family does not have. Its sizes are those of
    /// the published models.
    pub const fn published_config(self, part: Part) -> Option<&'static str> {
        Some(match (self, part) {
            (Family::Sd15, Unet) => include_str!("../configs/sd1_unet.json"),
            (Family::Sd21, Unet) => include_str!("../configs/sd2_unet.json"),
            (Family::Sdxl, Unet) => include_str!("../configs/sdxl_unet.json"),
            // Schnell's config differs in `guidance_embeds`, which is detected from the tensors.
            (Family::Flux, Transformer) => include_str!("../configs/flux_dev_transformer.json"),
            (Family::Sd15, Vae) => include_str!("../configs/sd1_vae.json"),
            (Family::Sd21, Vae) => include_str!("../configs/sd2_vae.json"),
            (Family::Sdxl, Vae) => include_str!("../configs/sdxl_vae.json"),
            (Family::Flux, Vae) => include_str!("../configs/flux_vae.json"),
            (Family::Sd15 | Family::Sdxl | Family::Flux, TextEncoder) => include_str!("../configs/clip_l.json"),
            (Family::Sd21, TextEncoder) => include_str!("../configs/open_clip_h.json"),
            (Family::Sdxl, TextEncoder2) => include_str!("../configs/open_clip_big_g.json"),
            (Family::Flux, TextEncoder2) => include_str!("../configs/t5_xxl.json"),
            _ => return None,
        })
    }

    /// Where a file stores a part, if it contains the part.
    pub fn place_of(self, part: Part, header: &Header) -> Option<Place> {
        let is_there = |place: &&Place| header.has(&format!("{}{}", place.prefix, place.mark));
        self.places(part).iter().find(is_there).copied()
    }
}

const fn place(prefix: &'static str, mark: &'static str, naming: Naming) -> Place {
    Place { prefix, mark, naming }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn each_part_of_a_family_has_a_place_and_a_config() {
        for family in Family::ALL {
            for part in Part::NETWORKS {
                let has = family.parts().contains(&part);
                assert_eq!(!family.places(part).is_empty(), has, "{family} {part}");
                assert_eq!(family.published_config(part).is_some(), has, "{family} {part}");
                let Some(config) = family.published_config(part) else { continue };
                let config: Value = serde_json::from_str(config).unwrap();
                assert!(config["_class_name"].is_string() || config["architectures"].is_array(), "{family} {part}");
            }
        }
    }
}
