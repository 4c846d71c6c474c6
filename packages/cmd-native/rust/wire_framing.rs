//! A received stream as frames: the calls of `cmd_server.framing`, which fall back to their pure twins.

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::wire_format::{Next, next};
use crate::wire_python::{Call, Definition, Items, Memory, Own, guard, size};

/// The functions and their twins.
#[pyclass(frozen, module = "cmd_native")]
pub struct WireFraming {
    split: Py<PyAny>,
    frames: Py<PyAny>,
}

static SPLIT: Definition =
    Definition::new(c"split", py_split, c"Find the whole frames in a buffer; see cmd_server.framing.");
static FRAMES: Definition =
    Definition::new(c"frames", py_frames, c"Return the whole frames in a buffer; see cmd_server.framing.");

#[pymethods]
impl WireFraming {
    #[new]
    fn new(split: Py<PyAny>, frames: Py<PyAny>) -> WireFraming {
        WireFraming { split, frames }
    }

    /// One of the functions; calling it costs no lookup and no tuple of arguments.
    fn function<'py>(slf: &Bound<'py, Self>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        match name {
            "split" => SPLIT.bind(slf),
            "frames" => FRAMES.bind(slf),
            _ => Err(PyValueError::new_err("no such function")),
        }
    }
}

type Object = *mut ffi::PyObject;
type Given = *const Object;

unsafe extern "C" fn py_split(slf: Object, given: Given, count: ffi::Py_ssize_t, names: Object) -> Object {
    // SAFETY: Python calls with the GIL held, with the object that `function` gave and `count` arguments.
    guard(|| unsafe {
        let call = Call::new(given, count, names);
        let found = walk(&call, |list, _, start, end| {
            let mut pair = Items::new(2)?;
            pair.int(start as i64)?;
            pair.int(end as i64)?;
            append(list, pair.done())
        });
        found.unwrap_or_else(|| call.pure(&framing(slf).split))
    })
}

unsafe extern "C" fn py_frames(slf: Object, given: Given, count: ffi::Py_ssize_t, names: Object) -> Object {
    // SAFETY: as above.
    guard(|| unsafe {
        let call = Call::new(given, count, names);
        let found = walk(&call, |list, frame, _, _| {
            let made = ffi::PyBytes_FromStringAndSize(frame.as_ptr().cast(), frame.len() as ffi::Py_ssize_t);
            append(list, Own::new(made)?)
        });
        found.unwrap_or_else(|| call.pure(&framing(slf).frames))
    })
}

/// Call `add` with every whole frame of a buffer; the list, and up to where bytes are consumed.
///
/// # Safety
/// The GIL is held, the arguments of the call are alive: buffer, end, limit, and perhaps start.
#[inline(always)]
unsafe fn walk(call: &Call, add: impl Fn(&Own, &[u8], usize, usize) -> Option<()>) -> Option<Object> {
    unsafe {
        let given = call.plain(3, 4)?;
        let memory = Memory::of(given[0], false)?;
        let end = size(given[1], memory.bytes().len() as u64)? as usize;
        let limit = size(given[2], i64::MAX as u64)? as usize;
        let mut start = given.get(3).map_or(Some(0), |value| size(*value, end as u64))? as usize;
        let list = Own::new(ffi::PyList_New(0))?;
        loop {
            let data = &memory.bytes()[start..end];
            match next(data, limit) {
                Next::Whole(size) => {
                    add(&list, &data[..size], start, start + size)?;
                    start += size;
                }
                Next::More => break,
                Next::Bad => return None,
            }
        }
        let mut pair = Items::new(2)?;
        pair.push(list.give())?;
        pair.int(start as i64)?;
        Some(pair.done().give())
    }
}

unsafe fn append(list: &Own, item: Own) -> Option<()> {
    // SAFETY: the list is alive, the GIL is held.
    unsafe { (ffi::PyList_Append(list.get(), item.get()) == 0).then_some(()) }
}

/// The object that a function was bound to.
unsafe fn framing<'a>(slf: Object) -> &'a WireFraming {
    // SAFETY: `function` bound it, and the function keeps it alive; the class is frozen.
    unsafe {
        let object = Borrowed::<PyAny>::from_ptr(Python::assume_attached(), slf);
        let found: &WireFraming = object.cast_unchecked::<WireFraming>().get();
        std::mem::transmute::<&WireFraming, &'a WireFraming>(found)
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<WireFraming>()
}
