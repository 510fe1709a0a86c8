//! The CLIP text encoder: a causal transformer whose output at the end token is the pooled prompt.
//!
//! Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
//! <https://arxiv.org/abs/2103.00020>. Keys are those of `transformers`' `CLIPTextModel` and
//! `CLIPTextModelWithProjection`, which `formats::networks::clip` lists. The vision tower is not implemented.

use burn::prelude::*;
use burn::tensor::DType;
use formats::networks::clip;
pub use formats::networks::clip::{Activation, Config};

use crate::checkpoint::{self, Checkpoint};
use crate::error::{Error, Result};
use crate::layers::{
    Embedding, LayerNorm, Linear, NamedLayers, attention, gelu_exact, gelu_quick, join_heads, split_heads,
};

/// The encoder's outputs for a batch of prompts.
#[derive(Debug, Clone)]
pub struct ClipOutput {
    /// The input of the first layer and the output of each layer, before the final norm: `[batch, length, hidden]` each
    pub hidden_states: Vec<Tensor<3>>,
    /// The output of the last layer, normalised: `[batch, length, hidden]`
    pub last_hidden_state: Tensor<3>,
    /// `[batch, hidden]`: the state at each prompt's end token
    pub pooled: Tensor<2>,
    /// The pooled state projected to the space shared with images, `[batch, projection_dim]`. `None` without a
    /// projection.
    pub text_embeds: Option<Tensor<2>>,
}

impl ClipOutput {
    /// The states before the last `skipped` layers and before the final norm: `[batch, length, hidden]`.
    ///
    /// # Errors
    /// `skipped` must leave at least one layer.
    pub fn skipping(&self, skipped: usize) -> Result<Tensor<3>> {
        let layers = self.hidden_states.len() - 1;
        match self.hidden_states.iter().rev().nth(skipped) {
            Some(hidden) if skipped < layers => Ok(hidden.clone()),
            _ => Err(Error::Invalid(format!("{skipped} layers cannot be skipped: the text encoder has {layers}"))),
        }
    }
}

/// The whole text encoder.
///
/// Reference: <https://github.com/openai/CLIP/blob/d05afc436d78f1c48dc0dbf8e5980a9d471f35f6/clip/model.py#L343-L356>
#[derive(Module, Debug)]
pub struct ClipTextModel {
    text_model: TextTransformer,
    text_projection: Option<Linear>,
}

#[derive(Module, Debug)]
struct TextTransformer {
    embeddings: Embeddings,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    eos_token_id: i64,
}

/// Reference: <https://github.com/huggingface/transformers/blob/000f1ffdbf1ce6190cc8863af9a2fff817590937/src/transformers/models/clip/modeling_clip.py#L225-L262>
#[derive(Module, Debug)]
struct Embeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

/// Reference: <https://github.com/huggingface/transformers/blob/000f1ffdbf1ce6190cc8863af9a2fff817590937/src/transformers/models/clip/modeling_clip.py#L468-L513>
#[derive(Module, Debug)]
struct Encoder {
    layers: Vec<EncoderLayer>,
}

/// References:
/// - <https://github.com/huggingface/transformers/blob/000f1ffdbf1ce6190cc8863af9a2fff817590937/src/transformers/models/clip/modeling_clip.py#L363-L393>
/// - <https://github.com/openai/CLIP/blob/d05afc436d78f1c48dc0dbf8e5980a9d471f35f6/clip/model.py#L171-L192>
#[derive(Module, Debug)]
struct EncoderLayer {
    self_attn: SelfAttention,
    layer_norm1: LayerNorm,
    mlp: Mlp,
    layer_norm2: LayerNorm,
}

/// Reference: <https://github.com/huggingface/transformers/blob/000f1ffdbf1ce6190cc8863af9a2fff817590937/src/transformers/models/clip/modeling_clip.py#L286-L345>
#[derive(Module, Debug)]
struct SelfAttention {
    k_proj: Linear,
    v_proj: Linear,
    q_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

/// Reference: <https://github.com/huggingface/transformers/blob/000f1ffdbf1ce6190cc8863af9a2fff817590937/src/transformers/models/clip/modeling_clip.py#L348-L360>
#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl ClipTextModel {
    /// An encoder that projects its pooled state: `CLIPTextModelWithProjection`.
    pub fn with_projection(config: &Config, device: &Device) -> Self {
        let projection = Linear::without_bias(config.hidden_size, config.projection_dim, device);
        Self { text_projection: Some(projection), ..Self::new(config, device) }
    }

    /// An encoder to load weights into or to train: `CLIPTextModel`.
    pub fn new(config: &Config, device: &Device) -> Self {
        let width = config.hidden_size;
        let layers = (0..config.num_hidden_layers).map(|_| EncoderLayer::new(config, device)).collect();
        Self {
            text_model: TextTransformer {
                embeddings: Embeddings {
                    token_embedding: Embedding::new(config.vocab_size, width, device),
                    position_embedding: Embedding::new(config.max_position_embeddings, width, device),
                },
                encoder: Encoder { layers },
                final_layer_norm: LayerNorm::new(width, config.layer_norm_eps, device),
                eos_token_id: config.eos_token_id,
            },
            text_projection: None,
        }
    }

    /// Loads a text encoder strictly, with or without what `transformers`' versions add to its keys.
    pub fn load(self, checkpoint: Checkpoint, dtype: DType) -> Result<Self> {
        let checkpoint = checkpoint.with_names(clip::seen);
        if clip::is_bare(checkpoint.view(), self.text_projection.is_some()) {
            return Ok(Self { text_model: checkpoint::load_strict(self.text_model, &checkpoint, dtype)?, ..self });
        }
        checkpoint::load_strict(self, &checkpoint, dtype)
    }

    /// Encodes prompts that are padded to equal length: ids `[batch, length]` → [`ClipOutput`].
    /// Padding is not masked: it follows the end token, and attention is causal.
    pub fn forward(&self, ids: &[Vec<i64>]) -> ClipOutput {
        let output = self.text_model.forward(ids);
        let text_embeds = self.text_projection.as_ref().map(|projection| projection.forward(output.pooled.clone()));
        ClipOutput { text_embeds, ..output }
    }

    /// The norm after the last layer, `[batch, length, hidden]` → the same shape. Stable Diffusion 1 and 2 also apply
    /// it to the states of an earlier layer (`clip_skip`).
    pub fn final_norm(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.text_model.final_layer_norm.forward(hidden)
    }

    /// Every layer that adapters can be attached to.
    pub fn layers(&mut self) -> NamedLayers<'_> {
        let mut all = NamedLayers::default();
        for (number, layer) in self.text_model.encoder.layers.iter_mut().enumerate() {
            let path = format!("text_model.encoder.layers.{number}");
            let EncoderLayer { self_attn, mlp, layer_norm1, layer_norm2 } = layer;
            let SelfAttention { k_proj, v_proj, q_proj, out_proj, .. } = self_attn;
            for (name, linear) in [
                ("self_attn.k_proj", k_proj),
                ("self_attn.v_proj", v_proj),
                ("self_attn.q_proj", q_proj),
                ("self_attn.out_proj", out_proj),
                ("mlp.fc1", &mut mlp.fc1),
                ("mlp.fc2", &mut mlp.fc2),
            ] {
                all.linear(&path, name, linear);
            }
            all.norm(&path, "layer_norm1", layer_norm1.slot());
            all.norm(&path, "layer_norm2", layer_norm2.slot());
        }
        all.norm("text_model", "final_layer_norm", self.text_model.final_layer_norm.slot());
        let projection = self.text_projection.as_mut();
        all.linears.extend(projection.map(|projection| ("text_projection".to_owned(), projection)));
        all
    }

    /// Every linear layer with its path.
    pub fn linears(&mut self) -> Vec<(String, &mut Linear)> {
        self.layers().linears
    }
}

impl TextTransformer {
    fn forward(&self, ids: &[Vec<i64>]) -> ClipOutput {
        let device = &self.embeddings.token_embedding.weight.val().device();
        let (batch, length) = (ids.len(), ids.first().map_or(0, Vec::len));
        let flat: Vec<i64> = ids.iter().flatten().copied().collect();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(flat, [batch, length]), device);
        let positions = Tensor::<1, Int>::arange(0..length as i64, device).unsqueeze::<2>();

        // [batch, length, hidden]; positions are shared by the batch
        let mut hidden =
            self.embeddings.token_embedding.forward(tokens) + self.embeddings.position_embedding.forward(positions);
        // [1, 1, length, length]: −∞ for every later token
        let causal = causal_bias(length, device).cast(hidden.dtype());
        let mut hidden_states = vec![hidden.clone()];
        for layer in &self.encoder.layers {
            hidden = layer.forward(hidden, causal.clone());
            hidden_states.push(hidden.clone());
        }
        let last_hidden_state = self.final_layer_norm.forward(hidden);

        let rows = ids.iter().enumerate().map(|(row, prompt)| {
            let end = end_position(prompt, self.eos_token_id);
            last_hidden_state.clone().narrow(0, row, 1).narrow(1, end, 1).squeeze_dim::<2>(1)
        });
        let pooled = Tensor::cat(rows.collect(), 0);
        ClipOutput { hidden_states, last_hidden_state, pooled, text_embeds: None }
    }
}

/// The position of the end token. Old checkpoints wrongly configure it as 2; for these the highest id is the end token.
/// Without an end token the position is 0, like argmax in the reference.
fn end_position(prompt: &[i64], eos_token_id: i64) -> usize {
    let first_highest = |key: &dyn Fn(i64) -> i64| {
        let mut best = 0;
        for (index, &id) in prompt.iter().enumerate() {
            if key(id) > key(prompt[best]) {
                best = index;
            }
        }
        best
    };
    if eos_token_id == 2 { first_highest(&|id| id) } else { first_highest(&|id| i64::from(id == eos_token_id)) }
}

/// Reference: <https://github.com/openai/CLIP/blob/d05afc436d78f1c48dc0dbf8e5980a9d471f35f6/clip/model.py#L328-L334>
fn causal_bias(length: usize, device: &Device) -> Tensor<4> {
    let values: Vec<f32> =
        (0..length * length).map(|at| if at % length > at / length { f32::NEG_INFINITY } else { 0.0 }).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, length, length]), device)
}

impl EncoderLayer {
    fn new(config: &Config, device: &Device) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let linear = |from, to| Linear::new(from, to, device);
        Self {
            self_attn: SelfAttention {
                k_proj: linear(width, width),
                v_proj: linear(width, width),
                q_proj: linear(width, width),
                out_proj: linear(width, width),
                heads: config.num_attention_heads,
            },
            layer_norm1: LayerNorm::new(width, config.layer_norm_eps, device),
            mlp: Mlp { fc1: linear(width, inner), fc2: linear(inner, width), activation: config.hidden_act },
            layer_norm2: LayerNorm::new(width, config.layer_norm_eps, device),
        }
    }

    fn forward(&self, hidden: Tensor<3>, causal: Tensor<4>) -> Tensor<3> {
        let normed = self.layer_norm1.forward(hidden.clone());
        let hidden = hidden + self.self_attn.forward(normed, causal);
        let normed = self.layer_norm2.forward(hidden.clone());
        hidden + self.mlp.forward(normed)
    }
}

impl SelfAttention {
    fn forward(&self, hidden: Tensor<3>, causal: Tensor<4>) -> Tensor<3> {
        // [batch, heads, length, hidden / heads]
        let q = split_heads(self.q_proj.forward(hidden.clone()), self.heads);
        let k = split_heads(self.k_proj.forward(hidden.clone()), self.heads);
        let v = split_heads(self.v_proj.forward(hidden), self.heads);
        self.out_proj.forward(join_heads(attention(q, k, v, Some(causal), None)))
    }
}

impl Mlp {
    fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let inner = self.fc1.forward(hidden);
        self.fc2.forward(match self.activation {
            Activation::QuickGelu => gelu_quick(inner),
            Activation::Gelu => gelu_exact(inner),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::end_position;

    #[test]
    fn the_prompt_ends_at_its_first_end_token() {
        assert_eq!(end_position(&[49406, 320, 49407, 49407], 49407), 2);
        assert_eq!(end_position(&[5, 7, 6, 6], 6), 2);
        assert_eq!(end_position(&[5, 7, 1, 1], 6), 0, "absent: position 0, as argmax");
    }

    #[test]
    fn legacy_configs_end_at_the_highest_id() {
        assert_eq!(end_position(&[49406, 2, 49407, 49407], 2), 2);
    }
}
