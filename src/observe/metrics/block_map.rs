//! A worker's cells by their labels: sorted, with a memory of the last hit, since most requests look like the one before.
//!
//! There are few keys in a scope, for they are capped, and nothing is ever removed.

/// Blocks by key, in its order.
#[derive(Debug)]
pub(super) struct BlockMap<K, B> {
    last: usize,
    blocks: Vec<(K, B)>,
}

impl<K, B> Default for BlockMap<K, B> {
    fn default() -> Self {
        Self {
            last: 0,
            blocks: Vec::new(),
        }
    }
}

impl<K: Copy + Ord, B> BlockMap<K, B> {
    /// Whether there are cells for `key`. They are remembered as the last hit.
    pub(super) fn seek(&mut self, key: K) -> bool {
        let hit = self.blocks.get(self.last).is_some_and(|(known, _)| *known == key);
        if hit {
            return true;
        }
        let place = self.blocks.binary_search_by(|(known, _)| known.cmp(&key));
        if let Ok(place) = place {
            self.last = place;
        }
        place.is_ok()
    }

    /// The cells for `key`, made by `new` where there are none.
    pub(super) fn find(&mut self, key: K, new: impl FnOnce() -> B) -> &B {
        if !self.seek(key) {
            self.last = self.blocks.partition_point(|(known, _)| *known < key);
            self.blocks.insert(self.last, (key, new()));
        }
        &self.blocks[self.last].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_made_once_and_found_in_any_order() {
        let mut map = BlockMap::default();
        for key in [5, 1, 9, 1, 5, 5, 3] {
            let known = map.seek(key);
            let made = *map.find(key, || key * 10);
            assert_eq!(made, key * 10);
            assert!(known || map.seek(key));
        }
        assert_eq!(map.blocks, [(1, 10), (3, 30), (5, 50), (9, 90)]);
        assert!(!map.seek(4));
        assert_eq!(*map.find(9, || 0), 90);
    }
}
