//! LoHa: `ΔW = (w1_a · w1_b) ⊙ (w2_a · w2_b)`, the Hadamard product of FedPara
//! ([Hyeon-Woo et al. 2021](https://arxiv.org/abs/2108.06098)), with or without Tucker cores.

use burn::prelude::*;
use formats::adapter::forms;
use formats::adapter::keys::Share;

use super::{Array, Form};

/// The factors in LyCORIS' layout: with cores, both `a` are `[rank, out]`.
///
/// Reference: <https://github.com/KohakuBlueleaf/LyCORIS/blob/f49d30d670591ec8841d241d79aaa8449b30a715/lycoris/functional/loha.py#L119-L147>
#[derive(Debug, Clone, PartialEq)]
pub(in crate::lora) struct LoHa {
    /// `[out, rank]` and `[out, rank]`
    pub a: [Array; 2],
    /// `[rank, in]` and `[rank, in]`, or `[rank, in · kernel · kernel]`
    pub b: [Array; 2],
    /// `[rank, rank, kernel, kernel]` each
    pub cores: Option<[Array; 2]>,
    shape: [usize; 4],
}

impl LoHa {
    /// `None` if the shapes do not match.
    pub(crate) fn new(a: [Array; 2], b: [Array; 2], cores: Option<[Array; 2]>) -> Option<Self> {
        fn shapes(arrays: &[Array; 2]) -> [&[usize]; 2] {
            arrays.each_ref().map(|array| &*array.shape)
        }
        let shape = forms::loha(shapes(&a), shapes(&b), cores.as_ref().map(shapes))?;
        Some(Self { a, b, cores, shape })
    }

    /// The same for a kernel that LyCORIS flattens along the inputs.
    pub(super) fn with_kernel_of(mut self, [_, inputs, height, width]: [usize; 4]) -> Self {
        if self.cores.is_none() && self.shape[1] == inputs * height * width && self.shape[2..] == [1, 1] {
            self.shape = [self.shape[0], inputs, height, width];
        }
        self
    }

    /// Joins parts that were split from one layer; `None` if they were not.
    pub(crate) fn joined(parts: &[&Self]) -> Option<Self> {
        let (first, rest) = parts.split_first()?;
        let fits = rest.iter().all(|part| part.b == first.b && part.cores.is_none());
        let side = |at: usize| Array::stacked(parts.iter().map(|part| &part.a[at]));
        (fits && first.cores.is_none()).then(|| Self::new([side(0)?, side(1)?], first.b.clone(), None))?
    }

    pub(crate) fn rank(&self) -> usize {
        self.b[0].rows()
    }

    pub(super) fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// A Hadamard product of ranks r and s is a product of rank r·s: `up[o, ij] = w1_a[o, i] · w2_a[o, j]` and
    /// `down[ij, n] = w1_b[i, n] · w2_b[j, n]`. That form is used where it is smaller than ΔW.
    pub(super) fn form(&self, device: &Device) -> Form {
        let [outputs, inputs, height, width] = self.shape;
        let columns = inputs * height * width;
        let ranks = self.b[0].rows() * self.b[1].rows();
        if self.cores.is_some() || 2 * ranks * (outputs + columns) > outputs * columns {
            return Form::Full(self.dense(device));
        }
        let [a1, a2] = self.a.each_ref().map(|a| a.matrix(device));
        let [b1, b2] = self.b.each_ref().map(|b| b.matrix(device));
        let up = a1.unsqueeze_dim::<3>(2) * a2.unsqueeze_dim::<3>(1);
        let down = b1.unsqueeze_dim::<3>(1) * b2.unsqueeze_dim::<3>(0);
        Form::LowRank {
            down: down.reshape([ranks, inputs, height, width]),
            mid: None,
            up: up.reshape([outputs, ranks, 1, 1]),
        }
    }

    pub(super) fn dense(&self, device: &Device) -> Tensor<4> {
        let half = |at: usize| {
            let (a, b) = (self.a[at].matrix(device), self.b[at].matrix(device));
            match &self.cores {
                None => a.matmul(b).reshape(self.shape),
                Some(cores) => super::tucker(cores[at].tensor(device), a, b),
            }
        };
        half(0) * half(1)
    }

    pub(super) fn share(&self, share: Share) -> Option<Self> {
        // With cores, outputs are columns; no convolution is fused.
        if self.cores.is_some() {
            return None;
        }
        let a = [self.a[0].share(share)?, self.a[1].share(share)?];
        let shape = [a[0].rows(), self.shape[1], self.shape[2], self.shape[3]];
        Some(Self { a, b: self.b.clone(), cores: None, shape })
    }
}
