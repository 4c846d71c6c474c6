//! Claims: a message written in place, in the memory that subscribers read.
//!
//! A memoryview cannot be taken back, but what it looks at can. Views look at a mapping of the log of their own; where
//! one is still in use when its message is complete, the pages behind it are exchanged for private ones. So no view,
//! however long it is kept, can touch a message that was sent, or memory that is gone.
use std::ffi::{c_int, c_void};
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libaeron_sys as ae;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::errors::{Fail, Kind};
use crate::publication::PubInner;

const HEADER: usize = 32;

/// The terms of a publication's log, mapped.
pub struct Mapping {
    base: *mut u8,
    length: usize,
    revoked: AtomicBool,
}

// SAFETY: memory; who writes where is the claims' business.
unsafe impl Send for Mapping {}
unsafe impl Sync for Mapping {}

impl Mapping {
    pub fn open(path: &str, length: usize) -> Result<Self, Fail> {
        let fail = |error: std::io::Error| Fail::new(Kind::Aeron, format!("cannot map {path}: {error}"));
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
        if file.metadata().map_err(fail)?.len() < length as u64 {
            return Err(Fail::new(
                Kind::Aeron,
                format!("cannot map {path}: it is shorter than its terms"),
            ));
        }
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(fail(std::io::Error::last_os_error()));
        }
        Ok(Mapping {
            base: base.cast(),
            length,
            revoked: AtomicBool::new(false),
        })
    }

    /// Exchanges the pages for private ones: what looks at them sees zeros, and writes nowhere.
    pub fn revoke(&self) {
        if self.revoked.swap(true, Ordering::AcqRel) {
            return;
        }
        // SAFETY: replaces exactly this mapping, in one step.
        unsafe {
            libc::mmap(
                self.base.cast(),
                self.length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                -1,
                0,
            );
        }
    }

    /// Revokes it where a view holds it besides the caller.
    pub fn revoke_if_used(self: &Arc<Self>) {
        if Arc::strong_count(self) > 1 {
            self.revoke();
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped once, nobody holds it any more.
        unsafe { libc::munmap(self.base.cast(), self.length) };
    }
}

/// The library's claim while it is open; used under the publication's mutex.
pub struct Open {
    raw: ae::aeron_buffer_claim_t,
    pub number: u64,
    head: [u8; HEADER],
}

// SAFETY: see above.
unsafe impl Send for Open {}

impl Open {
    pub fn new(raw: ae::aeron_buffer_claim_t, number: u64) -> Self {
        let mut head = [0u8; HEADER];
        // SAFETY: the frame's header, just written by the library.
        unsafe { std::ptr::copy_nonoverlapping(raw.frame_header, head.as_mut_ptr(), HEADER) };
        Open { raw, number, head }
    }

    /// Whether the frame's header is as it was: nobody ended the claim or used its place for another message.
    pub fn intact(&self) -> bool {
        let mut head = [0u8; HEADER];
        // SAFETY: mapped while the publication is open, as the caller made sure.
        unsafe { std::ptr::copy_nonoverlapping(self.raw.frame_header, head.as_mut_ptr(), HEADER) };
        head == self.head
    }

    /// Whether the frame is at `offset` of a mapping.
    pub fn is_at(&self, mapping: &Mapping, offset: usize) -> bool {
        if offset + HEADER + self.raw.length > mapping.length {
            return false;
        }
        let mut head = [0u8; HEADER];
        // SAFETY: in bounds.
        unsafe { std::ptr::copy_nonoverlapping(mapping.base.add(offset), head.as_mut_ptr(), HEADER) };
        head == self.head
    }

    pub fn end(&self, commit: bool) {
        let mut raw = self.raw;
        // SAFETY: open, and of a publication that is.
        unsafe {
            if commit {
                ae::aeron_buffer_claim_commit(&mut raw);
            } else {
                ae::aeron_buffer_claim_abort(&mut raw);
            }
        }
    }
}

struct State {
    open: Option<Open>,
    view: Option<(Arc<Mapping>, usize)>,
    exports: usize,
}

/// Room for one message in a publication's log: write into ``memoryview(claim)``, then commit.
#[pyclass(module = "cmd_aeron._native", frozen)]
pub struct Claim {
    publication: Arc<PubInner>,
    state: Mutex<State>,
    first: i64,
    length: usize,
}

impl Claim {
    pub fn new(publication: Arc<PubInner>, open: Open, first: i64, length: usize) -> Self {
        Claim {
            publication,
            state: Mutex::new(State {
                open: Some(open),
                view: None,
                exports: 0,
            }),
            first,
            length,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, commit: bool) -> Result<(), Fail> {
        let mut state = self.lock();
        let Some(open) = state.open.take() else {
            if commit {
                return Err(Fail::new(
                    Kind::PublicationClosed,
                    "the claim was committed or aborted before",
                ));
            }
            return Ok(());
        };
        let view = state.view.as_ref().map(|(mapping, _)| mapping);
        let result = self.publication.finish(&open, view, commit);
        if let Err(fail) = &result {
            if fail.kind == Kind::Aeron {
                state.open = Some(open); // refused, not lost
            } else if !commit {
                return Ok(());
            }
        }
        result
    }
}

#[pymethods]
impl Claim {
    fn commit(&self) -> PyResult<()> {
        Ok(self.end(true)?)
    }

    fn abort(&self) -> PyResult<()> {
        Ok(self.end(false)?)
    }

    #[getter]
    fn open(&self) -> bool {
        self.lock().open.is_some()
    }

    fn __len__(&self) -> usize {
        self.length
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Commits what is still open; aborts it on an exception.
    #[pyo3(signature = (*exc))]
    fn __exit__(&self, exc: &Bound<'_, PyTuple>) -> PyResult<()> {
        if !self.open() {
            return Ok(());
        }
        let failed = !exc.is_empty() && !exc.get_item(0)?.is_none();
        Ok(self.end(!failed)?)
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let this = slf.get();
        let mut state = this.lock();
        let Some(open) = &state.open else {
            return Err(PyBufferError::new_err(
                "the claim was committed or aborted: its memory is not its own any more",
            ));
        };
        if state.view.is_none() {
            let found = this
                .publication
                .view(open, this.first)
                .map_err(|fail| PyBufferError::new_err(fail.message))?;
            state.view = Some(found);
        }
        let Some((mapping, offset)) = &state.view else {
            return Err(PyBufferError::new_err("the claim has no memory"));
        };
        // SAFETY: the range was checked when it was mapped; the view holds the claim, the claim the mapping.
        let result = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                mapping.base.add(*offset).cast::<c_void>(),
                this.length as ffi::Py_ssize_t,
                0,
                flags,
            )
        };
        if result != 0 {
            let error = PyErr::fetch(slf.py());
            if state.exports == 0 {
                state.view = None;
            }
            return Err(error);
        }
        state.exports += 1;
        Ok(())
    }

    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        let mut state = self.lock();
        state.exports = state.exports.saturating_sub(1);
        if state.exports == 0 {
            state.view = None;
        }
    }

    fn __repr__(&self) -> String {
        let state = if self.open() { "open" } else { "finished" };
        format!("<Claim of {} bytes, {state}>", self.length)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = self.end(false);
    }
}
