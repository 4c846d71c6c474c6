//! Trades and quotes from the bytes of a message: Binance's `trade`, `aggTrade` and `bookTicker`, bare or as `data` of a
//! combined stream.
//!
//! As everywhere here `None` says that nothing was decided: the message goes to the decoder in Python, which says what is
//! wrong with it, if anything is. So does everything that needs a word: a fill that is no trade of the market (`X`), a
//! price of 0, numbers of more digits than a float64 keeps (Python marks their records), keys that are not known.

use crate::depth::Keys;
use crate::depth_binance::{MICRO, stamp, wrapper};
use crate::scan::{Digits, Scalar, Scan};
#[cfg(target_arch = "x86_64")]
use crate::scan_simd::Vector;

/// Numbers of this many digits and more are for Python, which looks whether a float64 keeps them.
const EXACT: u64 = 1_000_000_000_000_000;

/// What a message tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One trade.
    Trade,
    /// Trades of one order at one price.
    Aggregate,
    /// The best bid and the best ask.
    Quote,
}

/// One trade or quote.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick<'a> {
    /// What it is.
    pub kind: Kind,
    /// The venue's name of the instrument.
    pub symbol: &'a [u8],
    /// Its id: of the trade, the aggregate or the update.
    pub id: i64,
    /// Ids of the first and the last trade of an aggregate.
    pub trades: (i64, i64),
    /// Event time, ns UTC; none where the message has none.
    pub ts_event: Option<i64>,
    /// Price and quantity; of a quote those of the bid, then those of the ask.
    pub numbers: [f64; 4],
    /// Whether the taker sold.
    pub sold: bool,
}

/// Keys that came.
mod seen {
    pub const EVENT: u32 = 1;
    pub const SENT: u32 = 2;
    pub const TIME: u32 = 4;
    pub const SYMBOL: u32 = 8;
    pub const ID: u32 = 16;
    pub const PRICE: u32 = 32;
    pub const QUANTITY: u32 = 64;
    pub const MAKER: u32 = 128;
    pub const IGNORED: u32 = 256;
    pub const TYPE: u32 = 512;
    pub const PAIR: u32 = 1024;
    pub const STATE: u32 = 2048;
    pub const BUYER: u32 = 4096;
    pub const SELLER: u32 = 8192;
    pub const FIRST: u32 = 1 << 14;
    pub const LAST: u32 = 1 << 15;
    pub const NORMAL: u32 = 1 << 16;
    pub const BID: u32 = 1 << 17;
    pub const BIDS: u32 = 1 << 18;
    pub const ASK: u32 = 1 << 19;
    pub const ASKS: u32 = 1 << 20;
    pub const TRADE: u32 = SYMBOL | ID | PRICE | QUANTITY | TIME | MAKER | EVENT;
    pub const AGGREGATE: u32 = TRADE | FIRST | LAST;
    pub const QUOTE: u32 = SYMBOL | ID | BID | BIDS | ASK | ASKS;
}

/// Decode one message.
#[inline]
pub fn decode(bytes: &[u8]) -> Option<Tick<'_>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(vector) = Vector::detect() {
        // SAFETY: the CPU has the instructions, for there is a value of `Vector`.
        return unsafe { decode_vector(vector, bytes) };
    }
    decode_by(Scalar, bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
fn decode_vector(digits: Vector, bytes: &[u8]) -> Option<Tick<'_>> {
    decode_by(digits, bytes)
}

/// Decode one message by one kind of digits.
#[inline(always)]
pub fn decode_by<D: Digits>(digits: D, bytes: &[u8]) -> Option<Tick<'_>> {
    let start = Scan::new(bytes, digits);
    let mut scan = start;
    let mut stream = false;
    let wrapped = wrapper(&mut scan, &mut stream)?;
    if !wrapped {
        scan = start;
    }
    let tick = event(&mut scan)?;
    if wrapped {
        while scan.accept(b',') {
            if stream || scan.key()? != b"stream" {
                return None;
            }
            stream = true;
            scan.expect(b':')?;
            scan.string()?;
        }
        scan.expect(b'}')?;
    }
    scan.done()?;
    Some(tick)
}

#[inline(always)]
fn event<'a, D: Digits>(scan: &mut Scan<'a, D>) -> Option<Tick<'a>> {
    let ahead = *scan;
    let mut next = scan.first_key()?;
    let kind = match next? {
        b"e" => kind_of(scan)?, // not passed over: it is read below
        b"u" => Kind::Quote,    // spot's quotes do not say what they are; another kind has no such key
        _ => kind_ahead(ahead)?,
    };
    let mut keys = Keys::default();
    let mut tick = Tick { kind, symbol: b"", id: 0, trades: (0, 0), ts_event: None, numbers: [0.0; 4], sold: false };
    while let Some(key) = next {
        match (key, kind) {
            (b"e", _) => {
                keys.once(seen::EVENT)?;
                if kind_of(scan)? != kind {
                    return None;
                }
                scan.string()?;
            }
            (b"E", _) => {
                keys.once(seen::SENT)?;
                stamp(scan)?;
            }
            (b"T", _) => {
                keys.once(seen::TIME)?;
                let time = stamp(scan)?;
                tick.ts_event = Some(time.checked_mul(if time >= MICRO { 1000 } else { 1_000_000 })?);
            }
            (b"s", _) => {
                keys.once(seen::SYMBOL)?;
                tick.symbol = scan.string()?;
            }
            (b"t", Kind::Trade) | (b"a", Kind::Aggregate) | (b"u", Kind::Quote) => {
                keys.once(seen::ID)?;
                tick.id = scan.uint()?;
            }
            (b"p", Kind::Trade | Kind::Aggregate) => {
                keys.once(seen::PRICE)?;
                tick.numbers[0] = number(scan)?;
                if tick.numbers[0] == 0.0 {
                    return None;
                }
            }
            (b"q", Kind::Trade | Kind::Aggregate) => {
                keys.once(seen::QUANTITY)?;
                tick.numbers[1] = number(scan)?;
            }
            (b"m", Kind::Trade | Kind::Aggregate) => {
                keys.once(seen::MAKER)?;
                tick.sold = scan.boolean()?;
            }
            (b"M", Kind::Trade | Kind::Aggregate) => {
                keys.once(seen::IGNORED)?;
                scan.boolean()?;
            }
            (b"X", Kind::Trade) => {
                keys.once(seen::TYPE)?;
                if scan.string()? != b"MARKET" {
                    return None;
                }
            }
            (b"b", Kind::Trade) => {
                keys.once(seen::BUYER)?;
                scan.uint()?;
            }
            (b"a", Kind::Trade) => {
                keys.once(seen::SELLER)?;
                scan.uint()?;
            }
            (b"f", Kind::Aggregate) => {
                keys.once(seen::FIRST)?;
                tick.trades.0 = scan.uint()?;
            }
            (b"l", Kind::Aggregate) => {
                keys.once(seen::LAST)?;
                tick.trades.1 = scan.uint()?;
            }
            (b"nq", Kind::Aggregate) => {
                keys.once(seen::NORMAL)?;
                scan.string()?;
            }
            (b"b", Kind::Quote) => {
                keys.once(seen::BID)?;
                tick.numbers[0] = number(scan)?;
            }
            (b"B", Kind::Quote) => {
                keys.once(seen::BIDS)?;
                tick.numbers[1] = number(scan)?;
            }
            (b"a", Kind::Quote) => {
                keys.once(seen::ASK)?;
                tick.numbers[2] = number(scan)?;
            }
            (b"A", Kind::Quote) => {
                keys.once(seen::ASKS)?;
                tick.numbers[3] = number(scan)?;
            }
            (b"ps", _) => {
                keys.once(seen::PAIR)?;
                scan.string()?;
            }
            (b"st", _) => {
                keys.once(seen::STATE)?;
                scan.uint()?;
            }
            _ => return None,
        }
        next = scan.next_key()?;
    }
    keys.all(match kind {
        Kind::Trade => seen::TRADE,
        Kind::Aggregate => seen::AGGREGATE,
        Kind::Quote => seen::QUOTE,
    })?;
    Some(tick)
}

/// What kind a name is, at whose text the scanner stands, which is not passed over.
#[inline(always)]
fn kind_of<D: Digits>(scan: &Scan<'_, D>) -> Option<Kind> {
    let mut scan = *scan;
    match scan.string()? {
        b"trade" => Some(Kind::Trade),
        b"aggTrade" => Some(Kind::Aggregate),
        b"bookTicker" => Some(Kind::Quote),
        _ => None,
    }
}

/// The kind of an event whose name stands further on: `scan` is before the event. Without a name it can only be a quote.
#[cold]
#[inline(never)]
fn kind_ahead<D: Digits>(mut scan: Scan<'_, D>) -> Option<Kind> {
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        if key == b"e" {
            return kind_of(&scan);
        }
        scan.skip()?;
        next = scan.next_key()?;
    }
    Some(Kind::Quote)
}

/// A number in quotes that a float64 keeps; below 1e15, for it has no more digits.
#[inline(always)]
fn number<D: Digits>(scan: &mut Scan<'_, D>) -> Option<f64> {
    let number = scan.quoted()?;
    (number.decimal.mantissa < EXACT).then(|| number.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRADE: &str = r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1748822400001,"s":"BTCUSDT","t":42,"p":"104233.10","q":"0.00100000","T":1748822400000,"m":true,"M":true}}"#;
    const QUOTE: &str = r#"{"u":7,"s":"BTCUSDT","b":"1.10","B":"2","a":"1.20","A":"0.00000000"}"#;
    const AGGREGATE: &str = r#"{"e":"aggTrade","E":1748822400001,"s":"X","a":5,"p":"1.5","q":"2","f":7,"l":9,"T":1748822400000000,"m":false}"#;

    fn both(text: &str) -> Option<Tick<'_>> {
        let plain = decode_by(Scalar, text.as_bytes());
        assert_eq!(decode(text.as_bytes()), plain, "the twins differ");
        plain
    }

    #[test]
    fn each_kind_is_read() {
        let tick = both(TRADE).unwrap();
        assert_eq!((tick.kind, tick.symbol, tick.id, tick.sold), (Kind::Trade, &b"BTCUSDT"[..], 42, true));
        assert_eq!((tick.numbers[0], tick.numbers[1]), (104_233.10, 0.001));
        assert_eq!(tick.ts_event, Some(1_748_822_400_000_000_000));
        let tick = both(AGGREGATE).unwrap();
        assert_eq!((tick.kind, tick.id, tick.trades, tick.sold), (Kind::Aggregate, 5, (7, 9), false));
        assert_eq!(tick.ts_event, Some(1_748_822_400_000_000_000));
        let tick = both(QUOTE).unwrap();
        assert_eq!((tick.kind, tick.id, tick.numbers), (Kind::Quote, 7, [1.1, 2.0, 1.2, 0.0]));
        assert_eq!(tick.ts_event, None);
    }

    #[test]
    fn any_order_of_keys_is_read() {
        let text = r#"{"data":{"s":"X","T":1748822400000,"m":false,"q":"2","p":"1.5","t":5, "e" : "trade"},"stream":"x@trade"}"#;
        assert_eq!(both(text).unwrap().kind, Kind::Trade);
        let text = r#"{"A":"1","a":"2","B":"3","b":"4","s":"X","u":5}"#;
        assert_eq!(both(text).unwrap().numbers, [4.0, 3.0, 2.0, 1.0]);
    }

    #[test]
    fn what_is_odd_is_left() {
        for (from, to) in [
            ("\"t\":42", "\"t\":-1"),
            ("\"t\":42", "\"t\":42.0"),
            ("\"t\":42", "\"t\":42,\"t\":43"),
            ("\"p\":\"104233.10\"", "\"p\":104233.10"),
            ("104233.10", "0"),
            ("104233.10", "-1"),
            ("104233.10", "1e3"),
            ("104233.10", "1234567.890123456"),
            ("\"M\":true", "\"X\":\"ADL\""),
            ("\"M\":true", "\"new\":1"),
            ("\"m\":true", "\"m\":1"),
            ("BTCUSDT", "BTC\\u0041"),
            ("1748822400000,\"m\"", "0,\"m\""),
            ("\"e\":\"trade\"", "\"e\":\"kline\""),
            ("\"e\":\"trade\",", ""),
            ("\"s\":\"BTCUSDT\",", ""),
            ("}}", "}"),
            ("}}", "}},"),
        ] {
            assert!(TRADE.contains(from));
            assert_eq!(both(&TRADE.replacen(from, to, 1)), None, "{from} -> {to}");
        }
        for at in 0..QUOTE.len() {
            assert_eq!(both(&QUOTE[..at]), None);
        }
    }
}
