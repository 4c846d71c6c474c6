//! Tests of the scanner: against the standard library's numbers, against its own twin, and cut off at every byte.

use super::*;
#[cfg(target_arch = "x86_64")]
use crate::scan_simd::Vector;

/// Small and repeatable.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}

/// How many random inputs: fewer under Miri, which is slow.
const ROUNDS: usize = if cfg!(miri) { 2_000 } else { 300_000 };

fn numbers(random: &mut Random) -> Vec<u8> {
    let mut text: Vec<u8> = Vec::new();
    for _ in 0..random.below(10) {
        text.push(b'0' + random.below(10) as u8);
    }
    if random.below(4) > 0 {
        text.push(b'.');
    }
    for _ in 0..random.below(10) {
        text.push(if random.below(2) == 0 { b'0' } else { b'0' + random.below(10) as u8 });
    }
    for _ in 0..random.below(3) {
        text.push(b"\",.]}0: e-E+\\x\xff/"[random.below(16)]);
    }
    if random.below(8) == 0 && !text.is_empty() {
        let at = random.below(text.len());
        text[at] = random.below(256) as u8;
    }
    text
}

#[test]
fn a_decimal_is_what_the_standard_library_reads() {
    let mut random = Random(1);
    for _ in 0..ROUNDS {
        let text = numbers(&mut random);
        let Some(found) = decimal(&text) else { continue };
        let number = std::str::from_utf8(&text[..found.length as usize]).unwrap();
        assert!(!number.ends_with('.') && !number.starts_with('.'), "{number}");
        assert!(!(number.starts_with('0') && number.len() > 1 && !number.starts_with("0.")), "{number}");
        let value = Number { decimal: found, text: number.as_bytes() }.value();
        assert_eq!(value.to_bits(), number.parse::<f64>().unwrap().to_bits(), "{number}");
        assert!(found.fraction == 0 || !found.mantissa.is_multiple_of(10), "{number}");
    }
}

#[test]
fn usual_numbers_are_read_and_odd_ones_are_not() {
    for (text, mantissa, fraction, length) in [
        ("0\"", 0, 0, 1),
        ("0.00000000\"", 0, 0, 10),
        ("61737.63000000\"", 6_173_763, 2, 14),
        ("100.0,", 100, 0, 5),
        ("0.00000001]", 1, 8, 10),
        ("9999999999999999999", 9_999_999_999_999_999_999, 0, 19),
        ("1234567890123.45678900", 1_234_567_890_123_456_789, 6, 22),
        ("12.5.7", 125, 1, 4),
        ("7e5", 7, 0, 1),
    ] {
        let found = decimal(text.as_bytes()).unwrap();
        assert_eq!((found.mantissa, found.fraction, found.length), (mantissa, fraction, length), "{text}");
    }
    for text in [
        "",
        "\"",
        ".5",
        "5.",
        "5.\"",
        "00",
        "01.5",
        "-1",
        "+1",
        "x",
        "10000000000000000000",
        "0.00000000000000000000001",
    ] {
        assert_eq!(decimal(text.as_bytes()), None, "{text}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_twins_agree() {
    let Some(vector) = Vector::detect() else { return };
    let mut random = Random(2);
    let mut read = 0;
    for _ in 0..ROUNDS {
        let mut text = numbers(&mut random);
        while text.len() < 16 {
            text.push(random.below(256) as u8);
        }
        let chunk = text.first_chunk::<16>().unwrap();
        assert_eq!(vector.decimal(chunk), Scalar.decimal(chunk), "{:?}", String::from_utf8_lossy(chunk));
        assert_eq!(vector.special(chunk), Scalar.special(chunk));
        assert_eq!(vector.whole(chunk), Scalar.whole(chunk));
        read += usize::from(Scalar.decimal(chunk) != NONE);
    }
    assert!(read > ROUNDS / 4);
    for byte in 0..=255 {
        for at in 0..16 {
            let mut chunk = *b"123456789012.345";
            chunk[at] = byte;
            assert_eq!(vector.decimal(&chunk), Scalar.decimal(&chunk));
            assert_eq!(vector.special(&chunk), Scalar.special(&chunk));
            assert_eq!(vector.whole(&chunk), Scalar.whole(&chunk));
        }
    }
}

type Pair = (Decimal, Decimal);

/// The same number without zeros at the end of its fraction.
fn short(mut number: Decimal) -> Decimal {
    while number.fraction > 0 && number.mantissa.is_multiple_of(10) {
        number.mantissa /= 10;
        number.fraction -= 1;
    }
    number
}

/// Reads a message of all kinds of values: the keys, the pairs and the number.
fn read<D: Digits>(bytes: &[u8], digits: D) -> Option<(Vec<Vec<u8>>, Vec<Pair>, i64)> {
    let (mut keys, mut pairs, mut number) = (Vec::new(), Vec::new(), -1);
    let mut scan = Scan::new(bytes, digits);
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        keys.push(key.to_vec());
        match key {
            b"pairs" => {
                let mut more = scan.first_item()?;
                while more {
                    if let Some((price, quantity, another)) = scan.usual_pair() {
                        pairs.push((price.0, short(quantity.0)));
                        more = another;
                        continue;
                    }
                    let (price, quantity) = scan.pair()?;
                    pairs.push((price.decimal, quantity.decimal));
                    more = scan.next_item()?;
                }
            }
            b"number" => number = scan.uint()?,
            b"text" => keys.push(scan.string()?.to_vec()),
            b"flag" => number += i64::from(scan.boolean()?),
            b"list" => {
                let mut more = scan.first_item()?;
                while more {
                    scan.quoted()?;
                    more = scan.next_item()?;
                }
            }
            _ => scan.skip()?,
        }
        next = scan.next_key()?;
    }
    scan.done()?;
    Some((keys, pairs, number))
}

const MESSAGE: &str = "{\"text\":\"btcusdt@depth@100ms und \u{20ac}\",\"number\":1723161255208,\"flag\":true,\
    \"pairs\":[[\"61737.63000000\",\"0.00000000\"],[\"1.5\",\"12345678901.12345678\"]],\"list\":[\"1\",\"2.50\"],\
    \"other\":{\"a\":[1,-2.5e+7,{\"b\":null},[]],\"c\":{},\"d\":\"x\"},\"empty\":[],\"no\":false}";

fn everyone(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, Vec<Pair>, i64)> {
    // Exactly as long as its allocation: a read behind the end is one outside of it, which Miri sees.
    let exact: Box<[u8]> = bytes.into();
    let scalar = read(&exact, Scalar);
    #[cfg(target_arch = "x86_64")]
    if let Some(vector) = Vector::detect() {
        assert_eq!(read(&exact, vector), scalar, "{}", String::from_utf8_lossy(bytes));
    }
    scalar
}

#[test]
fn a_message_is_read_with_white_space_anywhere() {
    let (keys, pairs, number) = everyone(MESSAGE.as_bytes()).unwrap();
    assert_eq!(keys.len(), 9);
    assert_eq!(keys[1], "btcusdt@depth@100ms und \u{20ac}".as_bytes());
    assert_eq!(number, 1_723_161_255_209);
    assert_eq!((pairs[0].0.mantissa, pairs[0].0.fraction), (6_173_763, 2));
    assert_eq!((pairs[1].1.mantissa, pairs[1].1.fraction), (1_234_567_890_112_345_678, 8));
    let mut spaced = String::new();
    let mut quoted = false;
    for letter in MESSAGE.chars() {
        let outside = !quoted && matches!(letter, '{' | '}' | '[' | ']' | ',' | ':');
        quoted ^= letter == '"';
        spaced.push_str(if outside { " \n" } else { "" });
        spaced.push(letter);
        spaced.push_str(if outside { "\t \r" } else { "" });
    }
    assert_eq!(everyone(spaced.as_bytes()), everyone(MESSAGE.as_bytes()));
}

#[test]
fn a_message_cut_off_at_any_byte_is_refused() {
    for end in 0..MESSAGE.len() {
        assert_eq!(everyone(&MESSAGE.as_bytes()[..end]), None, "{end}");
        let mut more = MESSAGE.as_bytes().to_vec();
        more.insert(end, b'"');
        assert_eq!(everyone(&more), None, "a quote at {end}");
    }
    assert_eq!(everyone(format!("{MESSAGE}x").as_bytes()), None);
    assert!(everyone(format!("{MESSAGE} \n").as_bytes()).is_some());
}

#[test]
fn odd_values_are_refused() {
    for value in [
        "\"text\":\"a\\u0041\"",
        "\"text\":\"a\\\"\"",
        "\"text\":\"a\u{1}bcdefghijklmnopqrstuv\"",
        "\"number\":1.5",
        "\"number\":1e5",
        "\"number\":01",
        "\"number\":-1",
        "\"number\":\"1\"",
        "\"number\":4611686018427387904",
        "\"pairs\":[[\"1\",\"2\",\"3\"]]",
        "\"pairs\":[[\"1\"]]",
        "\"pairs\":[[1,2]]",
        "\"pairs\":[[\"1\",\"2\"],]",
        "\"pairs\":[[\"1e1\",\"2\"]]",
        "\"pairs\":[[\"-1\",\"2\"]]",
        "\"pairs\":[[\"nan\",\"2\"]]",
        "\"pairs\":{}",
        "\"pairs\":[,[\"1\",\"2\"]]",
        "\"pairs\":[[\"1\",\"2\"]",
        "\"skip\":01",
        "\"skip\":1.",
        "\"skip\":.1",
        "\"skip\":-",
        "\"skip\":1e",
        "\"skip\":tru",
        "\"skip\":nul",
        "\"skip\":[1,]",
        "\"skip\":{\"a\"}",
        "\"skip\":{\"a\":1,}",
        "\"skip\":[1}",
        "\"skip\":{\"a\":1]",
        "\"skip\":[1 2]",
        "\"skip\":",
        "\"skip\":\"\\n\"",
        "\"k\\u0041\":1",
        "k:1",
        "'k':1",
        "\"flag\":True",
    ] {
        assert_eq!(everyone(format!("{{{value}}}").as_bytes()), None, "{value}");
    }
    let deep = |levels: usize| format!("{{\"skip\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert!(everyone(deep(64).as_bytes()).is_some());
    assert_eq!(everyone(deep(66).as_bytes()), None);
    assert_eq!(everyone(deep(5_000).as_bytes()), None);
    assert_eq!(everyone(b"{\"text\":\"\xff\xfe\"}"), None);
}

#[test]
fn damage_never_makes_the_twins_differ() {
    let mut random = Random(3);
    for _ in 0..if cfg!(miri) { 200 } else { 30_000 } {
        let mut bytes = MESSAGE.as_bytes().to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes[at] = b"\"[]{},:.0\\"[random.below(10)],
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        everyone(&bytes);
    }
}
