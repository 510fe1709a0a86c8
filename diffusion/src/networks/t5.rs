//! The T5 encoder: relative positions as an attention bias, RMS norms, gated feed-forward layers.
//!
//! Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
//! <https://arxiv.org/abs/1910.10683>, version 1.1. Keys are those of `transformers`' `T5EncoderModel`. The decoder
//! is not implemented.
#![allow(non_snake_case, reason = "the checkpoint's keys")]

use burn::prelude::*;
use burn::tensor::DType;
use formats::networks::t5;
pub use formats::networks::t5::{Config, FeedForwardKind};

use crate::checkpoint::{self, Checkpoint};
use crate::error::Result;
use crate::layers::{Embedding, Linear, NamedLayers, RmsNorm, attention, gelu_tanh, join_heads, split_heads};

/// The whole encoder.
///
/// Reference: <https://github.com/google-research/t5x/blob/cc342d419ec3e3e9c4bf1df33c82330cafdc1e16/t5x/examples/t5/network.py#L182-L219>
#[derive(Module, Debug)]
pub struct T5Encoder {
    shared: Embedding,
    encoder: Stack,
}

/// Reference: <https://github.com/huggingface/transformers/blob/6b8b757dfcb582379a64f013cdce46c43629f2b0/src/transformers/models/t5/modeling_t5.py#L889-L906>
#[derive(Module, Debug)]
struct Stack {
    block: Vec<Block>,
    final_layer_norm: RmsNorm,
}

/// References:
/// - <https://github.com/huggingface/transformers/blob/6b8b757dfcb582379a64f013cdce46c43629f2b0/src/transformers/models/t5/modeling_t5.py#L653-L750>
/// - <https://github.com/google-research/t5x/blob/cc342d419ec3e3e9c4bf1df33c82330cafdc1e16/t5x/examples/t5/network.py#L47-L96>
#[derive(Module, Debug)]
struct Block {
    layer: (AttentionLayer, FeedForwardLayer),
}

/// Reference: <https://github.com/huggingface/transformers/blob/6b8b757dfcb582379a64f013cdce46c43629f2b0/src/transformers/models/t5/modeling_t5.py#L579-L612>
#[derive(Module, Debug)]
struct AttentionLayer {
    SelfAttention: SelfAttention,
    layer_norm: RmsNorm,
}

/// Reference: <https://github.com/huggingface/transformers/blob/6b8b757dfcb582379a64f013cdce46c43629f2b0/src/transformers/models/t5/modeling_t5.py#L351-L576>
#[derive(Module, Debug)]
struct SelfAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// Present in the first block only; the others reuse the bias that it computes.
    relative_attention_bias: Option<Embedding>,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    max_distance: usize,
}

/// Reference: <https://github.com/huggingface/transformers/blob/6b8b757dfcb582379a64f013cdce46c43629f2b0/src/transformers/models/t5/modeling_t5.py#L333-L348>
#[derive(Module, Debug)]
struct FeedForwardLayer {
    DenseReluDense: FeedForward,
    layer_norm: RmsNorm,
}

/// Reference: <https://github.com/huggingface/transformers/blob/6b8b757dfcb582379a64f013cdce46c43629f2b0/src/transformers/models/t5/modeling_t5.py#L304-L330>
#[derive(Module, Debug)]
struct FeedForward {
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
}

impl T5Encoder {
    /// An encoder to load weights into or to train.
    pub fn new(config: &Config, device: &Device) -> Self {
        let block = (0..config.num_layers).map(|index| Block::new(config, index == 0, device)).collect();
        Self {
            shared: Embedding::new(config.vocab_size, config.d_model, device),
            encoder: Stack { block, final_layer_norm: RmsNorm::new(config.d_model, config.layer_norm_epsilon, device) },
        }
    }

    /// Loads a text encoder's folder strictly. The embedding may have either of its two names, or both.
    pub fn load(self, checkpoint: Checkpoint, dtype: DType) -> Result<Self> {
        let checkpoint = checkpoint.with_names(t5::seen);
        checkpoint::load_strict(self, &checkpoint, dtype)
    }

    /// Encodes prompts that are padded to equal length: ids `[batch, length]` → `[batch, length, d_model]`.
    /// Padding is not masked, as in diffusers' FLUX pipeline.
    pub fn forward(&self, ids: &[Vec<i64>]) -> Tensor<3> {
        let device = &self.shared.weight.val().device();
        let (batch, length) = (ids.len(), ids.first().map_or(0, Vec::len));
        let flat: Vec<i64> = ids.iter().flatten().copied().collect();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(flat, [batch, length]), device);
        // The residual stream grows large and receives small updates, so it is f32 regardless of the dtype of the
        // weights.
        let embedded = self.shared.forward(tokens);
        let dtype = embedded.dtype();
        let mut hidden = embedded.cast(DType::F32);
        let bias =
            self.encoder.block.iter().find_map(|block| block.layer.0.SelfAttention.position_bias(length, device));
        for block in &self.encoder.block {
            hidden = block.forward(hidden, bias.clone(), dtype);
        }
        self.encoder.final_layer_norm.forward(hidden).cast(dtype)
    }

    /// Every layer that adapters can be attached to.
    pub fn layers(&mut self) -> NamedLayers<'_> {
        let mut all = NamedLayers::default();
        for (number, Block { layer: (attention, feed_forward) }) in self.encoder.block.iter_mut().enumerate() {
            let path = format!("encoder.block.{number}.layer");
            let SelfAttention { q, k, v, o, .. } = &mut attention.SelfAttention;
            let FeedForward { wi_0, wi_1, wo } = &mut feed_forward.DenseReluDense;
            for (name, linear) in [
                ("0.SelfAttention.q", q),
                ("0.SelfAttention.k", k),
                ("0.SelfAttention.v", v),
                ("0.SelfAttention.o", o),
                ("1.DenseReluDense.wi_0", wi_0),
                ("1.DenseReluDense.wi_1", wi_1),
                ("1.DenseReluDense.wo", wo),
            ] {
                all.linear(&path, name, linear);
            }
            all.norm(&path, "0.layer_norm", attention.layer_norm.slot());
            all.norm(&path, "1.layer_norm", feed_forward.layer_norm.slot());
        }
        all.norm("encoder", "final_layer_norm", self.encoder.final_layer_norm.slot());
        all
    }

    /// Every linear layer with its path.
    pub fn linears(&mut self) -> Vec<(String, &mut Linear)> {
        self.layers().linears
    }
}

impl Block {
    fn new(config: &Config, owns_bias: bool, device: &Device) -> Self {
        let (width, inner) = (config.d_model, config.num_heads * config.d_kv);
        let linear = |from, to| Linear::without_bias(from, to, device);
        let attention = SelfAttention {
            q: linear(width, inner),
            k: linear(width, inner),
            v: linear(width, inner),
            o: linear(inner, width),
            relative_attention_bias: owns_bias
                .then(|| Embedding::new(config.relative_attention_num_buckets, config.num_heads, device)),
            heads: config.num_heads,
            max_distance: config.relative_attention_max_distance,
        };
        let feed_forward = FeedForward {
            wi_0: linear(width, config.d_ff),
            wi_1: linear(width, config.d_ff),
            wo: linear(config.d_ff, width),
        };
        let norm = || RmsNorm::new(width, config.layer_norm_epsilon, device);
        Self {
            layer: (
                AttentionLayer { SelfAttention: attention, layer_norm: norm() },
                FeedForwardLayer { DenseReluDense: feed_forward, layer_norm: norm() },
            ),
        }
    }

    /// `hidden` in f32, `[batch, length, d_model]` → the same shape. The layers compute in `dtype`.
    fn forward(&self, hidden: Tensor<3>, bias: Option<Tensor<4>>, dtype: DType) -> Tensor<3> {
        let (attention, feed_forward) = &self.layer;
        let normed = attention.layer_norm.forward(hidden.clone()).cast(dtype);
        let hidden = hidden + attention.SelfAttention.forward(normed, bias).cast(DType::F32);
        let normed = feed_forward.layer_norm.forward(hidden.clone()).cast(dtype);
        hidden + feed_forward.DenseReluDense.forward(normed).cast(DType::F32)
    }
}

impl SelfAttention {
    /// The bias that every block adds to its scores, `[1, heads, length, length]`. `None` for blocks without the table.
    ///
    /// Reference: <https://github.com/huggingface/transformers/blob/6b8b757dfcb582379a64f013cdce46c43629f2b0/src/transformers/models/t5/modeling_t5.py#L451-L469>
    fn position_bias(&self, length: usize, device: &Device) -> Option<Tensor<4>> {
        let table = self.relative_attention_bias.as_ref()?;
        let [buckets, _] = table.weight.dims();
        let indices: Vec<i64> = (0..length * length)
            .map(|at| {
                let (query, key) = (at / length, at % length);
                bucket(key as i64 - query as i64, buckets, self.max_distance) as i64
            })
            .collect();
        let indices = Tensor::<2, Int>::from_data(TensorData::new(indices, [length, length]), device);
        // [query, key, heads] → [1, heads, query, key]
        Some(table.forward(indices).permute([2, 0, 1]).unsqueeze::<4>())
    }

    fn forward(&self, hidden: Tensor<3>, bias: Option<Tensor<4>>) -> Tensor<3> {
        // [batch, heads, length, d_kv]
        let q = split_heads(self.q.forward(hidden.clone()), self.heads);
        let k = split_heads(self.k.forward(hidden.clone()), self.heads);
        let v = split_heads(self.v.forward(hidden), self.heads);
        // T5 does not scale its scores by 1/√d_kv: the scale is absorbed into the weights.
        self.o.forward(join_heads(attention(q, k, v, bias, Some(1.0))))
    }
}

/// The bucket of a distance `key − query`. Each direction has half of the buckets. The first half of those are single
/// steps, the rest are logarithmic; the last one holds everything beyond `max_distance`.
///
/// Reference: <https://github.com/huggingface/transformers/blob/6b8b757dfcb582379a64f013cdce46c43629f2b0/src/transformers/models/t5/modeling_t5.py#L404-L449>
fn bucket(distance: i64, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let side = if distance > 0 { half } else { 0 };
    let steps = distance.unsigned_abs() as usize;
    let exact = half / 2;
    if steps < exact {
        return side + steps;
    }
    // f32 as in the reference, so that rounding puts boundaries into the same bucket
    let ratio =
        (steps as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32 * (half - exact) as f32;
    side + (exact + ratio as usize).min(half - 1)
}

impl FeedForward {
    fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let gate = gelu_tanh(self.wi_0.forward(hidden.clone()));
        self.wo.forward(gate * self.wi_1.forward(hidden))
    }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn distances_fall_into_the_buckets_of_the_paper() {
        // 32 buckets, max_distance 128: 16 per direction, 8 of them exact, then logarithmic
        assert_eq!(bucket(0, 32, 128), 0);
        assert_eq!(bucket(-7, 32, 128), 7);
        assert_eq!(bucket(7, 32, 128), 23);
        assert_eq!(bucket(-8, 32, 128), 8);
        assert_eq!(bucket(-15, 32, 128), 9);
        assert_eq!(bucket(-16, 32, 128), 10);
        assert_eq!(bucket(-127, 32, 128), 15);
        assert_eq!(bucket(4000, 32, 128), 31);
    }
}
