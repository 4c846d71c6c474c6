"""Benchmark AG: one book over ten venues of a thousand levels a side, against the ten books alone.

The same messages are applied to ten order books in turn, once alone and once with the aggregate told of
each. Every round runs all variants once, interleaved, each in a fresh process, and takes the process's
CPU time; the medians of the rounds are compared. ``+ best`` reads the merged best prices after every
message; ``+ top 20`` reads twenty levels a side with every venue's part after every message, and is
compared with reading the top 20 of every one of the ten books, which are the same levels unmerged.
The merged best prices after every message are compared with the venues' own, outside the clock.

    python benchmarks/aggregate.py [--rounds 7] [--messages 1000] [--venues 10] [--seed 1]

Writes its results into benchmarks/results/latest.json, leaving other benchmarks' entries alone.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "micro")]
from depth_stream import Stream, depth_stream  # noqa: E402
from harness import save  # noqa: E402

VARIANTS = ("alone", "aggregated", "alone_best", "aggregated_best", "alone_top", "aggregated_top")
# id -> (words, the variant, what it is compared with, at most so many times its cost; None: no target)
RATIOS: dict[str, tuple[str, str, str, float | None]] = {
    "AG/update": ("update", "aggregated", "alone", 2.0),
    "AG/best": ("update + best prices", "aggregated_best", "alone_best", 2.0),
    "AG/top20": ("update + top 20 with parts", "aggregated_top", "alone_top", None),
}
DEPTH = 20
Levels = list[tuple[float, float]]


def load(streams: list[Stream]) -> tuple[list[Any], list[list[tuple[Levels, Levels]]]]:
    """Return the loaded LIVE books and each one's decoded changes."""
    import msgspec

    from cmd_common.orderbook import OrderBook
    from cmd_common.sequence import BookState

    class Snapshot(msgspec.Struct):
        bids: Levels
        asks: Levels

    class Depth(msgspec.Struct, gc=False):
        b: Levels
        a: Levels

    decode = msgspec.json.Decoder(Depth, strict=False).decode
    books, changes = [], []
    for number, stream in enumerate(streams):
        first = msgspec.json.decode(stream.snapshot, type=Snapshot, strict=False)
        book = OrderBook(0.01, venue=f"venue{number}", symbol="BTCUSDT")
        book.load(first.bids, first.asks, complete=False)
        book.state = BookState.LIVE
        books.append(book)
        changes.append([(d.b, d.a) for d in map(decode, stream.deltas)])
    return books, changes


def run(variant: str, venues: int, messages: int, seed: int) -> float:
    """Return the CPU microseconds a message."""
    from cmd_common.aggregate import AggregatedOrderBook

    streams = [depth_stream(messages, seed + n) for n in range(venues)]
    books, changes = load(streams)
    aggregate = AggregatedOrderBook("BTC-USDT")
    names = [aggregate.add(book, now=0) for book in books]
    found: list[tuple[float | None, float | None]] = []
    turns: list[tuple[Any, str, Levels, Levels]] = [
        (books[n], names[n], *changes[n][turn]) for turn in range(messages) for n in range(venues)
    ]
    replay = _replay(variant, aggregate, books, found)
    start = time.process_time_ns()
    replay(turns)
    used = time.process_time_ns() - start
    _verify(found, streams)
    if variant.startswith("aggregated"):
        aggregate.check()
    return used / 1000 / len(turns)


def _replay(variant: str, aggregate: Any, books: list[Any], found: list[Any]) -> Callable[[Any], None]:
    update, keep = aggregate.update, found.append

    def alone(turns: Any) -> None:
        for book, _, bids, asks in turns:
            book.apply(bids, asks)

    def aggregated(turns: Any) -> None:
        for now, (book, name, bids, asks) in enumerate(turns):
            book.apply(bids, asks)
            update(name, now)

    def alone_best(turns: Any) -> None:
        for book, _, bids, asks in turns:
            book.apply(bids, asks)
            book.best_bid  # noqa: B018
            book.best_ask  # noqa: B018

    def aggregated_best(turns: Any) -> None:
        for now, (book, name, bids, asks) in enumerate(turns):
            book.apply(bids, asks)
            update(name, now)
            keep(aggregate.best_prices)

    def alone_top(turns: Any) -> None:
        for book, _, bids, asks in turns:
            book.apply(bids, asks)
            for each in books:
                each.bids(DEPTH)
                each.asks(DEPTH)

    def aggregated_top(turns: Any) -> None:
        for now, (book, name, bids, asks) in enumerate(turns):
            book.apply(bids, asks)
            update(name, now)
            aggregate.bids(DEPTH)
            aggregate.asks(DEPTH)

    return locals()[variant]  # type: ignore[no-any-return]


def _verify(found: list[tuple[float | None, float | None]], streams: list[Stream]) -> None:
    """Compare the merged best prices with the generators' own books."""
    tops: dict[int, tuple[float, float]] = {}
    for turn, best in enumerate(found):
        number = turn % len(streams)
        tops[number] = streams[number].tops[turn // len(streams)]
        if len(tops) == len(streams) and best != (max(t[0] for t in tops.values()), min(t[1] for t in tops.values())):
            raise SystemExit(f"wrong merged best prices after message {turn}: {best}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=1000, help="of each venue")
    parser.add_argument("--venues", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(run(options.child, options.venues, options.messages, options.seed))
        return 0
    if options.rounds < 5:
        parser.error("--rounds must be at least 5")
    common = [f"--{k}={getattr(options, k)}" for k in ("messages", "venues", "seed")]
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(options.rounds):
        for variant in VARIANTS:
            command = [sys.executable, str(Path(__file__).resolve()), "--child", variant, *common]
            times[variant].append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(
        f"AG: {options.venues} venues x 1000 levels a side, {options.messages} messages each, {options.rounds} rounds,"
    )
    print(f"    Python {platform.python_version()}, us of CPU a message")
    entries: list[dict[str, object]] = []
    for id_, (words, mine, other, most) in RATIOS.items():
        ours, peer = median(times[mine]), median(times[other])
        cost = ours / peer
        entry: dict[str, object] = {
            "id": id_,
            "path": f"{options.venues} venues x 1000 levels: {words}, aggregated",
            "ours": round(ours, 3),
            "peer": round(peer, 3),
            "peer_name": "the single books alone",
            "ratio": round(peer / ours, 3),
        }
        verdict = ""
        if most is not None:
            entry |= {"target": round(1 / most, 3), "met": cost <= most}
            verdict = f", target at most {most}x: {'met' if cost <= most else 'NOT met'}"
        entries.append(entry)
        print(f"  {words}: {ours:.2f}, single books alone {peer:.2f}; {cost:.2f}x the cost{verdict}")
    save(entries)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
