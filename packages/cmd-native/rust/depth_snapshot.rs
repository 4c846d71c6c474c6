//! A book snapshot as Binance's REST interface sends it; what is not of the usual form is for the parser in Python.

use crate::book::{Change, Grid};
use crate::depth::{Levels, Scratch, levels};
use crate::scan::{Digits, Scalar, Scan};
#[cfg(target_arch = "x86_64")]
use crate::scan_simd::Vector;

/// What stands in a snapshot beside its levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// `lastUpdateId`.
    pub last: i64,
    /// `T`, 0 where it has none.
    pub time: i64,
}

/// Read a snapshot into `scratch`; `None` for anything but known keys that come once and sides that are sorted
/// strictly, the best level first.
pub fn read(bytes: &[u8], grid: Grid, scratch: &mut Scratch) -> Option<Snapshot> {
    scratch.clear();
    #[cfg(target_arch = "x86_64")]
    if let Some(vector) = Vector::detect() {
        return read_by(Scan::new(bytes, vector), grid, scratch);
    }
    read_by(Scan::new(bytes, Scalar), grid, scratch)
}

fn read_by<D: Levels>(mut scan: Scan<'_, D>, grid: Grid, scratch: &mut Scratch) -> Option<Snapshot> {
    let (mut last, mut time, mut sent, mut bids, mut asks) = (None, None, None, None, None);
    let mut next = scan.first_key()?;
    while let Some(key) = next {
        match key {
            b"lastUpdateId" if last.is_none() => last = Some(scan.uint()?),
            b"T" if time.is_none() => time = Some(stamp(&mut scan)?),
            b"E" if sent.is_none() => sent = Some(stamp(&mut scan)?),
            b"symbol" | b"pair" => {
                scan.string()?;
            }
            b"bids" if bids.is_none() => bids = Some(levels(&mut scan, grid, &mut scratch.bids)?),
            b"asks" if asks.is_none() => asks = Some(levels(&mut scan, grid, &mut scratch.asks)?),
            _ => return None,
        }
        next = scan.next_key()?;
    }
    scan.done()?;
    bids?;
    asks?;
    let falls = falls(grid, &scratch.bids, true) && falls(grid, &scratch.asks, false);
    falls.then_some(Snapshot { last: last?, time: time.unwrap_or(0) })
}

/// Times fit as ns; a snapshot with another one is for Python to refuse.
fn stamp<D: Digits>(scan: &mut Scan<'_, D>) -> Option<i64> {
    scan.uint().filter(|time| (1..9_200_000_000_000_000).contains(time))
}

fn falls(grid: Grid, side: &[Change], bids: bool) -> bool {
    side.is_sorted_by(|one, other| {
        // Keys of one kind sort as their prices do.
        let (better, worse) = if bids { (one.key, other.key) } else { (other.key, one.key) };
        if better.tick().is_some() == worse.tick().is_some() {
            better > worse
        } else {
            grid.price_of(better) > grid.price_of(worse)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices(grid: Grid, side: &[Change]) -> Vec<f64> {
        side.iter().map(|change| grid.price_of(change.key)).collect()
    }

    #[test]
    fn usual_snapshots_are_read_and_others_are_not() {
        let grid = Grid::new(1, 2);
        let mut scratch = Scratch::default();
        let text = br#"{"lastUpdateId":7,"bids":[["1.20","1.5"],["1.195","2"]],"asks":[["1.3","0.00000001"]]}"#;
        assert_eq!(read(text, grid, &mut scratch), Some(Snapshot { last: 7, time: 0 }));
        assert_eq!(prices(grid, &scratch.bids), [1.2, 1.195]);
        assert_eq!(prices(grid, &scratch.asks), [1.3]);
        let text = br#" {"E": 9, "T": 8, "asks": [], "bids": [], "lastUpdateId": 5 } "#;
        assert_eq!(read(text, grid, &mut scratch), Some(Snapshot { last: 5, time: 8 }));
        for other in [
            r#"{"lastUpdateId":7,"bids":[["1.1","1"],["1.2","2"]],"asks":[]}"#,
            r#"{"lastUpdateId":7,"bids":[["1.1","1"],["1.10","2"]],"asks":[]}"#,
            r#"{"lastUpdateId":7,"bids":[],"asks":[["1.305","1"],["1.3","2"]]}"#,
            r#"{"lastUpdateId":7,"bids":[["0","1"]],"asks":[]}"#,
            r#"{"lastUpdateId":7,"bids":[["-1","1"]],"asks":[]}"#,
            r#"{"lastUpdateId":7,"bids":[[1.5,1]],"asks":[]}"#,
            r#"{"lastUpdateId":7,"bids":[["1e3","1"]],"asks":[]}"#,
            r#"{"lastUpdateId":7,"bids":[]}"#,
            r#"{"bids":[],"asks":[]}"#,
            r#"{"lastUpdateId":7,"lastUpdateId":7,"bids":[],"asks":[]}"#,
            r#"{"lastUpdateId":7,"bids":[],"asks":[],"x":1}"#,
            r#"{"lastUpdateId":7,"bids":[],"asks":[]} x"#,
            r#"{"lastUpdateId":"7","bids":[],"asks":[]}"#,
            "",
            "[]",
        ] {
            assert_eq!(read(other.as_bytes(), grid, &mut scratch), None, "{other}");
        }
        let whole = br#"{"lastUpdateId":7,"bids":[["1.20","1.5"],["1.19","2"]],"asks":[["1.3","1"]]}"#;
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end], grid, &mut scratch), None);
        }
    }
}
