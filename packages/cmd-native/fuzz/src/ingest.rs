//! The ingest of CSV files: cells and columns are what their text means.

use cmd_native::ingest_cell::{PAD, float, int};
use cmd_native::ingest_columns::{Columns, Done, Kind};

use super::input::Input;

const KINDS: [Kind; 4] = [Kind::Int, Kind::Float, Kind::Bool, Kind::Text];

/// Kinds of columns and a delimiter.
fn table(input: &mut Input) -> (Vec<Kind>, u8) {
    let delimiter = [b',', b';', b'\t', b'|'][input.below(4)];
    let kinds = (0..1 + input.below(12)).map(|_| KINDS[input.below(4)]).collect();
    (kinds, delimiter)
}

/// Cells one by one, and lines of them: what is accepted is what the standard library makes of the text.
pub fn lines(data: &[u8]) {
    let mut input = Input::new(data);
    let (kinds, delimiter) = table(&mut input);
    let fill = input.byte();
    let text = input.rest();
    let mut buffer = vec![fill; PAD];
    buffer.extend_from_slice(text);
    if let Some(value) = int(&buffer, PAD, buffer.len()) {
        assert_eq!(str::from_utf8(text).ok().and_then(|text| text.parse().ok()), Some(value));
    }
    for mut places in [1, 2, 8, 17] {
        if let Some(value) = float(&buffer, PAD, buffer.len(), &mut places) {
            let meant: Option<f64> = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            assert_eq!(meant.map(f64::to_bits), Some(value.to_bits()));
            assert!((1..=17).contains(&places));
        }
    }
    buffer.push(b'\n');
    let mut columns = Columns::new(&kinds, delimiter);
    if columns.add(&buffer, PAD, buffer.len()) {
        let rows = rows(&buffer[PAD..], delimiter);
        let (count, values) = columns.take();
        assert_eq!((count, values.len()), (rows.len(), kinds.len()));
        for (n, column) in values.iter().enumerate() {
            same(column, rows.iter().map(|row| row[n]).collect());
        }
        assert!(rows.iter().all(|row| row.len() == kinds.len()));
    } else {
        assert_eq!(columns.rows(), 0);
        let line = [&[b'0'; PAD][..], b"\n"].concat();
        columns.add(&line, PAD, line.len());
    }
}

/// The cells of lines, taken apart the plain way.
fn rows(text: &[u8], delimiter: u8) -> Vec<Vec<&[u8]>> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let line = |line: &'_ [u8]| line.strip_suffix(b"\r").map_or(line.len(), <[u8]>::len);
    text.split(|byte| *byte == b'\n').map(|row| row[..line(row)].split(|byte| *byte == delimiter).collect()).collect()
}

fn same(column: &Done, cells: Vec<&[u8]>) {
    let texts: Vec<&str> = cells.iter().map(|cell| str::from_utf8(cell).expect("UTF-8")).collect();
    match column {
        Done::Int(values) => {
            assert_eq!(*values, texts.iter().map(|t| t.parse().expect("an int")).collect::<Vec<i64>>())
        }
        Done::Float(values) => {
            let meant = texts.iter().map(|t| t.parse::<f64>().expect("a float").to_bits());
            assert_eq!(values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), meant.collect::<Vec<_>>());
        }
        Done::Bool(bits) => {
            for (n, text) in texts.iter().enumerate() {
                assert!(["true", "false"].contains(&text.to_ascii_lowercase().as_str()), "{text}");
                assert_eq!(bits[n / 8] >> (n % 8) & 1 == 1, text.eq_ignore_ascii_case("true"));
            }
        }
        Done::Text(ends, held) => {
            assert_eq!(ends.len(), texts.len() + 1);
            for (n, text) in texts.iter().enumerate() {
                assert_eq!(&held[ends[n] as usize..ends[n + 1] as usize], text.as_bytes());
            }
        }
    }
}
