//! T5's unigram tokenizer, from its `tokenizer.json`. The SentencePiece file (`spiece.model`) beside it is not read.

use std::path::Path;

use super::{FixedLength, Settings, read_tokenizer};
use crate::Result;

/// FLUX was trained with at most this many tokens.
const LONGEST: usize = 512;

/// Text to the ids that the T5 encoder reads: pieces, end, padding.
#[derive(Debug, Clone)]
pub struct T5Tokenizer(FixedLength);

impl T5Tokenizer {
    /// Reads `tokenizer.json` and `tokenizer_config.json` in `folder`.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let settings = Settings::read(folder)?;
        let pad = settings.pad_token.as_ref().map_or("<pad>", |token| token.text());
        let length = settings.length().unwrap_or(LONGEST).min(LONGEST);
        Ok(Self(FixedLength::new(read_tokenizer(&path)?, pad, length, &path)?))
    }

    /// How many ids every text becomes.
    pub fn length(&self) -> usize {
        self.0.length
    }

    /// Exactly [`T5Tokenizer::length`] ids; what does not fit is cut off before the end token.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        self.0.encode(text)
    }
}
