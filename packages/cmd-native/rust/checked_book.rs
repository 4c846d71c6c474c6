//! The book behind Kraken's checksum: levels with the digits of their texts, cut to the subscribed depth. The twin of
//! `cmd_kraken.sync.ChecksumBook`, which says what it means; it knows nothing of Python.
//!
//! A message is tried first: its changes are noted, so that they can be taken back where the checksum is another one.

use std::collections::HashMap;

use crate::book::{Change, Grid};

/// Levels a side that the checksum covers.
pub const CHECKED: usize = 10;
/// Digits of a level that need no allocation.
pub const SHORT: usize = 40;
/// So many levels of a message are compared with each other one by one.
const FEW: usize = 32;
const NONE: u32 = u32::MAX;

const ONES: u128 = u128::MAX / 255;
const HIGHS: u128 = ONES << 7;
const DOTS: u128 = ONES * b'.' as u128;
const ZEROS: u128 = ONES * b'0' as u128;

/// The digits of price and quantity, as the checksum takes them: no points, no leading zeros.
#[derive(Clone, Default)]
pub struct Text {
    long: Option<Box<[u8]>>,
    short: Short,
    length: u8,
}

#[derive(Clone, Copy)]
struct Short([u8; SHORT]);

impl Default for Short {
    fn default() -> Short {
        Short([0; SHORT])
    }
}

impl Text {
    /// Digits that are known.
    pub fn new(digits: &[u8]) -> Text {
        let mut text = Text::default();
        match text.short.0.get_mut(..digits.len()) {
            Some(short) => {
                short.copy_from_slice(digits);
                text.length = digits.len() as u8;
            }
            None => text.long = Some(digits.into()),
        }
        text
    }

    /// Append the digits of a decimal number; `chunk` begins with its text where at least 16 bytes are there. `None`
    /// for one of more than 20 characters.
    #[inline(always)]
    pub fn push(&mut self, text: &[u8], chunk: Option<[u8; 16]>) -> Option<()> {
        let start = usize::from(self.length);
        if let Some(chunk) = chunk.filter(|_| text.len() <= 16) {
            let (digits, count) = digits_of(chunk, text.len());
            self.short.0.get_mut(start..start + 16)?.copy_from_slice(&digits.to_le_bytes());
            self.length += count as u8;
            return Some(());
        }
        self.push_long(text)
    }

    #[cold]
    #[inline(never)]
    fn push_long(&mut self, text: &[u8]) -> Option<()> {
        if text.len() > 20 {
            return None;
        }
        let digits = text.iter().filter(|byte| **byte != b'.').skip_while(|byte| **byte == b'0');
        for &digit in digits {
            *self.short.0.get_mut(usize::from(self.length))? = digit;
            self.length += 1;
        }
        Some(())
    }

    fn bytes(&self) -> &[u8] {
        match &self.long {
            Some(long) => long,
            None => &self.short.0[..usize::from(self.length)],
        }
    }
}

/// The digits of a number of `length` characters, 1 to 16, and how many there are: the first is the lowest byte.
#[inline(always)]
fn digits_of(chunk: [u8; 16], length: usize) -> (u128, usize) {
    let text = u128::from_le_bytes(chunk) & (u128::MAX >> (128 - 8 * length as u32));
    let other = text ^ DOTS;
    let dot = other.wrapping_sub(ONES) & !other & HIGHS;
    let (digits, count) = if dot == 0 {
        (text, length)
    } else {
        let whole = (1 << (dot.trailing_zeros() & !7)) - 1;
        ((text & whole) | ((text >> 8) & !whole), length - 1)
    };
    let Some(empty) = 128_u32.checked_sub(8 * count as u32).filter(|empty| *empty < 128) else { return (0, 0) };
    let other = (digits ^ ZEROS) & (u128::MAX >> empty);
    if other == 0 {
        return (0, 0);
    }
    let zeros = other.trailing_zeros() & !7;
    (digits >> zeros, count - zeros as usize / 8)
}

/// A level as a message has it.
#[derive(Clone, Default)]
pub struct Level {
    /// Its price, above 0.
    pub price: f64,
    /// Its quantity; 0 deletes.
    pub quantity: f64,
    /// Its digits.
    pub text: Text,
}

/// One side; keys are prices, those of asks negative, so that the best one is the last.
struct Side {
    sign: f64,
    order: Vec<(f64, u32)>,
    start: usize,
    texts: Vec<Text>,
    free: Vec<u32>,
    noted: Vec<(f64, u32, u32)>,
}

impl Side {
    fn new(sign: f64) -> Side {
        Side { sign, order: Vec::new(), start: 0, texts: Vec::new(), free: Vec::new(), noted: Vec::new() }
    }

    #[inline(always)]
    fn find(&self, key: f64) -> Result<usize, usize> {
        let held = &self.order[self.start..];
        let at = held.partition_point(|entry| entry.0 < key);
        let found = held.get(at).is_some_and(|entry| entry.0 == key);
        if found { Ok(self.start + at) } else { Err(self.start + at) }
    }

    fn insert(&mut self, at: usize, entry: (f64, u32)) {
        if self.start > 0 && at - self.start < self.order.len() - at {
            self.order.copy_within(self.start..at, self.start - 1);
            self.start -= 1;
            self.order[at - 1] = entry;
        } else {
            self.order.insert(at, entry);
        }
    }

    fn keep(&mut self, text: &Text) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.texts[slot as usize].clone_from(text);
            return slot;
        }
        self.texts.push(text.clone());
        (self.texts.len() - 1) as u32
    }

    #[inline(always)]
    fn set(&mut self, level: &Level) {
        let key = level.price * self.sign;
        match (self.find(key), level.quantity != 0.0) {
            (Ok(at), true) => {
                let slot = self.keep(&level.text);
                self.noted.push((key, self.order[at].1, slot));
                self.order[at].1 = slot;
            }
            (Ok(at), false) => {
                let entry = self.order.remove(at);
                self.noted.push((key, entry.1, NONE));
            }
            (Err(at), true) => {
                let slot = self.keep(&level.text);
                self.noted.push((key, NONE, slot));
                self.insert(at, (key, slot));
            }
            (Err(_), false) => {}
        }
    }

    /// Try the levels of a message, which become what it changes: one a price, with those that were pushed out.
    /// Whether more was done to them than to append.
    fn attempt(&mut self, depth: usize, levels: &mut Vec<Level>) -> bool {
        let mut altered = false;
        let mut places = None;
        if levels.len() > FEW {
            let found = places.insert(HashMap::with_capacity(levels.len()));
            let mut count = 0;
            for at in 0..levels.len() {
                let place = *found.entry(levels[at].price.to_bits()).or_insert(count);
                levels.swap(place, at);
                count += usize::from(place == count);
            }
            altered = count < levels.len();
            levels.truncate(count);
        } else {
            let mut at = 1;
            while at < levels.len() {
                let price = levels[at].price;
                if let Some(place) = levels[..at].iter().position(|level| level.price == price) {
                    levels[place] = levels.remove(at);
                    altered = true;
                } else {
                    at += 1;
                }
            }
        }
        for level in levels.iter() {
            self.set(level);
        }
        let sent = levels.len();
        while self.order.len() - self.start > depth {
            let (key, slot) = self.order[self.start];
            self.start += 1;
            self.noted.push((key, slot, NONE));
            let price = key * self.sign;
            let place = match &places {
                Some(places) => places.get(&price.to_bits()).copied(),
                None => levels[..sent].iter().position(|level| level.price == price),
            };
            if let Some(place) = place {
                levels[place].quantity = 0.0;
                altered = true;
            } else {
                levels.push(Level { price, ..Level::default() });
            }
        }
        altered
    }

    fn commit(&mut self) {
        self.free.extend(self.noted.iter().map(|noted| noted.1).filter(|slot| *slot != NONE));
        self.noted.clear();
        if self.start >= 1024 {
            self.order.drain(..self.start);
            self.start = 0;
        }
    }

    #[cold]
    fn undo(&mut self) {
        while let Some((key, before, after)) = self.noted.pop() {
            match (self.find(key), before) {
                (Ok(at), NONE) => {
                    self.order.remove(at);
                }
                (Ok(at), _) => self.order[at].1 = before,
                (Err(at), _) => self.insert(at, (key, before)),
            }
            if after != NONE {
                self.free.push(after);
            }
        }
    }

    fn best(&self) -> impl Iterator<Item = &Text> {
        let held = self.order[self.start..].iter().rev().take(CHECKED);
        held.filter_map(|entry| self.texts.get(entry.1 as usize))
    }
}

/// Both sides of a book at one depth, as far as checksum and cut need them.
pub struct CheckedBook {
    depth: usize,
    bids: Side,
    asks: Side,
}

impl CheckedBook {
    /// An empty book.
    pub fn new(depth: usize) -> CheckedBook {
        CheckedBook { depth, bids: Side::new(1.0), asks: Side::new(-1.0) }
    }

    /// Forget all levels.
    pub fn clear(&mut self) {
        *self = CheckedBook::new(self.depth);
    }

    /// Apply levels, which become what they change: one a price, with those that were pushed out.
    pub fn apply(&mut self, bids: &mut Vec<Level>, asks: &mut Vec<Level>) {
        self.bids.attempt(self.depth, bids);
        self.asks.attempt(self.depth, asks);
        self.commit();
    }

    /// Try a message. Where its checksum is right, `changes` are brought into step with what it changes; `commit` or
    /// `undo` has to follow. Else nothing was changed.
    #[inline]
    pub fn attempt(
        &mut self,
        grid: Grid,
        [bids, asks]: &mut [Vec<Level>; 2],
        changes: [&mut Vec<Change>; 2],
        checksum: Option<u32>,
    ) -> Option<()> {
        let depth = self.depth;
        let altered =
            [!bids.is_empty() && self.bids.attempt(depth, bids), !asks.is_empty() && self.asks.attempt(depth, asks)];
        if checksum.is_some_and(|checksum| checksum != self.checksum()) {
            self.undo();
            return None;
        }
        for ((levels, changes), altered) in [bids, asks].into_iter().zip(changes).zip(altered) {
            if altered {
                changes.clear();
            }
            let more = levels.get(changes.len()..)?.iter();
            changes.extend(more.map(|level| Change { key: grid.key_of_price(level.price), quantity: level.quantity }));
        }
        Some(())
    }

    /// Keep what was tried.
    #[inline(always)]
    pub fn commit(&mut self) {
        self.bids.commit();
        self.asks.commit();
    }

    /// Take back what was tried.
    pub fn undo(&mut self) {
        self.bids.undo();
        self.asks.undo();
    }

    /// The CRC32 of the best levels.
    #[inline]
    pub fn checksum(&self) -> u32 {
        let mut all = [0; (2 * CHECKED + 1) * SHORT];
        let mut end = 0;
        for text in self.asks.best().chain(self.bids.best()) {
            match all.get_mut(end..end + SHORT) {
                Some(place) if text.long.is_none() => place.copy_from_slice(&text.short.0),
                _ => return self.slow_checksum(),
            }
            end += usize::from(text.length);
        }
        zlib_rs::crc32::crc32(0, &all[..end])
    }

    #[cold]
    fn slow_checksum(&self) -> u32 {
        self.asks.best().chain(self.bids.best()).fold(0, |crc, text| zlib_rs::crc32::crc32(crc, text.bytes()))
    }

    /// Panic unless every invariant holds.
    pub fn check(&self) {
        for side in [&self.bids, &self.asks] {
            let held = &side.order[side.start..];
            assert!(held.is_sorted_by(|a, b| a.0 < b.0) && held.len() <= self.depth && side.noted.is_empty());
            let mut used: Vec<u32> = held.iter().map(|entry| entry.1).chain(side.free.iter().copied()).collect();
            used.sort_unstable();
            assert!(used.iter().copied().eq(0..side.texts.len() as u32), "every text is in use or free, once");
        }
        assert_eq!(self.checksum(), self.slow_checksum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_text() {
        for text in
            ["0.5", "0", "0.0", "10.50", "123456789012.345", "1234567890123456", "0.00000000000001", "7", "00.10"]
        {
            let mut chunk = [b'9'; 16];
            chunk[..text.len()].copy_from_slice(text.as_bytes());
            let (mut short, mut long) = (Text::default(), Text::default());
            assert!(short.push(text.as_bytes(), Some(chunk)).is_some() && long.push(text.as_bytes(), None).is_some());
            let expected = text.replace('.', "");
            assert_eq!(short.bytes(), expected.trim_start_matches('0').as_bytes(), "{text}");
            assert_eq!(short.bytes(), long.bytes());
        }
        assert!(Text::default().push(b"123456789012345678901", None).is_none());
        assert_eq!(Text::new(&[b'1'; 90]).bytes(), [b'1'; 90]);
    }

    fn level(price: u64, quantity: u64) -> Level {
        let text = Text::new(format!("{price}{quantity}").as_bytes());
        Level { price: price as f64, quantity: quantity as f64, text }
    }

    #[test]
    fn what_was_tried_can_be_taken_back() {
        let mut seed = 7_u64;
        let mut draw = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let (mut book, mut twin) = (CheckedBook::new(12), CheckedBook::new(12));
        for round in 0..3000 {
            let mut sides = [0, 100].map(|base| {
                let count = if round % 50 == 0 { draw(80) } else { draw(6) };
                (0..count).map(|_| level(1 + base + draw(60), draw(3))).collect::<Vec<_>>()
            });
            let before = book.checksum();
            let mut tried = sides.clone();
            let wrong = draw(2) == 0;
            let (mut bids, mut asks) = (Vec::new(), Vec::new());
            for (side, changes) in sides.iter().zip([&mut bids, &mut asks]) {
                changes.extend(
                    side.iter().map(|l| Change { key: Grid::none().key_of_price(l.price), quantity: l.quantity }),
                );
            }
            let [first, second] = &mut sides;
            if wrong {
                assert!(book.attempt(Grid::none(), &mut tried, [&mut bids, &mut asks], Some(!0)).is_none());
                assert_eq!(book.checksum(), before);
            } else {
                twin.apply(first, second);
                let sum = twin.checksum();
                assert!(book.attempt(Grid::none(), &mut tried, [&mut bids, &mut asks], Some(sum)).is_some());
                book.commit();
                for (changes, side) in [(&bids, first), (&asks, second)] {
                    let prices = |c: &Change| (Grid::none().price_of(c.key), c.quantity);
                    assert!(changes.iter().map(prices).eq(side.iter().map(|l| (l.price, l.quantity))));
                }
            }
            book.check();
            twin.check();
            assert_eq!(book.checksum(), twin.checksum());
        }
    }
}
