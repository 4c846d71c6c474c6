//! What both programs of the benchmarks share: the stream that Python wrote, and the ways of cmd-native.

use cmd_native::book::{Book, Change, Grid, Stage};
use cmd_native::depth::{self, Format, Message, Outcome, Scratch};

/// A price and a quantity.
pub type Level = (f64, f64);
/// Both sides of a message or of a snapshot.
pub type Sides = (Vec<Level>, Vec<Level>);

/// What the competitors get, and what must come out.
pub struct Stream {
    /// The levels that the book begins with.
    pub snapshot: Sides,
    /// The messages.
    pub frames: Vec<Vec<u8>>,
    /// The best prices after each.
    pub tops: Vec<(f64, f64)>,
}

/// The levels behind a key such as `"b":[`; the stream has no escapes and no whitespace.
fn levels(frame: &str, key: &str) -> Vec<Level> {
    let from = frame.find(key).expect("the stream has both sides") + key.len();
    let to = from + frame[from..].find("]]").map_or(0, |end| end + 2);
    let text = if frame[from..].starts_with(']') { "" } else { &frame[from..to] };
    let numbers: Vec<f64> = text.split('"').skip(1).step_by(2).map(|n| n.parse().expect("a number")).collect();
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Read the files; only the first `limit` messages.
pub fn read(folder: &str, limit: usize) -> Stream {
    let text = std::fs::read_to_string(format!("{folder}/stream.txt")).expect("stream.txt");
    let mut lines = text.lines();
    let first = lines.next().expect("a snapshot");
    let snapshot = (levels(first, "\"bids\":["), levels(first, "\"asks\":["));
    let frames = lines.take(limit).map(|line| line.as_bytes().to_vec()).collect();
    let answers = std::fs::read_to_string(format!("{folder}/tops.txt")).expect("tops.txt");
    let mut tops = Vec::new();
    for line in answers.lines().take(limit) {
        let (bid, ask) = line.split_once(' ').expect("two prices");
        tops.push((bid.parse().expect("a price"), ask.parse().expect("a price")));
    }
    Stream { snapshot, frames, tops }
}

/// The levels of every message.
pub fn decoded(stream: &Stream) -> Vec<Sides> {
    let sides = |frame: &Vec<u8>| {
        let text = std::str::from_utf8(frame).expect("the stream is ASCII");
        (levels(text, "\"b\":["), levels(text, "\"a\":["))
    };
    stream.frames.iter().map(sides).collect()
}

/// Levels as the book takes them.
pub fn changes(grid: Grid, side: &[Level]) -> Vec<Change> {
    side.iter().map(|&(price, quantity)| Change { key: grid.key_of_price(price), quantity }).collect()
}

/// The best prices, as every competitor says them.
#[inline(always)]
pub fn best(book: &Book) -> Level {
    let price = |level: Option<Level>| level.map_or(f64::NAN, |level| level.0);
    (price(book.best_bid()), price(book.best_ask()))
}

/// Our book with the stream's snapshot, ready for its first message.
pub fn ours(stream: &Stream) -> Book {
    let grid = Grid::new(1, 2);
    let mut book = Book::new(grid, None);
    book.load(&changes(grid, &stream.snapshot.0), &changes(grid, &stream.snapshot.1), false, false);
    book.last_id = 1000;
    book.stage = Stage::First;
    book
}

/// Bytes of a message to the best prices, by whichever decoder `decode` is.
#[inline(always)]
pub fn full(book: &mut Book, scratch: &mut Scratch, decode: impl FnOnce(&mut Scratch) -> Option<Message>) -> Level {
    let mut message = decode(scratch).expect("a message of the stream is decoded natively");
    let outcome = depth::advance(Format::BinanceSpot, book, &mut message, scratch);
    if outcome.expect("a message of the stream follows") == Outcome::Look {
        book.last_id = message.last; // as Python's builder does once it has looked
    }
    best(book)
}

/// The decoder as it runs in the product.
#[inline(always)]
pub fn decode(grid: Grid, frame: &[u8], scratch: &mut Scratch) -> Option<Message> {
    depth::decode(Format::BinanceSpot, frame, true, scratch, |_| Some(grid))
}
