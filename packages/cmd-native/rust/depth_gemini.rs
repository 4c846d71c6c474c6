//! Gemini's `depthUpdate` of its current API. A snapshot has the same form, but only a feed that waits for one takes
//! it for that, and then its book is not armed. Names of symbols come in either case.

use crate::book::Grid;
use crate::depth::{Keys, Levels, Message, Scratch, levels, text_ahead};
use crate::scan::Scan;

/// The longest symbol.
const SYMBOL: usize = 64;

mod keys {
    pub const EVENT: u32 = 1;
    pub const TIME: u32 = 2;
    pub const SYMBOL: u32 = 4;
    pub const FIRST: u32 = 8;
    pub const LAST: u32 = 16;
    pub const BIDS: u32 = 32;
    pub const ASKS: u32 = 64;
    pub const UNKNOWN: u32 = 128;
    pub const NEEDED: u32 = EVENT | TIME | SYMBOL | FIRST | LAST | BIDS | ASKS;
}

/// Decode one message; see `depth::decode`.
#[inline(always)]
pub fn decode<D: Levels>(
    mut scan: Scan<'_, D>,
    lenient: bool,
    scratch: &mut Scratch,
    mut select: impl FnMut(&[u8]) -> Option<Grid>,
) -> Option<Message> {
    let mut seen = Keys::default();
    let mut grid = None;
    let (mut first, mut last, mut ts_event) = (0, 0, 0);
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        match key {
            b"e" => {
                seen.once(keys::EVENT)?;
                if scan.string()? != b"depthUpdate" {
                    return None;
                }
            }
            b"E" => {
                seen.once(keys::TIME)?;
                ts_event = scan.uint().filter(|time| *time > 0)?; // ns; those of 2116 and later go the other way
            }
            b"s" => {
                seen.once(keys::SYMBOL)?;
                let symbol = scan.string()?;
                if grid.is_none() {
                    grid = Some(selected(symbol, &mut select)?);
                }
            }
            b"U" => {
                seen.once(keys::FIRST)?;
                first = scan.uint()?;
            }
            b"u" => {
                seen.once(keys::LAST)?;
                last = scan.uint()?;
            }
            b"b" | b"a" => {
                let bids = key == b"b";
                seen.once(if bids { keys::BIDS } else { keys::ASKS })?;
                let grid = match grid {
                    Some(grid) => grid,
                    None => *grid.insert(selected(text_ahead(scan, b"s")?, &mut select)?),
                };
                levels(&mut scan, grid, if bids { &mut scratch.bids } else { &mut scratch.asks })?;
            }
            // By these Python tells other messages, and wants them to be of their kinds.
            b"id" | b"status" | b"symbol" | b"t" | b"lastUpdateId" => return None,
            _ => {
                seen.unknown(lenient, keys::UNKNOWN)?;
                scan.skip()?;
            }
        }
        next = scan.next_key()?;
    }
    scan.done()?;
    seen.all(keys::NEEDED)?;
    Some(Message { first, last, prev: None, ts_event })
}

/// The grid of a symbol's book, which is named in upper case.
#[inline(always)]
fn selected(symbol: &[u8], select: &mut impl FnMut(&[u8]) -> Option<Grid>) -> Option<Grid> {
    let mut room = [0; SYMBOL];
    let name = room.get_mut(..symbol.len()).filter(|_| symbol.is_ascii())?;
    name.copy_from_slice(symbol);
    name.make_ascii_uppercase();
    select(name)
}
