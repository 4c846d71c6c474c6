"""Trades and quotes: from the bytes of a message to a record, and from many messages to columns.

Ours natively (as feeds call it, and through a whole feed), in pure Python, and as columns; beside typed msgspec and
orjson that make the same record. Every round runs each competitor once, interleaved, in fresh processes; the medians of
the process's CPU time are compared. Each result is compared with what the generator knows, outside the clock.

    python benchmarks/ticks.py [--rounds 7] [--messages 40000] [--seed 1]

Writes its results into benchmarks/results/latest.json, ids TK1 (trades) and TK2 (quotes).
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
from harness import entry, environment, save, show  # noqa: E402

NOW = 1_748_822_400_000_000_000
Rows = list[tuple[Any, ...]]
WORDS = {"TK1": "a trade's message to its record, us", "TK2": "a quote's message to its record, us"}


def stream(kind: str, messages: int, seed: int) -> tuple[list[bytes], Rows]:
    """Frames of a combined stream of Binance's spot market, and (id, first number, second number) of each."""
    rng = random.Random(seed)
    frames, rows = [], []
    price = 104_000.0
    for n in range(messages):
        price = round(price + rng.choice((-0.01, 0.0, 0.01)), 2)
        quantity = rng.randrange(1, 10**8) / 1e5
        texts = f"{price:.8f}", f"{quantity:.8f}"
        if kind == "TK1":
            event = (
                f'{{"e":"trade","E":{NOW // 10**6 + n},"s":"BTCUSDT","t":{n},"p":"{texts[0]}","q":"{texts[1]}",'
                f'"T":{NOW // 10**6 + n},"m":{"true" if n % 2 else "false"},"M":true}}'
            )
            name = "btcusdt@trade"
        else:
            event = (
                f'{{"u":{n},"s":"BTCUSDT","b":"{texts[0]}","B":"{texts[1]}","a":"{price + 0.01:.8f}","A":"1.00000000"}}'
            )
            name = "btcusdt@bookTicker"
        frames.append(f'{{"stream":"{name}","data":{event}}}'.encode())
        rows.append((n, float(texts[0]), float(texts[1])))
    return frames, rows


Way = Callable[[list[bytes]], Rows]


def _row(record: Any) -> tuple[Any, ...]:
    if hasattr(record, "trade_seq"):
        return record.trade_seq, record.price, record.quantity
    return record.seq, record.bid_price, record.bid_quantity


def timed(take: Callable[[bytes], Any], frames: list[bytes]) -> tuple[float, list[Any]]:
    kept: list[Any] = []
    keep = kept.append
    start = time.process_time_ns()
    for frame in frames:
        keep(take(frame))
    return (time.process_time_ns() - start) / len(frames) / 1000, kept


def ours(kind: str, frames: list[bytes]) -> tuple[float, Rows]:
    from cmd_binance import SPOT

    record = SPOT.tick_decoder().record
    used, kept = timed(lambda frame: record(frame, NOW), frames)
    return used, [_row(r) for r in kept]


def columns(kind: str, frames: list[bytes]) -> tuple[float, Rows]:
    from cmd_binance import SPOT

    decoder = SPOT.tick_decoder()
    start = time.process_time_ns()
    found = decoder.columns(frames, NOW)
    used = (time.process_time_ns() - start) / len(frames) / 1000
    names = ("trade_seq", "price", "quantity") if kind == "TK1" else ("seq", "bid_price", "bid_quantity")
    table = found.tables["trades" if kind == "TK1" else "quotes"]
    return used, list(zip(*(table[name].tolist() for name in names), strict=True))


def feed(kind: str, frames: list[bytes]) -> tuple[float, Rows]:
    from decimal import Decimal

    from cmd_binance import SPOT
    from cmd_common.feed import Send, Subscription
    from cmd_common.instruments import Instrument

    instruments = {"BTCUSDT": Instrument(SPOT.venue, "BTCUSDT", "BTC", "USDT", "spot", Decimal("0.01"), Decimal(1))}
    (one,) = SPOT.feeds(
        Subscription(("BTCUSDT",), ("trades" if kind == "TK1" else "quotes",)), instruments, SPOT.endpoints
    )
    for action in one.connected(NOW).actions:
        if isinstance(action, Send):
            one.receive(json.dumps({"result": None, "id": json.loads(action.frame)["id"]}), NOW)
    receive = one.receive
    used, kept = timed(lambda frame: receive(frame, NOW).records, frames)
    return used, [_row(r) for records in kept for r in records]


class TradeEvent(msgspec.Struct, gc=False):
    s: str
    t: int
    p: float
    q: float
    T: int
    m: bool


class QuoteEvent(msgspec.Struct, gc=False):
    s: str
    u: int
    b: float
    B: float
    a: float
    A: float


class TradeFrame(msgspec.Struct, gc=False):
    data: TradeEvent


class QuoteFrame(msgspec.Struct, gc=False):
    data: QuoteEvent


def msgspec_struct(kind: str, frames: list[bytes]) -> tuple[float, Rows]:
    from cmd_common.records import Quote, Trade

    trades = msgspec.json.Decoder(TradeFrame, strict=False).decode
    quotes = msgspec.json.Decoder(QuoteFrame, strict=False).decode

    def trade(frame: bytes) -> Trade:
        d = trades(frame).data
        return Trade(d.T * 1_000_000, NOW, "binance-spot", d.s, str(d.t), d.t, d.p, d.q, "sell" if d.m else "buy")

    def quote(frame: bytes) -> Quote:
        d = quotes(frame).data
        return Quote(NOW, NOW, "binance-spot", d.s, d.u, d.b, d.B, d.a, d.A, 1)

    used, kept = timed(trade if kind == "TK1" else quote, frames)
    return used, [_row(r) for r in kept]


def orjson_dict(kind: str, frames: list[bytes]) -> tuple[float, Rows]:
    import orjson

    from cmd_common.records import Quote, Trade

    loads = orjson.loads

    def trade(frame: bytes) -> Trade:
        d = loads(frame)["data"]
        return Trade(
            d["T"] * 1_000_000, NOW, "binance-spot", d["s"], str(d["t"]), d["t"], float(d["p"]), float(d["q"]),
            "sell" if d["m"] else "buy",
        )  # fmt: skip

    def quote(frame: bytes) -> Quote:
        d = loads(frame)["data"]
        numbers = float(d["b"]), float(d["B"]), float(d["a"]), float(d["A"])
        return Quote(NOW, NOW, "binance-spot", d["s"], d["u"], *numbers, 1)

    used, kept = timed(trade if kind == "TK1" else quote, frames)
    return used, [_row(r) for r in kept]


# way -> (what runs it, whether without cmd-native, its words)
WAYS: dict[str, tuple[Callable[[str, list[bytes]], tuple[float, Rows]], bool, str]] = {
    "ours": (ours, False, "ours"),
    "columns": (columns, False, "ours, as columns"),
    "feed": (feed, False, "ours, the whole feed"),
    "pure": (ours, True, "ours without cmd-native, single messages"),
    "pure_feed": (feed, True, "the whole feed without cmd-native"),
    "msgspec": (msgspec_struct, True, "typed msgspec + record"),
    "orjson": (orjson_dict, True, "orjson + record"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, way = options.child
        frames, rows = stream(kind, options.messages, options.seed)
        used, found = WAYS[way][0](kind, frames)
        if found != rows:
            raise SystemExit(f"{way}: wrong records")
        print(used)
        return 0
    if options.rounds < 5:
        parser.error("--rounds must be at least 5")
    print(
        f"trades and quotes: {options.messages} messages, {options.rounds} rounds, Python {platform.python_version()}"
    )
    entries = []
    for kind, words in WORDS.items():
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(options.rounds):
            for way in list(WAYS)[:: -1 if turn % 2 else 1]:
                command = [sys.executable, str(Path(__file__).resolve()), "--child", kind, way]
                command += ["--messages", str(options.messages), "--seed", str(options.seed)]
                done = subprocess.run(
                    command, check=True, capture_output=True, text=True, env=environment(pure=WAYS[way][1])
                )
                times[way].append(float(done.stdout))
        cost = {way: median(found) for way, found in times.items()}
        for peer in ("msgspec", "orjson", "pure"):
            entries.append(entry(f"{kind}/{peer}", words, cost["ours"], cost[peer], WAYS[peer][2]))
            entries.append(
                entry(f"{kind}/columns_{peer}", f"{words}, as columns", cost["columns"], cost[peer], WAYS[peer][2])
            )
        entries.append(
            entry(f"{kind}/feed", f"{words}, whole feed", cost["feed"], cost["pure_feed"], WAYS["pure_feed"][2])
        )
    show(entries)
    save(entries)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
