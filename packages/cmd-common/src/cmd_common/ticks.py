"""Trades and quotes of one venue from the bytes of its messages, without a feed: as records, or many as columns.

A decoder is given the venue's parser; a venue's package makes it, such as ``cmd_binance.SPOT.tick_decoder()``. Where
cmd-native knows the venue, a usual message becomes its record in one call, and a list of messages becomes columns without
an object a row. Whatever is unusual about a message, and every message without cmd-native, goes through the parser. What
comes out is the same.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from . import _native
from .errors import UsageError
from .records import SIDES, AggTrade, Quote, Trade

if TYPE_CHECKING:
    from cmd_native import TickPath

__all__ = ["COLUMNS", "TABLES", "Tick", "TickColumns", "TickDecoder", "TickParser", "native_path"]

Tick = Trade | AggTrade | Quote
TickParser = Callable[[str | bytes, int], Tick | None]
"""Parses one message that came at ``now`` (ns): its record, or None where it is neither a trade nor a quote of the market.

Passes over unknown keys; raises DataError for damage."""

_IDS: Final = (("ts_event", "q"), ("ts_recv", "q"), ("symbol", "I"))
_TRADE: Final = (("price", "d"), ("quantity", "d"), ("side", "B"), ("flags", "B"))
COLUMNS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "trades": (*_IDS, ("trade_seq", "q"), *_TRADE),
    "agg_trades": (*_IDS, ("trade_seq", "q"), ("first_trade_id", "q"), ("last_trade_id", "q"), *_TRADE),
    "quotes": (
        *(*_IDS, ("seq", "q"), ("bid_price", "d"), ("bid_quantity", "d")),
        *(("ask_price", "d"), ("ask_quantity", "d"), ("flags", "B")),
    ),
}
"""Name and ``array`` type code of each table's columns, in their order."""
TABLES: Final = tuple(COLUMNS)
_NUMBER_OF: Final[dict[type, int]] = {Trade: 0, AggTrade: 1, Quote: 2}
_ODD_INTEGERS: Final = array("I").itemsize != 4 or array("q").itemsize != 8
# How the numbers of cmd-native, which are little-endian and of these sizes, are read here.
_NATIVE_FITS: Final = sys.byteorder == "little" and not _ODD_INTEGERS


class TickColumns(Struct, frozen=True):
    """Rows of each table as columns, in the order of their messages.

    ``tables`` has for each of ``TABLES`` a memoryview a column, whose types ``COLUMNS`` tells: ``q`` int64 (times in ns), ``d``
    float64, ``I`` uint32, ``B`` uint8; ``numpy.asarray`` takes one without a copy. ``symbol`` is a place in ``symbols``, ``side``
    one in ``cmd_common.records.SIDES``. ``passed`` are places of the messages that are neither trade nor quote.
    """

    symbols: list[str]
    tables: dict[str, dict[str, memoryview]]
    passed: list[int]

    def rows(self, table: str) -> int:
        """How many rows a table has."""
        return len(self.tables[table]["ts_event"])


class TickDecoder:
    """Decodes trades and quotes of one venue, whatever symbols they are of.

    ``native`` says whether cmd-native knows the venue's messages; frames of more than ``limit`` bytes are left to ``parse``.
    """

    __slots__ = ("_parse", "_path")

    def __init__(self, venue: str, parse: TickParser, *, native: bool = True, limit: int = 16 * 1024 * 1024) -> None:
        self._parse = parse
        self._path = native_path(venue, limit) if native else None

    @property
    def native(self) -> bool:
        """Whether cmd-native decodes."""
        return self._path is not None

    def record(self, frame: str | bytes, now: int) -> Tick | None:
        """Return the record of one message that came at ``now`` (ns); None where it is neither trade nor quote.

        Raises DataError for a damaged one. O(bytes).
        """
        if self._path is not None and (found := self._path.take(frame, now)) is not None:
            record: Tick = found
            return record
        return self._parse(frame, now)

    def columns(self, frames: Sequence[str | bytes], now: int | Sequence[int]) -> TickColumns:
        """Return the trades and quotes of many messages as columns.

        ``now`` is when they came, ns: each at its own time, or all at one. Raises DataError for the first damaged message,
        UsageError where there are not as many times as messages. O(bytes).
        """
        frames = frames if isinstance(frames, list) else list(frames)
        times = None if isinstance(now, int) else array("q", now)
        if times is not None and len(times) != len(frames):
            raise UsageError(
                f"{len(frames)} messages came at {len(times)} times", hint="give one time for all, or each its own"
            )
        if self._path is None or not _NATIVE_FITS:
            made: tuple[tuple[bytes, ...], ...] = ((), (), ())
            symbols: list[str] = []
            left: Sequence[tuple[int, int, int, int]] = [(at, 0, 0, 0) for at in range(len(frames))]
        else:
            made, symbols, left = self._path.columns(frames, now if isinstance(now, int) else times.tobytes())  # type: ignore[union-attr]
        codes = {name: code for code, name in enumerate(symbols)}
        rows: tuple[list[tuple[int, Tick]], ...] = ([], [], [])
        passed = []
        for at, *before in left:
            record = self._parse(frames[at], now if isinstance(now, int) else now[at])
            if record is None:
                passed.append(at)
                continue
            codes.setdefault(record.symbol, len(codes))
            number = _NUMBER_OF[type(record)]
            rows[number].append((before[number], record))
        tables = {}
        for (table, columns), packed, some in zip(COLUMNS.items(), made, rows, strict=True):
            packed = packed or (b"",) * len(columns)
            tables[table] = {
                name: _merged(name, kind, data, some, codes) for (name, kind), data in zip(columns, packed, strict=True)
            }
        return TickColumns(list(codes), tables, passed)


def native_path(venue: str, limit: int, symbols: Sequence[str] | None = None) -> TickPath | None:
    """The decoder of cmd-native for a venue's trades and quotes, of ``symbols`` or (None) of all; None without cmd-native."""
    if _native.module is None:
        return None
    path: TickPath = _native.module.TickPath(
        limit,
        sys.intern(venue),
        (Trade, AggTrade, Quote),
        None if symbols is None else [sys.intern(s) for s in symbols],
    )
    return path


def _merged(name: str, kind: str, data: bytes, some: list[tuple[int, Tick]], codes: dict[str, int]) -> memoryview:
    """A column of native rows, with the rows of records at their places among them."""
    whole = array(kind)
    if not some:
        whole.frombytes(data)
        return memoryview(whole)
    size = whole.itemsize
    done = 0
    for before, record in some:
        whole.frombytes(data[done * size : before * size])
        done = before
        whole.append(_cell(name, record, codes))
    whole.frombytes(data[done * size :])
    return memoryview(whole)


def _cell(name: str, record: Tick, codes: dict[str, int]) -> Any:
    if name == "symbol":
        return codes[record.symbol]
    value = getattr(record, name)
    return SIDES.index(value) if name == "side" else value
