//! The wire codec of cmd-server for Python: the same calls as `cmd_server.codec` has, which fall back to their pure twins.
//!
//! A `WireCodec` is told the classes of the records, the headers of their messages and the twins. Its functions take
//! what is usual: the classes themselves, plain ints and floats, frames of our own version. For everything else, and
//! for every error, they call the twin with the same arguments; so what is said is the same either way.

use std::cell::Cell;

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use crate::wire_columns;
use crate::wire_decode;
use crate::wire_encode::{Codes, encode};
use crate::wire_format::{Head, KINDS, Kind, Scratch, Sink};
use crate::wire_python::{Call, Definition, Memory, Own, guard, size, unsigned};
use crate::wire_record::{Fields, Shape, Words, text};
use crate::wire_value;
use crate::wire_writer::WireWriter;

/// The codec with everything that it was told.
#[pyclass(frozen, module = "cmd_native")]
pub struct WireCodec {
    pub shapes: Vec<Shape>,
    pub codes: Codes,
    pub head: Py<PyType>,
    pure: Pure,
    scratch: Cell<Scratch>,
}

// SAFETY: `scratch` is taken and put back under the GIL, with no Python code in between. The module does not declare
// that it runs without the GIL.
unsafe impl Send for WireCodec {}
unsafe impl Sync for WireCodec {}

/// The pure twins.
struct Pure {
    encode: Py<PyAny>,
    encode_into: Py<PyAny>,
    encode_many: Py<PyAny>,
    encode_many_into: Py<PyAny>,
    same_stream: Py<PyAny>,
    decode: Py<PyAny>,
    head: Py<PyAny>,
}

type Sample<'py> = (Bound<'py, PyAny>, Bound<'py, PyTuple>);
type Record<'py> = (Bound<'py, PyType>, [u8; 10], [Sample<'py>; 2]);
const KEPT: usize = 1 << 20; // bytes of the memory for many frames that is kept for the next ones

#[pymethods]
impl WireCodec {
    #[new]
    fn new(
        records: Vec<Record<'_>>,
        head: Bound<'_, PyType>,
        words: [Vec<(Py<PyString>, u8)>; 3],
        pure: &Bound<'_, PyDict>,
    ) -> PyResult<WireCodec> {
        // SAFETY: Python calls with the GIL held.
        unsafe { wire_value::look() };
        let twin = |name: &str| -> PyResult<Py<PyAny>> {
            Ok(pure.get_item(name)?.ok_or_else(|| PyValueError::new_err(format!("{name} has no twin")))?.unbind())
        };
        let mut shapes = Vec::new();
        for (class, header, samples) in records {
            shapes.push(Shape::new(&class, header, samples)?);
        }
        shapes.sort_by_key(|shape| shape.kind.index());
        if shapes.len() != KINDS.len() || shapes.iter().zip(KINDS).any(|(shape, kind)| shape.kind != kind) {
            return Err(PyValueError::new_err("not one class of every record"));
        }
        let tuple = head.py().get_type::<PyTuple>();
        let plain = head.is_subclass(&tuple)?
            && head.getattr("__basicsize__")?.eq(tuple.getattr("__basicsize__")?)?
            && head.getattr("__dictoffset__")?.extract::<isize>()? == 0;
        if !plain {
            return Err(PyValueError::new_err("the head of a message is no plain tuple"));
        }
        let [sides, sources, states] = words.map(Words::new);
        Ok(WireCodec {
            shapes,
            codes: Codes { sides, sources, states },
            head: head.unbind(),
            pure: Pure {
                encode: twin("encode")?,
                encode_into: twin("encode_into")?,
                encode_many: twin("encode_many")?,
                encode_many_into: twin("encode_many_into")?,
                same_stream: twin("same_stream")?,
                decode: twin("decode")?,
                head: twin("head")?,
            },
            scratch: Cell::new(Scratch::default()),
        })
    }

    /// One of the functions; calling it costs no lookup and no tuple of arguments.
    fn function<'py>(slf: &Bound<'py, Self>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let definition = match name {
            "encode" => &ENCODE,
            "encode_into" => &ENCODE_INTO,
            "encode_many" => &ENCODE_MANY,
            "encode_many_into" => &ENCODE_MANY_INTO,
            "same_stream" => &SAME_STREAM,
            "decode" => &DECODE,
            "head" => &HEAD,
            _ => return Err(PyValueError::new_err("no such function")),
        };
        definition.bind(slf)
    }

    /// A writer of one stream's frames into one buffer; none where the buffer is none of single bytes.
    #[pyo3(signature = (buffer, instrument, seq, view, flags, state))]
    fn writer(
        slf: &Bound<'_, Self>,
        buffer: &Bound<'_, PyAny>,
        instrument: u32,
        seq: u64,
        view: u16,
        flags: u8,
        state: u8,
    ) -> Option<WireWriter> {
        WireWriter::new(slf.clone().unbind(), buffer, Head { seq, instrument, view, flags, state }, 0)
    }

    /// Whether numbers are read where they lie or by a call; false: by calls from now on, true: as it was found. For tests.
    #[staticmethod]
    fn direct(on: bool) -> bool {
        wire_value::use_direct(on)
    }

    /// The columns of frames of one template; none where the pure twin has to look at them.
    fn columns<'py>(
        &self,
        py: Python<'py>,
        frames: &Bound<'py, PyAny>,
        template: u8,
    ) -> PyResult<Option<Bound<'py, PyTuple>>> {
        wire_columns::columns(self, py, frames, template)
    }
}

impl WireCodec {
    /// What writes a record that is not of the usual.
    pub fn twin_of_encode_into<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.pure.encode_into.bind(py).clone()
    }

    /// The class of a record.
    #[inline(always)]
    fn shape(&self, record: *mut ffi::PyObject) -> Option<&Shape> {
        self.shapes.iter().find(|shape| shape.is(record))
    }

    /// Write a record to a sink.
    #[inline(always)]
    ///
    /// # Safety
    /// `record` is alive, the GIL is held, and the sink runs no Python code.
    pub unsafe fn write<S: Sink>(&self, record: *mut ffi::PyObject, head: &Head, sink: &mut S) -> Option<()> {
        let shape = self.shape(record)?;
        // SAFETY: the class was just compared, and the caller holds the record and the GIL.
        let fields = unsafe { Fields::new(record, shape) };
        encode(shape.kind, &shape.header, fields, &self.codes, head, sink)
    }
}

/// The codec that a function was bound to.
unsafe fn codec<'a>(slf: *mut ffi::PyObject) -> &'a WireCodec {
    // SAFETY: `function` bound it, and the function keeps it alive; the class is frozen.
    unsafe {
        let object = Borrowed::<PyAny>::from_ptr(Python::assume_attached(), slf);
        let found: &WireCodec = object.cast_unchecked::<WireCodec>().get();
        std::mem::transmute::<&WireCodec, &'a WireCodec>(found)
    }
}

/// Instrument, sequence, view, flags and state, as far as they are given.
#[inline(always)]
unsafe fn head_of(given: &[*mut ffi::PyObject]) -> Option<Head> {
    unsafe {
        let at = |n: usize, most: u64| given.get(n).map_or(Some(0), |value| size(*value, most));
        Some(Head {
            instrument: size(given[0], u32::MAX.into())? as u32,
            seq: unsigned(given[1])?,
            view: at(2, u16::MAX.into())? as u16,
            flags: at(3, u8::MAX.into())? as u8,
            state: at(4, u8::MAX.into())? as u8,
        })
    }
}

/// A new bytes for one frame.
struct NewBytes(Option<Own>);

impl Sink for NewBytes {
    #[inline(always)]
    fn room(&mut self, size: usize) -> Option<&mut [u8]> {
        // SAFETY: the bytes are new and nobody else's until they are handed over; all of it is written.
        unsafe {
            let made = Own::new(ffi::PyBytes_FromStringAndSize(std::ptr::null(), size as ffi::Py_ssize_t))?;
            let data: *mut u8 = ffi::PyBytes_AsString(made.get()).cast();
            self.0 = Some(made);
            Some(std::slice::from_raw_parts_mut(data, size))
        }
    }
}

/// A place in the caller's buffer.
pub struct Place<'a> {
    pub room: &'a mut [u8],
    pub start: usize,
    pub end: usize,
}

impl Sink for Place<'_> {
    #[inline(always)]
    fn room(&mut self, size: usize) -> Option<&mut [u8]> {
        self.end = self.start + size;
        self.room.get_mut(self.start..self.end)
    }
}

macro_rules! definition {
    ($constant:ident, $name:literal, $call:ident, $doc:literal) => {
        static $constant: Definition = Definition::new($name, $call, $doc);
    };
}
definition!(ENCODE, c"encode", py_encode, c"Return a record as one whole frame; see cmd_server.codec.");
definition!(ENCODE_INTO, c"encode_into", py_encode_into, c"Write a record as one whole frame; see cmd_server.codec.");
definition!(ENCODE_MANY, c"encode_many", py_encode_many, c"Return a frame a record; see cmd_server.codec.");
definition!(
    ENCODE_MANY_INTO,
    c"encode_many_into",
    py_encode_many_into,
    c"Write a frame a record; see cmd_server.codec."
);
definition!(SAME_STREAM, c"same_stream", py_same_stream, c"Return up to where records are of one stream.");
definition!(DECODE, c"decode", py_decode, c"Return a frame's record; see cmd_server.codec.");
definition!(HEAD, c"head", py_head, c"Read the common part of a message; see cmd_server.codec.");

/// Call `work`, and the twin where it has no answer.
macro_rules! answer {
    ($slf:ident, $given:ident, $count:ident, $names:ident, $twin:ident, $work:expr) => {
        guard(|| {
            // SAFETY: Python calls with the GIL held, with the object that `function` gave and `count` arguments.
            unsafe {
                let codec = codec($slf);
                let call = Call::new($given, $count, $names);
                let work: unsafe fn(&WireCodec, &Call) -> Option<*mut ffi::PyObject> = $work;
                work(codec, &call).unwrap_or_else(|| call.pure(&codec.pure.$twin))
            }
        })
    };
}

type Given = *const *mut ffi::PyObject;
type Object = *mut ffi::PyObject;

unsafe extern "C" fn py_encode(slf: Object, given: Given, count: ffi::Py_ssize_t, names: Object) -> Object {
    answer!(slf, given, count, names, encode, |codec, call| {
        let given = call.plain(3, 6)?;
        let mut made = NewBytes(None);
        codec.write(given[0], &head_of(&given[1..])?, &mut made)?;
        made.0.map(Own::give)
    })
}

unsafe extern "C" fn py_encode_into(slf: Object, given: Given, count: ffi::Py_ssize_t, names: Object) -> Object {
    answer!(slf, given, count, names, encode_into, |codec, call| {
        let given = call.plain(5, 8)?;
        let head = head_of(&given[3..])?;
        let start = size(given[2], u32::MAX.into())? as usize;
        let mut memory = Memory::of(given[1], true)?;
        let mut place = Place { room: memory.room(), start, end: start };
        codec.write(given[0], &head, &mut place)?;
        Own::new(ffi::PyLong_FromSize_t(place.end)).map(Own::give)
    })
}

unsafe extern "C" fn py_encode_many(slf: Object, given: Given, count: ffi::Py_ssize_t, names: Object) -> Object {
    answer!(slf, given, count, names, encode_many, |codec, call| {
        let given = call.plain(3, 6)?;
        let mut head = head_of(&given[1..])?;
        let records = Records::of(given[0])?;
        let size = records.len();
        let list = Own::new(ffi::PyList_New(size as ffi::Py_ssize_t))?;
        // The list may have run the collector, and that anything; from here on nothing is run.
        for n in 0..size {
            let mut made = NewBytes(None);
            codec.write(records.get(n)?, &head, &mut made)?;
            if ffi::PyList_SetItem(list.get(), n as ffi::Py_ssize_t, made.0?.give()) != 0 {
                return None;
            }
            head.seq = head.seq.checked_add(1)?;
        }
        (size == records.len()).then(|| list.give())
    })
}

unsafe extern "C" fn py_encode_many_into(slf: Object, given: Given, count: ffi::Py_ssize_t, names: Object) -> Object {
    answer!(slf, given, count, names, encode_many_into, |codec, call| {
        let given = call.plain(5, 8)?;
        let mut head = head_of(&given[3..])?;
        let start = size(given[2], u32::MAX.into())? as usize;
        let records = Records::of(given[0])?;
        // All of it is made beside the buffer first, which stays as it is where anything is wrong.
        let mut data = codec.scratch.take();
        let mut made = Some(());
        for n in 0..records.len() {
            made = records.get(n).and_then(|record| codec.write(record, &head, &mut data));
            match (made, head.seq.checked_add(1)) {
                (Some(()), Some(seq)) => head.seq = seq,
                _ => {
                    made = None;
                    break;
                }
            }
        }
        let mut memory = Memory::of(given[1], true);
        let found = made.and(memory.as_mut()).and_then(|memory| {
            let end = start + data.bytes().len();
            memory.room().get_mut(start..end)?.copy_from_slice(data.bytes());
            Own::new(ffi::PyLong_FromSize_t(end)).map(Own::give)
        });
        data.clear(KEPT);
        codec.scratch.set(data);
        found
    })
}

unsafe extern "C" fn py_same_stream(slf: Object, given: Given, count: ffi::Py_ssize_t, names: Object) -> Object {
    answer!(slf, given, count, names, same_stream, |codec, call| {
        let given = call.plain(3, 3)?;
        let records = Records::of(given[0])?;
        let start = size(given[1], i64::MAX as u64)? as usize;
        let stop = size(given[2], records.len() as u64)? as usize;
        let shape = &codec.shapes[Kind::Trade.index()];
        let names = |n: usize| -> Option<[Object; 2]> {
            let record = records.get(n).filter(|record| shape.is(*record))?;
            let fields = Fields::new(record, shape); // the list holds the record
            Some([fields.object(2)?, fields.object(3)?])
        };
        let [venue, symbol] = names(start)?;
        let mut end = start + 1;
        while end < stop {
            let Some(found) = records.get(end).filter(|record| shape.is(*record)) else { break };
            let found = Fields::new(found, shape);
            let same = |field: usize, first: Object| {
                let other = found.object(field)?;
                Some(other == first || text(other)? == text(first)?)
            };
            if !(same(3, symbol)? && same(2, venue)?) {
                break;
            }
            end += 1;
        }
        Own::new(ffi::PyLong_FromSize_t(end)).map(Own::give)
    })
}

unsafe extern "C" fn py_decode(slf: Object, given: Given, count: ffi::Py_ssize_t, names: Object) -> Object {
    answer!(slf, given, count, names, decode, |codec, call| {
        let (given, names) = call.all();
        if given.len() != 3 || !(names.is_null() || ffi::PyTuple_Size(names) == 0) {
            return None; // without copies the sides of books are views: the twin makes them
        }
        let memory = Memory::of(given[0], false)?;
        wire_decode::decode(codec, memory.bytes(), given[1], given[2])
    })
}

unsafe extern "C" fn py_head(slf: Object, given: Given, count: ffi::Py_ssize_t, names: Object) -> Object {
    answer!(slf, given, count, names, head, |codec, call| {
        let given = call.plain(1, 1)?;
        let memory = Memory::of(given[0], false)?;
        wire_decode::head(codec, memory.bytes())
    })
}

/// A list or a tuple of records.
struct Records(Object, bool);

impl Records {
    unsafe fn of(object: Object) -> Option<Records> {
        unsafe {
            let list = ffi::PyList_CheckExact(object) != 0;
            (list || ffi::PyTuple_CheckExact(object) != 0).then_some(Records(object, list))
        }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: it is one of the two, alive, and the GIL is held.
        unsafe { (if self.1 { ffi::PyList_Size(self.0) } else { ffi::PyTuple_Size(self.0) }) as usize }
    }

    /// A record, borrowed from the list; none behind its end.
    #[inline(always)]
    fn get(&self, n: usize) -> Option<Object> {
        let n = n as ffi::Py_ssize_t;
        // SAFETY: as above; behind the end it is null, and the error is of no interest.
        unsafe {
            let found = if self.1 { ffi::PyList_GetItem(self.0, n) } else { ffi::PyTuple_GetItem(self.0, n) };
            if found.is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            Some(found)
        }
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<WireCodec>()
}
