//! The scanner's numbers by vector instructions of x86-64; `scan::Scalar` is the twin for every other CPU.

use std::arch::x86_64::{
    __m128i, _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_cvtsi128_si64, _mm_loadu_si128, _mm_madd_epi16, _mm_maddubs_epi16,
    _mm_movemask_epi8, _mm_or_si128, _mm_packs_epi32, _mm_set_epi8, _mm_set_epi16, _mm_set1_epi8, _mm_setzero_si128,
    _mm_shuffle_epi8, _mm_sub_epi8, _mm_subs_epu8,
};

use crate::scan::{Decimal, Digits, NONE};

/// The proof that this CPU has the instructions (all of x86-64's third level, such as every Intel and AMD since 2015).
/// Fast only where everything is inlined into a function with the same `#[target_feature]`, as in `depth::decode`.
#[derive(Clone, Copy)]
pub struct Vector(());

impl Vector {
    /// `None` on a CPU without the instructions.
    #[inline]
    pub fn detect() -> Option<Vector> {
        let all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt");
        all.then_some(Vector(()))
    }
}

/// For a point at `dot` and `end + 1` characters that count: which of them go where, so that the digits without the
/// point stand at the right end of 16 bytes, zeros before them (an index above 127 gives zero).
static ORDER: [[[u8; 16]; 16]; 16] = {
    let mut table = [[[0x80; 16]; 16]; 16];
    let mut dot = 0;
    while dot < 16 {
        let mut end = 0;
        while end < 16 {
            let mut to = 16;
            let mut from = end + 1;
            while from > 0 {
                from -= 1;
                if from != dot {
                    to -= 1;
                    table[dot][end][to] = from as u8;
                }
            }
            end += 1;
        }
        dot += 1;
    }
    table
};

#[inline(always)]
fn load(chunk: &[u8; 16]) -> __m128i {
    // SAFETY: 16 readable bytes; the instruction asks for no alignment and is of every x86-64.
    unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) }
}

/// The number that the digits up to `last` make, without the one at `dot`; both are below 16.
///
/// # Safety
///
/// The CPU must have SSSE3.
#[inline(always)]
unsafe fn line_up(values: __m128i, dot: u32, last: u32) -> u64 {
    let order = load(&ORDER[(dot & 15) as usize][(last & 15) as usize]);
    // SAFETY: the caller's promise; all arguments are values.
    unsafe {
        let lined = _mm_shuffle_epi8(values, order);
        let pairs = _mm_maddubs_epi16(lined, _mm_set_epi8(1, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1, 10));
        let fours = _mm_madd_epi16(pairs, _mm_set_epi16(1, 100, 1, 100, 1, 100, 1, 100));
        let packed = _mm_packs_epi32(fours, fours);
        let eights = _mm_madd_epi16(packed, _mm_set_epi16(1, 10_000, 1, 10_000, 1, 10_000, 1, 10_000));
        let both = _mm_cvtsi128_si64(eights) as u64;
        (both & 0xffff_ffff) * 100_000_000 + (both >> 32)
    }
}

impl Vector {
    /// The number that begins the chunk; `SHORT`: without zeros at the end of its fraction.
    #[inline(always)]
    fn number<const SHORT: bool>(self, chunk: &[u8; 16]) -> Decimal {
        // SAFETY: the instructions are there, or `self` would not be; all arguments are values.
        unsafe {
            let text = load(chunk);
            let zero = _mm_setzero_si128();
            let values = _mm_sub_epi8(text, _mm_set1_epi8(b'0' as i8));
            let digits = _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_subs_epu8(values, _mm_set1_epi8(9)), zero)) as u32;
            let dots = _mm_movemask_epi8(_mm_cmpeq_epi8(text, _mm_set1_epi8(b'.' as i8))) as u32;
            // A second point ends the number like any other character.
            let length = (!(digits | dots & dots.wrapping_neg())).trailing_zeros();
            if length >= 16 {
                return NONE;
            }
            // A whole number is one with its point right behind it.
            let dot = (dots | 1 << length).trailing_zeros();
            if dot == 0 || dot + 1 == length || (dot > 1 && chunk[0] == b'0') {
                return NONE;
            }
            let last = if SHORT {
                let nonzero = !(_mm_movemask_epi8(_mm_cmpeq_epi8(values, zero)) as u32);
                31 - (nonzero & ((1 << length) - 1) | 1 << dot).leading_zeros()
            } else {
                (length - 1).max(dot)
            };
            let mantissa = line_up(values, dot, last);
            Decimal { mantissa, fraction: last - dot, length }
        }
    }
}

impl Digits for Vector {
    #[inline(always)]
    fn decimal(self, chunk: &[u8; 16]) -> Decimal {
        self.number::<true>(chunk)
    }

    #[inline(always)]
    fn loose(self, chunk: &[u8; 16]) -> Decimal {
        self.number::<false>(chunk)
    }

    #[inline(always)]
    fn whole(self, chunk: &[u8; 16]) -> Option<(u64, usize)> {
        // SAFETY: the instructions are there, or `self` would not be; all arguments are values.
        unsafe {
            let values = _mm_sub_epi8(load(chunk), _mm_set1_epi8(b'0' as i8));
            let odd = _mm_subs_epu8(values, _mm_set1_epi8(9));
            let digits = _mm_movemask_epi8(_mm_cmpeq_epi8(odd, _mm_setzero_si128())) as u32;
            let length = (!digits).trailing_zeros();
            if length.wrapping_sub(1) >= 15 || (chunk[0] == b'0' && length > 1) {
                return None;
            }
            Some((line_up(values, length, length), length as usize))
        }
    }

    #[inline(always)]
    fn special(self, chunk: &[u8; 16]) -> u32 {
        let text = load(chunk);
        // SAFETY: instructions of every x86-64. As signed bytes, what is not ASCII is below zero.
        unsafe {
            let quote = _mm_cmpeq_epi8(text, _mm_set1_epi8(b'"' as i8));
            let slash = _mm_cmpeq_epi8(text, _mm_set1_epi8(b'\\' as i8));
            let odd = _mm_cmplt_epi8(text, _mm_set1_epi8(0x20));
            _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, slash), odd)) as u32
        }
    }
}
