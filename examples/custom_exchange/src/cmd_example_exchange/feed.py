"""One connection to exampex without I/O: frames in, records and actions out.

> {"op":"subscribe","channels":["book.BTC-USD","trades.BTC-USD"]}
< {"event":"subscribed","channel":"book.BTC-USD"}                     or "refused" with "why"
< {"event":"book","channel":"book.BTC-USD","whole":true,"seq":7,"time":1748907900000,"bids":[["9.5","1"]],"asks":[]}
< {"event":"trades","channel":"trades.BTC-USD","trades":[{"id":7,"price":"9.5","size":"2","taker":"buy","time":...}]}
< {"event":"candle","channel":"candles_1m.BTC-USD","closed":true,"time":...,"open_time":...,"open":"9.5",...}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from cmd_common.feed import Output, Send
from cmd_common.feed_base import FeedBase, Wire
from cmd_common.feed_state import Stream
from cmd_common.instruments import Instrument
from cmd_common.records import Candle
from cmd_common.sequence import SequenceRule

from .rest import CandleRow, TradeRow, make_candle
from .sync import ExampexRule

__all__ = ["ExampexFeed"]

_MS = 1_000_000
_CHANNELS_A_FRAME = 50
_PING_EVERY = 15_000_000_000

Price = Annotated[float, Meta(gt=0, lt=1e18)]
Size = Annotated[float, Meta(ge=0, lt=1e24)]


class BookMessage(Struct, forbid_unknown_fields=True):
    """A whole book, or the levels that changed; size 0 deletes."""

    event: str
    channel: str
    whole: bool
    seq: Annotated[int, Meta(ge=0, lt=1 << 62)]
    time: Annotated[int, Meta(ge=0, lt=9_200_000_000_000)]
    bids: list[tuple[Price, Size]]
    asks: list[tuple[Price, Size]]


class TradesMessage(Struct, forbid_unknown_fields=True):
    """Trades of one moment."""

    event: str
    channel: str
    trades: list[TradeRow]


class CandleMessage(CandleRow, forbid_unknown_fields=True, kw_only=True):
    """A candle as it is now."""

    event: str
    channel: str
    closed: bool
    time: Annotated[int, Meta(ge=0, lt=9_200_000_000_000)]


class Head(Struct):
    """What says what a frame is."""

    event: str
    channel: str = ""
    why: str = ""


class ExampexFeed(FeedBase):
    """See ``cmd_common.feed_base.FeedBase``, which does everything that is alike on all exchanges."""

    derive_quotes = True  # there is no channel of the best bid and offer: it is taken from the book
    max_frame = 16 * 1024 * 1024

    def __init__(self, *args: Any) -> None:
        self._head = msgspec.json.Decoder(Head)
        self._book_wire = Wire(BookMessage)
        self._trades_wire = Wire(TradesMessage)
        self._candle_wire = Wire(CandleMessage)
        self._pinged = 0
        super().__init__(*args)

    # What is subscribed, and how

    def _streams_of(self, symbol: str, instrument: Instrument) -> list[Stream]:
        streams = [self._stream(f"{t}.{symbol}", symbol, t) for t in ("trades", "book") if t in self._types]
        if "candles" in self._types:
            intervals = dict.fromkeys(self._subscription.intervals)
            streams += [self._stream(f"candles_{i}.{symbol}", symbol, "candles") for i in intervals]
        return streams

    def _interval_of(self, stream: Stream) -> str:
        return stream.name.partition(".")[0].removeprefix("candles_")

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        frames = []
        for at in range(0, len(streams), _CHANNELS_A_FRAME):
            names = tuple(s.name for s in streams[at : at + _CHANNELS_A_FRAME])
            frames.append((json.dumps({"op": method, "channels": names}), names))
        return frames

    def _on_tick(self, now: int, out: Output) -> None:
        if not 0 <= now - self._pinged < _PING_EVERY:
            self._pinged = now
            out.actions.append(Send('{"op":"ping"}'))

    def _rule(self) -> SequenceRule:
        return ExampexRule()

    # What comes

    def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
        head = self._head.decode(frame)
        if head.event == "book":
            self._on_book(self._decode(self._book_wire, "book", frame, now, out), now, out)
        elif head.event == "trades":
            self._on_trades(self._decode(self._trades_wire, "trades", frame, now, out), now, out)
        elif head.event == "candle":
            self._on_candle(self._decode(self._candle_wire, "candle", frame, now, out), now, out)
        elif head.event == "subscribed":
            self._acked(head.channel, now, out)
        elif head.event == "refused":
            self._error(f"{head.channel}: {head.why}", now, out)
            self._rejected(head.channel, head.why, now, out)
        elif head.event not in ("pong", "unsubscribed"):
            self._unknown_event(head.event, now, out)

    def _on_book(self, m: BookMessage, now: int, out: Output) -> None:
        stream = self._streams.get(m.channel)
        if stream is None:  # unsubscribed a moment ago
            return
        st = self._symbols[stream.symbol]
        if m.whole:
            self._stream_book(st, m.seq, m.bids, m.asks, m.time * _MS, now, out)
        else:
            self._delta(st, m.seq, m.seq, None, m.bids, m.asks, m.time * _MS, now, out)

    def _on_trades(self, m: TradesMessage, now: int, out: Output) -> None:
        stream = self._streams.get(m.channel)
        for t in m.trades if stream is not None else ():
            assert stream is not None
            self._trade(stream, t.id, str(t.id), t.price, t.size, t.taker, t.time * _MS, now, out)

    def _on_candle(self, m: CandleMessage, now: int, out: Output) -> None:
        stream = self._streams.get(m.channel)
        if stream is None:
            return
        state: Literal["final", "provisional"] = "final" if m.closed else "provisional"
        candle: Candle = make_candle(m, stream.symbol, self._interval_of(stream), state, m.time * _MS, now)
        self._candle(stream, candle, now, out)
