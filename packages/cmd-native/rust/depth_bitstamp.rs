//! Bitstamp's `data` of `diff_order_book_PAIR`. Books are told apart by the whole channel, which comes behind the
//! levels.

use crate::book::Grid;
use crate::depth::{Keys, Levels, Message, Scratch, levels, text_ahead};
use crate::scan::{Digits, Scan};

/// Times (us) are below it, so that they fit as ns.
const LATEST: u64 = 9_200_000_000_000_000;
/// How messages end.
const END: &[u8] = b"\",\"event\":\"data\"}";
const CHANNEL: &[u8] = b"\"channel\":\"";
/// Names of channels are usually shorter.
const NAME: usize = 64;
/// The longest time in seconds that Python takes.
const SECONDS: usize = 128;

/// Keys of the message.
mod outer {
    pub const DATA: u32 = 1;
    pub const CHANNEL: u32 = 2;
    pub const EVENT: u32 = 4;
    pub const UNKNOWN: u32 = 8;
    pub const NEEDED: u32 = DATA | CHANNEL | EVENT;
}

/// Keys of its `data`.
mod inner {
    pub const MICROS: u32 = 1;
    pub const BIDS: u32 = 2;
    pub const ASKS: u32 = 4;
    pub const SECONDS: u32 = 8;
    pub const NEEDED: u32 = MICROS | BIDS | ASKS;
}

/// Decode one message, whose bytes `scan` is at the beginning of; see `depth::decode`.
#[inline(always)]
pub fn decode<D: Levels>(
    mut scan: Scan<'_, D>,
    bytes: &[u8],
    lenient: bool,
    scratch: &mut Scratch,
    mut select: impl FnMut(&[u8]) -> Option<Grid>,
) -> Option<Message> {
    let mut keys = Keys::default();
    let (mut chosen, mut channel): (&[u8], &[u8]) = (&[], &[]);
    let mut grid = None;
    let mut micros = 0;
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        match key {
            b"event" => {
                keys.once(outer::EVENT)?;
                if scan.string()? != b"data" {
                    return None;
                }
            }
            b"channel" => {
                keys.once(outer::CHANNEL)?;
                channel = scan.string()?;
                if grid.is_none() {
                    chosen = channel;
                    grid = Some(select(channel)?);
                }
            }
            b"data" => {
                keys.once(outer::DATA)?;
                let grid = match grid {
                    Some(grid) => grid,
                    None => {
                        // What stands at the end may be anything, so it is compared with the channel in the end.
                        chosen = match at_the_end(bytes) {
                            Some(name) => name,
                            None => text_ahead(scan, b"channel")?,
                        };
                        *grid.insert(select(chosen)?)
                    }
                };
                let mut within = Keys::default();
                let mut next = scan.first_key()?;
                while let Some(key) = next {
                    match key {
                        b"timestamp" => {
                            within.once(inner::SECONDS)?;
                            scan.string().filter(|text| text.len() <= SECONDS)?;
                        }
                        b"microtimestamp" => {
                            within.once(inner::MICROS)?;
                            micros = time(&mut scan)?;
                        }
                        b"bids" => {
                            within.once(inner::BIDS)?;
                            levels(&mut scan, grid, &mut scratch.bids)?;
                        }
                        b"asks" => {
                            within.once(inner::ASKS)?;
                            levels(&mut scan, grid, &mut scratch.asks)?;
                        }
                        _ => {
                            keys.unknown(lenient, outer::UNKNOWN)?;
                            scan.skip()?;
                        }
                    }
                    next = scan.next_key()?;
                }
                within.all(inner::NEEDED)?;
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
    if chosen != channel {
        return None;
    }
    Some(Message { first: micros, last: micros, prev: None, ts_event: micros * 1000 })
}

/// A time in microseconds, in quotes.
#[inline(always)]
fn time<D: Digits>(scan: &mut Scan<'_, D>) -> Option<i64> {
    let number = scan.quoted()?;
    let micros = number.decimal.mantissa;
    (!number.text.contains(&b'.') && (1..LATEST).contains(&micros)).then_some(micros as i64)
}

/// What is the channel of a message that ends as most do.
#[inline(always)]
fn at_the_end(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_suffix(END)?;
    let near = &rest[rest.len().saturating_sub(NAME)..];
    let start = rest.len() - near.len() + near.iter().rposition(|byte| *byte == b'"')? + 1;
    rest[..start].ends_with(CHANNEL).then(|| &rest[start..])
}
