"""A walk's pages on disk: every page with its cursor, so that a killed archiver goes on where it was.

Theory of operation. The file is a line that names the walk, then frames: length and CRC-32 of a body,
and the body, which holds the cursor that was asked, the page's records and the next cursor. A frame is
synced before the next page is asked for. A torn frame at the end (kill, power loss) is cut off: its page
is asked for again. The file of another walk, or of another version of this format, is begun anew.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct as Packed
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from cmd_common.history import HistoryPage, Walk
from cmd_common.records import AggTrade, Candle, Trade

__all__ = ["Page", "PagesFile"]

_MAGIC: Final = b"CMDPAGES1 "
_HEAD: Final = Packed("<II")  # length, CRC-32
_LIMIT: Final = 1 << 30  # no page is larger


class Page(Struct, frozen=True, array_like=True):
    """One page: ``asked`` is its own cursor, empty for the first; ``cursor`` None ends the walk."""

    asked: str
    cursor: str | None
    records: tuple[Trade | AggTrade | Candle, ...]
    lost: str = ""
    lost_span: tuple[int, int] | None = None


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(Page).decode


def _frames(file: BinaryIO) -> Iterator[bytes]:
    """The bodies of whole frames; the file is left behind the last of them."""
    while True:
        place = file.tell()
        head = file.read(_HEAD.size)
        length, crc = _HEAD.unpack(head) if len(head) == _HEAD.size else (_LIMIT, 0)
        body = file.read(length) if length < _LIMIT else b""
        if len(body) < length or zlib.crc32(body) != crc:
            file.seek(place)
            return
        yield body


class PagesFile:
    """The pages of one walk. ``cursor`` is what to ask next, empty for the first page, None when complete."""

    def __init__(self, path: Path, walk: Walk) -> None:
        """Open what an earlier run left, or begin anew. Raises OSError."""
        self.path = path
        self.cursor: str | None = ""
        self.pages = 0
        self.records = 0
        self.asked: set[str] = set()
        self.lost_all = ""  # why nothing of the walk is to be had, where a page said so
        self._first = _MAGIC + msgspec.json.encode(walk) + b"\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+")
        self._file.seek(0)
        if self._file.readline(1 << 16) != self._first:
            self.begin()
            return
        for body in _frames(self._file):
            try:
                self._note(_DECODE(body))
            except (msgspec.MsgspecError, UnicodeDecodeError):  # another version of the records
                self.begin()
                return
        self._file.truncate(self._file.tell())

    def begin(self) -> None:
        """Forget all pages."""
        self.cursor, self.pages, self.records, self.lost_all = "", 0, 0, ""
        self.asked.clear()
        self._file.truncate(0)
        self._file.write(self._first)
        self._file.flush()

    def _note(self, page: Page) -> None:
        self.cursor = page.cursor
        self.pages += 1
        self.records += len(page.records)
        self.asked.add(page.asked)
        if page.lost and page.lost_span is None:
            self.lost_all = page.lost

    def append(self, asked: str, page: HistoryPage) -> None:
        """Add a page; durable on return. Raises OSError."""
        kept = Page(
            asked,
            page.cursor,
            tuple(r for r in page.records if isinstance(r, Trade | AggTrade | Candle)),
            page.lost,
            page.lost_span,
        )
        body = _ENCODE(kept)
        self._file.seek(0, os.SEEK_END)
        self._file.write(_HEAD.pack(len(body), zlib.crc32(body)) + body)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._note(kept)

    def read(self) -> Iterator[Page]:
        """Yield all pages, in the order in which they came."""
        with self.path.open("rb") as file:
            file.readline(1 << 16)
            for body in _frames(file):
                yield _DECODE(body)

    def close(self) -> None:
        """Release; calling it again does nothing."""
        self._file.close()
