"""The vocabulary of ``verify``: findings, and the verdict on a day of one stream. Pure."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct, field

__all__ = ["EXIT_CORRUPT", "KINDS", "VERDICTS", "Day", "Finding", "Kind", "Stream", "Verdict", "worst"]

Verdict = Literal["complete", "partial", "maintenance", "suspect", "incomplete", "corrupt"]
VERDICTS: Final[tuple[Verdict, ...]] = ("complete", "partial", "maintenance", "suspect", "incomplete", "corrupt")
"""From best to worst. ``partial``: the recording began or ended on this day, and what it has is whole."""

EXIT_CORRUPT: Final = 6
"""Exit code where the store contradicts itself, or what was archived."""


class Kind(Struct, frozen=True):
    """One kind of finding: the verdict that it leads to, and what it means."""

    name: str
    verdict: Verdict
    meaning: str


KINDS: Final = {
    k.name: k
    for k in (
        Kind("gap", "incomplete", "the ledger has an open gap; suspect where the gap itself is"),
        Kind("ids", "incomplete", "trade ids are missing that no open gap of the ledger tells of"),
        Kind("candles", "incomplete", "candles are missing that no open gap of the ledger tells of"),
        Kind("missing_day", "incomplete", "nothing is stored of a day between days with rows"),
        Kind("rows", "corrupt", "fewer rows are stored than were archived"),
        Kind("more_rows", "suspect", "live data has trades that the exchange's file does not"),
        Kind("duplicate", "corrupt", "one trade id is stored with two times"),
        Kind("order", "suspect", "time goes back by more than a second where trade ids go on"),
        Kind("candle_differs", "corrupt", "the exchange's candle is not what the stored trades make"),
        Kind("provisional", "suspect", "a candle never became final"),
        Kind("chain", "incomplete", "updates of a book do not follow on one another, and no open gap tells of it"),
        Kind("no_snapshot", "incomplete", "updates of a book follow on no stored snapshot"),
        Kind("filled", "suspect", "the ledger's gap is open, and what it misses of this day is stored: repair closes it"),
        Kind("replaced", "suspect", "the exchange publishes another file now than the one that was archived"),
        Kind("withdrawn", "suspect", "the exchange does not publish the archived file any more"),
        Kind("pause", "maintenance", "nothing for a long time while trade ids go on: the exchange stood still"),
        Kind("quiet_day", "maintenance", "no rows on a day, and trade ids go on from the day before to the day after"),
        Kind("begins", "partial", "the first row of the stream; nothing was asked for before it"),
        Kind("ends", "partial", "the last row of the stream so far"),
    )
}  # fmt: skip


class Finding(Struct, frozen=True):
    """One thing that is to be said of a day; times are ns. ``reason`` is the ledger's word, where it has the gap.

    Times and ids of kinds ``gap`` and ``filled`` are those of the whole gap, which may be of several days.
    """

    kind: str
    verdict: Verdict
    ts_from: int
    ts_to: int
    detail: str = ""
    first_id: int | None = None
    last_id: int | None = None
    reason: str = ""
    left: tuple[tuple[int, int, int, int], ...] = ()
    """Of a gap that is filled in part: first and last id and times of what is still missing on this day."""


class Stream(Struct, frozen=True, order=True):
    """What a verdict is about; ``interval`` and ``source`` are of candles."""

    venue: str
    symbol: str
    table: str
    interval: str = ""
    source: str = ""

    @property
    def label(self) -> str:
        """Words for a person."""
        more = f" {self.interval} ({self.source})" if self.interval else ""
        return f"{self.venue}:{self.symbol} {self.table}{more}"


class Day(Struct):
    """The verdict on one UTC day of a stream. ``origin``: live, archive, or both; ``listed``: the exchange publishes it."""

    stream: Stream
    day: str
    verdict: Verdict = "complete"
    rows: int = 0
    origin: str = ""
    listed: bool | None = None
    first_id: int | None = None
    last_id: int | None = None
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, ts_from: int, ts_to: int, detail: str = "", **more: object) -> None:
        """Add a finding; its verdict is its kind's unless ``verdict`` says another."""
        verdict = more.pop("verdict", KINDS[kind].verdict)
        finding = Finding(kind, verdict, ts_from, ts_to, detail, **more)  # type: ignore[arg-type]
        self.findings.append(finding)
        self.verdict = worst(self.verdict, finding.verdict)


def worst(*verdicts: Verdict) -> Verdict:
    """The worst of some verdicts; ``complete`` of none."""
    return max(verdicts, key=VERDICTS.index, default="complete")
