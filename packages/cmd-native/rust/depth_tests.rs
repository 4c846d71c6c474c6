//! Tests of decoding and of the rules of continuity. What Python's decoders say of the same messages is compared in
//! tests/cmd_native/test_depth_binance.py.

use super::*;

const SPOT: &str = "{\"stream\":\"btcusdt@depth@100ms\",\"data\":{\"e\":\"depthUpdate\",\"E\":1723161255208,\"s\":\"BTCUSDT\",\
    \"U\":101,\"u\":110,\"b\":[[\"61737.63000000\",\"0.50000000\"],[\"61730.17000000\",\"0.00000000\"]],\
    \"a\":[[\"61837.64000000\",\"1.54698000\"],[\"61839.85000000\",\"0.00000000\"],[\"61840.00000000\",\"2.00000000\"]]}}";
const FUTURES: &str = "{\"e\":\"depthUpdate\",\"E\":1723161256299,\"T\":1723161256298,\"s\":\"BTCUSDT\",\"U\":200,\"u\":300,\
    \"pu\":199,\"b\":[[\"58710.20\",\"0.014\"],[\"61496.50\",\"0.010\"]],\"a\":[]}";

fn book(stage: Stage, last_id: i64) -> Book {
    let mut book = Book::new(Grid::new(1, 2), None);
    book.stage = stage;
    book.last_id = last_id;
    book
}

type Decoded = (Message, Vec<(f64, f64)>, Vec<(f64, f64)>);

fn read(format: Format, bytes: &[u8], lenient: bool) -> Option<Decoded> {
    let exact: Box<[u8]> = bytes.into();
    let grid = book(Stage::First, 0).grid();
    let mut both = [true, false].map(|vector| {
        let mut scratch = Scratch::default();
        let select = |symbol: &[u8]| (symbol == b"BTCUSDT").then_some(grid);
        let message = if vector {
            decode(format, &exact, lenient, &mut scratch, select)
        } else {
            decode_by(Scalar, format, &exact, lenient, &mut scratch, select)
        }?;
        let side = |side: &[Change]| side.iter().map(|c| (grid.price_of(c.key), c.quantity)).collect();
        Some((message, side(&scratch.bids), side(&scratch.asks)))
    });
    assert_eq!(both[0], both[1], "{}", String::from_utf8_lossy(bytes));
    both[0].take()
}

#[test]
fn both_markets_are_decoded() {
    let (message, bids, asks) = read(Format::BinanceSpot, SPOT.as_bytes(), false).unwrap();
    assert_eq!(message, Message { first: 101, last: 110, prev: None, ts_event: 1_723_161_255_208_000_000 });
    assert_eq!(bids, [(61737.63, 0.5), (61730.17, 0.0)]);
    assert_eq!(asks, [(61837.64, 1.54698), (61839.85, 0.0), (61840.0, 2.0)]);
    let (message, bids, asks) = read(Format::BinanceFutures, FUTURES.as_bytes(), false).unwrap();
    assert_eq!(message, Message { first: 200, last: 300, prev: Some(199), ts_event: 1_723_161_256_298_000_000 });
    assert_eq!(bids, [(58710.2, 0.014), (61496.5, 0.01)]);
    assert_eq!(asks, []);
}

#[test]
fn the_order_of_keys_does_not_matter() {
    let (event, sides) = ("\"e\":\"depthUpdate\"", "\"b\":[[\"61737.63\",\"0.5\"]],\"a\":[[\"61837.64\",\"1\"]]");
    let ids = "\"E\":1723161255208123,\"U\":1,\"u\":2";
    let symbol = "\"s\":\"BTCUSDT\"";
    let expected = read(Format::BinanceSpot, format!("{{{event},{symbol},{ids},{sides}}}").as_bytes(), false);
    assert_eq!(expected.as_ref().unwrap().0.ts_event, 1_723_161_255_208_123_000);
    for inner in [
        format!("{sides},{symbol},{ids},{event}"),
        format!("{ids},{sides},{event},{symbol}"),
        format!("{sides},{event}, {ids} ,{symbol}"),
    ] {
        for frame in [
            format!("{{{inner}}}"),
            format!("{{\"data\":{{{inner}}},\"stream\":\"x\"}}"),
            format!(" {{ \"stream\" : \"x\" , \"data\" : {{ {inner} }} }} "),
            format!("{{\"data\":{{{inner}}}}}"),
        ] {
            assert_eq!(read(Format::BinanceSpot, frame.as_bytes(), false), expected, "{frame}");
        }
        // Python finds the event by its text, or by the stream's name beside it.
        let frame = format!("{{\"data\":{{{inner}}}}}").replace("\"e\":", "\"e\" :");
        assert_eq!(read(Format::BinanceSpot, frame.as_bytes(), false), None, "{frame}");
    }
}

#[test]
fn whatever_is_unusual_is_refused() {
    for (old, new) in [
        ("depthUpdate", "trade"),
        ("BTCUSDT", "ETHUSDT"),
        ("\"U\":101", "\"U\":\"101\""),
        ("\"U\":101", "\"U\":101.0"),
        ("\"U\":101", "\"U\":-1"),
        ("\"U\":101", "\"U\":101,\"U\":101"),
        ("\"U\":101,", ""),
        ("\"u\":110", "\"u\":4611686018427387904"),
        ("\"s\":\"BTCUSDT\",", ""),
        ("\"s\":\"BTCUSDT\",", "\"s\":\"BTCUSDT\",\"x\":1,"),
        ("\"s\":\"BTCUSDT\",", "\"s\":\"BTCUSDT\",\"pu\":null,"),
        ("\"s\":\"BTCUSDT\",", "\"s\":\"BTCUSDT\",\"T\":0,"),
        ("1723161255208", "0"),
        ("1723161255208", "9200000000000000"),
        ("61737.63000000", "0.00000000"),
        ("61737.63000000", "1e5"),
        ("61737.63000000", "-1"),
        ("61737.63000000", "1000000000000000000"),
        ("0.50000000", "-0.5"),
        ("0.50000000", "nan"),
        ("0.50000000\"]", "0.50000000\",\"1\"]"),
        (",\"a\"", ",\"b\""),
        ("]}}", "]},\"x\":1}"),
        ("]}}", "]},\"stream\":\"x\"}"),
        ("]}}", "]}}}"),
        ("]}}", "]}} 1"),
        ("\"stream\"", "\"e\""),
        ("\"stream\":", "\"stream\":\"x\",\"stream\":"),
    ] {
        let frame = SPOT.replacen(old, new, 1);
        assert_ne!(frame, SPOT);
        assert_eq!(read(Format::BinanceSpot, frame.as_bytes(), false), None, "{frame}");
    }
    for frame in [SPOT, FUTURES] {
        for end in 0..frame.len() {
            assert_eq!(read(Format::BinanceSpot, &frame.as_bytes()[..end], end % 2 == 0), None, "{end}");
        }
    }
}

const BYBIT: &str = "{\"topic\":\"orderbook.50.BTCUSDT\",\"ts\":1787612486116,\"type\":\"delta\",\"data\":{\"s\":\"BTCUSDT\",\
    \"b\":[],\"a\":[[\"78716.8\",\"0.027559\"],[\"78748.5\",\"0\"]],\"u\":217107085,\"seq\":113099229629},\"cts\":1787612486108}";

fn read_bybit(frame: &str, lenient: bool) -> Option<Message> {
    let mut scratch = Scratch::default();
    let select = |topic: &[u8]| (topic == b"orderbook.50.BTCUSDT").then_some(Grid::new(1, 1));
    let message = decode(Format::Bybit, frame.as_bytes(), lenient, &mut scratch, select);
    let mut other = Scratch::default();
    assert_eq!(decode_by(Scalar, Format::Bybit, frame.as_bytes(), lenient, &mut other, select), message);
    assert!(message.is_none() || (scratch.asks.len(), scratch.bids.len()) == (2, 0));
    message
}

#[test]
fn bybits_topic_is_where_python_finds_it() {
    let message = read_bybit(BYBIT, false);
    let expected = Message { first: 217_107_085, last: 217_107_085, prev: None, ts_event: 1_787_612_486_108_000_000 };
    assert_eq!(message, Some(expected));
    let turned = BYBIT.replacen("{\"topic\":\"orderbook.50.BTCUSDT\",", "{", 1);
    let turned = turned.replace("\"cts\"", "\"topic\":\"orderbook.50.BTCUSDT\" , \"cts\"");
    assert_eq!(read_bybit(&turned, false), message);
    let unknown = BYBIT.replacen("\"ts\"", "\"x\":{\"topic\":\"y\"},\"ts\"", 1);
    assert_eq!((read_bybit(&unknown, false), read_bybit(&unknown, true)), (None, message));
    for (old, new) in [
        ("{\"topic\"", "{\"x\":{\"topic\":\"y\"},\"topic\""),
        ("\"topic\":", "\"topic\": "),
        ("\"topic\":", "\"topic\" :"),
        ("orderbook.50", "orderbook.1"),
        ("\"s\":\"BTCUSDT\"", "\"s\":\"ETHUSDT\""),
        ("\"s\":\"BTCUSDT\",", ""),
        ("delta", "snapshot"),
        ("217107085", "1"),
        ("1787612486116", "0"),
        ("1787612486108", "9200000000000"),
        ("\"seq\"", "\"u\""),
        ("1787612486108}", "1787612486108}}"),
    ] {
        let frame = BYBIT.replacen(old, new, 1);
        assert_ne!(frame, BYBIT);
        assert_eq!(read_bybit(&frame, true), None, "{frame}");
    }
    for end in 0..BYBIT.len() {
        assert_eq!(read_bybit(&BYBIT[..end], true), None);
    }
    for (id, yes) in [(217_107_084, true), (217_107_083, false), (217_107_085, false), (0, false)] {
        assert_eq!(Format::Bybit.follows(&book(Stage::Next, id), &expected), yes);
        assert!(!Format::Bybit.follows(&book(Stage::Off, id), &expected));
    }
}

const OKX: &str = "{\"arg\":{\"channel\":\"books\",\"instId\":\"BTC-USDT\"},\"action\":\"update\",\"data\":[{\"asks\":[\
    [\"78722.3\",\"0.58143283\",\"0\",\"12\"],[\"78742.6\",\"0\",\"0\",\"0\"]],\"bids\":[[\"78722.2\",\"0.35528063\",\"0\",\"16\"]],\
    \"ts\":\"1787612486607\",\"checksum\":0,\"seqId\":80274875002,\"prevSeqId\":80274874900}]}";

fn read_okx(frame: &str, lenient: bool) -> Option<Message> {
    let mut scratch = Scratch::default();
    let select = |symbol: &[u8]| (symbol == b"BTC-USDT").then_some(Grid::new(1, 1));
    let message = decode(Format::Okx, frame.as_bytes(), lenient, &mut scratch, select);
    let mut other = Scratch::default();
    assert_eq!(decode_by(Scalar, Format::Okx, frame.as_bytes(), lenient, &mut other, select), message);
    let sides = |scratch: &Scratch| {
        let all = scratch.bids.iter().chain(&scratch.asks);
        all.map(|level| (Grid::new(1, 1).price_of(level.key), level.quantity)).collect::<Vec<_>>()
    };
    assert_eq!(sides(&scratch), sides(&other));
    assert!(message.is_none() || sides(&scratch) == [(78722.2, 0.35528063), (78722.3, 0.58143283), (78742.6, 0.0)]);
    message
}

#[test]
fn okxs_levels_are_longer_and_its_names_where_python_finds_them() {
    let message = read_okx(OKX, false);
    let expected = Message {
        first: 80_274_874_901,
        last: 80_274_875_002,
        prev: Some(80_274_874_900),
        ts_event: 1_787_612_486_607_000_000,
    };
    assert_eq!(message, Some(expected));
    let arg = "\"arg\":{\"channel\":\"books\",\"instId\":\"BTC-USDT\"}";
    let turned = OKX.replacen(&format!("{arg},"), "", 1).replace("}]}", &format!("}}] , {arg} }}"));
    assert_eq!(read_okx(&turned, false), message);
    for (old, new) in [
        ("\"0\",\"12\"]", "\"0\"]"),
        (",\"0\",\"12\"]", "]"),
        ("\"0\",\"12\"]", "0,{\"x\":[1.5e3]},null]"),
        ("\"0\",\"12\"]", "\"0\",\"123456789\"]"),
        ("\"1787612486607\"", "1787612486607"),
        ("\"checksum\":0,", ""),
        ("\"channel\"", "\"uid\":\"x\",\"channel\""),
    ] {
        let frame = OKX.replacen(old, new, 1);
        assert_ne!(frame, OKX);
        assert_eq!(read_okx(&frame, false), message, "{frame}");
    }
    let unknown = OKX.replacen("\"action\"", "\"x\":{\"channel\":\"y\"},\"action\"", 1);
    assert_eq!((read_okx(&unknown, false), read_okx(&unknown, true)), (None, message));
    for (old, new) in [
        ("{\"arg\"", "{\"x\":{\"instId\":\"y\"},\"arg\""),
        ("{\"arg\"", "{\"x\":{\"channel\":\"y\"},\"arg\""),
        ("\"channel\":", "\"channel\": "),
        ("\"instId\":", "\"instId\" :"),
        ("\"data\":", "\"data\" :"),
        ("\"books\"", "\"books5\""),
        ("BTC-USDT", "ETH-USDT"),
        ("update", "snapshot"),
        ("\"action\":\"update\",", ""),
        ("\"checksum\":0", "\"checksum\":-1"),
        ("\"checksum\":0", "\"checksum\":7"),
        ("\"checksum\":0", "\"instId\":\"BTC-USDT\""),
        ("80274875002", "80274874900"),
        ("80274875002", "null"),
        ("80274874900", "-1"),
        ("\"1787612486607\"", "\"0\""),
        ("\"1787612486607\"", "\"1787612486607"),
        ("\"1787612486607\"", "\" 1787612486607\""),
        ("\"0\",\"12\"]", "\"0\",\"1\\u0032\"]"),
        ("}]}", "},{}]}"),
        ("[{\"asks\"", "[],[{\"asks\""),
    ] {
        let frame = OKX.replacen(old, new, 1);
        assert_ne!(frame, OKX);
        assert_eq!(read_okx(&frame, true), None, "{frame}");
    }
    for end in 0..OKX.len() {
        assert_eq!(read_okx(&OKX[..end], true), None);
    }
    for (id, yes) in [(80_274_874_900, true), (80_274_874_901, false), (80_274_875_002, false)] {
        assert_eq!(Format::Okx.follows(&book(Stage::First, id), &expected), yes);
    }
}

const GEMINI: &str = "{\"e\":\"depthUpdate\",\"E\":1787612486116000001,\"s\":\"btcusd\",\"U\":300,\"u\":310,\
    \"b\":[[\"99.5\",\"0\"],[\"99.0\",\"1.25\"]],\"a\":[[\"101\",\"2\"]]}";
const BITSTAMP: &str = "{\"data\":{\"timestamp\":\"1787612486\",\"microtimestamp\":\"1787612486338338\",\
    \"bids\":[[\"99.5\",\"0\"],[\"99.0\",\"1.25\"]],\"asks\":[[\"101\",\"2\"]]},\"channel\":\"diff_order_book_btcusd\",\"event\":\"data\"}";
const COINBASE: &str = "{\"type\":\"l2update\",\"product_id\":\"BTC-USD\",\"changes\":[[\"buy\",\"99.5\",\"7\"],\
    [\"sell\",\"101\",\"2\"],[\"buy\",\"99.0\",\"1.25\"],[\"buy\",\"99.50\",\"0\"]],\"time\":\"2026-08-24T22:34:13.793075Z\"}";
const ADVANCED: &str = "{\"channel\":\"l2_data\",\"timestamp\":\"x\",\"sequence_num\":2,\"events\":[{\"type\":\"update\",\"product_id\":\
    \"BTC-USD\",\"updates\":[{\"side\":\"bid\",\"event_time\":\"2026-08-24T22:34:13.793075Z\",\"price_level\":\"99.5\",\"new_quantity\":\"0\"},\
    {\"side\":\"offer\",\"event_time\":\"2026-08-24T22:34:13.5Z\",\"price_level\":\"101\",\"new_quantity\":\"2\"},\
    {\"side\":\"bid\",\"event_time\":\"2026-08-24T22:34:13.5Z\",\"price_level\":\"99\",\"new_quantity\":\"1.25\"}]}]}";

#[test]
fn gemini_bitstamp_and_coinbase_are_decoded() {
    let coinbase = Message { first: 0, last: 0, prev: None, ts_event: 1_787_610_853_793_075_000 };
    let micros = 1_787_612_486_338_338;
    for (format, frame, name, expected) in [
        (
            Format::Gemini,
            GEMINI,
            "BTCUSD",
            Message { first: 300, last: 310, prev: None, ts_event: 1_787_612_486_116_000_001 },
        ),
        (
            Format::Bitstamp,
            BITSTAMP,
            "diff_order_book_btcusd",
            Message { first: micros, last: micros, prev: None, ts_event: micros * 1000 },
        ),
        (Format::Coinbase, COINBASE, "BTC-USD", coinbase),
        (Format::CoinbaseAdvanced, ADVANCED, "BTC-USD", coinbase),
    ] {
        let grid = Grid::new(1, 2);
        let mut scratch = Scratch::default();
        let mut read = |bytes: &[u8]| {
            let select = |symbol: &[u8]| (symbol == name.as_bytes()).then_some(grid);
            let message = decode_by(Scalar, format, bytes, true, &mut scratch, select);
            let levels = [&scratch.bids, &scratch.asks].map(|side| side.iter().map(|c| c.quantity).collect::<Vec<_>>());
            let number = scratch.number;
            let fast = decode(format, bytes, true, &mut scratch, select);
            assert_eq!(message, fast, "{}", String::from_utf8_lossy(bytes));
            message.map(|message| (message, levels, number))
        };
        let number = if format.numbered() { 2 } else { 0 };
        assert_eq!(read(frame.as_bytes()), Some((expected, [vec![0.0, 1.25], vec![2.0]], number)), "{frame}");
        let other = format!("{},\"zz\":[1] }} ", &frame[..frame.len() - 1]);
        assert_eq!(read(other.as_bytes()).map(|found| found.0), Some(expected));
        for end in 0..frame.len() {
            assert_eq!(read(&frame.as_bytes()[..end]), None);
        }
        for (old, new) in
            [("99.5", "-99.5"), ("99.5", "0.0"), ("\"99.5\"", "99.5"), ("1.25", "1e2"), ("usd", "eur"), ("USD", "EUR")]
        {
            let changed = frame.replacen(old, new, 1);
            assert!(changed == frame || read(changed.as_bytes()).is_none(), "{changed}");
        }
    }
}

#[test]
fn messages_without_ids_are_counted_and_their_times_looked_at() {
    let mut book = book(Stage::Next, 7);
    book.ts_event = 100;
    let message = |ts_event| Message { first: 0, last: 0, prev: None, ts_event };
    let scratch = Scratch::default();
    assert_eq!(advance(Format::Coinbase, &mut book, &mut message(99), &scratch), None);
    let mut late = message(99);
    assert!(advance(Format::CoinbaseAdvanced, &mut book, &mut late, &scratch).is_some());
    assert_eq!((late.first, late.last), (8, 8));
    let mut same = message(100);
    assert!(advance(Format::Coinbase, &mut book, &mut same, &scratch).is_some());
    assert_eq!(same.last, same.first);
}

#[test]
fn of_one_price_the_last_change_counts() {
    for (count, prices) in [(0, 1), (1, 1), (2, 1), (50, 7), (4096, 4096), (4096, 1000)] {
        let mut scratch = Scratch::default();
        let key = |n: u64| Key(n * 7919 % prices * 4096);
        scratch.asks = (0..count).map(|n| Change { key: key(n), quantity: n as f64 }).collect();
        let mut expected: Vec<(Key, f64)> = Vec::new();
        for change in &scratch.asks {
            match expected.iter_mut().find(|(key, _)| *key == change.key) {
                Some(found) => found.1 = change.quantity,
                None => expected.push((change.key, change.quantity)),
            }
        }
        scratch.unique().unwrap();
        assert_eq!(scratch.asks.iter().map(|c| (c.key, c.quantity)).collect::<Vec<_>>(), expected);
    }
    let mut scratch = Scratch { bids: vec![Change { key: Key(1), quantity: 1.0 }; 4097], ..Scratch::default() };
    assert_eq!(scratch.unique(), None);
}

#[test]
fn unknown_keys_are_passed_over_where_they_are_allowed() {
    let expected = read(Format::BinanceSpot, SPOT.as_bytes(), false);
    for (old, new) in [
        ("\"s\":", "\"x\":{\"y\":[1,null,\"z\"]},\"s\":"),
        ("]}}", "],\"x\":-1.5e3}}"),
        ("\"E\":", "\"x\":{\"e\":\"trade\"},\"x\":1,\"E\":"),
    ] {
        let frame = SPOT.replacen(old, new, 1);
        assert_eq!(read(Format::BinanceSpot, frame.as_bytes(), false), None, "{frame}");
        assert_eq!(read(Format::BinanceSpot, frame.as_bytes(), true), expected, "{frame}");
    }
    // Python finds the event by its text, and would take this one for a trade.
    let frame = SPOT.replacen("{\"e\"", "{\"x\":{\"e\":\"trade\"},\"e\"", 1);
    assert_eq!(read(Format::BinanceSpot, frame.as_bytes(), true), None);
    let frame = SPOT.replacen("\"e\":", "\"e\": ", 1).replacen("\"s\":", "\"x\":1,\"s\":", 1);
    assert_eq!(read(Format::BinanceSpot, frame.as_bytes(), true), None);
    let bare = FUTURES.replacen("\"s\":", "\"x\":1,\"s\":", 1);
    assert_eq!(read(Format::BinanceFutures, bare.as_bytes(), true), None);
}

#[test]
fn the_rules_are_the_venues() {
    let message = |first, last, prev| Message { first, last, prev, ts_event: 1 };
    let follows = |format: Format, stage, id, first, last, prev| {
        let yes = format.follows(&book(stage, id), &message(first, last, prev));
        assert!(!format.follows(&book(Stage::Off, id), &message(first, last, prev)));
        yes
    };
    for stage in [Stage::First, Stage::Next] {
        for (first, last, yes) in
            [(101, 110, true), (95, 110, true), (95, 101, true), (102, 110, false), (90, 100, false)]
        {
            assert_eq!(follows(Format::BinanceSpot, stage, 100, first, last, None), yes, "{first} {last}");
        }
    }
    for (first, last, prev, yes) in [
        (90, 110, Some(89), true),
        (90, 100, Some(89), true),
        (100, 110, Some(99), true),
        (101, 110, Some(100), true),
        (101, 110, Some(99), false),
        (101, 110, None, false),
        (90, 99, Some(89), false),
    ] {
        assert_eq!(
            follows(Format::BinanceFutures, Stage::First, 100, first, last, prev),
            yes,
            "{first} {last} {prev:?}"
        );
    }
    for (prev, yes) in [(Some(100), true), (Some(99), false), (None, false)] {
        assert_eq!(follows(Format::BinanceFutures, Stage::Next, 100, 200, 210, prev), yes);
    }
}

#[test]
fn a_message_is_applied_once_and_the_thousandth_is_looked_at() {
    let mut book = book(Stage::First, 100);
    let mut scratch = Scratch::default();
    let frame = SPOT.as_bytes();
    let mut take = |book: &mut Book, frame: &[u8]| {
        let grid = book.grid();
        let mut message = decode(Format::BinanceSpot, frame, false, &mut scratch, |_| Some(grid))?;
        advance(Format::BinanceSpot, book, &mut message, &scratch)
    };
    assert_eq!(take(&mut book, frame), Some(Outcome::First));
    assert_eq!((book.last_id, book.ts_event, book.applied), (110, 1_723_161_255_208_000_000, 1));
    assert_eq!((book.best_bid(), book.best_ask()), (Some((61737.63, 0.5)), Some((61837.64, 1.54698))));
    assert_eq!(book.stage, Stage::Next);
    assert_eq!(take(&mut book, frame), None);
    book.last_id = 100;
    assert_eq!(take(&mut book, frame), Some(Outcome::Applied));
    book.last_id = 100;
    book.applied = LOOK_EVERY - 1;
    assert_eq!(take(&mut book, frame), Some(Outcome::Look));
    assert_eq!((book.last_id, book.applied), (100, LOOK_EVERY));
    let crossed = SPOT.replace("61737.63", "61837.64");
    assert_eq!(take(&mut book, crossed.as_bytes()), Some(Outcome::Look));
    assert_eq!(book.last_id, 100);
    assert_eq!(take(&mut book, SPOT.replace("61737.63", "x").as_bytes()), None);
    // Nothing is allocated any more.
    let moved = SPOT.replace("61737.63", "61737.64");
    for round in 0..3 {
        let before = crate::allocations::allocations();
        book.last_id = 100;
        take(&mut book, frame);
        book.last_id = 100;
        take(&mut book, moved.as_bytes());
        assert!(round == 0 || crate::allocations::allocations() == before);
    }
}

#[test]
fn sides_are_packed_best_first_and_equal_prices_as_they_came() {
    let grid = book(Stage::Off, 0).grid();
    let change = |price: f64, quantity| Change { key: grid.key_of_price(price), quantity };
    for prices in [
        vec![],
        vec![5.0],
        vec![1.0, 2.0, 3.5],
        vec![3.0, 2.0, 1.0],
        vec![2.0, 3.0, 2.0, 1.0, 3.0],
        vec![2.0, 2.0, 1.0],
    ] {
        let side: Vec<Change> = prices.iter().zip(0_i32..).map(|(&p, n)| change(p, f64::from(n))).collect();
        let mut scratch = Scratch { bids: side.clone(), asks: side, ..Scratch::default() };
        for bids in [true, false] {
            let mut out = vec![0; 16 * prices.len()];
            scratch.pack(bids, grid, &mut out);
            let mut wanted: Vec<(f64, f64)> = prices.iter().zip(0_i32..).map(|(&p, n)| (p, f64::from(n))).collect();
            wanted.sort_by(|a, b| if bids { b.0.total_cmp(&a.0) } else { a.0.total_cmp(&b.0) });
            let wanted: Vec<u8> =
                wanted.iter().flat_map(|(p, q)| [p.to_le_bytes(), q.to_le_bytes()].concat()).collect();
            assert_eq!(out, wanted, "{prices:?} {bids}");
        }
    }
}
