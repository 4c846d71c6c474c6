"""A toy venue over FeedBase: a protocol that is as small as a protocol can be, and a shell for its feed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from cmd_common.errors import ProtocolError
from cmd_common.exchange import Endpoints
from cmd_common.feed import Output, Send, Subscription
from cmd_common.feed_base import FeedBase, ParsedBook
from cmd_common.feed_state import Stream
from cmd_common.http import HttpRequest
from cmd_common.instruments import Instrument
from cmd_common.records import Candle
from cmd_common.sequence import BookState, Verdict

S = 1_000_000_000
T0 = 1_750_000_000 * S
ENDPOINTS = Endpoints(ws="ws://x", rest="http://x")


def instrument(symbol: str) -> Instrument:
    return Instrument(
        venue="toy",
        symbol=symbol,
        base=symbol[:3],
        quote="USD",
        kind="spot",
        tick_size=Decimal("0.01"),
        lot_size=Decimal("0.001"),
    )


INSTRUMENTS = {s: instrument(s) for s in ("AAA", "BBB", "CCC", "DDD")}


class ChainRule:
    name = "toy-chain"

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        return self.next(snapshot_id, first, last, prev)

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        if last <= book_id:
            return Verdict.DROP
        return Verdict.APPLY if first <= book_id + 1 else Verdict.GAP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        return snapshot_id + 1 < first


class ToyFeed(FeedBase):
    """``{"k": kind, "s": symbol, ...}``; ``own`` counts, ``bad`` makes verify fail."""

    own = False

    def _rule(self) -> Any:
        return super()._rule() if self.own else ChainRule()

    def _streams_of(self, symbol: str, instrument: Instrument) -> list[Stream]:
        streams = []
        for type_ in self._types:
            names = [f":{i}" for i in self._subscription.intervals] if type_ == "candles" else [""]
            streams += [self._stream(f"{type_}:{symbol}{n}", symbol, type_) for n in names]
        return streams

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        names = tuple(s.name for s in streams)
        return [(json.dumps({method: names}), names)]

    def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
        m = json.loads(frame)
        kind = m["k"]
        if kind == "ack":
            for name in m["names"]:
                self._acked(name, now, out)
        elif kind == "no":
            self._error(m["why"], now, out)
            self._refused(m["names"], m["why"], now, out)
        elif kind == "lost":
            self._lost_all("sequence", now, out)
        elif kind not in ("t", "q", "c", "d", "b", "p"):
            self._unknown_event(kind, now, out)
        else:
            state = self._symbols[m["s"]]
            ts = T0 + m["ts"]
            if kind == "t":
                seq = m.get("i")
                self._trade(state.trades, seq, str(m.get("u", seq)), 1.0, 2.0, "buy", ts, now, out)
            elif kind == "q":
                self._quote(state.quotes, m.get("i"), *m["v"], ts, now, out)
            elif kind == "c":
                o = T0 + m["o"]
                values = (1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0, 0.0, 0.0)
                final = "final" if m["x"] else "provisional"
                candle = Candle(o, o + 60 * S, ts, now, "toy", m["s"], "1m", "exchange", final, *values)
                self._candle(state.candles["1m"].stream, candle, now, out)
            elif kind == "d" and self.own:
                verify = (lambda book: "checksum") if m.get("bad") else None
                self._own_delta(state, m["b"], m["a"], ts, now, out, verify)
            elif kind == "d":
                self._delta(state, m["i"], m["i"], None, m["b"], m["a"], ts, now, out)
            elif kind == "p":
                self._partial(state, m["i"], m["b"], m["a"], ts, now, out)
            else:
                self._stream_book(state, m.get("i"), m["b"], m["a"], ts, now, out, continues=m.get("continues", False))


class SeededFeed(ToyFeed):
    seeded = True
    sequenced = False

    def _snapshot_request(self, symbol: str, limit: int) -> HttpRequest:
        return HttpRequest(f"http://x/book/{symbol}")

    def _parse_snapshot(self, symbol: str, body: bytes) -> ParsedBook:
        try:
            i, b, a = json.loads(body)
        except ValueError as error:
            raise ProtocolError(f"no book: {error}") from None
        return ParsedBook(i, b, a, complete=True)


class OwnFeed(ToyFeed):
    own = True
    sequenced = False
    contiguous_trades = False
    derive_quotes = True


class Shell:
    """Calls a feed and keeps what it says; confirms subscriptions unless told otherwise."""

    def __init__(self, kind: type[ToyFeed] = ToyFeed, types: Sequence[str] = ("book",), symbols=("AAA",), **more):
        subscription = Subscription(tuple(symbols), tuple(types), **more)
        self.feed = kind("toy", "toy/0", "ws://x", subscription, types, symbols, INSTRUMENTS, ENDPOINTS)
        self.now = T0
        self.records: list[Any] = []
        self.actions: list[Any] = []
        self.confirm = True

    def take(self, out: Output) -> list[Any]:
        self.records += out.records
        self.actions += out.actions
        for action in out.actions:
            frames = (action.frame,) if isinstance(action, Send) else getattr(action, "frames", ())
            for frame in frames:
                if self.confirm and "subscribe" in (m := json.loads(frame)):
                    self.send(k="ack", names=m["subscribe"])
        return out.records

    def connect(self) -> Shell:
        self.take(self.feed.connected(self.now))
        return self

    def send(self, **message: Any) -> list[Any]:
        return self.take(self.feed.receive(json.dumps(message), self.now))

    def raw(self, frame: str | bytes) -> list[Any]:
        return self.take(self.feed.receive(frame, self.now))

    def book(self, i: int | None, ts: int = 0, **more: Any) -> list[Any]:
        return self.send(k="b", s="AAA", ts=ts, i=i, b=[[10.0, 1.0], [9.0, 1.0]], a=[[11.0, 1.0]], **more)

    def delta(self, i: int, ts: int, b=(), a=(), **more: Any) -> list[Any]:
        return self.send(k="d", s="AAA", i=i, ts=ts, b=list(b), a=list(a), **more)

    def tick(self, seconds: int = 1) -> list[Any]:
        before = len(self.records)
        for _ in range(seconds):
            self.now += S
            self.take(self.feed.tick(self.now))
        return self.records[before:]

    def of(self, kind: type) -> list[Any]:
        return [r for r in self.records if isinstance(r, kind)]

    def did(self, kind: type) -> list[Any]:
        return [a for a in self.actions if isinstance(a, kind)]

    @property
    def state(self) -> BookState:
        return self.feed.books["AAA"].state
