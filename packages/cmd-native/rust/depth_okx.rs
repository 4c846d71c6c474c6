//! OKX's `books` of action `update`. Snapshots, keepalives, resets of the ids, messages without ids and those with a
//! checksum (the exchange sends 0 since 2026) are for the way in Python.

use crate::book::Grid;
use crate::depth::{Keys, Levels, Message, Scratch, rows};
use crate::scan::{Digits, Scan};

/// Times (ms) are below it, so that they fit as ns.
const LATEST: i64 = 9_200_000_000_000;
/// Names that Python takes are no longer.
const NAME: usize = 80;
/// How Python finds channel, instrument and data.
const CHANNEL: &[u8] = b"\"channel\":\"";
const INSTRUMENT: &[u8] = b"\"instId\":\"";
const DATA: &[u8] = b"\"data\":";

/// Keys of the message.
mod outer {
    pub const ARG: u32 = 1;
    pub const ACTION: u32 = 2;
    pub const DATA: u32 = 4;
    pub const UNKNOWN: u32 = 8;
    pub const NEEDED: u32 = ARG | ACTION | DATA;
}

/// Keys of its `arg`.
mod arg {
    pub const CHANNEL: u32 = 1;
    pub const INSTRUMENT: u32 = 2;
    pub const TYPE: u32 = 4;
    pub const FAMILY: u32 = 8;
    pub const USER: u32 = 16;
    pub const NEEDED: u32 = CHANNEL | INSTRUMENT;
}

/// Keys of its `data`.
mod inner {
    pub const ASKS: u32 = 1;
    pub const BIDS: u32 = 2;
    pub const TIME: u32 = 4;
    pub const CHECKSUM: u32 = 8;
    pub const ID: u32 = 16;
    pub const PREVIOUS: u32 = 32;
    pub const NEEDED: u32 = ASKS | BIDS | TIME | ID | PREVIOUS;
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
    let (mut channel_at, mut instrument_at) = (0, 0);
    let (mut time, mut id, mut previous) = (0, 0, 0);
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        match key {
            b"arg" => {
                keys.once(outer::ARG)?;
                let mut within = Keys::default();
                let mut next = scan.first_key()?;
                while let Some(key) = next {
                    match key {
                        b"channel" => {
                            within.once(arg::CHANNEL)?;
                            channel_at = (scan.at() + 1).checked_sub(CHANNEL.len())?;
                            if scan.string()? != b"books" || !scan.since(channel_at).starts_with(CHANNEL) {
                                return None;
                            }
                        }
                        b"instId" => {
                            within.once(arg::INSTRUMENT)?;
                            instrument_at = (scan.at() + 1).checked_sub(INSTRUMENT.len())?;
                            let symbol = scan.string()?;
                            if symbol.len() > NAME || !scan.since(instrument_at).starts_with(INSTRUMENT) {
                                return None;
                            }
                            if grid.is_none() {
                                grid = Some(select(symbol)?);
                            }
                        }
                        b"instType" => {
                            within.once(arg::TYPE)?;
                            scan.string()?;
                        }
                        b"instFamily" => {
                            within.once(arg::FAMILY)?;
                            scan.string()?;
                        }
                        b"uid" => {
                            within.once(arg::USER)?;
                            scan.string()?;
                        }
                        _ => {
                            keys.unknown(lenient, outer::UNKNOWN)?;
                            scan.skip()?;
                        }
                    }
                    next = scan.next_key()?;
                }
                within.all(arg::NEEDED)?;
            }
            b"action" => {
                keys.once(outer::ACTION)?;
                if scan.string()? != b"update" {
                    return None;
                }
            }
            b"data" => {
                keys.once(outer::DATA)?;
                if scan.since(scan.at().checked_sub(DATA.len())?) != DATA {
                    return None;
                }
                let grid = match grid {
                    Some(grid) => grid,
                    None => *grid.insert(select(instrument_ahead(scan)?)?),
                };
                if !scan.first_item()? {
                    return None;
                }
                let mut within = Keys::default();
                let mut next = scan.first_key()?;
                while let Some(key) = next {
                    match key {
                        b"asks" => {
                            within.once(inner::ASKS)?;
                            rows(&mut scan, grid, &mut scratch.asks)?;
                        }
                        b"bids" => {
                            within.once(inner::BIDS)?;
                            rows(&mut scan, grid, &mut scratch.bids)?;
                        }
                        b"ts" => {
                            within.once(inner::TIME)?;
                            time = stamp(&mut scan)?;
                        }
                        b"checksum" => {
                            within.once(inner::CHECKSUM)?;
                            if scan.uint()? != 0 {
                                return None;
                            }
                        }
                        b"seqId" => {
                            within.once(inner::ID)?;
                            id = scan.uint()?;
                        }
                        b"prevSeqId" => {
                            within.once(inner::PREVIOUS)?;
                            previous = scan.uint()?;
                        }
                        // Known, but not in this channel: Python would look for the instrument here, too.
                        b"instId" => return None,
                        _ => {
                            keys.unknown(lenient, outer::UNKNOWN)?;
                            scan.skip()?;
                        }
                    }
                    next = scan.next_key()?;
                }
                within.all(inner::NEEDED)?;
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
    if id <= previous {
        return None; // a keepalive, or the ids begin anew
    }
    if keys.has(outer::UNKNOWN) && (scan.find(CHANNEL)? != channel_at || scan.find(INSTRUMENT)? != instrument_at) {
        return None; // Python would take another text for the channel or the instrument
    }
    Some(Message { first: previous + 1, last: id, prev: Some(previous), ts_event: time * 1_000_000 })
}

/// A time in ms, which the exchange sends as a text.
#[inline(always)]
fn stamp<D: Digits>(scan: &mut Scan<'_, D>) -> Option<i64> {
    let quoted = scan.peek() == b'"';
    if quoted {
        scan.expect(b'"')?;
    }
    let time = scan.uint().filter(|time| (1..LATEST).contains(time))?;
    if quoted {
        if scan.peek() != b'"' {
            return None;
        }
        scan.expect(b'"')?;
    }
    Some(time)
}

/// The instrument, where the levels come before it: `scan` is at the value of `data`.
#[cold]
#[inline(never)]
fn instrument_ahead<'a, D: Digits>(mut scan: Scan<'a, D>) -> Option<&'a [u8]> {
    loop {
        scan.skip()?;
        scan.expect(b',')?;
        let key = scan.key()?;
        scan.expect(b':')?;
        if key == b"arg" {
            break;
        }
    }
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        if key == b"instId" {
            return scan.string();
        }
        scan.skip()?;
        next = scan.next_key()?;
    }
    None
}
