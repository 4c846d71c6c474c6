//! What is true of the process: forks, the interpreter's exit, processes by id.
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

static GENERATION: AtomicU64 = AtomicU64::new(0);
static EXITING: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Counts forks in the child. The C library's threads do not live on there, so nothing made before may be used.
pub fn watch_forks() {
    HOOK.call_once(|| {
        // SAFETY: the handler touches one atomic only.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// The number of forks between this process and the one that loaded the module.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

pub fn exiting() -> bool {
    EXITING.load(Ordering::Acquire)
}

pub fn set_exiting() {
    EXITING.store(true, Ordering::Release);
}

/// Nanoseconds since 1970.
pub fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_nanos() as i64
}

/// Whether a process `pid` lives that was there already at `since` (ns since 1970, 0: unknown).
///
/// A number is given to another process after its owner's end; such a one began later than `since`.
pub fn lives(pid: i64, since: i64) -> bool {
    let Ok(number) = libc::pid_t::try_from(pid) else {
        return false;
    };
    // SAFETY: signal 0 only asks.
    if number <= 0
        || unsafe { libc::kill(number, 0) } != 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::EPERM)
    {
        return false;
    }
    match stat(number) {
        Some(stat) if stat.gone => false,
        Some(stat) => since <= 0 || stat.began <= since + 5_000_000_000,
        None => true,
    }
}

struct Stat {
    gone: bool,
    began: i64,
}

/// State and time of birth from /proc; None where there is none.
fn stat(pid: libc::pid_t) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let ticks: i64 = fields.get(19)?.parse().ok()?;
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let booted: i64 = boot
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    // SAFETY: a constant of the system.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
    Some(Stat {
        gone: matches!(*fields.first()?, "Z" | "X"),
        began: booted * 1_000_000_000 + ticks * (1_000_000_000 / hertz),
    })
}
