//! What an adapter file is, told without any model: for lists and for people.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::update::{Algorithm, Update};
use super::{Dialect, Family, LoraFile, Network};
use crate::{Error, Result};

/// How many words and tags of the training's captions are told.
const MOST_TAGS: usize = 50;

/// A description of one file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    pub family: Family,
    /// How most of its tensors are named.
    pub dialect: Option<Dialect>,
    /// Modules by algorithm.
    pub algorithms: BTreeMap<Algorithm, usize>,
    /// How many of them are DoRA.
    pub dora: usize,
    /// None if no module has a rank.
    pub ranks: Option<Ranks>,
    /// Where the strength was found.
    pub alpha_source: String,
    /// Modules by network.
    pub modules: BTreeMap<Network, usize>,
    /// Layers that no model here has, as the file names them.
    pub unknown: Vec<String>,
    /// Words that call what was learnt.
    pub trigger_words: Vec<String>,
    /// Tags of the training's captions, the most frequent first.
    pub tags: Vec<Tag>,
    /// The title in the header.
    pub title: Option<String>,
    /// What the header says that it was trained on.
    pub base_model: Option<String>,
    /// Bytes.
    pub size: u64,
}

/// The ranks that occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ranks {
    pub smallest: usize,
    pub largest: usize,
    /// That of the most modules.
    pub most: usize,
}

/// A tag with how often it occurred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tag {
    pub tag: String,
    pub count: u64,
}

/// Reads and describes a file; refused is what [`LoraFile::open`] refuses.
pub fn inspect(path: &Path) -> Result<Inspection> {
    let size = std::fs::metadata(path).map_err(Error::file(path))?.len();
    let file = LoraFile::open(path)?;
    let mut algorithms = BTreeMap::new();
    let mut modules = BTreeMap::new();
    let mut ranks: BTreeMap<usize, usize> = BTreeMap::new();
    for module in file.modules() {
        let Update { delta, .. } = &module.update;
        *algorithms.entry(module.update.algorithm()).or_default() += 1;
        *modules.entry(module.network).or_default() += 1;
        if let Some(rank) = delta.as_ref().and_then(|delta| delta.rank()) {
            *ranks.entry(rank).or_default() += 1;
        }
    }
    let said = |key: &str| file.metadata().get(key).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Ok(Inspection {
        family: file.family(),
        dialect: file.dialect(),
        algorithms,
        dora: file.modules().iter().filter(|module| module.update.magnitude.is_some()).count(),
        ranks: spread(&ranks),
        alpha_source: file.alpha_source().to_owned(),
        modules,
        unknown: file.others().to_vec(),
        trigger_words: trigger_words(file.metadata()),
        tags: tags(file.metadata()),
        title: said("modelspec.title").or_else(|| said("ss_output_name")),
        base_model: said("ss_sd_model_name").or_else(|| said("ss_base_model_version")),
        size,
    })
}

fn spread(ranks: &BTreeMap<usize, usize>) -> Option<Ranks> {
    let (smallest, _) = ranks.first_key_value()?;
    let (largest, _) = ranks.last_key_value()?;
    let (most, _) = ranks.iter().max_by_key(|(_, count)| **count)?;
    Some(Ranks { smallest: *smallest, largest: *largest, most: *most })
}

/// The trigger phrase's words, which trainers part by commas.
fn trigger_words(header: &BTreeMap<String, String>) -> Vec<String> {
    let phrase = header.get("modelspec.trigger_phrase").or_else(|| header.get("trigger_word"));
    let words = phrase.into_iter().flat_map(|phrase| phrase.split(','));
    words.map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

/// sd-scripts counts tags by folder: `{"10_folder": {"tag": 3}}`. What is written otherwise tells nothing.
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
