//! The names by which people ask for a solver: those of diffusers' classes and those of the A1111 web interface. What
//! the solvers do belongs to their own files.

use std::fmt;
use std::str::FromStr;

use super::config::Class;
use crate::{Error, Result};

/// A solver that can be asked for. The noise that a model was trained with stays what its config says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchedulerName {
    Ddim,
    /// As the config has it: with Runge–Kutta steps unless it skips them.
    Pndm,
    /// PNDM without Runge–Kutta steps.
    Plms,
    /// Karras sigmas if the config says so.
    Euler,
    EulerAncestral,
    /// Algorithm and sigmas as the config has them.
    DpmSolverMultistep,
    Dpm2M,
    Dpm2MKarras,
    Dpm2MSde,
    Dpm2MSdeKarras,
    UniPc,
    Lcm,
}

impl SchedulerName {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Ddim,
        Self::Pndm,
        Self::Plms,
        Self::Euler,
        Self::EulerAncestral,
        Self::DpmSolverMultistep,
        Self::Dpm2M,
        Self::Dpm2MKarras,
        Self::Dpm2MSde,
        Self::Dpm2MSdeKarras,
        Self::UniPc,
        Self::Lcm,
    ];

    /// The name as this product writes it: A1111's where there is one.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ddim => "DDIM",
            Self::Plms => "PLMS",
            Self::Euler => "Euler",
            Self::EulerAncestral => "Euler a",
            Self::Dpm2M => "DPM++ 2M",
            Self::Dpm2MKarras => "DPM++ 2M Karras",
            Self::Dpm2MSde => "DPM++ 2M SDE",
            Self::Dpm2MSdeKarras => "DPM++ 2M SDE Karras",
            Self::UniPc => "UniPC",
            Self::Lcm => "LCM",
            Self::Pndm | Self::DpmSolverMultistep => self.class().name(),
        }
    }

    /// The class in diffusers.
    pub fn class(self) -> Class {
        match self {
            Self::Ddim => Class::Ddim,
            Self::Pndm | Self::Plms => Class::Pndm,
            Self::Euler => Class::Euler,
            Self::EulerAncestral => Class::EulerAncestral,
            Self::DpmSolverMultistep | Self::Dpm2M | Self::Dpm2MKarras | Self::Dpm2MSde | Self::Dpm2MSdeKarras => {
                Class::DpmSolverMultistep
            }
            Self::UniPc => Class::UniPc,
            Self::Lcm => Class::Lcm,
        }
    }
}

impl fmt::Display for SchedulerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for SchedulerName {
    type Err = Error;

    /// Either kind of name, in any case.
    fn from_str(name: &str) -> Result<Self> {
        let written = Self::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(name));
        // Of the names that share a class, the first is the one that adds nothing to it.
        let class = || Self::ALL.into_iter().find(|known| known.class().name().eq_ignore_ascii_case(name));
        written.or_else(class).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            Error::Invalid(format!("there is no scheduler {name:?}; there are {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for name in SchedulerName::ALL {
            assert_eq!(name.to_string().to_lowercase().parse::<SchedulerName>().unwrap(), name);
        }
    }

    #[test]
    fn every_class_is_a_name() {
        for class in Class::ALL {
            assert_eq!(class.name().parse::<SchedulerName>().unwrap().class(), class);
        }
        assert_eq!("PNDMScheduler".parse::<SchedulerName>().unwrap(), SchedulerName::Pndm);
        let dpm = "DPMSolverMultistepScheduler".parse::<SchedulerName>().unwrap();
        assert_eq!(dpm, SchedulerName::DpmSolverMultistep);
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let error = "Heun".parse::<SchedulerName>().unwrap_err().to_string();
        assert!(error.contains("\"Heun\"") && error.contains("DPM++ 2M Karras"), "{error}");
    }
}
