//! The function that Python calls for a record: arguments to words, words to a slot.

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::log_python::{LogRing, Memory};
use crate::log_record::{Kind, MAX_FIELDS, Word};

/// What an emitter writes to; changed by `bind` only, which holds the GIL as every call does.
struct Target {
    memory: Option<Arc<Memory>>,
    full: Option<Py<PyAny>>,
}

/// An event on its way into a ring; `function` gives what is called.
#[pyclass(frozen, module = "cmd_native")]
pub struct LogEmitter {
    number: u32,
    kinds: Box<[Kind]>,
    explain: Py<PyAny>,
    target: UnsafeCell<Target>,
}

// SAFETY: `target` is read and written under the GIL only, and no reference to it lives on while Python code runs.
// The module does not declare that it runs without the GIL.
unsafe impl Send for LogEmitter {}
unsafe impl Sync for LogEmitter {}

/// A definition that lives for ever, as Python asks of it.
struct Definition(ffi::PyMethodDef);
// SAFETY: it is never changed.
unsafe impl Sync for Definition {}

static EMIT: Definition = Definition(ffi::PyMethodDef {
    ml_name: c"emit".as_ptr(),
    ml_meth: ffi::PyMethodDefPointer { PyCFunctionFast: emit },
    ml_flags: ffi::METH_FASTCALL,
    ml_doc: c"Log the event with the values of its fields, in order.".as_ptr(),
});

#[pymethods]
impl LogEmitter {
    #[new]
    fn new(number: u32, fields: Vec<(String, u16)>, explain: Py<PyAny>) -> PyResult<LogEmitter> {
        let kinds: Option<Box<[Kind]>> = fields.iter().map(|(kind, limit)| Kind::parse(kind, *limit)).collect();
        match kinds {
            Some(kinds) if kinds.len() <= MAX_FIELDS && number != 0 => {
                Ok(LogEmitter { number, kinds, explain, target: UnsafeCell::new(Target { memory: None, full: None }) })
            }
            _ => Err(PyValueError::new_err("not the fields of an event")),
        }
    }

    /// The function itself: calling it costs no lookup and no tuple of arguments.
    fn function(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let py = slf.py();
        // SAFETY: the definition is static; Python keeps a reference to `slf` in the function.
        unsafe {
            let definition = (&raw const EMIT.0).cast_mut();
            let made = ffi::PyCFunction_NewEx(definition, slf.as_ptr(), std::ptr::null_mut());
            Bound::from_owned_ptr_or_err(py, made)
        }
    }

    /// Connect with a ring, and with what is called when it is full: true for "try again". None: log nothing.
    #[pyo3(signature = (ring, full))]
    fn bind(&self, ring: Option<&LogRing>, full: Option<Py<PyAny>>) -> PyResult<()> {
        let memory = match ring {
            Some(ring) => Some(ring.memory()?),
            None => None,
        };
        if let Some(memory) = &memory {
            let size: usize = self.kinds.iter().map(|kind| kind.size()).sum();
            if size + 16 > memory.ring.slot() {
                return Err(PyValueError::new_err("the event does not fit into a slot of the ring"));
            }
        }
        // SAFETY: the GIL is held; the old target is dropped after the new one is in place, since that may run Python code.
        let old = unsafe { std::mem::replace(&mut *self.target.get(), Target { memory, full }) };
        drop(old);
        Ok(())
    }
}

unsafe extern "C" fn emit(
    slf: *mut ffi::PyObject,
    arguments: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: Python calls with the GIL held, with the object that `function` gave and `count` arguments.
    unsafe {
        let py = Python::assume_attached();
        let object = Borrowed::<PyAny>::from_ptr(py, slf);
        let emitter: &LogEmitter = object.cast_unchecked::<LogEmitter>().get();
        if (*emitter.target.get()).memory.is_none() {
            return ffi::Py_NewRef(ffi::Py_None());
        }
        let given = std::slice::from_raw_parts(arguments, count as usize);
        let mut words = [const { MaybeUninit::<Word>::uninit() }; MAX_FIELDS];
        let mut made = Owned(std::ptr::null_mut());
        if given.len() != emitter.kinds.len() {
            return explain(py, emitter, given);
        }
        for ((kind, value), word) in emitter.kinds.iter().zip(given).zip(&mut words) {
            match convert(*kind, *value, &mut made) {
                Some(found) => word.write(found),
                None => return explain(py, emitter, given),
            };
        }
        let words = std::slice::from_raw_parts(words.as_ptr().cast::<Word>(), emitter.kinds.len());
        // Converting and asking for room may have run Python code, which may have closed the log.
        while let Some(memory) = &(*emitter.target.get()).memory {
            if !memory.ring.full() {
                memory.ring.write(emitter.number, &emitter.kinds, words);
                break;
            }
            let Some(full) = (*emitter.target.get()).full.as_ref().map(|f| f.clone_ref(py)) else { break };
            match full.bind(py).call0().and_then(|again| again.is_truthy()) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    error.restore(py);
                    return std::ptr::null_mut();
                }
            }
        }
        ffi::Py_NewRef(ffi::Py_None())
    }
}

/// Texts that had to be encoded anew, as a list, until they are written.
struct Owned(*mut ffi::PyObject);

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it was made here, and the GIL is held.
            unsafe { ffi::Py_DecRef(self.0) };
        }
    }
}

/// The bits of a value, or None with a Python error or none set: the value does not fit.
#[inline(always)]
unsafe fn convert(kind: Kind, value: *mut ffi::PyObject, made: &mut Owned) -> Option<Word> {
    unsafe {
        Some(match kind {
            Kind::F8 => {
                let number = ffi::PyFloat_AsDouble(value);
                if number == -1.0 && !ffi::PyErr_Occurred().is_null() {
                    return None;
                }
                Word { bits: number.to_bits() }
            }
            Kind::I8 => Word { bits: signed(value)? as u64 },
            Kind::I4 => Word { bits: i64::from(i32::try_from(signed(value)?).ok()?) as u64 },
            Kind::I2 => Word { bits: i64::from(i16::try_from(signed(value)?).ok()?) as u64 },
            Kind::I1 => Word { bits: i64::from(i8::try_from(signed(value)?).ok()?) as u64 },
            Kind::U8 => Word { bits: unsigned(value)? },
            Kind::U4 => Word { bits: u64::from(u32::try_from(signed(value)?).ok()?) },
            Kind::U2 => Word { bits: u64::from(u16::try_from(signed(value)?).ok()?) },
            Kind::U1 => Word { bits: u64::from(u8::try_from(signed(value)?).ok()?) },
            Kind::Bool => match ffi::PyObject_IsTrue(value) {
                -1 => return None,
                truth => Word { bits: truth as u64 },
            },
            Kind::Text(_) => text(value, made)?,
        })
    }
}

/// An int, or what says by `__index__` that it is one.
#[inline(always)]
unsafe fn signed(value: *mut ffi::PyObject) -> Option<i64> {
    unsafe {
        let number = ffi::PyLong_AsLongLong(value);
        if number == -1 && !ffi::PyErr_Occurred().is_null() { None } else { Some(number) }
    }
}

unsafe fn unsigned(value: *mut ffi::PyObject) -> Option<u64> {
    unsafe {
        if ffi::PyLong_Check(value) == 0 {
            let index = ffi::PyNumber_Index(value);
            if index.is_null() {
                return None;
            }
            let found = unsigned(index);
            ffi::Py_DecRef(index);
            return found;
        }
        let number = ffi::PyLong_AsUnsignedLongLong(value);
        if number == u64::MAX && !ffi::PyErr_Occurred().is_null() { None } else { Some(number) }
    }
}

/// Where a text's UTF-8 lies: in the object itself for ASCII, in a cache of it for the rest.
unsafe fn text(value: *mut ffi::PyObject, made: &mut Owned) -> Option<Word> {
    unsafe {
        if ffi::PyUnicode_Check(value) as c_int == 0 {
            return None;
        }
        let mut size: ffi::Py_ssize_t = 0;
        let data = ffi::PyUnicode_AsUTF8AndSize(value, &mut size);
        if !data.is_null() {
            return Some(Word { text: (data.cast(), size as usize) });
        }
        ffi::PyErr_Clear(); // half of a surrogate pair: what has no UTF-8 becomes a question mark
        let bytes = ffi::PyUnicode_AsEncodedString(value, c"utf-8".as_ptr(), c"replace".as_ptr());
        if bytes.is_null() {
            return None;
        }
        if made.0.is_null() {
            made.0 = ffi::PyList_New(0);
        }
        let kept = !made.0.is_null() && ffi::PyList_Append(made.0, bytes) == 0;
        ffi::Py_DecRef(bytes);
        if !kept {
            return None;
        }
        Some(Word { text: (ffi::PyBytes_AsString(bytes).cast(), ffi::PyBytes_Size(bytes) as usize) })
    }
}

/// Lets Python say what is wrong with the values, in the same words as the pure twin.
#[cold]
unsafe fn explain(py: Python<'_>, emitter: &LogEmitter, given: &[*mut ffi::PyObject]) -> *mut ffi::PyObject {
    let cause = PyErr::take(py);
    // SAFETY: the arguments are alive as long as the call.
    let values: Vec<Bound<'_, PyAny>> = given.iter().map(|v| unsafe { Bound::from_borrowed_ptr(py, *v) }).collect();
    let told = pyo3::types::PyTuple::new(py, values)
        .and_then(|values| emitter.explain.bind(py).call1((cause.map(|c| c.into_value(py)), values)));
    match told {
        Ok(_) => PyValueError::new_err("the values do not fit the event").restore(py),
        Err(error) => error.restore(py),
    }
    std::ptr::null_mut()
}
