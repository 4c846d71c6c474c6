"""A virtual-clock event loop and clock: hours of waiting pass in microseconds, in one fixed order.

``VirtualLoop`` is an asyncio event loop without a selector. When nothing is ready, time jumps to the
next timer; when no timer is left either, the program waits for something that can never happen and
``DeadlockError`` says so. Nothing sleeps, polls a file descriptor or starts a thread:
``run_in_executor`` (and with it ``asyncio.to_thread``) calls the function inside the loop.

The order of everything is fixed: ready callbacks run first in, first out, timers by (time, order of
creation), and tasks hash by their order of creation, so that even code which iterates over a set of
tasks (``asyncio.wait``, ``TaskGroup``) does so in the same order in every run.

``VirtualClock`` is the ``Clock`` seam on top of it. Its wall time can jump, as a real one does when
somebody sets it; its monotonic time cannot.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable, Coroutine, Generator
from math import ceil
from typing import Any, ParamSpec, TypeVar

__all__ = ["DeadlockError", "VirtualClock", "VirtualLoop", "VirtualTimeoutError"]

_T = TypeVar("_T")
_P = ParamSpec("_P")
_SECOND = 1_000_000_000


class DeadlockError(RuntimeError):
    """Every task waits and no timer is left: nothing can ever happen again."""


class VirtualTimeoutError(RuntimeError):
    """The virtual time or the number of steps that a run may take is used up."""


class _Task(asyncio.Task[_T]):
    """A task that hashes by its order of creation, so that sets of tasks have one order."""

    _order: int

    def __hash__(self) -> int:
        return self._order

    def __eq__(self, other: object) -> bool:
        return self is other


class _Timer(asyncio.TimerHandle):
    """A timer at a whole ns; orders by (time, order of creation)."""

    _ns: int
    _order: int

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, _Timer):
            return NotImplemented
        return (self._ns, self._order) < (other._ns, other._order)


class _Selector:
    """Stands in for the selector: 'waiting' moves the virtual time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise DeadlockError(f"nothing left to wait for at {self._loop.time():.6f} s: a task waits for ever")
        self._loop._advance(timeout)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time is virtual and whose order is fixed.

    ``limit`` is the virtual time in ns, ``steps`` the number of loop iterations, after which
    VirtualTimeoutError ends a run that does not end by itself.
    """

    def __init__(self, *, limit: int = 30 * 86_400 * _SECOND, steps: int = 10_000_000) -> None:
        super().__init__()
        self._ns = 0
        self._limit = limit
        self._steps_left = steps
        self._order = 0
        self._clock_resolution = 0.0  # timers stand half a ns before the ns at which they are due
        self._selector = _Selector(self)
        self.errors: list[dict[str, Any]] = []  # contexts that reached the exception handler
        self.set_exception_handler(lambda _loop, context: self.errors.append(context))
        self.set_task_factory(_make_task)

    @property
    def ns(self) -> int:
        """Virtual time in ns since the loop was made."""
        return self._ns

    def time(self) -> float:
        """Virtual time in seconds, as asyncio wants it."""
        return self._ns / 1e9

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back at a virtual time; equal times in the order of the calls."""
        self._check_closed()  # type: ignore[attr-defined]
        # Whole ns, so that 0.1 + 0.2 s is 0.3 s. A moment in the future is at least 1 ns away, or a program
        # that waits until a time is over could find it not yet over, again and again. asyncio sees half a ns
        # less, which makes a timer due as soon as the clock shows its ns.
        ns = ceil(when * 1e9 - 1e-3)
        if ns <= self._ns and when > self.time():
            ns = self._ns + 1
        timer = _Timer((ns - 0.5) / 1e9, callback, args, self, context)
        timer._ns = ns
        timer._order = self._order
        self._order += 1
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def call_at_ns(self, when: int, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call back at a virtual time in ns."""
        return self.call_at(when / 1e9, callback, *args)

    def _advance(self, timeout: float) -> None:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise VirtualTimeoutError(f"the run did not end within its number of steps; {self._doing()}")
        if timeout <= 0:
            return
        scheduled: list[_Timer] = self._scheduled  # type: ignore[attr-defined]
        self._ns = max(self._ns, scheduled[0]._ns)
        if self._ns > self._limit:
            raise VirtualTimeoutError(f"the run did not end within {self._limit / 1e9:.0f} virtual seconds")

    def _doing(self) -> str:
        """Words for what the loop is busy with."""
        ready: list[asyncio.Handle] = list(self._ready)  # type: ignore[attr-defined]
        soon: list[asyncio.Handle] = sorted(self._scheduled)[:3]  # type: ignore[attr-defined]
        return f"at {self._ns / 1e9:.9f} s; ready {[repr(h)[:200] for h in ready[:3]]}; timers {[repr(h)[:200] for h in soon]}"

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Call ``func`` in the loop's next iteration: no thread, one order."""
        future: asyncio.Future[_T] = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                future.set_exception(error)

        self.call_soon(run)
        return future

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end, then cancel what is left and close the loop.

        An exception that nobody retrieved (``errors``) is left for the caller to judge.
        """
        try:
            return self.run_until_complete(main)
        finally:
            self.shutdown()

    def shutdown(self) -> None:
        """Cancel the remaining tasks in the order of their creation and close the loop."""
        if self.is_closed():
            return
        self._limit = self._ns + 86_400 * _SECOND  # a run that used up its own gets enough to end cleanly
        self._steps_left = 100_000
        try:
            for _ in range(100):  # a task that survives cancellation is cancelled again
                tasks = sorted(asyncio.all_tasks(self), key=hash)
                if not tasks:
                    break
                for task in tasks:
                    task.cancel()
                self.run_until_complete(_settle(tasks))
            self.run_until_complete(self.shutdown_asyncgens())
        except (DeadlockError, VirtualTimeoutError):
            pass
        finally:
            self.close()

    # What BaseEventLoop asks of its subclass.

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


async def _settle(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks, timeout=1.0)


def _make_task(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T],
    context: contextvars.Context | None = None,
) -> asyncio.Task[_T]:
    assert isinstance(loop, VirtualLoop)
    task: _Task[_T] = _Task.__new__(_Task)
    task._order = loop._order  # before __init__, which registers the task by its hash
    loop._order += 1
    _Task.__init__(task, coro, loop=loop, name=f"task-{task._order}", context=context)
    return task


class VirtualClock:
    """The ``Clock`` seam on a VirtualLoop: monotonic time is the loop's, wall time can jump.

    ``start`` is the wall time in ns at the loop's zero.
    """

    def __init__(self, loop: VirtualLoop, start: int) -> None:
        self._loop = loop
        self._start = start
        self.offset = 0  # what jumps have added to the wall time, ns
        self.jumps = 0

    def now(self) -> int:
        """Wall time in ns, jumps included."""
        return self._start + self.offset + self._loop.ns

    def true_now(self) -> int:
        """Wall time in ns as if it had never jumped: the clock of everybody else."""
        return self._start + self._loop.ns

    def monotonic(self) -> int:
        """Time in ns since the loop was made; never jumps."""
        return self._loop.ns

    async def sleep(self, ns: int) -> None:
        """Wait for ``ns`` nanoseconds of virtual time."""
        await asyncio.sleep(ns / 1e9 if ns > 0 else 0)

    def jump(self, ns: int) -> None:
        """Set the wall time forward (or back, negative) by ``ns``."""
        self.offset += ns
        self.jumps += 1
