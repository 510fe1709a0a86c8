//! T5's unigram tokenizer, from its `tokenizer.json`. The SentencePiece file (`spiece.model`) beside it is not read.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use tokenizers::{PaddingParams, PaddingStrategy, Tokenizer, TruncationParams};

use super::{Settings, read_tokenizer, untokenizable};
use crate::{Error, Result};

/// The most tokens that FLUX was trained with.
const LONGEST: usize = 512;

/// Converts text to the ids that the T5 encoder expects: pieces, end, padding.
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
        Self::new(read_tokenizer(&path)?, pad_token, length).map_err(|reason| Error::malformed(&path, reason))
    }

    /// The tokenizer that all published models use, for prompts of `length` ids.
    pub fn published(length: usize) -> Result<Self> {
        let mut text = String::new();
        let packed = include_bytes!("../../assets/t5/tokenizer.json.gz");
        GzDecoder::new(packed.as_slice())
            .read_to_string(&mut text)
            .map_err(Error::file(Path::new("tokenizer.json")))?;
        let tokenizer = text.parse().map_err(|error: tokenizers::Error| Error::Invalid(error.to_string()))?;
        Self::new(tokenizer, "<pad>", length).map_err(Error::Invalid)
    }

    fn new(mut tokenizer: Tokenizer, pad_token: &str, length: usize) -> Result<Self, String> {
        let pad_id = tokenizer
            .token_to_id(pad_token)
            .ok_or_else(|| format!("the padding token {pad_token:?} is not in the vocabulary"))?;
        let truncation = TruncationParams { max_length: length, ..Default::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| error.to_string())?.with_padding(Some(
            PaddingParams {
                strategy: PaddingStrategy::Fixed(length),
                pad_id,
                pad_token: pad_token.to_owned(),
                ..Default::default()
            },
        ));
        Ok(Self { tokenizer, length })
    }

    /// The length of the tokenizer in `folder`, without reading its vocabulary.
    pub(crate) fn length_in(folder: &Path) -> Result<usize> {
        Ok(Settings::read(folder)?.length().unwrap_or(LONGEST).min(LONGEST))
    }

    /// Number of ids per text.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Size of the vocabulary: all ids are smaller.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Whether a text is longer than [`T5Tokenizer::length`] with its end token.
    pub fn truncates(&self, text: &str) -> Result<bool> {
        let encoding = self.tokenizer.encode(text, true).map_err(untokenizable)?;
        Ok(!encoding.get_overflowing().is_empty())
    }

    /// Exactly [`T5Tokenizer::length`] ids. Longer text is truncated before the end token.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let encoding = self.tokenizer.encode(text, true).map_err(untokenizable)?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }
}
