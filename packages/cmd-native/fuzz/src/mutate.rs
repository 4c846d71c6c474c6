//! Small changes to inputs, the same ones for the same start: a stand-in for libFuzzer where that cannot run.

/// Pieces that parsers look at: of JSON, of numbers, of archives, and words at the edges of their range.
const PIECES: &[&[u8]] = &[
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\\u0041",
    b"\\\"",
    b"null",
    b"true",
    b"-",
    b"0",
    b"1e400",
    b"1e-9",
    b".",
    b"00",
    b"99999999999999999999",
    b"0.1",
    b" ",
    b"\n",
    b"\r\n",
    b"\t",
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80\x00",
    b"\xef\xbb\xbf",
    b"[]",
    b"{}",
    b"PK\x03\x04",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
];

/// Numbers that look random and never change: a generator of 64 bits (xorshift).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 33) % limit.max(1) as u64) as usize
    }
}

/// One to four changes: bits, bytes, pieces put in, parts left out, doubled, swapped or taken from another input.
pub fn mutate(data: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random, limit: usize) {
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() + 1);
        let end = (at + random.below(random.0 as usize % 64 + 1)).min(data.len());
        match random.below(9) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = random.next() as u8,
            2 => {
                let piece = PIECES[random.below(PIECES.len())];
                data.splice(at..at, piece.iter().copied());
            }
            3 => {
                let piece = PIECES[random.below(PIECES.len())];
                let end = (at + piece.len()).min(data.len());
                data.splice(at..end, piece.iter().copied());
            }
            4 => drop(data.drain(at..end)),
            5 => {
                let part = data[at..end].to_vec();
                data.splice(at..at, part);
            }
            6 => data.truncate(at),
            7 if at < data.len() && data[at].is_ascii_digit() => data[at] = b'0' + random.below(10) as u8,
            _ => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len() + 1);
                let to = (from + 1 + random.below(64)).min(other.len()).max(from);
                data.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    data.truncate(limit);
}
