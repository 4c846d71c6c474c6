//! Levels with more than price and quantity: `["price","quantity","0","12"]`, of which the rest says nothing about the
//! book. In its usual form the third is `0` and the fourth a number of at most seven digits.

use super::{Digits, Number, Scan, Short, WINDOW, three};

const EACH: u64 = 0x0101_0101_0101_0101;

/// How many digits stand before the first quote of eight bytes; `None` where there is another byte or no quote.
#[inline(always)]
fn digits_before_quote(word: u64) -> Option<usize> {
    let zeros = word ^ (EACH * u64::from(b'"'));
    // The lowest mark of this well-known test for a zero byte is always right.
    let marks = zeros.wrapping_sub(EACH) & !zeros & (EACH << 7);
    let bits = marks.trailing_zeros() & !7;
    if bits >= 64 {
        return None;
    }
    let mask = (1 << bits) - 1;
    let high = EACH * 0xf0;
    let threes = (EACH * 0x30) & mask;
    // Within the mask all are 0x30 to 0x39, and so no sum below carries into the next byte.
    let all = word & high & mask == threes && (word & mask).wrapping_add((EACH * 6) & mask) & high & mask == threes;
    all.then_some(bits as usize / 8)
}

impl<'a, D: Digits> Scan<'a, D> {
    /// An array of at least two, the first of which are price and quantity, in any form that `quoted` reads.
    #[inline(never)]
    pub fn row(&mut self) -> Option<(Number<'a>, Number<'a>)> {
        self.expect(b'[')?;
        let price = self.quoted()?;
        self.expect(b',')?;
        let quantity = self.quoted()?;
        while self.next_item()? {
            self.skip()?;
        }
        Some((price, quantity))
    }

    /// The same in its usual form, and with what follows, as `usual_pair` has it.
    #[inline(always)]
    pub fn usual_row(&mut self) -> Option<(Short, Short, bool)> {
        let rest = self.bytes.get(self.at..)?;
        let window = rest.first_chunk::<WINDOW>()?;
        let price = self.digits.decimal(window[2..].first_chunk()?);
        let between = 2 + price.length as usize;
        if price.length == 0 || window[..2] != *b"[\"" || three(window, between)? != u32::from_le_bytes(*b"\",\"\0") {
            return None;
        }
        let quantity = self.digits.loose(window.get(between + 3..)?.first_chunk()?);
        if quantity.length == 0 {
            return None;
        }
        let end = between + 3 + quantity.length as usize;
        let rest = rest.get(end..)?;
        let tail = rest.first_chunk::<16>()?;
        if tail[..7] != *b"\",\"0\",\"" {
            return None;
        }
        let count = digits_before_quote(u64::from_le_bytes(*tail[7..].first_chunk()?))?;
        let after = rest.get(7 + count..)?.first_chunk::<3>()?;
        let more = after == b"\"],";
        if !more && after != b"\"]]" {
            return None;
        }
        self.at += end + count + 10;
        Some((Short(price), Short(quantity), more))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scalar;
    use super::*;

    #[test]
    fn digits_up_to_a_quote_are_counted() {
        for (text, count) in [
            (b"12\"]]xyz", Some(2)),
            (b"\"1234567", Some(0)),
            (b"1234567\"", Some(7)),
            (b"12345678", None),
            (b"1\\34567\"", None),
            (b"1:34567\"", None),
            (b"1/34567\"", None),
            (b"1\xb034567\"", None),
            (b"\xfa234567\"", None),
            (b"9\"\"\"\"\"\"\"", Some(1)),
            (b"0#\"#\"#\"#", None),
            (b"\x002\"34567", None),
        ] {
            assert_eq!(digits_before_quote(u64::from_le_bytes(*text)), count, "{text:?}");
        }
    }

    #[test]
    fn rows_in_their_usual_form_and_in_others() {
        let pad = " ".repeat(WINDOW);
        for (text, usual) in [
            (r#"["1.5","20","0","12"],"#, Some(true)),
            (r#"["1.5","20","0",""]]"#, Some(false)),
            (r#"["1.5","20","0","1234567"]]"#, Some(false)),
            (r#"["1.5","20","0","12345678"],"#, None),
            (r#"["1.5","20","1","12"],"#, None),
            (r#"["1.5","20","0",12],"#, None),
            (r#"["1.5","20","0","12",{"x":[]}],"#, None),
            (r#"["1.5" , "20"] ,"#, None),
            (r#"["1.5","20","0","x\\"],"#, None),
        ] {
            let text = format!("{text}{pad}");
            let mut scan = Scan::new(text.as_bytes(), Scalar);
            let found = scan.usual_row();
            assert_eq!(found.map(|found| found.2), usual, "{text}");
            let mut other = Scan::new(text.as_bytes(), Scalar);
            let slow = other.row();
            assert_eq!(slow.is_none(), text.contains('\\'));
            if let Some((price, quantity, more)) = found {
                assert_eq!((price.value(), quantity.value()), (1.5, 20.0));
                assert_eq!(other.at() + 1, scan.at());
                assert_eq!(text.as_bytes()[other.at()], if more { b',' } else { b']' });
            } else {
                assert_eq!(scan.at(), 0);
            }
            if let Some((price, quantity)) = slow {
                assert_eq!((price.value(), quantity.value()), (1.5, 20.0));
            }
        }
        for text in [r#"["1.5"]"#, r#"["1.5",]"#, r#"["1.5","2",]"#, r#"["1.5","2" "0"]"#, r#"["1.5","2","0"#] {
            assert!(Scan::new(text.as_bytes(), Scalar).row().is_none(), "{text}");
        }
    }
}
