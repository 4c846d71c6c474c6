"""One Bybit market-data connection without I/O: frames in, records and actions out.

Theory of operation. A topic is a stream: ``orderbook.1000.BTCUSDT``, ``orderbook.1.BTCUSDT`` (quotes),
``publicTrade.BTCUSDT``, ``kline.60.BTCUSDT``. At most ten go into a request, which is answered once
(``req_id``), for all of them: with success, or with an error that names one topic. Whether the other
topics of a refused request count is not documented, so they are asked for again without the bad one;
``already subscribed`` then means yes. Rules: ``sync`` and docs/exchanges/bybit.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from math import nan
from typing import Any, Final

import msgspec

from cmd_common.errors import UsageError
from cmd_common.feed import Output, Send
from cmd_common.feed_base import FeedBase, Wire, inexact_flag
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.instruments import Instrument
from cmd_common.records import Candle, Side
from cmd_common.sequence import SequenceRule, Verdict

from ._messages import BookFrame, CandleFrame, Reply, TradeFrame, positive
from .instruments import INTERVALS, interval_end
from .sync import RESTART, BookRule, Top, replaces

__all__ = ["CHARACTERS", "DEPTHS", "BybitFeed", "topics_of"]

DEPTHS: Final = (50, 200, 1000)
"""Levels a side of the book topics that send changes; level 1 is the source of quotes."""
CHARACTERS: Final = 21_000
"""The most characters of topics that one connection may subscribe."""

_SECOND: Final = 1_000_000_000
_MS: Final = 1_000_000
_NAMES_A_FRAME: Final = 10  # the limit of spot; the documentation gives none for linear
_PING_EVERY: Final = 20 * _SECOND
_REMEMBERED: Final = 1000  # requests whose answers have not come
_TOPIC: Final = re.compile(r"topic:\s*([^\s,\"]{1,100})")
_OURS: Final = {exchange: ours for ours, exchange in INTERVALS.items()}
_SIDES: Final[dict[str, Side]] = {"Buy": "buy", "Sell": "sell"}


def topics_of(symbol: str, types: Sequence[str], intervals: Sequence[str], depth: int) -> list[tuple[str, str, int]]:
    """Return the topics of a symbol: name, type, and characters of a connection's limit (with quotes and comma)."""
    topics: list[tuple[str, str]] = []
    for type_ in types:
        if type_ == "trades":
            topics.append((f"publicTrade.{symbol}", type_))
        elif type_ == "quotes":
            topics.append((f"orderbook.1.{symbol}", type_))
        elif type_ == "book":
            topics.append((f"orderbook.{depth}.{symbol}", type_))
        elif type_ == "candles":
            topics += [(f"kline.{INTERVALS[i]}.{symbol}", type_) for i in dict.fromkeys(intervals)]
    return [(name, type_, len(name) + 3) for name, type_ in topics]


class BybitFeed(FeedBase):
    """One connection of one market; see ``cmd_common.feed.Feed``.

    Options of the subscription: ``block_trades`` (``on``: trades agreed outside the book are recorded,
    too), and those of ``FeedBase``.
    """

    native_format = "bybit"
    contiguous_trades = False  # UUIDs on linear; on spot numbers that jump
    max_frame = 16 * 1024 * 1024
    quiet_limit = 60 * _SECOND  # every ping is answered

    def __init__(self, *args: Any, depth: int = DEPTHS[-1]) -> None:
        self._levels = depth
        self._tops: dict[str, Top] = {}
        self._requests: dict[str, tuple[str, tuple[str, ...]]] = {}  # by req_id: method and topics
        self._next_request = 1
        self._pinged = 0
        self._book_wire = Wire(BookFrame)
        self._trade_wire = Wire(TradeFrame)
        self._candle_wire = Wire(CandleFrame)
        super().__init__(*args)
        block = self._options.get("block_trades", "off")
        if block not in ("on", "off"):
            raise UsageError(f"{self.venue}: option block_trades is {block!r}", hint="on or off")
        self._block_trades = block == "on"

    # Streams

    def _rule(self) -> SequenceRule:
        return BookRule()

    def _topics(self, symbol: str) -> list[tuple[str, str, int]]:
        return topics_of(symbol, self._types, self._subscription.intervals, self._levels)

    def _streams_of(self, symbol: str, instrument: Instrument) -> list[Stream]:
        return [self._stream(name, symbol, type_) for name, type_, _ in self._topics(symbol)]

    def _native_key(self, st: SymbolState) -> str:
        assert st.depth is not None
        return st.depth.name  # the topic: the source of quotes has the same symbol

    def _interval_of(self, stream: Stream) -> str:
        return _OURS[stream.name.split(".", 2)[1]]

    def add(self, symbols: Sequence[str], now: int) -> Output:
        """Subscribe more symbols while connected; raises UsageError when the connection is full."""
        new = [s for s in dict.fromkeys(symbols) if s not in self._symbols]
        if sum(length for s in (*self._symbols, *new) for _, _, length in self._topics(s)) > CHARACTERS:
            raise UsageError(
                f"{self.name} cannot carry topics of more than {CHARACTERS} characters", hint="start another feed"
            )
        return super().add(symbols, now)

    def remove(self, symbols: Sequence[str], now: int) -> Output:
        """Unsubscribe symbols while connected; their books are dropped."""
        for symbol in symbols:
            self._tops.pop(symbol, None)
        return super().remove(symbols, now)

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        frames = []
        for at in range(0, len(streams), _NAMES_A_FRAME):
            names = tuple(s.name for s in streams[at : at + _NAMES_A_FRAME])
            id_ = str(self._next_request)
            self._next_request += 1
            while len(self._requests) >= _REMEMBERED:
                del self._requests[next(iter(self._requests))]
            self._requests[id_] = (method, names)
            frames.append((json.dumps({"req_id": id_, "op": method, "args": names}, separators=(",", ":")), names))
        return frames

    def _on_connected(self, now: int, out: Output) -> None:
        self._requests.clear()
        self._pinged = now
        for top in self._tops.values():
            top.forget()

    def _on_tick(self, now: int, out: Output) -> None:
        if not 0 <= now - self._pinged < _PING_EVERY:
            self._pinged = now
            out.actions.append(Send('{"op":"ping"}'))

    # Frames

    def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
        text = frame.decode() if isinstance(frame, bytes) else frame
        at = text.find('"topic":"')
        if at < 0:
            self._on_reply(frame, now, out)
            return
        topic = text[at + 9 : text.find('"', at + 9)]
        kind = topic.partition(".")[0]
        stream = self._streams.get(topic)
        if kind not in ("orderbook", "publicTrade", "kline"):
            # A topic that nobody asked for; that it is JSON at all is looked at first.
            msgspec.json.decode(frame)
            self._unknown_event(kind or "?", now, out)
            return
        try:
            if kind == "orderbook":
                message = self._decode(self._book_wire, kind, frame, now, out)
                if self._path is not None:
                    self._path.lenient = not self._book_wire.strict
                self._on_book(message, stream, now, out)
            elif kind == "publicTrade":
                self._on_trades(self._decode(self._trade_wire, kind, frame, now, out), stream, now, out)
            else:
                self._on_candles(self._decode(self._candle_wire, kind, frame, now, out), stream, now, out)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            # The topic stands at the beginning, so that a torn frame still tells whose it was.
            known = stream if stream is not None and stream.ts else None
            self._malformed(frame, f"{kind}: {' '.join(str(error).split())}"[:200], now, out, known)

    def _on_book(self, message: BookFrame, stream: Stream | None, now: int, out: Output) -> None:
        data = message.data
        if stream is None:
            self.counters.skipped += 1
            return
        if data.s != stream.symbol:
            raise ValueError(f"topic {message.topic} brings symbol {data.s[:40]!r}")
        # cts is when the engine made the state, as T of trades; ts, when it was pushed, comes later.
        ts = (message.cts or message.ts) * _MS
        whole = replaces(message.type, data.u)
        if not whole and message.type != "delta":
            self._unknown_event(f"orderbook {message.type}", now, out)
            return
        st = self._symbols[stream.symbol]
        if stream is not st.depth:
            self._on_top(message, stream, whole, ts, now, out)
        elif whole:
            assert st.builder is not None
            last = st.builder.last_id
            follows = not st.awaiting and data.u != RESTART and last <= data.u <= last + 1
            # The exchange keeps exactly the best N levels up to date: a level that is pushed out is deleted.
            self._stream_book(st, data.u, data.b, data.a, ts, now, out, complete=True, continues=follows)
        else:
            self._delta(st, data.u, data.u, None, data.b, data.a, ts, now, out)

    def _on_top(self, message: BookFrame, stream: Stream, whole: bool, ts: int, now: int, out: Output) -> None:
        data = message.data
        st = self._symbols[stream.symbol]
        top = self._tops.setdefault(stream.symbol, Top())
        if data.u == RESTART:
            st.quote_id = -1  # ids begin anew
        if whole:
            if not top.snapshot(data.u, data.b, data.a):
                self._hear(stream, ts, now, out)  # repeated because nothing changed: alive, and no news
                self.counters.skipped += 1
                return
        else:
            known = top.last >= 0
            verdict = top.delta(data.u, data.b, data.a)
            if verdict is Verdict.DROP:
                self.counters.duplicates += 1
            if verdict is Verdict.GAP and known:
                stream.lose("sequence")
                self._unsubscribe([stream], now, out)
                stream.acked = 0
                self._subscribe([stream], now, out)
            if verdict is not Verdict.APPLY:
                return
        self._quote(stream, data.u, *top.bid, *top.ask, ts, now, out)

    def _on_trades(self, message: TradeFrame, stream: Stream | None, now: int, out: Output) -> None:
        if stream is None:
            self.counters.skipped += len(message.data)
            return
        for row in message.data:
            if row.s != stream.symbol:
                raise ValueError(f"topic {message.topic} brings symbol {row.s[:40]!r}")
            if row.BT and not self._block_trades:
                self._hear(stream, row.T * _MS, now, out)
                self.counters.skipped += 1
                continue
            price, quantity = positive(row.p), positive(row.v)
            if not price or not row.i:
                raise ValueError("a trade without price or id")
            side = _SIDES.get(row.S, "unknown")
            seq = int(row.i) if row.i.isascii() and row.i.isdigit() and len(row.i) < 20 else None
            flags = inexact_flag(row.p, row.v)
            self._trade(stream, seq, row.i, price, quantity, side, row.T * _MS, now, out, flags)

    def _on_candles(self, message: CandleFrame, stream: Stream | None, now: int, out: Output) -> None:
        if stream is None:
            self.counters.skipped += len(message.data)
            return
        interval = self._interval_of(stream)
        for row in message.data:
            if row.interval != INTERVALS[interval]:
                raise ValueError(f"topic {message.topic} brings interval {row.interval[:10]!r}")
            open_time = row.start * _MS
            candle = Candle(
                open_time=open_time,
                close_time=interval_end(open_time, interval),
                ts_event=message.ts * _MS,
                ts_recv=now,
                venue=self.venue,
                symbol=stream.symbol,
                interval=interval,
                source="exchange",
                state="final" if row.confirm else "provisional",
                open=positive(row.open),
                high=positive(row.high),
                low=positive(row.low),
                close=positive(row.close),
                volume=positive(row.volume),
                quote_volume=positive(row.turnover),
                trades=-1,  # the exchange counts neither trades nor takers' volume
                taker_buy_volume=nan,
                taker_buy_quote_volume=nan,
                flags=inexact_flag(row.open, row.high, row.low, row.close, row.volume, row.turnover),
            )
            self._candle(stream, candle, now, out)

    # Replies

    def _on_reply(self, frame: str | bytes, now: int, out: Output) -> None:
        """Take an answer: ``success`` and ``ret_msg``; spot says ``subscribe`` there, linear nothing [R]."""
        value = msgspec.json.decode(frame)
        if not isinstance(value, dict) or not ("op" in value or "success" in value):
            if isinstance(value, dict) and value:
                self._unknown_event(str(next(iter(value))), now, out)
                return
            raise ValueError("neither a topic nor an answer")
        reply = msgspec.convert(value, Reply, strict=False)
        self._unknown_fields("reply", [k for k in value if k not in (*Reply.__struct_fields__, "args")], now, out)
        if reply.op in ("ping", "pong") or reply.ret_msg == "pong":
            if not reply.success:
                self._error(f"ping: {reply.ret_msg}"[:200], now, out)
            return
        if reply.op not in ("", "subscribe", "unsubscribe"):
            self._unknown_event(f"op {reply.op}", now, out)
            return
        method, names = self._answered(reply)
        if method != "subscribe":
            if not reply.success:
                self._error(f"{reply.op or 'request'}: {reply.ret_msg}"[:200], now, out)
        elif reply.success:
            for name in names:
                self._acked(name, now, out)
        else:
            self._refusal(names, reply.ret_msg, now, out)

    def _answered(self, reply: Reply) -> tuple[str, tuple[str, ...]]:
        """Return the request that an answer is for: by its id, else the oldest of that kind."""
        id_ = reply.req_id
        if not id_ and reply.op:
            id_ = next((i for i, (method, _) in self._requests.items() if method == reply.op), "")
        return self._requests.pop(id_, (reply.op, ()))

    def _refusal(self, names: tuple[str, ...], why: str, now: int, out: Output) -> None:
        match = _TOPIC.search(why)
        topic = match[1] if match else ""
        if "already subscribed" in why and topic in self._streams:
            self._acked(topic, now, out)
        else:
            self._error(why[:200], now, out)
            if topic not in names:
                if topic in self._streams and not names:
                    self._rejected(topic, why, now, out)
                else:
                    self._refused(names, why, now, out)
                return
            self._rejected(topic, why, now, out)
        rest = [self._streams[name] for name in names if name != topic and name in self._streams]
        rest = [s for s in rest if not s.acked and not s.rejected]
        for stream in rest:
            stream.attempts = 0
        self._subscribe(rest, now, out)
