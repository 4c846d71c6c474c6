"""Benchmarks B1 to B5, B7, B8: the order book, from the bytes of a depth message to the best prices.

One stream (a seed, messages of some 580 bytes with 20 level changes, like a liquid pair's on Binance) goes through every
competitor, each in a fresh process, A B A B ...; the medians of the rounds' CPU times are compared. The best prices (or
the best twenty levels) after every message are compared with the generator's own book outside the clock.

    B1  bytes -> JSON -> book -> best prices, sequence checked by ours only; B1/feed: by the whole feed of Binance
    B2  the same from a Rust program with the crate, beside the call from Python
    B3  decoded floats -> book -> best prices
    B4  the same and then the best twenty of both sides, into the caller's buffer and as tuples
    B5  the book alone in Rust, beside hftbacktest's books
    B7  allocations of the native part, bytes that tracemalloc sees within a message
    B8  a snapshot of 2 x 1,000 levels; 1, 10, 100 and 400 symbols round robin

    python benchmarks/book.py [PART ...] [--rounds 7] [--messages 20000] [--seed 1] [--quick]

Peers that need other versions of Python or of libraries get environments of their own (uv, once); what cannot be
installed is said and left out. Writes into benchmarks/results/latest.json, leaving other benchmarks' entries alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
import book_stream  # noqa: E402
from harness import (  # noqa: E402
    PEERS,
    Entry,
    Missing,
    Times,
    child,
    entry,
    environment,
    interleaved,
    machine,
    peer_python,
    rust_program,
    save,
    show,
    versions,
)

RUN = str(HERE / "book_run.py")
SYMBOLS = (1, 10, 100, 400)


class Way(NamedTuple):
    """A competitor: the function that makes it, its words, in which environment it runs (empty: this; rust)."""

    name: str
    words: str
    place: str = ""


OURS = {
    "B1": Way("bytes_best", "ours: DepthPath"),
    "B1/feed": Way("feed_best", "ours: the whole feed"),
    "B2": Way("full", "the crate from Rust", "rust"),
    "B3": Way("floats_best", "ours"),
    "B4": Way("top20_buffer", "ours, into a buffer"),
    "B4/tuples": Way("top20_tuples", "ours, as tuples"),
    "B5": Way("book", "ours, prices as ticks", "rust"),
    "B5/floats": Way("book_floats", "ours, prices as floats", "rust"),
    "B8": Way("snapshots", "ours"),
}
# part -> the peers: id, way, the least ratio wanted
RIVALS: dict[str, tuple[tuple[str, Way, float | None], ...]] = {
    "B1": (
        ("bisect", Way("bisect_bytes", "msgspec + dict & bisect"), 12.0),
        ("sorteddict", Way("sorteddict_bytes", "orjson + SortedDict"), 30.0),
        ("order_book_1", Way("order_book_bytes", "orjson + order-book 1.1.0", "order-book-1.1.0"), 25.0),
        ("order_book_1_msgspec", Way("order_book_msgspec", "msgspec + order-book 1.1.0", "order-book-1.1.0"), None),
        ("order_book_0", Way("order_book_bytes", "orjson + order-book 0.6.1", "order-book-0.6.1"), 75.0),
        ("nautilus", Way("nautilus_bytes", "msgspec + nautilus_trader", "nautilus"), 35.0),
    ),
    "B3": (
        ("nautilus", Way("nautilus_deltas", "nautilus_trader, deltas made before", "nautilus"), 3.5),
        ("bisect", Way("bisect_floats", "dict & bisect"), 5.0),
        ("order_book_1", Way("order_book_floats", "order-book 1.1.0", "order-book-1.1.0"), 6.0),
    ),
    "B4": (
        ("bisect", Way("bisect_top20", "dict & bisect"), 8.0),
        ("nautilus", Way("nautilus_top20", "nautilus_trader, deltas made before", "nautilus"), 8.0),
    ),
    "B5": (
        ("roi", Way("roi", "hftbacktest ROIVector, which keeps no price outside a window", "rust"), 1.0),
        ("hashmap", Way("hashmap", "hftbacktest HashMap", "rust"), 3.0),
        ("btree", Way("btree", "hftbacktest BTree", "rust"), None),
    ),
    "B8": (("sorteddict", Way("sorteddict_snapshot", "orjson + SortedDict"), 30.0),),
}
PATHS = {
    "B1": "depth message, bytes to best prices, us",
    "B1/feed": "depth message, text through the whole feed to best prices, us",
    "B2": "depth message, bytes to best prices: the call from Python beside the same from Rust, us",
    "B3": "decoded levels to best prices, us",
    "B4": "decoded levels, then the best 20 of both sides into a buffer, us",
    "B4/tuples": "decoded levels, then the best 20 of both sides as tuples, us",
    "B5": "book alone in Rust, prices as ticks, us",
    "B5/floats": "book alone in Rust, prices as floats, us",
    "B7": "allocations a message",
    "B8": "snapshot of 2 x 1,000 levels, bytes to best prices, us",
}


def commands(folder: str, parts: list[str], program: str) -> dict[Way, list[str]]:
    """How each way is started; says which are left out."""
    ways = [way for key, way in OURS.items() if key.split("/")[0] in parts or (key == "B1" and "B2" in parts)]
    ways += [way for part in parts for _, way, _ in RIVALS.get(part, ())]
    if "B8" in parts:
        ways += [Way(f"round_robin_{n}", f"ours, {n} symbols") for n in SYMBOLS]
    pythons: dict[str, str] = {"": sys.executable}
    found: dict[Way, list[str]] = {}
    for way in dict.fromkeys(ways):
        if way.place == "rust":
            if program:
                found[way] = [program, way.name, folder]
            continue
        if way.place not in pythons:
            try:
                pythons[way.place] = peer_python(way.place)
            except Missing as error:
                print(f"  left out: {error}")
                pythons[way.place] = ""
        if pythons[way.place]:
            found[way] = [pythons[way.place], RUN, way.name, folder]
    return found


def measure(folder: str, parts: list[str], rounds: int, program: str) -> Times:
    """The medians of all ways; those of one part stand together, so that each is interleaved with its rivals."""
    times = Times()
    started = commands(folder, parts, program)
    for part in parts:
        mine = [way for key, way in OURS.items() if key.split("/")[0] == part or (key == "B1" and part == "B2")]
        mine += [way for _, way, _ in RIVALS.get(part, ())]
        if part == "B8":
            mine += [way for way in started if way.name.startswith("round_robin")]
        ways = [way for way in mine if way in started]
        for way in interleaved(rounds, ways):
            times.add((part, way), float(child(started[way], env=environment())["us"]))
    return times


def words_of(way: Way) -> str:
    """A peer with its versions."""
    if way.place == "rust":
        return f"{way.words} (hftbacktest 0.9.4)" if "hft" in way.words else way.words
    if way.place:
        wanted, distributions = PEERS[way.place]
        return f"{way.words} ({', '.join(d.replace('==', ' ') for d in distributions)}, Python {wanted})"
    used = [name for name in ("msgspec", "orjson") if name in way.words]
    used += ["sortedcontainers"] if "SortedDict" in way.words else []
    return f"{way.words} ({versions(*used)})" if used else way.words


def compared(part: str, times: Times) -> list[Entry]:
    """The entries of a part beside its peers."""
    found = []
    for key, mine in OURS.items():
        if key.split("/")[0] != part or (part, mine) not in times:
            continue
        sub = key.partition("/")[2]
        for name, way, target in RIVALS.get(part, ()):
            if (part, way) not in times:
                continue
            wanted = {"tuples": 2.5, "feed": None, "floats": None}.get(sub, target)
            id_ = f"{part}/{sub + '_' if sub else ''}{name}"
            found.append(entry(id_, PATHS[key], times[part, mine], times[part, way], words_of(way), wanted))
    return found


def b2(times: Times) -> list[Entry]:
    python, rust = times["B2", OURS["B1"]], times["B2", OURS["B2"]]
    return [entry("B2/rust", PATHS["B2"], python, rust, "the same from a Rust program", 1 / 1.3)]


def b8(times: Times) -> list[Entry]:
    each = {n: times["B8", Way(f"round_robin_{n}", f"ours, {n} symbols")] for n in SYMBOLS}
    path = "depth message, bytes to best prices, {} symbols round robin, us"
    wanted = {400: 1 / 1.6}
    return [
        entry(f"B8/symbols_{n}", path.format(n), each[n], each[1], "one symbol", wanted.get(n)) for n in SYMBOLS[1:]
    ]


def b7(folder: str) -> list[Entry]:
    found = child([sys.executable, RUN, "allocations", folder], env=environment())
    path = PATHS["B7"]
    return [
        entry("B7/native", f"{path} of the native part, after warm-up", found["made"], 0, "none") | {"target": 0, "met": found["made"] == 0},
        entry("B7/bytes", "bytes that tracemalloc sees within a message", found["bytes"], 200, "the limit", 1.0),
    ]  # fmt: skip


EXTRA: dict[str, Callable[[Times], list[Entry]]] = {"B2": b2, "B8": b8}
PARTS = ("B1", "B2", "B3", "B4", "B5", "B7", "B8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one round of few messages, for trying it out: not kept")
    options = parser.parse_args()
    parts = options.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.quick:
        options.rounds, options.messages = 1, min(options.messages, 2000)
    elif options.rounds < 5:
        parser.error("--rounds must be at least 5, or --quick be given")
    here = machine()
    print(f"order book: {options.messages} messages, {options.rounds} rounds, Python {here['python']}, {here['cpu']}")
    entries: list[Entry] = []
    with tempfile.TemporaryDirectory() as folder:
        book_stream.write(folder, options.messages, options.seed)
        program = ""
        if {"B2", "B5"} & set(parts):
            try:
                program = rust_program()
            except Missing as error:
                print(f"  left out: {error}")
        times = measure(folder, [part for part in parts if part != "B7"], options.rounds, program)
        for part in parts:
            made: list[Entry] = b7(folder) if part == "B7" else compared(part, times)
            if part in EXTRA and (part != "B2" or program):
                made += EXTRA[part](times)
            show(made)
            entries += made
    if not options.quick:
        save(entries)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
