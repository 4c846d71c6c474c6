//! Aeron's C client and C media driver for Python, in one extension module.
//!
//! Rules that keep any Python program from crashing or hanging the interpreter:
//! 1. A pointer of the library is only used under the mutex that it is taken out of when it is closed.
//! 2. A client closes what was made with it before itself.
//! 3. No Python code runs, and nothing waits for the GIL, while such a mutex is held.
//! 4. After a fork nothing of the parent's is touched in the child.
//! 5. Before the interpreter ends, waits are ended and all clients and drivers are closed.
use std::ffi::{CStr, c_char};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use libaeron_sys as ae;
use pyo3::prelude::*;

mod buffer;
mod claim;
mod client;
mod cnc;
mod collect;
mod conductor;
mod driver;
mod errors;
mod events;
mod idle;
mod process;
mod publication;
mod subscription;

use conductor::ClientInner;
use driver::DriverInner;

// Locked with the GIL held and for moments only, so that a fork never finds them locked.
static CLIENTS: Mutex<Vec<Weak<ClientInner>>> = Mutex::new(Vec::new());
static DRIVERS: Mutex<Vec<Weak<DriverInner>>> = Mutex::new(Vec::new());

fn remember_client(_py: Python<'_>, client: &Arc<ClientInner>) {
    let mut all = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|c| c.strong_count() > 0);
    all.push(Arc::downgrade(client));
}

fn remember_driver(_py: Python<'_>, driver: &Arc<DriverInner>) {
    let mut all = DRIVERS.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|d| d.strong_count() > 0);
    all.push(Arc::downgrade(driver));
}

/// Aeron's version, as "1.54.0".
#[pyfunction]
fn version() -> String {
    // SAFETY: a constant text of the library.
    unsafe { CStr::from_ptr(ae::aeron_version_text()).to_string_lossy().into_owned() }
}

/// The directory that Aeron itself takes: AERON_DIR, or one of the user.
#[pyfunction]
fn default_directory() -> String {
    if let Ok(directory) = std::env::var("AERON_DIR")
        && !directory.is_empty()
    {
        return directory;
    }
    let mut text = [0 as c_char; 1024];
    // SAFETY: one byte is left for the end of the text.
    unsafe {
        ae::aeron_default_path(text.as_mut_ptr(), text.len() - 1);
        CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
    }
}

#[pyfunction]
fn driver_status<'py>(py: Python<'py>, directory: &str) -> PyResult<Bound<'py, PyAny>> {
    let status = py.detach(|| cnc::status(directory))?;
    let class = py.import("cmd_aeron.records")?.getattr("DriverStatus")?;
    class.call1((status.running, status.pid, status.age, status.version, directory))
}

/// Ends all waits and closes all clients and drivers; called when the interpreter ends.
#[pyfunction]
fn shutdown(py: Python<'_>) {
    process::set_exiting();
    let clients: Vec<_> = {
        let all = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    };
    let drivers: Vec<_> = {
        let all = DRIVERS.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    };
    py.detach(|| {
        clients.iter().for_each(|client| client.close());
        drivers.iter().for_each(|driver| driver.close());
    });
}

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    process::watch_forks();
    m.add_class::<driver::MediaDriver>()?;
    m.add_class::<client::Client>()?;
    m.add_class::<publication::Publication>()?;
    m.add_class::<publication::ExclusivePublication>()?;
    m.add_class::<claim::Claim>()?;
    m.add_class::<subscription::Subscription>()?;
    m.add_function(wrap_pyfunction!(version, m)?)?;
    m.add_function(wrap_pyfunction!(default_directory, m)?)?;
    m.add_function(wrap_pyfunction!(driver_status, m)?)?;
    m.add_function(wrap_pyfunction!(shutdown, m)?)?;
    Ok(())
}
