//! Small things that the calls of the wire codec need of Python: arguments, buffers, results, and the way to the pure twin.

use std::ffi::{CStr, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::wire_value::int;

/// A definition of a function, which lives for ever, as Python asks of it.
pub struct Definition(ffi::PyMethodDef);
// SAFETY: it is never changed.
unsafe impl Sync for Definition {}

impl Definition {
    pub const fn new(name: &'static CStr, call: ffi::PyCFunctionFastWithKeywords, doc: &'static CStr) -> Definition {
        Definition(ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: call },
            ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
            ml_doc: doc.as_ptr(),
        })
    }

    /// The function with an object that it gets as its first argument.
    pub fn bind<'py, T>(&'static self, object: &Bound<'py, T>) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: the definition is static; Python keeps a reference to the object in the function.
        unsafe {
            let definition = (&raw const self.0).cast_mut();
            let made = ffi::PyCFunction_NewEx(definition, object.as_ptr(), std::ptr::null_mut());
            Bound::from_owned_ptr_or_err(object.py(), made)
        }
    }
}

/// A call as Python makes it.
pub struct Call {
    given: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
}

impl Call {
    /// # Safety
    /// The arguments are those of a call in the making, with the GIL held.
    pub unsafe fn new(given: *const *mut ffi::PyObject, count: ffi::Py_ssize_t, names: *mut ffi::PyObject) -> Call {
        Call { given, count: count as usize, names }
    }

    /// The arguments by position where there are none by name and `least` to `most` of them.
    #[inline(always)]
    pub fn plain(&self, least: usize, most: usize) -> Option<&[*mut ffi::PyObject]> {
        if !self.names.is_null() || self.count < least || self.count > most {
            return None;
        }
        // SAFETY: Python gave so many.
        Some(unsafe { std::slice::from_raw_parts(self.given, self.count) })
    }

    /// The arguments by position, and the names of those behind them.
    pub fn all(&self) -> (&[*mut ffi::PyObject], *mut ffi::PyObject) {
        // SAFETY: Python gave so many.
        (unsafe { std::slice::from_raw_parts(self.given, self.count) }, self.names)
    }

    /// Call the pure twin with the same arguments; what it says is the answer.
    ///
    /// # Safety
    /// The GIL is held, the arguments are alive.
    #[cold]
    pub unsafe fn pure(&self, twin: &Py<PyAny>) -> *mut ffi::PyObject {
        unsafe {
            if !ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_Clear();
            }
            let named = if self.names.is_null() { 0 } else { ffi::PyTuple_Size(self.names) as usize };
            let arguments = ffi::PyTuple_New(self.count as ffi::Py_ssize_t);
            if arguments.is_null() {
                return std::ptr::null_mut();
            }
            for n in 0..self.count {
                let value = *self.given.add(n);
                ffi::Py_IncRef(value);
                ffi::PyTuple_SetItem(arguments, n as ffi::Py_ssize_t, value);
            }
            let names = if named > 0 { ffi::PyDict_New() } else { std::ptr::null_mut() };
            for n in 0..if names.is_null() { 0 } else { named } {
                let name = ffi::PyTuple_GetItem(self.names, n as ffi::Py_ssize_t);
                ffi::PyDict_SetItem(names, name, *self.given.add(self.count + n));
            }
            let answer = ffi::PyObject_Call(twin.as_ptr(), arguments, names);
            ffi::Py_DecRef(arguments);
            ffi::Py_XDECREF(names);
            answer
        }
    }
}

/// Run a call; a panic in it, which would be a defect, becomes an exception instead of the end of the process.
#[inline(always)]
pub fn guard(call: impl FnOnce() -> *mut ffi::PyObject) -> *mut ffi::PyObject {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        // SAFETY: every call comes from Python with the GIL held.
        let py = unsafe { Python::assume_attached() };
        PyRuntimeError::new_err("a defect in cmd-native; set CMD_PURE=1 and report it").restore(py);
        std::ptr::null_mut()
    })
}

/// An int that is not negative and at most `most`; exactly an int, nothing that could be taken for one.
///
/// # Safety
/// `value` is alive and the GIL is held.
#[inline(always)]
pub unsafe fn size(value: *mut ffi::PyObject, most: u64) -> Option<u64> {
    unsafe { u64::try_from(int(value)?).ok().filter(|size| *size <= most) }
}

/// An int of 64 bits without a sign.
///
/// # Safety
/// `value` is alive and the GIL is held.
#[inline(always)]
pub unsafe fn unsigned(value: *mut ffi::PyObject) -> Option<u64> {
    unsafe {
        if let Some(found) = int(value) {
            return u64::try_from(found).ok();
        }
        if ffi::PyLong_CheckExact(value) == 0 {
            return None;
        }
        let found = ffi::PyLong_AsUnsignedLongLong(value);
        if found == u64::MAX && !ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        Some(found)
    }
}

/// The memory of a bytes, a bytearray or a memoryview of single bytes, held until this is dropped.
pub struct Memory {
    data: *mut u8,
    size: usize,
    view: Option<ffi::Py_buffer>,
}

impl Memory {
    /// None where it is something else, or may not be written although `writable` asks for it.
    ///
    /// # Safety
    /// `object` is alive as long as this is, and the GIL is held; nothing is made or called while it is written to.
    #[inline(always)]
    pub unsafe fn of(object: *mut ffi::PyObject, writable: bool) -> Option<Memory> {
        unsafe {
            // A bytearray that is read is held like a view: making objects may run the collector, and that anything.
            if writable && ffi::PyByteArray_CheckExact(object) != 0 {
                let size = ffi::PyByteArray_Size(object) as usize;
                return Some(Memory { data: ffi::PyByteArray_AsString(object).cast(), size, view: None });
            }
            if ffi::PyBytes_CheckExact(object) != 0 {
                let size = ffi::PyBytes_Size(object) as usize;
                let data = ffi::PyBytes_AsString(object).cast();
                return (!writable).then_some(Memory { data, size, view: None });
            }
            Memory::view(object, writable)
        }
    }

    #[inline(never)]
    unsafe fn view(object: *mut ffi::PyObject, writable: bool) -> Option<Memory> {
        unsafe {
            if ffi::PyMemoryView_Check(object) == 0 && ffi::PyByteArray_CheckExact(object) == 0 {
                return None;
            }
            let mut view = std::mem::zeroed::<ffi::Py_buffer>();
            let wanted: c_int = ffi::PyBUF_FORMAT | ffi::PyBUF_ND | if writable { ffi::PyBUF_WRITABLE } else { 0 };
            if ffi::PyObject_GetBuffer(object, &mut view, wanted) != 0 {
                ffi::PyErr_Clear();
                return None;
            }
            let found = Memory { data: view.buf.cast(), size: view.len as usize, view: Some(view) };
            let plain = view.ndim == 1 && (view.format.is_null() || CStr::from_ptr(view.format) == c"B");
            plain.then_some(found) // else it is let go
        }
    }

    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: Python said so; an empty buffer may have no address.
        if self.size == 0 { &[] } else { unsafe { std::slice::from_raw_parts(self.data, self.size) } }
    }

    /// To be written to; only of what `of` was asked to be writable.
    #[inline(always)]
    pub fn room(&mut self) -> &mut [u8] {
        // SAFETY: as above, and it may be written.
        if self.size == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(self.data, self.size) } }
    }
}

impl Drop for Memory {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(view) = &mut self.view {
            // SAFETY: it was got here, and the GIL is held.
            unsafe { ffi::PyBuffer_Release(view) }
        }
    }
}

/// An object that belongs to whoever holds this.
pub struct Own(*mut ffi::PyObject);

impl Own {
    /// None for null, with the error that Python may have set still in place.
    #[inline(always)]
    pub fn new(object: *mut ffi::PyObject) -> Option<Own> {
        (!object.is_null()).then_some(Own(object))
    }

    #[inline(always)]
    pub fn get(&self) -> *mut ffi::PyObject {
        self.0
    }

    /// Hand the object over.
    #[inline(always)]
    pub fn give(self) -> *mut ffi::PyObject {
        let object = self.0;
        std::mem::forget(self);
        object
    }
}

impl Drop for Own {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: it is ours, and the GIL is held.
        unsafe { ffi::Py_DecRef(self.0) }
    }
}

/// A tuple in the making.
pub struct Items {
    tuple: Own,
    next: ffi::Py_ssize_t,
}

impl Items {
    /// # Safety
    /// The GIL is held.
    #[inline(always)]
    pub unsafe fn new(size: usize) -> Option<Items> {
        Some(Items { tuple: Own::new(unsafe { ffi::PyTuple_New(size as ffi::Py_ssize_t) })?, next: 0 })
    }

    /// A tuple of a class of its own, such as a NamedTuple.
    ///
    /// # Safety
    /// The GIL is held; `class` is a subclass of tuple that adds nothing to its instances.
    #[inline(always)]
    pub unsafe fn of(class: *mut ffi::PyObject, size: usize) -> Option<Items> {
        let made = unsafe { ffi::PyType_GenericAlloc(class.cast(), size as ffi::Py_ssize_t) };
        Some(Items { tuple: Own::new(made)?, next: 0 })
    }

    /// Append an object that is handed over; null is none.
    #[inline(always)]
    pub fn push(&mut self, object: *mut ffi::PyObject) -> Option<()> {
        if object.is_null() {
            return None;
        }
        // SAFETY: the tuple is new and nobody else's; SetItem takes the reference.
        unsafe { (ffi::PyTuple_SetItem(self.tuple.0, self.next, object) == 0).then(|| self.next += 1) }
    }

    /// Append an object that stays its owner's.
    ///
    /// # Safety
    /// `object` is alive and the GIL is held.
    #[inline(always)]
    pub unsafe fn share(&mut self, object: *mut ffi::PyObject) -> Option<()> {
        unsafe { ffi::Py_IncRef(object) };
        self.push(object)
    }

    #[inline(always)]
    pub fn int(&mut self, value: i64) -> Option<()> {
        // SAFETY: the GIL is held as long as there are items.
        self.push(unsafe { ffi::PyLong_FromLongLong(value) })
    }

    #[inline(always)]
    pub fn float(&mut self, value: f64) -> Option<()> {
        // SAFETY: as above.
        self.push(unsafe { ffi::PyFloat_FromDouble(value) })
    }

    /// Append a text; none where it is no UTF-8.
    #[inline(always)]
    pub fn text(&mut self, value: &[u8]) -> Option<()> {
        self.push(string(value))
    }

    #[inline(always)]
    pub fn bytes(&mut self, value: &[u8]) -> Option<()> {
        // SAFETY: as above.
        self.push(unsafe { ffi::PyBytes_FromStringAndSize(value.as_ptr().cast(), value.len() as ffi::Py_ssize_t) })
    }

    /// The tuple, once as many were appended as were announced.
    #[inline(always)]
    pub fn done(self) -> Own {
        self.tuple
    }
}

/// A new text; null where it is no UTF-8.
#[inline(always)]
pub fn string(value: &[u8]) -> *mut ffi::PyObject {
    // SAFETY: every caller holds the GIL.
    unsafe { ffi::PyUnicode_DecodeUTF8(value.as_ptr().cast(), value.len() as ffi::Py_ssize_t, std::ptr::null()) }
}
