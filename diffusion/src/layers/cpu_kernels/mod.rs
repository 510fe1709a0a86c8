//! Hand-written f32 kernels for layers on the CPU where Burn's flex backend makes many passes over memory or moves more
//! data than it computes. Some have a backward pass. Each returns `None` for tensors that it does not support, and the
//! caller falls back to tensor operations. Formulas and parameters belong to the layers.

mod attention;
mod convolution;
mod gelu;
mod group_norm;
mod lanes;
mod layer_norm;
mod linear;
mod product;
mod rms_norm;
mod rotary;
mod stored;

use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::DType;

pub(crate) use attention::attend;
pub(crate) use convolution::convolve;
pub(crate) use gelu::{gelu, gelu_gated, gelu_quick};
pub(crate) use group_norm::normalise;
pub(crate) use layer_norm::{modulate, standardise};
pub(crate) use linear::multiply;
pub(crate) use rms_norm::rms;
pub(crate) use rotary::rotate;
pub(crate) use stored::Rows;

/// The values of a tensor on the CPU, with or without autodiff.
fn primitive<const D: usize>(tensor: &Tensor<D>) -> Option<FlexTensor> {
    if let Ok(tensor) = tensor.clone().try_into_primitive::<Flex>() {
        return Some(tensor);
    }
    Some(tensor.clone().try_into_primitive::<Autodiff<Flex>>().ok()?.into_parts().0)
}

/// The values of an f32 tensor on the CPU without autodiff.
fn plain<const D: usize>(tensor: &Tensor<D>) -> Option<FlexTensor> {
    if tensor.dtype() == DType::F32 { tensor.clone().try_into_primitive::<Flex>().ok() } else { None }
}

/// Contiguous values and their shape.
fn values(tensor: &FlexTensor) -> (FlexTensor, Vec<usize>) {
    let tensor = tensor.to_contiguous();
    let dims = tensor.layout().shape().to_vec();
    (tensor, dims)
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

#[cfg(test)]
mod tests;
