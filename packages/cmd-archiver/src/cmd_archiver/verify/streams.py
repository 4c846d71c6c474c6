"""The verdicts on the days of one stream: its rows, its ledger and what was archived, beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Final, cast

import pyarrow as pa
from msgspec import Struct

from cmd_archiver._arrow import pc
from cmd_archiver.candles import CandleMaker, compare
from cmd_archiver.manifest import Entry
from cmd_archiver.plan import DAY_NS, day_start, interval_ns
from cmd_common.gaps import REASONS
from cmd_common.records import Gap

from . import sequences
from .ledger import Ledger
from .sequences import Hole
from .verdicts import Day, Stream

if TYPE_CHECKING:
    from cmd_common.io import IReader

__all__ = ["Facts", "check_stream"]

_FEW: Final = 1_000_000  # ids of a gap that are looked for one by one
_NAMED: Final = 100  # findings of one kind and day that are told one by one
_Both = dict[str, list[object]]  # by column: the exchange's value and ours
_QUOTE_SUMS: Final = ("quote_volume", "taker_buy_quote_volume")


class Facts(Struct):
    """What is known of a stream beside its rows.

    ``entries`` are the manifest's rows by day, ``contiguous`` whether ids of the venue rise by one (None: as the rows
    look), ``sparse`` whether candles without a trade are left out.
    """

    reader: IReader
    ledger: Ledger
    entries: Mapping[str, Sequence[Entry]]
    contiguous: bool | None = None
    sparse: bool = False
    compare: bool = True  # candles with trades
    trades: Ledger | None = None  # of the same symbol, for that


def check_stream(stream: Stream, days: Sequence[date], facts: Facts) -> list[Day]:
    """Judge all ``days`` of a stream, in order. Raises StoreError."""
    if stream.table in ("trades", "agg_trades"):
        found = _trades(stream, days, facts)
    elif stream.table == "candles":
        found = _candles(stream, days, facts)
    elif stream.table == "book_deltas":
        found = _deltas(stream, days, facts)
    else:
        found = _rows_only(stream, days, facts)
    _edges(found, facts)
    for day in found:
        _limit(day)
    return found


# -- reading -------------------------------------------------------------------------------------


def _read(facts: Facts, stream: Stream, day: date, columns: Sequence[str]) -> pa.Table:
    """One day's rows of a stream with some columns."""
    start = day_start(day)
    batches = []
    chosen = list(dict.fromkeys((*columns, "interval", "source"))) if stream.table == "candles" else list(columns)
    for batch in facts.reader.batches(
        stream.table, venue=stream.venue, symbols=[stream.symbol], start=start, end=start + DAY_NS, columns=chosen
    ):
        one = pa.table(batch) if not isinstance(batch, pa.RecordBatch) else pa.Table.from_batches([batch])
        if stream.table == "candles":
            mine = pc.and_(
                pc.equal(one.column("interval"), stream.interval), pc.equal(one.column("source"), stream.source)
            )
            one = one.filter(mine)
        batches.append(one.select(list(columns)))
    if not batches:
        return pa.table({name: pa.array([], pa.int64()) for name in columns})
    return pa.concat_tables(batches).combine_chunks()


def _column(table: pa.Table, name: str) -> Any:
    column: Any = table.column(name)
    return column.combine_chunks() if not isinstance(column, pa.Array) else column


def _day(stream: Stream, day: date, table: pa.Table, facts: Facts) -> Day:
    out = Day(stream, day.isoformat(), rows=table.num_rows)
    if table.num_rows:
        archived = table.column("ts_recv").null_count
        out.origin = "archive" if archived == table.num_rows else "both" if archived else "live"
    return out


def _done(facts: Facts, day: str) -> Entry | None:
    """What was archived of a day, whole."""
    return next((e for e in facts.entries.get(day, ()) if e.state == "done"), None)


# -- trades --------------------------------------------------------------------------------------


def _trades(stream: Stream, days: Sequence[date], facts: Facts) -> list[Day]:
    found: list[Day] = []
    looked: list[sequences.Sequence] = []
    for day in days:
        table = _read(facts, stream, day, ("ts_event", "ts_recv", "trade_seq"))
        one = sequences.look(_column(table, "trade_seq"), _column(table, "ts_event"))
        if facts.contiguous is False:
            one.holes, one.dense = [], False
        out = _day(stream, day, table, facts)
        out.first_id, out.last_id = one.first_id, one.last_id
        found.append(out)
        looked.append(one)
        if len(looked) >= 2:
            _judge(found, looked, len(looked) - 2, facts)
        if len(looked) >= 3:
            looked[-3].shrink()  # memory: the ids of two days at once
    if looked:
        _judge(found, looked, len(looked) - 1, facts)
    _joins(found, looked, facts)
    return found


def _judge(found: list[Day], looked: list[sequences.Sequence], n: int, facts: Facts) -> None:
    """Judge a day whose neighbours were looked at."""
    day, one = found[n], looked[n]
    near = looked[max(n - 1, 0) : n + 2]  # those without a row, too: they join nothing
    start = day_start(date.fromisoformat(day.day))
    at = min(n, 1)
    holes = one.holes
    for other in near:
        if other is not one:
            holes = sequences.fill(holes, other)
    for hole in holes:
        if not facts.ledger.knows(hole):
            _ids(day, hole)
    for id_, first, last in one.duplicates:
        day.add("duplicate", first, last, f"id {id_}", first_id=id_, last_id=id_)
    for id_, before, after in one.back:
        day.add("order", after, before, f"id {id_} is {(before - after) / 1e9:.3f} s before the one in front")
    for begin, end in one.pauses:
        if not facts.ledger.within(begin, end):
            day.add("pause", begin, end, f"{(end - begin) / 60e9:.0f} minutes without a trade")
    _ledger(day, start, facts, lambda gap: _left(gap, start, at, near, holes, facts))
    _archived(day, near, facts)


def _ids(day: Day, hole: Hole) -> None:
    count = hole.last - hole.first + 1
    day.add("ids", hole.ts_from, hole.ts_to, f"{count} ids are missing", first_id=hole.first, last_id=hole.last)


Left = tuple[tuple[int, int, int, int], ...]


def _left(
    gap: Gap, start: int, at: int, near: Sequence[sequences.Sequence], holes: Sequence[Hole], facts: Facts
) -> Left | None:
    """What is still missing of a gap on the day that begins at ``start``; empty: nothing, None: it cannot be told.

    ``at`` is the day's place in ``near``. By ids where they rise by one, else by what was archived after the gap.
    """
    one = near[at]
    low, high = _span(gap)
    if not (one.dense or facts.contiguous) or facts.contiguous is False or one.ids is None or not one.rows:
        return () if _archived_since(gap, max(low, start), min(high, start + DAY_NS), facts) else None
    here = low >= start and high <= start + DAY_NS
    if here and gap.first_id is not None and gap.last_id is not None and gap.last_id - gap.first_id < _FEW:
        if sequences.present(list(near), gap.first_id, gap.last_id):
            return ()
        inside = [h for h in holes if h.last >= gap.first_id and h.first <= gap.last_id]
        clipped = [(max(h.first, gap.first_id), min(h.last, gap.last_id), h.ts_from, h.ts_to) for h in inside]
        missing = sum(last - first + 1 for first, last, *_ in clipped)
        return tuple(clipped) if 0 < missing < gap.last_id - gap.first_id + 1 else None
    # Rows of this day on both sides of it, or of the days beside without a missing id between.
    begun = one.first_ts <= low or (at > 0 and _joined(near[at - 1], one))
    ended = one.last_ts >= high or (at + 1 < len(near) and _joined(one, near[at + 1]))
    if not begun or not ended:
        return None
    inside = [h for h in holes if h.ts_from < high and h.ts_to > low]
    if not inside:
        return ()
    within = pc.and_(pc.greater(one.times, low), pc.less(one.times, high))
    if not pc.any(within, min_count=0).as_py():
        return None  # nothing came into it
    return tuple((h.first, h.last, h.ts_from, h.ts_to) for h in inside)


def _joined(before: sequences.Sequence, after: sequences.Sequence) -> bool:
    """Whether ids go on from one day to the next."""
    known = before.last_id is not None and after.first_id is not None
    return known and not sequences.holes_between(before, after)


def _span(gap: Gap) -> tuple[int, int]:
    return min(gap.ts_from, gap.ts_to), max(gap.ts_from, gap.ts_to)


def _archived_since(gap: Gap, low: int, high: int, facts: Facts) -> bool:
    reason = REASONS.get(gap.reason)
    if reason is not None and reason.kind == "archive":
        return False
    first, last = low // DAY_NS, max(low, high - 1) // DAY_NS
    if last - first > 366:
        return False
    for n in range(first, last + 1):
        entry = _done(facts, date.fromordinal(n + date(1970, 1, 1).toordinal()).isoformat())
        if entry is None or entry.gaps or entry.updated_ns <= high:
            return False
    return True


def _archived(day: Day, near: Sequence[sequences.Sequence], facts: Facts) -> None:
    """What is stored beside what was archived."""
    entry = _done(facts, day.day)
    if entry is None:
        return
    start = day_start(date.fromisoformat(day.day))
    if entry.first_id is None or entry.last_id is None or any(s.ids is None for s in near if s.rows):
        if day.rows < entry.rows:
            day.add("rows", start, start + DAY_NS, f"{entry.rows:,} rows were archived, {day.rows:,} are stored")
        return
    stored = 0
    for one in near:
        if one.ids is not None and len(one.ids):
            inside = pc.and_(pc.greater_equal(one.ids, entry.first_id), pc.less_equal(one.ids, entry.last_id))
            stored += pc.sum(inside, min_count=0).as_py()
    span = entry.first_ts or start, entry.last_ts or start + DAY_NS
    if stored < entry.rows:
        day.add("rows", *span, f"{entry.rows:,} rows were archived, {stored:,} of them are stored")
    elif stored > entry.rows:
        more = stored - entry.rows
        day.add("more_rows", *span, f"{more:,} ids are stored that {entry.key.rpartition('/')[2]} does not have")


def _joins(found: list[Day], looked: list[sequences.Sequence], facts: Facts) -> None:
    """Ids between days, and days without a row."""
    before: int | None = None
    for n, one in enumerate(looked):
        if not one.rows:
            continue
        between = range(before + 1, n) if before is not None else range(0)
        holes: list[Hole] = []
        known = before is not None and one.first_id is not None and looked[before].last_id is not None
        if known and before is not None and (one.dense or facts.contiguous) and facts.contiguous is not False:
            holes = sequences.holes_between(looked[before], one)
            for hole in holes:
                if not between and not facts.ledger.knows(hole):
                    _ids(found[n], hole)
        for empty in between:
            start = day_start(date.fromisoformat(found[empty].day))
            if known and not holes:
                found[empty].add("quiet_day", start, start + DAY_NS, "trade ids go on across it")
            elif not facts.ledger.covers(start, start + DAY_NS):
                ids = {"first_id": holes[0].first, "last_id": holes[0].last} if holes else {}
                found[empty].add("missing_day", start, start + DAY_NS, "no row is stored", **ids)
        before = n


# -- candles -------------------------------------------------------------------------------------

_CANDLE: Final = (
    "open_time", "close_time", "ts_recv", "state", "open", "high", "low", "close", "volume", "quote_volume", "trades",
    "taker_buy_volume", "taker_buy_quote_volume",
)  # fmt: skip


def _candles(stream: Stream, days: Sequence[date], facts: Facts) -> list[Day]:
    step = interval_ns(stream.interval)
    found = []
    tables = ((day, _read(facts, stream, day, _CANDLE)) for day in days)
    for day, table in tables:
        out = _day(stream, day, table, facts)
        start = day_start(day)
        if not table.num_rows:
            if step is not None and step <= DAY_NS and not facts.ledger.covers(start, start + DAY_NS):
                out.add("missing_day", start, start + DAY_NS, "no row is stored")
            found.append(out)
            _ledger(out, start, facts, lambda gap: None)
            continue
        opens = set(_column(table, "open_time").to_pylist())
        if step is not None and DAY_NS % step == 0 and not facts.sparse:
            first = start if found and found[-1].rows else min(opens)
            last = max(opens) if day == days[-1] else start + DAY_NS - step
            for low, high in _missing(opens, range(first, last + step, step), step):
                if not facts.ledger.within(low, high):
                    out.add("candles", low, high, f"{(high - low) // step} candles of {stream.interval} are missing")
        _ledger(out, start, facts, lambda gap: () if step and _candles_there(gap, opens, step, start) else None)  # noqa: B023
        states = _column(table, "state").to_pylist()
        closes = _column(table, "close_time").to_pylist()
        for open_, close, state in zip(_column(table, "open_time").to_pylist(), closes, states, strict=True):
            if state == "provisional" and close < max(closes) and not facts.ledger.within(open_, close):
                out.add("provisional", open_, close)
        if facts.compare and stream.source == "exchange" and step is not None and step <= DAY_NS:
            _beside_trades(out, table, facts, step)
        entry = _done(facts, out.day)
        if entry is not None and len(opens) < entry.rows:
            words = f"{entry.rows:,} candles were archived, {len(opens):,} are stored"
            out.add("rows", start, start + DAY_NS, words)
        found.append(out)
    while found and not found[-1].rows and not found[-1].findings:
        found.pop()
    return found


def _missing(opens: set[int], wanted: Iterable[int], step: int) -> Iterator[tuple[int, int]]:
    """Runs of open times that are not there, as ``[from, to)``."""
    begin = None
    at = 0
    for at in wanted:
        if at not in opens:
            begin = at if begin is None else begin
        elif begin is not None:
            yield begin, at
            begin = None
    if begin is not None:
        yield begin, at + step


def _candles_there(gap: Gap, opens: set[int], step: int, day: int) -> bool:
    """Whether every candle of the day that a gap takes part of is stored."""
    low, high = max(gap.ts_from, day), min(gap.ts_to, day + DAY_NS)
    wanted = range(low // step * step, high, step)
    return bool(wanted) and all(at in opens for at in wanted)


def _beside_trades(day: Day, candles: pa.Table, facts: Facts, step: int) -> None:
    """Build candles from the stored trades and compare, where no trade is known to be missing."""
    stream = day.stream
    trades = Stream(stream.venue, stream.symbol, "trades")
    when = date.fromisoformat(day.day)
    columns = ("ts_event", "ts_recv", "trade_seq", "price", "quantity", "side")
    table = _read(facts, trades, when, columns)
    if table.num_rows < 2:
        return
    ids = _column(table, "trade_seq")
    order = pc.sort_indices(table, sort_keys=[("ts_event" if ids.null_count else "trade_seq", "ascending")])
    maker = CandleMaker(stream.interval)
    for batch in table.take(order).to_batches():
        maker.feed(batch, None)
    built = pa.Table.from_batches([maker.finish(stream.venue, stream.symbol)])
    looked = sequences.look(ids, _column(table, "ts_event"))
    bad = [(h.ts_from, h.ts_to) for h in looked.holes] + [
        (min(g.ts_from, g.ts_to), max(g.ts_from, g.ts_to)) for g in (facts.trades.gaps if facts.trades else ())
    ]
    start = day_start(when)
    # Where the trades of the day begin and end late, or early, the candle is only partly theirs.
    low = start if looked.first_ts < start + step else looked.first_ts
    high = start + DAY_NS if looked.last_ts >= start + DAY_NS - step else looked.last_ts
    done = _column(candles, "state").to_pylist()
    opens = _column(candles, "open_time").to_pylist()
    whole = [
        state != "provisional" and low <= at and at + step <= high and not any(at < b and at + step > a for a, b in bad)
        for at, state in zip(opens, done, strict=True)
    ]
    theirs = candles.filter(pa.array(whole))
    there = set(_column(theirs, "open_time").to_pylist())
    ours = built.filter(pa.array([at in there for at in _column(built, "open_time").to_pylist()], pa.bool_()))
    for name in _QUOTE_SUMS:  # of an inverse contract they are in another unit
        at = ours.schema.get_field_index(name)
        ours = ours.set_column(at, name, pa.nulls(ours.num_rows, pa.float64()).fill_null(float("nan")))
    result = compare(theirs, ours)
    # Where ids do not rise by one nobody can tell whether a trade is missing or the candle is wrong.
    sure = looked.dense and not looked.duplicates
    for example in result.examples:
        at = int(str(example.pop("open_time")))
        words = ", ".join(f"{name} {values[0]} and {values[1]}" for name, values in cast("_Both", example).items())
        day.add(
            "candle_differs", at, at + step, f"exchange and trades: {words}", verdict="corrupt" if sure else "suspect"
        )
    if result.different > len(result.examples):
        day.add("candle_differs", start, start + DAY_NS, f"{result.different} candles differ in all")


# -- books and quotes ----------------------------------------------------------------------------


def _deltas(stream: Stream, days: Sequence[date], facts: Facts) -> list[Day]:
    found: list[Day] = []
    epochs: set[int] = set()
    snapshots = Stream(stream.venue, stream.symbol, "book_snapshots")
    first = True
    last: dict[int, int] = {}  # the newest id of each chain
    for day in days:
        table = _read(facts, stream, day, ("ts_event", "ts_recv", "epoch", "seq", "first_seq"))
        begun = _read(facts, snapshots, day, ("ts_event", "epoch"))
        epochs.update(_column(begun, "epoch").to_pylist())
        out = _day(stream, day, table, facts)
        start = day_start(day)
        if table.num_rows:
            order = pc.sort_indices(table, sort_keys=[("epoch", "ascending"), ("seq", "ascending")])
            rows = [_column(table, c).take(order).to_pylist() for c in ("epoch", "seq", "first_seq", "ts_event")]
            _chains(out, rows, last, epochs, facts, first=first)
            first = False
        elif found and any(d.rows for d in found) and not facts.ledger.covers(start, start + DAY_NS):
            out.add("missing_day", start, start + DAY_NS, "no row is stored")
        _ledger(out, start, facts, lambda gap: None)
        found.append(out)
    while found and not found[-1].rows:
        found.pop()
    return found


def _chains(
    out: Day, rows: list[list[int]], last: dict[int, int], epochs: set[int], facts: Facts, *, first: bool
) -> None:
    """Whether each update follows on the one before it of its chain, and each chain on a snapshot."""
    breaks: list[Hole] = []
    steps = 0
    before_epoch, before_ts = None, rows[3][0]
    for epoch, seq, first_seq, ts in zip(*rows, strict=True):
        known = last.get(epoch)
        if known is not None:
            steps += 1
            if first_seq > known + 1:
                breaks.append(Hole(known + 1, first_seq - 1, min(before_ts, ts), max(before_ts, ts)))
        elif epoch not in epochs and not first and not facts.ledger.within(ts, ts):
            out.add("no_snapshot", ts, ts, f"chain {epoch}")
        if epoch != before_epoch and before_epoch is not None:
            last.pop(before_epoch, None)  # a chain that was left does not go on
            first = False
        last[epoch] = max(seq, known or 0)
        before_epoch, before_ts = epoch, ts
    if len(breaks) * 10 < max(steps, 1):  # else ids of this venue do not follow on one another
        for hole in breaks:
            if not facts.ledger.knows(hole):
                words = f"updates {hole.first} to {hole.last} are missing"
                out.add("chain", hole.ts_from, hole.ts_to, words, first_id=hole.first, last_id=hole.last)


def _rows_only(stream: Stream, days: Sequence[date], facts: Facts) -> list[Day]:
    found: list[Day] = []
    for day in days:
        table = _read(facts, stream, day, ("ts_event", "ts_recv"))
        out = _day(stream, day, table, facts)
        start = day_start(day)
        began = any(d.rows for d in found)
        if not table.num_rows and began and not facts.ledger.covers(start, start + DAY_NS):
            out.add("missing_day", start, start + DAY_NS, "no row is stored")
        _ledger(out, start, facts, lambda gap: None)
        found.append(out)
    while found and not found[-1].rows:
        found.pop()
    return found


# -- all -----------------------------------------------------------------------------------------


def _ledger(day: Day, start: int, facts: Facts, left_of: Callable[[Gap], Left | None]) -> None:
    for gap in facts.ledger.of_day(start, start + DAY_NS):
        words = gap.detail or (REASONS[gap.reason].meaning if gap.reason in REASONS else "")
        left = left_of(gap)
        filled = left is not None and not left
        verdict = "suspect" if filled or gap.severity != "lost" else "incomplete"
        day.add(
            "filled" if filled else "gap", gap.ts_from, gap.ts_to, words,
            verdict=verdict, first_id=gap.first_id, last_id=gap.last_id, reason=gap.reason, left=left or (),
        )  # fmt: skip


def _edges(found: list[Day], facts: Facts) -> None:
    """Where a stream begins and ends inside a day that was not archived."""
    with_rows = [day for day in found if day.rows]
    if not with_rows:
        return
    for kind, day in (("begins", with_rows[0]), ("ends", with_rows[-1])):
        if not _done(facts, day.day):
            start = day_start(date.fromisoformat(day.day))
            day.add(kind, start, start + DAY_NS)


def _limit(day: Day) -> None:
    """Keep the findings of a kind bounded; what is left out is counted in words."""
    by_kind: dict[str, int] = {}
    kept = []
    for finding in sorted(day.findings, key=lambda f: (f.ts_from, f.ts_to, f.kind)):
        count = by_kind[finding.kind] = by_kind.get(finding.kind, 0) + 1
        if count <= _NAMED:
            kept.append(finding)
    day.findings = kept
    for kind, count in by_kind.items():
        if count > _NAMED:
            start = day_start(date.fromisoformat(day.day))
            day.add(
                kind, start, start + DAY_NS, f"and {count - _NAMED} more of this kind on this day", verdict="complete"
            )
