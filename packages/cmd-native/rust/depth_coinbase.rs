//! Coinbase's changes of books: `l2update` of Coinbase Exchange and `l2_data` of Advanced Trade.
//!
//! Neither has ids: a message follows the one before. Of two rows of one price in a message the later one counts. In
//! the first, time must not go back; in the second, frames of a connection are numbered, and `Scratch::number` says
//! which one this is.

use crate::book::{Change, Grid};
use crate::depth::{Keys, Levels, Message, Scratch, price_key, text_ahead};
use crate::scan::{Digits, Scan};

mod change {
    pub const TYPE: u32 = 1;
    pub const PRODUCT: u32 = 2;
    pub const CHANGES: u32 = 4;
    pub const TIME: u32 = 8;
    pub const UNKNOWN: u32 = 16;
    pub const NEEDED: u32 = TYPE | PRODUCT | CHANGES | TIME;
}

/// Decode one `l2update`; see `depth::decode`.
#[inline(always)]
pub fn exchange<D: Levels>(
    mut scan: Scan<'_, D>,
    lenient: bool,
    scratch: &mut Scratch,
    mut select: impl FnMut(&[u8]) -> Option<Grid>,
) -> Option<Message> {
    let mut seen = Keys::default();
    let mut grid = None;
    let (mut ts_event, mut kind_at) = (0, 0);
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        match key {
            b"type" => {
                seen.once(change::TYPE)?;
                kind_at = scan.at();
                if scan.string()? != b"l2update" {
                    return None;
                }
            }
            b"product_id" => {
                seen.once(change::PRODUCT)?;
                let product = scan.string()?;
                if grid.is_none() {
                    grid = Some(select(product)?);
                }
            }
            b"changes" => {
                seen.once(change::CHANGES)?;
                let grid = match grid {
                    Some(grid) => grid,
                    None => *grid.insert(select(text_ahead(scan, b"product_id")?)?),
                };
                changes(&mut scan, grid, scratch)?;
            }
            b"time" => {
                seen.once(change::TIME)?;
                ts_event = iso(scan.string()?)?;
            }
            _ => {
                seen.unknown(lenient, change::UNKNOWN)?;
                scan.skip()?;
            }
        }
        next = scan.next_key()?;
    }
    scan.done()?;
    seen.all(change::NEEDED)?;
    if seen.has(change::UNKNOWN) {
        first_of(&scan, b"\"type\"", kind_at)?;
    }
    scratch.unique()?;
    Some(Message { first: 0, last: 0, prev: None, ts_event })
}

/// Read `[["buy","price","quantity"],...]`.
#[inline(always)]
fn changes<D: Digits>(scan: &mut Scan<'_, D>, grid: Grid, scratch: &mut Scratch) -> Option<()> {
    let mut more = scan.first_item()?;
    while more {
        scan.expect(b'[')?;
        scan.space();
        let side = match scan.key()? {
            b"buy" => &mut scratch.bids,
            b"sell" => &mut scratch.asks,
            _ => return None,
        };
        scan.expect(b',')?;
        let price = scan.quoted()?;
        scan.expect(b',')?;
        let quantity = scan.quoted()?;
        scan.expect(b']')?;
        side.push(Change { key: price_key(grid, &price)?, quantity: quantity.value() });
        more = scan.next_item()?;
    }
    Some(())
}

/// Keys of a frame.
mod outer {
    pub const CHANNEL: u32 = 1;
    pub const CLIENT: u32 = 2;
    pub const SENT: u32 = 4;
    pub const NUMBER: u32 = 8;
    pub const EVENTS: u32 = 16;
    pub const UNKNOWN: u32 = 32;
    pub const NEEDED: u32 = CHANNEL | SENT | NUMBER | EVENTS;
}

/// Keys of its event.
mod inner {
    pub const TYPE: u32 = 1;
    pub const PRODUCT: u32 = 2;
    pub const UPDATES: u32 = 4;
    pub const NEEDED: u32 = TYPE | PRODUCT | UPDATES;
}

/// Keys of a row.
mod row {
    pub const SIDE: u32 = 1;
    pub const TIME: u32 = 2;
    pub const PRICE: u32 = 4;
    pub const QUANTITY: u32 = 8;
    pub const NEEDED: u32 = SIDE | TIME | PRICE | QUANTITY;
}

/// Decode one `l2_data` frame with one `update` that changes something; see `depth::decode`.
#[inline(always)]
pub fn advanced<D: Levels>(
    mut scan: Scan<'_, D>,
    lenient: bool,
    scratch: &mut Scratch,
    mut select: impl FnMut(&[u8]) -> Option<Grid>,
) -> Option<Message> {
    let mut keys = Keys::default();
    let (mut ts_event, mut channel_at) = (0, 0);
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        match key {
            b"channel" => {
                keys.once(outer::CHANNEL)?;
                channel_at = scan.at();
                if scan.string()? != b"l2_data" {
                    return None;
                }
            }
            b"client_id" => {
                keys.once(outer::CLIENT)?;
                scan.string()?;
            }
            b"timestamp" => {
                keys.once(outer::SENT)?;
                scan.string()?;
            }
            b"sequence_num" => {
                keys.once(outer::NUMBER)?;
                scratch.number = scan.uint()?;
            }
            b"events" => {
                keys.once(outer::EVENTS)?;
                if !scan.first_item()? {
                    return None;
                }
                let mut grid = None;
                let mut within = Keys::default();
                let mut next = scan.first_key()?;
                while let Some(key) = next {
                    match key {
                        b"type" => {
                            within.once(inner::TYPE)?;
                            if scan.string()? != b"update" {
                                return None;
                            }
                        }
                        b"product_id" => {
                            within.once(inner::PRODUCT)?;
                            let product = scan.string()?;
                            if grid.is_none() {
                                grid = Some(select(product)?);
                            }
                        }
                        b"updates" => {
                            within.once(inner::UPDATES)?;
                            let grid = match grid {
                                Some(grid) => grid,
                                None => *grid.insert(select(text_ahead(scan, b"product_id")?)?),
                            };
                            ts_event = rows(&mut scan, lenient, &mut keys, grid, scratch)?;
                        }
                        _ => {
                            keys.unknown(lenient, outer::UNKNOWN)?;
                            scan.skip()?;
                        }
                    }
                    next = scan.next_key()?;
                }
                within.all(inner::NEEDED)?;
                if scan.next_item()? {
                    return None; // several products
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
    if keys.has(outer::UNKNOWN) {
        first_of(&scan, b"\"channel\"", channel_at)?;
    }
    scratch.unique()?;
    Some(Message { first: 0, last: 0, prev: None, ts_event })
}

/// Read the rows of an update, of which there is one at least: the time of the newest one.
#[inline(always)]
fn rows<D: Digits>(
    scan: &mut Scan<'_, D>,
    lenient: bool,
    keys: &mut Keys,
    grid: Grid,
    scratch: &mut Scratch,
) -> Option<i64> {
    let (mut newest, mut before): (i64, &[u8]) = (0, &[]);
    if !scan.first_item()? {
        return None;
    }
    loop {
        let mut within = Keys::default();
        let mut bid = false;
        let (mut key_of_price, mut quantity) = (None, 0.0);
        let mut next = scan.first_key()?;
        while let Some(key) = next {
            match key {
                b"side" => {
                    within.once(row::SIDE)?;
                    bid = match scan.key()? {
                        b"bid" => true,
                        b"offer" | b"ask" => false,
                        _ => return None,
                    };
                }
                b"event_time" => {
                    within.once(row::TIME)?;
                    let text = scan.string()?;
                    if text != before {
                        newest = newest.max(iso(text)?);
                        before = text;
                    }
                }
                b"price_level" => {
                    within.once(row::PRICE)?;
                    key_of_price = Some(price_key(grid, &scan.quoted()?)?);
                }
                b"new_quantity" => {
                    within.once(row::QUANTITY)?;
                    quantity = scan.quoted()?.value();
                }
                _ => {
                    keys.unknown(lenient, outer::UNKNOWN)?;
                    scan.skip()?;
                }
            }
            next = scan.next_key()?;
        }
        within.all(row::NEEDED)?;
        let side = if bid { &mut scratch.bids } else { &mut scratch.asks };
        side.push(Change { key: key_of_price?, quantity });
        if !scan.next_item()? {
            return (newest > 0).then_some(newest);
        }
    }
}

/// Demand that the first such text in the message is the key of the value at `value_at`: Python looks for it.
#[cold]
fn first_of<D: Digits>(scan: &Scan<'_, D>, key: &[u8], value_at: usize) -> Option<()> {
    let end = scan.find(key)? + key.len();
    let between = scan.since(end).get(..value_at.checked_sub(end)?)?;
    between.iter().all(|byte| b": \t\r\n".contains(byte)).then_some(())
}

/// A time such as `2026-08-24T22:34:13.793075885Z`, of 1971 to 2261, as ns since 1970, UTC.
#[inline(always)]
fn iso(text: &[u8]) -> Option<i64> {
    let (whole, rest) = text.split_first_chunk::<19>()?;
    let number = |from: usize, to: usize| {
        whole[from..to].iter().try_fold(0_i64, |value, byte| {
            let digit = byte.wrapping_sub(b'0');
            (digit < 10).then(|| value * 10 + i64::from(digit))
        })
    };
    if [whole[4], whole[7], whole[10], whole[13], whole[16]] != *b"--T::" {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1971..=2261).contains(&year) || !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let digits = match rest.strip_suffix(b"Z")? {
        [] => &[][..],
        [b'.', digits @ ..] if (1..=9).contains(&digits.len()) => digits,
        _ => return None,
    };
    let mut fraction = 0;
    for at in 0..9 {
        let digit = digits.get(at).copied().unwrap_or(b'0').wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        fraction = fraction * 10 + i64::from(digit);
    }
    // A year begins in March here, so that the day that only some years have is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::iso;

    #[test]
    fn times_are_read_to_the_nanosecond() {
        for (text, ns) in [
            ("1971-01-01T00:00:00Z", 31_536_000_000_000_000),
            ("2026-08-24T22:34:13.793075885Z", 1_787_610_853_793_075_885),
            ("2024-02-29T23:59:59.5Z", 1_709_251_199_500_000_000),
            ("2000-02-29T00:00:00.000001Z", 951_782_400_000_001_000),
            ("2261-12-31T23:59:59.999999999Z", 9_214_646_399_999_999_999),
        ] {
            assert_eq!(iso(text.as_bytes()), Some(ns), "{text}");
        }
        for text in [
            "",
            "2026-08-24T22:34:13",
            "2026-08-24T22:34:13.Z",
            "2026-08-24T22:34:13.1234567890Z",
            "2026-08-24 22:34:13Z",
            "2026-08-24T22:34:13+00:00",
            "2026-08-24T22:34:13.12z",
            "2026-13-24T22:34:13Z",
            "2026-02-29T22:34:13Z",
            "2100-02-29T22:34:13Z",
            "2026-00-10T22:34:13Z",
            "2026-01-00T22:34:13Z",
            "2026-01-10T24:34:13Z",
            "2026-01-10T22:60:13Z",
            "2026-01-10T22:34:60Z",
            "2026-01-10T22:34:1:Z",
            "2026-01-10T22:34:13.1/Z",
            "0001-01-01T00:00:00.000000Z",
            "1970-01-01T00:00:00Z",
            "2262-01-01T00:00:00Z",
        ] {
            assert_eq!(iso(text.as_bytes()), None, "{text}");
        }
    }
}
