//! The networks of ember's transformer and text encoders: their sizes, and the file of their weights.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::module::Module;
use burn::prelude::*;
use diffusion::networks::clip::{self, Activation, ClipTextModel};
use diffusion::networks::flux::{self, FluxTransformer};
use diffusion::networks::t5::{self, T5Encoder};

use crate::{autoencoder, words};

const TEXT_WIDTH: usize = 128;

/// The networks that are trained together.
#[derive(Module, Debug)]
pub(crate) struct Networks {
    pub text_encoder: ClipTextModel,
    pub text_encoder_2: T5Encoder,
    pub transformer: FluxTransformer,
}

pub(crate) struct Configs {
    pub clip: clip::Config,
    pub t5: t5::Config,
    pub flux: flux::Config,
}

/// Sizes of the networks, for the tokenizers in the output folder.
pub(crate) fn configs(out: &Path) -> Result<Configs> {
    let clip_size = words::clip_size(out)?;
    Ok(Configs {
        clip: clip::Config {
            vocab_size: clip_size,
            hidden_size: TEXT_WIDTH,
            intermediate_size: 2 * TEXT_WIDTH,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            max_position_embeddings: words::CLIP_LENGTH,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: clip_size as i64 - 1,
            projection_dim: TEXT_WIDTH,
        },
        t5: t5::Config {
            vocab_size: words::t5_size(out)?,
            d_model: TEXT_WIDTH,
            d_kv: 32,
            d_ff: 2 * TEXT_WIDTH,
            num_layers: 2,
            num_heads: 4,
            relative_attention_num_buckets: 16,
            relative_attention_max_distance: 32,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: t5::FeedForwardKind::GatedGelu,
        },
        flux: flux::Config {
            patch_size: 1,
            in_channels: 4 * autoencoder::config().latent_channels,
            out_channels: None,
            num_layers: 2,
            num_single_layers: 4,
            attention_head_dim: 32,
            num_attention_heads: 6,
            joint_attention_dim: TEXT_WIDTH,
            pooled_projection_dim: TEXT_WIDTH,
            guidance_embeds: false,
            axes_dims_rope: [8, 12, 12],
        },
    })
}

impl Networks {
    pub(crate) fn new(configs: &Configs, device: &Device) -> Self {
        Self {
            text_encoder: ClipTextModel::new(&configs.clip, device),
            text_encoder_2: T5Encoder::new(&configs.t5, device),
            transformer: FluxTransformer::new(&configs.flux, device),
        }
    }
}

pub(crate) fn weights(out: &Path) -> PathBuf {
    out.join("flow.safetensors")
}
