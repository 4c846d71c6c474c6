"""Following a log that is being written, over rotations, and beyond the death of its writer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from .decode import Batch, Decoder, FrameSplitter, Lost, known
from .files import numbered
from .layout import START
from .leftover import read_ring, ring_batch
from .render import Record

__all__ = ["Follower"]

_CHUNK: Final = 1 << 20
_IDLE: Final = 3  # polls without news, after which the ring is looked at: its writer may be dead


class Follower:
    """Yields what is new at every ``poll``; begins with the current file, which need not exist yet.

    A file that is rotated away is read to its end, then those that followed it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._decoder = Decoder()
        self._splitter = FrameSplitter(self.path)
        self._fd = -1
        self._idle = 0

    @property
    def lost(self) -> list[Lost]:
        """What could not be read until now."""
        return [*self._decoder.lost, *self._splitter.lost]  # a torn frame at the end may be being written

    def poll(self) -> Iterator[Batch]:
        """Yield what was written since the last poll."""
        news = False
        while True:
            if self._fd < 0 and not self._open(self.path):
                break
            for batch in self._rest():
                news = True
                yield batch
            following = self._following()
            if following is None:
                break
            for batch in self._rest(last=True):  # what came between reading and looking
                news = True
                yield batch
            self.close()
            if not self._open(following):
                break
        self._idle = 0 if news else self._idle + 1
        if self._idle >= _IDLE:
            yield from self.ring()

    def exists(self) -> bool:
        """Whether there is something to follow."""
        return os.path.isfile(self.path) or os.path.isfile(f"{self.path}.ring")

    def known(self, batch: Batch) -> Iterator[Record]:
        """Yield the records of a batch that can be shown, and count the others."""
        return known(batch, self.path, self._decoder.lost)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, path: str) -> bool:
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            return False
        self._decoder.lost += self._splitter.lost
        self._splitter = FrameSplitter(self.path)
        return True

    def _rest(self, *, last: bool = False) -> Iterator[Batch]:
        while data := os.read(self._fd, _CHUNK):
            for frame in self._splitter.feed(data):
                yield from self._decoder.take(frame, self.path)
        if last:
            for frame in self._splitter.end():
                yield from self._decoder.take(frame, self.path)
        yield from self._decoder.flush()  # the frames of a batch are written at once

    def _following(self) -> str | None:
        """The file after ours, where ours is not the current one any more."""
        mine = os.fstat(self._fd)
        try:
            if os.path.samestat(os.stat(self.path), mine):
                return None
        except FileNotFoundError:
            return None  # it is just being rotated
        later = None
        for _, path in reversed(numbered(self.path)):
            try:
                if os.path.samestat(os.stat(path), mine):
                    return later or self.path
            except FileNotFoundError:
                continue
            later = path
        return later or self.path  # ours was removed: the oldest that is left

    def ring(self) -> Iterator[Batch]:
        """Yield what is in the ring and was not read from the file."""
        content = read_ring(f"{self.path}.ring", [])
        state = self._decoder.sessions.get(content.session) if content else None
        if content is None or state is None:
            return
        for frame in content.frames:
            if frame.kind != START:  # it is that of the file
                yield from self._decoder.take(frame, self.path)
        if batch := ring_batch(content, state, self.path, []):
            yield batch
