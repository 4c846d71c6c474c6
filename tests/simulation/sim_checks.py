"""What must hold: the live books at the end of the calm phase, and every row of the store."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sim_oracle import Depth, SymbolTruth

from cmd_common.builder import OrderBookBuilder
from cmd_common.records import AggTrade, BookDelta, BookSnapshot, Candle, Gap, Quote, Record, Trade, levels
from cmd_common.testing.simulation import Violation

if TYPE_CHECKING:
    from sim_run import Run

    from cmd_feed.session import LiveSession

Side = dict[float, float]


def builders(session: LiveSession) -> dict[str, OrderBookBuilder]:
    """The books of a session by native symbol."""
    found: dict[str, OrderBookBuilder] = {}
    for runner in session._runners.values():
        found.update(runner.feed.books)
    return found


def newest_trade(run: Run, table: str, symbol: str) -> int | None:
    """The newest trade id that this process has handed to its store."""
    return run.tap.newest.get((table, symbol)) if run.tap is not None else None


def books(run: Run) -> None:
    """Every live book is the true one within its known depth, and passes its own check."""
    assert run.session is not None
    for symbol, builder in builders(run.session).items():
        builder.check()
        truth = run.oracle.symbols[symbol]
        if truth.index(builder.last_id) is None and builder.last_id != truth.start_id:
            raise Violation("book", f"{symbol} stands at {builder.last_id}, which is no message's end")
        bids, asks = truth.book_at(builder.last_id)
        known_bids, known_asks = builder.book.known_depth
        where = f"live book of {symbol} at {builder.last_id}"
        _same(where, builder.book.bids(known_bids), sorted(bids.items(), reverse=True)[:known_bids])
        _same(where, builder.book.asks(known_asks), sorted(asks.items())[:known_asks])
        if min(known_bids, known_asks) < 1:
            raise Violation("book", f"{where} knows nothing: {known_bids} bids, {known_asks} asks")


def _same(where: str, got: list[tuple[float, float]], true: list[tuple[float, float]]) -> None:
    if got != true:
        at = next((i for i, (a, b) in enumerate(zip(got, true, strict=False)) if a != b), min(len(got), len(true)))
        raise Violation(
            "book",
            f"{where}: level {at} of {len(got)} is {got[at : at + 1]}, in truth {true[at : at + 1]} of {len(true)}",
        )


class Gaps:
    """Open gaps of one table and symbol."""

    def __init__(self, gaps: Iterable[Gap], table: str, symbol: str) -> None:
        mine = [g for g in gaps if g.record_type == table and g.symbol in (symbol, "") and not g.repaired_by]
        self.ids = [(g.first_id, g.last_id) for g in mine if g.first_id is not None and g.last_id is not None]
        self.times = [(g.ts_from, g.ts_to) for g in mine if g.first_id is None or g.last_id is None]
        self.all_times = [(g.ts_from, g.ts_to) for g in mine]
        self.count = len(mine)

    def covers(self, id_: int, ts: int) -> bool:
        """Whether an id or, for gaps that name none, a time lies in a gap."""
        return any(a <= id_ <= b for a, b in self.ids) or any(a <= ts <= b for a, b in self.times)

    def covers_time(self, ts: int) -> bool:
        """Whether a time lies in any gap."""
        return any(a <= ts <= b for a, b in self.all_times)


def store(run: Run, rows: dict[str, list[Record]]) -> None:
    """Every row is true, and everything that is missing is covered by an open gap."""
    gaps: list[Gap] = rows.get("gaps", [])  # type: ignore[assignment]
    for table in rows:
        if table not in ("gaps", "feed_status", "instruments"):
            for record in rows[table]:
                if record.symbol not in run.oracle.symbols:  # type: ignore[union-attr]
                    raise Violation("invented", f"{table}: {record}")
    for symbol, truth in run.oracle.symbols.items():
        for table in ("trades", "agg_trades"):
            if table in run.options.types:
                _trades(run, symbol, table, rows.get(table, []), Gaps(gaps, table, symbol))
        for quote in rows.get("quotes", []):
            if isinstance(quote, Quote) and quote.symbol == symbol:
                true = truth.quotes.get(quote.seq)
                if true != (quote.bid_price, quote.bid_quantity, quote.ask_price, quote.ask_quantity):
                    raise Violation("invented", f"{quote} is in truth {true}")
        for c in rows.get("candles", []):
            if isinstance(c, Candle) and c.symbol == symbol:
                row = (c.interval, c.open_time, c.open, c.high, c.low, c.close, c.volume, c.trades, c.state == "final")
                if row not in truth.candles:
                    raise Violation("invented", f"{c} was never sent")
        _book(run, symbol, truth, rows, Gaps(gaps, "book_deltas", symbol))
    if not run.faulty and gaps:
        raise Violation("false gap", f"nothing was damaged, and yet: {gaps[0]}")


def _trades(run: Run, symbol: str, table: str, rows: list[Record], gaps: Gaps) -> None:
    truth = run.oracle.symbols[symbol]
    true = truth.trades if table == "trades" else truth.agg_trades
    stored: set[int] = set()
    for t in rows:
        assert isinstance(t, Trade | AggTrade)
        if t.symbol != symbol:
            continue
        assert t.trade_seq is not None
        if t.trade_seq in stored:
            raise Violation("unique", f"{table} of {symbol} {t.trade_seq} is stored twice")
        stored.add(t.trade_seq)
        if true.get(t.trade_seq) != (t.ts_event, t.price, t.quantity, t.side):
            raise Violation("invented", f"{t} is in truth {true.get(t.trade_seq)}")
    sent = run.sent.get((table, symbol), set())
    if not stored:
        raise Violation("lost", f"{len(sent)} {table} of {symbol} were sent and none is stored")
    first, last = min(stored), max(stored)
    for id_ in sorted(true):
        if first < id_ < last and id_ not in stored and not gaps.covers(id_, true[id_][0]):
            how = "sent" if id_ in sent else "not sent while we were away"
            raise Violation("lost", f"{table} of {symbol} {id_} ({how}) is neither stored nor covered by a gap")


def _book(run: Run, symbol: str, truth: SymbolTruth, rows: dict[str, list[Record]], gaps: Gaps) -> None:
    epochs: dict[int, tuple[list[BookSnapshot], list[BookDelta]]] = {}
    for row in rows.get("book_snapshots", []):
        assert isinstance(row, BookSnapshot)
        if row.symbol == symbol:
            epochs.setdefault(row.epoch, ([], []))[0].append(row)
    for delta in rows.get("book_deltas", []):
        assert isinstance(delta, BookDelta)
        if delta.symbol == symbol:
            epochs.setdefault(delta.epoch, ([], []))[1].append(delta)
    stored: set[int] = set()
    rng = random.Random(run.options.seed)
    for epoch in sorted(epochs):
        snapshots, deltas = epochs[epoch]
        snapshots.sort(key=lambda s: s.seq)
        deltas.sort(key=lambda d: d.seq)
        where = f"book of {symbol}, epoch {epoch}"
        indices = []
        for delta in deltas:
            at = truth.index(delta.seq)
            if at is None or not _true_delta(delta, truth.depth[at]):
                raise Violation("invented", f"{where}: {delta} is no message")
            indices.append(at)
        stored.update(indices)
        if indices and indices[-1] - indices[0] != len(indices) - 1:
            raise Violation("book", f"{where}: a message is missing among the deltas {indices}")
        if not snapshots:
            raise Violation("book", f"{where}: {len(deltas)} deltas without a snapshot")
        _rebuild(run, where, truth, snapshots, deltas, rng)
    for at in range(min(stored, default=0), max(stored, default=-1)):
        if at not in stored and not gaps.covers_time(truth.depth[at].ts):
            raise Violation("lost", f"depth message {truth.depth[at].last} of {symbol} is neither stored nor in a gap")
    if not stored:
        raise Violation("lost", f"no depth message of {symbol} is stored")


def _true_delta(delta: BookDelta, true: Depth) -> bool:
    return (
        delta.first_seq == true.first
        and delta.ts_event == true.ts
        and list(levels(delta.bids)) == sorted(true.bids, reverse=True)
        and list(levels(delta.asks)) == sorted(true.asks)
    )


def _rebuild(
    run: Run, where: str, truth: SymbolTruth, snapshots: list[BookSnapshot], deltas: list[BookDelta], rng: random.Random
) -> None:
    """Snapshot and deltas of one epoch give the true book: at each stored snapshot, at the end, at some points."""
    first = snapshots[0]
    later = [d for d in deltas if d.seq > first.seq]
    expected = next((m.last for m in truth.depth if m.last > first.seq), None)
    if later and later[0].seq != expected:
        raise Violation("book", f"{where}: {first.seq} is followed by {later[0].seq} instead of {expected}")
    sides = (dict(levels(first.bids)), dict(levels(first.asks)))
    limit = run.snapshot_limit
    floor = min(sides[0], default=0.0) if len(sides[0]) >= limit else float("-inf")
    ceiling = max(sides[1], default=0.0) if len(sides[1]) >= limit else float("inf")
    points = {d.seq for d in later[-1:]} | {rng.choice(later).seq for _ in range(2) if later}
    periodic = {s.seq: s for s in snapshots[1:]}
    for delta in later:
        for side, changes in zip(sides, (delta.bids, delta.asks), strict=True):
            for price, quantity in levels(changes):
                if quantity:
                    side[price] = quantity
                else:
                    side.pop(price, None)
        if delta.seq not in points and delta.seq not in periodic:
            continue
        bids, asks = truth.book_at(delta.seq)
        at = f"{where}, rebuilt at {delta.seq}"
        true_bids, true_asks = sorted(bids.items(), reverse=True), sorted(asks.items())
        _same(at, sorted(_within(sides[0], floor, ceiling), reverse=True), [b for b in true_bids if b[0] >= floor])
        _same(at, sorted(_within(sides[1], floor, ceiling)), [a for a in true_asks if a[0] <= ceiling])
        row = periodic.get(delta.seq)
        if row is not None:
            at = f"{where}, snapshot at {row.seq}"
            _same(at, list(levels(row.bids))[: row.known_bids], true_bids[: row.known_bids])
            _same(at, list(levels(row.asks))[: row.known_asks], true_asks[: row.known_asks])


def _within(side: Side, floor: float, ceiling: float) -> list[tuple[float, float]]:
    return [(p, q) for p, q in side.items() if floor <= p <= ceiling]


def describe(rows: dict[str, list[Any]]) -> str:
    """Row counts by table."""
    return ", ".join(f"{table} {len(records)}" for table, records in sorted(rows.items()) if records)
