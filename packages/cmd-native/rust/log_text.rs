//! Records as lines of text and JSON, byte for byte as the pure twin writes them (`cmd_common.log.render`).

use std::collections::HashMap;
use std::io::Write;

use crate::log_clock::RATE_BITS;
use crate::log_time::Second;

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

/// A field of an event: its name, and where it lies.
pub struct Field {
    name: String,
    shown: Shown,
    offset: usize, // within the arguments
    size: usize,
}

impl Field {
    /// None where no field of that kind has that size: nothing of a declaration is believed when records are read.
    pub fn new(name: &str, shown: Shown, offset: usize, size: usize) -> Option<Field> {
        let fits = match shown {
            Shown::Float => size == 8,
            Shown::Signed | Shown::Unsigned => matches!(size, 1 | 2 | 4 | 8),
            Shown::Bool => size == 1,
            Shown::Time => size == 8,
            Shown::Symbol => size == 4,
            Shown::Text => (3..=usize::from(u16::MAX)).contains(&size),
        };
        fits.then(|| Field { name: name.to_owned(), shown, offset, size })
    }
}

/// An event: the texts around its fields, in both forms.
pub struct Event {
    head: String,      // of a line of text, between time and message
    json_head: String, // between time and fields
    pieces: Vec<String>,
    fields: Vec<Field>,
    size: usize,
}

impl Event {
    /// None where fields do not follow each other, or a format has not one piece more than fields.
    pub fn new(name: &str, level: &str, pieces: Vec<String>, fields: Vec<Field>) -> Option<Event> {
        let mut size = 0;
        for field in &fields {
            if field.offset != size {
                return None;
            }
            size += field.size;
        }
        if pieces.len() != fields.len() + 1 {
            return None;
        }
        let mut quoted = Vec::new();
        json_text(&mut quoted, name);
        let quoted = String::from_utf8_lossy(&quoted).into_owned();
        Some(Event {
            head: format!(" {level} {name} "),
            json_head: format!(",\"level\":\"{level}\",\"event\":{quoted},\"fields\":{{"),
            size,
            pieces,
            fields,
        })
    }

    /// Bytes of all fields.
    pub fn size(&self) -> usize {
        self.size
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
        let rate = i128::from(self.rate);
        let ns = if self.rate < 1 << 62 {
            (ticks * rate) >> RATE_BITS
        } else {
            // A rate that only damage can give: the product may need more than 128 bits, and comes in two parts.
            ((ticks >> 32) * rate + (((ticks & 0xFFFF_FFFF) * rate) >> 32)) >> (RATE_BITS - 32)
        };
        i128::from(self.utc) + ns
    }
}

/// All records of the parts, each a row of slots of one size, in the order of time.
pub fn lines(json: bool, parts: &[(&[u8], usize)], line: Line, table: &Table) -> (Vec<u8>, usize) {
    let total: usize = parts.iter().map(|(data, slot)| data.len() / slot).sum();
    let mut out = Vec::with_capacity(total * 120);
    let mut bad = 0;
    let mut second = Second::default();
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
    fn no_rate_is_too_large() {
        let line = |rate| Line { raw: 5, utc: -3, rate };
        let half = 1 << 62;
        assert_eq!(line(half).at(u64::MAX), 2 * (line(half / 2).at(u64::MAX) + 3) - 3);
        assert_eq!(line(u64::MAX).at(6), -3 + (i128::from(u64::MAX) >> 48));
        assert_eq!(line(u64::MAX).at(0), -3 - ((5 * i128::from(u64::MAX)) >> 48) - 1);
    }

    #[test]
    fn a_declaration_that_does_not_hold_together_is_refused() {
        for (shown, size) in
            [(Shown::Float, 4), (Shown::Signed, 3), (Shown::Unsigned, 16), (Shown::Bool, 0), (Shown::Time, 4)]
        {
            assert!(Field::new("a", shown, 0, size).is_none());
        }
        assert!(Field::new("a", Shown::Symbol, 0, 8).is_none() && Field::new("a", Shown::Text, 0, 2).is_none());
        let event = |offset, pieces: usize| {
            let field = Field::new("a", Shown::Float, offset, 8).unwrap();
            Event::new("e", "INFO", vec![String::new(); pieces], vec![field])
        };
        assert!(event(0, 2).is_some() && event(8, 2).is_none() && event(0, 1).is_none() && event(0, 3).is_none());
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
