//! The published configs of each family, in `configs/`: those of stable-diffusion-v1-5, stable-diffusion-2-1,
//! stable-diffusion-xl-base-1.0, FLUX.1-dev and FLUX.1-schnell. Sizes in them are replaced by those of the tensors.

use serde_json::Value;

use super::{Family, Part};

/// The published config of a part; null for a part that the family does not have.
pub(super) fn part(family: Family, part: Part) -> Value {
    use Family::{FluxDev, FluxSchnell, StableDiffusion1, StableDiffusion2, StableDiffusionXl};
    let text = match (family, part) {
        (StableDiffusion1, Part::Unet) => include_str!("configs/sd1_unet.json"),
        (StableDiffusion2, Part::Unet) => include_str!("configs/sd2_unet.json"),
        (StableDiffusionXl, Part::Unet) => include_str!("configs/sdxl_unet.json"),
        (FluxDev, Part::Transformer) => include_str!("configs/flux_dev_transformer.json"),
        (FluxSchnell, Part::Transformer) => include_str!("configs/flux_schnell_transformer.json"),
        (StableDiffusion1, Part::Vae) => include_str!("configs/sd1_vae.json"),
        (StableDiffusion2, Part::Vae) => include_str!("configs/sd2_vae.json"),
        (StableDiffusionXl, Part::Vae) => include_str!("configs/sdxl_vae.json"),
        (FluxDev | FluxSchnell, Part::Vae) => include_str!("configs/flux_vae.json"),
        (StableDiffusion1 | StableDiffusionXl | FluxDev | FluxSchnell, Part::TextEncoder) => {
            include_str!("configs/clip_l.json")
        }
        (StableDiffusion2, Part::TextEncoder) => include_str!("configs/open_clip_h.json"),
        (StableDiffusionXl, Part::TextEncoder2) => include_str!("configs/open_clip_big_g.json"),
        (FluxDev | FluxSchnell, Part::TextEncoder2) => include_str!("configs/t5_xxl.json"),
        _ => "null",
    };
    parsed(text)
}

/// `scheduler_config.json`
pub(super) fn scheduler(family: Family) -> Value {
    parsed(match family {
        Family::StableDiffusion1 => include_str!("configs/sd1_scheduler.json"),
        Family::StableDiffusion2 => include_str!("configs/sd2_scheduler.json"),
        Family::StableDiffusionXl => include_str!("configs/sdxl_scheduler.json"),
        Family::FluxDev => include_str!("configs/flux_dev_scheduler.json"),
        Family::FluxSchnell => include_str!("configs/flux_schnell_scheduler.json"),
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
            assert!(scheduler(family)["_class_name"].is_string());
            for has in [family.denoiser(), Part::Vae, Part::TextEncoder] {
                let config = part(family, has);
                assert!(config["_class_name"].is_string() || config["architectures"].is_array(), "{family} {has}");
            }
        }
    }
}
