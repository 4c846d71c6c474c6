//! Subscriptions: what comes. One thread polls at a time; the others may ask and stop meanwhile.
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libaeron_sys as ae;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::buffer::Held;
use crate::collect::Collector;
use crate::conductor::ClientInner;
use crate::errors::{Fail, Kind, duration, last_client};
use crate::events::{Events, describe};
use crate::idle::{Idle, Waiter};
use crate::process;

/// Fragments of one poll into a buffer.
const AT_ONCE: usize = 4096;
/// A list's memory is kept for the next one up to this size.
const KEEP: usize = 4 << 20;
/// How long a wait may last before signals are looked at.
const SLICE: Duration = Duration::from_millis(100);

struct SubState {
    pointer: *mut ae::aeron_subscription_t,
    collector: Box<Collector>,
}

// SAFETY: used under the mutex only.
unsafe impl Send for SubState {}

pub struct SubInner {
    client: Arc<ClientInner>,
    state: Mutex<SubState>,
    events: Arc<Events>,
    /// Threads that want the mutex for something else than polling: a poller that spins lets them through.
    waiting: AtomicU32,
    polling: AtomicBool,
    stopped: AtomicBool,
    closed: AtomicBool,
    channel: String,
    stream_id: i32,
}

/// What ended a wait.
enum Found {
    Something,
    Nothing,
    Pause,
}

struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl SubInner {
    pub fn new(
        client: &Arc<ClientInner>,
        pointer: *mut ae::aeron_subscription_t,
        events: Arc<Events>,
        channel: &str,
        stream_id: i32,
    ) -> Arc<Self> {
        Arc::new(SubInner {
            client: client.clone(),
            state: Mutex::new(SubState {
                pointer,
                collector: Box::new(Collector::new()),
            }),
            events,
            waiting: AtomicU32::new(0),
            polling: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            channel: channel.to_owned(),
            stream_id,
        })
    }

    fn lock(&self) -> MutexGuard<'_, SubState> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        guard
    }

    fn lock_to_poll(&self) -> MutexGuard<'_, SubState> {
        while self.waiting.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn close(&self) {
        if self.client.forked() {
            return;
        }
        self.closed.store(true, Ordering::Release);
        self.stopped.store(true, Ordering::Release);
        let mut state = self.lock();
        let pointer = std::mem::replace(&mut state.pointer, std::ptr::null_mut());
        if !pointer.is_null() {
            // Inside the mutex: the client waits for it before it frees what this call touches.
            // SAFETY: taken once; the client keeps the events until they are finished.
            unsafe {
                let clientd = Arc::as_ptr(&self.events) as *mut c_void;
                ae::aeron_subscription_close(pointer, Some(Events::on_closed), clientd);
            }
        }
    }

    fn usable(&self) -> bool {
        !self.closed.load(Ordering::Acquire) && !self.client.forked()
    }

    fn gone(&self) -> Fail {
        if self.client.forked() {
            return ClientInner::fork_error();
        }
        if !self.closed.load(Ordering::Acquire)
            && let Err(fail) = self.client.check()
        {
            return fail;
        }
        Fail::new(
            Kind::SubscriptionClosed,
            format!("the subscription of {} is closed", self.channel),
        )
    }

    /// Takes the right to poll; a second thread gets an error instead of a race.
    fn turn(&self) -> Result<Turn<'_>, Fail> {
        if !self.usable() {
            return Err(self.gone());
        }
        if self.polling.swap(true, Ordering::AcqRel) {
            return Err(Fail::new(Kind::Aeron, "another thread is polling this subscription")
                .hint("one thread polls a subscription; make one for each thread"));
        }
        Ok(Turn(&self.polling))
    }

    /// One poll of the library; the number of fragments it took.
    fn fragments(&self, state: &mut SubState, limit: usize) -> Result<usize, Fail> {
        state.collector.forget(&self.events.take_gone());
        let collector = &mut *state.collector as *mut Collector as *mut c_void;
        // SAFETY: the pointer was checked by the caller; the handler runs inside the call.
        let n = unsafe {
            ae::aeron_subscription_controlled_poll(state.pointer, Some(Collector::on_fragment), collector, limit)
        };
        usize::try_from(n).map_err(|_| {
            let (_, message) = last_client();
            Fail::new(Kind::Aeron, format!("cannot poll {}: {message}", self.channel))
        })
    }

    /// Runs `step` until it finds something, the end of `timeout`, or a stop; without the GIL, in slices.
    fn wait(
        &self,
        py: Python<'_>,
        timeout: u64,
        idle: Idle,
        mut step: impl FnMut(&Self, &mut SubState) -> Result<(bool, bool), Fail> + Send,
    ) -> PyResult<bool> {
        let end = Instant::now() + Duration::from_nanos(timeout);
        let mut waiter = Waiter::new(idle);
        loop {
            let slice = end.min(Instant::now() + SLICE);
            let (step, waiter) = (&mut step, &mut waiter);
            let found = py.detach(move || -> Result<Found, Fail> {
                let mut rounds = 0u32;
                loop {
                    let closed;
                    {
                        let mut state = self.lock_to_poll();
                        if state.pointer.is_null() {
                            return Ok(Found::Nothing);
                        }
                        let (found, progress) = step(self, &mut state)?;
                        if found {
                            return Ok(Found::Something);
                        }
                        // SAFETY: live under the mutex.
                        closed = !progress && unsafe { ae::aeron_subscription_is_closed(state.pointer) };
                        if progress && timeout > 0 {
                            rounds += 1;
                            if rounds % 64 != 0 {
                                continue;
                            }
                        }
                    }
                    if closed {
                        return Err(self.gone());
                    }
                    if self.stopped.load(Ordering::Acquire) || process::exiting() {
                        return Ok(Found::Nothing);
                    }
                    let now = Instant::now();
                    if now >= slice {
                        return Ok(if now >= end { Found::Nothing } else { Found::Pause });
                    }
                    waiter.pause(slice - now);
                }
            })?;
            match found {
                Found::Something => return Ok(true),
                Found::Nothing => return Ok(false),
                Found::Pause => py.check_signals()?,
            }
        }
    }

    /// The collected messages; called with the right to poll, outside of the mutex, as Python code may run in here.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let (mut bytes, mut ends) = {
            let mut state = self.lock();
            let collector = &mut state.collector;
            (
                std::mem::take(&mut collector.bytes),
                std::mem::take(&mut collector.ends),
            )
        };
        let mut begin = 0;
        let list = PyList::new(
            py,
            ends.iter().map(|&end| {
                let message = PyBytes::new(py, &bytes[begin..end]);
                begin = end;
                message
            }),
        )?;
        bytes.clear();
        ends.clear();
        if bytes.capacity() <= KEEP {
            let mut state = self.lock();
            state.collector.bytes = bytes;
            state.collector.ends = ends;
        }
        Ok(list)
    }
}

impl Drop for SubInner {
    fn drop(&mut self) {
        self.close();
    }
}

/// A stream's messages, of all its publishers.
#[pyclass(module = "cmd_aeron._native", frozen)]
pub struct Subscription {
    pub inner: Arc<SubInner>,
}

fn limit_of(limit: i64) -> PyResult<usize> {
    match usize::try_from(limit) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(PyValueError::new_err("limit must be at least 1")),
    }
}

#[pymethods]
impl Subscription {
    #[pyo3(signature = (limit=256))]
    fn poll<'py>(&self, py: Python<'py>, limit: i64) -> PyResult<Bound<'py, PyList>> {
        let inner = &self.inner;
        let limit = limit_of(limit)?;
        let _turn = inner.turn()?;
        let closed = {
            let mut state = inner.lock();
            if state.pointer.is_null() {
                true
            } else {
                state.collector.list();
                inner.fragments(&mut state, limit)? == 0
                    && state.collector.ends.is_empty()
                    // SAFETY: live under the mutex.
                    && unsafe { ae::aeron_subscription_is_closed(state.pointer) }
            }
        };
        if closed {
            return Err(inner.gone().into());
        }
        inner.drain(py)
    }

    #[pyo3(signature = (timeout, limit=256, idle="balanced"))]
    fn poll_wait<'py>(&self, py: Python<'py>, timeout: i64, limit: i64, idle: &str) -> PyResult<Bound<'py, PyList>> {
        let inner = &self.inner;
        let (timeout, limit, idle) = (duration(timeout, "timeout")?, limit_of(limit)?, Idle::parse(idle)?);
        let _turn = inner.turn()?;
        let found = inner.wait(py, timeout, idle, move |this, state| {
            state.collector.list();
            let n = this.fragments(state, limit)?;
            Ok((!state.collector.ends.is_empty(), n > 0))
        })?;
        if !found {
            return Ok(PyList::empty(py));
        }
        inner.drain(py)
    }

    #[pyo3(signature = (buffer, timeout=0, idle="balanced"))]
    fn poll_into(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>, timeout: i64, idle: &str) -> PyResult<usize> {
        let inner = &self.inner;
        let (timeout, idle) = (duration(timeout, "timeout")?, Idle::parse(idle)?);
        let held = Held::write(buffer)?;
        let room = held.len();
        if room == 0 {
            return Err(PyValueError::new_err("the buffer has no room"));
        }
        let _turn = inner.turn()?;
        let mut filled = 0;
        let (target, count) = (&held, &mut filled);
        inner.wait(py, timeout, idle, move |this, state| {
            let mut n = 0;
            if !state.collector.buffer(target.pointer(), room) {
                n = this.fragments(state, AT_ONCE)?;
            }
            *count = state.collector.filled();
            Ok((*count > 0, n > 0))
        })?;
        Ok(filled)
    }

    fn stop(&self) {
        self.inner.stopped.store(true, Ordering::Release);
    }

    #[getter]
    fn stopped(&self) -> bool {
        self.inner.stopped.load(Ordering::Acquire)
    }

    #[getter]
    fn closed(&self) -> bool {
        if !self.inner.usable() {
            return true;
        }
        let state = self.inner.lock();
        // SAFETY: live under the mutex.
        state.pointer.is_null() || unsafe { ae::aeron_subscription_is_closed(state.pointer) }
    }

    #[getter]
    fn connected(&self) -> bool {
        if !self.inner.usable() {
            return false;
        }
        let state = self.inner.lock();
        // SAFETY: live under the mutex.
        !state.pointer.is_null() && unsafe { ae::aeron_subscription_is_connected(state.pointer) }
    }

    #[getter]
    fn images<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        type Row = (i32, String, i64, bool, bool);
        unsafe extern "C" fn row(image: *mut ae::aeron_image_t, list: *mut c_void) {
            // SAFETY: the library holds the image during the call; the list is the caller's.
            unsafe {
                let (session, source, position) = describe(image);
                let closed = ae::aeron_image_is_closed(image);
                let ended = ae::aeron_image_is_end_of_stream(image);
                (*(list as *mut Vec<Row>)).push((session, source, position, closed, ended));
            }
        }
        let mut rows: Vec<Row> = Vec::new();
        if self.inner.usable() {
            let state = self.inner.lock();
            if !state.pointer.is_null() {
                let list = &mut rows as *mut Vec<Row> as *mut c_void;
                // SAFETY: live under the mutex; no poll runs meanwhile.
                unsafe { ae::aeron_subscription_for_each_image(state.pointer, Some(row), list) };
            }
        }
        let class = py.import("cmd_aeron.records")?.getattr("Image")?;
        rows.into_iter().map(|image| class.call1(image)).collect()
    }

    fn take_events<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        if self.inner.client.forked() {
            return Ok(Vec::new());
        }
        let taken = self.inner.events.take();
        let class = py.import("cmd_aeron.records")?.getattr("ImageEvent")?;
        taken.into_iter().map(|event| class.call1(event)).collect()
    }

    #[getter]
    fn endpoint(&self) -> String {
        if !self.inner.usable() {
            return String::new();
        }
        let mut text = [0 as c_char; 128];
        let state = self.inner.lock();
        // SAFETY: live under the mutex; one byte is left for the end of the text.
        unsafe {
            if state.pointer.is_null()
                || ae::aeron_subscription_resolved_endpoint(state.pointer, text.as_mut_ptr(), text.len() - 1) < 1
            {
                return String::new();
            }
            CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
        }
    }

    #[getter]
    fn stream_id(&self) -> i32 {
        self.inner.stream_id
    }

    #[getter]
    fn channel(&self) -> &str {
        &self.inner.channel
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
        format!("<Subscription {} stream {}>", self.inner.channel, self.inner.stream_id)
    }
}
