//! Normalisation layers. All compute in f32 and return the dtype of their input.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::activation::silu;

use super::{NormChanges, NormSlot, cpu_kernels, ones, zeros};

/// `torch.nn.GroupNorm` with weight and bias ([Wu and He 2018](https://arxiv.org/abs/1803.08494)).
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`
    pub weight: Param<Tensor<1>>,
    /// `[channels]`
    pub bias: Param<Tensor<1>>,
    /// Attached adapters.
    pub changes: Option<NormChanges>,
    groups: usize,
    epsilon: f64,
}

impl GroupNorm {
    /// A norm with weight and bias. `channels` must be a multiple of `groups`.
    pub fn new(groups: usize, channels: usize, epsilon: f64, device: &Device) -> Self {
        let [weight, bias] = [ones([channels], device), zeros([channels], device)];
        Self { weight, bias, changes: None, groups, epsilon }
    }

    /// The part that adapters change.
    pub fn slot(&mut self) -> NormSlot<'_> {
        let [width] = self.weight.lazy_shape().dims();
        NormSlot { width, changes: &mut self.changes }
    }

    /// Weight and bias with their changes.
    fn parameters(&self) -> (Tensor<1>, Tensor<1>) {
        let changes = self.changes.as_ref();
        let weight = NormChanges::apply(&self.weight, changes.and_then(|changes| changes.weight.as_ref()));
        (weight, NormChanges::apply(&self.bias, changes.and_then(|changes| changes.bias.as_ref())))
    }

    /// `[batch, channels, height, width]` → the same shape
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if let Some(y) = self.on_cpu(&x, false) {
            return y;
        }
        let [batch, channels, height, width] = x.dims();
        let dtype = x.dtype();
        let grouped = x.cast(DType::F32).reshape([batch, self.groups, channels / self.groups * height * width]);
        let centred = grouped.clone() - grouped.mean_dim(2);
        let variance = centred.clone().square().mean_dim(2);
        // One factor per picture and channel, so that the large tensor is multiplied only once.
        let factor = (variance + self.epsilon).sqrt().recip().expand([batch, self.groups, channels / self.groups]);
        let (weight, bias) = self.parameters();
        let weight = weight.cast(DType::F32).reshape([1, channels, 1, 1]);
        let bias = bias.cast(DType::F32).reshape([1, channels, 1, 1]);
        let factor = factor.reshape([batch, channels, 1, 1]) * weight;
        (centred.reshape([batch, channels, height, width]) * factor + bias).cast(dtype)
    }

    /// The norm followed by SiLU, as in residual blocks.
    pub fn forward_silu(&self, x: Tensor<4>) -> Tensor<4> {
        if let Some(y) = self.on_cpu(&x, true) {
            return y;
        }
        silu(self.forward(x))
    }

    fn on_cpu(&self, x: &Tensor<4>, with_silu: bool) -> Option<Tensor<4>> {
        let (weight, bias) = self.parameters();
        cpu_kernels::normalise(x, &weight, &bias, self.groups, self.epsilon, with_silu)
    }
}

/// `torch.nn.LayerNorm` over the last dimension, with or without weight and bias
/// ([Ba et al. 2016](https://arxiv.org/abs/1607.06450)).
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`; `None` without elementwise affine
    pub weight: Option<Param<Tensor<1>>>,
    /// `[width]`
    pub bias: Option<Param<Tensor<1>>>,
    /// Attached adapters, only with weight and bias.
    pub changes: Option<NormChanges>,
    epsilon: f64,
}

impl LayerNorm {
    /// A norm with weight and bias.
    pub fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        let (weight, bias) = (Some(ones([width], device)), Some(zeros([width], device)));
        Self { weight, bias, changes: None, epsilon }
    }

    /// A norm without parameters (`elementwise_affine=False`).
    pub fn plain(epsilon: f64) -> Self {
        Self { weight: None, bias: None, changes: None, epsilon }
    }

    /// The part that adapters change.
    pub fn slot(&mut self) -> NormSlot<'_> {
        let width = self.weight.as_ref().map_or(0, |weight| weight.lazy_shape().num_elements());
        NormSlot { width, changes: &mut self.changes }
    }

    /// `[.., width]` → the same shape
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let changes = self.changes.as_ref();
        let weight_change = changes.and_then(|changes| changes.weight.as_ref());
        let bias_change = changes.and_then(|changes| changes.bias.as_ref());
        let weight = self.weight.as_ref().map(|weight| NormChanges::apply(weight, weight_change));
        let bias = self.bias.as_ref().map(|bias| NormChanges::apply(bias, bias_change));
        if let Some(y) = cpu_kernels::standardise(&x, weight.as_ref(), bias.as_ref(), self.epsilon) {
            return y;
        }
        let dtype = x.dtype();
        let mut y = standardise(x.cast(DType::F32), self.epsilon);
        if let Some(weight) = weight {
            y = y * weight.cast(DType::F32).unsqueeze();
        }
        if let Some(bias) = bias {
            y = y + bias.cast(DType::F32).unsqueeze();
        }
        y.cast(dtype)
    }
}

/// `norm(x)·(1 + scale) + shift` with a [`LayerNorm::plain`]: the adaptive layer norm of diffusion transformers.
/// Modulates tokens `[batch, tokens, width]` by `[batch, 1, width]`.
pub fn modulate(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>, epsilon: f64) -> Tensor<3> {
    if let Some(y) = cpu_kernels::modulate(&x, &shift, &scale, epsilon) {
        return y;
    }
    LayerNorm::plain(epsilon).forward(x) * (scale + 1.0) + shift
}

/// Root mean square norm over the last dimension ([Zhang and Sennrich 2019](https://arxiv.org/abs/1910.07467)), used
/// by T5 and by FLUX's query and key norms.
///
/// Reference: <https://github.com/huggingface/transformers/blob/6b8b757dfcb582379a64f013cdce46c43629f2b0/src/transformers/models/t5/modeling_t5.py#L241-L263>
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[width]`
    pub weight: Param<Tensor<1>>,
    /// Attached adapters.
    pub changes: Option<NormChanges>,
    epsilon: f64,
}

impl RmsNorm {
    /// A norm with a weight of `width`.
    pub fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        Self { weight: ones([width], device), changes: None, epsilon }
    }

    /// The part that adapters change.
    pub fn slot(&mut self) -> NormSlot<'_> {
        let [width] = self.weight.lazy_shape().dims();
        NormSlot { width, changes: &mut self.changes }
    }

    /// `[.., width]` → the same shape
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let Some(NormChanges { weight, bias }) = &self.changes else {
            return self.scaled(x, self.weight.val());
        };
        let y = self.scaled(x, NormChanges::apply(&self.weight, weight.as_ref()));
        match bias {
            Some(bias) => {
                let dtype = y.dtype();
                y + bias.val().cast(dtype).unsqueeze()
            }
            None => y,
        }
    }

    fn scaled<const D: usize>(&self, x: Tensor<D>, weight: Tensor<1>) -> Tensor<D> {
        if let Some(y) = cpu_kernels::rms(&x, &weight, self.epsilon) {
            return y;
        }
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        let mean_square = x.clone().square().mean_dim(D - 1);
        let y = x * (mean_square + self.epsilon).sqrt().recip();
        (y * weight.cast(DType::F32).unsqueeze()).cast(dtype)
    }
}

/// `(x − mean) / √(variance + epsilon)` over the last dimension, with the biased variance.
fn standardise<const D: usize>(x: Tensor<D>, epsilon: f64) -> Tensor<D> {
    let mean = x.clone().mean_dim(D - 1);
    let centred = x - mean;
    let variance = centred.clone().square().mean_dim(D - 1);
    centred * (variance + epsilon).sqrt().recip()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    /// Sums of another order round about one value in a thousand to its neighbour in bf16. Had the intermediate values
    /// been bf16, every second one would differ.
    fn is_rounded_alike(half: &[f32], full: &[f32]) -> bool {
        let differing = half.iter().zip(full).filter(|(half, full)| half != full);
        let neighbours = |(half, full): &(&f32, &f32)| (*half - *full).abs() <= full.abs() / 128.0;
        half.len() == full.len()
            && differing.clone().count() * 50 <= half.len()
            && differing.clone().all(|pair| neighbours(&pair))
    }

    /// The input is widened and the output rounded; intermediate values are f32.
    #[test]
    fn norms_compute_in_f32_whatever_they_are_given() {
        let device = Device::flex();
        let x = Tensor::<4>::random([2, 8, 3, 5], Distribution::Normal(3.0, 2.0), &device).cast(DType::BF16);
        let flat = x.clone().reshape([2, 24, 5]);
        let data = |x: Tensor<4>| x.cast(DType::F32).into_data().try_to_vec::<f32>().unwrap();
        let rounded = |y: Tensor<4>| data(y.cast(DType::BF16));
        let group = GroupNorm::new(4, 8, 1e-5, &device);
        assert!(is_rounded_alike(&data(group.forward(x.clone())), &rounded(group.forward(x.cast(DType::F32)))));
        let (layer, rms) = (LayerNorm::new(5, 1e-5, &device), RmsNorm::new(5, 1e-6, &device));
        let norms: [&dyn Fn(Tensor<3>) -> Tensor<3>; 2] = [&|x| layer.forward(x), &|x| rms.forward(x)];
        for norm in norms {
            let [half, full] = [flat.clone(), flat.clone().cast(DType::F32)].map(|x| norm(x).unsqueeze::<4>());
            assert_eq!((half.dtype(), full.dtype()), (DType::BF16, DType::F32));
            assert!(is_rounded_alike(&data(half), &rounded(full)));
        }
    }
}
