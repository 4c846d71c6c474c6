"""The server side of Binance's three markets without I/O: streams, REST and bulk archive.

    emulator = BinanceEmulator(SPOT, MarketSource("binance-spot", recordings=("first40s.ndjson",)))
    emulator = BinanceEmulator(USDM, MarketSource("binance-usdm", simulate=True, symbols=3, seed=7))
    emulator.ws_open(1, "/stream?streams=btcusdt@trade", {}, now)
    emulator.poll(now)                  # frames that are due; see cmd_common.emulation.Emulator
    emulator.http("GET", "/api/v3/depth?symbol=BTCUSDT&limit=5000", {}, now)

Streams: raw ``/ws/NAME``, combined ``/stream?streams=A/B``, ``timeUnit=MICROSECOND`` on spot; USD-M behind
``/public`` and ``/market``, where the wrong class is acknowledged and stays silent. Types: trade, aggTrade,
bookTicker, kline_*, depth (100 and 1000 ms; futures 100, 250, 500), depth5/10/20. A recording is served
verbatim, in the units that it was recorded in; its ``depth@0ms`` answers for any speed. Types that it
does not hold stay silent, but candles are derived from recorded trades and partial depth from recorded
depth with a snapshot (``derived`` in the ready line).
Bulk files lie at ``/data/...`` and the listing at ``/?prefix=`` (also ``/data.binance.vision?prefix=``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import parse_qs, unquote

import msgspec

from cmd_common.emulation import MarketSource, ServerFrame, Text
from cmd_common.emulation_base import Connection, Item, TimelineEmulator
from cmd_common.errors import UsageError
from cmd_common.http import HttpResponse

from ._emulator_archive import EmulatedArchive
from ._emulator_recording import RecordedWorld
from ._emulator_rest import EmulatedRest
from ._emulator_simulation import SimulatedWorld
from ._emulator_text import Texts
from ._emulator_world import BinanceWorld, split_stream
from .instruments import Market

__all__ = ["BinanceEmulator"]

_METHODS: Final = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_STREAMS: Final = 1024
_PUBLIC: Final = ("depth", "rpiDepth", "bookTicker", "trade")
_SECOND: Final = 1_000_000_000
_IDS: Final = {
    "depthUpdate": re.compile(r'"(U|u)":(\d+)'),
    "trade": re.compile(r'"(t)":(\d+)'),
    "aggTrade": re.compile(r'"(a)":(\d+)'),
    "bookTicker": re.compile(r'"(u)":(\d+)'),
}


class _Client(msgspec.Struct):
    """What Binance knows about a connection beyond its streams."""

    combined: bool
    unit: int  # ns a time unit
    traffic: str  # USD-M: public or market


class BinanceEmulator(TimelineEmulator):
    """One market as Binance serves it; satisfies ``cmd_common.emulation.Emulator``."""

    connects_per_5min = 300

    def __init__(self, market: Market, source: MarketSource) -> None:
        """Reads recordings once; raises UsageError when they cannot be served."""
        if source.simulate == bool(source.recordings):
            raise UsageError(
                f"{market.venue}: nothing to serve" if not source.simulate else "either recordings or a simulation",
                hint="give --recording FILE or --simulate",
            )
        self._market = market
        self._world: BinanceWorld = SimulatedWorld(market, source) if source.simulate else RecordedWorld(market, source)
        super().__init__(source, self._world)
        self.venue = market.venue
        self.messages_per_second = market.messages_per_second
        if market.futures:
            self.ping_interval, self.pong_timeout = 180 * _SECOND, 600 * _SECOND
        self._clients: dict[int, _Client] = {}
        self._texts = Texts(market)
        self._rest = EmulatedRest(market, self._world, self.injector, waits=self._somebody_waits)
        self._archive = EmulatedArchive(market, self._world, self.injector)
        self._cached: tuple[Item | None, int, str] = (None, 0, "")

    # WebSocket

    def accept(self, connection: Connection, target: str, headers: Mapping[str, str]) -> list[str] | HttpResponse:
        """Accept ``/ws[/NAME...]`` and ``/stream[?streams=...]``, on USD-M below a traffic class."""
        path, _, query = target.partition("?")
        parts = [unquote(p) for p in path.strip("/").split("/")]
        traffic = ""
        if self._market.name == "usdm":
            # Since 2026-04-23 the paths without a class are gone.
            if parts[0] not in ("public", "market"):
                return _not_found()
            traffic = parts.pop(0)
        parameters = parse_qs(query)
        unit = 1_000_000
        if self._market.name == "spot" and "MICROSECOND" in [u.upper() for u in parameters.get("timeUnit", [])]:
            unit = 1_000
        names: list[str]
        if parts[:1] == ["ws"]:
            combined, names = False, [p for p in parts[1:] if p]
        elif parts == ["stream"]:
            combined, names = True, [n for value in parameters.get("streams", []) for n in value.split("/") if n]
        else:
            return _not_found()
        if len(names) > _STREAMS:
            return HttpResponse(400, b"too many streams", {"content-type": "text/plain"}, "Bad Request")
        self._clients[connection.number] = _Client(combined, unit, traffic)
        return names

    def ws_closed(self, connection: int, now: int) -> None:
        """A connection is gone."""
        super().ws_closed(connection, now)
        self._clients.pop(connection, None)

    def resolve(self, name: str, connection: Connection) -> str | None:
        """Return the world's stream; on USD-M nothing for a type of the other class."""
        traffic = self._clients[connection.number].traffic
        if traffic:
            public = split_stream(name)[1].startswith(_PUBLIC)
            if public != (traffic == "public"):
                return None
        return self._world.resolve(name)

    def subscribed(self, stream: str) -> None:
        """Tell the world that somebody listens."""
        self._world.subscribed(stream)

    def encode(self, item: Item, connection: Connection, name: str) -> str:
        """Return the frame: recorded text verbatim, or the event in the connection's time unit."""
        client = self._clients[connection.number]
        data = item.payload
        if not isinstance(data, str):
            cached, unit, text = self._cached
            if cached is not item or unit != client.unit:
                text = self._texts.data(data, item.symbol, self._world.numbers(item.symbol), client.unit)
                self._cached = (item, client.unit, text)
            data = text
        return f'{{"stream":"{name}","data":{data}}}' if client.combined else data

    def control(self, connection: Connection, text: str, now: int) -> list[ServerFrame]:
        """Answer SUBSCRIBE and its kin with Binance's replies and errors."""
        try:
            message = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return _error(connection, 3, "Invalid JSON: expected value at line 1 column 1")
        if not isinstance(message, dict):
            return _error(connection, 2, "Invalid request: expected a JSON object")
        number = message.get("id")
        method = message.get("method")
        if isinstance(number, bool) or not (
            number is None
            or (isinstance(number, int) and -(2**63) <= number < 2**63)
            or (isinstance(number, str) and len(number) <= 36)
        ):
            return _error(connection, 2, "Invalid request: request ID must be an unsigned integer")
        if "method" not in message:
            return _error(
                connection, 2, f"Invalid request: missing field `method` at line 1 column {len(text)}", number
            )
        if method not in _METHODS:
            known = ", ".join(f"`{m}`" for m in _METHODS)
            return _error(
                connection, 2, f"Invalid request: unknown variant `{method}`, expected one of {known}", number
            )
        parameters = message.get("params", [])
        if method == "LIST_SUBSCRIPTIONS":
            return _result(connection, list(connection.streams), number)
        if not isinstance(parameters, list):
            return _error(connection, 2, "Invalid request: invalid type: expected a sequence", number)
        if method in ("SET_PROPERTY", "GET_PROPERTY"):
            return self._property(connection, method, parameters, number)
        if not all(isinstance(p, str) for p in parameters):
            return _error(connection, 2, "Invalid request: invalid type: expected a string", number)
        names = cast("list[str]", parameters)
        if method == "UNSUBSCRIBE":
            self.unsubscribe(connection, names)
            return _result(connection, None, number)
        if len({*connection.streams, *names}) > _STREAMS:
            return _error(connection, 2, "Invalid request: too many parameters", number)
        self.subscribe(connection, names, now)
        return _result(connection, None, number)

    def _property(self, connection: Connection, method: str, parameters: list[Any], number: Any) -> list[ServerFrame]:
        client = self._clients[connection.number]
        if not parameters or not isinstance(parameters[0], str):
            return _error(connection, 2, "Invalid request: property name must be a string", number)
        if parameters[0] != "combined":
            return _error(connection, 0, "Unknown property", number)
        if method == "GET_PROPERTY":
            return _result(connection, client.combined, number)
        if len(parameters) < 2 or not isinstance(parameters[1], bool):
            return _error(connection, 1, "Invalid value type: expected Boolean", number)
        client.combined = parameters[1]
        return _result(connection, None, number)

    # HTTP

    def request(self, method: str, target: str, headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """Answer REST and archive requests."""
        path, _, query = target.partition("?")
        if method != "GET":
            return HttpResponse(405, b"", {"content-type": "text/plain", "allow": "GET"}, "Method Not Allowed")
        if self._rest.handles(path):
            result = self._rest.respond(path, query, headers, now)
            if path.endswith("/depth") and isinstance(result, HttpResponse) and result.status == 200:
                self._gave_snapshot(query, now)
            return result
        if self._archive.handles(path, query):
            return self._archive.respond(path, query, headers)
        return _not_found()

    def answer(self, target: str, headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """Answer a depth request whose book is known now."""
        path, _, query = target.partition("?")
        result = self._rest.answer(path, query, headers)
        if isinstance(result, HttpResponse):
            self._gave_snapshot(query, now)
        return result

    def _gave_snapshot(self, query: str, now: int) -> None:
        self.snapshot_given((parse_qs(query).get("symbol") or [""])[0], now)

    def book_key(self, item: Item) -> str | None:
        """Return the symbol of a depth message."""
        return item.symbol if split_stream(item.stream)[1] == "depth" else None

    def awaited_book(self, stream: str) -> str | None:
        """Return the symbol of a depth stream whose snapshot can be given."""
        symbol, kind, _ = split_stream(stream)
        return symbol if kind == "depth" and self._world.book_possible(symbol) else None

    def farewell(self, connection: Connection) -> str:
        """Return ``serverShutdown``, sent since May 2026."""
        client = self._clients[connection.number]
        data = f'{{"e":"serverShutdown","E":{self._world.clock // client.unit}}}'
        return f'{{"stream":"!serverShutdown","data":{data}}}' if client.combined else data

    def known(self, key: str) -> bool:
        """Whether the book of a symbol is known."""
        return self._world.book_known(key)

    def timeout(self, target: str) -> HttpResponse:
        """Binance's answer when its backend does not answer."""
        return self._rest.timeout()

    def _somebody_waits(self, symbol: str) -> bool:
        """Whether the book will come: the timeline runs, or will because somebody subscribed."""
        return not self.finished and (self.started or any(c.subscribed for c in self.connections.values()))

    # Truth

    def describe(self, item: Item) -> dict[str, Any]:
        """Return the message's own ids."""
        text = item.payload
        if not isinstance(text, str):
            text = self._texts.data(text, item.symbol, self._world.numbers(item.symbol), 1_000_000)
        kind = split_stream(item.stream)[1]
        pattern = _IDS.get("depthUpdate" if kind.startswith("depth") else kind)
        return {name: int(value) for name, value in pattern.findall(text[:400])} if pattern is not None else {}

    def books(self, depth: int) -> dict[str, Any]:
        """The true books."""
        return self._world.books(depth)

    def trades(self) -> dict[str, Any]:
        """The true trades that the timeline has passed."""
        return self._world.passed()

    def facts(self) -> dict[str, Any]:
        """Facts for the ready line."""
        return {"market": self._market.name, **self._world.facts()}


def _not_found() -> HttpResponse:
    return HttpResponse(404, b"<html><body>404 Not Found</body></html>", {"content-type": "text/html"}, "Not Found")


def _result(connection: Connection, result: Any, number: Any) -> list[ServerFrame]:
    return [Text(connection.number, msgspec.json.encode({"result": result, "id": number}).decode())]


def _error(connection: Connection, code: int, message: str, number: Any = None) -> list[ServerFrame]:
    body = {"code": code, "msg": message}
    if number is not None:
        body["id"] = number
    return [Text(connection.number, msgspec.json.encode(body).decode())]
