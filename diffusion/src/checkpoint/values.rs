//! The values of stored tensors as f32. `formats` defines the types and the lengths of their blocks.

use std::ops::BitAnd;

use burn::tensor::{DType, TensorData, bf16, f16};
use formats::TensorType;

use super::blocks;

/// The dtype of a tensor whose bytes can be used directly.
pub(super) fn dtype(kind: TensorType) -> Option<DType> {
    match kind {
        TensorType::F32 => Some(DType::F32),
        TensorType::F16 => Some(DType::F16),
        TensorType::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// Appends the values of complete blocks. Returns false if this type is not supported.
pub(super) fn widen(kind: TensorType, bytes: &[u8], values: &mut Vec<f32>) -> bool {
    match kind {
        TensorType::F32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        TensorType::F16 => values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
        TensorType::BF16 => values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
        TensorType::F8_E4M3 => widen_by_table(bytes, values, e4m3),
        // An e5m2 value is the upper byte of an IEEE half.
        TensorType::F8_E5M2 => widen_by_table(bytes, values, |byte| f16::from_bits(u16::from(byte) << 8).to_f32()),
        TensorType::Q4_0 => blocks::widen(bytes, values, blocks::q4_0),
        TensorType::Q4_1 => blocks::widen(bytes, values, blocks::q4_1),
        TensorType::Q5_0 => blocks::widen(bytes, values, blocks::q5_0),
        TensorType::Q5_1 => blocks::widen(bytes, values, blocks::q5_1),
        TensorType::Q8_0 => blocks::widen(bytes, values, blocks::q8_0),
        TensorType::Q2_K => blocks::widen(bytes, values, blocks::q2_k),
        TensorType::Q3_K => blocks::widen(bytes, values, blocks::q3_k),
        TensorType::Q4_K => blocks::widen(bytes, values, blocks::q4_k),
        TensorType::Q5_K => blocks::widen(bytes, values, blocks::q5_k),
        TensorType::Q6_K => blocks::widen(bytes, values, blocks::q6_k),
        // Rounded: no network computes in doubles.
        TensorType::F64 => values.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
        TensorType::I64
        | TensorType::I32
        | TensorType::I16
        | TensorType::I8
        | TensorType::U64
        | TensorType::U32
        | TensorType::U16
        | TensorType::U8
        | TensorType::BOOL => return false,
    }
    true
}

/// Whether no value is infinite or NaN. Types other than f32, f16 and bf16 count as finite.
pub(super) fn are_finite(data: &TensorData) -> bool {
    // Only infinities and NaN have all exponent bits set.
    match data.dtype() {
        DType::F32 => all_below(data.as_bytes(), |b| u32::from_le_bytes(*b), 0x7f80_0000),
        DType::F16 => all_below(data.as_bytes(), |b| u16::from_le_bytes(*b), 0x7c00),
        DType::BF16 => all_below(data.as_bytes(), |b| u16::from_le_bytes(*b), 0x7f80),
        _ => true,
    }
}

/// Whether all values are 0. Types other than f32, f16 and bf16 count as not.
pub(super) fn are_zero(data: &TensorData) -> bool {
    // A negative zero has the sign bit.
    match data.dtype() {
        DType::F32 => data.as_bytes().as_chunks().0.iter().all(|b| u32::from_le_bytes(*b) << 1 == 0),
        DType::F16 | DType::BF16 => data.as_bytes().as_chunks().0.iter().all(|b| u16::from_le_bytes(*b) << 1 == 0),
        _ => false,
    }
}

/// Whether no number has all bits of `exponent` set. It has no early exit, so that it runs at memory speed.
fn all_below<const N: usize, T: Copy + PartialEq + BitAnd<Output = T>>(
    bytes: &[u8],
    number: impl Fn(&[u8; N]) -> T,
    exponent: T,
) -> bool {
    bytes.as_chunks().0.iter().fold(true, |fine, bytes| fine & (number(bytes) & exponent != exponent))
}

/// One stored number of any type but the block formats. `None` if the bytes are not exactly one.
pub(super) fn number(kind: TensorType, bytes: &[u8]) -> Option<f64> {
    // Every other type is read as f32, which is exact for 8 and 16 bits.
    let narrow = |kind| {
        let mut values = Vec::new();
        widen(kind, bytes, &mut values);
        match values.as_slice() {
            [value] => Some(f64::from(*value)),
            _ => None,
        }
    };
    Some(match kind {
        TensorType::F64 => f64::from_le_bytes(bytes.try_into().ok()?),
        TensorType::I64 => i64::from_le_bytes(bytes.try_into().ok()?) as f64,
        TensorType::U64 => u64::from_le_bytes(bytes.try_into().ok()?) as f64,
        TensorType::I32 => f64::from(i32::from_le_bytes(bytes.try_into().ok()?)),
        TensorType::U32 => f64::from(u32::from_le_bytes(bytes.try_into().ok()?)),
        TensorType::I16 => f64::from(i16::from_le_bytes(bytes.try_into().ok()?)),
        TensorType::U16 => f64::from(u16::from_le_bytes(bytes.try_into().ok()?)),
        TensorType::I8 => f64::from(i8::from_le_bytes(bytes.try_into().ok()?)),
        TensorType::U8 => f64::from(u8::from_le_bytes(bytes.try_into().ok()?)),
        other => narrow(other)?,
    })
}

fn widen_by_table(bytes: &[u8], values: &mut Vec<f32>, value: impl Fn(u8) -> f32) {
    let table: [f32; 256] = std::array::from_fn(|byte| value(byte as u8));
    values.extend(bytes.iter().map(|byte| table[usize::from(*byte)]));
}

/// Four exponent bits with bias 7, three mantissa bits, no infinities (Micikevicius et al., "FP8 Formats for Deep
/// Learning", <https://arxiv.org/abs/2209.05433>).
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}
