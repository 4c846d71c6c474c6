"""Bitstamp's depth messages natively and in Python: the same frames, and everything that comes out is the same."""

from __future__ import annotations

import json
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cmd_native.depth_forms import SIDE, damaged, frame, replayed, spelled
from tests.cmd_native.depth_twins import Twins
from tests.conftest import require

from cmd_bitstamp import BITSTAMP
from cmd_common import native
from cmd_common.feed import Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.recording import read
from cmd_common.records import BookDelta, BookSnapshot, FeedStatus, Gap, Quote


@pytest.fixture(scope="module", autouse=True)
def native_runs() -> None:
    require("native", find_spec("cmd_native") is not None, "install cmd-native")
    require("native", native, "leave CMD_PURE alone")


SECOND = 1_000_000_000
NOW = 1_767_225_600 * SECOND
US = NOW // 1000
BTC, ETH = "BTCUSD", "ETHEUR"


def twins(symbols: tuple[str, ...] = (BTC,), types: tuple[str, ...] = ("book",), **options: Any) -> Twins:
    known = {s: Instrument(BITSTAMP.venue, s, "B", "Q", "spot", Decimal("0.01"), Decimal("0.001")) for s in symbols}
    subscription = Subscription(symbols, types, **options)

    def reply(action: Send) -> str | None:
        asked = json.loads(action.frame)
        if asked["event"] != "bts:subscribe":
            return None
        return frame({"event": "bts:subscription_succeeded", "channel": asked["data"]["channel"], "data": {}})

    return Twins(lambda: BITSTAMP.feeds(subscription, known, BITSTAMP.endpoints), NOW, reply)


def change(n: int, bids: object = (), asks: object = (), symbol: str = BTC, **data: Any) -> dict[str, Any]:
    times = {"timestamp": str((US + n) // 1_000_000), "microtimestamp": str(US + n)}
    channel = f"diff_order_book_{symbol.lower()}"
    return {"data": times | {"bids": bids, "asks": asks} | data, "channel": channel, "event": "data"}


def body(n: int) -> bytes:
    bids = [[f"{100 - i * 0.5:.2f}", "1"] for i in range(20)]
    asks = [[f"{101 + i * 0.5:.2f}", "1"] for i in range(20)]
    times = {"timestamp": str((US + n) // 1_000_000), "microtimestamp": str(US + n)}
    return frame(times | {"bids": bids, "asks": asks}).encode()


def synced(**options: Any) -> Twins:
    made = twins(**options)
    made.receive(frame(change(90, [["99.50", "2"]])))
    made.answer(BTC, body(100))
    made.receive(frame(change(101, [["99.50", "3"]])))
    assert made.taken == 1
    return made


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
@pytest.mark.parametrize("name", ["cryptofeed_10pairs_20220105.ndjson", "tickvault_diff_btcusd_20260824.ndjson"])
def test_recordings_give_the_same(recordings: Path, name: str, seed: int | None) -> None:
    lines = list(read(recordings / "bitstamp" / name))
    bodies = {
        line.url.split("order_book/")[1].split("/")[0].upper(): line.text
        for line in lines
        if line.src == "rest" and "order_book" in (line.url or "")
    }
    made = twins(tuple(bodies), ("trades", "quotes", "book"))
    made.wanted.clear()
    texts = [line.text for line in lines if line.src == "ws"]
    replayed(made, texts[:3], None)
    for symbol, text in bodies.items():
        made.answer(symbol, text.encode())
    replayed(made, texts[3:], seed, 0)
    deltas = [r for r in made.records if isinstance(r, BookDelta)]
    made.end()
    if seed is None:
        assert deltas
        live = sum(builder.applied for builder in made.native[0].books.values())
        assert made.taken == live > 2  # every one that came behind the snapshot


def test_samples_of_older_versions_give_the_same(recordings: Path) -> None:
    made = twins(types=("trades", "quotes", "book"))
    for line in read(recordings / "bitstamp/crypto_msg_parser_samples.ndjson"):
        made.receive(line.text)
    made.end()


def test_usual_messages_of_several_symbols_go_natively() -> None:
    made = twins((BTC, ETH), ("trades", "quotes", "book"), snapshot_every=SECOND, options={"deltas": "off"})
    for symbol in (BTC, ETH):
        made.receive(frame(change(90, symbol=symbol)))
        made.answer(symbol, body(100))
    for n in range(101, 400):
        for symbol in (BTC, ETH, "XRPUSD"):
            made.receive(frame(change(n * 100_000, [["99", f"{n}"]], [["102.5", f"{n}.5"]], symbol)))
        made.receive(frame(change(n * 100_000, [["99", "7"]]) | {"channel": "live_trades_btcusd"}))
    # The last kind is not of a book, but in Python it is one for its symbol, and then a repeat.
    assert made.taken == 299 * 2
    assert any(isinstance(r, BookSnapshot) for r in made.records)
    assert any(isinstance(r, Quote) for r in made.records)
    made.call(0, "remove", [ETH], NOW)
    made.receive(frame(change(40_000_000, [["98", "2"]], symbol=ETH)))
    made.receive(frame(change(40_000_000, [["98", "2"]])))
    assert made.taken == 299 * 2 + 1
    made.end()


def test_a_message_cut_off_at_any_byte_and_damaged_at_any() -> None:
    made = synced()
    text = frame(change(102, [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.0"], ["101.50", "12345.678"]]))
    damaged(made, text)
    made.receive(text)
    made.end()
    assert made.taken >= 1


@pytest.mark.parametrize("times", [(100, 101), (101, 101, 102), (105, 104, 106), (99, 101), (101, 200, 150, 201)])
def test_the_rule_at_its_edges(times: tuple[int, ...]) -> None:
    made = twins()
    made.receive(frame(change(90)))
    made.answer(BTC, body(100))
    for n in times:
        made.receive(frame(change(n, [["99", f"{n}"]])))
    made.wanted.clear()
    made.answer(BTC, body(300))
    made.receive(frame(change(301, [["99", "1"]])))
    made.end()


def test_a_fresh_snapshot_is_compared_with_the_book() -> None:
    for differs in (False, True):
        made = synced(options={"reseed": "10"})
        made.receive(frame(change(102, [["99.50", "1"]] if not differs else [["99.50", "4"]])))
        made.now += 20 * SECOND
        made.call(0, "tick", made.now)
        made.receive(frame(change(103, [["98", "1"]])))
        made.answer(BTC, body(105))  # ahead of the stream: held
        assert made.native[0].books[BTC].held  # type: ignore[attr-defined]
        taken = made.taken
        made.receive(frame(change(104, [["98", "1"]])))
        made.receive(frame(change(106, [["97", "1"]])))
        assert made.taken == taken
        assert differs == any(isinstance(r, FeedStatus) and r.state == "differs" for r in made.records)
        made.receive(frame(change(107, [["97", "1"]])))
        assert made.taken == taken + (not differs)
        made.end()


def test_books_that_are_crossed_or_empty() -> None:
    for bids, asks in [
        ([["101", "1"]], []),
        ([[f"{100 - i * 0.5:.2f}", "0"] for i in range(20)], []),
        ([], [[f"{101 + i * 0.5:.2f}", "0"] for i in range(20)]),
        ([["1e2", "1"]], [["101.0", "5"]]),
    ]:
        made = synced()
        made.receive(frame(change(102, bids, asks)))
        made.receive(frame(change(103, [["99", "1"]])))
        made.answer(BTC, body(104))
        made.receive(frame(change(105, [["99", "1"]])))
        made.end()


def test_the_thousandth_message_is_looked_at() -> None:
    made = synced()
    for n in range(102, 2300):
        made.receive(frame(change(n, [["99", f"{n}"]], [["102", f"{n}.5"]])))
    assert made.taken == 2199
    assert not [r for r in made.records if isinstance(r, Gap)]
    made.end()


def test_keys_that_are_new_are_counted_and_then_passed_over() -> None:
    made = synced()
    for n in range(102, 320):
        message = change(n, [["99", str(n)]], **({"zz": {"channel": [n, None, 1.5e3]}} if n % 2 else {}))
        made.receive(frame({"zz": n} | message | ({"yy": "x"} if n % 3 == 0 else {})))
    assert 100 < made.taken < 130
    made.end()


def test_other_forms_of_the_same_message() -> None:
    made = synced()
    good = change(102, [["99", "1"]], [["101.5", "2"]])
    for seed in range(40):
        made.receive(spelled(change(102 + seed, [["99", "1"]], [["101.5", "2"]]), seed))
    odd: list[dict[str, object]] = [
        {"microtimestamp": US + 200},
        {"microtimestamp": f"{US + 201}.0"},
        {"microtimestamp": f"0{US + 202}"},
        {"microtimestamp": "0"},
        {"microtimestamp": "9200000000000000"},
        {"timestamp": 1},
        {"timestamp": "x" * 128},
        {"timestamp": "x" * 129},
        {"bids": None},
        {"asks": [["1"]]},
    ]
    for data in odd:
        message = change(300, [["99", "2"]])
        made.receive(frame(message | {"data": message["data"] | data}))
    for key in good:
        made.receive(frame({k: v for k, v in good.items() if k != key}))
    for key in good["data"]:
        made.receive(frame(good | {"data": {k: v for k, v in good["data"].items() if k != key}}))
    # The end looks like a channel but is within something else, or is another one.
    tail = ',"channel":"diff_order_book_btcusd","event":"data"}'
    made.receive(frame({"channel": "diff_order_book_etheur", "event": "data"} | change(301) | {"data": 1})[:-1] + tail)
    made.receive('{"event":"data","channel":"diff_order_book_btcusd"' + tail)
    made.receive(frame(change(302, [["99", "9"]]))[:-1] + ',"zz":"' + tail[1:].replace('"', "'") + '"}')
    made.end()


@settings(max_examples=120)
@given(st.data())
def test_any_message_gives_the_same(data: st.DataObject) -> None:
    made = synced()
    for _ in range(data.draw(st.integers(1, 6))):
        last = made.native[0].books[BTC].last_id - US
        n = last + data.draw(st.sampled_from([1, 1, 1, 1, 5, 0, -3]))
        made.receive(spelled(change(n, data.draw(SIDE), data.draw(SIDE)), data.draw(st.integers(0, 10**6))))
        if made.wanted and data.draw(st.booleans()):
            made.wanted.clear()
            made.answer(BTC, body(n + 5))
    made.end()


@settings(max_examples=60)
@given(st.binary(max_size=300), st.text(max_size=100), st.integers(0, 400), st.integers(0, 200))
def test_any_bytes_give_the_same(junk: bytes, text: str, at: int, length: int) -> None:
    made = synced()
    good = frame(change(102, [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.5"]])).encode()
    made.receive(junk)
    made.receive(text)
    made.receive(good[:at] + junk + good[at + length :])
    made.receive(good.decode()[:at] + text + good.decode()[at + length :])
    made.receive(good)
    made.end()
