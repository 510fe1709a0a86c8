//! The weight of a layer: in the model's dtype, in 16 bits, or packed into fewer bits. The caller chooses how each layer
//! is stored; `checkpoint` converts weights while it reads them.

use std::fmt;
use std::str::FromStr;

use burn::module::{Param, ParamId};
use burn::prelude::*;
use burn::tensor::{DType, FloatDType, f16};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{cpu_kernels, zeros};
use crate::Error;

/// Values per scale, consecutive within a row, as in GGUF's `Q8_0` and `Q4_0`, whose blocks are loaded unchanged.
pub(crate) const BLOCK: usize = 32;
/// Candidate scales of a 4-bit block, as divisors of its largest value. The best one per block leaves an error of 8.2
/// % for normal weights and 10.4 % for heavy-tailed ones (Student's t, 5 degrees of freedom). `Q4_0`, with 8 only,
/// leaves 8.6 % and 10.8 %, and NF4's code book (Dettmers et al. 2023, <https://arxiv.org/abs/2305.14314>) at the
/// same size 9.2 % and 10.6 %.
const DIVISORS: [f32; 9] = [8.0, 6.5, 6.75, 7.0, 7.25, 7.5, 7.75, 8.25, 8.5];

/// How weights are stored in memory. Layers compute in the model's dtype in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightStorage {
    /// In the model's dtype.
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

    /// Bytes of a weight `[outputs, inputs]` in a model of `dtype`.
    pub fn bytes(self, [outputs, inputs]: [usize; 2], dtype: DType) -> u64 {
        let blocks = inputs / BLOCK;
        let row = match self.of_rows(inputs) {
            Self::Int8 => blocks * (BLOCK + 2),
            Self::Int4 => blocks * (BLOCK / 2 + 2),
            Self::Half => inputs * DType::BF16.size(),
            Self::Full => inputs * dtype.size(),
        };
        (outputs * row) as u64
    }

    /// The storage of a convolution where linear layers have this one: never fewer than 8 bits.
    pub fn of_convolution(self) -> Self {
        self.min(Self::Int8)
    }

    /// The storage of rows of `inputs` values. Rows that are not whole blocks, such as those of a first convolution, are
    /// not packed.
    fn of_rows(self, inputs: usize) -> Self {
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
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|storage| storage.to_string() == text);
        found.ok_or_else(|| Error::Invalid(format!("{text:?} is none of full, half, int8 and int4")))
    }
}

/// A matrix `[out, in]` (`D` = 2), or a convolution `[out, in, kernel, kernel]` (`D` = 4).
#[derive(Module, Debug)]
pub enum Weight<const D: usize> {
    Full(Param<Tensor<D>>),
    Half(Param<Tensor<D>>),
    Packed(Packed),
}

/// Integers of few bits, with one scale per block of a row. A convolution is packed as the matrix `[out, in · kernel ·
/// kernel]`. Not trainable.
#[derive(Module, Debug)]
pub struct Packed {
    /// 8 bits: `[out, in]`, signed. 4 bits: `[out, in / 2]`, two values per byte, each offset by 8. The low nibbles
    /// are the first half of a block.
    codes: Param<Tensor<2, Int>>,
    /// `[out, in / 32]`, in f16
    scales: Param<Tensor<2>>,
    /// The side of a convolution's kernel; 1 for a matrix.
    kernel: usize,
}

/// The values that [`Packed`] is loaded from.
pub(crate) struct Codes {
    pub codes: TensorData,
    pub scales: TensorData,
}

impl<const D: usize> Weight<D> {
    /// A weight of zeros, or an empty one for loading.
    pub(super) fn new(shape: [usize; D], storage: WeightStorage, device: &Device) -> Self {
        let row = shape.iter().skip(1).product();
        match storage.of_rows(row) {
            WeightStorage::Full => Self::Full(zeros(shape, device)),
            WeightStorage::Half => Self::Half(zeros(shape, device)),
            packed => Self::Packed(Packed::new([shape[0], row], shape.get(2).copied().unwrap_or(1), packed, device)),
        }
    }

    /// The shape, without reading the values.
    pub fn dims(&self) -> [usize; D] {
        match self {
            Self::Full(weight) | Self::Half(weight) => weight.lazy_shape().dims(),
            Self::Packed(packed) => {
                let [outputs, inputs] = packed.dims();
                std::array::from_fn(|axis| match axis {
                    0 => outputs,
                    1 => inputs / (packed.kernel * packed.kernel),
                    _ => packed.kernel,
                })
            }
        }
    }

    /// How it is stored.
    pub fn storage(&self) -> WeightStorage {
        match self {
            Self::Full(_) => WeightStorage::Full,
            Self::Half(_) => WeightStorage::Half,
            Self::Packed(packed) => packed.storage(),
        }
    }

    /// The values: in their own dtype if they are stored in full, otherwise converted to `dtype` on each call, so that
    /// only one converted layer exists at a time.
    pub fn value(&self, dtype: DType) -> Tensor<D> {
        match self {
            Self::Full(weight) => weight.val(),
            Self::Half(weight) => widen(weight.val(), dtype),
            Self::Packed(packed) => packed.unpack().reshape(self.dims()).cast(dtype),
        }
    }
}

impl<const D: usize> From<Param<Tensor<D>>> for Weight<D> {
    fn from(weight: Param<Tensor<D>>) -> Self {
        Self::Full(weight)
    }
}

fn widen<const D: usize>(weight: Tensor<D>, dtype: DType) -> Tensor<D> {
    let on_the_cpu = if dtype == DType::F32 { cpu_kernels::widen(&weight) } else { None };
    on_the_cpu.unwrap_or_else(|| weight.cast(dtype))
}

impl Packed {
    fn new([outputs, inputs]: [usize; 2], kernel: usize, storage: WeightStorage, device: &Device) -> Self {
        let shape = [outputs, if storage == WeightStorage::Int8 { inputs } else { inputs / 2 }];
        let codes = Param::uninitialized(
            ParamId::new(),
            move |device, _| Tensor::zeros(shape, device),
            device.clone(),
            false,
            shape.into(),
        );
        Self { codes, scales: zeros([outputs, inputs / BLOCK], device), kernel }
    }

    /// The shape as a matrix.
    fn dims(&self) -> [usize; 2] {
        let [outputs, blocks] = self.scales.lazy_shape().dims();
        [outputs, blocks * BLOCK]
    }

    fn storage(&self) -> WeightStorage {
        Self::storage_of(self.codes.lazy_shape().dims(), self.scales.lazy_shape().dims())
    }

    /// The storage that codes and scales of these shapes belong to.
    pub(crate) fn storage_of([_, wide]: [usize; 2], [_, blocks]: [usize; 2]) -> WeightStorage {
        if wide == blocks * BLOCK { WeightStorage::Int8 } else { WeightStorage::Int4 }
    }

    /// `[out, in]` in f32
    fn unpack(&self) -> Tensor<2> {
        if let Some(values) = cpu_kernels::unpack(&self.codes.val(), &self.scales.val()) {
            return values;
        }
        let scales = self.scales.val().cast(DType::F32);
        let ([outputs, blocks], codes) = (scales.dims(), self.codes.val().cast(FloatDType::F32));
        let levels = match self.storage() {
            WeightStorage::Int4 => {
                let pairs = codes.reshape([outputs, blocks, BLOCK / 2]);
                let upper = (pairs.clone() * (1.0 / 16.0)).floor();
                let lower = pairs - upper.clone() * 16.0;
                Tensor::cat(vec![lower, upper], 2) - 8.0
            }
            _ => codes.reshape([outputs, blocks, BLOCK]),
        };
        (levels * scales.unsqueeze_dim::<3>(2)).reshape([outputs, blocks * BLOCK])
    }
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

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    fn packed(values: &[f32], inputs: usize, storage: WeightStorage) -> Vec<f32> {
        let device = Device::flex();
        let Codes { codes, scales } = pack(values, inputs, storage);
        let dtype = codes.dtype();
        let Weight::<2>::Packed(packed) = Weight::new([values.len() / inputs, inputs], storage, &device) else {
            panic!("{inputs} values are whole blocks")
        };
        assert_eq!(packed.codes.lazy_shape(), codes.shape().clone());
        assert_eq!(packed.scales.lazy_shape(), scales.shape().clone());
        let packed = Packed {
            codes: Param::initialized(ParamId::new(), Tensor::from_data(codes, (&device, dtype))),
            scales: Param::from_tensor(Tensor::from_data(scales, (&device, DType::F16))),
            kernel: 1,
        };
        assert_eq!(packed.storage(), storage);
        Weight::<2>::Packed(packed).value(DType::F32).into_data().try_to_vec().unwrap()
    }

    fn relative_error(found: &[f32], wanted: &[f32]) -> f64 {
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
        (square(&mut found.iter().zip(wanted).map(|(a, b)| a - b)) / square(&mut wanted.iter().copied())).sqrt()
    }

    /// The bounds are measured errors, rounded up.
    #[test]
    fn what_packing_leaves_of_normal_weights() {
        let weights = Tensor::<2>::random([200, 96], Distribution::Normal(0.0, 0.02), &Device::flex());
        let weights: Vec<f32> = weights.into_data().try_to_vec().unwrap();
        for (storage, bound) in [(WeightStorage::Int8, 0.006), (WeightStorage::Int4, 0.085)] {
            let error = relative_error(&packed(&weights, 96, storage), &weights);
            assert!(error <= bound, "{storage}: {error}");
        }
    }

    #[test]
    fn levels_come_back_as_they_are() {
        // Scales that f16 can represent, and the largest value of each block on the last level.
        let four: Vec<f32> = (0..64).map(|at| [-8, 7, 0, 3, -5, 1, 6, -2][at % 8] as f32 * 0.25).collect();
        let eight: Vec<f32> = (0..64).map(|at| [127, -127, 0, 64, -1, 90, 33, -100][at % 8] as f32 * 0.125).collect();
        assert_eq!(packed(&four, 32, WeightStorage::Int4), four);
        assert_eq!(packed(&eight, 64, WeightStorage::Int8), eight);
        assert_eq!(packed(&[0.0; 64], 32, WeightStorage::Int4), [0.0; 64]);
    }

    #[test]
    fn packed_bytes_match_the_estimate() {
        for storage in [WeightStorage::Int8, WeightStorage::Int4] {
            let Codes { codes, scales } = pack(&[0.5; 3 * 64], 64, storage);
            let bytes = codes.as_bytes().len() + scales.as_bytes().len();
            assert_eq!(storage.bytes([3, 64], DType::F32), bytes as u64);
        }
        let bits = |storage: WeightStorage| storage.bytes([3072, 15360], DType::BF16) as f64 * 8.0 / (3072.0 * 15360.0);
        assert_eq!(WeightStorage::ALL.map(bits), [16.0, 16.0, 8.5, 4.5]);
        assert_eq!(WeightStorage::Int4.bytes([3, 40], DType::F32), 240, "no whole blocks");
        assert_eq!(WeightStorage::ALL.map(WeightStorage::of_convolution)[2..], [WeightStorage::Int8; 2]);
    }
}
