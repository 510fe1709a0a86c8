//! Families of models: which of them run here, and what holds for every model of a family.

use std::fmt;
use std::str::FromStr;

use crate::Scheduler;

/// An architecture. A LoRA runs on checkpoints of its own family only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

use Family::*;

impl Family {
    /// All of them.
    pub const ALL: [Self; 4] = [Flux, Sd15, Sd21, Sdxl];

    /// The name in rows, requests and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Flux => "flux",
            Sd15 => "sd15",
            Sd21 => "sd21",
            Sdxl => "sdxl",
        }
    }

    /// The name for people.
    pub const fn title(self) -> &'static str {
        match self {
            Flux => "FLUX.1",
            Sd15 => "Stable Diffusion 1.5",
            Sd21 => "Stable Diffusion 2.1",
            Sdxl => "Stable Diffusion XL",
        }
    }

    /// Whether its models were trained for flow matching rather than for removing noise.
    pub const fn matches_flow(self) -> bool {
        matches!(self, Flux)
    }

    /// Whether its models can be sampled with `scheduler`.
    pub fn takes(self, scheduler: Scheduler) -> bool {
        self.matches_flow() == scheduler.matches_flow()
    }

    /// Whether `guidance_scale` is an input of the denoiser, and classifier-free guidance is the separate `true_cfg_scale`.
    pub const fn has_distilled_guidance(self) -> bool {
        matches!(self, Flux)
    }

    /// Whether its pipelines can skip the last layers of the CLIP text encoders.
    pub const fn skips_clip_layers(self) -> bool {
        !matches!(self, Flux)
    }

    /// How many of `steps` are taken when a picture is denoised with `strength`, 0 to 1. The pipelines of FLUX.1 round up, the
    /// others down.
    pub fn steps_taken(self, steps: u32, strength: f64) -> u32 {
        let steps = f64::from(steps) * strength;
        (if self == Flux { steps.ceil() } else { steps.floor() }) as u32
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

impl FromStr for Family {
    type Err = String;

    /// Reads [`Family::as_str`]. Errors: a sentence that lists the families.
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|family| family.as_str() == name).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            format!("There is no family `{name}`; there are {all}.")
        })
    }
}
