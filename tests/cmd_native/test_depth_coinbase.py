"""Coinbase's depth messages natively and in Python: the same frames, and everything that comes out is the same."""

from __future__ import annotations

import json
from decimal import Decimal
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cmd_native.depth_forms import SIDE, damaged, frame, replayed, spelled
from tests.cmd_native.depth_twins import Twins
from tests.conftest import require

from cmd_coinbase import ADVANCED, EXCHANGE, CoinbaseExchange
from cmd_common import native
from cmd_common.feed import Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.recording import read
from cmd_common.records import TS_FROM_RECV, BookDelta, BookSnapshot, FeedStatus, Gap, Quote


@pytest.fixture(scope="module", autouse=True)
def native_runs() -> None:
    require("native", find_spec("cmd_native") is not None, "install cmd-native")
    require("native", native, "leave CMD_PURE alone")


SECOND = 1_000_000_000
NOW = 1_767_225_601 * SECOND  # 2026-01-01T00:00:01Z
BTC, ETH, USDC = "BTC-USD", "ETH-EUR", "BTC-USDC"


def iso(us: int) -> str:
    """A time in microseconds behind the beginning of 2026."""
    minutes, us = divmod(us, 60_000_000)
    return f"2026-01-01T{minutes // 60:02d}:{minutes % 60:02d}:{us // 1_000_000:02d}.{us % 1_000_000:06d}Z"


def twins(
    exchange: CoinbaseExchange = EXCHANGE,
    symbols: tuple[str, ...] = (BTC,),
    types: tuple[str, ...] = ("book",),
    tick: str = "0.01",
    **options: Any,
) -> Twins:
    known = {s: Instrument(exchange.venue, s, *s.split("-"), "spot", Decimal(tick), Decimal("0.001")) for s in symbols}
    subscription = Subscription(symbols, types, **options)
    numbers = count()

    def reply(action: Send) -> str:
        m = json.loads(action.frame)
        products = m.get("product_ids", [])
        if exchange is EXCHANGE:
            channels = [{"name": str(c), "product_ids": products} for c in m["channels"]]
            return frame({"type": "subscriptions", "channels": channels})
        return envelope([{"subscriptions": {m["channel"]: products}}], next(numbers), "subscriptions")

    made = Twins(lambda: exchange.feeds(subscription, known, exchange.endpoints), NOW, reply)
    made.number = next(numbers)  # type: ignore[attr-defined]
    return made


BIDS = [[f"{100 - i * 0.5:.2f}", "1"] for i in range(20)]
ASKS = [[f"{101 + i * 0.5:.2f}", "1"] for i in range(20)]

# Coinbase Exchange


def update(us: int, bids: Any = (), asks: Any = (), symbol: str = BTC, **changes: Any) -> dict[str, Any]:
    rows = [["buy", *level] for level in bids] + [["sell", *level] for level in asks]
    return {"type": "l2update", "product_id": symbol, "changes": rows, "time": iso(us)} | changes


def snapshot(us: int, symbol: str = BTC, **changes: Any) -> str:
    message = {"type": "snapshot", "product_id": symbol, "asks": ASKS, "bids": BIDS, "time": iso(us)}
    return frame(message | changes)


def ticker(us: int, bid: str, ask: str) -> str:
    return frame({"type": "ticker", "product_id": BTC, "best_bid": bid, "best_ask": ask, "time": iso(us)})


def synced(**options: Any) -> Twins:
    made = twins(**options)
    made.receive(snapshot(100))
    made.receive(frame(update(101, [["99.50", "3"]])))
    assert made.taken == 1
    return made


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_the_recording_gives_the_same(recordings: Path, seed: int | None) -> None:
    folder = recordings / "coinbase_exchange"
    (body,) = read(folder / "cryptofeed_products_20210417.ndjson")
    known = {i.symbol: i for i in EXCHANGE.parse_instruments(body.text.encode())}
    symbols = ("SKL-USD", "SKL-BTC", "BAND-GBP", "NMR-EUR", "YFI-BTC", "SKL-GBP")
    subscription = Subscription(symbols, ("trades", "quotes", "book"))
    lines = [line for line in read(folder / "cryptofeed_10products_20210417.ndjson.gz") if line.src == "ws"]
    made = Twins(lambda: EXCHANGE.feeds(subscription, known, EXCHANGE.endpoints), lines[0].recv_ns, lambda _: None)
    replayed(made, [line.text for line in lines], seed, 200)
    assert any(isinstance(r, BookDelta) for r in made.records)
    live = sum(builder.applied for builder in made.native[0].books.values())
    # Snapshots had no time then, so that ours is taken, and what is older than that goes the other way once.
    assert made.taken > (0.9 * live if seed is None else 0)
    made.end()


def test_samples_of_older_versions_give_the_same(recordings: Path) -> None:
    made = twins(types=("trades", "quotes", "book"))
    made.receive(snapshot(100))
    for line in read(recordings / "coinbase_exchange/crypto_msg_parser_samples.ndjson"):
        made.receive(line.text)
    made.end()


@pytest.mark.parametrize("quotes_from", ["ticker", "book"])
def test_usual_messages_of_several_symbols_go_natively(quotes_from: str) -> None:
    options = {"deltas": "off", "quotes_from": quotes_from}
    made = twins(EXCHANGE, (BTC, ETH), ("trades", "quotes", "book"), snapshot_every=SECOND, options=options)
    for symbol in (BTC, ETH):
        made.receive(snapshot(100, symbol))
    for n in range(101, 400):
        for symbol in (BTC, ETH, "XRP-USD"):
            made.receive(frame(update(100_000 * (n // 2), [["99", f"{n}"]], [["102.5", f"{n}.5"]], symbol)))
    assert made.taken == 299 * 2
    assert any(isinstance(r, BookSnapshot) for r in made.records)
    assert (quotes_from == "ticker") != any(isinstance(r, Quote) for r in made.records)
    made.call(0, "remove", [ETH], NOW)
    made.receive(frame(update(90_000_000, [["98", "2"]], symbol=ETH)))
    made.receive(frame(update(90_000_000, [["98", "2"]])))
    assert made.taken == 299 * 2 + 1
    made.end()


def test_a_message_cut_off_at_any_byte_and_damaged_at_any() -> None:
    made = synced()
    text = frame(update(102, [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.0"], ["101.50", "12345.678"]]))
    damaged(made, text)
    made.receive(snapshot(200))
    made.receive(frame(update(201, [["99", "1"]])))
    made.end()
    assert made.taken >= 2


def test_of_two_changes_of_one_price_the_later_one_counts() -> None:
    made = synced()
    bids = [["99", "1"], ["98", "2"], ["99.00", "3"], ["98.005", "1"], ["99.0", "0"], ["98.005", "7"]]
    made.receive(frame(update(102, bids, [["101.5", "0"], ["101.50", "4"]])))
    many = [[f"{90 + n % 50 * 0.1:.2f}", f"{n}"] for n in range(300)]
    made.receive(frame(update(103, many, many[:1])))
    made.receive(frame(update(104, [["101", "0"], ["100", "0"]], [["100", "1"], ["101", "2"]])))
    assert made.taken == 4
    made.receive(snapshot(105))
    taken = made.taken
    far = [[f"{50 + n / 200:.3f}", f"{n}"] for n in range(4097)]
    made.receive(frame(update(106, far[:4096])))
    assert made.taken == taken + 1
    made.receive(frame(update(107, far)))  # more than are looked through
    assert made.taken == taken + 1
    made.receive(frame(update(108, [["99", "1"]])))
    assert made.taken == taken + 2
    made.end()


@pytest.mark.parametrize(
    "times",
    [(101, 100), (100, 100), (99, 98, 99), (105, 104, 106), (101, None, 102, 101), (None, 90, 95), (101, None, None)],
)
def test_times_must_not_fall(times: tuple[int | None, ...]) -> None:
    for late in (0, 1_000_000):  # our clock, from which a message without a time gets one, may be before or behind
        made = twins()
        made.receive(snapshot(late + 100))
        for us in times:
            message = update(late + (us or 0), [["99", f"{us}" if us else "1"]])
            if us is None:
                message["time"] = "0001-01-01T00:00:00.000000Z"
            made.receive(frame(message))
        marked = [r for r in made.records if isinstance(r, BookDelta) and r.flags & TS_FROM_RECV]
        assert len(marked) <= times.count(None)
        made.receive(snapshot(3_000_000))
        taken = made.taken
        made.receive(frame(update(3_000_001, [["99", "1"]])))
        assert made.taken == taken + 1
        made.end()


@pytest.mark.parametrize("behind", [1_000_000, 5_000_000])
def test_a_time_before_the_newest_one_loses_the_book_although_our_clock_is_older(behind: int) -> None:
    made = synced()
    made.now = NOW - 900_000_000
    made.receive(frame(update(behind, [["99", "1"]])))
    made.receive(frame(update(0, [["99", "2"]], time="")))
    made.receive(frame(update(behind - 500_000, [["99", "3"]])))
    assert made.native[0].books[BTC].state.value == "STALE"
    made.end()


def test_the_ticker_guards_the_book() -> None:
    for right in (False, True):
        made = twins(types=("quotes", "book"), options={"guard": "1"})
        made.receive(snapshot(100))
        for n in range(1, 40):
            made.receive(frame(update(n * 100_000, [["100.00", f"{n}"]], [["100.50", f"{n % 2}"]])))
            made.receive(ticker(n * 100_000, "100.00" if right else "99.75", "100.50"))
            made.now += SECOND // 5
            made.call(0, "tick", made.now)
        assert made.taken > 4
        assert right != any(isinstance(r, FeedStatus) and r.reason == "ticker" for r in made.records)
        assert made.native[0]._guards[BTC].agreed == made.pure[0]._guards[BTC].agreed  # type: ignore[attr-defined]
        made.end()


def test_books_that_are_crossed_or_empty() -> None:
    for bids, asks in [
        ([["101", "1"]], []),
        ([[f"{100 - i * 0.5:.2f}", "0"] for i in range(20)], []),
        ([], [[f"{101 + i * 0.5:.2f}", "0"] for i in range(20)]),
        ([["1e2", "1"]], [["101.0", "5"]]),
    ]:
        made = synced()
        made.receive(frame(update(102, bids, asks)))
        made.receive(frame(update(103, [["99", "1"]])))
        made.receive(snapshot(104))
        made.receive(frame(update(105, [["99", "1"]])))
        made.end()


def test_the_thousandth_message_is_looked_at() -> None:
    made = synced()
    for n in range(102, 2300):
        made.receive(frame(update(n, [["99", f"{n}"]], [["102", f"{n}.5"]])))
    assert made.taken == 2199
    assert not [r for r in made.records if isinstance(r, Gap)]
    made.end()


def test_keys_that_are_new_are_counted_and_then_passed_over() -> None:
    made = synced()
    for n in range(102, 320):
        made.receive(frame(update(n, [["99", str(n)]]) | {"zz": {"e": [n, None, 1.5e3, True]}}))
    assert 100 < made.taken < 130
    taken = made.taken
    # Python takes the first of these for the type of the message.
    made.receive(frame({"zz": {"type": "ticker"}} | update(320, [["99", "7"]])))
    made.receive(frame({"zz": {"type": 1}, "yy": "type"} | update(321, [["99", "7"]])))
    assert made.taken == taken
    made.receive(frame(update(322, [["99", "7"]]) | {"zz": {"type": "ticker"}}))
    assert made.taken == taken + 1
    made.end()


def test_other_forms_of_the_same_message() -> None:
    made = synced()
    for seed in range(40):
        made.receive(spelled(update(102 + seed, [["99", "1"]], [["101.5", "2"]]), seed))
    made.receive(snapshot(200))
    good = update(201, [["99", "1"]], [["101.5", "2"]])
    for changes in [
        {"changes": [["hold", "1", "1"]]},
        {"changes": [["buy", "1"]]},
        {"changes": []},
        {"changes": [["buy", "99", "1", "1"]]},
        {"changes": [["buy", 99, 1.5]]},
        {"time": "2026-01-01 00:00:00.000210Z"},
        {"time": "2026-01-01T00:00:00.000211+00:00"},
        {"time": "2026-01-01T00:00:00.0002120001Z"},
        {"time": "2026-01-01T00:00:60Z"},
        {"time": "2026-02-30T00:00:00Z"},
        {"time": "2261-12-31T23:59:59.999999999Z"},
        {"time": "soon"},
        {"time": None},
    ]:
        made.receive(frame(good | changes))
        made.receive(snapshot(200))
    for key in good:
        made.receive(frame({k: v for k, v in good.items() if k != key}))
    made.end()


@settings(max_examples=100)
@given(st.data())
def test_any_message_gives_the_same(data: st.DataObject) -> None:
    made = synced()
    us = 101
    for _ in range(data.draw(st.integers(1, 6))):
        us += data.draw(st.sampled_from([1, 1, 1, 1, 5, 0, -3]))
        made.receive(spelled(update(us, data.draw(SIDE), data.draw(SIDE)), data.draw(st.integers(0, 10**6))))
        if made.native[0].books[BTC].needs_snapshot or data.draw(st.integers(0, 5)) == 0:
            made.receive(snapshot(us))
    made.end()


@settings(max_examples=50)
@given(st.binary(max_size=300), st.text(max_size=100), st.integers(0, 400), st.integers(0, 200))
def test_any_bytes_give_the_same(junk: bytes, text: str, at: int, length: int) -> None:
    for made, good in (
        (synced(), frame(update(102, [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.5"]])).encode()),
        (numbered := joined(), l2(numbered, 102, [["99.50", "3.00000000"]], [["101.00", "0.5"]], step=0).encode()),
    ):
        made.receive(junk)
        made.receive(text)
        made.receive(good[:at] + junk + good[at + length :])
        made.receive(good.decode()[:at] + text + good.decode()[at + length :])
        made.receive(good)
        made.end()


# Advanced Trade


def envelope(events: list[Any], number: int, channel: str = "l2_data", us: int = 0) -> str:
    head = {"channel": channel, "client_id": "", "timestamp": iso(us).replace("Z", "789Z"), "sequence_num": number}
    return frame(head | {"events": events})


def rows(us: int, bids: Any, asks: Any) -> list[dict[str, str]]:
    return [
        {"side": side, "event_time": iso(us), "price_level": price, "new_quantity": quantity}
        for side, levels in (("bid", bids), ("offer", asks))
        for price, quantity in levels
    ]


def l2(
    made: Any, us: int, bids: Any = (), asks: Any = (), symbol: str = BTC, kind: str = "update", step: int = 1
) -> str:
    """The next frame of a connection."""
    number = made.number
    made.number += step
    return envelope([{"type": kind, "product_id": symbol, "updates": rows(us, bids, asks)}], number, us=us)


def joined(symbols: tuple[str, ...] = (BTC,), **options: Any) -> Twins:
    made = twins(ADVANCED, symbols, **options)
    for symbol in symbols:
        made.receive(l2(made, 100, BIDS, ASKS, symbol, "snapshot"))
        made.receive(l2(made, 101, [["99.50", "3"]], symbol=symbol))
    return made


def test_the_recording_of_advanced_trade_gives_the_same(recordings: Path) -> None:
    path = recordings / "coinbase_advanced" / "tickvault_level2_btcusd_20260824_trimmed.ndjson"
    texts = [line.text for line in read(path)]
    for seed in (None, 1, 2, 3):
        known = {BTC: Instrument(ADVANCED.venue, BTC, "BTC", "USD", "spot", Decimal("0.01"), Decimal("0.001"))}
        subscription = Subscription((BTC,), ("book",))
        made = Twins(
            lambda s=subscription, k=known: ADVANCED.feeds(s, k, ADVANCED.endpoints),  # type: ignore[misc]
            1_787_610_853_000_000_000,
            lambda _: None,
        )
        replayed(made, texts, seed)
        if seed is None:
            assert made.taken == 6  # the others are the snapshot, a confirmation, and frames without a change
        made.end()


def test_usual_frames_go_natively() -> None:
    made = joined((BTC, ETH), types=("trades", "quotes", "book"), snapshot_every=SECOND)
    assert made.taken == 2
    for n in range(101, 400):
        for symbol in (BTC, ETH, "XRP-USD"):
            made.receive(l2(made, 100_000 * n, [["99", f"{n}"], ["99.0", f"{n}.5"]], [["102.5", f"{n}.5"]], symbol))
        made.receive(l2(made, 1))
        made.receive(envelope([], made.number, "heartbeats"))
        made.number += 1  # type: ignore[attr-defined]
    assert made.taken == 2 + 299 * 2
    assert made.native[0]._sequence.last == made.pure[0]._sequence.last == made.number - 1  # type: ignore[attr-defined]
    made.receive(l2(made, 1, [["98", "1"]]))  # times may fall
    assert made.taken == 3 + 299 * 2
    made.end()


def test_a_frame_cut_off_at_any_byte_and_damaged_at_any() -> None:
    made = joined()
    damaged(made, l2(made, 102, [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.0"]]))
    made.end()
    assert made.taken >= 1


@pytest.mark.parametrize("steps", [(2,), (0, 1), (1, 0, 0), (-3, 1, 1, 1), (-2, -1, 1), (5, 1)])
def test_numbers_of_frames_are_judged(steps: tuple[int, ...]) -> None:
    made = joined()
    for n, step in enumerate(steps):
        made.number += step - 1  # type: ignore[attr-defined]
        made.receive(l2(made, 102 + n, [["99", f"{n + 1}"]]))
        made.receive(l2(made, 102 + n, BIDS, ASKS, kind="snapshot"))
        made.receive(l2(made, 103 + n, [["99", f"{n + 1}"]]))
    made.call(0, "disconnected", NOW + SECOND, "test")
    made.receive(l2(made, 300, [["99", "1"]]))
    made.number = 0  # type: ignore[attr-defined]
    taken = made.taken
    made.call(0, "connected", NOW + 2 * SECOND)
    made.number = made.native[0]._sequence.last + 1  # type: ignore[attr-defined]
    made.receive(l2(made, 301, BIDS, ASKS, kind="snapshot"))
    made.receive(l2(made, 302, [["99", "1"]]))
    assert made.taken == taken + 1
    made.end()


def test_products_that_stand_for_two() -> None:
    made = twins(ADVANCED, (BTC, USDC, ETH))
    for symbol in (BTC, ETH):
        made.receive(l2(made, 100, BIDS, ASKS, symbol, "snapshot"))
    for n in range(101, 110):
        made.receive(l2(made, n, [["99", f"{n}"]]))
    assert made.taken == 0  # it is for both
    made.receive(l2(made, 110, [["99", "1"]], symbol=USDC))  # by its own name from here on
    for n in range(111, 120):
        made.receive(l2(made, n, [["99", f"{n}"]]))
        made.receive(l2(made, n, [["99", f"{n}.5"]], symbol=USDC))
        made.receive(l2(made, n, [["99", f"{n}"]], symbol=ETH))
    assert made.taken == 1 + 2 * 9
    made.call(0, "remove", [USDC], NOW)
    made.receive(l2(made, 130, [["99", "1"]]))
    made.call(0, "add", [USDC], NOW)
    made.receive(l2(made, 131, [["99", "1"]]))
    made.end()
    # Added later, it takes the product's messages away from the native way.
    known = {
        s: Instrument(ADVANCED.venue, s, *s.split("-"), "spot", Decimal("0.01"), Decimal("0.001")) for s in (BTC, USDC)
    }
    late = Twins(
        lambda: ADVANCED.feeds(Subscription((BTC,), ("book",)), known, ADVANCED.endpoints), NOW, lambda _: None
    )
    late.number = 0  # type: ignore[attr-defined]
    late.receive(l2(late, 100, BIDS, ASKS, kind="snapshot"))
    late.receive(l2(late, 101, [["99", "1"]]))
    assert late.taken == 1
    late.call(0, "add", [USDC], NOW)
    late.receive(l2(late, 102, BIDS, ASKS, kind="snapshot"))
    late.receive(l2(late, 103, [["99", "2"]]))
    assert late.taken == 1
    assert len([r for r in late.records if isinstance(r, BookDelta)]) == 3
    late.end()


def test_other_forms_of_the_same_frame() -> None:
    made = joined()
    for seed in range(60):
        made.receive(spelled(json.loads(l2(made, 102 + seed, [["99", "1"]], [["101.5", "2"]])), seed))
    event = {"type": "update", "product_id": BTC, "updates": rows(200, [["99", "1"]], [])}
    row = event["updates"][0]
    for events in [
        [event, event],
        [event | {"updates": [row | {"side": "ask", "price_level": "102"}, row | {"event_time": iso(500)}]}],
        [event | {"updates": [row | {"event_time": ""}, row]}],
        [event | {"updates": [row | {"event_time": "1970-01-01T00:00:00Z"}]}],
        [event | {"updates": [{k: v for k, v in row.items() if k != "event_time"}]}],
        [event | {"updates": [{k: v for k, v in row.items() if k != "side"}]}],
        [event | {"updates": [row | {"side": "buy"}]}],
        [event | {"updates": [row | {"event_time": "never"}]}],
        [event | {"type": "other"}],
        [],
    ]:
        made.receive(envelope(events, made.number))
        made.number += 1  # type: ignore[attr-defined]
        made.receive(l2(made, 300, BIDS, ASKS, kind="snapshot"))
        made.receive(l2(made, 301, [["99", "7"]]))
    made.end()


def test_keys_that_are_new_in_a_frame_are_counted_and_then_passed_over() -> None:
    made = joined()
    for n in range(102, 320):
        message = json.loads(l2(made, n, [["99", str(n)]]))
        where = [message, message["events"][0], message["events"][0]["updates"][0]][n % 3]
        where["zz"] = {"e": [n, None, 1.5e3, True]}
        made.receive(frame(message))
    assert 100 < made.taken < 130
    taken = made.taken
    made.receive(frame({"zz": {"channel": "ticker"}} | json.loads(l2(made, 320, [["99", "7"]]))))
    assert made.taken == taken
    made.end()


@settings(max_examples=100)
@given(st.data())
def test_any_frame_gives_the_same(data: st.DataObject) -> None:
    made = joined()
    for n in range(data.draw(st.integers(1, 6))):
        made.number += data.draw(st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1]))  # type: ignore[attr-defined]
        text = l2(made, 102 + n, data.draw(SIDE), data.draw(SIDE))
        made.receive(spelled(json.loads(text), data.draw(st.integers(0, 10**6))))
        if made.native[0].books[BTC].needs_snapshot or data.draw(st.integers(0, 5)) == 0:
            made.receive(l2(made, 103 + n, BIDS, ASKS, kind="snapshot"))
    made.end()
