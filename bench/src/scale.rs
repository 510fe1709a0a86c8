//! The measured sizes: those of FLUX.1-dev, and tiny ones for a rehearsal that takes seconds on any CPU.

use diffusion::networks::clip::{self, Activation};
use diffusion::networks::unet::PerLevel;
use diffusion::networks::{flux, t5, unet, vae};

/// Sizes of networks and pictures.
pub(crate) struct Scale {
    pub flux: flux::Config,
    pub t5: t5::Config,
    pub clip: clip::Config,
    pub vae: vae::Config,
    /// Those of Stable Diffusion, in the order of measurement.
    pub unets: Vec<UNet>,
    /// T5 ids per prompt.
    pub text: usize,
    /// Sides of pictures in pixels.
    pub sides: [usize; 2],
    /// Number of calls for a median.
    pub calls: usize,
    /// `[rows, columns, depth]` of matrix products.
    pub products: Vec<[usize; 3]>,
    /// `[heads, tokens, head size]` of attention.
    pub attentions: Vec<[usize; 3]>,
    /// Bytes of the copy on the device.
    pub copy: usize,
}

/// A UNet and the size of its picture.
pub(crate) struct UNet {
    pub family: &'static str,
    pub config: unet::Config,
    /// Side of the picture in pixels.
    pub side: usize,
}

impl Scale {
    /// FLUX.1-dev, with its published configs.
    pub(crate) fn full() -> Self {
        Self {
            flux: flux::Config { guidance_embeds: true, ..flux::Config::default() },
            t5: t5::Config {
                vocab_size: 32_128,
                d_model: 4096,
                d_kv: 64,
                d_ff: 10_240,
                num_layers: 24,
                num_heads: 64,
                relative_attention_num_buckets: 32,
                relative_attention_max_distance: 128,
                layer_norm_epsilon: 1e-6,
                feed_forward_proj: t5::FeedForwardKind::GatedGelu,
            },
            clip: clip::Config {
                vocab_size: 49_408,
                hidden_size: 768,
                intermediate_size: 3072,
                num_hidden_layers: 12,
                num_attention_heads: 12,
                max_position_embeddings: 77,
                hidden_act: Activation::QuickGelu,
                layer_norm_eps: 1e-5,
                eos_token_id: 49_407,
                projection_dim: 768,
            },
            vae: autoencoder(vec![128, 256, 512, 512], 2, 16, 32),
            unets: vec![
                UNet { family: "sdxl", config: sdxl(), side: 1024 },
                UNet { family: "sd15", config: sd15(), side: 512 },
            ],
            text: 512,
            sides: [1024, 512],
            calls: 10,
            // Image stream, joint streams, the two linear layers of a single block, the text stream, and 512 px.
            products: vec![
                [4096, 3072, 3072],
                [4608, 3072, 3072],
                [4608, 12_288, 3072],
                [4608, 3072, 15_360],
                [512, 3072, 3072],
                [1536, 3072, 3072],
                [8192, 8192, 8192],
            ],
            attentions: vec![[24, 4608, 128], [24, 1536, 128]],
            copy: 4 << 30,
        }
    }

    /// The same shapes, reduced.
    pub(crate) fn tiny() -> Self {
        let full = Self::full();
        Self {
            flux: flux::Config {
                num_layers: 1,
                num_single_layers: 2,
                attention_head_dim: 32,
                num_attention_heads: 2,
                joint_attention_dim: 64,
                pooled_projection_dim: 32,
                axes_dims_rope: [8, 12, 12],
                ..full.flux
            },
            t5: t5::Config { vocab_size: 64, d_model: 64, d_kv: 16, d_ff: 128, num_layers: 2, num_heads: 4, ..full.t5 },
            clip: clip::Config {
                vocab_size: 64,
                hidden_size: 32,
                intermediate_size: 64,
                num_hidden_layers: 2,
                num_attention_heads: 2,
                eos_token_id: 63,
                ..full.clip
            },
            vae: autoencoder(vec![8, 8, 16, 16], 1, 16, 4),
            unets: vec![
                UNet { family: "sdxl", config: small(sdxl()), side: 64 },
                UNet { family: "sd15", config: small(sd15()), side: 32 },
            ],
            text: 16,
            sides: [64, 32],
            calls: 2,
            products: vec![[64, 64, 64], [32, 64, 128]],
            attentions: vec![[2, 32, 32]],
            copy: 1 << 20,
        }
    }

    /// Tokens of a square picture: latents are an eighth of its side, and four latents are one token.
    pub(crate) fn tokens(side: usize) -> usize {
        (side / 16) * (side / 16)
    }
}

/// The UNet of Stable Diffusion XL base, with its published config.
pub(crate) fn sdxl() -> unet::Config {
    let names = |names: [&str; 3]| names.map(str::to_owned).to_vec();
    unet::Config {
        block_out_channels: vec![320, 640, 1280],
        down_block_types: names(["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]),
        up_block_types: names(["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]),
        attention_head_dim: PerLevel::Each(vec![5, 10, 20]),
        cross_attention_dim: PerLevel::All(2048),
        transformer_layers_per_block: PerLevel::Each(vec![1, 2, 10]),
        use_linear_projection: true,
        addition_embed_type: Some("text_time".into()),
        addition_time_embed_dim: Some(256),
        projection_class_embeddings_input_dim: Some(2816),
        ..unet::Config::default()
    }
}

/// The UNet of Stable Diffusion 1.5, with its published config.
pub(crate) fn sd15() -> unet::Config {
    unet::Config { cross_attention_dim: PerLevel::All(768), ..unet::Config::default() }
}

/// The same levels, as narrow and shallow as possible.
fn small(config: unet::Config) -> unet::Config {
    let levels = config.levels();
    unet::Config {
        block_out_channels: (1..=levels).map(|level| 32 * level).collect(),
        attention_head_dim: PerLevel::All(2),
        cross_attention_dim: PerLevel::All(32),
        transformer_layers_per_block: PerLevel::All(1),
        layers_per_block: PerLevel::All(1),
        addition_time_embed_dim: config.addition_time_embed_dim.map(|_| 8),
        projection_class_embeddings_input_dim: config.projection_class_embeddings_input_dim.map(|_| 80),
        ..config
    }
}

fn autoencoder(channels: Vec<usize>, layers: usize, latents: usize, groups: usize) -> vae::Config {
    vae::Config {
        in_channels: 3,
        out_channels: 3,
        latent_channels: latents,
        block_out_channels: channels,
        layers_per_block: layers,
        norm_num_groups: groups,
        mid_block_add_attention: true,
        use_quant_conv: false,
        use_post_quant_conv: false,
        scaling_factor: 0.3611,
        shift_factor: Some(0.1159),
        latents_mean: None,
        latents_std: None,
        sample_size: 1024,
    }
}
