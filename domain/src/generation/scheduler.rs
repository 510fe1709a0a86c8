//! The solvers that a request may choose, by every name that people know them by. What they compute is in `diffusion`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::Model;
use crate::{Error, Result};

/// A solver of the denoising.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
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

use Scheduler::*;

/// Our name, A1111's, and diffusers' class where it alone says which solver is meant.
const NAMES: [(Scheduler, &str, &str, Option<&str>); 11] = [
    (Ddim, "ddim", "DDIM", Some("DDIMScheduler")),
    (Pndm, "pndm", "PLMS", Some("PNDMScheduler")),
    (Euler, "euler", "Euler", Some("EulerDiscreteScheduler")),
    (EulerAncestral, "euler_ancestral", "Euler a", Some("EulerAncestralDiscreteScheduler")),
    (Dpmpp2m, "dpmpp_2m", "DPM++ 2M", Some("DPMSolverMultistepScheduler")),
    (Dpmpp2mKarras, "dpmpp_2m_karras", "DPM++ 2M Karras", None),
    (Dpmpp2mSde, "dpmpp_2m_sde", "DPM++ 2M SDE", None),
    (Dpmpp2mSdeKarras, "dpmpp_2m_sde_karras", "DPM++ 2M SDE Karras", None),
    (Unipc, "unipc", "UniPC", Some("UniPCMultistepScheduler")),
    (Lcm, "lcm", "LCM", Some("LCMScheduler")),
    (FlowMatchEuler, "flow_match_euler", "Flow Match Euler", Some("FlowMatchEulerDiscreteScheduler")),
];

impl Scheduler {
    pub const ALL: [Self; NAMES.len()] = {
        let mut all = [Ddim; NAMES.len()];
        let mut at = 0;
        while at < NAMES.len() {
            all[at] = NAMES[at].0;
            at += 1;
        }
        all
    };

    /// As A1111 writes it, for people and for the parameters in a picture.
    pub fn title(self) -> &'static str {
        NAMES.iter().find(|(scheduler, ..)| *scheduler == self).map_or("", |(_, _, title, _)| title)
    }

    /// Understands all of its names, whatever their case. Errors: `Invalid` for another name, and for one that does not go with the
    /// family of `model`: FLUX.1 was trained for flow matching, the others for noise.
    pub(super) fn parse(name: &str, model: &Model) -> Result<Self> {
        let known = NAMES.iter().find(|(_, ours, title, class)| {
            [Some(*ours), Some(*title), *class].into_iter().flatten().any(|known| known.eq_ignore_ascii_case(name))
        });
        let Some((scheduler, ..)) = known else {
            let all: Vec<&str> = NAMES.iter().map(|(_, ours, ..)| *ours).collect();
            return Err(Error::invalid("scheduler", format!("There is no `{name}`; there are {}.", all.join(", "))));
        };
        if (*scheduler == FlowMatchEuler) != (model.family == "flux") {
            return Err(Error::invalid(
                "scheduler",
                format!("`{}` is of the family {}, which {name} does not go with.", model.name, model.family),
            ));
        }
        Ok(*scheduler)
    }
}
