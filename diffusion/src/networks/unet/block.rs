//! The blocks of one level: residual blocks conditioned on the timestep, transformers if the level has cross-attention,
//! and the resampling to the next level.

use burn::prelude::*;

use super::transformer::Transformer2d;
use super::{Conditions, Config};
use crate::layers::{Conv2d, GroupNorm, Linear, NamedLayers, resize_nearest};

/// `DownBlock2D` and `CrossAttnDownBlock2D`.
///
/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/unets/unet_2d_blocks.py#L1294-L1369>
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/unets/unet_2d_blocks.py#L1147-L1291>
#[derive(Module, Debug)]
pub(super) struct DownBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Transformer2d>,
    downsamplers: Vec<Resample>,
}

impl DownBlock {
    pub(super) fn new(config: &Config, level: usize, device: &Device) -> Self {
        let channels = config.channels(level);
        let before = config.channels(level.saturating_sub(1));
        let layers = config.layers_per_block.at(level);
        let halves = level + 1 < config.levels();
        Self {
            resnets: (0..layers)
                .map(|layer| ResnetBlock::new(config, if layer == 0 { before } else { channels }, channels, device))
                .collect(),
            attentions: transformers(config, level, if config.attends_down(level) { layers } else { 0 }, device),
            downsamplers: Vec::from_iter(
                halves.then(|| Resample {
                    conv: Conv2d::new(channels, channels, 3, device).with_stride(2).with_padding(1),
                }),
            ),
        }
    }

    /// `[batch, before, height, width]` → `[batch, channels, height / 2, width / 2]`, rounded up. Pushes the output
    /// of each layer to `skips` for the up blocks.
    pub(super) fn forward(&self, mut x: Tensor<4>, conditions: &Conditions, skips: &mut Vec<Tensor<4>>) -> Tensor<4> {
        for (layer, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(x, conditions);
            if let Some(attention) = self.attentions.get(layer) {
                x = attention.forward(x, &conditions.text);
            }
            skips.push(x.clone());
        }
        for half in &self.downsamplers {
            x = half.conv.forward(x);
            skips.push(x.clone());
        }
        x
    }

    pub(super) fn name_layers<'a>(&'a mut self, path: &str, all: &mut NamedLayers<'a>) {
        let Self { resnets, attentions, downsamplers } = self;
        name_layers(path, resnets, attentions, all);
        for half in downsamplers {
            all.convolution(path, "downsamplers.0.conv", &mut half.conv);
        }
    }
}

/// `UNetMidBlock2DCrossAttn`.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/unets/unet_2d_blocks.py#L751-L890>
#[derive(Module, Debug)]
pub(super) struct MidBlock {
    resnets: [ResnetBlock; 2],
    attentions: [Transformer2d; 1],
}

impl MidBlock {
    pub(super) fn new(config: &Config, device: &Device) -> Self {
        let level = config.levels().saturating_sub(1);
        let channels = config.channels(level);
        let resnet = || ResnetBlock::new(config, channels, channels, device);
        Self { resnets: [resnet(), resnet()], attentions: [Transformer2d::new(config, level, device)] }
    }

    /// `[batch, channels, height, width]` → the same shape
    pub(super) fn forward(&self, x: Tensor<4>, conditions: &Conditions) -> Tensor<4> {
        let [before, after] = &self.resnets;
        let [attention] = &self.attentions;
        let x = attention.forward(before.forward(x, conditions), &conditions.text);
        after.forward(x, conditions)
    }

    pub(super) fn name_layers<'a>(&'a mut self, path: &str, all: &mut NamedLayers<'a>) {
        name_layers(path, &mut self.resnets, &mut self.attentions, all);
    }
}

/// `UpBlock2D` and `CrossAttnUpBlock2D`.
///
/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/unets/unet_2d_blocks.py#L2474-L2572>
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/unets/unet_2d_blocks.py#L2314-L2471>
#[derive(Module, Debug)]
pub(super) struct UpBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Transformer2d>,
    upsamplers: Vec<Resample>,
}

impl UpBlock {
    pub(super) fn new(config: &Config, level: usize, device: &Device) -> Self {
        let channels = config.channels(level);
        let coarser = config.channels((level + 1).min(config.levels() - 1));
        let finer = config.channels(level.saturating_sub(1));
        let layers = config.layers_per_block.at(level) + 1;
        let resnets = (0..layers).map(|layer| {
            let inputs = if layer == 0 { coarser } else { channels };
            // The last block receives the skip connection of this level's input on the way down.
            let skip = if layer + 1 == layers { finer } else { channels };
            ResnetBlock::new(config, inputs + skip, channels, device)
        });
        Self {
            resnets: resnets.collect(),
            attentions: transformers(config, level, if config.attends_up(level) { layers } else { 0 }, device),
            upsamplers: Vec::from_iter(
                (level > 0).then(|| Resample { conv: Conv2d::new(channels, channels, 3, device).with_padding(1) }),
            ),
        }
    }

    /// `[batch, coarser, height, width]` → `[batch, channels, …]` at the size of the next skip. Pops one of `skips`
    /// for each residual block.
    pub(super) fn forward(&self, mut x: Tensor<4>, conditions: &Conditions, skips: &mut Vec<Tensor<4>>) -> Tensor<4> {
        for (layer, resnet) in self.resnets.iter().enumerate() {
            let both = std::iter::once(x).chain(skips.pop()).collect();
            x = resnet.forward(Tensor::cat(both, 1), conditions);
            if let Some(attention) = self.attentions.get(layer) {
                x = attention.forward(x, &conditions.text);
            }
        }
        if let (Some(double), Some(finer)) = (self.upsamplers.first(), skips.last()) {
            // Twice the size, or one less if the down block rounded up.
            let [_, _, height, width] = finer.dims();
            x = double.conv.forward(resize_nearest(x, [height, width]));
        }
        x
    }

    pub(super) fn name_layers<'a>(&'a mut self, path: &str, all: &mut NamedLayers<'a>) {
        let Self { resnets, attentions, upsamplers } = self;
        name_layers(path, resnets, attentions, all);
        for double in upsamplers {
            all.convolution(path, "upsamplers.0.conv", &mut double.conv);
        }
    }
}

fn transformers(config: &Config, level: usize, number: usize, device: &Device) -> Vec<Transformer2d> {
    (0..number).map(|_| Transformer2d::new(config, level, device)).collect()
}

fn name_layers<'a>(
    path: &str,
    resnets: &'a mut [ResnetBlock],
    attentions: &'a mut [Transformer2d],
    all: &mut NamedLayers<'a>,
) {
    for (number, resnet) in resnets.iter_mut().enumerate() {
        resnet.name_layers(&format!("{path}.resnets.{number}"), all);
    }
    for (number, attention) in attentions.iter_mut().enumerate() {
        attention.name_layers(&format!("{path}.attentions.{number}"), all);
    }
}

/// The convolution of a down- or upsampler.
///
/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/downsampling.py#L67-L147>
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/upsampling.py#L74-L190>
#[derive(Module, Debug)]
struct Resample {
    conv: Conv2d,
}

/// `ResnetBlock2D`: two convolutions, with the time embedding added in between.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/resnet.py#L188-L377>
#[derive(Module, Debug)]
struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    fn new(config: &Config, inputs: usize, outputs: usize, device: &Device) -> Self {
        let norm = |channels| GroupNorm::new(config.norm_num_groups, channels, config.norm_eps, device);
        Self {
            norm1: norm(inputs),
            conv1: Conv2d::new(inputs, outputs, 3, device).with_padding(1),
            time_emb_proj: Linear::new(config.time_width(), outputs, device),
            norm2: norm(outputs),
            conv2: Conv2d::new(outputs, outputs, 3, device).with_padding(1),
            conv_shortcut: (inputs != outputs).then(|| Conv2d::new(inputs, outputs, 1, device)),
        }
    }

    /// `[batch, in, height, width]` → `[batch, out, height, width]`
    fn forward(&self, x: Tensor<4>, conditions: &Conditions) -> Tensor<4> {
        let hidden = self.conv1.forward(self.norm1.forward_silu(x.clone()));
        // [batch, out, 1, 1]
        let time = self.time_emb_proj.forward(conditions.time.clone()).unsqueeze_dims::<4>(&[2, 3]);
        let hidden = self.conv2.forward(self.norm2.forward_silu(hidden + time));
        match &self.conv_shortcut {
            Some(conv) => conv.forward(x) + hidden,
            None => x + hidden,
        }
    }

    fn name_layers<'a>(&'a mut self, path: &str, all: &mut NamedLayers<'a>) {
        all.norm(path, "norm1", self.norm1.slot());
        all.convolution(path, "conv1", &mut self.conv1);
        all.linear(path, "time_emb_proj", &mut self.time_emb_proj);
        all.norm(path, "norm2", self.norm2.slot());
        all.convolution(path, "conv2", &mut self.conv2);
        if let Some(conv) = &mut self.conv_shortcut {
            all.convolution(path, "conv_shortcut", conv);
        }
    }
}
