//! The packed format of weights: integers of few bits with one scale per block. [`super::Weight`] holds them, and
//! `cpu_kernels` unpacks them.

use burn::tensor::{DType, TensorData, f16};
use memory::{BLOCK, WeightStorage};
use rayon::prelude::*;

/// Candidate scales of a 4-bit block, as divisors of its largest value. The best one per block leaves an error of 8.2
/// % for normal weights and 10.4 % for heavy-tailed ones (Student's t, 5 degrees of freedom). `Q4_0`, with 8 only,
/// leaves 8.6 % and 10.8 %, and NF4's code book (Dettmers et al. 2023, <https://arxiv.org/abs/2305.14314>) at the
/// same size 9.2 % and 10.6 %.
const DIVISORS: [f32; 9] = [8.0, 6.5, 6.75, 7.0, 7.25, 7.5, 7.75, 8.25, 8.5];

/// The values that [`super::Packed`] is loaded from.
pub(crate) struct Codes {
    pub codes: TensorData,
    pub scales: TensorData,
}

/// Packs the rows of a matrix. `inputs`, the number of columns, must be a multiple of the block size.
pub(crate) fn pack(values: &[f32], inputs: usize, storage: WeightStorage) -> Codes {
    let rows = values.len() / inputs.max(1);
    let (bytes, dtype) = match storage {
        WeightStorage::Int4 => (BLOCK / 2, DType::U8),
        _ => (BLOCK, DType::I8),
    };
    let mut codes = vec![0; values.len() / BLOCK * bytes];
    let mut scales = vec![f16::ZERO; values.len() / BLOCK];
    let blocks = codes.par_chunks_mut(bytes).zip(&mut scales).zip(values.as_chunks().0);
    blocks.for_each(|((codes, scale), block)| {
        *scale = match storage {
            WeightStorage::Int4 => pack_4(block, codes),
            _ => pack_8(block, codes),
        };
    });
    Codes {
        codes: TensorData::from_bytes_vec(codes, [rows, inputs / BLOCK * bytes], dtype),
        scales: TensorData::new(scales, [rows, inputs / BLOCK]),
    }
}

/// The value with the largest magnitude, with its sign.
fn farthest(block: &[f32; BLOCK]) -> f32 {
    block.iter().fold(0.0, |far: f32, value| if value.abs() > far.abs() { *value } else { far })
}

/// The finite stored scale, and the factor that maps values to codes.
fn stored(scale: f32) -> (f16, f32) {
    let scale = f16::from_f32(scale.clamp(-65504.0, 65504.0));
    (scale, if scale == f16::ZERO { 0.0 } else { scale.to_f32().recip() })
}

fn pack_8(block: &[f32; BLOCK], codes: &mut [u8]) -> f16 {
    let (scale, factor) = stored(farthest(block).abs() / 127.0);
    for (code, value) in codes.iter_mut().zip(block) {
        *code = (value * factor).round().clamp(-127.0, 127.0) as i8 as u8;
    }
    scale
}

fn pack_4(block: &[f32; BLOCK], codes: &mut [u8]) -> f16 {
    let far = farthest(block);
    let level = |value: f32, factor: f32| (value * factor).round().clamp(-8.0, 7.0);
    let (mut best, mut least) = (stored(0.0), f32::INFINITY);
    for divisor in DIVISORS {
        // There is one more negative level than positive ones, and the largest value uses it.
        let (scale, factor) = stored(-far / divisor);
        let wide = scale.to_f32();
        let error: f32 = block.iter().map(|value| (level(*value, factor) * wide - value).powi(2)).sum();
        if error < least {
            (best, least) = ((scale, factor), error);
        }
    }
    let (scale, factor) = best;
    let (first, second) = block.split_at(BLOCK / 2);
    for ((code, lower), upper) in codes.iter_mut().zip(first).zip(second) {
        let nibble = |value: f32| (level(value, factor) + 8.0) as u8;
        *code = nibble(*lower) | nibble(*upper) << 4;
    }
    scale
}
