//! The linear layer, and the low-rank branches that adapters hang on it.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::module::linear;

use super::zeros;

/// `y = x·Wᵀ + b + Σ scale·(x·Aᵀ)·Bᵀ`, as `torch.nn.Linear` with any number of LoRA branches at run time
/// ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)).
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    /// Empty unless an adapter is attached. Checkpoints never hold these.
    pub branches: Vec<Branch>,
}

/// One low-rank update of a [`Linear`]. Kept in f32 whatever the dtype of the layer, since training updates it in
/// steps that bf16 would round away.
#[derive(Module, Debug)]
pub struct Branch {
    /// A: `[rank, in]`
    pub down: Param<Tensor<2>>,
    /// B: `[out, rank]`
    pub up: Param<Tensor<2>>,
    /// What the branch is multiplied by: alpha / rank times the scale asked for.
    pub scale: f64,
}

impl Linear {
    /// A layer with a bias.
    pub fn new(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self { bias: Some(zeros([outputs], device)), ..Self::without_bias(inputs, outputs, device) }
    }

    /// A layer without a bias.
    pub fn without_bias(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self { weight: zeros([outputs, inputs], device), bias: None, branches: Vec::new() }
    }

    /// `[.., in]` → `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(|bias| bias.val());
        let mut y = linear(x.clone(), self.weight.val().transpose(), bias);
        for branch in &self.branches {
            y = y + branch.forward(x.clone());
        }
        y
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
