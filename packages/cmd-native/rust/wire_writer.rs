//! A writer of one stream's frames into one buffer: everything that does not change from record to record is known.

use std::cell::Cell;
use std::ffi::CStr;

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::wire::{Place, WireCodec};
use crate::wire_format::Head;
use crate::wire_python::{Own, guard};

/// The writer; its buffer keeps its length as long as this lives.
#[pyclass(frozen, module = "cmd_native")]
pub struct WireWriter {
    codec: Py<WireCodec>,
    buffer: Py<PyAny>,
    view: Held,
    head: Cell<Head>,
    end: Cell<usize>,
}

/// A buffer that was got, and is released with the writer.
struct Held(Box<ffi::Py_buffer>);

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: it was got by `new`; writers are dropped with the GIL held, as every object is.
        Python::attach(|_| unsafe { ffi::PyBuffer_Release(&mut *self.0) });
    }
}

// SAFETY: everything in it is used with the GIL held only. The module does not declare that it runs without the GIL.
unsafe impl Send for WireWriter {}
unsafe impl Sync for WireWriter {}

struct Definition(ffi::PyMethodDef);
// SAFETY: it is never changed.
unsafe impl Sync for Definition {}

const DOC: &CStr = c"Write a record as the next frame, return its length in bytes; see cmd_server.codec.";
static WRITE: Definition = Definition(ffi::PyMethodDef {
    ml_name: c"write".as_ptr(),
    ml_meth: ffi::PyMethodDefPointer { PyCFunction: write },
    ml_flags: ffi::METH_O,
    ml_doc: DOC.as_ptr(),
});

impl WireWriter {
    /// None where the buffer is none of single bytes that may be written.
    pub fn new(codec: Py<WireCodec>, buffer: &Bound<'_, PyAny>, head: Head, end: usize) -> Option<WireWriter> {
        if buffer.is_instance_of::<PyBytes>() {
            return None;
        }
        // SAFETY: the GIL is held; the view is released where it does not fit, and by `Held` else.
        unsafe {
            let mut view = Box::new(std::mem::zeroed::<ffi::Py_buffer>());
            let wanted = ffi::PyBUF_FORMAT | ffi::PyBUF_ND | ffi::PyBUF_WRITABLE;
            if ffi::PyObject_GetBuffer(buffer.as_ptr(), &mut *view, wanted) != 0 {
                ffi::PyErr_Clear();
                return None;
            }
            let held = Held(view);
            if held.0.ndim != 1 || !(held.0.format.is_null() || CStr::from_ptr(held.0.format) == c"B") {
                return None;
            }
            let buffer = buffer.clone().unbind();
            Some(WireWriter { codec, buffer, view: held, head: Cell::new(head), end: Cell::new(end) })
        }
    }

    /// The slow way: the twin of the codec writes the frame, or says why not.
    #[cold]
    fn other(&self, py: Python<'_>, record: Bound<'_, PyAny>) -> PyResult<usize> {
        let (head, start) = (self.head.get(), self.end.get());
        let codec = self.codec.get();
        let call = (record, &self.buffer, start, head.instrument, head.seq, head.view, head.flags, head.state);
        let end: usize = codec.twin_of_encode_into(py).call1(call)?.extract()?;
        self.advance(end);
        Ok(end - start)
    }

    #[inline(always)]
    fn advance(&self, end: usize) {
        let mut head = self.head.get();
        head.seq = head.seq.wrapping_add(1); // behind the last of all comes 0, which belongs to no stream
        self.head.set(head);
        self.end.set(end);
    }
}

#[pymethods]
impl WireWriter {
    /// The function that writes; calling it costs no lookup and no tuple of arguments.
    fn function<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: the definition is static; Python keeps a reference to the writer in the function.
        unsafe {
            let definition = (&raw const WRITE.0).cast_mut();
            let made = ffi::PyCFunction_NewEx(definition, slf.as_ptr(), std::ptr::null_mut());
            Bound::from_owned_ptr_or_err(slf.py(), made)
        }
    }

    /// Where the last frame ends.
    #[getter]
    fn end(&self) -> usize {
        self.end.get()
    }

    /// The sequence of the next frame.
    #[getter]
    fn seq(&self) -> u64 {
        self.head.get().seq
    }

    /// Go on writing at another place.
    fn rewind(&self, end: usize) -> PyResult<()> {
        if end > self.view.0.len as usize {
            return Err(PyValueError::new_err("behind the end of the buffer"));
        }
        self.end.set(end);
        Ok(())
    }
}

unsafe extern "C" fn write(slf: *mut ffi::PyObject, record: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: Python calls with the GIL held, with the object that `function` gave; the buffer is held, and nothing is
    // made or called while it is written to.
    guard(|| unsafe {
        let py = Python::assume_attached();
        let object = Borrowed::<PyAny>::from_ptr(py, slf);
        let writer: &WireWriter = object.cast_unchecked::<WireWriter>().get();
        let view = &writer.view.0;
        let start = writer.end.get();
        if view.len > 0 {
            let room = std::slice::from_raw_parts_mut(view.buf.cast::<u8>(), view.len as usize);
            let mut place = Place { room, start, end: start };
            if writer.codec.get().write(record, &writer.head.get(), &mut place).is_some() {
                let end = place.end;
                writer.advance(end);
                return Own::new(ffi::PyLong_FromSize_t(end - start)).map_or(std::ptr::null_mut(), Own::give);
            }
        }
        match writer.other(py, Bound::from_borrowed_ptr(py, record)) {
            Ok(size) => ffi::PyLong_FromSize_t(size),
            Err(error) => {
                error.restore(py);
                std::ptr::null_mut()
            }
        }
    })
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<WireWriter>()
}
