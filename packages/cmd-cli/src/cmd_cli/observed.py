"""What an operator gets from a command that runs long or by itself: its log file, its state, its numbers in a file.

    with observing(run, "archive", output, store=store, job=True) as watch:
        result = watch.ended(implementation(options, watch))

``job``: the command keeps its state and numbers here; ``record`` and ``serve`` do so by themselves, out of their event loop.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from cmd_common.errors import CmdError, UsageError

if TYPE_CHECKING:
    from cmd_cli.command import Run
    from cmd_common.commands import Reporter, Result
    from cmd_common.log import Logger
    from cmd_common.metrics import Family
    from cmd_common.processes import ProcessState

__all__ = ["Watch", "job_families", "last_success", "observing"]

_NS: Final = 1e-9
_GOOD: Final = (0, 3)  # done, done with gaps
_WORDS: Final = 400  # bytes of a message in the log


class Watch:
    """A reporter that hands on, writes everything into the log too, and remembers what was said last."""

    def __init__(self, reporter: Reporter, logger: Logger | None, command: str) -> None:
        self._reporter = reporter
        self._tasks: dict[str, tuple[int, int | None]] = {}
        self._last = ""
        self.result: Result | None = None
        self._events: dict[str, Callable[..., None]] = {}
        if logger is not None:
            self._events = {
                "info": logger.event(f"{command}.info", f"{{message:s{_WORDS}}}", "info"),
                "warn": logger.event(f"{command}.warning", f"{{message:s{_WORDS}}}", "warning"),
                "progress": logger.event(
                    f"{command}.progress", "{task:s100}: {done:i8} of {total:i8} {unit:s20}", "info"
                ),
                "start": logger.event(f"{command}.started", "process {pid:i8}, version {version:s20}", "info"),
                "end": logger.event(f"{command}.ended", "exit code {exit_code:i4} {error:s300}", "info"),
            }

    def _log(self, event: str, *values: object) -> None:
        if emit := self._events.get(event):
            from cmd_common.config import mask

            emit(*(mask(value) for value in values))

    def info(self, message: str) -> None:
        """One line of progress or fact."""
        self._last = message
        self._log("info", message)
        self._reporter.info(message)

    def warn(self, message: str) -> None:
        """One line that a person should see."""
        self._last = message
        self._log("warn", message)
        self._reporter.warn(message)

    def ready(self, facts: Mapping[str, Any]) -> None:
        """One JSON line on stdout: a server is ready."""
        self._log("info", f"ready: {dict(facts)}")
        self._reporter.ready(facts)

    def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None:
        """Update one named progress bar; its end goes into the log."""
        self._tasks[task] = (done, total)
        if len(self._tasks) > 200:  # what is over is of no interest
            self._tasks = {k: v for k, v in self._tasks.items() if v[0] != v[1]}
        if total is not None and done >= total:
            self._log("progress", task, done, total, unit)
        self._reporter.progress(task, done, total, unit=unit)

    def started(self) -> None:
        """Log that the process has begun."""
        from cmd_common import __version__

        self._log("start", os.getpid(), __version__)

    def ended(self, result: Result) -> Result:
        """Take the result, and hand it back."""
        self.result = result
        self._log("end", result.exit_code, str(result.summary.get("error", "")))
        return result

    def failed(self, error: BaseException) -> None:
        """Log that the process ends by an error."""
        code = error.exit_code if isinstance(error, CmdError) else 1
        self._log("end", code, " ".join(str(error).split()) or type(error).__name__)

    def facts(self) -> dict[str, Any]:
        """What is done of what, for ``status``."""
        facts: dict[str, Any] = {}
        for task, (done, total) in [t for t in self._tasks.items() if t[1][0] != t[1][1]][-3:]:
            facts[task] = f"{done:,}" + (f" of {total:,}" if total is not None else "")
        from cmd_common.config import mask

        return facts or ({"said": mask(self._last)} if self._last else {})


@contextlib.contextmanager
def observing(run: Run, command: str, reporter: Reporter, *, store: str = "", job: bool = False) -> Iterator[Watch]:
    """Observe one command. Raises UsageError, StoreBusyError where the log cannot be opened."""
    with contextlib.ExitStack() as stack:
        logger = _open_log(run, command, stack)
        watch = Watch(reporter, logger, command)
        watch.started()
        path = str(run.get("metrics-file") or "") if job else ""
        if path:
            _check(path)
        numbers = _Numbers(path, command, store, reporter)
        state = _state(command, store) if job else None
        try:
            numbers.begin()
            if state is None:
                yield watch
            else:
                with state, state.beating(watch.facts):
                    state.running(f"{command} {store}".strip())
                    yield watch
                    if watch.result is not None:
                        state.finish(
                            watch.result.exit_code, str(watch.result.summary.get("error", "")), _flat(watch.result)
                        )
        except BaseException as error:
            watch.failed(error)
            numbers.end(error.exit_code if isinstance(error, CmdError) else 1, {})
            raise
        numbers.end(watch.result.exit_code if watch.result else 0, _flat(watch.result))


def _state(command: str, store: str) -> ProcessState:
    from cmd_common.processes import ProcessState

    return ProcessState(command, store=store)


def _open_log(run: Run, command: str, stack: contextlib.ExitStack) -> Logger | None:
    """The log of ``log-file``, with what libraries say in it too; None where none is asked for."""
    path = str(run.get("log-file") or "")
    if not path:
        return None
    import logging

    from cmd_common.log import Handler, Logger

    path = os.path.abspath(path.replace("{command}", command))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    logger = Logger()
    logger.set_level(run.log_level if run.log_level == "debug" else "info")
    logger.open(path, format=run.get("log-format"))
    stack.callback(logger.close)
    handler = Handler(logger)
    root = logging.getLogger()
    root.addHandler(handler)
    stack.callback(root.removeHandler, handler)
    return logger


def _check(path: str) -> None:
    if not path.endswith(".prom"):
        raise UsageError(f"metrics file {path} does not end in .prom", hint="node_exporter reads no others")


def _flat(result: Result | None) -> dict[str, Any]:
    """The plain numbers of a summary."""
    found = result.summary.items() if result is not None else ()
    return {k: v for k, v in found if isinstance(v, int | float) and not isinstance(v, bool)}


# -- numbers in a file -----------------------------------------------------------------------------


def job_families(
    command: str,
    store: str,
    *,
    began: int,
    ended: int | None,
    exit_code: int | None,
    succeeded: float,
    summary: Mapping[str, float],
) -> Iterator[Family]:
    """The numbers of a job's last run, ``cmd_job_*``; times are Unix ns, ``succeeded`` Unix seconds (0: never). Pure."""
    from cmd_common.metrics import Family

    labels, values = ("command", "store"), (command, store)

    def gauge(name: str, words: str, value: float) -> Family:
        return Family("gauge", f"cmd_job_{name}", words, labels, [(values, value)])

    yield gauge("running", "Whether a run is under way; it stays 1 when the run was killed.", float(ended is None))
    yield gauge("start_seconds", "Unix time when the last run began.", began * _NS)
    yield gauge("success_seconds", "Unix time of the last end with exit code 0 or 3; 0: never.", succeeded)
    if ended is not None and exit_code is not None:
        yield gauge("end_seconds", "Unix time when the last run ended.", ended * _NS)
        yield gauge("duration_seconds", "How long the last run took.", (ended - began) * _NS)
        yield gauge("exit_code", "Exit code of the last run.", exit_code)
    if summary:
        words = "Numbers of the last run's summary."
        rows = [((*values, name), float(value)) for name, value in summary.items()]
        yield Family("gauge", "cmd_job_summary", words, (*labels, "name"), rows)


def last_success(text: str) -> float:
    """The time of the last success in a file of numbers; 0 where there is none. Pure."""
    match = re.search(r"^cmd_job_success_seconds\{[^\n]*\} ([0-9.e+-]+)$", text, re.MULTILINE)
    return float(match[1]) if match else 0.0


class _Numbers:
    """The file of one run's numbers. What cannot be written is told and left out: the job matters more."""

    def __init__(self, path: str, command: str, store: str, reporter: Reporter) -> None:
        from cmd_common.config import mask

        self._path = path
        self._command, self._store = command, str(mask(store))
        self._reporter = reporter
        self._began = time.time_ns()
        self._succeeded = 0.0

    def begin(self) -> None:
        """A run is under way."""
        if not self._path:
            return
        with contextlib.suppress(OSError, UnicodeDecodeError), open(self._path, encoding="utf-8") as file:
            self._succeeded = last_success(file.read(1 << 20))
        self._write(None, None, {})

    def end(self, exit_code: int, summary: Mapping[str, float]) -> None:
        """The run has ended."""
        now = time.time_ns()
        if exit_code in _GOOD:
            self._succeeded = now * _NS
        self._write(now, exit_code, summary)

    def _write(self, ended: int | None, exit_code: int | None, summary: Mapping[str, float]) -> None:
        if not self._path:
            return
        from cmd_common.registry import load

        families = job_families(
            self._command,
            self._store,
            began=self._began,
            ended=ended,
            exit_code=exit_code,
            succeeded=self._succeeded,
            summary=summary,
        )
        fresh = f"{self._path}.{os.getpid()}.new"  # no .prom at its end: nobody reads it half-written
        try:
            text = load("cmd.metrics", "text")(families)
            os.makedirs(os.path.dirname(os.path.abspath(self._path)), exist_ok=True)
            with open(fresh, "wb") as file:
                file.write(text)
            os.chmod(fresh, 0o644)  # node_exporter is another user
            os.replace(fresh, self._path)
        except (OSError, CmdError) as error:
            self._reporter.warn(f"cannot write the numbers to {self._path}: {error}")
            with contextlib.suppress(OSError):
                os.remove(fresh)
