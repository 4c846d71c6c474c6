//! The Rust side of `benchmarks/book.py`: `bench WAY FOLDER [MESSAGES]` reads the stream that Python wrote, replays it,
//! compares the best prices after every message with the oracle's, outside the clock, and prints one line of JSON.
//!
//! Ways: `full` (bytes to best prices), `book` (keys to best prices), `book_floats` (prices as floats), and with the
//! feature `hftbacktest` its books `roi`, `hashmap` and `btree` (prices as floats, which is what they take).

use cmd_bench::{Level, Stream, best, changes, decode, decoded, full, read};
use cmd_native::book::Change;
use cmd_native::depth::Scratch;

/// CPU time of this thread, ns.
fn now() -> i64 {
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    let mut time = [0_i64; 2];
    // SAFETY: the array is a timespec of 64-bit Linux; 3 is the thread's CPU clock.
    unsafe { clock_gettime(3, &mut time) };
    time[0] * 1_000_000_000 + time[1]
}

/// Replay all messages by `step`, which gives the best prices after each; returns ns a message.
fn timed<T>(stream: &Stream, messages: &[T], mut step: impl FnMut(&T) -> (f64, f64)) -> f64 {
    let mut found = vec![(0.0, 0.0); messages.len()];
    let start = now();
    for (message, top) in messages.iter().zip(&mut found) {
        *top = step(message);
    }
    let used = now() - start;
    let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
    let wrong = found.iter().zip(&stream.tops).position(|(f, t)| !near(f.0, t.0) || !near(f.1, t.1));
    if let Some(at) = wrong {
        eprintln!("wrong best prices after message {at}: {:?}, not {:?}", found[at], stream.tops[at]);
        std::process::exit(1);
    }
    used as f64 / messages.len() as f64
}

fn ours(way: &str, stream: &Stream) -> f64 {
    let mut book = cmd_bench::ours(stream);
    let grid = book.grid();
    match way {
        "full" => {
            let mut scratch = Scratch::default();
            timed(stream, &stream.frames, |frame| full(&mut book, &mut scratch, |scratch| decode(grid, frame, scratch)))
        }
        "book" => {
            let keyed: Vec<_> = decoded(stream).iter().map(|m| (changes(grid, &m.0), changes(grid, &m.1))).collect();
            timed(stream, &keyed, |message| {
                book.apply(&message.0, &message.1);
                best(&book)
            })
        }
        _ => {
            let (mut bids, mut asks) = (Vec::new(), Vec::new());
            timed(stream, &decoded(stream), |message| {
                let keyed = |&(price, quantity): &Level| Change { key: grid.key_of_price(price), quantity };
                bids.clear();
                asks.clear();
                bids.extend(message.0.iter().map(keyed));
                asks.extend(message.1.iter().map(keyed));
                book.apply(&bids, &asks);
                best(&book)
            })
        }
    }
}

#[cfg(feature = "hftbacktest")]
fn peer<B: hftbacktest::depth::MarketDepth + hftbacktest::depth::L2MarketDepth>(mut book: B, stream: &Stream) -> f64 {
    for &(price, quantity) in &stream.snapshot.0 {
        book.update_bid_depth(price, quantity, 0);
    }
    for &(price, quantity) in &stream.snapshot.1 {
        book.update_ask_depth(price, quantity, 0);
    }
    timed(stream, &decoded(stream), |message| {
        for &(price, quantity) in &message.0 {
            book.update_bid_depth(price, quantity, 0);
        }
        for &(price, quantity) in &message.1 {
            book.update_ask_depth(price, quantity, 0);
        }
        (book.best_bid(), book.best_ask())
    })
}

#[cfg(feature = "hftbacktest")]
fn hftbacktest(way: &str, stream: &Stream) -> f64 {
    use hftbacktest::depth::{BTreeMarketDepth, HashMapMarketDepth, ROIVectorMarketDepth};
    match way {
        "roi" => {
            // Its window must be told before: the stream's prices with room, as a user would who knows them.
            let mid = stream.tops[0].0;
            peer(ROIVectorMarketDepth::new(0.01, 0.00001, mid - 1000.0, mid + 1000.0), stream)
        }
        "hashmap" => peer(HashMapMarketDepth::new(0.01, 0.00001), stream),
        "btree" => peer(BTreeMarketDepth::new(0.01, 0.00001), stream),
        _ => unknown(way),
    }
}

#[cfg(not(feature = "hftbacktest"))]
fn hftbacktest(way: &str, _: &Stream) -> f64 {
    unknown(way)
}

fn unknown(way: &str) -> f64 {
    eprintln!("bench: {way} is no way that this program was built with");
    std::process::exit(2);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, folder, rest @ ..] = &arguments[..] else {
        eprintln!("usage: bench WAY FOLDER [MESSAGES]");
        std::process::exit(2);
    };
    let limit = rest.first().map_or(usize::MAX, |n| n.parse().expect("a number of messages"));
    let stream = read(folder, limit);
    let ns = match way.as_str() {
        "full" | "book" | "book_floats" => ours(way, &stream),
        _ => hftbacktest(way, &stream),
    };
    println!("{{\"us\": {}}}", ns / 1000.0);
}
