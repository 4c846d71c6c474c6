//! The scanner of messages: what it reads is what a full parser reads, and its twins read the same.

use cmd_native::scan::{Digits, Number, Scalar, Scan};

use super::json::{Value, parse};

/// Run with and without vector instructions, where this CPU has them.
macro_rules! twins {
    ($digits:ident => $made:expr) => {{
        let $digits = Scalar;
        let plain = $made;
        #[cfg(target_arch = "x86_64")]
        if let Some($digits) = cmd_native::scan_simd::Vector::detect() {
            assert_eq!($made, plain, "the twins differ");
        }
        plain
    }};
}

/// A message as a whole: passed over, and read value by value.
pub fn messages(data: &[u8]) {
    let full = parse(data);
    let skipped = twins!(digits => {
        let mut scan = Scan::new(data, digits);
        scan.skip().and_then(|()| scan.done()).is_some()
    });
    assert!(!skipped || full.is_some(), "passed over, but no JSON");
    let read = twins!(digits => {
        let mut scan = Scan::new(data, digits);
        read(&mut scan, 0).filter(|_| scan.done().is_some())
    });
    if let Some(read) = read {
        assert_eq!(Some(read), full);
    }
    let levels = twins!(digits => levels(data, digits));
    if let Some(levels) = levels {
        assert_eq!(Some(levels), full);
    }
}

fn text(bytes: &[u8]) -> Value {
    Value::Text(std::str::from_utf8(bytes).expect("valid UTF-8").to_owned())
}

/// A number's text, once its value was found to be what the text means.
fn shown(number: &Number) -> String {
    let text = std::str::from_utf8(number.text).expect("digits").to_owned();
    let value: f64 = text.parse().expect("a number");
    assert_eq!(number.value().to_bits(), value.to_bits(), "{text}");
    assert_eq!(number.decimal.length as usize, text.len());
    text
}

fn read<D: Digits>(scan: &mut Scan<'_, D>, depth: usize) -> Option<Value> {
    match scan.ahead() {
        _ if depth > 100 => None,
        b'{' => {
            let mut items = Vec::new();
            let mut next = scan.first_key()?;
            while let Some(key) = next {
                items.push((std::str::from_utf8(key).expect("ASCII").to_owned(), read(scan, depth + 1)?));
                next = scan.next_key()?;
            }
            Some(Value::Object(items))
        }
        b'[' => {
            let mut items = Vec::new();
            let mut more = scan.first_item()?;
            while more {
                items.push(read(scan, depth + 1)?);
                more = scan.next_item()?;
            }
            Some(Value::Array(items))
        }
        b'"' => scan.string().map(text),
        b'n' => scan.word(b"null").map(|()| Value::Null),
        b't' | b'f' => scan.boolean().map(Value::Bool),
        _ => {
            let mut copy = *scan;
            let number = shown(&scan.number()?);
            if let Some(whole) = copy.uint() {
                // What is no digit behind it is for whoever looks for the comma.
                assert_eq!(whole.to_string(), number.split('.').next().unwrap_or_default());
            }
            Some(Value::Number(number))
        }
    }
}

fn levels<D: Digits>(data: &[u8], digits: D) -> Option<Value> {
    let mut scan = Scan::new(data, digits);
    let mut items = Vec::new();
    scan.space();
    let mut more = scan.first_item()?;
    while more {
        let (price, quantity) = scan.pair()?;
        items.push(Value::Array([price, quantity].iter().map(|number| Value::Text(shown(number))).collect()));
        more = scan.next_item()?;
    }
    scan.done()?;
    Some(Value::Array(items))
}
