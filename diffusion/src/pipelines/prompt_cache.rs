//! Caches the embeddings of recent prompts, so that a repeated prompt or the usual negative prompt is not encoded
//! again.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use requests::PromptSyntax;

use crate::Result;
use crate::lora::{MatchReport, Network};

/// Most prompts in the cache: at most 64 MiB for FLUX.1 in bf16.
const KEPT: usize = 16;
/// Most encoder runs in the cache, even for a single prompt: at most 40 MiB for SDXL in f32.
const KEPT_CHUNKS: usize = 64;

/// Everything that the embeddings depend on besides the adapters of the encoders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PromptKey {
    pub prompt: String,
    pub syntax: PromptSyntax,
    /// Number of encoder runs. The last chunks may be empty.
    pub chunks: usize,
    /// Number of last layers that are skipped.
    pub skipped: usize,
}

/// Embeddings by prompt, most recently used last.
#[derive(Debug)]
pub(super) struct PromptCache<E> {
    entries: Mutex<VecDeque<(PromptKey, E)>>,
    adapted: bool,
}

impl<E> Default for PromptCache<E> {
    fn default() -> Self {
        Self { entries: Mutex::default(), adapted: false }
    }
}

impl<E: Clone> PromptCache<E> {
    /// The cached value of a prompt, or the result of `read`.
    pub(super) fn get_or(&self, key: PromptKey, read: impl FnOnce() -> Result<E>) -> Result<E> {
        let known = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            let found = entries.iter().position(|(known, _)| *known == key);
            found.and_then(|at| entries.remove(at))
        };
        let embeddings = match known {
            Some((_, embeddings)) => embeddings,
            None => read()?,
        };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let chunks = |entries: &VecDeque<(PromptKey, E)>| entries.iter().map(|(key, _)| key.chunks).sum::<usize>();
        while entries.len() >= KEPT || !entries.is_empty() && chunks(&entries) + key.chunks > KEPT_CHUNKS {
            entries.pop_front();
        }
        entries.push_back((key, embeddings.clone()));
        Ok(embeddings)
    }

    /// Clears the cache if the new or the previous adapters change text encoders.
    pub(super) fn adapters_changed(&mut self, attached: &[MatchReport]) {
        let encoders = [Network::TextEncoder, Network::TextEncoder2];
        let adapted =
            attached.iter().any(|report| encoders.iter().any(|network| report.networks.contains_key(network)));
        if adapted || self.adapted {
            self.entries.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        }
        self.adapted = adapted;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn key(prompt: &str, chunks: usize, skipped: usize) -> PromptKey {
        PromptKey { prompt: prompt.to_owned(), syntax: PromptSyntax::A1111, chunks, skipped }
    }

    /// Whether the prompt has to be encoded.
    fn is_new(cache: &PromptCache<u8>, key: PromptKey) -> bool {
        let mut read = false;
        cache
            .get_or(key, || {
                read = true;
                Ok(1)
            })
            .unwrap();
        read
    }

    fn report(network: Network) -> MatchReport {
        MatchReport {
            matched: 1,
            networks: BTreeMap::from([(network, 1)]),
            unmatched: Vec::new(),
            alpha_source: String::new(),
            bytes: 0,
        }
    }

    #[test]
    fn a_prompt_is_read_once() {
        let cache = PromptCache::default();
        let plain = PromptKey { syntax: PromptSyntax::Plain, ..key("a", 1, 0) };
        let all = [key("a", 1, 0), key("b", 1, 0), key("a", 2, 0), key("a", 1, 1), plain];
        assert!(all.iter().all(|key| is_new(&cache, key.clone())));
        assert!(all.iter().all(|key| !is_new(&cache, key.clone())));
        assert!(cache.get_or(key("c", 1, 0), || Err(crate::Error::Canceled)).is_err());
        assert!(is_new(&cache, key("c", 1, 0)), "what failed is not kept");
    }

    #[test]
    fn those_not_used_for_long_go() {
        let cache = PromptCache::default();
        (0..KEPT).for_each(|number| assert!(is_new(&cache, key(&number.to_string(), 1, 0))));
        assert!(!is_new(&cache, key("0", 1, 0)));
        assert!(is_new(&cache, key("new", 1, 0)));
        assert!(!is_new(&cache, key("0", 1, 0)));
        assert!(is_new(&cache, key("1", 1, 0)));
    }

    #[test]
    fn long_prompts_leave_room_for_fewer() {
        let cache = PromptCache::default();
        for (prompt, chunks) in [("a", 1), ("long", KEPT_CHUNKS - 1)] {
            assert!(is_new(&cache, key(prompt, chunks, 0)));
        }
        assert!(!is_new(&cache, key("a", 1, 0)));
        assert!(is_new(&cache, key("b", 1, 0)), "and the long one goes");
        assert!(!is_new(&cache, key("a", 1, 0)));
        assert!(is_new(&cache, key("long", KEPT_CHUNKS - 1, 0)));
        assert!(is_new(&cache, key("longest", KEPT_CHUNKS + 1, 0)));
        assert!(!is_new(&cache, key("longest", KEPT_CHUNKS + 1, 0)), "one alone is kept however long it is");
    }

    #[test]
    fn attaching_changing_or_detaching_text_encoder_adapters_clears_the_cache() {
        let mut cache = PromptCache::default();
        let mut new_after = |reports: &[MatchReport]| {
            cache.adapters_changed(reports);
            is_new(&cache, key("a", 1, 0))
        };
        assert!(new_after(&[]));
        assert!(!new_after(&[report(Network::Unet)]));
        assert!(new_after(&[report(Network::TextEncoder2)]), "they come");
        assert!(new_after(&[report(Network::TextEncoder2)]), "the scale may be another");
        assert!(new_after(&[]), "they go");
        assert!(!new_after(&[]));
    }
}
