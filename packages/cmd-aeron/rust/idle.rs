//! What a waiting poll does while nothing comes.
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

#[derive(Clone, Copy)]
pub enum Idle {
    /// Parks, up to 1 ms.
    LowCpu,
    /// Spins a little, then parks up to 50 us.
    Balanced,
    /// Never leaves the CPU.
    Spin,
}

impl Idle {
    pub fn parse(name: &str) -> PyResult<Self> {
        match name {
            "low-cpu" => Ok(Idle::LowCpu),
            "balanced" => Ok(Idle::Balanced),
            "spin" => Ok(Idle::Spin),
            _ => Err(PyValueError::new_err(format!(
                "idle {name:?} is unknown; one of low-cpu, balanced, spin"
            ))),
        }
    }
}

/// The state of one wait.
pub struct Waiter {
    idle: Idle,
    rounds: u32,
    park: u64,
}

impl Waiter {
    pub fn new(idle: Idle) -> Self {
        let park = match idle {
            Idle::LowCpu => 100, // every nap costs as much CPU as a long one
            _ => 1,
        };
        Waiter { idle, rounds: 0, park }
    }

    /// One pause after a poll without a result; `left` bounds it.
    pub fn pause(&mut self, left: Duration) {
        self.rounds = self.rounds.saturating_add(1);
        let (spins, longest) = match self.idle {
            Idle::Spin => (u32::MAX, 0),
            Idle::Balanced => (100, 50),
            Idle::LowCpu => (10, 1000),
        };
        if self.rounds <= spins {
            std::hint::spin_loop();
            return;
        }
        std::thread::sleep(Duration::from_micros(self.park).min(left));
        self.park = (self.park * 2).min(longest);
    }
}
