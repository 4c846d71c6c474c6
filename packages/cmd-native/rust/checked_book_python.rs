//! The book behind Kraken's checksum for Python, and for the decoder that shares it.

use pyo3::prelude::*;

use crate::checked_book::{CheckedBook, Level, Text};

/// See the stub for what its methods mean.
#[pyclass(module = "cmd_native", name = "ChecksumBook")]
pub struct PyCheckedBook {
    pub book: CheckedBook,
}

type Sides = (Vec<(f64, f64)>, Vec<(f64, f64)>);

fn levels_of(levels: &Bound<'_, PyAny>) -> PyResult<Vec<Level>> {
    levels
        .try_iter()?
        .map(|level| {
            let (price, quantity, digits): (f64, f64, String) = level?.extract()?;
            Ok(Level { price, quantity, text: Text::new(digits.as_bytes()) })
        })
        .collect()
}

#[pymethods]
impl PyCheckedBook {
    #[new]
    fn new(depth: usize) -> PyCheckedBook {
        PyCheckedBook { book: CheckedBook::new(depth) }
    }

    fn load(&mut self, bids: &Bound<'_, PyAny>, asks: &Bound<'_, PyAny>) -> PyResult<Sides> {
        let (bids, asks) = (levels_of(bids)?, levels_of(asks)?);
        self.book.clear();
        let (mut bids, mut asks) = self.changes(bids, asks);
        bids.retain(|level| level.1 != 0.0);
        asks.retain(|level| level.1 != 0.0);
        Ok((bids, asks))
    }

    fn apply(&mut self, bids: &Bound<'_, PyAny>, asks: &Bound<'_, PyAny>) -> PyResult<Sides> {
        let (bids, asks) = (levels_of(bids)?, levels_of(asks)?);
        Ok(self.changes(bids, asks))
    }

    #[getter]
    fn checksum(&self) -> u32 {
        self.book.checksum()
    }

    fn check(&self) {
        self.book.check();
    }
}

impl PyCheckedBook {
    fn changes(&mut self, mut bids: Vec<Level>, mut asks: Vec<Level>) -> Sides {
        self.book.apply(&mut bids, &mut asks);
        let plain = |side: Vec<Level>| side.into_iter().map(|level| (level.price, level.quantity)).collect();
        (plain(bids), plain(asks))
    }
}

/// Add what is here to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCheckedBook>()
}
