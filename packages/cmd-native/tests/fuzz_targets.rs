//! The fuzz targets with mutated seeds, in `cargo test`: the same functions, bounded, with the same inputs every time.
//! `CMD_FUZZ_ROUNDS` asks for more of them; `CMD_FUZZ_SECONDS` for as many as go into that time, with other inputs every time
//! (`CMD_FUZZ_START` repeats them), and then `CMD_FUZZ_COUNTS` names a folder in which `TARGET.inputs` says how many there were.

#[path = "../fuzz/src/mutate.rs"]
mod mutate;
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mutate::{Random, mutate};

const LONGEST: usize = 4096;

/// The seeds of a target in the order of their names.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let listed = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = listed.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{name} has no seeds");
    paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

fn run(target: &targets::Target, data: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(data))).is_err() {
        panic!("{} failed with b\"{}\"", target.name, data.escape_ascii());
    }
}

#[test]
fn targets_hold_with_mutated_seeds() {
    let rounds = std::env::var("CMD_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds: usize = rounds.unwrap_or(if cfg!(miri) { 10 } else { 5_000 });
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("CMD_FUZZ_SECONDS");
    let start = number("CMD_FUZZ_START").unwrap_or_else(|| {
        // Without a time limit the inputs are the same every time.
        seconds.map_or(0, |_| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()))
    });
    if seconds.is_some() {
        println!("CMD_FUZZ_START={start} repeats this");
    }
    // With a time limit, as many at once as there are cores.
    let workers = seconds.map_or(1, |_| std::thread::available_parallelism().map_or(1, |cores| cores.get()));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((n, target)) =
                    targets::TARGETS.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed))
                {
                    if !cfg!(miri) || target.miri {
                        fuzz(n, target, rounds, seconds, start);
                    }
                }
            });
        }
    });
}

/// Run one target for so many rounds, or seconds.
fn fuzz(n: usize, target: &targets::Target, rounds: usize, seconds: Option<u64>, start: u64) {
    let seeds = seeds(target.name);
    run(target, &[]);
    seeds.iter().for_each(|seed| run(target, seed));
    let mut random = Random::new(start.wrapping_mul(1_000_003).wrapping_add(n as u64 + 1));
    let mut pool = seeds.clone();
    let begun = Instant::now();
    let mut round = 0;
    while seconds.map_or(round < rounds, |limit| round % 64 != 0 || begun.elapsed().as_secs() < limit) {
        let mut data = pool[random.below(pool.len())].clone();
        mutate(&mut data, &seeds, &mut random, LONGEST);
        run(target, &data);
        if round % 8 == 0 {
            // Changes add up in some inputs; the others stay near the seeds.
            let at = seeds.len() + random.below(32);
            if at < pool.len() { pool[at] = data } else { pool.push(data) }
        }
        round += 1;
    }
    if let Ok(folder) = std::env::var("CMD_FUZZ_COUNTS") {
        let file = Path::new(&folder).join(format!("{}.inputs", target.name));
        std::fs::write(file, (seeds.len() + round + 1).to_string()).expect("a folder for the counts");
    }
}
