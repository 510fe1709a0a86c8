//! Two-dimensional convolution.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;

use super::zeros;

/// `torch.nn.Conv2d` with a square kernel, zero padding, no groups and no dilation.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, kernel, kernel]`
    pub weight: Param<Tensor<4>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// A convolution with a bias.
    pub fn new(inputs: usize, outputs: usize, kernel: usize, device: &Device) -> Self {
        Self {
            weight: zeros([outputs, inputs, kernel, kernel], device),
            bias: Some(zeros([outputs], device)),
            stride: 1,
            padding: 0,
        }
    }

    /// The same convolution with zeros around its input.
    pub fn with_padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The same convolution with a stride.
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// `[batch, in, height, width]` → `[batch, out, height', width']`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "cpu-kernels")]
        if let Some(y) = self.forward_on_cpu(&x, false) {
            return y;
        }
        let (stride, padding) = (self.stride, self.padding);
        conv2d(
            x,
            self.weight.val(),
            self.bias.as_ref().map(|bias| bias.val()),
            ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1),
        )
    }

    /// `[batch, in, height, width]` → half the size, for a kernel of 3 with stride 2: zeros are added below and to the
    /// right only.
    pub fn forward_halving(&self, x: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "cpu-kernels")]
        if let Some(y) = self.forward_on_cpu(&x, true) {
            return y;
        }
        self.forward(x.pad((0, 1, 0, 1), 0.0))
    }

    #[cfg(feature = "cpu-kernels")]
    fn forward_on_cpu(&self, x: &Tensor<4>, halve: bool) -> Option<Tensor<4>> {
        let weight = self.weight.val();
        let bias = self.bias.as_ref()?.val();
        let [batch, inputs, height, width] = x.dims();
        let [outputs, _, kernel, _] = weight.dims();
        if x.dtype() != burn::tensor::DType::F32 {
            return None;
        }
        match (kernel, self.stride, self.padding, halve) {
            (3, 1, 1, false) => super::cpu_kernels::convolve(x, &weight, &bias, false),
            (3, 2, 0, true) if height % 2 == 0 && width % 2 == 0 => {
                super::cpu_kernels::convolve(x, &weight, &bias, true)
            }
            (1, 1, 0, false) => {
                let mixed = weight.reshape([1, outputs, inputs]).expand([batch, outputs, inputs]);
                let y = mixed.matmul(x.clone().reshape([batch, inputs, height * width]));
                Some(y.reshape([batch, outputs, height, width]) + bias.reshape([1, outputs, 1, 1]))
            }
            _ => None,
        }
    }
}
