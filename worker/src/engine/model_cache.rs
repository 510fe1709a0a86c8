//! Which loaded models stay in memory: the least recently used is dropped when the next one would not fit.
//!
//! Knows sizes and keys only; what a model is, and how it is loaded, is the business of [`super::models`].

/// Loaded values by key, each with its size in bytes.
pub(super) struct ModelCache<T> {
    limit: u64,
    /// The most recently used is last.
    items: Vec<Item<T>>,
}

struct Item<T> {
    key: String,
    bytes: u64,
    value: T,
}

impl<T> ModelCache<T> {
    /// An empty cache of at most `limit` bytes. It always has room for one item.
    pub fn new(limit: u64) -> Self {
        Self { limit, items: Vec::new() }
    }

    /// Removes an item. The borrow of a value must not keep the cache from making room, so a user takes
    /// an item and [`put`](Self::put)s it back.
    pub fn take(&mut self, key: &str) -> Option<T> {
        let place = self.items.iter().position(|item| item.key == key)?;
        Some(self.items.remove(place).value)
    }

    /// Inserts an item as the most recently used.
    pub fn put(&mut self, key: String, bytes: u64, value: T) {
        self.items.retain(|item| item.key != key);
        self.items.push(Item { key, bytes, value });
    }

    /// Drops the least recently used items until `bytes` more fit, or nothing is left. Returns the keys dropped.
    pub fn make_room(&mut self, bytes: u64) -> Vec<String> {
        let mut dropped = Vec::new();
        while !self.items.is_empty() && self.bytes() + bytes > self.limit {
            dropped.push(self.items.remove(0).key);
        }
        dropped
    }

    /// Key and bytes of each item.
    pub fn list(&self) -> impl Iterator<Item = (&str, u64)> {
        self.items.iter().map(|item| (item.key.as_str(), item.bytes))
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> ModelCache<u8> {
        let mut cache = ModelCache::new(100);
        cache.put("a".into(), 40, 1);
        cache.put("b".into(), 40, 2);
        cache
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = cache();
        let a = cache.take("a").unwrap();
        cache.put("a".into(), 40, a);
        assert_eq!(cache.make_room(30), ["b"]);
        assert!(cache.take("b").is_none());
        assert_eq!(cache.take("a"), Some(1));
    }

    #[test]
    fn nothing_goes_while_there_is_room() {
        assert!(cache().make_room(20).is_empty());
    }

    #[test]
    fn a_model_above_the_limit_gets_an_empty_shelf() {
        let mut cache = cache();
        assert_eq!(cache.make_room(500), ["a", "b"]);
        cache.put("giant".into(), 500, 3);
        assert_eq!(cache.take("giant"), Some(3));
    }
}
