"""What the feeds of both versions of Kraken's API share: streams, books behind a checksum, trades, closed candles.

Rules: docs/exchanges/kraken.md#book, docs/exchanges/kraken.md#trades, docs/exchanges/kraken.md#candles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from cmd_common import _native
from cmd_common.errors import UsageError
from cmd_common.exchange import Endpoints
from cmd_common.feed import Output, Send, Subscription
from cmd_common.feed_base import FeedBase, Verify
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.instruments import Instrument
from cmd_common.orderbook import OrderBook
from cmd_common.records import SNAPSHOT, Candle
from cmd_common.sequence import BookState

from .instruments import VENUE, decimals_of
from .sync import CHECKED, DEPTHS, ChecksumBook, Level, book_depth

if TYPE_CHECKING:
    from cmd_native import ChecksumBook as NativeChecksumBook
    from cmd_native._native import Taken

__all__ = ["CHANNEL_OF", "KrakenFeedBase", "wanted_depth"]

_SECOND: Final = 1_000_000_000
_PING_EVERY: Final = 20 * _SECOND  # a connection without traffic is closed after 60 s

CHANNEL_OF: Final = {"trades": "trade", "quotes": "ticker", "book": "book", "candles": "ohlc"}
"""The exchange's channel of each type."""


def _mismatch(book: OrderBook) -> str:
    return "checksum"


class KrakenFeedBase(FeedBase):
    """What v1 and v2 have in common: streams, books behind a checksum, trades, closed candles.

    Options of the subscription: ``depth`` (instead of ``Subscription.depth``), ``quotes`` (``book``: made of the
    book instead of the ticker), ``trade_ids`` (``rising``: a hole in ids that rise is no loss), and
    those of ``FeedBase``.
    """

    quiet_limit = 45 * _SECOND  # a heartbeat comes every second, and pings are answered
    max_frame = 16 * 1024 * 1024
    numbered = True  # trades have ids

    def __init__(
        self,
        name: str,
        url: str,
        subscription: Subscription,
        types: Sequence[str],
        symbols: Sequence[str],
        instruments: Mapping[str, Instrument],
        endpoints: Endpoints,
    ) -> None:
        self._level_count = wanted_depth(subscription)
        # Beyond the ten checked levels a message that was damaged shows by nothing.
        self.sequenced = self._level_count <= CHECKED
        rising = _word(subscription, "trade_ids", "contiguous", "rising")
        self.contiguous_trades = self.numbered and not rising
        self.derive_quotes = _word(subscription, "quotes", "ticker", "book")
        self._system = "online"  # the exchange's state as it was last told
        self._mirrors: dict[str, ChecksumBook | NativeChecksumBook] = {}
        self._depths: dict[str, int] = {}  # as the exchange confirmed them
        self._places: dict[str, tuple[int, int]] = {}
        self._open: dict[str, Candle] = {}  # by stream: the youngest candle
        self._pinged = 0
        # Every depth is a book with deltas here, not a series of snapshots.
        plain = replace(subscription, depth=None)
        super().__init__(VENUE, name, url, plain, types, symbols, instruments, endpoints)

    # Streams

    def _streams_of(self, symbol: str, instrument: Instrument) -> list[Stream]:
        self._places[symbol] = decimals_of(instrument.tick_size), decimals_of(instrument.lot_size)
        self._mirrors.pop(symbol, None)
        for name in [n for n in self._open if n.split(":")[1] == symbol]:
            del self._open[name]
        streams = []
        for type_ in self._types:
            if type_ == "candles":
                intervals = dict.fromkeys(self._subscription.intervals)
                streams += [self._stream(f"ohlc:{symbol}:{i}", symbol, type_) for i in intervals]
            elif type_ in CHANNEL_OF:
                streams.append(self._stream(f"{CHANNEL_OF[type_]}:{symbol}", symbol, type_))
        return streams

    def _on_connected(self, now: int, out: Output) -> None:
        if self._path is not None:
            for symbol in self._mirrors:
                if st := self._symbols.get(symbol):
                    self._path.checked(self._native_key(st), None)
        self._mirrors.clear()
        self._depths.clear()
        self._pinged = now

    def _on_tick(self, now: int, out: Output) -> None:
        if now - self._pinged >= _PING_EVERY or now < self._pinged:
            self._pinged = now
            out.actions.append(Send(self._ping_frame()))

    def _ping_frame(self) -> str:
        """Return a ping in the words of the API's version."""
        raise NotImplementedError

    def _damaged(self, frame: str | bytes, error: Exception, now: int, out: Output, stream: Stream | None) -> None:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        # A stream that never spoke has no moment from which something could be missing.
        self._malformed(frame, why, now, out, stream if stream is not None and stream.ts else None)

    def _reported(self, system: str, version: str, now: int, out: Output) -> None:
        """The exchange told its state: a change is worth a row."""
        if system != self._system:
            self._system = system
            why = f"the exchange says that its state is {system[:80]} ({version})"
            self._status(out, now, system[:40] or "unknown", why)

    # Records

    def _book(
        self,
        st: SymbolState,
        snapshot: bool,
        bids: Sequence[Level],
        asks: Sequence[Level],
        checksum: int | None,
        ts: int,
        depth: int,
        now: int,
        out: Output,
        flags: int = 0,
    ) -> None:
        """Take a snapshot or an update of a book; ``checksum`` None: the message has none."""
        if snapshot:
            mirror = self._mirrors[st.symbol] = self._mirror(st, depth)
            sides = mirror.load(bids, asks)
            verify: Verify | None = None if checksum in (None, mirror.checksum) else _mismatch
            self._stream_book(st, None, *sides, ts, now, out, complete=True, flags=SNAPSHOT | flags, verify=verify)
        else:
            held = self._mirrors.get(st.symbol)
            if held is None or st.builder is None or st.builder.state is not BookState.LIVE:
                self._own_delta(st, (), (), ts, now, out)  # no book yet, or no more: the snapshot is on its way
                return
            mirror = held
            sides = mirror.apply(bids, asks)
            verify = None if checksum in (None, mirror.checksum) else _mismatch
            self._own_delta(st, *sides, ts, now, out, verify)
        if st.builder is not None and st.builder.state is not BookState.LIVE:
            self._mirrors.pop(st.symbol, None)

    def _mirror(self, st: SymbolState, depth: int) -> ChecksumBook | NativeChecksumBook:
        """Make the book of the checksum; a native decoder and Python share it."""
        if self._path is None:
            return ChecksumBook(depth)
        assert _native.module is not None
        mirror: NativeChecksumBook = _native.module.ChecksumBook(depth)
        self._path.checked(self._native_key(st), mirror)
        return mirror

    def _taken(self, taken: Taken, now: int, out: Output) -> None:
        super()._taken(taken, now, out)
        st: SymbolState = taken[0]
        if taken[4] and st.builder is not None and st.builder.state is not BookState.LIVE:
            self._mirrors.pop(st.symbol, None)

    def _first_trade(self, s: Stream, seq: int | None, trade_id: str, ts: int, now: int) -> None:
        """Take a trade of the first backlog: it only tells where the stream stands."""
        st = self._symbols[s.symbol]
        if self.contiguous_trades and seq is not None:
            st.trade_ids.judge(seq, ts)
        else:
            st.recent.add(trade_id)
        s.heard = now
        s.ts = max(s.ts, ts)
        self.counters.skipped += 1

    def _candle_row(self, s: Stream, candle: Candle, now: int, out: Output) -> None:
        """Take a candle so far: an older one that was open is final now.

        Intervals without a trade have no candle, so that a younger one follows the last one without a loss.
        """
        before = self._open.get(s.name)
        judge = self._symbols[s.symbol].candles[candle.interval]
        if before is not None and candle.open_time < before.open_time:
            self.counters.duplicates += 1
            return
        if before is not None and candle.open_time > before.open_time and s.lost is None:
            self._candle(s, replace(before, state="final", ts_recv=now), now, out)
            judge.expected = candle.open_time
        self._open[s.name] = candle
        self._candle(s, candle, now, out)


def _word(subscription: Subscription, name: str, usual: str, other: str) -> bool:
    """Whether an option of two words has the other one; raises UsageError for a third."""
    word = subscription.options.get(name, usual)
    if word not in (usual, other):
        raise UsageError(f"{VENUE}: option {name} is {word!r}", hint=f"{usual} or {other}")
    return word == other


def wanted_depth(subscription: Subscription) -> int:
    """Return the depth to subscribe, from ``depth`` or the option of that name; raises UsageError."""
    text = subscription.options.get("depth", "")
    if not text:
        return book_depth(subscription.depth)
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise UsageError(f"{VENUE}: option depth is {text!r}", hint=f"one of {', '.join(map(str, DEPTHS))}")
    return book_depth(int(text))
