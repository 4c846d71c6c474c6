"""The text inside a published or local file: zip, gzip or plain, streamed, with every check that the packing has.

A piece is at most a few MiB, so memory does not grow with the file. What ends without an error was whole:
a zip has the CRC and size that its directory promises, a gzip those of its trailer.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from cmd_common.errors import DataError, ProtocolError

__all__ = ["BLOCK", "FAST", "Packed", "gunzip", "inflate", "locate", "members", "pieces"]

BLOCK: Final = 4 << 20  # bytes of text in one piece
_READ: Final = 256 << 10  # compressed bytes read at once
_GZIP: Final = 31  # zlib's window bits of a gzip header and trailer

Choose = Callable[[Sequence[str]], str]
"""Picks the member of a zip by the names of all; raises ProtocolError."""


def _codec() -> tuple[Any, Any, bool]:
    """Return (decompressobj, crc32, fast): ISA-L's where the extra ``fast`` is installed, else zlib's."""
    try:
        from isal import isal_zlib
    except ModuleNotFoundError as error:
        if error.name != "isal":
            raise
        return zlib.decompressobj, zlib.crc32, False
    fast: ModuleType = isal_zlib
    return fast.decompressobj, fast.crc32, True


_DECOMPRESS, _CRC32, FAST = _codec()


def _infos(path: Path, name: str) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename: info for info in archive.infolist() if not info.is_dir()}
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error) as error:
        raise DataError(f"{name} is not a whole zip: {error}") from None


def members(path: Path, name: str) -> tuple[str, ...]:
    """The names of the texts inside a file: a zip's members, else its own name without ``.gz``."""
    if name.lower().endswith(".zip"):
        return tuple(_infos(path, name))
    return (name[:-3] if name.lower().endswith(".gz") else name,)


def pieces(path: Path, name: str, choose: Choose) -> Iterator[bytes]:
    """Yield the text of a file in pieces; ``choose`` picks the member of a zip. Raises DataError."""
    lower = name.lower()
    if lower.endswith(".zip"):
        yield from inflate(path, name, choose)
    elif lower.endswith(".gz"):
        yield from gunzip(path, name)
    else:
        with path.open("rb", buffering=0) as raw:
            while piece := raw.read(BLOCK):
                yield piece


def gunzip(path: Path, name: str) -> Iterator[bytes]:
    """Yield the text of a gzip file, of one or several members; each trailer has been checked.

    Raises DataError for what is cut off, does not inflate or is followed by something else.
    """
    size = 0
    with path.open("rb", buffering=0) as raw:
        pending = raw.read(_READ)
        if not pending:
            raise DataError(f"{name} is empty")
        while pending:
            engine = _DECOMPRESS(_GZIP)
            while not engine.eof:
                try:
                    piece = engine.decompress(pending, BLOCK)
                except Exception as error:  # zlib.error and isal's own class have no common base
                    raise DataError(f"{name} does not inflate after {size} bytes: {error}") from None
                pending = engine.unconsumed_tail
                size += len(piece)
                if piece:
                    yield piece
                if engine.eof:
                    break
                if not pending and not (pending := raw.read(_READ)) and not piece:
                    raise DataError(f"{name} is not a whole gzip file: it ends after {size} bytes of text")
            pending = engine.unused_data or raw.read(_READ)
            while pending and not pending.strip(b"\0"):  # padding of some tools
                pending = raw.read(_READ)


class Packed(NamedTuple):
    """Where the packed text is in a file, and what a zip's directory promises of its member."""

    how: str  # plain, gzip, stored or deflate
    member: str = ""
    offset: int = 0
    length: int = 0
    size: int = 0
    crc: int = 0


def locate(path: Path, name: str, choose: Choose) -> Packed:
    """Find the text of a file; ``choose`` picks the member of a zip. Raises DataError.

    Nothing of the text is looked at: it may still be damaged or be cut off.
    """
    lower = name.lower()
    if not lower.endswith(".zip"):
        return Packed("gzip" if lower.endswith(".gz") else "plain")
    infos = _infos(path, name)
    try:
        info = infos[choose(tuple(infos))]
    except ProtocolError as error:
        raise DataError(error.message, hint=error.hint) from None
    if info.flag_bits & 1:
        raise DataError(f"{name}: {info.filename} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{name}: {info.filename} is packed by method {info.compress_type}, only deflate is known")
    head = b""
    if 0 <= info.header_offset < 1 << 62:  # a damaged directory tells others, too
        with path.open("rb", buffering=0) as raw:
            raw.seek(info.header_offset)
            head = raw.read(30)
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise DataError(f"{name} is not a whole zip: no local header for {info.filename}")
    name_length, extra_length = struct.unpack("<HH", head[26:30])
    offset = info.header_offset + 30 + name_length + extra_length
    how = "stored" if info.compress_type == zipfile.ZIP_STORED else "deflate"
    return Packed(how, info.filename, offset, info.compress_size, info.file_size, info.CRC)


def inflate(path: Path, name: str, choose: Choose) -> Iterator[bytes]:
    """Yield the text of the chosen member of a zip in pieces; at its end CRC and size have been checked.

    Raises DataError for anything that is not a whole zip with the expected member.
    """
    packed = locate(path, name, choose)
    member = packed.member
    engine = None if packed.how == "stored" else _DECOMPRESS(-15)
    crc, size, left = 0, 0, packed.length
    with path.open("rb", buffering=0) as raw:
        raw.seek(packed.offset)
        pending = b""
        while True:
            if not pending and left:
                pending = raw.read(min(_READ, left))
                if not pending:
                    raise DataError(f"{name} is not a whole zip: {left} bytes of {member} are missing")
                left -= len(pending)
            if engine is None:
                piece, pending = pending, b""
            else:
                try:
                    piece = engine.decompress(pending, BLOCK)
                except Exception as error:  # zlib.error and isal's own class have no common base
                    raise DataError(f"{name}: {member} does not inflate after {size} bytes: {error}") from None
                pending = engine.unconsumed_tail
            crc = _CRC32(piece, crc)
            size += len(piece)
            if size > packed.size:
                raise DataError(f"{name}: {member} is larger than the {packed.size} bytes that the zip says")
            if piece:
                yield piece
            if engine is None or engine.eof:
                if not left or engine is not None:
                    break
            elif not left and not pending and not piece:
                raise DataError(f"{name}: {member} ends after {size} of {packed.size} bytes")
    if size != packed.size:
        raise DataError(f"{name}: {member} has {size} bytes, the zip says {packed.size}")
    if crc != packed.crc:
        raise DataError(f"{name}: {member} has CRC {crc:08x}, the zip says {packed.crc:08x}")
