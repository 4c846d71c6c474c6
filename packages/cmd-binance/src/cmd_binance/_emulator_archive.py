"""Binance's public archive as the emulator serves it: listing, zips in the published format, checksums.

Zips are deterministic: the same trades give the same bytes. Spot files up to the end of 2024 are in
milliseconds and later ones in microseconds; futures files carry a header in newer years and then drop
trailing zeros. Sizes in the listing are exact, so listing many files makes them.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from typing import Final
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from cmd_common.faults import Injector
from cmd_common.http import HttpResponse

from ._emulator_market import Bar, Numbers
from ._emulator_world import BinanceWorld
from .instruments import Market

__all__ = ["EmulatedArchive"]

_TYPES: Final = ("aggTrades", "klines", "trades")
_MONTHLY_ONLY: Final = ("3d", "1w", "1M")
_CACHE: Final = 256 << 20  # bytes of zips kept
_MICROSECONDS_FROM: Final = date(2025, 1, 1)
_HEADER_FROM: Final = {"klines": date(2022, 4, 1), "trades": date(2022, 4, 1), "aggTrades": date(2022, 4, 1)}
_HEADERS: Final = {
    "aggTrades": "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
    "klines": "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
    "taker_buy_quote_volume,ignore",
}
_NOT_FOUND: Final = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.'
    "</Message><Key>{}</Key></Error>"
)


class _File:
    __slots__ = ("interval", "key", "kind", "monthly", "name", "stamp", "symbol")

    def __init__(self, key: str, kind: str, symbol: str, interval: str, stamp: str, *, monthly: bool) -> None:
        self.key = key
        self.name = key.rpartition("/")[2]
        self.kind, self.symbol, self.interval, self.stamp, self.monthly = kind, symbol, interval, stamp, monthly


class EmulatedArchive:
    """Serves ``/data/...`` and the listing."""

    def __init__(self, market: Market, world: BinanceWorld, injector: Injector) -> None:
        self._market = market
        self._world = world
        self._injector = injector
        self._root = f"data/{market.archive}/"
        self._zips: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._files: dict[str, _File] = {}
        self._days: dict[str, list[date]] | None = None

    def handles(self, path: str, query: str) -> bool:
        """Whether a request is for the archive."""
        return path.startswith("/data/") or path.rstrip("/") in ("", "/data.binance.vision") or "prefix=" in query

    def respond(self, path: str, query: str, headers: Mapping[str, str]) -> HttpResponse:
        """Answer a request for a file, a checksum or a page of the listing."""
        if path.startswith("/data.binance.vision/data/"):
            path = path.removeprefix("/data.binance.vision")
        if not path.startswith("/data/"):
            return self._listing(parse_qs(query, keep_blank_values=True))
        key = unquote(path).removeprefix("/")
        checksum = key.endswith(".CHECKSUM")
        file = self._catalogue().get(key.removesuffix(".CHECKSUM"))
        if file is None:
            return self._missing(key)
        if self._injector.file("missing_day", file.symbol, file.stamp):
            self._injector.log("missing_day", key=key)
            return self._missing(key)
        body = self._zip(file)
        if checksum:
            return self._checksum(file, body)
        plan = self._injector.file("truncated_zip", file.symbol, file.stamp)
        if plan is not None:
            self._injector.log("truncated_zip", key=key, bytes=len(body), kept=len(body) // 2)
            body = body[: len(body) // 2]
        return _ranged(body, headers)

    def _missing(self, key: str) -> HttpResponse:
        body = _NOT_FOUND.format(escape(key)).encode()
        return HttpResponse(404, body, {"content-type": "application/xml"}, "Not Found")

    def _checksum(self, file: _File, body: bytes) -> HttpResponse:
        plan = self._injector.file("truncated_zip", file.symbol, file.stamp, count=False)
        if plan is not None and plan.matching_checksum:
            body = body[: len(body) // 2]
        digest = hashlib.sha256(body).hexdigest()
        if self._injector.file("bad_checksum", file.symbol, file.stamp):
            digest = ("0" if digest[0] != "0" else "1") + digest[1:]
            self._injector.log("bad_checksum", key=file.key)
        return HttpResponse(200, f"{digest}  {file.name}\n".encode(), {"content-type": "binary/octet-stream"})

    # Which files there are

    def _catalogue(self) -> dict[str, _File]:
        days = {symbol: self._world.days(symbol) for symbol in self._world.symbols}
        if days != self._days:
            self._days = days
            files = (f for symbol, there in days.items() for f in self._of(symbol, there))
            self._files = {f.key: f for f in sorted(files, key=lambda f: f.key)}
        return self._files

    def _of(self, symbol: str, days: list[date]) -> Iterator[_File]:
        months = sorted({f"{day:%Y-%m}" for day in days})
        stamps = [day.isoformat() for day in days]
        for monthly in (False, True):
            base = f"{self._root}{'monthly' if monthly else 'daily'}/"
            for kind in _TYPES:
                intervals = self._market.intervals if kind == "klines" else ("",)
                for interval in intervals:
                    if interval in _MONTHLY_ONLY and not monthly:
                        continue
                    word = ("1mo" if interval == "1M" else interval) or kind
                    folder = f"{base}{kind}/{symbol}/{word}/" if interval else f"{base}{kind}/{symbol}/"
                    for stamp in months if monthly else stamps:
                        key = f"{folder}{symbol}-{word}-{stamp}.zip"
                        yield _File(key, kind, symbol, interval, stamp, monthly=monthly)

    def _listing(self, query: dict[str, list[str]]) -> HttpResponse:
        def one(name: str, default: str = "") -> str:
            return (query.get(name) or [default])[0]

        prefix, delimiter = one("prefix"), one("delimiter")
        second = one("list-type") == "2"
        marker = one("continuation-token") or one("start-after") if second else one("marker")
        most = min(1000, max(1, int(one("max-keys", "1000")))) if one("max-keys", "1000").isdigit() else 1000
        entries: list[tuple[str, bool]] = []  # (key or folder, is a folder)
        more = False
        for key in self._keys(prefix):
            rest = key[len(prefix) :]
            folder = delimiter and delimiter in rest
            name = prefix + rest[: rest.index(delimiter) + len(delimiter)] if folder else key
            if name <= marker or (entries and entries[-1][0] == name) or (folder and marker.startswith(name)):
                continue
            if len(entries) == most:
                more = True
                break
            entries.append((name, bool(folder)))
        out = [
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        ]
        out.append(f"<Name>data.binance.vision</Name><Prefix>{escape(prefix)}</Prefix>")
        if second:
            out.append(f"<KeyCount>{len(entries)}</KeyCount>")
            if more:
                out.append(f"<NextContinuationToken>{escape(entries[-1][0])}</NextContinuationToken>")
        else:
            out.append(f"<Marker>{escape(marker)}</Marker>")
            if more and delimiter:
                out.append(f"<NextMarker>{escape(entries[-1][0])}</NextMarker>")
        out.append(f"<MaxKeys>{most}</MaxKeys>")
        if delimiter:
            out.append(f"<Delimiter>{escape(delimiter)}</Delimiter>")
        out.append(f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>")
        out += [self._entry(key) for key, folder in entries if not folder]
        out += [f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>" for key, folder in entries if folder]
        out.append("</ListBucketResult>")
        return HttpResponse(200, "".join(out).encode(), {"content-type": "application/xml"})

    def _keys(self, prefix: str) -> list[str]:
        keys = []
        for key, file in self._catalogue().items():
            if not (key.startswith(prefix) or f"{key}.CHECKSUM".startswith(prefix)):
                continue
            if self._injector.file("missing_day", file.symbol, file.stamp, count=False):
                continue
            keys += [k for k in (key, f"{key}.CHECKSUM") if k.startswith(prefix)]
        return keys

    def _entry(self, key: str) -> str:
        file = self._files[key.removesuffix(".CHECKSUM")]
        body = self._zip(file)
        if key.endswith(".CHECKSUM"):
            body = f"{hashlib.sha256(body).hexdigest()}  {file.name}\n".encode()
        year, month = int(file.stamp[:4]), int(file.stamp[5:7])
        last = date(year, month, int(file.stamp[8:])) if not file.monthly else date(year, month, 28) + timedelta(days=4)
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>{last + timedelta(days=1)}T04:00:00.000Z</LastModified>"
            f'<ETag>"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"</ETag><Size>{len(body)}</Size>'
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )

    # What is in them

    def _zip(self, file: _File) -> bytes:
        # A file of a day that is still going on in the simulation never changes: see simulation.day_trades.
        if file.monthly:
            days = [d for d in self._world.days(file.symbol) if f"{d:%Y-%m}" == file.stamp]
            cache = f"{file.key} {len(days)}"
        else:
            days = [date.fromisoformat(file.stamp)]
            cache = file.key
        body = self._zips.get(cache)
        if body is not None:
            self._zips.move_to_end(cache)
            return body
        text = "".join(self._rows(file, days))
        buffer = io.BytesIO()
        info = zipfile.ZipInfo(file.name.removesuffix(".zip") + ".csv", (1980, 1, 1, 0, 0, 0))
        info.compress_type = zipfile.ZIP_DEFLATED
        info.create_system = 3
        info.external_attr = 0o644 << 16
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(info, text, zipfile.ZIP_DEFLATED, 6)
        body = buffer.getvalue()
        self._zips[cache] = body
        self._size += len(body)
        while self._size > _CACHE and len(self._zips) > 1:
            self._size -= len(self._zips.popitem(last=False)[1])
        return body

    def _rows(self, file: _File, days: list[date]) -> Iterable[str]:
        numbers = self._world.numbers(file.symbol)
        spot = self._market.name == "spot"
        unit = 1_000 if spot and days[0] >= _MICROSECONDS_FROM else 1_000_000
        header = not spot and days[0] >= _HEADER_FROM[file.kind]
        if header:
            if file.kind == "trades":
                amount = "base_qty" if self._market.name == "coinm" else "quote_qty"
                yield f"id,price,qty,{amount},time,is_buyer_maker\n"
            else:
                yield _HEADERS[file.kind] + "\n"
        if file.kind == "trades":
            yield from self._trades(file.symbol, days, numbers, unit, spot=spot, trim=header)
        elif file.kind == "aggTrades":
            yield from self._aggs(file.symbol, days, numbers, unit, spot=spot, trim=header)
        else:
            yield from self._klines(file, days, numbers, unit, trim=header)

    def _trades(
        self, symbol: str, days: list[date], numbers: Numbers, unit: int, *, spot: bool, trim: bool
    ) -> Iterator[str]:
        cut = _trim if trim else str
        for day in days:
            for t in self._world.day_trades(symbol, day):
                maker = str(t.buyer_maker) if spot else str(t.buyer_maker).lower()
                amount = numbers.amount_text(numbers.amount(t.price, t.quantity))
                yield (
                    f"{t.id},{cut(numbers.price(t.price))},{cut(numbers.quantity(t.quantity))},{cut(amount)},"
                    f"{t.ts // unit},{maker}{',True' if spot else ''}\n"
                )

    def _aggs(
        self, symbol: str, days: list[date], numbers: Numbers, unit: int, *, spot: bool, trim: bool
    ) -> Iterator[str]:
        cut = _trim if trim else str
        for day in days:
            for a in self._world.day_aggs(symbol, day):
                maker = str(a.buyer_maker) if spot else str(a.buyer_maker).lower()
                yield (
                    f"{a.id},{cut(numbers.price(a.price))},{cut(numbers.quantity(a.quantity))},{a.first_id},{a.last_id},"
                    f"{a.ts // unit},{maker}{',True' if spot else ''}\n"
                )

    def _klines(self, file: _File, days: list[date], numbers: Numbers, unit: int, *, trim: bool) -> Iterator[str]:
        cut = _trim if trim else str
        bars: list[Bar] = []
        if file.interval in _MONTHLY_ONLY:
            first = min(days)
            everything = self._world.archive_bars(file.symbol, file.interval)
            bars = [b for b in everything if _month(b.open_time) == f"{first:%Y-%m}"]
        else:
            for day in days:
                bars += self._world.day_bars(file.symbol, day, file.interval)
        price, quantity, amount = numbers.price, numbers.quantity, numbers.amount_text
        for b in bars:
            yield (
                f"{b.open_time // unit},{cut(price(b.open))},{cut(price(b.high))},{cut(price(b.low))},{cut(price(b.close))},"
                f"{cut(quantity(b.volume))},{b.close_time // unit - 1},{cut(amount(b.amount))},{b.count},"
                f"{cut(quantity(b.buy_volume))},{cut(amount(b.buy_amount))},0\n"
            )


def _month(ts: int) -> str:
    return f"{date(1970, 1, 1) + timedelta(days=ts // 86_400_000_000_000):%Y-%m}"


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _ranged(body: bytes, headers: Mapping[str, str]) -> HttpResponse:
    """Answer a file, or the part of it that a Range header asks for."""
    kind = {
        "content-type": "application/zip",
        "accept-ranges": "bytes",
        "etag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"',
    }
    wanted = next((v for k, v in headers.items() if k.lower() == "range"), "")
    unit, _, span = wanted.partition("=")
    first, dash, last = span.partition("-")
    if unit.strip() != "bytes" or not dash or "," in span or not (first + last).isdigit():
        return HttpResponse(200, body, kind)
    if not first:
        start, stop = max(0, len(body) - int(last)), len(body)
    else:
        start, stop = int(first), min(int(last) + 1 if last else len(body), len(body))
    if start >= len(body) or start >= stop:
        return HttpResponse(416, b"", {**kind, "content-range": f"bytes */{len(body)}"}, "Range Not Satisfiable")
    part = {**kind, "content-range": f"bytes {start}-{stop - 1}/{len(body)}"}
    return HttpResponse(206, body[start:stop], part, "Partial Content")
