//! The client as Python sees it.
use std::ffi::{c_char, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use libaeron_sys as ae;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::conductor::{ClientInner, connect, registration};
use crate::errors::{c_string, duration};
use crate::events::Events;
use crate::publication::{ExclusivePublication, PubInner, Publication};
use crate::subscription::{SubInner, Subscription};

/// A connection to a media driver, with one thread of its own.
#[pyclass(module = "cmd_aeron._native", frozen)]
pub struct Client {
    inner: Arc<ClientInner>,
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (directory="", *, driver_timeout=10_000_000_000, name=""))]
    fn new(py: Python<'_>, directory: &str, driver_timeout: i64, name: &str) -> PyResult<Self> {
        let directory = if directory.is_empty() {
            crate::default_directory()
        } else {
            directory.to_owned()
        };
        c_string(&directory, "directory")?;
        let name = c_string(name, "name")?;
        let timeout = duration(driver_timeout, "driver_timeout")?;
        let inner = py.detach(|| connect(directory, timeout, name))?;
        crate::remember_client(py, &inner);
        Ok(Client { inner })
    }

    #[getter]
    fn client_id(&self) -> i64 {
        self.inner.client_id
    }

    #[getter]
    fn directory(&self) -> &str {
        &self.inner.directory
    }

    #[getter]
    fn closed(&self) -> bool {
        self.inner.check().is_err()
    }

    fn check(&self) -> PyResult<()> {
        Ok(self.inner.check()?)
    }

    fn take_errors(&self) -> Vec<(i32, String)> {
        if self.inner.forked() {
            return Vec::new();
        }
        self.inner.errors.take()
    }

    #[pyo3(signature = (channel, stream_id, timeout=5_000_000_000))]
    fn add_publication(&self, py: Python<'_>, channel: &str, stream_id: i32, timeout: i64) -> PyResult<Publication> {
        let uri = c_string(channel, "channel")?;
        let (inner, timeout) = (&self.inner, duration(timeout, "timeout")?);
        let what = &format!("the publication {channel}");
        let made = inner.add(
            py,
            timeout,
            what,
            |core| {
                let mut handle = null_mut();
                // SAFETY: the client is live, the text outlives the call.
                if unsafe { ae::aeron_async_add_publication(&mut handle, core.client, uri.as_ptr(), stream_id) } < 0 {
                    return Err(registration(what));
                }
                Ok(handle)
            },
            |core, handle| {
                let mut out = null_mut();
                // SAFETY: the handle is live until it answers.
                match unsafe { ae::aeron_async_add_publication_poll(&mut out, handle) } {
                    0 => Ok(None),
                    1 => {
                        let made = PubInner::shared(inner, out, channel, stream_id);
                        core.publications.retain(|p| p.strong_count() > 0);
                        core.publications.push(Arc::downgrade(&made));
                        Ok(Some(made))
                    }
                    _ => Err(registration(what)),
                }
            },
            // SAFETY: the handle has not answered yet.
            |core, handle| unsafe {
                ae::aeron_async_add_publication_cancel(core.client, handle);
            },
        )?;
        Ok(Publication { inner: made })
    }

    #[pyo3(signature = (channel, stream_id, timeout=5_000_000_000))]
    fn add_exclusive_publication(
        &self,
        py: Python<'_>,
        channel: &str,
        stream_id: i32,
        timeout: i64,
    ) -> PyResult<ExclusivePublication> {
        let uri = c_string(channel, "channel")?;
        let (inner, timeout) = (&self.inner, duration(timeout, "timeout")?);
        let what = &format!("the exclusive publication {channel}");
        let made = inner.add(
            py,
            timeout,
            what,
            |core| {
                let mut handle = null_mut();
                // SAFETY: the client is live, the text outlives the call.
                if unsafe {
                    ae::aeron_async_add_exclusive_publication(&mut handle, core.client, uri.as_ptr(), stream_id)
                } < 0
                {
                    return Err(registration(what));
                }
                Ok(handle)
            },
            |core, handle| {
                let mut out = null_mut();
                // SAFETY: the handle is live until it answers.
                match unsafe { ae::aeron_async_add_exclusive_publication_poll(&mut out, handle) } {
                    0 => Ok(None),
                    1 => {
                        let made = PubInner::exclusive(inner, out, channel, stream_id);
                        core.publications.retain(|p| p.strong_count() > 0);
                        core.publications.push(Arc::downgrade(&made));
                        Ok(Some(made))
                    }
                    _ => Err(registration(what)),
                }
            },
            // SAFETY: the handle has not answered yet.
            |core, handle| unsafe {
                ae::aeron_async_add_exclusive_publication_cancel(core.client, handle);
            },
        )?;
        Ok(ExclusivePublication { inner: made })
    }

    #[pyo3(signature = (channel, stream_id, timeout=5_000_000_000))]
    fn add_subscription(&self, py: Python<'_>, channel: &str, stream_id: i32, timeout: i64) -> PyResult<Subscription> {
        let uri = c_string(channel, "channel")?;
        let (inner, timeout) = (&self.inner, duration(timeout, "timeout")?);
        let events: Arc<Events> = Arc::default();
        let what = &format!("the subscription {channel}");
        let made = inner.add(
            py,
            timeout,
            what,
            |core| {
                core.events.retain(|e| !e.finished() || Arc::strong_count(e) > 1);
                core.events.push(events.clone());
                let mut handle = null_mut();
                // SAFETY: the client is live, the text outlives the call, the events the client's use of them.
                let rc = unsafe {
                    let clientd = Arc::as_ptr(&events) as *mut c_void;
                    ae::aeron_async_add_subscription(
                        &mut handle,
                        core.client,
                        uri.as_ptr(),
                        stream_id,
                        Some(Events::on_available),
                        clientd,
                        Some(Events::on_unavailable),
                        clientd,
                    )
                };
                if rc < 0 {
                    return Err(registration(what));
                }
                Ok(handle)
            },
            |core, handle| {
                let mut out = null_mut();
                // SAFETY: the handle is live until it answers.
                match unsafe { ae::aeron_async_add_subscription_poll(&mut out, handle) } {
                    0 => Ok(None),
                    1 => {
                        let made = SubInner::new(inner, out, events.clone(), channel, stream_id);
                        core.subscriptions.retain(|s| s.strong_count() > 0);
                        core.subscriptions.push(Arc::downgrade(&made));
                        Ok(Some(made))
                    }
                    _ => {
                        events.finish();
                        Err(registration(what))
                    }
                }
            },
            // SAFETY: the handle has not answered yet.
            |core, handle| unsafe {
                ae::aeron_async_add_subscription_cancel(core.client, handle);
            },
        )?;
        Ok(Subscription { inner: made })
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        self.inner.check()?;
        let mut found: Vec<(i32, i32, String, i64)> = Vec::new();
        if let Some(core) = self.inner.core().as_mut() {
            // SAFETY: live while the mutex is held; the callback runs inside the call.
            unsafe {
                let reader = ae::aeron_counters_reader(core.client);
                let list = &mut found as *mut Vec<_> as *mut c_void;
                ae::aeron_counters_reader_foreach_counter(reader, Some(on_counter), list);
            }
        }
        let class = py.import("cmd_aeron.records")?.getattr("Counter")?;
        found.into_iter().map(|counter| class.call1(counter)).collect()
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
        format!("<Client {} of {}>", self.inner.client_id, self.inner.directory)
    }
}

unsafe extern "C" fn on_counter(
    value: i64,
    id: i32,
    type_id: i32,
    _key: *const u8,
    _key_length: usize,
    label: *const c_char,
    label_length: usize,
    list: *mut c_void,
) {
    // SAFETY: the list is the caller's; the label is valid for its length during the call.
    let (list, label) = unsafe {
        (
            &mut *(list as *mut Vec<(i32, i32, String, i64)>),
            std::slice::from_raw_parts(label.cast::<u8>(), label_length),
        )
    };
    list.push((id, type_id, String::from_utf8_lossy(label).into_owned(), value));
}
