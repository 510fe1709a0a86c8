//! T5's unigram tokenizer, from its `tokenizer.json`. The SentencePiece file (`spiece.model`) beside it is not read.

use std::path::Path;

use tokenizers::{PaddingParams, PaddingStrategy, Tokenizer, TruncationParams};

use super::{Settings, read_tokenizer, untokenizable};
use crate::{Error, Result};

/// FLUX was trained with at most this many tokens.
const LONGEST: usize = 512;

/// Text to the ids that the T5 encoder reads: pieces, end, padding.
#[derive(Debug, Clone)]
pub struct T5Tokenizer {
    tokenizer: Tokenizer,
    length: usize,
}

impl T5Tokenizer {
    /// Reads `tokenizer.json` and `tokenizer_config.json` in `folder`.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let settings = Settings::read(folder)?;
        let pad_token = settings.pad_token.as_ref().map_or("<pad>", |token| token.text());
        let length = Self::length_in(folder)?;
        let mut tokenizer = read_tokenizer(&path)?;
        let pad_id = tokenizer.token_to_id(pad_token).ok_or_else(|| {
            Error::malformed(&path, format!("the padding token {pad_token:?} is not in the vocabulary"))
        })?;
        let truncation = TruncationParams { max_length: length, ..Default::default() };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|error| Error::malformed(&path, error.to_string()))?
            .with_padding(Some(PaddingParams {
                strategy: PaddingStrategy::Fixed(length),
                pad_id,
                pad_token: pad_token.to_owned(),
                ..Default::default()
            }));
        Ok(Self { tokenizer, length })
    }

    /// The same number of the tokenizer in `folder`, whose vocabulary is not read for it.
    pub(crate) fn length_in(folder: &Path) -> Result<usize> {
        Ok(Settings::read(folder)?.length().unwrap_or(LONGEST).min(LONGEST))
    }

    /// How many ids every text becomes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Exactly [`T5Tokenizer::length`] ids; what does not fit is cut off before the end token.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let encoding = self.tokenizer.encode(text, true).map_err(untokenizable)?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }
}
