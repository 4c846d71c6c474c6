//! Records to frames. What fits no field is none: the caller lets the pure codec find the words for it.

use crate::wire_format::{
    BODY, Draft, HEADER, Head, Header, Kind, LEVEL, MAX_TEXT, NULL, Piece, Sink, VENUE_LEVEL, begin, is_number,
};
use crate::wire_record::{Fields, Words};

/// The words that records have and frames have numbers for.
pub struct Codes {
    pub sides: Words,
    pub sources: Words,
    pub states: Words,
}

const TRADE: usize = BODY + 26;
const QUOTE: usize = BODY + 40;

/// Write a record as one frame.
#[inline]
pub fn encode<S: Sink>(
    kind: Kind,
    header: &Header,
    record: Fields<'_>,
    codes: &Codes,
    head: &Head,
    sink: &mut S,
) -> Option<()> {
    match kind {
        Kind::Trade => trade(header, record, codes, head, sink),
        Kind::Quote => quote(header, record, head, sink),
        _ => other(kind, header, record, codes, head, sink),
    }
}

#[inline(always)]
fn flags(record: Fields<'_>, field: usize) -> Option<u8> {
    record.small(field, 255).map(|value| value as u8)
}

fn trade<S: Sink>(header: &Header, record: Fields<'_>, codes: &Codes, head: &Head, sink: &mut S) -> Option<()> {
    let (event, recv) = (record.int(0)?, record.int(1)?);
    let id = record.text(4)?;
    let number = record.maybe(5)?;
    let (price, quantity) = (record.float(6)?, record.float(7)?);
    let side = record.code(8, &codes.sides)?;
    let flags = flags(record, 9)?;
    let numbered = number.is_some_and(|number| is_number(id, number));
    let id = if numbered { &[] } else { id };
    if id.len() > MAX_TEXT {
        return None;
    }
    let size = TRADE + 2 + id.len();
    let (out, text) = sink.room(size)?.split_first_chunk_mut::<{ TRADE + 2 }>()?;
    begin(out.first_chunk_mut()?, size as u32, header, head, event, recv, flags);
    out[46..54].copy_from_slice(&price.to_le_bytes());
    out[54..62].copy_from_slice(&quantity.to_le_bytes());
    out[62..70].copy_from_slice(&number.unwrap_or(NULL).to_le_bytes());
    out[70] = side;
    out[71] = numbered.into();
    out[72..74].copy_from_slice(&(id.len() as u16).to_le_bytes());
    text.copy_from_slice(id);
    Some(())
}

fn quote<S: Sink>(header: &Header, record: Fields<'_>, head: &Head, sink: &mut S) -> Option<()> {
    let (event, recv, seq) = (record.int(0)?, record.int(1)?, record.int(4)?);
    let prices = [record.float(5)?, record.float(6)?, record.float(7)?, record.float(8)?];
    let flags = flags(record, 9)?;
    let out = sink.room(QUOTE)?.first_chunk_mut::<QUOTE>()?;
    begin(out.first_chunk_mut()?, QUOTE as u32, header, head, event, recv, flags);
    out[46..54].copy_from_slice(&seq.to_le_bytes());
    for (place, price) in out[54..].chunks_exact_mut(8).zip(prices) {
        place.copy_from_slice(&price.to_le_bytes());
    }
    Some(())
}

#[inline(never)]
fn other<S: Sink>(
    kind: Kind,
    header: &Header,
    record: Fields<'_>,
    codes: &Codes,
    head: &Head,
    sink: &mut S,
) -> Option<()> {
    let mut draft = Draft::new();
    let made = match kind {
        Kind::Snapshot | Kind::Delta => book(kind, record, &mut draft),
        Kind::AggTrade => agg_trade(record, codes, &mut draft),
        Kind::Candle => candle(record, codes, &mut draft),
        Kind::Aggregate => aggregate(record, &mut draft),
        Kind::Status => status(record, &mut draft),
        Kind::Gap => gap(record, &mut draft),
        Kind::Instrument => instrument(record, &mut draft),
        Kind::Trade | Kind::Quote => None, // have calls of their own
    };
    let (event, recv, flags) = made?;
    debug_assert_eq!(usize::from(u16::from_le_bytes([header[2], header[3]])), kind.end() - HEADER);
    draft.finish(header, head, event, recv, flags, sink)
}

/// Times and flags of a message.
type Common = Option<(i64, i64, u8)>;

fn book<'a>(kind: Kind, record: Fields<'a>, draft: &mut Draft<'a>) -> Common {
    let common = (record.int(0)?, record.int(1)?, flags(record, if kind == Kind::Delta { 9 } else { 10 })?);
    draft.put(record.int(4)?.to_le_bytes());
    draft.put(record.int(5)?.to_le_bytes());
    let sides = if kind == Kind::Delta {
        draft.put(record.int(6)?.to_le_bytes());
        7
    } else {
        draft.put(record.small(6, u32::MAX)?.to_le_bytes());
        draft.put(record.small(7, u32::MAX)?.to_le_bytes());
        8
    };
    draft.add(Piece::Side(record.bytes(sides)?, LEVEL))?;
    draft.add(Piece::Side(record.bytes(sides + 1)?, LEVEL))?;
    Some(common)
}

fn agg_trade<'a>(record: Fields<'a>, codes: &Codes, draft: &mut Draft<'a>) -> Common {
    let common = (record.int(0)?, record.int(1)?, flags(record, 11)?);
    let (id, number) = (record.text(4)?, record.maybe(5)?);
    let numbered = number.is_some_and(|number| is_number(id, number));
    draft.put(record.float(8)?.to_le_bytes());
    draft.put(record.float(9)?.to_le_bytes());
    draft.put(number.unwrap_or(NULL).to_le_bytes());
    draft.put(record.int(6)?.to_le_bytes());
    draft.put(record.int(7)?.to_le_bytes());
    draft.put([record.code(10, &codes.sides)?, numbered.into()]);
    draft.add(Piece::Text(if numbered { &[] } else { id }))?;
    Some(common)
}

fn candle<'a>(record: Fields<'a>, codes: &Codes, draft: &mut Draft<'a>) -> Common {
    let common = (record.int(2)?, record.int(3)?, flags(record, 18)?);
    draft.put(record.int(0)?.to_le_bytes());
    draft.put(record.int(1)?.to_le_bytes());
    for field in 9..15 {
        draft.put(record.float(field)?.to_le_bytes());
    }
    draft.put(record.int(15)?.to_le_bytes());
    draft.put(record.float(16)?.to_le_bytes());
    draft.put(record.float(17)?.to_le_bytes());
    draft.put([record.code(7, &codes.sources)?, record.code(8, &codes.states)?]);
    draft.add(Piece::Text(record.text(6)?))?;
    Some(common)
}

fn aggregate<'a>(record: Fields<'a>, draft: &mut Draft<'a>) -> Common {
    let common = (record.int(0)?, record.int(1)?, flags(record, 9)?);
    draft.put(record.int(3)?.to_le_bytes());
    draft.put(record.maybe(8)?.unwrap_or(NULL).to_le_bytes());
    draft.add(Piece::Side(record.bytes(6)?, VENUE_LEVEL))?;
    draft.add(Piece::Side(record.bytes(7)?, VENUE_LEVEL))?;
    texts(record, draft, &[2, 4, 5])?;
    Some(common)
}

fn status<'a>(record: Fields<'a>, draft: &mut Draft<'a>) -> Common {
    let common = (record.int(0)?, record.int(1)?, flags(record, 8)?);
    texts(record, draft, &[2, 3, 4, 5, 6, 7])?;
    Some(common)
}

fn gap<'a>(record: Fields<'a>, draft: &mut Draft<'a>) -> Common {
    let (from, to) = (record.int(0)?, record.int(1)?);
    draft.put(from.to_le_bytes());
    draft.put(to.to_le_bytes());
    draft.put(record.maybe(7)?.unwrap_or(NULL).to_le_bytes());
    draft.put(record.maybe(8)?.unwrap_or(NULL).to_le_bytes());
    texts(record, draft, &[2, 3, 4, 5, 6, 9, 10])?;
    Some((to, to, 0))
}

fn instrument<'a>(record: Fields<'a>, draft: &mut Draft<'a>) -> Common {
    let common = (record.int(0)?, record.int(1)?, 0);
    draft.put(record.maybe(14)?.unwrap_or(NULL).to_le_bytes());
    draft.put([record.truth(13)?]);
    texts(record, draft, &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15])?;
    Some(common)
}

fn texts<'a>(record: Fields<'a>, draft: &mut Draft<'a>, fields: &[usize]) -> Option<()> {
    fields.iter().try_for_each(|field| draft.add(Piece::Text(record.text(*field)?)))
}
