//! Depth messages of the venues: what is accepted is valid JSON and says what was decoded, the same with and without
//! vector instructions; and a book that it is applied to holds together.

use std::collections::HashSet;

use cmd_native::book::{Book, Grid, Stage};
use cmd_native::checked_book::CheckedBook;
use cmd_native::depth::{Format, Levels, Message, Scratch, advance, decode_by};
use cmd_native::scan::Scalar;

use super::input::Input;
use super::json::{Value, parse};

/// Names of formats; those that are not built in are passed over.
const FORMATS: [&str; 10] = [
    "binance-spot",
    "binance-futures",
    "coinbase",
    "kraken",
    "okx",
    "bybit",
    "gemini",
    "bitstamp",
    "coinbase-advanced",
    "kraken-v1",
];

/// Message and levels, as bits that can be compared.
type Found = (Option<Message>, Vec<(u64, u64)>, Vec<(u64, u64)>);

fn decoded<D: Levels>(
    digits: D,
    format: Format,
    message: &[u8],
    lenient: bool,
    grid: Grid,
    scratch: &mut Scratch,
) -> Found {
    let found = decode_by(digits, format, message, lenient, scratch, |symbol| (!symbol.is_empty()).then_some(grid));
    let bits = |side: &[cmd_native::book::Change]| {
        side.iter().map(|change| (grid.price_of(change.key).to_bits(), change.quantity.to_bits())).collect()
    };
    (found, bits(&scratch.bids), bits(&scratch.asks))
}

/// Every number of a message, bare or in quotes, as the bits of its float.
pub fn numbers(value: &Value, out: &mut HashSet<u64>) {
    match value {
        Value::Number(text) | Value::Text(text) => {
            if let Ok(number) = text.parse::<f64>() {
                out.insert(number.to_bits());
            }
        }
        Value::Array(items) => items.iter().for_each(|item| numbers(item, out)),
        Value::Object(items) => items.iter().for_each(|(_, item)| numbers(item, out)),
        Value::Null | Value::Bool(_) => {}
    }
}

pub fn messages(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(format) = Format::parse(FORMATS[input.below(FORMATS.len())]) else { return };
    let how = input.byte();
    let grid = [Grid::new(1, 2), Grid::new(5, 1), Grid::none(), Grid::new(1, 8)][usize::from(how) % 4];
    let lenient = how & 4 != 0;
    let message = input.rest();
    let mut scratch = Scratch::default();
    let plain = decoded(Scalar, format, message, lenient, grid, &mut scratch);
    #[cfg(target_arch = "x86_64")]
    if let Some(vector) = cmd_native::scan_simd::Vector::detect() {
        assert_eq!(decoded(vector, format, message, lenient, grid, &mut scratch), plain, "the twins differ");
    }
    let (Some(mut found), bids, asks) = plain else { return };
    let full = parse(message).expect("an accepted message is valid JSON");
    let mut there = HashSet::new();
    numbers(&full, &mut there);
    for (price, quantity) in bids.iter().chain(&asks) {
        assert!(there.contains(price) && there.contains(quantity), "a level that the message does not hold");
        let (price, quantity) = (f64::from_bits(*price), f64::from_bits(*quantity));
        assert!(price > 0.0 && price.is_finite() && quantity >= 0.0 && quantity.is_finite());
    }
    for (bids, side) in [(true, bids), (false, asks)] {
        let mut out = vec![0; side.len() * 16];
        scratch.pack(bids, grid, &mut out);
        let word = |at: usize| f64::from_le_bytes(out[at..at + 8].try_into().expect("eight bytes"));
        let packed: Vec<(f64, f64)> = (0..side.len()).map(|n| (word(n * 16), word(n * 16 + 8))).collect();
        assert!(packed.is_sorted_by(|a, b| if bids { a.0 >= b.0 } else { a.0 <= b.0 }));
        let (mut held, mut sent): (Vec<_>, Vec<_>) =
            (packed.iter().map(|l| (l.0.to_bits(), l.1.to_bits())).collect(), side);
        held.sort_unstable();
        sent.sort_unstable();
        assert_eq!(held, sent);
    }
    if format.checks() {
        let mut checked = CheckedBook::new(3);
        let before = checked.checksum();
        for wanted in [before ^ 1, before, before ^ 1] {
            let (mut levels, mut bids, mut asks) = (scratch.levels.clone(), scratch.bids.clone(), scratch.asks.clone());
            let sum = checked.checksum();
            match checked.attempt(grid, &mut levels, [&mut bids, &mut asks], Some(wanted)) {
                Some(()) => checked.undo(),
                None => assert!(wanted != sum || !levels[0].is_empty() || !levels[1].is_empty()),
            }
            checked.check();
            assert_eq!(checked.checksum(), before, "what was tried is taken back");
        }
        let (mut levels, mut bids, mut asks) = (scratch.levels.clone(), scratch.bids.clone(), scratch.asks.clone());
        checked.attempt(grid, &mut levels, [&mut bids, &mut asks], None).expect("nothing is compared");
        checked.commit();
        checked.check();
        for (levels, changes) in levels.iter().zip([bids, asks]) {
            assert!(
                levels.iter().zip(&changes).all(|(l, c)| l.price == grid.price_of(c.key) && l.quantity == c.quantity)
            );
            assert_eq!(levels.len(), changes.len());
        }
    }
    let mut book = Book::new(grid, (how & 8 != 0).then_some(20));
    book.stage = [Stage::Off, Stage::First, Stage::Next][usize::from(how >> 4) % 3];
    book.last_id = if how & 128 != 0 { found.prev.unwrap_or(found.first - 1) } else { i64::from(how) };
    let (stage, last) = (book.stage, book.last_id);
    match advance(format, &mut book, &mut found, &scratch) {
        Some(_) => assert!(stage != Stage::Off && book.applied == 1),
        None => {
            assert!(book.bids().is_empty() && book.asks().is_empty());
            assert_eq!((book.stage, book.last_id, book.applied), (stage, last, 0));
        }
    }
    book.check();
}
