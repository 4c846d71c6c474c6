"""Recorded Binance frames: which stream they are of, and what the emulator reads from them."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from cmd_common.recording import Line
from cmd_common.venue_market import decimals_of, scaled, trim

from ._emulator_world import Level
from .instruments import to_ns

__all__ = [
    "AGG",
    "BOOK",
    "DEPTH",
    "EVENT_TIME",
    "KLINE",
    "TICKER",
    "TRADE",
    "AggFrame",
    "Book",
    "Depth",
    "Trade",
    "decimals_of",
    "event_time",
    "scaled",
    "split_frame",
    "trim",
]

EVENT_TIME: Final = re.compile(r'"E":(\d+)')
_RAW_TYPES: Final = {"depthUpdate": "depth"}


class _Raw(Struct):
    stream: str
    data: msgspec.Raw


class _Plain(Struct):
    e: str = ""
    s: str = ""
    b: Any = None
    k: dict[str, Any] | None = None


class Depth(Struct):
    E: int
    U: int
    u: int
    b: list[Level]
    a: list[Level]
    T: int = 0
    pu: int = 0  # futures: the last id of the message before


class Trade(Struct):
    s: str
    t: int
    p: str
    q: str
    T: int
    m: bool


class AggFrame(Struct):
    s: str
    a: int
    p: str
    q: str
    f: int
    l: int  # noqa: E741 - Binance's name
    T: int
    m: bool


class Ticker(Struct):
    b: str
    B: str
    a: str
    A: str


class KlineFrame(Struct):
    s: str
    k: dict[str, Any]


class Book(Struct):
    lastUpdateId: int
    bids: list[Level]
    asks: list[Level]
    E: int = 0


_RAW: Final = msgspec.json.Decoder(_Raw)
_PLAIN: Final = msgspec.json.Decoder(_Plain)
DEPTH: Final = msgspec.json.Decoder(Depth)
TRADE: Final = msgspec.json.Decoder(Trade)
AGG: Final = msgspec.json.Decoder(AggFrame)
TICKER: Final = msgspec.json.Decoder(Ticker)
KLINE: Final = msgspec.json.Decoder(KlineFrame)
BOOK: Final = msgspec.json.Decoder(Book)


def split_frame(text: str) -> tuple[str, str] | None:
    """Return stream name and data of a frame; None for what is no market message."""
    if text.startswith('{"stream":"'):
        end = text.index('"', 11)
        if text.startswith(',"data":', end + 1):
            return text[11:end], text[end + 9 : -1]
    try:
        raw = _RAW.decode(text)
        return raw.stream, bytes(raw.data).decode()
    except (msgspec.DecodeError, UnicodeError):
        pass
    try:
        plain = _PLAIN.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return None
    if not plain.s:
        return None
    if not plain.e:
        return (f"{plain.s.lower()}@bookTicker", text) if isinstance(plain.b, str) else None
    kind = _RAW_TYPES.get(plain.e, plain.e)
    if plain.e == "kline" and plain.k is not None:
        kind = f"kline_{plain.k.get('i', '')}"
    return f"{plain.s.lower()}@{kind}", text


def event_time(line: Line) -> int | None:
    found = EVENT_TIME.search(line.text, 0, 400)
    return to_ns(int(found[1])) if found else None
