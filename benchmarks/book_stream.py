"""The stream that every competitor of book.py gets, in one file, and the oracle's answers beside it.

``FOLDER/stream.txt`` is the snapshot in the first line and a message a line after it; ``FOLDER/tops.txt`` has the best
prices after each message, from the generator's own book; ``FOLDER/top20.bin`` the best twenty of both sides after each:
80 little-endian float64 of price and quantity in turn, bids first. No import but the standard library's: peers read it
with their own interpreters, and a Rust program reads it, too.
"""

from __future__ import annotations

import json
import struct
import sys
from bisect import bisect_left, insort
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent / "micro"))
from depth_stream import depth_stream

Top = tuple[float, float]
Level = tuple[float, float]
DEPTH = 20
FIELDS = struct.Struct(f"<{4 * DEPTH}d")


class Decoded(NamedTuple):
    """A message as floats."""

    first: int
    last: int
    prev: int
    ts_event: int
    bids: list[Level]
    asks: list[Level]


class Frames(NamedTuple):
    """What a competitor gets."""

    snapshot: bytes
    deltas: list[bytes]
    tops: list[Top]


def write(folder: str, messages: int, seed: int) -> None:
    """Make the files."""
    made = depth_stream(messages, seed)
    place = Path(folder)
    place.joinpath("stream.txt").write_bytes(b"\n".join([made.snapshot, *made.deltas]) + b"\n")
    place.joinpath("tops.txt").write_text("".join(f"{bid!r} {ask!r}\n" for bid, ask in made.tops))
    first = json.loads(made.snapshot)
    sides: list[dict[float, float]] = [{float(p): float(q) for p, q in first[side]} for side in ("bids", "asks")]
    keys = [sorted(side) for side in sides]
    with open(place / "top20.bin", "wb") as f:
        for frame in made.deltas:
            message = json.loads(frame)
            for side, prices, changes in zip(sides, keys, (message["b"], message["a"]), strict=True):
                for price, quantity in ((float(p), float(q)) for p, q in changes):
                    if quantity == 0.0:
                        if side.pop(price, None) is not None:
                            del prices[bisect_left(prices, price)]
                    else:
                        if price not in side:
                            insort(prices, price)
                        side[price] = quantity
            best = [*keys[0][: -DEPTH - 1 : -1], *keys[1][:DEPTH]]
            f.write(FIELDS.pack(*(x for n, p in enumerate(best) for x in (p, sides[n >= DEPTH][p]))))


def read(folder: str) -> Frames:
    """The frames and the oracle's best prices."""
    place = Path(folder)
    snapshot, *deltas = place.joinpath("stream.txt").read_bytes().splitlines()
    tops = [(float(bid), float(ask)) for bid, ask in map(str.split, place.joinpath("tops.txt").open())]
    return Frames(snapshot, deltas, tops)


def top20(folder: str) -> list[bytes]:
    """The oracle's twenty best of both sides."""
    data = Path(folder, "top20.bin").read_bytes()
    return [data[at : at + FIELDS.size] for at in range(0, len(data), FIELDS.size)]


def floats(snapshot: bytes) -> tuple[list[Level], list[Level]]:
    """The sides of a snapshot."""
    first = json.loads(snapshot)
    bids, asks = ([(float(p), float(q)) for p, q in first[side]] for side in ("bids", "asks"))
    return bids, asks


def decoded(frames: Frames) -> list[Decoded]:
    """Every message as floats."""
    found = []
    for frame in frames.deltas:
        m = json.loads(frame)
        sides = ([(float(p), float(q)) for p, q in m[side]] for side in ("b", "a"))
        found.append(Decoded(m["U"], m["u"], m["pu"], m["E"], *sides))
    return found
