//! How the values of a tensor are stored: the dtypes of safetensors and the tensor types of GGML.
//! `diffusion::checkpoint` decodes the bytes.

use std::fmt;

use serde::Deserialize;

/// The supported types. A file may contain integers, booleans and F64 as long as their values are not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "as the formats spell them")]
pub enum TensorType {
    F64,
    F32,
    F16,
    BF16,
    F8_E4M3,
    F8_E5M2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    BOOL,
    // The block formats occur only in GGUF.
    #[serde(skip)]
    Q4_0,
    #[serde(skip)]
    Q4_1,
    #[serde(skip)]
    Q5_0,
    #[serde(skip)]
    Q5_1,
    #[serde(skip)]
    Q8_0,
    #[serde(skip)]
    Q2_K,
    #[serde(skip)]
    Q3_K,
    #[serde(skip)]
    Q4_K,
    #[serde(skip)]
    Q5_K,
    #[serde(skip)]
    Q6_K,
}

impl TensorType {
    /// Number of values and bytes in the smallest unit that can be read separately.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F64 | Self::I64 | Self::U64 => (1, 8),
            Self::F32 | Self::I32 | Self::U32 => (1, 4),
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => (1, 2),
            Self::F8_E4M3 | Self::F8_E5M2 | Self::I8 | Self::U8 | Self::BOOL => (1, 1),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2_K => (256, 84),
            Self::Q3_K => (256, 110),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
        }
    }

    /// Size in bytes of a tensor of `shape`; `None` if its rows are not complete blocks, or if the number overflows.
    pub fn length(self, shape: &[usize]) -> Option<usize> {
        let (values, bytes) = self.block();
        if values > 1 && !shape.last()?.is_multiple_of(values) {
            return None;
        }
        let all = shape.iter().try_fold(1usize, |all, side| all.checked_mul(*side))?;
        (all / values).checked_mul(bytes)
    }

    /// Whether its values are integers or booleans, which no network here reads.
    pub fn is_integer(self) -> bool {
        matches!(
            self,
            Self::I64 | Self::I32 | Self::I16 | Self::I8 | Self::U64 | Self::U32 | Self::U16 | Self::U8 | Self::BOOL
        )
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
