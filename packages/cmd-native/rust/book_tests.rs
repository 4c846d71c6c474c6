//! The book against the simplest one that is right: two sorted maps of prices.

use std::collections::BTreeMap;

use crate::book::{Book, Change, Grid, Key};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[derive(Default)]
struct Truth {
    bids: BTreeMap<u64, f64>, // by the bits of the price, which sort as prices do
    asks: BTreeMap<u64, f64>,
}

impl Truth {
    fn apply(&mut self, grid: Grid, bids: &[Change], asks: &[Change]) {
        for (side, changes) in [(&mut self.bids, bids), (&mut self.asks, asks)] {
            for change in changes {
                let bits = grid.price_of(change.key).to_bits();
                if change.quantity == 0.0 {
                    side.remove(&bits);
                } else {
                    side.insert(bits, change.quantity);
                }
            }
        }
    }

    fn same(&self, book: &Book) {
        let bids: Vec<_> = self.bids.iter().rev().map(|(&bits, &quantity)| (f64::from_bits(bits), quantity)).collect();
        let asks: Vec<_> = self.asks.iter().map(|(&bits, &quantity)| (f64::from_bits(bits), quantity)).collect();
        assert_eq!(book.bids().levels().collect::<Vec<_>>(), bids);
        assert_eq!(book.asks().levels().collect::<Vec<_>>(), asks);
        book.check();
    }

    fn same_touch(&self, book: &Book) {
        let level = |(&bits, &quantity): (&u64, &f64)| (f64::from_bits(bits), quantity);
        assert_eq!(book.best_bid(), self.bids.iter().next_back().map(level));
        assert_eq!(book.best_ask(), self.asks.iter().next().map(level));
    }
}

fn price(random: &mut Random, middle: f64) -> f64 {
    match random.below(100) {
        0 => 1e-12,
        1 => 1e12,
        2 => f64::MAX,
        3 => f64::from_bits(1),
        4..10 => middle + random.below(1000) as f64 * 0.0007, // off the grid
        10..20 => 0.01 + random.below(10_000_000) as f64 / 100.0,
        20..40 => ((middle * 100.0) as u64 + random.below(8000)).saturating_sub(4000).max(1) as f64 / 100.0,
        _ => ((middle * 100.0) as u64 + random.below(60)).saturating_sub(30).max(1) as f64 / 100.0,
    }
}

#[test]
fn random_operations_leave_what_sorted_maps_hold() {
    let turns = if cfg!(miri) { 60 } else { 40_000 };
    for (mantissa, decimals) in [(1, 2), (5, 2), (0, 0), (1, 8), (100, 0)] {
        let grid = Grid::new(mantissa, decimals);
        let mut book = Book::new(grid, None);
        let mut truth = Truth::default();
        let mut random = Random(mantissa + 17);
        let mut middle = 40_000.0;
        for turn in 0..turns {
            if random.below(50) == 0 {
                middle = (middle * (0.9 + random.below(200) as f64 / 1000.0)).max(1.0);
            }
            let mut sides = [Vec::new(), Vec::new()];
            for side in &mut sides {
                for _ in 0..random.below(6) {
                    let key = grid.key_of_price(price(&mut random, middle));
                    let quantity = if random.below(2) == 0 { 0.0 } else { random.below(1000) as f64 + 0.5 };
                    side.push(Change { key, quantity });
                }
            }
            if turn % 997 == 996 {
                truth = Truth::default();
                truth.apply(grid, &sides[0], &sides[1]);
                book.load(&sides[0], &sides[1], true, true);
            } else {
                truth.apply(grid, &sides[0], &sides[1]);
                book.apply(&sides[0], &sides[1]);
            }
            truth.same_touch(&book);
            if turn % 400 == 0 {
                truth.same(&book);
            }
        }
        truth.same(&book);
    }
}

#[test]
fn the_window_follows_the_market_and_nothing_is_lost() {
    let grid = Grid::new(1, 2);
    let mut book = Book::new(grid, None);
    let mut truth = Truth::default();
    let most = if cfg!(miri) { 40 } else { 3_000 };
    for step in 0..most {
        // A market that rises by 37 ticks a step and leaves a trail of old bids behind it.
        let middle = 1_000_000 + 37 * step;
        let bids: Vec<_> = (1..20).map(|at| Change { key: Key(middle - at), quantity: at as f64 }).collect();
        let mut asks: Vec<_> = (1..20).map(|at| Change { key: Key(middle + at), quantity: at as f64 }).collect();
        asks.extend((middle.saturating_sub(60)..=middle).map(|tick| Change { key: Key(tick), quantity: 0.0 }));
        truth.apply(grid, &bids, &asks);
        book.apply(&bids, &asks);
        truth.same_touch(&book);
    }
    truth.same(&book);
    // And back down at once.
    let gone: Vec<_> =
        (1_000_000..1_000_000 + 37 * most).map(|tick| Change { key: Key(tick), quantity: 0.0 }).collect();
    truth.apply(grid, &gone, &[]);
    book.apply(&gone, &[]);
    truth.same(&book);
}

#[test]
fn pruning_keeps_the_best_and_says_what_is_known() {
    let grid = Grid::new(1, 0);
    let mut book = Book::new(grid, Some(100));
    let side = |from: u64, step: i64| -> Vec<Change> {
        (0..100).map(|at| Change { key: Key((from as i64 + step * at * 90) as u64), quantity: 1.0 }).collect()
    };
    book.load(&side(20_000, -1), &side(20_001, 1), false, true);
    assert_eq!(book.known_range(), (20_000.0 - 90.0 * 99.0, f64::INFINITY));
    let more: Vec<_> = (1..=17).map(|at| Change { key: Key(20_000 - at), quantity: 2.0 }).collect();
    book.apply(&more[..16], &[]);
    assert_eq!(book.bids().len(), 116, "a few more than the limit are held");
    book.apply(&more[16..], &[]);
    assert_eq!(book.bids().len(), 100);
    assert_eq!(book.known_range().0, 20_000.0 - 90.0 * 82.0);
    assert_eq!(book.known_depth(), (100, 100));
    book.check();
}

#[test]
fn looks_at_the_known_range() {
    let grid = Grid::new(1, 0);
    let mut book = Book::new(grid, None);
    let level = |tick: u64, quantity: f64| Change { key: Key(tick), quantity };
    let bids: Vec<_> = (0..8).map(|at| level(100 - at, 1.0)).collect();
    let asks: Vec<_> = (0..8).map(|at| level(101 + at, 1.0)).collect();
    book.load(&bids, &asks, false, false);
    assert_eq!(book.look(2, 2), Ok(false));
    assert_eq!(book.marks(), (94.0, 107.0));
    book.apply(&[level(100, 0.0), level(99, 0.0), level(98, 0.0), level(97, 0.0), level(96, 0.0)], &[]);
    assert!(book.touch_ok());
    book.apply(&[level(95, 0.0)], &[]);
    assert!(book.touch_ok());
    book.apply(&[level(94, 0.0)], &[]);
    assert!(!book.touch_ok());
    assert_eq!(book.look(2, 2), Ok(true));
    book.apply(&[level(93, 0.0), level(80, 1.0)], &[]);
    assert_eq!(book.look(2, 2), Err(crate::book::Lost::KnownRange));
    book.apply(&[level(101, 1.0)], &[]);
    assert_eq!(book.look(2, 2), Err(crate::book::Lost::Crossed));
}
