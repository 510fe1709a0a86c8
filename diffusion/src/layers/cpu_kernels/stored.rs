//! Converts stored weights to f32: floats of 16 bits, and integers with one scale per block.
//! [`crate::layers::Weight`] defines the formats.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use burn::tensor::{DType, bf16, f16};
use half::slice::HalfFloatSliceExt as _;
use memory::BLOCK;
use rayon::prelude::*;

use super::lanes::vectorised;
use super::{tensor, values};

/// Approximate number of values per thread at a time.
const SPAN: usize = 1 << 15;
/// Half a block, whose values are the low or the high nibbles of as many bytes.
const HALF: usize = BLOCK / 2;

/// A stored matrix on the CPU, of which rows are read as f32.
pub(crate) struct Rows {
    stored: Stored,
    count: usize,
    /// Values per row.
    length: usize,
}

enum Stored {
    Bf16(FlexTensor),
    F16(FlexTensor),
    Int8 { codes: FlexTensor, scales: FlexTensor },
    Int4 { codes: FlexTensor, scales: FlexTensor },
}

impl Rows {
    /// Rows along the first axis of a weight. `None` unless it is bf16 or f16 on the CPU without autodiff.
    pub(crate) fn half<const D: usize>(weight: &Tensor<D>) -> Option<Self> {
        let (count, total) = (weight.dims()[0], weight.shape().num_elements());
        let (weight, _) = values(&weight.clone().try_into_primitive::<Flex>().ok()?);
        let stored = match weight.dtype() {
            DType::BF16 => Stored::Bf16(weight),
            DType::F16 => Stored::F16(weight),
            _ => return None,
        };
        Some(Self { stored, count, length: total / count.max(1) })
    }

    /// Rows of a packed weight. `None` unless codes and scales are on the CPU without autodiff.
    pub(crate) fn packed(codes: &Tensor<2, Int>, scales: &Tensor<2>) -> Option<Self> {
        let [count, blocks] = scales.dims();
        let (codes, _) = values(&codes.clone().try_into_primitive::<Flex>().ok()?);
        let (scales, _) = values(&scales.clone().try_into_primitive::<Flex>().ok()?);
        let stored = match (codes.dtype(), scales.dtype()) {
            (DType::I8, DType::F16) => Stored::Int8 { codes, scales },
            (DType::U8, DType::F16) => Stored::Int4 { codes, scales },
            _ => return None,
        };
        Some(Self { stored, count, length: blocks * BLOCK })
    }

    /// The number of rows.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Reads the values of a row from the column `from` on, as many as `out` has. In a packed row, both numbers are
    /// multiples of the block size.
    pub(super) fn read(&self, row: usize, from: usize, out: &mut [f32]) {
        self.read_flat(row * self.length + from, out);
    }

    /// Reads values across rows.
    fn read_flat(&self, at: usize, out: &mut [f32]) {
        let block = at / BLOCK;
        match &self.stored {
            Stored::Bf16(weight) => widen_bf16(out, &weight.storage()[at..]),
            Stored::F16(weight) => weight.storage::<f16>()[at..at + out.len()].convert_to_f32_slice(out),
            Stored::Int8 { codes, scales } => {
                let (codes, scales) = (&codes.storage()[at..], &scales.storage()[block..]);
                unpack(out, codes, scales, unpack_8);
            }
            Stored::Int4 { codes, scales } => {
                let (codes, scales) = (&codes.storage()[at / 2..], &scales.storage()[block..]);
                unpack(out, codes, scales, unpack_4);
            }
        }
    }

    /// All values in one pass over all threads.
    pub(crate) fn read_all<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let mut all = vec![0.0; self.count * self.length];
        let work = all.par_chunks_mut(SPAN).enumerate();
        work.for_each(|(number, values)| self.read_flat(number * SPAN, values));
        Tensor::from_primitive::<Flex>(tensor(all, shape))
    }
}

vectorised! {
    fn widen_bf16<'a>(out: &'a mut [f32], stored: &'a [bf16]) -> () {
        for (value, stored) in out.iter_mut().zip(stored) {
            *value = f32::from_bits(u32::from(stored.to_bits()) << 16);
        }
    }
}

/// Blocks whose scales are converted at once.
const SCALES: usize = 32;

fn unpack<'a, T, const CODES: usize>(
    out: &'a mut [f32],
    codes: &'a [T],
    scales: &[f16],
    blocks: impl Fn(&'a mut [[f32; BLOCK]], &'a [[T; CODES]], [f32; SCALES]),
) {
    let out = out.as_chunks_mut().0.chunks_mut(SCALES);
    for ((out, codes), scales) in out.zip(codes.as_chunks().0.chunks(SCALES)).zip(scales.chunks(SCALES)) {
        let mut wide = [0.0; SCALES];
        scales.convert_to_f32_slice(&mut wide[..scales.len()]);
        blocks(out, codes, wide);
    }
}

vectorised! {
    fn unpack_8<'a>(out: &'a mut [[f32; BLOCK]], codes: &'a [[i8; BLOCK]], scales: [f32; SCALES]) -> () {
        for ((values, codes), scale) in out.iter_mut().zip(codes).zip(scales) {
            for (value, code) in values.iter_mut().zip(codes) {
                *value = f32::from(*code) * scale;
            }
        }
    }
}

vectorised! {
    fn unpack_4<'a>(out: &'a mut [[f32; BLOCK]], codes: &'a [[u8; HALF]], scales: [f32; SCALES]) -> () {
        for ((values, codes), scale) in out.iter_mut().zip(codes).zip(scales) {
            // Of known length, which the compiler needs for vectors that are as long.
            for at in 0..HALF {
                values[at] = (f32::from(codes[at] & 15) - 8.0) * scale;
                values[HALF + at] = (f32::from(codes[at] >> 4) - 8.0) * scale;
            }
        }
    }
}
