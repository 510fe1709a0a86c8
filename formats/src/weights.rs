//! Which files in a part's folder hold its weights. Folders in diffusers' layout may hold the same weights several
//! times, as variants (`model.fp16.safetensors`) and as shards. The command line, imports, the server and the engine
//! all choose by this module.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// File stems that diffusers and transformers use, in order of preference. Other stems count if there is only one.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];
/// Variants that hold the same weights in another precision, in order of preference, after the plain ones.
const PRECISIONS: [&str; 2] = ["fp16", "bf16"];
/// The end of the name of every file of weights, and a part of the name of every shard index.
const END: &str = ".safetensors";
const INDEX: &str = ".safetensors.index";
/// Limit on the number of shards.
const MAX_SHARDS: usize = 1024;

/// The weights of a part: file names within its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights<'a> {
    /// One file, or shards in order.
    pub files: Vec<&'a str>,
    /// The index that states which shard holds which tensor.
    pub index: Option<&'a str>,
    pub variant: Option<&'a str>,
    /// Shards that are not there, by the numbers in the names of the others.
    pub missing: Vec<String>,
}

/// The parsed name of a file: `STEM[.VARIANT][-00001-of-00002].safetensors`, where the shard may also precede the
/// variant, or of an index: `STEM[.VARIANT].safetensors.index[.VARIANT].json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name<'a> {
    stem: &'a str,
    variant: Option<&'a str>,
    /// Number and count.
    shard: Option<(usize, usize)>,
    is_index: bool,
}

impl<'a> Name<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        if let Some((before, after)) = name.split_once(INDEX) {
            let after = after.strip_suffix(".json")?;
            let (stem, variant) = before.split_once('.').map_or((before, None), |(stem, rest)| (stem, Some(rest)));
            let variant = after.strip_prefix('.').or(variant);
            return Some(Self { stem, variant, shard: None, is_index: true });
        }
        let whole = name.strip_suffix(END)?;
        let (stem, variant) = whole.split_once('.').map_or((whole, None), |(stem, rest)| (stem, Some(rest)));
        let (stem, of_stem) = without_shard(stem);
        let (variant, of_variant) = variant.map_or((None, None), |variant| {
            let (variant, shard) = without_shard(variant);
            (Some(variant), shard)
        });
        Some(Self { stem, variant, shard: of_stem.or(of_variant), is_index: false })
    }
}

/// Splits `-00001-of-00002` from the end.
fn without_shard(text: &str) -> (&str, Option<(usize, usize)>) {
    let shard = || {
        let (rest, count) = text.rsplit_once("-of-")?;
        let (rest, number) = rest.rsplit_once('-')?;
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        (is_number(number) && is_number(count)).then_some(())?;
        Some((rest, (number.parse().ok()?, count.parse().ok()?)))
    };
    shard().map_or((text, None), |(rest, shard)| (rest, Some(shard)))
}

/// Whether a file contains weights that a folder's part may be loaded from, by its name.
pub fn is_weights(name: &str) -> bool {
    name.ends_with(END)
}

/// Whether a file is the index of shards, by its name.
pub fn is_index(name: &str) -> bool {
    name.contains(INDEX) && name.ends_with(".json")
}

/// Chooses among the file names in a part's folder: the requested variant, else the plain weights, else the variant in
/// half precision, else the only variant. `None` if there are no weights.
///
/// # Errors
/// A sentence, if there are several variants of equal rank, or several files that are no variants of each other.
pub fn choose<'a>(names: &[&'a str], variant: Option<&str>) -> Result<Option<Weights<'a>>, String> {
    let parsed: Vec<(&'a str, Name<'a>)> = names.iter().filter_map(|name| Some((*name, Name::parse(name)?))).collect();
    let weights = || parsed.iter().filter(|(_, name)| !name.is_index).map(|(_, name)| name);
    let stems: BTreeSet<&str> = weights().map(|name| name.stem).collect();
    // An index may name its shards in any way.
    let mut indexes = parsed.iter().filter(|(_, name)| name.is_index).map(|(file, _)| *file);
    let only_index = indexes.next().filter(|_| indexes.next().is_none());
    let of_index = |index: &'a str| {
        let files = parsed.iter().filter(|(_, name)| !name.is_index).map(|(file, _)| *file).collect();
        Weights { files, index: Some(index), variant: None, missing: Vec::new() }
    };
    let known = STEMS.iter().filter(|stem| stems.contains(**stem)).copied();
    let stems: Vec<&str> = match known.collect::<Vec<_>>() {
        known if known.is_empty() && stems.len() > 1 => {
            if let Some(index) = only_index {
                return Ok(Some(of_index(index)));
            }
            let names: Vec<&str> = stems.into_iter().collect();
            return Err(format!("There are several files of weights: {}.", names.join(", ")));
        }
        known if known.is_empty() => stems.into_iter().collect(),
        known => known,
    };
    if stems.is_empty() {
        return Ok(only_index.map(of_index));
    }
    let has = |variant: Option<&str>| weights().any(|name| stems.contains(&name.stem) && name.variant == variant);
    let variants: BTreeSet<&str> =
        weights().filter(|name| stems.contains(&name.stem)).filter_map(|name| name.variant).collect();
    let preferred = [variant, None, Some(PRECISIONS[0]), Some(PRECISIONS[1])];
    let chosen = match preferred.into_iter().find(|variant| has(*variant)) {
        Some(chosen) => variants.iter().copied().find(|known| Some(*known) == chosen),
        None if variants.len() == 1 => variants.first().copied(),
        None => {
            let names: Vec<&str> = variants.into_iter().collect();
            return Err(format!("There are weights of the variants {}; keep or name one.", names.join(", ")));
        }
    };
    let of_variant = |name: &Name| name.variant == chosen;
    let stem = stems.iter().find(|stem| weights().any(|name| name.stem == **stem && of_variant(name)));
    let of_chosen = |name: &Name| of_variant(name) && stem == Some(&name.stem);
    let whole = parsed.iter().find(|(_, name)| !name.is_index && name.shard.is_none() && of_chosen(name));
    if let Some((file, _)) = whole {
        return Ok(Some(Weights { files: vec![file], index: None, variant: chosen, missing: Vec::new() }));
    }
    let mut shards: BTreeMap<(usize, usize), &'a str> = BTreeMap::new();
    for (file, name) in parsed.iter().filter(|(_, name)| !name.is_index && of_chosen(name)) {
        shards.extend(name.shard.map(|(number, count)| ((count, number), *file)));
    }
    let index = parsed.iter().find(|(_, name)| name.is_index && of_chosen(name)).map(|(file, _)| *file);
    let count = shards.keys().map(|(count, _)| *count).max().unwrap_or(0);
    if count > MAX_SHARDS || shards.keys().any(|(other, _)| *other != count) {
        return Err(format!("The shards of {} do not belong together.", stem.unwrap_or(&"")));
    }
    let sample = shards.first_key_value();
    let missing = (1..=count).filter(|number| !shards.contains_key(&(count, *number)));
    let named = |number: usize| {
        sample.map(|((_, at), file)| file.replacen(&format!("-{at:05}-of-"), &format!("-{number:05}-of-"), 1))
    };
    let missing = missing.filter_map(named).collect();
    Ok(Some(Weights { files: shards.into_values().collect(), index, variant: chosen, missing }))
}

/// The file of each tensor in a shard index.
///
/// # Errors
/// A part of a sentence, if the index has no `weight_map` of names in its own folder.
pub fn shards_of_index(index: &Value) -> Result<BTreeMap<&str, &str>, String> {
    let map = index.get("weight_map").and_then(Value::as_object).ok_or("it has no `weight_map`")?;
    let mut shards = BTreeMap::new();
    for (tensor, file) in map {
        // A name with a folder could refer to any file on the engine's disk.
        let file = file.as_str().filter(|file| !file.is_empty() && !file.contains(['/', '\\']) && *file != "..");
        let file = file.ok_or_else(|| format!("`{tensor}` is not in a file beside the index"))?;
        shards.insert(tensor.as_str(), file);
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_name_of_a_file_is_known() {
        for (name, stem, variant, shard, is_index) in [
            ("model.safetensors", "model", None, None, false),
            ("model.fp16.safetensors", "model", Some("fp16"), None, false),
            ("model-00001-of-00002.safetensors", "model", None, Some((1, 2)), false),
            ("model.fp16-00002-of-00002.safetensors", "model", Some("fp16"), Some((2, 2)), false),
            ("model-00001-of-00002.fp16.safetensors", "model", Some("fp16"), Some((1, 2)), false),
            ("model.safetensors.index.json", "model", None, None, true),
            ("model.safetensors.index.fp16.json", "model", Some("fp16"), None, true),
            ("model.fp16.safetensors.index.json", "model", Some("fp16"), None, true),
        ] {
            assert_eq!(Name::parse(name), Some(Name { stem, variant, shard, is_index }), "{name}");
        }
        assert_eq!(Name::parse("pytorch_model.bin.index.json"), None);
    }

    fn files<'a>(names: &[&'a str], variant: Option<&str>) -> Vec<&'a str> {
        choose(names, variant).unwrap().unwrap().files
    }

    #[test]
    fn one_variant_is_chosen() {
        let all = ["model.bf16.safetensors", "model.fp16.safetensors", "model.safetensors"];
        assert_eq!(files(&all, None), ["model.safetensors"]);
        assert_eq!(files(&all, Some("bf16")), ["model.bf16.safetensors"]);
        assert_eq!(files(&all, Some("other")), ["model.safetensors"]);
        assert_eq!(files(&all[..2], None), ["model.fp16.safetensors"]);
        let other = ["diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.ema.safetensors"];
        assert_eq!(files(&other[..1], None), other[..1]);
        assert!(choose(&other, None).unwrap_err().contains("ema, non_ema"));
        assert_eq!(files(&other, Some("ema")), other[1..]);
        assert_eq!(files(&["vae.fp16.safetensors"], None), ["vae.fp16.safetensors"]);
        assert!(choose(&["a.safetensors", "b.safetensors"], None).unwrap_err().contains("a, b"));
        assert_eq!(choose(&["config.json", "model.bin"], None), Ok(None));
    }

    #[test]
    fn shards_are_complete_or_named() {
        let shards = ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"];
        let index = "model.safetensors.index.json";
        let found = choose(&[shards[0], shards[1], index], None).unwrap().unwrap();
        assert_eq!((found.files, found.index), (shards.to_vec(), Some(index)));
        assert_eq!(found.missing, ["model-00002-of-00003.safetensors"]);
        let both = ["model.safetensors", shards[0], index];
        assert_eq!(choose(&both, None).unwrap().unwrap().files, ["model.safetensors"]);
        let half = ["model.fp16-00001-of-00001.safetensors", "model.safetensors.index.fp16.json"];
        assert_eq!(choose(&half, None).unwrap().unwrap().index, Some(half[1]));
        assert!(choose(&["model-00001-of-00002.safetensors", "model-00001-of-00003.safetensors"], None).is_err());
    }

    #[test]
    fn an_index_stays_in_its_folder() {
        let index = json!({"weight_map": {"a": "x.safetensors"}});
        assert_eq!(shards_of_index(&index), Ok(BTreeMap::from([("a", "x.safetensors")])));
        for wrong in [json!({}), json!({"weight_map": {"a": "../x"}}), json!({"weight_map": {"a": 1}})] {
            assert!(shards_of_index(&wrong).is_err(), "{wrong}");
        }
    }
}
