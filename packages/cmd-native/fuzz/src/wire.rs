//! The wire: frames of a stream are found without a look beyond its end, however it is cut.

use cmd_native::wire_format::{Bytes, Next, next};

use super::input::Input;

pub fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let limit = if input.byte().is_multiple_of(2) { 1 << 20 } else { usize::from(input.byte()) };
    let stream = input.rest();
    let mut at = 0;
    loop {
        let rest = &stream[at..];
        match next(rest, limit) {
            Next::Whole(size) => {
                assert!(size > 0 && size <= rest.len() && size <= limit);
                // A frame is known for what it is as soon as its beginning is there, and whole at its last byte only.
                for cut in [0, 5, 6, size / 2, size - 1] {
                    assert_eq!(next(&rest[..cut.min(size - 1)], limit), Next::More);
                }
                assert_eq!(next(&rest[..size], limit), Next::Whole(size));
                fields(&rest[..size]);
                at += size;
            }
            Next::More => break,
            Next::Bad => {
                assert!(rest.len() >= 6);
                break;
            }
        }
    }
    fields(stream);
}

/// Every field at every place is inside, or there is none.
fn fields(frame: &[u8]) {
    let bytes = Bytes(frame);
    let last = frame.len();
    for at in (0..last.min(64)).chain(last.saturating_sub(12)..last + 2).chain([usize::MAX - 16]) {
        assert_eq!(bytes.u8(at).is_some(), at < last);
        assert_eq!(bytes.u16(at).is_some(), at.saturating_add(2) <= last);
        assert_eq!(bytes.i64(at).is_some(), at.saturating_add(8) <= last);
        if at < last + 2 {
            if let Some((text, end)) = bytes.text(at) {
                assert!(end <= last && text.len() == end - at - 2);
            }
            if let Some((side, end)) = bytes.side(at, 16) {
                assert!(end <= last && side.len() == end - at - 8 && side.len().is_multiple_of(16));
            }
        }
    }
}
