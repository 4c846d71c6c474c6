"""Binance's public archive (data.binance.vision): names, listing, checksums and CSV layouts.

Source of the facts: ``docs/exchanges.md``, Binance public archive. A key is
``data/MARKET/PERIOD/TYPE/SYMBOL/[INTERVAL/]SYMBOL-TYPE_OR_INTERVAL-DATE.zip`` and the checksum lies
beside it. Futures files have a header since some date and spot files have none, so the header is
looked at and never assumed.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

from cmd_common.archive import ArchiveFile, ArchiveSource, CsvColumn, CsvLayout, Derive, ListingPage
from cmd_common.errors import ProtocolError, UsageError
from cmd_common.http import HttpRequest

from .instruments import Market

if TYPE_CHECKING:
    from cmd_common.exchange import Endpoints

__all__ = ["BinanceArchive"]

_TYPES: Final = {"trades": "trades", "agg_trades": "aggTrades", "candles": "klines"}
_FUTURES_INTERVALS: Final = (
    "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M",
)  # fmt: skip
_MONTHLY_ONLY: Final = ("3d", "1w", "1M")
_NAMESPACE: Final = "{http://s3.amazonaws.com/doc/2006-03-01/}"
# A page holds at most 1000 entries of some 300 bytes; whatever is far larger is not a listing.
_LISTING_LIMIT: Final = 4 << 20
_CHECKSUM: Final = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(\S[^\r\n]*?)\s*")
_SYMBOL_CHARACTER: Final = re.compile(r"[/\\\x00-\x20]")

_ID: Final = CsvColumn("id", "int64")
_PRICE: Final = CsvColumn("price", "float64")
_QTY: Final = CsvColumn("qty", "float64")
_QUOTE_QTY: Final = CsvColumn("quote_qty", "float64")
_BASE_QTY: Final = CsvColumn("base_qty", "float64")
_TIME: Final = CsvColumn("time", "int64")
_BUYER_MAKER: Final = CsvColumn("is_buyer_maker", "bool")
_BEST_MATCH: Final = CsvColumn("is_best_match", "bool")
_FIRST: Final = CsvColumn("first_trade_id", "int64")
_LAST: Final = CsvColumn("last_trade_id", "int64")

_KLINE: Final = (
    CsvColumn("open_time", "int64"),
    CsvColumn("open", "float64"),
    CsvColumn("high", "float64"),
    CsvColumn("low", "float64"),
    CsvColumn("close", "float64"),
    CsvColumn("volume", "float64"),
    CsvColumn("close_time", "int64"),
    CsvColumn("quote_volume", "float64"),
    CsvColumn("count", "int64"),
    CsvColumn("taker_buy_volume", "float64"),
    CsvColumn("taker_buy_quote_volume", "float64"),
    CsvColumn("ignore", "string"),
)

# Other spellings of the same column, lower case: spot's documentation, REST keys and older headers.
_ALIASES: Final[dict[str, dict[str, str]]] = {
    "trades": {
        "trade_id": "id",
        "tradeid": "id",
        "quoteqty": "quote_qty",
        "baseqty": "base_qty",
        "quantity": "qty",
        "isbuyermaker": "is_buyer_maker",
        "isbestmatch": "is_best_match",
    },
    "agg_trades": {
        "agg_trade_id": "id",
        "aggtradeid": "id",
        "a": "id",
        "p": "price",
        "quantity": "qty",
        "q": "qty",
        "f": "first_trade_id",
        "l": "last_trade_id",
        "firsttradeid": "first_trade_id",
        "lasttradeid": "last_trade_id",
        "transact_time": "time",
        "timestamp": "time",
        "was_the_buyer_the_maker": "is_buyer_maker",
        "isbuyermaker": "is_buyer_maker",
        "isbestmatch": "is_best_match",
    },
    "candles": {
        "quote_asset_volume": "quote_volume",
        "number_of_trades": "count",
        "taker_buy_base_asset_volume": "taker_buy_volume",
        "taker_buy_quote_asset_volume": "taker_buy_quote_volume",
    },
}

_TRADE_DERIVE: Final = (
    Derive("ts_event", "time", "time"),
    Derive("trade_id", "text", "id"),
    Derive("trade_seq", "copy", "id"),
    Derive("price", "copy", "price"),
    Derive("quantity", "copy", "qty"),
    Derive("side", "taker_from_buyer_maker", "is_buyer_maker"),
)
_CANDLE_DERIVE: Final = (
    Derive("open_time", "time", "open_time"),
    Derive("close_time", "time_end", "close_time"),
    Derive("ts_event", "time_end", "close_time"),
    Derive("source", "const", value="exchange"),
    Derive("state", "const", value="final"),
    Derive("open", "copy", "open"),
    Derive("high", "copy", "high"),
    Derive("low", "copy", "low"),
    Derive("close", "copy", "close"),
    Derive("volume", "copy", "volume"),
    Derive("quote_volume", "copy", "quote_volume"),
    Derive("trades", "copy", "count"),
    Derive("taker_buy_volume", "copy", "taker_buy_volume"),
    Derive("taker_buy_quote_volume", "copy", "taker_buy_quote_volume"),
)


class BinanceArchive(ArchiveSource):
    """The bulk files of one Binance market; satisfies ``cmd_common.archive.ArchiveSource``."""

    tables: tuple[str, ...] = ("trades", "agg_trades", "candles")
    periods: tuple[str, ...] = ("daily", "monthly")

    def __init__(self, market: Market) -> None:
        self._market = market
        spot = market.name == "spot"
        self.intervals: tuple[str, ...] = (*(("1s",) if spot else ()), *_FUTURES_INTERVALS)
        notional = _BASE_QTY if market.name == "coinm" else _QUOTE_QTY
        best = (_BEST_MATCH,) if spot else ()
        self._columns: dict[str, tuple[CsvColumn, ...]] = {
            "trades": (_ID, _PRICE, _QTY, notional, _TIME, _BUYER_MAKER, *best),
            "agg_trades": (_ID, _PRICE, _QTY, _FIRST, _LAST, _TIME, _BUYER_MAKER, *best),
            "candles": _KLINE,
        }
        self._notional = notional.name

    def _table(self, table: str) -> str:
        try:
            return _TYPES[table]
        except KeyError:
            raise UsageError(
                f"{self._market.venue} publishes no files of {table!r}", hint=f"available: {', '.join(self.tables)}"
            ) from None

    def _folder(self, table: str, symbol: str, interval: str, period: str) -> tuple[str, str]:
        """Return the folder of a symbol's files and the word between symbol and date in their names."""
        kind = self._table(table)
        if period not in self.periods:
            raise UsageError(f"unknown period {period!r}", hint="daily or monthly")
        if not symbol or _SYMBOL_CHARACTER.search(symbol) or symbol in (".", ".."):
            raise UsageError(f"{symbol!r} is not a symbol")
        base = f"data/{self._market.archive}/{period}/{kind}/{symbol}/"
        if table != "candles":
            return base, kind
        if interval not in self.intervals:
            raise UsageError(
                f"{self._market.venue} publishes no candles of interval {interval!r}",
                hint=f"available: {', '.join(self.intervals)}",
            )
        if period == "daily" and interval in _MONTHLY_ONLY:
            raise UsageError(f"candles of {interval} are published by month only")
        folder = "1mo" if interval == "1M" else interval
        return f"{base}{folder}/", folder

    def file(
        self, table: str, symbol: str, day: date, endpoints: Endpoints, *, interval: str = "", period: str = "daily"
    ) -> ArchiveFile:
        """Name the file that holds ``day``; raises UsageError for what is never published."""
        folder, word = self._folder(table, symbol, interval, period)
        span: Literal["daily", "monthly"]
        if period == "daily":
            span, first, last, stamp = "daily", day, day, day.isoformat()
        else:
            span, first = "monthly", day.replace(day=1)
            last = day.replace(day=calendar.monthrange(day.year, day.month)[1])
            stamp = f"{day:%Y-%m}"
        name = f"{symbol}-{word}-{stamp}.zip"
        url = f"{endpoints.archive}/{quote(folder + name)}"
        return ArchiveFile(
            venue=self._market.venue,
            table=table,
            symbol=symbol,
            interval=interval if table == "candles" else "",
            period=span,
            first_day=first,
            last_day=last,
            key=folder + name,
            url=url,
            checksum_url=url + ".CHECKSUM",
            name=name,
        )

    def listing_prefix(self, table: str, symbol: str, *, interval: str = "", period: str = "daily") -> str:
        """The folder of the files of one symbol and type; ends with a slash."""
        return self._folder(table, symbol, interval, period)[0]

    def listing_request(self, prefix: str, marker: str, endpoints: Endpoints) -> HttpRequest:
        """The request for one page of the listing below ``prefix``, at most 1000 entries."""
        query = {"prefix": prefix, "delimiter": "/"}
        if marker:
            query["marker"] = marker
        base = endpoints.listing if urlsplit(endpoints.listing).path else endpoints.listing + "/"
        return HttpRequest(f"{base}?{urlencode(query)}")

    def parse_listing(self, body: bytes, prefix: str = "") -> ListingPage:
        """Parse one page; raises ProtocolError.

        Document types are refused because entities are the only way in which a small XML body can
        become a large one; the size is bounded for the same reason.
        """
        if len(body) > _LISTING_LIMIT:
            raise ProtocolError(f"archive listing of {len(body)} bytes is too large")
        if b"<!DOCTYPE" in body or b"<!ENTITY" in body or b"\x00" in body:
            raise ProtocolError("archive listing contains a document type, which S3 never sends")
        try:
            root = ElementTree.fromstring(body)
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise ProtocolError(f"archive listing is not XML: {error}") from None
        if root.tag.removeprefix(_NAMESPACE) != "ListBucketResult":
            raise ProtocolError(f"archive listing is a {root.tag!r}, not a ListBucketResult")
        space = "" if root.tag == "ListBucketResult" else _NAMESPACE
        keys: list[tuple[str, int]] = []
        for entry in root.iter(space + "Contents"):
            key, size = entry.findtext(space + "Key"), entry.findtext(space + "Size")
            if not key or size is None or not size.isascii() or not size.isdigit():
                raise ProtocolError("archive listing has an entry without key or size")
            keys.append((key, int(size)))
        folders = tuple(
            text for entry in root.iter(space + "CommonPrefixes") if (text := entry.findtext(space + "Prefix"))
        )
        marker = ""
        if (root.findtext(space + "IsTruncated") or "").strip().lower() == "true":
            # NextMarker is only sent with a delimiter; without one the last key serves.
            marker = root.findtext(space + "NextMarker") or max(
                [k for k, _ in keys[-1:]] + list(folders[-1:]), default=""
            )
            if not marker:
                raise ProtocolError("archive listing is truncated but names nothing to go on from")
        return ListingPage(tuple(keys), marker, folders)

    def parse_checksum(self, body: bytes, name: str) -> str:
        """Return the SHA-256 as 64 lower-case hex digits; raises ProtocolError when it is for another file."""
        try:
            match = _CHECKSUM.fullmatch(body.decode("utf-8"))
        except UnicodeDecodeError:
            match = None
        if match is None:
            raise ProtocolError(f"checksum of {name} is not one line of 64 hex digits and a file name")
        if match[2] != name:
            raise ProtocolError(f"checksum of {name} names another file, {match[2][:100]!r}")
        return match[1].lower()

    def member(self, names: Sequence[str], file: ArchiveFile) -> str:
        """Choose the CSV among a zip's members: the one named like the zip, ignoring stray ones.

        Raises ProtocolError when there is none, or when it cannot be told which it is.
        """
        wanted = file.name.removesuffix(".zip") + ".csv"
        if wanted in names:
            return wanted
        nested = [n for n in names if n.rsplit("/", 1)[-1] == wanted and not n.startswith("__MACOSX/")]
        if len(nested) == 1:
            return nested[0]
        raise ProtocolError(f"{file.name} holds no {wanted}, only {', '.join(names[:5]) or 'nothing'}")

    def layout(self, table: str, header: Sequence[str] | None, width: int) -> CsvLayout:
        """The layout for a header (None: no header) and a number of cells; raises ProtocolError."""
        self._table(table)
        columns = self._columns[table]
        if width != len(columns):
            raise ProtocolError(f"{self._market.venue} {table} have {len(columns)} columns, this file has {width}")
        if header is not None:
            aliases = _ALIASES[table]
            by_name = {c.name: c for c in columns}
            found = [aliases.get(h, h) for h in (cell.strip().lower() for cell in header)]
            unknown = [raw for raw, name in zip(header, found, strict=True) if name not in by_name]
            if unknown or len(set(found)) != len(columns):
                names = ", ".join(c.name for c in columns)
                what = f"unknown columns {', '.join(unknown)}" if unknown else "a column twice"
                raise ProtocolError(f"header has {what}; {table} have {names}")
            columns = tuple(by_name[name] for name in found)
        if table == "candles":
            return CsvLayout(columns, _CANDLE_DERIVE)
        derive = _TRADE_DERIVE
        if table == "agg_trades":
            extra = (Derive(c.name, "copy", c.name) for c in (_FIRST, _LAST))
            return CsvLayout(columns, (*derive, *extra), id_column="id")
        return CsvLayout(columns, derive, id_column="id", notional_column=self._notional)
