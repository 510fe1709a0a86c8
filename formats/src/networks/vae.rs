//! The autoencoder of Stable Diffusion and FLUX.1: diffusers' `AutoencoderKL`.

use serde::{Deserialize, Serialize};

use super::{Parameters, are_widths};

/// Limits on levels, and on residual blocks per level.
pub(crate) const MAX_LEVELS: usize = 8;
pub(crate) const MAX_LAYERS: usize = 64;

/// `vae/config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Channels of the input picture.
    #[serde(default = "three")]
    pub in_channels: usize,
    /// Channels of the output picture.
    #[serde(default = "three")]
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each level from the finest to the coarsest. Each level but the last halves the size.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per encoder level. A decoder level has one more.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    #[serde(default = "thirty_two")]
    pub norm_num_groups: usize,
    /// Whether the middle block has self-attention.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    /// Whether a 1×1 convolution follows the encoder.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    /// The factor by which latents are multiplied for the denoiser.
    #[serde(default = "sd_scaling_factor")]
    pub scaling_factor: f64,
    /// The mean of the latents.
    #[serde(default)]
    pub shift_factor: Option<f64>,
    /// Mean and standard deviation of each latent channel. If both are given, they replace `shift_factor`.
    #[serde(default)]
    pub latents_mean: Option<Vec<f64>>,
    #[serde(default)]
    pub latents_std: Option<Vec<f64>>,
    /// Side in pixels of the training pictures; larger pictures are processed in tiles of this size.
    #[serde(default = "five_hundred_and_twelve")]
    pub sample_size: usize,
}

fn three() -> usize {
    3
}
fn thirty_two() -> usize {
    32
}
fn yes() -> bool {
    true
}
/// The value of Stable Diffusion 1. diffusers defaults to 32, which is too small for a useful tile.
fn five_hundred_and_twelve() -> usize {
    512
}
fn sd_scaling_factor() -> f64 {
    0.18215
}

impl Config {
    /// Pixels per latent along each side.
    pub fn factor(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Checks that a network of this shape can be built, and that it is one for pictures in colour.
    ///
    /// # Errors
    /// A part of a sentence.
    pub fn check(&self) -> Result<(), String> {
        if (self.in_channels, self.out_channels) != (3, 3) {
            let (from, to) = (self.in_channels, self.out_channels);
            return Err(format!("the autoencoder reads {from} and makes {to} colours, and pictures have 3"));
        }
        let groups = self.norm_num_groups;
        let fine = (1..=MAX_LEVELS).contains(&self.block_out_channels.len())
            && groups > 0
            && are_widths(&self.block_out_channels)
            && self.block_out_channels.iter().all(|channels| channels % groups == 0)
            && (1..=1024).contains(&self.latent_channels)
            && (1..=MAX_LAYERS).contains(&self.layers_per_block)
            && self.scaling_factor != 0.0
            && [&self.latents_mean, &self.latents_std]
                .into_iter()
                .flatten()
                .all(|all| all.len() == self.latent_channels)
            && self.latents_std.iter().flatten().all(|deviation| *deviation > 0.0)
            && self.sample_size <= 1 << 16;
        if fine { Ok(()) } else { Err(format!("no autoencoder has this shape: {self:?}")) }
    }

    /// The parameters of encoder and decoder.
    ///
    /// # Errors
    /// Those of [`Config::check`].
    pub fn parameters(&self) -> Result<Parameters, String> {
        self.check()?;
        let latent = self.latent_channels;
        let mut all = Parameters::default();
        if self.use_quant_conv {
            all.convolution("quant_conv", 2 * latent, 2 * latent, 1);
        }
        if self.use_post_quant_conv {
            all.convolution("post_quant_conv", latent, latent, 1);
        }
        let finest_first = &self.block_out_channels;
        let coarsest_first: Vec<usize> = finest_first.iter().rev().copied().collect();
        let layers = self.layers_per_block;
        all.convolution("encoder.conv_in", self.in_channels, finest_first[0], 3);
        all.levels("encoder.down_blocks", "downsamplers", finest_first, layers);
        all.middle("encoder", coarsest_first[0], self.mid_block_add_attention);
        all.norm("encoder.conv_norm_out", coarsest_first[0]);
        all.convolution("encoder.conv_out", coarsest_first[0], 2 * latent, 3);
        all.convolution("decoder.conv_in", latent, coarsest_first[0], 3);
        all.middle("decoder", coarsest_first[0], self.mid_block_add_attention);
        all.levels("decoder.up_blocks", "upsamplers", &coarsest_first, layers + 1);
        all.norm("decoder.conv_norm_out", finest_first[0]);
        all.convolution("decoder.conv_out", finest_first[0], self.out_channels, 3);
        Ok(all)
    }
}

impl Parameters {
    /// The levels of one side in the order in which they are run, each but the last with a resampling.
    fn levels(&mut self, path: &str, resampling: &str, channels: &[usize], layers: usize) {
        for (level, &outputs) in channels.iter().enumerate() {
            for layer in 0..layers {
                let inputs = if layer == 0 { channels[level.saturating_sub(1)] } else { outputs };
                self.residual(&format!("{path}.{level}.resnets.{layer}"), inputs, outputs);
            }
            if level + 1 < channels.len() {
                self.convolution(&format!("{path}.{level}.{resampling}.0.conv"), outputs, outputs, 3);
            }
        }
    }

    fn middle(&mut self, side: &str, channels: usize, attends: bool) {
        self.residual(&format!("{side}.mid_block.resnets.0"), channels, channels);
        self.residual(&format!("{side}.mid_block.resnets.1"), channels, channels);
        if attends {
            let attention = format!("{side}.mid_block.attentions.0");
            self.norm(&format!("{attention}.group_norm"), channels);
            for name in ["to_q", "to_k", "to_v", "to_out.0"] {
                self.linear(&format!("{attention}.{name}"), channels, channels);
            }
        }
    }

    /// A residual block without time embedding.
    pub(super) fn residual(&mut self, path: &str, inputs: usize, outputs: usize) {
        self.norm(&format!("{path}.norm1"), inputs);
        self.convolution(&format!("{path}.conv1"), inputs, outputs, 3);
        self.norm(&format!("{path}.norm2"), outputs);
        self.convolution(&format!("{path}.conv2"), outputs, outputs, 3);
        if inputs != outputs {
            self.convolution(&format!("{path}.conv_shortcut"), inputs, outputs, 1);
        }
    }
}
