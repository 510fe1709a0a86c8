//! Stable Diffusion's UNet under the names of latent-diffusion's `openaimodel.py`: numbered input and output blocks,
//! each a sequence of residual blocks, attention and resampling.

use serde_json::{Value, json};

use super::{Below, Mapped, layer};
use crate::networks::unet::{MAX_LAYERS, MAX_LEVELS, MAX_TRANSFORMER_BLOCKS};
use crate::view::Source;

/// Width of an attention head in Stable Diffusion 2 and XL.
const HEAD: usize = 64;

/// One resolution level.
struct Level {
    channels: usize,
    /// Number of residual blocks.
    layers: usize,
    /// Number of transformer blocks in each attention; 0 without attention.
    depth: usize,
}

pub(super) fn map(file: &Below, mut config: Value) -> Result<Mapped, String> {
    let levels = levels(file)?;
    let layers = levels[0].layers;
    if let Some(other) = levels.iter().find(|level| level.layers != layers) {
        return Err(format!("the levels of the UNet have {layers} and {} residual blocks", other.layers));
    }
    let middle = file.count("middle_block.1.transformer_blocks.");
    let blocks: usize = levels.iter().map(|level| (2 * layers + 1) * level.depth).sum();
    if levels.len() > MAX_LEVELS || layers > MAX_LAYERS || blocks + middle > MAX_TRANSFORMER_BLOCKS {
        return Err("no UNet has so many blocks".to_owned());
    }
    let attends = |level: &Level| level.depth > 0;
    let kinds = |with: &str, without: &str| -> Vec<String> {
        levels.iter().map(|level| if attends(level) { with.into() } else { without.into() }).collect()
    };
    let mut up = kinds("CrossAttnUpBlock2D", "UpBlock2D");
    up.reverse();
    config["down_block_types"] = json!(kinds("CrossAttnDownBlock2D", "DownBlock2D"));
    config["up_block_types"] = json!(up);
    config["in_channels"] = file.size("input_blocks.0.0.weight", 1)?.into();
    config["out_channels"] = file.size("out.2.weight", 0)?.into();
    config["block_out_channels"] = levels.iter().map(|level| level.channels).collect();
    config["layers_per_block"] = layers.into();
    config["cross_attention_dim"] = file.size("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1)?.into();
    // Programs that write GGUF may drop sides of 1, so that a convolution looks like a linear layer.
    let linear = file.shape("middle_block.1.proj_in.weight")?.len() == 2 && config["use_linear_projection"] == true;
    config["use_linear_projection"] = linear.into();
    if levels.iter().any(|level| level.depth > 1) || !config["transformer_layers_per_block"].is_null() {
        config["transformer_layers_per_block"] = levels.iter().map(|level| level.depth.max(1)).collect();
    }
    if config["attention_head_dim"].is_array() {
        config["attention_head_dim"] = levels.iter().map(|level| (level.channels / HEAD).max(1)).collect();
    }
    if file.has("label_emb.") {
        config["projection_class_embeddings_input_dim"] = file.size("label_emb.0.0.weight", 1)?.into();
    }
    Ok(Mapped { config, sources: sources(&levels, layers, middle), ignored: Vec::new() })
}

fn levels(file: &Below) -> Result<Vec<Level>, String> {
    let mut levels: Vec<Level> = Vec::new();
    let mut begins = true;
    for number in (1..).take_while(|number| file.has(&format!("input_blocks.{number}."))) {
        let block = format!("input_blocks.{number}");
        if file.has(&format!("{block}.0.op.")) {
            begins = true;
            continue;
        }
        match levels.last_mut().filter(|_| !begins) {
            Some(level) => level.layers += 1,
            None => levels.push(Level {
                channels: file.size(&format!("{block}.0.out_layers.3.bias"), 0)?,
                layers: 1,
                depth: file.count(&format!("{block}.1.transformer_blocks.")),
            }),
        }
        begins = false;
    }
    if levels.is_empty() { Err(format!("{}input_blocks.1 is missing", file.prefix)) } else { Ok(levels) }
}

fn sources(levels: &[Level], layers: usize, middle: usize) -> Vec<Source> {
    let mut all = Vec::new();
    for (ours, theirs) in [
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_in", "input_blocks.0.0"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
    ] {
        all.extend(layer(ours, theirs));
    }
    for (level, Level { depth, .. }) in levels.iter().enumerate() {
        let (ours, first) = (format!("down_blocks.{level}"), 1 + level * (layers + 1));
        for at in 0..layers {
            let theirs = format!("input_blocks.{}", first + at);
            all.extend(resnet(&format!("{ours}.resnets.{at}"), &format!("{theirs}.0")));
            all.extend(transformer(&format!("{ours}.attentions.{at}"), &format!("{theirs}.1"), *depth));
        }
        all.extend(layer(&format!("{ours}.downsamplers.0.conv"), &format!("input_blocks.{}.0.op", first + layers)));
    }
    all.extend(resnet("mid_block.resnets.0", "middle_block.0"));
    all.extend(transformer("mid_block.attentions.0", "middle_block.1", middle));
    all.extend(resnet("mid_block.resnets.1", "middle_block.2"));
    for (level, Level { depth, .. }) in levels.iter().rev().enumerate() {
        let (ours, first) = (format!("up_blocks.{level}"), level * (layers + 1));
        for at in 0..=layers {
            let theirs = format!("output_blocks.{}", first + at);
            all.extend(resnet(&format!("{ours}.resnets.{at}"), &format!("{theirs}.0")));
            all.extend(transformer(&format!("{ours}.attentions.{at}"), &format!("{theirs}.1"), *depth));
        }
        // It follows the attention of the last block, if there is one.
        let upsampler = if *depth > 0 { 2 } else { 1 };
        let theirs = format!("output_blocks.{}.{upsampler}.conv", first + layers);
        all.extend(layer(&format!("{ours}.upsamplers.0.conv"), &theirs));
    }
    all
}

fn resnet(ours: &str, theirs: &str) -> impl Iterator<Item = Source> {
    const LAYERS: [(&str, &str); 6] = [
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("time_emb_proj", "emb_layers.1"),
        ("norm2", "out_layers.0"),
        ("conv2", "out_layers.3"),
        ("conv_shortcut", "skip_connection"),
    ];
    LAYERS.into_iter().flat_map(move |(our, their)| layer(&format!("{ours}.{our}"), &format!("{theirs}.{their}")))
}

/// The layers inside of attention have the same names in diffusers.
fn transformer(ours: &str, theirs: &str, depth: usize) -> Vec<Source> {
    const BLOCK: [&str; 10] = [
        "norm1",
        "attn1.to_out.0",
        "norm2",
        "attn2.to_out.0",
        "norm3",
        "ff.net.0.proj",
        "ff.net.2",
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
    ];
    const CROSS: [&str; 3] = ["attn2.to_q", "attn2.to_k", "attn2.to_v"];
    if depth == 0 {
        return Vec::new();
    }
    let around = ["norm", "proj_in", "proj_out"].map(str::to_owned).into_iter();
    let inside = (0..depth)
        .flat_map(|number| BLOCK.iter().chain(&CROSS).map(move |name| format!("transformer_blocks.{number}.{name}")));
    around.chain(inside).flat_map(|name| layer(&format!("{ours}.{name}"), &format!("{theirs}.{name}"))).collect()
}
