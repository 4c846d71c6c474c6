"""The base of exchange feeds: one connection without I/O, with everything that is alike on all venues.

A venue's feed derives from ``FeedBase``, says which streams there are and how they are subscribed
(``_streams_of``, ``_frames``), decodes frames (``_on_frame``) and hands what it finds to ``_trade``,
``_quote``, ``_candle``, ``_delta`` or ``_own_delta``, ``_stream_book``, ``_acked``, ``_rejected`` and
``_error``. Losses, repeats, silence, retries, resyncs, gaps and status rows are the base's work;
docs/add-an-exchange.md walks through an example.

Decoding: a ``Wire`` decodes a frame straight into a typed message on the hot path and, when the message has
keys that this version does not know, once more without them, so that they are noticed and do no harm.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, Final, Generic, TypeVar, Union, cast, get_args, get_origin

import msgspec
from msgspec import Struct

from .builder import OrderBookBuilder
from .continuity import IdTracker
from .errors import UnknownNameError, UsageError
from .exchange import Endpoints
from .feed import FEED_TYPES, FeedCounters, Output, Subscription
from .feed_books import BAD_DATA, CountRule, FeedBooks, ParsedBook, Verify
from .feed_state import Candles, Stream, SymbolState
from .instruments import Instrument
from .records import INEXACT, Candle, Gap, Quote, Side, Trade
from .symbols import nearest

__all__ = ["CountRule", "FeedBase", "ParsedBook", "Verify", "Wire", "check_subscription", "inexact", "inexact_flag"]

_SECOND: Final = 1_000_000_000
_LENIENT_AFTER: Final = 100  # messages with unknown keys until they are no longer looked at one by one
_EXACT: Final = 1e7  # below it, a decimal of at most 8 places has at most 15 digits
_TABLES: Final = {"trades": "trades", "agg_trades": "agg_trades", "quotes": "quotes", "candles": "candles"}
_RESTART_AFTER: Final = 60 * _SECOND  # an older id in so much younger a quote: the exchange began its ids anew

M = TypeVar("M", bound=Struct)


def inexact(text: str) -> bool:
    """Whether a decimal has more than 15 significant digits, the most that float64 always keeps."""
    digits = text.lower().partition("e")[0].replace(".", "", 1).lstrip("0-+")
    return len(digits) > 15 and len(digits.rstrip("0")) > 15


def inexact_flag(*texts: str) -> int:
    """Return the flag INEXACT if one of these decimals has more digits than float64 keeps, else 0."""
    return INEXACT if any(len(t) > 15 and inexact(t) for t in texts) else 0


class Wire(Generic[M]):
    """Decodes one kind of message; ``kind`` and the Structs in it have ``forbid_unknown_fields=True``.

    ``decode`` returns the message and the keys that were not known (normally none), as dotted paths. After
    100 messages with unknown keys they are no longer looked for: the exchange has added them for
    good. Raises msgspec.MsgspecError for what is not such a message.
    """

    def __init__(self, kind: type[M]) -> None:
        self.kind = kind
        self._decode: Callable[[str | bytes], M] = msgspec.json.Decoder(kind, strict=False).decode
        self._open: Callable[[str | bytes], M] | None = None  # passes over unknown keys; made when needed
        self._strict = True
        self._seen = 0

    @property
    def strict(self) -> bool:
        """Whether unknown keys are still looked for."""
        return self._strict

    def decode(self, frame: str | bytes) -> tuple[M, list[str]]:
        """Decode a frame."""
        try:
            return self._decode(frame), []
        except msgspec.ValidationError:
            if not self._strict:
                raise
            _, unknown = _lenient(self.kind, msgspec.json.decode(frame), "")
            if not unknown:
                raise
        if self._open is None:
            self._open = cast(
                "Callable[[str | bytes], M]", msgspec.json.Decoder(_open_kind(self.kind), strict=False).decode
            )
        # Decoded from the text once more: what was decoded without types has lost the texts of its numbers.
        message = self._open(frame)
        self._seen += 1
        if self._seen == _LENIENT_AFTER:
            self._strict = False
            self._decode = self._open
        return message, unknown


def _lenient(kind: Any, value: Any, path: str) -> tuple[Any, list[str]]:
    """Leave out of a decoded value the keys that a kind of message does not have; returns them too."""
    unknown: list[str] = []
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        for option in get_args(kind):
            if (isinstance(option, type) and issubclass(option, Struct) and isinstance(value, dict)) or (
                get_origin(option) in (list, tuple) and isinstance(value, list)
            ):
                return _lenient(option, value, path)
        return value, unknown
    if origin in (list, tuple) and isinstance(value, list):
        args = get_args(kind)
        if args:
            items = [_lenient(args[0], item, path) for item in value]
            return [i for i, _ in items], [k for _, keys in items for k in keys]
        return value, unknown
    if isinstance(kind, type) and issubclass(kind, Struct) and isinstance(value, dict):
        fields = {f.encode_name: f.type for f in msgspec.structs.fields(kind)}
        tag = kind.__struct_config__.tag_field
        kept: dict[str, Any] = {}
        for key, item in value.items():
            if key not in fields:
                if key == tag:
                    kept[key] = item
                else:
                    unknown.append(f"{path}{key}")
                continue
            kept[key], more = _lenient(fields[key], item, f"{path}{key}.")
            unknown += more
        return kept, unknown
    return value, unknown


def _open_kind(kind: Any) -> Any:
    """Return the same kind of message that passes over unknown keys without noticing them."""
    origin = get_origin(kind)
    if origin is list:
        return types.GenericAlias(list, (_open_kind(get_args(kind)[0]),))
    if origin in (Union, types.UnionType):
        return reduce(or_, (_open_kind(a) for a in get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, Struct):
        fields: list[Any] = []
        for f in msgspec.structs.fields(kind):
            changed = _open_kind(f.type)
            if changed is not f.type and changed != f.type:
                if f.required:
                    fields.append((f.name, changed))
                elif f.default is not msgspec.NODEFAULT:
                    fields.append((f.name, changed, f.default))
                else:
                    fields.append((f.name, changed, msgspec.field(default_factory=f.default_factory)))
        return msgspec.defstruct(
            kind.__name__, fields, bases=(kind,), forbid_unknown_fields=False, kw_only=bool(fields)
        )
    return kind


def check_subscription(
    venue: str,
    subscription: Subscription,
    instruments: Mapping[str, Instrument],
    *,
    types: Sequence[str],
    intervals: Sequence[str],
    depths: Sequence[int] = (),
    options: Sequence[str] = (),
) -> None:
    """Refuse a subscription that a venue cannot serve, before anything connects.

    Raises UnknownNameError for types and symbols, with the nearest ones, UsageError for everything else.
    ``options`` names the venue's own settings that ``FeedBase`` does not know; settings of other venues are legal.
    """
    for type_ in subscription.types:
        if type_ not in types:
            raise UnknownNameError("type", type_, nearest(type_, types), hint=f"{venue} has {', '.join(types)}")
    if not subscription.types or not subscription.symbols:
        raise UsageError(f"{venue}: nothing to subscribe", hint="give at least one symbol and one type")
    if subscription.snapshot_every <= 0:
        raise UsageError(f"{venue}: snapshot_every must be positive, not {subscription.snapshot_every}")
    if "candles" in subscription.types:
        for interval in subscription.intervals:
            if interval not in intervals:
                raise UsageError(f"{venue} has no candles of {interval!r}", hint=f"one of {', '.join(intervals)}")
    if subscription.depth is not None and subscription.depth not in depths:
        words = ", ".join(str(d) for d in depths)
        hint = f"one of {words}, or none for the full book" if depths else "leave it out for the full book"
        raise UsageError(f"{venue}: partial depth {subscription.depth} does not exist", hint=hint)
    for symbol in subscription.symbols:
        if symbol not in instruments:
            raise UnknownNameError(f"{venue} symbol", symbol, nearest(symbol, instruments))


class FeedBase(FeedBooks):
    """One connection of one venue; see the module's docstring and ``cmd_common.feed.Feed``.

    Class attributes that a venue sets, beside those of ``FeedBooks`` and ``FeedControl``:
    ``derive_quotes`` whether quotes are made from the book, ``max_frame`` characters above which a frame is
    not decoded, ``most_streams`` that a connection carries. Options that all venues know: ``deltas`` (``off``: only
    snapshots are recorded), ``silence`` (seconds).
    """

    derive_quotes: bool = False
    most_streams: int = 1_000_000

    def __init__(
        self,
        venue: str,
        name: str,
        url: str,
        subscription: Subscription,
        types: Sequence[str],
        symbols: Sequence[str],
        instruments: Mapping[str, Instrument],
        endpoints: Endpoints,
    ) -> None:
        """``types`` and ``symbols`` are what this connection carries of the subscription."""
        self.venue = venue
        self.name = name
        self.url = url
        self.books: dict[str, OrderBookBuilder] = {}
        self.counters = FeedCounters()
        self._subscription = subscription
        self._instruments = instruments
        self._endpoints = endpoints
        self._depth = subscription.depth if "book" in types else None
        self._every = subscription.snapshot_every
        self._options = options = subscription.options
        self._deltas = options.get("deltas", "on") != "off"
        self._silence = int(self.number_option("silence", 60.0) * _SECOND)
        self._audit_every = int(self.number_option("audit", 900.0) * _SECOND)
        self._audit_next = 0
        if self._audit_every and self._audit_every < 60 * _SECOND:
            raise UsageError(f"{venue}: option audit must be 0 or at least 60 seconds")
        if self._silence <= 0:
            raise UsageError(f"{venue}: option silence must be positive", hint="seconds, such as 60")
        self._publish_book = "book" in types
        # A partial book is no book to derive quotes from that follow each other without holes.
        self._derived = self.derive_quotes and "quotes" in types
        wanted = {t for t in types if t != "quotes" or not self._derived} | ({"book"} if self._derived else set())
        self._types = tuple(t for t in FEED_TYPES if t in wanted)
        self._symbols: dict[str, SymbolState] = {}
        self._streams: dict[str, Stream] = {}
        self._init_control()
        for symbol in symbols:
            self._make_symbol(symbol)

    # What a venue gives

    def _streams_of(self, symbol: str, instrument: Instrument) -> list[Stream]:
        """Return the streams of a symbol for ``self._types``; use ``self._stream``. Candles: one an interval."""
        raise NotImplementedError

    def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
        """Decode one data frame and hand on what is in it; whatever it raises for bad data makes it malformed."""
        raise NotImplementedError

    def _interval_of(self, stream: Stream) -> str:
        """Return the candle interval of a stream; only asked for candle streams."""
        return stream.name.rpartition(":")[2]

    # Helpers for venues

    def number_option(self, name: str, default: float) -> float:
        """Return an option of the subscription as a number; raises UsageError where it is none."""
        text = self._subscription.options.get(name, "")
        try:
            value = float(text) if text else default
        except ValueError as error:
            raise UsageError(f"{self.venue}: option {name} is {text!r}", hint="a number") from error
        if not abs(value) < 1e9:  # false for NaN, too
            raise UsageError(f"{self.venue}: option {name} is {text!r}", hint="a number")
        return value

    def _stream(self, name: str, symbol: str, type_: str) -> Stream:
        """Make a stream, with the table that its gaps belong to."""
        if type_ != "book":
            table = _TABLES[type_]
        elif not self._publish_book:
            table = "quotes"
        else:
            table = "book_deltas" if self._depth is None else "book_snapshots"
        return Stream(name, symbol, type_, table)

    def _decode(self, wire: Wire[M], event: str, frame: str | bytes, now: int, out: Output) -> M:
        """Decode a frame and count the keys that are not known."""
        message, unknown = wire.decode(frame)
        if unknown:
            self._unknown_fields(event, unknown, now, out)
        return message

    # Symbols

    @property
    def symbols(self) -> Sequence[str]:
        """Native symbols that are subscribed now."""
        return tuple(self._symbols)

    def _make_symbol(self, symbol: str) -> SymbolState:
        instrument = self._instruments.get(symbol)
        if instrument is None:
            raise UnknownNameError(f"{self.venue} symbol", symbol, nearest(symbol, self._instruments))
        st = SymbolState(symbol)
        for stream in self._streams_of(symbol, instrument):
            if stream.type == "trades":
                st.trades = stream
            elif stream.type == "agg_trades":
                st.agg_trades = stream
            elif stream.type == "quotes":
                st.quotes = stream
            elif stream.type == "candles":
                st.candles[self._interval_of(stream)] = Candles(stream)
            elif stream.type == "book":
                st.depth = stream
                st.builder = self._make_builder(symbol, instrument)
                self._natively(st)
            self._streams[stream.name] = stream
        self._symbols[symbol] = st
        return st

    def add(self, symbols: Sequence[str], now: int) -> Output:
        """Subscribe more symbols while connected; raises UnknownNameError, and UsageError when it is full."""
        out = Output()
        new = [s for s in dict.fromkeys(symbols) if s not in self._symbols]
        for symbol in new:
            if symbol not in self._instruments:
                raise UnknownNameError(f"{self.venue} symbol", symbol, nearest(symbol, self._instruments))
        per_symbol = sum(len(self._subscription.intervals) if t == "candles" else 1 for t in self._types)
        if len(self._streams) + per_symbol * len(new) > self.most_streams:
            raise UsageError(
                f"{self.name} cannot carry more than {self.most_streams} streams", hint="start another feed"
            )
        streams: list[Stream] = []
        for symbol in new:
            st = self._make_symbol(symbol)
            streams += st.streams
            if self._connected:
                self._begin(st, now, out)
        if self._connected:
            self._subscribe(streams, now, out)
        return self._counted(out)

    def remove(self, symbols: Sequence[str], now: int) -> Output:
        """Unsubscribe symbols while connected; their books are dropped."""
        out = Output()
        streams: list[Stream] = []
        for symbol in symbols:
            st = self._symbols.get(symbol)
            if st is None:
                continue
            self._finish(st, now, out)
            streams += st.streams
        if self._connected:
            self._unsubscribe(streams, now, out)
        for stream in streams:
            self._streams.pop(stream.name, None)
        for symbol in symbols:
            gone = self._symbols.pop(symbol, None)
            self.books.pop(symbol, None)
            if self._path is not None and gone is not None:
                self._path.remove(self._native_key(gone))
        return self._counted(out)

    # Frames

    def receive(self, frame: str | bytes, now: int) -> Output:
        """Take one data frame. Never raises for what an exchange may send: it counts and reports."""
        out = Output()
        self.counters.messages += 1
        self._last_frame = now
        path = self._path
        if path is not None and (taken := path.take(frame, self._deltas)) is not None:
            self._taken(taken, now, out)
        elif len(frame) > self.max_frame:
            self._malformed(frame, f"a frame of {len(frame)} characters", now, out)
        else:
            try:
                self._on_frame(frame, now, out)
            except BAD_DATA as error:
                # What came before the bad part of the frame is good and stays.
                self._malformed(frame, " ".join(f"{type(error).__name__}: {error}".split())[:200], now, out)
        self.counters.records += len(out.records)
        return out

    # Records

    def _trade(
        self,
        s: Stream,
        seq: int | None,
        trade_id: str,
        price: float,
        quantity: float,
        side: Side,
        ts: int,
        now: int,
        out: Output,
        flags: int = 0,
        covers: int = 1,
    ) -> None:
        """Take a trade: repeats are dropped, missing ids become gaps where ids rise by one.

        ``covers`` ids end at ``seq`` (venues that merge fills). A backlog that is sent on subscription goes in
        oldest first: where ids do not rise by one, a known id in it proves that nothing was lost.
        """
        st = self._symbols[s.symbol]
        if self.contiguous_trades and seq is not None:
            ids = st.trade_ids
            first = seq - covers + 1
            if first == ids.last + 1:
                ids.last, ids.ts = seq, ts
            elif not self._new_id(ids, first, ts, s, out):
                return
            elif covers > 1 and ids.last == first:
                ids.last = seq
        elif not st.recent.add(trade_id):
            self.counters.duplicates += 1
            if s.lost is not None:
                s.lost = None
            return
        self._hear(s, ts, now, out)
        out.records.append(Trade(ts, now, self.venue, s.symbol, trade_id, seq, price, quantity, side, flags))

    def _new_id(self, ids: IdTracker, id_: int, ts: int, s: Stream, out: Output) -> bool:
        """Judge an id that does not follow the last one; False for a repeat."""
        before = ids.last
        verdict = ids.judge(id_, ts)
        if not verdict.accept:
            self.counters.duplicates += 1
            return False
        hole = verdict.opened or verdict.closed
        if hole is not None:
            # Their key is the same: the second row says that the first one's ids have come after all.
            why = s.lost[1] if s.lost is not None and hole is verdict.opened else ""
            repaired = "late messages" if hole is verdict.closed else ""
            times, missing = (hole.ts_from, hole.ts_to), (hole.first, hole.last)
            gap = Gap(*times, self.venue, s.symbol, s.table, "trade_id", "lost", *missing, repaired, why)
            self._gap(out, gap)
        elif verdict.restarted:
            detail = f"ids went from {before} to {id_}"
            self._gap(out, Gap(s.ts, ts, self.venue, s.symbol, s.table, "id_restart", "suspect", detail=detail))
        return True

    def _quote(
        self,
        s: Stream,
        seq: int | None,
        bid: float,
        bid_quantity: float,
        ask: float,
        ask_quantity: float,
        ts: int,
        now: int,
        out: Output,
        flags: int = 0,
    ) -> None:
        """Take a best bid and offer; ``seq`` None: the venue has no id, and unchanged ones are left out."""
        st = self._symbols[s.symbol]
        values = (bid, bid_quantity, ask, ask_quantity)
        if seq is None:
            if ts != s.ts:
                st.quote_id = -1
            if values == st.quote:
                self._hear(s, ts, now, out)
                self.counters.skipped += 1
                return
            # Our own count: the how-many-th of its instant, so that every rerun gives the same.
            seq = st.quote_id = st.quote_id + 1
        elif seq <= st.quote_id:
            if seq == st.quote_id or ts <= s.ts + _RESTART_AFTER:
                self.counters.duplicates += 1
                return
            detail = f"ids went from {st.quote_id} to {seq}"
            self._gap(out, Gap(s.ts, ts, self.venue, s.symbol, s.table, "id_restart", "suspect", detail=detail))
            st.quote_id = seq
        else:
            st.quote_id = seq
        st.quote = values
        self._hear(s, ts, now, out)
        out.records.append(Quote(ts, now, self.venue, s.symbol, seq, bid, bid_quantity, ask, ask_quantity, flags))

    def _candle(self, s: Stream, candle: Candle, now: int, out: Output) -> None:
        """Take a candle: one whose final form was seen is dropped, missing final ones become gaps."""
        st = self._symbols[s.symbol]
        keep, gap = st.candles[candle.interval].judge(candle)
        self._hear(s, candle.ts_event, now, out)
        if gap is not None:
            self._gap(out, st.candle_gap(gap))
        if keep:
            out.records.append(candle)
        else:
            self.counters.duplicates += 1
