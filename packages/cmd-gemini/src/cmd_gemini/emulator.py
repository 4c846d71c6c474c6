"""The server side of Gemini: the current API, the v2 feed and REST, without I/O.

Rules: docs/exchanges/gemini.md. One emulator serves both feeds, whichever a client connects to. Recorded frames
reach only clients of the feed that they were recorded from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from cmd_common.emulation import ServerFrame
from cmd_common.emulation_base import Connection, Item, json_response
from cmd_common.http import HttpResponse
from cmd_common.instruments import InstrumentKind
from cmd_common.venue_emulator import RecordedPart, VenueEmulator
from cmd_common.venue_world import BookChange, BookView, CandleUpdate, Event, Level, Listed, Quote, Tick, Trade

from .instruments import INTERVALS, REST_INTERVALS, VENUE, interval_ns

__all__ = ["GeminiEmulator"]

_SECOND: Final = 1_000_000_000
_MS: Final = 1_000_000
_WEEK: Final = 7 * 86_400 * _SECOND
_HEARTBEAT: Final = 5  # seconds, of the v2 feed
_V2_CANDLES: Final = 10  # of the first message of a subscription
_REST_CANDLES: Final = 1_440
_INTERVAL_OF: Final = {name: interval for interval, name in REST_INTERVALS.items()}


class _Client(Struct):
    """One connection: which feed, and how many levels its snapshots have (-1: all, 0: none are sent)."""

    v2: bool
    snapshot: int = 0


class GeminiEmulator(VenueEmulator[_Client]):
    """See ``cmd_common.venue_emulator``. Ids of book changes are shared by all symbols, so they jump."""

    venue = VENUE
    usual_quote = "USD"
    jumping_ids = True
    messages_per_second = 200
    connects_per_5min = 300
    newest_behind_tid = False  # whether a page behind an id holds the newest trades instead of the oldest

    # Names

    def native(self, base: str, quote: str, kind: InstrumentKind) -> str:
        """``BTCUSD``, ``BTCGUSDPERP``."""
        return f"{base}{quote}" + ("PERP" if kind == "perpetual" else "")

    def stream_of(self, name: str, connection: Connection) -> str | None:
        """Names of the current API as they are; of the v2 feed ``l2:SYM``, ``trade:SYM``, ``candles_1m:SYM``."""
        if self.state(connection).v2:
            channel, _, symbol = name.partition(":")
            if channel == "heartbeat":
                return "heartbeat" if self.market.resolve("heartbeat") else "clock"
            if symbol not in self.market.symbols:  # upper case only
                return None
            kind = {"l2": f"depth:{symbol}", "trade": f"trades:{symbol}"}.get(channel)
            return kind or f"candles:{symbol}:{channel.removeprefix('candles_')}"
        symbol, _, channel = name.partition("@")
        found = self.find(symbol)
        if found is None:
            return None
        base, _, speed = channel.partition("@")
        if speed not in ("", "100ms") or (speed and not base.startswith("depth")):
            return None
        streams = {"trade": "trades", "bookTicker": "quotes", "depth": "depth"}
        if base in streams:
            return f"{streams[base]}:{found}"
        return f"top:{found}:{base[5:]}" if base in ("depth5", "depth10", "depth20") else None

    # Connections

    def connect(self, connection: Connection, target: str, headers: Mapping[str, str]) -> _Client | HttpResponse:
        """``/`` is the current API, ``/v2/marketdata`` the older feed."""
        path, _, query = target.partition("?")
        if path.rstrip("/") == "/v2/marketdata":
            return _Client(v2=True)
        if path not in ("", "/"):
            return HttpResponse(404, b"", {}, "Not Found")
        given = next((part[9:] for part in query.split("&") if part.startswith("snapshot=")), "0")
        digits = given.removeprefix("-")
        if not digits.isascii() or not digits.isdigit():
            return HttpResponse(400, b"", {}, "Bad Request")
        return _Client(v2=False, snapshot=int(given))

    def command(self, connection: Connection, message: Any, now: int) -> list[str | ServerFrame]:
        """Answer a request."""
        if not isinstance(message, dict):
            return [] if self.state(connection).v2 else [_failed(None, -1013, "Invalid request")]
        if self.state(connection).v2:
            return self._v2_command(connection, message, now)
        return self._current_command(connection, message, now)

    def unreadable(self, connection: Connection, text: str) -> list[str | ServerFrame]:
        """Answer what is no JSON."""
        return [] if self.state(connection).v2 else [_failed(None, -1013, "Invalid request")]

    def _current_command(self, connection: Connection, message: dict[str, Any], now: int) -> list[str | ServerFrame]:
        id_, params = message.get("id"), message.get("params")
        method = str(message.get("method", "")).lower()
        if method == "ping":
            return [_text({"id": id_, "status": 200})]
        if method == "time":
            return [_text({"id": id_, "status": 200, "result": {"serverTime": self.market.clock // _MS}})]
        if method == "list_subscriptions":
            return [_text({"id": id_, "status": 200, "result": sorted(connection.streams)})]
        if method not in ("subscribe", "unsubscribe") or not isinstance(params, list):
            return [_failed(id_, -1013, f"Invalid method: {method}")]
        names = [str(p) for p in params]
        for name in names:  # one bad name refuses the whole request
            if self.stream_of(name, connection) is None:
                return [_failed(id_, -1013, f"Invalid stream name: {name}")]
        if method == "unsubscribe":
            self.leave(connection, names)
            return [_text({"id": id_, "status": 200})]
        return [*self.join(connection, names, now), _text({"id": id_, "status": 200})]

    def _v2_command(self, connection: Connection, message: dict[str, Any], now: int) -> list[str | ServerFrame]:
        subscriptions = message.get("subscriptions")
        if message.get("type") not in ("subscribe", "unsubscribe") or not isinstance(subscriptions, list):
            return [_v2_error("InvalidMessage", "Message is not a subscription")]
        answers: list[str | ServerFrame] = []
        for wanted in subscriptions:
            channel, symbols = str(wanted.get("name")), wanted.get("symbols")
            if not isinstance(symbols, list) or not (channel == "l2" or channel[8:] in INTERVALS):
                answers.append(_v2_error("InvalidSubscription", f"Unknown subscription {channel}"))
                continue
            for symbol in map(str, symbols):
                if symbol not in self.market.symbols:
                    answers.append(_v2_error("InvalidSymbol", f"Supplied value '{symbol}' is not a valid symbol"))
                    continue
                names = [f"l2:{symbol}", f"trade:{symbol}"] if channel == "l2" else [f"{channel}:{symbol}"]
                if message["type"] == "unsubscribe":
                    self.leave(connection, names)
                    continue
                answers += self.join(connection, ["heartbeat:", *names], now)
                if channel != "l2":
                    answers += self._first_candles(symbol, channel)
        return answers

    def _first_candles(self, symbol: str, channel: str) -> list[str]:
        interval = channel.removeprefix("candles_")
        end = self.market.clock
        found = self.market.candles(symbol, interval, end - _V2_CANDLES * interval_ns(interval), end)
        return [_candles_text(symbol, interval, found)] if found else []

    # Messages

    def write_snapshot(self, view: BookView, connection: Connection, name: str) -> list[str]:
        """Write a book: a ``depthUpdate`` that covers one id, or an ``l2_updates`` with trades beside it."""
        client = self.state(connection)
        if client.v2:
            if not name.startswith("l2:"):
                return []
            trades = [self._v2_trade(t) for t in reversed(self.market.latest_trades(view.symbol, 50))]
            changes = _changes(view.bids, view.asks)
            body = {"type": "l2_updates", "symbol": view.symbol, "changes": changes, "trades": trades}
            return [_text({**body, "auction_events": []})]
        if not client.snapshot or name.partition("@depth")[2] not in ("", "@100ms"):
            return []  # the best levels are sent whole each time
        bids, asks = view.bids, view.asks
        if client.snapshot > 0:
            bids, asks = bids[: client.snapshot], asks[: client.snapshot]
        return [_depth_text(view.symbol, view.ts, view.last_id, view.last_id, bids, asks)]

    def write(self, event: Event, connection: Connection, name: str) -> str:
        """Write an event in the form of the client's feed."""
        if self.state(connection).v2:
            return self._write_v2(event)
        if isinstance(event, Trade):
            body = {"E": event.ts, "s": event.symbol.lower(), "t": event.id, "p": event.price, "q": event.quantity}
            return _text({**body, "m": event.side == "sell"})
        if isinstance(event, Quote):
            head = {"u": event.id, "E": event.ts, "s": event.symbol.lower()}
            sides = {"b": event.bid, "B": event.bid_quantity, "a": event.ask, "A": event.ask_quantity}
            return _text(head | sides)
        if not isinstance(event, BookChange):
            return ""
        depth = name.partition("@depth")[2].partition("@")[0]
        if depth:
            book = self.market.book(event.symbol, int(depth))
            body = {"lastUpdateId": event.last_id, "symbol": event.symbol.lower()}
            return _text({**body, "bids": book.bids, "asks": book.asks})
        # The first id is the last one of the message before.
        return _depth_text(event.symbol, event.ts, event.prev_id, event.last_id, event.bids, event.asks)

    def _write_v2(self, event: Event) -> str:
        if isinstance(event, Trade):
            return _text(self._v2_trade(event))
        if isinstance(event, BookChange):
            changes = _changes(event.bids, event.asks)
            return _text({"type": "l2_updates", "symbol": event.symbol, "changes": changes})
        if isinstance(event, CandleUpdate):
            return _candles_text(event.symbol, event.interval, [event])
        if isinstance(event, Tick) and not event.number % _HEARTBEAT:
            return _text({"type": "heartbeat", "timestamp": event.ts // _MS})
        return ""

    def _v2_trade(self, trade: Trade) -> dict[str, Any]:
        head = {"type": "trade", "symbol": trade.symbol, "event_id": trade.id, "timestamp": trade.ts // _MS}
        return head | {"price": trade.price, "quantity": trade.quantity, "side": trade.side, "tid": trade.id}

    def write_recorded(self, text: str, connection: Connection, name: str) -> str:
        """Recorded text, for clients of the feed that it comes from."""
        v2 = text.lstrip("{ ").startswith('"type"')
        return text if v2 == self.state(connection).v2 else ""

    def garbage(self, form: str, item: Item, size: int) -> str:
        """Return an extra frame for the fault malformed."""
        if form in ("text", "shape", "huge"):
            return super().garbage(form, item, size)
        return _text({"e": "unknownEvent", "type": "unknownEvent", "symbol": item.symbol, "newField": {"a": [1, 2]}})

    # REST

    def not_found(self) -> HttpResponse:
        """The exchange's 404."""
        return _refused(404, "EndpointNotFound", "API entry point not found")

    def refusal(self, kind: str, seconds: int) -> HttpResponse:
        """The exchange's 429, or 403 for a ban."""
        status, reason = (429, "RateLimit") if kind == "rate_limit" else (403, "Forbidden")
        return _refused(status, reason, "Requests were made too frequently", {"retry-after": str(seconds)})

    def timeout(self, target: str) -> HttpResponse:
        """The exchange's 503."""
        return _refused(503, "Maintenance", "The exchange is down for maintenance")

    def rest(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """Answer a request."""
        parts = path.strip("/").split("/")
        if parts == ["v1", "symbols"]:
            return json_response([s.lower() for s in self.market.symbols])
        if parts[:3] == ["v1", "symbols", "details"] and len(parts) == 4:
            return self._details(parts[3])
        kind = parts[:2]
        if kind not in (["v1", "book"], ["v1", "trades"], ["v2", "candles"]) or len(parts) < 3:
            return self.not_found()
        symbol = self.find(parts[2])
        if symbol is None:
            return _bad_symbol(parts[2])
        if kind == ["v1", "book"]:
            return self._book(symbol, query, now)
        if kind == ["v1", "trades"]:
            return self._trades(symbol, query)
        interval = _INTERVAL_OF.get(parts[3]) if len(parts) == 4 else None
        if interval is None:
            return _refused(400, "Bad Request", "Supplied time frame is not valid")
        end = self.market.clock
        candles = self.market.candles(symbol, interval, end - _REST_CANDLES * interval_ns(interval), end)
        return json_response(_rows(candles).encode())

    def _details(self, name: str) -> HttpResponse:
        if name == "all":
            if self.market.reference is not None:
                return json_response(self.market.reference)
            rows = [_details_of(listed) for listed in self.market.listed()]
            return json_response(f"[{','.join(rows)}]".encode())
        symbol = self.find(name)
        found = next((listed for listed in self.market.listed() if listed.symbol == symbol), None)
        return json_response(_details_of(found).encode()) if found is not None else _bad_symbol(name)

    def _book(self, symbol: str, query: Mapping[str, str], now: int) -> HttpResponse | str:
        limits = [query.get(f"limit_{side}", "50") for side in ("bids", "asks")]
        if not all(text.isascii() and text.isdigit() for text in limits):
            return _refused(400, "Bad Request", "limits must be numbers")
        bids, asks = (int(text) or None for text in limits)
        book = self.book(symbol, None, now)
        if isinstance(book, str):
            return book
        stamp = str(self.market.clock // _SECOND)
        sides = {
            name: [{"price": p, "amount": q, "timestamp": stamp} for p, q in levels]
            for name, levels in (("bids", book.bids[:bids]), ("asks", book.asks[:asks]))
        }
        return json_response(sides)

    def _trades(self, symbol: str, query: Mapping[str, str]) -> HttpResponse:
        numbers = {k: query[k] for k in ("since_tid", "timestamp", "since", "limit_trades") if k in query}
        if not all(text.isascii() and text.isdigit() for text in numbers.values()):
            return _refused(400, "Bad Request", "parameters must be numbers")
        limit = min(500, int(numbers.get("limit_trades", "50")))
        begin = self.market.clock - _WEEK
        if "since_tid" in numbers:
            given = self.market.trades_from(symbol, int(numbers["since_tid"]) + 1, 1 << 30)
            found = [t for t in given if t.ts >= begin]
            found = found[-limit:] if self.newest_behind_tid else found[:limit]
        elif stamp := numbers.get("timestamp") or numbers.get("since"):
            since = int(stamp) * (_MS if len(stamp) > 10 else _SECOND)
            found = self.market.trades_between(symbol, max(begin, since), 1 << 62)[:limit]
        else:
            found = [t for t in self.market.latest_trades(symbol, limit) if t.ts >= begin]
        return json_response([_rest_trade(t) for t in reversed(found)])

    # Recordings

    def classify(self, text: str) -> list[RecordedPart]:
        """Say what a recorded frame of either feed is."""
        m = msgspec.json.decode(text)
        kind = m.get("type")
        if kind is None:
            return _classify_current(m)
        if kind == "heartbeat":
            return [RecordedPart("heartbeat")]
        symbol = m.get("symbol", "")
        if kind == "trade":
            return [_recorded_trade(m)]
        if kind == "l2_updates":
            sides: dict[str, list[Level]] = {"buy": [], "sell": []}
            for side, price, quantity in m["changes"]:
                sides[side].append((price, quantity))
            book = RecordedPart(
                f"depth:{symbol}",
                symbol,
                "snapshot" if "trades" in m else "update",
                bids=sides["buy"],
                asks=sides["sell"],
            )
            return [book, *map(_recorded_trade, m.get("trades", ()))]
        if kind.startswith("candles_") and kind.endswith("_updates"):
            return [RecordedPart(f"candles:{symbol}:{kind[8:-8]}", symbol)]
        return []

    def classify_rest(self, url: str, text: str) -> list[RecordedPart]:
        """REST books have no id that the streams know, so they are of no use here."""
        return []


def _classify_current(m: dict[str, Any]) -> list[RecordedPart]:
    symbol = str(m.get("s", m.get("symbol", ""))).upper()
    if m.get("e") == "depthUpdate":
        whole = m["U"] == m["u"]
        book = RecordedPart(
            f"depth:{symbol}",
            symbol,
            "snapshot" if whole else "update",
            m["E"],
            m["U"],
            m["u"],
            bids=[(p, q) for p, q in m["b"]],
            asks=[(p, q) for p, q in m["a"]],
        )
        return [book]
    if "t" in m and "p" in m:
        trade = RecordedPart(
            f"trades:{symbol}",
            symbol,
            "trade",
            m["E"],
            trade_id=str(m["t"]),
            price=m["p"],
            quantity=m["q"],
            side="sell" if m["m"] else "buy",
        )
        return [trade]
    if "B" in m and "A" in m:
        return [RecordedPart(f"quotes:{symbol}", symbol, ts=m["E"])]
    return [RecordedPart(f"top:{symbol}:{len(m['bids'])}", symbol)] if "lastUpdateId" in m and symbol else []


def _recorded_trade(m: dict[str, Any]) -> RecordedPart:
    return RecordedPart(
        f"trades:{m['symbol']}",
        m["symbol"],
        "trade",
        m["timestamp"] * _MS,
        trade_id=str(m.get("tid", m["event_id"])),
        price=m["price"],
        quantity=m["quantity"],
        side="sell" if m["side"] == "sell" else "buy",
    )


def _text(body: Any) -> str:
    return msgspec.json.encode(body).decode()


def _failed(id_: Any, code: int, words: str) -> str:
    return _text({"id": id_, "status": 400, "error": {"code": code, "msg": words}})


def _v2_error(reason: str, words: str) -> str:
    return _text({"result": "error", "reason": reason, "message": words})


def _depth_text(symbol: str, ts: int, first: int, last: int, bids: Sequence[Level], asks: Sequence[Level]) -> str:
    head = {"e": "depthUpdate", "E": ts, "s": symbol.lower(), "U": first, "u": last}
    return _text({**head, "b": bids, "a": asks})


def _changes(bids: Sequence[Level], asks: Sequence[Level]) -> list[tuple[str, str, str]]:
    return [("buy", p, q) for p, q in bids] + [("sell", p, q) for p, q in asks]


def _rows(candles: Sequence[CandleUpdate]) -> str:
    """Candles newest first, with numbers as they are."""
    rows = (f"[{c.open_time // _MS},{c.open},{c.high},{c.low},{c.close},{c.volume}]" for c in reversed(candles))
    return f"[{','.join(rows)}]"


def _candles_text(symbol: str, interval: str, candles: Sequence[CandleUpdate]) -> str:
    return f'{{"type":"candles_{interval}_updates","symbol":"{symbol}","changes":{_rows(candles)}}}'


def _details_of(listed: Listed) -> str:
    """One symbol; the steps are numbers with exponents, as the exchange writes them."""
    swap = listed.kind == "perpetual"
    head = {"symbol": listed.symbol, "base_currency": listed.base, "quote_currency": listed.quote}
    tail = {
        "min_order_size": listed.lot,
        "status": "open",
        "wrap_enabled": False,
        "product_type": "swap" if swap else "spot",
        "contract_type": "linear" if swap else "vanilla",
        "contract_price_currency": listed.quote,
    }
    steps = f'"tick_size":1E-{listed.quantity_decimals},"quote_increment":1E-{listed.price_decimals}'
    return f"{_text(head)[:-1]},{steps},{_text(tail)[1:]}"


def _rest_trade(trade: Trade) -> dict[str, Any]:
    times = {"timestamp": trade.ts // _SECOND, "timestampms": trade.ts // _MS, "tid": trade.id}
    return times | {"price": trade.price, "amount": trade.quantity, "exchange": "gemini", "type": trade.side}


def _refused(status: int, reason: str, words: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
    return json_response({"result": "error", "reason": reason, "message": words}, status, headers)


def _bad_symbol(name: str) -> HttpResponse:
    return _refused(400, "Bad Request", f"Supplied value '{name}' is not a valid symbol.")
