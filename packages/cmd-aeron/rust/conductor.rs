//! The connection behind a client: the C library's conductor, and what was made with it.
use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use libaeron_sys as ae;
use pyo3::prelude::*;

use crate::cnc;
use crate::errors::{Fail, Kind, STORAGE_HINT, about_storage, last_client, tidy};
use crate::events::Events;
use crate::process;
use crate::publication::PubInner;
use crate::subscription::SubInner;

const ERRORS_MAX: usize = 256;
/// How long the reason of a client that is closed is waited for, and what stands for none.
const REASON: Duration = Duration::from_millis(500);
const NO_REASON: i32 = -1;
const ENDPOINT_CLOSING: i32 = -10;
const DRIVER_TIMEOUT: i32 = ae::AERON_CLIENT_ERROR_DRIVER_TIMEOUT as i32;

/// Errors that the conductor reports; the oldest are dropped.
#[derive(Default)]
pub struct Errors {
    list: Mutex<VecDeque<(i32, String)>>,
    fatal: AtomicI32,
}

impl Errors {
    pub fn take(&self) -> Vec<(i32, String)> {
        self.list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect()
    }

    pub fn push(&self, code: i32, message: String) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() == ERRORS_MAX {
            list.pop_front();
        }
        list.push_back((code, message));
    }
}

unsafe extern "C" fn on_error(errors: *mut c_void, code: c_int, message: *const c_char) {
    // SAFETY: the errors live as long as the client; the text until the end of this call.
    let (errors, text) = unsafe { (&*(errors as *const Errors), CStr::from_ptr(message).to_string_lossy()) };
    let fatal = ae::AERON_CLIENT_ERROR_DRIVER_TIMEOUT as i32..=ae::AERON_CLIENT_ERROR_CONDUCTOR_SERVICE_TIMEOUT as i32;
    errors.push(-code.abs(), tidy(&text));
    if fatal.contains(&code.abs()) {
        errors.fatal.store(code.abs(), Ordering::Release); // last: who sees it finds the text
    }
}

/// The C client; all use of it, and of async handles, is under the mutex that holds it.
pub struct Core {
    context: *mut ae::aeron_context_t,
    pub client: *mut ae::aeron_t,
    pub publications: Vec<Weak<PubInner>>,
    pub subscriptions: Vec<Weak<SubInner>>,
    /// What callbacks of subscriptions write to, until the library has let go of it.
    pub events: Vec<Arc<Events>>,
}

// SAFETY: the library's client may be used from any thread; the mutex orders its close.
unsafe impl Send for Core {}

pub struct ClientInner {
    core: Mutex<Option<Core>>,
    pub errors: Arc<Errors>,
    closed: AtomicBool,
    pub generation: u64,
    pub directory: String,
    pub client_id: i64,
}

impl ClientInner {
    pub fn core(&self) -> MutexGuard<'_, Option<Core>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn forked(&self) -> bool {
        self.generation != process::generation()
    }

    pub fn fork_error() -> Fail {
        Fail::new(
            Kind::ClientClosed,
            "this Aeron client was made before a fork and is its parent's",
        )
        .hint("make a client of your own in the forked process")
    }

    /// Closes everything made with the client, then the client.
    pub fn close(&self) {
        if self.forked() {
            return;
        }
        self.closed.store(true, Ordering::Release);
        let mut guard = self.core();
        let Some(core) = guard.take() else { return };
        for subscription in core.subscriptions.iter().filter_map(Weak::upgrade) {
            subscription.close();
        }
        for publication in core.publications.iter().filter_map(Weak::upgrade) {
            publication.close();
        }
        // SAFETY: no pointer into the client is left anywhere; callbacks end with aeron_close.
        unsafe {
            ae::aeron_close(core.client);
            ae::aeron_context_close(core.context);
        }
        drop(core);
    }

    /// Why the client cannot be used any more.
    pub fn check(&self) -> Result<(), Fail> {
        if self.forked() {
            return Err(Self::fork_error());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(Fail::new(Kind::ClientClosed, "the Aeron client is closed"));
        }
        match &*self.core() {
            Some(core) => self.check_core(core),
            None => Err(Fail::new(Kind::ClientClosed, "the Aeron client is closed")),
        }
    }

    fn check_core(&self, core: &Core) -> Result<(), Fail> {
        // SAFETY: live while the mutex is held.
        if !unsafe { ae::aeron_is_closed(core.client) } {
            return Ok(());
        }
        // The library closes the client first and says why afterwards, from its own thread.
        let mut fatal = self.errors.fatal.load(Ordering::Acquire);
        let end = Instant::now() + REASON;
        while fatal == 0 {
            if Instant::now() > end {
                // It has none, and nobody waits for it again.
                fatal = self
                    .errors
                    .fatal
                    .compare_exchange(0, NO_REASON, Ordering::AcqRel, Ordering::Acquire)
                    .map_or_else(|said| said, |_| NO_REASON);
                break;
            }
            sleep(Duration::from_millis(1));
            fatal = self.errors.fatal.load(Ordering::Acquire);
        }
        let list = self.errors.list.lock().unwrap_or_else(PoisonError::into_inner);
        let cause = list
            .iter()
            .rev()
            .find(|(code, _)| fatal > 0 && *code == -fatal)
            .map_or_else(|| "no reason given".to_owned(), |(_, text)| text.clone());
        if fatal == DRIVER_TIMEOUT {
            return Err(Fail::new(
                Kind::DriverTimeout,
                format!("the Aeron media driver of {} is gone: {cause}", self.directory),
            )
            .hint("start the driver again and make a new client"));
        }
        Err(Fail::new(
            Kind::ClientClosed,
            format!(
                "the Aeron client of {} was closed by the library: {cause}",
                self.directory
            ),
        )
        .hint("make a new client; a process that was stopped too long loses its client"))
    }
}

impl Drop for ClientInner {
    fn drop(&mut self) {
        self.close();
    }
}

/// An answer that is awaited; used under the client's mutex.
struct Pending<T>(*mut T);
// SAFETY: as above.
unsafe impl<T> Send for Pending<T> {}
unsafe impl<T> Sync for Pending<T> {}

pub fn registration(what: &str) -> Fail {
    let (code, message) = last_client();
    if code == -DRIVER_TIMEOUT {
        return Fail::new(Kind::Timeout, format!("the driver did not answer to {what}"))
            .hint("is the machine overloaded? The driver may be gone");
    }
    if about_storage(code, &message) {
        return Fail::new(Kind::Storage, format!("no room for {what}: {message}")).hint(STORAGE_HINT);
    }
    let kind = if code == ENDPOINT_CLOSING {
        Kind::EndpointClosing
    } else {
        Kind::Registration
    };
    let hint = if kind == Kind::EndpointClosing {
        "the endpoint was closed a moment ago: try again"
    } else {
        ""
    };
    Fail::new(kind, format!("the driver refused {what}: {message}"))
        .hint(hint)
        .code(code)
}

impl ClientInner {
    /// Asks the driver for something and waits for it, in steps that let signals and other threads through.
    pub fn add<A, R>(
        &self,
        py: Python<'_>,
        timeout: u64,
        what: &str,
        begin: impl Fn(&mut Core) -> Result<*mut A, Fail> + Send + Sync,
        mut poll: impl FnMut(&mut Core, *mut A) -> Result<Option<R>, Fail> + Send,
        cancel: impl Fn(&mut Core, *mut A) + Send,
    ) -> PyResult<R>
    where
        R: Send,
    {
        let gone = || Fail::new(Kind::ClientClosed, "the Aeron client is closed");
        self.check()?;
        let end = Instant::now() + Duration::from_nanos(timeout);
        let handle = Pending(match self.core().as_mut() {
            Some(core) => begin(core)?,
            None => return Err(gone().into()),
        });
        loop {
            let slice = Instant::now() + Duration::from_millis(50);
            let (poll, handle) = (&mut poll, &handle);
            let found = py.detach(move || -> Result<Option<R>, Fail> {
                loop {
                    {
                        let mut guard = self.core();
                        let core = guard.as_mut().ok_or_else(gone)?;
                        if let Some(result) = poll(core, handle.0)? {
                            return Ok(Some(result));
                        }
                        self.check_core(core)?;
                    }
                    if Instant::now() >= slice.min(end) {
                        return Ok(None);
                    }
                    sleep(Duration::from_micros(500));
                }
            })?;
            if let Some(result) = found {
                return Ok(result);
            }
            let interrupted = py.check_signals();
            if interrupted.is_err() || Instant::now() >= end {
                if let Some(core) = self.core().as_mut() {
                    cancel(core, handle.0);
                }
                interrupted?;
                return Err(Fail::new(
                    Kind::Timeout,
                    format!("{what} took longer than {} ms", timeout / 1_000_000),
                )
                .hint("give it more time; the driver may be overloaded or gone")
                .into());
            }
        }
    }
}

pub fn connect(directory: String, timeout: u64, name: CString) -> Result<Arc<ClientInner>, Fail> {
    // The library waits for a driver, without an end where the file is cut short: look first.
    let status = cnc::status(&directory)?;
    if !status.running {
        return Err(cnc::missing(&directory, &status));
    }
    let dir = CString::new(directory.clone()).unwrap_or_default();
    let errors: Arc<Errors> = Arc::default();
    let fail = |what: &str| {
        let (code, message) = last_client();
        if code == -DRIVER_TIMEOUT {
            return Fail::new(
                Kind::DriverMissing,
                format!("no Aeron media driver answers in {directory}: {message}"),
            );
        }
        Fail::new(
            Kind::Aeron,
            format!("the Aeron client of {directory} cannot {what}: {message}"),
        )
    };
    let (mut context, mut client) = (null_mut(), null_mut());
    // SAFETY: the library's own order; each step is undone where a later one fails.
    unsafe {
        if ae::aeron_context_init(&mut context) < 0 {
            return Err(fail("be set up"));
        }
        if ae::aeron_context_set_dir(context, dir.as_ptr()) < 0
            || ae::aeron_context_set_client_name(context, name.as_ptr()) < 0
            || ae::aeron_context_set_driver_timeout_ms(context, (timeout / 1_000_000).max(1)) < 0
            // How late a connection or an answer of the driver is seen, at most.
            || ae::aeron_context_set_idle_strategy_init_args(context, c"4000000".as_ptr()) < 0
            || ae::aeron_context_set_idle_strategy(context, c"sleep-ns".as_ptr()) < 0
            || ae::aeron_context_set_error_handler(context, Some(on_error), Arc::as_ptr(&errors) as *mut c_void) < 0
            || ae::aeron_init(&mut client, context) < 0
        {
            let fail = fail("connect");
            ae::aeron_context_close(context);
            return Err(fail);
        }
        if ae::aeron_start(client) < 0 {
            let fail = fail("start");
            ae::aeron_close(client);
            ae::aeron_context_close(context);
            return Err(fail);
        }
        Ok(Arc::new(ClientInner {
            client_id: ae::aeron_client_id(client),
            core: Mutex::new(Some(Core {
                context,
                client,
                publications: Vec::new(),
                subscriptions: Vec::new(),
                events: Vec::new(),
            })),
            errors,
            closed: AtomicBool::new(false),
            generation: process::generation(),
            directory,
        }))
    }
}
