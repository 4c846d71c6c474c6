//! A packed CSV to batches of typed columns: the text is inflated into a buffer that stays in the cache, parsed there
//! and forgotten, so memory does not grow with the file.

use std::ffi::CString;

use crate::ingest_cell::PAD;
use crate::ingest_columns::{Columns, Done, Kind};
use crate::ingest_source::{Source, Trouble};

/// The longest line; the pure way has the same limit.
const LINE: usize = 1 << 16;
/// Bytes of text that are inflated at once.
const PIECE: usize = 128 << 10;
/// Bytes of text in one batch.
const BATCH: usize = 4 << 20;

/// The columns of a batch.
pub type Table = (usize, Vec<(CString, Done)>);

/// What comes next of a file.
pub enum Next {
    /// Rows.
    Batch(Table),
    /// Whole lines that are not surely right: the pure way parses them, or says what is wrong.
    Odd(Vec<u8>),
    /// All rows were given, and the file is proven whole.
    End,
}

/// The rows of one file.
pub struct Reader {
    source: Source,
    buffer: Vec<u8>, // the text to come is in `begin..end`
    begin: usize,
    end: usize,
    names: Vec<CString>,
    columns: Option<Columns>,
    held: usize, // bytes of text in the columns
    odd: Option<Vec<u8>>,
    piece: usize,
    batch: usize,
}

impl Reader {
    /// A reader of `piece` bytes at once and about `batch` in a batch; 0 is what is best.
    pub fn new(source: Source, piece: usize, batch: usize) -> Reader {
        let piece = if piece == 0 { PIECE } else { piece.min(1 << 26) }; // positions have 32 bits
        let batch = if batch == 0 { BATCH } else { batch.min(1 << 26) };
        // A line end that the last line may lack has its place, too.
        let buffer = vec![0; PAD + LINE + piece + 1];
        Reader {
            source,
            buffer,
            begin: PAD,
            end: PAD,
            names: Vec::new(),
            columns: None,
            held: 0,
            odd: None,
            piece,
            batch,
        }
    }

    /// Put the text that is left to the begin of the buffer and read more.
    fn fill(&mut self) -> Result<(), Trouble> {
        self.buffer.copy_within(self.begin..self.end, PAD);
        self.end = PAD + self.end - self.begin;
        self.begin = PAD;
        let room = (self.end + self.piece).min(self.buffer.len() - 1);
        self.end += self.source.read(&mut self.buffer[self.end..room])?;
        Ok(())
    }

    /// The first line without its end.
    pub fn head(&mut self) -> Result<Vec<u8>, Trouble> {
        loop {
            let text = &self.buffer[self.begin..self.end];
            if let Some(at) = text.iter().take(LINE).position(|byte| *byte == b'\n') {
                return Ok(text[..at].to_vec());
            }
            if text.len() > LINE || (text.is_empty() && self.source.ended()) {
                return Err("no line at the begin".into());
            }
            if self.source.ended() {
                return Ok(text.to_vec());
            }
            self.fill()?;
        }
    }

    /// Say what the lines hold, and whether the first is a header.
    pub fn start(&mut self, header: bool, delimiter: u8, names: Vec<CString>, kinds: &[Kind]) -> Result<(), Trouble> {
        if kinds.is_empty() || names.len() != kinds.len() || self.columns.is_some() {
            return Err("not the columns of a file".into());
        }
        if header {
            self.begin += self.head()?.len();
            self.begin += usize::from(self.begin < self.end);
        }
        self.names = names;
        self.columns = Some(Columns::new(kinds, delimiter));
        Ok(())
    }

    /// The next rows.
    pub fn rows(&mut self) -> Result<Next, Trouble> {
        if let Some(odd) = self.odd.take() {
            return Ok(Next::Odd(odd));
        }
        loop {
            let Some(columns) = &mut self.columns else {
                return Err("the columns are not known yet".into());
            };
            let text = &self.buffer[self.begin..self.end];
            let mut length = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let mut stop = self.begin + length;
            if self.source.ended() && length < text.len() {
                self.buffer[self.end] = b'\n';
                length = self.end - self.begin;
                stop = self.end + 1;
            }
            if length > 0 {
                let begin = self.begin;
                self.begin += length;
                if columns.add(&self.buffer, begin, stop) {
                    self.held += length;
                } else {
                    let odd = self.buffer[begin..begin + length].to_vec();
                    if columns.rows() == 0 {
                        return Ok(Next::Odd(odd));
                    }
                    self.odd = Some(odd);
                }
            } else if self.source.ended() {
                return Ok(if columns.rows() == 0 { Next::End } else { self.take() });
            } else if self.end - self.begin > LINE {
                return Err("a long line".into());
            }
            if self.held >= self.batch || self.odd.is_some() {
                return Ok(self.take());
            }
            self.fill()?;
        }
    }

    fn take(&mut self) -> Next {
        self.held = 0;
        let Some(columns) = &mut self.columns else {
            return Next::End;
        };
        let (rows, values) = columns.take();
        Next::Batch((rows, self.names.iter().cloned().zip(values).collect()))
    }
}
