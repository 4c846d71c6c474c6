//! One cell of a CSV to a number or a truth value. None means: not surely what the specification says; never a guess.

/// Bytes that must be readable before the first cell of a buffer: digits are loaded by their ends.
pub const PAD: usize = 32;

const TEN: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
const POWER: [u64; 19] = {
    let mut powers = [1; 19];
    let mut i = 1;
    while i < 19 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};
/// Up to here every whole number is a float.
const EXACT: u64 = 1 << 53;

/// The value of the last `count` (1 to 8) of the eight characters before `end`, and not 0 where one is no digit.
#[inline(always)]
fn eight(buffer: &[u8], end: usize, count: usize) -> (u64, u64) {
    let mut word = [0; 8];
    word.copy_from_slice(&buffer[end - 8..end]);
    let shift = 64 - 8 * count;
    let v = ((u64::from_le_bytes(word) ^ 0x3030_3030_3030_3030) >> shift) << shift;
    let bad = (v | v.wrapping_add(0x7676_7676_7676_7676)) & 0x8080_8080_8080_8080;
    let v = v.wrapping_mul(10).wrapping_add(v >> 8);
    let first = (v & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let second = ((v >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    (first.wrapping_add(second) >> 32, bad)
}

/// The value of the `count` (1 to 18) digits before `end`, and not 0 where one is no digit (the value means nothing then,
/// and may have wrapped).
#[inline(always)]
fn digits(buffer: &[u8], end: usize, count: usize) -> (u64, u64) {
    if count <= 8 {
        return eight(buffer, end, count);
    }
    let (low, bad) = eight(buffer, end, 8);
    if count <= 16 {
        let (high, worse) = eight(buffer, end - 8, count - 8);
        return (high.wrapping_mul(100_000_000).wrapping_add(low), bad | worse);
    }
    let (middle, worse) = eight(buffer, end - 8, 8);
    let (high, worst) = eight(buffer, end - 16, count - 16);
    let upper = high.wrapping_mul(100_000_000).wrapping_add(middle);
    (upper.wrapping_mul(100_000_000).wrapping_add(low), bad | worse | worst)
}

/// A whole number of up to 18 digits. `start` is not before `PAD`.
#[inline(always)]
pub fn int(buffer: &[u8], start: usize, end: usize) -> Option<i64> {
    let negative = start < end && buffer[start] == b'-';
    let count = end.wrapping_sub(start + usize::from(negative));
    if count.wrapping_sub(1) >= 18 {
        return None;
    }
    let (value, bad) = digits(buffer, end, count);
    if bad != 0 {
        return None;
    }
    let value = value as i64;
    Some(if negative { -value } else { value })
}

/// A number, exactly the float that its text means. `places` is where the last one had its point, and is kept up.
#[inline(always)]
pub fn float(buffer: &[u8], start: usize, end: usize, places: &mut usize) -> Option<f64> {
    let negative = start < end && buffer[start] == b'-';
    let begin = start + usize::from(negative);
    let count = end.wrapping_sub(begin);
    let f = *places;
    // At least one digit before the point, one behind it, no more than 18 together.
    if count.wrapping_sub(f + 2) <= 17 - f && buffer[end - 1 - f] == b'.' {
        let (whole, bad) = digits(buffer, end - 1 - f, count - f - 1);
        let (part, worse) = digits(buffer, end, f);
        let mantissa = whole.wrapping_mul(POWER[f]).wrapping_add(part);
        if bad | worse == 0 && mantissa <= EXACT {
            let value = mantissa as f64 / TEN[f];
            return Some(if negative { -value } else { value });
        }
    }
    other(&buffer[start..end], places)
}

/// Any number: digits, perhaps with a point between them, perhaps with an exponent.
#[inline(never)]
fn other(cell: &[u8], places: &mut usize) -> Option<f64> {
    let unsigned = cell.strip_prefix(b"-").unwrap_or(cell);
    let run = |text: &[u8]| text.iter().take_while(|c| c.is_ascii_digit()).count();
    let whole = run(unsigned);
    let mut rest = &unsigned[whole..];
    let mut part = 0;
    if let Some(behind) = rest.strip_prefix(b".") {
        part = run(behind);
        if part == 0 {
            return None;
        }
        rest = &behind[part..];
    }
    if whole == 0 {
        return None;
    }
    let mut exponent = 0_i32;
    if let [b'e' | b'E', tail @ ..] = rest {
        let (down, tail) = match tail {
            [b'-', tail @ ..] => (true, tail),
            [b'+', tail @ ..] => (false, tail),
            tail => (false, tail),
        };
        if tail.is_empty() || tail.len() > 3 || run(tail) != tail.len() {
            return None;
        }
        exponent = tail.iter().fold(0, |e, c| e * 10 + i32::from(c - b'0'));
        if down {
            exponent = -exponent;
        }
    } else if !rest.is_empty() {
        return None;
    } else if (1..=17).contains(&part) {
        *places = part;
    }
    if whole + part <= 18 {
        let taken = if part > 0 { whole + 1 + part } else { whole };
        let digits = unsigned[..taken].iter().filter(|c| **c != b'.');
        let mantissa = digits.fold(0_u64, |m, c| m * 10 + u64::from(c - b'0'));
        let scale = exponent - part as i32;
        if mantissa <= EXACT && scale.unsigned_abs() <= 22 {
            let ten = TEN[scale.unsigned_abs() as usize];
            let value = if scale < 0 { mantissa as f64 / ten } else { mantissa as f64 * ten };
            return Some(if cell.len() > unsigned.len() { -value } else { value });
        }
    }
    let value: f64 = std::str::from_utf8(cell).ok()?.parse().ok()?;
    // At the ends of the range of floats, readers do not agree on what a number is.
    let zero = || unsigned.iter().take_while(|c| !c.eq_ignore_ascii_case(&b'e')).all(|c| matches!(c, b'0' | b'.'));
    (value.is_normal() || (value == 0.0 && zero())).then_some(value)
}

/// True or false, in small letters, in capitals or with a capital.
#[inline(always)]
pub fn truth(buffer: &[u8], start: usize, end: usize) -> Option<bool> {
    match &buffer[start..end] {
        b"true" | b"True" | b"TRUE" => Some(true),
        b"false" | b"False" | b"FALSE" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padded(text: &str) -> Vec<u8> {
        let mut buffer = vec![b'9'; PAD];
        buffer.extend_from_slice(text.as_bytes());
        buffer.push(b'7');
        buffer
    }

    fn a_float(text: &str) -> Option<f64> {
        let buffer = padded(text);
        let mut first = None;
        for places in 1..=17 {
            let found = float(&buffer, PAD, PAD + text.len(), &mut { places });
            assert!(places == 1 || found.map(f64::to_bits) == first.map(f64::to_bits), "{text} {places}");
            first = found;
        }
        first
    }

    fn an_int(text: &str) -> Option<i64> {
        int(&padded(text), PAD, PAD + text.len())
    }

    #[test]
    fn whole_numbers() {
        for text in ["0", "7", "12345678", "123456789", "1234567890123456", "12345678901234567", "999999999999999999"] {
            assert_eq!(an_int(text), Some(text.parse().unwrap()));
            assert_eq!(an_int(&format!("-{text}")), Some(-text.parse::<i64>().unwrap()));
        }
        for text in
            ["", "-", "+1", "1234567890123456789", "1.5", " 1", "1 ", "0x1", "12a", "1:", "1/", "--1", "1-", "\u{e9}"]
        {
            assert_eq!(an_int(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_what_their_text_means() {
        let mut seed = 1_u64;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..if cfg!(miri) { 30 } else { 20_000 } {
            let digits = format!("{:020}", random());
            let (from, point) = (random() as usize % 19, random() as usize % 20);
            let mut text = digits[from..].to_string();
            if point > 0 && point < text.len() {
                text.insert(point, '.');
            }
            if random() % 4 == 0 {
                text += &format!("e{}", random() as i32 % 40);
            }
            let sign = if random() % 4 == 0 { "-" } else { "" };
            let text = format!("{sign}{text}");
            let expected: f64 = text.parse().unwrap();
            assert_eq!(a_float(&text).map(f64::to_bits), Some(expected.to_bits()), "{text}");
        }
    }

    #[test]
    fn what_is_no_plain_number_is_refused() {
        for text in [
            "", "-", ".", "1.", ".5", "+1", "1e", "1e+", "1e1000", "1e999", "1e-400", "nan", "inf", "0x10", "1_0",
            "1.5x", "1..5", "1.2.3", " 1.5", "1.5 ", "1,5", "--1", "-.5", "1e5.5", "1.5e", "4.9e-324", "\u{e9}",
            "1.0\0",
        ] {
            assert_eq!(a_float(text), None, "{text}");
        }
        assert_eq!(a_float("0.00000000"), Some(0.0));
        assert_eq!(a_float("-0.0").map(f64::to_bits), Some((-0.0_f64).to_bits()));
        assert_eq!(a_float("98765432100.00000000"), Some(98_765_432_100.0));
        assert_eq!(a_float(&format!("0.{}", "0".repeat(30))), Some(0.0));
    }

    #[test]
    fn words() {
        for (word, value) in
            [("true", true), ("True", true), ("TRUE", true), ("false", false), ("False", false), ("FALSE", false)]
        {
            assert_eq!(truth(&padded(word), PAD, PAD + word.len()), Some(value));
        }
        for word in ["", "1", "tRUE", "Tru", "Truee", "false ", "FalsE"] {
            assert_eq!(truth(&padded(word), PAD, PAD + word.len()), None);
        }
    }
}
