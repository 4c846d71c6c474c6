"""Building blocks of a seeded simulation: event log, guard, shrinking and a search over seeds.

A simulation runs the real parts over virtual seams (``VirtualLoop``, ``VirtualClock``, ``SimNet``,
``SimDisk``) from one seed. This module knows neither exchange nor store; the project's own
simulation is in ``tests/simulation`` and ``docs/simulation.md``.

    EventLog    everything that happened, as one hash, and the last events in words
    Guard       makes any use of the real clock, randomness, sockets, files or threads an error
    shrink      the simplest options that still fail
    search      run many seeds over worker processes
"""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from msgspec import Struct, field

__all__ = ["EventLog", "Guard", "Summary", "Violation", "search", "shrink"]

_Options = TypeVar("_Options")


class Violation(AssertionError):
    """A property does not hold: ``rule`` names it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule
        self.message = message

    def __reduce__(self) -> tuple[type[Violation], tuple[str, str]]:
        return (Violation, (self.rule, self.message))


class EventLog:
    """What happened, in order: one hash of everything and the last ``keep`` events in words."""

    def __init__(self, keep: int = 400) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._tail: deque[tuple[int, str, str | bytes]] = deque(maxlen=keep)
        self.count = 0

    def add(self, ns: int, kind: str, detail: str | bytes = "") -> None:
        """Add one event at virtual time ``ns``."""
        self.count += 1
        data = detail.encode("utf-8", "surrogatepass") if isinstance(detail, str) else detail
        self._hash.update(b"%d %s %d " % (ns, kind.encode(), len(data)))
        self._hash.update(data)
        self._tail.append((ns, kind, detail))

    def tail(self, count: int) -> list[str]:
        """The last events in words, at most ``count`` of them."""
        last = list(self._tail)[-count:] if count > 0 else []
        return [f"{ns / 1e9:14.6f} {kind:<12} {detail[:200]!r}" for ns, kind, detail in last]

    def digest(self) -> str:
        """The hash of all events so far."""
        return self._hash.hexdigest()


class Summary(Struct):
    """Totals over seeds."""

    seeds: int = 0
    kills: int = 0
    virtual_seconds: float = 0.0
    stored: int = 0  # runs over the whole store instead of the light one
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: Summary) -> None:
        """Add another's totals."""
        self.seeds += other.seeds
        self.kills += other.kills
        self.virtual_seconds += other.virtual_seconds
        self.stored += other.stored
        self.faults.update(other.faults)

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "seeds": self.seeds,
            "faults": dict(sorted(self.faults.items())),
            "kills": self.kills,
            "virtual_hours": round(self.virtual_seconds / 3600, 3),
            "full_store_seeds": self.stored,
        }


_TIME_FUNCTIONS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep")
_RANDOM_FUNCTIONS = ("random", "uniform", "randint", "randrange", "choice", "shuffle", "gauss", "getrandbits")
_WRITES = frozenset("wax+")
_FORBIDDEN_EVENTS = frozenset(
    ("socket.connect", "socket.bind", "os.rename", "os.remove", "os.mkdir", "os.truncate", "subprocess.Popen")
)
_active: list[Guard] = []
_hooked = False


class Guard:
    """While entered, modules whose name starts with one of ``prefixes`` may use only the seams.

    Their calls of the wall clock, ``time.sleep`` and the module-level random functions raise, as do (by
    anybody) opening a file for writing, connecting a socket, starting a thread or a process. ``broken``
    keeps what was caught, because the code under test may swallow the exception.
    """

    def __init__(self, prefixes: tuple[str, ...] = ("cmd_",)) -> None:
        self._prefixes = prefixes
        self._saved: list[tuple[Any, str, Any]] = []
        self.broken: list[str] = []

    def _refuse(self, what: str) -> None:
        self.broken.append(what)
        raise Violation("guard", f"{what} inside the simulation: use the seams")

    def _wrap(self, module: Any, name: str) -> None:
        real = getattr(module, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            caller = str(sys._getframe(1).f_globals.get("__name__", ""))
            if caller.startswith(self._prefixes):
                self._refuse(f"{caller} calls {module.__name__}.{name}")
            return real(*args, **kwargs)

        self._saved.append((module, name, real))
        setattr(module, name, guarded)

    def __enter__(self) -> Self:
        global _hooked
        if not _hooked:
            sys.addaudithook(_audit)  # cannot be removed: it looks at _active only
            _hooked = True
        for name in _TIME_FUNCTIONS:
            self._wrap(time, name)
        for name in _RANDOM_FUNCTIONS:
            self._wrap(random, name)
        self._saved.append((threading.Thread, "start", threading.Thread.start))  # no audit event before 3.12
        threading.Thread.start = lambda thread: self._refuse(f"{thread.name} was started")  # type: ignore[method-assign,assignment]
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _active.remove(self)
        for module, name, real in reversed(self._saved):
            setattr(module, name, real)
        self._saved.clear()

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Judge one audit event."""
        if event == "open":
            path, mode = str(args[0]), str(args[1] or "")
            if _WRITES & set(mode) and "__pycache__" not in path:
                self._refuse(f"open({path!r}, {mode!r})")
        elif event == "sqlite3.connect":
            if str(args[0]) not in (":memory:", ""):
                self._refuse(f"sqlite3.connect({args[0]!r})")
        elif event in _FORBIDDEN_EVENTS:
            if event == "os.mkdir" and "__pycache__" in str(args[0]):
                return
            self._refuse(f"{event}{args!r}")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _active:
        _active[-1].audit(event, args)


def shrink(
    options: _Options,
    simpler: Callable[[_Options], Iterable[_Options]],
    fails: Callable[[_Options], bool],
    *,
    tries: int = 200,
) -> _Options:
    """Return the simplest options found that still fail: greedy, at most ``tries`` runs.

    ``simpler`` yields candidates, the boldest first; ``fails`` says whether one still shows the
    failure (the same rule, or the search would drift to another bug).
    """
    progress = True
    while progress:
        progress = False
        for candidate in simpler(options):
            if tries <= 0:
                return options
            tries -= 1
            if fails(candidate):
                options = candidate
                progress = True
                break
    return options


class _Job(Struct):
    run: Callable[[int], Summary]
    chunk: tuple[int, ...]


def _run_chunk(job: _Job) -> tuple[Summary, list[tuple[int, str]]]:
    total = Summary()
    failed: list[tuple[int, str]] = []
    for seed in job.chunk:
        try:
            total.add(job.run(seed))
        except Exception as error:
            text = str(error) if isinstance(error, Violation) else traceback.format_exc()
            failed.append((seed, text))
            total.seeds += 1
    return total, failed


def search(
    seeds: Iterable[int], run: Callable[[int], Summary], *, workers: int = 1, chunk: int = 25, stop_after: int = 1
) -> Iterator[tuple[Summary, list[tuple[int, str]]]]:
    """Run seeds over processes; yield totals and failures (seed, words) as chunks finish.

    Ends early once ``stop_after`` seeds have failed (0: never). ``run`` must be importable.
    """
    todo = list(seeds)
    jobs = (_Job(run, tuple(todo[at : at + chunk])) for at in range(0, len(todo), chunk))
    failures = 0
    if workers <= 1:
        for job in jobs:
            result = _run_chunk(job)
            yield result
            failures += len(result[1])
            if stop_after and failures >= stop_after:
                return
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for result in pool.imap_unordered(_run_chunk, jobs):
            yield result
            failures += len(result[1])
            if stop_after and failures >= stop_after:
                pool.terminate()
                return
