//! How the values of a tensor are stored, and what they mean as f32. Where tensors lie is the headers' matter.

use burn::tensor::{DType, bf16, f16};
use serde::Deserialize;

use super::blocks;

/// The dtypes of safetensors, and the block formats that only GGUF has. Whole numbers, booleans and F64 may be in a file as
/// long as nobody asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(non_camel_case_types, clippy::upper_case_acronyms)] // as the formats spell them
pub(super) enum Kind {
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

impl Kind {
    /// Values and bytes of the smallest piece that can be read by itself.
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

    /// Bytes of `shape`; none where the rows are no whole blocks, or where no number could hold it.
    pub fn length(self, shape: &[usize]) -> Option<usize> {
        let (values, bytes) = self.block();
        if values > 1 && !shape.last()?.is_multiple_of(values) {
            return None;
        }
        let all = shape.iter().try_fold(1usize, |all, side| all.checked_mul(*side))?;
        (all / values).checked_mul(bytes)
    }

    /// The dtype of a tensor whose bytes can be used as they are.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::BF16 => Some(DType::BF16),
            _ => None,
        }
    }

    /// Appends the values of whole blocks; false if this kind is not read.
    pub fn widen(self, bytes: &[u8], values: &mut Vec<f32>) -> bool {
        match self {
            Self::F32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::F16 => values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Self::BF16 => values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Self::F8_E4M3 => widen_by_table(bytes, values, e4m3),
            // The upper half of an IEEE half.
            Self::F8_E5M2 => widen_by_table(bytes, values, |byte| f16::from_bits(u16::from(byte) << 8).to_f32()),
            Self::Q4_0 => blocks::widen(bytes, values, blocks::q4_0),
            Self::Q4_1 => blocks::widen(bytes, values, blocks::q4_1),
            Self::Q5_0 => blocks::widen(bytes, values, blocks::q5_0),
            Self::Q5_1 => blocks::widen(bytes, values, blocks::q5_1),
            Self::Q8_0 => blocks::widen(bytes, values, blocks::q8_0),
            Self::Q2_K => blocks::widen(bytes, values, blocks::q2_k),
            Self::Q3_K => blocks::widen(bytes, values, blocks::q3_k),
            Self::Q4_K => blocks::widen(bytes, values, blocks::q4_k),
            Self::Q5_K => blocks::widen(bytes, values, blocks::q5_k),
            Self::Q6_K => blocks::widen(bytes, values, blocks::q6_k),
            Self::F64
            | Self::I64
            | Self::I32
            | Self::I16
            | Self::I8
            | Self::U64
            | Self::U32
            | Self::U16
            | Self::U8
            | Self::BOOL => return false,
        }
        true
    }
}

fn widen_by_table(bytes: &[u8], values: &mut Vec<f32>, value: impl Fn(u8) -> f32) {
    let table: [f32; 256] = std::array::from_fn(|byte| value(byte as u8));
    values.extend(bytes.iter().map(|byte| table[usize::from(*byte)]));
}

/// Four bits of exponent with bias 7, three of mantissa, no infinities
/// (Micikevicius et al., "FP8 Formats for Deep Learning", <https://arxiv.org/abs/2209.05433>).
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}
