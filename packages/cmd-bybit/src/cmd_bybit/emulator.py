"""The server side of one Bybit market without I/O: WebSocket, REST and bulk files.

Facts: docs/exchanges/bybit.md. What the exchange does not document is done in one way here and said
there: a request with a bad topic is refused as a whole, and a ban carries ``retry-after``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote
from uuid import UUID
from zlib import crc32

import msgspec
from msgspec import Struct

from cmd_common.emulation import MarketSource, ServerFrame
from cmd_common.emulation_base import Connection, json_response
from cmd_common.http import HttpResponse
from cmd_common.instruments import InstrumentKind
from cmd_common.venue_emulator import RecordedPart, VenueEmulator
from cmd_common.venue_world import BookChange, BookView, CandleUpdate, Event, Quote, Trade

from . import _emulator_rest as rest
from ._messages import BookFrame, TradeFrame
from .feed import CHARACTERS, DEPTHS
from .instruments import INTERVALS, Market
from .sync import replaces

__all__ = ["BybitEmulator"]

_MS: Final = 1_000_000
_OURS: Final = {exchange: ours for ours, exchange in INTERVALS.items()}
_SPOT_ARGS: Final = 10
_PUSH: Final = 6  # ms between the engine's time and the push
_FIRST_SPOT_ID: Final = 2_290_000_000_000_000_000
_BOOK: Final = msgspec.json.Decoder(BookFrame, strict=False)
_TRADES: Final = msgspec.json.Decoder(TradeFrame, strict=False)


class Client(Struct):
    """What the server knows of a connection."""

    conn_id: str
    characters: int = 0  # of the topics that are subscribed


def dumps(value: object) -> str:
    """Write JSON as the exchange does, without spaces."""
    return json.dumps(value, separators=(",", ":"))


class BybitEmulator(VenueEmulator[Client]):
    """One market of the exchange, fed by recordings or a simulation."""

    usual_quote = "USDT"
    book_seed = "stream"
    pushed_out = True
    messages_per_second = 200  # the exchange gives no limit of frames
    connects_per_5min = 500

    def __init__(self, market: Market, source: MarketSource) -> None:
        self.bybit = market
        self.venue = market.venue
        self.usual_kind: InstrumentKind = "spot" if market.category == "spot" else "perpetual"  # type: ignore[misc]
        super().__init__(source)

    # Names

    def native(self, base: str, quote: str, kind: InstrumentKind) -> str:
        """BTCUSDT on both markets; perpetuals settled in USDC are called BTCPERP."""
        return f"{base}PERP" if self.bybit.category == "linear" and quote == "USDC" else base + quote

    def trade_name(self, trade: Trade) -> str:
        """A number on spot, a UUID on linear, both made from the id and the symbol alone."""
        if trade.name:
            return trade.name
        if self.bybit.category == "spot":
            return str(_FIRST_SPOT_ID + 3 * trade.id)
        symbol = crc32(trade.symbol.encode())
        return str(UUID(int=(symbol << 96) | (trade.id * 0x9E3779B97F4A7C15) & ((1 << 96) - 1), version=5))

    def stream_of(self, name: str, connection: Connection) -> str | None:
        """The world's stream of a topic; None for topics that do not exist."""
        kind, _, rest_ = name.partition(".")
        if kind == "publicTrade" and rest_ in self.market.symbols:
            return f"trades:{rest_}"
        part, _, symbol = rest_.partition(".")
        if symbol not in self.market.symbols:
            return None
        if kind == "orderbook" and part == "1":
            return f"quotes:{symbol}"
        if kind == "orderbook" and part in map(str, DEPTHS):
            return f"top:{symbol}:{part}"
        return f"candles:{symbol}:{_OURS[part]}" if kind == "kline" and part in _OURS else None

    # Connections

    def connect(self, connection: Connection, target: str, headers: Mapping[str, str]) -> Client | HttpResponse:
        """Only the market's own path exists."""
        if target.partition("?")[0] != f"/v5/public/{self.bybit.category}":
            return self.not_found()
        return Client(f"d9avrao7pl3bpiuoku0g-{connection.number:05x}")

    def _reply(self, connection: Connection, op: str, req_id: str, why: str = "", *, said: str = "") -> str:
        if not said and not why and self.bybit.category == "spot":
            said = op
        head = {"success": not why, "ret_msg": why or said, "conn_id": self.state(connection).conn_id}
        return dumps({**head, "req_id": req_id, "op": op})

    def command(self, connection: Connection, message: Any, now: int) -> list[str | ServerFrame]:
        """Answer ``subscribe``, ``unsubscribe`` and ``ping``."""
        if not isinstance(message, dict):
            return self.unreadable(connection, "")
        op, req_id = str(message.get("op", "")), str(message.get("req_id", ""))
        if op == "ping":
            return [self._reply(connection, op, req_id, said="pong")]
        if op not in ("subscribe", "unsubscribe"):
            return [self._reply(connection, op, req_id, "error:invalid op")]
        args = message.get("args")
        if not isinstance(args, list) or not all(isinstance(a, str) for a in args):
            return self.unreadable(connection, "")
        if why := self._refused(connection, op, args):
            return [self._reply(connection, op, req_id, why)]
        answer: list[str | ServerFrame] = [self._reply(connection, op, req_id)]
        state = self.state(connection)
        if op == "unsubscribe":
            state.characters -= sum(len(a) for a in args if a in connection.streams)
            self.leave(connection, args)
            return answer
        state.characters += sum(len(a) for a in args)
        return answer + list(self.join(connection, args, now))

    def _refused(self, connection: Connection, op: str, args: list[str]) -> str:
        """Why a request is refused as a whole; empty: it is not."""
        if self.bybit.category == "spot" and len(args) > _SPOT_ARGS:
            return "args size >10"
        for topic in args:
            if self.stream_of(topic, connection) is None:
                return f"error:handler not found,topic:{topic}"
            if op == "subscribe" and topic in connection.streams:
                return f"error:already subscribed,topic:{topic}"
        if op == "subscribe" and self.state(connection).characters + sum(map(len, args)) > CHARACTERS:
            return "error:args of this connection are longer than 21000 characters"
        return ""

    def unreadable(self, connection: Connection, text: str) -> list[str | ServerFrame]:
        """A frame that is no request gets an answer, too."""
        return [self._reply(connection, "", "", "Failed to decode incoming data:readObjectStart: expect { or n")]

    # Messages

    def write(self, event: Event, connection: Connection, name: str) -> str:
        """Write an event as the topic ``name`` has it."""
        ts = event.ts // _MS
        if isinstance(event, BookChange):
            return _book(name, "delta", event.symbol, ts, event.number, event.last_id, event.bids, event.asks)
        if isinstance(event, Quote):
            bids = [(event.bid, event.bid_quantity)] if float(event.bid_quantity) else []
            asks = [(event.ask, event.ask_quantity)] if float(event.ask_quantity) else []
            return _book(name, "snapshot", event.symbol, ts, event.id, event.id, bids, asks)
        if isinstance(event, Trade):
            row = self._trade(event)
            return dumps({"topic": name, "type": "snapshot", "ts": ts + _PUSH, "data": [row]})
        return self._candle(event, name) if isinstance(event, CandleUpdate) else ""

    def _trade(self, trade: Trade) -> dict[str, Any]:
        row: dict[str, Any] = {
            "T": trade.ts // _MS, "s": trade.symbol, "S": trade.side.capitalize(), "v": trade.quantity, "p": trade.price,
        }  # fmt: skip
        if self.bybit.category == "linear":
            row["L"] = "ZeroPlusTick"
        return row | {"i": self.trade_name(trade), "BT": False, "RPI": False, "seq": trade.id}

    def _candle(self, c: CandleUpdate, name: str) -> str:
        row = {
            "start": c.open_time // _MS, "end": c.close_time // _MS - 1, "interval": INTERVALS[c.interval],
            "open": c.open, "close": c.close, "high": c.high, "low": c.low, "volume": c.volume, "turnover": c.amount,
            "confirm": c.closed, "timestamp": min(c.ts, c.close_time - 1) // _MS,
        }  # fmt: skip
        return dumps({"topic": name, "data": [row], "ts": c.ts // _MS, "type": "snapshot"})

    def write_snapshot(self, view: BookView, connection: Connection, name: str) -> list[str]:
        """Write the snapshot that follows a subscription."""
        ts = view.ts // _MS
        return [_book(name, "snapshot", view.symbol, ts, view.number, view.last_id, view.bids, view.asks)]

    def write_recorded(self, text: str, connection: Connection, name: str) -> str:
        """Verbatim, but for the topic of a book that was recorded in another depth."""
        at = text.find('"topic":"') + 9
        end = text.find('"', at)
        return text if at < 9 or text[at:end] == name else f"{text[:at]}{name}{text[end:]}"

    def books(self, depth: int) -> dict[str, Any]:
        """The true books; ``last_id`` is the update id of the deepest topic that somebody listens to."""
        result = super().books(depth)
        for symbol, book in result.items():
            for stream in (f"top:{symbol}:{levels}" for levels in reversed(DEPTHS)):
                if stream in self.sent and (view := self.market.view(stream)) is not None:
                    book["last_id"] = view.number
                    break
        return result

    # REST and bulk files

    def rest(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """Answer ``/v5/market/...`` and the files of ``/spot/`` or ``/trading/``."""
        return rest.answer(self, path, query, now)

    def refusal(self, kind: str, seconds: int) -> HttpResponse:
        """A rate limit comes with HTTP 200 and names its end; a ban is HTTP 403."""
        if kind == "ban":
            return HttpResponse(403, b"access too frequent", {"retry-after": str(seconds)}, "Forbidden")
        now = self.market.clock // _MS
        body = {"retCode": 10006, "retMsg": "Too many visits. Exceeded the API Rate Limit.", "result": {}, "time": now}
        return json_response(body, 200, {"x-bapi-limit-reset-timestamp": str(now + seconds * 1000)})

    def not_found(self) -> HttpResponse:
        """Paths and files that do not exist."""
        return HttpResponse(404, b"404 page not found", {"content-type": "text/plain"}, "Not Found")

    # Recordings

    def classify(self, text: str) -> list[RecordedPart]:
        """Say what a recorded frame is."""
        at = text.find('"topic":"') + 9
        topic = text[at : text.find('"', at)] if at >= 9 else ""
        kind, _, rest_ = topic.partition(".")
        part, _, symbol = rest_.partition(".")
        if kind == "orderbook":
            return self._book_parts(_BOOK.decode(text), text, part, symbol)
        if kind == "publicTrade":
            return [
                RecordedPart(
                    f"trades:{rest_}", rest_, "trade", row.T * _MS, trade_id=row.i, price=row.p, quantity=row.v,
                    side="sell" if row.S == "Sell" else "buy",
                )
                for row in _TRADES.decode(text).data
            ]  # fmt: skip
        if kind == "kline" and part in _OURS:
            ts = int(msgspec.json.decode(text)["ts"])
            return [RecordedPart(f"candles:{symbol}:{_OURS[part]}", symbol, ts=ts * _MS)]
        return []

    def _book_parts(self, frame: BookFrame, text: str, depth: str, symbol: str) -> list[RecordedPart]:
        ts = (frame.cts or frame.ts) * _MS
        if depth == "1":
            return [RecordedPart(f"quotes:{symbol}", symbol, ts=ts)]
        data = msgspec.json.decode(text)["data"]
        u = frame.data.u
        whole = replaces(frame.type, u)
        return [
            RecordedPart(
                f"top:{symbol}:{depth}", symbol, "snapshot" if whole else "update", ts, u, u, 0 if whole else u - 1, u,
                [tuple(level) for level in data["b"]], [tuple(level) for level in data["a"]], int(depth),
            )
        ]  # fmt: skip

    def classify_rest(self, url: str, text: str) -> list[RecordedPart]:
        """Books come in the stream; other bodies are served as they were recorded."""
        return []

    def request_symbol(self, path: str, query: Mapping[str, str]) -> str:
        """The symbol that a request is about, as faults name it."""
        if "symbol" in query:
            return query["symbol"].upper()
        parts = [unquote(p) for p in path.split("/") if p]
        return parts[1].upper() if len(parts) > 1 and parts[0] == self.bybit.archive else ""


def _book(topic: str, kind: str, symbol: str, ts: int, u: int, seq: int, bids: Any, asks: Any) -> str:
    data = {"s": symbol, "b": bids, "a": asks, "u": u, "seq": seq}
    return dumps({"topic": topic, "ts": ts + _PUSH, "type": kind, "data": data, "cts": ts})
