"""The server side of Kraken without I/O: WebSocket v2 (and v1 for recordings of it), and REST.

Rules: docs/exchanges/kraken.md. From a simulation it speaks v2: every book message has the CRC32 of
the best ten levels, updates of a subscribed depth say nothing of levels that others push out, and a
subscription begins with its snapshot. Recordings are served as they came; a book is then confirmed
with the depth that was recorded, whatever was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from msgspec import Struct

from cmd_common.emulation import Close, MarketSource, Poll, ServerFrame, Text
from cmd_common.emulation_base import Connection
from cmd_common.http import HttpResponse
from cmd_common.instruments import InstrumentKind
from cmd_common.venue_emulator import RecordedPart, VenueEmulator
from cmd_common.venue_world import BookChange, BookView, CandleUpdate, Event, Listed, Quote, Trade, split_stream

from . import _emulator_rest as answers
from . import _emulator_text as texts
from .instruments import MINUTES, VENUE, native_symbol, v1_pair
from .sync import CHECKED, DEPTHS

__all__ = ["KrakenEmulator"]

_SECOND: Final = 1_000_000_000
_MINUTE: Final = 60 * _SECOND
_IDLE: Final = 60 * _SECOND
_BACKLOG: Final = 50  # trades with which a subscription begins
_CANDLES: Final = 10  # candles with which a subscription begins; how many the exchange sends is not documented
_CHANNELS: Final = ("book", "trade", "ticker", "ohlc")
_WORLD: Final = {"trade": "trades", "ticker": "quotes", "spread": "spread"}


class _Client(Struct):
    """One connection: the version that it speaks, and when its client last said something."""

    v1: bool
    heard: int


class KrakenEmulator(VenueEmulator[_Client]):
    """Kraken; see ``VenueEmulator``."""

    venue = VENUE
    usual_quote = "USD"
    pushed_out: ClassVar[bool] = False
    messages_per_second = 50  # not published
    connects_per_5min = 75

    def __init__(self, source: MarketSource) -> None:
        self._reader = texts.Reader()
        self._beat = 0  # wall time of the next heartbeat
        self._crc: dict[str, tuple[int, int]] = {}  # by symbol: id of the book, its checksum
        self._day: dict[str, tuple[int, dict[str, str]]] = {}  # by symbol: minute, statistics of the last 24 hours
        super().__init__(source)
        self._pairs = answers.pairs_by_name(self.market.symbols)
        self._recorded = not source.simulate

    # Names

    def native(self, base: str, quote: str, kind: InstrumentKind) -> str:
        """``BTC/USD``."""
        return native_symbol(f"{base}/{quote}")

    def listing(
        self, base: str, quote: str, kind: InstrumentKind, price_decimals: int, quantity_decimals: int
    ) -> Listed:
        """Quantities of all pairs have eight decimals."""
        symbol = self.native(base, quote, kind)
        base, _, quote = symbol.partition("/")
        return Listed(symbol, base, quote, kind, price_decimals, 8)

    def stream_of(self, name: str, connection: Connection) -> str | None:
        """Names are ``book:BTC/USD:10``, ``ohlc:BTC/USD:1m``, ``trade:BTC/USD``."""
        channel, _, rest = name.partition(":")
        if self._recorded and ("v1" if self.state(connection).v1 else "v2") not in self._reader.versions:
            return None
        if channel == "book":
            return f"top:{rest}"
        if channel == "ohlc":
            return f"candles:{rest}"
        return f"{_WORLD[channel]}:{rest}" if channel in _WORLD else None

    # Connections

    def connect(self, connection: Connection, target: str, headers: Mapping[str, str]) -> _Client | HttpResponse:
        """``/v2``, or ``/`` for v1 where that was recorded."""
        path = target.partition("?")[0].rstrip("/")
        if path not in ("", "/v2"):
            return HttpResponse(404, b"", {"content-type": "text/plain"}, "Not Found")
        return _Client(v1=not path, heard=connection.opened)

    def greeting(self, connection: Connection) -> list[str]:
        """The state of the exchange comes first."""
        return [texts.status_frame("online", connection.number, v1=self.state(connection).v1)]

    def farewell(self, connection: Connection) -> str:
        """A maintenance is announced."""
        return texts.status_frame("maintenance", connection.number, v1=self.state(connection).v1)

    def poll(self, now: int, limit: int = 256) -> Poll:
        """Heartbeats by the host's clock to whoever has subscribed; idle connections are closed."""
        out = super().poll(now, limit)
        if now >= self._beat:
            self._beat = now + _SECOND
            for client in list(self.connections.values()):
                if client.closing or client.number not in self._states:
                    continue
                state = self.state(client)
                if client.streams:
                    beat = '{"event":"heartbeat"}' if state.v1 else texts.HEARTBEAT
                    out.frames.append(Text(client.number, beat))
                elif now - state.heard >= _IDLE:
                    closing: Close = self._close(client, 1000, "idle", now)
                    out.frames.append(closing)
        if self.connections and (out.next_time is None or self._beat < out.next_time):
            out.next_time = self._beat
        return out

    def command(self, connection: Connection, message: Any, now: int) -> list[str | ServerFrame]:
        """Answer subscribe, unsubscribe and ping of both versions."""
        state = self.state(connection)
        state.heard = now
        if not isinstance(message, dict):
            return [texts.ack("", None, now, error="Malformed request")]
        if state.v1:
            return list(self._v1_command(connection, message, now))
        method, req_id = message.get("method"), message.get("req_id")
        if method == "ping":
            return [texts.ack("pong", req_id, now)]
        params = message.get("params")
        if method not in ("subscribe", "unsubscribe") or not isinstance(params, dict):
            return [texts.ack(str(method or ""), req_id, now, error="Method not supported")]
        channel, symbols = params.get("channel"), params.get("symbol")
        if channel not in _CHANNELS:
            return [texts.ack(method, req_id, now, error=f"Channel not supported {channel}")]
        if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols):
            return [texts.ack(method, req_id, now, error="Symbol(s) not found")]
        interval, depth = params.get("interval", 1), params.get("depth", 10)
        name = next((n for n, minutes in MINUTES.items() if minutes == interval), "")
        frames: list[str | ServerFrame] = []
        for symbol in symbols:
            if symbol not in self.market.symbols:
                frames.append(
                    texts.ack(method, req_id, now, error=f"Currency pair not supported {symbol}", symbol=symbol)
                )
            elif channel == "book" and depth not in DEPTHS:
                frames.append(texts.ack(method, req_id, now, error="Depth is invalid", symbol=symbol))
            elif channel == "ohlc" and not name:
                frames.append(texts.ack(method, req_id, now, error="Ohlc interval not supported", symbol=symbol))
            else:
                wanted = {"book": f":{depth}", "ohlc": f":{name}"}.get(channel, "")
                request = (channel, symbol, f"{channel}:{symbol}{wanted}")
                if method == "subscribe":
                    frames += self._subscribe(connection, request, params, req_id, now)
                else:
                    frames.append(self._unsubscribe(connection, request, req_id, now))
        return frames

    def _subscribe(
        self, connection: Connection, request: tuple[str, str, str], params: dict[str, Any], req_id: Any, now: int
    ) -> list[str]:
        channel, symbol, name = request
        if name in connection.streams:
            return [texts.ack("subscribe", req_id, now, error="Already subscribed", symbol=symbol)]
        snapshots = self.join(connection, [name], now)
        stream = connection.streams[name]
        if stream is None and self._recorded and "v2" not in self._reader.versions:
            self.leave(connection, [name])
            words = "Currency pair not supported: it was recorded with API v1 (option api=v1)"
            return [texts.ack("subscribe", req_id, now, error=words, symbol=symbol)]
        wanted = params.get("snapshot", True) is not False
        result: dict[str, Any] = {"channel": channel, "snapshot": wanted}
        if channel == "book":
            result["depth"] = int(split_stream(stream)[2]) if stream else params.get("depth", 10)
        elif channel == "ohlc":
            result["interval"] = params.get("interval", 1)
        elif channel == "ticker":
            result["event_trigger"] = params.get("event_trigger", "trades")
        frames = [texts.ack("subscribe", req_id, now, symbol=symbol, **result)]
        if not wanted or stream is None:
            return frames
        return frames + (snapshots if channel == "book" else self._backlog(stream, name, now))

    def _backlog(self, stream: str, name: str, now: int) -> list[str]:
        """What a subscription to trades, quotes or candles begins with."""
        kind, symbol, interval = split_stream(stream)
        market = self.market
        if kind == "trades":
            found = market.latest_trades(symbol, _BACKLOG)
            return [texts.trade_frame("snapshot", found)] if found else []
        if kind == "candles":
            reach = 3 * _CANDLES * MINUTES[interval] * _MINUTE
            rows = market.candles(symbol, interval, max(0, market.clock - reach), market.clock)
            rows = [c for c in rows if c.count][-_CANDLES:]
            return [texts.ohlc_frame("snapshot", rows, market.clock)] if rows else []
        if self._recorded:
            return []
        view = market.book(symbol, 1)
        if not view.bids or not view.asks:
            return []
        quote = Quote(symbol, view.ts, 0, *view.bids[0], *view.asks[0])
        return [texts.ticker_frame("snapshot", quote, self._statistics(symbol))]

    def _unsubscribe(self, connection: Connection, request: tuple[str, str, str], req_id: Any, now: int) -> str:
        channel, symbol, name = request
        if name not in connection.streams:
            return texts.ack("unsubscribe", req_id, now, error="Subscription Not Found", symbol=symbol)
        self.leave(connection, [name])
        return texts.ack("unsubscribe", req_id, now, symbol=symbol, channel=channel)

    def _v1_command(self, connection: Connection, message: dict[str, Any], now: int) -> list[str]:
        event = message.get("event")
        if event == "ping":
            return [texts.encode({"event": "pong", **({"reqid": message["reqid"]} if "reqid" in message else {})})]
        details, pairs = message.get("subscription"), message.get("pair")
        if event not in ("subscribe", "unsubscribe") or not isinstance(details, dict) or not isinstance(pairs, list):
            return [texts.encode({"errorMessage": "Malformed request", "event": "error"})]
        channel = details.get("name")
        interval = next((n for n, minutes in MINUTES.items() if minutes == details.get("interval", 1)), "")
        frames: list[str] = []
        for pair in map(str, pairs):
            symbol = native_symbol(pair)
            status: dict[str, Any] = {"channelID": 1, "event": "subscriptionStatus", "pair": pair}
            wanted = {"book": f":{details.get('depth', 10)}", "ohlc": f":{interval}"}.get(str(channel), "")
            name = f"{channel}:{symbol}{wanted}"
            error = ""
            if symbol not in self.market.symbols or v1_pair(symbol) != pair:
                error = f"Currency pair not supported {pair}"
            elif channel not in (*_CHANNELS, "spread"):
                error = "Subscription name invalid"
            elif self.stream_of(name, connection) is None:
                error = "not recorded with API v1: use API v2"
            snapshots: list[str] = []
            shown = str(channel)
            if not error and event == "subscribe":
                snapshots = self.join(connection, [name], now)
                stream = connection.streams[name]
                if channel == "book":
                    depth = int(split_stream(stream)[2]) if stream else details.get("depth", 10)
                    shown, details = f"book-{depth}", {**details, "depth": depth}
                elif channel == "ohlc":
                    shown = f"ohlc-{details.get('interval', 1)}"
            elif not error:
                self.leave(connection, [name])
            status |= {"channelName": shown, "subscription": details}
            status["status"] = "error" if error else f"{event}d"
            if error:
                status["errorMessage"] = error
            frames += [texts.encode(status), *snapshots]
        return frames

    # Messages

    def write(self, event: Event, connection: Connection, name: str) -> str:
        """Write an event in v2; v1 is only served as it was recorded."""
        if self.state(connection).v1:
            return ""
        if isinstance(event, BookChange):
            return texts.book_frame("update", event, self._checksum(event.symbol))
        if isinstance(event, Trade):
            return texts.trade_frame("update", [event])
        if isinstance(event, Quote):
            return texts.ticker_frame("update", event, self._statistics(event.symbol))
        if isinstance(event, CandleUpdate):
            # Candles are told when a trade changes them.
            return texts.ohlc_frame("update", [event], event.ts) if event.count else ""
        return ""

    def write_snapshot(self, view: BookView, connection: Connection, name: str) -> list[str]:
        """The book with which a subscription begins."""
        if self.state(connection).v1:
            return [texts.v1_book_snapshot(view, int(split_stream(connection.streams[name] or "")[2]))]
        return [texts.book_frame("snapshot", view, texts.checksum(view.bids, view.asks))]

    def _checksum(self, symbol: str) -> int:
        """The checksum of a book now: the best levels are the same for all depths."""
        view = self.market.book(symbol, CHECKED)
        known = self._crc.get(symbol)
        if known is None or known[0] != view.last_id:
            known = self._crc[symbol] = view.last_id, texts.checksum(view.bids, view.asks)
        return known[1]

    def _statistics(self, symbol: str) -> dict[str, str]:
        """What the ticker says of the last 24 hours, brought up to date every minute."""
        market = self.market
        minute = market.clock // _MINUTE
        known = self._day.get(symbol)
        if known is None or known[0] != minute:
            hours = [
                c
                for c in market.candles(symbol, "1h", max(0, market.clock - 24 * 60 * _MINUTE), market.clock)
                if c.count
            ]
            known = self._day[symbol] = minute, texts.day_statistics(hours)
        return known[1]

    # REST

    def rest(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """Answer ``/0/public/...``."""
        what = path.removeprefix("/0/public/")
        if what == "AssetPairs":
            return answers.asset_pairs(self.market, query)
        if what in ("Time", "SystemStatus"):
            return answers.times(self.market, path)
        if what not in ("Depth", "Trades", "OHLC"):
            return answers.error("EGeneral:Unknown method", status=404)
        symbol = self._pairs.get(query.get("pair", "").casefold())
        if symbol is None:
            return answers.error("EQuery:Unknown asset pair" if "pair" in query else "EGeneral:Invalid arguments")
        if what == "Trades":
            return answers.trades(self.market, symbol, query)
        if what == "OHLC":
            return answers.ohlc(self.market, symbol, query)
        count = query.get("count", "100")
        if not count.isdigit() or not 1 <= int(count) <= 500:
            return answers.error("EGeneral:Invalid arguments:count")
        view = self.book(symbol, int(count), now)
        return view if isinstance(view, str) else answers.depth(view, query)

    def request_symbol(self, path: str, query: Mapping[str, str]) -> str:
        """Pairs have four names."""
        return self._pairs.get(query.get("pair", "").casefold(), "")

    def refusal(self, kind: str, seconds: int) -> HttpResponse:
        """Refused requests come with HTTP 200; the header is the emulator's, so that nobody waits for long."""
        words = "EAPI:Rate limit exceeded" if kind == "rate_limit" else "EGeneral:Temporary lockout"
        return answers.error(words, headers={"retry-after": str(seconds)})

    def not_found(self) -> HttpResponse:
        """What does not exist."""
        return answers.error("EGeneral:Unknown method", status=404)

    def timeout(self, target: str) -> HttpResponse:
        """A book that does not come."""
        return answers.error("EService:Unavailable")

    # Recordings

    def classify(self, text: str) -> list[RecordedPart]:
        """See ``Classifier``."""
        return self._reader.parts(text)
