//! Reads the fields of records, which are msgspec Structs, where they lie in the object.
//!
//! Where a field lies is found by looking: two samples are made whose fields hold objects that nothing else holds, and
//! their memory is searched for them. The class's attributes must be plain slots, which have one place in every
//! instance; a class of which this cannot be shown is refused, and only instances of exactly these classes are read.

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

use crate::wire_format::{Header, Kind};
use crate::wire_value::{float, int};

/// Fields of the longest record, rounded up.
const MOST: usize = 20;
/// Where the fields of an object may begin: behind the count of references and the type.
const OBJECT: usize = 2 * size_of::<usize>();

/// A class of records: what it is, where its fields lie, and the header of its messages.
pub struct Shape {
    pub class: Py<PyType>,
    pub kind: Kind,
    pub header: Header,
    pub fields: usize,
    at: [usize; MOST],
}

impl Shape {
    pub fn new(
        class: &Bound<'_, PyType>,
        header: Header,
        samples: [(Bound<'_, PyAny>, Bound<'_, PyTuple>); 2],
    ) -> PyResult<Shape> {
        let kind = Kind::of(header[4])
            .filter(|kind| usize::from(u16::from_le_bytes([header[2], header[3]])) == kind.end() - 14)
            .ok_or_else(|| {
                PyValueError::new_err("cmd-native has another layout of this message; install one version")
            })?;
        let size: usize = class.getattr("__basicsize__")?.extract()?;
        if class.getattr("__itemsize__")?.extract::<usize>()? != 0
            || class.getattr("__dictoffset__")?.extract::<isize>()? != 0
        {
            return Err(PyValueError::new_err("a record has a place for attributes of its own"));
        }
        let [first, second] = samples;
        let found = places(class, size, &first)?;
        if places(class, size, &second)? != found {
            return Err(PyValueError::new_err("the fields of a record have no fixed places"));
        }
        Ok(Shape { class: class.clone().unbind(), kind, header, fields: first.1.len(), at: found })
    }

    /// Whether an object is of exactly this class.
    #[inline(always)]
    pub fn is(&self, object: *mut ffi::PyObject) -> bool {
        // SAFETY: the object is alive.
        unsafe { ffi::Py_TYPE(object).cast() == self.class.as_ptr() }
    }
}

/// Where the values of a sample lie in it.
fn places(
    class: &Bound<'_, PyType>,
    size: usize,
    sample: &(Bound<'_, PyAny>, Bound<'_, PyTuple>),
) -> PyResult<[usize; MOST]> {
    let (object, values) = sample;
    if !object.get_type().is(class) || values.len() > MOST {
        return Err(PyValueError::new_err("no sample of the record"));
    }
    let mut found = [0; MOST];
    for (place, value) in found.iter_mut().zip(values.iter()) {
        let mut seen = 0;
        for at in (OBJECT..).step_by(size_of::<usize>()).take_while(|at| at + size_of::<usize>() <= size) {
            // SAFETY: an instance has at least `__basicsize__` bytes, and `at` is aligned as the object is.
            let held = unsafe { object.as_ptr().cast::<u8>().add(at).cast::<*mut ffi::PyObject>().read() };
            if held == value.as_ptr() {
                *place = at;
                seen += 1;
            }
        }
        if seen != 1 {
            return Err(PyValueError::new_err("a field of a record cannot be found in it"));
        }
    }
    Ok(found)
}

/// The fields of one record, by their places in the class. A value of another type than the field's is none.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    object: *mut ffi::PyObject,
    shape: &'a Shape,
}

impl<'a> Fields<'a> {
    /// # Safety
    /// `object` is of exactly this shape's class and lives for `'a`; the GIL is held for `'a` and no Python code runs.
    #[inline(always)]
    pub unsafe fn new(object: *mut ffi::PyObject, shape: &'a Shape) -> Fields<'a> {
        Fields { object, shape }
    }

    #[inline(always)]
    fn slot(self, field: usize) -> Option<*mut ffi::PyObject> {
        // SAFETY: the place was found in an instance of this class; a slot that was never set is null.
        let held = unsafe { self.object.cast::<u8>().add(self.shape.at[field]).cast::<*mut ffi::PyObject>().read() };
        (!held.is_null()).then_some(held)
    }

    /// The value itself, which the record holds.
    #[inline(always)]
    pub fn object(self, field: usize) -> Option<*mut ffi::PyObject> {
        self.slot(field)
    }

    #[inline(always)]
    pub fn int(self, field: usize) -> Option<i64> {
        // SAFETY: the object is alive, the GIL is held.
        unsafe { int(self.slot(field)?) }
    }

    /// An int that is not negative and at most `most`.
    #[inline(always)]
    pub fn small(self, field: usize, most: u32) -> Option<u32> {
        u32::try_from(self.int(field)?).ok().filter(|value| *value <= most)
    }

    /// An int, or none within for None.
    #[inline(always)]
    pub fn maybe(self, field: usize) -> Option<Option<i64>> {
        let value = self.slot(field)?;
        // SAFETY: as above.
        unsafe { if value == ffi::Py_None() { Some(None) } else { int(value).map(Some) } }
    }

    #[inline(always)]
    pub fn float(self, field: usize) -> Option<f64> {
        let value = self.slot(field)?;
        // SAFETY: as above.
        unsafe { float(value) }
    }

    #[inline(always)]
    pub fn text(self, field: usize) -> Option<&'a [u8]> {
        // SAFETY: the record holds the text for `'a`.
        unsafe { text(self.slot(field)?) }
    }

    #[inline(always)]
    pub fn bytes(self, field: usize) -> Option<&'a [u8]> {
        let value = self.slot(field)?;
        // SAFETY: the record holds the bytes for `'a`, and bytes never change.
        unsafe {
            if ffi::PyBytes_CheckExact(value) == 0 {
                return None;
            }
            Some(std::slice::from_raw_parts(ffi::PyBytes_AsString(value).cast(), ffi::PyBytes_Size(value) as usize))
        }
    }

    /// True or False as a number.
    #[inline(always)]
    pub fn truth(self, field: usize) -> Option<u8> {
        let value = self.slot(field)?;
        // SAFETY: both live for ever.
        unsafe {
            if value == ffi::Py_True() {
                Some(1)
            } else if value == ffi::Py_False() {
                Some(0)
            } else {
                None
            }
        }
    }

    /// The code of a word.
    #[inline(always)]
    pub fn code(self, field: usize, words: &Words) -> Option<u8> {
        let value = self.slot(field)?;
        if let Some((_, code)) = words.0.iter().find(|(word, _)| word.as_ptr() == value) {
            return Some(*code);
        }
        // SAFETY: as above.
        let found = unsafe { text(value)? };
        words.0.iter().find(|(word, _)| unsafe { text(word.as_ptr()) } == Some(found)).map(|(_, code)| *code)
    }
}

/// Words that are written as numbers.
pub struct Words(Vec<(Py<PyString>, u8)>);

impl Words {
    pub fn new(words: Vec<(Py<PyString>, u8)>) -> Words {
        Words(words)
    }

    /// The word of a code.
    #[inline]
    pub fn word(&self, code: u8) -> Option<&Py<PyString>> {
        self.0.iter().find(|(_, known)| *known == code).map(|(word, _)| word)
    }
}

/// The UTF-8 of a text, which the text keeps; none for what has none or is no text.
///
/// # Safety
/// `value` lives for `'a` and the GIL is held.
#[inline(always)]
pub unsafe fn text<'a>(value: *mut ffi::PyObject) -> Option<&'a [u8]> {
    unsafe {
        if ffi::PyUnicode_CheckExact(value) == 0 {
            return None;
        }
        let mut size: ffi::Py_ssize_t = 0;
        let data = ffi::PyUnicode_AsUTF8AndSize(value, &mut size);
        if data.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        Some(std::slice::from_raw_parts(data.cast(), size as usize))
    }
}
