//! Describes an adapter file without any model, for lists and for display.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::adapter::keys::{self, Dialect, Key, Part};
use crate::adapter::{AdapterFamily, AlphaRule, Network};
use crate::{Family, Header};

/// Highest supported rank of an adapter.
pub const MAX_RANK: usize = 512;
/// Number of words and tags from the training's captions that are listed.
const MOST_TAGS: usize = 50;

/// Description of an adapter file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = LoraInspection))]
pub struct Inspection {
    pub family: AdapterFamily,
    /// Naming scheme of most of its tensors.
    pub dialect: Option<Dialect>,
    /// Number of modules by algorithm.
    pub algorithms: BTreeMap<Algorithm, usize>,
    /// Number of modules that use DoRA.
    pub dora: usize,
    /// Ranks of the modules; null if no module has a rank.
    pub ranks: Option<Ranks>,
    /// Where the file states its strength.
    pub alpha_source: String,
    /// Number of modules by network.
    pub modules: BTreeMap<Network, usize>,
    /// Layers that no supported model has, as the file names them.
    pub unknown: Vec<String>,
    /// What was assumed when the file was read, or what in it has no effect.
    pub warnings: Vec<String>,
    /// Words that trigger what the adapter learned.
    pub trigger_words: Vec<String>,
    /// Tags from the training's captions, most frequent first.
    pub tags: Vec<Tag>,
    /// Title from the header.
    pub title: Option<String>,
    /// Base model that the header names.
    pub base_model: Option<String>,
}

/// How ΔW is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Algorithm {
    /// Product of two low-rank factors.
    Lora,
    /// Product of two low-rank factors of a convolution.
    Locon,
    /// Elementwise (Hadamard) product of two products of factors.
    Loha,
    /// Kronecker product.
    Lokr,
    /// ΔW itself.
    Full,
    /// Change of the bias only.
    Bias,
}

/// Ranks of the modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Ranks {
    pub smallest: usize,
    pub largest: usize,
    /// The most common rank.
    pub most: usize,
}

/// A tag and its number of occurrences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Tag {
    pub tag: String,
    pub count: u64,
}

/// The tensor shapes of one module of a file.
struct Found<'a> {
    module: keys::Module,
    shapes: BTreeMap<Part, &'a [usize]>,
}

/// Describes a file from its header. Errors: see [`inspect`].
pub fn inspect_header(header: &Header) -> Result<Inspection, String> {
    let shapes = header.tensors.iter().map(|(name, tensor)| (&name[..], &tensor.shape[..]));
    inspect(shapes, &header.metadata)
}

/// Describes a file from the names and shapes of its tensors and the strings in its header. Errors: a sentence, if the
/// file is not an adapter for the supported networks or uses an unsupported algorithm.
pub fn inspect<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    header: &BTreeMap<String, String>,
) -> Result<Inspection, String> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let (mut unknown, mut dialects, mut names) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
    for (name, shape) in tensors {
        names.push(name.to_owned());
        match keys::parse(name) {
            Key::Unsupported(kind) => return Err(keys::not_used(kind)),
            Key::Other { layer } => drop(unknown.insert(layer)),
            Key::Known { module, part } => {
                if part == Part::Down && (!matches!(shape.len(), 2 | 4) || shape.contains(&0)) {
                    return Err(format!("{name} has the shape {shape:?}, which no factor has"));
                }
                *dialects.entry(module.dialect).or_insert(0) += 1;
                let entry = found.entry(module.name.clone());
                entry.or_insert_with(|| Found { module, shapes: BTreeMap::new() }).shapes.insert(part, shape);
            }
        }
    }
    if found.is_empty() {
        return Err(keys::not_known(&names));
    }
    let has_alpha = found.values().any(|found| found.shapes.contains_key(&Part::Alpha));
    let rule = AlphaRule::read(header, None, has_alpha)?;
    let (mut algorithms, mut modules) = (BTreeMap::new(), BTreeMap::new());
    let mut ranks: BTreeMap<usize, usize> = BTreeMap::new();
    let (mut dora, mut places) = (0, Vec::new());
    for found in found.values() {
        // A fused layer counts as the modules that it contains.
        let count = found.module.targets.len();
        *algorithms.entry(found.algorithm()).or_insert(0) += count;
        *modules.entry(found.module.network).or_insert(0) += count;
        dora += if found.is_dora() { count } else { 0 };
        if let Some(rank) = found.rank() {
            *ranks.entry(rank).or_default() += count;
        }
        places.extend(found.module.targets.iter().map(|(path, _)| (found.module.network, &path[..], found.inputs())));
    }
    let said = |key: &str| header.get(key).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Ok(Inspection {
        family: AdapterFamily::of(&places, header),
        dialect: dialects.into_iter().max_by_key(|(_, count)| *count).map(|(dialect, _)| dialect),
        algorithms,
        dora,
        ranks: spread(&ranks),
        alpha_source: rule.source.to_owned(),
        modules,
        unknown: unknown.into_iter().collect(),
        warnings: Vec::new(),
        trigger_words: trigger_words(header),
        tags: tags(header),
        title: said("modelspec.title").or_else(|| said("ss_output_name")),
        base_model: ["pyrograph.base_model", "ss_sd_model_name", "ss_base_model_version"].into_iter().find_map(said),
    })
}

impl Found<'_> {
    fn side(&self, part: Part, axis: usize) -> Option<usize> {
        self.shapes.get(&part)?.get(axis).copied()
    }

    fn algorithm(&self) -> Algorithm {
        let has = |part| self.shapes.contains_key(&part);
        match self.shapes.get(&Part::Down) {
            Some(down) if down.len() == 4 => Algorithm::Locon,
            Some(_) => Algorithm::Lora,
            None if has(Part::HadaW1A) => Algorithm::Loha,
            None if [Part::LokrW1, Part::LokrW1A].into_iter().any(has) => Algorithm::Lokr,
            // sd-scripts stores norms as vectors, which count as biases here.
            None if self.shapes.get(&Part::Diff).is_some_and(|diff| diff.len() > 1) => Algorithm::Full,
            None => Algorithm::Bias,
        }
    }

    /// The rank in the file; for a fused layer, that of all its parts together.
    fn rank(&self) -> Option<usize> {
        [Part::Down, Part::HadaW1B, Part::LokrW2B, Part::LokrW1B].into_iter().find_map(|part| self.side(part, 0))
    }

    /// Number of inputs of the layer, if a tensor shows it.
    fn inputs(&self) -> Option<usize> {
        [Part::Down, Part::Diff, Part::HadaW1B].into_iter().find_map(|part| self.side(part, 1)).or_else(|| {
            let [left, right] = [[Part::LokrW1, Part::LokrW1B], [Part::LokrW2, Part::LokrW2B]]
                .map(|parts| parts.into_iter().find_map(|part| self.side(part, 1)));
            left?.checked_mul(right?)
        })
    }

    fn is_dora(&self) -> bool {
        [Part::DoraScale, Part::MagnitudeVector].iter().any(|part| self.shapes.contains_key(part))
    }
}

impl Inspection {
    /// The family whose checkpoints it runs on. If the file does not show it, the family that most LoRAs are made for.
    pub fn base_family(&self) -> Family {
        match self.family {
            AdapterFamily::Family(family) => family,
            AdapterFamily::TextEncoder if self.modules.contains_key(&Network::TextEncoder2) => Family::Sdxl,
            AdapterFamily::StableDiffusion | AdapterFamily::TextEncoder => Family::Sd15,
        }
    }
}

fn spread(ranks: &BTreeMap<usize, usize>) -> Option<Ranks> {
    let (smallest, _) = ranks.first_key_value()?;
    let (largest, _) = ranks.last_key_value()?;
    let (most, _) = ranks.iter().max_by_key(|(_, count)| **count)?;
    Some(Ranks { smallest: *smallest, largest: *largest, most: *most })
}

/// The words of the trigger phrase, which trainers separate by commas.
fn trigger_words(header: &BTreeMap<String, String>) -> Vec<String> {
    let phrase = header.get("modelspec.trigger_phrase").or_else(|| header.get("trigger_word"));
    let words = phrase.into_iter().flat_map(|phrase| phrase.split(','));
    words.map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

/// sd-scripts counts tags by folder: `{"10_folder": {"tag": 3}}`. Anything else is ignored.
fn tags(header: &BTreeMap<String, String>) -> Vec<Tag> {
    let by_folder = header.get("ss_tag_frequency").and_then(|text| serde_json::from_str(text).ok());
    let Some(Value::Object(folders)) = by_folder else { return Vec::new() };
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (tag, count) in folders.values().filter_map(Value::as_object).flatten() {
        let sum = counts.entry(tag.trim().to_owned()).or_default();
        *sum = sum.saturating_add(count.as_u64().unwrap_or(0));
    }
    let mut tags: Vec<Tag> = counts.into_iter().map(|(tag, count)| Tag { tag, count }).collect();
    tags.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.tag.cmp(&b.tag)));
    tags.truncate(MOST_TAGS);
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn tags_are_summed_over_folders() {
        let tags = tags(&header("ss_tag_frequency", r#"{"10_a": {"fox": 3, " owl": 1}, "5_b": {"owl": 4, "x": "y"}}"#));
        let told: Vec<_> = tags.iter().map(|tag| (tag.tag.as_str(), tag.count)).collect();
        assert_eq!(told, [("owl", 5), ("fox", 3), ("x", 0)]);
        for odd in ["", "[]", "{\"a\": 1}", "{"] {
            assert_eq!(super::tags(&header("ss_tag_frequency", odd)), []);
        }
    }

    #[test]
    fn trigger_phrases_are_words() {
        assert_eq!(trigger_words(&header("modelspec.trigger_phrase", "zwx, in  the snow,")), ["zwx", "in  the snow"]);
        assert!(trigger_words(&BTreeMap::new()).is_empty());
    }
}
