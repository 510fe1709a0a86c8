//! The transformer of FLUX.1: diffusers' `FluxTransformer2DModel`.

use serde::{Deserialize, Serialize};

use super::{MAX_BLOCKS, MAX_WIDTH, Parameters, are_widths};

/// Number of sinusoids in the embeddings of the timestep and of the guidance scale.
pub const TIME_CHANNELS: usize = 256;
/// The keys of the lists of blocks.
pub const DOUBLE_BLOCKS: &str = "transformer_blocks";
pub const SINGLE_BLOCKS: &str = "single_transformer_blocks";

/// Whether a LoRA is trained on a linear layer with this path: on those of the blocks, except those that modulate
/// norms.
pub fn is_trained(path: &str) -> bool {
    path.contains("transformer_blocks.") && !path.contains(".norm")
}

/// The transformer's `config.json`, with the defaults of diffusers' `FluxTransformer2DModel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub patch_size: usize,
    pub in_channels: usize,
    pub out_channels: Option<usize>,
    pub num_layers: usize,
    pub num_single_layers: usize,
    pub attention_head_dim: usize,
    pub num_attention_heads: usize,
    pub joint_attention_dim: usize,
    pub pooled_projection_dim: usize,
    pub guidance_embeds: bool,
    pub axes_dims_rope: [usize; 3],
}

impl Default for Config {
    fn default() -> Self {
        Self {
            patch_size: 1,
            in_channels: 64,
            out_channels: None,
            num_layers: 19,
            num_single_layers: 38,
            attention_head_dim: 128,
            num_attention_heads: 24,
            joint_attention_dim: 4096,
            pooled_projection_dim: 768,
            guidance_embeds: false,
            axes_dims_rope: [16, 56, 56],
        }
    }
}

impl Config {
    /// The width of the token streams.
    pub fn width(&self) -> usize {
        self.attention_head_dim.saturating_mul(self.num_attention_heads)
    }

    /// The path of each block, in the order in which they run.
    pub fn block_paths(&self) -> Vec<String> {
        let paths = |list: &'static str, count: usize| (0..count).map(move |number| format!("{list}.{number}"));
        paths(DOUBLE_BLOCKS, self.num_layers).chain(paths(SINGLE_BLOCKS, self.num_single_layers)).collect()
    }

    /// Channels of the output.
    pub fn outputs(&self) -> usize {
        self.out_channels.unwrap_or(self.in_channels)
    }

    /// Checks that a network of this shape can be built.
    ///
    /// # Errors
    /// A part of a sentence.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            self.in_channels,
            self.outputs(),
            self.attention_head_dim,
            self.num_attention_heads,
            self.joint_attention_dim,
            self.pooled_projection_dim,
        ];
        let fine = are_widths(&sizes)
            && self.width() <= MAX_WIDTH
            && self.num_layers.max(self.num_single_layers) <= MAX_BLOCKS
            && self.patch_size == 1
            && self.axes_dims_rope.iter().all(|dims| dims % 2 == 0 && *dims <= MAX_WIDTH)
            && self.axes_dims_rope.iter().sum::<usize>() == self.attention_head_dim;
        if fine { Ok(()) } else { Err(format!("no FLUX.1 transformer has this shape: {self:?}")) }
    }

    /// The parameters of a transformer.
    ///
    /// # Errors
    /// Those of [`Config::check`].
    pub fn parameters(&self) -> Result<Parameters, String> {
        self.check()?;
        let width = self.width();
        let mut all = Parameters::default();
        let guidance = self.guidance_embeds.then_some(("guidance_embedder", TIME_CHANNELS));
        let others = [("timestep_embedder", TIME_CHANNELS), ("text_embedder", self.pooled_projection_dim)];
        for (name, inputs) in others.into_iter().chain(guidance) {
            all.linear(&format!("time_text_embed.{name}.linear_1"), inputs, width);
            all.linear(&format!("time_text_embed.{name}.linear_2"), width, width);
        }
        all.linear("context_embedder", self.joint_attention_dim, width);
        all.linear("x_embedder", self.in_channels, width);
        for number in 0..self.num_layers {
            all.double_block(&format!("{DOUBLE_BLOCKS}.{number}"), width, self.attention_head_dim);
        }
        for number in 0..self.num_single_layers {
            all.single_block(&format!("{SINGLE_BLOCKS}.{number}"), width, self.attention_head_dim);
        }
        all.linear("norm_out.linear", width, 2 * width);
        all.linear("proj_out", width, self.outputs());
        Ok(all)
    }
}

impl Parameters {
    fn double_block(&mut self, path: &str, width: usize, head: usize) {
        for (norm, feed_forward) in [("norm1", "ff"), ("norm1_context", "ff_context")] {
            self.linear(&format!("{path}.{norm}.linear"), width, 6 * width);
            self.linear(&format!("{path}.{feed_forward}.net.0.proj"), width, 4 * width);
            self.linear(&format!("{path}.{feed_forward}.net.2"), 4 * width, width);
        }
        for name in ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"] {
            self.linear(&format!("{path}.attn.{name}"), width, width);
        }
        for name in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
            self.factors(&format!("{path}.attn.{name}"), head);
        }
    }

    fn single_block(&mut self, path: &str, width: usize, head: usize) {
        self.linear(&format!("{path}.norm.linear"), width, 3 * width);
        self.linear(&format!("{path}.proj_mlp"), width, 4 * width);
        self.linear(&format!("{path}.proj_out"), 5 * width, width);
        for name in ["to_q", "to_k", "to_v"] {
            self.linear(&format!("{path}.attn.{name}"), width, width);
        }
        self.factors(&format!("{path}.attn.norm_q"), head);
        self.factors(&format!("{path}.attn.norm_k"), head);
    }
}
