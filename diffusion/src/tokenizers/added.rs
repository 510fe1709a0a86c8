//! Words that training added to a tokenizer, such as those of a textual inversion or of DreamBooth. They are beside the
//! vocabulary: in `added_tokens_decoder` of `tokenizer_config.json`, in `added_tokens.json` of older versions of
//! transformers, and among the special tokens. Each has its own row in the text encoder.

use std::collections::BTreeMap;
use std::path::Path;

use tokenizers::models::bpe::Vocab;
use tokenizers::{AddedToken, Tokenizer};

use super::{AddedWord, Settings, Token, read_json};
use crate::{Error, Result};

/// Limit on the number of words.
const MAX_WORDS: usize = 10_000;

/// The added words of a tokenizer by id, and special tokens without a stated id.
#[derive(Debug, Default)]
pub(super) struct Added {
    words: BTreeMap<u32, AddedWord>,
    specials: Vec<String>,
}

impl Added {
    /// Reads the words of the tokenizer in `folder`.
    pub(super) fn read(folder: &Path, settings: &Settings) -> Result<Self> {
        let mut words = BTreeMap::new();
        let legacy = folder.join("added_tokens.json");
        if legacy.is_file() {
            let stated: BTreeMap<String, u32> = read_json(&legacy)?;
            let word = |content| AddedWord {
                content,
                single_word: false,
                lstrip: false,
                rstrip: false,
                normalized: true,
                special: false,
            };
            words.extend(stated.into_iter().map(|(content, id)| (id, word(content))));
        }
        for (id, word) in settings.added_tokens_decoder.iter().flatten() {
            let id = id.parse().map_err(|_| {
                Error::malformed(folder.join("tokenizer_config.json"), format!("{id:?} is not the id of a token"))
            })?;
            words.insert(id, word.clone());
        }
        let specials = settings.additional_special_tokens.iter().flatten().map(Token::text).map(str::to_owned);
        let added = Self { words, specials: specials.collect() };
        let count = added.words.len() + added.specials.len();
        if count > MAX_WORDS {
            return Err(Error::malformed(folder, format!("{count} added words are more than {MAX_WORDS}")));
        }
        Ok(added)
    }

    /// Gives the words their ids in a vocabulary that a tokenizer will be built with. Otherwise they would get the next
    /// free ones.
    pub(super) fn reserve(&self, vocabulary: &mut Vocab) {
        for (id, word) in &self.words {
            vocabulary.entry(word.content.clone()).or_insert(*id);
        }
    }

    /// Adds the words that `tokenizer` does not know yet as such.
    ///
    /// # Errors
    /// A word that has another id in the vocabulary, as a part of a sentence.
    pub(super) fn add_to(&self, tokenizer: &mut Tokenizer) -> Result<(), String> {
        let known = tokenizer.get_added_tokens_decoder();
        let new = self.words.iter().filter(|(id, _)| !known.contains_key(id));
        let new: Vec<AddedToken> = new.map(|(_, word)| token(word)).collect();
        tokenizer.add_tokens(&new);
        for (id, word) in &self.words {
            match tokenizer.token_to_id(&word.content) {
                Some(found) if found == *id => {}
                found => {
                    return Err(format!("the added word {:?} has the id {id}, and becomes {found:?}", word.content));
                }
            }
        }
        let unknown = self.specials.iter().filter(|content| tokenizer.token_to_id(content).is_none());
        let unknown: Vec<AddedToken> = unknown.map(|content| AddedToken::from(content.clone(), true)).collect();
        tokenizer.add_special_tokens(&unknown);
        Ok(())
    }
}

fn token(word: &AddedWord) -> AddedToken {
    AddedToken::from(word.content.clone(), word.special)
        .single_word(word.single_word)
        .lstrip(word.lstrip)
        .rstrip(word.rstrip)
        .normalized(word.normalized)
}

/// The ids that follow the id of a word in prompts. A textual inversion of several vectors is one word, `<cat>`, and
/// its further vectors are `<cat>_1`, `<cat>_2` and so on.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/loaders/textual_inversion.py#L117-L172>
pub(super) fn further_vectors(tokenizer: &Tokenizer) -> BTreeMap<u32, Vec<u32>> {
    let words = tokenizer.get_added_tokens_decoder();
    let ids: BTreeMap<&str, u32> = words.iter().map(|(id, word)| (word.content.as_str(), *id)).collect();
    let following = |word: &str| -> Vec<u32> {
        (1..).map_while(|number| ids.get(format!("{word}_{number}").as_str()).copied()).collect()
    };
    let all = ids.iter().map(|(word, id)| (*id, following(word)));
    all.filter(|(_, following)| !following.is_empty()).collect()
}
