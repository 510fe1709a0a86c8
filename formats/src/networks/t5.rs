//! The T5 encoder of `transformers`, version 1.1: `T5EncoderModel`.

use serde::{Deserialize, Serialize};

use super::{MAX_BLOCKS, MAX_WIDTH, MAX_WORDS, Parameters, are_widths};
use crate::View;

/// The encoder's `config.json`, with the defaults of `transformers`' `T5Config` except for the kind of feed-forward
/// layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub vocab_size: usize,
    pub d_model: usize,
    pub d_kv: usize,
    pub d_ff: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub relative_attention_num_buckets: usize,
    pub relative_attention_max_distance: usize,
    pub layer_norm_epsilon: f64,
    pub feed_forward_proj: FeedForwardKind,
}

/// The kind of feed-forward layer. The ungated one of T5 v1.0 is rejected: no image model uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeedForwardKind {
    /// `wo(gelu_tanh(wi_0 x) · wi_1 x)`
    GatedGelu,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: FeedForwardKind::GatedGelu,
        }
    }
}

impl Config {
    /// Checks that a network of this shape can be built.
    ///
    /// # Errors
    /// A part of a sentence.
    pub fn check(&self) -> Result<(), String> {
        let inner = self.d_kv.saturating_mul(self.num_heads);
        let fine = are_widths(&[self.d_model, self.d_kv, self.d_ff, self.num_heads, inner])
            && (1..=MAX_WORDS).contains(&self.vocab_size)
            && (1..=MAX_BLOCKS).contains(&self.num_layers)
            && (4..=MAX_WIDTH).contains(&self.relative_attention_num_buckets)
            && self.relative_attention_max_distance > self.relative_attention_num_buckets / 4;
        if fine { Ok(()) } else { Err(format!("no T5 encoder has this shape: {self:?}")) }
    }

    /// The parameters of an encoder.
    ///
    /// # Errors
    /// Those of [`Config::check`].
    pub fn parameters(&self) -> Result<Parameters, String> {
        self.check()?;
        let (width, inner) = (self.d_model, self.d_kv * self.num_heads);
        let mut all = Parameters::default();
        all.embedding("shared", self.vocab_size, width);
        // The first block computes the bias of all.
        let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias";
        all.embedding(bias, self.relative_attention_num_buckets, self.num_heads);
        for number in 0..self.num_layers {
            let attention = format!("encoder.block.{number}.layer.0");
            for name in ["q", "k", "v"] {
                all.matrix(&format!("{attention}.SelfAttention.{name}"), width, inner);
            }
            all.matrix(&format!("{attention}.SelfAttention.o"), inner, width);
            all.factors(&format!("{attention}.layer_norm"), width);
            let feed_forward = format!("encoder.block.{number}.layer.1");
            all.matrix(&format!("{feed_forward}.DenseReluDense.wi_0"), width, self.d_ff);
            all.matrix(&format!("{feed_forward}.DenseReluDense.wi_1"), width, self.d_ff);
            all.matrix(&format!("{feed_forward}.DenseReluDense.wo"), self.d_ff, width);
            all.factors(&format!("{feed_forward}.layer_norm"), width);
        }
        all.factors("encoder.final_layer_norm", width);
        Ok(all)
    }
}

/// The tensors with the embedding under one of the two names that it may have.
pub fn seen(view: View) -> View {
    view.alias("encoder.embed_tokens.weight", "shared.weight")
}
