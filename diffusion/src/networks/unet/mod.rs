//! The UNet of Stable Diffusion 1, 2 and XL and of their inpainting models. Latents are downsampled to coarse levels
//! and upsampled again, with skip connections between equal levels and cross-attention to the prompt.
//!
//! Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models",
//! <https://arxiv.org/abs/2112.10752>, and Podell et al., "SDXL", <https://arxiv.org/abs/2307.01952>. Keys are those
//! of diffusers' `UNet2DConditionModel`. `schedulers` and `pipelines` interpret the output (noise, velocity) and run
//! the steps.

mod block;
mod transformer;

use burn::prelude::*;
use burn::tensor::activation::silu;

pub use formats::networks::unet::{Config, PerLevel};

use self::block::{DownBlock, MidBlock, UpBlock};
use crate::layers::{Conv2d, GroupNorm, Linear, NamedLayers, sinusoidal};

/// The whole denoiser.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/unets/unet_2d_condition.py#L76-L1235>
#[derive(Module, Debug)]
pub struct UNet2DConditionModel {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    add_embedding: Option<TimestepEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    /// Number of sinusoids of the timestep.
    time_channels: usize,
    /// Number of sinusoids per size.
    size_channels: usize,
    cosines_first: bool,
    freq_shift: usize,
}

/// The conditions of Stable Diffusion XL besides the prompt.
#[derive(Debug, Clone)]
pub struct AddedConditions {
    /// The pooled prompt, `[batch, width]`
    pub text_embeds: Tensor<2>,
    /// Per batch element: original height and width, crop top and left, target height and width, in pixels
    pub time_ids: Vec<Vec<f32>>,
}

/// The conditions that every block receives.
struct Conditions {
    /// silu of the time embedding, `[batch, time]`: applied once, since every residual block starts with it
    time: Tensor<2>,
    /// The prompt, `[batch, length, text]`
    text: Tensor<3>,
}

impl UNet2DConditionModel {
    /// A UNet to load weights into or to train. [`Config::check`] must accept the config.
    pub fn new(config: &Config, device: &Device) -> Self {
        let (fine, time) = (config.channels(0), config.time_width());
        let added = config.added();
        Self {
            conv_in: Conv2d::new(config.in_channels, fine, 3, device).with_padding(1),
            time_embedding: TimestepEmbedding::new(fine, time, config.time_cond_proj_dim, device),
            add_embedding: added.map(|(width, _)| TimestepEmbedding::new(width, time, None, device)),
            down_blocks: (0..config.levels()).map(|level| DownBlock::new(config, level, device)).collect(),
            mid_block: MidBlock::new(config, device),
            up_blocks: (0..config.levels()).rev().map(|level| UpBlock::new(config, level, device)).collect(),
            conv_norm_out: GroupNorm::new(config.norm_num_groups, fine, config.norm_eps, device),
            conv_out: Conv2d::new(fine, config.out_channels, 3, device).with_padding(1),
            time_channels: fine,
            size_channels: added.map_or(0, |(_, channels)| channels),
            cosines_first: config.flip_sin_to_cos,
            freq_shift: config.freq_shift,
        }
    }

    /// Runs the denoiser once.
    ///
    /// - `sample`: noisy latents, `[batch, in_channels, height, width]` of any size.
    /// - `timestep`: one per batch element, or one for all.
    /// - `encoder_hidden`: the prompt, `[batch, length, cross_attention_dim]`.
    /// - `added`: required by configs with `addition_embed_type`.
    /// - `timestep_cond`: the embedded guidance scale, `[batch, time_cond_proj_dim]`.
    ///
    /// Returns `[batch, out_channels, height, width]`.
    pub fn forward(
        &self,
        sample: Tensor<4>,
        timestep: &[f64],
        encoder_hidden: Tensor<3>,
        added: Option<AddedConditions>,
        timestep_cond: Option<Tensor<2>>,
    ) -> Tensor<4> {
        let time = self.embed_time(&sample, timestep, added, timestep_cond);
        let conditions = Conditions { time: silu(time), text: encoder_hidden };
        let mut x = self.conv_in.forward(sample);
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &conditions, &mut skips);
        }
        x = self.mid_block.forward(x, &conditions);
        for block in &self.up_blocks {
            x = block.forward(x, &conditions, &mut skips);
        }
        self.conv_out.forward(self.conv_norm_out.forward_silu(x))
    }

    /// `[batch, time]`, or `[1, time]` if all batch elements are equal
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/unets/unet_2d_condition.py#L890-L940>
    fn embed_time(
        &self,
        sample: &Tensor<4>,
        timestep: &[f64],
        added: Option<AddedConditions>,
        timestep_cond: Option<Tensor<2>>,
    ) -> Tensor<2> {
        let sinusoids = |values: &[f32], channels| {
            let (device, dtype) = (sample.device(), sample.dtype());
            sinusoidal(values, channels, self.cosines_first, self.freq_shift, &device).cast(dtype)
        };
        let timestep: Vec<f32> = timestep.iter().map(|time| *time as f32).collect();
        let time = self.time_embedding.forward(sinusoids(&timestep, self.time_channels), timestep_cond);
        debug_assert_eq!(self.add_embedding.is_some(), added.is_some(), "what the config asks for");
        let (Some(embedding), Some(added)) = (&self.add_embedding, added) else { return time };
        let [batch, _] = added.text_embeds.dims();
        let sizes: Vec<f32> = added.time_ids.into_iter().flatten().collect();
        let wide = sizes.len() / batch * self.size_channels;
        let sizes = sinusoids(&sizes, self.size_channels).reshape([batch, wide]);
        time + embedding.forward(Tensor::cat(vec![added.text_embeds, sizes], 1), None)
    }

    /// Every layer that adapters can be attached to.
    pub fn layers(&mut self) -> NamedLayers<'_> {
        let mut all = NamedLayers::default();
        all.convolutions.push(("conv_in".to_owned(), &mut self.conv_in));
        self.time_embedding.name_layers("time_embedding", &mut all);
        if let Some(embedding) = &mut self.add_embedding {
            embedding.name_layers("add_embedding", &mut all);
        }
        for (number, block) in self.down_blocks.iter_mut().enumerate() {
            block.name_layers(&format!("down_blocks.{number}"), &mut all);
        }
        self.mid_block.name_layers("mid_block", &mut all);
        for (number, block) in self.up_blocks.iter_mut().enumerate() {
            block.name_layers(&format!("up_blocks.{number}"), &mut all);
        }
        all.norms.push(("conv_norm_out".to_owned(), self.conv_norm_out.slot()));
        all.convolutions.push(("conv_out".to_owned(), &mut self.conv_out));
        all
    }

    /// Every linear layer with its path.
    pub fn linears(&mut self) -> Vec<(String, &mut Linear)> {
        self.layers().linears
    }

    /// Every convolution with its path.
    pub fn convolutions(&mut self) -> Vec<(String, &mut Conv2d)> {
        self.layers().convolutions
    }
}

/// linear · silu · linear on sinusoids, to which a projected condition can be added.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/embeddings.py#L1262-L1307>
#[derive(Module, Debug)]
struct TimestepEmbedding {
    linear_1: Linear,
    cond_proj: Option<Linear>,
    linear_2: Linear,
}

impl TimestepEmbedding {
    fn new(inputs: usize, width: usize, condition: Option<usize>, device: &Device) -> Self {
        Self {
            linear_1: Linear::new(inputs, width, device),
            cond_proj: condition.map(|condition| Linear::without_bias(condition, inputs, device)),
            linear_2: Linear::new(width, width, device),
        }
    }

    /// `[batch, in]` → `[batch, width]`
    fn forward(&self, mut x: Tensor<2>, condition: Option<Tensor<2>>) -> Tensor<2> {
        if let (Some(project), Some(condition)) = (&self.cond_proj, condition) {
            x = x + project.forward(condition);
        }
        self.linear_2.forward(silu(self.linear_1.forward(x)))
    }

    fn name_layers<'a>(&'a mut self, path: &str, all: &mut NamedLayers<'a>) {
        all.linear(path, "linear_1", &mut self.linear_1);
        if let Some(project) = &mut self.cond_proj {
            all.linear(path, "cond_proj", project);
        }
        all.linear(path, "linear_2", &mut self.linear_2);
    }
}
