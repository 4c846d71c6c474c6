//! Levels sorted by key in chunks: unbounded, and without allocation once it has been as long as it gets.
//!
//! The book keeps here what its window does not hold: levels far from the touch and prices off the tick
//! grid. A chunk is a short sorted array, so that an insertion moves at most a page; a chunk that is full
//! is split, one that is empty goes back to the spares.

/// Entries of a chunk; it is split when it is full.
const CHUNK: usize = 128;

/// One chunk: never empty while it is in use.
struct Chunk {
    len: usize,
    keys: [u64; CHUNK],
    values: [f64; CHUNK],
}

impl Chunk {
    fn new() -> Box<Chunk> {
        Box::new(Chunk { len: 0, keys: [0; CHUNK], values: [0.0; CHUNK] })
    }

    fn keys(&self) -> &[u64] {
        &self.keys[..self.len]
    }

    fn insert(&mut self, at: usize, key: u64, value: f64) {
        self.keys.copy_within(at..self.len, at + 1);
        self.values.copy_within(at..self.len, at + 1);
        self.keys[at] = key;
        self.values[at] = value;
        self.len += 1;
    }

    fn remove(&mut self, at: usize) {
        self.keys.copy_within(at + 1..self.len, at);
        self.values.copy_within(at + 1..self.len, at);
        self.len -= 1;
    }
}

/// A sorted map from `u64` to `f64`.
#[derive(Default)]
#[allow(clippy::vec_box)] // a chunk that is put between others moves pointers, not chunks of 2 KiB
pub struct Chunks {
    chunks: Vec<Box<Chunk>>,
    spare: Vec<Box<Chunk>>,
    len: usize,
}

/// A place in a `Chunks`; it holds until the next change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    chunk: usize,
    at: usize,
}

impl Chunks {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forget all entries; the memory is kept.
    pub fn clear(&mut self) {
        self.spare.append(&mut self.chunks);
        self.len = 0;
    }

    /// The chunk that holds `key`, or the one that it belongs into.
    fn chunk_of(&self, key: u64) -> usize {
        let found = self.chunks.partition_point(|chunk| chunk.keys[chunk.len - 1] < key);
        found.min(self.chunks.len().saturating_sub(1))
    }

    fn fresh(&mut self) -> Box<Chunk> {
        let mut chunk = self.spare.pop().unwrap_or_else(Chunk::new);
        chunk.len = 0;
        chunk
    }

    /// Set the value of a key; true when the key is new.
    pub fn insert(&mut self, key: u64, value: f64) -> bool {
        if self.chunks.is_empty() {
            let mut chunk = self.fresh();
            chunk.insert(0, key, value);
            self.chunks.push(chunk);
            self.len = 1;
            return true;
        }
        let mut index = self.chunk_of(key);
        let mut at = match self.chunks[index].keys().binary_search(&key) {
            Ok(at) => {
                self.chunks[index].values[at] = value;
                return false;
            }
            Err(at) => at,
        };
        if self.chunks[index].len == CHUNK {
            // Entries that come in order fill whole chunks; others are split in the middle.
            let cut = if index + 1 == self.chunks.len() && at == CHUNK { CHUNK } else { CHUNK / 2 };
            let mut upper = self.fresh();
            let lower = &mut self.chunks[index];
            upper.len = CHUNK - cut;
            upper.keys[..CHUNK - cut].copy_from_slice(&lower.keys[cut..]);
            upper.values[..CHUNK - cut].copy_from_slice(&lower.values[cut..]);
            lower.len = cut;
            if at > cut || cut == CHUNK {
                index += 1;
                at -= cut;
                upper.insert(at, key, value);
                self.chunks.insert(index, upper);
                self.len += 1;
                return true;
            }
            self.chunks.insert(index + 1, upper);
        }
        self.chunks[index].insert(at, key, value);
        self.len += 1;
        true
    }

    /// Remove a key; true when it was there.
    pub fn remove(&mut self, key: u64) -> bool {
        let Some(place) = self.find(key) else { return false };
        self.remove_at(place);
        true
    }

    fn find(&self, key: u64) -> Option<Place> {
        if self.chunks.is_empty() {
            return None;
        }
        let chunk = self.chunk_of(key);
        self.chunks[chunk].keys().binary_search(&key).ok().map(|at| Place { chunk, at })
    }

    fn remove_at(&mut self, place: Place) {
        self.chunks[place.chunk].remove(place.at);
        if self.chunks[place.chunk].len == 0 {
            let chunk = self.chunks.remove(place.chunk);
            self.spare.push(chunk);
        }
        self.len -= 1;
    }

    /// The value of a key.
    pub fn get(&self, key: u64) -> Option<f64> {
        self.find(key).map(|place| self.chunks[place.chunk].values[place.at])
    }

    /// The place of the smallest key.
    pub fn first(&self) -> Option<Place> {
        (self.len > 0).then_some(Place { chunk: 0, at: 0 })
    }

    /// The place of the largest key.
    pub fn last(&self) -> Option<Place> {
        self.chunks.last().map(|chunk| Place { chunk: self.chunks.len() - 1, at: chunk.len - 1 })
    }

    /// The place of the smallest key that is at least `key`.
    pub fn at_least(&self, key: u64) -> Option<Place> {
        let chunk = self.chunks.partition_point(|chunk| chunk.keys[chunk.len - 1] < key);
        let at = self.chunks.get(chunk)?.keys().partition_point(|&other| other < key);
        Some(Place { chunk, at })
    }

    /// The entry at a place.
    pub fn entry(&self, place: Place) -> (u64, f64) {
        let chunk = &self.chunks[place.chunk];
        (chunk.keys[place.at], chunk.values[place.at])
    }

    /// The place behind one.
    pub fn after(&self, place: Place) -> Option<Place> {
        if place.at + 1 < self.chunks[place.chunk].len {
            Some(Place { at: place.at + 1, ..place })
        } else {
            (place.chunk + 1 < self.chunks.len()).then_some(Place { chunk: place.chunk + 1, at: 0 })
        }
    }

    /// The place before one.
    pub fn before(&self, place: Place) -> Option<Place> {
        if place.at > 0 {
            Some(Place { at: place.at - 1, ..place })
        } else {
            let chunk = place.chunk.checked_sub(1)?;
            Some(Place { chunk, at: self.chunks[chunk].len - 1 })
        }
    }

    /// Move all entries from `from` (included) to `to` (excluded) into `each`, in order.
    pub fn take_range(&mut self, from: u64, to: u64, mut each: impl FnMut(u64, f64)) {
        while let Some(place) = self.at_least(from) {
            let (first, _) = self.entry(place);
            if first >= to {
                return;
            }
            let chunk = &mut self.chunks[place.chunk];
            let end = chunk.keys().partition_point(|&key| key < to);
            for at in place.at..end {
                each(chunk.keys[at], chunk.values[at]);
            }
            chunk.keys.copy_within(end..chunk.len, place.at);
            chunk.values.copy_within(end..chunk.len, place.at);
            chunk.len -= end - place.at;
            self.len -= end - place.at;
            if chunk.len == 0 {
                let chunk = self.chunks.remove(place.chunk);
                self.spare.push(chunk);
            }
        }
    }

    /// Panic unless every invariant holds.
    pub fn check(&self) {
        let mut previous = None;
        let mut count = 0;
        for chunk in &self.chunks {
            assert!(chunk.len > 0, "an empty chunk");
            for &key in chunk.keys() {
                assert!(previous < Some(key), "keys are not in order");
                previous = Some(key);
                count += 1;
            }
        }
        assert_eq!(count, self.len, "the number of entries");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn it_is_a_sorted_map() {
        let mut chunks = Chunks::default();
        let mut truth = BTreeMap::new();
        let mut seed = 1_u64;
        for turn in if cfg!(miri) { 4_700..5_010_u64 } else { 0..20_000 } {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = (seed >> 33) % 1500;
            if turn % 5000 == 4999 {
                let (from, to) = (key.min(700), key.max(700));
                let mut got = Vec::new();
                chunks.take_range(from, to, |key, value| got.push((key, value)));
                let want: Vec<_> = truth.range(from..to).map(|(&key, &value)| (key, value)).collect();
                truth.retain(|key, _| !(from..to).contains(key));
                assert_eq!(got, want);
            } else if seed & 1 == 0 {
                assert_eq!(chunks.insert(key, turn as f64), truth.insert(key, turn as f64).is_none());
            } else {
                assert_eq!(chunks.remove(key), truth.remove(&key).is_some());
            }
            assert_eq!(chunks.get(key), truth.get(&key).copied());
            if turn % 500 == 0 {
                chunks.check();
                let mut place = chunks.first();
                let mut all = Vec::new();
                while let Some(at) = place {
                    all.push(chunks.entry(at));
                    place = chunks.after(at);
                }
                assert_eq!(all, truth.iter().map(|(&key, &value)| (key, value)).collect::<Vec<_>>());
                let mut place = chunks.last();
                while let Some(at) = place {
                    assert_eq!(Some(chunks.entry(at)), all.pop());
                    place = chunks.before(at);
                }
                let above = chunks.at_least(key).map(|at| chunks.entry(at));
                assert_eq!(above, truth.range(key..).next().map(|(&key, &value)| (key, value)));
            }
        }
    }

    #[test]
    fn a_million_in_order_and_in_reverse() {
        let most = if cfg!(miri) { 1_000 } else { 1_000_000 };
        let mut chunks = Chunks::default();
        for key in 0..most {
            assert!(chunks.insert(key, 1.0));
        }
        assert_eq!(chunks.len() as u64, most);
        chunks.check();
        chunks.clear();
        for key in (0..most).rev() {
            assert!(chunks.insert(key, 1.0));
        }
        assert_eq!(chunks.len() as u64, most);
        chunks.check();
        for key in 0..most {
            assert!(chunks.remove(key));
        }
        assert!(chunks.is_empty());
        assert!(chunks.first().is_none() && chunks.last().is_none() && chunks.at_least(0).is_none());
    }
}
