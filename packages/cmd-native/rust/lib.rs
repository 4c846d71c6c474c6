//! The parts of CryptoMarketData in Rust. Every one has a twin in pure Python, which is the specification;
//! the Python side chooses (`cmd_common._native`).

pub mod allocations;
pub mod book;
pub mod book_chunks;
pub mod book_grid;
pub mod book_side;
#[cfg(test)]
mod book_tests;
pub mod checked_book;
pub mod depth;
pub mod depth_binance;
pub mod depth_bitstamp;
pub mod depth_bybit;
pub mod depth_coinbase;
pub mod depth_gemini;
pub mod depth_kraken;
pub mod depth_okx;
pub mod depth_snapshot;
pub mod ingest;
pub mod ingest_arrow;
pub mod ingest_cell;
pub mod ingest_columns;
pub mod ingest_source;
pub mod ingest_text;
pub mod log_clock;
pub mod log_record;
pub mod log_text;
pub mod log_time;
pub mod scan;
#[cfg(target_arch = "x86_64")]
pub mod scan_simd;
pub mod tick;
pub mod wire_format;
#[cfg(unix)]
pub mod wire_send;

#[cfg(feature = "python")]
mod book_python;
#[cfg(feature = "python")]
mod checked_book_python;
#[cfg(feature = "python")]
mod depth_python;
#[cfg(feature = "python")]
mod depth_snapshot_python;
#[cfg(feature = "python")]
mod ingest_python;
#[cfg(feature = "python")]
mod log_emit;
#[cfg(feature = "python")]
mod log_python;
#[cfg(feature = "python")]
mod tick_python;
#[cfg(feature = "python")]
mod wire;
#[cfg(feature = "python")]
mod wire_columns;
#[cfg(feature = "python")]
mod wire_decode;
#[cfg(feature = "python")]
mod wire_encode;
#[cfg(feature = "python")]
mod wire_framing;
#[cfg(feature = "python")]
mod wire_python;
#[cfg(feature = "python")]
mod wire_record;
#[cfg(feature = "python")]
mod wire_value;
#[cfg(feature = "python")]
mod wire_writer;

// Where there is no GIL, Python switches it on for this module: emitters and books are changed under it.
#[cfg(feature = "python")]
#[pyo3::pymodule(gil_used = true)]
fn _native(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
    allocations::register(module)?;
    book_python::register(module)?;
    ingest_python::register(module)?;
    checked_book_python::register(module)?;
    depth_python::register(module)?;
    depth_snapshot_python::register(module)?;
    log_python::register(module)?;
    tick_python::register(module)?;
    wire::register(module)?;
    wire_framing::register(module)?;
    wire_writer::register(module)?;
    #[cfg(unix)]
    wire_send::register(module)?;
    Ok(())
}
