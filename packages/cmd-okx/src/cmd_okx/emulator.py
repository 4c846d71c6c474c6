"""The server side of OKX without I/O: both WebSocket paths, REST and bulk files, from a simulation or recordings.

Channels are served where the exchange serves them: books, trades and quotes on ``/ws/v5/public``, candles and single
fills on ``/ws/v5/business``; anywhere else they are refused with error 60018, and so are unknown instruments,
while the other arguments of the same request are served. Rules: docs/exchanges/okx.md.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct, field

from cmd_common.candles import interval_bounds
from cmd_common.emulation import MarketSource, ServerFrame
from cmd_common.emulation_base import Connection, Item, json_response
from cmd_common.http import HttpResponse
from cmd_common.instruments import InstrumentKind
from cmd_common.venue_emulator import RecordedPart, VenueEmulator
from cmd_common.venue_world import BookChange, BookView, CandleUpdate, Event, Listed, Quote, Trade

from . import _emulator_recording as recording
from . import _emulator_text as write
from .archive import OFFSET
from .feed import BUSINESS, PUBLIC
from .instruments import BARS, VENUE
from .sync import checksum

__all__ = ["OkxEmulator"]

_SECOND: Final = 1_000_000_000
_HOUR: Final = 3600 * _SECOND
_DAY: Final = 24 * _HOUR
_LEVELS: Final = 400
_REQUESTS: Final = 480  # subscriptions and the like in an hour a connection
_FRAME_BYTES: Final = 65_536
_INTERVAL_OF: Final = {f"candle{bar}": interval for interval, bar in BARS.items()}
_INTERVAL_OF_BAR: Final = {bar: interval for interval, bar in BARS.items()}
_CHANNELS: Final = {
    PUBLIC: frozenset(("books", "books5", "bbo-tbt", "tickers", "trades")),
    BUSINESS: frozenset((*_INTERVAL_OF, "trades-all")),
}
_LINEAR: Final = {"BTC": Decimal("0.01"), "ETH": Decimal("0.1")}  # base asset a contract; others 1
_ARCHIVE: Final = "/cdn/okex/traderecords/trades/daily/"
_FILES: Final = 64  # bulk files that are kept


class Client(Struct):
    """What the emulator knows of a connection."""

    path: str
    requests: deque[int] = field(default_factory=deque)  # times of subscription requests


class OkxEmulator(VenueEmulator[Client]):
    """See ``cmd_common.venue_emulator``. Bulk files take turns at the three headers that were ever used."""

    venue = VENUE
    usual_quote: ClassVar[str] = "USDT"
    jumping_ids: ClassVar[bool] = True
    pongs: ClassVar[Mapping[str, str]] = {"ping": "pong"}
    messages_per_second = 20
    connects_per_5min = 900
    lifetime = 10_000 * _DAY  # no limit is published

    def __init__(self, source: MarketSource) -> None:
        self._summed: set[str] = set()  # recorded symbols whose books carry checksums
        self._files: OrderedDict[tuple[str, date], bytes] = OrderedDict()
        super().__init__(source)
        self._by_symbol: dict[str, Listed] = {i.symbol: i for i in self.market.listed()}

    # Names

    def native(self, base: str, quote: str, kind: InstrumentKind) -> str:
        """``BTC-USDT`` and ``BTC-USDT-SWAP``."""
        return f"{base}-{quote}" + ("-SWAP" if kind == "perpetual" else "")

    def listing(
        self, base: str, quote: str, kind: InstrumentKind, price_decimals: int, quantity_decimals: int
    ) -> Listed:
        """Swaps are in contracts: of 0.01 BTC, 0.1 ETH or 1 of others; quoted in USD inverse, of 100 or 10 USD."""
        symbol = self.native(base, quote, kind)
        if kind == "spot":
            return Listed(symbol, base, quote, kind, price_decimals, quantity_decimals)
        if quote == "USD":
            size = Decimal(100 if base == "BTC" else 10)
            return Listed(symbol, base, quote, kind, price_decimals, 0, size, inverse=True)
        return Listed(symbol, base, quote, kind, price_decimals, 2, _LINEAR.get(base, Decimal(1)))

    def recorded(self, symbol: str, price_decimals: int, quantity_decimals: int) -> Listed:
        """Describe a recorded symbol; dated futures end in their day."""
        made = super().recorded(symbol, price_decimals, quantity_decimals)
        parts = symbol.split("-")
        if len(parts) == 3 and parts[2].isdigit() and len(parts[2]) == 6:
            swap = self.listing(parts[0], parts[1], "perpetual", price_decimals, quantity_decimals)
            return msgspec.structs.replace(
                made, kind="future", contract_size=swap.contract_size, inverse=swap.inverse
            )  # fmt: skip
        return made

    # Connections and control frames

    def connect(self, connection: Connection, target: str, headers: Mapping[str, str]) -> Client | HttpResponse:
        """Accept the two public paths."""
        path = target.partition("?")[0].rstrip("/")
        return Client(path) if path in _CHANNELS else self.not_found()

    def command(self, connection: Connection, message: Any, now: int) -> list[str | ServerFrame]:
        """Subscribe and unsubscribe argument by argument."""
        if not isinstance(message, dict) or message.get("op") not in ("subscribe", "unsubscribe"):
            return [_error("60012", f"Illegal request: {_short(message)}", connection)]
        args = message.get("args")
        if not isinstance(args, list) or not args or len(msgspec.json.encode(message)) > _FRAME_BYTES:
            return [_error("60012", f"Illegal request: {_short(message)}", connection)]
        requests = self.state(connection).requests
        while requests and requests[0] <= now - _HOUR:
            requests.popleft()
        if len(requests) >= _REQUESTS:
            return [_error("60014", "Requests too frequent", connection)]
        requests.append(now)
        replies: list[str | ServerFrame] = []
        for arg in args:
            channel, symbol = (
                (str(arg.get(k, "")) for k in ("channel", "instId")) if isinstance(arg, dict) else ("", "")
            )
            if channel not in _CHANNELS[self.state(connection).path] or self.find(symbol) != symbol:
                words = (
                    f"Wrong URL or channel:{channel},instId:{symbol} doesn't exist. Please use the correct URL, channel "
                    "and parameters referring to API document."
                )
                replies.append(_error("60018", words, connection))
                continue
            reply = {"event": message["op"], "arg": arg, "connId": _connection_id(connection)}
            replies.append(msgspec.json.encode(reply).decode())
            name = f"{channel}:{symbol}"
            if message["op"] == "subscribe":
                replies += self.join(connection, [name], now)
            else:
                self.leave(connection, [name])
        return replies

    def unreadable(self, connection: Connection, text: str) -> list[str | ServerFrame]:
        """Refuse what is not JSON."""
        return [_error("60012", f"Illegal request: {text[:100]}", connection)]

    def farewell(self, connection: Connection) -> str:
        """The notice of an upgrade."""
        words = "The connection will soon be closed for a service upgrade. Please reconnect."
        reply = {"event": "notice", "code": "64008", "msg": words, "connId": _connection_id(connection)}
        return msgspec.json.encode(reply).decode()

    def garbage(self, form: str, item: Item, size: int) -> str:
        """Return an extra frame for the fault malformed."""
        if form == "unknown":
            return write.data_frame("novelty", item.symbol, [{"x": 1, "newField": {"a": [1, 2, 3]}}])
        if form == "huge":
            return write.data_frame("novelty", item.symbol, [{"x": "x" * size}])
        return super().garbage(form, item, size)

    def stream_of(self, name: str, connection: Connection) -> str | None:
        """Return the world's stream of ``channel:instId``."""
        channel, _, symbol = name.partition(":")
        if channel in ("trades", "trades-all"):
            return f"trades:{symbol}"
        if channel in ("bbo-tbt", "tickers"):
            return f"quotes:{symbol}"
        if channel in ("books", "books5"):
            return f"top:{symbol}:{_LEVELS if channel == 'books' else 5}"
        return f"candles:{symbol}:{_INTERVAL_OF[channel]}"

    # Messages

    def write(self, event: Event, connection: Connection, name: str) -> str:
        """Write an event for a channel."""
        channel, _, symbol = name.partition(":")
        row: Any
        if isinstance(event, Trade):
            row = write.trade_row(event, count=channel == "trades")
        elif isinstance(event, Quote):
            row = write.quote_row(event) if channel == "bbo-tbt" else write.ticker_row(event, self._by_symbol[symbol])
        elif isinstance(event, CandleUpdate):
            row = write.candle_row(event, self._by_symbol[symbol])
        elif isinstance(event, BookChange):
            if channel == "books5":
                return self._top(symbol)
            return write.data_frame(channel, symbol, [write.book_row(event, event.prev_id)], "update")
        else:
            return ""
        return write.data_frame(channel, symbol, [row])

    def _top(self, symbol: str) -> str:
        book = self.market.book(symbol, 5)
        return write.data_frame("books5", symbol, [write.book_row(book, None, 5)])

    def write_snapshot(self, view: BookView, connection: Connection, name: str) -> list[str]:
        """Write the snapshot that follows a subscription."""
        channel, _, symbol = name.partition(":")
        if channel == "books5":
            return [self._top(symbol)]
        if not view.last_id and symbol not in self._summed:
            return []
        row = write.book_row(view, -1, _LEVELS)
        if not view.last_id:  # recorded traffic of 2022, which has checksums instead of ids
            del row["seqId"], row["prevSeqId"]
        if symbol in self._summed:
            row["bids"], row["asks"] = (
                [[p, q, "0", "1"] for p, q in side[:_LEVELS]] for side in (view.bids, view.asks)
            )
            row["checksum"] = checksum(view.bids, view.asks)
        return [write.data_frame(channel, symbol, [row], "snapshot")]

    def write_recorded(self, text: str, connection: Connection, name: str) -> str:
        """Serve a recorded frame as it came; whole books of five levels are made of recorded updates."""
        if name.startswith("books5:") and '"channel":"books5"' not in text:
            return self._top(name.partition(":")[2])
        return text

    def classify(self, text: str) -> list[RecordedPart]:
        """See ``VenueEmulator``."""
        parts = recording.classify(text)
        if parts and parts[0].kind == "snapshot":
            symbol = parts[0].symbol
            if any(row.get("checksum") for row in msgspec.json.decode(text)["data"]):
                self._summed.add(symbol)
        return parts

    def classify_rest(self, url: str, text: str) -> list[RecordedPart]:
        """See ``VenueEmulator``."""
        return recording.classify_rest(url, text)

    # REST

    def refusal(self, kind: str, seconds: int) -> HttpResponse:
        """Refuse a request as rate limit (429) or firewall (403)."""
        headers = {"retry-after": str(seconds)}
        if kind == "rate_limit":
            return json_response({"code": "50011", "msg": "Too Many Requests", "data": []}, 429, headers)
        return json_response({"code": "403", "msg": "Forbidden", "data": []}, 403, headers)

    def not_found(self) -> HttpResponse:
        """Answer a path that does not exist."""
        return json_response({"code": "404", "data": {}, "detailMsg": "", "error_code": "404", "msg": "Not Found"}, 404)

    def timeout(self, target: str) -> HttpResponse:
        """Answer a request for a book that did not come in time."""
        return json_response({"code": "50004", "msg": "API endpoint request timeout", "data": []}, 400)

    def rest(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """Answer a GET request; refusals are bodies with a code, and HTTP 200."""
        if path.startswith(_ARCHIVE):
            return self._bulk(path.removeprefix(_ARCHIVE))
        if not path.startswith("/api/v5/"):
            return self.not_found()
        name = path.removeprefix("/api/v5/")
        if name == "public/time":
            return _ok([{"ts": write.ms(self.market.clock)}])
        if name == "public/instruments":
            return self._instruments_of(query.get("instType", ""))
        if name not in ("market/books", "market/trades", "market/history-trades", "market/candles", "market/history-candles"):  # fmt: skip
            return self.not_found()
        symbol = query.get("instId", "")
        if not symbol:
            return _refused("50014", "Parameter instId can not be empty.")
        if self.find(symbol) != symbol:
            return _refused("51001", "Instrument ID doesn't exist.")
        try:
            if name == "market/books":
                return self._book(symbol, _count(query, "sz", 1, _LEVELS), now)
            if name == "market/trades":
                trades = self.market.latest_trades(symbol, _count(query, "limit", 100, 500))
                return _ok([_rest_trade(t) for t in reversed(trades)])
            if name == "market/history-trades":
                return self._history_trades(symbol, query)
            return self._candles(symbol, query, closed=name == "market/history-candles")
        except ValueError as error:
            return _refused("51000", f"Parameter {error} error")

    def _instruments_of(self, type_: str) -> HttpResponse:
        if type_ not in ("SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION"):
            return _refused("51000", "Parameter instType error")
        if recorded := self.market.body(f"/api/v5/public/instruments?instType={type_}"):
            return json_response(recorded)
        if self.market.reference is not None:
            rows = msgspec.json.decode(self.market.reference).get("data", [])
            return _ok([row for row in rows if row.get("instType") == type_])
        rows = [write.instrument_row(i) for i in self.market.listed()]
        return _ok([row for row in rows if row["instType"] == type_])

    def _book(self, symbol: str, levels: int, now: int) -> HttpResponse | str:
        view = self.book(symbol, levels, now)
        return view if isinstance(view, str) else _ok([write.book_row(view, None, levels)])

    def _history_trades(self, symbol: str, query: Mapping[str, str]) -> HttpResponse:
        limit = _count(query, "limit", 100, 100)
        kind = query.get("type", "1")
        if kind not in ("1", "2"):
            raise ValueError("type")
        market = self.market
        if "after" in query:
            after = _integer(query, "after")
            trades: Sequence[Trade]
            if kind == "1":
                trades = market.trades_before(symbol, after, limit)
            else:
                trades = self._before_time(symbol, after * 1_000_000, limit)
        else:
            trades = market.latest_trades(symbol, limit)
        if "before" in query and kind == "1":
            before = _integer(query, "before")
            trades = [t for t in trades if t.id > before]
        return _ok([_rest_trade(t) for t in reversed(trades)])

    def _before_time(self, symbol: str, end: int, limit: int) -> list[Trade]:
        """The last trades before an instant, looked for in growing steps back."""
        days = self.market.days(symbol)
        first = _midnight(days[0]) if days else end
        end = min(end, self.market.position + _DAY)
        back = 60 * _SECOND
        while True:
            found = self.market.trades_between(symbol, end - back, end)
            if len(found) >= limit or end - back <= first:
                return found[-limit:]
            back *= 8

    def _candles(self, symbol: str, query: Mapping[str, str], *, closed: bool) -> HttpResponse:
        limit = _count(query, "limit", 100, 300)
        interval = _INTERVAL_OF_BAR.get(query.get("bar", "1m"))
        if interval is None:
            raise ValueError("bar")
        market = self.market
        position = market.position
        end = min(_integer(query, "after") * 1_000_000, position + 1) if "after" in query else position + 1
        first = _integer(query, "before") * 1_000_000 + 1 if "before" in query else 0
        start = max(end, _DAY)
        for _ in range(limit + 1):  # months have different lengths
            start = interval_bounds(max(start - 1, 0), interval)[0]
        rows = [c for c in market.candles(symbol, interval, max(first, start), end - 1) if c.closed or not closed]
        return _ok([write.candle_row(c, self._by_symbol[symbol]) for c in reversed(rows[-limit:])])

    # Bulk files

    def _bulk(self, path: str) -> HttpResponse:
        folder, _, name = path.partition("/")
        symbol, found, rest = name.rpartition("-trades-")
        try:
            day = date.fromisoformat(rest.removesuffix(".zip"))
        except ValueError:
            return self._no_file()
        if not found or not rest.endswith(".zip") or folder != f"{day:%Y%m%d}" or self.find(symbol) != symbol:
            return self._no_file()
        data = self._files.get((symbol, day))
        if data is None:
            days = set(self.market.days(symbol))
            trades: Iterable[Trade] = (
                t for d in (day - timedelta(days=1), day) if d in days for t in self.market.day_trades(symbol, d)
            )
            start = _midnight(day) + OFFSET
            rows = [t for t in trades if start <= t.ts < start + _DAY]
            if not rows:
                return self._no_file()
            data = write.bulk_file(symbol, day, rows, day.toordinal() % 3)
            self._files[symbol, day] = data
            if len(self._files) > _FILES:
                self._files.popitem(last=False)
        return self.bulk(symbol, day.isoformat(), data, "application/zip")

    def _no_file(self) -> HttpResponse:
        return HttpResponse(404, b"<Error><Code>NoSuchKey</Code></Error>", {"content-type": "application/xml"})


def _ok(rows: list[Any]) -> HttpResponse:
    return json_response({"code": "0", "msg": "", "data": rows})


def _refused(code: str, words: str) -> HttpResponse:
    return json_response({"code": code, "msg": words, "data": []})


def _rest_trade(trade: Trade) -> dict[str, Any]:
    row = write.trade_row(trade, count=False)
    del row["seqId"]
    return row


def _error(code: str, words: str, connection: Connection) -> str:
    reply = {"event": "error", "msg": words, "code": code, "connId": _connection_id(connection)}
    return msgspec.json.encode(reply).decode()


def _connection_id(connection: Connection) -> str:
    return f"{connection.number:08x}"


def _short(message: Any) -> str:
    return msgspec.json.encode(message).decode()[:100]


def _integer(query: Mapping[str, str], name: str) -> int:
    text = query[name]
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError(name)
    return int(text)


def _count(query: Mapping[str, str], name: str, usual: int, most: int) -> int:
    if name not in query:
        return usual
    count = _integer(query, name)
    if not count >= 1:
        raise ValueError(name)
    return min(count, most)


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * _SECOND
