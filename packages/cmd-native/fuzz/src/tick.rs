//! Trades and quotes: what is accepted is valid JSON and holds what was read, the same with and without vector instructions.

use std::collections::HashSet;

use cmd_native::scan::Scalar;
use cmd_native::tick::{Kind, decode_by};

use super::depth::numbers;
use super::json::parse;

pub fn messages(data: &[u8]) {
    let plain = decode_by(Scalar, data);
    #[cfg(target_arch = "x86_64")]
    if let Some(vector) = cmd_native::scan_simd::Vector::detect() {
        assert_eq!(decode_by(vector, data), plain, "the twins differ");
    }
    let Some(tick) = plain else { return };
    let full = parse(data).expect("an accepted message is valid JSON");
    let mut there = HashSet::new();
    numbers(&full, &mut there);
    let count = if tick.kind == Kind::Quote { 4 } else { 2 };
    for number in &tick.numbers[..count] {
        assert!(there.contains(&number.to_bits()), "a number that the message does not hold");
        assert!((0.0..1e15).contains(number));
    }
    assert!(tick.id >= 0);
    assert!(tick.kind == Kind::Quote || (tick.ts_event.is_some() && tick.numbers[0] > 0.0));
    assert!(tick.ts_event.is_none_or(|time| time > 0));
    assert!(std::str::from_utf8(tick.symbol).is_ok());
}
