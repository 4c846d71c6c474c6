//! The fuzz targets with mutated seeds, in `cargo test`: the same functions, bounded, with the same inputs every time.
//! `CMD_FUZZ_ROUNDS` asks for more of them.

#[path = "../fuzz/src/mutate.rs"]
mod mutate;
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

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
    for (n, target) in targets::TARGETS.iter().enumerate() {
        if cfg!(miri) && !target.miri {
            continue;
        }
        let seeds = seeds(target.name);
        run(target, &[]);
        seeds.iter().for_each(|seed| run(target, seed));
        let mut random = Random::new(n as u64 + 1);
        let mut pool = seeds.clone();
        for round in 0..rounds {
            let mut data = pool[random.below(pool.len())].clone();
            mutate(&mut data, &seeds, &mut random, LONGEST);
            run(target, &data);
            if round % 8 == 0 {
                // Changes add up in some inputs; the others stay near the seeds.
                let at = seeds.len() + random.below(32);
                if at < pool.len() { pool[at] = data } else { pool.push(data) }
            }
        }
    }
}
