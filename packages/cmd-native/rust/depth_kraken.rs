//! Kraken's updates of books: `book` of API v2, whose numbers stand bare, and v1's arrays. Their texts are kept for the
//! checksum (`checked_book.rs`). Snapshots, and messages of more than one symbol, are for the way in Python.

use crate::book::{Change, Grid};
use crate::checked_book::{Level, Text};
use crate::depth::{Keys, Levels, Message, Scratch, price_key};
use crate::scan::{Digits, Number, Scan};

/// Seconds that still fit as ns.
const LAST: i64 = 9_223_372_035;
const SECOND: i64 = 1_000_000_000;

/// Keys of a v2 message.
mod outer {
    pub const CHANNEL: u32 = 1;
    pub const TYPE: u32 = 2;
    pub const DATA: u32 = 4;
    pub const TIME: u32 = 8;
    pub const UNKNOWN: u32 = 16;
    pub const NEEDED: u32 = CHANNEL | TYPE | DATA;
}

/// Keys of its row, and of a v1 part.
mod inner {
    pub const SYMBOL: u32 = 1;
    pub const BIDS: u32 = 2;
    pub const ASKS: u32 = 4;
    pub const CHECKSUM: u32 = 8;
    pub const TIME: u32 = 16;
    pub const UNKNOWN: u32 = 32;
    pub const NEEDED: u32 = SYMBOL | CHECKSUM;
}

fn message(ts_event: i64) -> Message {
    // The venue has no ids: whoever has the book counts.
    Message { first: 0, last: 0, prev: None, ts_event }
}

/// A number and its digits.
#[inline(always)]
fn number<'a, D: Digits>(scan: &mut Scan<'a, D>, text: &mut Text) -> Option<Number<'a>> {
    let at = scan.at();
    let number = scan.number()?;
    text.push(number.text, scan.chunk(at))?;
    Some(number)
}

#[inline(always)]
fn push(
    price: &Number,
    quantity: &Number,
    text: Text,
    grid: Grid,
    side: (&mut Vec<Change>, &mut Vec<Level>),
) -> Option<()> {
    let quantity = quantity.value();
    side.0.push(Change { key: price_key(grid, price)?, quantity });
    side.1.push(Level { price: price.value(), quantity, text });
    Some(())
}

/// Read `[{"price":1.5,"qty":2},...]`.
#[inline(always)]
fn objects<D: Digits>(
    scan: &mut Scan<'_, D>,
    lenient: bool,
    grid: Grid,
    side: (&mut Vec<Change>, &mut Vec<Level>),
) -> Option<()> {
    if !scan.first_item()? {
        return Some(());
    }
    loop {
        let start = *scan;
        let mut text = Text::default();
        let (price, quantity) = match usual(scan, &mut text) {
            Some(found) => found,
            None => {
                *scan = start;
                text = Text::default();
                object(scan, lenient, &mut text)?
            }
        };
        push(&price, &quantity, text, grid, (&mut *side.0, &mut *side.1))?;
        if !scan.next_item()? {
            return Some(());
        }
    }
}

#[inline(always)]
fn usual<'a, D: Digits>(scan: &mut Scan<'a, D>, text: &mut Text) -> Option<(Number<'a>, Number<'a>)> {
    scan.word(b"{\"price\":")?;
    let price = number(scan, text)?;
    scan.word(b",\"qty\":")?;
    let quantity = number(scan, text)?;
    scan.word(b"}")?;
    Some((price, quantity))
}

/// A level in any other form.
#[cold]
#[inline(never)]
fn object<'a, D: Digits>(scan: &mut Scan<'a, D>, lenient: bool, text: &mut Text) -> Option<(Number<'a>, Number<'a>)> {
    let (mut price, mut quantity) = (None, None);
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        match key {
            b"price" if price.is_none() => price = Some(scan.number()?),
            b"qty" if quantity.is_none() => quantity = Some(scan.number()?),
            b"price" | b"qty" => return None,
            _ if lenient => scan.skip()?,
            _ => return None,
        }
        next = scan.next_key()?;
    }
    let (price, quantity) = (price?, quantity?);
    text.push(price.text, None)?;
    text.push(quantity.text, None)?;
    Some((price, quantity))
}

/// Decode one message of v2; see `depth::decode`.
#[inline(always)]
pub fn decode<D: Levels>(
    mut scan: Scan<'_, D>,
    lenient: bool,
    scratch: &mut Scratch,
    mut select: impl FnMut(&[u8]) -> Option<Grid>,
) -> Option<Message> {
    let mut keys = Keys::default();
    let (mut row_time, mut time): (&[u8], &[u8]) = (&[], &[]);
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        match key {
            b"channel" => {
                keys.once(outer::CHANNEL)?;
                if scan.string()? != b"book" {
                    return None;
                }
            }
            b"type" => {
                keys.once(outer::TYPE)?;
                if scan.string()? != b"update" {
                    return None;
                }
            }
            b"timestamp" => {
                keys.once(outer::TIME)?;
                time = scan.string()?;
            }
            b"data" => {
                keys.once(outer::DATA)?;
                if !scan.first_item()? {
                    return None;
                }
                row_time = row(&mut scan, lenient, scratch, &mut select)?;
                if scan.next_item()? {
                    return None;
                }
            }
            _ => {
                keys.unknown(lenient, outer::UNKNOWN)?;
                scan.skip()?;
            }
        }
        next = scan.next_key()?;
    }
    scan.done()?;
    keys.all(outer::NEEDED)?;
    if keys.has(outer::UNKNOWN) && scan.find(b"{\"channel\":\"book\"")? != 0 {
        return None; // Python would look for the keys of a reply first
    }
    iso(if row_time.is_empty() { time } else { row_time }).map(message)
}

/// The row of a message; returns its time.
#[inline(always)]
fn row<'a, D: Levels>(
    scan: &mut Scan<'a, D>,
    lenient: bool,
    scratch: &mut Scratch,
    mut select: impl FnMut(&[u8]) -> Option<Grid>,
) -> Option<&'a [u8]> {
    let mut keys = Keys::default();
    let mut grid = None;
    let mut time: &[u8] = &[];
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        match key {
            b"symbol" => {
                keys.once(inner::SYMBOL)?;
                let symbol = scan.string()?;
                if grid.is_none() {
                    grid = Some(select(symbol)?);
                }
            }
            b"bids" | b"asks" => {
                let bids = key == b"bids";
                keys.once(if bids { inner::BIDS } else { inner::ASKS })?;
                let grid = match grid {
                    Some(grid) => grid,
                    None => *grid.insert(select(symbol_ahead(*scan)?)?),
                };
                let [bid_levels, ask_levels] = &mut scratch.levels;
                let side = if bids { (&mut scratch.bids, bid_levels) } else { (&mut scratch.asks, ask_levels) };
                objects(scan, lenient, grid, side)?;
            }
            b"checksum" => {
                keys.once(inner::CHECKSUM)?;
                scratch.checksum = Some(u32::try_from(scan.uint()?).ok()?);
            }
            b"timestamp" => {
                keys.once(inner::TIME)?;
                time = scan.string()?;
            }
            _ => {
                keys.unknown(lenient, inner::UNKNOWN)?;
                scan.skip()?;
            }
        }
        next = scan.next_key()?;
    }
    keys.all(inner::NEEDED)?;
    Some(time)
}

/// The symbol, where the levels come before it: `scan` is at a value within the row.
#[cold]
#[inline(never)]
fn symbol_ahead<'a, D: Digits>(mut scan: Scan<'a, D>) -> Option<&'a [u8]> {
    loop {
        scan.skip()?;
        scan.expect(b',')?;
        let key = scan.key()?;
        scan.expect(b':')?;
        scan.space();
        if key == b"symbol" {
            return scan.string();
        }
    }
}

/// Decode one message of v1, `[id, {"b":[["price","volume","time"],...],"c":"checksum"}, "book-1000", "XBT/USD"]`; an
/// update of both sides may come as two objects. Books are added by the name of the pair in v1.
#[inline(always)]
pub fn decode_v1<D: Levels>(
    mut scan: Scan<'_, D>,
    scratch: &mut Scratch,
    mut select: impl FnMut(&[u8]) -> Option<Grid>,
) -> Option<Message> {
    let guess = scan.last_text()?; // the pair comes last, but its grid is needed first
    let grid = select(guess)?;
    if !scan.first_item()? {
        return None;
    }
    scan.skip()?;
    let mut newest = 0;
    let mut keys = Keys::default();
    let mut parts = 0;
    loop {
        if !scan.next_item()? {
            return None;
        }
        if scan.peek() != b'{' {
            break;
        }
        parts += 1;
        part(&mut scan, grid, scratch, &mut keys, &mut newest)?;
    }
    let name = scan.string()?;
    let named = match name.strip_prefix(b"book")? {
        [] => true,
        [b'-', depth @ ..] => (1..10).contains(&depth.len()) && depth.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !named || parts == 0 || !scan.next_item()? || scan.string()? != guess || scan.next_item()? {
        return None;
    }
    scan.done()?;
    (newest > 0).then_some(message(newest)) // without a level Python takes another time
}

/// One object of a v1 message.
#[inline(always)]
fn part<D: Digits>(
    scan: &mut Scan<'_, D>,
    grid: Grid,
    scratch: &mut Scratch,
    keys: &mut Keys,
    newest: &mut i64,
) -> Option<()> {
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        match key {
            b"a" | b"b" => {
                let bids = key == b"b";
                keys.once(if bids { inner::BIDS } else { inner::ASKS })?;
                let [bid_levels, ask_levels] = &mut scratch.levels;
                let side = if bids { (&mut scratch.bids, bid_levels) } else { (&mut scratch.asks, ask_levels) };
                arrays(scan, grid, side, newest)?;
            }
            b"c" => {
                keys.once(inner::CHECKSUM)?;
                let text = scan.string()?;
                if !(1..11).contains(&text.len()) {
                    return None;
                }
                scratch.checksum = Some(u32::try_from(digits(text)?).ok()?);
            }
            _ => return None,
        }
        next = scan.next_key()?;
    }
    Some(())
}

/// Read `[["price","volume","time"],...]`, where one that is sent again has another text behind it.
#[inline(always)]
fn arrays<D: Digits>(
    scan: &mut Scan<'_, D>,
    grid: Grid,
    side: (&mut Vec<Change>, &mut Vec<Level>),
    newest: &mut i64,
) -> Option<()> {
    if !scan.first_item()? {
        return Some(());
    }
    loop {
        let mut text = Text::default();
        scan.expect(b'[')?;
        let price = quoted(scan, &mut text)?;
        scan.expect(b',')?;
        let quantity = quoted(scan, &mut text)?;
        scan.expect(b',')?;
        *newest = (*newest).max(seconds(scan.string()?)?);
        if scan.next_item()? {
            scan.string()?;
            scan.expect(b']')?;
        }
        push(&price, &quantity, text, grid, (&mut *side.0, &mut *side.1))?;
        if !scan.next_item()? {
            return Some(());
        }
    }
}

#[inline(always)]
fn quoted<'a, D: Digits>(scan: &mut Scan<'a, D>, text: &mut Text) -> Option<Number<'a>> {
    scan.expect(b'"')?;
    let number = number(scan, text)?;
    scan.word(b"\"")?;
    Some(number)
}

/// An unsigned integer of at most 18 digits.
#[inline(always)]
fn digits(text: &[u8]) -> Option<i64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.iter().try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

/// The ns of a fraction of a second, of 1 to 9 digits.
#[inline(always)]
fn fraction(text: &[u8]) -> Option<i64> {
    if text.len() > 9 {
        return None;
    }
    Some(digits(text)? * 10_i64.pow(9 - text.len() as u32))
}

/// The ns of decimal seconds.
#[inline(always)]
fn seconds(text: &[u8]) -> Option<i64> {
    let dot = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let whole = digits(text.get(..dot)?).filter(|whole| *whole <= LAST)?;
    let rest = match text.get(dot + 1..) {
        Some(rest) => fraction(rest)?,
        None => 0,
    };
    Some(whole * SECOND + rest)
}

/// The ns of `2026-08-24T22:21:57.110183Z`, UTC with at most 9 places, from 1970 on.
#[inline(always)]
fn iso(text: &[u8]) -> Option<i64> {
    let (date, rest) = text.split_first_chunk::<19>()?;
    for (at, byte) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        if date[at] != byte {
            return None;
        }
    }
    let [year, month, day] = [digits(&date[..4])?, digits(&date[5..7])?, digits(&date[8..10])?];
    let [hour, minute, second] = [digits(&date[11..13])?, digits(&date[14..16])?, digits(&date[17..])?];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let usual = (1970..2262).contains(&year) && (1..=days).contains(&day) && hour < 24 && minute < 60 && second < 60;
    if !usual {
        return None;
    }
    let rest = match rest.strip_suffix(b"Z")? {
        [] => 0,
        [b'.', places @ ..] => fraction(places)?,
        _ => return None,
    };
    // Years begin in March here, so that the day that is sometimes there is the last one.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day = years * 365 + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day - 1 - 719_468;
    Some((((day * 24 + hour) * 60 + minute) * 60 + second) * SECOND + rest)
}
