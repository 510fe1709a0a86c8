//! The CLIP text encoder of `transformers`: `CLIPTextModel` and `CLIPTextModelWithProjection`.

use serde::{Deserialize, Serialize};

use super::{MAX_BLOCKS, MAX_WORDS, Parameters, are_widths};
use crate::View;

/// The prefix of all keys but that of the projection.
const PREFIX: &str = "text_model.";

/// The encoder's `config.json`, with the defaults of `transformers`' `CLIPTextConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
    pub eos_token_id: i64,
    /// Width of the embedding space that CLIP shares between text and images.
    pub projection_dim: usize,
}

/// The activation of the feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · sigmoid(1.702 x)`
    QuickGelu,
    /// The exact `gelu`.
    Gelu,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
            projection_dim: 512,
        }
    }
}

impl Config {
    /// Checks that a network of this shape can be built.
    ///
    /// # Errors
    /// A part of a sentence.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            self.hidden_size,
            self.intermediate_size,
            self.num_attention_heads,
            self.max_position_embeddings,
            self.projection_dim,
        ];
        let fine = are_widths(&sizes)
            && (1..=MAX_WORDS).contains(&self.vocab_size)
            && self.num_hidden_layers <= MAX_BLOCKS
            && self.hidden_size.is_multiple_of(self.num_attention_heads);
        if fine { Ok(()) } else { Err(format!("no CLIP text encoder has this shape: {self:?}")) }
    }

    /// The parameters of an encoder, with or without the projection of its output.
    ///
    /// # Errors
    /// Those of [`Config::check`].
    pub fn parameters(&self, projects: bool) -> Result<Parameters, String> {
        self.check()?;
        let (width, inner) = (self.hidden_size, self.intermediate_size);
        let mut all = Parameters::default();
        all.embedding("text_model.embeddings.token_embedding", self.vocab_size, width);
        all.embedding("text_model.embeddings.position_embedding", self.max_position_embeddings, width);
        for number in 0..self.num_hidden_layers {
            let layer = format!("text_model.encoder.layers.{number}");
            for name in ["k_proj", "v_proj", "q_proj", "out_proj"] {
                all.linear(&format!("{layer}.self_attn.{name}"), width, width);
            }
            all.linear(&format!("{layer}.mlp.fc1"), width, inner);
            all.linear(&format!("{layer}.mlp.fc2"), inner, width);
            all.norm(&format!("{layer}.layer_norm1"), width);
            all.norm(&format!("{layer}.layer_norm2"), width);
        }
        all.norm("text_model.final_layer_norm", width);
        if projects {
            all.matrix("text_projection", width, self.projection_dim);
        }
        Ok(all)
    }
}

/// The tensors without the position indices, which old versions of `transformers` wrote.
pub fn seen(view: View) -> View {
    view.without("text_model.embeddings.position_ids")
}

/// Whether the keys of an encoder's file lack the prefix `text_model.`: `transformers` 5 omits it if there is no
/// projection.
pub fn is_bare(view: &View, projects: bool) -> bool {
    !projects && !view.names().any(|name| name.starts_with(PREFIX))
}

/// A key without the prefix.
pub(super) fn without_prefix(key: &str) -> &str {
    key.strip_prefix(PREFIX).unwrap_or(key)
}
