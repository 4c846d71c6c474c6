"""One OKX connection without I/O: frames in, records and actions out.

Theory of operation. A data frame is ``{"arg": {"channel", "instId"}, "data": [...]}``; the channel is found by
a text search and chooses the decoder. A frame without ``data`` is a reply or a notice. Channels are served by
two paths: ``/ws/v5/public`` (books, trades, quotes) and ``/ws/v5/business`` (candles, single fills); a feed does
not care which it is, it has the streams that it was given.

Books come as a snapshot and a chain of updates in the stream (``sync``); a lost book subscribes again. Rules and
evidence: docs/exchanges/okx.md.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from cmd_common.errors import UsageError
from cmd_common.exchange import Endpoints
from cmd_common.feed import Output, Reconnect, Send, Subscription
from cmd_common.feed_base import FeedBase, Wire, inexact_flag
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.handover import Position
from cmd_common.instruments import Instrument
from cmd_common.records import TS_FROM_RECV, Trade
from cmd_common.sequence import BookState, SequenceRule

from . import _messages as wire
from ._checksums import Checksums
from ._positions import confirms, position
from .instruments import BARS, VENUE
from .rest import candle
from .sync import RULE

__all__ = ["BUSINESS", "PUBLIC", "OkxFeed", "channel_of"]

_SECOND: Final = 1_000_000_000
_EXACT: Final = 1e7  # below it, a decimal of at most 8 places has at most 15 digits
PUBLIC: Final = "/ws/v5/public"
BUSINESS: Final = "/ws/v5/business"
_FRAME_BYTES: Final = 60_000  # of at most 64 KB a frame
_FRAME_ARGS: Final = 200
_PING_AFTER: Final = 20 * _SECOND  # of silence; the exchange closes after 30 s
_PING_AGAIN: Final = 5 * _SECOND
_HOUR: Final = 3600 * _SECOND
_REQUESTS: Final = 460  # of 480 subscriptions and the like in an hour a connection
_INTERVAL_OF: Final = {f"candle{bar}": interval for interval, bar in BARS.items()}
_TYPE_OF: Final = {
    "books": "book",
    "books-l2-tbt": "book",
    "books50-l2-tbt": "book",
    "trades": "trades",
    "trades-all": "trades",
    "bbo-tbt": "quotes",
    "tickers": "quotes",
}  # channels that carry the same; books5 does not, it is not a book but its top
_NAMED: Final = re.compile(r"channel:\s*([\w.-]{1,40})\s*,(?:\s*\w{1,20}:[^,]{0,60},)*?\s*instId:\s*([^\s,\"}]{1,80})")
_PASSING: Final = frozenset(("50001", "50004", "50011", "50013", "50026", "60014", "60023", "63999", "64000"))
_INTERLEAVED: Final = 1000  # ids behind the newest at which a message may be spanned by another one
_UPGRADE: Final = "64008"  # notice: this connection will be closed soon


def channel_of(type_: str, interval: str = "", *, depth: int | None = None, options: Mapping[str, str] = {}) -> str:
    """The channel that carries a type of ``FEED_TYPES``; raises UsageError for an option that is not known.

    Options: ``trades`` is ``merged`` (channel ``trades``) or ``all`` (``trades-all``), ``quotes`` is ``bbo``
    (``bbo-tbt``) or ``tickers``.
    """
    if type_ == "trades":
        return _choice("trades", options, {"merged": "trades", "all": "trades-all"})
    if type_ == "quotes":
        return _choice("quotes", options, {"bbo": "bbo-tbt", "tickers": "tickers"})
    if type_ == "candles":
        return f"candle{BARS[interval]}"
    return "books" if depth is None else "books5"


def _choice(name: str, options: Mapping[str, str], channels: dict[str, str]) -> str:
    text = options.get(name, "") or next(iter(channels))
    if text not in channels:
        raise UsageError(f"{VENUE}: option {name} is {text!r}", hint=f"one of {', '.join(channels)}")
    return channels[text]


class OkxFeed(FeedBase):
    """One connection; see ``cmd_common.feed.Feed`` and, for the options, ``channel_of``."""

    native_format = "okx"
    sequenced = True
    contiguous_trades = True
    book_levels = 400
    max_frame = 16 * 1024 * 1024
    quiet_limit = 30 * _SECOND  # a ping is answered, so that silence says that the connection is dead
    handover = True

    def __init__(
        self,
        name: str,
        url: str,
        subscription: Subscription,
        types: Sequence[str],
        symbols: Sequence[str],
        instruments: Mapping[str, Instrument],
        endpoints: Endpoints,
        *,
        most_streams: int,
    ) -> None:
        self.most_streams = most_streams
        self._pinged = 0
        self._requests: deque[int] = deque()  # times of subscription frames on this connection
        self._checksums = Checksums()
        self._direct: set[str] = set()  # streams whose own channel was heard
        super().__init__(VENUE, name, url, subscription, types, symbols, instruments, endpoints)
        books, trades, tickers = Wire(wire.BookFrame), Wire(wire.TradeFrame), Wire(wire.TickerFrame)
        candles = Wire(wire.CandleFrame)
        self._book_wire = books
        self._wires: dict[str, tuple[Wire[Any], Any]] = {
            "books": (books, self._on_books),
            "books-l2-tbt": (books, self._on_books),
            "books50-l2-tbt": (books, self._on_books),
            "books5": (books, self._on_partial),
            "bbo-tbt": (books, self._on_bbo),
            "trades": (trades, self._on_trades),
            "trades-all": (trades, self._on_trades),
            "tickers": (tickers, self._on_tickers),
            **dict.fromkeys(_INTERVAL_OF, (candles, self._on_candles)),
        }

    # Streams

    def _streams_of(self, symbol: str, instrument: Instrument) -> list[Stream]:
        streams = []
        for type_ in self._types:
            for interval in self._subscription.intervals if type_ == "candles" else ("",):
                channel = channel_of(type_, interval, depth=self._depth, options=self._options)
                streams.append(self._stream(f"{channel}:{symbol}", symbol, type_))
        return streams

    def _interval_of(self, stream: Stream) -> str:
        return _INTERVAL_OF[stream.name.partition(":")[0]]

    def _rule(self) -> SequenceRule:
        return RULE

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        frames: list[tuple[str, tuple[str, ...]]] = []
        args: list[str] = []
        names: list[str] = []
        size = 0

        def flush() -> None:
            if args:
                frames.append((f'{{"op":"{method}","args":[{",".join(args)}]}}', tuple(names)))
                args.clear()
                names.clear()

        for stream in streams:
            channel, _, symbol = stream.name.partition(":")
            arg = msgspec.json.encode({"channel": channel, "instId": symbol}).decode()
            length = len(arg.encode()) + 1
            if args and (size + length > _FRAME_BYTES or len(args) >= _FRAME_ARGS):
                flush()
                size = 0
            args.append(arg)
            names.append(stream.name)
            size += length
        flush()
        self._requests.extend([max(self._last_frame, self._ticked)] * len(frames))
        return frames

    # Time

    def _on_connected(self, now: int, out: Output) -> None:
        self._pinged = 0
        self._requests.clear()

    def _on_tick(self, now: int, out: Output) -> None:
        if now - self._last_frame >= _PING_AFTER and now - self._pinged >= _PING_AGAIN:
            self._pinged = now
            out.actions.append(Send("ping"))
        requests = self._requests
        while requests and requests[0] <= now - _HOUR:
            requests.popleft()
        if len(requests) >= _REQUESTS and not self._reconnecting:
            # A new connection has an allowance of its own; on this one the exchange would refuse the next ones.
            self._reconnect(f"{len(requests)} subscriptions in an hour", out)

    # Frames

    def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
        text = frame if isinstance(frame, str) else frame.decode()
        if '"data":' not in text:
            self._control(text, now, out)
            return
        channel = _between(text, '"channel":"')
        known = self._wires.get(channel)
        if known is None:
            outer = msgspec.json.decode(frame)  # raises for damage
            self._unknown_event(channel or _kind_of(outer), now, out)
            return
        decoder, handler = known
        stream = self._find(channel, _between(text, '"instId":"'))
        if stream is None:
            self._decode(decoder, channel, frame, now, out)  # damage is told before anything else
            self.counters.skipped += 1
            return
        try:
            message = self._decode(decoder, channel, frame, now, out)
            if message.arg.instId != stream.symbol:
                raise ValueError("the frame names two instruments")
            handler(stream, message, text, now, out)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as error:
            why = " ".join(f"{channel}: {error}".split())[:200]
            # Nothing was heard of this stream yet: then only the frame's time bounds what was lost.
            self._malformed(text, why, now, out, stream if stream.ts else None)

    def _find(self, channel: str, symbol: str) -> Stream | None:
        """Return the stream that a channel feeds: its own, or the one of the same type as long as that is silent.

        So recordings of another channel of the same type (``tickers`` for ``bbo-tbt``) read the same.
        """
        name = f"{channel}:{symbol}"
        stream = self._streams.get(name)
        if stream is not None:
            self._direct.add(name)
            return stream
        st = self._symbols.get(symbol) if self._depth is None or _TYPE_OF.get(channel) != "book" else None
        type_, interval = _TYPE_OF.get(channel, ""), _INTERVAL_OF.get(channel, "")
        stream = st.stream_of("candles" if interval else type_, interval) if st is not None else None
        # A book channel cannot disturb another one: its messages chain, or the book is lost.
        return None if stream is None or (stream.name in self._direct and type_ != "book") else stream

    def _control(self, text: str, now: int, out: Output) -> None:
        """Take a reply, a notice or a heartbeat."""
        if text == "pong":
            return
        if text == "ping":
            out.actions.append(Send("pong"))
            return
        reply = msgspec.json.decode(text)
        if not isinstance(reply, dict):
            raise ValueError(f"a frame that is {type(reply).__name__}")
        event, code, words = reply.get("event"), str(reply.get("code", "")), str(reply.get("msg", ""))[:300]
        arg = reply.get("arg")
        name = f"{arg.get('channel')}:{arg.get('instId')}" if isinstance(arg, dict) else ""
        if event == "subscribe":
            self._acked(name, now, out)
        elif event == "unsubscribe":
            return
        elif event == "error":
            self._error(f"{code}: {words}", now, out)
            self._refuse(name, code, words, now, out)
        elif event == "notice":
            self._status(out, now, "notice", f"{code}: {words}")
            if code == _UPGRADE and not self._reconnecting:
                out.actions.append(Reconnect("the exchange closes this connection for an upgrade", planned=True))
        else:
            self._unknown_event(str(event) if event is not None else _kind_of(reply), now, out)

    def _refuse(self, name: str, code: str, words: str, now: int, out: Output) -> None:
        """Find the streams that an error is about: it names one in words, or it is about the oldest request.

        What is not named and gets no confirmation is asked for again by ``FeedControl``.
        """
        if not name and (found := _NAMED.search(words)):
            name = f"{found[1]}:{found[2]}"
        if name not in self._streams:
            waiting = self._waiting_streams()
            if len(waiting) != 1:
                return
            name = waiting[0].name
        self._rejected(name, f"{code}: {words}", now, out, retry=code in _PASSING)

    def confirms(self, frame: str | bytes) -> bool:
        """Whether a frame says that a channel of ``resubscribe`` was accepted."""
        return confirms(frame)

    def position(self, frame: str | bytes) -> Position | None:
        """Where a data frame stands in its stream; None for any other frame. Never raises."""
        return position(frame)

    # Messages

    def _on_books(self, s: Stream, message: wire.BookFrame, text: str, now: int, out: Output) -> None:
        st = self._symbols[s.symbol]
        if self._path is not None:
            self._path.lenient = not self._book_wire.strict
        for d in message.data:
            bids, asks = wire.pairs(d.bids), wire.pairs(d.asks)
            ts = wire.to_ns(d.ts)
            if message.action == "snapshot":
                if d.checksum and self._path is not None:
                    self._path.remove(s.symbol)  # the texts of its levels are followed in Python
                verify = self._checksums.snapshot(s.symbol, d.checksum, text)
                if verify is None:
                    self._natively(st)
                self._stream_book(st, d.seqId, bids, asks, ts, now, out, verify=verify)
                continue
            if message.action != "update":
                raise ValueError(f"a book message with action {message.action!r}")
            if d.seqId is None or d.prevSeqId is None:
                # Traffic of 2022: no ids, so messages are counted here and only the checksum shows a loss.
                self._own_delta(st, bids, asks, ts, now, out, self._checksums.update(s.symbol, d.checksum, text))
                continue
            if d.seqId == d.prevSeqId and not bids and not asks and self._is_at(st, d.seqId):
                self._hear(s, ts, now, out)  # a keepalive says that nothing happened
                self.counters.skipped += 1
                continue
            if d.seqId < d.prevSeqId and self._is_at(st, d.prevSeqId):
                self._on_reset(st, d.seqId, d.prevSeqId, bids, asks, ts, now, out)
                continue
            verify = self._checksums.update(s.symbol, d.checksum, text)
            # The message covers what lies between its ids; a reset has none.
            first = d.prevSeqId + 1 if d.prevSeqId < d.seqId else d.seqId
            self._delta(st, first, d.seqId, d.prevSeqId, bids, asks, ts, now, out, verify)

    @staticmethod
    def _is_at(st: SymbolState, seq: int) -> bool:
        builder = st.builder
        return builder is not None and builder.state is BookState.LIVE and builder.last_id == seq

    def _on_reset(
        self,
        st: SymbolState,
        seq: int,
        previous: int,
        bids: list[tuple[float, float]],
        asks: list[tuple[float, float]],
        ts: int,
        now: int,
        out: Output,
    ) -> None:
        """The exchange began its ids anew and the chain holds: the book goes on, as a new epoch.

        Within an epoch ids only rise, so the message is not written as a delta but as the book behind it.
        """
        builder = st.builder
        assert builder is not None
        builder.delta(seq, seq, previous, bids, asks, ts)
        self._status(out, now, "id_restart", f"sequence ids went from {previous} to {seq}", st.symbol, "book")
        if builder.state is not BookState.LIVE:
            self._book_lost(st, builder.gap_reason, now, out)
            self._ask(st, now, out)
            return
        book = builder.book
        self._stream_book(st, seq, book.bids(), book.asks(), ts, now, out, continues=True)

    def _on_partial(self, s: Stream, message: wire.BookFrame, text: str, now: int, out: Output) -> None:
        st = self._symbols[s.symbol]
        for d in message.data:
            # Traffic of 2022 has no ids; then the time (ms) stands for it.
            seq = d.ts if d.seqId is None else d.seqId
            ts = wire.to_ns(d.ts)
            if st.builder is not None and seq < st.builder.book.last_id and ts > st.builder.book.ts_event:
                st.builder.book.last_id = seq - 1  # ids began anew; a later whole book needs none before it
            self._partial(st, seq, wire.pairs(d.bids), wire.pairs(d.asks), ts, now, out)

    def _on_bbo(self, s: Stream, message: wire.BookFrame, text: str, now: int, out: Output) -> None:
        for d in message.data:
            bid = d.bids[0] if d.bids else None
            ask = d.asks[0] if d.asks else None
            b, bq = (bid.price, bid.quantity) if bid is not None else (0.0, 0.0)
            a, aq = (ask.price, ask.quantity) if ask is not None else (0.0, 0.0)
            flags = 0 if _plain(b, bq, a, aq) else _inexact_levels(text)
            self._quote(s, d.seqId, b, bq, a, aq, wire.to_ns(d.ts), now, out, flags)

    def _on_tickers(self, s: Stream, message: wire.TickerFrame, text: str, now: int, out: Output) -> None:
        for d in message.data:
            texts = (d.bidPx, d.bidSz, d.askPx, d.askSz)
            b, bq, a, aq = map(wire.number, texts)
            self._quote(s, None, b, bq, a, aq, wire.to_ns(d.ts), now, out, inexact_flag(*texts))

    def _on_trades(self, s: Stream, message: wire.TradeFrame, text: str, now: int, out: Output) -> None:
        st = self._symbols[s.symbol]
        ids = st.trade_ids
        for d in message.data:
            id_ = d.tradeId
            flags = 0 if _plain(d.px, d.sz) else _inexact_trade(text, id_)
            ts = wire.to_ns(d.ts)
            first = id_ - d.count + 1
            if st.recent.add(str(id_)) and ids.last - _INTERLEAVED < first <= ids.last and not ids.misses(first):
                # Fills of one order are merged by price and source, so the ids of two messages may interleave: a
                # message whose own id is new is no repeat although another one spans it.
                self._hear(s, ts, now, out)
                if id_ > ids.last:  # it goes on from the middle of the one before
                    ids.last, ids.ts = id_, ts
                out.records.append(Trade(ts, now, self.venue, s.symbol, str(id_), id_, d.px, d.sz, d.side, flags))
                continue
            self._trade(s, id_, str(id_), d.px, d.sz, d.side, ts, now, out, flags, covers=d.count)

    def _on_candles(self, s: Stream, message: wire.CandleFrame, text: str, now: int, out: Output) -> None:
        interval = self._interval_of(s)
        spot = self._instruments[s.symbol].kind == "spot"
        for row in message.data:
            if row.more is not msgspec.UNSET:
                self._unknown_fields("candle", ["9"], now, out)
            final = row.confirm == "1"
            # The message has no time of its own; a closed candle has the time at which it closed.
            record = candle(row, s.symbol, interval, spot=spot, ts_event=now, now=now, final=final, flags=0)
            ts, flags = (record.close_time, 0) if final else (now, TS_FROM_RECV)
            record = msgspec.structs.replace(record, ts_event=ts, flags=record.flags | flags)
            self._candle(s, record, now, out)


def _between(text: str, before: str) -> str:
    """The text behind the first ``before`` up to the next quote; empty where there is none."""
    at = text.find(before)
    if at < 0:
        return ""
    start = at + len(before)
    return text[start : text.find('"', start)]


def _kind_of(value: Any) -> str:
    return ", ".join(map(str, list(value)[:4])) if isinstance(value, dict) else type(value).__name__


def _plain(*values: float) -> bool:
    """Whether the numbers are certainly exact: short enough that no digit can be lost."""
    return all(v < _EXACT and int(v * 1e8 + 0.5) / 1e8 == v for v in values)


def _inexact_levels(text: str) -> int:
    """Return INEXACT if a best level has more digits than float64 keeps. Slow, and rarely called."""
    data = msgspec.json.decode(text)["data"]
    return inexact_flag(
        *(str(x) for d in data for side in ("bids", "asks") for level in d[side][:1] for x in level[:2])
    )


def _inexact_trade(text: str, trade_id: int) -> int:
    rows = [r for r in msgspec.json.decode(text)["data"] if int(r["tradeId"]) == trade_id]
    return inexact_flag(*(str(r[k]) for r in rows for k in ("px", "sz")))
