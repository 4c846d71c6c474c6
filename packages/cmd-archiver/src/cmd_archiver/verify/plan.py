"""What ``repair`` does about what ``verify`` found: days to fetch, and rows of the ledger to write. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Final, Literal

from msgspec import Struct, structs

from cmd_archiver.plan import DAY_NS, day_start
from cmd_common.records import Gap

from .ledger import concerns
from .verdicts import Day, Finding, Stream

__all__ = ["FETCHED", "Fetch", "closings", "fetches"]

FETCHED: Final = ("trades", "agg_trades", "candles")
"""Tables that exchanges give the history of."""

_WANTING: Final = {"gap", "ids", "candles", "missing_day", "rows", "provisional"}
_SPLIT: Final = "split"
_NEAR: Final = 60_000_000_000


class Fetch(Struct, frozen=True, order=True):
    """One day of a stream to get: ``day`` whole, as files or REST have it, or where it is not over ``spans`` over REST.

    ``spans`` are the stretches (ns, from and to) in which something is missing.
    """

    stream: Stream
    day: date
    how: Literal["day", "span"] = "day"
    force: bool = False  # also what the manifest calls done
    spans: tuple[tuple[int, int], ...] = ()


def fetches(days: Iterable[Day], now: int, *, recheck: bool) -> list[Fetch]:
    """What to fetch for days that are not whole, in the order of streams and days.

    Days of books and quotes, and of built candles, cannot be had.
    """
    found: list[Fetch] = []
    for day in days:
        if day.stream.table not in FETCHED or day.stream.source == "built":
            continue
        kinds = {f.kind for f in day.findings}
        if not kinds & _WANTING and not (recheck and "replaced" in kinds):
            continue
        when = date.fromisoformat(day.day)
        start = day_start(when)
        end = min(start + DAY_NS, now)
        missing = [(max(f.ts_from, start), min(f.ts_to, end)) for f in day.findings if f.kind in _WANTING]
        over = start + DAY_NS <= now
        found.append(Fetch(day.stream, when, "day" if over else "span", "rows" in kinds, _merged(missing)))
    return sorted(found)


def _merged(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Stretches in order; those that are near each other are one, as one question costs as much as many rows."""
    out: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if out and low <= out[-1][1] + _NEAR:
            out[-1] = out[-1][0], max(out[-1][1], high)
        else:
            out.append((low, high))
    return tuple(out)


def closings(
    gaps: Sequence[Gap], days: Sequence[Day], by: Mapping[tuple[Stream, str], str], unwritten: Iterable[Gap] = ()
) -> list[Gap]:
    """Rows to write into the ledger after the fetching.

    ``gaps`` are the open ones, ``days`` as they are now, ``by`` says where the rows of a day came from (other days:
    ``live``), ``unwritten`` are gaps that the ledger never had and that were found missing before. A gap is closed where
    every day of every stream of it is whole; where only some are, it is split: closed itself, and what is left becomes gaps.
    """
    index: dict[tuple[str, str], list[Day]] = {}
    for day in days:
        index.setdefault((day.stream.venue, day.day), []).append(day)
    out: dict[tuple[object, ...], Gap] = {}

    known = {_key(gap) for gap in gaps}

    def put(gap: Gap) -> None:
        out[_key(gap)] = gap

    for gap in gaps:
        parts = _parts(gap, index)
        done = [(day, f) for day, f in parts if f is not None and f.kind == "filled"]
        some = [(day, f) for day, f in parts if f is not None and f.kind == "gap" and f.left]
        if not parts or not (done or some):
            continue
        origins = {by.get((day.stream, day.day), "live") for day, _ in (*done, *some)}
        if len(done) == len(parts):
            put(structs.replace(gap, repaired_by="+".join(sorted(origins))))
            continue
        put(structs.replace(gap, repaired_by="+".join((*sorted(origins), _SPLIT))))
        for day, finding in parts:
            if finding is not None and finding.kind == "filled":
                continue
            for left in _left_of(gap, day, finding):
                if _key(left) not in known:  # another gap tells of the same
                    put(left)
    for gap in unwritten:
        if _key(gap) not in out:
            put(gap)
    return list(out.values())


def _key(gap: Gap) -> tuple[object, ...]:
    return gap.ts_from, gap.venue, gap.symbol, gap.record_type, gap.ts_to


def _parts(gap: Gap, index: Mapping[tuple[str, str], Sequence[Day]]) -> list[tuple[Day, Finding | None]]:
    """The days of all streams that a gap concerns, each with what was found of it there."""
    low, high = min(gap.ts_from, gap.ts_to), max(gap.ts_from, gap.ts_to)
    found = []
    for n in range(low // DAY_NS, max(low, high - 1) // DAY_NS + 1):
        iso = date.fromordinal(n + date(1970, 1, 1).toordinal()).isoformat()
        for day in index.get((gap.venue, iso), ()):
            if concerns(gap, day.stream):
                same = (f for f in day.findings if f.kind in ("gap", "filled") and _is_of(f, gap))
                found.append((day, next(same, None)))
    return found


def _is_of(finding: Finding, gap: Gap) -> bool:
    return (finding.ts_from, finding.ts_to, finding.reason) == (gap.ts_from, gap.ts_to, gap.reason)


def _left_of(gap: Gap, day: Day, finding: Finding | None) -> list[Gap]:
    """What of a gap is still missing on a day of a stream, as gaps of that stream alone."""
    start = day_start(date.fromisoformat(day.day))
    detail = gap.detail or f"left of a gap of {gap.record_type or 'all types'} of {gap.symbol or 'all symbols'}"
    mine = structs.replace(gap, symbol=day.stream.symbol, record_type=day.stream.table, detail=detail)
    if finding is not None and finding.left:
        return [
            structs.replace(mine, ts_from=low, ts_to=high, first_id=first, last_id=last)
            for first, last, low, high in finding.left
        ]
    low, high = min(gap.ts_from, gap.ts_to), max(gap.ts_from, gap.ts_to)
    if (max(low, start), min(high, start + DAY_NS)) == (low, high) and (gap.symbol, gap.record_type) == (
        mine.symbol,
        mine.record_type,
    ):
        return []  # the gap itself, untouched
    return [
        structs.replace(mine, ts_from=max(low, start), ts_to=min(high, start + DAY_NS), first_id=None, last_id=None)
    ]
