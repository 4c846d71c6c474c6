//! The logger: records to lines, and values to records.

use std::str;

use cmd_native::log_clock::Clock;
use cmd_native::log_record::{Kind, MAX_FIELDS, Ring, Word};
use cmd_native::log_text::{Event, Field, Line, Shown, Table, lines};

use super::input::Input;

const KINDS: [&str; 12] = ["f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "bool", "ts", "sym"];
const NAME: &str = "a\"name";

/// A kind with its limit of bytes: 0 but for texts.
fn kind(input: &mut Input) -> (&'static str, u16) {
    let chosen = input.below(16);
    match KINDS.get(chosen) {
        Some(kind) => (kind, 0),
        None => ("str", 4 + input.below(60) as u16),
    }
}

/// Events with any fields and records of any bytes: lines that hold together, one for each record that is known.
pub fn show_lines(data: &[u8]) {
    let mut input = Input::new(data);
    let mut table = Table::default();
    let count = 1 + input.below(4) as u32;
    for number in 0..count {
        let (mut fields, mut pieces, mut offset) = (Vec::new(), vec![String::from("{")], 0);
        for n in 0..input.below(9) {
            let (kind, limit) = kind(&mut input);
            let shown = Shown::parse(kind, limit).expect("a kind");
            let size = Kind::parse(kind, limit).expect("a kind").size();
            fields.push(Field::new(&format!("f{n}"), shown, offset, size).expect("a field of its size"));
            pieces.push(String::from_utf8_lossy(input.bytes(n % 3)).replace('\n', " "));
            offset += size;
        }
        table.events.insert(number, Event::new(NAME, "INFO", pieces, fields).expect("an event"));
    }
    table.symbols.insert(7, String::from_utf8_lossy(input.bytes(5)).into_owned());
    let line = Line { raw: input.word(), utc: input.word() as i64, rate: input.word() >> input.below(64) };
    let slot = 16 + 8 * input.below(12);
    let mut memory = input.rest().to_vec();
    memory.resize(memory.len().div_ceil(slot).max(1) * slot, 0);
    let (mut known, mut unknown) = (0, 0);
    for record in memory.chunks_exact_mut(slot) {
        let word: [u8; 4] = record[slot - 4..].try_into().expect("four bytes");
        // Small numbers, so that most records belong to an event.
        let number = if word[3] == 255 { u32::MAX } else { u32::from(word[0]) % (count + 1) };
        record[slot - 4..].copy_from_slice(&number.to_le_bytes());
        match table.events.get(&number) {
            _ if number == u32::MAX => {}
            Some(event) if event.size() + 16 <= slot => known += 1,
            _ => unknown += 1,
        }
    }
    let middle = memory.len() / slot / 2 * slot;
    for json in [false, true] {
        let (whole, bad) = lines(json, &[(&memory, slot)], line, &table);
        assert_eq!(bad, unknown);
        let text = str::from_utf8(&whole).expect("UTF-8");
        assert_eq!(text.split_terminator('\n').count(), known);
        assert!(whole.is_empty() || whole.ends_with(b"\n"));
        for shown in text.lines().filter(|_| json) {
            assert!(shown.starts_with("{\"ts\":") && shown.contains(",\"event\":\"a\\\"name\",\"fields\":{"));
            whole_json(shown);
        }
        // Two parts are put in the order of time: the same lines.
        let (first, second) = memory.split_at(middle);
        let (merged, _) = lines(json, &[(first, slot), (second, slot)], line, &table);
        let (mut left, mut right): (Vec<_>, Vec<_>) = (text.lines().collect(), Vec::new());
        right.extend(str::from_utf8(&merged).expect("UTF-8").lines());
        left.sort_unstable();
        right.sort_unstable();
        assert_eq!(left, right);
    }
}

/// That braces and quotes of one line of JSON are closed in their order and no control character is in it.
fn whole_json(line: &str) {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for b in line.bytes() {
        assert!(b >= 32, "{line}");
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' if !quoted => depth += 1,
            b'}' if !quoted => depth -= 1,
            _ => {}
        }
        assert!(depth >= 0, "{line}");
    }
    assert!(depth == 0 && !quoted, "{line}");
}

/// Values of any kinds into rings of any shape: what lies in the slot is what was given, and nothing lies elsewhere.
pub fn write_records(data: &[u8]) {
    let mut input = Input::new(data);
    let kinds: Vec<Kind> = (0..input.below(MAX_FIELDS + 1))
        .map(|_| {
            let (name, limit) = kind(&mut input);
            Kind::parse(name, limit).expect("a kind")
        })
        .collect();
    let size: usize = kinds.iter().map(|kind| kind.size()).sum();
    let slot = (size + 16).next_multiple_of(8) + 8 * input.below(3);
    let count = 1_u64 << input.below(5);
    let guard = 2;
    let mut memory = vec![0_u64; slot / 8 * count as usize + 2 * guard];
    let edge = 0xA5A5_A5A5_A5A5_A5A5;
    let end = memory.len() - guard;
    memory[..guard].fill(edge);
    memory[end..].fill(edge);
    let base = memory[guard..].as_mut_ptr();
    // SAFETY: the memory outlives the ring, is aligned to 8, and holds `count` slots behind `base`.
    let ring = unsafe { Ring::new(base.cast(), slot, count, Clock::best()) };
    for position in 0..40_u64 {
        if input.is_empty() {
            break;
        }
        if ring.full() {
            assert!(position.is_multiple_of(count));
            ring.free_to(position + count);
        }
        let number = 16 + u32::from(input.byte());
        let texts: Vec<String> =
            kinds.iter().map(|_| String::from_utf8_lossy(input.bytes(position as usize)).into_owned()).collect();
        let bits = input.word();
        let words: Vec<Word> = kinds
            .iter()
            .zip(&texts)
            .map(|(kind, text)| match kind {
                Kind::Text(_) => Word { text: (text.as_ptr(), text.len()) },
                _ => Word { bits },
            })
            .collect();
        // SAFETY: one thread, a free slot, words of the kinds, texts that live, and fields that fit.
        unsafe { ring.write(number, &kinds, &words) };
        assert_eq!(ring.head(), position + 1);
        let start = (position % count) as usize * slot;
        // SAFETY: within the ring's memory, which nothing writes now.
        let record = unsafe { std::slice::from_raw_parts(base.cast::<u8>().add(start), slot) };
        assert_eq!(record[slot - 4..], number.to_le_bytes());
        assert_ne!(record[slot - 8..slot - 4], [0; 4]);
        let mut at = 8;
        for (kind, text) in kinds.iter().zip(&texts) {
            let held = &record[at..at + kind.size()];
            match kind {
                Kind::Text(limit) => same_text(held, text, usize::from(*limit)),
                _ => assert_eq!(held, &bits.to_le_bytes()[..kind.size()]),
            }
            at += kind.size();
        }
    }
    assert!(memory[..guard].iter().chain(&memory[end..]).all(|word| *word == edge));
}

/// A text is there whole, or cut between characters with a mark behind it.
fn same_text(held: &[u8], text: &str, limit: usize) {
    let used = usize::from(u16::from_le_bytes([held[0], held[1]]));
    assert!(used <= limit);
    let kept = str::from_utf8(&held[2..2 + used]).expect("whole characters");
    if text.len() <= limit {
        assert_eq!(kept, text);
    } else {
        assert!(kept.ends_with('…') && text.starts_with(kept.trim_end_matches('…')));
        assert!(used + 4 > limit, "cut shorter than it must be");
    }
}
