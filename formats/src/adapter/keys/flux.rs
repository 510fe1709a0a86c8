//! Modules of the FLUX.1 transformer under the names of diffusers, which we use, those of Black Forest Labs, which fuse
//! layers that we keep separate, and those of XLabs.

use super::Share;
use super::flat::unflatten;

/// Parts of both kinds of names that the tables below do not list.
const PARTS: [&str; 52] = [
    "double_blocks",
    "single_blocks",
    "img_attn",
    "txt_attn",
    "qkv",
    "proj",
    "img_mlp",
    "txt_mlp",
    "img_mod",
    "txt_mod",
    "lin",
    "linear1",
    "linear2",
    "modulation",
    "img_in",
    "txt_in",
    "time_in",
    "vector_in",
    "guidance_in",
    "in_layer",
    "out_layer",
    "final_layer",
    "adaLN_modulation",
    "linear",
    "transformer_blocks",
    "single_transformer_blocks",
    "norm",
    "norm1",
    "norm1_context",
    "norm_out",
    "attn",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "to_add_out",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "ff",
    "ff_context",
    "net",
    "proj_mlp",
    "proj_out",
    "x_embedder",
    "context_embedder",
    "query_norm",
    "key_norm",
    "norm_q",
    "norm_k",
    "norm_added_q",
    "norm_added_k",
];

/// Parts of the names of the layers that embed time, guidance and the pooled text.
const EMBEDDERS: [&str; 6] =
    ["time_text_embed", "timestep_embedder", "text_embedder", "guidance_embedder", "linear_1", "linear_2"];

/// Our modules for a module whose name contains only underscores.
pub(super) fn from_flat(flat: &str) -> Option<Vec<(String, Share)>> {
    from_dotted(&unflatten(flat, &[&PARTS[..], &EMBEDDERS[..]].concat())?)
}

/// Our modules for a module with a dotted name of either kind.
pub fn from_dotted(name: &str) -> Option<Vec<(String, Share)>> {
    original(name).or_else(|| diffusers(name))
}

/// Converts XLabs' name of a module to that of Black Forest Labs.
pub(super) fn from_xlabs(name: &str) -> Option<String> {
    let (block, kind) = name.split_once(".processor.")?;
    let theirs = match kind {
        "qkv_lora1" => "img_attn.qkv",
        "qkv_lora2" => "txt_attn.qkv",
        "proj_lora1" => "img_attn.proj",
        "proj_lora2" => "txt_attn.proj",
        "qkv_lora" => SINGLE_QKV,
        "proj_lora" => "linear2",
        _ => return None,
    };
    Some(format!("{block}.{theirs}"))
}

/// XLabs' adapter on a single block's first layer. Black Forest Labs have no such name.
const SINGLE_QKV: &str = "qkv";

/// Modules of a double block under diffusers' names.
const DOUBLE: [&str; 18] = [
    "norm1.linear",
    "norm1_context.linear",
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
    "attn.norm_q",
    "attn.norm_k",
    "attn.norm_added_q",
    "attn.norm_added_k",
];

/// Modules of a single block under diffusers' names.
const SINGLE: [&str; 8] =
    ["norm.linear", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out", "attn.norm_q", "attn.norm_k"];

/// Black Forest Labs' modules of a double block, and ours in the order of the fused output.
pub const ORIGINAL_DOUBLE: [(&str, &[&str]); 14] = [
    ("img_attn.qkv", &["attn.to_q", "attn.to_k", "attn.to_v"]),
    ("txt_attn.qkv", &["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
    ("img_attn.proj", &["attn.to_out.0"]),
    ("txt_attn.proj", &["attn.to_add_out"]),
    ("img_mlp.0", &["ff.net.0.proj"]),
    ("img_mlp.2", &["ff.net.2"]),
    ("txt_mlp.0", &["ff_context.net.0.proj"]),
    ("txt_mlp.2", &["ff_context.net.2"]),
    ("img_mod.lin", &["norm1.linear"]),
    ("txt_mod.lin", &["norm1_context.linear"]),
    ("img_attn.norm.query_norm", &["attn.norm_q"]),
    ("img_attn.norm.key_norm", &["attn.norm_k"]),
    ("txt_attn.norm.query_norm", &["attn.norm_added_q"]),
    ("txt_attn.norm.key_norm", &["attn.norm_added_k"]),
];

/// Black Forest Labs' modules of a single block, and ours in the order of the fused output.
pub const ORIGINAL_SINGLE: [(&str, &[&str]); 5] = [
    ("linear1", &["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]),
    ("linear2", &["proj_out"]),
    ("modulation.lin", &["norm.linear"]),
    ("norm.query_norm", &["attn.norm_q"]),
    ("norm.key_norm", &["attn.norm_k"]),
];

/// Modules outside of the blocks.
pub const ORIGINAL_TOP: [(&str, &str); 10] = [
    ("img_in", "x_embedder"),
    ("txt_in", "context_embedder"),
    ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    ("final_layer.linear", "proj_out"),
    (SWAPPED, "norm_out.linear"),
];

/// The only layer whose halves diffusers stores in the opposite order.
pub const SWAPPED: &str = "final_layer.adaLN_modulation.1";

/// Parses a name from Black Forest Labs' code.
fn original(dotted: &str) -> Option<Vec<(String, Share)>> {
    if let Some((_, ours)) = ORIGINAL_TOP.iter().find(|(theirs, _)| *theirs == dotted) {
        let share = if dotted == SWAPPED { Share::HalvesSwapped } else { Share::Whole };
        return Some(vec![((*ours).to_owned(), share)]);
    }
    let (block, number, rest) = split_block(dotted, &["double_blocks.", "single_blocks."])?;
    let (table, prefix): (&[(&str, &[&str])], _) = if block == "double_blocks." {
        (&ORIGINAL_DOUBLE, "transformer_blocks")
    } else {
        (&ORIGINAL_SINGLE, "single_transformer_blocks")
    };
    let ours_of = |name: &str| table.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours);
    if block == "single_blocks." && rest == SINGLE_QKV {
        let third = |index| Share::Parts { from: index, count: 1, of: 3 };
        let ours = ["to_q", "to_k", "to_v"].into_iter().enumerate();
        return Some(ours.map(|(index, ours)| (format!("{prefix}.{number}.attn.{ours}"), third(index))).collect());
    }
    let Some(ours) = ours_of(rest) else {
        // OneTrainer numbers the parts of a fused layer: `qkv.0`, `linear1.3`.
        let (fused, index) = rest.rsplit_once('.')?;
        let ours = ours_of(fused).filter(|ours| ours.len() > 1)?.get(index.parse::<usize>().ok()?)?;
        return Some(vec![(format!("{prefix}.{number}.{ours}"), Share::Whole)]);
    };
    let share = |index: usize| match ours.len() {
        1 => Share::Whole,
        3 => Share::Parts { from: index, count: 1, of: 3 },
        // q, k and v have the same width, and the feed-forward layer has four times that width.
        _ => Share::Parts { from: index, count: if index == 3 { 4 } else { 1 }, of: 7 },
    };
    Some(ours.iter().enumerate().map(|(index, ours)| (format!("{prefix}.{number}.{ours}"), share(index))).collect())
}

/// Parses a name from diffusers.
fn diffusers(dotted: &str) -> Option<Vec<(String, Share)>> {
    let whole = || Some(vec![(dotted.to_owned(), Share::Whole)]);
    if ORIGINAL_TOP.iter().any(|(_, ours)| *ours == dotted) {
        return whole();
    }
    let (block, _, rest) = split_block(dotted, &["single_transformer_blocks.", "transformer_blocks."])?;
    let table: &[&str] = if block == "transformer_blocks." { &DOUBLE } else { &SINGLE };
    if table.contains(&rest) { whole() } else { None }
}

/// Splits `prefix number . rest` into `(prefix, number, rest)`.
fn split_block<'a>(name: &'a str, prefixes: &[&'static str]) -> Option<(&'static str, usize, &'a str)> {
    let (prefix, rest) = prefixes.iter().find_map(|prefix| Some((*prefix, name.strip_prefix(prefix)?)))?;
    let (number, rest) = rest.split_once('.')?;
    Some((prefix, number.parse().ok().filter(|n: &usize| n.to_string() == number)?, rest))
}

/// Black Forest Labs' layer that contains one of our modules or equals it.
pub fn original_of(path: &str) -> Option<String> {
    if let Some((theirs, _)) = ORIGINAL_TOP.iter().find(|(_, ours)| *ours == path) {
        return Some((*theirs).to_owned());
    }
    let (block, rest) = path.split_once('.')?;
    let (number, module) = rest.split_once('.')?;
    let (prefix, table): (_, &[(&str, &[&str])]) = match block {
        "transformer_blocks" => ("double_blocks", &ORIGINAL_DOUBLE),
        "single_transformer_blocks" => ("single_blocks", &ORIGINAL_SINGLE),
        _ => return None,
    };
    let (theirs, _) = table.iter().find(|(_, ours)| ours.contains(&module))?;
    Some(format!("{prefix}.{number}.{theirs}"))
}
