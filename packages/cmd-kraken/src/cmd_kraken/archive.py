"""Kraken's dumps: zips of CSV files that a user downloads by hand and gives with ``--from-file``.

Rules: docs/exchanges/kraken.md#dumps. The exchange links them from its support site, at places that
move, so no address is coded here. Trades: seconds, price, volume, without a header, an id or a side.
Candles: seconds, open, high, low, close, volume, trades; an interval without a trade has no row. Files
are called by the pair's REST name, ``XBTUSD.csv`` and ``XBTUSD_60.csv`` (minutes).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Final

from cmd_common.archive import ArchiveSource, CsvColumn, CsvLayout, Derive
from cmd_common.errors import ProtocolError

from .instruments import INTERVALS, MINUTES, VENUE, rest_pair

__all__ = ["KrakenArchive"]

_TRADES: Final = CsvLayout(
    columns=(
        CsvColumn("time", "string"),  # whole seconds, in newer files with decimals
        CsvColumn("price", "float64"),
        CsvColumn("volume", "float64"),
    ),
    derive=(
        Derive("ts_event", "seconds", "time"),
        Derive("trade_id", "row_id", "time"),
        Derive("trade_seq", "const", value=None),
        Derive("price", "copy", "price"),
        Derive("quantity", "copy", "volume"),
        Derive("side", "const", value="unknown"),
    ),
)
_CANDLES: Final = CsvLayout(
    columns=(
        CsvColumn("time", "int64"),
        CsvColumn("open", "float64"),
        CsvColumn("high", "float64"),
        CsvColumn("low", "float64"),
        CsvColumn("close", "float64"),
        CsvColumn("volume", "float64"),
        CsvColumn("trades", "int64"),
    ),
    derive=(
        Derive("open_time", "time", "time"),
        Derive("close_time", "interval_end", "time"),
        Derive("ts_event", "interval_end", "time"),
        Derive("source", "const", value="exchange"),
        Derive("state", "const", value="final"),
        Derive("open", "copy", "open"),
        Derive("high", "copy", "high"),
        Derive("low", "copy", "low"),
        Derive("close", "copy", "close"),
        Derive("volume", "copy", "volume"),
        Derive("quote_volume", "const", value=nan),
        Derive("trades", "copy", "trades"),
        Derive("taker_buy_volume", "const", value=nan),
        Derive("taker_buy_quote_volume", "const", value=nan),
    ),
    sparse=True,
)


class KrakenArchive(ArchiveSource):
    """Local dumps only: nothing is downloaded and nothing has a checksum."""

    tables: tuple[str, ...] = ()
    periods: tuple[str, ...] = ()
    intervals = INTERVALS
    local_tables = ("trades", "candles")

    def layout(self, table: str, header: Sequence[str] | None, width: int) -> CsvLayout:
        """Return the layout of a dump; raises ProtocolError."""
        layout = {"trades": _TRADES, "candles": _CANDLES}.get(table)
        if layout is None or width != len(layout.columns):
            raise ProtocolError(f"{VENUE}: {table} with {width} columns are in no known form")
        return layout

    def local(self, names: Sequence[str], table: str, symbol: str, interval: str = "") -> str | None:
        """Choose the CSV of a pair: ``XBTUSD.csv`` of trades, ``XBTUSD_60.csv`` of candles of an hour."""
        wanted = rest_pair(symbol)
        if table == "candles":
            wanted += f"_{MINUTES.get(interval, 0)}"
        for name in names:
            if name.rpartition("/")[2].casefold() == f"{wanted}.csv".casefold() and not name.startswith("__MACOSX/"):
                return name
        return None
