//! The tiny autoencoder TAESD. It approximates a full autoencoder in a few milliseconds, for previews while denoising.
//! `AutoencoderTiny` in diffusers; O. Boer Bohan, <https://github.com/madebyollin/taesd>.

use burn::prelude::*;
use burn::tensor::activation::relu;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::layers::{Conv2d, resize_nearest};

/// The autoencoder's `config.json`, with the defaults of diffusers' `AutoencoderTiny`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub in_channels: usize,
    pub out_channels: usize,
    /// Channels of each level from the finest to the coarsest. Each level but the first halves the size. All values
    /// must be equal, since no layer changes the number of channels.
    pub encoder_block_out_channels: Vec<usize>,
    /// The same for the decoder. Each level but the last doubles the size.
    pub decoder_block_out_channels: Vec<usize>,
    /// `relu`
    pub act_fn: String,
    /// `nearest`
    pub upsample_fn: String,
    pub latent_channels: usize,
    pub upsampling_scaling_factor: usize,
    /// Residual blocks per level.
    pub num_encoder_blocks: Vec<usize>,
    pub num_decoder_blocks: Vec<usize>,
    /// Range of the latents: ±`latent_magnitude` maps to 0..1, centred on `latent_shift`.
    pub latent_magnitude: f64,
    pub latent_shift: f64,
    /// The factor that [`AutoencoderTiny::normalise`] multiplies latents by.
    pub scaling_factor: f64,
    /// The mean of the latents.
    pub shift_factor: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            act_fn: "relu".to_owned(),
            upsample_fn: "nearest".to_owned(),
            latent_channels: 4,
            upsampling_scaling_factor: 2,
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            latent_magnitude: 3.0,
            latent_shift: 0.5,
            scaling_factor: 1.0,
            shift_factor: 0.0,
        }
    }
}

impl Config {
    /// Pixels per latent along each side.
    pub fn factor(&self) -> usize {
        1 << self.encoder_block_out_channels.len().saturating_sub(1)
    }

    /// Checks that a network of this shape can be built. The error names the unsupported field.
    pub fn check(&self) -> Result<()> {
        let size = |number: usize| (1..=4096).contains(&number);
        let channels = |channels: &[usize]| {
            (1..=8).contains(&channels.len()) && channels.iter().all(|number| size(*number) && *number == channels[0])
        };
        let blocks = |blocks: &[usize], levels: &[usize]| {
            blocks.len() == levels.len() && blocks.iter().all(|number| *number <= 64)
        };
        let (encoder, decoder) = (&self.encoder_block_out_channels, &self.decoder_block_out_channels);
        let checks = [
            ("in_channels", size(self.in_channels)),
            ("out_channels", size(self.out_channels)),
            ("encoder_block_out_channels", channels(encoder)),
            ("decoder_block_out_channels", channels(decoder) && decoder.len() == encoder.len()),
            ("act_fn", self.act_fn == "relu"),
            ("upsample_fn", self.upsample_fn == "nearest"),
            ("latent_channels", size(self.latent_channels)),
            ("upsampling_scaling_factor", self.upsampling_scaling_factor == 2),
            ("num_encoder_blocks", blocks(&self.num_encoder_blocks, encoder)),
            ("num_decoder_blocks", blocks(&self.num_decoder_blocks, decoder)),
            ("latent_magnitude", self.latent_magnitude != 0.0),
            ("scaling_factor", self.scaling_factor != 0.0),
        ];
        match checks.into_iter().find(|(_, fine)| !fine) {
            None => Ok(()),
            Some((name, _)) => Err(Error::Invalid(format!("no tiny autoencoder has this {name}: {self:?}"))),
        }
    }
}

/// Encoder and decoder.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/autoencoders/autoencoder_tiny.py#L40-L320>
#[derive(Module, Debug)]
pub struct AutoencoderTiny {
    encoder: Layers,
    decoder: Layers,
    latent_magnitude: f64,
    latent_shift: f64,
    scaling_factor: f64,
    shift_factor: f64,
}

impl AutoencoderTiny {
    /// A network of zeros in the shape of `config`.
    pub fn new(config: &Config, device: &Device) -> Self {
        Self {
            encoder: Layers::encoder(config, device),
            decoder: Layers::decoder(config, device),
            latent_magnitude: config.latent_magnitude,
            latent_shift: config.latent_shift,
            scaling_factor: config.scaling_factor,
            shift_factor: config.shift_factor,
        }
    }

    /// Pictures in −1..1, `[batch, 3, height, width]` → latents
    /// `[batch, latent channels, height / factor, width / factor]`.
    pub fn encode(&self, pictures: Tensor<4>) -> Tensor<4> {
        self.encoder.forward((pictures + 1.0) / 2.0)
    }

    /// Latents → pictures of about −1..1, `[batch, 3, factor·height, factor·width]`.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        self.decoder.decode(latents)
    }

    /// Latents → the denoiser's latents.
    pub fn normalise(&self, latents: Tensor<4>) -> Tensor<4> {
        (latents - self.shift_factor) * self.scaling_factor
    }

    /// The inverse of [`Self::normalise`].
    pub fn denormalise(&self, latents: Tensor<4>) -> Tensor<4> {
        latents / self.scaling_factor + self.shift_factor
    }

    /// Latents → 0..1, clamped, for latents that are stored as the bytes of a picture.
    pub fn scale_latents(&self, latents: Tensor<4>) -> Tensor<4> {
        (latents / (2.0 * self.latent_magnitude) + self.latent_shift).clamp(0.0, 1.0)
    }

    /// The inverse of [`Self::scale_latents`].
    pub fn unscale_latents(&self, scaled: Tensor<4>) -> Tensor<4> {
        (scaled - self.latent_shift) * (2.0 * self.latent_magnitude)
    }
}

/// The decoder alone, which is enough for previews.
#[derive(Module, Debug)]
pub struct TinyDecoder {
    decoder: Layers,
}

impl TinyDecoder {
    /// A network of zeros in the shape of `config`.
    pub fn new(config: &Config, device: &Device) -> Self {
        Self { decoder: Layers::decoder(config, device) }
    }

    /// Same as [`AutoencoderTiny::decode`].
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        self.decoder.decode(latents)
    }
}

/// A sequence of layers, numbered as in the checkpoint.
#[derive(Module, Debug)]
struct Layers {
    layers: Vec<Layer>,
}

#[allow(clippy::large_enum_variant, reason = "a few dozen in all, and Burn's modules are not boxed")]
#[derive(Module, Debug)]
enum Layer {
    Convolution(Conv2d),
    Block(Block),
    Relu(WithoutWeights),
    Double(WithoutWeights),
}

#[derive(Module, Debug)]
struct WithoutWeights;

impl Layers {
    /// References:
    /// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/autoencoders/vae.py#L754-L817>
    /// - <https://github.com/madebyollin/taesd/blob/5cccb12dc72074a4be35680c3b108548a7c69978/taesd.py#L31-L39>
    fn encoder(config: &Config, device: &Device) -> Self {
        let mut layers = Vec::new();
        for (level, (&channels, &blocks)) in
            config.encoder_block_out_channels.iter().zip(&config.num_encoder_blocks).enumerate()
        {
            layers.push(Layer::Convolution(match level {
                0 => convolution(config.in_channels, channels, device),
                _ => without_bias(convolution(channels, channels, device).with_stride(2)),
            }));
            layers.extend((0..blocks).map(|_| Layer::Block(Block::new(channels, device))));
        }
        let last = config.encoder_block_out_channels.last().copied().unwrap_or_default();
        layers.push(Layer::Convolution(convolution(last, config.latent_channels, device)));
        Self { layers }
    }

    /// References:
    /// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/autoencoders/vae.py#L820-L892>
    /// - <https://github.com/madebyollin/taesd/blob/5cccb12dc72074a4be35680c3b108548a7c69978/taesd.py#L41-L49>
    fn decoder(config: &Config, device: &Device) -> Self {
        let first = config.decoder_block_out_channels.first().copied().unwrap_or_default();
        let enter = convolution(config.latent_channels, first, device);
        let mut layers = vec![Layer::Convolution(enter), Layer::Relu(WithoutWeights)];
        let levels = config.decoder_block_out_channels.len();
        for (level, (&channels, &blocks)) in
            config.decoder_block_out_channels.iter().zip(&config.num_decoder_blocks).enumerate()
        {
            layers.extend((0..blocks).map(|_| Layer::Block(Block::new(channels, device))));
            if level + 1 < levels {
                layers.push(Layer::Double(WithoutWeights));
                layers.push(Layer::Convolution(without_bias(convolution(channels, channels, device))));
            } else {
                layers.push(Layer::Convolution(convolution(channels, config.out_channels, device)));
            }
        }
        Self { layers }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        in_turn(&self.layers, x)
    }

    fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        // Limits latents smoothly to ±3.
        self.forward((latents / 3.0).tanh() * 3.0) * 2.0 - 1.0
    }
}

/// `[batch, in, height, width]` → `[batch, out, height', width']`
fn in_turn(layers: &[Layer], x: Tensor<4>) -> Tensor<4> {
    layers.iter().fold(x, |x, layer| match layer {
        Layer::Convolution(conv) => conv.forward(x),
        Layer::Block(block) => block.forward(x),
        Layer::Relu(_) => relu(x),
        Layer::Double(_) => {
            let [_, _, height, width] = x.dims();
            resize_nearest(x, [2 * height, 2 * width])
        }
    })
}

fn convolution(inputs: usize, outputs: usize, device: &Device) -> Conv2d {
    Conv2d::new(inputs, outputs, 3, device).with_padding(1)
}

fn without_bias(mut conv: Conv2d) -> Conv2d {
    conv.bias = None;
    conv
}

/// Three convolutions with ReLU in between, a residual connection, and a final ReLU.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/unets/unet_2d_blocks.py#L552-L586>
#[derive(Module, Debug)]
struct Block {
    conv: Vec<Layer>,
}

impl Block {
    fn new(channels: usize, device: &Device) -> Self {
        let conv = || Layer::Convolution(convolution(channels, channels, device));
        let relu = || Layer::Relu(WithoutWeights);
        Self { conv: vec![conv(), relu(), conv(), relu(), conv()] }
    }

    /// `[batch, channels, height, width]` → the same shape
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        relu(x.clone() + in_turn(&self.conv, x))
    }
}
