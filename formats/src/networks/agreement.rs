//! Whether the networks of one model fit each other: the widths of prompts and the channels of latents. Each function's
//! error is a part of a sentence with both values.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use serde_json::Value;

use super::{clip, flux, read, t5, unet, vae};
use crate::{Family, Part};

/// Stable Diffusion XL is conditioned on three pairs: the original size, the corner of the crop and the target size.
const SIZES: usize = 6;

/// The networks of a complete model, given by their configs.
pub fn check(family: Family, configs: &BTreeMap<Part, impl Borrow<Value>>) -> Result<(), String> {
    let config = |part: Part| configs.get(&part).map_or(&Value::Null, Borrow::borrow);
    let vae = read::<vae::Config>(config(Part::Vae))?;
    let text_encoder = read::<clip::Config>(config(Part::TextEncoder))?;
    if family == Family::Flux {
        let t5 = read::<t5::Config>(config(Part::TextEncoder2))?;
        return flux(&read(config(Part::Transformer))?, &text_encoder, &t5, &vae);
    }
    let unet = read::<unet::Config>(config(Part::Unet))?;
    latents(&unet, &vae)?;
    match family {
        Family::Sdxl => stable_diffusion_xl(&unet, [&text_encoder, &read(config(Part::TextEncoder2))?]),
        _ => stable_diffusion(&unet, &text_encoder),
    }
}

/// The networks of FLUX.1.
pub fn flux(transformer: &flux::Config, clip: &clip::Config, t5: &t5::Config, vae: &vae::Config) -> Result<(), String> {
    equal(&[
        (
            "CLIP's width and the transformer's pooled_projection_dim",
            clip.hidden_size,
            transformer.pooled_projection_dim,
        ),
        ("T5's width and the transformer's joint_attention_dim", t5.d_model, transformer.joint_attention_dim),
        ("four latent channels and the transformer's in_channels", 4 * vae.latent_channels, transformer.in_channels),
        ("the transformer's in_channels and its output", transformer.in_channels, transformer.outputs()),
    ])
}

/// A UNet, which may also take a mask and a masked picture as input, and the autoencoder.
pub fn latents(unet: &unet::Config, vae: &vae::Config) -> Result<(), String> {
    let (latent, unet::Config { in_channels, out_channels, .. }) = (vae.latent_channels, unet);
    if (*in_channels == latent || *in_channels == 2 * latent + 1) && *out_channels == latent {
        return Ok(());
    }
    Err(format!("no pipeline has a UNet from {in_channels} to {out_channels} channels for {latent} latents"))
}

/// UNet and text encoder of Stable Diffusion 1 and 2.
pub fn stable_diffusion(unet: &unet::Config, clip: &clip::Config) -> Result<(), String> {
    let (reads, width) = (unet.text_width(), clip.hidden_size);
    if reads == width && unet.addition_embed_type.is_none() {
        return Ok(());
    }
    Err(format!("the UNet reads prompts of width {reads} for this text encoder's {width}, or more than a prompt"))
}

/// UNet and text encoders of Stable Diffusion XL.
pub fn stable_diffusion_xl(unet: &unet::Config, [large, giant]: [&clip::Config; 2]) -> Result<(), String> {
    let (conditions, channels) = unet.added().unwrap_or_default();
    equal(&[
        (
            "both text encoders' widths and the UNet's cross_attention_dim",
            large.hidden_size + giant.hidden_size,
            unet.text_width(),
        ),
        (
            "the pooled prompt with six sizes and the UNet's projection_class_embeddings_input_dim",
            giant.projection_dim + SIZES * channels,
            conditions,
        ),
    ])
}

fn equal(pairs: &[(&str, usize, usize)]) -> Result<(), String> {
    match pairs.iter().find(|(_, left, right)| left != right) {
        Some((what, left, right)) => Err(format!("{what} do not agree: {left} and {right}")),
        None => Ok(()),
    }
}
