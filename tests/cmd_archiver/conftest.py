"""Archives in the published format, made of recorded trades, and a loopback server that serves them."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import msgspec
import pytest
from tests.conftest import require

sys.path.insert(0, str(Path(__file__).parent))

Row = tuple[int, str, str, int, bool]  # id, price, quantity, time in ms, buyer is maker


class Kit:
    """Makes published files."""

    @staticmethod
    def trades_csv(rows: Sequence[Row], *, market: str = "spot", us: bool = False, header: bool = False) -> bytes:
        out = []
        if header:
            notional = "base_qty" if market == "coinm" else "quote_qty"
            out.append(f"id,price,qty,{notional},time,is_buyer_maker\n")
        for id_, price, qty, ms, maker in rows:
            worth = f"{Decimal(price) * Decimal(qty):.8f}"
            time = ms * 1000 + 7 if us else ms
            if market == "spot":
                out.append(f"{id_},{price},{qty},{worth},{time},{maker},True\n")
            else:
                out.append(f"{id_},{price},{qty},{worth},{time},{str(maker).lower()}\n")
        return "".join(out).encode()

    @staticmethod
    def zip(name: str, text: bytes, *, stray: bool = False) -> bytes:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            if stray:
                archive.writestr(zipfile.ZipInfo(f"__MACOSX/._{name}.csv"), b"\x00\x05\x16\x07Mac OS X")
            # A fixed time, so that the same rows have the same checksum.
            info = zipfile.ZipInfo(f"{name}.csv", (2024, 8, 10, 1, 2, 4))
            archive.writestr(info, text, zipfile.ZIP_DEFLATED)
        return data.getvalue()

    @staticmethod
    def klines_csv(rows: Sequence[Row], step: int = 60_000) -> bytes:
        """Candles as the exchange makes them: decimals, empty minutes with the last close."""
        buckets: dict[int, list[Row]] = {}
        for row in rows:
            buckets.setdefault(row[3] // step * step, []).append(row)
        out, close = [], Decimal(0)
        for start in range(min(buckets), max(buckets) + 1, step):
            trades = buckets.get(start, [])
            prices = [Decimal(t[1]) for t in trades] or [close]
            close = prices[-1]
            volume = sum((Decimal(t[2]) for t in trades), Decimal(0))
            quote = sum((Decimal(t[1]) * Decimal(t[2]) for t in trades), Decimal(0))
            buy = sum((Decimal(t[2]) for t in trades if not t[4]), Decimal(0))
            buy_quote = sum((Decimal(t[1]) * Decimal(t[2]) for t in trades if not t[4]), Decimal(0))
            out.append(
                f"{start},{prices[0]:.8f},{max(prices):.8f},{min(prices):.8f},{close:.8f},{volume:.8f},"
                f"{start + step - 1},{quote:.8f},{len(trades)},{buy:.8f},{buy_quote:.8f},0\n"
            )
        return "".join(out).encode()


class Server:
    """The public archive on a loopback port: files, ``.CHECKSUM``, byte ranges and the S3 listing."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.checksums: dict[str, bytes] = {}  # instead of the right ones
        self.requests: list[tuple[str, str]] = []  # path, range header
        self.cut: dict[str, list[int]] = {}  # body lengths after which the next answers break off
        self.status: dict[str, list[int]] = {}  # statuses to answer with first
        self.ranges = True
        self.page = 1000
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
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, key: str, body: bytes) -> None:
        self.files[key] = body

    def add_trades(self, day: date, rows: Sequence[Row], *, symbol: str = "BTCUSDT", **options: bool) -> str:
        name = f"{symbol}-trades-{day}"
        key = f"data/spot/daily/trades/{symbol}/{name}.zip"
        stray = options.pop("stray", False)
        self.add(key, Kit.zip(name, Kit.trades_csv(rows, **options), stray=stray))
        return key

    def add_klines(self, day: date, rows: Sequence[Row], *, symbol: str = "BTCUSDT") -> str:
        name = f"{symbol}-1m-{day}"
        key = f"data/spot/daily/klines/{symbol}/1m/{name}.zip"
        self.add(key, Kit.zip(name, Kit.klines_csv(rows)))
        return key

    def downloads(self) -> list[str]:
        """Paths of zips that were asked for."""
        return [p for p, _ in self.requests if p.endswith(".zip")]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        path = unquote(parts.path).lstrip("/")
        wanted = handler.headers.get("Range", "")
        self.requests.append((path, wanted))
        if self.status.get(path):
            return self._send(handler, self.status[path].pop(0), b"")
        query = parse_qs(parts.query)
        if not path and "prefix" in query:
            return self._send(handler, 200, self._listing(query))
        if path.endswith(".CHECKSUM"):
            key = path.removesuffix(".CHECKSUM")
            if key not in self.files:
                return self._send(handler, 404, b"<Error><Code>NoSuchKey</Code></Error>")
            right = f"{hashlib.sha256(self.files[key]).hexdigest()}  {key.rsplit('/', 1)[-1]}\n".encode()
            return self._send(handler, 200, self.checksums.get(key, right))
        body = self.files.get(path)
        if body is None:
            return self._send(handler, 404, b"<Error><Code>NoSuchKey</Code></Error>")
        status, start = 200, 0
        if wanted and self.ranges:
            match = re.fullmatch(r"bytes=(\d+)-", wanted)
            assert match is not None
            status, start = 206, int(match[1])
            if start >= len(body):
                return self._send(handler, 416, b"")
        cuts = self.cut.get(path)
        self._send(handler, status, body[start:], cut=cuts.pop(0) if cuts else None)

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, cut: int | None = None) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        try:
            handler.wfile.write(body if cut is None else body[:cut])
        except (BrokenPipeError, ConnectionResetError):
            pass
        if cut is not None:
            handler.close_connection = True

    def _listing(self, query: Mapping[str, Sequence[str]]) -> bytes:
        prefix, marker = query["prefix"][0], query.get("marker", [""])[0]
        keys = sorted([*self.files, *(k + ".CHECKSUM" for k in self.files)])
        keys = [k for k in keys if k.startswith(prefix) and k > marker and "/" not in k[len(prefix) :]]
        page = keys[: self.page]
        more = len(keys) > len(page)
        entries = "".join(
            f"<Contents><Key>{escape(k)}</Key><LastModified>2024-08-10T01:02:03.000Z</LastModified>"
            f"<ETag>&quot;0&quot;</ETag><Size>{len(self.files.get(k, b'x' * 90))}</Size></Contents>"
            for k in page
        )
        following = f"<NextMarker>{escape(page[-1])}</NextMarker>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>data.binance.vision</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{following}{entries}</ListBucketResult>"
        ).encode()


@pytest.fixture(params=["native", "pure"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Files are read by cmd-native, or without it; ``CMD_PURE`` has no say here."""
    reader = None
    if request.param == "native":
        require("native", find_spec("cmd_native") is not None, "install cmd-native, as deploy/test.sh does")
        from cmd_native import CsvReader as reader
    monkeypatch.setattr("cmd_archiver.parse.READER", reader)
    return str(request.param)


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="session")
def recorded(recordings: Path) -> dict[date, list[Row]]:
    """The recorded BTCUSDT trades by UTC day: 19,904 with contiguous ids."""
    out: dict[date, list[Row]] = {}
    for name in ("hft_btcusdt_20240808", "hft_btcusdt_20240809"):
        with gzip.open(recordings / "binance_spot" / f"{name}.ndjson.gz", "rb") as lines:
            for line in lines:
                if b'"btcusdt@trade"' not in line:
                    continue
                d = msgspec.json.decode(line)["msg"]["data"]
                day = datetime.fromtimestamp(d["T"] // 1000, UTC).date()
                out.setdefault(day, []).append((d["t"], d["p"], d["q"], d["T"], d["m"]))
    return out


@pytest.fixture(scope="session")
def made_up() -> Callable[..., list[Row]]:
    """Made-up trades of one day: a row every ``every`` ms from midnight on."""

    def make(day: date, count: int, *, first_id: int = 1000, every: int = 1000) -> list[Row]:
        start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
        return [
            (first_id + i, f"{100 + i % 7 * 0.01:.2f}000000", f"0.{i % 9 + 1}0000000", start + i * every, i % 3 == 0)
            for i in range(count)
        ]

    return make


@pytest.fixture
def store(tmp_path):
    return f"parquet:{tmp_path / 'store'}"


@pytest.fixture
def go(server, store):
    """Run the command against the loopback archive; returns (result, reporter)."""

    from archive_kit import DAY, NEXT, Lines

    from cmd_archiver.command import run
    from cmd_common.commands import ArchiveOptions

    def go(**changes):
        lines = Lines()
        options = {
            "exchanges": ("binance-spot",),
            "symbols": ("BTCUSDT",),
            "types": ("trades",),
            "start": DAY,
            "end": NEXT,
            "store": store,
            "endpoints": {"": server.url},
            **changes,
        }
        return run(ArchiveOptions(**options), lines), lines

    return go


@pytest.fixture
def venue():
    """The made-up exchange of history_venue on a loopback port."""
    from history_venue import serve

    yield from serve()


@pytest.fixture
def ask(venue, store, monkeypatch):
    """Run the command for the made-up exchange; returns (result, reporter)."""

    from archive_kit import Lines
    from history_venue import DAY, NEXT, SYMBOL, VENUE, History, MadeUp

    import cmd_archiver.command
    from cmd_common.commands import ArchiveOptions

    def ask(exchange=None, **changes):
        made = exchange or MadeUp(History())
        monkeypatch.setattr(cmd_archiver.command, "find_exchange", lambda name: made)
        lines = Lines()
        options = {
            "exchanges": (VENUE,),
            "symbols": (SYMBOL,),
            "types": ("trades",),
            "start": DAY,
            "end": NEXT,
            "store": store,
            "endpoints": {"": venue.url},
            **changes,
        }
        return cmd_archiver.command.run(ArchiveOptions(**options), lines), lines

    return ask
