//! Frames of the wire format of cmd-server: framing header, message header, block, groups, texts. Knows no Python.
//!
//! The layouts are those of `cmd_server.formats`, which says what each field means; whoever uses this passes the
//! headers that the Python side has, and is refused where the lengths of the blocks differ.

/// Bytes of the framing header: length of the whole frame (big-endian), encoding type.
pub const SOFH: usize = 6;
/// Where the block begins.
pub const HEADER: usize = 14;
/// Where the own fields of a block begin: behind the common part.
pub const BODY: usize = HEADER + 32;
/// The integer that means: none.
pub const NULL: i64 = i64::MIN;
/// Bytes of the longest text.
pub const MAX_TEXT: usize = 65_534;
/// Bytes of a level of a book, and of one of a book over venues.
pub const LEVEL: usize = 16;
pub const VENUE_LEVEL: usize = 24;
/// Flag bits that belong to a record; those above are the transport's.
pub const RECORD_FLAGS: u8 = 63;

const ENCODING: u16 = 0xEB50;

/// A kind of record, by its template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    Instrument = 1,
    Trade = 2,
    AggTrade = 3,
    Quote = 4,
    Snapshot = 5,
    Delta = 6,
    Candle = 7,
    Aggregate = 8,
    Status = 9,
    Gap = 10,
}

/// Every kind, in the order of the templates.
pub const KINDS: [Kind; 10] = [
    Kind::Instrument,
    Kind::Trade,
    Kind::AggTrade,
    Kind::Quote,
    Kind::Snapshot,
    Kind::Delta,
    Kind::Candle,
    Kind::Aggregate,
    Kind::Status,
    Kind::Gap,
];

impl Kind {
    pub fn of(template: u8) -> Option<Kind> {
        KINDS.get(usize::from(template).wrapping_sub(1)).copied()
    }

    /// Place in a table of kinds.
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// Letters of the own fields as Python's struct has them.
    pub fn own(self) -> &'static str {
        match self {
            Kind::Instrument => "qB",
            Kind::Trade => "ddqBB",
            Kind::AggTrade => "ddqqqBB",
            Kind::Quote => "qdddd",
            Kind::Snapshot => "qqII",
            Kind::Delta => "qqq",
            Kind::Candle => "qqddddddqddBB",
            Kind::Aggregate => "qq",
            Kind::Status => "",
            Kind::Gap => "qqqq",
        }
    }

    /// Where the block ends.
    pub fn end(self) -> usize {
        BODY + self.own().bytes().map(width).sum::<usize>()
    }
}

/// Bytes of a field.
pub fn width(letter: u8) -> usize {
    match letter {
        b'q' | b'd' | b'Q' => 8,
        b'I' => 4,
        b'H' => 2,
        _ => 1,
    }
}

/// What a message has beside its record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    pub seq: u64,
    pub instrument: u32,
    pub view: u16,
    pub flags: u8,
    pub state: u8,
}

/// The ten bytes behind a frame's length.
pub type Header = [u8; 10];

/// Where a frame is written to.
pub trait Sink {
    /// Exactly `size` bytes; none where there is no room for them.
    fn room(&mut self, size: usize) -> Option<&mut [u8]>;
}

/// Memory for many frames, which is used again: bytes behind `end` are what was there before.
#[derive(Default)]
pub struct Scratch {
    data: Vec<u8>,
    end: usize,
}

impl Scratch {
    /// Begin again; what is kept of the memory for it is at most `most` bytes.
    pub fn clear(&mut self, most: usize) {
        self.end = 0;
        if self.data.len() > most {
            self.data = Vec::new();
        }
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.data[..self.end]
    }
}

impl Sink for Scratch {
    #[inline(always)]
    fn room(&mut self, size: usize) -> Option<&mut [u8]> {
        let start = self.end;
        self.end += size;
        if self.end > self.data.len() {
            self.data.resize(self.end.max(2 * self.data.len()), 0);
        }
        self.data.get_mut(start..self.end)
    }
}

/// Write everything up to the own fields; `out` has at least `BODY` bytes.
#[inline(always)]
pub fn begin(out: &mut [u8; BODY], size: u32, header: &Header, head: &Head, event: i64, recv: i64, flags: u8) {
    out[..4].copy_from_slice(&size.to_be_bytes());
    out[4..14].copy_from_slice(header);
    out[14..22].copy_from_slice(&head.seq.to_le_bytes());
    out[22..30].copy_from_slice(&event.to_le_bytes());
    out[30..38].copy_from_slice(&recv.to_le_bytes());
    out[38..42].copy_from_slice(&head.instrument.to_le_bytes());
    out[42..44].copy_from_slice(&head.view.to_le_bytes());
    out[44] = head.flags | flags;
    out[45] = head.state;
}

/// What stands behind a block.
#[derive(Clone, Copy)]
pub enum Piece<'a> {
    /// A group of levels of so many bytes.
    Side(&'a [u8], usize),
    Text(&'a [u8]),
}

impl Piece<'_> {
    fn size(&self) -> usize {
        match self {
            Piece::Side(data, _) => 8 + data.len(),
            Piece::Text(data) => 2 + data.len(),
        }
    }

    fn fits(&self) -> bool {
        match self {
            Piece::Side(data, size) => data.len() % size == 0,
            Piece::Text(data) => data.len() <= MAX_TEXT,
        }
    }
}

/// A message that is not sent often, or is long: its own fields, then groups and texts.
pub struct Draft<'a> {
    own: [u8; 128],
    end: usize,
    pieces: [Piece<'a>; 12],
    count: usize,
}

impl<'a> Draft<'a> {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Draft<'a> {
        Draft { own: [0; 128], end: 0, pieces: [Piece::Text(&[]); 12], count: 0 }
    }

    /// Append a field.
    #[inline]
    pub fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.own[self.end..self.end + N].copy_from_slice(&bytes);
        self.end += N;
    }

    /// Append a group or a text; none where it fits no message.
    #[inline]
    pub fn add(&mut self, piece: Piece<'a>) -> Option<()> {
        self.pieces[self.count] = piece;
        self.count += 1;
        piece.fits().then_some(())
    }

    /// Write the frame; none where it is too long or the sink has no room.
    #[inline]
    pub fn finish<S: Sink>(
        &self,
        header: &Header,
        head: &Head,
        event: i64,
        recv: i64,
        flags: u8,
        sink: &mut S,
    ) -> Option<()> {
        let pieces = &self.pieces[..self.count];
        let size = BODY + self.end + pieces.iter().map(Piece::size).sum::<usize>();
        let announced = u32::try_from(size).ok()?;
        let out = sink.room(size)?;
        let (first, mut rest) = out.split_first_chunk_mut::<BODY>()?;
        begin(first, announced, header, head, event, recv, flags);
        rest[..self.end].copy_from_slice(&self.own[..self.end]);
        rest = &mut rest[self.end..];
        for piece in pieces {
            let (prefix, data) = match piece {
                Piece::Side(data, size) => {
                    rest[..4].copy_from_slice(&(*size as u32).to_le_bytes());
                    rest[4..8].copy_from_slice(&((data.len() / size) as u32).to_le_bytes());
                    (8, data)
                }
                Piece::Text(data) => {
                    rest[..2].copy_from_slice(&(data.len() as u16).to_le_bytes());
                    (2, data)
                }
            };
            rest[prefix..prefix + data.len()].copy_from_slice(data);
            rest = &mut rest[prefix + data.len()..];
        }
        Some(())
    }
}

/// Whether a text is exactly a number in digits, as Python writes it.
#[inline(always)]
pub fn is_number(text: &[u8], number: i64) -> bool {
    let (mut digits, negative) = match text {
        [b'-', rest @ ..] => (rest, true),
        _ => (text, false),
    };
    if digits.is_empty() || digits.len() > 19 || negative != (number < 0) || (digits[0] == b'0' && digits.len() > 1) {
        return false;
    }
    let mut left = number.unsigned_abs();
    while let Some((rest, last)) = digits.split_last_chunk::<8>() {
        if eight(*last) != Some(left % 100_000_000) {
            return false;
        }
        left /= 100_000_000;
        digits = rest;
    }
    let mut found = 0;
    for digit in digits {
        let value = digit.wrapping_sub(b'0');
        if value > 9 {
            return false;
        }
        found = found * 10 + u64::from(value);
    }
    found == left
}

/// The value of eight digits, all of them at once: neighbours are joined three times.
#[inline(always)]
fn eight(text: [u8; 8]) -> Option<u64> {
    const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);
    let value = u64::from_le_bytes(text);
    let high = 0xF0F0_F0F0_F0F0_F0F0;
    if value & high != ZEROS || value.wrapping_add(0x0606_0606_0606_0606) & high != ZEROS {
        return None;
    }
    let pairs = (value & !high).wrapping_mul(10 << 8 | 1) >> 8;
    let fours = (pairs & 0x00FF_00FF_00FF_00FF).wrapping_mul(100 << 16 | 1) >> 16;
    Some((fours & 0x0000_FFFF_0000_FFFF).wrapping_mul(10_000 << 32 | 1) >> 32)
}

/// The digits of a number as Python writes them, at the end of `room`.
#[inline]
pub fn digits(number: i64, room: &mut [u8; 20]) -> &[u8] {
    let mut left = number.unsigned_abs();
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        room[at] = b'-';
    }
    &room[at..]
}

/// What stands at the beginning of a frame.
#[derive(PartialEq, Eq, Debug)]
pub enum Next {
    /// A whole frame of so many bytes.
    Whole(usize),
    /// The rest is still to come.
    More,
    /// No frame, or one over the limit.
    Bad,
}

/// Look at where a frame begins.
#[inline]
pub fn next(data: &[u8], limit: usize) -> Next {
    let Some(prefix) = data.first_chunk::<SOFH>() else { return Next::More };
    let size = u32::from_be_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize;
    if u16::from_be_bytes([prefix[4], prefix[5]]) != ENCODING || size < HEADER || size > limit {
        Next::Bad
    } else if size > data.len() {
        Next::More
    } else {
        Next::Whole(size)
    }
}

/// Little-endian fields of a message, each checked against its end.
#[derive(Clone, Copy)]
pub struct Bytes<'a>(pub &'a [u8]);

macro_rules! number {
    ($name:ident, $type:ty, $size:literal) => {
        #[inline(always)]
        pub fn $name(self, at: usize) -> Option<$type> {
            Some(<$type>::from_le_bytes(*self.0.get(at..)?.first_chunk::<$size>()?))
        }
    };
}

impl<'a> Bytes<'a> {
    number!(u16, u16, 2);
    number!(u32, u32, 4);
    number!(u64, u64, 8);
    number!(i64, i64, 8);
    number!(f64, f64, 8);

    #[inline(always)]
    pub fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    /// A text, and where it ends.
    #[inline]
    pub fn text(self, at: usize) -> Option<(&'a [u8], usize)> {
        let size = usize::from(self.u16(at)?);
        let end = at + 2 + size;
        Some((self.0.get(at + 2..end)?, end))
    }

    /// A group of levels of exactly `size` bytes, and where it ends.
    #[inline]
    pub fn side(self, at: usize, size: usize) -> Option<(&'a [u8], usize)> {
        let (stride, count) = (self.u32(at)? as usize, self.u32(at + 4)? as usize);
        if stride != size {
            return None;
        }
        let end = (at + 8).checked_add(count.checked_mul(size)?)?;
        Some((self.0.get(at + 8..end)?, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_from_texts_that_only_look_like_them() {
        for number in [0, 1, -1, 9, 10, 12_345_678, i64::MAX, i64::MIN, i64::MIN + 1] {
            let mut room = [0; 20];
            let text = digits(number, &mut room).to_vec();
            assert_eq!(text, number.to_string().as_bytes());
            assert!(is_number(&text, number));
            assert!(!is_number(&text, number.wrapping_add(1)));
            let other = [b"0", &text[..]].concat();
            assert!(!is_number(&other, number));
        }
        for text in ["1234567/", "/2345678", "1234:678", "12345678\u{7f}", "\u{f0}2345678"] {
            assert!(!is_number(text.as_bytes(), 12_345_678), "{text}");
        }
        assert!(!is_number(b"112345678", 12_345_678) && !is_number(b"12345678", 112_345_678));
        for text in ["", "-", "-0", "+1", " 1", "1 ", "1_0", "99999999999999999999", "18446744073709551617"] {
            assert!(!is_number(text.as_bytes(), 1), "{text}");
        }
        assert!(!is_number(b"-0", 0));
    }

    #[test]
    fn frames_are_found_where_they_end() {
        let frame = [0, 0, 0, 15, 0xEB, 0x50, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        for size in 0..SOFH {
            assert_eq!(next(&frame[..size], 100), Next::More);
        }
        assert_eq!(next(&frame[..14], 100), Next::More);
        assert_eq!(next(&frame, 100), Next::Whole(15));
        assert_eq!(next(&frame, 14), Next::Bad);
        assert_eq!(next(&[0, 0, 0, 13, 0xEB, 0x50], 100), Next::Bad);
        assert_eq!(next(&[0, 0, 0, 15, 0x50, 0xEB], 100), Next::Bad);
        assert_eq!(next(&[0xFF; 6], usize::MAX), Next::Bad);
    }

    #[test]
    fn a_draft_writes_what_its_pieces_say() {
        let mut draft = Draft::new();
        draft.put(7_i64.to_le_bytes());
        draft.add(Piece::Side(&[1; 32], LEVEL)).unwrap();
        draft.add(Piece::Text(b"abc")).unwrap();
        let mut scratch = Scratch::default();
        scratch.room(1).unwrap()[0] = 9;
        let head = Head { seq: 1, instrument: 2, view: 3, flags: 64, state: 4 };
        draft.finish(&[5; 10], &head, -1, 6, 8, &mut scratch).unwrap();
        let out = scratch.bytes();
        assert_eq!(out.len(), 1 + BODY + 8 + 40 + 5);
        let bytes = Bytes(&out[1..]);
        assert_eq!(out[1..5], (BODY as u32 + 53).to_be_bytes());
        assert_eq!((bytes.u64(14), bytes.i64(22), bytes.i64(30)), (Some(1), Some(-1), Some(6)));
        assert_eq!((bytes.u32(38), bytes.u16(42), bytes.u8(44), bytes.u8(45)), (Some(2), Some(3), Some(72), Some(4)));
        let (side, end) = bytes.side(BODY + 8, LEVEL).unwrap();
        assert_eq!((side, bytes.text(end)), (&[1; 32][..], Some((&b"abc"[..], out.len() - 1))));
        assert!(bytes.side(BODY + 8, VENUE_LEVEL).is_none());
        assert!(Bytes(&out[1..out.len() - 1]).text(end).is_none());
        assert!(draft.add(Piece::Side(&[0; 17], LEVEL)).is_none());
        assert!(draft.add(Piece::Text(&[0; MAX_TEXT + 1])).is_none());
    }

    #[test]
    fn a_group_that_claims_too_much_is_none() {
        let mut data = vec![0; 64];
        data[..8].copy_from_slice(&[16, 0, 0, 0, 255, 255, 255, 255]);
        assert!(Bytes(&data).side(0, LEVEL).is_none());
        assert!(Bytes(&data).side(usize::MAX - 3, LEVEL).is_none());
    }

    #[test]
    fn blocks_have_the_lengths_of_the_schema() {
        let ends: Vec<usize> = KINDS.iter().map(|kind| kind.end() - HEADER).collect();
        assert_eq!(ends, [41, 58, 74, 72, 56, 56, 122, 48, 32, 64]);
        assert_eq!(Kind::of(0), None);
        assert_eq!(Kind::of(11), None);
        assert!(KINDS.iter().all(|kind| Kind::of(*kind as u8) == Some(*kind)));
    }
}
