"""Trades and quotes natively and in Python: the same frames, and everything that comes out is the same."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cmd_native.depth_forms import PRICES, QUANTITIES, spelled
from tests.conftest import require

import cmd_binance
from cmd_binance import BinanceExchange
from cmd_binance._ticks import parser
from cmd_common import native
from cmd_common.errors import DataError, UsageError
from cmd_common.recording import read
from cmd_common.records import SIDES, AggTrade, Quote, Trade
from cmd_common.ticks import COLUMNS, TABLES, Tick, TickColumns, TickDecoder

EXCHANGES = [cmd_binance.SPOT, cmd_binance.USDM, cmd_binance.COINM]
NOW = 1_767_225_600_000_000_000
TABLE_OF = {Trade: "trades", AggTrade: "agg_trades", Quote: "quotes"}


@pytest.fixture(scope="module", autouse=True)
def native_runs() -> None:
    require("native", find_spec("cmd_native") is not None, "install cmd-native")
    require("native", native, "leave CMD_PURE alone")


def pure(exchange: BinanceExchange) -> TickDecoder:
    return TickDecoder(exchange.venue, parser(exchange.venue), native=False)


def outcome(decoder: TickDecoder, frame: str | bytes, now: int = NOW) -> Tick | str | None:
    try:
        return decoder.record(frame, now)
    except DataError as error:
        return error.message


def rows(columns: TickColumns, venue: str) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each table, with words for codes."""
    found = {}
    for table in TABLES:
        parts = columns.tables[table]
        assert tuple(parts) == tuple(name for name, _ in COLUMNS[table])
        assert [part.format for part in parts.values()] == [kind for _, kind in COLUMNS[table]]
        assert {len(part) for part in parts.values()} == {columns.rows(table)}
        listed = {name: part.tolist() for name, part in parts.items()}
        listed["symbol"] = [columns.symbols[code] for code in listed["symbol"]]
        if "side" in listed:
            listed["side"] = [SIDES[code] for code in listed["side"]]
        found[table] = list(zip(*listed.values(), strict=True))
    return found


def row(record: Tick) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name, _ in COLUMNS[TABLE_OF[type(record)]])


def agree(exchange: BinanceExchange, frames: list[str | bytes]) -> dict[str, int]:
    """Compare records and columns of both ways; how many rows of each table there were."""
    fast, slow = exchange.tick_decoder(), pure(exchange)
    assert fast.native
    assert not slow.native
    records = []
    for n, frame in enumerate(frames):
        found = outcome(slow, frame, NOW + n)
        assert outcome(fast, frame, NOW + n) == found
        if not isinstance(found, str):
            records.append((frame, NOW + n, found))
    good = [frame for frame, _, _ in records]
    times = [now for _, now, _ in records]
    columns = [decoder.columns(good, times) for decoder in (fast, slow)]
    wanted: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
    for _, _, record in records:
        if record is not None:
            wanted[TABLE_OF[type(record)]].append(row(record))
    for one in columns:
        assert rows(one, exchange.venue) == wanted
        assert one.passed == [n for n, (_, _, record) in enumerate(records) if record is None]
    return {table: len(found) for table, found in wanted.items()}


# Recordings


FRAMES = 20_000  # of each recording


def frames_of(path: Path) -> list[str | bytes]:
    return [line.text for line in islice(read(path), FRAMES)]


def test_every_recorded_message(recordings: Path) -> None:
    total = dict.fromkeys(TABLES, 0)
    for folder, exchange in (("spot", EXCHANGES[0]), ("usdm", EXCHANGES[1]), ("coinm", EXCHANGES[2])):
        for path in sorted((recordings / f"binance_{folder}").glob("*.ndjson*")):
            for table, count in agree(exchange, frames_of(path)).items():
                total[table] += count
    assert all(count > 50 for count in total.values()), total


def test_most_recorded_messages_are_decoded_natively(recordings: Path) -> None:
    from cmd_common.ticks import native_path

    path = native_path("binance-spot", 1 << 20)
    assert path is not None
    found = given = 0
    for file in sorted((recordings / "binance_spot").glob("*.ndjson*")):
        for frame in frames_of(file):
            record = outcome(pure(EXCHANGES[0]), frame)
            if isinstance(record, Trade | AggTrade | Quote):
                given += 1
                found += path.take(frame, NOW) is not None
    assert given > 1000
    assert found > 0.99 * given


# Made-up messages

IDS = st.one_of(st.integers(0, 1 << 40), st.sampled_from([-1, -2, 1 << 62, (1 << 62) - 1, 1 << 63, 10**20]))
TIMES = st.one_of(
    st.integers(1_500_000_000_000, 1_900_000_000_000),
    st.integers(1_500_000_000_000_000, 1_900_000_000_000_000),
    st.sampled_from([0, -1, 1, 9_199_999_999_999, 9_200_000_000_000, 99_999_999_999_999, 9_200_000_000_000_000]),
)
NUMBERS = st.one_of(PRICES, QUANTITIES, st.sampled_from(["0", "1234567.890123456", "123456789012345", "1e400"]))
SYMBOLS = st.sampled_from(["BTCUSDT", "ETHUSDT", "币安人生USDT", "A" * 40, ""])


@st.composite
def trades(draw: st.DrawFn) -> dict[str, Any]:
    event = {
        "e": "trade", "E": draw(TIMES), "s": draw(SYMBOLS), "t": draw(IDS), "p": draw(NUMBERS), "q": draw(NUMBERS),
        "T": draw(TIMES), "m": draw(st.booleans()),
    }  # fmt: skip
    extra = {"M": draw(st.booleans()), "X": draw(st.sampled_from(["MARKET", "ADL", "NA"])), "st": 1, "ps": "BTCUSD"}
    return event | {key: extra[key] for key in draw(st.sets(st.sampled_from(sorted(extra))))}


@st.composite
def aggregates(draw: st.DrawFn) -> dict[str, Any]:
    event = {
        "e": "aggTrade", "E": draw(TIMES), "s": draw(SYMBOLS), "a": draw(IDS), "p": draw(NUMBERS), "q": draw(NUMBERS),
        "f": draw(IDS), "l": draw(IDS), "T": draw(TIMES), "m": draw(st.booleans()),
    }  # fmt: skip
    extra = {"M": True, "nq": draw(NUMBERS)}
    return event | {key: extra[key] for key in draw(st.sets(st.sampled_from(sorted(extra))))}


@st.composite
def quotes(draw: st.DrawFn) -> dict[str, Any]:
    event = {"u": draw(IDS), "s": draw(SYMBOLS)} | {key: draw(NUMBERS) for key in "bBaA"}
    future = {"e": "bookTicker", "T": draw(TIMES), "E": draw(TIMES)}
    return (future | event) if draw(st.booleans()) else event


@st.composite
def messages(draw: st.DrawFn) -> str | bytes:
    event = draw(st.one_of(trades(), aggregates(), quotes()))
    message: dict[str, Any] = event
    if draw(st.booleans()):
        message = {"stream": "btcusdt@x", "data": event}
        if draw(st.integers(0, 9)) == 0:
            del message["stream"]
    text = spelled(message, draw(st.integers(0, 1 << 30)))
    if draw(st.integers(0, 9)) == 0:  # cut, or a byte of it changed
        at = draw(st.integers(0, max(len(text) - 1, 0)))
        if draw(st.booleans()):
            return text[:at]
        byte = draw(st.sampled_from('"{}[]:,\\ 019-.eE\x00'))
        return (
            text[:at] + byte + text[at + 1 :] if isinstance(text, str) else text[:at] + byte.encode() + text[at + 1 :]
        )
    return text


@given(st.lists(messages(), max_size=12), st.sampled_from(EXCHANGES))
def test_made_up_messages(frames: list[str | bytes], exchange: BinanceExchange) -> None:
    agree(exchange, frames)


@given(st.lists(messages(), min_size=1, max_size=12))
def test_the_feed_gives_the_same_records(frames: list[str | bytes]) -> None:
    """Two feeds, of which one has no native decoder, count and say the same of every frame."""
    from decimal import Decimal

    from cmd_common.feed import Subscription
    from cmd_common.instruments import Instrument

    exchange = EXCHANGES[1]
    names = ("BTCUSDT", "ETHUSDT")
    instruments = {
        s: Instrument(exchange.venue, s, "B", "Q", "linear", Decimal("0.01"), Decimal("0.001")) for s in names
    }
    both = []
    for _ in range(2):
        subscription = Subscription(names, ("trades", "agg_trades", "quotes"))
        both.append(list(exchange.feeds(subscription, instruments, exchange.endpoints)))
    for feed in both[1]:
        assert feed._ticks is not None  # type: ignore[attr-defined]
        feed._ticks = None  # type: ignore[attr-defined]
    for fast, slow in zip(*both, strict=True):
        fast.connected(NOW)
        slow.connected(NOW)
        for n, frame in enumerate(frames):
            one, other = fast.receive(frame, NOW + n), slow.receive(frame, NOW + n)
            assert (one.records, one.actions) == (other.records, other.actions)
        assert fast.counters == slow.counters


def test_columns_are_of_the_messages_time_or_of_one_for_all() -> None:
    decoder = EXCHANGES[0].tick_decoder()
    frames: list[str | bytes] = [
        json.dumps({"u": n, "s": "X", "b": "1", "B": "2", "a": "3", "A": "4"}) for n in range(3)
    ]
    assert decoder.columns(frames, 5).tables["quotes"]["ts_recv"].tolist() == [5, 5, 5]
    assert decoder.columns(frames, [7, 8, 9]).tables["quotes"]["ts_event"].tolist() == [7, 8, 9]
    assert decoder.columns([], 5).rows("trades") == 0
    for some in (decoder, pure(EXCHANGES[0])):
        with pytest.raises(UsageError, match="3 messages came at 2 times"):
            some.columns(frames, [1, 2])
        with pytest.raises(DataError, match="cannot be read"):
            some.columns([*frames, "{"], 5)


def test_columns_are_arrays_of_numpy_without_a_copy() -> None:
    import numpy as np

    frame = json.dumps({"u": 1, "s": "X", "b": "1.5", "B": "2", "a": "3", "A": "4"})
    column = EXCHANGES[0].tick_decoder().columns([frame], NOW).tables["quotes"]["bid_price"]
    array = np.asarray(column)
    assert array.dtype == np.float64
    assert array.tolist() == [1.5]
    assert np.shares_memory(array, np.frombuffer(column))


def test_a_frame_beyond_the_limit_is_damage_either_way() -> None:
    frame = '{"e":"trade","s":"' + "x" * (17 << 20) + '"}'
    for decoder in (EXCHANGES[0].tick_decoder(), pure(EXCHANGES[0])):
        assert "at most" in str(outcome(decoder, frame))


def test_without_cmd_native_the_same_comes_out() -> None:
    rng = random.Random(1)
    frames = [
        json.dumps(
            {
                "e": "trade",
                "E": 1_700_000_000_000,
                "s": "X",
                "t": n,
                "p": f"{rng.random():.4f}1",
                "q": "2",
                "T": 1_700_000_000_000,
                "m": True,
            }
        )
        for n in range(20)
    ]
    program = (
        "import sys, json\nfrom cmd_binance import SPOT\nd = SPOT.tick_decoder()\nassert not d.native\n"
        "print(json.dumps([d.record(f, 5).price for f in json.loads(sys.stdin.read())]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(frames),
        env={**os.environ, "CMD_PURE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    decoder = EXCHANGES[0].tick_decoder()
    assert json.loads(done.stdout) == [decoder.record(f, 5).price for f in frames]  # type: ignore[union-attr]
