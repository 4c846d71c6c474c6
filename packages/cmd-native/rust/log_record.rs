//! Slots of a ring: where the next record goes, its bytes, its checksum. Knows no Python.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::log_clock::Clock;

/// What a field is; `Text` holds at most so many bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    F8,
    I1,
    I2,
    I4,
    I8,
    U1,
    U2,
    U4,
    U8,
    Bool,
    Text(u16),
}

pub const MAX_FIELDS: usize = 32;
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
const CUT: &[u8] = "…".as_bytes();

impl Kind {
    /// None for no kind, and for texts too small to hold the mark of what was cut.
    pub fn parse(name: &str, limit: u16) -> Option<Kind> {
        Some(match name {
            _ if limit > 0 && usize::from(limit) < CUT.len() => return None,
            _ if limit > 0 => Kind::Text(limit),
            "f8" => Kind::F8,
            "i1" => Kind::I1,
            "i2" => Kind::I2,
            "i4" => Kind::I4,
            "i8" | "ts" => Kind::I8,
            "u1" => Kind::U1,
            "u2" => Kind::U2,
            "u4" | "sym" => Kind::U4,
            "u8" => Kind::U8,
            "bool" => Kind::Bool,
            _ => return None,
        })
    }

    pub fn size(self) -> usize {
        match self {
            Kind::I1 | Kind::U1 | Kind::Bool => 1,
            Kind::I2 | Kind::U2 => 2,
            Kind::I4 | Kind::U4 => 4,
            Kind::F8 | Kind::I8 | Kind::U8 => 8,
            Kind::Text(limit) => usize::from(limit) + 2,
        }
    }
}

/// One value, converted: the bits of a number, or where a text lies.
#[derive(Clone, Copy)]
pub union Word {
    pub bits: u64,
    pub text: (*const u8, usize),
}

/// A ring over memory that somebody else owns and empties.
///
/// One thread at a time may call `write`: in Python the holder of the GIL.
pub struct Ring {
    base: *mut u8,
    slot: usize,
    mask: u64,
    clock: Clock,
    head: AtomicU64,
    limit: AtomicU64, // the position that is not free
}

// SAFETY: the memory is shared by its nature; `write` asks for one caller at a time, all else is atomic.
unsafe impl Send for Ring {}
unsafe impl Sync for Ring {}

impl Ring {
    /// # Safety
    /// `base` must point to `slot * count` writable zeroed bytes, aligned to 8, for as long as the ring is used;
    /// `slot` is a multiple of 8 and at least 16, `count` a power of two.
    pub unsafe fn new(base: *mut u8, slot: usize, count: u64, clock: Clock) -> Ring {
        assert!(slot.is_multiple_of(8) && slot >= 16 && count.is_power_of_two() && (base as usize).is_multiple_of(8));
        Ring { base, slot, mask: count - 1, clock, head: AtomicU64::new(0), limit: AtomicU64::new(count) }
    }

    pub fn slot(&self) -> usize {
        self.slot
    }

    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Positions below `limit` may be written.
    pub fn free_to(&self, limit: u64) {
        self.limit.store(limit, Ordering::Release);
    }

    #[inline(always)]
    pub fn full(&self) -> bool {
        self.head.load(Ordering::Relaxed) == self.limit.load(Ordering::Acquire)
    }

    /// Writes a record into the next slot.
    ///
    /// # Safety
    /// No other thread is in here, the ring is not `full`, `kinds` and `words` agree, texts can be read, and the
    /// fields together with stamp and end fit into a slot.
    #[inline(always)]
    pub unsafe fn write(&self, number: u32, kinds: &[Kind], words: &[Word]) {
        unsafe {
            let head = self.head.load(Ordering::Relaxed);
            let start = self.base.add((head & self.mask) as usize * self.slot);
            start.cast::<u64>().write(self.clock.stamp().to_le());
            let mut at = start.add(8);
            for (kind, word) in kinds.iter().zip(words) {
                at = put(at, *kind, *word);
            }
            let end = start.add(self.slot - 8);
            let words = std::slice::from_raw_parts(start.cast::<u64>(), self.slot / 8 - 1);
            end.cast::<u32>().write(checksum(number, words).to_le());
            // The number says that the record is complete: a process killed before it leaves an empty slot.
            (*end.add(4).cast::<AtomicU32>()).store(number.to_le(), Ordering::Release);
            self.head.store(head + 1, Ordering::Release);
        }
    }
}

/// Checksum of a slot's words but the last: each times an odd number of its own, so that no product waits for another.
#[inline(always)]
fn checksum(number: u32, words: &[u64]) -> u32 {
    let mut factor = GOLDEN;
    let mut sum = u64::from(number);
    for word in words {
        sum = sum.wrapping_add(u64::from_le(*word).wrapping_mul(factor));
        factor = factor.wrapping_add(GOLDEN.wrapping_mul(2));
    }
    let folded = (sum ^ (sum >> 32)).wrapping_mul(GOLDEN) >> 32;
    if folded == 0 { 1 } else { folded as u32 }
}

/// Writes one field and returns where the next one begins.
///
/// # Safety
/// The field's size must fit at `at`, and a text must be readable.
#[inline(always)]
unsafe fn put(at: *mut u8, kind: Kind, word: Word) -> *mut u8 {
    unsafe {
        match kind {
            Kind::F8 | Kind::I8 | Kind::U8 => at.cast::<u64>().write_unaligned(word.bits.to_le()),
            Kind::I4 | Kind::U4 => at.cast::<u32>().write_unaligned((word.bits as u32).to_le()),
            Kind::I2 | Kind::U2 => at.cast::<u16>().write_unaligned((word.bits as u16).to_le()),
            Kind::I1 | Kind::U1 | Kind::Bool => at.write(word.bits as u8),
            Kind::Text(limit) => {
                let (data, size) = word.text;
                let text = std::slice::from_raw_parts(data, size);
                let room = std::slice::from_raw_parts_mut(at.add(2), usize::from(limit));
                let used = cut(text, room) as u16;
                at.cast::<u16>().write_unaligned(used.to_le());
            }
        }
        at.add(kind.size())
    }
}

/// Copies a text, or as many whole characters as leave room for the mark that something is missing.
fn cut(text: &[u8], room: &mut [u8]) -> usize {
    if text.len() <= room.len() {
        room[..text.len()].copy_from_slice(text);
        return text.len();
    }
    let mut size = room.len() - CUT.len();
    while size > 0 && text[size] & 0xC0 == 0x80 {
        size -= 1;
    }
    room[..size].copy_from_slice(&text[..size]);
    room[size..size + CUT.len()].copy_from_slice(CUT);
    size + CUT.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocations::allocations;

    fn ring(memory: &mut [u64], slot: usize) -> Ring {
        let count = (memory.len() * 8 / slot) as u64;
        // SAFETY: the tests keep the memory longer than the ring.
        unsafe { Ring::new(memory.as_mut_ptr().cast(), slot, count, Clock::best()) }
    }

    #[test]
    fn a_record_is_stamp_fields_checksum_number() {
        let mut memory = vec![0_u64; 16];
        let ring = ring(&mut memory, 64);
        let kinds = [Kind::F8, Kind::U1, Kind::I2, Kind::Text(6)];
        let text = "abc";
        let words = [
            Word { bits: 1.5_f64.to_bits() },
            Word { bits: 200 },
            Word { bits: (-2_i64) as u64 },
            Word { text: (text.as_ptr(), text.len()) },
        ];
        unsafe { ring.write(17, &kinds, &words) };
        let bytes: Vec<u8> = memory.iter().flat_map(|w| w.to_ne_bytes()).collect();
        assert_eq!(&bytes[8..16], 1.5_f64.to_le_bytes());
        assert_eq!(&bytes[16..27], [200, 254, 255, 3, 0, b'a', b'b', b'c', 0, 0, 0]);
        assert_eq!(&bytes[60..64], 17_u32.to_le_bytes());
        assert_ne!(&bytes[56..60], [0; 4]);
        assert_eq!(ring.head(), 1);
        assert!(!ring.full());
        unsafe { ring.write(17, &kinds, &words) };
        assert!(ring.full());
        ring.free_to(3);
        assert!(!ring.full());
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let mut room = [0_u8; 8];
        assert_eq!(cut("12345678".as_bytes(), &mut room), 8);
        assert_eq!(cut("123456789".as_bytes(), &mut room), 8);
        assert_eq!(&room, "12345…".as_bytes());
        assert_eq!(cut("1234äöü".as_bytes(), &mut room), 7);
        assert_eq!(&room[..7], "1234…".as_bytes());
        let mut small = [0_u8; 4];
        assert_eq!(cut("😀😀".as_bytes(), &mut small), 3);
    }

    #[test]
    fn writing_allocates_nothing() {
        let mut memory = vec![0_u64; 64 * 1024];
        let ring = ring(&mut memory, 512);
        let kinds = [Kind::F8, Kind::F8, Kind::I8, Kind::I8, Kind::Text(200)];
        let text = "x".repeat(300);
        let word = Word { bits: 7 };
        let words = [word, word, word, word, Word { text: (text.as_ptr(), text.len()) }];
        let before = allocations();
        let count = if cfg!(miri) { 200 } else { 100_000 };
        for n in 0..count {
            if ring.full() {
                ring.free_to(n + 1024);
            }
            unsafe { ring.write(16, &kinds, &words) };
        }
        assert_eq!(allocations(), before);
        assert_eq!(ring.head(), count);
    }
}
