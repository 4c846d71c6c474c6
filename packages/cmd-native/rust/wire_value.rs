//! The value of an int or a float, read where it lies in the object, where that has been shown to be right.
//!
//! The stable interface has a call for it, which costs twice as much as all the rest of writing a field. So once per process
//! known numbers are read in each of the ways that CPython has laid them out; where none of them gives back all of
//! the numbers, the calls are used.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use pyo3::ffi;

/// The ways to lay an int out: not known, the number of digits with the sign, or that beside a tag of three bits.
const CALL: u8 = 0;
const SIZE: u8 = 1;
const TAG: u8 = 2;

static INTS: AtomicU8 = AtomicU8::new(CALL);
static FLOATS: AtomicU8 = AtomicU8::new(CALL);
static FOUND: OnceLock<(u8, u8)> = OnceLock::new();

const BEHIND: usize = 2 * size_of::<usize>(); // the count of references and the type
const DIGIT: u32 = 30; // bits of a digit

/// Look how numbers lie in memory; once is enough.
///
/// # Safety
/// The GIL is held.
pub unsafe fn look() {
    FOUND.get_or_init(|| {
        if !cfg!(all(target_pointer_width = "64", target_endian = "little")) {
            return (CALL, CALL);
        }
        let (mut ints, mut floats) = (CALL, CALL);
        let mut known: Vec<i64> = vec![0, 1_790_000_000_123_456_789, -1_790_000_000_123_456_789];
        for bits in 0..63 {
            let power = 1_i64 << bits;
            known.extend([power, -power, power - 1, 1 - power, power + 12_345.min(power - 1)]);
        }
        known.push(i64::MAX);
        for way in [SIZE, TAG] {
            // SAFETY: each int is ours while it is read; an int has a word and a digit behind its type at least, and
            // more digits where the word says so.
            let right = known.iter().all(|number| unsafe {
                let object = ffi::PyLong_FromLongLong(*number);
                if object.is_null() {
                    ffi::PyErr_Clear();
                    return false;
                }
                let found = read(object, way);
                ffi::Py_DecRef(object);
                found == Some(*number)
            });
            if right {
                ints = way;
            }
        }
        let known = [0.0, -0.0, 1.5, -2.25, f64::INFINITY, f64::MIN_POSITIVE, f64::MAX, 61_837.12];
        // SAFETY: as above: a float has its value somewhere behind its type.
        let right = known.iter().all(|number: &f64| unsafe {
            let object = ffi::PyFloat_FromDouble(*number);
            if object.is_null() {
                ffi::PyErr_Clear();
                return false;
            }
            let found = object.cast::<u8>().add(BEHIND).cast::<f64>().read();
            ffi::Py_DecRef(object);
            found.to_bits() == number.to_bits()
        });
        if right {
            floats = SIZE;
        }
        INTS.store(ints, Ordering::Relaxed);
        FLOATS.store(floats, Ordering::Relaxed);
        (ints, floats)
    });
}

/// An int of at most three digits that is not the smallest of 64 bits; none for others, which a call is made for.
///
/// # Safety
/// `value` is exactly an int, laid out in this way, or made by `look`.
#[inline(always)]
unsafe fn read(value: *mut ffi::PyObject, way: u8) -> Option<i64> {
    unsafe {
        let place = value.cast::<u8>().add(BEHIND);
        let word = place.cast::<isize>().read();
        let (count, negative) =
            if way == SIZE { (word.unsigned_abs(), word < 0) } else { ((word as usize) >> 3, word & 3 == 2) };
        let digit = |n: usize| u64::from(place.add(size_of::<usize>()).cast::<u32>().add(n).read());
        // Times first: they have three digits.
        let found = if count == 3 {
            let high = digit(2);
            if high >= 8 {
                return None;
            }
            digit(0) | digit(1) << DIGIT | high << (2 * DIGIT)
        } else if count == 1 {
            digit(0)
        } else if count == 2 {
            digit(0) | digit(1) << DIGIT
        } else if count == 0 {
            0
        } else {
            return None;
        };
        Some(if negative { -(found as i64) } else { found as i64 })
    }
}

/// The value of an int that has 64 bits; none for anything else.
///
/// # Safety
/// `value` is alive and the GIL is held.
#[inline(always)]
pub unsafe fn int(value: *mut ffi::PyObject) -> Option<i64> {
    unsafe {
        if ffi::PyLong_CheckExact(value) == 0 {
            return None;
        }
        let way = INTS.load(Ordering::Relaxed);
        if way != CALL {
            if let Some(found) = read(value, way) {
                return Some(found);
            }
        }
        call(value)
    }
}

#[inline(never)]
unsafe fn call(value: *mut ffi::PyObject) -> Option<i64> {
    unsafe {
        let mut overflow = 0;
        let found = ffi::PyLong_AsLongLongAndOverflow(value, &mut overflow);
        (overflow == 0).then_some(found)
    }
}

/// The value of a float; none for anything else.
///
/// # Safety
/// `value` is alive and the GIL is held.
#[inline(always)]
pub unsafe fn float(value: *mut ffi::PyObject) -> Option<f64> {
    unsafe {
        if ffi::PyFloat_CheckExact(value) == 0 {
            return None;
        }
        Some(if FLOATS.load(Ordering::Relaxed) != CALL {
            value.cast::<u8>().add(BEHIND).cast::<f64>().read()
        } else {
            ffi::PyFloat_AsDouble(value)
        })
    }
}

/// Read numbers where they lie, as far as that was found to be right, or by calls; for tests.
pub fn use_direct(on: bool) -> bool {
    let found = FOUND.get().copied().unwrap_or((CALL, CALL));
    let (ints, floats) = if on { found } else { (CALL, CALL) };
    INTS.store(ints, Ordering::Relaxed);
    FLOATS.store(floats, Ordering::Relaxed);
    ints != CALL && floats != CALL
}
