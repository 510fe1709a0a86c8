//! Maps the tensor names of each trainer to our name of the module: its network and its path there, as in diffusers.
//! This covers names and the splitting of fused layers only; no tensors are read.

mod flat;
pub mod flux;
mod text;
pub mod unet;

use serde::Serialize;

use super::{AdapterFamily, Format, Network};
use crate::Family;

/// The naming scheme of a trainer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Dialect {
    /// sd-scripts, also with LyCORIS: `lora_unet_…_attn1_to_q.lora_down.weight`
    Kohya,
    /// diffusers, ai-toolkit, SimpleTuner: `unet.….to_q.lora_A.weight`
    Peft,
    /// diffusers before it used PEFT: `unet.….processor.to_q_lora.down.weight`, `….to_q.lora.down.weight`
    DiffusersLegacy,
    /// `diffusion_model.` and the original module names
    Comfy,
    /// `double_blocks.0.processor.qkv_lora1.down.weight`
    Xlabs,
    /// `lora_transformer_…`, and counted parts of fused layers
    OneTrainer,
    /// LyCORIS without sd-scripts: `lycoris_…`
    Lycoris,
}

/// The meaning of a tensor name.
#[derive(Debug, Clone, PartialEq)]
pub enum Key {
    /// A part of the update of a known module.
    Known { module: Module, part: Part },
    /// Anything else, such as a layer of an unsupported network.
    Other { layer: String },
    /// A kind of adapter that makes the whole file unsupported, in words.
    Unsupported(&'static str),
}

/// A module as named in the file, with our modules that it contains.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// The name in the file, for messages.
    pub name: String,
    pub network: Network,
    pub dialect: Dialect,
    /// Paths of our modules, each with its share of the outputs, in order.
    pub targets: Vec<(String, Share)>,
}

impl Module {
    /// The names under which a config may mention one of its targets: the name in the file, with and without the prefix
    /// for its network, and our path.
    pub fn names<'a>(&'a self, path: &'a str) -> [&'a str; 3] {
        let name = self.name.strip_prefix("base_model.model.").unwrap_or(&self.name);
        let inside = DENOISER.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        [&self.name, inside.strip_prefix("base_model.model.").unwrap_or(inside), path]
    }
}

/// The outputs that belong to a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All outputs.
    Whole,
    /// All outputs, with their two halves exchanged.
    HalvesSwapped,
    /// `count` of `of` equal parts, starting with part `from`.
    Parts { from: usize, count: usize, of: usize },
}

/// The role of a tensor in an update. LoHa's and LoKr's have the names that LyCORIS gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Down,
    Up,
    Mid,
    UpBias,
    /// A scalar.
    Alpha,
    /// DoRA's magnitudes in LyCORIS, over outputs or inputs.
    DoraScale,
    /// DoRA's magnitudes in PEFT, over outputs.
    MagnitudeVector,
    HadaW1A,
    HadaW1B,
    HadaW2A,
    HadaW2B,
    HadaT1,
    HadaT2,
    LokrW1,
    LokrW1A,
    LokrW1B,
    LokrW2,
    LokrW2A,
    LokrW2B,
    LokrT2,
    Diff,
    DiffBias,
}

/// Suffixes of tensor names in the spelling of every trainer.
const SUFFIXES: [(&str, Part); 38] = [
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora_mid.weight", Part::Mid),
    (".alpha", Part::Alpha),
    (".lora_alpha", Part::Alpha),
    (".dora_scale", Part::DoraScale),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_A", Part::Down),
    (".lora_B", Part::Up),
    (".lora_B.bias", Part::UpBias),
    (".lora_magnitude_vector", Part::MagnitudeVector),
    (".lora_magnitude_vector.weight", Part::MagnitudeVector),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    ("_lora.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    (".hada_w1_a", Part::HadaW1A),
    (".hada_w1_b", Part::HadaW1B),
    (".hada_w2_a", Part::HadaW2A),
    (".hada_w2_b", Part::HadaW2B),
    (".hada_t1", Part::HadaT1),
    (".hada_t2", Part::HadaT2),
    (".lokr_w1", Part::LokrW1),
    (".lokr_w1_a", Part::LokrW1A),
    (".lokr_w1_b", Part::LokrW1B),
    (".lokr_w2", Part::LokrW2),
    (".lokr_w2_a", Part::LokrW2A),
    (".lokr_w2_b", Part::LokrW2B),
    (".lokr_t2", Part::LokrT2),
    (".diff", Part::Diff),
    (".diff_b", Part::DiffBias),
    (".diff.weight", Part::Diff),
    (".diff_b.weight", Part::DiffBias),
    (".w_norm", Part::Diff),
    (".b_norm", Part::DiffBias),
];

/// Substrings of unsupported adapters, with the name of their kind.
const UNSUPPORTED: [(&str, &str); 14] = [
    (".oft_blocks", "OFT or BOFT"),
    (".oft_diag", "OFT"),
    (".oft_R", "OFT"),
    (".boft_", "BOFT"),
    (".a1.weight", "GLoRA"),
    (".b1.weight", "GLoRA"),
    (".on_input", "IA3"),
    (".ia3_l", "IA3"),
    (".vera_lambda", "VeRA"),
    (".lokr_t1", "LoKr with a core on its left side"),
    (".lora_embedding_", "a LoRA of embeddings"),
    (".set_weight", "a set of replaced weights"),
    (".reshape_weight", "a set of reshaped weights"),
    (".hra_", "HRA"),
];

/// The end of a name of Black Forest Labs' control LoRAs, and what such a file is.
const CONTROL: (&str, &str) = ("_norm.scale", "a control LoRA, which replaces norms");

/// Last parts of the paths of norms.
const NORMS: [&str; 13] = [
    "norm",
    "norm1",
    "norm2",
    "norm3",
    "conv_norm_out",
    "layer_norm",
    "layer_norm1",
    "layer_norm2",
    "final_layer_norm",
    "norm_q",
    "norm_k",
    "norm_added_q",
    "norm_added_k",
];

/// Whether one of our modules is a norm.
pub fn is_norm(path: &str) -> bool {
    NORMS.contains(&path.rsplit('.').next().unwrap_or(path))
}

/// Parses one tensor name.
pub fn parse(key: &str) -> Key {
    if key.ends_with(CONTROL.0) {
        return Key::Unsupported(CONTROL.1);
    }
    if let Some((_, kind)) = UNSUPPORTED.iter().find(|(mark, _)| key.contains(mark)) {
        return Key::Unsupported(kind);
    }
    let Some((name, part)) = xlabs(key).or_else(|| strip_suffix(key)) else {
        return Key::Other { layer: key.to_owned() };
    };
    let name = match part {
        // The difference may be named after the parameter instead of its norm.
        Part::Diff | Part::DiffBias => name.strip_suffix(".scale").unwrap_or(name),
        _ => name,
    };
    match module(name, key) {
        Some((network, dialect, targets)) => {
            Key::Known { module: Module { name: name.to_owned(), network, dialect, targets }, part }
        }
        None => Key::Other { layer: name.to_owned() },
    }
}

fn strip_suffix(key: &str) -> Option<(&str, Part)> {
    let known = SUFFIXES.iter().find_map(|(suffix, part)| Some((key.strip_suffix(suffix)?, *part)));
    known.or_else(|| {
        // PEFT with the name of the adapter: `.lora_A.default.weight`
        let (rest, _) = key.strip_suffix(".weight").unwrap_or(key).rsplit_once('.')?;
        let parts = [(".lora_A", Part::Down), (".lora_B", Part::Up), (".lora_magnitude_vector", Part::MagnitudeVector)];
        parts.iter().find_map(|(suffix, part)| Some((rest.strip_suffix(suffix)?, *part)))
    })
}

fn xlabs(key: &str) -> Option<(&str, Part)> {
    let (name, part) = match key.strip_suffix(".down.weight") {
        Some(name) => (name, Part::Down),
        None => (key.strip_suffix(".up.weight")?, Part::Up),
    };
    flux::from_xlabs(name).map(|_| (name, part))
}

/// Prefixes of the dotted names of denoisers.
const DENOISER: [&str; 4] = ["transformer.", "unet.", "diffusion_model.", "model.diffusion_model."];

type Found = (Network, Dialect, Vec<(String, Share)>);

fn module(name: &str, key: &str) -> Option<Found> {
    let whole = |path: String| vec![(path, Share::Whole)];
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    for (prefix, network) in [
        ("lora_te_", Network::TextEncoder),
        ("lora_te1_", Network::TextEncoder),
        ("lora_te2_", Network::TextEncoder2),
        ("lora_te3_", Network::TextEncoder2),
    ] {
        if let Some(flat) = name.strip_prefix(prefix) {
            return Some((network, Dialect::Kohya, whole(text::from_flat(flat.trim_end_matches('_'))?)));
        }
    }
    for (prefix, dialect) in
        [("lora_unet_", Dialect::Kohya), ("lora_transformer_", Dialect::OneTrainer), ("lycoris_", Dialect::Lycoris)]
    {
        if let Some(flat) = name.strip_prefix(prefix) {
            // An early trainer of FLUX.1 added an underscore.
            let flat = flat.trim_end_matches('_');
            let flux = flux::from_flat(flat).map(|targets| (Network::Transformer, dialect, targets));
            return flux.or_else(|| Some((Network::Unet, dialect, whole(unet::from_flat(flat)?))));
        }
    }
    for (prefix, network) in [
        ("text_encoder.", Network::TextEncoder),
        ("text_encoder_2.", Network::TextEncoder2),
        ("text_encoders.clip_l.transformer.", Network::TextEncoder),
        ("text_encoders.clip_h.transformer.", Network::TextEncoder),
        ("text_encoders.clip_g.transformer.", Network::TextEncoder2),
        ("text_encoders.t5xxl.transformer.", Network::TextEncoder2),
    ] {
        if let Some(dotted) = name.strip_prefix(prefix) {
            let dotted = dotted.strip_prefix("base_model.model.").unwrap_or(dotted);
            return Some((network, dialect(key), whole(text::from_dotted(dotted)?)));
        }
    }
    let dotted = DENOISER.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let dotted = dotted.strip_prefix("base_model.model.").unwrap_or(dotted);
    let theirs = flux::from_xlabs(dotted);
    let flux = flux::from_dotted(theirs.as_deref().unwrap_or(dotted));
    flux.map(|targets| (Network::Transformer, dialect(key), targets))
        .or_else(|| Some((Network::Unet, dialect(key), whole(unet::from_dotted(dotted)?))))
}

/// Detects the dialect of a dotted name.
fn dialect(key: &str) -> Dialect {
    let contains = |marks: &[&str]| marks.iter().any(|mark| key.contains(mark));
    if contains(&[".processor.qkv_lora", ".processor.proj_lora"]) {
        Dialect::Xlabs
    } else if contains(&[".lora.down.", ".lora.up.", "_lora.down.", "_lora.up.", ".lora_linear_layer."]) {
        Dialect::DiffusersLegacy
    } else if contains(&["diffusion_model.", "text_encoders.", "double_blocks.", "single_blocks."])
        && !key.starts_with("transformer.")
    {
        Dialect::Comfy
    } else if contains(&[".lora_A", ".lora_B", ".lora_magnitude_vector"]) {
        Dialect::Peft
    } else {
        Dialect::OneTrainer
    }
}

/// The name in `format` of a module that is not part of a fused layer there.
pub fn written_name(network: Network, path: &str, family: AdapterFamily, format: Format) -> String {
    let flat = |path: &str| path.replace('.', "_");
    let xl = family == AdapterFamily::Family(Family::Sdxl);
    let original = || unet::to_original(path, xl);
    match (format, network) {
        (Format::Peft, Network::Transformer) => format!("transformer.{path}"),
        (Format::Peft, Network::Unet) => format!("unet.{path}"),
        (Format::Peft, Network::TextEncoder) => format!("text_encoder.{path}"),
        (Format::Peft, Network::TextEncoder2) => format!("text_encoder_2.{path}"),
        // sd-scripts uses the original block numbers for XL, and those of diffusers for earlier models.
        (Format::Kohya, Network::Unet) if xl => {
            format!("lora_unet_{}", flat(&original().unwrap_or_else(|| path.to_owned())))
        }
        (Format::Kohya, Network::Unet | Network::Transformer) => format!("lora_unet_{}", flat(path)),
        (Format::Kohya, Network::TextEncoder) if xl || family == AdapterFamily::Family(Family::Flux) => {
            format!("lora_te1_{}", flat(path))
        }
        (Format::Kohya, Network::TextEncoder) => format!("lora_te_{}", flat(path)),
        (Format::Kohya, Network::TextEncoder2) if path.starts_with("encoder.block.") => {
            format!("lora_te3_{}", flat(path))
        }
        (Format::Kohya, Network::TextEncoder2) => format!("lora_te2_{}", flat(path)),
        (Format::Comfy, Network::Unet | Network::Transformer) => {
            format!("diffusion_model.{}", original().unwrap_or_else(|| path.to_owned()))
        }
        (Format::Comfy, Network::TextEncoder) if family == AdapterFamily::Family(Family::Sd21) => {
            format!("text_encoders.clip_h.transformer.{path}")
        }
        (Format::Comfy, Network::TextEncoder) => format!("text_encoders.clip_l.transformer.{path}"),
        (Format::Comfy, Network::TextEncoder2) if path.starts_with("encoder.block.") => {
            format!("text_encoders.t5xxl.transformer.{path}")
        }
        (Format::Comfy, Network::TextEncoder2) => format!("text_encoders.clip_g.transformer.{path}"),
    }
}

/// The error for an unsupported kind of adapter.
pub fn not_used(kind: &str) -> String {
    format!("it is {kind}; only LoRA, LoCon, DoRA, LoHa, LoKr and full differences can be used")
}

/// The error for a file in which nothing matches a supported network.
pub fn not_known<'a>(names: impl Iterator<Item = &'a String> + Clone) -> String {
    let needed = "a LoRA of FLUX.1 or Stable Diffusion is needed";
    if let Some(family) = foreign_family(names.clone()) {
        return format!("it looks like {family}; {needed}");
    }
    let mut adapted = names.filter(|name| strip_suffix(name).is_some() || name.contains("lora"));
    match adapted.next() {
        Some(name) => format!("the names of its layers are unknown, such as {name}; {needed}"),
        None => format!("it is no LoRA; {needed}"),
    }
}

/// The family that the names in a file show, if nothing in it matches a supported network.
fn foreign_family<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Option<&'static str> {
    let any = |marks: &[&str]| names.clone().any(|name| marks.iter().any(|mark| name.contains(mark)));
    if any(&["joint_blocks", "joint_transformer_blocks"]) {
        Some("a Stable Diffusion 3 LoRA")
    } else if any(&["double_stream_modulation", "single_stream_modulation"]) {
        Some("a FLUX.2 LoRA")
    } else if any(&["cross_attn", "blocks.0.self_attn", "blocks_0_self_attn"]) {
        Some("a Wan LoRA")
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
