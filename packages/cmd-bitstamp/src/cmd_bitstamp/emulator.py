"""The server side of Bitstamp: channels and REST, without I/O.

Rules: docs/exchanges/bitstamp.md. A subscription is confirmed whether there is such a channel or not. Order
events (``live_orders``) exist only where they were recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from cmd_common.emulation import ServerFrame
from cmd_common.emulation_base import Connection, Item, json_response
from cmd_common.http import HttpResponse
from cmd_common.instruments import InstrumentKind
from cmd_common.venue_emulator import RecordedPart, VenueEmulator
from cmd_common.venue_world import BookChange, CandleUpdate, Event, Listed, Trade

from .instruments import STEPS, VENUE

__all__ = ["BitstampEmulator"]

_SECOND: Final = 1_000_000_000
_US: Final = 1_000
_DAY: Final = 86_400 * _SECOND
_CHANNELS: Final = {"diff_order_book_": "depth:", "live_trades_": "trades:", "live_orders_": "orders:"}
_TOP: Final = "order_book_"
_TOP_LEVELS: Final = 100
_PERIODS: Final = {"minute": 60 * _SECOND, "hour": 3600 * _SECOND, "day": _DAY}
_INTERVALS: Final = {step: interval for interval, step in STEPS.items()}


class _Client(Struct):
    """A connection has no state of its own."""


class BitstampEmulator(VenueEmulator[_Client]):
    """See ``cmd_common.venue_emulator``. What counts as a book's id is its time in microseconds."""

    venue = VENUE
    usual_quote = "USD"
    book_seed = "rest"
    messages_per_second = 2_000
    lifetime = 90 * _DAY

    # Names

    def native(self, base: str, quote: str, kind: InstrumentKind) -> str:
        """``BTCUSD``; the wire has it in lower case."""
        return f"{base}{quote}"

    def stream_of(self, name: str, connection: Connection) -> str | None:
        """The world's stream of a channel."""
        for prefix, stream in _CHANNELS.items():
            if name.startswith(prefix) and name.islower() and (found := self.find(name.removeprefix(prefix))):
                return stream + found
        found = self.find(name.removeprefix(_TOP)) if name.startswith(_TOP) and name.islower() else None
        return f"top:{found}:{_TOP_LEVELS}" if found else None

    # Connections

    def connect(self, connection: Connection, target: str, headers: Mapping[str, str]) -> _Client | HttpResponse:
        """There is one path."""
        return _Client() if target.partition("?")[0] in ("", "/") else HttpResponse(404, b"", {}, "Not Found")

    def command(self, connection: Connection, message: Any, now: int) -> list[str | ServerFrame]:
        """Answer a request."""
        if not isinstance(message, dict):
            return [_error("Incorrect JSON format.")]
        event, data = message.get("event"), message.get("data")
        if event == "bts:heartbeat":
            return [_text({"event": event, "channel": "", "data": {"status": "success"}})]
        channel = data.get("channel") if isinstance(data, dict) else None
        if event not in ("bts:subscribe", "bts:unsubscribe") or not isinstance(channel, str) or not channel:
            return [_error("Bad subscription string.")]
        if event == "bts:unsubscribe":
            self.leave(connection, [channel])
            return [_text({"event": "bts:unsubscription_succeeded", "channel": channel, "data": {}})]
        self.join(connection, [channel], now)
        return [_text({"event": "bts:subscription_succeeded", "channel": channel, "data": {}})]

    def unreadable(self, connection: Connection, text: str) -> list[str | ServerFrame]:
        """Answer what is no JSON."""
        return [_error("Incorrect JSON format.")]

    def farewell(self, connection: Connection) -> str:
        """The server asks for a new connection."""
        return _text({"event": "bts:request_reconnect", "channel": "", "data": ""})

    # Messages

    def write(self, event: Event, connection: Connection, name: str) -> str:
        """Write an event."""
        if isinstance(event, Trade):
            return _trade_text(event, name)
        if not isinstance(event, BookChange):
            return ""
        bids, asks = event.bids, event.asks
        if name.startswith(_TOP):
            book = self.market.book(event.symbol, _TOP_LEVELS)
            bids, asks = book.bids, book.asks
        data = {**_times(event.ts), "bids": bids, "asks": asks}
        return _text({"data": data, "channel": name, "event": "data"})

    def garbage(self, form: str, item: Item, size: int) -> str:
        """Return an extra frame for the fault malformed."""
        if form in ("text", "shape", "huge"):
            return super().garbage(form, item, size)
        return _text({"data": {"newField": [1, 2, 3]}, "channel": "news", "event": "unknown_event"})

    # REST

    def not_found(self) -> HttpResponse:
        """The exchange's 404."""
        return json_response({"code": "404.001", "reason": "Not found"}, 404)

    def refusal(self, kind: str, seconds: int) -> HttpResponse:
        """The exchange's 429, or 403 for a ban."""
        status = 429 if kind == "rate_limit" else 403
        body = {"code": f"{status}.001", "reason": "Request rate limit exceeded."}
        return json_response(body, status, {"retry-after": str(seconds)})

    def timeout(self, target: str) -> HttpResponse:
        """The exchange's 503."""
        return json_response({"code": "503.001", "reason": "Service unavailable"}, 503)

    def rest(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """Answer a request."""
        parts = path.strip("/").split("/")
        if parts[:2] != ["api", "v2"] or len(parts) < 3:
            return self.not_found()
        kind = parts[2]
        if kind in ("trading-pairs-info", "markets"):
            return self._pairs()
        symbol = self.find(parts[3]) if len(parts) == 4 else None
        if kind not in ("order_book", "transactions", "ohlc") or symbol is None:
            return self.not_found()
        if kind == "order_book":
            return self._book(symbol, query, now)
        return self._trades(symbol, query) if kind == "transactions" else self._ohlc(symbol, query)

    def _pairs(self) -> HttpResponse:
        if self.market.reference is not None:
            return json_response(self.market.reference)
        recorded = self.market.body("/api/v2/trading-pairs-info")
        return json_response(recorded or [_pair(listed) for listed in self.market.listed()])

    def _book(self, symbol: str, query: Mapping[str, str], now: int) -> HttpResponse | str:
        if query.get("group", "1") not in ("0", "1"):
            return json_response({"code": "400.002", "reason": "Orders are not known here"}, 400)
        book = self.book(symbol, None, now)
        if isinstance(book, str):
            return book
        return json_response({**_times(book.ts), "bids": book.bids, "asks": book.asks})

    def _trades(self, symbol: str, query: Mapping[str, str]) -> HttpResponse:
        period = _PERIODS.get(query.get("time", "hour"))
        if period is None:
            return json_response({"code": "400.002", "reason": "Invalid time"}, 400)
        clock = self.market.clock
        rows = [
            {
                "date": str(t.ts // _SECOND),
                "tid": self.trade_name(t),
                "price": t.price,
                "type": "0" if t.side == "buy" else "1",
                "amount": t.quantity,
            }
            for t in reversed(self.market.trades_between(symbol, clock - period, clock + 1))
        ]
        return json_response(rows)

    def _ohlc(self, symbol: str, query: Mapping[str, str]) -> HttpResponse:
        numbers = {k: query[k] for k in ("step", "limit", "start", "end") if k in query}
        if not all(text.isascii() and text.isdigit() for text in numbers.values()):
            return json_response({"code": "400.002", "reason": "Invalid parameter"}, 400)
        step, limit = int(numbers.get("step", "0")), int(numbers.get("limit", "0"))
        interval = _INTERVALS.get(step)
        if interval is None or not 1 <= limit <= 1000:
            return json_response({"code": "400.002", "reason": "Invalid step or limit"}, 400)
        end = int(numbers["end"]) * _SECOND if "end" in numbers else self.market.clock
        begin = end - (limit + 1) * step * _SECOND
        if "start" in numbers and "end" not in numbers:
            begin = int(numbers["start"]) * _SECOND
            end = min(end, begin + (limit - 1) * step * _SECOND)
        # With an end the newest candles before it are given, whatever the start is, as recorded.
        found = self.market.candles(symbol, interval, begin, end)[-limit:]
        listed = next(x for x in self.market.listed() if x.symbol == symbol)
        rows = [_candle(c) for c in found]
        return json_response({"data": {"pair": f"{listed.base}/{listed.quote}", "ohlc": rows}})

    # Recordings

    def classify(self, text: str) -> list[RecordedPart]:
        """Say what a recorded frame is."""
        m = msgspec.json.decode(text)
        event, channel = m.get("event", ""), m.get("channel", "")
        data = m.get("data")
        if not isinstance(data, dict) or event.startswith("bts:"):
            return []
        symbol = channel.rpartition("_")[2].upper()
        ts = int(data["microtimestamp"]) * _US
        if event == "trade":
            side = "buy" if data["type"] == 0 else "sell"
            return [_recorded_trade(symbol, ts, str(data["id"]), data["price_str"], data["amount_str"], side)]
        if channel.startswith("live_orders_"):
            return [RecordedPart(f"orders:{symbol}", symbol, ts=ts)]
        if channel.startswith(_TOP):
            return [RecordedPart(f"top:{symbol}:{_TOP_LEVELS}", symbol, ts=ts)]
        id_ = ts // _US
        if not channel.startswith("diff_order_book_"):
            return []
        # Nothing says what came before: as far as can be seen, messages follow each other.
        bids, asks = ([(p, q) for p, q in data[side]] for side in ("bids", "asks"))
        return [RecordedPart(f"depth:{symbol}", symbol, "update", ts, id_, id_, 1, bids=bids, asks=asks)]

    def classify_rest(self, url: str, text: str) -> list[RecordedPart]:
        """A book whose orders are taken together seeds the symbol's channel."""
        tail = url.partition("/order_book/")[2]
        if not tail or "group=2" in tail:
            return []
        symbol = tail.partition("/")[0].partition("?")[0].upper()
        m = msgspec.json.decode(text)
        id_ = int(m["microtimestamp"])
        bids, asks = ([(level[0], level[1]) for level in m[side]] for side in ("bids", "asks"))
        return [RecordedPart(f"depth:{symbol}", symbol, "snapshot", id_ * _US, id_, id_, bids=bids, asks=asks)]


def _recorded_trade(symbol: str, ts: int, id_: str, price: str, quantity: str, side: str) -> RecordedPart:
    return RecordedPart(
        f"trades:{symbol}",
        symbol,
        "trade",
        ts,
        trade_id=id_,
        price=price,
        quantity=quantity,
        side="buy" if side == "buy" else "sell",
    )


def _text(body: Any) -> str:
    return msgspec.json.encode(body).decode()


def _error(words: str) -> str:
    return _text({"event": "bts:error", "channel": "", "data": {"code": None, "message": words}})


def _times(ts: int) -> dict[str, str]:
    return {"timestamp": str(ts // _SECOND), "microtimestamp": str(ts // _US)}


def _trade_text(trade: Trade, channel: str) -> str:
    """Write a trade; numbers stand beside their texts."""
    numbers = f'"amount":{trade.quantity},"price":{trade.price},"type":{0 if trade.side == "buy" else 1}'
    texts = _text({"amount_str": trade.quantity, "price_str": trade.price, **_times(trade.ts)})[1:-1]
    orders = '"buy_order_id":0,"sell_order_id":0'
    return f'{{"data":{{"id":{trade.id},{numbers},{texts},{orders}}},"channel":"{channel}","event":"trade"}}'


def _pair(listed: Listed) -> dict[str, Any]:
    return {
        "name": f"{listed.base}/{listed.quote}",
        "url_symbol": listed.symbol.lower(),
        "base_decimals": listed.quantity_decimals,
        "counter_decimals": listed.price_decimals,
        "instant_order_counter_decimals": listed.price_decimals,
        "minimum_order": f"10.0 {listed.quote}",
        "trading": "Enabled",
        "instant_and_market_orders": "Enabled",
        "description": f"{listed.base} / {listed.quote}",
    }


def _candle(candle: CandleUpdate) -> dict[str, str]:
    return {
        "timestamp": str(candle.open_time // _SECOND),
        "open": candle.open,
        "high": candle.high,
        "low": candle.low,
        "close": candle.close,
        "volume": candle.volume,
    }
