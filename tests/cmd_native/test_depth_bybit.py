"""Bybit's depth messages natively and in Python: the same frames, and everything that comes out is the same."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cmd_native.depth_twins import Twins
from tests.conftest import require

from cmd_bybit import LINEAR, SPOT, BybitExchange
from cmd_common import native
from cmd_common.feed import Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.recording import read
from cmd_common.records import BookDelta, BookSnapshot, Gap, Quote


@pytest.fixture(scope="module", autouse=True)
def native_runs() -> None:
    require("native", find_spec("cmd_native") is not None, "install cmd-native")
    require("native", native, "leave CMD_PURE alone")


SECOND = 1_000_000_000
NOW = 1_767_225_600 * SECOND
MS = NOW // 1_000_000
BTC, ETH = "BTCUSDT", "ETHUSDT"


def twins(
    exchange: BybitExchange = SPOT,
    symbols: tuple[str, ...] = (BTC,),
    types: tuple[str, ...] = ("book",),
    **options: Any,
) -> Twins:
    instruments = {
        s: Instrument(exchange.venue, s, "B", "Q", "spot", Decimal("0.01"), Decimal("0.001")) for s in symbols
    }
    subscription = Subscription(symbols, types, **options)

    def reply(action: Send) -> str:
        asked = json.loads(action.frame)
        return json.dumps({"success": True, "ret_msg": "", "op": asked["op"], "req_id": asked.get("req_id", "")})

    return Twins(lambda: exchange.feeds(subscription, instruments, exchange.endpoints), NOW, reply)


def book(kind: str, u: int, bids: object = (), asks: object = (), **changes: Any) -> dict[str, Any]:
    symbol = changes.pop("symbol", BTC)
    message: dict[str, Any] = {"topic": f"orderbook.1000.{symbol}", "ts": MS + u + 8, "type": kind}
    message["data"] = {"s": symbol, "b": bids, "a": asks, "u": u, "seq": 7_961_638_000 + u}
    message["cts"] = MS + u
    return message | changes


def frame(message: object) -> str:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


def snapshot(u: int, **changes: Any) -> str:
    bids = [[f"{100 - i * 0.5:.2f}", "1"] for i in range(20)]
    asks = [[f"{101 + i * 0.5:.2f}", "1"] for i in range(20)]
    return frame(book("snapshot", u, bids, asks, **changes))


def delta(u: int, bids: object = (), asks: object = (), **changes: Any) -> str:
    return frame(book("delta", u, bids, asks, **changes))


def synced(**options: Any) -> Twins:
    made = twins(**options)
    made.receive(snapshot(100))
    made.receive(delta(101, [["99.50", "3"]]))
    assert made.taken == 1
    return made


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_the_recording_gives_the_same(recordings: Path, seed: int | None) -> None:
    made = twins(depth=50)
    rng = random.Random(seed)
    texts = [
        line.text
        for line in read(recordings / "bybit/tickvault_v5_spot_orderbook50_20260824.ndjson")
        if line.src == "ws"
    ]
    for n, text in enumerate(texts):
        draw = rng.random() if seed is not None and n > 2 else 0.5
        if draw < 0.1:
            continue
        made.receive(text[: int(draw * 1e6) % len(text)] if draw < 0.2 else text if n % 2 else text.encode())
        if draw > 0.9:
            made.receive(text)
    made.end()
    assert made.taken == 8 if seed is None else made.taken > 0
    assert any(isinstance(r, BookDelta) for r in made.records)


def test_samples_of_older_versions_give_the_same(recordings: Path) -> None:
    made = twins(LINEAR, types=("trades", "quotes", "candles", "book"))
    for line in read(recordings / "bybit/crypto_msg_parser_samples.ndjson"):
        made.receive(line.text)
    made.end()
    assert made.taken == 0


@pytest.mark.parametrize("exchange", [SPOT, LINEAR])
def test_usual_messages_of_several_symbols_go_natively(exchange: BybitExchange) -> None:
    symbols = (BTC, ETH, "\u5e01USDT")
    made = twins(exchange, symbols, ("book", "quotes"), snapshot_every=SECOND, options={"deltas": "off"})
    for symbol in symbols:
        made.receive(snapshot(100, symbol=symbol))
        made.receive(frame(book("snapshot", 7, [["99", "1"]], [["101", "1"]], topic=f"orderbook.1.{symbol}")))
    for n in range(101, 400):
        for symbol in (*symbols, "XRPUSDT"):
            made.receive(delta(n, [["99", f"{n}"]], [["102.5", f"{n}.5"]], symbol=symbol, cts=MS + 100 * n))
        made.receive(frame(book("delta", n - 93, [["99", f"{n}"]], topic=f"orderbook.1.{BTC}")))
        made.receive(frame(book("delta", n, [["99", f"{n}"]], topic=f"orderbook.50.{BTC}")))
    assert made.taken == 299 * 3
    assert any(isinstance(r, BookSnapshot) for r in made.records)
    assert any(isinstance(r, Quote) for r in made.records)
    made.call(0, "remove", [ETH], NOW)
    made.receive(delta(400, [["98", "2"]], symbol=ETH))
    made.receive(delta(400, [["98", "2"]]))
    assert made.taken == 299 * 3 + 1
    made.call(0, "add", [ETH], NOW)
    made.receive(snapshot(500, symbol=ETH))
    made.receive(delta(501, [["98", "2"]], symbol=ETH))
    assert made.taken == 299 * 3 + 2
    made.end()


def test_a_message_cut_off_at_any_byte_and_damaged_at_any() -> None:
    made = synced()
    text = delta(102, [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.0"], ["101.50", "12345.678"]])
    rng = random.Random(1)
    for end in range(len(text)):
        made.receive(text[:end])
        made.receive(text[:end].encode())
        made.receive(text[:end] + rng.choice('0"\\ ,]}x\x00\u20ac') + text[end + 1 :])
        made.receive(text.encode()[:end] + bytes([rng.randrange(256)]) + text.encode()[end + 1 :])
    made.receive(snapshot(200))
    made.receive(delta(201, [["99.50", "3.00000000"]]))
    made.end()
    assert made.taken >= 2


@pytest.mark.parametrize("ids", [(101, 102), (102, 103), (100, 101), (1, 2, 3), (101, 1, 2), (101, 101, 102), (0, 101)])
def test_the_rule_at_its_edges(ids: tuple[int, ...]) -> None:
    made = twins()
    made.receive(delta(100, [["99", "1"]]))  # before the snapshot
    made.receive(snapshot(100))
    for u in ids:
        made.receive(delta(u, [["99", "1"]], [["101.5", "2"]] if u == 1 else []))
    made.receive(snapshot(110))
    made.receive(delta(111, [["99", "1"]]))
    made.end()


def test_snapshots_in_between_and_a_lost_connection() -> None:
    made = synced()
    for u in (101, 102, 102, 150, 1, 2):
        made.receive(snapshot(u))
        made.receive(delta(u + 1, [["99", "1"]]))
    taken = made.taken
    assert taken > 3
    made.call(0, "disconnected", NOW + SECOND, "test")
    made.receive(delta(4, [["99", "1"]]))
    made.call(0, "connected", NOW + 2 * SECOND)
    made.receive(delta(5, [["99", "1"]]))
    made.receive(snapshot(300))
    made.receive(delta(301, [["99", "1"]]))
    assert made.taken == taken + 1
    made.end()


def test_books_that_are_crossed_or_empty() -> None:
    for bids, asks in [
        ([["101", "1"]], []),
        ([[f"{100 - i * 0.5:.2f}", "0"] for i in range(20)], []),
        ([], [[f"{101 + i * 0.5:.2f}", "0"] for i in range(20)]),
        ([["1e2", "1"]], [["101.0", "5"]]),
    ]:
        made = synced()
        made.receive(delta(102, bids, asks))
        made.receive(delta(103, [["99", "1"]]))
        made.receive(snapshot(104))
        made.receive(delta(105, [["99", "1"]]))
        made.end()


def test_the_thousandth_message_is_looked_at() -> None:
    made = synced()
    for n in range(102, 2300):
        made.receive(delta(n, [["99", f"{n}"]], [["102", f"{n}.5"]]))
    assert made.taken == 2199
    assert not [r for r in made.records if isinstance(r, Gap)]
    made.end()


def test_keys_that_are_new_are_counted_and_then_passed_over() -> None:
    made = synced()
    for n in range(102, 320):
        message = book("delta", n, [["99", str(n)]])
        if n % 2:
            message["data"]["zz"] = {"e": [n, None, 1.5e3, True]}
        made.receive(frame({"zz": n} | message))
    assert 100 < made.taken < 130
    # Python would take the first of these for the topic.
    made.receive(frame({"zz": {"topic": f"publicTrade.{BTC}"}} | book("delta", 320, [["99", "7"]])))
    made.receive(delta(321, [["99", "7"]]))
    made.end()


def test_other_forms_of_the_same_message() -> None:
    made = synced()
    taken = 0
    good = json.loads(delta(102, [["99", "1"]], [["101.5", "2"]]))
    keys = list(good)
    for n, order in enumerate(
        [keys[::-1], keys[1:] + keys[:1], keys[3:] + keys[:3], ["data", "cts", "topic", "ts", "type"]]
    ):
        made.receive(frame({k: good[k] for k in order} | {"data": good["data"] | {"u": 102 + n}}))
        taken += 1
    for changes in [{"cts": 0}, {"cts": None}, {"ts": 0}, {"ts": "1767225600000"}, {"cts": 9_200_000_000_000}]:
        made.receive(frame(good | changes | {"data": good["data"] | {"u": 106}}))
    for inner in [{"s": ETH}, {"u": 1 << 62}, {"u": "107"}, {"u": 107.0}, {"seq": -1}, {"b": None}, {"a": [["1"]]}]:
        made.receive(frame(good | {"data": good["data"] | {"u": 107} | inner}))
    for key in keys:
        made.receive(frame({k: v for k, v in good.items() if k != key}))
    for key in good["data"]:
        made.receive(frame(good | {"data": {k: v for k, v in good["data"].items() if k != key}}))
    made.receive(json.dumps(good))  # Python does not find a topic behind white space
    assert made.taken >= 1 + taken
    made.end()


PRICES = st.one_of(
    st.integers(8_000, 12_000).map(lambda n: f"{n / 100:.2f}"),
    st.sampled_from(["99.005", "100.0000000000000001", "0.00000001", "99999999999999.99", "123456789012345678901"]),
    st.decimals(Decimal("0.01"), 1000, places=8).map(str),
)
QUANTITIES = st.one_of(
    st.just("0"),
    st.integers(0, 10**12).map(lambda n: f"{n / 1e8:.8f}"),
    st.sampled_from(["1", "1e3", "-1", "nan", "00", "1.", ".5", "12345678901234567.123", "1E-7", "", "\u0661"]),
)
SIDE = st.lists(st.tuples(PRICES, QUANTITIES).map(list), max_size=6)
HOW = st.fixed_dictionaries(
    {
        "outer": st.permutations(range(5)),
        "inner": st.permutations(range(5)),
        "space": st.sampled_from(["", "", "", " ", "\n\t "]),
        "colon": st.sampled_from([":", ":", ":", ": ", " :"]),
        "bytes": st.booleans(),
        "odd": st.sampled_from([*[""] * 8, "unknown", "twice", "escape", "exponent", "null", "float", "inside"]),
    }
)


def written(message: dict[str, Any], how: dict[str, Any]) -> str | bytes:
    """A message as JSON in one of many ways."""
    s, colon = how["space"], how["colon"]

    def joined(parts: list[tuple[str, str]], colon: str) -> str:
        return "{" + s + f",{s}".join(f'"{k}"{colon}{v}' for k, v in parts) + s + "}"

    def parts_of(value: dict[str, Any], order: list[int]) -> list[tuple[str, str]]:
        keys = list(value)
        return [(keys[i], json.dumps(value[keys[i]], separators=("," + s, ":"))) for i in order]

    inner = parts_of(message["data"], how["inner"])
    if how["odd"] == "inside":
        inner.insert(2, ("topic", '"orderbook.1000.BTCUSDT"'))
    outer = parts_of(message, how["outer"])
    outer = [(k, joined(inner, colon) if k == "data" else v) for k, v in outer]
    match how["odd"]:
        case "unknown":
            outer.insert(3, ("zz", '[1,{"b":"x"}]'))
        case "twice":
            outer.insert(4, outer[1])
        case "escape":
            outer = [(k, v.replace("BTC", "B\\u0054C")) for k, v in outer]
        case "exponent":
            outer = [(k, f"{v}e0" if k == "ts" else v) for k, v in outer]
        case "null":
            outer = [(k, "null" if k == "cts" else v) for k, v in outer]
        case "float":
            outer = [(k, f"{v}.0" if k == "cts" else v) for k, v in outer]
    text = joined(outer, ":" if how["space"] else colon)
    return text.encode() if how["bytes"] else text


@settings(max_examples=120)
@given(st.data())
def test_any_message_gives_the_same(data: st.DataObject) -> None:
    made = synced()
    for _ in range(data.draw(st.integers(1, 6))):
        last = made.native[0].books[BTC].last_id
        u = last + data.draw(st.sampled_from([1, 1, 1, 1, 5, 0, -3]))
        made.receive(written(book("delta", u, data.draw(SIDE), data.draw(SIDE)), data.draw(HOW)))
        if made.native[0].books[BTC].needs_snapshot or data.draw(st.integers(0, 5)) == 0:
            made.receive(snapshot(u + 10))
    made.end()


@settings(max_examples=60)
@given(st.binary(max_size=300), st.text(max_size=100), st.integers(0, 400), st.integers(0, 200))
def test_any_bytes_give_the_same(junk: bytes, text: str, at: int, length: int) -> None:
    made = synced()
    good = delta(102, [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.5"]]).encode()
    made.receive(junk)
    made.receive(text)
    made.receive(good[:at] + junk + good[at + length :])
    made.receive(good.decode()[:at] + text + good.decode()[at + length :])
    made.receive(good)
    made.end()
