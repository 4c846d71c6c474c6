"""``cmd-cli log``: reading the logs of ``cmd_common.log``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from cmd_cli.command import Cmd, Run

if TYPE_CHECKING:
    from cmd_cli.output import Output
    from cmd_common.log import Batch, Lost, Record

__all__ = ["ACTIONS", "FORMATS", "command"]

ACTIONS: Final = ("decode", "tail", "stats")
FORMATS: Final = ("text", "json")
_TAKES: Final[Mapping[str, tuple[str, ...]]] = {
    "decode": ("format", "level", "event", "start", "end"),
    "tail": ("format", "level", "event", "follow", "lines"),
    "stats": ("level", "event", "start", "end"),
}
_POLL: Final = 0.1  # seconds
_LINES: Final = 10


def _log(action: str, file: str, **flags: Any) -> int:
    from cmd_common.errors import UsageError

    for name, value in flags.items():
        given = value not in (None, (), False) and not (name == "lines" and value == _LINES)
        if given and name not in _TAKES[action]:
            raise UsageError(f"log {action} takes no --{name}")
    run = Run("", flags)
    form = flags["format"] or ("json" if run.json else "text")
    if form not in FORMATS:
        raise UsageError(f"format {form!r} is not known", hint=f"formats are {', '.join(FORMATS)}")
    keep = _filter(flags)
    with run.output() as output:
        if action == "decode":
            return _decode(file, form, keep, output)
        if action == "tail":
            return _tail(file, form, keep, output, lines=flags["lines"], follow=bool(flags["follow"]))
        return _stats(file, keep, output)


def _filter(flags: Mapping[str, Any]) -> Callable[[Record], bool] | None:
    """What the options ask for; None for everything."""
    from fnmatch import fnmatchcase

    from cmd_cli import values
    from cmd_common.log.events import level_number

    level = level_number(flags["level"]) if flags["level"] else 0
    start = values.instant(flags["start"], "start") if flags["start"] else None
    end = values.instant(flags["end"], "end") if flags["end"] else None
    patterns = tuple(p for word in flags["event"] for p in word.split(",") if p)
    if not level and start is None and end is None and not patterns:
        return None

    def keep(record: Record) -> bool:
        return (
            record.event.level >= level
            and (start is None or record.ts >= start)
            and (end is None or record.ts < end)
            and (not patterns or any(fnmatchcase(record.event.name, p) for p in patterns))
        )

    return keep


def _lines(
    batch: Batch, form: str, keep: Callable[[Record], bool] | None, known: Callable[[Batch], Iterable[Record]]
) -> str:
    """The records of a batch that are wanted, as lines."""
    from cmd_common.log.render import json_line, text_line

    if keep is None and not batch.raw:
        data, bad = batch.lines(form)
        if not bad:
            return data.decode("utf-8", "replace")
    one = json_line if form == "json" else text_line
    return "".join(f"{one(r)}\n" for r in known(batch) if keep is None or keep(r))


def _decode(file: str, form: str, keep: Callable[[Record], bool] | None, output: Output) -> int:
    import sys

    from cmd_common.log import Reader

    reader = Reader(file)
    for batch in reader.batches():
        sys.stdout.write(_lines(batch, form, keep, reader.known))
    sys.stdout.flush()
    return _told(reader.lost, output)


def _told(lost: Iterable[Lost], output: Output) -> int:
    from cmd_common.commands import EXIT_GAPS, EXIT_OK

    found = list(lost)
    for one in found:
        output.warn(str(one))
    return EXIT_GAPS if found else EXIT_OK


def _tail(
    file: str, form: str, keep: Callable[[Record], bool] | None, output: Output, *, lines: int, follow: bool
) -> int:
    import signal
    import sys
    import threading
    from collections import deque

    from cmd_common.errors import UsageError
    from cmd_common.log import Follower

    stop = threading.Event()
    if follow and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    follower = Follower(file)
    if not follow and not follower.exists():
        raise UsageError(f"there is no log at {file}")

    def text(batches: Iterable[Batch]) -> Iterator[str]:
        for batch in batches:
            yield _lines(batch, form, keep, follower.known)

    last: deque[str] = deque(maxlen=lines)
    for part in text(follower.poll()):
        last.extend(part.splitlines(keepends=True))
    for part in text(follower.ring()):
        last.extend(part.splitlines(keepends=True))
    sys.stdout.write("".join(last))
    sys.stdout.flush()
    told = len(follower.lost) if follow else 0
    while follow and not stop.wait(_POLL):
        for part in text(follower.poll()):
            sys.stdout.write(part)
            sys.stdout.flush()
        for one in follower.lost[told:]:
            output.warn(str(one))
            told += 1
    follower.close()
    return 0 if follow else _told(follower.lost, output)


def _stats(file: str, keep: Callable[[Record], bool] | None, output: Output) -> int:
    import os

    from cmd_common.commands import EXIT_GAPS, EXIT_OK, Result
    from cmd_common.log import Reader
    from cmd_common.log.events import level_name
    from cmd_common.log.render import iso

    reader = Reader(file)
    events: dict[str, int] = {}
    levels: dict[str, int] = {}
    first = last = None
    count = unchecked = 0
    for record in reader.records():
        if keep is not None and not keep(record):
            continue
        count += 1
        unchecked += not record.checked
        name, level = record.event.name, level_name(record.event.level)
        events[name] = events.get(name, 0) + 1
        levels[level] = levels.get(level, 0) + 1
        first = record.ts if first is None else min(first, record.ts)
        last = record.ts if last is None else max(last, record.ts)
    summary: dict[str, Any] = {
        "records": count,
        "files": len(reader.files),
        "bytes": sum(os.path.getsize(p) for p in reader.files if os.path.exists(p)),
        "first": iso(first) if first is not None else None,
        "last": iso(last) if last is not None else None,
        "sessions": len(reader.sessions),
        "not_closed": reader.open_ends,
        "without_checksum": unchecked,
        "levels": levels,
        "events": dict(sorted(events.items(), key=lambda e: (-e[1], e[0]))),
        "lost": [str(one) for one in reader.lost],
    }
    return output.finish(Result(EXIT_GAPS if reader.lost else EXIT_OK, summary))


command = Cmd(
    "log",
    _log,
    doc="Read a log of cmd_common.log, rotated files and the ring of a killed process included. ACTION is one of\n"
    "  decode  all of it as text or JSON   tail  its end, and with --follow what comes   stats  counts and losses",
    examples=[
        ("everything as text", "cmd-cli log decode app.cmdlog"),
        ("warnings of orders, for a script", "cmd-cli log decode app.cmdlog --level warning --event 'order.*' --json"),
        ("what is logged now", "cmd-cli log tail app.cmdlog --follow"),
        ("how much of what, and whether something is lost", "cmd-cli log stats app.cmdlog"),
    ],
    params=[
        click.Argument(["action"], type=click.Choice(ACTIONS)),
        click.Argument(["file"], metavar="FILE"),
        click.Option(["--format"], metavar="WORD", help="decode, tail: text or json, an object a line [default text]"),
        click.Option(["--level"], metavar="WORD", help="only records at least this serious, such as warning"),
        click.Option(
            ["--event"], multiple=True, metavar="NAME...", help="only these events; wildcards, such as 'order.*'"
        ),
        click.Option(["--start"], metavar="TIME", help="decode, stats: records from this time or day on, UTC"),
        click.Option(["--end"], metavar="TIME", help="decode, stats: records before this time or day, UTC"),
        click.Option(
            ["--lines"],
            type=click.IntRange(0),
            default=_LINES,
            metavar="N",
            help="tail: so many of the current file first [default 10]",
        ),
        click.Option(["--follow", "-f"], is_flag=True, help="tail: go on until it is stopped; follows rotation"),
    ],
    notes="What is damaged is skipped and named on stderr. Exit codes: 0 done, 2 wrong usage, 3 done, but something is lost.\n"
    "--json is --format json; of stats, one object. docs/log.md describes the log and its files.",
)
