//! Describes an adapter file without any model, for lists and for display.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::adapter::keys::Dialect;
use crate::adapter::{Adapted, AdapterFamily, Algorithm, CHANGES_NOTHING, Contents, Network};
use crate::{Family, Header};

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
    /// Layers and tensors that no supported model has, as the file names them.
    pub unknown: Vec<String>,
    /// Assumptions made when the file was read, and parts of it without effect.
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

/// Describes a file from its header, and from `config`, PEFT's config beside it. Errors: see [`Contents::read`].
pub fn inspect(header: &Header, config: Option<&str>) -> Result<Inspection, String> {
    let contents = Contents::read(header, config)?;
    let (mut algorithms, mut modules) = (BTreeMap::new(), BTreeMap::new());
    let (mut ranks, mut dialects) = (BTreeMap::new(), BTreeMap::new());
    let mut dora = 0;
    for Adapted { module, tensors, algorithm, rank, magnitude, .. } in &contents.modules {
        // A fused layer counts as the modules that it contains.
        let count = module.targets.len();
        *algorithms.entry(*algorithm).or_insert(0) += count;
        *modules.entry(module.network).or_insert(0) += count;
        *dialects.entry(module.dialect).or_insert(0) += tensors.len();
        dora += if magnitude.is_some() { count } else { 0 };
        if let Some(rank) = rank {
            *ranks.entry(*rank).or_default() += count;
        }
    }
    let places = contents.modules.iter().flat_map(|Adapted { module, weight, .. }| {
        let inputs = weight.map(|[_, inputs, ..]| inputs);
        module.targets.iter().map(move |(path, _)| (module.network, &path[..], inputs))
    });
    let places: Vec<_> = places.collect();
    let mut warnings = contents.warnings();
    if contents.deciding_alphas().is_some_and(|tensors| tensors.is_empty()) {
        warnings.push(CHANGES_NOTHING.to_owned());
    }
    let strings = &header.metadata;
    let said = |key: &str| strings.get(key).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Ok(Inspection {
        family: AdapterFamily::of(&places, strings),
        dialect: dialects.into_iter().max_by_key(|(_, count)| *count).map(|(dialect, _)| dialect),
        algorithms,
        dora,
        ranks: spread(&ranks),
        alpha_source: contents.alpha.source.to_owned(),
        modules,
        warnings,
        unknown: contents.unknown,
        trigger_words: trigger_words(strings),
        tags: tags(strings),
        title: said("modelspec.title").or_else(|| said("ss_output_name")),
        base_model: ["pyrograph.base_model", "ss_sd_model_name", "ss_base_model_version"].into_iter().find_map(said),
    })
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
