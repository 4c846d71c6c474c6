"""The server side of Coinbase's two APIs without I/O: streams and REST.

    emulator = CoinbaseEmulator(EXCHANGE, MarketSource("coinbase", simulate=True, seed=7))

Coinbase Exchange (here): ``matches`` (with ``last_match`` on subscription), ``ticker`` at each match, ``level2_batch``
and, with a key, ``level2``, ``heartbeat``, ``status``; REST for products, book (levels 1, 2, 3), trades with
``CB-AFTER`` and ``CB-BEFORE``, candles. Like the exchange it refuses a frame with one bad product as a whole,
answers ``level2_50`` for ``level2_batch``, and leaves out candles without a trade. The words of its errors
are [S] where docs/exchanges/coinbase.md says so. Advanced Trade: ``_emulator_advanced``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from cmd_common.candles import interval_bounds
from cmd_common.emulation import MarketSource, ServerFrame
from cmd_common.emulation_base import Connection, json_response
from cmd_common.http import HttpResponse
from cmd_common.venue_emulator import RecordedPart, VenueEmulator
from cmd_common.venue_world import BookChange, BookView, Event, Level, Tick, Trade

from . import instruments as _markets
from ._emulator_base import Client, CoinbaseEmulatorBase, maker, text_of, uuid_of
from ._times import iso_text, parse_iso
from .instruments import Market
from .rest import taker

__all__ = ["CoinbaseEmulator", "ExchangeEmulator"]

_SECOND: Final = 1_000_000_000
_PRIVATE: Final = ("level2", "level3", "full")
_CHANNELS: Final = ("matches", "ticker", "ticker_batch", "level2_batch", "level2", "heartbeat", "status")
_ECHO: Final = {"level2_batch": "level2_50", "ticker_batch": "ticker_1000"}  # [S]
_NEEDS_KEY: Final = (
    "level2, level3, and full channels now require authentication. "
    "https://docs.cloud.coinbase.com/exchange/docs/websocket-auth"
)
_STATUS_EVERY: Final = 5
_MOST_CANDLES: Final = 300
_INTERVALS: Final = {seconds: name for name, seconds in _markets.EXCHANGE.granularities.items()}
_SIGNATURE_AGE: Final = 30


class ExchangeEmulator(CoinbaseEmulatorBase):
    """Coinbase Exchange; see ``cmd_common.venue_emulator``."""

    venue = _markets.EXCHANGE.venue
    market_ = _markets.EXCHANGE

    # Streams

    def stream_of(self, name: str, connection: Connection) -> str | None:
        """Names are ``channel:product``; a simulated ticker is made at each trade, a recorded one is served."""
        channel, _, product = name.partition(":")
        if channel == "status":
            return "status" if self.market.resolve("status") else "clock"
        if product not in self.market.symbols:
            return None
        if channel == "heartbeat":
            recorded = f"heartbeat:{product}"
            return recorded if self.market.resolve(recorded) else "clock"
        if channel.startswith("ticker"):
            return f"trades:{product}" if self.source.simulate else f"quotes:{product}"
        kinds = {"matches": "trades", "level2_batch": "depth", "level2": "depth"}
        return f"{kinds[channel]}:{product}" if channel in kinds else None

    def command(self, connection: Connection, message: Any, now: int) -> list[str | ServerFrame]:
        """Take ``subscribe`` and ``unsubscribe``; one bad name refuses the frame."""
        client = self.state(connection)
        method = message.get("type") if isinstance(message, dict) else None
        if method not in ("subscribe", "unsubscribe"):
            return [_error("Failed to subscribe", "Type has to be either subscribe or unsubscribe")]
        failed = f"Failed to {method}"
        wanted = message.get("channels")
        if not isinstance(wanted, list) or not wanted:
            return [_error(failed, "No channels provided")]
        common = message.get("product_ids") or []
        pairs: list[tuple[str, list[str]]] = []
        for entry in wanted:
            given = entry if isinstance(entry, dict) else {"name": entry}
            channel = str(given.get("name", ""))
            products = given.get("product_ids", common)
            if channel not in _CHANNELS and channel not in _PRIVATE:
                return [_error(failed, f"{channel} is not a valid channel")]
            if channel in _PRIVATE and not _signed(message, now):
                client.spoke = True
                return [_error(failed, _NEEDS_KEY), self._subscriptions(client)]
            if channel != "status" and (not isinstance(products, list) or not products):
                return [_error(failed, f"You need to specify at least one product ID for channel {channel}")]
            if channel != "status" and (unknown := self.unknown_products(products)):
                return [_error(failed, f"{unknown[0]} is not a valid product")]
            pairs.append((channel, [] if channel == "status" else list(dict.fromkeys(products))))
        client.spoke = True
        names = [f"{channel}:{p}" for channel, products in pairs for p in products or [""]]
        if method == "unsubscribe":
            self.leave(connection, names)
            for channel, products in pairs:
                client.drop(channel, products or [""])
            return [self._subscriptions(client)]
        first = [text for name in names if name not in connection.streams for text in self._first(name)]
        books = self.join(connection, names, now)
        for channel, products in pairs:
            client.add(channel, products or [""])
        return [self._subscriptions(client), *books, *first]

    def unreadable(self, connection: Connection, text: str) -> list[str | ServerFrame]:
        """Answer what is no JSON."""
        return [_error("Malformed JSON", "")]

    def _subscriptions(self, client: Client) -> str:
        channels = [
            {"name": _ECHO.get(name, name), "product_ids": [p for p in products if p], "account_ids": None}
            for name, products in client.channels.items()
        ]
        return text_of({"type": "subscriptions", "channels": channels})

    def _first(self, name: str) -> list[str]:
        """What a new subscription gets at once: the last match, a ticker."""
        channel, _, product = name.partition(":")
        if channel not in ("matches", "ticker", "ticker_batch"):
            return []
        return [
            _match(t, "last_match") if channel == "matches" else self._ticker(t)
            for t in self.market.latest_trades(product, 1)
        ]

    def write(self, event: Event, connection: Connection, name: str) -> str:
        """Write an event."""
        channel, _, product = name.partition(":")
        if isinstance(event, Trade):
            return self._ticker(event) if channel.startswith("ticker") else _match(event, "match")
        if isinstance(event, BookChange):
            changes = [["buy", p, q] for p, q in event.bids] + [["sell", p, q] for p, q in event.asks]
            body = {"type": "l2update", "product_id": event.symbol, "changes": changes}
            return text_of({**body, "time": iso_text(event.ts)})
        if not isinstance(event, Tick):
            return ""
        if channel == "status":
            return self._status() if not event.number % _STATUS_EVERY else ""
        newest = self.market.latest_trades(product, 1)
        id_ = newest[0].id if newest else 0
        beat = {"type": "heartbeat", "sequence": id_ * 10, "last_trade_id": id_, "product_id": product}
        return text_of({**beat, "time": iso_text(event.ts)})

    def write_snapshot(self, view: BookView, connection: Connection, name: str) -> list[str]:
        """Write the whole book."""
        body = {"type": "snapshot", "product_id": view.symbol, "asks": view.asks, "bids": view.bids}
        return [text_of({**body, "time": iso_text(view.ts)})]

    def _ticker(self, trade: Trade) -> str:
        sides: dict[str, str] = {}
        if self.market.book_known(trade.symbol):
            book = self.market.book(trade.symbol, 1)
            for side, levels in (("bid", book.bids), ("ask", book.asks)):
                if levels:
                    sides |= {f"best_{side}": levels[0][0], f"best_{side}_size": levels[0][1]}
        head = {"type": "ticker", "sequence": trade.id * 10, "product_id": trade.symbol, "price": trade.price}
        tail = {"side": trade.side, "time": iso_text(trade.ts), "trade_id": trade.id, "last_size": trade.quantity}
        return text_of(head | sides | tail)

    def _status(self) -> str:
        return text_of({"type": "status", "products": self._products(), "currencies": []})

    # REST

    def _products(self) -> list[dict[str, Any]]:
        return [
            {
                "id": listed.symbol,
                "base_currency": listed.base,
                "quote_currency": listed.quote,
                "quote_increment": listed.tick,
                "base_increment": listed.lot,
                "display_name": f"{listed.base}/{listed.quote}",
                "min_market_funds": "1",
                "margin_enabled": False,
                "post_only": False,
                "limit_only": False,
                "cancel_only": False,
                "status": "online",
                "status_message": "",
                "trading_disabled": False,
                "fx_stablecoin": False,
                "max_slippage_percentage": "0.02000000",
                "auction_mode": False,
                "high_bid_limit_percentage": "",
            }
            for listed in self.market.listed()
        ]

    def rest(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """``/time``, ``/products`` and what is below a product."""
        parts = path.strip("/").split("/")
        if path == "/time":
            clock = self.market.clock
            epoch = msgspec.Raw(f"{clock // _SECOND}.{clock % _SECOND // 1_000_000:03d}".encode())
            return json_response({"iso": iso_text(clock, 3), "epoch": epoch})
        if parts == ["products"]:
            return json_response(self.market.reference or self._products())
        if parts[0] != "products" or parts[1] not in self.market.symbols:
            return self.not_found()
        symbol = parts[1]
        if len(parts) == 2:
            return json_response(next(p for p in self._products() if p["id"] == symbol))
        if parts[2] == "book":
            return self._book(symbol, query.get("level", "1"), now)
        if parts[2] == "trades":
            return self._trades(symbol, query)
        if parts[2] == "candles":
            return self._candles(symbol, query)
        return self.not_found()

    def _book(self, symbol: str, level: str, now: int) -> HttpResponse | str:
        if level not in ("1", "2", "3"):
            return _bad("Invalid level")
        book = self.book(symbol, 1 if level == "1" else None, now)
        if isinstance(book, str):
            return book

        def rows(side: int, levels: Any) -> list[list[Any]]:
            if level == "3":
                return [[p, q, uuid_of(book.last_id, side, n)] for n, (p, q) in enumerate(levels)]
            return [[p, q, 1] for p, q in levels]

        body = {"bids": rows(0, book.bids), "asks": rows(1, book.asks), "sequence": book.last_id}
        return json_response({**body, "auction_mode": False, "auction": None, "time": iso_text(book.ts)})

    def _trades(self, symbol: str, query: Mapping[str, str]) -> HttpResponse:
        numbers: dict[str, int] = {}
        for name in ("limit", "after", "before"):
            if name in query:
                if not query[name].isascii() or not query[name].isdigit():
                    return _bad(f"Invalid {name}")
                numbers[name] = int(query[name])
        limit = min(numbers.get("limit", 1000), 1000)
        if limit < 1:
            return _bad("Invalid limit")
        if "after" in numbers:
            found = self.market.trades_before(symbol, numbers["after"], limit)
        else:
            # "before" is the newest page above an id, not the page just above it.
            found = [t for t in self.market.latest_trades(symbol, limit) if t.id > numbers.get("before", -1)]
        rows = [
            {
                "trade_id": t.id,
                "side": maker(t.side),
                "size": t.quantity,
                "price": t.price,
                "time": iso_text(t.ts),
            }
            for t in reversed(found)
        ]
        pages = {"cb-before": str(found[-1].id), "cb-after": str(found[0].id)} if found else {}
        return json_response(rows, headers=pages)

    def _candles(self, symbol: str, query: Mapping[str, str]) -> HttpResponse:
        interval = _INTERVALS.get(query.get("granularity", "60"))
        if interval is None:
            return _bad("Unsupported granularity")
        opened, closed = interval_bounds(self.market.clock, interval)
        length = closed - opened
        end, start = self.market.clock, opened - (_MOST_CANDLES - 1) * length
        if "start" in query and "end" in query:  # one alone is ignored, as both are
            try:
                start, end = (_instant(query[name]) for name in ("start", "end"))
            except ValueError:
                return _bad("start and end must be ISO 8601 or seconds")
            if (end - start) // length + 1 > _MOST_CANDLES:
                return _bad(
                    "granularity too small for the requested time range. "
                    f"Count of aggregations requested exceeds {_MOST_CANDLES}"
                )
        rows = [
            f"[{c.open_time // _SECOND},{c.low},{c.high},{c.open},{c.close},{c.volume}]"
            for c in self.bars(symbol, interval, start, end)
        ]
        return json_response(f"[{','.join(rows)}]".encode())

    # Recordings

    def classify(self, text: str) -> list[RecordedPart]:
        """Say what a recorded frame is."""
        m = msgspec.json.decode(text)
        kind = m["type"]
        if kind == "status":
            return [RecordedPart("status")]
        if kind not in ("match", "last_match", "ticker", "heartbeat", "snapshot", "l2update"):
            return []
        product = m["product_id"]
        ts = parse_iso(m["time"]) if m.get("time") else 0
        if kind in ("match", "last_match"):
            return [
                RecordedPart(
                    f"trades:{product}",
                    product,
                    "trade",
                    ts,
                    trade_id=str(m["trade_id"]),
                    price=m["price"],
                    quantity=m["size"],
                    side="buy" if taker(m["side"]) == "buy" else "sell",
                )
            ]
        if kind == "snapshot":
            bids, asks = ([(p, q) for p, q in m[side]] for side in ("bids", "asks"))
            return [RecordedPart(f"depth:{product}", product, "snapshot", ts, bids=bids, asks=asks)]
        if kind == "l2update":
            sides: dict[str, list[Level]] = {"buy": [], "sell": []}
            for side, price, size in m["changes"]:
                sides[side].append((price, size))
            return [RecordedPart(f"depth:{product}", product, "update", ts, bids=sides["buy"], asks=sides["sell"])]
        return [RecordedPart(f"{'quotes' if kind == 'ticker' else kind}:{product}", product, "other", ts)]


def _error(message: str, reason: str) -> str:
    return text_of({"type": "error", "message": message, "reason": reason})


def _bad(message: str) -> HttpResponse:
    return json_response({"message": message}, 400)


def _instant(text: str) -> int:
    return int(text) * _SECOND if text.isascii() and text.isdigit() else parse_iso(text)


def _signed(message: Mapping[str, Any], now: int) -> bool:
    """Whether a frame has the form of a signed one; whose key it is nobody knows here."""
    if not all(isinstance(message.get(name), str) and message[name] for name in ("signature", "key", "passphrase")):
        return False
    timestamp = message.get("timestamp")
    if not isinstance(timestamp, str) or not timestamp.isascii() or not timestamp.isdigit():
        return False
    return len(message["signature"]) == 44 and abs(int(timestamp) - now // _SECOND) <= _SIGNATURE_AGE


def _match(trade: Trade, kind: str) -> str:
    return text_of(
        {
            "type": kind,
            "trade_id": trade.id,
            "maker_order_id": uuid_of(trade.id, 1),
            "taker_order_id": uuid_of(trade.id, 2),
            "side": maker(trade.side),
            "size": trade.quantity,
            "price": trade.price,
            "product_id": trade.symbol,
            "sequence": trade.id * 10,
            "time": iso_text(trade.ts),
        }
    )


def CoinbaseEmulator(market: Market, source: MarketSource) -> VenueEmulator[Client]:
    """Return the emulator of one API."""
    if market.name == "advanced":
        from ._emulator_advanced import AdvancedEmulator

        return AdvancedEmulator(source)
    return ExchangeEmulator(source)
