//! What is fuzzed: functions that take any bytes and panic where something is wrong. Every one checks what comes out, not
//! only that nothing breaks.

mod book;
mod csv;
mod depth;
mod ingest;
mod input;
mod json;
mod log;
mod scan;
mod tick;
mod wire;

/// A function to fuzz; its seeds lie in `seeds/NAME`.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Whether it is fit for Miri, which knows no vector instructions and is slow.
    pub miri: bool,
}

const fn target(name: &'static str, run: fn(&[u8]), miri: bool) -> Target {
    Target { name, run, miri }
}

pub const TARGETS: &[Target] = &[
    target("book", book::operations, true),
    target("csv_packed", csv::packed, false),
    target("csv_rows", csv::rows, true),
    target("depth", depth::messages, true),
    target("ingest_lines", ingest::lines, true),
    target("log_lines", log::show_lines, true),
    target("log_record", log::write_records, true),
    target("scan", scan::messages, true),
    target("tick", tick::messages, true),
    target("wire_frames", wire::frames, true),
];
