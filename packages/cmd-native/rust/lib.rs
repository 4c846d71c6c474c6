//! The parts of CryptoMarketData in Rust. Every one has a twin in pure Python, which is the specification;
//! the Python side chooses (`cmd_common._native`).

pub mod allocations;
pub mod log_clock;
pub mod log_record;
pub mod log_text;

#[cfg(feature = "python")]
mod log_emit;
#[cfg(feature = "python")]
mod log_python;

#[cfg(feature = "python")]
#[pyo3::pymodule]
fn _native(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
    allocations::register(module)?;
    log_python::register(module)?;
    Ok(())
}
