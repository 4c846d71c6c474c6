"""Plays what a store holds to the hub, at a speed, until live data goes on; the seam decides what of both is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from cmd_common.records import FeedStatus, Record
from cmd_common.seams import Clock

from .history import Reading, known_at
from .messages import REPLAYED
from .seam import LiveBook, Seam

__all__ = ["Player", "Publish", "Room"]

Publish = Callable[[Sequence[Record], int], None]
"""Takes records and flags that are added to their messages."""
Room = Callable[[], Awaitable[int]]
"""Waits until readers have room; returns how many records they take at once."""

PATIENCE: Final = 5_000_000_000  # ns without a new row, after which a store counts as complete
_AGAIN: Final = 200_000_000  # ns between two passes over a store that is being recorded into
_LONGEST: Final = 5_000_000_000  # ns that nothing is sent because nothing was recorded: longer holes are shortened
_AT_ONCE: Final = 256  # rows that are published at a time where they are due at once


class Player:
    """Publishes a ``Reading``, then joins live records that came meanwhile; one task plays, ``live`` is called beside it.

    ``speed``: times real time, 0 as fast as readers take it. Nothing is awaited between the seam's judgement of a
    record and its publication, so that nothing can overtake it.
    """

    def __init__(
        self,
        reading: Reading,
        publish: Publish,
        clock: Clock,
        room: Room,
        *,
        speed: float = 0.0,
        hold: int = 500_000,
        patience: int = PATIENCE,
    ) -> None:
        self.seam = Seam(hold)
        self.played = 0
        self._reading = reading
        self._publish = publish
        self._clock = clock
        self._room = room
        self._speed = speed
        self._patience = patience
        self._origin: tuple[int, int] | None = None  # a moment of history, and ours at which it is due

    def live(self, records: Sequence[Record]) -> None:
        """Take live records: held before the join, published after it."""
        if records := self.seam.live(records):
            self._publish(records, 0)

    async def play(self, *, join: bool, instruments: bool, live_book: LiveBook | None = None) -> None:
        """Publish the store from its start; with ``join`` live data follows, else it ends there. Raises StoreError.

        ``instruments``: reference data comes from the store, for there is no live source that tells it.
        """
        reading = self._reading
        try:
            if instruments and (known := await _in_thread(reading.instruments)):
                self._publish(known, 0)
            await self._give(await _in_thread(reading.book_at_start))
            progress = self._clock.monotonic()
            while True:
                rows = await _in_thread(reading.next)
                if rows:
                    if await self._give(rows):
                        progress = self._clock.monotonic()
                    continue
                if not join:
                    return
                if self.seam.complete or self._clock.monotonic() - progress >= self._patience:
                    break
                await self._clock.sleep(_AGAIN)
        finally:
            reading.close()
        self._publish(self.seam.join(live_book), 0)

    async def _give(self, rows: Sequence[Record]) -> int:
        """Publish rows when they are due; returns how many of them were not told already."""
        given = n = 0
        while n < len(rows):
            end = min(n + min(await self._room(), _AT_ONCE), len(rows))
            if self._speed:
                end = await self._due(rows, n, end)
            fresh = self.seam.stored(rows[n:end])
            if fresh:
                self._publish(fresh, REPLAYED)
                given += len(fresh)
            n = end
            await asyncio.sleep(0)  # live data and clients have their turn
        self.played += given
        return given

    async def _due(self, rows: Sequence[Record], start: int, end: int) -> int:
        """Wait until the first of ``rows[start:end]`` is due; returns the end of those that are."""
        while True:
            now = self._clock.monotonic()
            n = start
            wait = 0
            while n < end:
                record = rows[n]
                if not isinstance(record, FeedStatus):  # its time is of another clock: it goes with the row before it
                    wait = self._until(known_at(record), now)
                    if wait > 0:
                        break
                n += 1
            if n > start:
                return n
            await self._clock.sleep(wait)

    def _until(self, moment: int, now: int) -> int:
        """How many ns are left until a moment of history."""
        if self._origin is None:
            self._origin = moment, now
        begin, at = self._origin
        left = at + int((moment - begin) / self._speed) - now
        if left > _LONGEST:
            self._origin = moment, now + _LONGEST
            left = _LONGEST
        return left


async def _in_thread(call: Callable[[], list[Record]]) -> list[Record]:
    """Call it in a thread; where this is cancelled the call is waited for, for a reader has one user at a time."""
    work = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # nobody is left to be told
        raise
