"""The gap ledger of a session: Gap and FeedStatus rows go to the same store as the data; this counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter

from cmd_common.records import TABLE_OF, FeedStatus, Gap, Record
from cmd_common.schema import SCHEMA

__all__ = ["GapLedger", "overflow_gaps"]

_TABLES = dict(TABLE_OF)
_KEY = attrgetter(*SCHEMA["gaps"].key)
_TIME = {table: schema.time for table, schema in SCHEMA.items()}


class GapLedger:
    """Counts what passes on its way to the store; only what was handed over is counted.

    ``records`` counts rows by table, ``open`` the gaps that are not repaired, by reason: once a key, as the
    store keeps them. Keys are remembered up to ``limit``; gaps beyond it are counted a row each.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self.records: Counter[str] = Counter()
        self.open: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self._limit = limit
        self._reasons: dict[tuple[object, ...], str] = {}  # open gaps by key

    @property
    def gaps(self) -> int:
        """Open gaps in all."""
        return self.open.total()

    def count(self, records: Sequence[Record]) -> None:
        """Count records of any mix of tables. O(n)."""
        kinds = Counter(map(type, records))
        for kind, n in kinds.items():
            self.records[_TABLES[kind]] += n
        if Gap in kinds or FeedStatus in kinds:
            for record in records:
                if isinstance(record, Gap):
                    self._count_gap(record)
                elif isinstance(record, FeedStatus):
                    self.states[record.state] += 1

    def _count_gap(self, gap: Gap) -> None:
        key = _KEY(gap)
        before = self._reasons.pop(key, None)
        if before is not None or gap.repaired_by:
            self.open[before or gap.reason] -= 1
        if not gap.repaired_by:
            self.open[gap.reason] += 1
            if len(self._reasons) < self._limit:
                self._reasons[key] = gap.reason


def overflow_gaps(dropped: Iterable[Record]) -> list[Record]:
    """Make one Gap per venue, symbol and table of records that were thrown away.

    Gap and FeedStatus rows among them are kept: they are few, and they are what makes a loss visible.
    """
    kept: list[Record] = []
    spans: dict[tuple[str, str, str], list[int]] = {}
    for record in dropped:
        if isinstance(record, Gap | FeedStatus):
            kept.append(record)
            continue
        table = _TABLES[type(record)]
        time: int = getattr(record, _TIME[table])
        symbol: str = getattr(record, "symbol", "") or getattr(record, "instrument", "")
        span = spans.setdefault((getattr(record, "venue", ""), symbol, table), [time, time, 0])
        span[0] = min(span[0], time)
        span[1] = max(span[1], time)
        span[2] += 1
    kept.extend(
        Gap(lo, hi, venue, symbol, table, "overflow", "lost", detail=f"{n} records dropped: the store is too slow")
        for (venue, symbol, table), (lo, hi, n) in spans.items()
    )
    return kept
