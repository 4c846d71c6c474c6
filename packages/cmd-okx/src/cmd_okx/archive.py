"""OKX's bulk files of trades: names and CSV layouts, old and new.

Source of the facts: docs/exchanges/okx.md#bulk-files. One zip a day and instrument; the day is of UTC+8, so the
file named 2026-03-01 begins at 2026-02-28 16:00 UTC. Neither a listing nor checksums are published.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from cmd_common.archive import ArchiveFile, ArchiveSource, CsvColumn, CsvLayout, Derive
from cmd_common.errors import ProtocolError, UsageError

from .instruments import VENUE

if TYPE_CHECKING:
    from cmd_common.exchange import Endpoints

__all__ = ["FIRST_DAY", "OFFSET", "OkxArchive"]

OFFSET: Final = -8 * 3_600_000_000_000  # a day of UTC+8 begins 8 hours before that of UTC
FIRST_DAY: Final = date(2021, 9, 1)
"""The first day of files, as their page says [S]."""

_FOLDER: Final = "cdn/okex/traderecords/trades/daily"
_SYMBOL: Final = re.compile(r"[A-Z0-9][A-Za-z0-9_.-]{0,79}")

_COLUMNS: Final[dict[str, CsvColumn]] = {
    "instrument_name": CsvColumn("instrument_name", "string"),
    "trade_id": CsvColumn("trade_id", "int64"),
    "side": CsvColumn("side", "string"),
    "price": CsvColumn("price", "float64"),
    "size": CsvColumn("size", "float64"),
    "created_time": CsvColumn("created_time", "int64"),
    "source": CsvColumn("source", "string"),  # 1: order of the Enhanced Liquidity Program; since 2026
}
_NEEDED: Final = ("trade_id", "side", "price", "size", "created_time")
_HEADERLESS: Final = {
    7: ("instrument_name", "trade_id", "side", "price", "size", "created_time", "source"),
    6: ("instrument_name", "trade_id", "side", "price", "size", "created_time"),
    5: ("trade_id", "side", "size", "price", "created_time"),  # the older form has size before price
}
_DERIVE: Final = (
    Derive("ts_event", "time", "created_time"),
    Derive("trade_id", "text", "trade_id"),
    Derive("trade_seq", "copy", "trade_id"),
    Derive("price", "copy", "price"),
    Derive("quantity", "copy", "size"),
    Derive("side", "side", "side"),
)


class OkxArchive(ArchiveSource):
    """The bulk files of trades; satisfies ``cmd_common.archive.ArchiveSource``."""

    tables: tuple[str, ...] = ("trades",)
    periods: tuple[str, ...] = ("daily",)
    intervals: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ("utf-8", "gbk")  # older headers are bilingual

    def file(
        self, table: str, symbol: str, day: date, endpoints: Endpoints, *, interval: str = "", period: str = "daily"
    ) -> ArchiveFile:
        """Name the file that holds a day of UTC+8; raises UsageError for what is never published."""
        if table != "trades":
            raise UsageError(f"{VENUE} publishes no files of {table!r}", hint="available: trades")
        if period != "daily":
            raise UsageError(f"{VENUE} publishes no {period} files", hint="daily")
        if not _SYMBOL.fullmatch(symbol):
            raise UsageError(f"{symbol!r} is not a symbol")
        if day < FIRST_DAY:
            raise UsageError(f"{VENUE} publishes no files before {FIRST_DAY}")
        name = f"{symbol}-trades-{day.isoformat()}.zip"
        key = f"{_FOLDER}/{day:%Y%m%d}/{name}"
        return ArchiveFile(
            venue=VENUE,
            table=table,
            symbol=symbol,
            interval="",
            period="daily",
            first_day=day,
            last_day=day,
            key=key,
            url=f"{endpoints.archive}/{quote(key)}",
            checksum_url="",
            name=name,
            offset=OFFSET,
        )

    def layout(self, table: str, header: Sequence[str] | None, width: int) -> CsvLayout:
        """The layout for a header (None: no header) and a number of cells; raises ProtocolError.

        Older headers name each column in two languages, ``trade_id/...``: what counts is the part before the
        slash. Columns that are not known are passed over.
        """
        if table != "trades":
            raise ProtocolError(f"{VENUE} publishes no files of {table!r}")
        if header is None:
            if width not in _HEADERLESS:
                raise ProtocolError(f"{VENUE} trades have 5 to 7 columns, this file has {width}")
            names: tuple[str, ...] = _HEADERLESS[width]
        else:
            names = tuple(cell.lstrip("\ufeff").partition("/")[0].strip().lower() for cell in header)
            missing = [n for n in _NEEDED if names.count(n) != 1]
            if missing or len(names) != width:
                what = f"lacks {', '.join(missing)}" if missing else f"has {len(names)} names for {width} columns"
                raise ProtocolError(f"{VENUE} trades: the header {what}")
        columns = tuple(_COLUMNS.get(name) or CsvColumn(name or f"column{i}", "string") for i, name in enumerate(names))
        return CsvLayout(columns, _DERIVE, id_column="trade_id")
