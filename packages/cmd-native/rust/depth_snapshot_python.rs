//! Snapshots in Python: levels that are read once and go into a book without an object a level.

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::book::{Change, Grid};
use crate::book_python::PyBook;
use crate::depth::Scratch;
use crate::depth_snapshot;

/// Levels of one side of a snapshot, the best first: a sequence of (price, quantity).
#[pyclass(name = "SnapshotLevels", module = "cmd_native", frozen, sequence)]
pub struct SnapshotLevels {
    grid: Grid,
    changes: Vec<Change>,
}

impl SnapshotLevels {
    /// The levels as changes of a book on a grid.
    pub fn on(&self, grid: Grid, out: &mut Vec<Change>) {
        out.clear();
        if grid == self.grid {
            out.extend_from_slice(&self.changes);
        } else {
            out.extend(
                self.changes
                    .iter()
                    .map(|level| Change { key: grid.key_of_price(self.grid.price_of(level.key)), ..*level }),
            );
        }
    }
}

#[pymethods]
impl SnapshotLevels {
    fn __len__(&self) -> usize {
        self.changes.len()
    }

    fn __getitem__(&self, at: isize) -> PyResult<(f64, f64)> {
        let at = if at < 0 { at + self.changes.len() as isize } else { at };
        let level = usize::try_from(at).ok().and_then(|at| self.changes.get(at));
        let level = level.ok_or_else(|| PyIndexError::new_err("no such level"))?;
        Ok((self.grid.price_of(level.key), level.quantity))
    }

    /// The levels as records carry them: little-endian float64, price and quantity in turn.
    fn packed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        PyBytes::new_with(py, 16 * self.changes.len(), |out| {
            for (level, pair) in self.changes.iter().zip(out.chunks_exact_mut(16)) {
                pair[..8].copy_from_slice(&self.grid.price_of(level.key).to_le_bytes());
                pair[8..].copy_from_slice(&level.quantity.to_le_bytes());
            }
            Ok(())
        })
    }
}

/// Read a snapshot of Binance for a book: its id, its time (`T`, 0: none), bids and asks; None for the parser in Python.
#[pyfunction]
fn binance_snapshot(book: &PyBook, body: &[u8]) -> Option<(i64, i64, SnapshotLevels, SnapshotLevels)> {
    let grid = book.book.grid();
    let mut scratch = Scratch::default();
    let found = depth_snapshot::read(body, grid, &mut scratch)?;
    let bids = SnapshotLevels { grid, changes: std::mem::take(&mut scratch.bids) };
    let asks = SnapshotLevels { grid, changes: std::mem::take(&mut scratch.asks) };
    Some((found.last, found.time, bids, asks))
}

/// Add what is here to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<SnapshotLevels>()?;
    module.add_function(wrap_pyfunction!(binance_snapshot, module)?)
}
