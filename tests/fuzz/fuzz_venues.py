"""Fuzz targets of every exchange package: frames into a live feed, and bodies into what parses REST and listings.

A feed is taken to where it knows its streams and books, by a short calm session with the venue's own emulator; then it gets
the input. It is made anew after so many inputs, which are kept: a failure that needs several of them can be repeated.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import islice
from typing import Any, Final

from msgspec import structs
from venue_chaos import SECOND, VENUES, Chaos, Link, World

from cmd_common import registry
from cmd_common.emulation import Text
from cmd_common.errors import CmdError
from cmd_common.feed import Feed, FetchSnapshot, Subscription
from cmd_common.history import Walk
from cmd_common.http import HttpRequest, HttpResponse

AGAIN: Final = 64  # inputs after which a feed is made anew
_INT64: Final = 1 << 63


def name_of(chaos: Chaos) -> str:
    """A target's name."""
    return "-".join(["feed", chaos.venue, *chaos.options.values()])


class _Listening(World):
    """A calm world that keeps what its venue sends."""

    def __init__(self, chaos: Chaos) -> None:
        super().__init__(registry.exchange(chaos.venue), chaos, 1)
        intervals = tuple(getattr(self.exchange, "live_intervals", self.exchange.intervals))[:1]
        wanted = Subscription(tuple(self.instruments), self.exchange.types, intervals=intervals, options=chaos.options)
        self.feeds = self.exchange.feeds(wanted, self.instruments, self.endpoints)
        self.wanted = wanted
        self.frames: list[str] = []
        self.bodies: list[bytes] = []

    def to_client(self, link: Link, frame: Text) -> None:
        self.frames.append(frame.text)
        super().to_client(link, frame)

    def _http(self, request: HttpRequest) -> Any:
        response = super()._http(request)
        if isinstance(response, HttpResponse):
            self.bodies = [*getattr(self, "bodies", []), response.body]
        return response


@cache
def world(venue: str) -> _Listening:
    """A few seconds of a venue; ``venue`` is a target's name."""
    chaos = next(c for c in VENUES if name_of(c) == venue)
    found = _Listening(chaos)
    for feed in found.feeds:
        found.connect(feed)
    found.run(found.now + 6 * SECOND)
    return found


class FeedTarget:
    """Any bytes as frames of one venue's feed, a line each; a line that begins with ``!`` is a snapshot's body."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.before: list[bytes] = []  # inputs since the feed was made
        self._feed: Feed | None = None

    def seeds(self) -> list[bytes]:
        """Frames of the calm session, the first of every length, and the bodies."""
        found = world(self.name)
        shapes = {(len(f) // 40, f[:24]): f for f in reversed(found.frames)}
        bodies = [b"!" + body for body in found.bodies if len(body) < 8_000]
        return [*(f.encode() for f in islice(shapes.values(), 60)), *bodies[:6]]

    def __call__(self, data: bytes) -> None:
        if self._feed is None or len(self.before) >= AGAIN:
            self._feed = self._fresh()
            self.before = []
        self.before.append(data)
        feed, now = self._feed, world(self.name).now
        for line in data.split(b"\n")[:8]:
            if line[:1] == b"!":
                for symbol in list(feed.books)[:1]:
                    self._right(feed, feed.snapshot(symbol, line[1:], now))
                continue
            try:
                text = line.decode()
            except UnicodeDecodeError:
                self._right(feed, feed.receive(line, now))  # a binary frame
                continue
            self._right(feed, feed.receive(text, now))
        self._right(feed, feed.tick(now))

    def _fresh(self) -> Feed:
        known = world(self.name)
        feed = known.exchange.feeds(known.wanted, known.instruments, known.endpoints)[0]
        actions = list(feed.connected(known.now - SECOND).actions)
        for frame in known.frames[:40]:
            actions += feed.receive(frame, known.now - SECOND).actions
        for action in actions:
            if isinstance(action, FetchSnapshot) and known.bodies:
                feed.snapshot(action.symbol, known.bodies[-1], known.now - SECOND)
        return feed

    def _right(self, feed: Feed, output: Any) -> None:
        for builder in feed.books.values():
            builder.check()
        for record in output.records:
            for value in structs.astuple(record):
                if isinstance(value, int):
                    assert -_INT64 <= value < _INT64, record
                elif isinstance(value, str):
                    value.encode()  # a store keeps UTF-8


class RestTarget:
    """Any bytes as bodies of all venues: the first byte chooses venue and kind. Errors are one clear line."""

    name = "rest"

    def __init__(self) -> None:
        self._venues = sorted({c.venue for c in VENUES})
        self.before: list[bytes] = []

    def seeds(self) -> list[bytes]:
        """Bodies of each venue's calm session."""
        found = []
        for number, venue in enumerate(self._venues):
            chaos = next(c for c in VENUES if c.venue == venue)
            bodies = [b for b in world(name_of(chaos)).bodies if len(b) < 8_000][:4]
            found += [bytes([number * 8 + kind]) + body for body in bodies for kind in range(5)]
        return found

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        venue, kind = self._venues[data[0] // 8 % len(self._venues)], data[0] % 8
        body = data[1:]
        exchange = registry.exchange(venue)
        try:
            if kind == 0:
                exchange.parse_instruments(body)
            elif kind == 1:
                for status in (200, 400, 418, 429, 503):
                    exchange.check(HttpResponse(status, body, {}), "http://sim/x")
            elif kind == 2 and exchange.archive is not None:
                exchange.archive.parse_listing(body, "data/")
            elif kind == 3 and exchange.archive is not None:
                exchange.archive.parse_checksum(body, "a.zip")
            elif exchange.history is not None:
                start = 1_748_822_400 * SECOND
                for table in exchange.history.tables:
                    interval = exchange.history.intervals[0] if table == "candles" else ""
                    walk = Walk(table, "BTCUSDT", start, start + 3600 * SECOND, interval)
                    exchange.history.page(walk, "", HttpResponse(200, body, {}), start + 7200 * SECOND)
        except CmdError as error:
            one_line(error)


def one_line(error: CmdError) -> None:
    """An error of ours is one line of text."""
    text = str(error)
    assert text.strip(), repr(error)
    assert "\n" not in text, repr(text)
    text.encode()


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """An input with a few changes: bits, bytes, numbers, pieces of other inputs."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(7)
        if kind == 0 and found:
            found[at % len(found)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at:at] = rng.choice(
                [b'"', b"}", b"]", b",", b"-", b"9" * 20, b"e999", b"\xff", b"\\u", b"null", b"0"]
            )
        elif kind == 2:
            del found[at : at + rng.randint(1, 12)]
        elif kind == 3 and found:
            found[at % len(found)] = rng.randrange(256)
        elif kind == 4:
            other = rng.choice(others)
            place = rng.randrange(len(other) + 1)
            found[at:at] = other[place : place + rng.randint(1, 40)]
        elif kind == 5:
            del found[at:]
        else:
            found[at : at + 8] = found[at : at + 8] * 2
    return bytes(found[:65_536])
