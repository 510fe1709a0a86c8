//! From text to token ids, padded to the length a text encoder was trained with. What the ids mean belongs to the
//! networks.

pub mod clip;
pub mod t5;

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokenizers::Tokenizer;

use crate::{Error, Result};

/// Larger vocabularies than this are not text tokenizers.
const FILE_LIMIT: u64 = 64 << 20;

/// The part of `tokenizer_config.json` that matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    /// A float in some published files: "no limit" is written as 1e30.
    model_max_length: Option<f64>,
    pad_token: Option<Token>,
    unk_token: Option<Token>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
}

/// A special token, spelled out or with its flags.
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
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer_config.json");
        if path.is_file() { read_json(&path) } else { Ok(Self::default()) }
    }

    /// The stated length, if it is one that a text encoder can have.
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
    serde_json::from_str(&read_text(path)?).map_err(|error| Error::malformed(path, error.to_string()))
}

fn read_tokenizer(path: &Path) -> Result<Tokenizer> {
    read_text(path)?.parse().map_err(|error: tokenizers::Error| Error::malformed(path, error.to_string()))
}

fn untokenizable(error: tokenizers::Error) -> Error {
    Error::Invalid(format!("the prompt cannot be tokenized: {error}"))
}
