//! Lookup of learned vectors.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::module::embedding;

use super::zeros;

/// `torch.nn.Embedding`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[entries, width]`
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// A table of `entries` vectors.
    pub fn new(entries: usize, width: usize, device: &Device) -> Self {
        Self { weight: zeros([entries, width], device) }
    }

    /// `[batch, length]` → `[batch, length, width]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        embedding(self.weight.val(), ids)
    }
}
