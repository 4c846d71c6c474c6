//! The media driver, embedded: its threads run in this process.
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use libaeron_driver_sys as md;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::cnc::{self, Status};
use crate::errors::{Fail, Kind, about_storage, c_string, duration, last_driver};
use crate::process;

const SECOND: u64 = 1_000_000_000;
/// What a driver writes into its directory; with anything else in it, it is not ours to delete.
const OWN: [&str; 6] = [
    "cnc.dat",
    "loss-report.dat",
    "publications",
    "images",
    "counters",
    "dumps",
];

/// The library cuts longer paths of its files (at 384) without a word.
const LONGEST: usize = 320;

struct Raw {
    context: *mut md::aeron_driver_context_t,
    driver: *mut md::aeron_driver_t,
}

// SAFETY: used under the mutex only.
unsafe impl Send for Raw {}

/// A running driver; closed on drop, at the latest.
pub struct DriverInner {
    raw: Mutex<Option<Raw>>,
    closed: AtomicBool,
    generation: u64,
    directory: String,
    file: Option<(u64, u64)>,
}

impl DriverInner {
    pub fn close(&self) {
        if self.generation != process::generation() {
            return; // a forked child: the threads are its parent's
        }
        self.closed.store(true, Ordering::Release);
        let mut raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(raw) = raw.take() {
            // SAFETY: taken once; the context outlives the driver.
            unsafe { md::aeron_driver_close(raw.driver) };
            // The directory may be another driver's by now: somebody deleted ours, and another one started there.
            let lock = lock_parent(&self.directory);
            let ours = self.file.is_some() && self.file == identity(&self.directory);
            // SAFETY: as above.
            unsafe {
                md::aeron_driver_context_set_dir_delete_on_shutdown(raw.context, ours);
                md::aeron_driver_context_close(raw.context);
            }
            drop(lock);
        }
    }

    fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) || self.generation != process::generation()
    }
}

impl Drop for DriverInner {
    fn drop(&mut self) {
        self.close();
    }
}

struct Settings {
    directory: CString,
    mode: md::aeron_threading_mode_enum::Type,
    idle: CString,
    term_length: usize,
    ipc_term_length: usize,
    mtu: usize,
    ipc_mtu: usize,
    window: usize,
    client_liveness: u64,
    driver_timeout: u64,
    untethered_window_limit: u64,
    untethered_resting: u64,
    publication_linger: u64,
    image_liveness: u64,
}

impl Settings {
    /// Puts all settings into a context; the first that the library refuses ends it.
    ///
    /// # Safety
    /// `context` is live.
    unsafe fn apply(&self, context: *mut md::aeron_driver_context_t) -> i32 {
        // What counts time is looked at that often; the default of 1 s is too coarse for short times.
        let shortest = [
            self.client_liveness,
            self.driver_timeout,
            self.untethered_window_limit,
            self.untethered_resting,
            self.publication_linger,
            self.image_liveness,
        ]
        .into_iter()
        .filter(|&time| time > 0)
        .min()
        .unwrap_or(SECOND);
        let interval = (shortest / 4).clamp(10_000_000, SECOND);
        macro_rules! all {
            ($($call:ident($value:expr)),* $(,)?) => {
                $(if unsafe { md::$call(context, $value) } < 0 { return -1; })*
            };
        }
        macro_rules! given {
            ($($call:ident($value:expr)),* $(,)?) => {
                $(if $value > 0 && unsafe { md::$call(context, $value) } < 0 { return -1; })*
            };
        }
        all!(
            aeron_driver_context_set_dir(self.directory.as_ptr()),
            aeron_driver_context_set_dir_warn_if_exists(false),
            // Who owns the directory is looked at before, more exactly than the library does.
            aeron_driver_context_set_dir_delete_on_start(true),
            aeron_driver_context_set_dir_delete_on_shutdown(true),
            aeron_driver_context_set_threading_mode(self.mode),
            aeron_driver_context_set_shared_idle_strategy(self.idle.as_ptr()),
            aeron_driver_context_set_sharednetwork_idle_strategy(self.idle.as_ptr()),
            aeron_driver_context_set_conductor_idle_strategy(self.idle.as_ptr()),
            aeron_driver_context_set_sender_idle_strategy(self.idle.as_ptr()),
            aeron_driver_context_set_receiver_idle_strategy(self.idle.as_ptr()),
            // A sparse file that its file system cannot fill kills whoever touches it (SIGBUS).
            aeron_driver_context_set_term_buffer_sparse_file(false),
            aeron_driver_context_set_perform_storage_checks(true),
            aeron_driver_context_set_low_file_store_warning_threshold(0),
            // 8,192 counters; the default takes ten times the space.
            aeron_driver_context_set_counters_buffer_length(1 << 20),
            aeron_driver_context_set_loss_report_buffer_length(1 << 18),
            aeron_driver_context_set_timer_interval_ns(interval),
        );
        // A claim that its client left open is given up only after the client itself.
        if self.client_liveness > 10 * SECOND {
            all!(aeron_driver_context_set_publication_unblock_timeout_ns(
                self.client_liveness + 5 * SECOND
            ));
        }
        given!(
            aeron_driver_context_set_term_buffer_length(self.term_length),
            aeron_driver_context_set_ipc_term_buffer_length(self.ipc_term_length),
            aeron_driver_context_set_mtu_length(self.mtu),
            aeron_driver_context_set_ipc_mtu_length(self.ipc_mtu),
            aeron_driver_context_set_rcv_initial_window_length(self.window),
            aeron_driver_context_set_client_liveness_timeout_ns(self.client_liveness),
            aeron_driver_context_set_driver_timeout_ms(self.driver_timeout / 1_000_000),
            aeron_driver_context_set_untethered_window_limit_timeout_ns(self.untethered_window_limit),
            aeron_driver_context_set_untethered_resting_timeout_ns(self.untethered_resting),
            aeron_driver_context_set_publication_linger_timeout_ns(self.publication_linger),
            aeron_driver_context_set_image_liveness_timeout_ns(self.image_liveness),
        );
        0
    }
}

fn failed(directory: &str, what: &str) -> Fail {
    let (code, message) = last_driver();
    if about_storage(code, &message) {
        return Fail::new(
            Kind::Storage,
            format!("no room for an Aeron directory at {directory}: {message}"),
        )
        .hint("a driver needs about 10 MB there, and 3 x term-length for each publication");
    }
    Fail::new(
        Kind::Aeron,
        format!("the media driver of {directory} cannot {what}: {message}"),
    )
}

fn start(settings: &Settings, directory: &str) -> Result<Raw, Fail> {
    let mut context = null_mut();
    let mut driver = null_mut();
    // SAFETY: the library's own order: context, driver, start; each is undone where a later one fails.
    unsafe {
        if md::aeron_driver_context_init(&mut context) < 0 {
            return Err(failed(directory, "be set up"));
        }
        if settings.apply(context) < 0 || md::aeron_driver_init(&mut driver, context) < 0 {
            let fail = failed(directory, "begin");
            md::aeron_driver_context_close(context);
            return Err(fail);
        }
        if md::aeron_driver_start(driver, false) < 0 {
            let fail = failed(directory, "start its threads");
            md::aeron_driver_close(driver);
            md::aeron_driver_context_close(context);
            return Err(fail);
        }
    }
    Ok(Raw { context, driver })
}

/// Which file of a driver is in a directory.
fn identity(directory: &str) -> Option<(u64, u64)> {
    let found = std::fs::metadata(Path::new(directory).join("cnc.dat")).ok()?;
    Some((found.dev(), found.ino()))
}

/// One start at a time among all processes: a lock on the folder that the directory is in, which leaves no file behind.
fn lock_parent(directory: &str) -> Result<Option<File>, Fail> {
    let path = Path::new(directory);
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.file_name().is_none() {
        return Err(
            Fail::new(Kind::Storage, format!("{directory} cannot be an Aeron directory"))
                .hint("name a directory of its own, as /dev/shm/aeron-md"),
        );
    }
    let Ok(file) = File::open(parent) else {
        return Ok(None); // the folder is made with the directory, or cannot be: then the start says so
    };
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        // SAFETY: a call on an open descriptor.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(Some(file));
        }
        if Instant::now() > end {
            return Ok(None); // another program's lock: the check of the owner still holds
        }
        sleep(Duration::from_millis(5));
    }
}

fn in_use(directory: &str, status: &Status) -> Fail {
    if status.running {
        return Fail::new(
            Kind::DirectoryInUse,
            format!("a media driver (process {}) runs in {directory}", status.pid),
        )
        .hint("use that driver, or another directory");
    }
    Fail::new(
        Kind::DirectoryInUse,
        format!(
            "the media driver of {directory} (process {}) lives but has not answered for {} s",
            status.pid,
            status.age / SECOND as i64
        ),
    )
    .hint("continue the process if it is stopped, or end it; or use another directory")
}

/// Refuses a directory that a driver lives in, or that holds what no driver wrote.
fn check_directory(directory: &str) -> Result<(), Fail> {
    if directory.len() > LONGEST {
        return Err(Fail::new(
            Kind::Storage,
            format!(
                "the name of an Aeron directory has {LONGEST} bytes at most, this one has {}",
                directory.len()
            ),
        )
        .hint("name a shorter one, as /dev/shm/aeron-md"));
    }
    let status = cnc::status(directory)?;
    if status.running || status.alive {
        return Err(in_use(directory, &status));
    }
    let path = Path::new(directory);
    if path.exists() && !path.is_dir() {
        return Err(Fail::new(Kind::Storage, format!("{directory} is no directory"))
            .hint("name a directory of its own, as /dev/shm/aeron-md"));
    }
    let Ok(entries) = std::fs::read_dir(path) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !OWN.iter().any(|own| name == *own) {
            return Err(Fail::new(
                Kind::Storage,
                format!(
                    "{directory} holds files that are not a media driver's ({})",
                    name.to_string_lossy()
                ),
            )
            .hint("a driver deletes its directory: name one of its own"));
        }
    }
    Ok(())
}

/// Takes from group and others what is of no use to them: who may not write there can be no client, but could read
/// everything that is sent. A directory that the umask opens to writers stays open to them.
fn close_to_readers(directory: &str) -> std::io::Result<()> {
    let mode = std::fs::metadata(directory)?.permissions().mode() & 0o7777;
    let kept = [0o070, 0o007]
        .into_iter()
        .filter(|class| mode & class & 0o022 == 0)
        .fold(mode, |kept, class| kept & !class);
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(kept))
}

fn launch(settings: &Settings, directory: &str) -> Result<Raw, Fail> {
    let lock = lock_parent(directory)?;
    check_directory(directory)?;
    let raw = start(settings, directory)?;
    // Before anything is sent. Where it fails the directory is gone again, which is noticed soon.
    let _ = close_to_readers(directory);
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        if cnc::status(directory).is_ok_and(|status| status.running) {
            break;
        }
        sleep(Duration::from_millis(1));
    }
    drop(lock);
    Ok(raw)
}

/// Aeron's media driver inside this process, with threads of its own.
#[pyclass(module = "cmd_aeron._native", frozen)]
pub struct MediaDriver {
    inner: Arc<DriverInner>,
}

fn term(value: i64, what: &str) -> PyResult<usize> {
    match usize::try_from(value) {
        Ok(0) => Ok(0),
        Ok(n) if n.is_power_of_two() && (1 << 16..=1 << 30).contains(&n) => Ok(n),
        _ => Err(PyValueError::new_err(format!(
            "{what} of {value} bytes: a power of two from 65536 to 1073741824 is needed, or 0"
        ))),
    }
}

fn frame(value: i64, what: &str) -> PyResult<usize> {
    match usize::try_from(value) {
        Ok(0) => Ok(0),
        Ok(n) if n % 32 == 0 && (64..=65504).contains(&n) => Ok(n),
        _ => Err(PyValueError::new_err(format!(
            "{what} of {value} bytes: a multiple of 32 from 64 to 65504 is needed, or 0"
        ))),
    }
}

#[pymethods]
impl MediaDriver {
    #[new]
    #[pyo3(signature = (directory="", *, threading="shared", idle="backoff", term_length=0, ipc_term_length=0, mtu=0,
        ipc_mtu=0, window=0, client_liveness=0, driver_timeout=0, untethered_window_limit=0, untethered_resting=0,
        publication_linger=0, image_liveness=0))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        directory: &str,
        threading: &str,
        idle: &str,
        term_length: i64,
        ipc_term_length: i64,
        mtu: i64,
        ipc_mtu: i64,
        window: i64,
        client_liveness: i64,
        driver_timeout: i64,
        untethered_window_limit: i64,
        untethered_resting: i64,
        publication_linger: i64,
        image_liveness: i64,
    ) -> PyResult<Self> {
        let directory = if directory.is_empty() {
            crate::default_directory()
        } else {
            directory.to_owned()
        };
        let mode = match threading {
            "shared" => md::aeron_threading_mode_enum::AERON_THREADING_MODE_SHARED,
            "shared-network" => md::aeron_threading_mode_enum::AERON_THREADING_MODE_SHARED_NETWORK,
            "dedicated" => md::aeron_threading_mode_enum::AERON_THREADING_MODE_DEDICATED,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "threading {threading:?} is unknown; one of shared, shared-network, dedicated"
                )));
            }
        };
        let strategy = match idle {
            "backoff" | "yield" | "spin" | "noop" => idle,
            "sleep" => "sleep-ns",
            _ => {
                return Err(PyValueError::new_err(format!(
                    "idle {idle:?} is unknown; one of backoff, sleep, yield, spin, noop"
                )));
            }
        };
        let mut liveness = duration(client_liveness, "client_liveness")?;
        if liveness == 0 {
            liveness = 3 * SECOND;
        }
        if liveness < SECOND {
            return Err(PyValueError::new_err(
                "client_liveness is below 1 s, but clients send a sign of life every 0.5 s",
            ));
        }
        let settings = Settings {
            directory: c_string(&directory, "directory")?,
            mode,
            idle: c_string(strategy, "idle")?,
            term_length: term(term_length, "term_length")?,
            ipc_term_length: term(ipc_term_length, "ipc_term_length")?,
            mtu: frame(mtu, "mtu")?,
            ipc_mtu: frame(ipc_mtu, "ipc_mtu")?,
            window: duration(window, "window")? as usize,
            client_liveness: liveness,
            driver_timeout: duration(driver_timeout, "driver_timeout")?,
            untethered_window_limit: duration(untethered_window_limit, "untethered_window_limit")?,
            untethered_resting: duration(untethered_resting, "untethered_resting")?,
            publication_linger: duration(publication_linger, "publication_linger")?,
            image_liveness: duration(image_liveness, "image_liveness")?,
        };
        let raw = py.detach(|| launch(&settings, &directory))?;
        let inner = Arc::new(DriverInner {
            raw: Mutex::new(Some(raw)),
            closed: AtomicBool::new(false),
            generation: process::generation(),
            file: identity(&directory),
            directory,
        });
        crate::remember_driver(py, &inner);
        Ok(MediaDriver { inner })
    }

    #[getter]
    fn directory(&self) -> &str {
        &self.inner.directory
    }

    #[getter]
    fn closed(&self) -> bool {
        self.inner.closed()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.inner.close());
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exc))]
    fn __exit__(&self, py: Python<'_>, _exc: &Bound<'_, pyo3::types::PyTuple>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        let state = if self.inner.closed() { "closed" } else { "running" };
        format!("<MediaDriver {} {state}>", self.inner.directory)
    }
}
