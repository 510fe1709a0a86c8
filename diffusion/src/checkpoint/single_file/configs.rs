//! The published configs of each family, in `configs/`: those of stable-diffusion-v1-5, stable-diffusion-2-1,
//! stable-diffusion-xl-base-1.0, FLUX.1-dev and FLUX.1-schnell. Sizes in them are replaced by those of the tensors.

use formats::detect::Denoiser;
use formats::{Family, Part};
use serde_json::Value;

/// The published config of a part; null for a part that the family does not have.
pub(super) fn part(family: Family, part: Part) -> Value {
    use Family::{Flux, Sd15, Sd21, Sdxl};
    let text = match (family, part) {
        (Sd15, Part::Unet) => include_str!("configs/sd1_unet.json"),
        (Sd21, Part::Unet) => include_str!("configs/sd2_unet.json"),
        (Sdxl, Part::Unet) => include_str!("configs/sdxl_unet.json"),
        // Schnell's differs in `guidance_embeds`, which follows from the tensors.
        (Flux, Part::Transformer) => include_str!("configs/flux_dev_transformer.json"),
        (Sd15, Part::Vae) => include_str!("configs/sd1_vae.json"),
        (Sd21, Part::Vae) => include_str!("configs/sd2_vae.json"),
        (Sdxl, Part::Vae) => include_str!("configs/sdxl_vae.json"),
        (Flux, Part::Vae) => include_str!("configs/flux_vae.json"),
        (Sd15 | Sdxl | Flux, Part::TextEncoder) => include_str!("configs/clip_l.json"),
        (Sd21, Part::TextEncoder) => include_str!("configs/open_clip_h.json"),
        (Sdxl, Part::TextEncoder2) => include_str!("configs/open_clip_big_g.json"),
        (Flux, Part::TextEncoder2) => include_str!("configs/t5_xxl.json"),
        _ => "null",
    };
    parsed(text)
}

/// `scheduler_config.json`
pub(super) fn scheduler(denoiser: Denoiser) -> Value {
    parsed(match denoiser.family {
        Family::Sd15 => include_str!("configs/sd1_scheduler.json"),
        Family::Sd21 => include_str!("configs/sd2_scheduler.json"),
        Family::Sdxl => include_str!("configs/sdxl_scheduler.json"),
        Family::Flux if denoiser.guidance_embedded => include_str!("configs/flux_dev_scheduler.json"),
        Family::Flux => include_str!("configs/flux_schnell_scheduler.json"),
    })
}

/// The files are ours and tested, so that null never comes out for a part that is there.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_an_object_that_names_its_class() {
        for family in Family::ALL {
            for guidance_embedded in [true, false] {
                assert!(scheduler(Denoiser { family, guidance_embedded })["_class_name"].is_string());
            }
            for has in [family.denoiser(), Part::Vae, Part::TextEncoder] {
                let config = part(family, has);
                assert!(config["_class_name"].is_string() || config["architectures"].is_array(), "{family} {has}");
            }
        }
    }
}
