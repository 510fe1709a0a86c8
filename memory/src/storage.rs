//! The formats in which weights are stored, and how many bytes they take.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ComputeType;

/// Values per scale, consecutive within a row, as in GGUF's `Q8_0` and `Q4_0`, whose blocks are loaded unchanged.
pub const BLOCK: usize = 32;

/// How weights are stored in memory. Layers compute in the device's type in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightStorage {
    /// In the type in which the device computes.
    #[default]
    Full,
    /// In 16 bits: bf16 or f16 as in the file, and bf16 if the file has neither. Exact unless the file is wider. On
    /// devices that compute in bf16 this is the same as full.
    Half,
    /// 8 bits and one scale per 32 values: 8.5 bits per value.
    Int8,
    /// 4 bits and one scale per 32 values: 4.5 bits per value.
    Int4,
}

impl WeightStorage {
    /// From the highest to the lowest precision.
    pub const ALL: [Self; 4] = [Self::Full, Self::Half, Self::Int8, Self::Int4];

    /// Bytes of a weight `[outputs, inputs]` where layers compute in `compute`.
    pub fn bytes(self, [outputs, inputs]: [usize; 2], compute: ComputeType) -> u64 {
        let blocks = inputs / BLOCK;
        let row = match self.of_rows(inputs) {
            Self::Int8 => blocks * (BLOCK + 2),
            Self::Int4 => blocks * (BLOCK / 2 + 2),
            Self::Half => inputs * ComputeType::Bf16.bytes(),
            Self::Full => inputs * compute.bytes(),
        };
        (outputs * row) as u64
    }

    /// The storage of a convolution where linear layers have this one: never fewer than 8 bits.
    pub fn of_convolution(self) -> Self {
        self.min(Self::Int8)
    }

    /// The storage of rows of `inputs` values. Rows that are not whole blocks, such as those of a first convolution,
    /// are not packed.
    pub fn of_rows(self, inputs: usize) -> Self {
        if inputs.is_multiple_of(BLOCK) { self } else { self.min(Self::Half) }
    }
}

impl fmt::Display for WeightStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Half => "half",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

impl FromStr for WeightStorage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|storage| storage.to_string() == text);
        found.ok_or_else(|| format!("{text:?} is none of full, half, int8 and int4"))
    }
}
