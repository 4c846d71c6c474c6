//! Failures of the C library as typed exceptions of one line.
use std::ffi::{CStr, CString};

use libaeron_driver_sys as md;
use libaeron_sys as ae;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The classes of `cmd_aeron.errors`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Aeron,
    DriverMissing,
    DriverTimeout,
    ClientClosed,
    DirectoryInUse,
    Registration,
    EndpointClosing,
    Timeout,
    Storage,
    VersionMismatch,
    PublicationClosed,
    SubscriptionClosed,
}

impl Kind {
    fn class(self) -> &'static str {
        match self {
            Kind::Aeron => "AeronError",
            Kind::DriverMissing => "DriverMissingError",
            Kind::DriverTimeout => "DriverTimeoutError",
            Kind::ClientClosed => "ClientClosedError",
            Kind::DirectoryInUse => "DirectoryInUseError",
            Kind::Registration => "RegistrationError",
            Kind::EndpointClosing => "EndpointClosingError",
            Kind::Timeout => "AeronTimeoutError",
            Kind::Storage => "StorageError",
            Kind::VersionMismatch => "VersionMismatchError",
            Kind::PublicationClosed => "PublicationClosedError",
            Kind::SubscriptionClosed => "SubscriptionClosedError",
        }
    }
}

/// An error before it becomes a Python exception; made without the GIL.
#[derive(Clone, Debug)]
pub struct Fail {
    pub kind: Kind,
    pub message: String,
    pub hint: String,
    pub code: i32,
}

impl Fail {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Fail {
            kind,
            message: message.into(),
            hint: String::new(),
            code: 0,
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    pub fn code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }
}

impl From<Fail> for PyErr {
    fn from(fail: Fail) -> PyErr {
        Python::attach(|py| {
            let made = py
                .import("cmd_aeron.errors")
                .and_then(|module| module.getattr(fail.kind.class()))
                .and_then(|class| match fail.kind {
                    Kind::Registration | Kind::EndpointClosing => class.call1((fail.message, fail.hint, fail.code)),
                    _ => class.call1((fail.message, fail.hint)),
                });
            match made {
                Ok(value) => PyErr::from_value(value),
                Err(error) => error,
            }
        })
    }
}

/// The C library's message as one line, without its source positions and what our own words say already.
pub fn tidy(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for line in text.lines() {
        let mut part = line.trim();
        loop {
            let end = match part.as_bytes().first() {
                Some(b'[') => part.find(']'),
                Some(b'(') => part.find(')').filter(|&end| part[1..end].parse::<i64>().is_ok()),
                _ => None,
            };
            match end {
                Some(end) => part = part[end + 1..].trim(),
                None => break,
            }
        }
        if !part.is_empty() && !part.ends_with("registration error") && !parts.contains(&part) {
            parts.push(part);
        }
    }
    // The first line names only the class of the error where others follow.
    if parts.len() > 1
        && ["generic error", "unknown error", "Unknown error"]
            .iter()
            .any(|p| parts[0].starts_with(p))
    {
        parts.remove(0);
    }
    if parts.is_empty() {
        return "no reason given".to_owned();
    }
    parts.join("; ")
}

/// Code and one-line message of the client library's last error in this thread.
pub fn last_client() -> (i32, String) {
    // SAFETY: both read thread-local storage of the library; the text is copied.
    unsafe {
        let text = CStr::from_ptr(ae::aeron_errmsg()).to_string_lossy();
        (ae::aeron_errcode(), tidy(&text))
    }
}

/// Code and one-line message of the driver library's last error in this thread.
pub fn last_driver() -> (i32, String) {
    // SAFETY: as above.
    unsafe {
        let text = CStr::from_ptr(md::aeron_errmsg()).to_string_lossy();
        (md::aeron_errcode(), tidy(&text))
    }
}

/// Whether an error is about space in the directory's file system.
pub fn about_storage(code: i32, message: &str) -> bool {
    const STORAGE_SPACE: i32 = 12;
    code.abs() == STORAGE_SPACE && code < 0
        || code == libc::ENOSPC
        || message.contains("No space left")
        || message.contains("insufficient usable storage")
        || message.contains("Insufficient usable storage")
}

/// The hint of a storage error.
pub const STORAGE_HINT: &str = "a publication takes 3 x term-length in the directory's file system: use a smaller term-length or give it more room";

/// A string for C; ValueError where it has a NUL in it.
pub fn c_string(text: &str, what: &str) -> PyResult<CString> {
    CString::new(text).map_err(|_| PyValueError::new_err(format!("{what} has a NUL character in it")))
}

/// A time in ns that must not be negative.
pub fn duration(value: i64, what: &str) -> PyResult<u64> {
    u64::try_from(value).map_err(|_| PyValueError::new_err(format!("{what} is negative")))
}
