//! The UNet of Stable Diffusion 1, 2 and XL and of their inpainting models: diffusers' `UNet2DConditionModel`.

mod config;

pub use config::{Config, PerLevel};
pub(crate) use config::{MAX_LAYERS, MAX_LEVELS, MAX_TRANSFORMER_BLOCKS};

use super::Parameters;

impl Config {
    /// The parameters of a UNet.
    ///
    /// # Errors
    /// Those of [`Config::check`].
    pub fn parameters(&self) -> Result<Parameters, String> {
        self.check()?;
        let (finest, time) = (self.channels(0), self.time_width());
        let mut all = Parameters::default();
        all.convolution("conv_in", self.in_channels, finest, 3);
        all.linear("time_embedding.linear_1", finest, time);
        all.linear("time_embedding.linear_2", time, time);
        if let Some(condition) = self.time_cond_proj_dim {
            all.matrix("time_embedding.cond_proj", condition, finest);
        }
        if let Some((width, _)) = self.added() {
            all.linear("add_embedding.linear_1", width, time);
            all.linear("add_embedding.linear_2", time, time);
        }
        for level in 0..self.levels() {
            self.down_block(level, &mut all);
            self.up_block(level, &mut all);
        }
        let coarsest = self.levels() - 1;
        for number in 0..2 {
            let channels = self.channels(coarsest);
            self.residual(&format!("mid_block.resnets.{number}"), channels, channels, &mut all);
        }
        self.attention("mid_block.attentions.0", coarsest, &mut all);
        all.norm("conv_norm_out", finest);
        all.convolution("conv_out", finest, self.out_channels, 3);
        Ok(all)
    }

    fn down_block(&self, level: usize, all: &mut Parameters) {
        let (path, channels) = (format!("down_blocks.{level}"), self.channels(level));
        for layer in 0..self.layers_per_block.at(level) {
            let inputs = if layer == 0 { self.channels(level.saturating_sub(1)) } else { channels };
            self.residual(&format!("{path}.resnets.{layer}"), inputs, channels, all);
            if self.attends_down(level) {
                self.attention(&format!("{path}.attentions.{layer}"), level, all);
            }
        }
        if level + 1 < self.levels() {
            all.convolution(&format!("{path}.downsamplers.0.conv"), channels, channels, 3);
        }
    }

    /// Up blocks are numbered from the coarsest level.
    fn up_block(&self, level: usize, all: &mut Parameters) {
        let (path, channels) = (format!("up_blocks.{}", self.levels() - 1 - level), self.channels(level));
        let coarser = self.channels((level + 1).min(self.levels() - 1));
        let finer = self.channels(level.saturating_sub(1));
        let layers = self.layers_per_block.at(level) + 1;
        for layer in 0..layers {
            let inputs = if layer == 0 { coarser } else { channels };
            // The last block receives the skip connection of this level's input on the way down.
            let skip = if layer + 1 == layers { finer } else { channels };
            self.residual(&format!("{path}.resnets.{layer}"), inputs + skip, channels, all);
            if self.attends_up(level) {
                self.attention(&format!("{path}.attentions.{layer}"), level, all);
            }
        }
        if level > 0 {
            all.convolution(&format!("{path}.upsamplers.0.conv"), channels, channels, 3);
        }
    }

    fn residual(&self, path: &str, inputs: usize, outputs: usize, all: &mut Parameters) {
        all.residual(path, inputs, outputs);
        all.linear(&format!("{path}.time_emb_proj"), self.time_width(), outputs);
    }

    /// A transformer over the places of a level. Its projections may be stored as matrices or as 1×1 convolutions.
    fn attention(&self, path: &str, level: usize, all: &mut Parameters) {
        let width = self.channels(level);
        all.norm(&format!("{path}.norm"), width);
        all.linear(&format!("{path}.proj_in"), width, width);
        all.linear(&format!("{path}.proj_out"), width, width);
        for number in 0..self.transformer_layers_per_block.at(level) {
            let block = format!("{path}.transformer_blocks.{number}");
            for (name, source) in [("attn1", width), ("attn2", self.text_width())] {
                all.matrix(&format!("{block}.{name}.to_q"), width, width);
                all.matrix(&format!("{block}.{name}.to_k"), source, width);
                all.matrix(&format!("{block}.{name}.to_v"), source, width);
                all.linear(&format!("{block}.{name}.to_out.0"), width, width);
            }
            for name in ["norm1", "norm2", "norm3"] {
                all.norm(&format!("{block}.{name}"), width);
            }
            // GEGLU: the hidden layer, four times as wide, and its gate.
            all.linear(&format!("{block}.ff.net.0.proj"), width, 2 * 4 * width);
            all.linear(&format!("{block}.ff.net.2"), 4 * width, width);
        }
    }
}
