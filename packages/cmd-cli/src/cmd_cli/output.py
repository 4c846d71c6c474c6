"""Data on stdout, words on stderr: tables, JSON, CSV, summaries and progress.

Rich is loaded only for a terminal. Without one, and with NO_COLOR, everything is plain text.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from cmd_common.commands import Result

__all__ = ["FORMATS", "Output"]

FORMATS: Final = ("table", "csv", "ndjson", "json")
_LOOK_AHEAD: Final = 1_000  # rows that decide the widths of a table, and all that a terminal gets
_PLAIN_EVERY: Final = 5_000_000_000  # ns between lines of progress without a terminal


def to_json(value: object) -> bytes:
    """Compact JSON; what JSON does not know becomes text, non-finite numbers null."""
    return msgspec.json.encode(value, enc_hook=_as_json)


def _as_json(value: object) -> object:
    if isinstance(value, memoryview | bytearray):
        return bytes(value).hex()
    if hasattr(value, "tolist"):  # numpy, which a store may return
        return value.tolist()
    if hasattr(value, "as_py"):  # pyarrow scalars
        return value.as_py()
    return str(value)


class Output:
    """The reporter of commands and the writer of their results.

    Safe to be called from several threads. ``clock`` gives monotonic ns.
    """

    def __init__(
        self,
        *,
        json: bool = False,
        quiet: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.json = json
        self.quiet = quiet
        self._out = stdout or sys.stdout
        self._err = stderr or sys.stderr
        self._clock = clock
        self._lock = threading.Lock()
        self._bars: _Bars | None = None
        self._tasks: dict[str, _Task] = {}

    # Reporter

    def info(self, message: str) -> None:
        """One line on stderr, unless quiet."""
        if not self.quiet:
            self._say(message)

    def warn(self, message: str) -> None:
        """One line on stderr, always."""
        self._say(f"warning: {message}", "yellow")

    def ready(self, facts: Mapping[str, Any]) -> None:
        """One JSON line on stdout, at once."""
        with self._lock:
            self._out.write(to_json(facts).decode() + "\n")
            self._out.flush()

    def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None:
        """A bar on a terminal; else a line every five seconds and at the end."""
        if self.quiet:
            return
        with self._lock:
            if self._terminal(self._err):
                if self._bars is None:
                    self._bars = _Bars(self._err)
                self._bars.update(task, done, total, unit)
            else:
                self._plain_progress(task, done, total, unit)

    def close(self) -> None:
        """Take the bars off the screen."""
        with self._lock:
            if self._bars is not None:
                self._bars.stop()
                self._bars = None

    def __enter__(self) -> Output:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _say(self, message: str, style: str = "") -> None:
        if "=" in message or "@" in message:  # a store's password, a proxy's login
            from cmd_common.config import mask

            message = str(mask(message))
        with self._lock:
            if self._bars is not None:  # rich moves the bars below the line
                self._bars.console.print(message, style=style or None, markup=False, highlight=False)
            elif style and self._terminal(self._err) and _colour():
                self._err.write(f"\x1b[33m{message}\x1b[0m\n")
            else:
                self._err.write(message + "\n")
            self._err.flush()

    def _plain_progress(self, task: str, done: int, total: int | None, unit: str) -> None:
        now = self._clock()
        state = self._tasks.setdefault(task, _Task(now, now))
        ended = total is not None and done >= total
        if state.ended or (now - state.said < _PLAIN_EVERY and not ended):
            return
        state.said, state.ended = now, ended
        self._err.write(f"{task}: {progress_words(done, total, unit, now - state.began)}\n")
        self._err.flush()

    # Results

    def finish(self, result: Result) -> int:
        """Write a summary: the last line of stdout with ``--json``; returns the exit code."""
        self.close()
        if self.json:
            self._out.write(to_json(result.summary).decode() + "\n")
        elif result.summary:
            for line in summary_lines(result.summary):
                self._out.write(line + "\n")
        self._out.flush()
        return result.exit_code

    def rows(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], format_: str) -> int:
        """Write rows as table, csv, ndjson or json; returns how many."""
        write = {"table": self._table, "csv": self._csv, "ndjson": self._ndjson, "json": self._json}[format_]
        count = write(columns, iter(rows))
        self._out.flush()
        return count

    def _table(self, columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> int:
        head = [[cell(v) for v in row] for _, row in zip(range(_LOOK_AHEAD), rows, strict=False)]
        right = [bool(head) and all(_numeric(row[n]) for row in head) for n in range(len(columns))]
        widths = [max([len(c), *(len(row[n]) for row in head)]) for n, c in enumerate(columns)]
        if self._terminal(self._out):
            from shutil import get_terminal_size

            if sum(widths) + 2 * len(widths) <= get_terminal_size().columns:
                self._rich_table(columns, head, right)
            else:  # rich would squeeze columns until nothing can be read
                self._lines(columns, head, widths, right)
            if next(rows, None) is not None:
                self._say(f"only the first {_LOOK_AHEAD} rows are shown; use --format csv for all")
            return len(head)
        self._lines(columns, head, widths, right)
        rest = 0
        for row in rows:
            self._line([cell(v) for v in row], widths, right)
            rest += 1
        return len(head) + rest

    def _lines(
        self, columns: Sequence[str], head: Iterable[Sequence[str]], widths: Sequence[int], right: Sequence[bool]
    ) -> None:
        for row in (columns, *head):
            self._line(row, widths, right)

    def _line(self, cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> None:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        self._out.write("  ".join(padded).rstrip() + "\n")

    def _rich_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for name, numeric in zip(columns, right, strict=True):
            table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(c) for c in row))  # Text: an exchange's words may hold brackets
        Console(file=self._out, no_color=not _colour()).print(table)

    def _csv(self, columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> int:
        import csv

        writer = csv.writer(self._out, lineterminator="\n")
        writer.writerow(columns)
        count = 0
        for row in rows:
            writer.writerow(["" if v is None else cell(v) for v in row])
            count += 1
        return count

    def _ndjson(self, columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> int:
        count = 0
        for row in rows:
            self._out.write(to_json(dict(zip(columns, row, strict=True))).decode() + "\n")
            count += 1
        return count

    def _json(self, columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> int:
        """One array, a row a line."""
        count = 0
        for row in rows:
            self._out.write(("[" if count == 0 else ",\n") + to_json(dict(zip(columns, row, strict=True))).decode())
            count += 1
        self._out.write("]\n" if count else "[]\n")
        return count

    @staticmethod
    def _terminal(stream: TextIO) -> bool:
        return stream.isatty() and os.environ.get("TERM") != "dumb"


class _Task:
    """A task in plain progress: when it began, when it was last spoken of."""

    def __init__(self, began: int, said: int) -> None:
        self.began = began
        self.said = said
        self.ended = False


class _Bars:
    """Progress bars on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console: Console = Console(file=stream, no_color=not _colour())
        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[words]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._ids: dict[str, TaskID] = {}
        self._began: dict[str, int] = {}
        self._progress.start()

    def update(self, task: str, done: int, total: int | None, unit: str) -> None:
        if task not in self._ids:
            self._began[task] = time.monotonic_ns()
            self._ids[task] = self._progress.add_task(task, total=total, words="")
        words = progress_words(done, total, unit, time.monotonic_ns() - self._began[task], left=False)
        self._progress.update(self._ids[task], completed=done, total=total, words=words)
        if total is not None and done >= total:  # ended: make room for the next
            self._progress.remove_task(self._ids.pop(task))

    def stop(self) -> None:
        self._progress.stop()


def progress_words(done: int, total: int | None, unit: str, elapsed: int, *, left: bool = True) -> str:
    """``45 %, 12.3 of 27.0 MB, 3.1 MB/s, 5 s left``."""
    words = []
    if total:
        words.append(f"{min(100, 100 * done // total)} %")
        words.append(f"{amount(done, unit)} of {amount(total, unit)}")
    else:
        words.append(amount(done, unit))
    if elapsed > 0 and done > 0:
        rate = done * 1_000_000_000 // elapsed
        words.append(f"{amount(rate, unit)}/s")
        if left and total and rate and done < total:
            words.append(f"{(total - done) // rate} s left")
    return ", ".join(words)


def amount(n: int, unit: str) -> str:
    """A number with its unit: bytes in decimal kB, MB, GB."""
    if unit != "bytes":
        return f"{n:,} {unit}"
    value = float(n)
    for name in ("B", "kB", "MB", "GB"):
        if value < 1000 or name == "GB":
            return f"{n} B" if name == "B" else f"{value:.1f} {name}"
        value /= 1000
    raise AssertionError("unreachable")


def cell(value: Any) -> str:
    """One value as text: shortest float, lists as JSON, null empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | dict):
        return to_json(value).decode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return str(value)


def summary_lines(summary: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A summary as indented lines; lists one item a line."""
    width = max((len(str(k)) for k, v in summary.items() if not isinstance(v, dict | list | tuple)), default=0)
    for key, value in summary.items():
        if isinstance(value, Mapping):
            if value and not any(isinstance(v, Mapping | list | tuple) for v in value.values()) and indent:
                yield f"{indent}{key}: " + ", ".join(f"{k} {cell(v)}" for k, v in value.items())
            elif value:
                yield f"{indent}{key}:"
                yield from summary_lines(value, indent + "  ")
        elif isinstance(value, list | tuple) and value:
            if all(isinstance(v, int | float) for v in value):
                yield f"{indent}{key}: {' '.join(cell(v) for v in value)}"
                continue
            yield f"{indent}{key}:"
            for item in value:
                if isinstance(item, Mapping):
                    yield f"{indent}  " + ", ".join(f"{k} {cell(v)}" for k, v in item.items())
                else:
                    yield f"{indent}  {cell(item)}"
        elif not isinstance(value, list | tuple):
            yield f"{indent}{str(key).ljust(width)}  {count(str(key), value)}"


def count(key: str, value: object) -> str:
    """A value of a summary: counts with separators, ids and times without."""
    grouped = type(value) is int and not key.endswith(("_id", "id", "seq", "ts_event", "_ns"))
    return f"{value:,}" if grouped else cell(value)


def _numeric(text: str) -> bool:
    if not text:
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _colour() -> bool:
    return not os.environ.get("NO_COLOR")
