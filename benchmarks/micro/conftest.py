"""Fixtures of the micro-benchmarks: seeded depth streams in Binance's format."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from depth_stream import Stream, depth_stream


class Snapshot(msgspec.Struct):
    lastUpdateId: int
    bids: list[tuple[float, float]]
    asks: list[tuple[float, float]]


class Depth(msgspec.Struct, gc=False):
    E: int
    U: int
    u: int
    pu: int
    b: list[tuple[float, float]]
    a: list[tuple[float, float]]


@pytest.fixture(scope="session")
def stream() -> Stream:
    """Two thousand messages of one liquid symbol, as bytes."""
    return depth_stream(2000, seed=1)


@pytest.fixture(scope="session")
def snapshot(stream: Stream) -> Snapshot:
    """The decoded snapshot of ``stream``: a thousand levels a side."""
    return msgspec.json.decode(stream.snapshot, type=Snapshot, strict=False)


@pytest.fixture(scope="session")
def deltas(stream: Stream) -> list[Depth]:
    """The decoded messages of ``stream``."""
    decode = msgspec.json.Decoder(Depth, strict=False).decode
    return [decode(frame) for frame in stream.deltas]
