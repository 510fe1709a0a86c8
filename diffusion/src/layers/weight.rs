//! The weight of a layer: in the model's dtype, in 16 bits, or packed into fewer bits. The caller chooses how each
//! layer is stored; `checkpoint` converts weights while it reads them.

use burn::module::{Param, ParamId};
use burn::prelude::*;
use burn::tensor::{DType, FloatDType, module};
use memory::{BLOCK, WeightStorage};

use super::cpu_kernels::{self, Rows};
use super::zeros;

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
        if let (DType::F32, Some(rows)) = (dtype, self.rows()) {
            return rows.read_all(self.dims());
        }
        match self {
            Self::Full(weight) => weight.val(),
            Self::Half(weight) => weight.val().cast(dtype),
            Self::Packed(packed) => packed.unpack().reshape(self.dims()).cast(dtype),
        }
    }

    /// The rows of a weight that isn't stored in full. `None` unless it is on the CPU without autodiff.
    fn rows(&self) -> Option<Rows> {
        match self {
            Self::Full(_) => None,
            Self::Half(weight) => Rows::half(&weight.val()),
            Self::Packed(packed) => Rows::packed(&packed.codes.val(), &packed.scales.val()),
        }
    }
}

impl Weight<2> {
    /// `x·Wᵀ + b`: `[rows, in]` → `[rows, out]`. In 16 bits it is the same product as in full, so that weights that 16
    /// bits hold exactly make the same bytes.
    pub(super) fn multiply(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let rows = if let Self::Packed(_) = self { self.rows() } else { None };
        let converted_on_the_way = rows.and_then(|rows| cpu_kernels::multiply(&x, &rows, bias.as_ref()));
        converted_on_the_way.unwrap_or_else(|| {
            let weight = self.value(x.dtype()).transpose();
            module::linear(x, weight, bias)
        })
    }
}

impl<const D: usize> From<Param<Tensor<D>>> for Weight<D> {
    fn from(weight: Param<Tensor<D>>) -> Self {
        Self::Full(weight)
    }
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

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use memory::ComputeType;

    use super::super::packing::{Codes, pack};
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
            assert_eq!(storage.bytes([3, 64], ComputeType::F32), bytes as u64);
        }
        let bits =
            |storage: WeightStorage| storage.bytes([3072, 15360], ComputeType::Bf16) as f64 * 8.0 / (3072.0 * 15360.0);
        assert_eq!(WeightStorage::ALL.map(bits), [16.0, 16.0, 8.5, 4.5]);
        assert_eq!(WeightStorage::Int4.bytes([3, 40], ComputeType::F32), 240, "no whole blocks");
        assert_eq!(WeightStorage::ALL.map(WeightStorage::of_convolution)[2..], [WeightStorage::Int8; 2]);
    }
}
