//! The variational autoencoder that converts pictures to latents and back: diffusers' `AutoencoderKL`, used by Stable
//! Diffusion and FLUX ([Rombach et al. 2021](https://arxiv.org/abs/2112.10752)). The config holds the scale and shift
//! of the latents; [`Autoencoder::normalise`] and [`Autoencoder::denormalise`] apply them.

mod tiling;

use burn::prelude::*;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
pub use formats::networks::vae::Config;

use crate::layers::{Conv2d, GroupNorm, Linear, attention};
use crate::noise::Noise;

const NORM_EPSILON: f64 = 1e-6;

/// Encoder and decoder.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/autoencoders/autoencoder_kl.py#L36-L479>
#[derive(Module, Debug)]
pub struct Autoencoder {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    latent_channels: usize,
    scaling_factor: f64,
    shift_factor: f64,
    /// One value per latent channel. Both are empty if the config does not give them.
    latents_mean: Vec<f64>,
    latents_std: Vec<f64>,
    /// Pixels per latent along each side.
    factor: usize,
    /// Side of a tile in latents.
    tile: usize,
    /// Larger pictures, in pixels, are processed in tiles.
    largest_whole: usize,
}

/// The encoder's output: an independent normal distribution for each value of the latents.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/autoencoders/vae.py#L687-L740>
#[derive(Debug, Clone)]
pub struct Posterior {
    /// `[batch, latent channels, height / factor, width / factor]`
    pub mean: Tensor<4>,
    /// The logarithm of the variance, clamped to −30..20; same shape as the mean.
    pub log_variance: Tensor<4>,
}

impl Posterior {
    /// Samples latents from the distribution, one normal draw per value.
    pub fn sample(self, noise: &mut Noise) -> Tensor<4> {
        let drawn = noise.normal_tensor(self.mean.dims(), &self.mean.device());
        self.mean + (self.log_variance * 0.5).exp() * drawn
    }
}

impl Autoencoder {
    /// A network of zeros in the shape of `config`.
    pub fn new(config: &Config, device: &Device) -> Self {
        let latent = config.latent_channels;
        let statistics = config.latents_mean.clone().zip(config.latents_std.clone());
        let (latents_mean, latents_std) = statistics.unwrap_or_default();
        Self {
            encoder: Encoder::new(config, device),
            decoder: Decoder::new(config, device),
            quant_conv: config.use_quant_conv.then(|| Conv2d::new(2 * latent, 2 * latent, 1, device)),
            post_quant_conv: config.use_post_quant_conv.then(|| Conv2d::new(latent, latent, 1, device)),
            latent_channels: latent,
            scaling_factor: config.scaling_factor,
            shift_factor: config.shift_factor.unwrap_or(0.0),
            latents_mean,
            latents_std,
            factor: config.factor(),
            // A multiple of 4, since neighbouring tiles overlap by a quarter.
            tile: (config.sample_size / config.factor() / 4 * 4).max(4),
            largest_whole: 1024 * 1024,
        }
    }

    /// Pictures in −1..1, `[batch, 3, height, width]` → the distribution of their latents.
    pub fn encode(&self, pictures: Tensor<4>) -> Posterior {
        self.posterior(self.moments(pictures))
    }

    /// Pictures → means and log-variances, `[batch, 2·latent channels, height / factor, width / factor]`.
    fn moments(&self, pictures: Tensor<4>) -> Tensor<4> {
        let moments = self.encoder.forward(pictures);
        match &self.quant_conv {
            Some(conv) => conv.forward(moments),
            None => moments,
        }
    }

    fn posterior(&self, moments: Tensor<4>) -> Posterior {
        let latent = self.latent_channels;
        Posterior {
            mean: moments.clone().narrow(1, 0, latent),
            log_variance: moments.narrow(1, latent, latent).clamp(-30.0, 20.0),
        }
    }

    /// Latents `[batch, latent channels, height, width]` → pictures of about −1..1,
    /// `[batch, 3, factor·height, factor·width]`.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        let latents = match &self.post_quant_conv {
            Some(conv) => conv.forward(latents),
            None => latents,
        };
        self.decoder.forward(latents)
    }

    /// Pixels per latent along each side.
    pub fn factor(&self) -> usize {
        self.factor
    }

    /// Number of latent channels.
    pub fn latent_channels(&self) -> usize {
        self.latent_channels
    }

    /// Latents → the denoiser's latents with mean 0 and standard deviation 1.
    pub fn normalise(&self, latents: Tensor<4>) -> Tensor<4> {
        match self.statistics(&latents) {
            Some((mean, deviation)) => (latents - mean) * self.scaling_factor / deviation,
            None => (latents - self.shift_factor) * self.scaling_factor,
        }
    }

    /// The inverse of [`Self::normalise`].
    pub fn denormalise(&self, latents: Tensor<4>) -> Tensor<4> {
        match self.statistics(&latents) {
            Some((mean, deviation)) => latents * deviation / self.scaling_factor + mean,
            None => latents / self.scaling_factor + self.shift_factor,
        }
    }

    /// Mean and standard deviation per channel, `[1, latent channels, 1, 1]`. `None` if the config does not give them.
    fn statistics(&self, like: &Tensor<4>) -> Option<(Tensor<4>, Tensor<4>)> {
        let by_channel = |values: &[f64]| {
            let data = TensorData::new(values.to_vec(), [1, values.len(), 1, 1]);
            Tensor::from_data(data, (&like.device(), like.dtype()))
        };
        let stated = !self.latents_std.is_empty();
        stated.then(|| (by_channel(&self.latents_mean), by_channel(&self.latents_std)))
    }
}

/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/autoencoders/vae.py#L59-L177>
#[derive(Module, Debug)]
struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(config: &Config, device: &Device) -> Self {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let groups = config.norm_num_groups;
        let down_blocks = (0..channels.len()).map(|level| {
            let inputs = channels[level.saturating_sub(1)];
            let halves = level + 1 < channels.len();
            DownBlock::new(inputs, channels[level], config.layers_per_block, groups, halves, device)
        });
        Self {
            conv_in: Conv2d::new(config.in_channels, first, 3, device).with_padding(1),
            down_blocks: down_blocks.collect(),
            mid_block: MidBlock::new(last, groups, config.mid_block_add_attention, device),
            conv_norm_out: GroupNorm::new(groups, last, NORM_EPSILON, device),
            conv_out: Conv2d::new(last, 2 * config.latent_channels, 3, device).with_padding(1),
        }
    }

    /// `[batch, 3, height, width]` → `[batch, 2·latent, height / factor, width / factor]`
    fn forward(&self, pictures: Tensor<4>) -> Tensor<4> {
        let mut x = self.conv_in.forward(pictures);
        for block in &self.down_blocks {
            x = block.forward(x);
        }
        let x = self.mid_block.forward(x);
        self.conv_out.forward(self.conv_norm_out.forward_silu(x))
    }
}

/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/autoencoders/vae.py#L180-L311>
#[derive(Module, Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(config: &Config, device: &Device) -> Self {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let groups = config.norm_num_groups;
        let up_blocks = (0..channels.len()).map(|level| {
            let inputs = channels[level.saturating_sub(1)];
            let doubles = level + 1 < channels.len();
            UpBlock::new(inputs, channels[level], config.layers_per_block + 1, groups, doubles, device)
        });
        Self {
            conv_in: Conv2d::new(config.latent_channels, first, 3, device).with_padding(1),
            mid_block: MidBlock::new(first, groups, config.mid_block_add_attention, device),
            up_blocks: up_blocks.collect(),
            conv_norm_out: GroupNorm::new(groups, last, NORM_EPSILON, device),
            conv_out: Conv2d::new(last, config.out_channels, 3, device).with_padding(1),
        }
    }

    /// `[batch, latent, height, width]` → `[batch, 3, factor·height, factor·width]`
    fn forward(&self, latents: Tensor<4>) -> Tensor<4> {
        let mut x = self.mid_block.forward(self.conv_in.forward(latents));
        for block in &self.up_blocks {
            x = block.forward(x);
        }
        self.conv_out.forward(self.conv_norm_out.forward_silu(x))
    }
}

/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/unets/unet_2d_blocks.py#L1372-L1448>
#[derive(Module, Debug)]
struct DownBlock {
    resnets: Vec<ResnetBlock>,
    downsamplers: Option<Vec<Downsample>>,
}

impl DownBlock {
    fn new(inputs: usize, outputs: usize, layers: usize, groups: usize, halves: bool, device: &Device) -> Self {
        let resnets =
            (0..layers).map(|i| ResnetBlock::new(if i == 0 { inputs } else { outputs }, outputs, groups, device));
        Self { resnets: resnets.collect(), downsamplers: halves.then(|| vec![Downsample::new(outputs, device)]) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.resnets.iter().fold(x, |x, resnet| resnet.forward(x));
        self.downsamplers.iter().flatten().fold(x, |x, half| half.forward(x))
    }
}

/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/unets/unet_2d_blocks.py#L2575-L2645>
#[derive(Module, Debug)]
struct UpBlock {
    resnets: Vec<ResnetBlock>,
    upsamplers: Option<Vec<Upsample>>,
}

impl UpBlock {
    fn new(inputs: usize, outputs: usize, layers: usize, groups: usize, doubles: bool, device: &Device) -> Self {
        let resnets =
            (0..layers).map(|i| ResnetBlock::new(if i == 0 { inputs } else { outputs }, outputs, groups, device));
        Self { resnets: resnets.collect(), upsamplers: doubles.then(|| vec![Upsample::new(outputs, device)]) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.resnets.iter().fold(x, |x, resnet| resnet.forward(x));
        self.upsamplers.iter().flatten().fold(x, |x, double| double.forward(x))
    }
}

/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/downsampling.py#L67-L147>
#[derive(Module, Debug)]
struct Downsample {
    conv: Conv2d,
}

impl Downsample {
    fn new(channels: usize, device: &Device) -> Self {
        Self { conv: Conv2d::new(channels, channels, 3, device).with_stride(2) }
    }

    /// `[batch, channels, height, width]` → half the size
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward_halving(x)
    }
}

/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/upsampling.py#L74-L190>
#[derive(Module, Debug)]
struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    fn new(channels: usize, device: &Device) -> Self {
        Self { conv: Conv2d::new(channels, channels, 3, device).with_padding(1) }
    }

    /// `[batch, channels, height, width]` → twice the size
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let nearest = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([2 * height, 2 * width]);
        self.conv.forward(interpolate(x, nearest))
    }
}

/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/resnet.py#L188-L377>
#[derive(Module, Debug)]
struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    fn new(inputs: usize, outputs: usize, groups: usize, device: &Device) -> Self {
        Self {
            norm1: GroupNorm::new(groups, inputs, NORM_EPSILON, device),
            conv1: Conv2d::new(inputs, outputs, 3, device).with_padding(1),
            norm2: GroupNorm::new(groups, outputs, NORM_EPSILON, device),
            conv2: Conv2d::new(outputs, outputs, 3, device).with_padding(1),
            conv_shortcut: (inputs != outputs).then(|| Conv2d::new(inputs, outputs, 1, device)),
        }
    }

    /// `[batch, in, height, width]` → `[batch, out, height, width]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let hidden = self.conv1.forward(self.norm1.forward_silu(x.clone()));
        let hidden = self.conv2.forward(self.norm2.forward_silu(hidden));
        match &self.conv_shortcut {
            Some(conv) => conv.forward(x) + hidden,
            None => x + hidden,
        }
    }
}

/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/unets/unet_2d_blocks.py#L589-L748>
#[derive(Module, Debug)]
struct MidBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Option<Vec<Attention>>,
}

impl MidBlock {
    fn new(channels: usize, groups: usize, attends: bool, device: &Device) -> Self {
        Self {
            resnets: (0..2).map(|_| ResnetBlock::new(channels, channels, groups, device)).collect(),
            attentions: attends.then(|| vec![Attention::new(channels, groups, device)]),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.resnets[0].forward(x);
        let x = self.attentions.iter().flatten().fold(x, |x, attention| attention.forward(x));
        self.resnets[1].forward(x)
    }
}

/// Single-head self-attention over all positions of a picture.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/attention_processor.py#L2696-L2787>
#[derive(Module, Debug)]
struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
}

impl Attention {
    fn new(channels: usize, groups: usize, device: &Device) -> Self {
        let linear = || Linear::new(channels, channels, device);
        Self {
            group_norm: GroupNorm::new(groups, channels, NORM_EPSILON, device),
            to_q: linear(),
            to_k: linear(),
            to_v: linear(),
            to_out: vec![linear()],
        }
    }

    /// `[batch, channels, height, width]` → the same shape
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let places = self.group_norm.forward(x.clone()).reshape([batch, channels, height * width]).swap_dims(1, 2);
        let head = |linear: &Linear| linear.forward(places.clone()).unsqueeze_dim::<4>(1);
        let seen = attention(head(&self.to_q), head(&self.to_k), head(&self.to_v), None, None);
        let out = self.to_out[0].forward(seen.squeeze_dim::<3>(1));
        x + out.swap_dims(1, 2).reshape([batch, channels, height, width])
    }
}
