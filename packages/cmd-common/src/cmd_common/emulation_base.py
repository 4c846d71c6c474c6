"""What all emulators share: one timeline, connections, fan-out, faults, the end, and the truth.

An exchange's emulator derives from ``TimelineEmulator``, gives it a ``World`` (what happens, and when) and
adds the exchange's own protocol: handshakes, control frames, encoding of messages, REST and bulk files.

Theory of operation. The timeline runs once a process. It starts ``start_delay`` after the last
subscription, or at once when ``expected_streams`` are subscribed. At a finite speed it then runs with the
host's clock, whoever listens. As fast as possible (speed 0) time means nothing, so the timeline also
waits: for clients that lost their connection, once the time of the outage is over, until their streams are subscribed
again (at most ``RETURN_LIMIT``), for the first request of a book whose stream was subscribed (at most ``_ASK_LIMIT``), so
that reruns begin with the same snapshot, a moment after each, so that a client's buffer of deltas stays small, and
after a damaged or missing book message until the client has asked for a new snapshot (at most ``_NOTICE_LIMIT``).
Messages that nobody subscribed are skipped. When everything was sent every connection is closed with
code 4000; one that comes later is closed as soon as it has subscribed. At any speed the end waits for clients
whose connection a fault has cut, so that they are told, too, and where there are faults, until no client has
asked for anything for two seconds: the last book that was damaged can be had again.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from .emulation import Accept, Close, MarketSource, Pending, Ping, Poll, ServerFrame, Text
from .faults import FaultPlan, Injector
from .http import HttpResponse

__all__ = ["END_CODE", "Connection", "Item", "TimelineEmulator", "TrueBook", "World", "json_response"]

END_CODE = 4000
_SECOND = 1_000_000_000
RETURN_LIMIT = 30 * _SECOND
PENDING_LIMIT = 60 * _SECOND
_SNAPSHOT_PAUSE = 20_000_000
_LAST_QUESTIONS = 2 * _SECOND
_NOTICE_LIMIT = 400_000_000
_ASK_LIMIT = 3 * _SECOND
_CONNECT_WINDOW = 300 * _SECOND
_TRUTH_PATH = "/__replay/truth"


class Item(Struct, gc=False):
    """One message of a stream before it is encoded for a connection; ``payload`` is the emulator's own.

    ``resync`` is the key of a book that clients must load anew now: the recording lacks what came before.
    """

    stream: str
    symbol: str
    payload: Any
    resync: str = ""


class World(Protocol):
    """What happens on the exchange: a recording or a simulation, as a timeline of items."""

    start: int  # timeline ns of the first event
    position: int  # timeline ns of the last event that happened

    def next_time(self) -> int | None:
        """Timeline ns of the next step; None at the end."""

    def step(self) -> Iterable[Item]:
        """Let the next thing happen and return its messages in order."""

    def finish(self) -> Iterable[Item]:
        """Return what is still to be said at the end."""


class Connection:
    """One client; ``streams`` maps requested names to the world's stream, None where nothing comes."""

    def __init__(self, number: int, now: int) -> None:
        self.number = number
        self.opened = now
        self.pinged = now
        self.streams: dict[str, str | None] = {}
        self.turns: dict[str, int] = {}  # how often a name was subscribed
        self.subscribed = False  # ever
        self.closing = False
        self.incoming: list[int] = []


class TrueBook:
    """The emulator's own book, kept apart from the code under test: levels by price, with their texts.

    It holds only levels that exist. Beyond what a recorded snapshot covered it holds those that changed
    since, so that deep down levels can be missing, as in any book rebuilt from that recording.
    """

    def __init__(self) -> None:
        self.bids: dict[float, tuple[str, str]] = {}
        self.asks: dict[float, tuple[str, str]] = {}
        self.last_id = 0
        self.known = False

    def load(self, last_id: int, bids: Iterable[tuple[str, str]], asks: Iterable[tuple[str, str]]) -> None:
        """Replace everything."""
        self.bids = {float(p): (p, q) for p, q in bids if float(q)}
        self.asks = {float(p): (p, q) for p, q in asks if float(q)}
        self.last_id = last_id
        self.known = True

    def apply(self, last_id: int, bids: Iterable[tuple[str, str]], asks: Iterable[tuple[str, str]]) -> None:
        """Set levels; quantity 0 deletes."""
        for side, levels in ((self.bids, bids), (self.asks, asks)):
            for p, q in levels:
                if float(q):
                    side[float(p)] = (p, q)
                else:
                    side.pop(float(p), None)
        self.last_id = last_id

    def uncross(self, bids: Iterable[tuple[str, str]], asks: Iterable[tuple[str, str]]) -> None:
        """Drop levels that the levels just applied contradict: what deleted them was not seen. O(levels)."""
        bid = max((float(p) for p, q in bids if float(q)), default=-inf)
        ask = min((float(p) for p, q in asks if float(q)), default=inf)
        if bid >= min(self.asks, default=inf):
            self.asks = {p: level for p, level in self.asks.items() if p > bid}
        if ask <= max(self.bids, default=-inf):
            self.bids = {p: level for p, level in self.bids.items() if p < ask}

    def top(self, limit: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Return the texts of the best levels of both sides."""
        bids = heapq.nlargest(limit, self.bids) if limit < 50 else sorted(self.bids, reverse=True)[:limit]
        asks = heapq.nsmallest(limit, self.asks) if limit < 50 else sorted(self.asks)[:limit]
        return [self.bids[p] for p in bids], [self.asks[p] for p in asks]


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """Return a JSON response; ``value`` is encoded unless it is bytes."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return HttpResponse(status, body, {"content-type": "application/json;charset=UTF-8", **(headers or {})})


class _Waiting(Struct):
    token: int
    target: str
    headers: Mapping[str, str]
    key: str
    until: int


_Texts = list[tuple[Connection, str, int, str]]  # client, name of its stream, which subscription of it, frame


class TimelineEmulator(ABC):
    """Base of emulators; see the module's docstring. Subclasses give the exchange's protocol."""

    venue: str
    ping_interval = 20 * _SECOND
    pong_timeout = 60 * _SECOND
    lifetime = 24 * 3600 * _SECOND
    messages_per_second = 5
    connects_per_5min = 0  # handshakes; 0: no limit
    start_delay = _SECOND

    def __init__(self, source: MarketSource, world: World) -> None:
        self.source = source
        self.world = world
        self.injector = Injector(source.faults, source.seed, source.venue)
        self.connections: dict[int, Connection] = {}
        self.finished = False
        self.sent: dict[str, int] = {}
        self._subscribers: dict[str, list[tuple[Connection, str]]] = {}
        self._start_at: int | None = None  # wall time at which the timeline starts
        self._origin: int | None = None  # wall time that corresponds to world.start; None: not running
        self._hold_until = 0
        self._lost: dict[str, int] = {}  # streams of lost connections: wall time until which they are waited for
        self._late: list[tuple[int, int, Item, _Texts]] = []  # delayed: (timeline ns, order, item, texts)
        self._swap: dict[str, list[tuple[Item, _Texts]]] = {}  # reordered: waits for the next of its stream
        self._outage = 0  # timeline ns until which connections are cut
        self._silent: list[tuple[int, FaultPlan, frozenset[str]]] = []  # (timeline ns, plan, streams; none: by plan)
        self._order = 0
        self._damaged: dict[str, str] = {}  # stream whose next message shows a client its gap: key of its book
        self._noticed: dict[str, int] = {}  # book whose resync is waited for: wall time until which
        self._over: int | None = None  # wall time at which the timeline ended
        self._heard = 0  # wall time of the last frame or request of a client
        self._pending: list[_Waiting] = []
        self._tokens = 0
        self._leaving: dict[int, int] = {}  # connections that were told to go: wall time at which they are closed
        self._attempts: deque[int] = deque(maxlen=self.connects_per_5min or None)  # wall times of handshakes

    # What an exchange adds.

    @abstractmethod
    def encode(self, item: Item, connection: Connection, name: str) -> str:
        """Return the frame for one connection, which asked for the stream as ``name``; empty: none.

        Called once a frame, in the timeline's order and also for frames that a fault then loses, delays or
        swaps: so a number that counts the frames of a connection shows what is missing.
        """

    @abstractmethod
    def resolve(self, name: str, connection: Connection) -> str | None:
        """Return the world's stream for a requested name, None when nothing will come."""

    @abstractmethod
    def accept(self, connection: Connection, target: str, headers: Mapping[str, str]) -> list[str] | HttpResponse:
        """Judge a handshake: the names subscribed by its URL, or a refusal."""

    @abstractmethod
    def control(self, connection: Connection, text: str, now: int) -> list[ServerFrame]:
        """Answer a client's frame; use ``subscribe`` and ``unsubscribe``."""

    @abstractmethod
    def request(self, method: str, target: str, headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """Answer a request, or return the key of what it must wait for."""

    @abstractmethod
    def answer(self, target: str, headers: Mapping[str, str], now: int) -> HttpResponse | str:
        """Answer a request that waited, or return its key to wait on."""

    @abstractmethod
    def timeout(self, target: str) -> HttpResponse:
        """The exchange's answer to a request that it could not serve in time."""

    @abstractmethod
    def books(self, depth: int) -> dict[str, Any]:
        """The true books: ``{symbol: {"last_id", "bids", "asks"}}``."""

    @abstractmethod
    def trades(self) -> dict[str, Any]:
        """The true trades that the timeline has passed: ``{symbol: {"first_id", "last_id", "count"}}``."""

    def trade_ids(self) -> dict[str, list[str]]:
        """All passed trade ids of each symbol as the venue writes them, for ``/__replay/truth?trades=1``."""
        return {}

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Facts for the ready line."""

    def describe(self, item: Item) -> dict[str, Any]:
        """Return ids of a message for the list of faults."""
        return {}

    def subscribed(self, stream: str) -> None:  # noqa: B027 - optional
        """A world's stream has its first subscriber."""

    def book_key(self, item: Item) -> str | None:
        """Return the key of the book that is broken when this message is lost; None for other streams."""
        return None

    def shown_by(self, item: Item) -> Iterable[str]:
        """Return the streams whose next message shows a client that this one is missing."""
        return (item.stream,)

    def awaited_book(self, stream: str) -> str | None:
        """Return the key of the book that whoever subscribes this stream will ask for."""
        return None

    def farewell(self, connection: Connection) -> str:
        """Return the frame that announces a shutdown; empty where the exchange has none."""
        return ""

    def too_many_connects(self, wait: int) -> HttpResponse:
        """Refuse a handshake over the limit; the next one may come after ``wait`` ns."""
        return HttpResponse(429, b"", {"retry-after": str(-(-wait // _SECOND))}, "Too Many Requests")

    def garbage(self, form: str, item: Item, size: int) -> str:
        """Return an extra frame for the fault malformed."""
        if form == "text":
            return "<html><body>502 Bad Gateway</body></html>"
        if form == "shape":
            return '["unexpected",1,null,{"deep":[[[]]]}]'
        if form == "huge":
            return '{"e":"unknownHuge","x":"' + "x" * size + '"}'
        return '{"e":"unknownEvent","E":1,"s":"' + item.symbol + '","newField":{"a":[1,2,3]}}'

    # The Emulator protocol.

    def http(self, method: str, target: str, headers: Mapping[str, str], now: int) -> HttpResponse | Pending:
        """Answer a request; see ``Emulator.http``."""
        path, _, query = target.partition("?")
        if path == _TRUTH_PATH:
            depth = next((int(q[6:]) for q in query.split("&") if q[:6] == "depth=" and q[6:].isdigit()), 1000)
            answer = self.truth(depth)
            if "trades=1" in query.split("&"):
                answer["trade_ids"] = self.trade_ids()
            return json_response(answer)
        self._heard = now
        result = self.request(method, target, headers, now)
        if isinstance(result, HttpResponse):
            return result
        self._noticed.pop(result, None)
        self._tokens += 1
        self._pending.append(_Waiting(self._tokens, target, headers, result, now + PENDING_LIMIT))
        return Pending(self._tokens)

    def ws_open(self, connection: int, target: str, headers: Mapping[str, str], now: int) -> Accept | HttpResponse:
        """Accept or refuse a WebSocket handshake."""
        if self.connects_per_5min:
            attempts = self._attempts
            left = attempts[0] + _CONNECT_WINDOW - now if len(attempts) == attempts.maxlen else 0
            attempts.append(now)
            if left > 0:
                return self.too_many_connects(left)
        client = Connection(connection, now)
        names = self.accept(client, target, headers)
        if isinstance(names, HttpResponse):
            return names
        self.connections[connection] = client
        if names:
            self.subscribe(client, names, now)
        return Accept()

    def ws_receive(self, connection: int, text: str, now: int) -> list[ServerFrame]:
        """Take a client's frame; returns the direct replies."""
        client = self.connections.get(connection)
        if client is None or client.closing:
            return []
        self._heard = now
        recent = [t for t in client.incoming if now - t < _SECOND]
        recent.append(now)
        client.incoming = recent
        if len(recent) > self.messages_per_second:
            return [self._close(client, 1008, "Too many requests", now)]
        replies = self.control(client, text, now)
        if self.finished and client.subscribed and not client.closing:
            replies.append(self._close(client, END_CODE, "everything was sent", now))
        return replies

    def ws_closed(self, connection: int, now: int) -> None:
        """A connection is gone."""
        client = self.connections.pop(connection, None)
        told = self._leaving.pop(connection, None) is not None
        if client is not None:
            self._forget(client, now, cut=told)

    def poll(self, now: int, limit: int = 256) -> Poll:
        """Return at most about ``limit`` frames that are due (one message to many clients is not split)."""
        out = Poll()
        self._care(now, out)
        if not self.finished:
            self._run(now, limit, out)
        if self.finished:
            for client in list(self.connections.values()):
                if client.subscribed and not client.closing:
                    out.frames.append(self._close(client, END_CODE, "everything was sent", now))
        self._answer(now, out)
        out.finished = self.finished
        return out

    def ready(self) -> dict[str, Any]:
        """Facts for the ready line."""
        return self.facts()

    def truth(self, depth: int = 1000) -> dict[str, Any]:
        """What was sent, what was damaged, and the true books (at most ``depth`` levels a side)."""
        return {
            "venue": self.venue,
            "sent": dict(self.sent),
            "faults": self.injector.applied,
            "fault_counts": dict(self.injector.counts),
            "books": self.books(depth),
            "trades": self.trades(),
            "position": self.world.position,
            "running": self._origin is not None,
            "finished": self.finished,
        }

    # For subclasses.

    def subscribe(self, client: Connection, names: Iterable[str], now: int) -> None:
        """Add streams to a connection and put off the start of the timeline."""
        for name in names:
            if name in client.streams:
                continue
            stream = self.resolve(name, client)
            client.streams[name] = stream
            client.turns[name] = client.turns.get(name, 0) + 1
            if stream is not None:
                group = self._subscribers.setdefault(stream, [])
                group.append((client, name))
                if len(group) == 1:
                    self.subscribed(stream)
                self._lost.pop(stream, None)
                if self.source.speed == 0 and (key := self.awaited_book(stream)) is not None:
                    self._noticed[key] = now + _ASK_LIMIT
        client.subscribed = True
        if self._origin is None:
            streams = sum(len(c.streams) for c in self.connections.values())
            everyone = 0 < self.source.expected_streams <= streams
            self._start_at = now if everyone else now + self.start_delay
        elif self.source.speed == 0:
            # A client that comes back needs its book snapshots before the timeline goes on.
            self._hold_until = max(self._hold_until, now + self.start_delay)

    def unsubscribe(self, client: Connection, names: Iterable[str]) -> None:
        """Take streams from a connection."""
        for name in names:
            stream = client.streams.pop(name, None)
            if stream is not None:
                self._drop(client, stream, name)

    @property
    def started(self) -> bool:
        """Whether the timeline runs or ran."""
        return self._origin is not None

    # The machinery.

    def _drop(self, client: Connection, stream: str, name: str) -> None:
        group = [s for s in self._subscribers.get(stream, ()) if s != (client, name)]
        if group:
            self._subscribers[stream] = group
        else:
            self._subscribers.pop(stream, None)

    def _forget(self, client: Connection, now: int, *, cut: bool) -> None:
        """Drop a connection's streams; one that a fault has ``cut`` comes back, others may have had enough."""
        for name, stream in client.streams.items():
            if stream is None:
                continue
            self._drop(client, stream, name)
            if stream not in self._subscribers and not self.finished and (cut or self.source.speed == 0):
                self._lost[stream] = now + RETURN_LIMIT
        client.streams = {}

    def _close(self, client: Connection, code: int, reason: str, now: int) -> Close:
        client.closing = True
        self._forget(client, now, cut=True)
        return Close(client.number, code, reason)

    def _care(self, now: int, out: Poll) -> None:
        for client in list(self.connections.values()):
            if client.closing:
                continue
            if now - client.opened >= self.lifetime:
                out.frames.append(self._close(client, 1001, "connection lifetime of 24 hours reached", now))
                continue
            leave = self._leaving.get(client.number)
            if leave is not None:
                if now >= leave:
                    out.frames.append(self._close(client, 1001, "server shutdown", now))
                    continue
                _sooner(out, leave)
            if now - client.pinged >= self.ping_interval:
                client.pinged = now
                out.frames.append(Ping(client.number, str(now // 1_000_000).encode(), self.pong_timeout))
            _sooner(out, client.pinged + self.ping_interval)

    def _wall(self, ts: int) -> int:
        origin, speed = self._origin or 0, self.source.speed
        return origin + int((ts - self.world.start) / speed) if speed else origin

    def _run(self, now: int, limit: int, out: Poll) -> None:
        if self._origin is None:
            if self._start_at is None:
                return
            if now < self._start_at:
                _sooner(out, self._start_at)
                return
            self._origin = now
        steps = 0
        fast = self.source.speed == 0
        if fast:
            self._lost = {stream: until for stream, until in self._lost.items() if until > now}
            self._noticed = {key: until for key, until in self._noticed.items() if until > now}
            ts = self.world.next_time()
            away = () if ts is not None and ts < self._outage else self._lost.values()
            hold = max([self._hold_until, *away, *self._noticed.values()])
            if hold > now:
                _sooner(out, hold)
                return
        while len(out.frames) < limit and steps < 16 * limit:
            steps += 1
            ts = self.world.next_time()
            if self._late and (ts is None or self._late[0][0] <= ts):
                due = self._wall(self._late[0][0])
                if due > now:
                    _sooner(out, due)
                    return
                _, _, item, texts = heapq.heappop(self._late)
                self._deliver(item, texts, out)
                continue
            if ts is None:
                self._lost = {stream: until for stream, until in self._lost.items() if until > now}
                if self._lost:
                    _sooner(out, max(self._lost.values()))
                    return
                if self._over is None:
                    self._over = now
                    for item in self.world.finish():
                        self._emit(item, self.world.position, out, now)
                    for waiting in self._swap.values():
                        for item, texts in waiting:
                            self._deliver(item, texts, out)
                    self._swap.clear()
                self.finished = self._said_all(now, out)
                return
            due = self._wall(ts)
            if due > now:
                _sooner(out, due)
                return
            if fast and self._lost and ts >= self._outage:
                break  # the outage is over: now clients are waited for
            for item in self.world.step():
                self._emit(item, ts, out, now)
            if fast and (self._noticed or self._hold_until > now):
                break
            if self._pending and any(self._due(waiting) for waiting in self._pending):
                break
        out.next_time = now

    def _said_all(self, now: int, out: Poll) -> bool:
        """Whether clients had their time to ask for the books that faults have cost them at the very end."""
        assert self._over is not None
        until = min(max(self._over, self._heard) + _LAST_QUESTIONS, self._over + RETURN_LIMIT)
        if self.injector.frame_plans and self.connections and now < until:
            _sooner(out, until)
            return False
        return True

    def _emit(self, item: Item, ts: int, out: Poll, now: int) -> None:
        wanted = item.stream in self._subscribers
        if self._silent:
            self._silent = [s for s in self._silent if s[0] > ts]
            for _, plan, streams in self._silent:
                if item.stream in streams if streams else wanted and plan.matches(item.stream, item.symbol):
                    self.injector.log("lost", cause=plan.kind, **self._facts(item, ts))
                    if wanted:
                        self._texts_of(item)
                        self._damage(item)
                    return
        if not wanted:
            return
        if item.resync and self.source.speed == 0:
            self._noticed[item.resync] = now + _NOTICE_LIMIT
        texts = self._texts_of(item)
        if not self.injector.frame_plans:
            self._deliver(item, texts, out)
            return
        damaged = self._damaged.get(item.stream)
        cut = copies = 0
        late = swap = False
        delay = 0
        for plan in self.injector.frame(item.stream, item.symbol):
            facts = self._facts(item, ts)
            kind = plan.kind
            if kind == "disconnect":
                self.injector.log(kind, ms=plan.ms, **facts)
                self.injector.log("lost", cause=kind, **facts)
                gone: set[str] = set()
                for client in {c.number: c for c, _ in self._subscribers.get(item.stream, ())}.values():
                    gone.update(filter(None, client.streams.values()))
                    out.frames.append(self._close(client, 0, "fault", now))
                self._outage = max(self._outage, ts + plan.ms * 1_000_000)
                self._silent.append((ts + plan.ms * 1_000_000, plan, frozenset(gone)))
                return
            if kind == "silence":
                self._silent.append((ts + plan.ms * 1_000_000, plan, frozenset()))
                self.injector.log(kind, ms=plan.ms, **facts)
                self.injector.log("lost", cause=kind, **facts)
                self._damage(item)
                return
            if kind == "shutdown":
                self.injector.log(kind, ms=plan.ms, **facts)
                for client in {c.number: c for c, _ in self._subscribers.get(item.stream, ())}.values():
                    if text := self.farewell(client):
                        out.frames.append(Text(client.number, text))
                    self._leaving.setdefault(client.number, now + plan.ms * 1_000_000)
                continue
            if kind == "malformed":
                forms = ("text", "unknown", "shape", "huge")
                form = plan.form or forms[(plan.struck - 1) % 3]
                self.injector.log(kind, form=form, **facts)
                text = self.garbage(form, item, plan.bytes)
                out.frames.extend(Text(c.number, text) for c, _ in self._subscribers[item.stream])
                continue
            self.injector.log(kind, **facts)
            if kind in ("drop", "tear", "reorder", "delay"):
                self._damage(item)
            if kind == "drop":
                copies = -1
            elif kind == "repeat" and copies >= 0:
                copies = 1
            elif kind == "tear":
                cut = 1 + int(plan.random.random() * 98)  # per cent that stay
            elif kind == "delay":
                late, delay = True, plan.ms
            elif kind == "reorder":
                swap = True
        if copies < 0:
            return
        if cut:
            texts = [(c, name, turn, text[: max(1, len(text) * cut // 100)]) for c, name, turn, text in texts]
        if swap:
            self._swap.setdefault(item.stream, []).append((item, texts))
            return
        if damaged is not None and not (late or cut):  # this message shows what is missing
            self._damaged = {stream: key for stream, key in self._damaged.items() if key != damaged}
            if self.source.speed == 0:
                self._noticed[damaged] = now + _NOTICE_LIMIT
        for _ in range(copies + 1):
            if late:
                self._order += 1
                heapq.heappush(self._late, (ts + delay * 1_000_000, self._order, item, texts))
            else:
                self._deliver(item, texts, out)
        for held, texts in self._swap.pop(item.stream, ()):
            self._deliver(held, texts, out)

    def _damage(self, item: Item) -> None:
        """A client's book is broken now, which a message that comes next will show it."""
        if (key := self.book_key(item)) is not None:
            self._damaged.update(dict.fromkeys(self.shown_by(item), key))

    def _facts(self, item: Item, ts: int) -> dict[str, Any]:
        return {
            "stream": item.stream,
            "symbol": item.symbol,
            "message": self.sent.get(item.stream, 0) + 1,
            "ts": ts,
            **self.describe(item),
        }

    def _texts_of(self, item: Item) -> _Texts:
        encode = self.encode
        group = self._subscribers.get(item.stream, ())
        return [(client, name, client.turns[name], encode(item, client, name)) for client, name in group]

    def _deliver(self, item: Item, texts: _Texts, out: Poll) -> None:
        stream = item.stream
        if stream not in self._subscribers:
            return
        self.sent[stream] = self.sent.get(stream, 0) + 1
        for client, name, turn, text in texts:
            # A client can have gone since, or have subscribed anew, with a snapshot that is newer.
            if text and client.streams.get(name) == stream and client.turns[name] == turn:
                out.frames.append(Text(client.number, text))

    def _due(self, waiting: _Waiting) -> bool:
        return self.known(waiting.key)

    def known(self, key: str) -> bool:
        """Whether what a request waits for is there."""
        return False

    def snapshot_given(self, key: str, now: int) -> None:
        """Call when a book snapshot was given out: as fast as possible leaves the client a moment for it."""
        self._noticed.pop(key, None)
        if self.source.speed == 0:
            self._hold_until = max(self._hold_until, now + _SNAPSHOT_PAUSE)

    def _answer(self, now: int, out: Poll) -> None:
        rest = []
        for waiting in self._pending:
            if self.known(waiting.key):
                answer = self.answer(waiting.target, waiting.headers, now)
                if isinstance(answer, HttpResponse):
                    out.responses.append((waiting.token, answer))
                    continue
            if self.finished or now >= waiting.until:
                out.responses.append((waiting.token, self.timeout(waiting.target)))
                continue
            _sooner(out, waiting.until)
            rest.append(waiting)
        self._pending = rest


def _sooner(out: Poll, time: int) -> None:
    if out.next_time is None or time < out.next_time:
        out.next_time = time
