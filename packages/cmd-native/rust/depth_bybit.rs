//! Bybit's `orderbook.DEPTH.SYMBOL` of type `delta`. Books are told apart by the whole topic, for a feed may have two
//! of a symbol. Snapshots, and the id with which the service begins anew, are for the way in Python.

use crate::book::Grid;
use crate::depth::{Keys, Levels, Message, Scratch, levels};
use crate::scan::{Digits, Scan};

/// Times (ms) are below it, so that they fit as ns.
const LATEST: i64 = 9_200_000_000_000;
/// The update id with which the service begins anew: a whole book, whatever the type says.
const RESTART: i64 = 1;
/// How Python finds the topic.
const TOPIC: &[u8] = b"\"topic\":\"";

/// Keys of the message.
mod outer {
    pub const TOPIC: u32 = 1;
    pub const TYPE: u32 = 2;
    pub const SENT: u32 = 4;
    pub const DATA: u32 = 8;
    pub const MADE: u32 = 16;
    pub const UNKNOWN: u32 = 32;
    pub const NEEDED: u32 = TOPIC | TYPE | SENT | DATA;
}

/// Keys of its `data`.
mod inner {
    pub const SYMBOL: u32 = 1;
    pub const BIDS: u32 = 2;
    pub const ASKS: u32 = 4;
    pub const ID: u32 = 8;
    pub const ENGINE: u32 = 16;
    pub const NEEDED: u32 = SYMBOL | BIDS | ASKS | ID;
}

/// Decode one message; see `depth::decode`.
#[inline(always)]
pub fn decode<D: Levels>(
    mut scan: Scan<'_, D>,
    lenient: bool,
    scratch: &mut Scratch,
    mut select: impl FnMut(&[u8]) -> Option<Grid>,
) -> Option<Message> {
    let mut keys = Keys::default();
    let mut grid = None;
    let (mut topic, mut symbol): (&[u8], &[u8]) = (&[], &[]);
    let mut topic_at = 0;
    let (mut sent, mut made, mut id) = (0, 0, 0);
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        match key {
            b"topic" => {
                keys.once(outer::TOPIC)?;
                topic_at = (scan.at() + 1).checked_sub(TOPIC.len())?;
                topic = scan.string()?;
                if !scan.since(topic_at).starts_with(TOPIC) {
                    return None;
                }
                if grid.is_none() {
                    grid = Some(select(topic)?);
                }
            }
            b"type" => {
                keys.once(outer::TYPE)?;
                if scan.string()? != b"delta" {
                    return None;
                }
            }
            b"ts" => {
                keys.once(outer::SENT)?;
                sent = scan.uint().filter(|time| (1..LATEST).contains(time))?;
            }
            b"cts" => {
                keys.once(outer::MADE)?;
                made = scan.uint().filter(|time| *time < LATEST)?;
            }
            b"data" => {
                keys.once(outer::DATA)?;
                let grid = match grid {
                    Some(grid) => grid,
                    None => *grid.insert(select(topic_ahead(scan)?)?),
                };
                let mut within = Keys::default();
                let mut next = scan.first_key()?;
                while let Some(key) = next {
                    match key {
                        b"s" => {
                            within.once(inner::SYMBOL)?;
                            symbol = scan.string()?;
                        }
                        b"b" => {
                            within.once(inner::BIDS)?;
                            levels(&mut scan, grid, &mut scratch.bids)?;
                        }
                        b"a" => {
                            within.once(inner::ASKS)?;
                            levels(&mut scan, grid, &mut scratch.asks)?;
                        }
                        b"u" => {
                            within.once(inner::ID)?;
                            id = scan.uint()?;
                        }
                        b"seq" => {
                            within.once(inner::ENGINE)?;
                            scan.uint()?;
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
    if id == RESTART || symbol_of(topic)? != symbol {
        return None;
    }
    if keys.has(outer::UNKNOWN) && scan.find(TOPIC)? != topic_at {
        return None; // Python would take another text for the topic
    }
    let ts_event = if made > 0 { made } else { sent } * 1_000_000;
    Some(Message { first: id, last: id, prev: None, ts_event })
}

/// The symbol of `orderbook.DEPTH.SYMBOL`.
#[inline(always)]
fn symbol_of(topic: &[u8]) -> Option<&[u8]> {
    let rest = topic.strip_prefix(b"orderbook.")?;
    let dot = rest.iter().position(|byte| *byte == b'.')?;
    rest.get(dot + 1..)
}

/// The topic, where the levels come before it: `scan` is at the value of `data`.
#[cold]
#[inline(never)]
fn topic_ahead<'a, D: Digits>(mut scan: Scan<'a, D>) -> Option<&'a [u8]> {
    loop {
        scan.skip()?;
        scan.expect(b',')?;
        let key = scan.key()?;
        scan.expect(b':')?;
        if key == b"topic" {
            return scan.string();
        }
    }
}
