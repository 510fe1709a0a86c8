//! Cross-attention to the prompt: transformer blocks over all positions of one level.

use burn::prelude::*;

use super::Config;
use crate::layers::{GroupNorm, LayerNorm, Linear, NamedLayers, attention, gelu_gated, join_heads, split_heads};

/// Epsilons of the norms, which the config does not contain.
const GROUP_EPSILON: f64 = 1e-6;
const LAYER_EPSILON: f64 = 1e-5;
/// How many times wider the hidden layer of a feed-forward layer is.
const EXPANSION: usize = 4;

/// diffusers' `Transformer2DModel`. Files store its projections as matrices or as 1×1 convolutions, which are
/// equivalent.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/transformers/transformer_2d.py#L39-L551>
#[derive(Module, Debug)]
pub(super) struct Transformer2d {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl Transformer2d {
    pub(super) fn new(config: &Config, level: usize, device: &Device) -> Self {
        let channels = config.channels(level);
        let blocks = (0..config.transformer_layers_per_block.at(level))
            .map(|_| TransformerBlock::new(channels, config.heads(level), config.text_width(), device));
        Self {
            norm: GroupNorm::new(config.norm_num_groups, channels, GROUP_EPSILON, device),
            proj_in: Linear::new(channels, channels, device),
            transformer_blocks: blocks.collect(),
            proj_out: Linear::new(channels, channels, device),
        }
    }

    /// `[batch, channels, height, width]` and the prompt `[batch, length, text]` → the shape of the former
    pub(super) fn forward(&self, x: Tensor<4>, text: &Tensor<3>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        // [batch, positions, channels]
        let places = self.norm.forward(x.clone()).reshape([batch, channels, height * width]).swap_dims(1, 2);
        let blocks = self.transformer_blocks.iter();
        let places = blocks.fold(self.proj_in.forward(places), |places, block| block.forward(places, text));
        x + self.proj_out.forward(places).swap_dims(1, 2).reshape([batch, channels, height, width])
    }

    pub(super) fn name_layers<'a>(&'a mut self, path: &str, all: &mut NamedLayers<'a>) {
        all.norm(path, "norm", self.norm.slot());
        all.linear(path, "proj_in", &mut self.proj_in);
        for (number, block) in self.transformer_blocks.iter_mut().enumerate() {
            block.name_layers(&format!("{path}.transformer_blocks.{number}"), all);
        }
        all.linear(path, "proj_out", &mut self.proj_out);
    }
}

/// Self-attention over positions, cross-attention to the prompt, then a feed-forward layer, each with pre-norm and
/// residual.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/attention.py#L752-L1080>
#[derive(Module, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TransformerBlock {
    fn new(width: usize, heads: usize, text: usize, device: &Device) -> Self {
        let norm = || LayerNorm::new(width, LAYER_EPSILON, device);
        Self {
            norm1: norm(),
            attn1: Attention::new(width, width, heads, device),
            norm2: norm(),
            attn2: Attention::new(width, text, heads, device),
            norm3: norm(),
            ff: FeedForward::new(width, device),
        }
    }

    /// `[batch, positions, width]` → the same shape
    fn forward(&self, x: Tensor<3>, text: &Tensor<3>) -> Tensor<3> {
        let normed = self.norm1.forward(x.clone());
        let x = x + self.attn1.forward(normed.clone(), normed);
        let x = x.clone() + self.attn2.forward(self.norm2.forward(x), text.clone());
        x.clone() + self.ff.forward(self.norm3.forward(x))
    }

    fn name_layers<'a>(&'a mut self, path: &str, all: &mut NamedLayers<'a>) {
        for (name, norm) in [("norm1", &mut self.norm1), ("norm2", &mut self.norm2), ("norm3", &mut self.norm3)] {
            all.norm(path, name, norm.slot());
        }
        for (name, attention) in [("attn1", &mut self.attn1), ("attn2", &mut self.attn2)] {
            let path = format!("{path}.{name}");
            let [to_out] = &mut attention.to_out;
            all.linear(&path, "to_q", &mut attention.to_q);
            all.linear(&path, "to_k", &mut attention.to_k);
            all.linear(&path, "to_v", &mut attention.to_v);
            all.linear(&path, "to_out.0", to_out);
        }
        let (up, _, down) = &mut self.ff.net;
        all.linear(path, "ff.net.0.proj", &mut up.proj);
        all.linear(path, "ff.net.2", down);
    }
}

/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/attention_processor.py#L2696-L2787>
#[derive(Module, Debug)]
struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: [Linear; 1],
    heads: usize,
}

impl Attention {
    /// Queries have `width` channels, keys and values `source` channels.
    fn new(width: usize, source: usize, heads: usize, device: &Device) -> Self {
        Self {
            to_q: Linear::without_bias(width, width, device),
            to_k: Linear::without_bias(source, width, device),
            to_v: Linear::without_bias(source, width, device),
            to_out: [Linear::new(width, width, device)],
            heads,
        }
    }

    /// `[batch, positions, width]` and `[batch, length, source]` → the shape of the former
    fn forward(&self, x: Tensor<3>, source: Tensor<3>) -> Tensor<3> {
        let q = split_heads(self.to_q.forward(x), self.heads);
        let k = split_heads(self.to_k.forward(source.clone()), self.heads);
        let v = split_heads(self.to_v.forward(source), self.heads);
        self.to_out[0].forward(join_heads(attention(q, k, v, None, None)))
    }
}

/// GEGLU ([Shazeer 2020](https://arxiv.org/abs/2002.05202)) followed by a linear layer. `net.1` is a dropout without
/// weights.
///
/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/attention.py#L1682-L1742>
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/activations.py#L93-L123>
#[derive(Module, Debug)]
struct FeedForward {
    net: (Gated, Dropout, Linear),
}

#[derive(Module, Debug)]
struct Gated {
    proj: Linear,
}

#[derive(Module, Debug)]
struct Dropout;

impl FeedForward {
    fn new(width: usize, device: &Device) -> Self {
        let inner = EXPANSION * width;
        let up = Gated { proj: Linear::new(width, 2 * inner, device) };
        Self { net: (up, Dropout, Linear::new(inner, width, device)) }
    }

    /// `[batch, positions, width]` → the same shape
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (up, _, down) = &self.net;
        down.forward(gelu_gated(up.proj.forward(x)))
    }
}
