//! A depth message from its bytes into a book: decoded, judged by the venue's rule of continuity and applied.
//!
//! Nothing is changed unless everything is as usual. `None` anywhere says that nothing was changed: the caller takes
//! the message by the way in Python, which is the specification and says what is wrong with it, if anything is.
//! How a venue is added is told in `scan.rs`.

use crate::book::{Book, Change, Grid, Key, Stage};
use crate::checked_book::Level;
use crate::depth_binance;
use crate::depth_bitstamp;
use crate::depth_bybit;
use crate::depth_coinbase;
use crate::depth_gemini;
use crate::depth_kraken;
use crate::depth_okx;
use crate::scan::{Digits, Number, Scalar, Scan};
#[cfg(target_arch = "x86_64")]
use crate::scan_simd::Vector;

/// Deltas between two looks of Python's builder at the known depth; a power of two, as there.
pub const LOOK_EVERY: u64 = 1024;

/// Whose messages; each with its decoder and its rule of continuity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Binance's spot market.
    BinanceSpot,
    /// Binance's futures, whose events name the one before.
    BinanceFutures,
    /// Bybit, whose ids rise by one.
    Bybit,
    /// Kraken's API v2, without ids but with checksums.
    Kraken,
    /// Kraken's API v1, likewise.
    KrakenV1,
    /// Gemini's current API, whose ids are ranges that join.
    Gemini,
    /// Bitstamp, whose ids are times.
    Bitstamp,
    /// Coinbase Exchange: no ids, but times that never fall.
    Coinbase,
    /// Coinbase's Advanced Trade: no ids, but frames that are numbered.
    CoinbaseAdvanced,
    /// OKX, whose messages name the one before.
    Okx,
}

impl Format {
    /// By its name in Python.
    pub fn parse(name: &str) -> Option<Format> {
        Some(match name {
            "binance-spot" => Format::BinanceSpot,
            "binance-futures" => Format::BinanceFutures,
            "bybit" => Format::Bybit,
            "kraken" => Format::Kraken,
            "kraken-v1" => Format::KrakenV1,
            "gemini" => Format::Gemini,
            "bitstamp" => Format::Bitstamp,
            "coinbase" => Format::Coinbase,
            "coinbase-advanced" => Format::CoinbaseAdvanced,
            "okx" => Format::Okx,
            _ => return None,
        })
    }

    /// Whether the venue's rule applies a message to a book.
    fn follows(self, book: &Book, message: &Message) -> bool {
        let Message { first, last, prev, .. } = *message;
        let id = book.last_id;
        match (self, book.stage) {
            (_, Stage::Off) => false,
            (Format::BinanceSpot | Format::Gemini, _) => last > id && first <= id + 1,
            (Format::BinanceFutures, Stage::First) => last >= id && (first <= id || prev == Some(id)),
            (Format::BinanceFutures, Stage::Next) => prev == Some(id),
            (Format::Bybit, _) => first == id + 1,
            (Format::Bitstamp, _) => last > id,
            (Format::Coinbase, _) => message.ts_event >= book.ts_event,
            (Format::CoinbaseAdvanced, _) => true,
            (Format::Okx, _) => prev == Some(id),
            (Format::Kraken | Format::KrakenV1, _) => true,
        }
    }

    /// Whether messages have no ids, so that they are counted.
    fn counted(self) -> bool {
        matches!(self, Format::Coinbase | Format::CoinbaseAdvanced | Format::Kraken | Format::KrakenV1)
    }

    /// Whether the frames of a connection are numbered, and `Scratch::number` has a message's number.
    pub fn numbered(self) -> bool {
        self == Format::CoinbaseAdvanced
    }

    /// Whether messages are checked against a `CheckedBook`.
    pub fn checks(self) -> bool {
        matches!(self, Format::Kraken | Format::KrakenV1)
    }
}

/// What a depth message says besides its levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// First update id that it contains.
    pub first: i64,
    /// Last update id that it contains.
    pub last: i64,
    /// The venue's id of the message before.
    pub prev: Option<i64>,
    /// Event time, ns UTC.
    pub ts_event: i64,
}

/// Keys of an object that came, one bit each: a key that comes twice is for the way in Python.
#[derive(Clone, Copy, Default)]
pub struct Keys(u32);

impl Keys {
    /// Note a key that must not have come before.
    #[inline(always)]
    pub fn once(&mut self, bit: u32) -> Option<()> {
        let before = self.0;
        self.0 |= bit;
        (before & bit == 0).then_some(())
    }

    /// Note a key that is not known, which is allowed where `lenient`.
    #[inline(always)]
    pub fn unknown(&mut self, lenient: bool, bit: u32) -> Option<()> {
        self.0 |= bit;
        lenient.then_some(())
    }

    /// Whether a key has come.
    #[inline(always)]
    pub fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// Demand that all of these have come.
    #[inline(always)]
    pub fn all(self, bits: u32) -> Option<()> {
        (self.0 & bits == bits).then_some(())
    }
}

/// Levels of one message; kept from message to message, so that none allocates once the longest has come.
#[derive(Default)]
pub struct Scratch {
    /// Changes of bids as they came.
    pub bids: Vec<Change>,
    /// Changes of asks as they came.
    pub asks: Vec<Change>,
    /// The same with their texts, bids and asks, where a checksum is made of them.
    pub levels: [Vec<Level>; 2],
    /// The checksum of the book with the message, where it has one.
    pub checksum: Option<u32>,
    /// Number of the frame on its connection, where the venue numbers frames.
    pub number: i64,
    sorted: Vec<(f64, u32)>,
    places: Vec<u32>,
}

/// Changes a side in which `Scratch::unique` looks for prices that come twice.
const UNIQUE: usize = 4096;

impl Scratch {
    /// Forget the levels of the last message.
    pub fn clear(&mut self) {
        self.bids.clear();
        self.asks.clear();
        self.levels.iter_mut().for_each(Vec::clear);
        self.checksum = None;
    }

    /// Of the changes of one price keep the last, in the place of the first. `None` for more than are looked through.
    #[inline(always)]
    pub fn unique(&mut self) -> Option<()> {
        let Scratch { bids, asks, places, .. } = self;
        unique(bids, places)?;
        unique(asks, places)
    }

    /// Write a side as records carry it: little-endian float64, price and quantity in turn, the best first, and
    /// prices that are equal in the order they came. `out` has 16 bytes a level.
    pub fn pack(&mut self, bids: bool, grid: Grid, out: &mut [u8]) {
        let side = if bids { &self.bids } else { &self.asks };
        let sign = if bids { -1.0 } else { 1.0 };
        let sorted = &mut self.sorted;
        sorted.clear();
        sorted.extend(side.iter().zip(0_u32..).map(|(change, number)| (sign * grid.price_of(change.key), number)));
        if !sorted.is_sorted_by(|a, b| a.0 <= b.0) {
            sorted.reverse(); // venues that send the worst first, which then are in order but for equal ones
            if !sorted.is_sorted_by(|a, b| a.0 < b.0) {
                sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            }
        }
        for (&(price, number), pair) in sorted.iter().zip(out.chunks_exact_mut(16)) {
            pair[..8].copy_from_slice(&(sign * price).to_le_bytes());
            pair[8..].copy_from_slice(&side[number as usize].quantity.to_le_bytes());
        }
    }
}

#[inline]
fn unique(side: &mut Vec<Change>, places: &mut Vec<u32>) -> Option<()> {
    const FREE: u32 = u32::MAX;
    if side.len() < 2 {
        return Some(());
    }
    if side.len() > UNIQUE {
        return None; // keys that are chosen to meet in one place would cost the square of it
    }
    let bits = (2 * side.len()).ilog2() + 1; // never more than half full
    places.clear();
    places.resize(1 << bits, FREE);
    let mut kept = 0;
    for at in 0..side.len() {
        let change = side[at];
        let mut place = (change.key.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as usize;
        loop {
            let found = places[place];
            if found == FREE {
                places[place] = kept as u32;
                side[kept] = change;
                kept += 1;
                break;
            }
            if side[found as usize].key == change.key {
                side[found as usize].quantity = change.quantity;
                break;
            }
            place = (place + 1) & (places.len() - 1);
        }
    }
    side.truncate(kept);
    Some(())
}

/// The text of a key further on in an object; `scan` is at a value of it.
#[cold]
#[inline(never)]
pub fn text_ahead<'a, D: Digits>(mut scan: Scan<'a, D>, wanted: &[u8]) -> Option<&'a [u8]> {
    loop {
        scan.skip()?;
        scan.expect(b',')?;
        let key = scan.key()?;
        scan.expect(b':')?;
        if key == wanted {
            return scan.string();
        }
    }
}

/// The key of a price that is above 0 and below 1e18.
#[inline(always)]
pub fn price_key(grid: Grid, price: &Number) -> Option<Key> {
    let decimal = price.decimal;
    (decimal.mantissa != 0 && price.value() < 1e18).then(|| grid.key_of_decimal(decimal.mantissa, decimal.fraction))
}

/// Read `[["price","quantity"],...]`; every quantity is below 1e24, for no number has more than 19 digits here.
#[inline(always)]
pub fn levels<D: Levels>(scan: &mut Scan<'_, D>, grid: Grid, out: &mut Vec<Change>) -> Option<()> {
    listed::<D, false>(scan, grid, out)
}

/// The same of levels with more behind price and quantity, which is passed over.
#[inline(always)]
pub fn rows<D: Levels>(scan: &mut Scan<'_, D>, grid: Grid, out: &mut Vec<Change>) -> Option<()> {
    listed::<D, true>(scan, grid, out)
}

#[inline(always)]
fn listed<D: Levels, const ROWS: bool>(scan: &mut Scan<'_, D>, grid: Grid, out: &mut Vec<Change>) -> Option<()> {
    if !scan.first_item()? {
        return Some(());
    }
    while D::usual::<ROWS>(scan, grid, out)? {
        let (price, quantity) = if ROWS { scan.row()? } else { scan.pair()? };
        out.push(Change { key: price_key(grid, &price)?, quantity: quantity.value() });
        if !scan.next_item()? {
            break;
        }
    }
    Some(())
}

/// The loop over levels in their usual form: a function of its own, so that all of it stays in registers.
pub trait Levels: Digits {
    /// Read levels up to the end of the list, or up to one that has another form: `true` then.
    fn usual<const ROWS: bool>(scan: &mut Scan<'_, Self>, grid: Grid, out: &mut Vec<Change>) -> Option<bool>;
}

impl Levels for Scalar {
    fn usual<const ROWS: bool>(scan: &mut Scan<'_, Self>, grid: Grid, out: &mut Vec<Change>) -> Option<bool> {
        usual::<Self, ROWS>(scan, grid, out)
    }
}

#[cfg(target_arch = "x86_64")]
impl Levels for Vector {
    #[inline(always)]
    fn usual<const ROWS: bool>(scan: &mut Scan<'_, Self>, grid: Grid, out: &mut Vec<Change>) -> Option<bool> {
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
        #[inline(never)]
        fn vector<const ROWS: bool>(scan: &mut Scan<'_, Vector>, grid: Grid, out: &mut Vec<Change>) -> Option<bool> {
            usual::<Vector, ROWS>(scan, grid, out)
        }
        // SAFETY: the CPU has the instructions, for there is a value of `Vector` in `scan`.
        unsafe { vector::<ROWS>(scan, grid, out) }
    }
}

#[inline(always)]
fn usual<D: Digits, const ROWS: bool>(place: &mut Scan<'_, D>, grid: Grid, out: &mut Vec<Change>) -> Option<bool> {
    let mut scan = *place;
    loop {
        let found = if ROWS { scan.usual_row() } else { scan.usual_pair() };
        let Some((price, quantity, more)) = found else {
            *place = scan;
            return Some(true);
        };
        if price.0.mantissa == 0 {
            return None;
        }
        let key = grid.key_of_decimal(price.0.mantissa, price.0.fraction);
        out.push(Change { key, quantity: quantity.value() });
        if !more {
            *place = scan;
            return Some(false);
        }
    }
}

/// Decode a message into `scratch`. `select` is called once with the symbol, before any level is read: it gives the
/// grid of its book, or `None` to go no further. `lenient` passes over unknown keys.
#[inline]
pub fn decode(
    format: Format,
    bytes: &[u8],
    lenient: bool,
    scratch: &mut Scratch,
    select: impl FnMut(&[u8]) -> Option<Grid>,
) -> Option<Message> {
    #[cfg(target_arch = "x86_64")]
    if let Some(vector) = Vector::detect() {
        // SAFETY: the CPU has the instructions, for there is a value of `Vector`.
        return unsafe { decode_vector(vector, format, bytes, lenient, scratch, select) };
    }
    decode_by(Scalar, format, bytes, lenient, scratch, select)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
fn decode_vector(
    digits: Vector,
    format: Format,
    bytes: &[u8],
    lenient: bool,
    scratch: &mut Scratch,
    select: impl FnMut(&[u8]) -> Option<Grid>,
) -> Option<Message> {
    decode_by(digits, format, bytes, lenient, scratch, select)
}

/// The decoder of every venue, by one kind of digits.
#[inline(always)]
pub fn decode_by<D: Levels>(
    digits: D,
    format: Format,
    bytes: &[u8],
    lenient: bool,
    scratch: &mut Scratch,
    select: impl FnMut(&[u8]) -> Option<Grid>,
) -> Option<Message> {
    scratch.clear();
    let scan = Scan::new(bytes, digits);
    match format {
        Format::BinanceSpot | Format::BinanceFutures => depth_binance::decode(scan, lenient, scratch, select),
        Format::Bybit => depth_bybit::decode(scan, lenient, scratch, select),
        Format::Kraken => depth_kraken::decode(scan, lenient, scratch, select),
        Format::KrakenV1 => depth_kraken::decode_v1(scan, scratch, select),
        Format::Gemini => depth_gemini::decode(scan, lenient, scratch, select),
        Format::Bitstamp => depth_bitstamp::decode(scan, bytes, lenient, scratch, select),
        Format::Coinbase => depth_coinbase::exchange(scan, lenient, scratch, select),
        Format::CoinbaseAdvanced => depth_coinbase::advanced(scan, lenient, scratch, select),
        Format::Okx => depth_okx::decode(scan, lenient, scratch, select),
    }
}

/// The grid of a book that messages may be applied to; `None` where Python decides.
#[inline(always)]
pub fn armed(book: &Book) -> Option<Grid> {
    (book.stage != Stage::Off).then(|| book.grid())
}

/// What became of a message that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The book contains it.
    Applied = 0,
    /// The same, and it is the first one behind a snapshot, which Python's builder has to be told.
    First = 2,
    /// Its levels are in the book, but ids and times are not: Python's builder has to look whether the book is good.
    Look = 1,
}

/// Judge a decoded message and apply it. Where the venue has no ids, the message gets its own.
#[inline]
pub fn advance(format: Format, book: &mut Book, message: &mut Message, scratch: &Scratch) -> Option<Outcome> {
    if !format.follows(book, message) {
        return None;
    }
    if format.counted() {
        message.first = book.last_id.checked_add(1)?;
        message.last = message.first;
    }
    book.apply(&scratch.bids, &scratch.asks);
    book.applied += 1;
    if !book.touch_ok() || book.applied.is_multiple_of(LOOK_EVERY) {
        return Some(Outcome::Look);
    }
    book.last_id = message.last;
    book.ts_event = message.ts_event;
    let before = std::mem::replace(&mut book.stage, Stage::Next);
    Some(if before == Stage::First { Outcome::First } else { Outcome::Applied })
}

#[cfg(test)]
#[path = "depth_tests.rs"]
mod tests;
