"""Candles from trades, vectorised, and their comparison with the exchange's own."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any, Final

import pyarrow as pa
from msgspec import Struct

from ._arrow import pc, repeat
from .parse import arrow_schema
from .plan import interval_ns

__all__ = ["CandleMaker", "Comparison", "compare"]

_PARTIAL: Final = (
    ("price", "first"), ("price", "max"), ("price", "min"), ("price", "last"), ("ts", "last"),
    ("quantity", "sum"), ("notional", "sum"), ("buy", "sum"), ("buy_notional", "sum"), ("price", "count"),
)  # fmt: skip
_NAMES: Final = ("open", "high", "low", "close", "ts", "volume", "quote", "buy", "buy_quote", "trades")
_MERGE: Final = tuple(
    (name, how)
    for name, how in zip(
        _NAMES, ("first", "max", "min", "last", "last", "sum", "sum", "sum", "sum", "sum"), strict=True
    )
)


def _grouped(table: pa.Table, spec: Sequence[tuple[str, str]]) -> pa.Table:
    """Group by ``bucket``; one thread, because ``first`` and ``last`` mean row order."""
    groups: Any = table.group_by("bucket", use_threads=False)
    out: pa.Table = groups.aggregate(list(spec))
    picked = [out.column("bucket"), *(out.column(f"{name}_{how}") for name, how in spec)]
    return pa.Table.from_arrays(picked, names=["bucket", *_NAMES])


class CandleMaker:
    """Builds the candles of one interval from batches of trades in id order.

    Open and close are the first and the last trade by id. An interval without a trade between two
    with trades gets all prices equal to the last close; before the first trade nothing is known. What
    takers bought is NaN where a trade's side is unknown.
    """

    def __init__(self, interval: str) -> None:
        length = interval_ns(interval)
        if length is None:  # the plan refuses calendar months before this
            raise ValueError(interval)
        self.interval = interval
        self._length = length
        self._parts: list[pa.Table] = []

    def feed(self, batch: pa.RecordBatch, notional: Any | None) -> None:
        """Take trades with the schema's columns; ``notional`` is the exchange's price times quantity."""
        if not batch.num_rows:
            return
        ts, price, quantity = batch.column("ts_event"), batch.column("price"), batch.column("quantity")
        worth = pc.multiply(price, quantity) if notional is None else notional
        side = batch.column("side")
        taker_buys, unknown = pc.equal(side, "buy"), pc.equal(side, "unknown")
        table = pa.table(
            {
                "bucket": pc.multiply(pc.divide(ts, self._length), self._length),
                "ts": ts,
                "price": price,
                "quantity": quantity,
                "notional": worth,
                "buy": pc.if_else(unknown, nan, pc.if_else(taker_buys, quantity, 0.0)),
                "buy_notional": pc.if_else(unknown, nan, pc.if_else(taker_buys, worth, 0.0)),
            }
        )
        self._parts.append(_grouped(table, _PARTIAL))
        if len(self._parts) >= 64:
            self._parts = [_grouped(pa.concat_tables(self._parts), _MERGE)]

    def finish(self, venue: str, symbol: str) -> pa.RecordBatch:
        """Return the candles with the schema's columns, ordered by open time."""
        schema = arrow_schema("candles")
        if not self._parts:
            return pa.RecordBatch.from_pylist([], schema=schema)
        merged = _grouped(pa.concat_tables(self._parts), _MERGE).sort_by("bucket").combine_chunks()
        buckets = merged.column("bucket").combine_chunks()
        opens = pa.array(range(buckets[0].as_py(), buckets[-1].as_py() + 1, self._length), pa.int64())
        row = pc.index_in(opens, value_set=buckets)
        empty = pc.is_null(row)
        before = pc.fill_null_forward(row)
        close = merged.column("close").combine_chunks().take(before)

        def price(name: str) -> Any:
            return pc.if_else(empty, close, merged.column(name).combine_chunks().take(before))

        def amount(name: str, nothing: float | int) -> Any:
            return pc.fill_null(merged.column(name).combine_chunks().take(row), nothing)

        count = len(opens)
        made: dict[str, Any] = {
            "open_time": opens,
            "close_time": pc.add(opens, self._length),
            "ts_event": merged.column("ts").combine_chunks().take(before),
            "ts_recv": pa.nulls(count, pa.int64()),
            "venue": repeat(venue, count),
            "symbol": repeat(symbol, count),
            "interval": repeat(self.interval, count),
            "source": repeat("built", count),
            "state": repeat("final", count),
            "open": price("open"),
            "high": price("high"),
            "low": price("low"),
            "close": close,
            "volume": amount("volume", 0.0),
            "quote_volume": amount("quote", 0.0),
            "trades": amount("trades", 0),
            "taker_buy_volume": amount("buy", 0.0),
            "taker_buy_quote_volume": amount("buy_quote", 0.0),
            "flags": repeat(pa.scalar(0, pa.int32()), count),
        }
        return pa.RecordBatch.from_arrays([made[f.name] for f in schema], schema=schema)


class Comparison(Struct):
    """How built candles differ from the exchange's own; ``examples`` name up to ten."""

    equal: int = 0
    different: int = 0
    only_exchange: int = 0  # with trades, and not built
    only_built: int = 0
    examples: list[dict[str, object]] = []

    def add(self, other: Comparison) -> None:
        """Add another day's figures."""
        self.equal += other.equal
        self.different += other.different
        self.only_exchange += other.only_exchange
        self.only_built += other.only_built
        self.examples = (self.examples + other.examples)[:10]


_EXACT: Final = ("open", "high", "low", "close", "trades")
_SUMS: Final = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")


def compare(exchange: pa.Table, built: pa.Table) -> Comparison:
    """Compare two tables of candles of one symbol and interval by open time.

    Prices and counts must be equal; sums may differ by 10^-9 of their size, because the exchange adds
    decimals and we add floats. What the exchange does not tell is not compared. A candle without trades
    that was not built is no difference.
    """
    out = Comparison()
    theirs, ours = (t.combine_chunks().sort_by("open_time") for t in (exchange, built))
    row = pc.index_in(theirs.column("open_time"), value_set=ours.column("open_time").combine_chunks())
    absent = pc.and_(pc.is_null(row), pc.not_equal(theirs.column("trades"), 0))
    out.only_exchange = pc.sum(absent).as_py() or 0
    back = pc.index_in(ours.column("open_time"), value_set=theirs.column("open_time").combine_chunks())
    out.only_built = back.null_count
    both = theirs.filter(pc.is_valid(row))
    mine = ours.take(pc.drop_null(row))
    if not both.num_rows:
        return out
    # An interval without a trade: its prices are a convention, only the count means something.
    traded = pc.or_(pc.greater(both.column("trades"), 0), pc.greater(mine.column("trades"), 0))
    # Some exchanges do not tell the number of trades (-1) or a sum (NaN): nothing to compare.
    same = pc.or_(pc.less(both.column("trades"), 0), pc.equal(both.column("trades"), mine.column("trades")))
    for name in _EXACT[:-1]:
        same = pc.and_(same, pc.or_(pc.equal(both.column(name), mine.column(name)), pc.invert(traded)))
    for name in _SUMS:
        a, b = both.column(name), mine.column(name)
        size = pc.max_element_wise(pc.abs(a), pc.abs(b))
        near = pc.less_equal(pc.abs(pc.subtract(a, b)), pc.add(pc.multiply(size, 1e-9), 1e-9))
        same = pc.and_(same, pc.or_(near, pc.or_(pc.is_nan(a), pc.is_nan(b))))
    out.equal = pc.sum(same).as_py()
    out.different = both.num_rows - out.equal
    wrong = pc.indices_nonzero(pc.invert(same))[:10]
    names = ["open_time", *_EXACT, *_SUMS]
    for theirs_row, ours_row in zip(
        both.select(names).take(wrong).to_pylist(), mine.select(names).take(wrong).to_pylist(), strict=True
    ):
        differs = {n: [theirs_row[n], ours_row[n]] for n in names[1:] if theirs_row[n] != ours_row[n]}
        out.examples.append({"open_time": theirs_row["open_time"], **differs})
    return out
