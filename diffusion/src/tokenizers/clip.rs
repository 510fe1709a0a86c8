//! CLIP's byte-pair tokenizer, from `tokenizer.json` or from the `vocab.json` and `merges.txt` of older checkpoints.

use std::collections::BTreeMap;
use std::path::Path;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers, replace::ReplacePattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::added::{Added, further_vectors};
use super::{Settings, Token, read_json, read_text, read_tokenizer, untokenizable};
use crate::{Error, Result};

/// The number of tokens that CLIP's text encoder was trained with.
const LENGTH: usize = 77;
/// Matches words, digits and runs of punctuation, without leading spaces.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Converts text to the ids that the CLIP text encoder expects: start, words, end, padding.
#[derive(Debug, Clone)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    length: usize,
    start: i64,
    end: i64,
    pad: i64,
    /// All ids are smaller.
    vocabulary: usize,
    /// Ids of a textual inversion's further vectors, by the id of its word.
    further_vectors: BTreeMap<u32, Vec<u32>>,
}

impl ClipTokenizer {
    /// Reads the tokenizer in `folder`, with the length and padding of its `tokenizer_config.json`.
    pub fn load(folder: &Path) -> Result<Self> {
        let settings = Settings::read(folder)?;
        let path = folder.join("tokenizer.json");
        let added = Added::read(folder, &settings)?;
        let mut tokenizer =
            if path.is_file() { read_tokenizer(&path)? } else { from_vocabulary(folder, &settings, &added)? };
        added.add_to(&mut tokenizer).map_err(|reason| Error::malformed(folder, reason))?;
        let pad = settings.pad_token.as_ref().map_or("<|endoftext|>", Token::text);
        let length = settings.length().unwrap_or(LENGTH);
        Self::new(tokenizer, pad, length).map_err(|reason| Error::malformed(folder, reason))
    }

    /// The tokenizer that all published models of these families use, padding with `pad_token`.
    pub fn published(pad_token: &str) -> Result<Self> {
        let merges = read_merges(Path::new("merges.txt"), include_str!("../../assets/clip/merges.txt"))?;
        let settings = Settings { pad_token: Some(Token::Text(pad_token.to_owned())), ..Settings::default() };
        let tokenizer = build(Path::new("merges.txt"), vocabulary(&merges), merges, &settings)?;
        Self::new(tokenizer, pad_token, LENGTH).map_err(Error::Invalid)
    }

    fn new(mut tokenizer: Tokenizer, pad_token: &str, length: usize) -> Result<Self, String> {
        // Chunks have their own length and padding, regardless of the settings in the file.
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?.with_padding(None);
        let nothing = tokenizer.encode("", true).map_err(|error| error.to_string())?;
        let &[start, end] = nothing.get_ids() else {
            return Err(format!("no text becomes {} ids, and should become start and end", nothing.len()));
        };
        if length < 3 {
            return Err(format!("{length} ids leave no room for words"));
        }
        let pad = tokenizer
            .token_to_id(pad_token)
            .ok_or_else(|| format!("the padding token {pad_token:?} is not in the vocabulary"))?;
        let [start, end, pad] = [start, end, pad].map(i64::from);
        let vocabulary = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let further_vectors = further_vectors(&tokenizer);
        Ok(Self { tokenizer, length, start, end, pad, vocabulary, further_vectors })
    }

    /// Number of ids per text.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Size of the vocabulary: all ids are smaller.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Exactly [`ClipTokenizer::length`] ids. Longer text is truncated before the end token.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        Ok(self.frame(&self.words(text)?))
    }

    /// All ids of the text alone: no start, no end, no padding.
    pub fn words(&self, text: &str) -> Result<Vec<i64>> {
        let encoding = self.tokenizer.encode(text, false).map_err(untokenizable)?;
        let further = |id: &u32| self.further_vectors.get(id).into_iter().flatten().copied();
        let ids = encoding.get_ids().iter().flat_map(|id| std::iter::once(*id).chain(further(id)));
        Ok(ids.map(i64::from).collect())
    }

    /// Start, as many of `words` as fit, end and padding: [`ClipTokenizer::length`] ids.
    pub fn frame(&self, words: &[i64]) -> Vec<i64> {
        let words = words.iter().take(self.length - 2).copied();
        let mut ids: Vec<i64> = std::iter::once(self.start).chain(words).chain([self.end]).collect();
        ids.resize(self.length, self.pad);
        ids
    }
}

fn from_vocabulary(folder: &Path, settings: &Settings, added: &Added) -> Result<Tokenizer> {
    let vocab_path = folder.join("vocab.json");
    let merges_path = folder.join("merges.txt");
    let merges = read_merges(&merges_path, &read_text(&merges_path)?)?;
    let mut vocabulary: Vocab = read_json(&vocab_path)?;
    added.reserve(&mut vocabulary);
    build(&vocab_path, vocabulary, merges, settings)
}

/// The tokens in the order of their ids: bytes, bytes at the end of a word, merges, start and end.
fn vocabulary(merges: &Merges) -> Vocab {
    // Printable bytes represent themselves, in order; the others follow.
    let prints = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let printing = (0..=255).filter(prints).map(char::from);
    let others =
        (0..=255u8).filter(|byte| !prints(byte)).zip(256u32..).filter_map(|(_, letter)| char::from_u32(letter));
    let bytes: Vec<String> = printing.chain(others).map(String::from).collect();
    let endings = bytes.iter().map(|byte| format!("{byte}</w>"));
    let made = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let specials = ["<|startoftext|>", "<|endoftext|>"].map(String::from);
    bytes.iter().cloned().chain(endings).chain(made).chain(specials).zip(0..).collect()
}

/// Builds a tokenizer. `path` is the file that errors name.
fn build(path: &Path, vocab: Vocab, merges: Merges, settings: &Settings) -> Result<Tokenizer> {
    let refused = |error: tokenizers::Error| Error::malformed(path, error.to_string());

    let special = |token: &Option<Token>, usual: &'static str| {
        let text = token.as_ref().map_or(usual, Token::text).to_owned();
        match vocab.get(&text) {
            Some(&id) => Ok((text, id)),
            None => Err(Error::malformed(path, format!("the token {text:?} is missing"))),
        }
    };
    let (start, end) =
        (special(&settings.bos_token, "<|startoftext|>")?, special(&settings.eos_token, "<|endoftext|>")?);
    let (unknown, _) = special(&settings.unk_token, "<|endoftext|>")?;
    // Special tokens also match within text: if "!" is the padding, a "!" in a prompt is padding.
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

fn read_merges(path: &Path, text: &str) -> Result<Merges> {
    let mut merges = Merges::new();
    for line in text.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()) {
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

    /// A vocabulary with the letters of "fox" and two merges.
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
    fn a_word_of_several_vectors_becomes_all_of_them() {
        let folder = folder();
        let added = r#"{"<fox>": 9, "<fox>_1": 10, "<fox>_2": 12, "é": 11}"#;
        std::fs::write(folder.path().join("added_tokens.json"), added).unwrap();
        let tokenizer = ClipTokenizer::load(folder.path()).unwrap();
        assert_eq!(tokenizer.words("<Fox>! <fox>_2 é").unwrap(), [9, 10, 12, 4, 12, 11]);
        assert_eq!(tokenizer.vocabulary(), 13);
        assert_eq!(tokenizer.encode("fox <fox> fox fox").unwrap(), [7, 6, 9, 10, 12, 8], "cut after four");
    }

    #[test]
    fn an_added_word_with_the_id_of_another_is_named() {
        let folder = folder();
        std::fs::write(folder.path().join("added_tokens.json"), r#"{"fox</w>": 9}"#).unwrap();
        let error = ClipTokenizer::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("fox</w>") && error.contains('9'), "{error}");
    }

    #[test]
    fn a_broken_merges_file_is_named() {
        let folder = folder();
        std::fs::write(folder.path().join("merges.txt"), "fo\n").unwrap();
        let error = ClipTokenizer::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("merges.txt"), "{error}");
    }
}
