"""The logger: declares events, opens a log, keeps levels, and drains in the background."""

from __future__ import annotations

import atexit
import fnmatch
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from struct import error as struct_error
from types import TracebackType
from typing import Any, Final, NoReturn, Self

from cmd_common import _native, filelock
from cmd_common.errors import StoreBusyError, UsageError

from . import rings as _rings
from .drain import Consumer, Drain
from .events import Event, cut, level_number, parse
from .files import Rotation, Session, open_sink
from .layout import RINGS, VERSION, Start
from .leftover import leftover
from .render import BUILT_IN, Table
from .rings import Emit, Ring, RingFile
from .stamps import MONOTONIC, Calibration, calibrate

__all__ = ["POLICIES", "Logger"]

POLICIES: Final = ("block", "drop", "overwrite")
_SLOT: Final = 64
_FIRST_ID: Final = 16  # the numbers below are the logger's own
_SYMBOLS: Final = 65_536
_open: weakref.WeakSet[Logger] = weakref.WeakSet()


class Logger:
    """Events declared once, and at most one open log that they go to.

    Declaring, opening and closing are slow and may happen at any time, from any thread. An event that is called while
    no log is open, or whose level is below the logger's, does nothing.
    """

    def __init__(self) -> None:
        self.native = _native.native
        self.level = 20
        self.events: dict[str, Event] = {}
        self._emitters: dict[str, tuple[Emit, _rings.Bind]] = {}
        self._levels: dict[str, int] = {}  # of single events, by pattern
        self._symbols: dict[str, int] = {}
        self._table = Table()
        self._sizes: list[tuple[int, int]] = []
        self._drain: Drain | None = None
        self._lock = threading.RLock()
        self._lock_file: tuple[int, str] | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._policy = "block"

    # Declaring

    def event(self, name: str, format: str, level: int | str = 20) -> Emit:
        """Declare an event and return the function that logs it: its arguments are the format's fields, in order.

        Declaring the same again returns the same function; the same name with another format raises UsageError.
        """
        with self._lock:
            number = level_number(level)
            if known := self.events.get(name):
                if (known.format, known.level) != (format, number):
                    raise UsageError(f"event {name} is declared already, with another format or level")
                return self._emitters[name][0]
            event = parse(_FIRST_ID + len(self.events), name, format, number)
            if self._drain is not None:
                self._ring_of(event)
            if self.native:
                self._emitters[name] = _rings.native_emitter(event, _explainer(event))
            else:
                self._emitters[name] = _rings.pure_emitter(event, time.monotonic_ns, _explainer(event))
            self.events[name] = event
            self._table.add(event)
            if (drain := self._drain) is not None:
                drain.declare(lambda at: drain.session.events([event], at))
                self._bind(name)
            return self._emitters[name][0]

    def intern(self, text: str) -> int:
        """Return the number of a text for fields of type ``sym``; the text is kept in the log once.

        At most 65,536 different ones: a text that changes with every record belongs into a field ``s...``.
        """
        number = self._symbols.get(text)
        if number is not None:
            return number
        with self._lock:
            if text in self._symbols:
                return self._symbols[text]
            if len(self._symbols) >= _SYMBOLS or len(text.encode("utf-8", "replace")) > 1000:
                raise UsageError(
                    f"too many or too long texts are interned: {text[:40]!r}", hint="use a field such as s32"
                )
            number = len(self._symbols) + 1
            self._table.name(number, text)
            if (drain := self._drain) is not None:
                drain.declare(lambda at: drain.session.symbols({number: text}, at))
            self._symbols[text] = number
            return number

    def set_level(self, level: int | str, events: str = "") -> None:
        """Log only what is at least this serious: of all events, or of those whose names match a pattern."""
        with self._lock:
            if events:
                self._levels.pop(events, None)
                self._levels[events] = level_number(level)
            else:
                self.level = level_number(level)
            for name in self.events:
                self._bind(name)

    def enabled(self, event: str) -> bool:
        """Whether an event would be logged if a log is open."""
        level = self.level
        for pattern, own in self._levels.items():
            if fnmatch.fnmatchcase(event, pattern):
                level = own
        return self.events[event].level >= level

    # Opening and closing

    def open(
        self,
        path: str | os.PathLike[str],
        *,
        format: str = "binary",
        full: str = "block",
        slots: int = 8192,
        large_slots: int = 1024,
        large: int = 512,
        interval: float = 0.01,
        rotate_bytes: int = 64 << 20,
        rotate_ns: int = 0,
        keep: int = 10,
        thread: bool = True,
        consumers: Sequence[Consumer] = (),
    ) -> Self:
        """Open the log at ``path``: events go to ``path.ring``, and from there every ``interval`` seconds to ``path``.

        ``slots`` records of 64 bytes fit into the ring before it is full, and ``large_slots`` of ``large`` bytes.
        ``full`` says what happens then: ``block`` drains on the caller's thread, ``drop`` and ``overwrite`` lose the
        newest or the oldest records and log how many. Without ``thread`` nothing is drained before ``flush``,
        ``close`` or a full ring. What an earlier process left in the ring when it was killed is written first.

        Raises UsageError, StoreBusyError where another process has it open, OSError.
        """
        where = os.fspath(path)
        if full not in POLICIES:
            raise UsageError(f"policy {full!r} is not known", hint=f"policies are {', '.join(POLICIES)}")
        if not 1 <= slots <= 1 << 24 or not 1 <= large_slots <= 1 << 20 or large % 64 or not 128 <= large <= 16384:
            raise UsageError(
                "the ring cannot be of this size", hint="slots=8192, large_slots=1024, large=512 are usual"
            )
        with self._lock:
            if self._drain is not None:
                raise UsageError(f"the logger has {self._drain.sink.path} open already", hint="close it first")
            sizes = [(_SLOT, _power(slots)), (large, _power(large_slots))]
            for event in self.events.values():
                _ring_of(event, sizes)
            fd = filelock.take(f"{where}.lock")
            if fd is None:
                raise StoreBusyError(f"log {where} is open in another process or logger", hint="give each its own path")
            try:
                self._begin(where, format, sizes, Rotation(rotate_bytes, rotate_ns, keep), consumers)
            except BaseException:
                filelock.give_back(fd, f"{where}.lock")
                raise
            self._lock_file = (fd, f"{where}.lock")
            self._policy = full
            for name in self.events:
                self._bind(name)
            _open.add(self)
            if thread:
                self._wake.clear()
                self._thread = threading.Thread(target=self._run, args=(interval,), name="cmd-log", daemon=True)
                self._thread.start()
        return self

    def _begin(
        self, path: str, form: str, sizes: list[tuple[int, int]], rotation: Rotation, consumers: Sequence[Consumer]
    ) -> None:
        clock, rate, reader = _clock(self.native)
        ring_path = f"{path}.ring"
        left = leftover(path)
        sink = open_sink(form, path, rotation)
        try:
            if left is not None:
                session, frames, along = left
                sink.start(session, frames[0][1].calibration)
                sink.write(session, frames, along)
            number = int.from_bytes(os.urandom(4), "little") or 1
            file = RingFile(ring_path, sizes, number, _rings.native_ring if self.native else _rings.PureRing)
            try:
                start = Start(
                    VERSION, clock, rate, os.getpid(), file.places, [0] * len(sizes), os.path.basename(sys.argv[0])
                )
                session = Session(number, start, self._table)
                drain = Drain(file, sink, session, reader, list(consumers))
                drain.begin()
            except BaseException:
                file.close(remove=True)
                raise
        except BaseException:
            sink.close()
            raise
        self._sizes, self._drain = sizes, drain

    def flush(self) -> int:
        """Drain what was logged until now to the file; returns how many records."""
        drain = self._drain
        return drain.once() if drain is not None else 0

    def close(self) -> None:
        """Drain everything and close; without an open log it does nothing. Raises OSError where it cannot be written.

        What cannot be written stays in the ring's file, and the next ``open`` writes it.
        """
        with self._lock:
            drain, self._drain = self._drain, None
            if drain is None:
                return
            for _, bind in self._emitters.values():
                bind(None, None)
            _open.discard(self)
        if self._thread is not None:
            self._wake.set()
            self._thread.join()
            self._thread = None
        try:
            complete = drain.finish()
            drain.sink.close()
        finally:
            drain.file.close(remove=not drain.failed)
            if self._lock_file is not None:
                filelock.give_back(*self._lock_file)
                self._lock_file = None
        if not complete and drain.error is not None:
            raise drain.error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def error(self) -> Exception | None:
        """What failed last in the background: the disk, or a consumer."""
        return self._drain.error if self._drain is not None else None

    @property
    def stats(self) -> dict[str, int]:
        """Counts of the open log: records drained, dropped, overwritten."""
        drain = self._drain
        if drain is None:
            return {"records": 0, "dropped": 0, "overwritten": 0}
        return {"records": drain.records, "dropped": sum(drain.dropped), "overwritten": sum(drain.overwritten)}

    # Behind it

    def _ring_of(self, event: Event) -> int:
        return _ring_of(event, self._sizes)

    def _bind(self, name: str) -> None:
        """Connect an event with its ring, or with nothing."""
        drain = self._drain
        bind = self._emitters[name][1]
        if drain is None or not self.enabled(name):
            bind(None, None)
            return
        number = self._ring_of(self.events[name])
        ring = drain.file.rings[number]
        bind(ring, self._full(drain, number, ring))

    def _full(self, drain: Drain, number: int, ring: Ring) -> Callable[[], Any]:
        """What a caller does that found the ring full; native callers only ask whether to try again."""
        policy = self._policy

        def again() -> bool:
            return self._drain is drain and drain.make_room(number, policy)

        def slot() -> Any:
            take = ring.take()
            while again():
                try:
                    return take()
                except IndexError:  # other threads were faster
                    continue
            return None

        return again if self.native else slot

    def _run(self, interval: float) -> None:
        while not self._wake.wait(interval):
            if (drain := self._drain) is not None:
                drain.once()

    def _forked(self) -> None:
        """In a child the log belongs to the parent: here nothing is logged until the child opens its own."""
        self._drain = None
        self._thread = None
        self._lock = threading.RLock()
        self._wake = threading.Event()
        if self._lock_file is not None:
            os.close(self._lock_file[0])
            self._lock_file = None
        for _, bind in self._emitters.values():
            bind(None, None)


def _after_fork() -> None:
    for logger in list(_open):
        logger._forked()
    _open.clear()


def _at_exit() -> None:
    """Close what is open; where that fails it stays in the ring, and the next ``open`` writes it."""
    for logger in list(_open):
        try:
            logger.close()
        except OSError:
            pass


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _power(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _ring_of(event: Event, sizes: Sequence[tuple[int, int]]) -> int:
    for number, (slot, _) in enumerate(sizes[:RINGS]):
        if event.size + 16 <= slot:
            return number
    room = max(slot for slot, _ in sizes) - 16
    raise UsageError(
        f"event {event.name} has {event.size} bytes of fields; {room} fit", hint="open the log with a larger large="
    )


_tick: list[tuple[str, int]] = []


def _clock(native: bool) -> tuple[str, int, Callable[[], Calibration]]:
    """Name and rate of the clock that stamps come from, and how it is read together with UTC."""
    if not native:
        return "monotonic", MONOTONIC, calibrate
    assert _native.module is not None
    read = _native.module.log_calibrate
    if not _tick:
        _tick.append(_native.module.log_clock())
    return *_tick[0], lambda: Calibration(*read())


def _explainer(event: Event) -> Callable[[BaseException | None, tuple[Any, ...]], NoReturn]:
    """What is raised for values that do not fit the declaration, the same for both kinds."""

    def explain(error: BaseException | None, values: tuple[Any, ...]) -> NoReturn:
        if error is not None and not isinstance(error, struct_error | OverflowError | TypeError | AttributeError):
            raise error
        if len(values) != len(event.fields):
            raise TypeError(f"event {event.name} takes {len(event.fields)} values, not {len(values)}") from None
        for field, value in zip(event.fields, values, strict=True):
            try:
                if field.limit:
                    cut(value, field.limit)
                    continue
                parse(0, "x", f"{{x:{field.kind}}}", 20).packer(64).pack(0, value, 1)
            except (struct_error, OverflowError, TypeError, AttributeError) as bad:
                words = f"event {event.name}: field {field.name} is {field.kind}, which {value!r} does not fit"
                number = hasattr(value, "__index__") or (field.kind == "f8" and hasattr(value, "__float__"))
                kind = OverflowError if number and not field.limit else TypeError
                raise kind(words) from bad
        raise TypeError(f"event {event.name}: {values!r} do not fit its fields") from error

    return explain


assert len(BUILT_IN) < _FIRST_ID
