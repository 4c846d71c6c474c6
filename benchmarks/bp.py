"""Benchmark BP: the pure-Python book, from the bytes of a depth message to the best prices.

Ours checks the sequence of update ids, refuses impossible levels and knows its own state; the peers
only store levels. Every round runs each competitor once, interleaved, each in a fresh process, and
takes the process's CPU time; the medians of the rounds are compared. The best prices after every
message are compared with the generator's own book, outside the clock.

    python benchmarks/bp.py [--rounds 7] [--messages 20000] [--seed 1]

Writes its results into benchmarks/results/latest.json, leaving other benchmarks' entries alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from bisect import bisect_left, insort
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "micro")]
from depth_stream import Stream, depth_stream  # noqa: E402
from harness import environment, results, save  # noqa: E402

Top = tuple[float, float]
# peer -> (its name in words, how many times its speed we want to reach, the distributions it uses)
PEERS = {
    "bisect": ("msgspec float Struct + dict & bisect", 0.9, ("msgspec",)),
    "sorteddict": ("orjson + SortedDict", 2.0, ("orjson", "sortedcontainers")),
}


def ours(stream: Stream) -> Callable[[bytes], Top]:
    import msgspec

    from cmd_common.builder import OrderBookBuilder
    from cmd_common.orderbook import OrderBook
    from cmd_common.sequence import Verdict

    class Snapshot(msgspec.Struct):
        lastUpdateId: int
        bids: list[tuple[float, float]]
        asks: list[tuple[float, float]]

    class Depth(msgspec.Struct, gc=False):
        E: int
        U: int
        u: int
        b: list[tuple[float, float]]
        a: list[tuple[float, float]]

    class Rule:  # the spot rule
        name = "spot"

        def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
            if last <= snapshot_id:
                return Verdict.DROP
            return Verdict.APPLY if first <= snapshot_id + 1 else Verdict.GAP

        def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
            if first == book_id + 1:
                return Verdict.APPLY
            return Verdict.DROP if last <= book_id else Verdict.GAP

        def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
            return snapshot_id + 1 < first

    decode = msgspec.json.Decoder(Depth, strict=False).decode
    builder = OrderBookBuilder(OrderBook(0.01), Rule(), snapshot_levels=1000)
    builder.start()
    first = msgspec.json.decode(stream.snapshot, type=Snapshot, strict=False)
    assert builder.snapshot(first.lastUpdateId, first.bids, first.asks).live
    book, delta = builder.book, builder.delta

    def message(frame: bytes) -> Top:
        depth = decode(frame)
        delta(depth.U, depth.u, None, depth.b, depth.a, depth.E)
        return book.best_bid[0], book.best_ask[0]  # type: ignore[index]

    return message


def bisect(stream: Stream) -> Callable[[bytes], Top]:
    import msgspec

    class Depth(msgspec.Struct, gc=False):
        b: list[tuple[float, float]]
        a: list[tuple[float, float]]

    snapshot = json.loads(stream.snapshot)
    bids = {float(price): float(quantity) for price, quantity in snapshot["bids"]}
    asks = {float(price): float(quantity) for price, quantity in snapshot["asks"]}
    bid_prices, ask_prices = sorted(bids), sorted(asks)
    decode = msgspec.json.Decoder(Depth, strict=False).decode

    def message(frame: bytes) -> Top:
        depth = decode(frame)
        for price, quantity in depth.b:
            if quantity == 0.0:
                if price in bids:
                    del bids[price]
                    del bid_prices[bisect_left(bid_prices, price)]
            else:
                if price not in bids:
                    insort(bid_prices, price)
                bids[price] = quantity
        for price, quantity in depth.a:
            if quantity == 0.0:
                if price in asks:
                    del asks[price]
                    del ask_prices[bisect_left(ask_prices, price)]
            else:
                if price not in asks:
                    insort(ask_prices, price)
                asks[price] = quantity
        return bid_prices[-1], ask_prices[0]

    return message


def sorteddict(stream: Stream) -> Callable[[bytes], Top]:
    import orjson
    from sortedcontainers import SortedDict

    snapshot = orjson.loads(stream.snapshot)
    bids = SortedDict({float(price): float(quantity) for price, quantity in snapshot["bids"]})
    asks = SortedDict({float(price): float(quantity) for price, quantity in snapshot["asks"]})
    loads = orjson.loads

    def message(frame: bytes) -> Top:
        depth = loads(frame)
        for side, changes in ((bids, depth["b"]), (asks, depth["a"])):
            for text, amount in changes:
                quantity = float(amount)
                if quantity == 0.0:
                    side.pop(float(text), None)
                else:
                    side[float(text)] = quantity
        return bids.peekitem(-1)[0], asks.peekitem(0)[0]

    return message


COMPETITORS = {"ours": ours, "bisect": bisect, "sorteddict": sorteddict}


def run(name: str, messages: int, seed: int) -> float:
    """Return the CPU microseconds a message of one competitor, after comparing its tops with the oracle."""
    stream = depth_stream(messages, seed)
    message = COMPETITORS[name](stream)
    tops: list[Top] = []
    keep = tops.append
    start = time.process_time_ns()
    for frame in stream.deltas:
        keep(message(frame))
    used = time.process_time_ns() - start
    if tops != stream.tops:
        raise SystemExit(f"{name}: wrong best prices")
    return used / 1000 / messages


def _version(distribution: str) -> str:
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return f"{distribution} missing"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", choices=sorted(COMPETITORS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(run(options.child, options.messages, options.seed))
        return 0
    if options.rounds < 5:
        parser.error("--rounds must be at least 5")
    times: dict[str, list[float]] = {name: [] for name in COMPETITORS}
    common = ["--messages", str(options.messages), "--seed", str(options.seed)]
    for _ in range(options.rounds):
        for name in COMPETITORS:
            command = [sys.executable, str(Path(__file__).resolve()), "--child", name, *common]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(pure=True))
            times[name].append(float(done.stdout))
    mine = median(times["ours"])
    print(f"BP: {options.messages} depth messages, {options.rounds} rounds, Python {platform.python_version()}")
    print(f"  ours: OrderBookBuilder, sequence checked ({_version('msgspec')}): {mine:.2f} us a message")
    entries: list[dict[str, object]] = []
    for name, (words, target, distributions) in PEERS.items():
        theirs = median(times[name])
        ratio = theirs / mine
        verdict = "met" if ratio >= target else "NOT met"
        versions = ", ".join(map(_version, distributions))
        print(f"  {words} ({versions}): {theirs:.2f} us; ours is {ratio:.2f}x as fast, target {target}x: {verdict}")
        entries.append(
            {
                "id": f"BP/{name}",
                "path": "depth message, bytes to best prices, pure Python",
                "ours": round(mine, 3),
                "peer": round(theirs, 3),
                "peer_name": f"{words} ({versions})",
                "ratio": round(ratio, 3),
                "target": target,
                "met": ratio >= target,
            }
        )
    save(entries)
    print(f"  saved in {results()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
