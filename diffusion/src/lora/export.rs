//! Writes an adapter in another dialect than that of its file. Low-rank updates convert in both directions without
//! loss, including the fused layers of FLUX.1. Modules that the dialect cannot name are errors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::prelude::*;
use burn::tensor::DType;
use formats::adapter::keys::{self, Key, Share, flux};
use formats::adapter::{AlphaRule, Dtype, Format, MULTIPLIED};
use serde_json::{Map, Value, json};

use super::file::Adapted;
use super::fuse::{Part, fuse};
use super::update::{Array, Delta, LoHa, LoKr, LowRank, Magnitude, Side, Update};
use super::{LoraFile, Network};
use crate::checkpoint::{self, Stored};
use crate::{Error, Result};

/// Header fields that would contradict the tensors.
const STALE: [&str; 4] = ["ss_network_dim", "ss_network_module", "sshs_model_hash", "sshs_legacy_hash"];

/// Writes an adapter in `format`, completely or not at all. The header is kept, except for fields about alpha and
/// hashes.
pub fn export(file: &LoraFile, format: Format, dtype: Dtype, path: &Path) -> Result<()> {
    let dtype = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::BF16,
    };
    let modules = named(file, format)?;
    let mut header = file.metadata().clone();
    header.retain(|field, _| !STALE.contains(&&**field) && !AlphaRule::reads(field));
    if format != Format::Kohya {
        header.insert(MULTIPLIED.0.to_owned(), MULTIPLIED.1.to_owned());
    }
    if format == Format::Peft {
        header.extend(mixed_ranks(file).map(|text| ("lora_adapter_metadata".to_owned(), text)));
    }
    let (mut tensors, mut names) = (Vec::new(), BTreeSet::new());
    for (name, update) in &modules {
        if !names.insert(name) {
            return Err(refused(name, "the file changes it twice, under two names"));
        }
        let written = tensors_in(format, update).ok_or_else(|| refused(name, &inexpressible(format, update)))?;
        for (suffix, array) in written {
            let key = format!("{name}.{suffix}");
            // The name of a layer that no network has may be valid in the dialect of the file and not in this one.
            if !matches!(keys::parse(&key), Key::Known { .. }) {
                return Err(refused(name, "this dialect has no name for it"));
            }
            tensors.push(stored(key, &array, dtype)?);
        }
    }
    checkpoint::write(path, tensors, &header)
}

/// Tensors under the names of a dialect, by suffix; `None` if it has no names for the algorithm.
fn tensors_in(format: Format, update: &Update) -> Option<Vec<(&'static str, Array)>> {
    match format {
        Format::Kohya => lycoris_tensors(update),
        Format::Peft => peft_tensors(update, Format::Peft),
        Format::Comfy => peft_tensors(update, Format::Comfy).or_else(|| lycoris_tensors(update)),
    }
}

/// Why `format` cannot hold an update, and which formats can.
fn inexpressible(format: Format, update: &Update) -> String {
    let algorithm = match (&update.delta, &update.magnitude) {
        (Some(Delta::LoHa(_)), _) => "LoHa",
        (Some(Delta::LoKr(_)), _) => "LoKr",
        (Some(Delta::Full(_)), _) => "whole differences of weights",
        (Some(Delta::LowRank(LowRank { mid: Some(_), .. })), _) => "LoCon with a core",
        (Some(Delta::LowRank(_)), Some(_)) => "DoRA of this kind",
        (Some(Delta::LowRank(_)), None) => "LoRA",
        (None, _) => "a bias alone",
    };
    let others: Vec<&str> =
        Format::ALL.into_iter().filter(|other| tensors_in(*other, update).is_some()).map(Format::as_str).collect();
    let advice = if others.is_empty() { String::new() } else { format!("; export it as {}", others.join(" or ")) };
    format!("the format {} has no names for {algorithm}{advice}", format.as_str())
}

/// Every module of the file to be written, by its name there.
fn named(file: &LoraFile, format: Format) -> Result<Vec<(String, Update)>> {
    let family = file.family();
    let mut modules = Vec::new();
    let mut fused: BTreeMap<String, Vec<(&str, &Update)>> = BTreeMap::new();
    for Adapted { network, path, update } in file.modules() {
        match (network, format) {
            (Network::Transformer, Format::Kohya | Format::Comfy) => match flux::original_of(path) {
                Some(theirs) => fused.entry(theirs).or_default().push((path, update)),
                None => return Err(refused(path, "it has no original name")),
            },
            _ => modules.push((keys::written_name(*network, path, family, format), update.clone())),
        }
    }
    for (theirs, found) in fused {
        let prefix = if format == Format::Kohya { "lora_unet_" } else { "diffusion_model." };
        let name = if format == Format::Kohya { theirs.replace('.', "_") } else { theirs.clone() };
        let update = whole(&theirs, &found)
            .ok_or_else(|| refused(&theirs, "its parts cannot be fused as this dialect asks for"))?;
        modules.push((format!("{prefix}{name}"), update));
    }
    Ok(modules)
}

/// The update of a layer as Black Forest Labs define it.
fn whole(theirs: &str, found: &[(&str, &Update)]) -> Option<Update> {
    let targets = flux::from_dotted(theirs)?;
    let of = |path: &str| found.iter().find(|(ours, _)| *ours == path).map(|(_, update)| *update);
    match targets.as_slice() {
        [(path, share @ (Share::Whole | Share::HalvesSwapped))] => of(path)?.share(*share),
        targets => {
            let parts = targets.iter().map(|(path, share)| match share {
                Share::Parts { count, .. } => Some(Part { update: of(path), share: *count }),
                _ => None,
            });
            fuse(&parts.collect::<Option<Vec<_>>>()?)
        }
    }
}

/// Tensors under the names of sd-scripts and LyCORIS, by suffix.
fn lycoris_tensors(update: &Update) -> Option<Vec<(&'static str, Array)>> {
    let mut tensors = Vec::new();
    let mut put = |name, array: &Array| tensors.push((name, array.clone()));
    match &update.delta {
        Some(Delta::LowRank(LowRank { down, mid, up })) => {
            put("lora_down.weight", down);
            put("lora_up.weight", up);
            mid.iter().for_each(|mid| put("lora_mid.weight", mid));
        }
        Some(Delta::LoHa(LoHa { a: [a1, a2], b: [b1, b2], cores, .. })) => {
            put("hada_w1_a", a1);
            put("hada_w1_b", b1);
            put("hada_w2_a", a2);
            put("hada_w2_b", b2);
            cores.iter().for_each(|[t1, t2]| {
                put("hada_t1", t1);
                put("hada_t2", t2);
            });
        }
        Some(Delta::LoKr(factors)) => {
            let LoKr { left, right, .. } = factors.whole()?;
            for (side, whole, one, two) in
                [(left, "lokr_w1", "lokr_w1_a", "lokr_w1_b"), (right, "lokr_w2", "lokr_w2_a", "lokr_w2_b")]
            {
                match side {
                    Side::Whole(matrix) => put(whole, matrix),
                    Side::Factored { a, b, core } => {
                        put(one, a);
                        put(two, b);
                        core.iter().for_each(|core| put("lokr_t2", core));
                    }
                }
            }
        }
        Some(Delta::Full(delta)) => put("diff", delta),
        None => {}
    }
    if let Some(bias) = &update.bias {
        put("diff_b", bias);
    }
    if let Some(rank) = update.delta.as_ref().and_then(Delta::rank) {
        put("alpha", &Array { shape: Vec::new(), values: vec![(update.scale * rank as f64) as f32] });
    }
    if let (Some(magnitude), Some(delta)) = (&update.magnitude, &update.delta) {
        let convolution = matches!(delta, Delta::LowRank(factors) if factors.is_convolution()) || delta.shape()[2] > 1;
        let mut shape = match magnitude {
            Magnitude::Outputs(values) => vec![values.rows(), 1],
            Magnitude::Inputs(values) => vec![1, values.rows()],
        };
        shape.extend(convolution.then_some([1, 1]).into_iter().flatten());
        let (Magnitude::Outputs(values) | Magnitude::Inputs(values)) = magnitude;
        put("dora_scale", &Array { shape, values: values.values.clone() });
    }
    Some(tensors)
}

/// Tensors under PEFT's names, by suffix; `None` if PEFT has no names for the algorithm.
fn peft_tensors(update: &Update, format: Format) -> Option<Vec<(&'static str, Array)>> {
    let Some(Delta::LowRank(LowRank { down, mid: None, up })) = &update.delta else { return None };
    let scaled = up.values.iter().map(|value| (f64::from(*value) * update.scale) as f32).collect();
    let up = Array { shape: up.shape.clone(), values: scaled };
    let mut tensors = vec![("lora_A.weight", down.clone()), ("lora_B.weight", up)];
    if let Some(bias) = &update.bias {
        tensors.push(("lora_B.bias", bias.clone()));
    }
    match (&update.magnitude, format) {
        (None, _) => Some(tensors),
        (Some(Magnitude::Outputs(values)), Format::Peft) => {
            let mut values = values.clone();
            if down.shape.len() == 4 {
                values.shape = vec![1, values.rows(), 1, 1];
            }
            tensors.push(("lora_magnitude_vector", values));
            Some(tensors)
        }
        // ComfyUI reads DoRA only under LyCORIS' name.
        _ => None,
    }
}

/// PEFT's config of an adapter whose ranks differ. Without it, diffusers would use the alpha of one module for all.
fn mixed_ranks(file: &LoraFile) -> Option<String> {
    let mut by_network: BTreeMap<Network, BTreeMap<&str, usize>> = BTreeMap::new();
    for Adapted { network, path, update } in file.modules() {
        let path = path.strip_prefix("text_model.").unwrap_or(path);
        by_network.entry(*network).or_default().insert(path, update.delta.as_ref()?.rank()?);
    }
    if by_network.values().all(|ranks| ranks.values().min() == ranks.values().max()) {
        return None;
    }
    let mut config = Map::new();
    for (network, ranks) in by_network {
        let prefix = match network {
            Network::Transformer => "transformer",
            Network::Unet => "unet",
            Network::TextEncoder => "text_encoder",
            Network::TextEncoder2 => "text_encoder_2",
        };
        let highest = ranks.values().max().copied().unwrap_or(1);
        let others: BTreeMap<_, _> = ranks.iter().filter(|(_, rank)| **rank != highest).collect();
        let mut put = |field: &str, value: Value| config.insert(format!("{prefix}.{field}"), value);
        put("r", json!(highest));
        put("lora_alpha", json!(highest));
        put("rank_pattern", json!(others));
        put("alpha_pattern", json!(others));
        put("target_modules", json!(ranks.keys().collect::<Vec<_>>()));
    }
    Some(Value::Object(config).to_string())
}

fn stored(name: String, array: &Array, dtype: DType) -> Result<Stored> {
    let device = &Device::flex();
    match array.shape.len() {
        0 => Stored::scalar(name, array.tensor(device)),
        1 => Stored::new(name, array.tensor::<1>(device), dtype),
        2 => Stored::new(name, array.tensor::<2>(device), dtype),
        _ => Stored::new(name, array.tensor::<4>(device), dtype),
    }
}

fn refused(name: &str, reason: &str) -> Error {
    Error::Invalid(format!("{name}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_lacks_an_algorithm_names_those_that_have_it() {
        let array = Array { shape: vec![2, 2], values: vec![1.0; 4] };
        let update = Update { delta: Some(Delta::Full(array)), scale: 1.0, bias: None, magnitude: None };
        let why = inexpressible(Format::Peft, &update);
        let expected = "the format peft has no names for whole differences of weights; export it as kohya or comfy";
        assert_eq!(why, expected);
    }
}
