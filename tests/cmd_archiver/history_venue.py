"""A made-up exchange for tests of REST history and of files that are not Binance's, on a loopback port.

Its history is paged in three ways: backwards by id, forwards by time with overlapping pages, and by seeking
an id first. Importable by a process that is to be killed: ``python history_venue.py URL STORE ...``.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import nan
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from cmd_common.archive import ArchiveFile, ArchiveSource, CsvColumn, CsvLayout, Derive, ListingPage
from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.exchange import Endpoints, Limits
from cmd_common.history import HistoryPage, HistorySource, Walk
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.instruments import Instrument
from cmd_common.records import REST, Candle, Trade

VENUE = "made-up"
SYMBOL = "BTC/USD"
DAY, NEXT = date(2025, 6, 1), date(2025, 6, 2)
DAY_NS = 86_400_000_000_000
MINUTE = 60_000_000_000

Row = tuple[int, int, str, str, str]  # id, ns, price, quantity, side


def start_of(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000_000


def rows_of(day: date, count: int, *, first_id: int = 1) -> list[Row]:
    """Trades spread over a day; some share an instant."""
    step = DAY_NS // (count + 1)
    return [
        (
            first_id + i,
            start_of(day) + (i - (i % 3 == 2)) * step + 1_234,
            f"{100 + i % 7 * 0.25:.2f}",
            f"0.{i % 9 + 1}",
            "buy" if i % 2 else "sell",
        )
        for i in range(count)
    ]


class VenueServer:
    """The exchange: ``trades`` by id, ``files`` by key. ``troubles`` are answers for the next requests of a path."""

    def __init__(self) -> None:
        self.trades: list[Row] = []
        self.candles: dict[str, list[tuple[int, str]]] = {}  # interval to (open time in s, close)
        self.files: dict[str, bytes] = {}
        self.versions: dict[str, str] = {}  # ETags, where they are not the usual one
        self.listing = True
        self.ranges = True
        self.requests: list[str] = []
        self.troubles: dict[str, list[tuple[int, bytes, Mapping[str, str]]]] = {}
        self.hang_after: int | None = None  # pages after which one request is not answered
        self.hanging = threading.Event()
        self.let_go = threading.Event()
        self.page = 10
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                owner._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def trouble(self, path: str, status: int, body: bytes = b"", times: int = 1, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.troubles.setdefault(path, []).extend([(status, body, named)] * times)

    def pages(self) -> list[str]:
        return [r for r in self.requests if r.startswith(("/trades", "/candles", "/find"))]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.requests.append(handler.path)
        if waiting := self.troubles.get(parts.path):
            return self._send(handler, *waiting.pop(0))
        if parts.path in ("/trades", "/candles", "/find"):
            if self.hang_after is not None:
                self.hang_after -= 1
                if self.hang_after < 0:
                    self.hang_after = None
                    self.hanging.set()
                    self.let_go.wait(30)
                    return None
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            return self._send(handler, 200, json.dumps(self._page(parts.path, query)).encode(), {})
        if parts.path == "/instruments":
            return self._send(handler, 200, b'["BTC/USD","ETH/USD"]', {})
        key = unquote(parts.path).lstrip("/")
        if key.endswith("/") and self.listing:
            links = "".join(f'<a href="{k[len(key) :]}">x</a>' for k in sorted(self.files) if k.startswith(key))
            return self._send(handler, 200, f"<html>{links}</html>".encode(), {})
        return self._file(handler, key)

    def _page(self, path: str, query: Mapping[str, str]) -> Any:
        if path == "/find":
            return next((r[0] for r in self.trades if r[1] >= int(query["ts"])), self.trades[-1][0] + 1)
        if path == "/candles":
            mine = self.candles.get(query["interval"], [])
            return [c for c in mine if int(query["start"]) <= c[0] < int(query["end"])][: self.page]
        if "since" in query:
            found = [r for r in self.trades if r[1] >= int(query["since"])][: self.page]
        elif "before" in query:
            found = [r for r in self.trades if r[0] < int(query["before"])][-self.page :][::-1]
        else:
            found = self.trades[-self.page :][::-1]
        return found

    def _file(self, handler: BaseHTTPRequestHandler, key: str) -> None:
        body = self.files.get(key)
        if body is None:
            return self._send(handler, 404, b"not here", {})
        headers = {"ETag": self.versions.get(key, f'"{len(body):x}-{hash(body) & 0xFFFF:x}"')}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        if wanted is None or not self.ranges:
            return self._send(handler, 200, body, headers)
        start, end = int(wanted[1]), min(int(wanted[2] or len(body)), len(body) - 1)
        if start >= len(body):
            return self._send(handler, 416, b"", headers)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
        return self._send(handler, 206, body[start : end + 1], headers)

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        try:
            handler.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass


def fill(venue: VenueServer, per_day: int = 60) -> None:
    """Two days of trades, and some of the days around them."""
    venue.trades = [
        row
        for n in range(-1, 3)
        for row in rows_of(DAY + timedelta(days=n), per_day, first_id=1000 + n * per_day)
    ]  # fmt: skip


def stored(store: str) -> list[tuple[Any, ...]]:
    from archive_kit import rows

    return rows(store, "SELECT trade_seq, ts_event, price, quantity, side FROM trades ORDER BY trade_seq")


def truth(venue: VenueServer, first: date = DAY, last: date = NEXT) -> list[tuple[Any, ...]]:
    return [
        (i, t, float(p), float(q), s)
        for i, t, p, q, s in venue.trades
        if start_of(first) <= t < start_of(last) + DAY_NS
    ]  # fmt: skip


def _trade(row: Sequence[Any], now: int) -> Trade:
    id_, ns, price, quantity, side = row
    return Trade(ns, now, VENUE, SYMBOL, str(id_), id_, float(price), float(quantity), side, REST)


class History(HistorySource):
    """``way`` is backward, forward or seek."""

    tables = ("trades", "candles")
    intervals = ("1m", "1h", "1d", "1w")

    def __init__(
        self, way: str = "backward", *, contiguous: bool = True, sparse: bool = False, reach: int | None = None
    ) -> None:
        self.way = way
        self.contiguous = contiguous
        self.sparse_candles = sparse
        self._reach = reach
        self.lost = ""  # said with every page
        self.lost_span: tuple[int, int] | None = None
        self.stuck = False

    def reach(self, table: str, interval: str = "") -> int | None:
        return self._reach

    def first(self, walk: Walk, endpoints: Endpoints) -> HttpRequest:
        if walk.table == "candles":
            return self.next(walk, str(walk.start // 1_000_000_000), endpoints)
        if self.way == "seek":
            return HttpRequest(f"{endpoints.rest}/find?ts={walk.end}")
        if self.way == "forward":
            return HttpRequest(f"{endpoints.rest}/trades?since={walk.start}")
        return HttpRequest(f"{endpoints.rest}/trades")

    def next(self, walk: Walk, cursor: str, endpoints: Endpoints) -> HttpRequest:
        if walk.table == "candles":
            query = f"interval={walk.interval}&start={cursor}&end={walk.end // 1_000_000_000}"
            return HttpRequest(f"{endpoints.rest}/candles?{query}")
        return HttpRequest(f"{endpoints.rest}/trades?{'since' if self.way == 'forward' else 'before'}={cursor}")

    def page(self, walk: Walk, cursor: str, response: HttpResponse, now: int) -> HistoryPage:
        try:
            rows = json.loads(response.body)
        except ValueError as error:
            raise ProtocolError(f"page is not JSON: {error}") from None
        if walk.table == "candles":
            return self._candles(walk, rows, now)
        if self.way == "seek" and not cursor:
            return HistoryPage((), str(rows))
        trades = tuple(_trade(r, now) for r in rows)
        following: str | None = None
        if trades and self.way == "forward":
            last = trades[-1].ts_event  # asked again, so that no trade of this instant is lost
            if last < walk.end and len({t.ts_event for t in trades}) > 1:
                following = str(last)
        elif trades and trades[-1].ts_event >= walk.start:
            following = trades[-1].trade_id
        if self.stuck:
            following = cursor or "1"
        return HistoryPage(trades, following, lost=self.lost, lost_span=self.lost_span)

    def _candles(self, walk: Walk, rows: list[Any], now: int) -> HistoryPage:
        length = {"1m": MINUTE, "1h": 60 * MINUTE, "1d": DAY_NS, "1w": 7 * DAY_NS}[walk.interval]
        out = []
        for time, close in rows:
            at, price = time * 1_000_000_000, float(close)
            out.append(
                Candle(
                    at, at + length, at + length, now, VENUE, SYMBOL, walk.interval, "exchange", "final",
                    price, price, price, price, nan, nan, -1, nan, nan, REST,
                )
            )  # fmt: skip
        return HistoryPage(tuple(out), str(rows[-1][0] + 1) if rows else None)


class Files(ArchiveSource):
    """Trades as ``.csv.gz`` with decimal seconds, or as ``.zip`` of days of UTC+8 with a GBK header."""

    tables = ("trades",)
    periods = ("daily",)
    intervals = ("1m",)
    local_tables = ("trades", "candles")
    encodings = ("utf-8", "gbk")

    def __init__(self, *, offset: int = 0) -> None:
        self.offset = offset

    def file(
        self, table: str, symbol: str, day: date, endpoints: Endpoints, *, interval: str = "", period: str = "daily"
    ) -> ArchiveFile:
        if table != "trades" or period != "daily":
            raise UsageError(f"{VENUE} publishes no {period} files of {table}")
        name = f"{symbol.replace('/', '')}{day}.{'zip' if self.offset else 'csv.gz'}"
        key = f"trading/{symbol.replace('/', '')}/{name}"
        url = f"{endpoints.archive}/{quote(key)}"
        return ArchiveFile(VENUE, table, symbol, "", "daily", day, day, key, url, "", name, self.offset)

    def listing_prefix(self, table: str, symbol: str, *, interval: str = "", period: str = "daily") -> str:
        return f"trading/{symbol.replace('/', '')}/"

    def listing_request(self, prefix: str, marker: str, endpoints: Endpoints) -> HttpRequest | None:
        return HttpRequest(f"{endpoints.archive}/{prefix[: prefix.rfind('/') + 1]}")

    def parse_listing(self, body: bytes, prefix: str = "") -> ListingPage:
        folder = prefix[: prefix.rfind("/") + 1]
        return ListingPage(tuple((folder + n, 0) for n in re.findall(r'href="([^"]+)"', body.decode())), "")

    def layout(self, table: str, header: Sequence[str] | None, width: int) -> CsvLayout:
        price, quantity = CsvColumn("price", "float64"), CsvColumn("quantity", "float64")
        side = Derive("side", "side", "side")
        numbers = (Derive("price", "copy", "price"), Derive("quantity", "copy", "quantity"))
        if table == "candles":  # time,o,h,l,c,volume,trades
            names = ("open", "high", "low", "close", "volume")
            return CsvLayout(
                (CsvColumn("time", "int64"), *(CsvColumn(n, "float64") for n in names), CsvColumn("trades", "int64")),
                (
                    Derive("open_time", "time", "time"),
                    Derive("close_time", "interval_end", "time"),
                    Derive("ts_event", "interval_end", "time"),
                    Derive("source", "const", value="exchange"),
                    Derive("state", "const", value="final"),
                    *(Derive(n, "copy", n) for n in (*names, "trades")),
                    Derive("quote_volume", "const", value=nan),
                    Derive("taker_buy_volume", "const", value=nan),
                    Derive("taker_buy_quote_volume", "const", value=nan),
                ),
                sparse=True,
            )
        if width == 3:  # a dump: seconds, price, quantity
            return CsvLayout(
                (CsvColumn("time", "string"), price, quantity),
                (
                    Derive("ts_event", "seconds", "time"),
                    Derive("trade_id", "row_id", "time"),
                    Derive("trade_seq", "const"),
                    Derive("side", "const", value="unknown"),
                    *numbers,
                ),
            )
        if self.offset:
            if header is None or header[0].partition("/")[0] != "trade_id":
                raise ProtocolError("unknown columns")
            return CsvLayout(
                (CsvColumn("id", "int64"), CsvColumn("side", "string"), quantity, price, CsvColumn("ms", "int64")),
                (
                    Derive("ts_event", "time", "ms"),
                    Derive("trade_id", "text", "id"),
                    Derive("trade_seq", "copy", "id"),
                    side,
                    *numbers,
                ),
                id_column="id",
            )
        columns = (
            CsvColumn("time", "string"), CsvColumn("symbol", "string"), CsvColumn("side", "string"), quantity, price,
            CsvColumn("id", "string"), CsvColumn("worth", "float64"), CsvColumn("extra", "string"),
        )  # fmt: skip
        return CsvLayout(
            columns[:width],
            (
                Derive("ts_event", "seconds", "time"),
                Derive("trade_id", "copy", "id"),
                Derive("trade_seq", "const"),
                side,
                *numbers,
            ),
            notional_column="worth",
        )

    def local(self, names: Sequence[str], table: str, symbol: str, interval: str = "") -> str | None:
        stem = symbol.replace("/", "") + (f"_{interval.removesuffix('m')}" if interval else "")
        return next((n for n in names if n.rpartition("/")[2] == f"{stem}.csv"), None)


class MadeUp:
    """The Exchange object."""

    venue = VENUE
    title = "Made up"
    types = ("trades", "candles")
    intervals = ("1m", "1h", "1d", "1w")
    endpoints = Endpoints(ws="wss://x", rest="https://x", archive="https://x", listing="https://x")

    def __init__(
        self, history: History | None = None, archive: Files | None = None, *, weight_per_minute: int = 0
    ) -> None:
        self.limits = Limits(weight_per_minute, "", 0, 0, 0, 0)
        self.history = history
        self.archive = archive

    def instruments_request(self, endpoints: Endpoints) -> HttpRequest:
        return HttpRequest(f"{endpoints.rest}/instruments")

    def parse_instruments(self, body: bytes) -> list[Instrument]:
        from decimal import Decimal

        one = Decimal(1)
        return [
            Instrument(
                venue=VENUE, symbol=s, base=s.partition("/")[0], quote="USD", kind="spot", tick_size=one,
                lot_size=one, status="trading",
            )
            for s in json.loads(body)
        ]  # fmt: skip

    def used_weight(self, response: HttpResponse) -> int | None:
        text = response.header("x-used")
        return int(text) if text else None

    def check(self, response: HttpResponse, url: str) -> VenueError | None:
        if response.status in (403, 451):
            return BlockedError("not from here", status=response.status)
        if response.status in (418, 429):
            seconds = int(response.header("retry-after") or 0)
            return RateLimitError("slow down", status=response.status, retry_after=seconds * 1_000_000_000)
        if response.status == 200 and response.body.startswith(b'{"error"'):
            words = json.loads(response.body)["error"]
            if words == "too many requests":
                return RateLimitError(words, status=200, retry_after=0)
            return VenueError(words, status=503 if words == "busy" else 400)
        if response.status != 200:
            return VenueError(f"HTTP {response.status}", status=response.status)
        return None


def serve() -> Iterator[VenueServer]:
    server = VenueServer()
    yield server
    server.close()


Edit = Callable[[MadeUp], None]

if __name__ == "__main__":  # python history_venue.py URL STORE WAY TYPES LAST_DAY
    import cmd_archiver.command
    from cmd_common.commands import ArchiveOptions

    class Lines:
        def info(self, message: str) -> None:
            print(message, file=sys.stderr, flush=True)

        warn = info

        def ready(self, facts: Mapping[str, Any]) -> None: ...

        def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None: ...

    url, store, way, types, last = sys.argv[1:6]
    cmd_archiver.command.find_exchange = lambda venue: MadeUp(History(way))  # type: ignore[assignment]
    result = cmd_archiver.command.run(
        ArchiveOptions(
            (VENUE,), (SYMBOL,), tuple(types.split(",")), DAY, date.fromisoformat(last), store,
            endpoints={"": url}, parallel=2, candles="built",
        ),
        Lines(),
    )  # fmt: skip
    print(json.dumps({"code": result.exit_code, **result.summary}))
