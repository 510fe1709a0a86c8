//! Scaled dot-product attention, and splitting and joining heads. Projections, norms and rotary embeddings belong to
//! the networks, since each paper places them differently.

use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::ops::AttentionModuleOptions;

use super::cpu_kernels;

/// Largest number of scores that is materialised (64 MiB in f32). Above it, Burn's tiled kernel is used.
const WHOLE_SCORES: usize = 1 << 24;

/// `softmax(q·kᵀ·scale + bias)·v` ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762)).
///
/// `query`, `key` and `value` are `[batch, heads, length, head]`. `bias` broadcasts to `[batch, heads, queries, keys]`.
/// `scale` defaults to 1/√head (T5 uses 1). No row may be fully masked.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    bias: Option<Tensor<4>>,
    scale: Option<f64>,
) -> Tensor<4> {
    let [batch, heads, queries, head] = query.dims();
    let [_, _, keys, _] = key.dims();
    let factor = scale.unwrap_or_else(|| (head as f64).powf(-0.5));
    if let Some(y) = cpu_kernels::attend(&query, &key, &value, bias.as_ref(), factor) {
        return y;
    }
    // Burn computes the gradient of its kernel from the same scores, with more passes over them.
    let learns = query.is_autodiff() || key.is_autodiff() || value.is_autodiff();
    // Only text encoders have a bias, and their prompts are short. On a GPU, Burn's kernel would ignore the bias.
    if learns || bias.is_some() || batch * heads * queries * keys <= WHOLE_SCORES {
        return by_scores(query * factor, key, value, bias);
    }
    if query.dtype() != DType::F32 && (head % 16 != 0 || queries % 32 != 0) {
        // On a GPU, Burn's kernel does not support such sizes, and its fallback holds all scores in half precision.
        let rows = (WHOLE_SCORES / (batch * heads * keys)).clamp(1, queries);
        let part = |rows| by_scores(rows, key.clone(), value.clone(), None);
        return Tensor::cat((query * factor).split(rows, 2).into_iter().map(part).collect(), 2);
    }
    let options = AttentionModuleOptions { scale, ..Default::default() };
    burn::tensor::module::attention(query, key, value, None, None, options)
}

/// Divides by the softmax sums at the end, where a row has `head` values instead of one per key. The softmax is f32 for
/// every dtype.
fn by_scores(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, bias: Option<Tensor<4>>) -> Tensor<4> {
    let dtype = value.dtype();
    if dtype != DType::F32 && bias.is_some() {
        // Text encoders have short inputs. T5's scores are not scaled down, so bf16 would lose tenths in the exponent.
        let [query, key, value] = [query, key, value].map(|tensor| tensor.cast(DType::F32));
        return by_scores(query, key, value, bias.map(|bias| bias.cast(DType::F32))).cast(dtype);
    }
    let mut scores = query.matmul(key.swap_dims(2, 3)).cast(DType::F32);
    if let Some(bias) = bias {
        scores = scores + bias;
    }
    // The maximum is a constant per row, so no gradient flows through it.
    let highest = scores.clone().detach().max_dim(3);
    let weights = (scores - highest).exp();
    let sums = weights.clone().sum_dim(3);
    (weights.cast(dtype).matmul(value).cast(DType::F32) / sums).cast(dtype)
}

/// `[batch, length, heads·head]` → `[batch, heads, length, head]`
pub fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, width] = x.dims();
    x.reshape([batch, length, heads, width / heads]).swap_dims(1, 2)
}

/// `[batch, heads, length, head]` → `[batch, length, heads·head]`
pub fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, length, head] = x.dims();
    x.swap_dims(1, 2).reshape([batch, length, heads * head])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    /// bf16 has 8 significant bits: rounding inputs and weights causes errors of about 1 %.
    #[test]
    fn queries_in_parts_give_what_they_give_at_once() {
        let device = Device::flex();
        // Above the limit, and the head size is not a multiple of 16, as in Stable Diffusion 1.
        let shape = [1, 2, 2904, 40];
        let [query, key, value] = [(); 3].map(|()| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device));
        let wanted = attention(query.clone(), key.clone(), value.clone(), None, None);
        let [query, key, value] = [query, key, value].map(|tensor| tensor.cast(DType::BF16));
        let found = attention(query, key, value, None, None).cast(DType::F32);
        let square = |tensor: Tensor<4>| tensor.powi_scalar(2).sum().into_scalar::<f32>();
        let error = (square(found - wanted.clone()) / square(wanted)).sqrt();
        assert!(error < 0.02, "relative error {error}");
    }
}
