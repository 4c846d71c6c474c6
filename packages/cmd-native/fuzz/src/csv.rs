//! Archives as a reader gives them: every line once, in its place, and packed bytes that may be anything.

use std::io::Cursor;

use cmd_native::ingest::{Next, Reader};
use cmd_native::ingest_columns::{Done, Kind};
use cmd_native::ingest_source::{Packing, Source};

use super::input::Input;

const KINDS: [Kind; 4] = [Kind::Int, Kind::Float, Kind::Bool, Kind::Text];

/// A cell as it must be read; floats by their bits.
#[derive(Debug, PartialEq)]
enum Cell {
    Int(i64),
    Float(u64),
    Bool(bool),
    Text(Vec<u8>),
}

fn cells(rows: usize, columns: &[Done], out: &mut Vec<Cell>) {
    for row in 0..rows {
        for column in columns {
            out.push(match column {
                Done::Int(values) => Cell::Int(values[row]),
                Done::Float(values) => Cell::Float(values[row].to_bits()),
                Done::Bool(bits) => Cell::Bool((bits[row / 8] >> (row % 8)) & 1 == 1),
                Done::Text(offsets, data) => {
                    Cell::Text(data[offsets[row] as usize..offsets[row + 1] as usize].to_vec())
                }
            });
        }
    }
}

/// The cells of lines that the reader took for plain ones.
fn plainly(lines: &[u8], delimiter: u8, kinds: &[Kind], out: &mut Vec<Cell>) {
    for line in lines.strip_suffix(b"\n").unwrap_or(lines).split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let found: Vec<&[u8]> = line.split(|byte| *byte == delimiter).collect();
        assert_eq!(found.len(), kinds.len(), "{}", line.escape_ascii());
        for (cell, kind) in found.into_iter().zip(kinds) {
            let text = std::str::from_utf8(cell).expect("a text");
            out.push(match kind {
                Kind::Int => Cell::Int(text.parse().expect("a whole number")),
                Kind::Float => Cell::Float(text.parse::<f64>().expect("a number").to_bits()),
                Kind::Bool => Cell::Bool(text.to_ascii_lowercase().parse().expect("a truth value")),
                Kind::Text => Cell::Text(cell.to_vec()),
            });
        }
    }
}

/// Any text in any columns: every line is given once, in its place, as columns or as odd; what the columns hold is what
/// the text says.
pub fn rows(data: &[u8]) {
    let mut input = Input::new(data);
    let kinds: Vec<Kind> = (0..1 + input.below(6)).map(|_| KINDS[input.below(4)]).collect();
    let delimiter = b",;|\t"[input.below(4)];
    let (piece, batch, header) = (1 + input.below(200), 1 + input.below(200), input.below(4) == 0);
    let text = input.rest().to_vec();
    let names = kinds.iter().map(|_| c"name".to_owned()).collect();
    let source = Source::new(Box::new(Cursor::new(text.clone())), Packing::Plain);
    let mut reader = Reader::new(source, piece, batch);
    let Ok(first) = reader.head() else {
        assert!(text.is_empty());
        return;
    };
    assert!(text.starts_with(&first));
    reader.start(header, delimiter, names, &kinds).expect("columns");
    let mut rest = if header { &text[(first.len() + 1).min(text.len())..] } else { &text[..] };
    loop {
        match reader.rows().expect("no line is long") {
            Next::Batch((rows, columns)) => {
                assert!(rows > 0);
                let lines = rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
                let length = lines.take(rows).nth(rows - 1).unwrap_or(rest.len());
                let (mut found, mut plain) = (Vec::new(), Vec::new());
                let columns: Vec<Done> = columns.into_iter().map(|(_, values)| values).collect();
                cells(rows, &columns, &mut found);
                plainly(&rest[..length], delimiter, &kinds, &mut plain);
                assert_eq!(found, plain);
                rest = &rest[length..];
            }
            Next::Odd(lines) => {
                assert!(!lines.is_empty() && rest.starts_with(&lines), "{}", lines.escape_ascii());
                rest = &rest[lines.len()..];
            }
            Next::End => break,
        }
    }
    assert!(rest.is_empty());
}

/// Any bytes as a packed file: text of at most the size that was promised, or trouble.
pub fn packed(data: &[u8]) {
    let mut input = Input::new(data);
    let (size, crc) = (u64::from(input.byte()) << input.below(12), input.word() as u32);
    let packed = u64::from(input.byte()) << input.below(6);
    let packing = match input.below(4) {
        0 => Packing::Gzip,
        1 => Packing::Plain,
        2 => Packing::Stored { packed, size, crc },
        _ => Packing::Deflate { packed, size, crc },
    };
    let piece = 1 + input.below(250);
    let mut source = Source::new(Box::new(Cursor::new(input.rest().to_vec())), packing);
    let mut out = vec![0; piece];
    let mut total = 0;
    while !source.ended() {
        let Ok(count) = source.read(&mut out) else { return };
        assert!(count == piece || source.ended());
        total += count as u64;
        match packing {
            Packing::Stored { size, .. } | Packing::Deflate { size, .. } => assert!(total <= size),
            // Deflate makes at most 1032 bytes of one.
            Packing::Gzip | Packing::Plain => assert!(total <= 1100 * data.len() as u64),
        }
    }
    assert_eq!(source.read(&mut out), Ok(0));
    if let Packing::Stored { size, .. } | Packing::Deflate { size, .. } = packing {
        assert_eq!(total, size);
    }
}
