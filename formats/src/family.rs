//! Families of models: which ones are supported, and what applies to every model of a family. [`crate::detect`] detects
//! the family of a file.

use std::fmt;
use std::str::FromStr;

use crate::{Defaults, Part, Scheduler};

/// An architecture. A LoRA runs only on checkpoints of its own family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// FLUX.1 dev and schnell.
    Flux,
    /// Stable Diffusion 1.x.
    Sd15,
    /// Stable Diffusion 2.x.
    Sd21,
    /// Stable Diffusion XL.
    Sdxl,
}

use Family::{Flux, Sd15, Sd21, Sdxl};

/// What the defaults of a checkpoint depend on besides its family. Unknown traits count as those of the family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Whether the denoiser is conditioned on the guidance scale: FLUX.1-dev, and latent consistency models.
    pub guidance_embedded: bool,
    /// Side of the UNet's training pictures, in latents.
    pub sample_size: Option<u64>,
    /// Pixels per latent of the autoencoder, along each side.
    pub vae_factor: Option<u32>,
}

/// The meaning of `guidance_scale`, for the A1111 parameters in a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guidance {
    /// `guidance_scale` is the scale of classifier-free guidance.
    ClassifierFree,
    /// `guidance_scale` is an input of the denoiser, and `true_cfg_scale` is the scale of classifier-free guidance.
    Distilled,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 4] = [Sd15, Sd21, Sdxl, Flux];

    /// The name in rows, requests and responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Flux => "flux",
            Sd15 => "sd15",
            Sd21 => "sd21",
            Sdxl => "sdxl",
        }
    }

    /// The name for display.
    pub const fn title(self) -> &'static str {
        match self {
            Flux => "FLUX.1",
            Sd15 => "Stable Diffusion 1.5",
            Sd21 => "Stable Diffusion 2.1",
            Sdxl => "Stable Diffusion XL",
        }
    }

    /// The class of its pipeline in diffusers.
    pub const fn pipeline_class(self) -> &'static str {
        match self {
            Flux => "FluxPipeline",
            Sd15 | Sd21 => "StableDiffusionPipeline",
            Sdxl => "StableDiffusionXLPipeline",
        }
    }

    /// The part that denoises.
    pub const fn denoiser(self) -> Part {
        match self {
            Flux => Part::Transformer,
            Sd15 | Sd21 | Sdxl => Part::Unet,
        }
    }

    /// The parts that a checkpoint needs, in the order of their names.
    pub const fn parts(self) -> &'static [Part] {
        match self {
            Flux => &[Part::TextEncoder, Part::TextEncoder2, Part::Transformer, Part::Vae],
            Sd15 | Sd21 => &[Part::TextEncoder, Part::Unet, Part::Vae],
            Sdxl => &[Part::TextEncoder, Part::TextEncoder2, Part::Unet, Part::Vae],
        }
    }

    /// The token that pads the prompt of a text encoder: `pad_token` in its `tokenizer_config.json`. All CLIP and
    /// OpenCLIP encoders share one vocabulary and differ only in this token.
    pub const fn padding(self, encoder: Part) -> &'static str {
        match (self, encoder) {
            (Flux, Part::TextEncoder2) => "<pad>",
            (Sd21, _) | (Sdxl, Part::TextEncoder2) => "!",
            _ => "<|endoftext|>",
        }
    }

    /// Whether its models were trained for flow matching instead of removing noise.
    pub const fn matches_flow(self) -> bool {
        matches!(self, Flux)
    }

    /// Whether its models can be sampled with `scheduler`.
    pub fn takes(self, scheduler: Scheduler) -> bool {
        self.matches_flow() == scheduler.matches_flow()
    }

    /// The names of the schedulers that it takes, for a message.
    pub fn schedulers(self) -> String {
        let names = Scheduler::ALL.into_iter().filter(|scheduler| self.takes(*scheduler)).map(Scheduler::as_str);
        names.collect::<Vec<_>>().join(", ")
    }

    /// What its denoiser predicts unless a file or a config states otherwise, under diffusers' name.
    pub const fn prediction_type(self) -> &'static str {
        match self {
            Flux => "flow_prediction",
            Sd21 => "v_prediction",
            Sd15 | Sdxl => "epsilon",
        }
    }

    /// The meaning of `guidance_scale`.
    pub const fn guidance(self) -> Guidance {
        match self {
            Flux => Guidance::Distilled,
            Sd15 | Sd21 | Sdxl => Guidance::ClassifierFree,
        }
    }

    /// Whether a request can skip layers of its CLIP text encoders.
    pub const fn skips_clip_layers(self) -> bool {
        !matches!(self, Flux)
    }

    /// Whether its prompts have weights, such as `(word:1.3)`, and breaks.
    pub const fn weighs_words(self) -> bool {
        !matches!(self, Flux)
    }

    /// Whether LoRAs can be trained on its checkpoints.
    pub const fn is_trainable(self) -> bool {
        matches!(self, Flux)
    }

    /// The `scheduler_config.json` published with its models.
    pub const fn published_scheduler(self, guidance_embedded: bool) -> &'static str {
        match self {
            Sd15 => include_str!("../configs/sd1_scheduler.json"),
            Sd21 => include_str!("../configs/sd2_scheduler.json"),
            Sdxl => include_str!("../configs/sdxl_scheduler.json"),
            Flux if guidance_embedded => include_str!("../configs/flux_dev_scheduler.json"),
            Flux => include_str!("../configs/flux_schnell_scheduler.json"),
        }
    }

    /// Number of steps that a generation from a picture runs, of `steps` steps from noise. FLUX.1's pipeline rounds up,
    /// Stable Diffusion's rounds down.
    pub fn steps_taken(self, steps: u32, strength: f64) -> u32 {
        let (all, taken) = (f64::from(steps), f64::from(steps) * strength);
        if self.matches_flow() { steps - (all - taken) as u32 } else { taken as u32 }
    }

    /// Channels of its autoencoder's latents.
    pub const fn latent_channels(self) -> usize {
        match self {
            Flux => 16,
            Sd15 | Sd21 | Sdxl => 4,
        }
    }

    /// The family whose tiny decoders (TAESD) decode its latents: 2.1 uses those of 1.5.
    pub const fn decoded_as(self) -> Self {
        match self {
            Sd21 => Sd15,
            other => other,
        }
    }

    /// Default values for the optional fields of a request to a checkpoint with these traits.
    pub fn defaults(self, traits: Traits) -> Defaults {
        let factor = traits.vae_factor.unwrap_or(8);
        let flux = Defaults::default();
        match self {
            Flux => {
                // FLUX.1-schnell was distilled to a few steps and does not take a guidance scale.
                let num_inference_steps = if traits.guidance_embedded { flux.num_inference_steps } else { 4 };
                // The transformer works on patches of 2 × 2 latents.
                Defaults {
                    num_inference_steps,
                    takes_guidance: traits.guidance_embedded,
                    size_multiple: 2 * factor,
                    ..flux
                }
            }
            Sd15 | Sd21 | Sdxl => {
                let (usual, guidance) = match self {
                    Sdxl => (128, 5.0),
                    Sd21 => (96, 7.5),
                    _ => (64, 7.5),
                };
                let side = traits.sample_size.unwrap_or(usual).clamp(1, 256) as u32 * factor;
                // A UNet that takes the guidance scale as an input was distilled to a few steps.
                let (num_inference_steps, guidance_scale) =
                    if traits.guidance_embedded { (4, 8.5) } else { (30, guidance) };
                Defaults {
                    num_inference_steps,
                    guidance_scale,
                    true_cfg_scale: 1.0,
                    takes_guidance: true,
                    strength: 0.8,
                    width: side,
                    height: side,
                    size_multiple: factor,
                    scheduler_required: false,
                }
            }
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

impl FromStr for Family {
    type Err = String;

    /// Parses [`Family::as_str`]. Errors: a sentence that lists the families.
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|family| family.as_str() == name).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            format!("There is no family `{name}`; there are {all}.")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for family in Family::ALL {
            assert_eq!(family.as_str().parse(), Ok(family));
            assert!(family.parts().contains(&family.denoiser()));
            for guidance_embedded in [true, false] {
                let config = serde_json::from_str::<serde_json::Value>(family.published_scheduler(guidance_embedded));
                assert!(config.unwrap()["_class_name"].is_string());
            }
        }
        assert!("sd3".parse::<Family>().is_err());
    }

    #[test]
    fn defaults_follow_from_the_traits() {
        let side = |family: Family| family.defaults(Traits::default()).width;
        assert_eq!([Sd15, Sd21, Sdxl, Flux].map(side), [512, 768, 1024, 1024]);
        let steps = |family: Family, guidance_embedded| {
            let defaults = family.defaults(Traits { guidance_embedded, ..Traits::default() });
            (defaults.num_inference_steps, defaults.guidance_scale)
        };
        assert_eq!([steps(Flux, true), steps(Flux, false)], [(28, 3.5), (4, 3.5)]);
        assert_eq!([steps(Sd15, true), steps(Sd15, false)], [(4, 8.5), (30, 7.5)]);
        assert_eq!(steps(Sdxl, false), (30, 5.0));
        let multiple = |family: Family, factor| {
            family.defaults(Traits { vae_factor: Some(factor), ..Traits::default() }).size_multiple
        };
        assert_eq!([multiple(Flux, 8), multiple(Sd15, 8), multiple(Sd15, 1)], [16, 8, 1]);
    }

    #[test]
    fn flux_rounds_steps_up_and_the_others_round_down() {
        assert_eq!([Flux, Sdxl].map(|family| family.steps_taken(4, 0.1)), [1, 0]);
        assert_eq!([Flux, Sdxl].map(|family| family.steps_taken(30, 1.0)), [30, 30]);
        assert_eq!([Flux, Sdxl].map(|family| family.steps_taken(30, 0.0)), [0, 0]);
    }
}
