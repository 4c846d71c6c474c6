"""The exchange's own side: what ``cmd-cli replay --exchange exampex`` serves, and what the tests talk to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cmd_common.emulation import ServerFrame
from cmd_common.emulation_base import Connection, json_response
from cmd_common.http import HttpResponse
from cmd_common.instruments import InstrumentKind
from cmd_common.venue_emulator import RecordedPart, VenueEmulator
from cmd_common.venue_world import BookChange, BookView, CandleUpdate, Event, Trade

from .instruments import VENUE
from .rest import INTERVALS, PAGE

__all__ = ["ExampexEmulator"]

_MS = 1_000_000


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else default


class ExampexEmulator(VenueEmulator[None]):
    """See ``cmd_common.venue_emulator``, which gives the market: simulated, or recorded."""

    venue = VENUE
    usual_quote = "USD"
    book_seed = "stream"

    def native(self, base: str, quote: str, kind: InstrumentKind) -> str:
        """BTC-USD."""
        return f"{base}-{quote}"

    # WebSocket

    def connect(self, connection: Connection, target: str, headers: Mapping[str, str]) -> HttpResponse | None:
        """There is one path."""
        return None if target == "/v1/stream" else self.not_found()

    def stream_of(self, name: str, connection: Connection) -> str | None:
        """The world's stream of a channel."""
        channel, _, symbol = name.partition(".")
        if symbol not in self.market.symbols:
            return None
        if channel in ("trades", "book"):
            return f"trades:{symbol}" if channel == "trades" else f"depth:{symbol}"
        interval = channel.removeprefix("candles_")
        return f"candles:{symbol}:{interval}" if interval != channel and interval in INTERVALS else None

    def command(self, connection: Connection, message: Any, now: int) -> list[str | ServerFrame]:
        """Answer each channel of a request on its own."""
        op = message.get("op") if isinstance(message, dict) else None
        if op == "ping":
            return ['{"event":"pong"}']
        answers: list[str | ServerFrame] = []
        for name in message.get("channels", []) if op in ("subscribe", "unsubscribe") else []:
            if self.stream_of(name, connection) is None:
                answers.append(json.dumps({"event": "refused", "channel": name, "why": "no such channel"}))
            elif op == "unsubscribe":
                self.leave(connection, [name])
                answers.append(json.dumps({"event": "unsubscribed", "channel": name}))
            else:
                answers.append(json.dumps({"event": "subscribed", "channel": name}))
                answers += self.join(connection, [name], now)  # the book's snapshot follows
        return answers

    def write(self, event: Event, connection: Connection, name: str) -> str:
        """Write an event of the market as exampex would."""
        if isinstance(event, BookChange):
            return self._book(event, name, whole=False)
        if isinstance(event, Trade):
            return json.dumps({"event": "trades", "channel": name, "trades": [self._trade(event)]})
        if isinstance(event, CandleUpdate):
            head = {"event": "candle", "channel": name, "closed": event.closed, "time": event.ts // _MS}
            return json.dumps(head | self._candle(event))
        return ""

    def write_snapshot(self, view: BookView, connection: Connection, name: str) -> list[str]:
        """Write the snapshot that follows a subscription."""
        return [self._book(view, name, whole=True)]

    def _book(self, book: BookChange | BookView, name: str, *, whole: bool) -> str:
        head = {"event": "book", "channel": name, "whole": whole, "seq": book.number, "time": book.ts // _MS}
        return json.dumps({**head, "bids": book.bids, "asks": book.asks})

    def _trade(self, t: Trade) -> dict[str, Any]:
        return {"id": t.id, "price": t.price, "size": t.quantity, "taker": t.side, "time": t.ts // _MS}

    def _candle(self, c: CandleUpdate) -> dict[str, Any]:
        return {
            "open_time": c.open_time // _MS, "open": c.open, "high": c.high, "low": c.low, "close": c.close,
            "volume": c.volume, "worth": c.amount, "count": c.count, "taker_buy_volume": c.buy_volume,
            "taker_buy_worth": c.buy_amount,
        }  # fmt: skip

    # REST

    def rest(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """Answer a request."""
        market = self.market
        if path == "/v1/instruments":
            rows = [
                {"name": i.symbol, "base": i.base, "quote": i.quote, "tick": i.tick, "lot": i.lot, "open": True}
                for i in market.listed()
            ]
            return json_response({"instruments": rows})
        symbol = query.get("symbol", "")
        limit = max(1, min(_number(query, "limit", PAGE), PAGE))
        if path not in ("/v1/trades", "/v1/candles"):
            return self.not_found()
        if symbol not in market.symbols:
            return json_response({"error": "no such symbol"}, 400)
        since = _number(query, "since", 0) * _MS
        if path == "/v1/candles":
            interval = query.get("interval", "")
            if interval not in INTERVALS:
                return json_response({"error": "no such interval"}, 400)
            candles = market.candles(symbol, interval, since, market.clock)[:limit]
            return json_response({"candles": [self._candle(c) for c in candles]})
        first = _number(query, "from", -1)
        if first < 0:
            found = market.trades_between(symbol, since, market.clock + 1)[:limit]
        else:
            found = market.trades_from(symbol, first, limit)
        return json_response({"trades": [self._trade(t) for t in found]})

    # Recordings

    def classify(self, text: str) -> list[RecordedPart]:
        """Say what a recorded frame is, so that recordings of the exchange can be served, too."""
        m = json.loads(text)
        channel, _, symbol = m.get("channel", "").partition(".")
        if m["event"] == "book":
            seq = m["seq"]
            bids, asks = ([tuple(level) for level in m[side]] for side in ("bids", "asks"))
            kind: Any = "snapshot" if m["whole"] else "update"
            stream = f"depth:{symbol}"
            return [RecordedPart(stream, symbol, kind, m["time"] * _MS, seq, seq, seq - 1, seq, bids, asks)]
        if m["event"] == "trades":
            return [
                RecordedPart(
                    f"trades:{symbol}", symbol, "trade", t["time"] * _MS, trade_id=str(t["id"]), price=t["price"],
                    quantity=t["size"], side=t["taker"],
                )
                for t in m["trades"]
            ]  # fmt: skip
        if m["event"] == "candle":
            return [RecordedPart(f"candles:{symbol}:{channel.removeprefix('candles_')}", symbol, ts=m["time"] * _MS)]
        return []
