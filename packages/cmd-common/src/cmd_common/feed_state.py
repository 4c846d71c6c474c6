"""What a feed remembers of each symbol and stream: subscription, last message, ids, open intervals."""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec.structs import replace

from .builder import OrderBookBuilder
from .continuity import IdTracker
from .records import Candle, Gap
from .silence import SilenceWatch

__all__ = ["Candles", "Recent", "Stream", "SymbolState"]

_CANDLE_GAPS: Final = 32  # gaps of a symbol whose intervals are remembered
_SILENT_AFTER: Final = 30_000_000_000  # ns of quiet before the busiest stream is missed
_RECENT: Final = 4096  # trade ids of a symbol that are remembered where ids do not rise by one


class Stream:
    """One subscribed stream. ``heard`` and ``ts`` are set by every good message."""

    __slots__ = (
        "acked",
        "alive",
        "asked",
        "attempts",
        "heard",
        "lost",
        "missed",
        "name",
        "rejected",
        "retry_at",
        "silent",
        "symbol",
        "table",
        "ts",
        "type",
        "watch",
    )

    def __init__(self, name: str, symbol: str, type_: str, table: str) -> None:
        self.name = name  # as the exchange writes it: btcusdt@trade; unique on its connection
        self.symbol = symbol
        self.type = type_  # of FEED_TYPES
        self.table = table  # where its gaps belong
        self.asked = 0  # ns, when a subscription was sent that has no answer yet
        self.attempts = 0  # subscriptions sent since the connection was opened
        self.retry_at = 0  # ns, when to subscribe again after a refusal; 0: no retry waits
        self.rejected = ""  # why the exchange does not give this stream
        self.acked = 0  # ns, when the subscription was confirmed; 0: not yet
        self.heard = 0  # ns, receive time of the last message since then; 0: none
        self.ts = 0  # event time of the last message of all, over reconnects too
        self.lost: tuple[int, str] | None = None  # since when and why messages may be missing
        self.silent = False
        self.alive = 0  # ns, receive time of the last heartbeat that names it; 0: none
        self.watch = SilenceWatch(_SILENT_AFTER)  # over a stream that has spoken
        self.missed: tuple[int, int] | None = None  # event times of the silence that it was reported for

    def begin(self, silence: int) -> None:
        """A connection begins; ``silence`` ns without a message are too many for a stream that never spoke on it."""
        self.acked = self.heard = self.asked = self.attempts = self.retry_at = self.alive = 0
        self.rejected = ""
        self.silent = False
        self.watch.restart()
        self.watch.least = min(silence, _SILENT_AFTER)

    def lose(self, reason: str) -> None:
        """Messages may be missing from the last good one on; the first reason stays."""
        if self.lost is None and self.ts:
            self.lost = (self.ts, reason)


class Recent:
    """The last trade ids of a symbol, where they do not rise by one: bounded, the oldest is forgotten."""

    __slots__ = ("_known", "_order")

    def __init__(self, limit: int = _RECENT) -> None:
        self._order: deque[str] = deque(maxlen=limit)
        self._known: set[str] = set()

    def add(self, id_: str) -> bool:
        """Remember an id; False if it is known already."""
        known, order = self._known, self._order
        if id_ in known:
            return False
        if len(order) == order.maxlen:
            known.discard(order[0])
        order.append(id_)
        known.add(id_)
        return True


class Candles:
    """The candles of one interval: which one is open, and which one must come next."""

    __slots__ = ("expected", "moved", "shaped", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.expected = 0  # open time of the candle that is not final yet; 0: none seen
        self.moved = False  # another connection has taken over, which may repeat what the first one brought
        self.shaped = (0, 0)  # open and event time of the last provisional one

    def repeats(self, candle: Candle) -> bool:
        """Whether a provisional candle was brought by the connection before this one; remembers it if not."""
        if candle.state == "final":
            return False
        at = (candle.open_time, candle.ts_event)
        if self.moved and at <= self.shaped:
            return True
        self.moved = False
        self.shaped = at
        return False

    def judge(self, candle: Candle) -> tuple[bool, Gap | None]:
        """Whether to keep the candle, and the gap if candles before it never became final.

        A candle repeats its whole interval so far, so only a missing final one is a loss. It may be
        that the exchange sends nothing for an interval without a trade: the gap is ``suspect``.
        """
        expected = self.expected
        opened = candle.open_time
        if opened < expected:
            return False, None  # its final form was seen
        gap = None
        if expected and opened > expected:
            gap = Gap(
                expected, opened, candle.venue, candle.symbol, "candles", "candle", "suspect", detail=candle.interval
            )
        self.expected = candle.close_time if candle.state == "final" else opened
        return True, gap


class SymbolState:
    """All streams of one symbol on one connection, and its book."""

    __slots__ = (
        "agg_ids",
        "agg_trades",
        "asked_at",
        "attempts",
        "audited_at",
        "awaiting",
        "book_gap",
        "book_state",
        "bucket_end",
        "builder",
        "candle_gaps",
        "candles",
        "churn",
        "depth",
        "pending",
        "pending_ts",
        "quote",
        "quote_id",
        "quotes",
        "recent",
        "retry_at",
        "symbol",
        "trade_ids",
        "trades",
        "waiting_from",
        "waiting_since",
    )

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.audited_at = (0, 0)  # our time and the exchange's when the book was last as a fresh copy, or became LIVE
        self.trades: Stream | None = None
        self.trade_ids = IdTracker()
        self.recent = Recent()
        self.agg_trades: Stream | None = None
        self.agg_ids = IdTracker()
        self.quotes: Stream | None = None
        self.quote_id = -1
        self.quote: tuple[float, float, float, float] | None = None  # the last one
        self.candles: dict[str, Candles] = {}
        self.candle_gaps: dict[tuple[int, int], str] = {}  # intervals of the last gaps, by their times
        self.depth: Stream | None = None  # full or partial depth
        self.builder: OrderBookBuilder | None = None
        self.book_state = "EMPTY"  # as last reported
        self.book_gap: tuple[int, int, str] | None = None  # event time and id of the last good update, and why
        self.pending: tuple[int, int, int, bytes, bytes] | None = None  # snapshot to be written with the next delta
        self.pending_ts: int | None = None  # its own time, where the exchange gives one
        self.bucket_end = 0  # event time from which the next periodic snapshot is due
        self.awaiting = False  # a snapshot request is under way
        self.attempts = 0  # snapshots refused or failed in a row
        self.retry_at = 0  # ns; 0: no retry waits
        self.waiting_since = 0  # event time of the first delta that had no book yet
        self.waiting_from = 0  # our time of it
        self.asked_at = 0  # ns; when the last snapshot was asked for
        self.churn = 0  # resyncs that followed the one before within a minute

    def candle_gap(self, gap: Gap) -> Gap:
        """Name every interval that misses the same time: such gaps have one key, and the last row stays."""
        key = (gap.ts_from, gap.ts_to)
        names = self.candle_gaps.pop(key, "")
        if len(self.candle_gaps) >= _CANDLE_GAPS:
            del self.candle_gaps[next(iter(self.candle_gaps))]
        detail = self.candle_gaps[key] = f"{names}, {gap.detail}" if names else gap.detail
        return replace(gap, detail=detail)

    def stream_of(self, type_: str, interval: str = "") -> Stream | None:
        """Return the stream of a type of ``FEED_TYPES``; None where it is not subscribed."""
        if type_ == "candles":
            candles = self.candles.get(interval)
            return candles.stream if candles is not None else None
        return {"trades": self.trades, "agg_trades": self.agg_trades, "quotes": self.quotes, "book": self.depth}.get(
            type_
        )

    @property
    def streams(self) -> list[Stream]:
        """All streams of the symbol."""
        single = (self.trades, self.agg_trades, self.quotes, self.depth)
        return [s for s in single if s is not None] + [c.stream for c in self.candles.values()]
