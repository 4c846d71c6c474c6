//! Frames to records. What is not exactly of our own version, or damaged, is none: the pure codec decides.

use pyo3::ffi;

use crate::wire::WireCodec;
use crate::wire_format::{BODY, Bytes, HEADER, Kind, LEVEL, NULL, RECORD_FLAGS, SOFH, VENUE_LEVEL, digits};
use crate::wire_python::Items;
use crate::wire_record::Shape;

/// The template of a frame whose header is exactly ours, and which has its whole block.
#[inline(always)]
pub fn shape<'a>(codec: &'a WireCodec, frame: &[u8]) -> Option<&'a Shape> {
    let kind = Kind::of(*frame.get(SOFH + 2)?)?;
    let shape = &codec.shapes[kind.index()];
    (frame.len() >= kind.end() && frame[SOFH..HEADER] == shape.header[2..]).then_some(shape)
}

/// Make the record of a frame.
///
/// # Safety
/// The GIL is held; `venue` and `symbol` are alive. The frame is not changed by what runs while a record is made, which
/// is memory management of Python only.
pub unsafe fn decode(
    codec: &WireCodec,
    frame: &[u8],
    venue: *mut ffi::PyObject,
    symbol: *mut ffi::PyObject,
) -> Option<*mut ffi::PyObject> {
    let shape = shape(codec, frame)?;
    let data = Bytes(frame);
    let end = shape.kind.end();
    let (event, recv) = (data.i64(22)?, data.i64(30)?);
    let flags = i64::from(data.u8(44)? & RECORD_FLAGS);
    // SAFETY: as the caller promises.
    unsafe {
        let mut items = Items::new(shape.fields)?;
        if shape.kind == Kind::Candle {
            items.int(data.i64(46)?)?;
            items.int(data.i64(54)?)?;
        }
        if shape.kind == Kind::Gap {
            items.int(data.i64(46)?)?;
            items.int(data.i64(54)?)?;
        } else {
            items.int(event)?;
            items.int(recv)?;
        }
        if matches!(
            shape.kind,
            Kind::Trade | Kind::AggTrade | Kind::Quote | Kind::Snapshot | Kind::Delta | Kind::Candle
        ) {
            items.share(venue)?;
            items.share(symbol)?;
        }
        match shape.kind {
            Kind::Trade => {
                let number = data.i64(62)?;
                id(&mut items, data, number, data.u8(71)?, end)?;
                maybe(&mut items, number)?;
                items.float(data.f64(46)?)?;
                items.float(data.f64(54)?)?;
                items.share(side(codec, data.u8(70)?)?)?;
                items.int(flags)?;
            }
            Kind::AggTrade => {
                let number = data.i64(62)?;
                id(&mut items, data, number, data.u8(87)?, end)?;
                maybe(&mut items, number)?;
                items.int(data.i64(70)?)?;
                items.int(data.i64(78)?)?;
                items.float(data.f64(46)?)?;
                items.float(data.f64(54)?)?;
                items.share(side(codec, data.u8(86)?)?)?;
                items.int(flags)?;
            }
            Kind::Quote => {
                items.int(data.i64(46)?)?;
                for at in [54, 62, 70, 78] {
                    items.float(data.f64(at)?)?;
                }
                items.int(flags)?;
            }
            Kind::Snapshot | Kind::Delta => {
                items.int(data.i64(46)?)?;
                items.int(data.i64(54)?)?;
                if shape.kind == Kind::Delta {
                    items.int(data.i64(62)?)?;
                } else {
                    items.int(i64::from(data.u32(62)?))?;
                    items.int(i64::from(data.u32(66)?))?;
                }
                let (bids, at) = data.side(end, LEVEL)?;
                let (asks, _) = data.side(at, LEVEL)?;
                items.bytes(bids)?;
                items.bytes(asks)?;
                items.int(flags)?;
            }
            Kind::Candle => {
                items.text(data.text(end)?.0)?;
                items.share(codec.codes.sources.word(data.u8(134)?)?.as_ptr())?;
                items.share(codec.codes.states.word(data.u8(135)?)?.as_ptr())?;
                for at in [62, 70, 78, 86, 94, 102] {
                    items.float(data.f64(at)?)?;
                }
                items.int(data.i64(110)?)?;
                items.float(data.f64(118)?)?;
                items.float(data.f64(126)?)?;
                items.int(flags)?;
            }
            Kind::Aggregate => {
                let (bids, at) = data.side(end, VENUE_LEVEL)?;
                let (asks, at) = data.side(at, VENUE_LEVEL)?;
                let (instrument, at) = data.text(at)?;
                let (venues, at) = data.text(at)?;
                let (excluded, _) = data.text(at)?;
                items.text(instrument)?;
                items.int(data.i64(46)?)?;
                items.text(venues)?;
                items.text(excluded)?;
                items.bytes(bids)?;
                items.bytes(asks)?;
                maybe(&mut items, data.i64(54)?)?;
                items.int(flags)?;
            }
            Kind::Status => {
                texts(&mut items, data, end, 6)?;
                items.int(flags)?;
            }
            Kind::Gap => {
                let at = texts(&mut items, data, end, 5)?;
                maybe(&mut items, data.i64(62)?)?;
                maybe(&mut items, data.i64(70)?)?;
                texts(&mut items, data, at, 2)?;
            }
            Kind::Instrument => {
                let at = texts(&mut items, data, end, 11)?;
                items.share(if data.u8(54)? != 0 { ffi::Py_True() } else { ffi::Py_False() })?;
                maybe(&mut items, data.i64(46)?)?;
                texts(&mut items, data, at, 1)?;
            }
        }
        let made = ffi::PyObject_Call(shape.class.as_ptr(), items.done().get(), std::ptr::null_mut());
        (!made.is_null()).then_some(made)
    }
}

/// What every message begins with, as a `Head`.
///
/// # Safety
/// The GIL is held.
pub unsafe fn head(codec: &WireCodec, frame: &[u8]) -> Option<*mut ffi::PyObject> {
    if frame.len() < BODY || frame[10..12] != codec.shapes[0].header[6..8] {
        return None;
    }
    let data = Bytes(frame);
    // SAFETY: the codec has checked that the class is a plain subclass of tuple.
    unsafe {
        let mut items = Items::of(codec.head.as_ptr(), 8)?;
        items.int(i64::from(data.u16(8)?))?;
        items.push(ffi::PyLong_FromUnsignedLongLong(data.u64(14)?))?;
        items.int(data.i64(22)?)?;
        items.int(data.i64(30)?)?;
        items.int(i64::from(data.u32(38)?))?;
        items.int(i64::from(data.u16(42)?))?;
        items.int(i64::from(data.u8(44)?))?;
        items.int(i64::from(data.u8(45)?))?;
        Some(items.done().give())
    }
}

/// The id of a trade: its number in digits, or a text.
#[inline(always)]
fn id(items: &mut Items, data: Bytes<'_>, number: i64, numbered: u8, end: usize) -> Option<()> {
    if numbered != 0 {
        data.u16(end)?; // the length of a text is always there
        return items.text(digits(number, &mut [0; 20]));
    }
    items.text(data.text(end)?.0)
}

#[inline(always)]
fn maybe(items: &mut Items, value: i64) -> Option<()> {
    // SAFETY: None lives for ever, and the GIL is held.
    if value == NULL { unsafe { items.share(ffi::Py_None()) } } else { items.int(value) }
}

fn texts(items: &mut Items, data: Bytes<'_>, mut at: usize, count: usize) -> Option<usize> {
    for _ in 0..count {
        let (text, end) = data.text(at)?;
        items.text(text)?;
        at = end;
    }
    Some(at)
}

/// The word of a side; one that is not known yet is unknown.
#[inline(always)]
fn side(codec: &WireCodec, code: u8) -> Option<*mut ffi::PyObject> {
    let words = &codec.codes.sides;
    Some(words.word(code).or_else(|| words.word(0))?.as_ptr())
}
