//! Publications: what is sent. Both kinds share one inner part; a mutex orders their use and their close.
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libaeron_sys as ae;
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::buffer::{Held, item, plain};
use crate::claim::{Claim, Mapping, Open};
use crate::conductor::ClientInner;
use crate::errors::{Fail, Kind, last_client};

const CLOSED: i64 = ae::AERON_PUBLICATION_CLOSED;
const ADMIN_ACTION: i64 = ae::AERON_PUBLICATION_ADMIN_ACTION;
const ERROR: i64 = ae::AERON_PUBLICATION_ERROR;
/// How often an admin action (a change of term, which another publisher may be doing) is tried again at once.
const AGAIN: u32 = 100;
/// From this length on the GIL is released while a message is copied.
const LONG: usize = 64 << 10;

#[derive(Clone, Copy)]
enum Pointer {
    Shared(*mut ae::aeron_publication_t),
    Exclusive(*mut ae::aeron_exclusive_publication_t),
    Gone,
}

/// Calls a function of the library for either kind; `$gone` where it is closed.
macro_rules! either {
    ($pointer:expr, $gone:expr, $shared:ident, $exclusive:ident $(, $arg:expr)*) => {
        match $pointer {
            // SAFETY: live until it is taken out of the mutex that the caller holds.
            Pointer::Shared(p) => unsafe { ae::$shared(p $(, $arg)*) },
            Pointer::Exclusive(p) => unsafe { ae::$exclusive(p $(, $arg)*) },
            Pointer::Gone => $gone,
        }
    };
}

pub struct PubState {
    pointer: Pointer,
    mapping: Option<Arc<Mapping>>,
    /// Number and first position of open claims.
    claims: Vec<(u64, i64)>,
    next: u64,
}

// SAFETY: pointers are used under the mutex only.
unsafe impl Send for PubState {}

pub struct PubInner {
    pub client: Arc<ClientInner>,
    state: Mutex<PubState>,
    closed: AtomicBool,
    pub channel: String,
    pub stream_id: i32,
    pub session_id: i32,
    pub max_message_length: usize,
    pub max_payload_length: usize,
    pub term_length: usize,
    log: i64,
}

impl PubInner {
    pub fn shared(client: &Arc<ClientInner>, p: *mut ae::aeron_publication_t, channel: &str, stream: i32) -> Arc<Self> {
        Self::new(client, Pointer::Shared(p), channel, stream)
    }

    pub fn exclusive(
        client: &Arc<ClientInner>,
        p: *mut ae::aeron_exclusive_publication_t,
        channel: &str,
        stream: i32,
    ) -> Arc<Self> {
        Self::new(client, Pointer::Exclusive(p), channel, stream)
    }

    fn new(client: &Arc<ClientInner>, pointer: Pointer, channel: &str, stream_id: i32) -> Arc<Self> {
        // SAFETY: plain data that the call fills.
        let mut constants: ae::aeron_publication_constants_t = unsafe { std::mem::zeroed() };
        either!(
            pointer,
            0,
            aeron_publication_constants,
            aeron_exclusive_publication_constants,
            &mut constants
        );
        Arc::new(PubInner {
            client: client.clone(),
            state: Mutex::new(PubState {
                pointer,
                mapping: None,
                claims: Vec::new(),
                next: 0,
            }),
            closed: AtomicBool::new(false),
            channel: channel.to_owned(),
            stream_id,
            session_id: constants.session_id,
            max_message_length: constants.max_message_length,
            max_payload_length: constants.max_payload_length,
            term_length: constants.term_buffer_length,
            log: constants.original_registration_id,
        })
    }

    fn lock(&self) -> MutexGuard<'_, PubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usable(&self) -> bool {
        !self.closed.load(Ordering::Acquire) && !self.client.forked()
    }

    pub fn close(&self) {
        if self.client.forked() {
            return;
        }
        self.closed.store(true, Ordering::Release);
        let mut state = self.lock();
        let pointer = std::mem::replace(&mut state.pointer, Pointer::Gone);
        state.claims.clear();
        if let Some(mapping) = state.mapping.take() {
            mapping.revoke_if_used();
        }
        // Inside the mutex: the client waits for it before it frees what this call touches.
        either!(
            pointer,
            0,
            aeron_publication_close,
            aeron_exclusive_publication_close,
            None,
            null_mut()
        );
    }

    fn closed(&self) -> bool {
        if !self.usable() {
            return true;
        }
        either!(
            self.lock().pointer,
            true,
            aeron_publication_is_closed,
            aeron_exclusive_publication_is_closed
        )
    }

    fn offer(&self, data: *const u8, length: usize) -> i64 {
        if !self.usable() {
            return CLOSED;
        }
        let mut state = self.lock();
        let mut result = ADMIN_ACTION;
        let mut left = AGAIN;
        while result == ADMIN_ACTION && left > 0 {
            result = either!(
                state.pointer,
                CLOSED,
                aeron_publication_offer,
                aeron_exclusive_publication_offer,
                data,
                length,
                None,
                null_mut()
            );
            left -= 1;
        }
        self.sent(&mut state, result);
        result
    }

    /// What follows an offer or a claim that gave `result`.
    fn sent(&self, state: &mut PubState, result: i64) {
        if result == ERROR {
            let (code, message) = last_client();
            self.client.errors.push(code, message);
        } else if result > 0
            && let Some(&(_, first)) = state.claims.first()
            && result - first > self.term_length as i64
        {
            // The driver gave the claim up and the log has gone round: its memory is of other messages soon.
            state.claims.clear();
            if let Some(mapping) = state.mapping.take() {
                mapping.revoke_if_used();
            }
        }
    }

    fn claim(&self, length: usize) -> Result<(Open, i64), i64> {
        if !self.usable() {
            return Err(CLOSED);
        }
        let mut state = self.lock();
        // SAFETY: plain data that the call fills.
        let mut raw: ae::aeron_buffer_claim_t = unsafe { std::mem::zeroed() };
        let mut result = ADMIN_ACTION;
        let mut left = AGAIN;
        while result == ADMIN_ACTION && left > 0 {
            result = either!(
                state.pointer,
                CLOSED,
                aeron_publication_try_claim,
                aeron_exclusive_publication_try_claim,
                length,
                &mut raw
            );
            left -= 1;
        }
        self.sent(&mut state, result);
        if result < 0 {
            return Err(result);
        }
        let first = result - ((length + 32 + 31) & !31) as i64;
        state.next += 1;
        let number = state.next;
        state.claims.push((number, first));
        Ok((Open::new(raw, number), first))
    }

    /// Whether a claim is still this process's: neither closed over nor given up by the driver.
    fn holds(state: &PubState, open: &Open) -> bool {
        !matches!(state.pointer, Pointer::Gone) && state.claims.iter().any(|c| c.0 == open.number) && open.intact()
    }

    /// The memory of a claim, mapped for itself so that it outlives the publication.
    pub fn view(&self, open: &Open, first: i64) -> Result<(Arc<Mapping>, usize), Fail> {
        if !self.usable() {
            return Err(lost());
        }
        let mut state = self.lock();
        if !Self::holds(&state, open) {
            return Err(lost());
        }
        if state.mapping.is_none() {
            let path = format!("{}/publications/{}.logbuffer", self.client.directory, self.log);
            state.mapping = Some(Arc::new(Mapping::open(&path, 3 * self.term_length)?));
        }
        let Some(mapping) = state.mapping.clone() else {
            return Err(lost());
        };
        let term = self.term_length as i64;
        let offset = (first / term % 3 * term + first % term) as usize;
        if !open.is_at(&mapping, offset) {
            return Err(Fail::new(Kind::Aeron, "the memory of the claim cannot be mapped"));
        }
        Ok((mapping, offset + 32))
    }

    /// Ends a claim. With `view` given, its memory is still looked at and is cut off from the log first.
    pub fn finish(&self, open: &Open, view: Option<&Arc<Mapping>>, commit: bool) -> Result<(), Fail> {
        if !self.usable() {
            return Err(lost());
        }
        let mut state = self.lock();
        if !Self::holds(&state, open) {
            return Err(lost());
        }
        if let Some(view) = view
            && state.mapping.as_ref().is_some_and(|m| Arc::ptr_eq(m, view))
            && let Some(mapping) = state.mapping.take()
        {
            // Held by: this function, the claim's view. Any more are views of other claims.
            if Arc::strong_count(&mapping) > 2 {
                state.mapping = Some(mapping);
                return Err(Fail::new(
                    Kind::Aeron,
                    "memoryviews of this claim and of another open claim are in use",
                )
                .hint("release them before the claims are committed"));
            }
            mapping.revoke();
        }
        state.claims.retain(|c| c.0 != open.number);
        open.end(commit);
        Ok(())
    }
}

impl Drop for PubInner {
    fn drop(&mut self) {
        self.close();
    }
}

fn lost() -> Fail {
    let text = "the claim is lost: its publication was closed or the driver gave it up";
    Fail::new(Kind::PublicationClosed, text).hint("commit claims at once; what they held was not sent")
}

fn too_long(length: usize, most: usize, what: &str) -> PyErr {
    PyValueError::new_err(format!(
        "a message of {length} bytes is longer than {what} of this publication, {most}"
    ))
}

impl PubInner {
    fn offer_one(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<i64> {
        if let Some(bytes) = plain(data, LONG.min(self.max_message_length)) {
            return Ok(self.offer(bytes.as_ptr(), bytes.len()));
        }
        // Held over the whole call: whatever Python code its release runs, it runs without the mutex.
        let held = Held::read(data)?;
        let length = held.len();
        if length > self.max_message_length {
            return Err(too_long(length, self.max_message_length, "max_message_length"));
        }
        Ok(if length >= LONG {
            py.detach(|| self.offer(held.pointer(), length))
        } else {
            self.offer(held.pointer(), length)
        })
    }

    fn offer_many(&self, py: Python<'_>, items: &Bound<'_, PyAny>, start: isize) -> PyResult<(usize, i64)> {
        if start < 0 {
            return Err(PyIndexError::new_err("start is negative"));
        }
        let (mut accepted, mut result) = (0, 0);
        for index in start as usize..items.len()? {
            let one = match item(items, index).and_then(|item| self.offer_one(py, &item)) {
                Ok(one) => one,
                // What was accepted must be told; the next call meets the error at once.
                Err(_) if accepted > 0 => break,
                Err(error) => return Err(error),
            };
            result = one;
            if one < 0 {
                break;
            }
            accepted += 1;
        }
        Ok((accepted, result))
    }

    fn claim_one<'py>(self: &Arc<Self>, py: Python<'py>, length: i64) -> PyResult<Bound<'py, PyAny>> {
        let length = usize::try_from(length).map_err(|_| PyValueError::new_err("length is negative"))?;
        if length > self.max_payload_length {
            return Err(too_long(length, self.max_payload_length, "max_payload_length"));
        }
        match self.claim(length) {
            Ok((open, first)) => Ok(Bound::new(py, Claim::new(self.clone(), open, first, length))?.into_any()),
            Err(result) => Ok(result.into_pyobject(py)?.into_any()),
        }
    }

    fn number(&self, read: impl Fn(Pointer) -> i64) -> i64 {
        if !self.usable() {
            return CLOSED;
        }
        read(self.lock().pointer)
    }
}

macro_rules! python_class {
    ($name:ident, $text:literal) => {
        #[doc = $text]
        #[pyclass(module = "cmd_aeron._native", frozen)]
        pub struct $name {
            pub inner: Arc<PubInner>,
        }

        #[pymethods]
        impl $name {
            fn offer(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<i64> {
                self.inner.offer_one(py, data)
            }

            #[pyo3(signature = (items, start=0))]
            fn offer_many(&self, py: Python<'_>, items: &Bound<'_, PyAny>, start: isize) -> PyResult<(usize, i64)> {
                self.inner.offer_many(py, items, start)
            }

            fn try_claim<'py>(&self, py: Python<'py>, length: i64) -> PyResult<Bound<'py, PyAny>> {
                self.inner.claim_one(py, length)
            }

            #[getter]
            fn connected(&self) -> bool {
                if !self.inner.usable() {
                    return false;
                }
                either!(
                    self.inner.lock().pointer,
                    false,
                    aeron_publication_is_connected,
                    aeron_exclusive_publication_is_connected
                )
            }

            #[getter]
            fn closed(&self) -> bool {
                self.inner.closed()
            }

            #[getter]
            fn position(&self) -> i64 {
                self.inner.number(|pointer| {
                    either!(
                        pointer,
                        CLOSED,
                        aeron_publication_position,
                        aeron_exclusive_publication_position
                    )
                })
            }

            #[getter]
            fn position_limit(&self) -> i64 {
                self.inner.number(|pointer| {
                    either!(
                        pointer,
                        CLOSED,
                        aeron_publication_position_limit,
                        aeron_exclusive_publication_position_limit
                    )
                })
            }

            #[getter]
            fn channel_status(&self) -> i64 {
                let status = self.inner.number(|pointer| {
                    either!(
                        pointer,
                        CLOSED,
                        aeron_publication_channel_status,
                        aeron_exclusive_publication_channel_status
                    )
                });
                // IPC has no indicator of its own, which reads as an error.
                let ipc = self.inner.channel.starts_with("aeron:ipc");
                if status == -1 && ipc { 1 } else { status }
            }

            #[getter]
            fn session_id(&self) -> i32 {
                self.inner.session_id
            }

            #[getter]
            fn stream_id(&self) -> i32 {
                self.inner.stream_id
            }

            #[getter]
            fn channel(&self) -> &str {
                &self.inner.channel
            }

            #[getter]
            fn max_message_length(&self) -> usize {
                self.inner.max_message_length
            }

            #[getter]
            fn max_payload_length(&self) -> usize {
                self.inner.max_payload_length
            }

            #[getter]
            fn term_length(&self) -> usize {
                self.inner.term_length
            }

            fn close(&self, py: Python<'_>) {
                py.detach(|| self.inner.close());
            }

            fn __enter__(slf: Py<Self>) -> Py<Self> {
                slf
            }

            #[pyo3(signature = (*_exc))]
            fn __exit__(&self, py: Python<'_>, _exc: &Bound<'_, PyTuple>) {
                self.close(py);
            }

            fn __repr__(&self) -> String {
                let inner = &self.inner;
                format!(
                    "<{} {} stream {} session {}>",
                    stringify!($name),
                    inner.channel,
                    inner.stream_id,
                    inner.session_id
                )
            }
        }
    };
}

python_class!(
    Publication,
    "A stream that several publishers, of any process, may share."
);
python_class!(ExclusivePublication, "A stream of one publisher: a session of its own.");
