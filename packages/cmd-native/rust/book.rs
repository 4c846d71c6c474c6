//! The order book of one instrument; the twin of `cmd_common.orderbook.PureOrderBook`, which says what it means.
//!
//! It knows nothing of Python. Levels come as keys (`book_grid`), which a decoder makes from the text of a
//! price without a float in between, and live in two sides (`book_side`).

pub use crate::book_grid::{Grid, Key};
pub use crate::book_side::Change;
use crate::book_side::Side;

/// What a decoder may do to a book without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nothing: Python decides about every message.
    #[default]
    Off,
    /// The next message is the first behind a snapshot.
    First,
    /// The next message follows the one before.
    Next,
}

/// Why a look at the touch finds that the book is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The best bid is at or above the best ask.
    Crossed,
    /// The best price left the range that is known to be complete.
    KnownRange,
}

/// Price levels of one instrument, both sides.
pub struct Book {
    grid: Grid,
    bids: Side<true>,
    asks: Side<false>,
    limit: Option<usize>,
    prune_at: usize,
    bid_floor: f64,
    ask_ceiling: f64,
    bid_mark: f64,
    ask_mark: f64,
    /// The update id that the book contains all updates up to.
    pub last_id: i64,
    /// The venue's time of the last update, ns.
    pub ts_event: i64,
    /// What a decoder may do.
    pub stage: Stage,
    /// Messages that a decoder applied.
    pub applied: u64,
}

impl Book {
    /// An empty book on the grid of a tick size; `limit` is the depth that the venue keeps up to date.
    pub fn new(grid: Grid, limit: Option<usize>) -> Book {
        Book {
            grid,
            bids: Side::new(grid),
            asks: Side::new(grid),
            limit,
            prune_at: limit.map_or(usize::MAX, |limit| limit.saturating_add((limit / 8).max(16))),
            bid_floor: f64::NEG_INFINITY,
            ask_ceiling: f64::INFINITY,
            bid_mark: f64::NEG_INFINITY,
            ask_mark: f64::INFINITY,
            last_id: 0,
            ts_event: 0,
            stage: Stage::Off,
            applied: 0,
        }
    }

    /// The grid of its prices.
    #[inline(always)]
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// The bids.
    pub fn bids(&self) -> &Side<true> {
        &self.bids
    }

    /// The asks.
    pub fn asks(&self) -> &Side<false> {
        &self.asks
    }

    /// Forget all levels, ids and ranges.
    pub fn clear(&mut self) {
        self.bids.clear();
        self.asks.clear();
        (self.bid_floor, self.bid_mark) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
        (self.ask_ceiling, self.ask_mark) = (f64::INFINITY, f64::INFINITY);
        (self.last_id, self.ts_event) = (0, 0);
        self.stage = Stage::Off;
    }

    /// Set levels in the given order. The caller has checked them: prices positive and finite, quantities
    /// finite and not negative.
    #[inline]
    pub fn apply(&mut self, bids: &[Change], asks: &[Change]) {
        if !bids.is_empty() {
            self.bids.apply(bids);
            if self.bids.len() > self.prune_at {
                self.prune();
            }
        }
        if !asks.is_empty() {
            self.asks.apply(asks);
            if self.asks.len() > self.prune_at {
                self.prune();
            }
        }
    }

    /// Replace the whole book; a side that is not complete has deeper levels that are not shown.
    pub fn load(&mut self, bids: &[Change], asks: &[Change], bids_complete: bool, asks_complete: bool) {
        self.bids.load(bids);
        self.asks.load(asks);
        self.bid_floor = if bids_complete { f64::NEG_INFINITY } else { self.bids.worst().unwrap_or(f64::INFINITY) };
        self.ask_ceiling = if asks_complete { f64::INFINITY } else { self.asks.worst().unwrap_or(f64::NEG_INFINITY) };
        (self.bid_mark, self.ask_mark) = (self.bid_floor, self.ask_ceiling);
        self.prune();
    }

    /// Cut both sides to the limit; what was cut is unknown from now on.
    #[cold]
    fn prune(&mut self) {
        let Some(limit) = self.limit else { return };
        if self.bids.len() > limit
            && let Some(worst) = self.bids.prune(limit)
        {
            self.bid_floor = self.bid_floor.max(worst);
            self.bid_mark = self.bid_mark.max(self.bid_floor);
        }
        if self.asks.len() > limit
            && let Some(worst) = self.asks.prune(limit)
        {
            self.ask_ceiling = self.ask_ceiling.min(worst);
            self.ask_mark = self.ask_mark.min(self.ask_ceiling);
        }
    }

    /// The highest bid, price and quantity.
    #[inline(always)]
    pub fn best_bid(&self) -> Option<(f64, f64)> {
        self.bids.best()
    }

    /// The lowest ask, price and quantity.
    #[inline(always)]
    pub fn best_ask(&self) -> Option<(f64, f64)> {
        self.asks.best()
    }

    /// Whether the best bid is at or above the best ask.
    pub fn crossed(&self) -> bool {
        matches!((self.best_bid(), self.best_ask()), (Some(bid), Some(ask)) if bid.0 >= ask.0)
    }

    /// Whether both sides have levels, do not cross, and the touch is inside the marks.
    #[inline(always)]
    pub fn touch_ok(&self) -> bool {
        match (self.bids.best(), self.asks.best()) {
            (Some((bid, _)), Some((ask, _))) => self.bid_mark <= bid && bid < ask && ask <= self.ask_mark,
            _ => false,
        }
    }

    /// Where the known ranges end: the lowest known bid and the highest known ask, infinite where all is known.
    pub fn known_range(&self) -> (f64, f64) {
        (self.bid_floor, self.ask_ceiling)
    }

    /// Where the touch makes the builder look.
    pub fn marks(&self) -> (f64, f64) {
        (self.bid_mark, self.ask_mark)
    }

    /// Set ranges and marks, as they were in another book.
    pub fn set_ranges(&mut self, known: (f64, f64), marks: (f64, f64)) {
        (self.bid_floor, self.ask_ceiling) = known;
        (self.bid_mark, self.ask_mark) = marks;
    }

    /// How many bids and asks, counted from the touch, are known to be complete.
    pub fn known_depth(&self) -> (usize, usize) {
        (self.known_bids(), self.known_asks())
    }

    fn known_bids(&self) -> usize {
        if self.bid_floor == f64::NEG_INFINITY {
            return self.bids.len();
        }
        self.bids.levels().take_while(|level| level.0 >= self.bid_floor).count()
    }

    fn known_asks(&self) -> usize {
        if self.ask_ceiling == f64::INFINITY {
            return self.asks.len();
        }
        self.asks.levels().take_while(|level| level.0 <= self.ask_ceiling).count()
    }

    /// Look at touch and known depth and set the marks: why the book is lost, or whether a refresh is wanted
    /// because fewer than the given numbers of levels are known.
    pub fn look(&mut self, low_bids: usize, low_asks: usize) -> Result<bool, Lost> {
        if self.crossed() {
            return Err(Lost::Crossed);
        }
        let mut refresh = false;
        if self.bid_floor > f64::NEG_INFINITY {
            if self.best_bid().is_none_or(|(bid, _)| bid < self.bid_floor) {
                return Err(Lost::KnownRange);
            }
            let known = self.known_bids();
            if known < low_bids {
                self.bid_mark = self.bid_floor;
                refresh = true;
            } else if let Some((price, _)) = self.bids.levels().nth(known - low_bids.max(1)) {
                self.bid_mark = price; // below it fewer levels than wanted can be left
            }
        }
        if self.ask_ceiling < f64::INFINITY {
            if self.best_ask().is_none_or(|(ask, _)| ask > self.ask_ceiling) {
                return Err(Lost::KnownRange);
            }
            let known = self.known_asks();
            if known < low_asks {
                self.ask_mark = self.ask_ceiling;
                refresh = true;
            } else if let Some((price, _)) = self.asks.levels().nth(known - low_asks.max(1)) {
                self.ask_mark = price;
            }
        }
        Ok(refresh)
    }

    /// Write the best levels of a side as price and quantity in turn; returns how many there were.
    pub fn top<const BID: bool>(side: &Side<BID>, depth: usize, out: &mut [f64]) -> usize {
        let mut count = 0;
        for ((price, quantity), pair) in side.levels().take(depth).zip(out.chunks_exact_mut(2)) {
            pair[0] = price;
            pair[1] = quantity;
            count += 1;
        }
        count
    }

    /// Panic unless every invariant holds.
    pub fn check(&self) {
        self.bids.check();
        self.asks.check();
        assert!(self.bids.len() <= self.prune_at && self.asks.len() <= self.prune_at, "the limit of levels");
        assert!(self.bid_mark >= self.bid_floor && self.ask_mark <= self.ask_ceiling, "the marks");
    }
}
