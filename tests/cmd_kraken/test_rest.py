"""REST: requests, bodies, errors with HTTP 200; walks through history; layouts of dumps."""

from __future__ import annotations

from typing import Any

import kraken_wire as w
import pytest
from kraken_wire import BTC, NOW, SECOND

from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.history import Walk
from cmd_common.http import HttpResponse
from cmd_common.records import INEXACT, REST, Candle, Trade
from cmd_kraken import KRAKEN
from cmd_kraken.rest import (
    asset_pairs_request,
    depth_request,
    ohlc_request,
    parse_depth,
    parse_ohlc,
    parse_trades,
    trades_request,
)

HERE = KRAKEN.endpoints
URL = "https://api.kraken.com/0/public/Trades"


def test_requests() -> None:
    base = "https://api.kraken.com/0/public/"
    assert asset_pairs_request(HERE).url == f"{base}AssetPairs?assetVersion=1"
    assert depth_request(HERE, BTC).url == f"{base}Depth?pair=XBTUSD&count=500"
    assert trades_request(HERE, "DOGE/EUR", since=-1).url == f"{base}Trades?pair=XDGEUR&since=0&count=1000"
    assert (
        ohlc_request(HERE, BTC, "15d", since=NOW - 1).url == f"{base}OHLC?pair=XBTUSD&interval=21600&since=1767225599"
    )
    with pytest.raises(UsageError, match="count 501"):
        depth_request(HERE, BTC, count=501)
    with pytest.raises(UsageError, match="count 0"):
        trades_request(HERE, BTC, since=1, count=0)
    with pytest.raises(UsageError, match="'3m'"):
        ohlc_request(HERE, BTC, "3m", since=1)


def rows(*made: str, last: int | str = 0, key: str = "XXBTZUSD") -> bytes:
    return f'{{"error":[],"result":{{"{key}":[{",".join(made)}],"last":"{last}"}}}}'.encode()


def row(id_: int, time: str, *, side: str = "b", price: str = "30243.40000", volume: str = "0.34507674") -> str:
    return f'["{price}","{volume}",{time},"{side}","m","",{id_}]'


def test_trades_are_exact() -> None:
    page = parse_trades(
        BTC, rows(row(7, "1688669597.8277369"), row(8, "1688669598", side="s"), last="1688669598280411200"), NOW
    )
    a, b = page.trades
    assert (a.ts_event, a.ts_recv, a.trade_id, a.trade_seq, a.price, a.quantity, a.side, a.flags) == (
        1_688_669_597_827_736_900, NOW, "7", 7, 30243.4, 0.34507674, "buy", REST,
    )  # fmt: skip
    assert (b.ts_event, b.side) == (1_688_669_598_000_000_000, "sell")
    assert page.last == 1_688_669_598_280_411_200
    long = parse_trades(BTC, rows(row(7, "1", volume="123456789.12345678")), NOW)
    assert long.trades[0].flags == REST | INEXACT


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", w.body({}), w.body({"A": [], "B": [], "last": "1"}), w.body({"A": [["1", "1"]], "last": "1"}),
        rows(row(1, "1", side="x")), rows(row(1, '"x"')), rows(row(1, "1", price="1e5")), rows(row(1, "1", price="0.0")),
        rows(row(-1, "1")), rows(row(1, "1"), last="x"), w.body({"A": []}), w.body({}, "EService:Busy"),
    ],
)  # fmt: skip
def test_bad_trades_are_one_clear_error(body: bytes) -> None:
    with pytest.raises(ProtocolError) as error:
        parse_trades(BTC, body, NOW)
    assert "\n" not in str(error.value)


def candle(minute: int) -> list[Any]:
    return [NOW // SECOND + 60 * minute, "100.0", "102.0", "99.0", "101.5", "100.7", "12.50000000", 7]


def test_candles() -> None:
    made = parse_ohlc(BTC, "1m", w.body({"XXBTZUSD": [candle(0), candle(1)], "last": 1}), NOW + 90 * SECOND)
    assert [(c.open_time, c.close_time, c.state) for c in made] == [
        (NOW, NOW + 60 * SECOND, "final"),
        (NOW + 60 * SECOND, NOW + 120 * SECOND, "provisional"),
    ]
    c = made[0]
    assert (c.open, c.high, c.low, c.close, c.volume, c.trades, c.source, c.flags) == (
        100,
        102,
        99,
        101.5,
        12.5,
        7,
        "exchange",
        REST,
    )
    with pytest.raises(ProtocolError, match="OHLC"):
        parse_ohlc(BTC, "1m", w.body({"X": [[1, "1"]]}), NOW)


def test_depth() -> None:
    sides = {"asks": [["101.00000", "2.000", 1654302625]], "bids": [["100.00000", "1.500", 1654302625]]}
    book = parse_depth(w.body({"XXBTZUSD": sides}))
    assert (book.bids, book.asks) == ([(100.0, 1.5, "100000001500")], [(101.0, 2.0, "101000002000")])
    with pytest.raises(ProtocolError, match="Depth"):
        parse_depth(w.body({"XXBTZUSD": {"asks": [["x", "1", 1]], "bids": []}}))


# Errors


def check(body: bytes, status: int = 200, **headers: str) -> Any:
    return KRAKEN.check(HttpResponse(status, body, {k.replace("_", "-"): v for k, v in headers.items()}), URL)


@pytest.mark.parametrize("body", [w.body({}), b'{"error": [], "result":{}}', b'{"result":{}}', b"", b"<html>"])
def test_success(body: bytes) -> None:
    assert check(body) is None


@pytest.mark.parametrize(
    ("words", "kind", "status", "text"),
    [
        ("EAPI:Rate limit exceeded", RateLimitError, 200, "waits 5 s"),
        ("EGeneral:Temporary lockout", RateLimitError, 200, "waits 900 s"),
        ("EService:Throttled: 1700000000", RateLimitError, 200, "waits 5 s"),
        ("EService:Unavailable", VenueError, 503, "tried again later"),
        ("EService:Busy", VenueError, 503, "tried again later"),
        ("EService:Market in cancel_only mode", VenueError, 503, "tried again later"),
        ("EGeneral:Internal error", VenueError, 503, "tried again later"),
        ("EQuery:Unknown asset pair", VenueError, 400, "refused the request"),
        ("EGeneral:Invalid arguments", VenueError, 400, "refused the request"),
    ],
)
def test_errors_come_with_http_200(words: str, kind: type[VenueError], status: int, text: str) -> None:
    for body in (w.body({}, words), f'{{"error":["{words}"]}}'.encode()):
        error = check(body)
        assert type(error) is kind
        assert error.status == status
        assert words in str(error)
        assert text in str(error)


def test_http_errors() -> None:
    assert check(b"", 429, retry_after="7").retry_after == 7 * SECOND
    assert check(w.body({}, "EAPI:Rate limit exceeded"), retry_after="2").retry_after == 2 * SECOND
    assert isinstance(check(b"<html>", 403), BlockedError)
    assert isinstance(check(b"<html>", 451), BlockedError)
    assert check(b"<html>", 520).status == 520
    assert check(b"", 404).status == 404
    assert "(a, b)" in str(check(w.body({}, "a", "b\nc".replace("\nc", ""))))


# History


class Server:
    """Answers Trades from a list of (id, ns), with ``since`` inclusive or exclusive."""

    def __init__(self, trades: list[tuple[int, int]], *, inclusive: bool, page: int = 1000) -> None:
        self.trades = trades
        self.inclusive = inclusive
        self.page = page
        self.requests = 0

    def get(self, url: str) -> HttpResponse:
        self.requests += 1
        since = int(url.partition("since=")[2].partition("&")[0])
        found = [t for t in self.trades if (t[1] >= since if self.inclusive else t[1] > since)][: self.page]
        made = [row(i, f"{ns // SECOND}.{ns % SECOND:09d}") for i, ns in found]
        return HttpResponse(200, rows(*made, last=found[-1][1] if found else since))


def walk(server: Server, start: int, end: int) -> list[int]:
    history = KRAKEN.history
    assert history is not None
    wanted = Walk("trades", BTC, start, end)
    request, cursor = history.first(wanted, HERE), ""
    seen: list[int] = []
    cursors = set()
    while True:
        page = history.page(wanted, cursor, server.get(request.url), NOW)
        seen += [r.trade_seq for r in page.records]  # type: ignore[union-attr, misc]
        if page.cursor is None:
            return seen
        assert page.cursor not in cursors
        cursors.add(page.cursor)
        cursor = page.cursor
        request = history.next(wanted, cursor, HERE)


@pytest.mark.parametrize("inclusive", [True, False])
def test_trades_are_walked_forward_without_losses_or_repeats(inclusive: bool) -> None:
    # Fills of one order share their time: also where a page ends.
    trades = [(n, NOW + n // 7 * 1_000) for n in range(1, 5000)]
    server = Server(trades, inclusive=inclusive)
    start, end = NOW + 100_000, NOW + 600_000
    assert walk(server, start, end) == [i for i, ns in trades if start <= ns < end]
    assert walk(server, NOW, NOW + 10 * SECOND) == [i for i, _ in trades]


@pytest.mark.parametrize("inclusive", [True, False])
def test_a_day_without_trades_is_one_page(inclusive: bool) -> None:
    server = Server([(1, NOW - 5), (2, NOW + 90)], inclusive=inclusive)
    assert walk(server, NOW, NOW + 50) == []
    assert server.requests == 1
    assert walk(Server([], inclusive=inclusive), NOW, NOW + 50) == []


def test_more_trades_of_one_moment_than_a_page_holds_do_not_loop() -> None:
    trades = [(n, NOW) for n in range(1, 1002)] + [(n, NOW + n) for n in range(1002, 1010)]
    seen = walk(Server(trades, inclusive=False), NOW, NOW + SECOND)
    assert seen == [*range(1, 1001), *range(1002, 1010)]  # 1001 cannot be asked for, and shows as a missing id


def test_cursors_are_refused_when_they_are_not_ours() -> None:
    assert KRAKEN.history is not None
    with pytest.raises(UsageError, match="no cursor"):
        KRAKEN.history.next(Walk("trades", BTC, 0, 1), "nonsense", HERE)
    with pytest.raises(UsageError, match="no history"):
        KRAKEN.history.first(Walk("quotes", BTC, 0, 1), HERE)


def test_candles_are_one_page_of_720() -> None:
    history = KRAKEN.history
    assert history is not None
    assert history.reach("trades") is None
    assert history.reach("candles", "1h") == 719 * 3600 * SECOND
    assert history.contiguous
    wanted = Walk("candles", BTC, NOW, NOW + 600 * SECOND, "1m")
    assert "interval=1&since=1767225599" in history.first(wanted, HERE).url
    body = w.body({"XXBTZUSD": [candle(n) for n in range(-1, 12)], "last": 1})
    page = history.page(wanted, "", HttpResponse(200, body), NOW + 5 * 60 * SECOND)
    assert [(c.open_time - NOW) // (60 * SECOND) for c in page.records] == [0, 1, 2, 3, 4]  # type: ignore[union-attr]
    assert (page.cursor, page.lost) == (None, "")
    late = w.body({"XXBTZUSD": [candle(n) for n in range(5, 725)], "last": 1})
    page = history.page(wanted, "", HttpResponse(200, late), NOW + 86_400 * SECOND)
    assert len(page.records) == 5
    assert page.lost_span == (NOW, NOW + 300 * SECOND)
    assert "720 candles" in page.lost


# Dumps


def test_dumps() -> None:
    archive = KRAKEN.archive
    assert archive is not None
    assert archive.local_tables == ("trades", "candles")
    names = ["Kraken/XBTUSD_60.csv", "__MACOSX/XBTUSD.csv", "Kraken/XBTUSDT.csv", "Kraken/XBTUSD.csv", "XDGEUR.csv"]
    assert archive.local(names, "trades", BTC) == "Kraken/XBTUSD.csv"
    assert archive.local(names, "trades", "DOGE/EUR") == "XDGEUR.csv"
    assert archive.local(names, "candles", BTC, "1h") == "Kraken/XBTUSD_60.csv"
    assert archive.local(names, "candles", BTC, "1m") is None
    trades, candles = archive.layout("trades", None, 3), archive.layout("candles", None, 7)
    assert [d.target for d in trades.derive if d.value == "unknown"] == ["side"]
    assert candles.sparse
    # Every column of the tables comes from somewhere; the archiver itself knows venue, symbol and interval.
    own = {"ts_recv", "venue", "symbol", "interval", "flags"}
    for layout, record in ((trades, Trade), (candles, Candle)):
        assert {d.target for d in layout.derive} | own == set(record.__struct_fields__) | own
        assert {d.source for d in layout.derive} - {""} <= {c.name for c in layout.columns}
    with pytest.raises(ProtocolError, match="4 columns"):
        archive.layout("trades", None, 4)
    with pytest.raises(ProtocolError, match="quotes"):
        archive.layout("quotes", None, 3)
    assert archive.listing_request("", "", HERE) is None
