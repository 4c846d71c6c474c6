//! Frames of one template to columns: one pass over the frames, one buffer a field, no Python object a message.
//!
//! What is not exactly of our own version, or damaged, is none: the pure twin decides.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyString, PyTuple};

use crate::wire::WireCodec;
use crate::wire_decode;
use crate::wire_format::{BODY, Bytes, HEADER, Kind, LEVEL, Next, next, width};
use crate::wire_python::Memory;
use crate::wire_record::Shape;

/// Bytes of the longest frame that a buffer of frames is taken to hold, as `cmd_server.framing` has it.
const MAX_FRAME: usize = 64 << 20;
const COMMON: &str = "QqqIHBB";

/// The frames: in one buffer, or each an object of its own.
enum Frames<'a> {
    Joined(&'a [u8]),
    Single(&'a [&'a [u8]]),
}

impl<'a> Frames<'a> {
    /// Call with each frame; none as soon as that says none, or where a buffer is not made of whole frames.
    #[inline(always)]
    fn each(&self, mut call: impl FnMut(&'a [u8]) -> Option<()>) -> Option<()> {
        match self {
            Frames::Single(frames) => frames.iter().try_for_each(|frame| call(frame)),
            Frames::Joined(joined) => {
                let mut data: &'a [u8] = joined;
                while !data.is_empty() {
                    let Next::Whole(size) = next(data, MAX_FRAME) else { return None };
                    call(&data[..size])?;
                    data = &data[size..];
                }
                Some(())
            }
        }
    }
}

pub fn columns<'py>(
    codec: &WireCodec,
    py: Python<'py>,
    frames: &Bound<'py, PyAny>,
    template: u8,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let Some(shape) = Kind::of(template).map(|kind| &codec.shapes[kind.index()]) else { return Ok(None) };
    if matches!(shape.kind, Kind::Instrument | Kind::Aggregate | Kind::Status | Kind::Gap) {
        return Ok(None);
    }
    // SAFETY: the GIL is held; what is read is held by the views, or by the tuple made here of a list.
    unsafe {
        if let Some(memory) = Memory::of(frames.as_ptr(), false) {
            return table(codec, py, shape, &Frames::Joined(memory.bytes()));
        }
        let held: Bound<'py, PyTuple> = if let Ok(list) = frames.cast_exact::<PyList>() {
            list.to_tuple()
        } else if let Ok(tuple) = frames.cast_exact::<PyTuple>() {
            tuple.clone()
        } else {
            return Ok(None);
        };
        // Bytes are held by the tuple; a view of anything else is held here.
        let mut views: Vec<Memory> = Vec::new();
        let mut slices: Vec<&[u8]> = Vec::with_capacity(held.len());
        for frame in held.iter() {
            let Some(memory) = Memory::of(frame.as_ptr(), false) else { return Ok(None) };
            let bytes = memory.bytes();
            slices.push(std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()));
            if !frame.is_exact_instance_of::<PyBytes>() {
                views.push(memory);
            }
        }
        table(codec, py, shape, &Frames::Single(&slices))
    }
}

/// A column in the making.
struct Column {
    data: *mut u8,
    width: usize,
    at: usize,
}

fn table<'py>(
    codec: &WireCodec,
    py: Python<'py>,
    shape: &Shape,
    frames: &Frames<'_>,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let (kind, end) = (shape.kind, shape.kind.end());
    // First everything is looked at: how many there are, whether all are of ours, how many levels they have.
    let (mut count, mut bids, mut asks, mut texts) = (0, 0, 0, false);
    let fine = frames.each(|frame| {
        count += 1;
        if wire_decode::shape(codec, frame)?.kind != kind {
            return None;
        }
        match kind {
            Kind::Snapshot | Kind::Delta => {
                let (side, at) = Bytes(frame).side(end, LEVEL)?;
                bids += side.len();
                asks += Bytes(frame).side(at, LEVEL)?.0.len();
            }
            Kind::Trade | Kind::AggTrade if frame[end - 1] == 0 => {
                texts = true;
                Bytes(frame).text(end)?;
            }
            Kind::Candle => {
                codec.codes.sources.word(frame[end - 2]).and(codec.codes.states.word(frame[end - 1]))?;
                Bytes(frame).text(end)?;
            }
            _ => {}
        }
        Some(())
    });
    if fine.is_none() {
        return Ok(None);
    }
    let mut found: Vec<Bound<'py, PyAny>> = Vec::new();
    let mut columns = Vec::new();
    let mut at = HEADER;
    for letter in COMMON.bytes().chain(kind.own().bytes()) {
        let width = width(letter);
        let made = array(py, count * width)?;
        columns.push(Column { data: made.data().cast(), width, at });
        found.push(made.into_any());
        at += width;
    }
    debug_assert_eq!((at, columns[7.min(columns.len() - 1)].at), (end, BODY));
    let mut row = 0;
    // SAFETY: each array has room for `count` values, nobody else has it yet, and every frame has its whole block;
    // nothing is made or called in this loop.
    unsafe {
        let _ = frames.each(|frame| {
            for column in &columns {
                let from = frame.as_ptr().add(column.at);
                let to = column.data.add(row * column.width);
                match column.width {
                    8 => to.cast::<[u8; 8]>().write(from.cast::<[u8; 8]>().read()),
                    4 => to.cast::<[u8; 4]>().write(from.cast::<[u8; 4]>().read()),
                    2 => to.cast::<[u8; 2]>().write(from.cast::<[u8; 2]>().read()),
                    _ => to.write(from.read()),
                }
            }
            row += 1;
            (row <= count).then_some(())
        });
    }
    match kind {
        Kind::Snapshot | Kind::Delta => {
            let sides = levels(py, frames, end, count, [bids, asks])?;
            found.extend(sides);
        }
        Kind::Trade | Kind::AggTrade | Kind::Candle => {
            let Some(list) = words(py, frames, kind, end, count, texts)? else { return Ok(None) };
            found.push(list);
        }
        _ => {}
    }
    PyTuple::new(py, found).map(Some)
}

fn array(py: Python<'_>, size: usize) -> PyResult<Bound<'_, PyByteArray>> {
    // SAFETY: the GIL is held; the memory is not initialised, and every byte of it is written before anybody sees it.
    unsafe {
        let made = ffi::PyByteArray_FromStringAndSize(std::ptr::null(), size as ffi::Py_ssize_t);
        Ok(Bound::from_owned_ptr_or_err(py, made)?.cast_into_unchecked())
    }
}

/// The levels of both sides behind each other, and where those of each frame begin.
fn levels<'py>(
    py: Python<'py>,
    frames: &Frames<'_>,
    end: usize,
    count: usize,
    sizes: [usize; 2],
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let mut found = Vec::new();
    for (side, size) in sizes.into_iter().enumerate() {
        let mut places: Vec<u8> = Vec::with_capacity((count + 1) * 8);
        places.extend(0_i64.to_le_bytes());
        let joined = PyBytes::new_with(py, size, |out| {
            let mut at = 0;
            let _ = frames.each(|frame| {
                let (bids, behind) = Bytes(frame).side(end, LEVEL)?;
                let levels = if side == 0 { bids } else { Bytes(frame).side(behind, LEVEL)?.0 };
                out.get_mut(at..at + levels.len())?.copy_from_slice(levels);
                at += levels.len();
                places.extend(((at / LEVEL) as i64).to_le_bytes());
                Some(())
            });
            Ok(())
        })?;
        found.push(joined.into_any());
        found.push(PyByteArray::new(py, &places).into_any());
    }
    Ok(found)
}

/// The texts of all frames as a list; None where none has one.
fn words<'py>(
    py: Python<'py>,
    frames: &Frames<'_>,
    kind: Kind,
    end: usize,
    count: usize,
    any: bool,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if kind != Kind::Candle && !any {
        return Ok(Some(py.None().into_bound(py)));
    }
    let empty = PyString::new(py, "");
    let mut last: (&[u8], Bound<'py, PyString>) = (b"", empty.clone());
    let mut made: Vec<Bound<'py, PyString>> = Vec::with_capacity(count);
    let fine = frames.each(|frame| {
        if kind != Kind::Candle && frame[end - 1] != 0 {
            made.push(empty.clone());
            return Some(());
        }
        let (text, _) = Bytes(frame).text(end)?;
        if text != last.0 {
            last = (text, PyString::new(py, std::str::from_utf8(text).ok()?));
        }
        made.push(last.1.clone());
        Some(())
    });
    if fine.is_none() { Ok(None) } else { Ok(Some(PyList::new(py, made)?.into_any())) }
}
