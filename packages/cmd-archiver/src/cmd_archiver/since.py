"""``archive --since-last``: which days an unattended run asks for, and its own lock and exit codes.

The range ends with yesterday (UTC) and begins with the oldest day of late that is not done, so that what was missing or failed
is tried again by the next run; days that are done cost one small request each, which finds replaced files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from typing import Final

from msgspec import structs

from cmd_common.commands import EXIT_BUSY, EXIT_FAILED, EXIT_UNREACHABLE, ArchiveOptions, Reporter, Result
from cmd_common.errors import StoreError, UsageError, VenueError

from .job import LOCKS, MANIFEST
from .locks import FileLock
from .manifest import Entry, Manifest
from .plan import BUILT

__all__ = ["LOOK_BACK", "first_day", "run_since_last"]

LOOK_BACK: Final = 30
"""Days before yesterday that are looked at again."""

_LOCK: Final = "since-last"
Row = tuple[str, str, str, str, str, Entry]


def first_day(
    rows: Iterable[Row], venues: Sequence[str], types: Sequence[str], yesterday: date, start: date | None = None
) -> date:
    """The day to begin with. Pure.

    ``rows`` are the manifest's: venue, table, symbol, interval, day, entry. Every stream that was archived before wants the
    days behind its first one; nothing is asked for that is older than LOOK_BACK days, or ``start``. Where nothing was
    archived it is ``start``, else yesterday.
    """
    oldest = max(yesterday - timedelta(days=LOOK_BACK), start or date.min)
    done: dict[tuple[str, str, str, str], set[date]] = {}
    for venue, table, symbol, interval, day, entry in rows:
        product = "candles" if entry.product.startswith(BUILT) else entry.product
        if venue in venues and (product in types or table in types):
            days = done.setdefault((venue, symbol, entry.product, interval), set())
            first, last = date.fromisoformat(day), date.fromisoformat(entry.last_day or day)
            if entry.state == "done" or (entry.state == "missing" and last < oldest):
                days.update(first + timedelta(days=n) for n in range((last - first).days + 1))
            elif not days:
                days.add(first - timedelta(days=1))  # it was asked for, and is still to be had
    wanted = yesterday
    for days in done.values():
        one = max(min(days), oldest)
        while one < wanted and one in days:
            one += timedelta(days=1)
        wanted = min(wanted, one)
    return max(start, oldest) if start is not None and not done else wanted


def run_since_last(
    options: ArchiveOptions, reporter: Reporter, today: date, archive: Callable[[ArchiveOptions, Reporter], Result]
) -> Result:
    """Archive what is missing up to yesterday. Exit codes beside those of ``archive``: 4 another run works on it, 5 the
    exchange could not be reached.

    Raises as ``archive`` does, but for VenueError.
    """
    from .command import state_folder

    yesterday = today - timedelta(days=1)
    folder = state_folder(options.store)
    lock = FileLock(folder / LOCKS, _LOCK)
    try:
        taken = lock.acquire()
    except OSError as error:
        raise StoreError(
            f"cannot write to the store {options.store}: {error.strerror or error}", hint="check the path"
        ) from None
    if not taken:
        reporter.warn("another run of archive --since-last works on this store")
        return Result(EXIT_BUSY, {"busy": True})
    try:
        manifest = Manifest(folder / MANIFEST, read_only=True)
        try:
            rows = manifest.by_stream()
        finally:
            manifest.close()
        given = None if options.start == date.min else options.start
        if given is not None and given > yesterday:
            raise UsageError(f"the start {given} is not over", hint=f"yesterday was {yesterday}, UTC")
        start = first_day(rows, options.exchanges, options.types, yesterday, given)
        reporter.info(f"archiving {start} to {yesterday}")
        try:
            result = archive(structs.replace(options, start=start, end=yesterday, since_last=False), reporter)
        except VenueError as error:
            reporter.warn(str(error))
            return Result(EXIT_UNREACHABLE, {"error": str(error)})
    finally:
        lock.release()
    if result.exit_code == EXIT_FAILED and result.summary.get("unreachable"):
        result.exit_code = EXIT_UNREACHABLE
    result.summary = {"start": start.isoformat(), "end": yesterday.isoformat(), **result.summary}
    return result
