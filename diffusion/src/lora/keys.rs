//! The names that trainers give to the tensors of a FLUX.1 adapter, and the one name that we give to a module: its path in
//! the diffusers transformer. Only names and the cutting of fused layers belong here; no tensor is touched.

/// What one tensor of an adapter file is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Key {
    /// A part of the update of a FLUX transformer layer.
    Flux { layer: Layer, part: Part },
    /// A layer that is no FLUX transformer layer, e.g. one of a text encoder.
    Other { layer: String },
    /// Something that makes the whole file unusable here, in words.
    Unsupported(&'static str),
}

/// Which tensor of a low-rank update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A, `[rank, in]`
    Down,
    /// B, `[out, rank]`
    Up,
    /// A single number
    Alpha,
}

/// A layer of the transformer as the file names it, with the modules of ours that it stands for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    /// As in the file, for messages.
    pub name: String,
    /// Paths of our modules with the share of the output each takes, in order.
    pub targets: Vec<(String, Share)>,
}

/// Which rows of B belong to a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// All of them.
    Whole,
    /// All of them, the two halves exchanged.
    HalvesSwapped,
    /// Some of `of` equal parts, beginning with part `from`.
    Parts { from: usize, count: usize, of: usize },
}

/// Suffixes of the two factors, in the spelling of every trainer. Longer ones first.
const SUFFIXES: [(&str, Part); 14] = [
    (".lora_A.default.weight", Part::Down),
    (".lora_B.default.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_A", Part::Down),
    (".lora_B", Part::Up),
    (".alpha", Part::Alpha),
    (".lora_alpha", Part::Alpha),
];

/// Marks of other kinds of adapters than plain LoRA.
const UNSUPPORTED: [(&str, &str); 10] = [
    (".hada_w", "LoHa"),
    (".lokr_w", "LoKr"),
    (".dora_scale", "DoRA"),
    (".lora_magnitude_vector", "DoRA"),
    (".lora_mid.", "LoCon with a Tucker core"),
    (".oft_blocks", "OFT"),
    (".oft_diag", "OFT"),
    (".lora_B.bias", "a LoRA with biases (a control LoRA)"),
    (".processor.qkv_lora", "an XLabs adapter"),
    (".processor.proj_lora", "an XLabs adapter"),
];

/// Reads one tensor name.
pub(super) fn parse(key: &str) -> Key {
    if let Some((_, kind)) = UNSUPPORTED.iter().find(|(mark, _)| key.contains(mark)) {
        return Key::Unsupported(kind);
    }
    if key.ends_with(".diff") || key.ends_with(".diff_b") {
        return Key::Unsupported("a full-weight difference");
    }
    let Some((name, part)) = SUFFIXES.iter().find_map(|(suffix, part)| Some((key.strip_suffix(suffix)?, *part))) else {
        return Key::Other { layer: key.to_owned() };
    };
    match targets(name) {
        Some(targets) => Key::Flux { layer: Layer { name: name.to_owned(), targets }, part },
        None => Key::Other { layer: name.to_owned() },
    }
}

/// What the names of a file that fits no FLUX model look like.
pub(super) fn family(names: &[String]) -> &'static str {
    let any = |marks: &[&str]| names.iter().any(|name| marks.iter().any(|mark| name.contains(mark)));
    if any(&["lora_unet_input_blocks_", "lora_te2_", "text_encoder_2.text_model", "add_embedding"]) {
        "a Stable Diffusion XL LoRA"
    } else if any(&["down_blocks", "up_blocks", "mid_block"]) {
        "a Stable Diffusion LoRA (1.x, 2.x or XL)"
    } else if any(&["joint_blocks", "joint_transformer_blocks"]) {
        "a Stable Diffusion 3 LoRA"
    } else if any(&["double_stream_modulation", "single_stream_modulation"]) {
        "a FLUX.2 LoRA"
    } else if any(&["cross_attn", "blocks.0.self_attn"]) {
        "a Wan LoRA"
    } else if any(&["double_blocks", "single_blocks", "transformer_blocks"]) {
        "a LoRA of a transformer that is not FLUX.1"
    } else if any(&["text_model", "lora_te", "text_encoder"]) {
        "a LoRA of a text encoder only"
    } else if any(&["lora_", "lora."]) {
        "a LoRA of an unknown family"
    } else {
        "no LoRA"
    }
}

fn targets(name: &str) -> Option<Vec<(String, Share)>> {
    let dotted = name.strip_prefix("base_model.model.").unwrap_or(name);
    let dotted = ["transformer.", "diffusion_model.", "model.diffusion_model."]
        .iter()
        .find_map(|prefix| dotted.strip_prefix(prefix))
        .unwrap_or(dotted);
    if let Some(flat) = dotted.strip_prefix("lora_unet_").or_else(|| dotted.strip_prefix("lora_transformer_")) {
        return original(&flat_to_dotted_original(flat)?).or_else(|| diffusers(&flat_to_dotted_diffusers(flat)?));
    }
    original(dotted).or_else(|| diffusers(dotted))
}

/// `double_blocks_0_img_attn_qkv` → `double_blocks.0.img_attn.qkv`; a name of diffusers passes as it is.
fn flat_to_dotted_original(flat: &str) -> Option<String> {
    let Some((block, number, rest)) = split_block(flat, &["double_blocks_", "single_blocks_"], '_') else {
        let top = ORIGINAL_TOP.iter().find(|(theirs, _)| theirs.replace('.', "_") == flat);
        return Some(top.map_or(flat, |(theirs, _)| theirs).to_owned());
    };
    let table: &[_] = if block == "double_blocks_" { &ORIGINAL_DOUBLE } else { &ORIGINAL_SINGLE };
    let (theirs, _) = table.iter().find(|(theirs, _)| theirs.replace('.', "_") == rest)?;
    Some(format!("{}.{number}.{theirs}", block.trim_end_matches('_')))
}

/// `transformer_blocks_0_attn_to_q` → `transformer_blocks.0.attn.to_q`
fn flat_to_dotted_diffusers(flat: &str) -> Option<String> {
    let Some((block, number, rest)) = split_block(flat, &["single_transformer_blocks_", "transformer_blocks_"], '_')
    else {
        let (_, ours) = ORIGINAL_TOP.iter().find(|(_, ours)| ours.replace('.', "_") == flat)?;
        return Some((*ours).to_owned());
    };
    let table: &[_] = if block == "transformer_blocks_" { &DOUBLE } else { &SINGLE };
    let ours = table.iter().find(|ours| ours.replace('.', "_") == rest)?;
    Some(format!("{}.{number}.{ours}", block.trim_end_matches('_')))
}

/// Modules of a double block, as diffusers names them.
const DOUBLE: [&str; 14] = [
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
];

/// Modules of a single block, as diffusers names them.
const SINGLE: [&str; 6] = ["norm.linear", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out"];

/// Black Forest Labs' modules of a double block and ours, in the order of the fused output.
const ORIGINAL_DOUBLE: [(&str, &[&str]); 10] = [
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
];

/// Black Forest Labs' modules of a single block and ours, in the order of the fused output.
const ORIGINAL_SINGLE: [(&str, &[&str]); 3] = [
    ("linear1", &["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]),
    ("linear2", &["proj_out"]),
    ("modulation.lin", &["norm.linear"]),
];

/// Modules outside the blocks.
const ORIGINAL_TOP: [(&str, &str); 10] = [
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

/// The one layer whose halves diffusers keeps in the other order.
const SWAPPED: &str = "final_layer.adaLN_modulation.1";

/// A name of Black Forest Labs' own code.
fn original(dotted: &str) -> Option<Vec<(String, Share)>> {
    if let Some((_, ours)) = ORIGINAL_TOP.iter().find(|(theirs, _)| *theirs == dotted) {
        let share = if dotted == SWAPPED { Share::HalvesSwapped } else { Share::Whole };
        return Some(vec![((*ours).to_owned(), share)]);
    }
    let (block, number, rest) = split_block(dotted, &["double_blocks.", "single_blocks."], '.')?;
    let (table, prefix): (&[(&str, &[&str])], _) = if block == "double_blocks." {
        (&ORIGINAL_DOUBLE, "transformer_blocks")
    } else {
        (&ORIGINAL_SINGLE, "single_transformer_blocks")
    };
    let (_, ours) = table.iter().find(|(theirs, _)| *theirs == rest)?;
    let share = |index: usize| match ours.len() {
        1 => Share::Whole,
        3 => Share::Parts { from: index, count: 1, of: 3 },
        // q, k and v of one width and a feed-forward of four
        _ => Share::Parts { from: index, count: if index == 3 { 4 } else { 1 }, of: 7 },
    };
    Some(ours.iter().enumerate().map(|(index, ours)| (format!("{prefix}.{number}.{ours}"), share(index))).collect())
}

/// A name of diffusers.
fn diffusers(dotted: &str) -> Option<Vec<(String, Share)>> {
    let whole = || Some(vec![(dotted.to_owned(), Share::Whole)]);
    if ORIGINAL_TOP.iter().any(|(_, ours)| *ours == dotted) {
        return whole();
    }
    let (block, _, rest) = split_block(dotted, &["single_transformer_blocks.", "transformer_blocks."], '.')?;
    let table: &[&str] = if block == "transformer_blocks." { &DOUBLE } else { &SINGLE };
    if table.contains(&rest) { whole() } else { None }
}

/// `(prefix, number, rest)` of `prefix number separator rest`.
fn split_block<'a>(
    name: &'a str,
    prefixes: &[&'static str],
    separator: char,
) -> Option<(&'static str, usize, &'a str)> {
    let (prefix, rest) = prefixes.iter().find_map(|prefix| Some((*prefix, name.strip_prefix(prefix)?)))?;
    let (number, rest) = rest.split_once(separator)?;
    Some((prefix, number.parse().ok().filter(|n: &usize| n.to_string() == number)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flux(key: &str) -> (Vec<(String, Share)>, Part) {
        match parse(key) {
            Key::Flux { layer, part } => (layer.targets, part),
            other => panic!("{key}: {other:?}"),
        }
    }

    fn whole(path: &str) -> Vec<(String, Share)> {
        vec![(path.to_owned(), Share::Whole)]
    }

    #[test]
    fn every_spelling_of_one_layer_is_the_same_layer() {
        let wanted = whole("transformer_blocks.3.attn.to_out.0");
        for key in [
            "transformer.transformer_blocks.3.attn.to_out.0.lora_A.weight",
            "transformer.transformer_blocks.3.attn.to_out.0.lora.down.weight",
            "base_model.model.transformer_blocks.3.attn.to_out.0.lora_A.default.weight",
            "transformer_blocks.3.attn.to_out.0.lora_A.weight",
            "diffusion_model.double_blocks.3.img_attn.proj.lora_A.weight",
            "base_model.model.double_blocks.3.img_attn.proj.lora_A.weight",
            "lora_unet_double_blocks_3_img_attn_proj.lora_down.weight",
            "lora_transformer_transformer_blocks_3_attn_to_out_0.lora_down.weight",
            "lora_unet_transformer_blocks_3_attn_to_out_0.lora_down.weight",
        ] {
            assert_eq!(flux(key), (wanted.clone(), Part::Down), "{key}");
        }
        assert_eq!(flux("lora_unet_double_blocks_3_img_attn_proj.alpha"), (wanted, Part::Alpha));
    }

    #[test]
    fn fused_layers_are_cut_in_order() {
        let (targets, part) = flux("lora_unet_double_blocks_0_txt_attn_qkv.lora_up.weight");
        assert_eq!(part, Part::Up);
        let third = |from| Share::Parts { from, count: 1, of: 3 };
        assert_eq!(
            targets,
            [
                ("transformer_blocks.0.attn.add_q_proj".to_owned(), third(0)),
                ("transformer_blocks.0.attn.add_k_proj".to_owned(), third(1)),
                ("transformer_blocks.0.attn.add_v_proj".to_owned(), third(2)),
            ]
        );
        let (targets, _) = flux("diffusion_model.single_blocks.37.linear1.lora_B.weight");
        assert_eq!(
            targets[3],
            ("single_transformer_blocks.37.proj_mlp".to_owned(), Share::Parts { from: 3, count: 4, of: 7 })
        );
    }

    #[test]
    fn the_last_norm_is_kept_in_the_other_order() {
        let swapped = vec![("norm_out.linear".to_owned(), Share::HalvesSwapped)];
        assert_eq!(flux("diffusion_model.final_layer.adaLN_modulation.1.lora_B.weight").0, swapped);
        assert_eq!(flux("lora_unet_final_layer_adaLN_modulation_1.lora_up.weight").0, swapped);
        assert_eq!(flux("transformer.norm_out.linear.lora_B.weight").0, whole("norm_out.linear"));
    }

    #[test]
    fn every_module_is_known_by_its_own_path_and_by_its_flat_name() {
        for (block, table) in [("transformer_blocks", &DOUBLE[..]), ("single_transformer_blocks", &SINGLE[..])] {
            for module in table {
                let path = format!("{block}.11.{module}");
                assert_eq!(flux(&format!("transformer.{path}.lora_B.weight")).0, whole(&path));
                let flat = path.replace('.', "_");
                assert_eq!(flux(&format!("lora_transformer_{flat}.lora_up.weight")).0, whole(&path));
            }
        }
    }

    #[test]
    fn other_families_are_not_ours() {
        let sdxl = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight";
        assert!(matches!(parse(sdxl), Key::Other { .. }));
        assert!(family(&[sdxl.into()]).contains("XL"));
        let sd = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight";
        assert!(matches!(parse(sd), Key::Other { .. }));
        assert!(family(&[sd.into()]).contains("Stable Diffusion"));
        assert!(matches!(parse("transformer.transformer_blocks.0.attn2.to_q.lora_A.weight"), Key::Other { .. }));
        assert!(matches!(parse("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"), Key::Other { .. }));
        assert_eq!(family(&["model.diffusion_model.out.2.weight".into()]), "no LoRA");
    }

    #[test]
    fn other_algorithms_are_named() {
        assert_eq!(parse("lora_unet_double_blocks_0_img_attn_qkv.hada_w1_a"), Key::Unsupported("LoHa"));
        assert_eq!(parse("lora_unet_double_blocks_0_img_attn_qkv.dora_scale"), Key::Unsupported("DoRA"));
        let xlabs = parse("double_blocks.0.processor.qkv_lora1.down.weight");
        assert_eq!(xlabs, Key::Unsupported("an XLabs adapter"));
    }
}
