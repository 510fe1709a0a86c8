//! Two-dimensional convolution with adapters.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use memory::WeightStorage;

use super::adapted::{Changes, Kronecker};
use super::weight::Weight;
use super::{cpu_kernels, zeros};

/// `torch.nn.Conv2d` with a square kernel, zero padding, no groups and no dilation.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, kernel, kernel]`
    pub weight: Weight<4>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    /// Empty unless an adapter is attached. Checkpoints never hold these.
    pub branches: Vec<ConvBranch>,
    /// Changes by adapters other than low-rank branches. Checkpoints never hold these.
    pub changes: Option<Changes<4>>,
    stride: usize,
    padding: usize,
}

/// One low-rank update of a [`Conv2d`]: LoCon ([Yeh et al. 2023](https://arxiv.org/abs/2309.14859)).
#[derive(Module, Debug)]
pub struct ConvBranch {
    /// `[rank, in, kernel, kernel]`, or a kernel of 1 if there is a core
    pub down: Param<Tensor<4>>,
    /// The core of a Tucker decomposition, `[rank', rank, kernel, kernel]`
    pub mid: Option<Param<Tensor<4>>>,
    /// `[out, rank, 1, 1]`
    pub up: Param<Tensor<4>>,
    /// The scale of the branch: alpha / rank times the adapter's scale.
    pub scale: f64,
}

impl Conv2d {
    /// A convolution with a bias.
    pub fn new(inputs: usize, outputs: usize, kernel: usize, device: &Device) -> Self {
        Self {
            weight: Weight::new([outputs, inputs, kernel, kernel], WeightStorage::Full, device),
            bias: Some(zeros([outputs], device)),
            branches: Vec::new(),
            changes: None,
            stride: 1,
            padding: 0,
        }
    }

    /// Replaces the weight by an empty one for loading into `storage`.
    pub fn store(&mut self, storage: WeightStorage, device: &Device) {
        self.weight = Weight::new(self.weight.dims(), storage, device);
    }

    /// The same convolution with zero padding.
    pub fn with_padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The same convolution with a stride.
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// `[batch, in, height, width]` → `[batch, out, height', width']`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut y = match &self.changes {
            None => self.with(x.clone(), self.weight.value(x.dtype()), self.bias.as_ref().map(|bias| bias.val())),
            Some(changes) => self.changed(changes, x.clone()),
        };
        for branch in &self.branches {
            y = y + self.branch(branch, x.clone());
        }
        y
    }

    /// `[batch, in, height, width]` → half the size, for a 3×3 kernel with stride 2. Zeros are padded below and to
    /// the right only.
    pub fn forward_halving(&self, x: Tensor<4>) -> Tensor<4> {
        if self.branches.is_empty() && self.changes.is_none() {
            let bias = self.bias.as_ref().map(|bias| bias.val());
            let y = cpu_kernels::convolve(&x, &self.weight.value(x.dtype()), bias.as_ref(), self.stride, [0, 1]);
            if let Some(y) = y {
                return y;
            }
        }
        self.forward(x.pad((0, 1, 0, 1), 0.0))
    }

    /// The same convolution with a different weight.
    fn with(&self, x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
        convolve(x, weight, bias, self.stride, self.padding)
    }

    fn changed(&self, changes: &Changes<4>, x: Tensor<4>) -> Tensor<4> {
        let spread = |vector: Tensor<1>| {
            let [channels] = vector.dims();
            vector.reshape([1, channels, 1, 1])
        };
        let with = |x, weight| self.with(x, weight, None);
        let mut y = changes.base(x.clone(), self.weight.value(x.dtype()), &with, &spread);
        for kronecker in &changes.kronecker {
            y = y + self.kronecker(kronecker, x.clone());
        }
        match changes.bias(self.bias.as_ref().map(|bias| bias.val()), y.dtype()) {
            Some(bias) => y + spread(bias),
            None => y,
        }
    }

    fn branch(&self, branch: &ConvBranch, x: Tensor<4>) -> Tensor<4> {
        let dtype = x.dtype();
        let pointwise = |x, weight: Tensor<4>| convolve(x, weight, None, 1, 0);
        let down = branch.down.val().cast(dtype);
        let inner = match &branch.mid {
            None => self.with(x, down, None),
            Some(mid) => self.with(pointwise(x, down), mid.val().cast(dtype), None),
        };
        pointwise(inner, branch.up.val().cast(dtype)) * branch.scale
    }

    /// Applies the right factor to each of the c groups of d channels, then the left factor across groups.
    fn kronecker(&self, kronecker: &Kronecker<4>, x: Tensor<4>) -> Tensor<4> {
        let ([a, c], [b, d, ..]) = (kronecker.left.dims(), kronecker.right.dims());
        let ([batch, _, height, width], dtype) = (x.dims(), x.dtype());
        let groups = x.reshape([batch * c, d, height, width]);
        let inner = self.with(groups, kronecker.right.val().cast(dtype), None);
        let [_, _, height, width] = inner.dims();
        kronecker.across(inner.reshape([batch, c, b * height * width])).reshape([batch, a * b, height, width])
    }
}

fn convolve(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, stride: usize, padding: usize) -> Tensor<4> {
    cpu_kernels::convolve(&x, &weight, bias.as_ref(), stride, [padding; 2])
        .unwrap_or_else(|| conv2d(x, weight, bias, ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1)))
}
