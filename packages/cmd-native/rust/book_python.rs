//! The book as a Python class; `cmd_common._native_book` derives the class from it that users see.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyAssertionError, PyOverflowError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyFloat, PyList, PyTuple};

use crate::book::{Book, Change, Grid, Lost, Stage};
use crate::book_side::Side;
use crate::depth_snapshot_python::SnapshotLevels;

/// Levels of a book, and room for those of a message.
#[pyclass(name = "OrderBook", module = "cmd_native", subclass)]
pub struct PyBook {
    /// The book itself, for decoders.
    pub book: Book,
    scratch: (Vec<Change>, Vec<Change>),
}

type Top = (f64, f64, f64, f64);

#[inline]
fn number(object: Borrowed<'_, '_, PyAny>) -> PyResult<f64> {
    match object.cast_exact::<PyFloat>() {
        Ok(float) => Ok(float.value()),
        // A whole number that no float can hold cannot be a price: as infinity it is refused.
        Err(_) => object.extract().or_else(|error: PyErr| {
            if error.is_instance_of::<PyOverflowError>(object.py()) { Ok(f64::INFINITY) } else { Err(error) }
        }),
    }
}

/// Read one level; false where it can't exist.
#[inline]
fn level(item: &Bound<'_, PyAny>, grid: Grid, out: &mut Vec<Change>) -> PyResult<bool> {
    let (price, quantity) = match item.cast_exact::<PyTuple>() {
        Ok(pair) if pair.len() == 2 => (number(pair.get_borrowed_item(0)?)?, number(pair.get_borrowed_item(1)?)?),
        _ => {
            let mut parts = item.try_iter()?;
            let (Some(price), Some(quantity), None) = (parts.next(), parts.next(), parts.next()) else {
                return Err(PyValueError::new_err("a level is a price and a quantity"));
            };
            (number(price?.as_borrowed())?, number(quantity?.as_borrowed())?)
        }
    };
    if !(quantity < f64::INFINITY && price < f64::INFINITY && quantity >= 0.0 && price > 0.0) {
        return Ok(false);
    }
    out.push(Change { key: grid.key_of_price(price), quantity });
    Ok(true)
}

/// Levels that are fetched together.
const AHEAD: usize = 32;

/// Tell the CPU that an object will be read: levels were often made long before and lie all over the memory.
#[inline(always)]
fn fetch(object: *const ffi::PyObject) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, and it reads nothing: any address will do.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(object.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = object;
}

/// Read tuples of two floats from the beginning of a list, as decoders make them, and say how many there were before
/// something else came; `None` where a level can't exist.
///
/// No reference to an item is taken. The list keeps its items, and they keep theirs, as long as nobody changes the list:
/// the GIL is held and nothing here runs Python, for it goes on with exact tuples and exact floats only.
fn plain_levels(list: &Bound<'_, PyList>, grid: Grid, out: &mut Vec<Change>) -> Option<usize> {
    let (py, count) = (list.py(), list.len());
    out.reserve(count);
    let mut done = 0;
    while done < count {
        let some = AHEAD.min(count - done);
        let mut items = [std::ptr::null_mut::<ffi::PyObject>(); AHEAD];
        for (at, item) in items[..some].iter_mut().enumerate() {
            // SAFETY: the place is below the length of the list.
            *item = unsafe { ffi::PyList_GetItem(list.as_ptr(), (done + at) as ffi::Py_ssize_t) };
            fetch(*item);
        }
        let mut pairs = [(std::ptr::null_mut::<ffi::PyObject>(), std::ptr::null_mut::<ffi::PyObject>()); AHEAD];
        let mut plain = 0;
        for (&item, pair) in items[..some].iter().zip(&mut pairs) {
            // SAFETY: an item of the list, which keeps it; see above.
            let item = unsafe { Borrowed::from_ptr(py, item) };
            let Ok(tuple) = item.cast_exact::<PyTuple>() else { break };
            let (2, Ok(price), Ok(quantity)) = (tuple.len(), tuple.get_borrowed_item(0), tuple.get_borrowed_item(1))
            else {
                break;
            };
            *pair = (price.as_ptr(), quantity.as_ptr());
            fetch(pair.0);
            fetch(pair.1);
            plain += 1;
        }
        for &(price, quantity) in &pairs[..plain] {
            // SAFETY: items of a tuple of the list, which keeps them; see above.
            let (price, quantity) = unsafe { (Borrowed::from_ptr(py, price), Borrowed::from_ptr(py, quantity)) };
            let (Ok(price), Ok(quantity)) = (price.cast_exact::<PyFloat>(), quantity.cast_exact::<PyFloat>()) else {
                return Some(done);
            };
            let (price, quantity) = (price.value(), quantity.value());
            if !(quantity < f64::INFINITY && price < f64::INFINITY && quantity >= 0.0 && price > 0.0) {
                return None;
            }
            out.push(Change { key: grid.key_of_price(price), quantity });
            done += 1;
        }
        if plain < some {
            break;
        }
    }
    Some(done)
}

/// Read the levels of a side; false where one of them can't exist.
fn levels(side: &Bound<'_, PyAny>, grid: Grid, out: &mut Vec<Change>) -> PyResult<bool> {
    out.clear();
    if let Ok(snapshot) = side.cast_exact::<SnapshotLevels>() {
        snapshot.get().on(grid, out);
        return Ok(true);
    }
    if let Ok(list) = side.cast_exact::<PyList>() {
        let Some(plain) = plain_levels(list, grid, out) else { return Ok(false) };
        let mut at = plain;
        while at < list.len() {
            if !level(&list.get_item(at)?, grid, out)? {
                return Ok(false);
            }
            at += 1;
        }
        return Ok(true);
    }
    if let Ok(tuple) = side.cast_exact::<PyTuple>() {
        for item in tuple.iter_borrowed() {
            if !level(&item, grid, out)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    for item in side.try_iter()? {
        if !level(&item?, grid, out)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The numbers of a buffer that lie one behind the other, and how many they are.
fn numbers(buffer: &PyBuffer<f64>) -> PyResult<(*mut f64, usize)> {
    if !buffer.is_c_contiguous() {
        return Err(PyValueError::new_err("the numbers of the buffer must lie one behind the other"));
    }
    Ok((buffer.buf_ptr().cast(), buffer.item_count()))
}

/// Read packed levels: price and quantity in turn, float64 in the machine's order; false where one can't exist.
fn packed_levels(side: &Bound<'_, PyAny>, grid: Grid, out: &mut Vec<Change>) -> PyResult<bool> {
    out.clear();
    let buffer = PyBuffer::<f64>::get(side)?;
    let (from, count) = numbers(&buffer)?;
    for at in 0..count / 2 {
        // SAFETY: both are among the `count` numbers of the buffer, which the view keeps where it is; no Python
        // runs in between, and a thread without the GIL that writes to it could at worst give another number.
        let (price, quantity) = unsafe { (from.add(2 * at).read_volatile(), from.add(2 * at + 1).read_volatile()) };
        if !(quantity < f64::INFINITY && price < f64::INFINITY && quantity >= 0.0 && price > 0.0) {
            return Ok(false);
        }
        out.push(Change { key: grid.key_of_price(price), quantity });
    }
    Ok(true)
}

/// Let the class in Python say what is wrong with levels.
fn refuse(slf: &Bound<'_, PyBook>, bids: &Bound<'_, PyAny>, asks: &Bound<'_, PyAny>) -> PyErr {
    match slf.call_method1("validate", (bids, asks)) {
        Err(error) => error,
        Ok(_) => cmd_error(slf.py(), "DataError", "order book: a level beyond all floats cannot exist".into()),
    }
}

fn pack<'py, const BID: bool>(py: Python<'py>, side: &Side<BID>, depth: usize) -> PyResult<Bound<'py, PyBytes>> {
    let count = depth.min(side.len());
    PyBytes::new_with(py, 16 * count, |out| {
        for ((price, quantity), pair) in side.levels().zip(out.chunks_exact_mut(16)) {
            pair[..8].copy_from_slice(&price.to_le_bytes());
            pair[8..].copy_from_slice(&quantity.to_le_bytes());
        }
        Ok(())
    })
}

fn tuples<'py, const BID: bool>(py: Python<'py>, side: &Side<BID>, depth: usize) -> PyResult<Bound<'py, PyList>> {
    let count = depth.min(side.len());
    PyList::new(py, side.levels().take(count).collect::<Vec<_>>())
}

/// The error of cmd_common for what a caller got wrong.
fn usage(py: Python<'_>, text: String) -> PyErr {
    cmd_error(py, "UsageError", text)
}

fn cmd_error(py: Python<'_>, kind: &str, text: String) -> PyErr {
    let error = py.import("cmd_common.errors").and_then(|errors| errors.getattr(kind)?.call1((&text,)));
    error.map_or_else(|_| PyValueError::new_err(text), PyErr::from_value)
}

impl PyBook {
    fn with_levels(
        slf: &Bound<'_, Self>,
        bids: &Bound<'_, PyAny>,
        asks: &Bound<'_, PyAny>,
        read: impl Fn(&Bound<'_, PyAny>, Grid, &mut Vec<Change>) -> PyResult<bool>,
        use_them: impl FnOnce(&mut Book, &[Change], &[Change]),
    ) -> PyResult<bool> {
        // Reading may run Python: nothing is borrowed meanwhile, and a book that is changed by it keeps its levels.
        let (mut scratch, grid) = {
            let mut this = slf.try_borrow_mut()?;
            (std::mem::take(&mut this.scratch), this.book.grid())
        };
        let good = match read(bids, grid, &mut scratch.0) {
            Ok(true) => read(asks, grid, &mut scratch.1),
            other => other,
        };
        let mut this = slf.try_borrow_mut()?;
        if let Ok(true) = good {
            use_them(&mut this.book, &scratch.0, &scratch.1);
        }
        this.scratch = scratch;
        good
    }
}

#[pymethods]
impl PyBook {
    #[new]
    #[pyo3(signature = (*_args, **_options))]
    fn new(_args: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, pyo3::types::PyDict>>) -> PyBook {
        PyBook { book: Book::new(Grid::none(), None), scratch: Default::default() }
    }

    /// Begin anew with the grid of the tick size `mantissa / 10^decimals` (0: none) and a limit of levels.
    fn _set_up(&mut self, mantissa: u64, decimals: u32, limit: Option<usize>) {
        self.book = Book::new(Grid::new(mantissa, decimals), limit);
    }

    /// Forget all levels, ids and ranges.
    fn _clear(&mut self) {
        self.book.clear();
    }

    /// Set levels to new absolute quantities in the given order; see `PureOrderBook.apply`.
    fn apply(slf: &Bound<'_, Self>, bids: &Bound<'_, PyAny>, asks: &Bound<'_, PyAny>) -> PyResult<()> {
        let good = Self::with_levels(slf, bids, asks, levels, |book, bids, asks| book.apply(bids, asks))?;
        if good { Ok(()) } else { Err(refuse(slf, bids, asks)) }
    }

    /// The same for flat levels; false, and nothing is changed, where one of them can't exist.
    fn _apply_packed(slf: &Bound<'_, Self>, bids: &Bound<'_, PyAny>, asks: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::with_levels(slf, bids, asks, packed_levels, |book, bids, asks| book.apply(bids, asks))
    }

    /// Replace the whole book by lists or tuples of levels.
    fn _load(
        slf: &Bound<'_, Self>,
        bids: &Bound<'_, PyAny>,
        asks: &Bound<'_, PyAny>,
        bids_complete: bool,
        asks_complete: bool,
    ) -> PyResult<()> {
        let good = Self::with_levels(slf, bids, asks, levels, |book, bids, asks| {
            book.load(bids, asks, bids_complete, asks_complete)
        })?;
        if good { Ok(()) } else { Err(refuse(slf, bids, asks)) }
    }

    /// The highest bid as (price, quantity), None on an empty side.
    #[getter]
    fn best_bid(&self) -> Option<(f64, f64)> {
        self.book.best_bid()
    }

    /// The lowest ask as (price, quantity), None on an empty side.
    #[getter]
    fn best_ask(&self) -> Option<(f64, f64)> {
        self.book.best_ask()
    }

    /// The highest bid's price, -inf on an empty side.
    #[getter]
    fn best_bid_price(&self) -> f64 {
        self.book.best_bid().map_or(f64::NEG_INFINITY, |level| level.0)
    }

    /// The lowest ask's price, inf on an empty side.
    #[getter]
    fn best_ask_price(&self) -> f64 {
        self.book.best_ask().map_or(f64::INFINITY, |level| level.0)
    }

    /// The lowest bid price and the highest ask price that are known to be complete.
    #[getter]
    fn known_range(&self) -> (f64, f64) {
        self.book.known_range()
    }

    /// Best bid, its quantity, best ask, its quantity; None where a side is empty.
    #[getter]
    fn top(&self) -> Option<Top> {
        let ((bid, bid_quantity), (ask, ask_quantity)) = self.book.best_bid().zip(self.book.best_ask())?;
        Some((bid, bid_quantity, ask, ask_quantity))
    }

    /// Write the best levels into a buffer of float64: bids from 0, asks from 2 * depth on; returns how many.
    fn top_into(&self, buffer: &Bound<'_, PyAny>, depth: i64) -> PyResult<(usize, usize)> {
        let py = buffer.py();
        let Ok(depth) = usize::try_from(depth) else {
            return Err(usage(py, format!("depth must not be negative, not {depth}")));
        };
        let kind = || usage(py, "the buffer must be writable float64, its numbers one behind the other".into());
        let view = PyBuffer::<f64>::get(buffer).map_err(|_| kind())?;
        if view.readonly() || !view.is_c_contiguous() {
            return Err(kind());
        }
        let (to, count) = numbers(&view)?;
        if count / 4 < depth {
            let needed = depth.saturating_mul(4);
            return Err(usage(py, format!("a buffer of {count} numbers is too short for {needed}")));
        }
        let write = |at: usize, (price, quantity): (f64, f64)| {
            // SAFETY: `at` is below `2 * depth`, so both are among the `count` numbers of the writable buffer, which
            // the view keeps where it is; no reference to them exists.
            unsafe {
                to.add(2 * at).write_volatile(price);
                to.add(2 * at + 1).write_volatile(quantity);
            }
        };
        let mut bids = 0;
        for level in self.book.bids().levels().take(depth) {
            write(bids, level);
            bids += 1;
        }
        let mut asks = 0;
        for level in self.book.asks().levels().take(depth) {
            write(depth + asks, level);
            asks += 1;
        }
        Ok((bids, asks))
    }

    /// The mean of best bid and best ask, None where a side is empty.
    #[getter]
    fn mid(&self) -> Option<f64> {
        let ((bid, _), (ask, _)) = self.book.best_bid().zip(self.book.best_ask())?;
        Some(bid + (ask - bid) / 2.0)
    }

    /// Best ask less best bid, None where a side is empty.
    #[getter]
    fn spread(&self) -> Option<f64> {
        let ((bid, _), (ask, _)) = self.book.best_bid().zip(self.book.best_ask())?;
        Some(ask - bid)
    }

    /// Whether the best bid is at or above the best ask.
    #[getter]
    fn crossed(&self) -> bool {
        self.book.crossed()
    }

    /// How many bids and asks, counted from the touch, are known to be complete.
    #[getter]
    fn known_depth(&self) -> (usize, usize) {
        self.book.known_depth()
    }

    fn __len__(&self) -> usize {
        self.book.bids().len() + self.book.asks().len()
    }

    #[pyo3(signature = (depth = None))]
    fn _bids<'py>(&self, py: Python<'py>, depth: Option<usize>) -> PyResult<Bound<'py, PyList>> {
        tuples(py, self.book.bids(), depth.unwrap_or(usize::MAX))
    }

    #[pyo3(signature = (depth = None))]
    fn _asks<'py>(&self, py: Python<'py>, depth: Option<usize>) -> PyResult<Bound<'py, PyList>> {
        tuples(py, self.book.asks(), depth.unwrap_or(usize::MAX))
    }

    #[pyo3(signature = (depth = None))]
    fn _packed_bids<'py>(&self, py: Python<'py>, depth: Option<usize>) -> PyResult<Bound<'py, PyBytes>> {
        pack(py, self.book.bids(), depth.unwrap_or(usize::MAX))
    }

    #[pyo3(signature = (depth = None))]
    fn _packed_asks<'py>(&self, py: Python<'py>, depth: Option<usize>) -> PyResult<Bound<'py, PyBytes>> {
        pack(py, self.book.asks(), depth.unwrap_or(usize::MAX))
    }

    /// Whether both sides have levels, do not cross, and the touch is inside the marks.
    fn touch_ok(&self) -> bool {
        self.book.touch_ok()
    }

    /// Look at touch and known depth: why the book is lost (or empty), and whether a refresh is wanted.
    fn look(&mut self, low_bids: usize, low_asks: usize) -> (&'static str, bool) {
        match self.book.look(low_bids, low_asks) {
            Ok(refresh) => ("", refresh),
            Err(Lost::Crossed) => ("crossed", false),
            Err(Lost::KnownRange) => ("known_range", false),
        }
    }

    #[getter]
    fn last_id(&self) -> i64 {
        self.book.last_id
    }

    #[setter]
    fn set_last_id(&mut self, value: i64) {
        self.book.last_id = value;
    }

    #[getter]
    fn ts_event(&self) -> i64 {
        self.book.ts_event
    }

    #[setter]
    fn set_ts_event(&mut self, value: i64) {
        self.book.ts_event = value;
    }

    /// What a decoder may do: 0 nothing, 1 the next message is the first behind a snapshot, 2 it follows the last.
    #[getter]
    fn stage(&self) -> u8 {
        self.book.stage as u8
    }

    #[setter]
    fn set_stage(&mut self, value: u8) -> PyResult<()> {
        self.book.stage = match value {
            0 => Stage::Off,
            1 => Stage::First,
            2 => Stage::Next,
            _ => return Err(PyOverflowError::new_err("a stage is 0, 1 or 2")),
        };
        Ok(())
    }

    /// Messages that were applied.
    #[getter]
    fn applied(&self) -> u64 {
        self.book.applied
    }

    #[setter]
    fn set_applied(&mut self, value: u64) {
        self.book.applied = value;
    }

    /// The known range and the marks: lowest known bid, highest known ask, marks of both.
    fn _ranges(&self) -> Top {
        let ((floor, ceiling), (bid, ask)) = (self.book.known_range(), self.book.marks());
        (floor, ceiling, bid, ask)
    }

    fn _set_ranges(&mut self, floor: f64, ceiling: f64, bid: f64, ask: f64) {
        self.book.set_ranges((floor, ceiling), (bid, ask));
    }

    /// Assert every invariant; for tests and diagnosis.
    fn _check(&self) -> PyResult<()> {
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.book.check()));
        checked.map_err(|_| PyAssertionError::new_err("an invariant of the book does not hold"))
    }
}

/// Add what is here to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyBook>()
}
