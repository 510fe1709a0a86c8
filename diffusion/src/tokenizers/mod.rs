//! Converts text to token ids, padded to the length that a text encoder was trained with. `networks` encodes the ids.

mod added;
pub mod clip;
pub mod t5;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokenizers::Tokenizer;

use crate::{Error, Result};

/// Size limit of a tokenizer file in bytes; larger ones are not text tokenizers.
const FILE_LIMIT: u64 = 64 << 20;

/// The relevant part of `tokenizer_config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    /// A float in some published files: "no limit" is written as 1e30.
    model_max_length: Option<f64>,
    pad_token: Option<Token>,
    unk_token: Option<Token>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    additional_special_tokens: Option<Vec<Token>>,
    /// Words beyond the vocabulary by id, as newer versions of transformers write them.
    added_tokens_decoder: Option<BTreeMap<String, AddedWord>>,
}

/// A word beyond the vocabulary, with the rules of where it matches.
#[derive(Debug, Clone, Deserialize)]
struct AddedWord {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// Whether it matches text after normalisation: for CLIP, in any case.
    #[serde(default = "yes")]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

fn yes() -> bool {
    true
}

/// A special token, as a string or an object.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Flags { content: String },
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Flags { content: text } => text,
        }
    }
}

impl Settings {
    /// Older folders also list special tokens in `special_tokens_map.json`, which takes precedence: Stable Diffusion
    /// 2.1 names its padding only there. Configs with `added_tokens_decoder` are newer and complete.
    fn read(folder: &Path) -> Result<Self> {
        let read = |file: &str| {
            let path = folder.join(file);
            if path.is_file() { read_json(&path) } else { Ok(Self::default()) }
        };
        let config: Self = read("tokenizer_config.json")?;
        if config.added_tokens_decoder.is_some() {
            return Ok(config);
        }
        let map: Self = read("special_tokens_map.json")?;
        Ok(Self {
            pad_token: map.pad_token.or(config.pad_token),
            unk_token: map.unk_token.or(config.unk_token),
            bos_token: map.bos_token.or(config.bos_token),
            eos_token: map.eos_token.or(config.eos_token),
            additional_special_tokens: map.additional_special_tokens.or(config.additional_special_tokens),
            ..config
        })
    }

    /// The configured length, if a text encoder can have it.
    fn length(&self) -> Option<usize> {
        self.model_max_length.filter(|length| (1.0..=8192.0).contains(length)).map(|length| length as usize)
    }
}

fn read_text(path: &Path) -> Result<String> {
    let size = std::fs::metadata(path).map_err(Error::file(path))?.len();
    if size > FILE_LIMIT {
        return Err(Error::malformed(path, format!("{size} bytes are too many for a tokenizer")));
    }
    std::fs::read_to_string(path).map_err(Error::file(path))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let malformed = |reason: String| Error::malformed(path, reason);
    let value = formats::json::read(read_text(path)?.as_bytes()).map_err(malformed)?;
    serde_json::from_value(value).map_err(|error| malformed(error.to_string()))
}

fn read_tokenizer(path: &Path) -> Result<Tokenizer> {
    read_text(path)?.parse().map_err(|error: tokenizers::Error| Error::malformed(path, error.to_string()))
}

fn untokenizable(error: tokenizers::Error) -> Error {
    Error::Invalid(format!("the prompt cannot be tokenized: {error}"))
}
