//! CLIP's byte-pair tokenizer, from `tokenizer.json` or from the `vocab.json` and `merges.txt` of older checkpoints.

use std::path::Path;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers, replace::ReplacePattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::{FixedLength, Settings, Token, read_json, read_text, read_tokenizer};
use crate::{Error, Result};

/// What CLIP's text encoder was trained with.
const LENGTH: usize = 77;
/// Words, digits and runs of punctuation, each with its leading space dropped.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Text to the ids that the CLIP text encoder reads: start, words, end, padding.
#[derive(Debug, Clone)]
pub struct ClipTokenizer(FixedLength);

impl ClipTokenizer {
    /// Reads the tokenizer in `folder`, with the length and padding of its `tokenizer_config.json`.
    pub fn load(folder: &Path) -> Result<Self> {
        let settings = Settings::read(folder)?;
        let path = folder.join("tokenizer.json");
        let tokenizer = if path.is_file() { read_tokenizer(&path)? } else { from_vocabulary(folder, &settings)? };
        let pad = settings.pad_token.as_ref().map_or("<|endoftext|>", Token::text);
        let length = settings.length().unwrap_or(LENGTH);
        Ok(Self(FixedLength::new(tokenizer, pad, length, folder)?))
    }

    /// How many ids every text becomes.
    pub fn length(&self) -> usize {
        self.0.length
    }

    /// Exactly [`ClipTokenizer::length`] ids; what does not fit is cut off before the end token.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        self.0.encode(text)
    }
}

fn from_vocabulary(folder: &Path, settings: &Settings) -> Result<Tokenizer> {
    let vocab_path = folder.join("vocab.json");
    let merges_path = folder.join("merges.txt");
    let vocab: Vocab = read_json(&vocab_path)?;
    let merges = read_merges(&merges_path)?;
    let refused = |error: tokenizers::Error| Error::malformed(&vocab_path, error.to_string());

    let special = |token: &Option<Token>, usual: &'static str| {
        let text = token.as_ref().map_or(usual, Token::text).to_owned();
        match vocab.get(&text) {
            Some(&id) => Ok((text, id)),
            None => Err(Error::malformed(&vocab_path, format!("the token {text:?} is missing"))),
        }
    };
    let (start, end) =
        (special(&settings.bos_token, "<|startoftext|>")?, special(&settings.eos_token, "<|endoftext|>")?);
    let (unknown, _) = special(&settings.unk_token, "<|endoftext|>")?;
    // Also within a text: where "!" is the padding, a "!" in a prompt is padding.
    let (padding, _) = special(&settings.pad_token, "<|endoftext|>")?;
    let added = [start.0.clone(), end.0.clone(), padding].map(|text| AddedToken::from(text, true));

    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .unk_token(unknown)
        .end_of_word_suffix("</w>".to_owned())
        .build()
        .map_err(refused)?;
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ").map_err(refused)?;
    let words =
        Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true).map_err(refused)?;

    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(Normalizers::new(vec![NFC.into(), spaces.into(), Lowercase.into()])))
        .with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), ByteLevel::new(false, true, true).into()])))
        .with_post_processor(Some(RobertaProcessing::new(end, start).trim_offsets(false).add_prefix_space(false)));
    tokenizer.add_special_tokens(&added);
    Ok(tokenizer)
}

fn read_merges(path: &Path) -> Result<Merges> {
    let mut merges = Merges::new();
    for line in read_text(path)?.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()) {
        let (left, right) = line
            .split_once(' ')
            .ok_or_else(|| Error::malformed(path, format!("a merge of one piece only: {line:?}")))?;
        merges.push((left.to_owned(), right.to_owned()));
    }
    Ok(merges)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vocabulary that knows the letters of "fox" and two merges.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let vocab =
            r#"{"f":0,"o":1,"x":2,"x</w>":3,"!</w>":4,"fo":5,"fox</w>":6,"<|startoftext|>":7,"<|endoftext|>":8}"#;
        std::fs::write(folder.path().join("vocab.json"), vocab).unwrap();
        std::fs::write(folder.path().join("merges.txt"), "#version: 0.2\nf o\nfo x</w>\n").unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"model_max_length": 6}"#).unwrap();
        folder
    }

    #[test]
    fn words_are_merged_and_padded_with_the_end_token() {
        let tokenizer = ClipTokenizer::load(folder().path()).unwrap();
        assert_eq!(tokenizer.length(), 6);
        assert_eq!(tokenizer.encode("  FOX!\n").unwrap(), [7, 6, 4, 8, 8, 8]);
        assert_eq!(tokenizer.encode("").unwrap(), [7, 8, 8, 8, 8, 8]);
    }

    #[test]
    fn long_text_keeps_its_end_token() {
        let tokenizer = ClipTokenizer::load(folder().path()).unwrap();
        assert_eq!(tokenizer.encode("fox fox fox fox fox fox").unwrap(), [7, 6, 6, 6, 6, 8]);
    }

    #[test]
    fn a_broken_merges_file_is_named() {
        let folder = folder();
        std::fs::write(folder.path().join("merges.txt"), "fo\n").unwrap();
        let error = ClipTokenizer::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("merges.txt"), "{error}");
    }
}
