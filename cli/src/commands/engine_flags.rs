//! Flags of the engine, shared by `up`, `worker` and the engine itself.

use std::ffi::OsString;

use clap::Args;
use diffusion::device::DeviceChoice;
use memory::{Offload, WeightChoice};

use crate::configuration::{ByteSize, said};
use crate::failure::Failure;

/// The device, and the use of its memory.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EngineFlags {
    /// Device: auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Device memory for weights and activations, such as 12GiB [default: 80 % of RAM, 90 % of the card]
    #[arg(long, value_name = "BYTES")]
    pub vram_budget: Option<ByteSize>,
    /// Format of the denoiser's weights: full, half, int8, int4, or auto, the most precise that fits [default: auto]
    #[arg(long, value_name = "STORAGE")]
    pub weights: Option<WeightChoice>,
    /// What may be in host memory beside a card: auto, none, text (encoders) or blocks (of the denoiser) [auto]
    #[arg(long, value_name = "PARTS")]
    pub offload: Option<Offload>,
}

impl EngineFlags {
    /// Fills in the environment's values where no flag is given.
    ///
    /// # Errors
    /// An invalid variable.
    pub(crate) fn or_environment(self) -> Result<Self, Failure> {
        Ok(Self {
            vram_budget: self.vram_budget.map_or_else(|| said("PYROGRAPH_VRAM_BUDGET"), |bytes| Ok(Some(bytes)))?,
            weights: self.weights.map_or_else(|| said("PYROGRAPH_WEIGHTS"), |weights| Ok(Some(weights)))?,
            offload: self.offload.map_or_else(|| said("PYROGRAPH_OFFLOAD"), |offload| Ok(Some(offload)))?,
            ..self
        })
    }

    /// The same flags, for a child process.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let budget = self.vram_budget.map(|ByteSize(bytes)| ("--vram-budget", format!("{bytes}B")));
        let weights = self.weights.map(|weights| ("--weights", weights.to_string()));
        let offload = self.offload.map(|offload| ("--offload", offload.to_string()));
        let all = std::iter::once(("--device", self.device.to_string())).chain(budget).chain(weights).chain(offload);
        all.flat_map(|(flag, value)| [flag.into(), value.into()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        flags: EngineFlags,
    }

    #[test]
    fn flags_come_through_a_process_as_they_are() {
        for line in [
            vec!["program"],
            vec!["program", "--device", "cuda:1", "--vram-budget", "12GiB", "--weights", "int4", "--offload", "text"],
            vec!["program", "--weights", "auto", "--vram-budget", "123B"],
        ] {
            let first = Program::try_parse_from(line).unwrap().flags;
            let again = std::iter::once("program".into()).chain(first.arguments());
            let again = Program::try_parse_from(again).unwrap().flags;
            assert_eq!(again.arguments(), first.arguments());
        }
        assert!(Program::try_parse_from(["program", "--weights", "int3"]).is_err());
        assert!(Program::try_parse_from(["program", "--offload", "everything"]).is_err());
        assert!(Program::try_parse_from(["program", "--vram-budget", "much"]).is_err());
        assert!(Program::try_parse_from(["program", "--vram-budget", "12"]).is_err());
    }
}
