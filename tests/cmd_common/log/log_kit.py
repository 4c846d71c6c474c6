"""What the tests of the log share: events of every type, and the values that fit them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from cmd_common.log import Reader, Record

ALL = "{a:f8} {b:i1} {c:i2} {d:i4} {e:i8} {f:u1} {g:u2} {h:u4} {i:u8} {j:bool} {k:ts} {l:s8} {m:s40} end"
NUMBERS = "sent {price:f8} {qty:f8} {id:i8} {n:i8}"


def ints(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    if signed:
        return st.integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return st.integers(0, (1 << bits) - 1)


ROWS = st.tuples(
    st.floats(),
    ints(8, signed=True), ints(16, signed=True), ints(32, signed=True), ints(64, signed=True),
    ints(8, signed=False), ints(16, signed=False), ints(32, signed=False), ints(64, signed=False),
    st.booleans(),
    ints(64, signed=True),
    st.text(max_size=12), st.text(max_size=60),
)  # fmt: skip


def held(text: str, limit: int) -> str:
    """What a bounded field keeps of a text, by the specification."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - 3].decode("utf-8", "ignore") + "…"


def records_of(path: Path) -> tuple[list[Record], Reader]:
    reader = Reader(path)
    return list(reader.records()), reader


def values_of(path: Path) -> list[tuple[Any, ...]]:
    found, reader = records_of(path)
    assert reader.lost == []
    return [r.values for r in found]


def in_order(records: list[Record]) -> bool:
    """Whether time never goes back, but for what two calibrations may be apart, on a busy machine some microseconds."""
    return all(b.ts - a.ts > -20_000 for a, b in pairwise(records))
