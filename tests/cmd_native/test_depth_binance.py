"""Binance's depth messages natively and in Python: the same frames, and everything that comes out is the same."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from decimal import Decimal
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cmd_native.depth_twins import Twins
from tests.conftest import require

import cmd_binance
from cmd_binance import BinanceExchange
from cmd_common import native
from cmd_common.builder import OrderBookBuilder
from cmd_common.errors import DataError
from cmd_common.feed import Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.orderbook import OrderBook, PureOrderBook
from cmd_common.recording import read
from cmd_common.records import BookDelta, BookSnapshot
from cmd_common.sequence import BookState


@pytest.fixture(scope="module", autouse=True)
def native_runs() -> None:
    require("native", find_spec("cmd_native") is not None, "install cmd-native")
    require("native", native, "leave CMD_PURE alone")


SPOT, USDM, COINM = cmd_binance.SPOT, cmd_binance.USDM, cmd_binance.COINM
SECOND = 1_000_000_000
NOW = 1_767_225_600 * SECOND
MS = NOW // 1_000_000


def twins(
    exchange: BinanceExchange,
    symbols: tuple[str, ...] = ("BTCUSDT",),
    types: tuple[str, ...] = ("book",),
    tick: str = "0.01",
    **options: Any,
) -> Twins:
    instruments = {s: Instrument(exchange.venue, s, "B", "Q", "spot", Decimal(tick), Decimal("0.001")) for s in symbols}
    subscription = Subscription(symbols, types, **options)

    def reply(action: Send) -> str:
        return json.dumps({"result": None, "id": json.loads(action.frame)["id"]})

    return Twins(lambda: exchange.feeds(subscription, instruments, exchange.endpoints), NOW, reply)


# Recordings


class Played:
    """Plays a recording to twins; requests are answered from an undamaged book of its own."""

    def __init__(self, exchange: BinanceExchange, symbol: str, **options: Any) -> None:
        self.symbol = symbol
        self.twins = twins(exchange, (symbol,), ("trades", "quotes", "book"), **options)
        self.truth: PureOrderBook | None = None
        self.early: list[dict[str, Any]] = []
        self.events = 0
        self.given = 0

    def true_delta(self, event: dict[str, Any]) -> None:
        if self.truth is None:
            self.early.append(event)
        elif event["u"] > self.truth.last_id:
            self.truth.apply(
                [(float(p), float(q)) for p, q in event["b"]], [(float(p), float(q)) for p, q in event["a"]]
            )
            self.truth.last_id = event["u"]

    def answer(self) -> None:
        while self.truth is not None and self.twins.wanted:
            self.twins.wanted.pop()
            sides = {
                name: [[repr(p), repr(q)] for p, q in side]
                for name, side in (("bids", self.truth.bids()), ("asks", self.truth.asks()))
            }
            self.twins.answer(self.symbol, json.dumps({"lastUpdateId": self.truth.last_id, **sides}).encode())

    def play(self, path: Path, rng: random.Random | None = None, most: int = 100_000) -> None:
        held: str | bytes | None = None
        for line in read(path):
            self.twins.now = line.recv_ns or self.twins.now + 1
            if line.src == "rest" and line.url and f"/depth?symbol={self.symbol}" in line.url and self.truth is None:
                body = json.loads(line.text)
                self.truth = PureOrderBook()
                self.truth.load(*([(float(p), float(q)) for p, q in body[side]] for side in ("bids", "asks")))
                self.truth.last_id = body["lastUpdateId"]
                for event in self.early:
                    self.true_delta(event)
                self.answer()
            if line.src != "ws" or self.events >= most:
                continue
            if '"depthUpdate"' in line.text:
                message = json.loads(line.text)
                event = message.get("data", message)
                if event["s"] != self.symbol:
                    continue
                self.events += 1
                self.true_delta(event)
                draw = rng.random() if rng is not None else 1.0
                if draw < 0.01:
                    continue
                if draw < 0.02:
                    held = line.text
                    continue
                if draw < 0.03:
                    self.twins.receive(line.text[: int(draw * 1e6) % len(line.text)])
                elif draw < 0.06:
                    self.twins.receive(line.text)
            self.given += '"depthUpdate"' in line.text
            self.twins.receive(line.text if self.events % 2 else line.text.encode())
            if held is not None:
                self.twins.receive(held)
                held = None
            self.answer()
        self.twins.end()


RECORDED = [
    (SPOT, "binance_spot/hft_btcusdt_20240808_first40s.ndjson", "BTCUSDT"),
    (USDM, "binance_usdm/hft_btcusdt_20240808_first12s.ndjson", "BTCUSDT"),
    (COINM, "binance_coinm/hft_btcusd_perp_20240808_first15s.ndjson", "BTCUSD_PERP"),
    (SPOT, "binance_spot/hft_btcusdt_20240808.ndjson.gz", "BTCUSDT"),
]


@pytest.mark.parametrize(("exchange", "name", "symbol"), RECORDED)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_recordings_give_the_same(
    recordings: Path, exchange: BinanceExchange, name: str, symbol: str, seed: int | None
) -> None:
    played = Played(exchange, symbol, tick="0.1" if exchange is not SPOT else "0.01")
    played.play(recordings / name, random.Random(seed) if seed else None, most=1500)
    assert played.events > 20
    deltas = [r for r in played.twins.records if isinstance(r, BookDelta)]
    assert deltas
    if seed is None:
        # All but those that came before the book, the first one behind it included.
        live = next(iter(played.twins.native[0].books.values())).applied
        assert played.twins.taken >= 0.95 * live > 0
    else:
        assert played.twins.taken > 0


def test_a_book_without_deltas_and_one_of_several_symbols() -> None:
    made = twins(SPOT, ("BTCUSDT", "ETHUSDT", "\u5e01USDT"), snapshot_every=1_000_000_000, options={"deltas": "off"})
    for symbol in ("BTCUSDT", "ETHUSDT", "\u5e01USDT"):
        made.answer(symbol, body(100))
    for n in range(101, 160):
        symbol = ("BTCUSDT", "ETHUSDT", "\u5e01USDT", "XRPUSDT")[n % 4]
        event = depth(100 if n < 105 else n - 3, n, [["99", "2"]], [[f"1{n}", "1"]], s=symbol, E=MS + 100 * n)
        made.receive(json.dumps({"stream": "x", "data": event}, separators=(",", ":"), ensure_ascii=False))
    assert made.taken > 30
    assert any(isinstance(r, BookSnapshot) for r in made.records)
    made.call(0, "remove", ["ETHUSDT"], NOW)
    made.receive(frame(depth(157, 165, [["98", "2"]], s="ETHUSDT")))
    made.receive(frame(depth(157, 165, [["98", "2"]])))
    made.end()


# Made-up messages


def depth(first: int, last: int, bids: object = (), asks: object = (), **changes: object) -> dict[str, object]:
    event = {"e": "depthUpdate", "E": MS + last, "s": "BTCUSDT", "U": first, "u": last, "b": bids, "a": asks}
    return event | changes


def frame(event: object) -> str:
    return json.dumps({"stream": "btcusdt@depth@100ms", "data": event}, separators=(",", ":"))


def body(last: int) -> bytes:
    bids = [[f"{100 - i * 0.5:.2f}", "1"] for i in range(20)]
    asks = [[f"{101 + i * 0.5:.2f}", "1"] for i in range(20)]
    return json.dumps({"lastUpdateId": last, "bids": bids, "asks": asks}).encode()


def synced(exchange: BinanceExchange = SPOT, **options: Any) -> Twins:
    made = twins(exchange, **options)
    made.answer("BTCUSDT", body(100))
    first = depth(95, 101, [["99.50", "3"]], [], **({"pu": 90, "T": MS} if exchange is not SPOT else {}))
    made.receive(frame(first))
    assert made.taken == 1
    return made


def futures(first: int, last: int, prev: int, *sides: object) -> str:
    return frame(depth(first, last, *sides, pu=prev, T=MS + last))


@pytest.mark.parametrize("exchange", [SPOT, USDM])
def test_a_message_cut_off_at_any_byte_and_damaged_at_any(exchange: BinanceExchange) -> None:
    made = synced(exchange)
    levels = [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.00000000"], ["101.50", "12345.678"]]
    text = futures(102, 110, 101, *levels) if exchange is USDM else frame(depth(102, 110, *levels))
    rng = random.Random(1)
    for end in range(len(text)):
        made.receive(text[:end])
        made.receive(text[:end].encode())
        made.receive(text[:end] + rng.choice('0"\\ ,]}x\x00\u20ac') + text[end + 1 :])
        made.receive(text.encode()[:end] + bytes([rng.randrange(256)]) + text.encode()[end + 1 :])
    made.receive(text)
    made.receive(text)
    made.end()
    assert made.taken >= 1


def test_the_rules_at_their_edges() -> None:
    for first, last in [(101, 101), (100, 102), (102, 103), (103, 104), (90, 100), (101, 100)]:
        made = twins(SPOT)
        made.answer("BTCUSDT", body(100))
        made.receive(frame(depth(first, last, [["99", "1"]])))
        made.receive(frame(depth(last + 1, last + 5, [["98", "1"]])))
        made.receive(frame(depth(last + 7, last + 9, [["98", "1"]])))
        made.end()
    for first, last, prev in [(90, 100, 89), (100, 105, 99), (101, 105, 100), (101, 105, 99), (90, 99, 80)]:
        made = twins(USDM)
        made.answer("BTCUSDT", body(100))
        made.receive(futures(first, last, prev, [["99", "1"]], []))
        made.receive(futures(last + 1, last + 5, last, [["98", "1"]], []))
        made.receive(frame(depth(last + 6, last + 9, [["98", "1"]], T=MS)))  # without pu
        made.receive(futures(last + 10, last + 12, last + 5, [["98", "1"]], []))
        made.receive(futures(last + 10, last + 12, last + 11, [["98", "1"]], []))
        made.end()


def test_books_that_are_crossed_empty_or_leave_what_is_known() -> None:
    for bids, asks in [
        ([["101", "1"]], []),
        ([[f"{100 - i * 0.5:.2f}", "0"] for i in range(20)], []),
        ([], [[f"{101 + i * 0.5:.2f}", "0"] for i in range(19)]),
        ([["1e2", "1"]], [["101.0", "5"]]),
    ]:
        made = synced(options={"snapshot_limit": "20"})
        made.receive(frame(depth(102, 102, bids, asks)))
        made.receive(frame(depth(103, 103, [["99", "1"]])))
        while made.wanted:
            made.wanted.pop()
            made.answer("BTCUSDT", body(103))
        made.receive(frame(depth(104, 104, [["99", "2"]])))
        made.end()


def test_the_thousandth_message_is_looked_at() -> None:
    made = synced()
    for n in range(102, 2300):
        made.receive(frame(depth(n, n, [["99", f"{n}"]], [["102", f"{n}.5"]])))
    assert made.taken == 2199
    made.end()


def test_keys_that_are_new_are_counted_and_then_passed_over() -> None:
    made = synced()
    for n in range(102, 320):
        event = depth(n, n, [["99", str(n)]])
        made.receive(frame(event | {"zz": {"e": [n, None, 1.5e3, True]}} if n % 2 else {"zz": n} | event))
    # From the hundredth on they go natively again, but those where Python would find another event.
    assert 100 < made.taken < 130
    made.receive(frame({"zz": {"e": "trade"}} | depth(320, 320, [["99", "7"]])))
    made.receive(json.dumps({"new": 1, "data": depth(321, 321, [["99", "8"]])}))
    made.end()


VARIANTS = st.fixed_dictionaries(
    {
        "order": st.permutations(range(7)),
        "space": st.sampled_from(["", "", " ", "\n\t "]),
        "wrap": st.sampled_from(["stream", "last", "data", "bare"]),
        "bytes": st.booleans(),
        "odd": st.sampled_from([*[""] * 8, "unknown", "twice", "escape", "exponent", "null", "text", "deep", "float"]),
    }
)
PRICES = st.one_of(
    st.integers(8_000, 12_000).map(lambda n: f"{n / 100:.2f}"),
    st.sampled_from(
        ["99.005", "100.0000000000000001", "0.00000001", "99999999999999.99", "123456789012345678901", "99"]
    ),
    st.decimals(Decimal("0.01"), 1000, places=8).map(str),
)
QUANTITIES = st.one_of(
    st.just("0.00000000"),
    st.integers(0, 10**12).map(lambda n: f"{n / 1e8:.8f}"),
    st.sampled_from(["0", "1", "1e3", "-1", "nan", "00", "1.", ".5", "12345678901234567.123", "1E-7", "", "\u0661"]),
)
SIDE = st.lists(st.tuples(PRICES, QUANTITIES).map(list), max_size=6)


def written(event: dict[str, Any], how: dict[str, Any]) -> str | bytes:
    """An event as JSON in one of many ways."""
    keys = list(event)
    keys = [keys[i] for i in how["order"] if i < len(keys)] + keys[7:]
    parts = [(k, json.dumps(event[k], separators=("," + how["space"], ":"))) for k in keys]
    match how["odd"]:
        case "unknown":
            parts.insert(3, ("zz", '[1,{"b":"x"}]'))
        case "twice":
            parts.insert(5, parts[2])
        case "escape":
            parts = [(k, v.replace("BTC", "B\\u0054C")) for k, v in parts]
        case "exponent":
            parts = [(k, f"{v}e0" if k == "u" else v) for k, v in parts]
        case "null":
            parts.append(("pu", "null"))
        case "text":
            parts = [(k, f'"{v}"' if k == "U" else v) for k, v in parts]
        case "deep":
            parts.append(("zz", "[" * 80 + "]" * 80))
        case "float":
            parts = [(k, f"{v}.0" if k == "E" else v) for k, v in parts]
    s = how["space"]
    inner = "{" + s + f",{s}".join(f'"{k}"{s}:{s}{v}' for k, v in parts) + s + "}"
    stream = '"stream":"btcusdt@depth"'
    text = {
        "stream": f'{{{stream},{s}"data":{inner}}}',
        "last": f'{{"data":{inner},{stream}}}{s}',
        "data": f'{s}{{"data":{s}{inner}}}',
        "bare": inner,
    }[how["wrap"]]
    return text.encode() if how["bytes"] else text


@settings(max_examples=150)
@given(st.data(), st.booleans())
def test_any_message_gives_the_same(data: st.DataObject, spot: bool) -> None:
    made = synced(SPOT if spot else USDM)
    last = 101
    for _ in range(data.draw(st.integers(1, 6))):
        step = data.draw(st.sampled_from([1, 1, 1, 1, 5, 0, -3]))
        first = last + step if spot else last + 3
        end = first + data.draw(st.integers(0, 4))
        event = depth(first, end, data.draw(SIDE), data.draw(SIDE))
        if not spot:
            event |= {"pu": last if step == 1 else last + step, "T": MS}
        made.receive(written(event, data.draw(VARIANTS)))
        last = made.native[0].books["BTCUSDT"].last_id
        if made.wanted and data.draw(st.booleans()):
            made.wanted.clear()
            made.answer("BTCUSDT", body(end))
            last = max(last, end)
    made.end()


@settings(max_examples=60)
@given(st.binary(max_size=300), st.text(max_size=100), st.integers(0, 400), st.integers(0, 200))
def test_any_bytes_give_the_same(junk: bytes, text: str, at: int, length: int) -> None:
    made = synced()
    good = frame(depth(102, 110, [["99.50", "3.00000000"], ["98", "0"]], [["101.00", "0.5"]])).encode()
    made.receive(junk)
    made.receive(text)
    made.receive(good[:at] + junk + good[at + length :])
    made.receive(good.decode()[:at] + text + good.decode()[at + length :])
    made.receive(good)
    made.end()


# The simulation, and the decoder without a feed


RUN = """
import sys
from sim_options import expand
from sim_run import run_options
from cmd_common import native
digests = [run_options(expand(seed))[1] for seed in (1, 2, 3, 4)]
print(native, *digests)
"""


@cache
def simulated(pure: str) -> list[str]:
    folder = Path(__file__).parents[1] / "simulation"
    env = os.environ | {"CMD_PURE": pure, "PYTHONPATH": str(folder)}
    ran = subprocess.run([sys.executable, "-c", RUN], env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_the_simulation_goes_the_same_way() -> None:
    natively, pure = simulated(""), simulated("1")
    assert (natively[0], pure[0]) == ("True", "False")
    assert natively[1:] == pure[1:]


@pytest.mark.parametrize("exchange", [SPOT, USDM])
def test_a_decoder_without_a_feed(exchange: BinanceExchange) -> None:
    decoder = exchange.book_decoder()
    assert decoder.native
    builders = []
    for book in (OrderBook(Decimal("0.01"), symbol="BTCUSDT"), PureOrderBook(symbol="ETHUSDT")):
        builder = OrderBookBuilder(book, exchange.sequence_rule, snapshot_levels=20)  # type: ignore[arg-type]
        decoder.add(builder)
        builder.start()
        snapshot = json.loads(body(100))
        sides = ([(float(p), float(q)) for p, q in snapshot[side]] for side in ("bids", "asks"))
        assert builder.snapshot(100, *sides, complete=True).live
        builders.append(builder)
    fast, pure = builders
    last = 100
    for n in range(101, 1300):
        for builder, symbol in ((fast, "BTCUSDT"), (pure, "ETHUSDT")):
            event = depth(last + 1, n, [["99.25", str(n)]], [], s=symbol, pu=last, T=MS + n)
            event |= {"zz": 1} if n % 3 == 0 else {}
            text = frame(event) if n % 2 else json.dumps(event)
            if n % 5:
                assert decoder.take(text) is builder.book
            else:
                assert decoder.top(text) == builder.book.top == (100.0, 1.0, 101.0, 1.0)
        last = n
        assert state_of_pair(fast) == state_of_pair(pure)
    assert fast.book.best_bid == (100.0, 1.0)
    assert decoder.take(frame(depth(5, 6, s="XRPUSDT"))) is None
    assert decoder.take('{"result":null,"id":1}') is None
    assert decoder.top('{"result":null,"id":1}') is None
    with pytest.raises(DataError):
        decoder.take(frame(depth(last + 1, last + 1, [["x", "1"]])))
    assert decoder.take(frame(depth(last + 5, last + 6, [["99", "1"]], pu=last + 4))) is None
    assert (fast.state, fast.gap_reason) == (BookState.STALE, "sequence")
    decoder.remove("ETHUSDT")
    assert decoder.take(frame(depth(last + 1, last + 1, [["99", "1"]], s="ETHUSDT", pu=last))) is None


def state_of_pair(builder: OrderBookBuilder) -> tuple[object, ...]:
    book = builder.book
    builder.check()
    return builder.applied, book.last_id, book.ts_event, book.state, book.bids(), book.asks()
