//! Converts stored weights to f32 in one pass over all threads: floats of 16 bits, and integers with one scale per
//! block.
//! [`crate::layers::Weight`] defines the formats.

use burn::backend::Flex;
use burn::prelude::*;
use burn::tensor::{DType, bf16, f16};
use memory::BLOCK;
use rayon::prelude::*;

use super::{tensor, values};

/// Values per thread at a time.
const SPAN: usize = 1 << 15;

/// `None` unless the tensor is bf16 or f16 on the CPU without autodiff.
pub(crate) fn widen<const D: usize>(weight: &Tensor<D>) -> Option<Tensor<D>> {
    let shape = weight.dims();
    let weight = weight.clone().try_into_primitive::<Flex>().ok()?;
    let (weight, _) = values(&weight);
    let wide = match weight.dtype() {
        DType::BF16 => each(weight.storage::<bf16>(), |value| f32::from_bits(u32::from(value.to_bits()) << 16)),
        DType::F16 => each(weight.storage::<f16>(), f16::to_f32),
        _ => return None,
    };
    Some(Tensor::from_primitive::<Flex>(tensor(wide, shape)))
}

fn each<T: Copy + Sync>(stored: &[T], wide: impl Fn(T) -> f32 + Sync) -> Vec<f32> {
    let mut all = vec![0.0; stored.len()];
    all.par_chunks_mut(SPAN).zip(stored.par_chunks(SPAN)).for_each(|(all, stored)| {
        for (value, stored) in all.iter_mut().zip(stored) {
            *value = wide(*stored);
        }
    });
    all
}

/// Codes and scales of a packed weight → `[out, in]`. `None` unless both are on the CPU without autodiff.
pub(crate) fn unpack(codes: &Tensor<2, Int>, scales: &Tensor<2>) -> Option<Tensor<2>> {
    let [outputs, blocks] = scales.dims();
    let codes = codes.clone().try_into_primitive::<Flex>().ok()?;
    let scales = scales.clone().try_into_primitive::<Flex>().ok()?;
    let ((codes, _), (scales, _)) = (values(&codes), values(&scales));
    if scales.dtype() != DType::F16 {
        return None;
    }
    let mut all = vec![0.0; outputs * blocks * BLOCK];
    let scales = scales.storage::<f16>();
    match codes.dtype() {
        DType::I8 => fill(&mut all, codes.storage::<i8>(), scales, block_of_8),
        DType::U8 => fill(&mut all, codes.storage::<u8>(), scales, block_of_4),
        _ => return None,
    }
    Some(Tensor::from_primitive::<Flex>(tensor(all, [outputs, blocks * BLOCK])))
}

fn fill<T: Sync, const CODES: usize>(
    all: &mut [f32],
    codes: &[T],
    scales: &[f16],
    block: impl Fn(&[T; CODES], f32, &mut [f32; BLOCK]) + Sync,
) {
    const BLOCKS: usize = SPAN / BLOCK;
    let work = all.par_chunks_mut(SPAN).zip(codes.par_chunks(BLOCKS * CODES)).zip(scales.par_chunks(BLOCKS));
    work.for_each(|((all, codes), scales)| {
        let blocks = all.as_chunks_mut().0.iter_mut().zip(codes.as_chunks().0);
        for ((all, codes), scale) in blocks.zip(scales) {
            block(codes, scale.to_f32(), all);
        }
    });
}

fn block_of_8(codes: &[i8; BLOCK], scale: f32, all: &mut [f32; BLOCK]) {
    for (value, code) in all.iter_mut().zip(codes) {
        *value = f32::from(*code) * scale;
    }
}

fn block_of_4(codes: &[u8; BLOCK / 2], scale: f32, all: &mut [f32; BLOCK]) {
    let (lower, upper) = all.split_at_mut(BLOCK / 2);
    for ((lower, upper), code) in lower.iter_mut().zip(upper).zip(codes) {
        *lower = (f32::from(code & 15) - 8.0) * scale;
        *upper = (f32::from(code >> 4) - 8.0) * scale;
    }
}
