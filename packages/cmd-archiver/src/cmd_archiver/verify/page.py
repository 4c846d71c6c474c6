"""The report of ``verify`` as one HTML file that needs nothing else: calendars of completeness, rows a day, findings."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from html import escape
from typing import TYPE_CHECKING, Final

from .verdicts import KINDS, VERDICTS, Day, Stream

if TYPE_CHECKING:
    from .run import Report

__all__ = ["render"]

_COLOURS: Final = {
    "complete": "#2f9e44", "partial": "#94d82d", "maintenance": "#4dabf7", "suspect": "#fab005", "incomplete": "#f03e3e",
    "corrupt": "#7b2cbf",
}  # fmt: skip
_CELL: Final = 13  # pixels of a day
_CHART: Final = (720, 90)
_LISTED: Final = 2_000  # findings in the table; the JSON has all

_STYLE: Final = """
:root{color-scheme:light dark;--text:#222;--back:#fff;--soft:#f1f3f5;--line:#ced4da}
@media (prefers-color-scheme:dark){:root{--text:#e9ecef;--back:#16181c;--soft:#25282d;--line:#495057}}
body{font:14px/1.45 system-ui,sans-serif;color:var(--text);background:var(--back);margin:2rem auto;max-width:70rem;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em;vertical-align:-.05em}
.legend span{margin-right:1.2rem;white-space:nowrap}
.n,.d{white-space:nowrap}.w{min-width:16rem}.scroll{overflow-x:auto}svg text{fill:var(--text);font:10px system-ui,sans-serif}
.empty{fill:var(--soft)}details{margin:.4rem 0}summary{cursor:pointer}
"""


def render(report: Report) -> str:
    """The whole document; every name and detail is escaped."""
    streams: dict[Stream, list[Day]] = {}
    for day in report.days:
        streams.setdefault(day.stream, []).append(day)
    made = datetime.fromtimestamp(report.at // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>Completeness of {escape(report.store)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Completeness of {escape(report.store)}</h1><p>Made {made}. Days are UTC.</p>",
        _legend(report.counts()),
        _overview(streams),
    ]
    parts += [f"<p>Not asked: {escape(words)}</p>" for words in report.unasked]
    for stream, found in streams.items():
        parts.append(f"<h2 id='{_anchor(stream)}'>{escape(stream.label)}</h2>")
        parts.append(f"<div class='scroll'>{_calendar(found)}</div>")
        parts.append(f"<div class='scroll'>{_rows(found)}</div>")
        parts.append(_findings(found))
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _anchor(stream: Stream) -> str:
    return escape(
        "-".join((stream.venue, stream.symbol, stream.table, stream.interval, stream.source)).strip("-"), quote=True
    )


def _key(verdict: str) -> str:
    return f"<i class='key' style='background:{_COLOURS[verdict]}'></i>"


def _legend(counts: dict[str, int]) -> str:
    words = "".join(f"<span>{_key(v)}{v}: {counts.get(v, 0):,} days</span>" for v in VERDICTS)
    return f"<p class='legend'>{words}</p>"


def _overview(streams: dict[Stream, list[Day]]) -> str:
    head = "".join(f"<th class='n'>{v}</th>" for v in VERDICTS)
    lines = []
    for stream, found in streams.items():
        counts = Counter(day.verdict for day in found)
        # A day on which the recording began or ended is no whole day, and counts on neither side.
        over = len(found) - counts["partial"]
        share = f"{100 * (counts['complete'] + counts['maintenance']) / over:.1f} %" if over else "no whole day yet"
        cells = "".join(f"<td class='n'>{counts[v] or ''}</td>" for v in VERDICTS)
        rows = sum(day.rows for day in found)
        lines.append(
            f"<tr><td><a href='#{_anchor(stream)}'>{escape(stream.label)}</a></td><td class='d'>{found[0].day}</td><td class='d'>{found[-1].day}</td>"
            f"<td class='n'>{rows:,}</td>{cells}<td class='n'>{share}</td></tr>"
        )
    return (
        f"<table><thead><tr><th>stream</th><th>from</th><th>to</th><th class='n'>rows</th>{head}"
        f"<th class='n'>whole</th></tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _calendar(found: list[Day]) -> str:
    """A year's weeks as columns, its weekdays as rows; a day's colour is its verdict."""
    by_day = {date.fromisoformat(day.day): day for day in found}
    first, last = min(by_day), max(by_day)
    begin = first - timedelta(days=first.weekday())
    weeks = (last - begin).days // 7 + 1
    width, height = max(weeks * _CELL + 40, 100), 7 * _CELL + 22  # room for the name of a month
    out = [f"<svg class='calendar' width='{width}' height='{height}' role='img' aria-label='verdict of each day'>"]
    out += [f"<text x='0' y='{20 + n * _CELL + 9}'>{name}</text>" for n, name in ((0, "Mon"), (2, "Wed"), (4, "Fri"))]
    labelled = -4
    for n in range(weeks * 7):
        day = begin + timedelta(days=n)
        x, y = 30 + n // 7 * _CELL, 20 + n % 7 * _CELL
        if (day == first or (day.day == 1 and day <= last)) and n // 7 - labelled >= 4:
            labelled = n // 7
            out.append(f"<text x='{x}' y='11'>{day:%b} {day:%y}</text>")
        one = by_day.get(day)
        if one is None:
            if first <= day <= last:
                out.append(f"<rect class='empty' x='{x}' y='{y}' width='{_CELL - 2}' height='{_CELL - 2}' rx='2'/>")
            continue
        kinds = Counter(f.kind for f in one.findings)
        words = "; ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())
        title = f"{one.day}: {one.verdict}, {one.rows:,} rows" + (f" ({words})" if words else "")
        out.append(
            f"<rect x='{x}' y='{y}' width='{_CELL - 2}' height='{_CELL - 2}' rx='2' fill='{_COLOURS[one.verdict]}'>"
            f"<title>{escape(title)}</title></rect>"
        )
    return "".join(out) + "</svg>"


def _rows(found: list[Day]) -> str:
    """Rows a day as bars."""
    width, height = _CHART
    most = max((day.rows for day in found), default=0)
    if not most or len(found) < 2:
        return ""
    step = width / len(found)
    out = [f"<svg class='rows' width='{width + 80}' height='{height + 18}' role='img' aria-label='rows a day'>"]
    for n, day in enumerate(found):
        tall = day.rows / most * height
        out.append(
            f"<rect x='{n * step:.1f}' y='{height - tall:.1f}' width='{max(step - 1, 0.5):.1f}' height='{tall:.1f}' "
            f"fill='{_COLOURS[day.verdict]}'><title>{day.day}: {day.rows:,} rows</title></rect>"
        )
    out.append(f"<text x='0' y='{height + 13}'>{found[0].day}</text>")
    out.append(f"<text x='{width}' y='{height + 13}' text-anchor='end'>{found[-1].day}</text>")
    out.append(f"<text x='{width + 4}' y='10'>{most:,}</text>")
    return "".join(out) + "</svg>"


def _findings(found: list[Day]) -> str:
    lines = []
    for day in found:
        for one in day.findings:
            ids = f"{one.first_id} to {one.last_id}" if one.first_id is not None else ""
            published = {True: "published", False: "not published", None: ""}[day.listed]
            lines.append(
                f"<tr><td class='d'>{day.day}</td><td class='d'>{_key(one.verdict)}{one.verdict}</td>"
                f"<td title='{escape(KINDS[one.kind].meaning, quote=True)}'>{one.kind}</td><td>{escape(one.reason)}</td>"
                f"<td class='d'>{_clock(one.ts_from)}</td><td class='d'>{_clock(one.ts_to)}</td><td class='d'>{ids}</td><td class='w'>{escape(one.detail)}</td>"
                f"<td>{published}</td></tr>"
            )
    if not lines:
        return "<p>Nothing to tell.</p>"
    more = f"<p>and {len(lines) - _LISTED:,} more</p>" if len(lines) > _LISTED else ""
    shown = " open" if len(lines) <= 20 else ""
    return (
        f"<details{shown}><summary>{len(lines):,} findings</summary><div class='scroll'><table><thead><tr><th>day</th>"
        "<th>verdict</th><th>finding</th><th>reason</th><th>from</th><th>to</th><th>ids</th><th>detail</th><th>exchange</th>"
        f"</tr></thead><tbody>{''.join(lines[:_LISTED])}</tbody></table></div>{more}</details>"
    )


def _clock(at: int) -> str:
    seconds, rest = divmod(at, 1_000_000_000)
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") + f".{rest // 1_000_000:03d}"
    except (ValueError, OverflowError, OSError):
        return str(at)
