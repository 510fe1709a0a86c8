//! The linear layer with adapters.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::module;
use memory::WeightStorage;

use super::adapted::{Changes, Kronecker};
use super::weight::Weight;
use super::zeros;

/// `y = x·Wᵀ + b + Σ scale·(x·Aᵀ)·Bᵀ`: `torch.nn.Linear` with any number of LoRA branches
/// ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)).
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Weight<2>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    /// Empty unless an adapter is attached. Checkpoints never hold these.
    pub branches: Vec<Branch>,
    /// Changes by adapters other than low-rank branches. Checkpoints never hold these.
    pub changes: Option<Changes<2>>,
}

/// One low-rank update of a [`Linear`]. Always f32, regardless of the layer's dtype, since bf16 would round away
/// training updates.
#[derive(Module, Debug)]
pub struct Branch {
    /// A: `[rank, in]`
    pub down: Param<Tensor<2>>,
    /// B: `[out, rank]`
    pub up: Param<Tensor<2>>,
    /// The scale of the branch: alpha / rank times the adapter's scale.
    pub scale: f64,
}

impl Linear {
    /// A layer with a bias.
    pub fn new(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self { bias: Some(zeros([outputs], device)), ..Self::without_bias(inputs, outputs, device) }
    }

    /// A layer without a bias.
    pub fn without_bias(inputs: usize, outputs: usize, device: &Device) -> Self {
        let weight = Weight::new([outputs, inputs], WeightStorage::Full, device);
        Self { weight, bias: None, branches: Vec::new(), changes: None }
    }

    /// Replaces the weight by an empty one for loading into `storage`.
    pub fn store(&mut self, storage: WeightStorage, device: &Device) {
        self.weight = Weight::new(self.weight.dims(), storage, device);
    }

    /// `[.., in]` → `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(|bias| bias.val());
        let mut y = match &self.changes {
            None => by_rows(x.clone(), self.weight.dims()[0], |x| self.weight.multiply(x, bias)),
            Some(changes) => self.changed(changes, x.clone(), bias),
        };
        for branch in &self.branches {
            y = y + branch.forward(x.clone());
        }
        y
    }

    fn changed<const D: usize>(&self, changes: &Changes<2>, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        let with = |x: Tensor<D>, weight: Tensor<2>| linear(x, weight.transpose(), None);
        let spread = |vector: Tensor<1>| vector.unsqueeze::<D>();
        let mut y = changes.base(x.clone(), self.weight.value(x.dtype()), &with, &spread);
        for kronecker in &changes.kronecker {
            y = y + kronecker.forward_linear(x.clone());
        }
        match changes.bias(bias, y.dtype()) {
            Some(bias) => y + spread(bias),
            None => y,
        }
    }
}

impl Branch {
    /// `[.., in]` → `[.., out]`, in the dtype of the input.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        let inner = linear(x, self.down.val().transpose().cast(dtype), None);
        linear(inner, self.up.val().transpose().cast(dtype), None) * self.scale
    }
}

impl Kronecker<2> {
    /// `[.., c·d]` → `[.., a·b]`: applies the right factor to each of the c groups, then the left factor across groups.
    fn forward_linear<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let ([a, c], [b, d]) = (self.left.dims(), self.right.dims());
        let (mut shape, dtype) = (x.dims(), x.dtype());
        let rows = shape.iter().product::<usize>() / (c * d);
        let inner = linear(x.reshape([rows * c, d]), self.right.val().cast(dtype).transpose(), None);
        let all = self.across(inner.reshape([rows, c, b])).reshape([rows, a * b]);
        shape[D - 1] = self.outputs;
        all.narrow(1, self.first, self.outputs).reshape(shape)
    }
}

/// `x·W + b`
fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let outputs = weight.dims()[1];
    by_rows(x, outputs, |x| module::linear(x, weight, bias))
}

/// One matrix product over all dimensions but the last. With more dimensions, Burn would first copy a transposed
/// weight.
fn by_rows<const D: usize>(x: Tensor<D>, outputs: usize, product: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<D> {
    let mut shape = x.dims();
    let inputs = shape[D - 1];
    let rows = shape.iter().product::<usize>() / inputs;
    shape[D - 1] = outputs;
    product(x.reshape([rows, inputs])).reshape(shape)
}
