//! The schedulers that a request can name, with all their names, and what a checkpoint's `scheduler_config.json` says
//! about its own. `diffusion::schedulers` implements them.

pub mod config;
pub mod flow;
mod stated;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use stated::{Stated, of_checkpoint};

/// Solver of the denoising. The noise schedule is always that of the model's `scheduler_config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Scheduler {
    Ddim,
    Pndm,
    Euler,
    EulerAncestral,
    #[serde(rename = "dpmpp_2m")]
    Dpmpp2m,
    #[serde(rename = "dpmpp_2m_karras")]
    Dpmpp2mKarras,
    #[serde(rename = "dpmpp_2m_sde")]
    Dpmpp2mSde,
    #[serde(rename = "dpmpp_2m_sde_karras")]
    Dpmpp2mSdeKarras,
    Unipc,
    Lcm,
    FlowMatchEuler,
}

use Scheduler::{
    Ddim, Dpmpp2m, Dpmpp2mKarras, Dpmpp2mSde, Dpmpp2mSdeKarras, Euler, EulerAncestral, FlowMatchEuler, Lcm, Pndm, Unipc,
};

/// Scheduler, our name, the name in A1111's web interface, and the class in diffusers. A class name shared by several
/// schedulers means the first one.
const NAMES: [(Scheduler, &str, &str, &str); 11] = [
    (Ddim, "ddim", "DDIM", "DDIMScheduler"),
    (Pndm, "pndm", "PLMS", "PNDMScheduler"),
    (Euler, "euler", "Euler", "EulerDiscreteScheduler"),
    (EulerAncestral, "euler_ancestral", "Euler a", "EulerAncestralDiscreteScheduler"),
    (Dpmpp2m, "dpmpp_2m", "DPM++ 2M", "DPMSolverMultistepScheduler"),
    (Dpmpp2mKarras, "dpmpp_2m_karras", "DPM++ 2M Karras", "DPMSolverMultistepScheduler"),
    (Dpmpp2mSde, "dpmpp_2m_sde", "DPM++ 2M SDE", "DPMSolverMultistepScheduler"),
    (Dpmpp2mSdeKarras, "dpmpp_2m_sde_karras", "DPM++ 2M SDE Karras", "DPMSolverMultistepScheduler"),
    (Unipc, "unipc", "UniPC", "UniPCMultistepScheduler"),
    (Lcm, "lcm", "LCM", "LCMScheduler"),
    (FlowMatchEuler, "flow_match_euler", "Flow Match Euler", "FlowMatchEulerDiscreteScheduler"),
];

impl Scheduler {
    /// All schedulers, in the order of the documentation.
    pub const ALL: [Self; NAMES.len()] = {
        let mut all = [Ddim; NAMES.len()];
        let mut at = 0;
        while at < NAMES.len() {
            all[at] = NAMES[at].0;
            at += 1;
        }
        all
    };

    /// The name in requests and responses, such as `dpmpp_2m_karras`.
    pub fn as_str(self) -> &'static str {
        self.names().1
    }

    /// The name in A1111's web interface and in the parameters of a picture, such as `DPM++ 2M Karras`.
    pub fn title(self) -> &'static str {
        self.names().2
    }

    /// The class in diffusers, such as `DPMSolverMultistepScheduler`.
    pub fn class_name(self) -> &'static str {
        self.names().3
    }

    /// Whether it integrates a flow, which FLUX.1 was trained for, instead of removing noise.
    pub fn matches_flow(self) -> bool {
        self == FlowMatchEuler
    }

    fn names(self) -> &'static (Self, &'static str, &'static str, &'static str) {
        NAMES.iter().find(|(known, ..)| *known == self).unwrap_or(&NAMES[0])
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scheduler {
    type Err = String;

    /// Accepts any of its names, ignoring case. Errors: a sentence that lists the schedulers.
    fn from_str(name: &str) -> Result<Self, String> {
        let known = NAMES
            .iter()
            .find(|(_, ours, title, class)| [ours, title, class].iter().any(|known| known.eq_ignore_ascii_case(name)));
        known.map(|(scheduler, ..)| *scheduler).ok_or_else(|| {
            let all: Vec<&str> = NAMES.iter().map(|(_, ours, ..)| *ours).collect();
            format!("There is no `{name}`; there are {}.", all.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for scheduler in Scheduler::ALL {
            assert_eq!(serde_json::to_value(scheduler).unwrap(), scheduler.as_str(), "serde's name is ours");
            for name in [scheduler.as_str(), scheduler.title(), &scheduler.title().to_lowercase()] {
                assert_eq!(name.parse(), Ok(scheduler), "{name}");
            }
            let of_class: Scheduler = scheduler.class_name().parse().unwrap();
            assert_eq!(of_class.class_name(), scheduler.class_name());
        }
        assert_eq!("DPMSolverMultistepScheduler".parse(), Ok(Dpmpp2m));
        assert_eq!("PNDMScheduler".parse(), Ok(Pndm));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = "Heun".parse::<Scheduler>().unwrap_err();
        assert!(error.contains("`Heun`") && error.contains("dpmpp_2m_karras"), "{error}");
    }
}
