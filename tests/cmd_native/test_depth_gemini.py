"""Gemini's depth messages natively and in Python: the same frames, and everything that comes out is the same."""

from __future__ import annotations

import json
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cmd_native.depth_forms import SIDE, damaged, frame, spelled
from tests.cmd_native.depth_twins import Twins
from tests.conftest import require

from cmd_common import native
from cmd_common.feed import Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.records import BookSnapshot, Gap
from cmd_gemini import GEMINI


@pytest.fixture(scope="module", autouse=True)
def native_runs() -> None:
    require("native", find_spec("cmd_native") is not None, "install cmd-native")
    require("native", native, "leave CMD_PURE alone")


SECOND = 1_000_000_000
NOW = 1_767_225_600 * SECOND
BTC, ETH = "BTCUSD", "ETHUSD"


def twins(symbols: tuple[str, ...] = (BTC,), types: tuple[str, ...] = ("book",), **options: Any) -> Twins:
    known = {s: Instrument(GEMINI.venue, s, "B", "Q", "spot", Decimal("0.01"), Decimal("0.001")) for s in symbols}
    subscription = Subscription(symbols, types, **options)

    def reply(action: Send) -> str:
        return frame({"id": json.loads(action.frame)["id"], "status": 200})

    return Twins(lambda: GEMINI.feeds(subscription, known, GEMINI.endpoints), NOW, reply)


def update(first: int, last: int, bids: object = (), asks: object = (), **changes: Any) -> dict[str, Any]:
    event = {"e": "depthUpdate", "E": NOW + last, "s": "btcusd", "U": first, "u": last, "b": bids, "a": asks}
    return event | changes


def snapshot(last: int, **changes: Any) -> str:
    bids = [[f"{100 - i * 0.5:.2f}", "1"] for i in range(20)]
    asks = [[f"{101 + i * 0.5:.2f}", "1"] for i in range(20)]
    return frame(update(last, last, bids, asks, **changes))


def synced(**options: Any) -> Twins:
    made = twins(**options)
    made.receive(snapshot(100))
    made.receive(frame(update(100, 110, [["99.50", "3"]])))
    assert made.taken == 1
    return made


def test_usual_messages_of_several_symbols_go_natively() -> None:
    made = twins((BTC, ETH), ("trades", "quotes", "book"), snapshot_every=SECOND, options={"deltas": "off"})
    for name in ("btcusd", "ETHUSD"):
        made.receive(snapshot(100, s=name))
    for n in range(101, 400):
        for name in ("btcusd", "EthUsd", "xrpusd"):
            changes = update(n - n % 2, n, [["99", f"{n}"]], [["102.5", f"{n}.5"]], s=name, E=NOW + n * 100_000_000)
            made.receive(frame(changes))
    assert made.taken == 299 * 2
    assert any(isinstance(r, BookSnapshot) for r in made.records)
    made.call(0, "remove", [ETH], NOW)
    made.receive(frame(update(400, 401, [["98", "2"]], s="ethusd")))
    made.receive(frame(update(400, 401, [["98", "2"]])))
    assert made.taken == 299 * 2 + 1
    made.end()


def test_a_message_cut_off_at_any_byte_and_damaged_at_any() -> None:
    made = synced()
    damaged(made, frame(update(110, 120, [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.0"], ["102", "1.5"]])))
    made.end()
    assert made.taken >= 1


@pytest.mark.parametrize(
    "ids", [(100, 105), (101, 101), (101, 103), (102, 104), (90, 100), (90, 101), (102, 101), (0, 1 << 61)]
)
def test_the_rule_at_its_edges(ids: tuple[int, int]) -> None:
    made = twins()
    made.receive(frame(update(90, 100, [["99", "1"]])))  # what the subscription before was sent
    made.receive(snapshot(100))
    first, last = ids
    made.receive(frame(update(first, last, [["99", "1"]])))
    made.receive(frame(update(last, last + 5, [["98", "1"]])))
    made.receive(frame(update(last + 7, last + 9, [["98", "1"]])))
    # What joins the last update is no snapshot, whichever way that one was taken.
    made.receive(snapshot(last + 10))
    made.receive(snapshot(last + 20))
    made.receive(frame(update(last + 20, last + 22, [["98", "1"]])))
    made.end()


def test_the_last_update_is_known_when_the_book_is_lost() -> None:
    made = synced()
    made.receive(frame(update(110, 120, [["99", "1"]])))
    taken = made.taken
    made.receive(frame(update(110, 121, [["bad", "1"]])))
    made.receive(frame(update(200, 210, [["99", "1"]])))
    made.receive(frame(update(211, 211, [["99", "1"]])))
    made.receive(snapshot(300))
    made.receive(frame(update(301, 301, [["99", "1"]])))
    assert made.taken > taken
    made.call(0, "disconnected", NOW + SECOND, "test")
    made.call(0, "connected", NOW + 2 * SECOND)
    made.receive(frame(update(302, 305, [["99", "1"]])))
    made.receive(snapshot(400))
    made.receive(frame(update(400, 405, [["99", "1"]])))
    made.end()


def test_books_that_are_crossed_or_empty() -> None:
    for bids, asks in [
        ([["101", "1"]], []),
        ([[f"{100 - i * 0.5:.2f}", "0"] for i in range(20)], []),
        ([], [[f"{101 + i * 0.5:.2f}", "0"] for i in range(20)]),
        ([["1e2", "1"]], [["101.0", "5"]]),
    ]:
        made = synced()
        made.receive(frame(update(110, 120, bids, asks)))
        made.receive(frame(update(120, 130, [["99", "1"]])))
        made.receive(snapshot(140))
        made.receive(frame(update(140, 150, [["99", "1"]])))
        made.end()


def test_the_thousandth_message_is_looked_at() -> None:
    made = synced()
    for n in range(111, 2300):
        made.receive(frame(update(n - 1, n, [["99", f"{n}"]], [["102", f"{n}.5"]])))
    assert made.taken == 2190
    assert not [r for r in made.records if isinstance(r, Gap)]
    made.end()


def test_keys_that_are_new_are_counted_and_then_passed_over() -> None:
    made = synced()
    for n in range(111, 320):
        made.receive(frame({"zz": {"e": [n, None, 1.5e3, True]}} | update(n - 1, n, [["99", str(n)]])))
    assert 100 < made.taken < 130
    for key in ("id", "status", "symbol", "t", "lastUpdateId"):
        for value in ([1], 7, "x", None):
            made.receive(frame(update(319, 320, [["99", "7"]]) | {key: value}))
    made.end()


def test_other_forms_of_the_same_message() -> None:
    made = synced()
    good = update(110, 120, [["99", "1"]], [["101.5", "2"]])
    for n, seed in enumerate(range(40)):
        made.receive(spelled(good | {"U": 110 + n, "u": 111 + n}, seed))
    for changes in [
        {"E": 0},
        {"E": 9_200_000_000_000_000_000},
        {"E": 5 * 10**18},
        {"u": 1 << 62},
        {"U": -1},
        {"s": ""},
    ]:
        made.receive(frame(good | changes))
    for changes in [
        {"s": "b" * 65},
        {"s": "\u0131btc"},
        {"s": "btc\u00dfusd"},
        {"b": None},
        {"a": [["1"]]},
        {"e": "x"},
    ]:
        made.receive(frame(good | changes))
    for key in good:
        made.receive(frame({k: v for k, v in good.items() if k != key}))
    made.end()


@settings(max_examples=120)
@given(st.data())
def test_any_message_gives_the_same(data: st.DataObject) -> None:
    made = synced()
    for _ in range(data.draw(st.integers(1, 6))):
        last = made.native[0].books[BTC].last_id
        first = last + data.draw(st.sampled_from([0, 0, 0, 1, 5, -3]))
        end = first + data.draw(st.integers(0, 9))
        made.receive(spelled(update(first, end, data.draw(SIDE), data.draw(SIDE)), data.draw(st.integers(0, 10**6))))
        if data.draw(st.integers(0, 5)) == 0:
            made.receive(snapshot(end + 10))
    made.end()


@settings(max_examples=60)
@given(st.binary(max_size=300), st.text(max_size=100), st.integers(0, 400), st.integers(0, 200))
def test_any_bytes_give_the_same(junk: bytes, text: str, at: int, length: int) -> None:
    made = synced()
    good = frame(update(110, 120, [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.5"]])).encode()
    made.receive(junk)
    made.receive(text)
    made.receive(good[:at] + junk + good[at + length :])
    made.receive(good.decode()[:at] + text + good.decode()[at + length :])
    made.receive(good)
    made.end()
