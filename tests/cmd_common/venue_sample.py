"""A venue that exists only here, with every hook of VenueEmulator in use: numbered frames, two ways of books."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from cmd_common.emulation import Close, MarketSource, ServerFrame, Text
from cmd_common.emulation_base import Connection, Item, json_response
from cmd_common.faults import parse_fault
from cmd_common.http import HttpResponse
from cmd_common.instruments import InstrumentKind
from cmd_common.venue_emulator import RecordedPart, VenueEmulator
from cmd_common.venue_market import gzip_bytes
from cmd_common.venue_world import BookChange, BookView, CandleUpdate, Event, Listed, Quote, Tick, Trade

SECOND = 1_000_000_000
T0 = 1_900_000_000 * SECOND
START = 1_748_907_900 * SECOND


class Client(msgspec.Struct):
    path: str
    frames: int = 0


class SampleEmulator(VenueEmulator[Client]):
    """Channels ``book``, ``bookN``, ``trade``, ``quote``, ``candle_1m``, ``beat``, each with ``.SYMBOL``."""

    venue = "sample"
    usual_quote = "USD"
    pongs: ClassVar[Mapping[str, str]] = {"ping": "pong"}
    messages_per_second = 50
    start_delay = 0

    def native(self, base: str, quote: str, kind: InstrumentKind) -> str:
        return f"{base}-{quote}" + ("-SWAP" if kind == "perpetual" else "")

    def listing(
        self, base: str, quote: str, kind: InstrumentKind, price_decimals: int, quantity_decimals: int
    ) -> Listed:
        made = super().listing(base, quote, kind, price_decimals, quantity_decimals)
        if kind == "perpetual":
            return msgspec.structs.replace(made, price_decimals=1, quantity_decimals=2, contract_size=Decimal("0.01"))
        return made

    def trade_name(self, trade: Trade) -> str:
        return trade.name or f"T{trade.id}"

    def connect(self, connection: Connection, target: str, headers: Mapping[str, str]) -> Client | HttpResponse:
        return Client(target) if target.startswith("/feed") else self.not_found()

    def greeting(self, connection: Connection) -> list[str]:
        return [self._number(connection, "hello", {"path": self.state(connection).path})]

    def command(self, connection: Connection, message: Any, now: int) -> list[str | ServerFrame]:
        if message.get("op") == "bye":
            return [Close(connection.number, 1000, "as you wish")]
        names = message["names"]
        if message["op"] == "leave":
            self.leave(connection, names)
            return [self._number(connection, "left", names)]
        books = self.join(connection, names, now)
        refused = [n for n in names if connection.streams.get(n) is None]
        return [*books, self._number(connection, "joined", {"refused": refused})]

    def unreadable(self, connection: Connection, text: str) -> list[str | ServerFrame]:
        return [self._number(connection, "error", "not JSON")]

    def stream_of(self, name: str, connection: Connection) -> str | None:
        channel, _, symbol = name.partition(".")
        found = self.find(symbol)
        if channel == "beat":
            return "clock"
        if found is None:
            return None
        if channel == "book":
            return f"depth:{found}"
        if channel.startswith("book"):
            return f"top:{found}:{channel[4:]}"
        if channel.startswith("candle_"):
            return f"candles:{found}:{channel[7:]}"
        return {"trade": f"trades:{found}", "quote": f"quotes:{found}"}.get(channel)

    def _number(self, connection: Connection, kind: str, data: Any) -> str:
        client = self.state(connection)
        client.frames += 1
        return msgspec.json.encode({"n": client.frames, "is": kind, "data": data}).decode()

    def write(self, event: Event, connection: Connection, name: str) -> str:
        kinds = {Trade: "trade", Quote: "quote", BookChange: "book", CandleUpdate: "candle", Tick: "beat"}
        if isinstance(event, Tick) and event.number % 2:
            return ""
        return self._number(connection, kinds[type(event)], {"name": name, **msgspec.to_builtins(event)})

    def write_snapshot(self, view: BookView, connection: Connection, name: str) -> list[str]:
        return [self._number(connection, "snapshot", {"name": name, **msgspec.to_builtins(view)})]

    def farewell(self, connection: Connection) -> str:
        return self._number(connection, "farewell", None)

    def garbage(self, form: str, item: Item, size: int) -> str:
        return f"garbage {form} {item.symbol}"

    def rest(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], now: int) -> HttpResponse | str:
        parts = path.strip("/").split("/")
        if path == "/instruments":
            return HttpResponse(200, self.market.reference or msgspec.json.encode(self.market.listed()))
        symbol = self.find(parts[1]) if len(parts) > 1 else None
        if symbol is None:
            body = self.market.body(path)
            return self.not_found() if body is None else HttpResponse(200, body)
        if parts[0] == "book":
            book = self.book(symbol, int(query.get("limit", 1000)), now)
            return book if isinstance(book, str) else json_response(msgspec.json.encode(book))
        if parts[0] == "trades":
            trades = self.market.trades_before(symbol, int(query["before"]), int(query["limit"]))
            return json_response(msgspec.json.encode(trades))
        if parts[0] == "file":
            day = next(d for d in self.market.days(symbol) if d.isoformat() == parts[2])
            lines = [f"{t.id},{t.ts},{t.price},{t.quantity},{t.side}\n" for t in self.market.day_trades(symbol, day)]
            return self.bulk(symbol, parts[2], gzip_bytes("".join(lines).encode()))
        return self.not_found()

    def refusal(self, kind: str, seconds: int) -> HttpResponse:
        return json_response({"refused": kind}, 429 if kind == "rate_limit" else 418, {"retry-after": str(seconds)})

    # Recorded frames: {"s": stream, "y": symbol, ...}

    def classify(self, text: str) -> list[RecordedPart]:
        m = msgspec.json.decode(text)
        if m["is"] == "trade":
            return [
                RecordedPart(f"trades:{m['y']}", m["y"], "trade", m["ts"], trade_id=i, price=p, quantity=q, side=side)
                for i, p, q, side in m["t"]
            ]
        if m["is"] in ("update", "snapshot"):
            return [
                RecordedPart(
                    f"depth:{m['y']}", m["y"], m["is"], m["ts"], m["u"], m["u"], m.get("p", 0), bids=m["b"], asks=m["a"],
                    depth=m.get("depth", 0),
                )
            ]  # fmt: skip
        return [RecordedPart("clock")] if m["is"] == "beat" else []

    def classify_rest(self, url: str, text: str) -> list[RecordedPart]:
        if "/book/" not in url:
            return []
        m = msgspec.json.decode(text)
        symbol = url.rpartition("/")[2]
        return [RecordedPart("", symbol, "snapshot", m["ts"], last_id=m["u"], bids=m["b"], asks=m["a"])]


class SeededEmulator(SampleEmulator):
    """The same with books seeded by REST, jumping ids and silently leaving levels."""

    book_seed = "rest"
    pushed_out = False
    jumping_ids = True


def simulated(*faults: str, kind: type[SampleEmulator] = SampleEmulator, **options: Any) -> SampleEmulator:
    options = {"symbols": 2, "seed": 4, "duration": 20 * SECOND, "speed": 0, "levels": 60, **options}
    made = tuple(parse_fault(f) for f in faults)
    return kind(MarketSource(kind.venue, simulate=True, faults=made, **options))


class Session:
    """Drives an emulator on a clock that jumps; frames are decoded as they come."""

    def __init__(self, emulator: SampleEmulator) -> None:
        self.emulator = emulator
        self.now = T0
        self.frames: list[tuple[int, Any]] = []  # connection, decoded text or Close
        self.responses: dict[int, HttpResponse] = {}

    def open(self, connection: int = 1, target: str = "/feed") -> Any:
        return self.emulator.ws_open(connection, target, {}, self.now)

    def _take(self, frames: list[ServerFrame]) -> list[Any]:
        made = []
        for f in frames:
            if isinstance(f, Text):
                try:
                    made.append((f.connection, msgspec.json.decode(f.text)))
                except msgspec.DecodeError:
                    made.append((f.connection, f.text))
            elif isinstance(f, Close):
                made.append((f.connection, f))
        self.frames += made
        return [m for _, m in made]

    def send(self, op: str, *names: str, connection: int = 1) -> list[Any]:
        text = msgspec.json.encode({"op": op, "names": names}).decode()
        return self.text(text, connection)

    def text(self, text: str, connection: int = 1) -> list[Any]:
        return self._take(self.emulator.ws_receive(connection, text, self.now))

    def get(self, target: str) -> Any:
        return self.emulator.http("GET", target, {}, self.now)

    def json(self, target: str) -> Any:
        response = self.get(target)
        assert response.status == 200, response
        return msgspec.json.decode(response.body)

    def run(self, *, position: int | None = None, seconds: float = 1e6) -> list[Any]:
        """Let time pass to the end, or to a position of the timeline, or for seconds of the host's clock."""
        frames: list[Any] = []
        until = self.now + int(seconds * SECOND)
        while True:
            out = self.emulator.poll(self.now, 8 if position is None else 1)
            frames += self._take(out.frames)
            self.responses.update(out.responses)
            if out.finished or (position is not None and self.emulator.world.position >= position):
                return frames
            if out.next_time is None or out.next_time > until:
                return frames
            self.now = max(self.now + 1, out.next_time)

    def of(self, kind: str, connection: int = 1) -> list[Any]:
        return [f["data"] for c, f in self.frames if c == connection and isinstance(f, dict) and f["is"] == kind]
