"""One connection of Coinbase Exchange without I/O: frames in, records and actions out.

Theory of operation. Trades come from ``matches`` and are followed by id; ``heartbeat`` names the newest id each
second, so that a loss shows in quiet times, too. Books come from ``level2_batch`` (with a key: ``level2``), which
begins with a snapshot and has no sequence. Nothing in it shows a lost message, so the book is guarded: it must
not be crossed, its best prices must meet those of ``ticker``, and at times it is asked for anew.
Quotes are the best prices of ``ticker``, which come with matches; option ``quotes_from=book`` derives them instead.

Channels are not ordered against each other. docs/exchanges/coinbase.md#exchange-book.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from cmd_common.errors import UsageError
from cmd_common.exchange import Endpoints
from cmd_common.feed import Output, Send, Subscription
from cmd_common.feed_base import inexact_flag
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.instruments import Instrument
from cmd_common.orderbook import Level
from cmd_common.records import SNAPSHOT, TS_FROM_RECV, BookDelta, BookSnapshot, Gap, Quote
from cmd_common.sequence import BookState

from . import _messages as wire
from ._auth import Credentials, signed_fields
from ._feed import CoinbaseFeed, field, find, text_of
from ._times import parse_iso
from .instruments import Market
from .rest import taker
from .sync import TickerGuard

if TYPE_CHECKING:
    from cmd_native._native import Taken

__all__ = ["ExchangeFeed"]

_SECOND: Final = 1_000_000_000
_TYPE: Final = field("type")
_HEARTBEAT_PATIENCE: Final = 5 * _SECOND  # channels are not ordered: so long may a match come behind its heartbeat
_OLD_TICKER: Final = _SECOND  # before the snapshot; its time may be our own clock's
_CHANNELS: Final = {"matches": "matches", "ticker": "ticker", "level2": "book"}


class ExchangeFeed(CoinbaseFeed):
    """One connection of Coinbase Exchange; see ``cmd_common.feed.Feed``.

    Options: ``guard`` (seconds for which the ticker may disagree with the book, 10; 0: not compared), ``refresh``
    (seconds between two fresh snapshots of a book, 3600; 0: never), ``quotes_from`` (``ticker`` or ``book``), ``status``
    (``on``: the status channel), and those of all venues.
    """

    native_format = "coinbase"
    sequenced = False  # nothing shows that a book message is missing

    def __init__(
        self,
        market: Market,
        name: str,
        url: str,
        subscription: Subscription,
        types: Sequence[str],
        symbols: Sequence[str],
        instruments: Mapping[str, Instrument],
        endpoints: Endpoints,
        credentials: Credentials | None = None,
    ) -> None:
        options = subscription.options
        source = options.get("quotes_from", "ticker")
        if source not in ("ticker", "book"):
            raise UsageError(f"{market.venue}: option quotes_from is {source!r}", hint="ticker or book")
        self.derive_quotes = source == "book"
        self._credentials = credentials
        self._book_channel = "level2" if credentials is not None else "level2_batch"
        self._guards: dict[str, TickerGuard] = {}
        self._loaded: dict[str, int] = {}  # when the last snapshot of a book came
        self._newest: dict[str, int] = {}  # time of the newest change of each book since its snapshot
        self._beats: dict[str, tuple[int, int, int]] = {}  # newest id, its time, when it was told; a match is missing
        self._first_beats: dict[str, int] = {}  # newest id of the first heartbeat of a connection, by symbol
        super().__init__(market, name, url, subscription, types, symbols, instruments, endpoints)
        self._guard = int(self.number_option("guard", 10.0) * _SECOND)
        self._refresh = int(self.number_option("refresh", 3600.0) * _SECOND)
        if self._guard < 0 or self._refresh < 0:
            raise UsageError(f"{market.venue}: options guard and refresh must not be negative", hint="0 turns them off")
        self._wires = wire.exchange_wires()
        self._handlers: dict[str, Any] = {
            "match": self._on_match,
            "last_match": self._on_match,
            "l2update": self._on_l2update,
            "snapshot": self._on_snapshot,
            "ticker": self._on_ticker,
            "heartbeat": self._on_heartbeat,
            "subscriptions": self._on_subscriptions,
            "status": self._on_status,
            "error": self._on_error,
        }

    # Subscriptions

    def _streams_of(self, symbol: str, instrument: Instrument) -> list[Stream]:
        """Streams are named by channel and product."""
        names = {"trades": "matches", "quotes": "ticker", "book": "book"}
        return [self._stream(f"{names[t]}:{symbol}", symbol, t) for t in self._types if t in names]

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        """One frame a type of data, with the channels that watch over it."""
        frames = []
        beating = "matches" if "trades" in self._types else "ticker" if "quotes" in self._types else "book"
        for kind, members in self._chunks(method, streams):
            channels = [self._book_channel if kind == "book" else kind]
            if kind == "book" and self._guard and "quotes" not in self._types:
                channels.append("ticker")
            if kind == beating:
                channels.append("heartbeat")
            message: dict[str, Any] = {
                "type": method,
                "product_ids": [s.symbol for s in members],
                "channels": channels,
            }
            if self._credentials is not None:
                message |= signed_fields(self._credentials, self._now)
            frames.append((text_of(message), tuple(s.name for s in members)))
        return frames

    def _on_connected(self, now: int, out: Output) -> None:
        """Forget what belongs to one connection; ask for the status channel where it is wanted."""
        self._beats.clear()
        self._first_beats.clear()
        self._newest.clear()
        self._states.clear()
        for guard in self._guards.values():
            guard.lost()
        if self._watch_status:
            out.actions.append(Send(text_of({"type": "subscribe", "channels": [{"name": "status"}]})))

    def _on_subscriptions(self, m: wire.Subscriptions, now: int, out: Output) -> None:
        """All that this connection has; names of channels may differ from those that were asked for."""
        for channel in m.channels or ():
            kind = next((kind for prefix, kind in _CHANNELS.items() if channel.name.startswith(prefix)), "")
            if not kind:
                continue
            for product in channel.product_ids or ():
                self._acked(f"{kind}:{product}", now, out)

    def _on_error(self, m: wire.ErrorFrame, now: int, out: Output) -> None:
        self._on_refusal(": ".join(w for w in (m.message, m.reason) if w) or "no words", now, out)

    # Frames

    def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
        """Decode by type and dispatch; damage is attributed where the type and product can be read."""
        kind = find(_TYPE, frame)
        decoder = self._wires.get(kind)
        if decoder is None:
            event = msgspec.json.decode(frame)
            if not isinstance(event, dict) or not isinstance(event.get("type"), str):
                raise ValueError("a message without a type")
            decoder = self._wires.get(kind := event["type"])
            if decoder is None:
                self._unknown_event(kind, now, out)
                return
        try:
            message = self._decode(decoder, kind, frame, now, out)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            st = self._state_in(frame)
            stream = self._stream_for(kind, st) if st is not None else None
            carries = kind in ("match", "last_match", "l2update", "snapshot") or (
                kind == "ticker" and "quotes" in self._types
            )
            if not self._damaged(frame, stream, carries, error, now, out):
                raise
            return
        self._handlers[kind](message, now, out)

    @staticmethod
    def _stream_for(kind: str, st: SymbolState) -> Stream | None:
        if kind in ("match", "last_match"):
            return st.trades
        if kind in ("l2update", "snapshot"):
            return st.depth
        return st.quotes if kind == "ticker" else None

    # Trades

    def _on_match(self, m: wire.Match, now: int, out: Output) -> None:
        """A match; the exchange tells the maker's side."""
        st = self._symbols.get(m.product_id)
        if st is None or st.trades is None:
            self.counters.skipped += 1
            return
        ts = parse_iso(m.time)
        flags = inexact_flag(m.price, m.size)
        if not ts:
            ts, flags = now, flags | TS_FROM_RECV
        id_ = m.trade_id
        self._trade(st.trades, id_, str(id_), float(m.price), float(m.size), taker(m.side), ts, now, out, flags)

    def _on_heartbeat(self, m: wire.Heartbeat, now: int, out: Output) -> None:
        """Once a second: the id of the newest trade. A match that is still missing after some seconds is lost."""
        st = self._symbols.get(m.product_id)
        if st is None or st.trades is None:
            return
        seen = st.trade_ids.last
        newest = seen if seen >= 0 else self._first_beats.setdefault(st.symbol, m.last_trade_id)
        if m.last_trade_id <= newest:
            st.trades.alive = now  # nothing was traded that the stream has not told
        if seen < 0 or m.last_trade_id <= seen:
            self._beats.pop(st.symbol, None)
        elif st.symbol not in self._beats:
            self._beats[st.symbol] = (m.last_trade_id, (parse_iso(m.time) if m.time else 0) or now, now)

    def _look_for_missing_trades(self, now: int, out: Output, patience: int = _HEARTBEAT_PATIENCE) -> None:
        for symbol, (newest, ts, told) in list(self._beats.items()):
            st = self._symbols.get(symbol)
            if st is None or st.trades is None or st.trade_ids.last >= newest:
                del self._beats[symbol]
            elif now - told >= patience:
                del self._beats[symbol]
                hole = st.trade_ids.missed(newest, ts)
                why = f"the heartbeat says that {newest} was traded"
                self._gap(
                    out,
                    Gap(
                        hole.ts_from,
                        hole.ts_to,
                        self.venue,
                        symbol,
                        st.trades.table,
                        "trade_id",
                        "lost",
                        hole.first,
                        hole.last,
                        detail=why,
                    ),
                )

    # Quotes and the guard

    def _on_ticker(self, m: wire.Ticker, now: int, out: Output) -> None:
        """Best prices at a match; ``sequence`` rises by product, its sizes are missing in recordings before 2022."""
        st = self._symbols.get(m.product_id)
        if st is None:
            self.counters.skipped += 1
            return
        bid, ask = float(m.best_bid), float(m.best_ask)
        if st.quotes is not None:
            ts = parse_iso(m.time) if m.time else 0
            flags = inexact_flag(m.best_bid, m.best_bid_size, m.best_ask, m.best_ask_size)
            if not ts:
                ts, flags = now, flags | TS_FROM_RECV
            bid_size, ask_size = float(m.best_bid_size), float(m.best_ask_size)
            self._quote(st.quotes, m.sequence or None, bid, bid_size, ask, ask_size, ts, now, out, flags)
        guard = self._guards.get(st.symbol)
        if guard is None or st.builder is None or st.builder.state is not BookState.LIVE:
            return
        # The one that comes with a subscription is of the last match, which may be older than the book [R].
        if (parse_iso(m.time) if m.time else now) >= st.builder.epoch - _OLD_TICKER:
            guard.ticker(bid, ask, now)

    # Books

    def _on_l2update(self, m: wire.L2Update, now: int, out: Output) -> None:
        """Absolute new sizes; of two changes of one price in a batch the later one counts."""
        path = self._path
        if path is not None:
            path.lenient = not self._wires["l2update"].strict
        st = self._symbols.get(m.product_id)
        if st is None or st.depth is None:
            self.counters.skipped += 1
            return
        bids: dict[float, float] = {}
        asks: dict[float, float] = {}
        for side, price, size in m.changes:
            (bids if side == "buy" else asks)[price] = size
        ts = parse_iso(m.time) if m.time else 0
        if ts:
            if ts < self._newest.get(st.symbol, 0) and st.builder is not None and st.builder.state is BookState.LIVE:
                # Later changes were applied before it, perhaps of the same levels. Recorded times never fall.
                self._hear(st.depth, ts, now, out)
                self._lose_book(st, "order", now, out)
                return
            self._newest[st.symbol] = ts
        elif path is not None:
            path.remove(st.symbol)  # its times are ours from here on, until the next snapshot
        before = len(out.records)
        self._own_delta(st, list(bids.items()), list(asks.items()), ts or now, now, out)
        if not ts:
            _mark(out, before)
        guard = self._guards.get(st.symbol)
        if guard is not None and st.builder is not None:
            self._look_at_top(st, guard)

    def _taken(self, taken: Taken, now: int, out: Output) -> None:
        super()._taken(taken, now, out)
        st: SymbolState = taken[0]
        self._newest[st.symbol] = taken[3]
        guard = self._guards.get(st.symbol)
        if guard is not None:
            self._look_at_top(st, guard)

    def _on_snapshot(self, m: wire.Snapshot, now: int, out: Output) -> None:
        """The whole book."""
        st = self._symbols.get(m.product_id)
        if st is None or st.depth is None or st.builder is None:
            self.counters.skipped += 1
            return
        ts = parse_iso(m.time) if m.time else 0
        flags = SNAPSHOT if ts else SNAPSHOT | TS_FROM_RECV
        self._stream_book(
            st, None, _best_first(m.bids, True), _best_first(m.asks, False), ts or now, now, out, flags=flags
        )
        self._loaded[st.symbol] = now
        self._newest.pop(st.symbol, None)
        self._natively(st)
        if self._guard:
            guard = self._guards.setdefault(st.symbol, TickerGuard(self._guard))
            guard.lost()
            self._look_at_top(st, guard)

    @staticmethod
    def _look_at_top(st: SymbolState, guard: TickerGuard) -> None:
        builder = st.builder
        if builder is None or builder.state is not BookState.LIVE:
            return
        bid, ask = builder.book.best_bid, builder.book.best_ask
        if bid is not None and ask is not None:
            guard.book(bid[0], ask[0])

    def close(self, now: int) -> Output:
        """End of the session: trades that a heartbeat has told of and that have not come are missing."""
        out = Output()
        self._look_for_missing_trades(now, out, 0)
        rest = super().close(now)
        self.counters.records += len(out.records)
        return Output(out.records + rest.records, rest.actions)

    def _on_tick(self, now: int, out: Output) -> None:
        """Trades that heartbeats know of, books that the ticker contradicts, and a fresh snapshot now and then."""
        self._look_for_missing_trades(now, out)
        refreshed = not self._refresh
        for symbol, st in self._symbols.items():
            if st.builder is None or st.builder.state is not BookState.LIVE:
                continue
            guard = self._guards.get(symbol)
            if guard is not None and guard.wrong(now):
                guard.lost(by_ticker=True)
                self._lose_book(st, "ticker", now, out)
            elif not refreshed and now - self._loaded.get(symbol, now) >= self._refresh:
                # The stream ends until its snapshot comes, so that the book is not LIVE meanwhile; one a second.
                refreshed = True
                self._loaded[symbol] = now
                self._lose_book(st, "refresh", now, out)

    def _on_status(self, m: wire.StatusMessage, now: int, out: Output) -> None:
        self._product_status(m.products, now, out)

    def _forget(self, symbol: str) -> None:
        self._guards.pop(symbol, None)
        self._loaded.pop(symbol, None)
        self._newest.pop(symbol, None)
        self._beats.pop(symbol, None)
        self._first_beats.pop(symbol, None)


def _best_first(side: list[Level], descending: bool) -> list[Level]:
    """Order a side; of two rows of one price the later one counts, and empty ones are left out."""
    return sorted(((p, q) for p, q in dict(side).items() if q), reverse=descending)


def _mark(out: Output, start: int) -> None:
    """Flag the book's rows from ``start`` on: the message has no time, so that theirs is the receive time."""
    for index in range(start, len(out.records)):
        record = out.records[index]
        if isinstance(record, BookDelta | BookSnapshot | Quote):
            out.records[index] = replace(record, flags=record.flags | TS_FROM_RECV)
