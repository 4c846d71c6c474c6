"""Bybit's bulk files (public.bybit.com): names, listing and CSV layouts. Trades only, one file a UTC day.

Rules: docs/exchanges/bybit.md#bulk-files. A key is ``trading/SYMBOL/SYMBOLyyyy-mm-dd.csv.gz`` (linear) or
``spot/SYMBOL/SYMBOL_yyyy-mm-dd.csv.gz``. The listing of a folder is a plain HTML page with links; no
checksums are published.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from html import unescape
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from cmd_common.archive import ArchiveFile, ArchiveSource, CsvColumn, CsvLayout, Derive, ListingPage
from cmd_common.errors import ProtocolError, UsageError
from cmd_common.http import HttpRequest

from .instruments import Market

if TYPE_CHECKING:
    from cmd_common.exchange import Endpoints

__all__ = ["BybitArchive"]

_LISTING_LIMIT: Final = 16 << 20  # some 2,500 days of some 200 bytes are usual
_LINK: Final = re.compile(r"""<a\s[^>]*?href\s*=\s*["']([^"'<>]{1,500})["']""", re.IGNORECASE)
_BAD_NAME: Final = re.compile(r"[/\\\x00-\x20?#]")

_LINEAR: Final = (
    CsvColumn("timestamp", "string"),  # decimal seconds
    CsvColumn("symbol", "string"),
    CsvColumn("side", "string"),
    CsvColumn("size", "float64"),
    CsvColumn("price", "float64"),
    CsvColumn("tickDirection", "string"),
    CsvColumn("trdMatchID", "string"),
    CsvColumn("grossValue", "float64"),
    CsvColumn("homeNotional", "float64"),
    CsvColumn("foreignNotional", "float64"),
    CsvColumn("RPI", "string"),
)
_SPOT: Final = (
    CsvColumn("id", "int64"),
    CsvColumn("timestamp", "int64"),  # ms
    CsvColumn("price", "float64"),
    CsvColumn("volume", "float64"),
    CsvColumn("side", "string"),
    CsvColumn("rpi", "string"),
)
# Live trades are stamped in whole ms: the files' tenths are cut off, so that a trade that was recorded
# and archived has one key and is one row.
_LINEAR_DERIVE: Final = (
    Derive("ts_event", "seconds", "timestamp", 1_000_000),
    Derive("trade_id", "copy", "trdMatchID"),
    Derive("trade_seq", "const", value=None),
    Derive("price", "copy", "price"),
    Derive("quantity", "copy", "size"),
    Derive("side", "side", "side"),
)
# The id is the row's number in its file, and starts at 1 every day: no id of the exchange's trades.
_SPOT_DERIVE: Final = (
    Derive("ts_event", "time", "timestamp"),
    Derive("trade_id", "text", "id"),
    Derive("trade_seq", "const", value=None),
    Derive("price", "copy", "price"),
    Derive("quantity", "copy", "volume"),
    Derive("side", "side", "side"),
)


class BybitArchive(ArchiveSource):
    """The trades of one market; see ``cmd_common.archive.ArchiveSource``."""

    tables = ("trades",)
    periods = ("daily",)
    intervals = ()

    def __init__(self, market: Market) -> None:
        self._market = market

    def _folder(self, table: str, symbol: str, period: str) -> str:
        if table != "trades":
            raise UsageError(f"{self._market.venue} publishes no files of {table}", hint="trades; candles come by REST")
        if period != "daily":
            raise UsageError(f"{self._market.venue} publishes daily files, not {period} ones")
        if not symbol or _BAD_NAME.search(symbol) or symbol in (".", ".."):
            raise UsageError(f"{symbol!r} is not a symbol")
        return f"{self._market.archive}/{symbol}/"

    def file(
        self, table: str, symbol: str, day: date, endpoints: Endpoints, *, interval: str = "", period: str = "daily"
    ) -> ArchiveFile:
        """Name the file that holds ``day``; raises UsageError for what is never published."""
        folder = self._folder(table, symbol, period)
        name = f"{symbol}{self._market.separator}{day.isoformat()}.csv.gz"
        return ArchiveFile(
            venue=self._market.venue,
            table=table,
            symbol=symbol,
            interval="",
            period="daily",
            first_day=day,
            last_day=day,
            key=folder + name,
            url=f"{endpoints.archive}/{quote(folder + name)}",
            checksum_url="",
            name=name,
        )

    def listing_prefix(self, table: str, symbol: str, *, interval: str = "", period: str = "daily") -> str:
        """The folder of a symbol's files; ends with a slash."""
        return self._folder(table, symbol, period)

    def listing_request(self, prefix: str, marker: str, endpoints: Endpoints) -> HttpRequest:
        """The request for the page of the folder that ``prefix`` lies in; it is always one page."""
        folder = prefix[: prefix.rfind("/") + 1]
        return HttpRequest(f"{endpoints.listing}/{quote(folder)}")

    def parse_listing(self, body: bytes, prefix: str = "") -> ListingPage:
        """Parse the page of a folder: every link to a file or a folder in it. Raises ProtocolError.

        Links to elsewhere (the folder above, style sheets) are passed over. Sizes are not told.
        """
        if len(body) > _LISTING_LIMIT:
            raise ProtocolError(f"archive listing of {len(body)} bytes is too large")
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ProtocolError(f"archive listing is not text: {error}") from None
        if "<html" not in text[:1000].lower():
            raise ProtocolError("archive listing is not an HTML page")
        folder = prefix[: prefix.rfind("/") + 1]
        keys: dict[str, int] = {}
        folders: dict[str, None] = {}
        for match in _LINK.finditer(text):
            link = unquote(unescape(match[1])).removeprefix(f"/{folder}").removeprefix("./")
            name = link.removesuffix("/")
            if not name or name in (".", "..") or _BAD_NAME.search(name) or ":" in name:
                continue
            key = folder + name
            if link.endswith("/"):
                folders[f"{key}/"] = None
            elif key.startswith(prefix):
                keys[key] = 0
        return ListingPage(tuple(keys.items()), "", tuple(folders))

    def layout(self, table: str, header: Sequence[str] | None, width: int) -> CsvLayout:
        """The layout for a header (None: no header) and a number of cells; raises ProtocolError.

        The last column came in 2025; files before do not have it.
        """
        if table != "trades":
            raise UsageError(f"{self._market.venue} publishes no files of {table}")
        spot = self._market.category == "spot"
        columns: tuple[CsvColumn, ...] = _SPOT if spot else _LINEAR
        if header is not None:
            by_name = {c.name.lower(): c for c in columns}
            names = [cell.strip().lower() for cell in header]
            unknown = [cell for cell, name in zip(header, names, strict=True) if name not in by_name]
            missing = [c.name for c in columns[:-1] if c.name.lower() not in names]
            if unknown or missing or len(set(names)) != len(names) or len(names) != width:
                raise ProtocolError(
                    f"header of {self._market.venue} trades has unknown or missing columns: "
                    f"{', '.join([*unknown, *missing])[:200] or 'one twice'}"
                )
            columns = tuple(by_name[name] for name in names)
        elif width in (len(columns) - 1, len(columns)):
            columns = columns[:width]
        else:
            raise ProtocolError(f"{self._market.venue} trades have {len(columns)} columns, this file has {width}")
        if spot:
            return CsvLayout(columns, _SPOT_DERIVE)
        return CsvLayout(columns, _LINEAR_DERIVE, notional_column="foreignNotional")
