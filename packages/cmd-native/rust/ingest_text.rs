//! Where the cells of a CSV text end: 64 bytes at a time with SSE2, or 8 at a time anywhere else.

/// Ends of cells in a piece of text that ends with a line end.
#[derive(Default)]
pub struct Cells {
    /// One position before the first cell, then the position behind every cell: of a delimiter or a line end.
    pub ends: Vec<u32>,
    /// How many of them are line ends.
    pub lines: usize,
    /// Whether there is a carriage return.
    pub returns: bool,
    /// Whether a byte is not ASCII.
    pub high: bool,
}

impl Cells {
    /// Find the cells of `buffer[start..stop]`. `start` is at least 1, positions are below 2^32.
    pub fn find(&mut self, buffer: &[u8], start: usize, stop: usize, delimiter: u8) {
        self.begin(start, stop);
        #[cfg(target_arch = "x86_64")]
        let start = self.blocks(buffer, start, stop, delimiter);
        self.words(buffer, start, stop, delimiter);
    }

    fn begin(&mut self, start: usize, stop: usize) {
        self.ends.clear();
        self.ends.reserve((stop - start) / 8 + 64);
        self.ends.push((start - 1) as u32);
        self.lines = 0;
        self.returns = false;
        self.high = false;
    }

    /// Whole blocks of 64 bytes; returns where they end.
    #[cfg(target_arch = "x86_64")]
    fn blocks(&mut self, buffer: &[u8], start: usize, stop: usize, delimiter: u8) -> usize {
        use core::arch::x86_64::{
            __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
        };
        let text = &buffer[start..stop];
        let mut at = start;
        let (mut returns, mut high) = (0, 0);
        // SAFETY: SSE2 is part of every x86-64.
        let (cut, line, cr) =
            unsafe { (_mm_set1_epi8(delimiter as i8), _mm_set1_epi8(b'\n' as i8), _mm_set1_epi8(b'\r' as i8)) };
        for block in text.chunks_exact(64) {
            let (mut both, mut lines) = (0_u64, 0_u64);
            for (i, part) in block.chunks_exact(16).enumerate() {
                // SAFETY: SSE2 as above; the load is unaligned and of the 16 bytes of `part`.
                unsafe {
                    let bytes = _mm_loadu_si128(part.as_ptr().cast::<__m128i>());
                    let is_line = _mm_cmpeq_epi8(bytes, line);
                    let ends = _mm_or_si128(is_line, _mm_cmpeq_epi8(bytes, cut));
                    lines |= u64::from(_mm_movemask_epi8(is_line) as u32) << (16 * i);
                    both |= u64::from(_mm_movemask_epi8(ends) as u32) << (16 * i);
                    // The sign of a byte tells that it is not ASCII.
                    high |= _mm_movemask_epi8(bytes);
                    returns |= _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, cr));
                }
            }
            self.lines += lines.count_ones() as usize;
            let base = at as u32;
            self.ends.reserve(64);
            while both != 0 {
                self.ends.push(base + both.trailing_zeros());
                both &= both - 1;
            }
            at += 64;
        }
        self.returns |= returns != 0;
        self.high |= high != 0;
        at
    }

    /// The same byte by byte.
    fn words(&mut self, buffer: &[u8], start: usize, stop: usize, delimiter: u8) {
        for (i, &byte) in buffer[start..stop].iter().enumerate() {
            if byte == delimiter || byte == b'\n' {
                self.ends.push((start + i) as u32);
                self.lines += usize::from(byte == b'\n');
            }
            self.returns |= byte == b'\r';
            self.high |= byte >= 0x80;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cells;

    #[test]
    fn blocks_and_bytes_find_the_same() {
        let mut seed = 7_u64;
        for length in 1..if cfg!(miri) { 140 } else { 300 } {
            let mut text = vec![0_u8; length + 1];
            for byte in &mut text {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = b",\n1,2\r3\xe9ab;45\n\x80,"[(seed >> 33) as usize % 16];
            }
            let (mut fast, mut plain) = (Cells::default(), Cells::default());
            fast.find(&text, 1, text.len(), b',');
            plain.begin(1, text.len());
            plain.words(&text, 1, text.len(), b',');
            assert_eq!(fast.ends, plain.ends);
            assert_eq!((fast.lines, fast.returns, fast.high), (plain.lines, plain.returns, plain.high));
        }
    }
}
