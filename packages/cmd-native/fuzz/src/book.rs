//! The book: any operations leave what two sorted maps of prices hold, and prices keep their exact float.

use std::collections::BTreeMap;

use cmd_native::book::{Book, Change, Grid, Key};

use super::input::Input;

/// Levels by the bits of their price, which sort as positive prices do.
type Side = BTreeMap<u64, f64>;

/// A decimal price, near or far, and its key, which is the same by text and by float.
fn key(input: &mut Input, grid: Grid, middle: u64) -> Key {
    let (mantissa, fraction) = match input.byte() {
        0 => (1, 12),                                 // absurdly low
        1 => (10_u64.pow(input.below(20) as u32), 0), // absurdly high
        2 => (input.word() % (1 << 62) + 1, input.below(23) as u32),
        3 => (middle * 10_000 + u64::from(input.byte()), 6), // off most grids
        4..40 => (middle.saturating_sub(5_000) + u64::from(input.byte()) * 64 + 1, 2),
        _ => (middle.saturating_sub(32) + u64::from(input.byte() % 64) + 1, 2),
    };
    let price: f64 = format!("{mantissa}e-{fraction}").parse().expect("a decimal");
    let key = grid.key_of_decimal(mantissa, fraction);
    assert_eq!(key, grid.key_of_price(price), "{mantissa}e-{fraction}");
    assert_eq!(grid.price_of(key).to_bits(), price.to_bits(), "{mantissa}e-{fraction}");
    key
}

fn changes(input: &mut Input, grid: Grid, middle: u64) -> Vec<Change> {
    let count = match input.byte() {
        255 => 300,
        other => usize::from(other % 8),
    };
    let change = |input: &mut Input| {
        let key = key(input, grid, middle);
        let quantity = if input.byte().is_multiple_of(2) { 0.0 } else { f64::from(input.byte()) + 0.5 };
        Change { key, quantity }
    };
    (0..count).map_while(|_| (!input.is_empty()).then(|| change(input))).collect()
}

fn apply(side: &mut Side, grid: Grid, changes: &[Change]) {
    for change in changes {
        let bits = grid.price_of(change.key).to_bits();
        if change.quantity == 0.0 {
            side.remove(&bits);
        } else {
            side.insert(bits, change.quantity);
        }
    }
}

fn level((bits, quantity): (&u64, &f64)) -> (f64, f64) {
    (f64::from_bits(*bits), *quantity)
}

/// Keep the best levels of a side only.
fn cut(side: &mut Side, keep: usize, bids: bool) {
    while side.len() > keep {
        let worst = if bids { side.pop_first() } else { side.pop_last() };
        assert!(worst.is_some());
    }
}

pub fn operations(data: &[u8]) {
    let mut input = Input::new(data);
    let grids = [(1, 2), (5, 2), (0, 0), (1, 8), (100, 0), (25, 3), (1, 15), (1 << 40, 0)];
    let (mantissa, decimals) = grids[input.below(grids.len())];
    let grid = Grid::new(mantissa, decimals);
    let limit = if input.byte().is_multiple_of(4) { Some(1 + input.below(40)) } else { None };
    let mut book = Book::new(grid, limit);
    let (mut bids, mut asks) = (Side::new(), Side::new());
    let mut middle = 4_000_000;
    while !input.is_empty() {
        let how = input.byte();
        if how % 16 == 1 {
            middle = 1 + input.word() % 1_000_000_000;
        }
        let (to_bids, to_asks) = (changes(&mut input, grid, middle), changes(&mut input, grid, middle));
        match how % 16 {
            0 => {
                book.clear();
                (bids, asks) = (Side::new(), Side::new());
            }
            2 => {
                book.load(&to_bids, &to_asks, how & 32 == 0, how & 64 == 0);
                (bids, asks) = (Side::new(), Side::new());
                apply(&mut bids, grid, &to_bids);
                apply(&mut asks, grid, &to_asks);
            }
            _ if limit.is_none() => {
                book.apply(&to_bids, &to_asks);
                apply(&mut bids, grid, &to_bids);
                apply(&mut asks, grid, &to_asks);
            }
            _ => {
                // A side over its limit makes the book cut both: one side after the other shows what was cut.
                book.apply(&to_bids, &[]);
                apply(&mut bids, grid, &to_bids);
                cut(&mut bids, book.bids().len(), true);
                cut(&mut asks, book.asks().len(), false);
                book.apply(&[], &to_asks);
                apply(&mut asks, grid, &to_asks);
            }
        }
        // With a limit the book cuts now and then: what it cut was the worst.
        assert!(limit.is_some() || (book.bids().len(), book.asks().len()) == (bids.len(), asks.len()));
        cut(&mut bids, book.bids().len(), true);
        cut(&mut asks, book.asks().len(), false);
        assert_eq!(book.best_bid(), bids.iter().next_back().map(level));
        assert_eq!(book.best_ask(), asks.iter().next().map(level));
        if how.is_multiple_of(3) {
            let looked = book.look(1 + usize::from(how % 5), 2);
            assert_eq!(looked == Err(cmd_native::book::Lost::Crossed), book.crossed());
        }
        book.check();
    }
    assert_eq!(book.bids().levels().collect::<Vec<_>>(), bids.iter().rev().map(level).collect::<Vec<_>>());
    assert_eq!(book.asks().levels().collect::<Vec<_>>(), asks.iter().map(level).collect::<Vec<_>>());
    let mut room = [0.0; 40];
    let count = Book::top(book.bids(), 20, &mut room);
    assert_eq!(count, bids.len().min(20));
    assert!(room.chunks(2).zip(bids.iter().rev()).all(|(pair, best)| (pair[0], pair[1]) == level(best)));
}
