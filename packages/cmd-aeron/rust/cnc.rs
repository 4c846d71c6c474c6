//! The command-and-control file of a driver: who owns a directory, and is it alive?
//!
//! It is read, never mapped: another process may cut it short at any time.
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::errors::{Fail, Kind};
use crate::process::{lives, now};

const MAJOR: i32 = 0;
const HEADER: u64 = 128; // metadata of the file, then its buffers
const RING_TRAILER: u64 = 768; // behind the ring of commands; the heartbeat is in its sixth part
const HEARTBEAT: u64 = 640;
const RECORD: u64 = 512; // metadata of one counter
const LABEL_LENGTH: usize = 128;
const LABEL: usize = 132;
/// Older than this, a driver that lives by its process id counts as one that does not answer.
pub const STALE: i64 = 10_000_000_000;
const ADVANCE: Duration = Duration::from_millis(1400);

/// A driver as its file shows it.
#[derive(Clone, Debug)]
pub struct Status {
    pub running: bool,
    pub pid: i64,
    /// ns since the last sign of life, -1 where there was none.
    pub age: i64,
    pub version: String,
    /// Its process lives, whether it answers or not.
    pub alive: bool,
}

impl Status {
    fn none() -> Self {
        Status {
            running: false,
            pid: 0,
            age: -1,
            version: String::new(),
            alive: false,
        }
    }
}

struct Cnc {
    file: File,
    lengths: [i64; 5],
    started: i64,
    pid: i64,
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default())
}

pub fn file_of(directory: &str) -> PathBuf {
    Path::new(directory).join("cnc.dat")
}

/// The file's head; Ok(None) where there is none, or none that is finished.
fn open(directory: &str) -> Result<Option<Cnc>, Fail> {
    let path = file_of(directory);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => {
            return Err(
                Fail::new(Kind::Aeron, format!("cannot read {}: {error}", path.display()))
                    .hint("driver and clients must run as users that may read and write its files"),
            );
        }
    };
    let mut head = [0u8; HEADER as usize];
    if file.read_exact_at(&mut head, 0).is_err() {
        return Ok(None);
    }
    let version = i32_at(&head, 0);
    if version == 0 {
        return Ok(None); // a driver that is just beginning
    }
    if version >> 16 != MAJOR {
        return Err(Fail::new(
            Kind::VersionMismatch,
            format!(
                "the driver of {directory} has file version {}.{}.{}, this client needs {MAJOR}.x",
                version >> 16,
                version >> 8 & 255,
                version & 255
            ),
        )
        .hint("use an Aeron driver of version 1.51 to 1.54, or another directory"));
    }
    let lengths: [i64; 5] = std::array::from_fn(|i| i64::from(i32_at(&head, 4 + 4 * i)));
    let total: i64 = HEADER as i64 + lengths.iter().sum::<i64>();
    let size = file.metadata().map_or(0, |m| m.len() as i64);
    if lengths.iter().any(|&n| n < 0) || lengths[0] < RING_TRAILER as i64 || size < total {
        return Ok(None);
    }
    Ok(Some(Cnc {
        file,
        lengths,
        started: i64_at(&head, 32).saturating_mul(1_000_000),
        pid: i64_at(&head, 40),
    }))
}

impl Cnc {
    /// Last sign of life in ms since 1970; 0: none yet, -1: ended in order.
    fn heartbeat(&self) -> i64 {
        let mut bytes = [0u8; 8];
        let at = HEADER + self.lengths[0] as u64 - RING_TRAILER + HEARTBEAT;
        match self.file.read_exact_at(&mut bytes, at) {
            Ok(()) => i64::from_le_bytes(bytes),
            Err(_) => -1,
        }
    }

    /// The driver's version out of the labels of its counters; empty where none tells.
    fn version(&self) -> String {
        let base = HEADER + (self.lengths[0] + self.lengths[1]) as u64;
        let mut record = [0u8; RECORD as usize];
        for id in 0..128 {
            if (id + 1) * RECORD > self.lengths[2] as u64
                || self.file.read_exact_at(&mut record, base + id * RECORD).is_err()
                || i32_at(&record, 0) == 0
            {
                break;
            }
            let length = usize::try_from(i32_at(&record, LABEL_LENGTH)).unwrap_or(0).min(380);
            let label = String::from_utf8_lossy(&record[LABEL..LABEL + length]);
            if label.starts_with("Aeron software")
                && let Some(rest) = label.split("version=").nth(1)
            {
                return rest.split_whitespace().next().unwrap_or("").to_owned();
            }
        }
        String::new()
    }
}

/// Who owns a directory. Takes at most 1.5 s: a heartbeat that is fresh but of a process that is not to be seen
/// (killed, or in another pid namespace) counts only when it moves on.
pub fn status(directory: &str) -> Result<Status, Fail> {
    let end = Instant::now() + ADVANCE;
    let Some(cnc) = open(directory)? else {
        return Ok(Status::none());
    };
    let first = cnc.heartbeat();
    let alive = lives(cnc.pid, cnc.started);
    let mut status = Status {
        running: false,
        pid: cnc.pid,
        age: if first > 0 {
            (now() - first * 1_000_000).max(0)
        } else {
            -1
        },
        version: cnc.version(),
        alive: alive && first >= 0,
    };
    if first < 0 {
        return Ok(status); // ended in order
    }
    if alive && first > 0 {
        status.running = status.age < STALE;
        return Ok(status);
    }
    if first > 0 && status.age > STALE {
        return Ok(status);
    }
    // The file may be replaced meanwhile: that is a new driver, which is asked anew by the caller's next look.
    while Instant::now() < end {
        sleep(Duration::from_millis(20));
        let beat = cnc.heartbeat();
        if beat > first {
            status.running = true;
            status.alive = true;
            status.age = (now() - beat * 1_000_000).max(0);
            break;
        }
        if beat < 0 || !file_of(directory).exists() {
            return Ok(Status::none());
        }
    }
    Ok(status)
}

/// The error of a client where no driver runs.
pub fn missing(directory: &str, status: &Status) -> Fail {
    if status.alive {
        return Fail::new(
            Kind::DriverMissing,
            format!(
                "the Aeron media driver of {directory} (process {}) has not answered for {} s",
                status.pid,
                status.age / 1_000_000_000
            ),
        )
        .hint("continue the process if it is stopped, or end it and start another");
    }
    Fail::new(
        Kind::DriverMissing,
        format!("no Aeron media driver runs in {directory}"),
    )
    .hint(format!("start one: python -m cmd_aeron.driver --dir {directory}"))
}
