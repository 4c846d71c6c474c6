//! Columns as Arrow's C data interface: memory changes hands, nothing is copied.
//!
//! The structs and who releases what are those of the interface's specification. Every array and every schema owns a
//! box with all that it points to; releasing one drops the box.

use std::ffi::{CString, c_char, c_void};
use std::ptr;

use crate::ingest_columns::Done;

const NULLABLE: i64 = 2;

/// A type and the names in it, as the interface has them.
#[repr(C)]
pub struct ArrowSchema {
    format: *const c_char,
    name: *const c_char,
    metadata: *const c_char,
    flags: i64,
    n_children: i64,
    children: *mut *mut ArrowSchema,
    dictionary: *mut ArrowSchema,
    release: Option<unsafe extern "C" fn(*mut ArrowSchema)>,
    private_data: *mut c_void,
}

/// Values, as the interface has them.
#[repr(C)]
pub struct ArrowArray {
    length: i64,
    null_count: i64,
    offset: i64,
    n_buffers: i64,
    n_children: i64,
    buffers: *mut *const c_void,
    children: *mut *mut ArrowArray,
    dictionary: *mut ArrowArray,
    release: Option<unsafe extern "C" fn(*mut ArrowArray)>,
    private_data: *mut c_void,
}

// SAFETY: what they point to is owned and has no tie to a thread.
unsafe impl Send for ArrowSchema {}
unsafe impl Send for ArrowArray {}

impl Drop for ArrowSchema {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: a struct whose `release` is set was not released yet and nobody else has it.
            unsafe { release(self) }
        }
    }
}

impl Drop for ArrowArray {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: as above.
            unsafe { release(self) }
        }
    }
}

/// What a schema points to. Dropping the children releases those that were not moved away.
struct SchemaParts {
    name: *mut c_char,
    pointers: Vec<*mut ArrowSchema>,
}

impl Drop for SchemaParts {
    fn drop(&mut self) {
        // SAFETY: it comes from a CString and is dropped here only.
        drop(unsafe { CString::from_raw(self.name) });
        for &child in &self.pointers {
            // SAFETY: each comes from a box and is dropped here only.
            drop(unsafe { Box::from_raw(child) });
        }
    }
}

struct ArrayParts {
    _values: Option<Done>,
    buffers: Vec<*const c_void>,
    pointers: Vec<*mut ArrowArray>,
}

impl Drop for ArrayParts {
    fn drop(&mut self) {
        for &child in &self.pointers {
            // SAFETY: each comes from a box and is dropped here only.
            drop(unsafe { Box::from_raw(child) });
        }
    }
}

unsafe extern "C" fn release_schema(schema: *mut ArrowSchema) {
    // SAFETY: the interface calls this once with a valid struct, whose parts come from a box.
    unsafe {
        drop(Box::from_raw((*schema).private_data.cast::<SchemaParts>()));
        (*schema).release = None;
    }
}

unsafe extern "C" fn release_array(array: *mut ArrowArray) {
    // SAFETY: the interface calls this once with a valid struct, whose parts come from a box.
    unsafe {
        drop(Box::from_raw((*array).private_data.cast::<ArrayParts>()));
        (*array).release = None;
    }
}

fn schema(format: &'static std::ffi::CStr, name: CString, flags: i64, children: Vec<ArrowSchema>) -> ArrowSchema {
    let pointers: Vec<_> = children.into_iter().map(|child| Box::into_raw(Box::new(child))).collect();
    let name = name.into_raw();
    let mut parts = Box::new(SchemaParts { name, pointers });
    ArrowSchema {
        format: format.as_ptr(),
        name,
        metadata: ptr::null(),
        flags,
        n_children: parts.pointers.len() as i64,
        children: parts.pointers.as_mut_ptr(),
        dictionary: ptr::null_mut(),
        release: Some(release_schema),
        private_data: Box::into_raw(parts).cast(),
    }
}

fn array(length: usize, values: Option<Done>, children: Vec<ArrowArray>) -> ArrowArray {
    let mut buffers: Vec<*const c_void> = vec![ptr::null()]; // no value is null
    match &values {
        Some(Done::Int(values)) => buffers.push(values.as_ptr().cast()),
        Some(Done::Float(values)) => buffers.push(values.as_ptr().cast()),
        Some(Done::Bool(bits)) => buffers.push(bits.as_ptr().cast()),
        Some(Done::Text(offsets, data)) => buffers.extend([offsets.as_ptr().cast(), data.as_ptr().cast()]),
        None => {}
    }
    let pointers: Vec<_> = children.into_iter().map(|child| Box::into_raw(Box::new(child))).collect();
    let mut parts = Box::new(ArrayParts { _values: values, buffers, pointers });
    ArrowArray {
        length: length as i64,
        null_count: 0,
        offset: 0,
        n_buffers: parts.buffers.len() as i64,
        n_children: parts.pointers.len() as i64,
        buffers: parts.buffers.as_mut_ptr(),
        children: parts.pointers.as_mut_ptr(),
        dictionary: ptr::null_mut(),
        release: Some(release_array),
        private_data: Box::into_raw(parts).cast(),
    }
}

/// A table of `rows` rows as one struct array with its schema. Names hold no zero byte.
pub fn export(rows: usize, columns: Vec<(CString, Done)>) -> (ArrowSchema, ArrowArray) {
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for (name, values) in columns {
        let format = match &values {
            Done::Int(_) => c"l",
            Done::Float(_) => c"g",
            Done::Bool(_) => c"b",
            Done::Text(..) => c"u",
        };
        fields.push(schema(format, name, NULLABLE, Vec::new()));
        arrays.push(array(rows, Some(values), Vec::new()));
    }
    (schema(c"+s", CString::default(), 0, fields), array(rows, None, arrays))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> (ArrowSchema, ArrowArray) {
        let columns = vec![
            (c"id".to_owned(), Done::Int(vec![1, 2])),
            (c"word".to_owned(), Done::Text(vec![0, 1, 3], b"abb".to_vec())),
        ];
        export(2, columns)
    }

    #[test]
    fn a_table_is_read_and_released() {
        let (schema, array) = table();
        // SAFETY: the structs were just made and live.
        unsafe {
            assert_eq!((schema.n_children, array.n_children, array.length), (2, 2, 2));
            let field = &**schema.children.add(1);
            assert_eq!(std::ffi::CStr::from_ptr(field.name), c"word");
            let ids = &**array.children;
            assert_eq!(*(*ids.buffers.add(1)).cast::<i64>().add(1), 2);
            let words = &**array.children.add(1);
            assert_eq!(*(*words.buffers.add(2)).cast::<u8>().add(2), b'b');
        }
    }

    #[test]
    fn what_was_moved_away_is_released_by_who_has_it() {
        let (schema, array) = table();
        // SAFETY: a consumer moves a struct by copying it and clearing `release` of the old one.
        let (child, whole) = unsafe {
            let from = *array.children.add(1);
            let child = ptr::read(from);
            (*from).release = None;
            let whole = ptr::read(&raw const array);
            (child, whole)
        };
        std::mem::forget(array);
        drop(whole);
        drop(schema);
        // SAFETY: the child is still alive.
        unsafe { assert_eq!(*(*child.buffers.add(2)).cast::<u8>(), b'a') };
    }
}
