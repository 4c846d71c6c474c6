"""Reading a whole log: rotated files, the current one, and what is still in the ring."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from cmd_common.errors import UsageError

from .decode import Batch, Decoder, FrameSplitter, Lost, known
from .files import Session, numbered
from .layout import FRAME_MAGIC, MAX_FRAME, START
from .leftover import RingContent, read_ring, ring_batch
from .render import Record

__all__ = ["Reader", "read"]

_CHUNK: Final = 1 << 20


class Reader:
    """All that a log holds: rotated files, the current file, the ring.

    ``lost`` fills while it is read. A log that is being written can be read; it ends where it is at that moment.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._decoder = Decoder()
        files = [p for _, p in numbered(self.path)]
        if os.path.isfile(self.path):
            files.append(self.path)
        if not files and not os.path.isfile(f"{self.path}.ring"):
            raise UsageError(f"there is no log at {self.path}")
        self.files = files

    @property
    def lost(self) -> list[Lost]:
        """What could not be read until now."""
        return self._decoder.lost

    @property
    def sessions(self) -> list[Session]:
        """The runs that wrote it."""
        return [s.session for s in self._decoder.sessions.values()]

    @property
    def open_ends(self) -> int:
        """Runs that were not closed: they were killed, or are running."""
        return sum(not s.ended for s in self._decoder.sessions.values())

    def batches(self) -> Iterator[Batch]:
        """Yield everything in order."""
        ring_path = f"{self.path}.ring"
        content = read_ring(ring_path, self.lost)
        if content is not None:
            self._decoder.learn(content.frames)
            if content.state is not None:
                self._decoder.limits[content.session] = [r.tail for r in content.state.rings]
        for path in self.files:
            yield from self._file(path, content if path == self.path else None)
        if content is not None:
            yield from self._ring(content, ring_path)

    def _ring(self, content: RingContent, path: str) -> Iterator[Batch]:
        state = self._decoder.sessions.get(content.session)
        known = state is not None and state.known
        for frame in content.frames:
            if not (known and frame.kind == START):
                yield from self._decoder.take(frame, path)
        state = self._decoder.sessions.get(content.session)
        if state is None:
            self.lost.append(Lost(path, "declarations are damaged: what it held is not known"))
            return
        batch = ring_batch(content, state, path, self.lost)
        if batch is not None:
            yield batch

    def records(self) -> Iterator[Record]:
        """Yield every record that can be read; the others are counted in ``lost``."""
        for batch in self.batches():
            yield from self.known(batch)

    def known(self, batch: Batch) -> Iterator[Record]:
        """Yield the records of a batch that can be shown, and count the others."""
        return known(batch, self.path, self.lost)

    def _file(self, path: str, ring: RingContent | None) -> Iterator[Batch]:
        splitter = FrameSplitter(path)
        try:
            f = open(path, "rb")  # noqa: SIM115  # closed below
        except FileNotFoundError:  # rotated away since the folder was listed
            self.lost.append(Lost(path, "was removed while it was read"))
            return
        with f:
            first = f.read(_CHUNK)
            if first and FRAME_MAGIC not in first and len(first) < MAX_FRAME and not _binary(first):
                raise UsageError(f"{path} is no binary log", hint="logs of format text and json are read as they are")
            data = first
            while data:
                for frame in splitter.feed(data):
                    yield from self._decoder.take(frame, path)
                data = f.read(_CHUNK)
        for frame in splitter.end():
            yield from self._decoder.take(frame, path)
        yield from self._decoder.flush()
        self.lost.extend(splitter.lost)
        if splitter.torn is not None and (ring is None or ring.state is None):  # else the ring has what it would say
            self.lost.append(splitter.torn)


def _binary(data: bytes) -> bool:
    """Whether a file without any frame may be a damaged binary log, and no text."""
    return any(b < 9 for b in data)


def read(path: str | os.PathLike[str]) -> Reader:
    """Open a log for reading; raises UsageError where there is none."""
    return Reader(path)
