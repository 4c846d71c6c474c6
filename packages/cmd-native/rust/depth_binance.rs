//! Binance's `depthUpdate`, bare or as `data` of a combined stream; spot and futures differ in `T` and `pu` only.

use crate::book::Grid;
use crate::depth::{Levels, Message, Scratch, levels};
use crate::scan::{Digits, Scan};

/// From here on a time is in microseconds, below in milliseconds: as either, it fits as ns.
pub(crate) const MICRO: i64 = 9_200_000_000_000;
/// Times are below it, so that they fit as ns.
pub(crate) const LATEST: i64 = 9_200_000_000_000_000;

/// Keys that came, one bit each: a key that comes twice is for the way in Python.
#[derive(Default)]
struct Seen(u32);

impl Seen {
    const EVENT: u32 = 1;
    const SENT: u32 = 2;
    const TIME: u32 = 4;
    const SYMBOL: u32 = 8;
    const FIRST: u32 = 16;
    const LAST: u32 = 32;
    const PREVIOUS: u32 = 64;
    const BIDS: u32 = 128;
    const ASKS: u32 = 256;
    const PAIR: u32 = 512;
    const STATE: u32 = 1024;
    const UNKNOWN: u32 = 2048;
    /// Without these it is no depth event.
    const NEEDED: u32 = Seen::EVENT | Seen::SENT | Seen::SYMBOL | Seen::FIRST | Seen::LAST | Seen::BIDS | Seen::ASKS;

    #[inline(always)]
    fn once(&mut self, bit: u32) -> Option<()> {
        let before = self.0;
        self.0 |= bit;
        (before & bit == 0).then_some(())
    }
}

/// Decode one message; see `depth::decode`.
#[inline(always)]
pub fn decode<D: Levels>(
    mut scan: Scan<'_, D>,
    lenient: bool,
    scratch: &mut Scratch,
    mut select: impl FnMut(&[u8]) -> Option<Grid>,
) -> Option<Message> {
    let start = scan;
    let mut stream = false;
    let wrapped = wrapper(&mut scan, &mut stream)?;
    if !wrapped {
        scan = start;
    }
    let mut seen = Seen::default();
    let mut grid = None;
    let (mut first, mut last, mut previous, mut sent, mut time) = (0, 0, 0, 0, 0);
    let mut event_at = 0;
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        match key {
            b"e" => {
                seen.once(Seen::EVENT)?;
                event_at = scan.at();
                if scan.string()? != b"depthUpdate" {
                    return None;
                }
            }
            b"E" => {
                seen.once(Seen::SENT)?;
                sent = stamp(&mut scan)?;
            }
            b"T" => {
                seen.once(Seen::TIME)?;
                time = stamp(&mut scan)?;
            }
            b"s" => {
                seen.once(Seen::SYMBOL)?;
                let symbol = scan.string()?;
                if grid.is_none() {
                    grid = Some(select(symbol)?);
                }
            }
            b"U" => {
                seen.once(Seen::FIRST)?;
                first = scan.uint()?;
            }
            b"u" => {
                seen.once(Seen::LAST)?;
                last = scan.uint()?;
            }
            b"pu" => {
                seen.once(Seen::PREVIOUS)?;
                previous = scan.uint()?;
            }
            b"b" | b"a" => {
                let bids = key == b"b";
                seen.once(if bids { Seen::BIDS } else { Seen::ASKS })?;
                let grid = match grid {
                    Some(grid) => grid,
                    None => *grid.insert(select(symbol_ahead(scan)?)?),
                };
                levels(&mut scan, grid, if bids { &mut scratch.bids } else { &mut scratch.asks })?;
            }
            b"ps" => {
                seen.once(Seen::PAIR)?;
                scan.string()?;
            }
            b"st" => {
                seen.once(Seen::STATE)?;
                scan.uint()?;
            }
            _ => {
                if !lenient {
                    return None;
                }
                seen.0 |= Seen::UNKNOWN;
                scan.skip()?;
            }
        }
        next = scan.next_key()?;
    }
    if wrapped {
        while scan.accept(b',') {
            if scan.key()? == b"stream" {
                if stream {
                    return None;
                }
                stream = true;
                scan.expect(b':')?;
                scan.string()?;
            } else {
                return None;
            }
        }
        scan.expect(b'}')?;
    }
    scan.done()?;
    if seen.0 & Seen::NEEDED != Seen::NEEDED {
        return None;
    }
    if seen.0 & Seen::UNKNOWN != 0 || (wrapped && !stream) {
        // Python passes over unknown keys, and does without a stream's name, only where it finds the event by its text.
        let text = b"\"e\":\"";
        let at = scan.since(0).windows(text.len()).position(|window| window == text)?;
        if !wrapped || at + text.len() - 1 != event_at {
            return None;
        }
    }
    let event = if time > 0 { time } else { sent };
    let ts_event = event.checked_mul(if event >= MICRO { 1000 } else { 1_000_000 })?;
    let prev = (seen.0 & Seen::PREVIOUS != 0).then_some(previous);
    Some(Message { first, last, prev, ts_event })
}

/// Go to the event in a combined message; `false` where the message has none and so is the event itself.
#[inline(always)]
pub(crate) fn wrapper<D: Digits>(scan: &mut Scan<'_, D>, stream: &mut bool) -> Option<bool> {
    scan.expect(b'{')?;
    loop {
        match scan.key()? {
            b"stream" if !*stream => {
                *stream = true;
                scan.expect(b':')?;
                scan.string()?;
                scan.expect(b',')?;
            }
            b"data" => {
                scan.expect(b':')?;
                return Some(true);
            }
            _ => return if *stream { None } else { Some(false) },
        }
    }
}

#[inline(always)]
pub(crate) fn stamp<D: Digits>(scan: &mut Scan<'_, D>) -> Option<i64> {
    scan.uint().filter(|time| (1..LATEST).contains(time))
}

/// The symbol, where the levels come before it: `scan` is at a value within the event.
#[cold]
#[inline(never)]
fn symbol_ahead<'a, D: Digits>(mut scan: Scan<'a, D>) -> Option<&'a [u8]> {
    loop {
        scan.skip()?;
        scan.expect(b',')?;
        let key = scan.key()?;
        scan.expect(b':')?;
        if key == b"s" {
            return scan.string();
        }
    }
}
