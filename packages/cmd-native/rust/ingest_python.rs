//! The reader of packed CSVs for Python.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Mutex;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule};

use crate::ingest::{Next, Reader, Table};
use crate::ingest_arrow::export;
use crate::ingest_columns::Kind;
use crate::ingest_source::{Packing, Source, Trouble};

fn trouble(words: Trouble) -> PyErr {
    PyValueError::new_err(words)
}

/// The rows of a packed CSV as batches. A ValueError means: nothing is decided, go the pure way with the whole file.
#[pyclass(frozen, module = "cmd_native")]
struct CsvReader(Mutex<Option<Reader>>);

impl CsvReader {
    /// Do something without the GIL; after an error the reader does nothing more.
    fn with<T: Send>(&self, py: Python<'_>, act: impl FnOnce(&mut Reader) -> Result<T, Trouble> + Send) -> PyResult<T> {
        let done = py.detach(|| {
            let mut held = self.0.lock().map_err(|_| "the reader is broken")?;
            let mut reader = held.take().ok_or("the reader is closed")?;
            let out = act(&mut reader)?;
            *held = Some(reader);
            Ok(out)
        });
        done.map_err(trouble)
    }
}

#[pymethods]
impl CsvReader {
    #[new]
    #[pyo3(signature = (path, packing, offset=0, packed=0, size=0, crc=0, *, piece=0, batch=0))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        packing: &str,
        offset: u64,
        packed: u64,
        size: u64,
        crc: u32,
        piece: usize,
        batch: usize,
    ) -> PyResult<CsvReader> {
        let packing = match packing {
            "plain" => Packing::Plain,
            "gzip" => Packing::Gzip,
            "stored" => Packing::Stored { packed, size, crc },
            "deflate" => Packing::Deflate { packed, size, crc },
            _ => return Err(PyValueError::new_err("not a packing")),
        };
        let source = py.detach(|| Source::open(&path, offset, packing)).map_err(trouble)?;
        Ok(CsvReader(Mutex::new(Some(Reader::new(source, piece, batch)))))
    }

    /// The first line without its end.
    fn head<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.with(py, Reader::head)?))
    }

    /// Say what the lines hold, name and type of every column, and whether the first is a header.
    fn start(&self, py: Python<'_>, header: bool, delimiter: u8, columns: Vec<(String, String)>) -> PyResult<()> {
        let (mut names, mut kinds) = (Vec::new(), Vec::new());
        for (name, kind) in columns {
            names.push(CString::new(name)?);
            kinds.push(Kind::parse(&kind).ok_or_else(|| PyValueError::new_err("not a type of a column"))?);
        }
        self.with(py, |reader| reader.start(header, delimiter, names, &kinds))
    }

    /// The next rows; whole lines as bytes which are for the pure way; or None when the file ended and is proven whole.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(match self.with(py, Reader::rows)? {
            Next::Batch(table) => Some(Bound::new(py, CsvBatch(Mutex::new(Some(table))))?.into_any()),
            Next::Odd(text) => Some(PyBytes::new(py, &text).into_any()),
            Next::End => None,
        })
    }

    /// Let go of the file.
    fn close(&self) {
        if let Ok(mut held) = self.0.lock() {
            held.take();
        }
    }
}

/// Rows that whoever understands Arrow's C data interface takes over, once and without a copy.
#[pyclass(frozen, module = "cmd_native")]
struct CsvBatch(Mutex<Option<Table>>);

#[pymethods]
impl CsvBatch {
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        drop(requested_schema); // a wish, and only the one type is there
        let taken = self.0.lock().ok().and_then(|mut table| table.take());
        let (rows, columns) = taken.ok_or_else(|| PyValueError::new_err("the rows were taken already"))?;
        let (schema, array) = export(rows, columns);
        let schema = PyCapsule::new_with_value(py, schema, c"arrow_schema")?;
        Ok((schema, PyCapsule::new_with_value(py, array, c"arrow_array")?))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<CsvReader>()?;
    module.add_class::<CsvBatch>()
}
