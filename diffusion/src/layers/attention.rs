//! Scaled dot-product attention and the folding of heads. Projections, norms and rotary embeddings belong to the
//! networks, since each paper places them differently.

use burn::prelude::*;
use burn::tensor::ops::AttentionModuleOptions;

/// `softmax(q·kᵀ·scale + bias)·v` ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762)).
///
/// `query`, `key`, `value`: `[batch, heads, length, head]`; `bias`, if any, broadcasts to `[batch, heads, queries, keys]`;
/// `scale` is 1/√head unless given (T5 uses 1).
pub fn attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, bias: Option<Tensor<4>>, scale: Option<f64>) -> Tensor<4> {
    let options = AttentionModuleOptions { scale, ..Default::default() };
    burn::tensor::module::attention(query, key, value, None, bias, options)
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
