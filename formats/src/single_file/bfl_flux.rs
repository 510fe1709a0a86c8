//! FLUX.1's transformer under the names of Black Forest Labs: fused projections, and a last modulation with its halves
//! exchanged. ComfyUI and most GGUF files use these names.

use serde_json::{Value, json};

use super::{Below, Mapped, layer};
use crate::view::{Cut, Source};

pub(super) fn map(file: &Below, mut config: Value) -> Result<Mapped, String> {
    let width = file.size("img_in.weight", 0)?;
    let inputs = file.size("img_in.weight", 1)?;
    let outputs = file.size("final_layer.linear.weight", 0)?;
    let head = file.size("double_blocks.0.img_attn.norm.query_norm.scale", 0)?;
    let (doubles, singles) = (file.count("double_blocks."), file.count("single_blocks."));
    config["in_channels"] = inputs.into();
    config["out_channels"] = if outputs == inputs { Value::Null } else { outputs.into() };
    config["num_layers"] = doubles.into();
    config["num_single_layers"] = singles.into();
    config["attention_head_dim"] = head.into();
    config["num_attention_heads"] = (width / head).into();
    config["joint_attention_dim"] = file.size("txt_in.weight", 1)?.into();
    config["pooled_projection_dim"] = file.size("vector_in.in_layer.weight", 1)?.into();
    config["guidance_embeds"] = file.has("guidance_in.").into();
    // 16, 56 and 56 of 128; always even
    let picture = head * 7 / 32 * 2;
    config["axes_dims_rope"] = json!([head - 2 * picture, picture, picture]);
    Ok(Mapped { config, sources: sources(doubles, singles, width), ignored: Vec::new() })
}

fn sources(doubles: usize, singles: usize, width: usize) -> Vec<Source> {
    let mut all = Vec::new();
    for (ours, theirs) in [
        ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer"),
        ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer"),
        ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
        ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
        ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
        ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
        ("context_embedder", "txt_in"),
        ("x_embedder", "img_in"),
        ("proj_out", "final_layer.linear"),
    ] {
        all.extend(layer(ours, theirs));
    }
    // The file has shift and scale, diffusers scale and shift.
    let last = layer("norm_out.linear", "final_layer.adaLN_modulation.1");
    all.extend(last.map(|source| Source { cut: Cut::HalvesSwapped, ..source }));
    for number in 0..doubles {
        all.extend(double(&format!("transformer_blocks.{number}"), &format!("double_blocks.{number}"), width));
    }
    for number in 0..singles {
        all.extend(single(&format!("single_transformer_blocks.{number}"), &format!("single_blocks.{number}"), width));
    }
    all
}

fn double(ours: &str, theirs: &str, width: usize) -> Vec<Source> {
    let mut all = Vec::new();
    for (our, their) in [
        ("norm1.linear", "img_mod.lin"),
        ("norm1_context.linear", "txt_mod.lin"),
        ("attn.to_out.0", "img_attn.proj"),
        ("attn.to_add_out", "txt_attn.proj"),
        ("ff.net.0.proj", "img_mlp.0"),
        ("ff.net.2", "img_mlp.2"),
        ("ff_context.net.0.proj", "txt_mlp.0"),
        ("ff_context.net.2", "txt_mlp.2"),
    ] {
        all.extend(layer(&format!("{ours}.{our}"), &format!("{theirs}.{their}")));
    }
    all.extend(norms(
        ours,
        theirs,
        [
            ("attn.norm_q", "img_attn.norm.query_norm"),
            ("attn.norm_k", "img_attn.norm.key_norm"),
            ("attn.norm_added_q", "txt_attn.norm.query_norm"),
            ("attn.norm_added_k", "txt_attn.norm.key_norm"),
        ],
    ));
    all.extend(fused(ours, &["attn.to_q", "attn.to_k", "attn.to_v"], &format!("{theirs}.img_attn.qkv"), width));
    let added = ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"];
    all.extend(fused(ours, &added, &format!("{theirs}.txt_attn.qkv"), width));
    all
}

fn single(ours: &str, theirs: &str, width: usize) -> Vec<Source> {
    let mut all = Vec::new();
    all.extend(layer(&format!("{ours}.norm.linear"), &format!("{theirs}.modulation.lin")));
    all.extend(layer(&format!("{ours}.proj_out"), &format!("{theirs}.linear2")));
    all.extend(norms(ours, theirs, [("attn.norm_q", "norm.query_norm"), ("attn.norm_k", "norm.key_norm")]));
    let parts = ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"];
    all.extend(fused(ours, &parts, &format!("{theirs}.linear1"), width));
    all
}

fn norms<const N: usize>(ours: &str, theirs: &str, pairs: [(&str, &str); N]) -> [Source; N] {
    pairs.map(|(our, their)| Source::whole(format!("{ours}.{our}.weight"), format!("{theirs}.{their}.scale")))
}

/// Consecutive parts of `width` rows; the last part takes the remaining rows.
fn fused(ours: &str, parts: &[&str], theirs: &str, width: usize) -> Vec<Source> {
    let cut = |at: usize| Cut::Rows { from: at * width, to: (at + 1 < parts.len()).then_some((at + 1) * width) };
    let leaf = |leaf: &'static str| {
        parts.iter().enumerate().map(move |(at, part)| Source {
            ours: format!("{ours}.{part}.{leaf}"),
            theirs: format!("{theirs}.{leaf}"),
            cut: cut(at),
        })
    };
    leaf("weight").chain(leaf("bias")).collect()
}
