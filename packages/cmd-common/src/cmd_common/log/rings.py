"""The mapped file that the caller's thread writes into, and its rings in pure Python and native.

A ring is a row of slots in the file. A caller takes the next free slot and writes its record into it, the number of
the event last; the drain copies complete slots out in order, empties them and gives them back. What a killed process
leaves behind is in the page cache of the system, so nothing that was logged is lost.

Pure Python: the free slots are memoryviews in a deque, whose ``popleft`` is atomic; nothing is allocated and no
position is computed. Native: positions in atomics, one writer at a time by the GIL.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from cmd_common import _native

from .events import Event, cut
from .layout import LIVE, PAGE, RING_MAGIC, RINGS, STATE_AT, VERSION, VOID, RingState, pack_state

__all__ = ["Emit", "PureRing", "Ring", "RingFile", "native_emitter", "native_ring", "pure_emitter"]


class Emit(Protocol):
    """What ``Logger.event`` returns: called with the event's fields, in order."""

    def __call__(self, *values: float | int | bool | str) -> None:
        """Log the event."""


class Ring:
    """What both kinds share: reading, emptying. Positions count records since the start of the session."""

    def __init__(self, view: memoryview, slot: int, count: int) -> None:
        self.slot, self.count = slot, count
        self.tail = 0  # position of the next record to drain
        self._view = view
        self._words = view.cast("I")
        self._stamps = view.cast("Q")
        self._zeros = memoryview(bytes(slot * count))

    def taken(self) -> int:
        """Slots that were taken and are not drained; the last of them may not be complete yet."""
        raise NotImplementedError

    def give_back(self, n: int) -> None:
        """Let callers use the ``n`` slots from ``tail``, which were emptied; moves ``tail``."""
        raise NotImplementedError

    def take(self) -> Any:
        """What callers take slots with."""
        raise NotImplementedError

    def ready(self, most: int) -> int:
        """Complete slots from ``tail`` that lie together, at most ``most``."""
        first = self.tail % self.count
        n = min(self.taken(), self.count - first, most)
        if n:
            step = self.slot // 4
            numbers = self._words[(first + 1) * step - 1 : (first + n) * step : step].tolist()
            if 0 in numbers:
                return numbers.index(0)
        return n

    def stamp(self, n: int) -> int:
        """Stamp of the ``n``-th slot from ``tail`` on, of those that ``ready`` counted."""
        return int(self._stamps[(self.tail + n) % self.count * self.slot // 8])

    def copy(self, n: int) -> bytes:
        """The next ``n`` slots."""
        first = self.tail % self.count * self.slot
        return bytes(self._view[first : first + n * self.slot])

    def clear(self, n: int) -> None:
        """Empty the next ``n`` slots."""
        first = self.tail % self.count * self.slot
        self._view[first : first + n * self.slot] = self._zeros[: n * self.slot]

    def give_up(self) -> None:
        """Mark the next slot, which somebody took and never wrote, as complete and void."""
        self._words[(self.tail % self.count + 1) * self.slot // 4 - 1] = VOID

    def close(self) -> None:
        """Let go of the memory; nobody can take a slot any more."""
        self._view, self._words, self._stamps = memoryview(b""), memoryview(b"").cast("I"), memoryview(b"").cast("Q")
        self._zeros = memoryview(b"")


class PureRing(Ring):
    """Free slots in a deque."""

    def __init__(self, view: memoryview, slot: int, count: int) -> None:
        super().__init__(view, slot, count)
        self._slots = [view[n * slot : (n + 1) * slot] for n in range(count)]
        self._free: deque[memoryview] = deque(self._slots)

    def taken(self) -> int:
        """All slots that are not free."""
        return self.count - len(self._free) if self._slots else 0

    def give_back(self, n: int) -> None:
        """Append them to the free ones."""
        first = self.tail % self.count
        self.tail += n
        self._free.extend(self._slots[first : first + n])

    def take(self) -> Callable[[], memoryview]:
        """Return the function that gives the next free slot, or raises IndexError."""
        return self._free.popleft

    def close(self) -> None:
        """Leave no slot."""
        self._free.clear()
        self._slots = []
        super().close()


class _NativeRing(Ring):
    """Positions in the native part, which writes the slots."""

    def __init__(self, view: memoryview, slot: int, count: int) -> None:
        super().__init__(view, slot, count)
        assert _native.module is not None
        self._ring = _native.module.LogRing(view, slot, count)

    def taken(self) -> int:
        try:
            return int(self._ring.head()) - self.tail
        except ValueError:  # another thread has closed it
            return 0

    def give_back(self, n: int) -> None:
        self.tail += n
        self._ring.free_to(self.tail + self.count)

    def take(self) -> Any:
        return self._ring

    def close(self) -> None:
        self._ring.close()
        super().close()


def native_ring(view: memoryview, slot: int, count: int) -> Ring:
    """A ring that native emitters write."""
    return _NativeRing(view, slot, count)


class RingFile:
    """The mapped file: a page of header, the rings, then frames that say what the numbers mean."""

    def __init__(self, path: str, sizes: list[tuple[int, int]], session: int, make: Callable[..., Ring]) -> None:
        self.path = path
        self._places: list[tuple[int, int, int]] = []
        end = PAGE
        for slot, count in sizes[:RINGS]:
            self._places.append((slot, count, end))
            end += slot * count
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115  # it stays open
        try:
            self._file.truncate(end)
            if hasattr(os, "posix_fallocate"):  # a full disk must fail here, not as a signal when a page is touched
                os.posix_fallocate(self._file.fileno(), 0, end)
            self._map = mmap.mmap(self._file.fileno(), end)
        except BaseException:
            self._file.close()
            raise
        self._view = memoryview(self._map)
        self._live = self._view[LIVE : LIVE + 16 * RINGS].cast("Q")
        self._view[:24] = (
            RING_MAGIC + VERSION.to_bytes(4, "little") + session.to_bytes(4, "little") + end.to_bytes(8, "little")
        )
        self.rings = [make(self._view[at : at + slot * count], slot, count) for slot, count, at in self._places]
        self._end = end

    @property
    def places(self) -> list[tuple[int, int, int]]:
        """Slot size, slots and offset of each ring."""
        return self._places

    def append(self, data: bytes) -> None:
        """Add frames after the rings."""
        self._file.seek(self._end)
        self._file.write(data)
        self._end += len(data)

    def state(self, state: RingState) -> None:
        """Write a new state over the older copy."""
        data = pack_state(state)
        at = STATE_AT[state.number % 2]
        self._view[at : at + len(data)] = data

    def lost(self, ring: int, dropped: int, overwritten: int) -> None:
        """Say at once how many records of a ring were dropped and overwritten."""
        self._live[2 * ring] = dropped
        self._live[2 * ring + 1] = overwritten

    def close(self, *, remove: bool) -> None:
        """Let go of the file; the map goes when the last caller that was within a call has left it."""
        for ring in self.rings:
            ring.close()
        self._live = memoryview(b"").cast("Q")
        self._view = memoryview(b"")
        del self._map
        self._file.close()
        if remove:
            try:
                os.remove(self.path)
            except FileNotFoundError:
                pass


_SOURCE: Final = """\
def make(packer, mark, clock, cut, NUMBER, explain):
    off, pack, take, full = True, None, None, None
    def emit({arguments}):
        if off:
            return{cuts}
        try:
            slot = take()
        except IndexError:
            slot = full()
            if slot is None:
                return
        try:
            pack(slot, 0, clock(), {values}NUMBER)
        except BaseException as error:
            mark(slot)
            explain(error, ({values}))
    def bind(ring, new_full):
        nonlocal off, pack, take, full
        if ring is None:
            off = True
        else:
            pack, take, full, off = packer(ring.slot).pack_into, ring.take(), new_full, False
    return emit, bind
"""
Bind = Callable[[Ring | None, Any], None]


def _mark(slot: memoryview) -> None:
    slot[-4:] = VOID.to_bytes(4, "little")


def pure_emitter(
    event: Event, clock: Callable[[], int], explain: Callable[[BaseException, tuple[Any, ...]], None]
) -> tuple[Emit, Bind]:
    """Make the function that logs an event, and the one that binds it to a ring or, with None, to nothing.

    It is written for exactly the event's fields: a loop over them would cost more than the record itself.
    """
    names = [f"a{n}" for n in range(len(event.fields))]
    values = "".join(f"{n}, " for n in names)
    texts = [(n, f.limit) for n, f in zip(names, event.fields, strict=True) if f.limit]
    cuts = ""
    if texts:
        each = "".join(f"\n            {n} = cut({n}, {limit})" for n, limit in texts)
        cuts = f"\n        given = ({values})\n        try:{each}\n        except AttributeError as error:\n            explain(error, given)"
    arguments = f"{', '.join(names)}, /" if names else ""
    scope: dict[str, Any] = {}
    exec(_SOURCE.format(arguments=arguments, values=values, cuts=cuts), scope)
    emit, bind = scope["make"](event.packer, _mark, clock, cut, event.id, explain)
    emit.__name__ = emit.__qualname__ = event.name
    emit.__doc__ = event.format
    return emit, bind


def native_emitter(event: Event, explain: Callable[[BaseException | None, tuple[Any, ...]], None]) -> tuple[Emit, Bind]:
    """The same, native."""
    assert _native.module is not None
    emitter = _native.module.LogEmitter(event.id, [(f.kind, f.limit) for f in event.fields], explain)

    def bind(ring: Ring | None, full: Any) -> None:
        emitter.bind(None if ring is None else ring.take(), full)

    return emitter.function(), bind
