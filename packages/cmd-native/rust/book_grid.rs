//! Prices as tick numbers: which prices are on the grid of an instrument's tick size, exactly.
//!
//! A price is one float, as in the book in Python. It is on the grid when it is the float nearest to a
//! whole number of ticks, so that tick numbers and such floats are one to one; every other price keeps
//! its float. Both ways to a key, from a decimal text and from a float, decide the same.

/// Powers of ten that a float holds exactly.
pub const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
/// Whole numbers up to it are floats, and so is everything that is computed of them here.
const EXACT: u64 = 1 << 53;
/// Prices on the grid are below it, in units of the last decimal: the way from a float must not miss one.
const MOST: u64 = 1 << 50;
/// Tick sizes of more decimals have no grid.
const MOST_DECIMALS: u32 = 15;
const OFF: u64 = 1 << 63;

const INTEGERS: [u64; 20] = {
    let mut powers = [1_u64; 20];
    let mut at = 1;
    while at < 20 {
        powers[at] = powers[at - 1] * 10;
        at += 1;
    }
    powers
};

/// A price of a book: a tick number, or with the highest bit set the bits of a float off the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub u64);

impl Key {
    /// The tick number, `None` off the grid.
    #[inline(always)]
    pub fn tick(self) -> Option<u64> {
        (self.0 & OFF == 0).then_some(self.0)
    }

    /// The key of a price that has no tick number.
    #[inline(always)]
    pub fn off(price: f64) -> Key {
        Key(price.to_bits() | OFF)
    }
}

/// The grid of a tick size, `mantissa / 10^decimals`; a mantissa of 0 has no price on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    mantissa: u64,
    decimals: u32,
    power: f64,          // 10^decimals
    ticks_per_unit: f64, // 10^decimals / mantissa, rounded: a first guess only
    last: u64,           // the largest tick number
}

impl Grid {
    /// The grid of the tick size `mantissa / 10^decimals`; sizes beyond all markets have none.
    pub fn new(mut mantissa: u64, mut decimals: u32) -> Grid {
        while decimals > 0 && mantissa != 0 && mantissa.is_multiple_of(10) {
            mantissa /= 10;
            decimals -= 1;
        }
        if mantissa == 0 || mantissa > 1 << 40 || decimals > MOST_DECIMALS {
            return Grid::none();
        }
        let power = POWERS[decimals as usize];
        Grid { mantissa, decimals, power, ticks_per_unit: power / mantissa as f64, last: MOST / mantissa }
    }

    /// A grid without prices.
    pub fn none() -> Grid {
        Grid { mantissa: 0, decimals: 0, power: 1.0, ticks_per_unit: 0.0, last: MOST }
    }

    /// Mantissa and decimals of the tick size; `None` without a grid.
    pub fn tick_size(self) -> Option<(u64, u32)> {
        (self.mantissa != 0).then_some((self.mantissa, self.decimals))
    }

    /// The key of the decimal `mantissa / 10^fraction`, which must be positive.
    #[inline(always)]
    pub fn key_of_decimal(self, mantissa: u64, fraction: u32) -> Key {
        if fraction <= self.decimals
            && let Some(units) = mantissa.checked_mul(INTEGERS[(self.decimals - fraction) as usize])
            && units <= MOST
        {
            if self.mantissa == 1 {
                return Key(units);
            }
            if self.mantissa != 0 && units.is_multiple_of(self.mantissa) {
                return Key(units / self.mantissa);
            }
        }
        self.key_of_price(decimal(mantissa, fraction))
    }

    /// The key of a positive finite price.
    #[inline]
    pub fn key_of_price(self, price: f64) -> Key {
        // The nearest whole number: below `MOST` the guess is wrong by less than half, so that cutting is enough. What
        // has no tick number fails one of the tests, tick 0 too: its price would be 0.
        let tick = (price * self.ticks_per_unit + 0.5) as i64 as u64;
        if tick <= self.last && self.price_of_tick(tick).to_bits() == price.to_bits() {
            return Key(tick);
        }
        Key::off(price)
    }

    /// The price of a tick number: the float nearest to it.
    #[inline(always)]
    pub fn price_of_tick(self, tick: u64) -> f64 {
        (tick.wrapping_mul(self.mantissa)) as i64 as f64 / self.power
    }

    /// The price of a key.
    #[inline(always)]
    pub fn price_of(self, key: Key) -> f64 {
        match key.tick() {
            Some(tick) => self.price_of_tick(tick),
            None => f64::from_bits(key.0 & !OFF),
        }
    }

    /// The largest tick number of a price on the grid.
    pub fn last_tick(self) -> u64 {
        self.last
    }
}

/// The float nearest to `mantissa / 10^fraction`.
#[inline]
pub fn decimal(mantissa: u64, fraction: u32) -> f64 {
    if mantissa <= EXACT && fraction < 23 {
        return mantissa as f64 / POWERS[fraction as usize];
    }
    // Digits and exponent as a text, which the standard library rounds rightly.
    let mut text = [0_u8; 48];
    let mut length = 0;
    let mut put = |bytes: &[u8]| {
        text[length..length + bytes.len()].copy_from_slice(bytes);
        length += bytes.len();
    };
    let mut digits = [0_u8; 20];
    put(digits_of(mantissa, &mut digits));
    put(b"e-");
    put(digits_of(u64::from(fraction), &mut digits));
    std::str::from_utf8(&text[..length]).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
}

fn digits_of(mut number: u64, out: &mut [u8; 20]) -> &[u8] {
    let mut at = out.len();
    loop {
        at -= 1;
        out[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &out[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_and_floats_have_the_same_key() {
        let mut seed = 7_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 11
        };
        let grids = [(1, 2), (5, 1), (25, 2), (1, 8), (10, 0), (1, 12), (125, 3), (1, 0), (0, 0), (3, 4)];
        for (mantissa, decimals) in grids {
            let grid = Grid::new(mantissa, decimals);
            for turn in 0..if cfg!(miri) { 50 } else { 20_000 } {
                let fraction = (next() % 12) as u32;
                let digits = match turn % 4 {
                    0 => next() % 1_000,
                    1 => next() % 10_000_000_000,
                    2 => next() % 1_000_000_000_000_000,
                    _ => next() << (next() % 10),
                } + 1;
                let price = decimal(digits, fraction);
                assert_eq!(price, format!("{digits}e-{fraction}").parse::<f64>().unwrap());
                let key = grid.key_of_decimal(digits, fraction);
                assert_eq!(key, grid.key_of_price(price), "{digits}e-{fraction} of {grid:?}");
                assert_eq!(grid.price_of(key).to_bits(), price.to_bits());
            }
        }
    }

    #[test]
    fn prices_on_the_grid_have_tick_numbers() {
        let cent = Grid::new(1, 2);
        assert_eq!(cent.key_of_decimal(6_000_000, 2), Key(6_000_000));
        assert_eq!(cent.key_of_decimal(60_000, 0), Key(6_000_000));
        assert_eq!(cent.key_of_decimal(6_000_000_000, 5), Key(6_000_000));
        assert_eq!(cent.key_of_price(60_000.01), Key(6_000_001));
        assert!(cent.key_of_price(60_000.005).tick().is_none());
        assert!(cent.key_of_price(1e-12).tick().is_none());
        assert_eq!(cent.key_of_price(1e12), Key(100_000_000_000_000));
        assert!(cent.key_of_price(1e300).tick().is_none());
        assert!(cent.key_of_price(5e-324).tick().is_none());
        let quarter = Grid::new(25, 2);
        assert_eq!(quarter.key_of_price(100.75), Key(403));
        assert!(quarter.key_of_price(100.80).tick().is_none());
        assert!(Grid::none().key_of_price(1.0).tick().is_none());
        assert_eq!(Grid::new(100, 2), Grid::new(1, 0));
    }
}
