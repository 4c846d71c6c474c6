//! A scanner for the JSON of depth messages: it reads what it knows and gives up on all else, without allocating.
//!
//! Every method returns `None` for what it does not understand: an escape, an exponent, a sign, a leading zero, more
//! digits than fit, damage. Giving up means that the caller changes nothing and decodes the message in full by the
//! venue's own decoder; so a method may refuse what is legal, but must never accept what a full parser refuses or
//! reads differently. What is passed over (`skip`) is checked as strictly as what is read.
//!
//! How a venue is added (`depth_binance.rs` is the example):
//!
//! 1. Write `decode<D: Digits>(scan: Scan<D>, select, scratch) -> Option<Message>` in `depth_VENUE.rs`, marked
//!    `#[inline(always)]`. Go through objects by `first_key` and `next_key` and match each key; a key that comes
//!    twice, an unknown one and a missing one end in `None`. Go through arrays by `first_item` and `next_item`; read
//!    values with `uint`, `string`, `number` (bare), `quoted` (in quotes) and `pair` (`["price","quantity"]`). No
//!    closure holds any of it: one that is not inlined loses the vector instructions, and with them the speed. Where
//!    levels come before the symbol that tells their grid, keep a copy of the scanner (it is `Copy`), `skip` the
//!    value, and read it from the copy in the end. End with `done`, which demands that nothing follows.
//! 2. Check everything that the venue's Python decoder checks (ranges, lengths, known texts). `Number::price` and
//!    `Number::quantity` say what they bound.
//! 3. Add the venue to `Format` in `depth.rs`, with its rule of continuity, and to `decode` there: it calls the
//!    function once for `Vector`, inside a function that has the instructions, and once for `Scalar`.
//!
//! Numbers are 16 bytes at a time: `Digits` has a twin with vector instructions (`scan_simd.rs`) and one without,
//! and both give the same for every input. No method reads outside the slice: chunks are taken by `get`.

/// `["123456789012345","123456789012345"],` and one.
const WINDOW: usize = 40;

/// Finds the digits of a number within 16 bytes. A value of it is the proof that this CPU can.
pub trait Digits: Copy {
    /// The unsigned decimal number that begins the chunk and ends within it; of no length where it has no usual form.
    fn decimal(self, chunk: &[u8; 16]) -> Decimal;
    /// The same, but zeros at the end of its fraction may be kept.
    #[inline(always)]
    fn loose(self, chunk: &[u8; 16]) -> Decimal {
        self.decimal(chunk)
    }
    /// The unsigned integer that begins the chunk and ends within it, and its length; what follows is not looked at.
    fn whole(self, chunk: &[u8; 16]) -> Option<(u64, usize)>;
    /// One bit a byte, the lowest for the first: quotes, backslashes, control characters and what is not ASCII.
    fn special(self, chunk: &[u8; 16]) -> u32;
}

/// A decimal number: `mantissa / 10^fraction`, without zeros at the end of its fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    /// Its digits without the point.
    pub mantissa: u64,
    /// How many of the digits stand behind the point.
    pub fraction: u32,
    /// Bytes of its text, 0 for no number.
    pub length: u32,
}

/// What is no number in its usual form.
pub const NONE: Decimal = Decimal { mantissa: 0, fraction: 0, length: 0 };

/// Powers of ten that are exact as float64.
pub const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
/// A number of less than 16 characters: no more digits than a float64 keeps.
#[derive(Clone, Copy)]
pub struct Short(pub Decimal);

impl Short {
    /// Its value.
    #[inline(always)]
    pub fn value(self) -> f64 {
        self.0.mantissa as i64 as f64 / POWERS[(self.0.fraction & 15) as usize]
    }
}

/// A number and its text.
#[derive(Clone, Copy)]
pub struct Number<'a> {
    /// Its value.
    pub decimal: Decimal,
    /// Its characters as they came.
    pub text: &'a [u8],
}

impl Number<'_> {
    /// The nearest float64: what a correct parser of the text gives. Below 1.9e19.
    #[inline(always)]
    pub fn value(&self) -> f64 {
        let Decimal { mantissa, fraction, .. } = self.decimal;
        match POWERS.get(fraction as usize) {
            // Both are exact, and so the quotient is rounded once.
            Some(power) if mantissa < 1 << 53 => mantissa as i64 as f64 / power,
            _ => self.parsed(),
        }
    }

    #[cold]
    fn parsed(&self) -> f64 {
        std::str::from_utf8(self.text).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
    }
}

/// The twin without vector instructions.
#[derive(Clone, Copy)]
pub struct Scalar;

impl Digits for Scalar {
    #[inline(always)]
    fn decimal(self, chunk: &[u8; 16]) -> Decimal {
        decimal(chunk).filter(|found| found.length < 16).unwrap_or(NONE)
    }

    #[inline(always)]
    fn whole(self, chunk: &[u8; 16]) -> Option<(u64, usize)> {
        let length = chunk.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 || length == 16 || (chunk[0] == b'0' && length > 1) {
            return None;
        }
        Some((chunk[..length].iter().fold(0, |value, byte| value * 10 + u64::from(byte - b'0')), length))
    }

    #[inline(always)]
    fn special(self, chunk: &[u8; 16]) -> u32 {
        let mut mask = 0;
        for (bit, &byte) in chunk.iter().enumerate() {
            mask |= u32::from(is_special(byte)) << bit;
        }
        mask
    }
}

#[inline(always)]
fn is_special(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || !(0x20..0x80).contains(&byte)
}

/// The number at the start of `text`, however long: at most 19 digits that count and 22 behind the point.
pub fn decimal(text: &[u8]) -> Option<Decimal> {
    let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let dot = digits(0);
    let mut length = dot;
    let mut end = dot; // without the zeros at the end of the fraction
    if dot == 0 || (dot > 1 && text[0] == b'0') {
        return None;
    }
    if text.get(dot) == Some(&b'.') {
        let fraction = digits(dot + 1);
        if fraction == 0 {
            return None;
        }
        length = dot + 1 + fraction;
        end = length - text[dot + 1..length].iter().rev().take_while(|byte| **byte == b'0').count();
        end = if end == dot + 1 { dot } else { end };
    }
    let mut mantissa = 0_u64;
    for &byte in text[..end].iter().filter(|byte| **byte != b'.') {
        if mantissa >= 1_000_000_000_000_000_000 {
            return None;
        }
        mantissa = mantissa * 10 + u64::from(byte - b'0');
    }
    let fraction = end.saturating_sub(dot + 1);
    if fraction > 22 {
        return None;
    }
    Some(Decimal { mantissa, fraction: fraction as u32, length: u32::try_from(length).ok()? })
}

/// A place in a message.
#[derive(Clone, Copy)]
pub struct Scan<'a, D> {
    bytes: &'a [u8],
    at: usize,
    digits: D,
}

impl<'a, D: Digits> Scan<'a, D> {
    /// The beginning of a message.
    #[inline(always)]
    pub fn new(bytes: &'a [u8], digits: D) -> Self {
        Scan { bytes, at: 0, digits }
    }

    /// Bytes before the place.
    #[inline(always)]
    pub fn at(&self) -> usize {
        self.at
    }

    /// The message from `start` up to the place.
    #[inline(always)]
    pub fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// The 16 bytes from a place on, where there are so many.
    #[inline(always)]
    pub fn chunk(&self, at: usize) -> Option<[u8; 16]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }

    /// What stands between the last two quotes of the message: its last text, if it ends with one and `string` reads it.
    #[inline(always)]
    pub fn last_text(&self) -> Option<&'a [u8]> {
        let end = self.bytes.iter().rposition(|byte| *byte == b'"')?;
        let start = self.bytes[..end].iter().rposition(|byte| *byte == b'"')? + 1;
        self.bytes.get(start..end)
    }

    /// Where a text that is not empty begins for the first time in the whole message.
    #[cold]
    pub fn find(&self, text: &[u8]) -> Option<usize> {
        self.bytes.windows(text.len()).position(|window| window == text)
    }

    /// The next byte, 0 at the end (no JSON has one outside a text).
    #[inline(always)]
    pub fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Pass over white space.
    #[inline(always)]
    pub fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// Pass over one byte that must be there, and white space before it.
    #[inline(always)]
    pub fn expect(&mut self, byte: u8) -> Option<()> {
        if self.peek() != byte {
            self.space();
            if self.peek() != byte {
                return None;
            }
        }
        self.at += 1;
        Some(())
    }

    /// Whether the next byte but white space is this one; it is passed over then.
    #[inline(always)]
    pub fn accept(&mut self, byte: u8) -> bool {
        self.expect(byte).is_some()
    }

    /// The next byte but white space.
    #[inline(always)]
    pub fn ahead(&mut self) -> u8 {
        self.space();
        self.peek()
    }

    /// Demand that nothing but white space follows.
    #[inline(always)]
    pub fn done(&mut self) -> Option<()> {
        self.space();
        (self.at == self.bytes.len()).then_some(())
    }

    /// Begin an object: its first key, `Some(None)` where it is empty. The place is behind the colon then.
    #[inline(always)]
    pub fn first_key(&mut self) -> Option<Option<&'a [u8]>> {
        self.expect(b'{')?;
        if self.accept(b'}') { Some(None) } else { self.named().map(Some) }
    }

    /// Behind a value of an object: the next key, `Some(None)` at its end.
    #[inline(always)]
    pub fn next_key(&mut self) -> Option<Option<&'a [u8]>> {
        // ,"x": as most keys are, in one look
        if let Some(&[b',', b'"', letter, b'"', b':', after, ..]) = self.bytes.get(self.at..)?.first_chunk::<8>()
            && !is_special(letter)
            && after > b' '
        {
            let key = self.bytes.get(self.at + 2..self.at + 3);
            self.at += 5;
            return key.map(Some);
        }
        if self.more(b'}')? { self.named().map(Some) } else { Some(None) }
    }

    #[inline(always)]
    fn named(&mut self) -> Option<&'a [u8]> {
        let key = self.key()?;
        self.expect(b':')?;
        self.space();
        Some(key)
    }

    /// Begin an array: whether it has an element, which the place is before then.
    #[inline(always)]
    pub fn first_item(&mut self) -> Option<bool> {
        self.expect(b'[')?;
        let any = !self.accept(b']');
        self.space();
        Some(any)
    }

    /// Behind an element of an array: whether it has another one.
    #[inline(always)]
    pub fn next_item(&mut self) -> Option<bool> {
        let any = self.more(b']')?;
        self.space();
        Some(any)
    }

    /// Whether a comma follows, and not the end.
    #[inline(always)]
    fn more(&mut self, end: u8) -> Option<bool> {
        let mut byte = self.peek();
        if byte != b',' && byte != end {
            self.space();
            byte = self.peek();
        }
        self.at += 1;
        if byte == b',' {
            Some(true)
        } else if byte == end {
            Some(false)
        } else {
            None
        }
    }

    /// A key, or any other short text in ASCII.
    #[inline(always)]
    pub fn key(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        let mut end = start;
        loop {
            let byte = *self.bytes.get(end)?;
            if is_special(byte) {
                if byte != b'"' {
                    return None; // no venue's keys have such
                }
                self.at = end + 1;
                return self.bytes.get(start..end);
            }
            end += 1;
        }
    }

    /// A text without escapes and control characters, in valid UTF-8; without its quotes.
    #[inline(always)]
    pub fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        let mut end = start;
        while let Some(chunk) = self.bytes.get(end..).and_then(|rest| rest.first_chunk::<16>()) {
            let special = self.digits.special(chunk);
            if special == 0 {
                end += 16;
                continue;
            }
            end += special.trailing_zeros() as usize;
            if self.bytes.get(end) != Some(&b'"') {
                return self.odd_string(start, end);
            }
            self.at = end + 1;
            return self.bytes.get(start..end);
        }
        self.odd_string(start, end)
    }

    /// The rest of a text that is not ASCII or stands near the end of the message.
    #[cold]
    fn odd_string(&mut self, start: usize, from: usize) -> Option<&'a [u8]> {
        let rest = self.bytes.get(from..)?;
        let end = from + rest.iter().position(|byte| *byte == b'"')?;
        let text = self.bytes.get(start..end)?;
        if text.iter().any(|byte| *byte < 0x20 || *byte == b'\\') {
            return None; // an escaped quote has its backslash before it
        }
        std::str::from_utf8(text).ok()?;
        self.at = end + 1;
        Some(text)
    }

    /// An unsigned decimal number without quotes; what follows it is for the caller to look at.
    #[inline(always)]
    pub fn number(&mut self) -> Option<Number<'a>> {
        let start = self.at;
        let rest = self.bytes.get(start..)?;
        let mut found = match rest.first_chunk::<16>() {
            Some(chunk) => self.digits.decimal(chunk),
            None => NONE,
        };
        if found.length == 0 {
            found = slow_decimal(rest)?;
        }
        self.at = start + found.length as usize;
        Some(Number { decimal: found, text: rest.get(..found.length as usize)? })
    }

    /// An unsigned decimal number in quotes.
    #[inline(always)]
    pub fn quoted(&mut self) -> Option<Number<'a>> {
        self.expect(b'"')?;
        let number = self.number()?;
        if self.peek() != b'"' {
            return None;
        }
        self.at += 1;
        Some(number)
    }

    /// An unsigned integer below 2^62.
    #[inline(always)]
    pub fn uint(&mut self) -> Option<i64> {
        let rest = self.bytes.get(self.at..)?;
        if let Some((value, length)) = rest.first_chunk::<16>().and_then(|chunk| self.digits.whole(chunk)) {
            // A point, an exponent or a letter behind it is seen by whoever looks for the comma.
            self.at += length;
            return Some(value as i64);
        }
        self.slow_uint()
    }

    #[cold]
    #[inline(never)]
    fn slow_uint(&mut self) -> Option<i64> {
        let rest = self.bytes.get(self.at..)?;
        let Decimal { mantissa, length, .. } = decimal(rest)?;
        let length = length as usize;
        self.at += length;
        (!rest[..length].contains(&b'.') && mantissa < 1 << 62).then_some(mantissa as i64)
    }

    /// `true` or `false`.
    #[inline(always)]
    pub fn boolean(&mut self) -> Option<bool> {
        if self.word(b"true").is_some() { Some(true) } else { self.word(b"false").map(|()| false) }
    }

    /// One of the literal words.
    #[inline(always)]
    pub fn word(&mut self, word: &[u8]) -> Option<()> {
        self.bytes.get(self.at..)?.strip_prefix(word)?;
        self.at += word.len();
        Some(())
    }

    /// `["price","quantity"]`, an element of the usual kind of list of levels, in any form that `quoted` reads.
    #[inline(never)]
    pub fn pair(&mut self) -> Option<(Number<'a>, Number<'a>)> {
        self.expect(b'[')?;
        let price = self.quoted()?;
        self.expect(b',')?;
        let quantity = self.quoted()?;
        self.expect(b']')?;
        Some((price, quantity))
    }

    /// The same in its usual form, without white space and of less than 16 characters a number, and with what
    /// follows: whether another element does, which the place is before then, or the end of the list. Where it is
    /// `None`, nothing was passed over.
    #[inline(always)]
    pub fn usual_pair(&mut self) -> Option<(Short, Short, bool)> {
        let rest = self.bytes.get(self.at..)?;
        let padded;
        let window = match rest.first_chunk::<WINDOW>() {
            Some(window) => window,
            None => {
                padded = with_zeros(rest);
                &padded
            }
        };
        if window[..2] != *b"[\"" {
            return None;
        }
        let price = self.digits.decimal(window[2..].first_chunk()?);
        let between = 2 + price.length as usize;
        if price.length == 0 || three(window, between)? != u32::from_le_bytes(*b"\",\"\0") {
            return None;
        }
        let quantity = self.digits.loose(window.get(between + 3..)?.first_chunk()?);
        let end = between + 3 + quantity.length as usize;
        let after = three(window, end)?;
        let more = after == u32::from_le_bytes(*b"\"],\0");
        if quantity.length == 0 || (!more && after != u32::from_le_bytes(*b"\"]]\0")) {
            return None;
        }
        self.at += end + 3;
        Some((Short(price), Short(quantity), more))
    }

    /// Pass over any value; it is checked to be valid JSON without escapes, at most 64 deep.
    #[inline(never)]
    pub fn skip(&mut self) -> Option<()> {
        let mut objects = 0_u64; // one bit a level, the lowest for the innermost: whether it is an object
        let mut depth = 0_u32;
        loop {
            let opened = match self.ahead() {
                b'"' => {
                    self.string()?;
                    false
                }
                byte @ (b'{' | b'[') => {
                    self.at += 1;
                    let object = byte == b'{';
                    if self.accept(if object { b'}' } else { b']' }) {
                        false
                    } else if depth == 64 {
                        return None;
                    } else {
                        depth += 1;
                        objects = objects << 1 | u64::from(object);
                        true
                    }
                }
                b't' | b'f' => {
                    self.boolean()?;
                    false
                }
                b'n' => {
                    self.word(b"null")?;
                    false
                }
                _ => {
                    self.skip_number()?;
                    false
                }
            };
            if !opened {
                loop {
                    if depth == 0 {
                        return Some(());
                    }
                    if self.accept(b',') {
                        break;
                    }
                    self.expect(if objects & 1 == 1 { b'}' } else { b']' })?;
                    depth -= 1;
                    objects >>= 1;
                }
            }
            if objects & 1 == 1 {
                self.key()?;
                self.expect(b':')?;
            }
        }
    }

    fn skip_digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn skip_number(&mut self) -> Option<()> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        if self.peek() == b'0' {
            self.at += 1;
        } else {
            self.skip_digits()?;
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.skip_digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Some(())
    }
}

/// Less than a window, with zeros behind it, which are nothing that JSON has.
#[cold]
#[inline(never)]
fn with_zeros(rest: &[u8]) -> [u8; WINDOW] {
    let mut window = [0; WINDOW];
    window[..rest.len()].copy_from_slice(rest);
    window
}

/// Three bytes as a number, the first the lowest.
#[inline(always)]
fn three(window: &[u8], at: usize) -> Option<u32> {
    let four = window.get(at..at + 4)?.first_chunk()?;
    Some(u32::from_le_bytes(*four) & 0xff_ffff)
}

#[cold]
fn slow_decimal(rest: &[u8]) -> Option<Decimal> {
    decimal(rest)
}

#[path = "scan_row.rs"]
mod row;

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
