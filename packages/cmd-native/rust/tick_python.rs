//! Trades and quotes in Python: a record in one call, or many frames as columns.

use std::collections::HashMap;

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PyString, PyTuple, PyType};

use crate::depth_python::{SymbolHasher, bytes_of};
use crate::tick::{Kind, Tick, decode};
use crate::wire_format::digits;
use crate::wire_python::Items;

/// Flag of a record whose event time is that of its arrival; `cmd_common.records.TS_FROM_RECV`.
const TS_FROM_RECV: u8 = 1;
/// Codes of the aggressor's side in columns, as `cmd_common.records.SIDES` has them.
const BUY: u8 = 0;
const SELL: u8 = 1;

type Symbols = HashMap<Box<[u8]>, Py<PyString>, std::hash::BuildHasherDefault<SymbolHasher>>;

/// Trades and quotes of one venue from their bytes; see the stub for what its methods mean.
#[pyclass(module = "cmd_native", frozen)]
pub struct TickPath {
    limit: usize,
    venue: Py<PyString>,
    classes: [Py<PyType>; 3],
    sides: [Py<PyString>; 2],
    symbols: Option<Symbols>,
}

impl TickPath {
    /// Decode a frame of a symbol that is asked for.
    #[inline(always)]
    fn read<'a>(&self, frame: &'a Bound<'_, PyAny>) -> Option<Tick<'a>> {
        decode(bytes_of(frame).filter(|bytes| bytes.len() <= self.limit)?)
    }

    /// The record of a tick.
    ///
    /// # Safety
    /// The GIL is held; `now` is alive.
    #[inline(always)]
    unsafe fn record(&self, tick: &Tick<'_>, now: *mut ffi::PyObject) -> Option<*mut ffi::PyObject> {
        let quote = tick.kind == Kind::Quote;
        let class = &self.classes[tick.kind as usize];
        // SAFETY: as the caller promises; what is shared is held by this object.
        unsafe {
            let mut items = Items::new(if tick.kind == Kind::Aggregate { 12 } else { 10 })?;
            match tick.ts_event {
                Some(time) => items.int(time)?,
                None => items.share(now)?,
            }
            items.share(now)?;
            items.share(self.venue.as_ptr())?;
            match &self.symbols {
                Some(symbols) => items.share(symbols.get(tick.symbol)?.as_ptr())?,
                None => items.text(tick.symbol)?,
            }
            if quote {
                items.int(tick.id)?;
                tick.numbers.iter().try_for_each(|number| items.float(*number))?;
                items.int(i64::from(if tick.ts_event.is_none() { TS_FROM_RECV } else { 0 }))?;
            } else {
                items.text(digits(tick.id, &mut [0; 20]))?;
                items.int(tick.id)?;
                if tick.kind == Kind::Aggregate {
                    items.int(tick.trades.0)?;
                    items.int(tick.trades.1)?;
                }
                items.float(tick.numbers[0])?;
                items.float(tick.numbers[1])?;
                items.share(self.sides[usize::from(tick.sold)].as_ptr())?;
                items.int(0)?;
            }
            let made = ffi::PyObject_Call(class.as_ptr(), items.done().get(), std::ptr::null_mut());
            (!made.is_null()).then_some(made)
        }
    }
}

/// One table in the making, a buffer a column.
#[derive(Default)]
struct Table {
    columns: Vec<Vec<u8>>,
    rows: usize,
}

impl Table {
    fn put<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        if self.columns.len() == at {
            self.columns.push(Vec::new());
        }
        self.columns[at].extend_from_slice(&value);
    }

    /// Append a row; the columns are in the order of `cmd_common.ticks`.
    fn push(&mut self, tick: &Tick<'_>, symbol: u32, now: i64) {
        let quote = tick.kind == Kind::Quote;
        self.put(0, tick.ts_event.unwrap_or(now).to_le_bytes());
        self.put(1, now.to_le_bytes());
        self.put(2, symbol.to_le_bytes());
        self.put(3, tick.id.to_le_bytes());
        let mut at = 4;
        if tick.kind == Kind::Aggregate {
            self.put(4, tick.trades.0.to_le_bytes());
            self.put(5, tick.trades.1.to_le_bytes());
            at = 6;
        }
        for number in &tick.numbers[..if quote { 4 } else { 2 }] {
            self.put(at, number.to_le_bytes());
            at += 1;
        }
        if !quote {
            self.put(at, [if tick.sold { SELL } else { BUY }]);
            at += 1;
        }
        self.put(at, [if tick.ts_event.is_none() { TS_FROM_RECV } else { 0 }]);
        self.rows += 1;
    }

    fn give<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.columns.iter().map(|column| PyBytes::new(py, column)))
    }
}

/// When the frames came: each at its own time, or all at one.
enum Times<'a> {
    Each(&'a [u8]),
    One(i64),
}

impl Times<'_> {
    fn at(&self, frame: usize) -> Option<i64> {
        match self {
            Times::One(time) => Some(*time),
            Times::Each(bytes) => bytes.get(8 * frame..)?.first_chunk().map(|time| i64::from_le_bytes(*time)),
        }
    }
}

#[pymethods]
impl TickPath {
    #[new]
    fn new(
        py: Python<'_>,
        limit: usize,
        venue: Py<PyString>,
        classes: [Py<PyType>; 3],
        symbols: Option<Vec<Py<PyString>>>,
    ) -> PyResult<TickPath> {
        let symbols = symbols
            .map(|names| {
                names
                    .into_iter()
                    .map(|name| Ok((name.bind(py).to_str()?.as_bytes().into(), name)))
                    .collect::<PyResult<Symbols>>()
            })
            .transpose()?;
        let sides = [PyString::intern(py, "buy").unbind(), PyString::intern(py, "sell").unbind()];
        Ok(TickPath { limit, venue, classes, sides, symbols })
    }

    /// The record of a frame; None: nothing is decided.
    fn take<'py>(&self, frame: &Bound<'py, PyAny>, now: &Bound<'py, PyInt>) -> Option<Bound<'py, PyAny>> {
        let tick = self.read(frame)?;
        let py = frame.py();
        // SAFETY: the GIL is held, `now` is alive.
        unsafe {
            match self.record(&tick, now.as_ptr()) {
                Some(made) => Some(Bound::from_owned_ptr(py, made)),
                None => {
                    ffi::PyErr_Clear();
                    None
                }
            }
        }
    }

    /// Columns of three tables, the symbols that their codes stand for, and the frames that were left: where, and how
    /// many rows of each table come before.
    #[allow(clippy::type_complexity)]
    fn columns<'py>(
        &self,
        py: Python<'py>,
        frames: &Bound<'py, PyList>,
        times: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyList>, Vec<(usize, usize, usize, usize)>)> {
        let bytes = times.cast::<PyBytes>().ok();
        let times = match bytes {
            Some(bytes) => Times::Each(bytes.as_bytes()),
            None => Times::One(times.extract().map_err(|_| PyOverflowError::new_err("a time beyond 64 bits"))?),
        };
        let mut tables = [Table::default(), Table::default(), Table::default()];
        let names = PyList::empty(py);
        let mut codes: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut left = Vec::new();
        for (at, frame) in frames.iter().enumerate() {
            let now = times.at(at).ok_or_else(|| PyValueError::new_err("fewer times than frames"))?;
            let wanted =
                |tick: &Tick<'_>| self.symbols.as_ref().is_none_or(|symbols| symbols.contains_key(tick.symbol));
            let Some(tick) = self.read(&frame).filter(wanted) else {
                left.push((at, tables[0].rows, tables[1].rows, tables[2].rows));
                continue;
            };
            let code = match codes.get(tick.symbol) {
                Some(code) => *code,
                None => {
                    let code = codes.len() as u32;
                    names.append(PyString::from_bytes(py, tick.symbol)?)?;
                    codes.insert(tick.symbol.into(), code);
                    code
                }
            };
            tables[tick.kind as usize].push(&tick, code, now);
        }
        let made = tables.iter().map(|table| table.give(py)).collect::<PyResult<Vec<_>>>()?;
        Ok((PyTuple::new(py, made)?, names, left))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<TickPath>()
}
