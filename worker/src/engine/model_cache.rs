//! What stays in the device's memory: the least recently used entry is dropped when the next one would not fit.
//!
//! An entry is anything that takes up memory and frees it when it is dropped: a pipeline, an upscaler, a classifier, a
//! detector. The cache knows keys and sizes only; what an entry is, and how it is loaded, belongs to [`super::models`].

use std::any::Any;

/// Loaded values by key, each with its size in bytes.
pub(super) struct ModelCache {
    limit: u64,
    /// The most recently used is last.
    entries: Vec<Entry>,
}

struct Entry {
    key: String,
    bytes: u64,
    value: Box<dyn Any>,
}

impl ModelCache {
    /// An empty cache of at most `limit` bytes. It always has room for one entry.
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, entries: Vec::new() }
    }

    /// Removes an entry and returns its value; `None` if there is no entry with this key and type. The borrow of a
    /// value must not keep the cache from making room, so a user takes an entry and [`put`](Self::put)s it back.
    pub(super) fn take<T: Any>(&mut self, key: &str) -> Option<T> {
        let place = self.entries.iter().position(|entry| entry.key == key && entry.value.is::<T>())?;
        self.entries.remove(place).value.downcast().ok().map(|value| *value)
    }

    /// Inserts an entry as the most recently used, in place of one with the same key.
    pub(super) fn put<T: Any>(&mut self, key: String, bytes: u64, value: T) {
        self.discard(&key);
        self.entries.push(Entry { key, bytes, value: Box::new(value) });
    }

    /// Drops the entry with this key. Returns whether there was one.
    pub(super) fn discard(&mut self, key: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.key != key);
        self.entries.len() < before
    }

    /// Drops the least recently used entries until `bytes` more fit, or nothing is left. Returns the keys dropped.
    pub(super) fn make_room(&mut self, bytes: u64) -> Vec<String> {
        let mut dropped = Vec::new();
        while !self.entries.is_empty() && self.bytes() + bytes > self.limit {
            dropped.push(self.entries.remove(0).key);
        }
        dropped
    }

    /// Key and bytes of each entry.
    pub(super) fn list(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entries.iter().map(|entry| (entry.key.as_str(), entry.bytes))
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Pipeline(u8);

    /// Counts how many are dropped.
    struct Upscaler(Rc<Cell<u32>>);

    impl Drop for Upscaler {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    fn cache() -> ModelCache {
        let mut cache = ModelCache::new(100);
        cache.put("a".into(), 40, Pipeline(1));
        cache.put("b".into(), 40, Pipeline(2));
        cache
    }

    #[test]
    fn the_least_recently_used_is_dropped_first() {
        let mut cache = cache();
        let a: Pipeline = cache.take("a").unwrap();
        cache.put("a".into(), 40, a);
        assert_eq!(cache.make_room(30), ["b"]);
        assert_eq!(cache.take::<Pipeline>("b"), None);
        assert_eq!(cache.take("a"), Some(Pipeline(1)));
    }

    #[test]
    fn nothing_is_dropped_while_there_is_room() {
        assert!(cache().make_room(20).is_empty());
    }

    #[test]
    fn a_model_above_the_limit_gets_the_whole_cache() {
        let mut cache = cache();
        assert_eq!(cache.make_room(500), ["a", "b"]);
        cache.put("giant".into(), 500, Pipeline(3));
        assert_eq!(cache.take("giant"), Some(Pipeline(3)));
    }

    #[test]
    fn entries_of_every_kind_share_the_memory() {
        let mut cache = cache();
        let dropped = Rc::new(Cell::new(0));
        cache.put("c".into(), 20, Upscaler(Rc::clone(&dropped)));
        assert_eq!(cache.list().map(|(_, bytes)| bytes).sum::<u64>(), 100);
        assert!(cache.take::<Upscaler>("a").is_none(), "another kind under that key");
        assert_eq!(cache.take("a"), Some(Pipeline(1)), "and it is still there");
        cache.put("a".into(), 40, Pipeline(1));
        assert_eq!(cache.make_room(50), ["b", "c"]);
        assert_eq!(dropped.get(), 1, "its memory is free");
        cache.put("d".into(), 20, Upscaler(Rc::clone(&dropped)));
        assert!(cache.discard("d") && !cache.discard("d"));
        assert_eq!(dropped.get(), 2);
    }
}
