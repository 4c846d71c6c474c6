//! One side of a book: a flat window of ticks around the touch, and sorted chunks for everything else.
//!
//! The window holds a quantity a tick, a bit a tick that says whether there is a level, and one word with
//! a bit for each of those words: a change is one array access, the best level two bit scans. What lies
//! outside the window or off the tick grid is in the chunks, by the bits of its price, which sort as the
//! prices do; so every price is held whatever the market does. After a message the window follows the
//! market, with so much room on both sides that this is rare.

use crate::book_chunks::{Chunks, Place};
use crate::book_grid::{Grid, Key};

/// Ticks of the window: 32 KiB of quantities a side, and words enough for one word that sums them up.
const WINDOW: usize = 4096;
const WORDS: usize = WINDOW / 64;
/// Where a window that is moved puts the best level, counted from its better end.
const HOME: u64 = 1024;
/// The window is moved when the best level is further from its better end.
const FAR: u64 = 3072;

/// A level or a change of one: quantity 0 deletes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// The price.
    pub key: Key,
    /// The new absolute quantity.
    pub quantity: f64,
}

/// A side of a book; `BID` says that the highest price is the best.
pub struct Side<const BID: bool> {
    grid: Grid,
    base: u64,
    summary: u64,
    words: [u64; WORDS],
    quantities: Box<[f64; WINDOW]>,
    inside: usize,
    far: Chunks,
    best: (f64, f64),
    moved: Vec<(u64, f64)>,
}

impl<const BID: bool> Side<BID> {
    /// An empty side.
    pub fn new(grid: Grid) -> Self {
        Side {
            grid,
            base: 0,
            summary: 0,
            words: [0; WORDS],
            quantities: vec![0.0; WINDOW].try_into().unwrap_or_else(|_| unreachable!("the window has its length")),
            inside: 0,
            far: Chunks::default(),
            best: (0.0, 0.0),
            moved: Vec::new(),
        }
    }

    /// The number of levels.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.inside + self.far.len()
    }

    /// Whether there is no level.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.summary == 0 && self.far.is_empty()
    }

    /// The best level, price and quantity.
    #[inline(always)]
    pub fn best(&self) -> Option<(f64, f64)> {
        (!self.is_empty()).then_some(self.best)
    }

    /// Forget all levels.
    pub fn clear(&mut self) {
        self.words = [0; WORDS];
        self.summary = 0;
        self.inside = 0;
        self.far.clear();
    }

    /// Set levels in the given order, then find the best one and follow the market.
    #[inline(always)]
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.set(*change);
        }
        self.settle();
    }

    #[inline(always)]
    fn set(&mut self, Change { key, quantity }: Change) {
        // Keys off the grid have the highest bit set: they are never inside.
        let slot = key.0.wrapping_sub(self.base);
        if slot >= WINDOW as u64 {
            self.set_far(key, quantity);
            return;
        }
        let slot = slot as usize;
        let (word, bit) = (slot >> 6, 1_u64 << (slot & 63));
        let before = self.words[word];
        if quantity != 0.0 {
            self.quantities[slot] = quantity;
            self.words[word] = before | bit;
            self.summary |= 1 << word;
            self.inside += usize::from(before & bit == 0);
        } else {
            let after = before & !bit;
            self.words[word] = after;
            self.summary &= !(u64::from(after == 0) << word);
            self.inside -= usize::from(before & bit != 0);
        }
    }

    #[cold]
    #[inline(never)]
    fn set_far(&mut self, key: Key, quantity: f64) {
        let bits = self.grid.price_of(key).to_bits();
        if quantity != 0.0 {
            self.far.insert(bits, quantity);
        } else {
            self.far.remove(bits);
        }
    }

    /// The slot of the best level in the window.
    #[inline(always)]
    fn best_slot(&self) -> Option<usize> {
        if self.summary == 0 {
            return None;
        }
        Some(if BID {
            let word = 63 - self.summary.leading_zeros() as usize;
            (word << 6) + 63 - self.words[word].leading_zeros() as usize
        } else {
            let word = self.summary.trailing_zeros() as usize;
            (word << 6) + self.words[word].trailing_zeros() as usize
        })
    }

    /// The slot next to a better one.
    #[inline(always)]
    fn next_slot(&self, slot: usize) -> Option<usize> {
        let (word, at) = (slot >> 6, slot & 63);
        if BID {
            let rest = self.words[word] & ((1_u64 << at) - 1);
            if rest != 0 {
                return Some((word << 6) + 63 - rest.leading_zeros() as usize);
            }
            let words = self.summary & ((1_u64 << word) - 1);
            if words == 0 {
                return None;
            }
            let word = 63 - words.leading_zeros() as usize;
            Some((word << 6) + 63 - self.words[word].leading_zeros() as usize)
        } else {
            let rest = self.words[word] & (!0 << at << 1);
            if rest != 0 {
                return Some((word << 6) + rest.trailing_zeros() as usize);
            }
            let words = self.summary & (!0 << word << 1);
            if words == 0 {
                return None;
            }
            let word = words.trailing_zeros() as usize;
            Some((word << 6) + self.words[word].trailing_zeros() as usize)
        }
    }

    #[inline(always)]
    fn slot_price(&self, slot: usize) -> f64 {
        self.grid.price_of_tick(self.base + slot as u64)
    }

    /// How far a slot is from the better end of the window.
    #[inline(always)]
    fn depth_of(slot: usize) -> u64 {
        if BID { (WINDOW - 1 - slot) as u64 } else { slot as u64 }
    }

    /// Find the best level; move the window when the market has left its middle.
    #[inline(always)]
    fn settle(&mut self) {
        let slot = self.best_slot();
        if let Some(slot) = slot
            && Self::depth_of(slot) <= FAR
        {
            let price = self.slot_price(slot);
            let place = self.far_best();
            if place.is_none_or(|place| Self::better(price, f64::from_bits(self.far.entry(place).0))) {
                self.best = (price, self.quantities[slot]);
                return;
            }
        }
        self.settle_far(slot);
    }

    #[inline(never)]
    fn settle_far(&mut self, slot: Option<usize>) {
        let inside = slot.map(|slot| (self.slot_price(slot), self.quantities[slot]));
        let outside = self.far_best().map(|place| {
            let (bits, quantity) = self.far.entry(place);
            (f64::from_bits(bits), quantity)
        });
        self.best = match (inside, outside) {
            (Some(inside), Some(outside)) => {
                if Self::better(outside.0, inside.0) {
                    outside
                } else {
                    inside
                }
            }
            (Some(level), None) | (None, Some(level)) => level,
            (None, None) => return,
        };
        let near = slot.is_some_and(|slot| Self::depth_of(slot) <= FAR);
        let tick = match self.grid.key_of_price(self.best.0).tick() {
            Some(tick) => tick,
            None if near => return, // the best price is off the grid: the window stays where the market is
            None => match slot {
                Some(slot) => self.base + slot as u64,
                None => match self.first_far_tick() {
                    Some(tick) => tick,
                    None => return,
                },
            },
        };
        if near && tick.wrapping_sub(self.base) < WINDOW as u64 {
            return;
        }
        self.go_to(tick);
    }

    /// The tick number of the best level on the grid that is not in the window, among the first few.
    fn first_far_tick(&self) -> Option<u64> {
        let mut place = self.far_best();
        for _ in 0..64 {
            let at = place?;
            if let Some(tick) = self.grid.key_of_price(f64::from_bits(self.far.entry(at).0)).tick() {
                return Some(tick);
            }
            place = self.far_next(at);
        }
        None
    }

    /// Move the window so that a tick has its home in it.
    fn go_to(&mut self, tick: u64) {
        let wanted = if BID { (tick + HOME + 1).saturating_sub(WINDOW as u64) } else { tick.saturating_sub(HOME) };
        let base = wanted.min((self.grid.last_tick() + 1).saturating_sub(WINDOW as u64));
        if base == self.base || tick.wrapping_sub(base) >= WINDOW as u64 {
            return;
        }
        let mut moved = std::mem::take(&mut self.moved);
        moved.clear();
        let mut slot = self.best_slot();
        while let Some(at) = slot {
            moved.push((self.slot_price(at).to_bits(), self.quantities[at]));
            slot = self.next_slot(at);
        }
        self.words = [0; WORDS];
        self.summary = 0;
        self.inside = 0;
        self.base = base;
        let (from, to) = (self.grid.price_of_tick(base), self.grid.price_of_tick(base + WINDOW as u64));
        self.far.take_range(from.to_bits(), to.to_bits(), |bits, quantity| moved.push((bits, quantity)));
        for &(bits, quantity) in &moved {
            self.set(Change { key: self.grid.key_of_price(f64::from_bits(bits)), quantity });
        }
        self.moved = moved;
    }

    #[inline(always)]
    fn better(one: f64, other: f64) -> bool {
        if BID { one > other } else { one < other }
    }

    #[inline(always)]
    fn far_best(&self) -> Option<Place> {
        if BID { self.far.last() } else { self.far.first() }
    }

    #[inline(always)]
    fn far_next(&self, place: Place) -> Option<Place> {
        if BID { self.far.before(place) } else { self.far.after(place) }
    }

    /// Replace all levels by others, in any order; the last of several of one price counts.
    pub fn load(&mut self, levels: &[Change]) {
        self.clear();
        let ticks = levels.iter().filter(|level| level.quantity != 0.0).filter_map(|level| level.key.tick());
        if let Some(tick) = if BID { ticks.max() } else { ticks.min() } {
            self.go_to(tick);
        }
        self.apply(levels);
    }

    /// All levels, the best first, as price and quantity.
    pub fn levels(&self) -> Levels<'_, BID> {
        Levels { side: self, slot: self.best_slot(), place: self.far_best() }
    }

    /// The price of the worst level.
    pub fn worst(&self) -> Option<f64> {
        let inside = if BID {
            (self.summary != 0).then(|| {
                let word = self.summary.trailing_zeros() as usize;
                (word << 6) + self.words[word].trailing_zeros() as usize
            })
        } else {
            (self.summary != 0).then(|| {
                let word = 63 - self.summary.leading_zeros() as usize;
                (word << 6) + 63 - self.words[word].leading_zeros() as usize
            })
        };
        let inside = inside.map(|slot| self.slot_price(slot));
        let outside =
            if BID { self.far.first() } else { self.far.last() }.map(|place| f64::from_bits(self.far.entry(place).0));
        match (inside, outside) {
            (Some(one), Some(other)) => Some(if Self::better(one, other) { other } else { one }),
            (one, other) => one.or(other),
        }
    }

    /// Keep the best `limit` levels and return the price of the worst one that is kept.
    pub fn prune(&mut self, limit: usize) -> Option<f64> {
        let (worst, _) = self.levels().nth(limit.checked_sub(1)?)?;
        let mut slot = self.best_slot();
        while let Some(at) = slot {
            slot = self.next_slot(at);
            if Self::better(worst, self.slot_price(at)) {
                self.set(Change { key: Key(self.base + at as u64), quantity: 0.0 });
            }
        }
        let bits = worst.to_bits();
        if BID {
            self.far.take_range(0, bits, |_, _| ());
        } else {
            self.far.take_range(bits + 1, u64::MAX, |_, _| ());
        }
        self.settle();
        Some(worst)
    }

    /// Panic unless every invariant holds.
    pub fn check(&self) {
        self.far.check();
        assert_eq!(self.inside, self.words.iter().map(|word| word.count_ones() as usize).sum::<usize>(), "the count");
        for (at, word) in self.words.iter().enumerate() {
            assert_eq!(*word != 0, self.summary >> at & 1 == 1, "the summary");
        }
        let mut place = self.far.first();
        while let Some(at) = place {
            let (bits, quantity) = self.far.entry(at);
            let price = f64::from_bits(bits);
            assert!(price > 0.0 && price < f64::INFINITY && quantity > 0.0 && quantity < f64::INFINITY, "a far level");
            if let Some(tick) = self.grid.key_of_price(price).tick() {
                assert!(tick.wrapping_sub(self.base) >= WINDOW as u64, "a level that belongs into the window");
            }
            place = self.far.after(at);
        }
        let mut previous = None;
        let mut count = 0;
        for (price, quantity) in self.levels() {
            assert!(quantity > 0.0 && quantity < f64::INFINITY, "a quantity");
            assert!(previous.is_none_or(|before| Self::better(before, price)), "the order of levels");
            if previous.is_none() {
                assert_eq!((price, quantity), self.best, "the best level");
            }
            previous = Some(price);
            count += 1;
        }
        assert_eq!(count, self.len(), "the number of levels");
        assert_eq!(previous, self.worst(), "the worst level");
    }
}

/// The levels of a side, the best first.
pub struct Levels<'a, const BID: bool> {
    side: &'a Side<BID>,
    slot: Option<usize>,
    place: Option<Place>,
}

impl<const BID: bool> Iterator for Levels<'_, BID> {
    type Item = (f64, f64);

    #[inline]
    fn next(&mut self) -> Option<(f64, f64)> {
        let inside = self.slot.map(|slot| (self.side.slot_price(slot), slot));
        if let Some(place) = self.place {
            let (bits, quantity) = self.side.far.entry(place);
            let price = f64::from_bits(bits);
            if inside.is_none_or(|(other, _)| Side::<BID>::better(price, other)) {
                self.place = self.side.far_next(place);
                return Some((price, quantity));
            }
        }
        let (price, slot) = inside?;
        self.slot = self.side.next_slot(slot);
        Some((price, self.side.quantities[slot]))
    }
}
