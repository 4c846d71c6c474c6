//! Work whose instructions are counted: `count WAY FOLDER` under callgrind, see `benchmarks/instructions.py`.
//!
//! Everything in `counted` is counted and nothing else. Ways: `full` (bytes to best prices by the decoder that the
//! product chooses for the CPU), `scalar` (the same without vector instructions), `book` (keys to best prices).

use cmd_bench::{Level, best, changes, decode, decoded, full, ours, read};
use cmd_native::depth::{Format, Scratch, decode_by};
use cmd_native::scan::Scalar;

/// Replay the messages.
#[inline(never)]
fn counted<T>(messages: &[T], found: &mut [Level], mut step: impl FnMut(&T) -> Level) {
    for (message, top) in messages.iter().zip(found) {
        *top = step(message);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, folder] = &arguments[..] else {
        eprintln!("usage: count full|scalar|book FOLDER");
        std::process::exit(2);
    };
    let stream = read(folder, usize::MAX);
    let mut book = ours(&stream);
    let grid = book.grid();
    let mut found = vec![(0.0, 0.0); stream.frames.len()];
    let mut scratch = Scratch::default();
    match way.as_str() {
        "full" => {
            counted(&stream.frames, &mut found, |frame| full(&mut book, &mut scratch, |s| decode(grid, frame, s)))
        }
        "scalar" => counted(&stream.frames, &mut found, |frame| {
            full(&mut book, &mut scratch, |s| decode_by(Scalar, Format::BinanceSpot, frame, true, s, |_| Some(grid)))
        }),
        "book" => {
            let keyed: Vec<_> = decoded(&stream).iter().map(|m| (changes(grid, &m.0), changes(grid, &m.1))).collect();
            counted(&keyed, &mut found, |message| {
                book.apply(&message.0, &message.1);
                best(&book)
            });
        }
        _ => {
            eprintln!("count: {way} is no way");
            std::process::exit(2);
        }
    }
    let wrong = found.iter().zip(&stream.tops).filter(|(f, t)| (f.0 - t.0).abs() + (f.1 - t.1).abs() > 1e-6).count();
    if wrong > 0 || found.len() != stream.tops.len() {
        eprintln!("count: {wrong} wrong best prices");
        std::process::exit(1);
    }
    println!("{{\"messages\": {}}}", found.len());
}
