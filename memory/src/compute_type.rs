//! The types in which devices compute.

use serde::{Deserialize, Serialize};

/// The type of activations, and of weights that are stored in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeType {
    /// On the CPU, and on cards without bf16.
    F32,
    Bf16,
}

impl ComputeType {
    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}
