//! Layers on the CPU as kernels of our own, forward and backward, for training from scratch, where Burn's are dozens of passes
//! over memory. Only with the cargo feature `cpu-kernels`; worth it only when the compiler may use the machine's vector
//! instructions (`-C target-cpu=native`). Each answers `None` for a tensor on another device, which then goes the usual way.

mod convolution;
mod gelu;
mod group_norm;
mod lanes;
mod modulate;
mod rms_norm;
mod rotary;

use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;

pub use convolution::convolve;
pub use gelu::gelu;
pub use group_norm::normalise_silu;
pub use modulate::modulate;
pub use rms_norm::rms;
pub use rotary::rotate;

/// The values of a tensor on the CPU, whether autodiff follows it or not.
fn primitive<const D: usize>(tensor: &Tensor<D>) -> Option<FlexTensor> {
    if let Ok(tensor) = tensor.clone().try_into_primitive::<Flex>() {
        return Some(tensor);
    }
    Some(tensor.clone().try_into_primitive::<Autodiff<Flex>>().ok()?.into_parts().0)
}

/// Values and sizes of a contiguous tensor.
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
