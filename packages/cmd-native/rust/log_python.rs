//! The logger's classes and functions for Python.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::log_clock::Clock;
use crate::log_emit::LogEmitter;
use crate::log_record::Ring;
use crate::log_text::{Event, Field, Line, Shown, Table, lines};

/// A ring together with what keeps its memory: emitters hold it, so that none can write into memory that is gone.
pub struct Memory {
    pub ring: Ring,
    _buffer: PyBuffer<u8>,
}

/// A ring that emitters write and Python drains.
#[pyclass(frozen, module = "cmd_native")]
pub struct LogRing(Mutex<Option<Arc<Memory>>>);

impl LogRing {
    pub fn memory(&self) -> PyResult<Arc<Memory>> {
        let held = self.0.lock().map_err(|_| PyValueError::new_err("the ring is broken"))?;
        held.clone().ok_or_else(|| PyValueError::new_err("the ring is closed"))
    }
}

#[pymethods]
impl LogRing {
    #[new]
    fn new(buffer: PyBuffer<u8>, slot: usize, count: u64) -> PyResult<LogRing> {
        let fits = buffer.len_bytes() as u64 == slot as u64 * count;
        let aligned = (buffer.buf_ptr() as usize).is_multiple_of(8);
        if buffer.readonly()
            || !buffer.is_c_contiguous()
            || !fits
            || !aligned
            || !slot.is_multiple_of(8)
            || slot < 16
            || !count.is_power_of_two()
        {
            return Err(PyValueError::new_err("the memory does not fit the ring"));
        }
        // SAFETY: the conditions were checked, and the buffer lives as long as the ring.
        let ring = unsafe { Ring::new(buffer.buf_ptr().cast(), slot, count, Clock::best()) };
        Ok(LogRing(Mutex::new(Some(Arc::new(Memory { ring, _buffer: buffer })))))
    }

    /// Position of the next record.
    fn head(&self) -> PyResult<u64> {
        Ok(self.memory()?.ring.head())
    }

    /// Let positions below `limit` be written.
    fn free_to(&self, limit: u64) -> PyResult<()> {
        self.memory()?.ring.free_to(limit);
        Ok(())
    }

    /// Let go of the memory.
    fn close(&self) {
        if let Ok(mut held) = self.0.lock() {
            let old = held.take();
            drop(held);
            drop(old);
        }
    }
}

type FieldRow = (String, String, u16, usize, usize);
type EventRow = (u32, String, String, Vec<String>, Vec<FieldRow>);

/// Events and interned texts, for formatting.
#[pyclass(frozen, module = "cmd_native")]
struct LogTable(Table);

#[pymethods]
impl LogTable {
    #[new]
    fn new(events: Vec<EventRow>, symbols: HashMap<u32, String>) -> PyResult<LogTable> {
        let mut table = Table { symbols, ..Table::default() };
        for (number, name, level, pieces, rows) in events {
            let mut fields = Vec::with_capacity(rows.len());
            for (name, kind, limit, offset, size) in rows {
                let field = Shown::parse(&kind, limit).and_then(|shown| Field::new(&name, shown, offset, size));
                fields.push(field.ok_or_else(|| PyValueError::new_err("not a field of an event"))?);
            }
            let event = Event::new(&name, &level, pieces, fields);
            table.events.insert(number, event.ok_or_else(|| PyValueError::new_err("not an event"))?);
        }
        Ok(LogTable(table))
    }
}

/// Slots as lines of text or JSON in the order of time, without the GIL; and how many could not be shown.
#[pyfunction]
fn log_lines<'py>(
    py: Python<'py>,
    json: bool,
    parts: Vec<(PyBackedBytes, usize)>,
    line: (u64, i64, u64),
    table: &LogTable,
) -> PyResult<(Bound<'py, PyBytes>, usize)> {
    if parts.iter().any(|(data, slot)| *slot < 16 || data.len() % slot != 0) {
        return Err(PyValueError::new_err("not whole slots"));
    }
    let line = Line { raw: line.0, utc: line.1, rate: line.2 };
    let (out, bad) = py.detach(|| {
        let parts: Vec<(&[u8], usize)> = parts.iter().map(|(data, slot)| (&data[..], *slot)).collect();
        lines(json, &parts, line, &table.0)
    });
    Ok((PyBytes::new(py, &out), bad))
}

/// Name of the clock that stamps come from, and ns a tick times 2^48.
#[pyfunction]
fn log_clock(py: Python<'_>) -> (&'static str, u64) {
    let clock = Clock::best();
    (clock.name(), py.detach(|| clock.rate()))
}

/// A stamp, UTC in ns at the same moment, and how far they may be apart in ns.
#[pyfunction]
fn log_calibrate() -> (u64, i64, u64) {
    Clock::best().calibrate()
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<LogEmitter>()?;
    module.add_class::<LogRing>()?;
    module.add_class::<LogTable>()?;
    module.add_function(wrap_pyfunction!(log_lines, module)?)?;
    module.add_function(wrap_pyfunction!(log_clock, module)?)?;
    module.add_function(wrap_pyfunction!(log_calibrate, module)?)
}
