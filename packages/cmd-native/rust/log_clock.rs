//! Stamps: the processor's counter where it runs at a constant rate, else the monotonic clock.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A rate is nanoseconds a tick times 2 to this power.
pub const RATE_BITS: u32 = 48;

/// Whether the counter runs at one rate in all states of the processor, on all cores.
#[cfg(target_arch = "x86_64")]
fn constant() -> bool {
    use std::arch::x86_64::__cpuid;
    if cfg!(miri) {
        return false; // it interprets, and has no processor to ask
    }
    // The intrinsic is safe in newer compilers only.
    #[allow(unused_unsafe)]
    unsafe {
        __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn counter() -> u64 {
    // SAFETY: every processor of this architecture has the instruction.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "aarch64")]
fn constant() -> bool {
    true // the generic timer's rate is fixed by the architecture
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn counter() -> u64 {
    let ticks: u64;
    // SAFETY: reading the virtual counter is allowed to every program of the systems that this is built for.
    unsafe { std::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn constant() -> bool {
    false
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn counter() -> u64 {
    0
}

fn monotonic() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // Not zero, so that the first stamps are before no calibration.
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1_000_000_000
}

/// Where stamps come from; found once, kept by whoever stamps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    Counter,
    Monotonic,
}

impl Clock {
    pub fn best() -> Clock {
        if constant() { Clock::Counter } else { Clock::Monotonic }
    }

    pub fn name(self) -> &'static str {
        match self {
            Clock::Counter => "tsc",
            Clock::Monotonic => "monotonic",
        }
    }

    #[inline(always)]
    pub fn stamp(self) -> u64 {
        match self {
            Clock::Counter => counter(),
            Clock::Monotonic => monotonic(),
        }
    }

    /// Reads the counter and UTC together: stamp, ns since the epoch, half of the ticks that it took.
    fn pair(self) -> (u64, i64, u64) {
        let mut best = (0, 0, u64::MAX);
        for _ in 0..5 {
            let before = self.stamp();
            let utc = utc();
            let after = self.stamp();
            let half = after.wrapping_sub(before) / 2 + 1;
            if half < best.2 {
                best = (before.wrapping_add(after.wrapping_sub(before) / 2), utc, half);
            }
        }
        best
    }

    /// Nanoseconds a tick times 2^48, measured over some milliseconds where the processor does not say it.
    pub fn rate(self) -> u64 {
        static RATE: OnceLock<u64> = OnceLock::new();
        if self == Clock::Monotonic {
            return 1 << RATE_BITS;
        }
        *RATE.get_or_init(|| {
            let start = Instant::now();
            let from = self.stamp();
            while start.elapsed().as_micros() < 5_000 {
                std::hint::spin_loop();
            }
            let spent = start.elapsed().as_nanos();
            let ticks = u128::from(self.stamp().wrapping_sub(from)).max(1);
            ((spent << RATE_BITS) / ticks) as u64
        })
    }

    /// A calibration: stamp, UTC, error in ns.
    pub fn calibrate(self) -> (u64, i64, u64) {
        let (raw, utc, half) = self.pair();
        let ns = (u128::from(half) * u128::from(self.rate())) >> RATE_BITS;
        (raw, utc, ns as u64 + 1)
    }
}

fn utc() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_nanos() as i64,
        Err(before) => -(before.duration().as_nanos() as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_and_become_utc() {
        for clock in [Clock::best(), Clock::Monotonic] {
            let (raw, at, error) = clock.calibrate();
            std::thread::sleep(std::time::Duration::from_millis(20));
            let stamp = clock.stamp();
            let now = utc();
            assert!(stamp > raw);
            let ns = at + ((i128::from(stamp - raw) * i128::from(clock.rate())) >> RATE_BITS) as i64;
            // A rate within a thousandth over twenty milliseconds, and time lost between the two lines.
            assert!((now - ns).abs() < 5_000_000, "{} {error}", now - ns);
        }
    }
}
