//! Run-time changes of a layer by adapters other than plain LoRA, for linear layers (`D` = 2), convolutions (`D` = 4)
//! and norms. `lora` creates them from files. Low-rank branches belong to the layers themselves.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::DType;

/// The sum of all attached updates. The base weight W never changes.
#[derive(Module, Debug, Default)]
pub struct Changes<const D: usize> {
    /// Factors of the base layer's output without its bias, `[out]`: DoRA's m / ‖W + ΔW‖ over each output's weights
    /// ([Liu et al. 2024](https://arxiv.org/abs/2402.09353)).
    pub output_gain: Option<Param<Tensor<1>>>,
    /// Factors of the base layer's input, `[in]`: the same if the norm is over each input's weights.
    pub input_gain: Option<Param<Tensor<1>>>,
    /// ΔW of updates without a cheaper form, in the shape of the weight.
    pub delta: Option<Param<Tensor<D>>>,
    /// Updates that are Kronecker products.
    pub kronecker: Vec<Kronecker<D>>,
    /// Added to the bias, `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

/// A LoKr update, `ΔW = scale · left ⊗ right` ([Yeh et al. 2023](https://arxiv.org/abs/2309.14859)).
#[derive(Module, Debug)]
pub struct Kronecker<const D: usize> {
    /// `[a, c]`
    pub left: Param<Tensor<2>>,
    /// `[b, d]`, or `[b, d, kernel, kernel]`; a·b outputs and c·d inputs.
    pub right: Param<Tensor<D>>,
    /// The used range of a linear layer's a·b outputs: the layer may be a part of a fused one.
    pub first: usize,
    pub outputs: usize,
    pub scale: f64,
}

/// The sum of all differences attached to a norm. Its own parameters never change.
#[derive(Module, Debug, Default)]
pub struct NormChanges {
    /// Added to the weight, `[channels]`.
    pub weight: Option<Param<Tensor<1>>>,
    /// Added to the bias, `[channels]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl NormChanges {
    /// A parameter with its change.
    pub(super) fn apply(param: &Param<Tensor<1>>, change: Option<&Param<Tensor<1>>>) -> Tensor<1> {
        match change {
            // In f32, since half precision would round small differences away.
            Some(change) => param.val().cast(DType::F32) + change.val(),
            None => param.val(),
        }
    }
}

impl<const D: usize> Changes<D> {
    /// The layer's output without bias. `with` applies the layer with a weight, and `spread` broadcasts a vector
    /// along its channels.
    pub(super) fn base<const X: usize>(
        &self,
        x: Tensor<X>,
        weight: Tensor<D>,
        with: &dyn Fn(Tensor<X>, Tensor<D>) -> Tensor<X>,
        spread: &dyn Fn(Tensor<1>) -> Tensor<X>,
    ) -> Tensor<X> {
        let dtype = x.dtype();
        // Magnitudes are close to 1, and half precision would round the difference away.
        let less_one = |gain: &Param<Tensor<1>>| spread(gain.val() - 1.0).cast(dtype);
        let mut y = with(x.clone(), weight.clone());
        if let Some(gain) = &self.output_gain {
            y = y.clone() + y * less_one(gain);
        }
        if let Some(gain) = &self.input_gain {
            y = y + with(x.clone() * less_one(gain), weight);
        }
        if let Some(delta) = &self.delta {
            y = y + with(x, delta.val().cast(dtype));
        }
        y
    }

    /// The bias with its change.
    pub(super) fn bias(&self, bias: Option<Tensor<1>>, dtype: DType) -> Option<Tensor<1>> {
        match (bias, self.bias.as_ref().map(|bias| bias.val().cast(dtype))) {
            (Some(bias), Some(more)) => Some(bias + more),
            (bias, more) => bias.or(more),
        }
    }
}

impl<const D: usize> Kronecker<D> {
    /// Applies the left factor and the scale: `[rows, c, rest]` → `[rows, a, rest]`.
    pub(super) fn across(&self, x: Tensor<3>) -> Tensor<3> {
        let left = self.left.val().cast(x.dtype()).unsqueeze::<3>();
        left.matmul(x) * self.scale
    }
}
