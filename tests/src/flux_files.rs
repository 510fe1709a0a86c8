//! FLUX.1 in the files that people have: Black Forest Labs' names for the transformer, separate files for its parts,
//! all in one file as ComfyUI saves it, GGUF. Made here from tensors with arbitrary values, since no published file is
//! small.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Map, Value, json};

use crate::model::golden;

/// Tensors by name: shape and values.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The parts' prefixes in ComfyUI's file, by the name of the file that contains each separately.
pub const PARTS: [(&str, &str); 4] = [
    ("transformer", "model.diffusion_model."),
    ("text_encoder", "text_encoders.clip_l.transformer."),
    ("text_encoder_2", "text_encoders.t5xxl.transformer."),
    ("vae", "vae."),
];

/// A complete FLUX.1-schnell with the published names, few layers and little width; the vocabularies are complete.
pub fn small() -> Tensors {
    let list = fs::read_to_string(golden("keys/flux_comfy.single.txt")).expect("a list");
    let mut all = Tensors::new();
    for line in list.lines() {
        let (name, shape) = line.split_once(' ').expect("a name and a shape");
        let shape = shape.split(' ').next().unwrap_or_default();
        let number_after = |list: &str| name.split_once(list)?.1.split('.').next()?.parse::<usize>().ok();
        if ["double_blocks.", "single_blocks.", "encoder.layers.", "encoder.block."]
            .iter()
            .any(|list| number_after(list).is_some_and(|number| number > 0))
        {
            continue;
        }
        let is_vae = name.starts_with("vae.");
        let is_bias_of_positions = name.contains("relative_attention_bias");
        let sides = shape.split('x').filter_map(|side| side.parse().ok());
        let shape: Vec<usize> = sides
            .map(|side| match side {
                128 | 256 | 512 if is_vae => side / 4,
                64 if is_bias_of_positions => 2,
                768 => 64,
                4096 | 10240 => 32,
                // a head of the transformer, and multiples of its width
                128 => 32,
                side @ (3072 | 6144 | 9216 | 12288 | 15360 | 18432 | 21504) => side / 48,
                side => side,
            })
            .collect();
        let seed =
            name.bytes().fold(0x811C_9DC5_u32, |state, byte| (state ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let value = |at: u32| (seed.wrapping_add(at.wrapping_mul(0x9E37_79B9)) >> 8) as f32 / (1 << 25) as f32 - 0.25;
        let values = (0..shape.iter().product::<usize>() as u32).map(value).collect();
        all.insert(name.to_owned(), (shape, values));
    }
    all
}

/// The tensors of one part, under the names of its separate file.
pub fn alone(all: &Tensors, prefix: &str) -> Tensors {
    all.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()))).collect()
}

/// The tensors of a file of F32 or BF16.
pub fn read(file: &[u8]) -> Tensors {
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + length]).expect("a header");
    let values = crate::model::tensors(file).by_name;
    let shape = |name: &str| header[name]["shape"].as_array().expect("a shape").iter();
    let sides = |name: &str| shape(name).map(|side| side.as_u64().expect("a side") as usize).collect();
    values.into_iter().map(|(name, values)| (name.clone(), (sides(&name), values))).collect()
}

/// Converts a diffusers transformer to Black Forest Labs' names: projections fused, the halves of the last modulation
/// swapped.
pub fn original(ours: &Tensors) -> Tensors {
    let mut theirs = Tensors::new();
    let count = |list: &str| {
        let numbers = ours.keys().filter_map(|name| name.strip_prefix(list)?.split('.').next()?.parse::<usize>().ok());
        numbers.max().map_or(0, |last| last + 1)
    };
    let mut put = |theirs_name: String, parts: &[String]| {
        let found: Vec<_> = parts.iter().filter_map(|part| ours.get(part)).collect();
        let [(shape, _), ..] = found[..] else { return };
        assert_eq!(found.len(), parts.len(), "{theirs_name}");
        let mut shape = shape.clone();
        shape[0] = found.iter().map(|(shape, _)| shape[0]).sum();
        theirs.insert(theirs_name, (shape, found.iter().flat_map(|(_, values)| values).copied().collect()));
    };
    let mut layer = |theirs: &str, parts: &[&str]| {
        for leaf in ["weight", "bias"] {
            put(format!("{theirs}.{leaf}"), &parts.iter().map(|part| format!("{part}.{leaf}")).collect::<Vec<_>>());
        }
        put(format!("{theirs}.scale"), &parts.iter().map(|part| format!("{part}.weight")).collect::<Vec<_>>());
    };
    for (theirs, ours) in [
        ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
        ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
        ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
        ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
        ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
        ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
        ("txt_in", "context_embedder"),
        ("img_in", "x_embedder"),
        ("final_layer.linear", "proj_out"),
        ("final_layer.adaLN_modulation.1", "norm_out.linear"),
    ] {
        layer(theirs, &[ours]);
    }
    for number in 0..count("transformer_blocks.") {
        let at = |name: &str| format!("transformer_blocks.{number}.{name}");
        for (theirs, ours) in [
            ("img_mod.lin", &["norm1.linear"][..]),
            ("txt_mod.lin", &["norm1_context.linear"]),
            ("img_attn.qkv", &["attn.to_q", "attn.to_k", "attn.to_v"]),
            ("txt_attn.qkv", &["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
            ("img_attn.norm.query_norm", &["attn.norm_q"]),
            ("img_attn.norm.key_norm", &["attn.norm_k"]),
            ("txt_attn.norm.query_norm", &["attn.norm_added_q"]),
            ("txt_attn.norm.key_norm", &["attn.norm_added_k"]),
            ("img_attn.proj", &["attn.to_out.0"]),
            ("txt_attn.proj", &["attn.to_add_out"]),
            ("img_mlp.0", &["ff.net.0.proj"]),
            ("img_mlp.2", &["ff.net.2"]),
            ("txt_mlp.0", &["ff_context.net.0.proj"]),
            ("txt_mlp.2", &["ff_context.net.2"]),
        ] {
            let ours: Vec<String> = ours.iter().map(|name| at(name)).collect();
            layer(&format!("double_blocks.{number}.{theirs}"), &ours.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    for number in 0..count("single_transformer_blocks.") {
        let at = |name: &str| format!("single_transformer_blocks.{number}.{name}");
        for (theirs, ours) in [
            ("modulation.lin", &["norm.linear"][..]),
            ("linear1", &["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]),
            ("linear2", &["proj_out"]),
            ("norm.query_norm", &["attn.norm_q"]),
            ("norm.key_norm", &["attn.norm_k"]),
        ] {
            let ours: Vec<String> = ours.iter().map(|name| at(name)).collect();
            layer(&format!("single_blocks.{number}.{theirs}"), &ours.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    // A norm of queries or keys has only a scale; other layers have none.
    theirs.retain(|name, _| name.contains("_norm.") == name.ends_with(".scale"));
    for leaf in ["weight", "bias"] {
        if let Some((_, values)) = theirs.get_mut(&format!("final_layer.adaLN_modulation.1.{leaf}")) {
            let half = values.len() / 2;
            values.rotate_left(half);
        }
    }
    theirs
}

/// A safetensors file of F32.
pub fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut at) = (Map::new(), 0);
    for (name, (shape, values)) in tensors {
        let end = at + 4 * values.len();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = Value::Object(header).to_string();
    let values = tensors.values().flat_map(|(_, values)| values.iter().flat_map(|value| value.to_le_bytes()));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat().into_iter().chain(values).collect()
}

/// A GGUF file of F32, laid out as in published quantised transformers.
pub fn gguf(tensors: &Tensors) -> Vec<u8> {
    gguf_of("flux", tensors, &BTreeMap::new())
}

/// The same for another architecture, with the shapes that tensors had before they were flattened.
pub fn gguf_of(architecture: &str, tensors: &Tensors, shapes: &BTreeMap<String, Vec<usize>>) -> Vec<u8> {
    const ALIGNMENT: usize = 32;
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let counts = [(tensors.len() as u64).to_le_bytes(), (1 + shapes.len() as u64).to_le_bytes()].concat();
    let mut file = [b"GGUF", &3_u32.to_le_bytes()[..], &counts].concat();
    file.extend([text("general.architecture"), 8_u32.to_le_bytes().to_vec(), text(architecture)].concat());
    for (name, shape) in shapes {
        file.extend(text(&format!("comfy.gguf.orig_shape.{name}")));
        file.extend([9_u32.to_le_bytes(), 5_u32.to_le_bytes()].concat());
        file.extend((shape.len() as u64).to_le_bytes());
        shape.iter().for_each(|side| file.extend((*side as i32).to_le_bytes()));
    }
    let mut at = 0_usize;
    for (name, (shape, values)) in tensors {
        file.extend(text(name));
        file.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|side| file.extend((*side as u64).to_le_bytes()));
        file.extend(0_u32.to_le_bytes());
        file.extend((at as u64).to_le_bytes());
        at = (at + 4 * values.len()).next_multiple_of(ALIGNMENT);
    }
    for (_, values) in tensors.values() {
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    file
}
