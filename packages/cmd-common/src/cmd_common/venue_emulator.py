"""What the emulators of all venues but Binance share: ``VenueEmulator`` over a simulated or recorded world.

Read ``venue_world`` for streams and events first. An exchange's emulator is a subclass that turns them into the
exchange's text and the exchange's requests into questions to ``self.world``. It gives:

* names: ``native`` and, where decimals, contract sizes or kinds are the venue's own, ``listing``; ``usual_quote``;
* connections: ``connect`` judges a handshake and returns the client's own state (any object), later
  ``self.state(connection)``; ``greeting`` is said first, without being asked;
* control frames: ``command`` takes decoded JSON and returns what to answer; it calls ``self.join(connection,
  names, now)`` and ``self.leave(connection, names)``. A *name* is the venue's own, such as ``book/BTC-USD``;
  ``stream_of(name, connection)`` maps it to the world's stream. Where books are seeded in the stream
  (``book_seed = "stream"``) ``join`` returns the snapshots, written by ``write_snapshot``, to be sent before or
  after the acknowledgement; before the start of a recording there is none, it comes with the recording;
* messages: ``write(event, connection, name)`` for simulated (and derived) events. It is called exactly once a
  frame and connection, in order, also for frames that a fault loses or delays: so it may count frames
  (Coinbase's ``sequence_num``). Recorded text passes ``write_recorded``, verbatim by default;
* REST: ``rest(path, query, headers, now)``. Books come from ``self.book(symbol, limit, now)``, which may return
  a text instead: return that, and the request is asked again when the book is there. Faults ``rate_limit`` and
  ``ban`` are served before by ``refusal``; bulk files should go through ``bulk``, for the faults of files;
* recordings: ``classify`` and ``classify_rest``; called during construction, so set fields that they need before
  ``super().__init__``;
* optional: ``farewell`` (fault shutdown), ``garbage`` (fault malformed), ``trade_name`` (ids that are not numbers),
  ``pongs`` (plain-text pings), ``timeout``, the class attributes below and those of ``TimelineEmulator``.

    class GeminiEmulator(VenueEmulator[Client]):
        venue = "gemini"
        def native(self, base, quote, kind): return base + quote
        ...
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec

from .emulation import Accept, MarketSource, Poll, ServerFrame, Text
from .emulation_base import Connection, Item, TimelineEmulator, json_response
from .errors import UsageError
from .http import HttpResponse
from .instruments import InstrumentKind
from .simulation import Spec, catalogue
from .venue_recording import RecordedPart, RecordedVenue
from .venue_simulation import SimulatedVenue
from .venue_world import BookChange, BookView, CandleUpdate, Event, Listed, Trade, VenueWorld, split_stream

__all__ = ["RecordedPart", "VenueEmulator"]

ClientT = TypeVar("ClientT")

_QUOTES: Final = (
    "USDT", "USDC", "FDUSD", "TUSD", "GUSD", "RLUSD", "BUSD", "DAI", "USD", "EUR", "GBP", "TRY", "BRL", "SGD", "AUD",
    "CAD", "CHF", "JPY", "BTC", "ETH", "BNB",
)  # fmt: skip
_PERPETUAL: Final = ("PERP", "SWAP")


class VenueEmulator(TimelineEmulator, Generic[ClientT]):
    """Base of a venue's emulator; see the module's docstring."""

    usual_quote: ClassVar[str] = "USD"
    usual_kind: ClassVar[InstrumentKind] = "spot"
    book_seed: ClassVar[Literal["stream", "rest"]] = "stream"  # where a client gets a book's snapshot
    pushed_out: ClassVar[bool] = True  # levels pushed out of the best N are sent as deletions
    jumping_ids: ClassVar[bool] = False  # ids of book changes rise by more than one
    connection_sequence: ClassVar[bool] = False  # frames are numbered: one that is lost breaks all books
    pongs: ClassVar[Mapping[str, str]] = {}  # plain texts and their answers, such as ping: pong

    def __init__(self, source: MarketSource) -> None:
        """Reads recordings once; raises UsageError when they cannot be served."""
        if source.simulate == bool(source.recordings):
            raise UsageError(
                f"{self.venue}: nothing to serve" if not source.simulate else "either recordings or a simulation",
                hint="give --recording FILE or --simulate",
            )
        self._states: dict[int, ClientT] = {}
        self._outbox: list[ServerFrame] = []
        world: VenueWorld
        if source.simulate:
            world = SimulatedVenue(
                source, self._instruments(source), pushed_out=self.pushed_out, jump=self.jumping_ids
            )  # fmt: skip
        else:
            world = RecordedVenue(source, self)
        super().__init__(source, world)
        self.market: VenueWorld = world
        self._names = {name.casefold(): name for name in world.symbols}

    # What a venue gives: names

    @abstractmethod
    def native(self, base: str, quote: str, kind: InstrumentKind) -> str:
        """Return the venue's symbol of an instrument, as in ``Instrument.symbol``."""

    def listing(
        self, base: str, quote: str, kind: InstrumentKind, price_decimals: int, quantity_decimals: int
    ) -> Listed:
        """Describe a simulated instrument; the decimals are the usual ones of the base asset."""
        return Listed(self.native(base, quote, kind), base, quote, kind, price_decimals, quantity_decimals)

    def recorded(self, symbol: str, price_decimals: int, quantity_decimals: int) -> Listed:
        """Describe a recorded symbol whose numbers have so many decimals."""
        base, quote, kind = self._split(symbol)
        made = self.listing(base, quote, kind, price_decimals, quantity_decimals)
        return msgspec.structs.replace(
            made, symbol=symbol, price_decimals=price_decimals, quantity_decimals=quantity_decimals
        )

    def trade_name(self, trade: Trade) -> str:
        """Return a trade's id as the venue writes it."""
        return trade.name or str(trade.id)

    # ... connections and control frames

    @abstractmethod
    def connect(self, connection: Connection, target: str, headers: Mapping[str, str]) -> ClientT | HttpResponse:
        """Judge a handshake; return the client's state, or a refusal such as 404."""

    def greeting(self, connection: Connection) -> list[str]:
        """Return the frames that a new connection gets unasked."""
        return []

    @abstractmethod
    def command(self, connection: Connection, message: Any, now: int) -> list[str | ServerFrame]:
        """Answer a client's frame that is JSON, with frames to send in order."""

    def unreadable(self, connection: Connection, text: str) -> list[str | ServerFrame]:
        """Answer a client's frame that is not JSON."""
        return []

    @abstractmethod
    def stream_of(self, name: str, connection: Connection) -> str | None:
        """Return the world's stream for one of the venue's names; None where there is none."""

    # ... messages

    @abstractmethod
    def write(self, event: Event, connection: Connection, name: str) -> str:
        """Write an event for a connection that asked for it as ``name``; empty: it says nothing about it."""

    def write_snapshot(self, view: BookView, connection: Connection, name: str) -> list[str]:
        """Write the frames of a book's snapshot, for venues that seed books in the stream."""
        return []

    def write_recorded(self, text: str, connection: Connection, name: str) -> str:
        """Return the frame for a recorded text."""
        return text

    # ... REST

    @abstractmethod
    def rest(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """Answer a GET request, or return what ``book`` returned when that is text."""

    def refusal(self, kind: str, seconds: int) -> HttpResponse:
        """Refuse a request: ``kind`` is rate_limit or ban, ``seconds`` how long it lasts."""
        body = {"message": "Too Many Requests" if kind == "rate_limit" else "Forbidden"}
        return json_response(body, 429 if kind == "rate_limit" else 403, {"retry-after": str(seconds)})

    def not_found(self) -> HttpResponse:
        """Answer what does not exist."""
        return json_response({"message": "NotFound"}, 404)

    def timeout(self, target: str) -> HttpResponse:
        """Answer a request for a book that did not come in time."""
        return json_response({"message": "Service Unavailable"}, 503)

    def request_symbol(self, path: str, query: Mapping[str, str]) -> str:
        """Return the symbol that a request is about, as faults name it; empty: none."""
        for name in ("symbol", "product_id", "instId", "pair"):
            if name in query:
                return self.find(query[name]) or query[name].upper()
        return next((found for part in path.split("/") if (found := self.find(unquote(part)))), "")

    # ... recordings

    def classify(self, text: str) -> list[RecordedPart]:
        """Say what a recorded frame is; nothing for acknowledgements and unknown frames."""
        return []

    def classify_rest(self, url: str, text: str) -> list[RecordedPart]:
        """Say which book (kind ``snapshot``) a recorded REST body is; nothing for other bodies."""
        return []

    # For the venue's use

    def state(self, connection: Connection) -> ClientT:
        """Return what ``connect`` returned for a connection."""
        return self._states[connection.number]

    def find(self, name: str) -> str | None:
        """Return the symbol that a name means, whatever its case; None for unknown ones."""
        return self._names.get(name.casefold())

    def join(self, connection: Connection, names: Iterable[str], now: int) -> list[str]:
        """Subscribe names; returns the snapshots of books that the venue seeds in the stream."""
        new = [name for name in dict.fromkeys(names) if name not in connection.streams]
        self.subscribe(connection, new, now)
        if self.book_seed == "rest":
            return []
        result: list[str] = []
        for name in new:
            stream = connection.streams.get(name)
            view = self.market.view(stream) if stream is not None else None
            if view is not None and stream is not None:
                result += self.write_snapshot(view, connection, name)
                self.snapshot_given("connection" if self.connection_sequence else stream, now)
        return result

    def leave(self, connection: Connection, names: Iterable[str]) -> None:
        """Unsubscribe names."""
        self.unsubscribe(connection, list(names))

    def say(self, connection: Connection, *texts: str) -> None:
        """Send frames at the next occasion, outside of an answer."""
        self._outbox.extend(Text(connection.number, text) for text in texts)

    def book(self, symbol: str, limit: int | None, now: int) -> BookView | str:
        """Return a book for a REST request, or what it must wait for; the symbol must be known."""
        market = self.market
        if market.book_known(symbol):
            self.snapshot_given(symbol, now)
            return market.book(symbol, limit)
        if not market.book_possible(symbol):
            return BookView(symbol, market.clock, 0, 0, (), ())
        if not self.finished and (self.started or any(c.subscribed for c in self.connections.values())):
            return symbol  # the timeline runs, or will because somebody subscribed
        return market.first_book(symbol, limit)

    def bulk(self, symbol: str, day: str, data: bytes, content_type: str = "application/octet-stream") -> HttpResponse:
        """Serve a bulk file, or what the faults missing_day and truncated_zip make of it."""
        if plan := self.injector.file("missing_day", symbol, day):
            self.injector.log(plan.kind, symbol=symbol, day=day)
            return self.not_found()
        if plan := self.injector.file("truncated_zip", symbol, day):
            self.injector.log(plan.kind, symbol=symbol, day=day)
            data = data[: max(1, len(data) // 2)]
        return HttpResponse(200, data, {"content-type": content_type})

    # The machinery between TimelineEmulator and the hooks above

    def _split(self, name: str) -> tuple[str, str, InstrumentKind]:
        """Split a unified (``BTC-USDT``, ``BTC-USDT-PERP``) or native name into base, quote and kind."""
        parts = [p for p in re.split(r"[-/_:]", name.upper()) if p]
        kind = self.usual_kind
        if len(parts) > 2 and parts[2] in _PERPETUAL:
            kind = "perpetual"
        if len(parts) > 1:
            return parts[0], parts[1], kind
        plain = parts[0] if parts else name.upper()
        for tail in _PERPETUAL:
            if plain.endswith(tail) and plain != tail:
                plain, kind = plain.removesuffix(tail), "perpetual"
        for quote in sorted({self.usual_quote, *_QUOTES}, key=lambda q: (-len(q), q)):  # USDT before USD
            if plain.endswith(quote) and plain != quote:
                return plain.removesuffix(quote), quote, kind
        return plain, self.usual_quote, kind

    def _instruments(self, source: MarketSource) -> list[tuple[Listed, Spec]]:
        wanted: list[tuple[str, str, InstrumentKind]]
        if source.symbol_names:
            wanted = [self._split(name) for name in source.symbol_names]
        else:
            usual = catalogue(source.symbols, quote=self.usual_quote)
            wanted = [(spec.base, spec.quote, self.usual_kind) for spec in usual]
        made: dict[str, tuple[Listed, Spec]] = {}
        for base, quote, kind in wanted:
            spec = catalogue(1, quote=quote, names=[base + quote])[0]
            listed = self.listing(base, quote, kind, spec.price_decimals, spec.quantity_decimals)
            made.setdefault(listed.symbol, (listed, self._spec(listed, spec, source)))
        return list(made.values())

    def _spec(self, listed: Listed, usual: Spec, source: MarketSource) -> Spec:
        """Scale the usual instrument to the venue's decimals and contracts."""
        pd, qd = listed.price_decimals, listed.quantity_decimals
        scaled = usual.price * 10 ** (pd + 8) // 10 ** (usual.price_decimals + 8)
        lots = 0
        if listed.contract_size is not None:
            worth = listed.contract_size if listed.inverse else listed.contract_size * scaled / 10**pd
            lots = max(3, int(2_000 * 10**qd / worth))
        return Spec(
            listed.symbol,
            usual.base,
            usual.quote,
            max(10, scaled),
            pd,
            qd,
            lots,
            rate=source.rate,
            levels=source.levels,
            salt=f"{self.venue}:",
        )

    def accept(self, connection: Connection, target: str, headers: Mapping[str, str]) -> list[str] | HttpResponse:
        """See ``TimelineEmulator``."""
        state = self.connect(connection, target, headers)
        if isinstance(state, HttpResponse):
            return state
        self._states[connection.number] = state
        self.say(connection, *self.greeting(connection))
        return []

    def ws_closed(self, connection: int, now: int) -> None:
        """A connection is gone."""
        super().ws_closed(connection, now)
        self._states.pop(connection, None)

    def control(self, connection: Connection, text: str, now: int) -> list[ServerFrame]:
        """See ``TimelineEmulator``."""
        frames: list[ServerFrame] = []
        if self._outbox:  # what was said before must come before
            frames += [f for f in self._outbox if f.connection == connection.number]
            self._outbox = [f for f in self._outbox if f.connection != connection.number]
        answer: Iterable[str | ServerFrame]
        if text in self.pongs:
            answer = [self.pongs[text]]
        else:
            try:
                message = msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError, UnicodeError):
                answer = self.unreadable(connection, text)
            else:
                answer = self.command(connection, message, now)
        return frames + [Text(connection.number, f) if isinstance(f, str) else f for f in answer]

    def poll(self, now: int, limit: int = 256) -> Poll:
        """Return what is due, greetings first."""
        said, self._outbox = self._outbox, []
        out = super().poll(now, limit)
        if said:
            out.frames[:0] = [f for f in said if f.connection in self.connections]
        return out

    def ws_open(self, connection: int, target: str, headers: Mapping[str, str], now: int) -> Accept | HttpResponse:
        """Accept or refuse a WebSocket handshake."""
        result = super().ws_open(connection, target, headers, now)
        if not isinstance(result, Accept):
            self._states.pop(connection, None)
        return result

    def resolve(self, name: str, connection: Connection) -> str | None:
        """See ``TimelineEmulator``."""
        stream = self.stream_of(name, connection)
        return self.market.resolve(stream) if stream is not None else None

    def subscribed(self, stream: str) -> None:
        """See ``TimelineEmulator``."""
        self.market.subscribed(stream)

    def encode(self, item: Item, connection: Connection, name: str) -> str:
        """See ``TimelineEmulator``."""
        payload = item.payload
        if isinstance(payload, str):
            return self.write_recorded(payload, connection, name)
        return self.write(payload, connection, name)

    def request(self, method: str, target: str, headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """See ``TimelineEmulator``."""
        path, query = _target(target)
        if method != "GET":
            return HttpResponse(405, b"", {"content-type": "text/plain", "allow": "GET"}, "Method Not Allowed")
        if self.injector.rest_plans:
            symbol = self.request_symbol(path, query)
            if plan := self.injector.rest(path, symbol):
                self.injector.log(plan.kind, path=path, symbol=symbol)
                seconds = max(1, plan.ms // 1000)
                if path.endswith((".zip", ".gz")):  # hosts of files speak HTTP, not the API's words
                    status, words = (429, "Too Many Requests") if plan.kind == "rate_limit" else (403, "Forbidden")
                    return HttpResponse(status, b"", {"retry-after": str(seconds)}, words)
                return self.refusal(plan.kind, seconds)
        return self.rest(path, query, headers, now)

    def answer(self, target: str, headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """See ``TimelineEmulator``."""
        path, query = _target(target)
        return self.rest(path, query, headers, now)

    def known(self, key: str) -> bool:
        """Whether the book of a symbol is known."""
        return self.market.book_known(key)

    def book_key(self, item: Item) -> str | None:
        """A book message: the symbol, or the stream where a client must subscribe anew."""
        if self.connection_sequence:
            return "connection"
        if split_stream(item.stream)[0] not in ("depth", "top"):
            return None
        return item.symbol if self.book_seed == "rest" else item.stream

    def shown_by(self, item: Item) -> Iterable[str]:
        """The stream itself, or all where frames are numbered."""
        return tuple(self._subscribers) if self.connection_sequence else (item.stream,)

    def awaited_book(self, stream: str) -> str | None:
        """The symbol whose book the subscriber of a stream will ask for by REST."""
        kind, symbol, _ = split_stream(stream)
        if self.book_seed == "rest" and kind == "depth" and self.market.book_possible(symbol):
            return symbol
        return None

    # Truth

    def describe(self, item: Item) -> dict[str, Any]:
        """Return a message's ids."""
        event = item.payload
        if isinstance(event, BookChange):
            return {"first_id": event.first_id, "last_id": event.last_id, "prev_id": event.prev_id}
        if isinstance(event, Trade):
            return {"id": event.id, "name": self.trade_name(event)}
        if isinstance(event, CandleUpdate):
            return {"open_time": event.open_time, "closed": event.closed}
        if not isinstance(event, str):
            return {}
        try:
            parts = self.classify(event)
        except (msgspec.DecodeError, ValueError, LookupError, TypeError, AttributeError):
            return {}
        books = [p for p in parts if p.kind in ("update", "snapshot")]
        facts: dict[str, Any] = {"first_id": books[0].first_id, "last_id": books[0].last_id} if books else {}
        if names := [p.trade_id for p in parts if p.kind == "trade"]:
            facts["names"] = names
        return facts

    def books(self, depth: int) -> dict[str, Any]:
        """The true books."""
        return self.market.books(depth)

    def trades(self) -> dict[str, Any]:
        """The true trades that the timeline has passed."""
        return self.market.passed()

    def trade_ids(self) -> dict[str, list[str]]:
        """All passed trade ids as the venue writes them."""
        return {s: [self.trade_name(t) for t in self.market.passed_trades(s)] for s in self.market.symbols}

    def facts(self) -> dict[str, Any]:
        """Facts for the ready line."""
        return self.market.facts()


def _target(target: str) -> tuple[str, dict[str, str]]:
    path, _, query = target.partition("?")
    return path, dict(parse_qsl(query, keep_blank_values=True))
