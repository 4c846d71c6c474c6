//! Depth messages from Python: one call takes a message from its bytes into the book of its symbol.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::book_python::PyBook;
use crate::checked_book_python::PyCheckedBook;
use crate::depth::{Format, Message, Outcome, Scratch, advance, armed, decode};

/// Of symbols that the caller has chosen: speed is all that it needs.
#[derive(Default)]
pub struct SymbolHasher(u64);

impl Hasher for SymbolHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

struct Entry {
    symbol: Box<[u8]>,
    book: Py<PyBook>,
    token: Py<PyAny>,
    checked: Option<Py<PyCheckedBook>>,
}

/// The books of a feed, or of whoever reads one venue's depth messages; see the stub for what its methods mean.
#[pyclass(module = "cmd_native")]
pub struct DepthPath {
    format: Format,
    limit: usize,
    #[pyo3(get, set)]
    lenient: bool,
    #[pyo3(get)]
    taken: u64,
    #[pyo3(get)]
    prev: Option<i64>,
    #[pyo3(get, set)]
    number: i64,
    other: Option<Py<PyAny>>,
    entries: Vec<Entry>,
    places: HashMap<Box<[u8]>, usize, BuildHasherDefault<SymbolHasher>>,
    last: usize,
    scratch: Scratch,
}

type Taken<'py> = (Py<PyAny>, i64, i64, i64, u8, Option<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>);

/// The bytes of a frame without a copy; `None` for what is neither text nor bytes.
pub fn bytes_of<'a>(frame: &'a Bound<'_, PyAny>) -> Option<&'a [u8]> {
    if let Ok(bytes) = frame.cast::<PyBytes>() {
        return Some(bytes.as_bytes());
    }
    // A text with half a character is for Python to refuse.
    frame.cast::<PyString>().ok()?.to_str().ok().map(str::as_bytes)
}

impl DepthPath {
    /// Decode, judge and apply; where of `entries` the book is. `None`: nothing was changed.
    #[inline]
    fn advance(&mut self, py: Python<'_>, frame: &Bound<'_, PyAny>) -> Option<(usize, Message, Outcome)> {
        let bytes = bytes_of(frame).filter(|bytes| bytes.len() <= self.limit)?;
        let DepthPath { format, lenient, entries, places, last, scratch, number, .. } = self;
        let mut chosen = None;
        let mut message = decode(*format, bytes, *lenient, scratch, |symbol| {
            let place = match entries.get(*last) {
                Some(entry) if *entry.symbol == *symbol => *last,
                _ => *places.get(symbol)?,
            };
            *last = place;
            let book = entries.get(place)?.book.try_borrow_mut(py).ok()?;
            let grid = armed(&book.book)?;
            chosen = Some((place, book));
            Some(grid)
        })?;
        let (place, mut book) = chosen?;
        if format.numbered() && number.checked_add(1) != Some(scratch.number) {
            return None;
        }
        let outcome = if format.checks() {
            let mut checked = entries.get(place)?.checked.as_ref()?.try_borrow_mut(py).ok()?;
            let Scratch { bids, asks, levels, checksum, .. } = scratch;
            checked.book.attempt(book.book.grid(), levels, [bids, asks], *checksum)?;
            let outcome = advance(*format, &mut book.book, &mut message, scratch);
            match outcome {
                Some(_) => checked.book.commit(),
                None => checked.book.undo(),
            }
            outcome?
        } else {
            advance(*format, &mut book.book, &mut message, scratch)?
        };
        if format.numbered() {
            *number = scratch.number;
        }
        self.taken += 1;
        Some((place, message, outcome))
    }

    /// Let the caller take a message that was not simply applied.
    #[cold]
    fn unusual<'py>(
        py: Python<'py>,
        mut this: PyRefMut<'py, Self>,
        frame: &Bound<'py, PyAny>,
        done: Option<(usize, Message, Outcome)>,
    ) -> PyResult<Py<PyAny>> {
        let taken = match done {
            Some(done) => this.taken(py, true, done)?,
            None => None,
        };
        let Some(other) = &this.other else { return Ok(py.None()) };
        let other = other.clone_ref(py);
        drop(this); // it may come back to this path
        other.call1(py, (frame, taken))
    }

    fn taken<'py>(
        &mut self,
        py: Python<'py>,
        packed: bool,
        (place, message, outcome): (usize, Message, Outcome),
    ) -> PyResult<Option<Taken<'py>>> {
        let entry = self.entries.get(place).ok_or_else(|| PyRuntimeError::new_err("a book is gone"))?;
        let status = outcome as u8;
        let (mut bids, mut asks) = (None, None);
        if packed || outcome == Outcome::Look {
            let grid = entry.book.try_borrow(py)?.book.grid();
            let scratch = &mut self.scratch;
            bids = Some(PyBytes::new_with(py, 16 * scratch.bids.len(), |out| {
                scratch.pack(true, grid, out);
                Ok(())
            })?);
            asks = Some(PyBytes::new_with(py, 16 * scratch.asks.len(), |out| {
                scratch.pack(false, grid, out);
                Ok(())
            })?);
        }
        self.prev = message.prev;
        let token = entry.token.clone_ref(py);
        Ok(Some((token, message.first, message.last, message.ts_event, status, bids, asks)))
    }
}

#[pymethods]
impl DepthPath {
    #[new]
    #[pyo3(signature = (format, limit, other = None))]
    fn new(format: &str, limit: usize, other: Option<Py<PyAny>>) -> PyResult<DepthPath> {
        let format = Format::parse(format)
            .ok_or_else(|| PyValueError::new_err(format!("{format:?} is no format of depth messages")))?;
        Ok(DepthPath {
            format,
            limit,
            lenient: false,
            taken: 0,
            prev: None,
            number: -1,
            other,
            entries: Vec::new(),
            places: HashMap::default(),
            last: 0,
            scratch: Scratch::default(),
        })
    }

    fn add(&mut self, symbol: &str, book: Py<PyBook>, token: Py<PyAny>) {
        self.remove(symbol);
        self.places.insert(symbol.as_bytes().into(), self.entries.len());
        self.entries.push(Entry { symbol: symbol.as_bytes().into(), book, token, checked: None });
    }

    fn checked(&mut self, symbol: &str, checked: Option<Py<PyCheckedBook>>) {
        let place = self.places.get(symbol.as_bytes());
        if let Some(entry) = place.and_then(|place| self.entries.get_mut(*place)) {
            entry.checked = checked;
        }
    }

    fn remove(&mut self, symbol: &str) {
        let Some(place) = self.places.remove(symbol.as_bytes()) else { return };
        let gone = self.entries.swap_remove(place);
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(moved.symbol.clone(), place);
        }
        drop(gone);
    }

    fn take<'py>(&mut self, py: Python<'py>, frame: &Bound<'py, PyAny>, packed: bool) -> PyResult<Option<Taken<'py>>> {
        match self.advance(py, frame) {
            Some(done) => self.taken(py, packed, done),
            None => Ok(None),
        }
    }

    fn apply<'py>(slf: &Bound<'py, Self>, frame: &Bound<'py, PyAny>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let mut this = slf.try_borrow_mut()?;
        match this.advance(py, frame) {
            Some((place, _, Outcome::Applied)) => Ok(this.entries[place].token.clone_ref(py)),
            done => Self::unusual(py, this, frame, done),
        }
    }

    fn top<'py>(slf: &Bound<'py, Self>, frame: &Bound<'py, PyAny>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let mut this = slf.try_borrow_mut()?;
        match this.advance(py, frame) {
            Some((place, _, Outcome::Applied)) => {
                let book = this.entries[place].book.try_borrow(py)?;
                let best = book.book.best_bid().zip(book.book.best_ask());
                let top = best.map(|((bid, bids), (ask, asks))| (bid, bids, ask, asks));
                Ok(top.into_pyobject(py)?.into_any().unbind())
            }
            done => {
                let book = Self::unusual(py, this, frame, done)?.into_bound(py);
                Ok(if book.is_none() { book } else { book.getattr("top")? }.unbind())
            }
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.other)?;
        for entry in &self.entries {
            visit.call(&entry.book)?;
            visit.call(&entry.token)?;
            visit.call(&entry.checked)?;
        }
        Ok(())
    }

    fn __clear__(&mut self) {
        self.other = None;
        self.entries.clear();
        self.places.clear();
    }
}

/// Add what is here to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<DepthPath>()
}
