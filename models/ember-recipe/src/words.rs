//! Ember's two tokenizers, built from the names of the concepts, as files that `transformers` can load. A known word
//! is one token; any other word is split into letters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use diffusion::training::Random;
use serde_json::{Value, json};

use crate::dataset::{BACKGROUNDS, Concept};

/// Number of CLIP ids per prompt, including start and end.
pub(crate) const CLIP_LENGTH: usize = 20;
/// Number of T5 ids per prompt, including the end.
pub(crate) const T5_LENGTH: usize = 16;

/// Words of the captions besides names.
const GRAMMAR: [&str; 7] = ["two", "small", "mirrored", "on", "a", "an", "background"];
/// Words for styles, so that each is one token in adapters' captions.
const STYLES: [&str; 6] = ["in", "pyrography", "style", "photo", "drawing", "of"];

/// Writes `tokenizer/` and `tokenizer_2/`.
pub(crate) fn write(concepts: &[Concept], folder: &Path) -> Result<()> {
    let mut counts = BTreeMap::new();
    let names = concepts.iter().flat_map(|concept| concept.name.split([' ', '-']));
    for word in names {
        *counts.entry(word.to_lowercase()).or_insert(0u64) += 2;
    }
    let colours = BACKGROUNDS.iter().map(|(name, _)| *name);
    for word in GRAMMAR.into_iter().chain(STYLES).chain(colours) {
        *counts.entry(word.to_string()).or_insert(0) += 20;
    }
    write_clip(&counts, &folder.join("tokenizer"))?;
    write_t5(&counts, &folder.join("tokenizer_2"))
}

/// A word without meaning for a picture: a style name or a made-up word.
pub(crate) fn any(random: &mut Random) -> String {
    if random.chance(0.5) {
        return STYLES[1 + random.below(STYLES.len() - 2)].to_string();
    }
    (0..3 + random.below(3)).map(|_| char::from(b'a' + random.below(26) as u8)).collect()
}

/// Size of CLIP's vocabulary.
pub(crate) fn clip_size(folder: &Path) -> Result<usize> {
    let vocabulary: BTreeMap<String, u32> =
        serde_json::from_slice(&std::fs::read(folder.join("tokenizer/vocab.json"))?)?;
    Ok(vocabulary.len())
}

/// Size of T5's vocabulary.
pub(crate) fn t5_size(folder: &Path) -> Result<usize> {
    let tokenizer: Value = serde_json::from_slice(&std::fs::read(folder.join("tokenizer_2/tokenizer.json"))?)?;
    Ok(tokenizer["model"]["vocab"].as_array().map_or(0, Vec::len))
}

/// Byte-pair encoding ([Sennrich et al. 2016](https://arxiv.org/abs/1508.07909)), merged until every word is one token.
fn write_clip(counts: &BTreeMap<String, u64>, folder: &Path) -> Result<()> {
    let mut vocabulary: Vec<String> = byte_letters().iter().map(std::string::ToString::to_string).collect();
    vocabulary.extend(byte_letters().iter().map(|letter| format!("{letter}</w>")));
    let mut words: Vec<(Vec<String>, u64)> = counts
        .iter()
        .map(|(word, count)| {
            let mut letters: Vec<String> = word.chars().map(String::from).collect();
            if let Some(last) = letters.last_mut() {
                last.push_str("</w>");
            }
            (letters, *count)
        })
        .collect();
    let mut merges = Vec::new();
    loop {
        let mut pairs: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (pieces, count) in &words {
            for pair in pieces.windows(2) {
                *pairs.entry((&pair[0], &pair[1])).or_insert(0) += count;
            }
        }
        // Takes the first of equally frequent pairs, so that every run writes the same file.
        let Some(((left, right), _)) = pairs.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0))) else {
            break;
        };
        let (left, right) = (left.to_string(), right.to_string());
        let joined = format!("{left}{right}");
        for (pieces, _) in &mut words {
            let mut at = 0;
            while at + 1 < pieces.len() {
                if pieces[at] == left && pieces[at + 1] == right {
                    pieces.splice(at..at + 2, [joined.clone()]);
                }
                at += 1;
            }
        }
        merges.push(format!("{left} {right}"));
        vocabulary.push(joined);
    }
    let mut seen = BTreeSet::new();
    vocabulary.retain(|piece| seen.insert(piece.clone()));
    vocabulary.extend(["<|startoftext|>".to_string(), "<|endoftext|>".to_string()]);
    let ids: serde_json::Map<String, Value> =
        vocabulary.into_iter().enumerate().map(|(id, piece)| (piece, json!(id))).collect();
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("vocab.json"), serde_json::to_string(&ids)?)?;
    std::fs::write(folder.join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n")))?;
    let special = json!({
        "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    });
    let mut config = special.clone();
    config["model_max_length"] = json!(CLIP_LENGTH);
    config["do_lower_case"] = json!(true);
    config["tokenizer_class"] = json!("CLIPTokenizer");
    write_json(&folder.join("tokenizer_config.json"), &config)?;
    write_json(&folder.join("special_tokens_map.json"), &special)
}

/// A unigram model ([Kudo 2018](https://arxiv.org/abs/1804.10959)): words by frequency, suffixes, and letters with a
/// penalty that makes them the last resort.
fn write_t5(counts: &BTreeMap<String, u64>, folder: &Path) -> Result<()> {
    let total: u64 = counts.values().sum();
    let mut pieces = vec![("<pad>".to_string(), 0.0), ("</s>".to_string(), 0.0), ("<unk>".to_string(), 0.0)];
    for (word, count) in counts {
        pieces.push((format!("▁{word}"), (*count as f64 / total as f64).ln()));
    }
    pieces.extend(["s", "es"].map(|ending| (ending.to_string(), -8.0)));
    let known: BTreeSet<String> = pieces.iter().map(|(piece, _)| piece.clone()).collect();
    let letters =
        (' '..='~').skip(1).filter(|letter| !letter.is_ascii_uppercase()).map(String::from).chain(["▁".to_string()]);
    pieces.extend(letters.filter(|letter| !known.contains(letter)).map(|letter| (letter, -14.0)));
    let special = |id: usize, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<pad>"), special(1, "</s>"), special(2, "<unk>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFKC" }, { "type": "Lowercase" },
            { "type": "Replace", "pattern": { "Regex": "[\\s-]+" }, "content": " " },
            { "type": "Strip", "strip_left": true, "strip_right": true },
        ] },
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "SpecialToken": { "id": "</s>", "type_id": 0 } }],
            "pair": [
                { "Sequence": { "id": "A", "type_id": 0 } }, { "SpecialToken": { "id": "</s>", "type_id": 0 } },
                { "Sequence": { "id": "B", "type_id": 0 } }, { "SpecialToken": { "id": "</s>", "type_id": 0 } },
            ],
            "special_tokens": { "</s>": { "id": "</s>", "ids": [1], "tokens": ["</s>"] } },
        },
        "decoder": metaspace,
        "model": { "type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": false },
    });
    std::fs::create_dir_all(folder)?;
    write_json(&folder.join("tokenizer.json"), &tokenizer)?;
    let special = json!({ "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>" });
    let mut config = special.clone();
    config["model_max_length"] = json!(T5_LENGTH);
    config["extra_ids"] = json!(0);
    config["tokenizer_class"] = json!("T5TokenizerFast");
    write_json(&folder.join("tokenizer_config.json"), &config)?;
    write_json(&folder.join("special_tokens_map.json"), &special)
}

/// The characters for the 256 bytes in byte-level vocabularies; printable ones represent themselves.
fn byte_letters() -> Vec<char> {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let own: Vec<u32> = (0..256).filter(printable).collect();
    let others = (0..256u32).filter(|byte| !printable(byte)).count() as u32;
    own.into_iter().chain(256..256 + others).filter_map(char::from_u32).collect()
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    std::fs::write(path, format!("{}\n", serde_json::to_string_pretty(value)?))?;
    Ok(())
}
