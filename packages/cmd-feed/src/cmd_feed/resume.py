"""What was missed while no recorder ran: the last stored row of each stream against the first new one.

A recorder that was killed, or stopped and started later, has lost what the exchange sent meanwhile,
and no connection of the new process can notice it. So the newest recorded row of every stream is
looked up in the store when a session starts, and the first new row is held against it. What lies
between becomes a Gap with the reason ``restart``, before the new row. Rows that came from files
(without a receive time) are no recorder's; a new row that is not newer means that a replay was
started again, and nothing is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from cmd_common.records import TS_FROM_RECV, AggTrade, BookDelta, BookSnapshot, Candle, Gap, Quote, Record, Trade

__all__ = ["Resume"]

_TABLES = {
    "trades": "trades",
    "agg_trades": "agg_trades",
    "quotes": "quotes",
    "candles": "candles",
    "book": "book_deltas",
}
_STREAMS: dict[type, str] = {
    Trade: "trades",
    AggTrade: "agg_trades",
    Quote: "quotes",
    Candle: "candles",
    BookDelta: "book_deltas",
    BookSnapshot: "book_deltas",
}
_Key = tuple[str, str, str]  # table, venue, symbol


class Resume:
    """Gaps between an earlier recording in the same store and this one.

    ``latest(table, venue, symbol)`` gives the newest stored row. ``open`` counts the streams that
    have a past and no new row yet; at 0 there is nothing left to do. ``reason`` is why nothing was recorded: ``restart``, or
    ``store_outage`` where the store had failed.
    """

    def __init__(self, latest: Callable[[str, str, str], Record | None], reason: str = "restart") -> None:
        self._latest = latest
        self._reason = reason
        self._last: dict[_Key, Record] = {}

    @property
    def open(self) -> int:
        """Streams whose first new row has not come yet."""
        return len(self._last)

    def expect(self, venue: str, symbols: Iterable[str], types: Iterable[str]) -> None:
        """Look up the past of streams that begin now; raises StoreError."""
        for type_ in types:
            for symbol in symbols:
                table = _TABLES[type_]
                last = self._latest(table, venue, symbol)
                if last is not None and getattr(last, "ts_recv", None):
                    self._last[table, venue, symbol] = last

    def gaps(self, records: Sequence[Record]) -> list[Gap]:
        """Return the gaps that first rows of streams among ``records`` reveal. O(n) while streams are open."""
        found: list[Gap] = []
        for record in records:
            table = _STREAMS.get(type(record))
            if table is None:
                continue
            key = (table, record.venue, record.symbol)  # type: ignore[union-attr]
            last = self._last.get(key)
            if last is None:
                continue
            if isinstance(record, Candle) and isinstance(last, Candle) and record.interval != last.interval:
                continue  # the row to compare with is yet to come
            del self._last[key]
            gap = _between(table, last, record)
            if gap is not None:
                found.append(gap if self._reason == gap.reason else replace(gap, reason=self._reason))
        return found


def _between(table: str, last: Record, first: Record) -> Gap | None:
    """The gap between the last row of the past and the first new one, if there is one."""
    if isinstance(last, Trade | AggTrade) and isinstance(first, Trade | AggTrade):
        if last.trade_seq is not None and first.trade_seq is not None:
            if first.trade_seq <= last.trade_seq + 1:
                return None
            return _gap(table, last.ts_event, first.ts_event, first, last.trade_seq + 1, first.trade_seq - 1)
        return _gap(table, last.ts_event, first.ts_event, first) if first.ts_event > last.ts_event else None
    if isinstance(last, BookDelta) and isinstance(first, BookDelta | BookSnapshot):
        begins = first.first_seq if isinstance(first, BookDelta) else first.seq + 1
        if begins <= last.seq + 1:
            return None
        return _gap(table, last.ts_event, first.ts_event, first, last.seq + 1, begins - 1)
    if isinstance(last, Quote) and isinstance(first, Quote):
        if first.seq == last.seq and _best(first) == _best(last):
            return None
        # A venue without ids has its quotes counted anew in each session, so that only the time tells; our own
        # clock tells nothing (a rerun of a replay).
        later = first.seq > last.seq or (first.ts_event > last.ts_event and not first.flags & TS_FROM_RECV)
        return _gap(table, last.ts_event, first.ts_event, first) if later else None
    if isinstance(last, Candle) and isinstance(first, Candle):
        complete = last.close_time if last.state != "provisional" else last.open_time
        return _gap(table, complete, first.open_time, first) if first.open_time > complete else None
    return None


def _best(quote: Quote) -> tuple[float, float, float, float]:
    return quote.bid_price, quote.bid_quantity, quote.ask_price, quote.ask_quantity


def _gap(
    table: str, start: int, end: int, record: Record, first_id: int | None = None, last_id: int | None = None
) -> Gap:
    venue: str = record.venue  # type: ignore[union-attr]
    symbol: str = record.symbol  # type: ignore[union-attr]
    detail = record.interval if isinstance(record, Candle) else "nothing was recorded in between"
    return Gap(start, max(start, end), venue, symbol, table, "restart", "lost", first_id, last_id, detail=detail)
