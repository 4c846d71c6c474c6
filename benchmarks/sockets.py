"""Benchmarks W1 and W2: from a WebSocket to a message in hands, and to the best prices of a book.

A server in another process sends every message over loopback as fast as the client reads; the CPU time of the client's
process is taken. All run on uvloop. W1 are 500 bytes of text, no two alike; W2 depth messages as a combined stream of
Binance sends them, the best prices after each compared with the generator's own book outside the clock.

    W1  our WebSocket with the extra ``fast`` beside picows itself and websockets
    W2  our WebSocket, then DepthPath (W2/feed: the whole feed), beside picows + msgspec + dict & bisect,
        websockets + orjson + SortedDict, and cryptofeed 2.4.1's own handler and book behind websockets, its transport

    python benchmarks/sockets.py [PART ...] [--rounds 7] [--messages 20000] [--seed 1] [--quick]

Writes into benchmarks/results/latest.json, leaving other benchmarks' entries alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
import book_stream  # noqa: E402
from harness import (  # noqa: E402
    Entry,
    Missing,
    Times,
    child,
    entry,
    environment,
    interleaved,
    machine,
    peer_python,
    save,
    show,
    versions,
)

RUN = str(HERE / "sockets_run.py")
# ours -> the path in words
OURS = {
    "w1_ours": "WebSocket receive, 500 B of text, us",
    "w2_ours": "WebSocket to best prices, depth message, us",
    "w2_feed": "WebSocket through the whole feed to best prices, depth message, us",
}
# peer -> (words, distributions, its own environment, the least ratio wanted)
PEERS = {
    "w1_picows": ("picows", ("picows",), "", 1 / 1.1),
    "w1_websockets": ("websockets", ("websockets",), "", 8.0),
    "w2_picows_bisect": ("picows + msgspec + dict & bisect", ("picows", "msgspec"), "", 5.0),
    "w2_websockets_sorteddict": (
        "websockets + orjson + SortedDict", ("websockets", "orjson", "sortedcontainers"), "", 15.0,
    ),
    "w2_cryptofeed": ("cryptofeed 2.4.1's path (websockets 17.4, order-book 0.6.1)", (), "cryptofeed", 50.0),
}  # fmt: skip


def measure(ways: list[str], folder: str, rounds: int) -> Times:
    """The medians of all ways that can run."""
    pythons: dict[str, str] = {}
    for way in ways:
        pythons[way] = sys.executable
        if way in PEERS and PEERS[way][2]:
            try:
                pythons[way] = peer_python(PEERS[way][2])
            except Missing as error:
                print(f"  left out: {error}")
                del pythons[way]
    times = Times()
    for way in interleaved(rounds, list(pythons)):
        times.add(way, float(child([pythons[way], RUN, way, folder], env=environment())["us"]))
    return times


def entries(part: str, times: Times) -> list[Entry]:
    found = []
    for mine, path in OURS.items():
        if not mine.startswith(part.lower()):
            continue
        for peer, (words, used, _, target) in PEERS.items():
            if peer in times and peer.startswith(part.lower()):
                sub = "feed_" if mine == "w2_feed" else ""
                name = f"{words} ({versions(*used)})" if used else words
                wanted = None if sub else target
                found.append(entry(f"{part}/{sub}{peer[3:]}", path, times[mine], times[peer], name, wanted))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="W1 or W2; default: both")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one round of few messages, for trying it out: not kept")
    options = parser.parse_args()
    parts = options.parts or ["W1", "W2"]
    if unknown := set(parts) - {"W1", "W2"}:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are W1, W2")
    if options.quick:
        options.rounds, options.messages = 1, min(options.messages, 2000)
    elif options.rounds < 5:
        parser.error("--rounds must be at least 5, or --quick be given")
    here = machine()
    print(f"sockets: {options.messages} messages, {options.rounds} rounds, Python {here['python']}, {here['cpu']}")
    made: list[Entry] = []
    with tempfile.TemporaryDirectory() as folder:
        book_stream.write(folder, options.messages, options.seed)
        for part in parts:
            ways = [way for way in (*OURS, *PEERS) if way.startswith(part.lower())]
            found = entries(part, measure(ways, folder, options.rounds))
            show(found)
            made += found
    if not options.quick:
        save(made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
