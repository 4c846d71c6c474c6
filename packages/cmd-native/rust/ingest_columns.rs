//! Typed columns that grow by pieces of CSV text: a piece counts wholly or not at all.

use crate::ingest_cell::{float, int, truth};
use crate::ingest_text::Cells;

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Int,
    Float,
    Bool,
    Text,
}

impl Kind {
    /// By the name that `cmd_common.archive.CsvColumn` gives it.
    pub fn parse(name: &str) -> Option<Kind> {
        Some(match name {
            "int64" => Kind::Int,
            "float64" => Kind::Float,
            "bool" => Kind::Bool,
            "string" => Kind::Text,
            _ => return None,
        })
    }
}

/// Bits in the order of Arrow: the first is the lowest of the first byte.
#[derive(Default)]
pub struct Bits {
    whole: Vec<u8>,
    word: u64,
    count: u32,
}

impl Bits {
    #[inline(always)]
    fn push(&mut self, bit: bool) {
        self.word |= u64::from(bit) << self.count;
        self.count += 1;
        if self.count == 64 {
            self.whole.extend_from_slice(&self.word.to_le_bytes());
            self.word = 0;
            self.count = 0;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.whole.extend_from_slice(&self.word.to_le_bytes());
        self.whole
    }
}

/// The values of one column so far.
pub enum Values {
    Int(Vec<i64>),
    Float(Vec<f64>),
    Bool(Bits),
    Text(Vec<i32>, Vec<u8>),
}

/// The values of one column of a batch, as Arrow has them.
pub enum Done {
    Int(Vec<i64>),
    Float(Vec<f64>),
    Bool(Vec<u8>),
    Text(Vec<i32>, Vec<u8>),
}

impl Values {
    fn new(kind: Kind, rows: usize, text: usize) -> Values {
        match kind {
            Kind::Int => Values::Int(Vec::with_capacity(rows)),
            Kind::Float => Values::Float(Vec::with_capacity(rows)),
            Kind::Bool => Values::Bool(Bits { whole: Vec::with_capacity(rows / 8 + 16), ..Bits::default() }),
            Kind::Text => {
                let mut offsets = Vec::with_capacity(rows + 1);
                offsets.push(0);
                Values::Text(offsets, Vec::with_capacity(text))
            }
        }
    }

    fn done(self) -> Done {
        match self {
            Values::Int(values) => Done::Int(values),
            Values::Float(values) => Done::Float(values),
            Values::Bool(bits) => Done::Bool(bits.finish()),
            Values::Text(offsets, data) => Done::Text(offsets, data),
        }
    }
}

struct Column {
    kind: Kind,
    places: usize, // decimals of the last number
    values: Values,
}

/// All columns of a table.
pub struct Columns {
    delimiter: u8,
    cells: Cells,
    columns: Vec<Column>,
    rows: usize,
}

impl Columns {
    /// Empty columns; `kinds` is not empty.
    pub fn new(kinds: &[Kind], delimiter: u8) -> Columns {
        let column = |&kind: &Kind| Column { kind, places: 8, values: Values::new(kind, 0, 0) };
        Columns { delimiter, cells: Cells::default(), columns: kinds.iter().map(column).collect(), rows: 0 }
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Add the lines `buffer[start..stop]`, the last of which ends with a line end. False: something in them is not
    /// surely right; nothing was added. `start` is not before `ingest_cell::PAD`.
    pub fn add(&mut self, buffer: &[u8], start: usize, stop: usize) -> bool {
        self.cells.find(buffer, start, stop, self.delimiter);
        let width = self.columns.len();
        let Some(ends) = lines(&self.cells, buffer, start, stop, width) else {
            return false;
        };
        let rows = self.cells.lines;
        let mut whole = true;
        let mut taken = 0;
        for (at, column) in self.columns.iter_mut().enumerate() {
            let returns = self.cells.returns && at + 1 == width;
            whole = column.add(buffer, &ends[at..], rows, width, returns, self.cells.high);
            taken = at + 1;
            if !whole {
                break;
            }
        }
        if whole {
            self.rows += rows;
        } else {
            for column in &mut self.columns[..taken] {
                column.cut(self.rows);
            }
        }
        whole
    }

    /// Take the rows so far; what follows begins empty.
    pub fn take(&mut self) -> (usize, Vec<Done>) {
        let rows = std::mem::take(&mut self.rows);
        let likely = rows + rows / 16;
        let done = |column: &mut Column| {
            let text = if let Values::Text(_, data) = &column.values { data.len() + data.len() / 16 } else { 0 };
            std::mem::replace(&mut column.values, Values::new(column.kind, likely, text)).done()
        };
        (rows, self.columns.iter_mut().map(done).collect())
    }
}

/// The ends of the cells when every line has `width` of them and ends as it must, else None.
fn lines<'a>(cells: &'a Cells, buffer: &[u8], start: usize, stop: usize, width: usize) -> Option<&'a [u32]> {
    let ends = &cells.ends[..];
    if ends.len() - 1 != cells.lines * width {
        return None;
    }
    // As many line ends as lines, each behind the last cell of a line: so no other end is one.
    let mut last = ends[width..].iter().step_by(width);
    if !last.all(|&end| buffer[end as usize] == b'\n') {
        return None;
    }
    if cells.returns {
        let all = buffer[start..stop].iter().filter(|byte| **byte == b'\r').count();
        let right = ends[width..].iter().step_by(width).filter(|end| buffer[**end as usize - 1] == b'\r').count();
        if all != right {
            return None;
        }
    }
    // An empty line is an empty cell to some and nothing to others.
    if width == 1 && ends.windows(2).any(|pair| pair[1] - pair[0] <= 1 + u32::from(cells.returns)) {
        return None;
    }
    Some(ends)
}

impl Column {
    /// Add a cell of each of `rows` lines; false where one is odd. `ends[0]` is before the first.
    fn add(&mut self, buffer: &[u8], ends: &[u32], rows: usize, width: usize, returns: bool, high: bool) -> bool {
        if returns {
            let span = |start: usize, end: usize| (start, end - usize::from(end > start && buffer[end - 1] == b'\r'));
            self.take(buffer, ends, rows, width, high, span)
        } else {
            self.take(buffer, ends, rows, width, high, |start, end| (start, end))
        }
    }

    #[inline(always)]
    fn take(
        &mut self,
        buffer: &[u8],
        ends: &[u32],
        rows: usize,
        width: usize,
        high: bool,
        span: impl Fn(usize, usize) -> (usize, usize),
    ) -> bool {
        let mut whole = true;
        let cells = (0..rows).map(|row| {
            let at = row * width;
            span(ends[at] as usize + 1, ends[at + 1] as usize)
        });
        match &mut self.values {
            Values::Int(values) => values.extend(cells.map(|(start, end)| {
                let value = int(buffer, start, end);
                whole &= value.is_some();
                value.unwrap_or(0)
            })),
            Values::Float(values) => {
                let mut places = self.places;
                values.extend(cells.map(|(start, end)| {
                    let value = float(buffer, start, end, &mut places);
                    whole &= value.is_some();
                    value.unwrap_or(0.0)
                }));
                self.places = places;
            }
            Values::Bool(bits) => cells.for_each(|(start, end)| {
                let value = truth(buffer, start, end);
                whole &= value.is_some();
                bits.push(value.unwrap_or(false));
            }),
            Values::Text(offsets, data) => {
                offsets.reserve(rows);
                for (start, end) in cells {
                    let cell = &buffer[start..end];
                    whole &= !high || std::str::from_utf8(cell).is_ok();
                    data.extend_from_slice(cell);
                    offsets.push(data.len() as i32);
                }
            }
        }
        whole
    }

    /// Forget all but the first `rows`.
    fn cut(&mut self, rows: usize) {
        match &mut self.values {
            Values::Int(values) => values.truncate(rows),
            Values::Float(values) => values.truncate(rows),
            Values::Bool(bits) => {
                let kept = rows / 64 * 8;
                if let Some(word) = bits.whole.get(kept..kept + 8) {
                    bits.word = u64::from_le_bytes(word.try_into().unwrap_or_default());
                }
                bits.whole.truncate(kept);
                bits.count = (rows % 64) as u32;
                bits.word &= (1 << bits.count) - 1;
            }
            Values::Text(offsets, data) => {
                offsets.truncate(rows + 1);
                data.truncate(offsets.last().map_or(0, |end| *end as usize));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest_cell::PAD;

    const KINDS: [Kind; 4] = [Kind::Int, Kind::Float, Kind::Bool, Kind::Text];

    fn add(columns: &mut Columns, text: &str) -> bool {
        let mut buffer = vec![b'1'; PAD];
        buffer.extend_from_slice(text.as_bytes());
        columns.add(&buffer, PAD, buffer.len())
    }

    #[test]
    fn an_odd_piece_leaves_nothing_behind() {
        let good = "1,1.5,True,one\n-2,0.25,false,\n";
        for odd in
            ["x,1,True,a\n", "1,x,True,a\n", "1,1,tru,a\n", "1,1,True\n", "1,1,True,a,b\n", "1,1,True,a\rb\n", "\n"]
        {
            let mut columns = Columns::new(&KINDS, b',');
            for n in 1..=40 {
                assert!(add(&mut columns, good));
                assert!(!add(&mut columns, &format!("{good}{good}{odd}")), "{odd}");
                assert_eq!(columns.rows(), 2 * n);
            }
            let (rows, done) = columns.take();
            assert_eq!(rows, 80);
            let [Done::Int(ints), Done::Float(floats), Done::Bool(bits), Done::Text(offsets, data)] = &done[..] else {
                panic!("the kinds");
            };
            assert_eq!(ints, &[1, -2].repeat(40));
            assert_eq!(floats, &[1.5, 0.25].repeat(40));
            assert!((0..80).all(|i| (bits[i / 8] >> (i % 8)) & 1 == 1 - i as u8 % 2));
            assert_eq!((offsets.len(), data), (81, &b"one".repeat(40)));
        }
    }

    #[test]
    fn line_ends_with_returns() {
        let mut columns = Columns::new(&KINDS, b',');
        assert!(add(&mut columns, "1,1.5,True,one\r\n2,2.5,True,\r\n3,1,TRUE,x\n"));
        assert!(!add(&mut columns, "1,1.5,True,one\r\r\n"));
        assert!(!add(&mut columns, "1,1.5\r,True,one\n"));
        let (rows, done) = columns.take();
        let Some(Done::Text(offsets, data)) = done.last() else { panic!("text") };
        assert_eq!((rows, &offsets[..], &data[..]), (3, &[0, 3, 3, 4][..], &b"onex"[..]));
    }
}
