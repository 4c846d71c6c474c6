"""The server side of Coinbase Advanced Trade without I/O: streams and REST.

Every frame that a connection is sent has the next ``sequence_num``, confirmations and heartbeats included, and
recorded frames are numbered anew, since another client's subscriptions give other numbers. A snapshot comes before its
confirmation [R]. A product in USDC is served as the one in USD, under that name, where only that is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from cmd_common.candles import interval_bounds
from cmd_common.emulation import ServerFrame
from cmd_common.emulation_base import Connection, json_response
from cmd_common.http import HttpResponse
from cmd_common.venue_emulator import RecordedPart
from cmd_common.venue_world import BookChange, BookView, CandleUpdate, Event, Level, Tick, Trade

from . import instruments as _markets
from ._emulator_base import CoinbaseEmulatorBase, maker, text_of
from ._times import iso_text, parse_iso
from .rest import ADVANCED_PATH, taker

__all__ = ["AdvancedEmulator"]

_SECOND: Final = 1_000_000_000
_NUMBER: Final = re.compile(r'"sequence_num"\s*:\s*\d+')
_LIVE: Final = "5m"
_LAST_TRADES: Final = 100
_FIRST_CANDLES: Final = 10
_MOST_CANDLES: Final = 350
_KINDS: Final = {"level2": "depth", "market_trades": "trades", "ticker": "ticker", "ticker_batch": "ticker"}
_INTERVALS: Final = {name: interval for interval, name in _markets.ADVANCED.granularities.items()}
_STATUS_EVERY: Final = 5


class AdvancedEmulator(CoinbaseEmulatorBase):
    """Coinbase Advanced Trade; see ``cmd_common.venue_emulator``."""

    venue = _markets.ADVANCED.venue
    market_ = _markets.ADVANCED
    connection_sequence = True

    # Streams

    def stream_of(self, name: str, connection: Connection) -> str | None:
        """Names are ``channel:product``, or a channel alone."""
        channel, _, product = name.partition(":")
        if channel in ("heartbeats", "status"):
            return "status" if channel == "status" and self.market.resolve("status") else "clock"
        product = self._real(product)
        if product not in self.market.symbols:
            return None
        if channel == "candles":
            return f"candles:{product}:{_LIVE}"
        kind = _KINDS.get(channel)
        if kind == "ticker":
            kind = "trades" if self.source.simulate else "quotes"
        return f"{kind}:{product}" if kind else None

    def _real(self, product: str) -> str:
        """The product that a name stands for."""
        known = self.market.symbols
        return product[:-1] if product not in known and product.endswith("-USDC") else product

    def command(self, connection: Connection, message: Any, now: int) -> list[str | ServerFrame]:
        """Take ``subscribe`` and ``unsubscribe`` of one channel; one bad product refuses the frame."""
        client = self.state(connection)
        method = message.get("type") if isinstance(message, dict) else None
        if method not in ("subscribe", "unsubscribe"):
            return [_error("message type is not subscribe or unsubscribe")]
        channel = message.get("channel")
        if not isinstance(channel, str):
            return [_error("exactly one channel must be given")]
        products = message.get("product_ids") or []
        if channel in ("heartbeats", "status"):
            products = [""]
        elif channel != "candles" and channel not in _KINDS:
            return [_error(f"channel {channel} does not exist, or needs authentication")]
        elif not isinstance(products, list) or not products:
            return [_error(f"channel {channel} needs product_ids")]
        elif unknown := self.unknown_products(map(self._real, products)):
            return [_error(f"failure to {method}: {unknown[0]} is not a valid product")]
        client.spoke = True
        names = [f"{channel}:{p}" if p else channel for p in dict.fromkeys(products)]
        if method == "unsubscribe":
            self.leave(connection, names)
            client.drop(channel, products)
            return [self._subscriptions(connection)]
        new = [name for name in names if name not in connection.streams]
        books = self.join(connection, names, now)
        client.add(channel, products)
        first = [text for name in new for text in self._first(connection, name)]
        return [*books, *first, self._subscriptions(connection)]

    def unreadable(self, connection: Connection, text: str) -> list[str | ServerFrame]:
        """Answer what is no JSON."""
        return [_error("message is not JSON")]

    def _subscriptions(self, connection: Connection) -> str:
        channels = {
            name: [name] if products == [""] else products for name, products in self.state(connection).channels.items()
        }
        return self._frame(connection, "subscriptions", self.market.clock, [{"subscriptions": channels}])

    def _frame(self, connection: Connection, channel: str, ts: int, events: Sequence[Any]) -> str:
        client = self.state(connection)
        number = client.frames
        client.frames += 1
        return text_of(
            {
                "channel": channel,
                "client_id": "",
                "timestamp": iso_text(ts, 9),
                "sequence_num": number,
                "events": events,
            }
        )

    def _first(self, connection: Connection, name: str) -> list[str]:
        """What a new subscription gets at once: the last trades, candles, a ticker."""
        channel, _, product = name.partition(":")
        product = self._real(product)
        clock = self.market.clock
        if channel == "market_trades":
            trades = [_trade(t) for t in reversed(self.market.latest_trades(product, _LAST_TRADES))]
            return [self._frame(connection, channel, clock, [{"type": "snapshot", "trades": trades}])]
        if channel == "candles":
            opened, closed = interval_bounds(clock, _LIVE)
            bars = self.bars(product, _LIVE, opened - (_FIRST_CANDLES - 1) * (closed - opened), clock)
            return [
                self._frame(connection, channel, clock, [{"type": "snapshot", "candles": list(map(_candle, bars))}])
            ]
        if channel.startswith("ticker"):
            return [self._ticker(connection, channel, t, "snapshot") for t in self.market.latest_trades(product, 1)]
        return []

    def write(self, event: Event, connection: Connection, name: str) -> str:
        """Write an event."""
        channel = name.partition(":")[0]
        if isinstance(event, BookChange):
            updates = _updates(event.bids, event.asks, event.ts)
            body = {"type": "update", "product_id": event.symbol, "updates": updates}
            return self._frame(connection, "l2_data", event.ts, [body])
        if isinstance(event, Trade):
            if channel.startswith("ticker"):
                return self._ticker(connection, channel, event, "update")
            return self._frame(connection, channel, event.ts, [{"type": "update", "trades": [_trade(event)]}])
        if isinstance(event, CandleUpdate):
            if not event.count:
                return ""
            return self._frame(connection, channel, event.ts, [{"type": "update", "candles": [_candle(event)]}])
        if not isinstance(event, Tick):
            return ""
        if channel == "status":
            if event.number % _STATUS_EVERY:
                return ""
            products = [
                {"product_type": "SPOT", "id": p["product_id"], "status": "online", "status_message": ""}
                for p in self._products()
            ]
            return self._frame(connection, channel, event.ts, [{"type": "snapshot", "products": products}])
        beat = {"current_time": f"{iso_text(event.ts, 9)}", "heartbeat_counter": event.number}
        return self._frame(connection, "heartbeats", event.ts, [beat])

    def write_snapshot(self, view: BookView, connection: Connection, name: str) -> list[str]:
        """Write the whole book."""
        updates = _updates(view.bids, view.asks, view.ts)
        body = {"type": "snapshot", "product_id": view.symbol, "updates": updates}
        return [self._frame(connection, "l2_data", view.ts, [body])]

    def write_recorded(self, text: str, connection: Connection, name: str) -> str:
        """Number a recorded frame as one of this connection."""
        client = self.state(connection)
        number = client.frames
        client.frames += 1
        return _NUMBER.sub(f'"sequence_num":{number}', text, count=1)

    def _ticker(self, connection: Connection, channel: str, trade: Trade, kind: str) -> str:
        sides: dict[str, str] = {}
        if self.market.book_known(trade.symbol):
            book = self.market.book(trade.symbol, 1)
            for side, levels in (("bid", book.bids), ("ask", book.asks)):
                if levels:
                    sides |= {f"best_{side}": levels[0][0], f"best_{side}_quantity": levels[0][1]}
        body = {"type": "ticker", "product_id": trade.symbol, "price": trade.price, **sides}
        return self._frame(connection, channel, trade.ts, [{"type": kind, "tickers": [body]}])

    # REST

    def _products(self) -> list[dict[str, Any]]:
        return [
            {
                "product_id": listed.symbol,
                "base_increment": listed.lot,
                "quote_increment": listed.tick,
                "price_increment": listed.tick,
                "base_min_size": listed.lot,
                "quote_min_size": "1",
                "base_name": listed.base,
                "quote_name": listed.quote,
                "is_disabled": False,
                "new": False,
                "status": "online",
                "cancel_only": False,
                "limit_only": False,
                "post_only": False,
                "trading_disabled": False,
                "auction_mode": False,
                "product_type": "SPOT",
                "quote_currency_id": listed.quote,
                "base_currency_id": listed.base,
                "alias": f"{listed.base}-USD" if listed.quote == "USDC" else "",
                "alias_to": [f"{listed.base}-USDC"] if listed.quote == "USD" else [],
                "base_display_symbol": listed.base,
                "quote_display_symbol": listed.quote,
                "view_only": False,
            }
            for listed in self.market.listed()
        ]

    def rest(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """What lies below ``/api/v3/brokerage/market``, and the time."""
        if path == "/api/v3/brokerage/time":
            clock = self.market.clock
            seconds, millis = str(clock // _SECOND), str(clock // 1_000_000)
            return json_response({"iso": iso_text(clock, 0), "epochSeconds": seconds, "epochMillis": millis})
        if not path.startswith(f"{ADVANCED_PATH}/"):
            return self.not_found()
        parts = path.removeprefix(ADVANCED_PATH).strip("/").split("/")
        if parts == ["product_book"]:
            return self._book(query, now)
        if parts == ["products"]:
            if self.market.reference is not None:
                return json_response(self.market.reference)
            products = self._products()
            return json_response({"products": products, "num_products": len(products)})
        symbol = self._real(parts[1]) if len(parts) > 1 else ""
        if parts[0] != "products" or symbol not in self.market.symbols:
            return self.not_found()
        if len(parts) == 2:
            return json_response(next(p for p in self._products() if p["product_id"] == symbol))
        if parts[2] == "ticker":
            return self._trades(symbol, query)
        return self._candles(symbol, query) if parts[2] == "candles" else self.not_found()

    def not_found(self) -> HttpResponse:
        """Answer what does not exist."""
        return json_response(
            {"error": "NOT_FOUND", "error_details": "valid product_id is required", "message": ""}, 404
        )

    def _book(self, query: Mapping[str, str], now: int) -> HttpResponse | str:
        symbol, limit = self._real(query.get("product_id", "")), query.get("limit")
        if symbol not in self.market.symbols:
            return self.not_found()
        if limit is not None and not (limit.isascii() and limit.isdigit() and int(limit)):
            return _bad("limit is invalid")
        book = self.book(symbol, int(limit) if limit else None, now)
        if isinstance(book, str):
            return book
        sides = {
            name: [{"price": p, "size": q} for p, q in levels]
            for name, levels in (("bids", book.bids), ("asks", book.asks))
        }
        return json_response({"pricebook": {"product_id": symbol, **sides, "time": iso_text(book.ts)}})

    def _trades(self, symbol: str, query: Mapping[str, str]) -> HttpResponse:
        if not _digits(query.get("limit", "")) or not all(_digits(query.get(n, "0")) for n in ("start", "end")):
            return _bad("limit, start and end must be numbers")
        count = min(int(query["limit"]), 1000)
        if "start" in query or "end" in query:
            end = int(query["end"]) * _SECOND if "end" in query else self.market.clock
            found = self.passed_before(symbol, end, count, int(query.get("start", "0")) * _SECOND)
        else:
            found = self.market.latest_trades(symbol, count)[::-1]
        best: dict[str, str] = {"best_bid": "", "best_ask": ""}
        if self.market.book_known(symbol):
            book = self.market.book(symbol, 1)
            best = {
                "best_bid": book.bids[0][0] if book.bids else "",
                "best_ask": book.asks[0][0] if book.asks else "",
            }
        return json_response({"trades": [{**_trade(t), "bid": "", "ask": ""} for t in found], **best})

    def _candles(self, symbol: str, query: Mapping[str, str]) -> HttpResponse:
        interval = _INTERVALS.get(query.get("granularity", ""))
        if interval is None:
            return _bad("granularity is invalid")
        if not (_digits(query.get("start", "")) and _digits(query.get("end", ""))):
            return _bad("start and end are required")
        start, end = int(query["start"]) * _SECOND, int(query["end"]) * _SECOND
        opened, closed = interval_bounds(start, interval)
        if (end - opened) // (closed - opened) + 1 > _MOST_CANDLES:
            return _bad(f"number of candles requested should be less than {_MOST_CANDLES}")
        return json_response({"candles": [_candle(c, rest=True) for c in self.bars(symbol, interval, start, end)]})

    # Recordings

    def classify(self, text: str) -> list[RecordedPart]:
        """Say what a recorded frame is."""
        m = msgspec.json.decode(text)
        channel = m["channel"]
        if channel == "heartbeats":
            return [RecordedPart("clock")]
        if channel == "status":
            return [RecordedPart("status")]
        sent = parse_iso(m["timestamp"])
        parts: list[RecordedPart] = []
        for event in m["events"]:
            if channel == "l2_data":
                parts.append(_recorded_book(event, sent))
            elif channel == "market_trades":
                parts += [_recorded_trade(t) for t in reversed(event["trades"])]
            elif channel.startswith("ticker"):
                parts += [RecordedPart(f"quotes:{t['product_id']}", t["product_id"], ts=sent) for t in event["tickers"]]
            elif channel == "candles":
                parts += [
                    RecordedPart(f"candles:{c['product_id']}:{_LIVE}", c["product_id"], ts=sent)
                    for c in event["candles"]
                ]
        return parts


def _recorded_book(event: Mapping[str, Any], sent: int) -> RecordedPart:
    product = event["product_id"]
    sides: dict[str, list[Level]] = {"bid": [], "offer": []}
    ts = 0
    for update in event["updates"]:
        sides["bid" if update["side"] == "bid" else "offer"].append((update["price_level"], update["new_quantity"]))
        ts = max(ts, parse_iso(update["event_time"]) if update.get("event_time") else 0)
    kind: Any = "snapshot" if event["type"] == "snapshot" else "update"
    return RecordedPart(f"depth:{product}", product, kind, ts or sent, bids=sides["bid"], asks=sides["offer"])


def _recorded_trade(t: Mapping[str, Any]) -> RecordedPart:
    product = t["product_id"]
    return RecordedPart(
        f"trades:{product}",
        product,
        "trade",
        parse_iso(t["time"]),
        trade_id=t["trade_id"],
        price=t["price"],
        quantity=t["size"],
        side="buy" if taker(t["side"]) == "buy" else "sell",
    )


def _error(message: str) -> str:
    return text_of({"type": "error", "message": message})


def _bad(message: str) -> HttpResponse:
    return json_response({"error": "INVALID_ARGUMENT", "error_details": message, "message": message}, 400)


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _trade(t: Trade) -> dict[str, str]:
    return {
        "trade_id": str(t.id),
        "product_id": t.symbol,
        "price": t.price,
        "size": t.quantity,
        "time": iso_text(t.ts),
        "side": maker(t.side).upper(),
    }


def _candle(c: CandleUpdate, *, rest: bool = False) -> dict[str, str]:
    body = {"start": str(c.open_time // _SECOND), "high": c.high, "low": c.low, "open": c.open, "close": c.close}
    return {**body, "volume": c.volume} if rest else {**body, "volume": c.volume, "product_id": c.symbol}


def _updates(bids: Sequence[Level], asks: Sequence[Level], ts: int) -> list[dict[str, str]]:
    time = iso_text(ts)
    return [
        {"side": side, "event_time": time, "price_level": p, "new_quantity": q}
        for side, levels in (("bid", bids), ("offer", asks))
        for p, q in levels
    ]
