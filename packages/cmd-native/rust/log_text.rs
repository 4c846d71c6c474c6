//! Records as lines of text and JSON, byte for byte as the pure twin writes them (`cmd_common.log.render`).

use std::collections::HashMap;
use std::io::Write;

use crate::log_clock::RATE_BITS;

const VOID: u32 = u32::MAX;

/// How a field is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    Float,
    Signed,
    Unsigned,
    Bool,
    Time,
    Symbol,
    Text,
}

impl Shown {
    pub fn parse(kind: &str, limit: u16) -> Option<Shown> {
        Some(match kind {
            _ if limit > 0 => Shown::Text,
            "f8" => Shown::Float,
            "i1" | "i2" | "i4" | "i8" => Shown::Signed,
            "u1" | "u2" | "u4" | "u8" => Shown::Unsigned,
            "bool" => Shown::Bool,
            "ts" => Shown::Time,
            "sym" => Shown::Symbol,
            _ => return None,
        })
    }
}

pub struct Field {
    pub name: String,
    pub shown: Shown,
    pub offset: usize, // within the arguments
    pub size: usize,
}

pub struct Event {
    head: String,      // of a line of text, between time and message
    json_head: String, // between time and fields
    pieces: Vec<String>,
    fields: Vec<Field>,
    size: usize,
}

impl Event {
    pub fn new(name: &str, level: &str, pieces: Vec<String>, fields: Vec<Field>) -> Event {
        let mut quoted = Vec::new();
        json_text(&mut quoted, name);
        let quoted = String::from_utf8_lossy(&quoted).into_owned();
        Event {
            head: format!(" {level} {name} "),
            json_head: format!(",\"level\":\"{level}\",\"event\":{quoted},\"fields\":{{"),
            size: fields.iter().map(|f| f.size).sum(),
            pieces,
            fields,
        }
    }
}

#[derive(Default)]
pub struct Table {
    pub events: HashMap<u32, Event>,
    pub symbols: HashMap<u32, String>,
}

#[derive(Clone, Copy)]
pub struct Line {
    pub raw: u64,
    pub utc: i64,
    pub rate: u64,
}

impl Line {
    fn at(&self, stamp: u64) -> i128 {
        let ticks = i128::from(stamp) - i128::from(self.raw);
        i128::from(self.utc) + ((ticks * i128::from(self.rate)) >> RATE_BITS)
    }
}

/// All records of the parts, each a row of slots of one size, in the order of time.
pub fn lines(json: bool, parts: &[(&[u8], usize)], line: Line, table: &Table) -> (Vec<u8>, usize) {
    let total: usize = parts.iter().map(|(data, slot)| data.len() / slot).sum();
    let mut out = Vec::with_capacity(total * 120);
    let mut bad = 0;
    let mut second = Second { at: i128::MIN, text: [0; 40], size: 0 };
    let mut show = |record: &[u8]| match event_of(record, table) {
        Found::Void => {}
        Found::Unknown => bad += 1,
        Found::Event(event) => {
            if json {
                json_line(&mut out, record, event, line, table);
            } else {
                text_line(&mut out, record, event, line, table, &mut second);
            }
        }
    };
    if let [(data, slot)] = parts {
        data.chunks_exact(*slot).for_each(&mut show);
    } else {
        let mut records: Vec<&[u8]> = parts.iter().flat_map(|(data, slot)| data.chunks_exact(*slot)).collect();
        records.sort_by_key(|record| line.at(word(record, 0)));
        records.into_iter().for_each(&mut show);
    }
    (out, bad)
}

enum Found<'a> {
    Void,
    Unknown,
    Event(&'a Event),
}

fn event_of<'a>(record: &[u8], table: &'a Table) -> Found<'a> {
    let end = record.len();
    let number = u32::from_le_bytes([record[end - 4], record[end - 3], record[end - 2], record[end - 1]]);
    if number == VOID {
        return Found::Void;
    }
    match table.events.get(&number) {
        Some(event) if event.size + 16 <= end => Found::Event(event),
        _ => Found::Unknown,
    }
}

/// Eight bytes at `at`.
fn word(record: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&record[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// A number of 1, 2, 4 or 8 bytes.
fn unsigned(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..data.len()].copy_from_slice(data);
    u64::from_le_bytes(bytes)
}

fn signed(data: &[u8]) -> i64 {
    let unused = 64 - 8 * data.len() as u32;
    (unsigned(data) << unused) as i64 >> unused
}

fn held(data: &[u8]) -> std::borrow::Cow<'_, str> {
    let size = usize::from(u16::from_le_bytes([data[0], data[1]])).min(data.len() - 2);
    String::from_utf8_lossy(&data[2..2 + size])
}

fn text_line(out: &mut Vec<u8>, record: &[u8], event: &Event, line: Line, table: &Table, second: &mut Second) {
    second.iso(out, line.at(word(record, 0)));
    out.extend_from_slice(event.head.as_bytes());
    out.extend_from_slice(event.pieces[0].as_bytes());
    for (field, piece) in event.fields.iter().zip(&event.pieces[1..]) {
        let data = &record[8 + field.offset..8 + field.offset + field.size];
        match field.shown {
            Shown::Float => float(out, f64::from_bits(word(data, 0))),
            Shown::Signed => integer(out, i128::from(signed(data))),
            Shown::Unsigned => integer(out, i128::from(unsigned(data))),
            Shown::Bool => truth(out, data[0]),
            Shown::Time => second.iso(out, i128::from(signed(data))),
            Shown::Symbol => match table.symbols.get(&(unsigned(data) as u32)) {
                Some(text) => plain_text(out, text),
                None => number_sign(out, unsigned(data)),
            },
            Shown::Text => plain_text(out, &held(data)),
        }
        out.extend_from_slice(piece.as_bytes());
    }
    out.push(b'\n');
}

fn json_line(out: &mut Vec<u8>, record: &[u8], event: &Event, line: Line, table: &Table) {
    out.extend_from_slice(b"{\"ts\":");
    integer(out, line.at(word(record, 0)));
    out.extend_from_slice(event.json_head.as_bytes());
    for (n, field) in event.fields.iter().enumerate() {
        let data = &record[8 + field.offset..8 + field.offset + field.size];
        if n > 0 {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b"\":");
        match field.shown {
            Shown::Float => {
                let value = f64::from_bits(word(data, 0));
                if value.is_finite() {
                    float(out, value);
                } else {
                    out.extend_from_slice(b"null");
                }
            }
            Shown::Signed | Shown::Time => integer(out, i128::from(signed(data))),
            Shown::Unsigned => integer(out, i128::from(unsigned(data))),
            Shown::Bool => truth(out, data[0]),
            Shown::Symbol => match table.symbols.get(&(unsigned(data) as u32)) {
                Some(text) => json_text(out, text),
                None => {
                    out.push(b'"');
                    number_sign(out, unsigned(data));
                    out.push(b'"');
                }
            },
            Shown::Text => json_text(out, &held(data)),
        }
    }
    out.extend_from_slice(b"}}\n");
}

fn truth(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(if byte != 0 { b"true" } else { b"false" });
}

fn number_sign(out: &mut Vec<u8>, number: u64) {
    out.push(b'#');
    integer(out, i128::from(number));
}

fn integer(out: &mut Vec<u8>, value: i128) {
    let mut digits = [0_u8; 40];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    while rest > u128::from(u64::MAX) {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let mut rest = rest as u64; // divisions of 64 bits are many times as fast
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    out.extend_from_slice(&digits[at..]);
}

/// The shortest digits that give the same float, laid out as Python's repr does.
fn float(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        return out.extend_from_slice(b"nan");
    }
    if value.is_infinite() {
        return out.extend_from_slice(if value > 0.0 { b"inf" } else { b"-inf" });
    }
    let mut room = [0_u8; 40];
    let mut rest = &mut room[..];
    let written = write!(rest, "{value:e}").is_ok();
    debug_assert!(written);
    let size = 40 - rest.len();
    let text = &room[..size];
    let split = text.iter().position(|b| *b == b'e').unwrap_or(size);
    let (mut mantissa, exponent) = (&text[..split], &text[(split + 1).min(size)..]);
    let exponent: i32 = std::str::from_utf8(exponent).ok().and_then(|e| e.parse().ok()).unwrap_or(0);
    if mantissa.first() == Some(&b'-') {
        out.push(b'-');
        mantissa = &mantissa[1..];
    }
    let mut digits = [b'0'; 24];
    let mut count = 0;
    for b in mantissa.iter().filter(|b| **b != b'.') {
        digits[count] = *b;
        count += 1;
    }
    let digits = &digits[..count];
    if (-4..16).contains(&exponent) {
        if exponent < 0 {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + (-exponent - 1) as usize, b'0');
            out.extend_from_slice(digits);
        } else {
            let whole = exponent as usize + 1;
            out.extend_from_slice(&digits[..whole.min(count)]);
            out.resize(out.len() + whole.saturating_sub(count), b'0');
            out.push(b'.');
            if count > whole {
                out.extend_from_slice(&digits[whole..]);
            } else {
                out.push(b'0');
            }
        }
    } else {
        out.push(digits[0]);
        if count > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        if exponent.abs() < 10 {
            out.push(b'0');
        }
        integer(out, i128::from(exponent.abs()));
    }
}

/// Text in a line: control characters and backslashes are escaped, so that a record is one line.
fn plain_text(out: &mut Vec<u8>, text: &str) {
    for b in text.bytes() {
        match b {
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0..32 | 127 => hex(out, b"\\x", b),
            _ => out.push(b),
        }
    }
}

fn json_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for b in text.bytes() {
        match b {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            8 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            12 => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0..32 => hex(out, b"\\u00", b),
            _ => out.push(b),
        }
    }
    out.push(b'"');
}

fn hex(out: &mut Vec<u8>, before: &[u8], byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(before);
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}

/// The last second that was written: records lie close together.
struct Second {
    at: i128,
    text: [u8; 40],
    size: usize,
}

impl Second {
    fn iso(&mut self, out: &mut Vec<u8>, ns: i128) {
        let (second, rest) = match i64::try_from(ns) {
            Ok(ns) => (i128::from(ns.div_euclid(1_000_000_000)), ns.rem_euclid(1_000_000_000) as u32),
            Err(_) => (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000) as u32),
        };
        if second != self.at {
            self.at = second;
            let mut room = &mut self.text[..];
            let (year, month, day) = civil(second.div_euclid(86_400) as i64);
            let of_day = second.rem_euclid(86_400) as u32;
            let (hour, minute) = (of_day / 3600, of_day / 60 % 60);
            let fits = write!(room, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.", of_day % 60).is_ok();
            debug_assert!(fits);
            self.size = 40 - room.len();
        }
        out.extend_from_slice(&self.text[..self.size]);
        let mut digits = [b'0'; 10];
        let mut left = rest;
        for digit in digits[..9].iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
        }
        digits[9] = b'Z';
        out.extend_from_slice(&digits);
    }
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar.
fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468; // since the first of March of the year 0
    let era = shifted.div_euclid(146_097); // of 400 years
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * of_year + 2) / 153; // months since March
    let day = (of_year - (153 * march + 2) / 5 + 1) as u32;
    let month = (if march < 10 { march + 3 } else { march - 9 }) as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: f64) -> String {
        let mut out = Vec::new();
        float(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_look_like_pythons() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (101.5, "101.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e16, "1.5e+16"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (0.1 + 0.2, "0.30000000000000004"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
            (123456789012345680.0, "1.2345678901234568e+17"),
        ] {
            assert_eq!(shown(value), text);
        }
    }

    #[test]
    fn days_are_dates() {
        for (days, date) in [(0, (1970, 1, 1)), (-1, (1969, 12, 31)), (11_016, (2000, 2, 29)), (20_780, (2026, 11, 23))]
        {
            assert_eq!(civil(days), date);
        }
    }

    #[test]
    fn integers_of_any_size() {
        for value in [0, -1, 42, i128::from(u64::MAX), i128::from(u64::MAX) * 1000 + 7, -i128::from(i64::MAX)] {
            let mut out = Vec::new();
            integer(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }
}
