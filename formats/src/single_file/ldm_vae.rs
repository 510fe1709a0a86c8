//! The autoencoder under the names of latent-diffusion's `model.py`, which Stable Diffusion and FLUX.1 share. The file
//! counts the decoder's levels from the finest, diffusers from the coarsest.

use serde_json::{Value, json};

use super::{Below, Mapped, layer};
use crate::networks::vae::{MAX_LAYERS, MAX_LEVELS};
use crate::view::{Cut, Source};

pub(super) fn map(file: &Below, mut config: Value) -> Result<Mapped, String> {
    let levels = file.count("encoder.down.");
    let layers = file.count("encoder.down.0.block.");
    if levels > MAX_LEVELS || layers > MAX_LAYERS {
        return Err("no autoencoder has so many blocks".to_owned());
    }
    let channels: Vec<usize> = (0..levels)
        .map(|level| file.size(&format!("encoder.down.{level}.block.0.conv2.weight"), 0))
        .collect::<Result<_, _>>()?;
    if channels.is_empty() {
        return Err(format!("{}encoder.down.0 is missing", file.prefix));
    }
    config["down_block_types"] = json!(vec!["DownEncoderBlock2D"; levels]);
    config["up_block_types"] = json!(vec!["UpDecoderBlock2D"; levels]);
    config["block_out_channels"] = json!(channels);
    config["layers_per_block"] = layers.into();
    config["in_channels"] = file.size("encoder.conv_in.weight", 1)?.into();
    config["out_channels"] = file.size("decoder.conv_out.weight", 0)?.into();
    config["latent_channels"] = file.size("decoder.conv_in.weight", 1)?.into();
    config["mid_block_add_attention"] = file.has("decoder.mid.attn_1.").into();
    config["use_quant_conv"] = file.has("quant_conv.").into();
    config["use_post_quant_conv"] = file.has("post_quant_conv.").into();
    // The discriminator used in training, and statistics of weight averaging.
    let ignored = ["loss.", "model_ema."].map(str::to_owned).to_vec();
    Ok(Mapped { config, sources: sources(levels, layers), ignored })
}

fn sources(levels: usize, layers: usize) -> Vec<Source> {
    let mut all = Vec::new();
    for name in ["quant_conv", "post_quant_conv"] {
        all.extend(layer(name, name));
    }
    for side in ["encoder", "decoder"] {
        for (ours, theirs) in [("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out")] {
            all.extend(layer(&format!("{side}.{ours}"), &format!("{side}.{theirs}")));
        }
        for number in 0..2 {
            let theirs = format!("{side}.mid.block_{}", number + 1);
            all.extend(resnet(&format!("{side}.mid_block.resnets.{number}"), &theirs));
        }
        all.extend(attention(&format!("{side}.mid_block.attentions.0"), &format!("{side}.mid.attn_1")));
    }
    for level in 0..levels {
        let (ours, theirs) = (format!("encoder.down_blocks.{level}"), format!("encoder.down.{level}"));
        for at in 0..layers {
            all.extend(resnet(&format!("{ours}.resnets.{at}"), &format!("{theirs}.block.{at}")));
        }
        all.extend(layer(&format!("{ours}.downsamplers.0.conv"), &format!("{theirs}.downsample.conv")));

        let (ours, theirs) = (format!("decoder.up_blocks.{}", levels - 1 - level), format!("decoder.up.{level}"));
        for at in 0..=layers {
            all.extend(resnet(&format!("{ours}.resnets.{at}"), &format!("{theirs}.block.{at}")));
        }
        all.extend(layer(&format!("{ours}.upsamplers.0.conv"), &format!("{theirs}.upsample.conv")));
    }
    all
}

fn resnet(ours: &str, theirs: &str) -> impl Iterator<Item = Source> {
    const LAYERS: [(&str, &str); 5] = [
        ("norm1", "norm1"),
        ("conv1", "conv1"),
        ("norm2", "norm2"),
        ("conv2", "conv2"),
        ("conv_shortcut", "nin_shortcut"),
    ];
    LAYERS.into_iter().flat_map(move |(our, their)| layer(&format!("{ours}.{our}"), &format!("{theirs}.{their}")))
}

/// The file stores its projections as 1×1 convolutions or as matrices. Files that were converted from diffusers use its
/// names, today's or those from before 0.18 (<https://github.com/huggingface/diffusers/pull/6933>).
fn attention(ours: &str, theirs: &str) -> Vec<Source> {
    const LAYERS: [(&str, &str); 14] = [
        ("group_norm", "norm"),
        ("group_norm", "group_norm"),
        ("to_q", "q"),
        ("to_q", "to_q"),
        ("to_q", "query"),
        ("to_k", "k"),
        ("to_k", "to_k"),
        ("to_k", "key"),
        ("to_v", "v"),
        ("to_v", "to_v"),
        ("to_v", "value"),
        ("to_out.0", "proj_out"),
        ("to_out.0", "to_out.0"),
        ("to_out.0", "proj_attn"),
    ];
    LAYERS
        .into_iter()
        .flat_map(|(our, their)| layer(&format!("{ours}.{our}"), &format!("{theirs}.{their}")))
        .map(|source| Source { cut: Cut::Linear, ..source })
        .collect()
}
