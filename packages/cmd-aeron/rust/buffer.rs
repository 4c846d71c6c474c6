//! Contiguous memory of Python objects, of any element type.
use std::ffi::c_int;
use std::mem::MaybeUninit;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

/// The memory of `bytes` that are not empty and shorter than `below`: they never change, so that nothing has to be held
/// but the object. By far the most common, and half as dear as a buffer that is held.
pub fn plain<'a>(object: &'a Bound<'_, PyAny>, below: usize) -> Option<&'a [u8]> {
    let bytes = object.cast_exact::<PyBytes>().ok()?.as_bytes();
    (!bytes.is_empty() && bytes.len() < below).then_some(bytes)
}

/// An item of a sequence; of a list without an index object.
pub fn item<'py>(items: &Bound<'py, PyAny>, index: usize) -> PyResult<Bound<'py, PyAny>> {
    match items.cast_exact::<PyList>() {
        Ok(list) => list.get_item(index),
        Err(_) => items.get_item(index),
    }
}

/// A buffer that is held; released on drop, which needs the GIL and may run Python code.
pub struct Held(Box<ffi::Py_buffer>);

// SAFETY: the memory is pinned until the release, whichever thread reads or writes it.
unsafe impl Send for Held {}
unsafe impl Sync for Held {}

impl Held {
    fn get(object: &Bound<'_, PyAny>, flags: c_int) -> PyResult<Self> {
        let mut view = Box::new(MaybeUninit::<ffi::Py_buffer>::zeroed());
        // SAFETY: filled by Python, or an exception is set.
        unsafe {
            if ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), flags) != 0 {
                return Err(PyErr::fetch(object.py()));
            }
            Ok(Held(Box::from_raw(Box::into_raw(view).cast())))
        }
    }

    /// For reading.
    pub fn read(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::get(object, ffi::PyBUF_SIMPLE)
    }

    /// For writing; BufferError where the object is read-only.
    pub fn write(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::get(object, ffi::PyBUF_WRITABLE)
    }

    pub fn len(&self) -> usize {
        self.0.len.max(0) as usize
    }

    /// Where it begins; never null.
    pub fn pointer(&self) -> *mut u8 {
        if self.0.buf.is_null() {
            std::ptr::NonNull::dangling().as_ptr()
        } else {
            self.0.buf.cast()
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        Python::attach(|_| {
            // SAFETY: got by PyObject_GetBuffer, released once.
            unsafe { ffi::PyBuffer_Release(&mut *self.0) };
        });
    }
}
