"""Kraken's depth messages natively and in Python: the same frames, and everything that comes out is the same."""

from __future__ import annotations

import json
import random
import zlib
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cmd_native.depth_twins import Twins
from tests.conftest import require

from cmd_common import native
from cmd_common.feed import Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.recording import Recording
from cmd_common.records import BookDelta, BookSnapshot, Gap, Quote
from cmd_kraken import KRAKEN
from cmd_kraken.sync import ChecksumBook, Level, level


@pytest.fixture(scope="module", autouse=True)
def native_runs() -> None:
    require("native", find_spec("cmd_native") is not None, "install cmd-native")
    require("native", native, "leave CMD_PURE alone")


SECOND = 1_000_000_000
NOW = 1_767_225_600 * SECOND
BTC, DOGE = "BTC/USD", "DOGE/EUR"
PAIR = {BTC: "XBT/USD", DOGE: "XDG/EUR"}
V1 = {"api": "v1"}
Side = list[tuple[str, str]]


def twins(
    symbols: tuple[str, ...] = (BTC,), types: tuple[str, ...] = ("book",), tick: str = "0.1", **options: Any
) -> Twins:
    instruments = {s: Instrument("kraken", s, "B", "Q", "spot", Decimal(tick), Decimal("0.00000001")) for s in symbols}
    subscription = Subscription(symbols, types, **options)
    return Twins(lambda: KRAKEN.feeds(subscription, instruments, KRAKEN.endpoints), NOW, lambda action: reply(action))


def reply(action: Send) -> str | None:
    asked = json.loads(action.frame)
    if asked.get("event") == "subscribe":
        return None
    if asked.get("method") != "subscribe" or len(asked["params"]["symbol"]) > 1:
        return None
    params = asked["params"]
    result = {**params, "symbol": params["symbol"][0]}
    return json.dumps({"method": "subscribe", "result": result, "success": True, "req_id": asked["req_id"]})


class Maker:
    """Messages of one book, with the checksums that the exchange would send."""

    def __init__(self, symbol: str = BTC, depth: int = 10, v1: bool = False) -> None:
        self.symbol, self.depth, self.v1 = symbol, depth, v1
        self.book = ChecksumBook(depth)
        self.n = 0

    def snapshot(self) -> str:
        bids = [(f"{100 - i}.0", f"{i}.10000000") for i in range(1, 13)]
        asks = [(f"{100 + i}.0", f"{i}.20000000") for i in range(1, 13)]
        self.book = ChecksumBook(self.depth)
        self.book.load(made(bids), made(asks))
        return self.message(bids, asks, "snapshot")

    def update(self, bids: Side, asks: Side = [], **changes: Any) -> str:  # noqa: B006
        self.book.apply(made(bids), made(asks))
        return self.message(bids, asks, "update", **changes)

    def message(self, bids: Side, asks: Side, kind: str, *, wrong: bool = False, order: Any = None) -> str:
        self.n += 1
        crc = self.book.checksum ^ wrong
        if self.v1:
            names = ("bs", "as") if kind == "snapshot" else ("b", "a")
            time = f"{NOW // SECOND}.{self.n:06d}"
            parts = [{k: [[p, q, time] for p, q in side]} for k, side in zip(names, (bids, asks), strict=True) if side]
            if kind == "update":
                parts[-1]["c"] = str(crc)  # type: ignore[assignment]
            else:
                parts = [{k: v for part in parts for k, v in part.items()}]
            return json.dumps([560, *parts, f"book-{self.depth}", PAIR[self.symbol]], separators=(",", ":"))
        inner = [
            ("symbol", f'"{self.symbol}"'),
            ("bids", rows(bids)),
            ("asks", rows(asks)),
            ("checksum", str(crc)),
            ("timestamp", f'"2026-01-01T00:00:{self.n // 1000 % 60:02d}.{self.n % 1000:03d}000Z"'),
        ]
        inner = [inner[i] for i in order] if order else inner
        row = "{" + ",".join(f'"{k}":{v}' for k, v in inner) + "}"
        return f'{{"channel":"book","type":"{kind}","data":[{row}]}}'


def made(side: Side) -> list[Level]:
    return [level(p, q) for p, q in side]


def rows(side: Side) -> str:
    return "[" + ",".join(f'{{"price":{p},"qty":{q}}}' for p, q in side) + "]"


def synced(v1: bool = False, **options: Any) -> tuple[Twins, Maker]:
    made = twins(depth=10, options={**(V1 if v1 else {}), **options.pop("options", {})}, **options)
    maker = Maker(v1=v1)
    made.receive(maker.snapshot())
    made.receive(maker.update([("98.5", "3.00000000")]))
    assert made.taken == 1
    return made, maker


BOTH = pytest.mark.parametrize("v1", [False, True])


# Recordings


def instruments(recordings: Path) -> dict[str, Instrument]:
    (line,) = Recording(recordings / "kraken/cryptofeed_assetpairs_20210417.ndjson")
    return {i.symbol: i for i in KRAKEN.parse_instruments(line.text.encode())}


@pytest.mark.parametrize(
    ("name", "symbols", "options", "count"),
    [
        ("tickvault_v2_book10_btcusd_20260824", (BTC,), {}, 3),
        (
            "cryptofeed_v1_book1000_10pairs_20210417",
            ("WAVES/EUR", "KSM/BTC", "OMG/USD", "ADA/BTC", "GRT/ETH"),
            V1,
            1851,
        ),
        ("crypto_msg_parser_samples", (BTC,), V1, 0),
        ("crypto_msg_parser_samples", (BTC,), {}, 0),
        ("cryptofeed_v1_trades_20210417", ("XMR/USD",), V1, 0),
        ("cryptofeed_v1_ticker_20210417", ("XMR/USD",), V1, 0),
    ],
)
@pytest.mark.parametrize("seed", [None, 1])
def test_recordings_give_the_same(
    recordings: Path, name: str, symbols: tuple[str, ...], options: dict[str, str], count: int, seed: int | None
) -> None:
    known = instruments(recordings)
    subscription = Subscription(symbols, KRAKEN.types, options=options)
    made = Twins(lambda: KRAKEN.feeds(subscription, known, KRAKEN.endpoints), NOW, lambda action: None)
    rng = random.Random(seed)
    for n, line in enumerate(Recording(recordings / f"kraken/{name}.ndjson")):
        if line.src != "ws":
            continue
        made.now = line.recv_ns or made.now + 1
        draw = rng.random() if seed is not None else 0.5
        if draw < 0.005:
            continue
        text = line.text
        made.receive(text[: int(draw * 1e6) % len(text)] if draw < 0.01 else text if n % 2 else text.encode())
        if draw > 0.99:
            made.receive(text)
    made.end()
    if seed is None:
        # The first update behind each snapshot tells the builder, all the same natively.
        assert made.taken == count
    elif count > 1000:
        assert made.taken > 0


# Made-up messages


@BOTH
def test_usual_messages_of_several_symbols_go_natively(v1: bool) -> None:
    options = {"quotes": "book", **(V1 if v1 else {})}
    made = twins((BTC, DOGE), ("book", "quotes"), depth=10, options=options, snapshot_every=SECOND)
    makers = [Maker(s, v1=v1) for s in (BTC, DOGE)]
    for maker in makers:
        made.receive(maker.snapshot())
    for n in range(300):
        for maker in makers:
            # Prices inside the ten best push others out; both sides, so that v1 has two parts.
            bid = (f"{95 + n % 4}.{n % 10}", f"{n % 5}.00000000")
            made.receive(
                maker.update([bid, ("90.0", f"{n}.50")], [(f"{101 + n % 9}.{n % 7}", f"{(n + 1) % 4}.00000000")])
            )
            made.receive(maker.update([], [("101.0", f"{n + 1}.00000001")]))
    assert made.taken == 1200
    assert not [r for r in made.records if isinstance(r, Gap)]
    assert {BookDelta, BookSnapshot, Quote} <= {type(r) for r in made.records}
    made.call(0, "remove", [DOGE], NOW)
    for maker in makers:
        made.receive(maker.update([("97.5", "2.0")]))
    assert made.taken == 1201
    made.call(0, "add", [DOGE], NOW)
    made.receive(makers[1].update([("97.5", "3.0")]))
    made.receive(makers[1].snapshot())
    made.receive(makers[1].update([("97.5", "4.0")]))
    assert made.taken == 1202
    made.end()


@BOTH
def test_a_wrong_checksum_loses_the_book(v1: bool) -> None:
    made, maker = synced(v1)
    for n in range(4):
        made.receive(maker.update([("97.0", f"{n}.5"), ("98.7", "1.0")], [("103.5", "1.0")], wrong=True))
        assert made.native[0].books[BTC].gap_reason == "checksum"
        made.receive(maker.update([("97.0", "9.5")]))
        made.receive(maker.snapshot())
        taken = made.taken
        made.receive(maker.update([("97.0", "8.5")]))
        assert made.taken == taken + 1
    made.end()
    assert [r for r in made.records if isinstance(r, Gap)]


@BOTH
def test_messages_in_python_and_natively_keep_one_checksum(v1: bool) -> None:
    made, maker = synced(v1)
    for n in range(60):
        text = maker.update([(f"9{n % 8}.5", f"{n % 3}.70")], [(f"10{1 + n % 8}.25", f"{(n + 1) % 3}.00000000")])
        if n % 3 == 1:
            text = (
                text.replace("book", "b\\u006fok", 1) if n % 2 else text.replace(".70", ".70000000000000000000000", 1)
            )
        made.receive(text)
        if made.native[0].books[BTC].state.value != "LIVE":
            made.receive(maker.snapshot())
    assert made.taken > 20
    made.end()


@BOTH
def test_a_price_twice_and_pushed_out_at_once(v1: bool) -> None:
    made, maker = synced(v1)
    made.receive(maker.update([("97.5", "1.0"), ("97.5", "2.0"), ("97.50", "0.0"), ("97.5", "3.0")]))
    made.receive(maker.update([("97.5", "0.0"), ("5.0", "1.0"), ("5.0", "2.0"), ("4.0", "1.0")]))
    made.receive(maker.update([(f"9{n % 10}.{n % 7}", f"{n}.1") for n in range(90)], [("150.0", "1.0")]))
    assert made.taken == 4
    made.end()


@BOTH
def test_a_lost_connection_and_one_that_was_not_told(v1: bool) -> None:
    made, maker = synced(v1)
    made.call(0, "disconnected", NOW + SECOND, "test")
    made.receive(maker.update([("97.5", "1.0")]))
    made.call(0, "connected", NOW + 2 * SECOND)
    made.receive(maker.update([("97.5", "1.0")]))
    made.receive(maker.snapshot())
    made.receive(maker.update([("97.5", "1.0")]))
    assert made.taken == 2
    made.call(0, "connected", NOW + 3 * SECOND)
    made.receive(maker.update([("97.5", "2.0")]))
    assert made.taken == 2
    made.receive(maker.snapshot())
    made.receive(maker.update([("97.5", "1.0")]))
    made.end()
    assert made.taken == 3


@BOTH
def test_books_that_are_crossed_or_empty(v1: bool) -> None:
    for bids, asks in [
        ([("101.5", "1.0")], []),
        ([(f"{100 - i}.0", "0.0") for i in range(1, 13)] + [("98.5", "0.0")], []),
        ([], [(f"{100 + i}.0", "0.0") for i in range(1, 13)]),
        ([("99.0", "0.0")], [("98.9", "5.0")]),
    ]:
        made, maker = synced(v1)
        made.receive(maker.update(bids, asks))
        made.receive(maker.update([("97.0", "1.0")]))
        made.receive(maker.snapshot())
        made.receive(maker.update([("97.0", "1.0")]))
        made.end()


@BOTH
def test_the_thousandth_message_is_looked_at(v1: bool) -> None:
    made, maker = synced(v1)
    for n in range(1, 2200):
        made.receive(maker.update([("97.5", f"{n}.0")], [("102.0", f"{n}.5")]))
    assert made.taken == 2200
    made.end()


@BOTH
def test_a_message_cut_off_at_any_byte_and_damaged_at_any(v1: bool) -> None:
    made, maker = synced(v1)
    text = maker.update([("98.5", "3.10000000"), ("98", "0")], [("101.0", "0.00000000"), ("101.5", "12345.678")])
    rng = random.Random(1)
    for end in range(len(text)):
        made.receive(text[:end])
        made.receive(text[:end].encode())
        made.receive(text[:end] + rng.choice('0"\\ ,]}x\x00\u20ac') + text[end + 1 :])
        made.receive(text.encode()[:end] + bytes([rng.randrange(256)]) + text.encode()[end + 1 :])
        if made.native[0].books[BTC].state.value != "LIVE":
            made.receive(Maker(v1=v1).snapshot())
    made.end()


def test_keys_that_are_new_are_counted_and_then_passed_over() -> None:
    made, maker = synced()
    for n in range(1, 220):
        text = maker.update([("97.5", f"{n}.0")])
        place, new = [
            ('"data":', '"zz":[1,{"e":1.5e3}],"data":'),
            ('"qty"', '"zz":null,"qty"'),
            ('"bids"', '"q":{},"bids"'),
        ][n % 3]
        made.receive(text.replace(place, new, 1))
    assert 100 < made.taken < 130
    taken = made.taken
    made.receive('{"error":5,' + maker.update([("97.5", "500.0")])[1:])
    assert made.taken == taken
    made.end()


def test_other_forms_of_the_same_message() -> None:
    made, maker = synced()
    for n, order in enumerate([(4, 3, 2, 1, 0), (1, 2, 0, 3, 4), (3, 4, 0, 2, 1)]):
        made.receive(maker.update([("97.5", f"{n}.5")], [("102.5", "1.0")], order=order))
    made.receive(maker.update([("97.5", "7.5")]).replace('"price":97.5,"qty":7.5', ' "qty" : 7.5 ,\n"price": 97.5 '))
    made.receive(json.dumps(json.loads(maker.update([("97.5", "8.5")]))))
    made.receive(maker.update([("97.5", "9.5")]).replace('"asks":[],', ""))
    made.receive(maker.update([("97.5", "0.00000001"), ("1234567890123456.5", "0.0")]))
    text = maker.update([("97.5", "10.5")])
    moved = text.replace("{", '{"timestamp":"2026-01-01T00:00:00Z",', 1)
    made.receive(moved[: moved.rindex(',"timestamp"')] + "}]}")
    assert made.taken == 9
    for old, new in [
        ('"update"', '"snap"'), ('"book"', '"trade"'), ("97.5", "-97.5"), ("97.5", "9.75e1"), ("97.5", '"97.5"'),
        ("97.5", "0"), ("10.5", "null"), ('"qty"', '"price"'), ('"checksum":', '"checksum":-'), ('"checksum":', '"checksum":9'),
        (BTC, DOGE), ("2026-01-01T", "2026-02-30T"), ("2026-01-01T", "2026-01-01 "), ("00Z", "00+00:00"), ("00Z", "Z"),
        ("00:00:", "00:00:6"), ("T00:", "T24:"), ("2026", "1969"), ("2026", "2262"), ("00Z", "0000000Z"), ("}]}", '}],"type":"update"}'),
        ('"data":[', '"data":[null,'), ('"timestamp":"', '"timestamp":"x'), ('"bids"', '"bids":[],"bids"'),
    ]:  # fmt: skip
        made.receive(text.replace(old, new, 1))
        if made.native[0].books[BTC].state.value != "LIVE":
            maker = Maker()
            made.receive(maker.snapshot())
        text = maker.update([("97.5", "10.5")])
        made.receive(text)
    row = text[text.index("[") + 1 : -2]
    made.receive(text.replace(row, f"{row},{row}"))
    made.receive(text.replace(row, ""))
    made.end()


def test_other_forms_of_a_message_of_v1() -> None:
    made, maker = synced(True)
    taken = made.taken
    for n in range(8):
        message = json.loads(maker.update([("97.5", f"{n}.5")], [("102.5", f"{n}.25")]))
        for side in "ab":
            for part in message[1:3]:
                for row in part.get(side, ()):
                    row += ["r"] * (n % 2)
        if n % 4 >= 2:
            message[1:3] = [{**message[1], **message[2]}]
        made.receive(json.dumps(message, indent=1 if n >= 4 else None))
    assert made.taken == taken + 8
    good = json.loads(maker.update([("97.5", "10.5")], [("102.5", "1.5")]))
    for changes in [
        {1: {}}, {2: {}}, {1: None}, {3: "trade"}, {3: "book-x"}, {3: "book"}, {4: "ETH/USD"}, {4: BTC}, {0: {"a": []}},
        {2: {**good[2], "c": good[2]["c"] + "0"}}, {2: {**good[2], "c": int(good[2]["c"])}}, {2: {**good[2], "c": ""}},
        {2: {**good[2], "z": 1}}, {2: {"a": good[2]["a"]}}, {1: {"b": [["97.5", "10.5"]]}}, {2: {"b": [], **good[2]}},
        {1: {"b": [["97.5", "10.5", "99999999999.5"]]}}, {1: {"b": [["97.5", "10.5", "5.5", "r", 1]]}},
        {1: {"b": [["9.75e1", "10.5", "5.5"]]}}, {1: {"b": [["97.5", "10.5", "1e3"]]}}, {1: {"b": [[97.5, "10.5", "5.5"]]}},
        {1: {"b": [["97.5", "10.5", "0.0"]]}, 2: {"c": good[2]["c"]}}, {1: {"bs": []}},
    ]:  # fmt: skip
        made.receive(json.dumps([changes.get(i, part) for i, part in enumerate(good)], separators=(",", ":")))
        if made.native[0].books[BTC].state.value != "LIVE":
            maker = Maker(v1=True)
            made.receive(maker.snapshot())
        good = json.loads(maker.update([("97.5", "10.5")], [("102.5", "1.5")]))
        made.receive(json.dumps(good))
    made.end()


PRICES = st.one_of(
    st.integers(900, 1100).map(lambda n: f"{n / 10:.1f}"),
    st.sampled_from(
        ["99.05", "100.0000000000000001", "0.00000001", "99999999999999.99", "123456789012345678901", "98"]
    ),
)
QUANTITIES = st.one_of(
    st.just("0.00000000"),
    st.integers(0, 10**12).map(lambda n: f"{n / 1e8:.8f}"),
    st.sampled_from(["0", "1", "1e3", "1.50", "12345678901234567.123", "1E-7", "0.000000000000000000001"]),
)
SIDE = st.lists(st.tuples(PRICES, QUANTITIES), max_size=6)


@settings(max_examples=120)
@given(st.data(), st.booleans())
def test_any_message_gives_the_same(data: st.DataObject, v1: bool) -> None:
    made, maker = synced(v1)
    for _ in range(data.draw(st.integers(1, 6))):
        bids, asks = data.draw(SIDE), data.draw(SIDE)
        if not bids and not asks:
            continue
        text = maker.update(bids, asks, wrong=data.draw(st.integers(0, 15)) == 0)
        space = data.draw(st.sampled_from(["", "", " ", "\n\t "]))
        text = text.replace(",", f",{space}")
        made.receive(text.encode() if data.draw(st.booleans()) else text)
        if made.native[0].books[BTC].state.value != "LIVE":
            maker = Maker(v1=v1)
            made.receive(maker.snapshot())
    made.end()


@settings(max_examples=80)
@given(st.booleans(), st.binary(max_size=300), st.text(max_size=100), st.integers(0, 400), st.integers(0, 200))
def test_any_bytes_give_the_same(v1: bool, junk: bytes, text: str, at: int, length: int) -> None:
    made, maker = synced(v1)
    good = maker.update([("98.5", "3.10000000"), ("98", "0")], [("101.0", "0.5")]).encode()
    made.receive(junk)
    made.receive(text)
    made.receive(good[:at] + junk + good[at + length :])
    made.receive(good.decode()[:at] + text + good.decode()[at + length :])
    made.receive(good)
    made.end()


@settings(max_examples=60)
@given(st.lists(st.tuples(SIDE, SIDE), max_size=8), st.sampled_from([3, 10]))
def test_the_books_of_the_checksum_are_twins(messages: list[tuple[Side, Side]], depth: int) -> None:
    from cmd_native import ChecksumBook as Native

    fast, pure = Native(depth), ChecksumBook(depth)
    for n, (bids, asks) in enumerate(messages):
        sides = made([b for b in bids if float(b[0])]), made(asks)
        assert (fast.apply(*sides) if n else fast.load(*sides)) == (pure.apply(*sides) if n else pure.load(*sides))
        assert fast.checksum == pure.checksum == zlib.crc32((pure.asks.text() + pure.bids.text()).encode())
        fast.check()
