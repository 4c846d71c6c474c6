"""Recordings: what exchanges sent, one frame a line, verbatim.

    {"recv_ns": int|null, "src": "ws|rest|ws_out|ws_open|sample", "url": optional, "msg": <raw JSON>}

``msg`` is the text of the frame or body exactly as it came (number texts matter for checksums), so
the reader cuts it out between ``"msg":`` and the last ``}`` of the line and parses nothing. Files are
plain, ``.gz`` or ``.zst``. A recorder that was killed leaves a torn last line or a torn compressed
stream: everything before it is read and ``Recording.torn`` says so.

Usage::

    for line in read("btcusdt.ndjson.gz"):
        print(line.recv_ns, line.src, line.url, line.text)

    file.write(frame_line(now, "ws", None, frame))
"""

from __future__ import annotations

import gzip
import heapq
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import msgspec
from msgspec import Struct

from .errors import DataError, UsageError

__all__ = ["Line", "Playlist", "Recording", "Span", "frame_line", "read", "redact"]

_TEXT = r'"(?:[^"\\]|\\.)*"'
_LINE = re.compile(
    r'\s*\{\s*"recv_ns"\s*:\s*(?:null|(-?\d+))\s*,\s*"src"\s*:\s*"(\w+)"\s*,'
    # Any further keys with plain values, the url among them.
    rf'\s*((?:"(?!msg")\w+"\s*:\s*(?:{_TEXT}|[\w.+-]+)\s*,\s*)*)"msg"\s*:\s*(.*\S)\s*\}}\s*$'
)
_URL = re.compile(r'"url"\s*:\s*"((?:[^"\\]|\\.)*)"')
_SECRET = re.compile(
    rf'("(?:signature|sign|secret|key|api_?key|passphrase|password|token|jwt)"\s*:\s*){_TEXT}', re.IGNORECASE
)
_FILE_GAP = 60_000_000_000  # between two files played one after the other, a longer pause is cut out


class Line(Struct, frozen=True, gc=False):
    """One line: ``recv_ns`` is None where the receive time is not known; ``text`` is the message, verbatim."""

    recv_ns: int | None
    src: str
    url: str | None
    text: str


class Span(Struct, frozen=True):
    """First and last time of a file, ns; and what was wrong with it."""

    first: int
    last: int
    lines: int
    torn: bool
    bad_lines: int


class Recording:
    """One file of a recording; iterate it for its lines, as often as wanted.

    After an iteration ``torn`` says whether the end was cut off, ``bad_lines`` counts lines elsewhere
    that are not in the format (they are left out) and ``lines`` counts the good ones.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.torn = False
        self.bad_lines = 0
        self.lines = 0

    def _open(self) -> IO[str]:
        try:
            if self.path.suffix == ".gz":
                return gzip.open(self.path, "rt", encoding="utf-8", errors="surrogateescape", newline="\n")
            if self.path.suffix == ".zst":
                try:
                    import zstandard
                except ModuleNotFoundError as error:
                    if error.name != "zstandard":
                        raise
                    raise UsageError(
                        f"{self.path} is compressed with zstd", hint="install the package zstandard"
                    ) from None
                raw = io.BufferedReader(_ZstdFile(open(self.path, "rb"), zstandard))  # noqa: SIM115
                return io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", newline="\n")
            return open(self.path, encoding="utf-8", errors="surrogateescape", newline="\n")
        except OSError as error:
            raise UsageError(f"cannot read the recording {self.path}: {error.strerror or error}") from error

    def __iter__(self) -> Iterator[Line]:
        self.torn, self.bad_lines, self.lines = False, 0, 0
        match = _LINE.match
        with self._open() as file:
            lines = iter(file)
            while True:
                try:
                    raw = next(lines)
                except StopIteration:
                    return
                except (EOFError, gzip.BadGzipFile, zlib.error):
                    self.torn = True
                    return
                except OSError as error:
                    raise DataError(f"cannot read the recording {self.path}: {error.strerror or error}") from error
                except Exception as error:
                    if type(error).__module__.partition(".")[0] != "zstandard":
                        raise
                    self.torn = True
                    return
                found = match(raw)
                if not raw.endswith("\n") and not (found and _is_json(found[4])):
                    # Only the last line lacks its end of line; a cut number would still look like JSON,
                    # but the closing brace of the line itself is then missing.
                    self.torn = bool(raw.strip())
                    return
                if found is None:
                    self.bad_lines += bool(raw.strip())
                    continue
                received, src, extra, text = found.groups()
                url = found_url[1] if extra and (found_url := _URL.search(extra)) else None
                try:
                    line = Line(int(received) if received is not None else None, src, _unescape(url), text)
                except ValueError:  # an escape that is none, a time of thousands of digits
                    self.bad_lines += 1
                    continue
                self.lines += 1
                yield line


class _ZstdFile(io.RawIOBase):
    """Reads a zstd file of one or more frames up to a torn end.

    The library's own reader keeps back what it has decoded when a stream ends without its last block.
    """

    def __init__(self, file: IO[bytes], zstandard: Any) -> None:
        self._file = file
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._z = self._new()
        self._fed = False  # whether the frame that is being read has begun
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._file.read(65_536)
            if not data:
                if self._fed:
                    raise EOFError("the file ends inside of a zstd frame")
                return 0
            out = bytearray()
            while data:
                self._fed = True
                out += self._z.decompress(data)
                data = b""
                if self._z.eof:
                    data = self._z.unused_data
                    self._z = self._new()
                    self._fed = False
            self._ready = memoryview(bytes(out))
        n = min(len(self._ready), len(buffer))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n

    def close(self) -> None:
        self._file.close()
        super().close()


_RAW = msgspec.json.Decoder(msgspec.Raw)  # checks the form and builds nothing


def _is_json(text: str) -> bool:
    try:
        _RAW.decode(text.encode("utf-8", "surrogateescape"))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def _unescape(text: str | None) -> str | None:
    if text is None or "\\" not in text:
        return text
    return cast("str", msgspec.json.decode(f'"{text}"'.encode()))


def read(path: str | Path) -> Iterator[Line]:
    """Yield the lines of a recording, oldest first; use ``Recording`` to learn about a torn end."""
    return iter(Recording(path))


def redact(text: str) -> str:
    """Return a frame that we sent without its secrets: keys, signatures, passphrases and tokens become ``***``."""
    return _SECRET.sub(r'\1"***"', text)


def frame_line(recv_ns: int | None, src: str, url: str | None, text: str) -> bytes:
    """Return one line, with its end of line, for a frame or body that is JSON text.

    Text that is not JSON (or spans lines) is written as a JSON string, so that a line stays a line. What we
    sent (``ws_out``) is written without its secrets, see ``redact``.
    """
    if src == "ws_out":
        text = redact(text)
    if not _is_json(text):  # also one that only begins like it: a torn frame
        text = msgspec.json.encode(text).decode()
    elif "\n" in text or "\r" in text or text[0] in " \t":
        # Line ends inside JSON are only white space: inside strings they are escaped.
        text = text.strip().replace("\r", " ").replace("\n", " ")
    head = f'{{"recv_ns":{"null" if recv_ns is None else recv_ns},"src":"{src}",'
    if url is not None:
        head += f'"url":{msgspec.json.encode(url).decode()},'
    return f'{head}"msg":{text}}}\n'.encode("utf-8", "surrogateescape")


class Playlist:
    """Plays several files on one timeline.

    Files whose times overlap are merged by time (one recorder with several connections); others play
    one after the other in the given order, and a pause of more than a minute between two of them, or
    a step back, is cut out. ``event_time`` gives the time (ns) of a line without a receive time.
    ``spans`` must come from ``Playlist.scan``.
    """

    def __init__(
        self, paths: Sequence[str | Path], spans: Sequence[Span], event_time: Callable[[Line], int | None]
    ) -> None:
        self._event_time = event_time
        self._groups: list[tuple[list[tuple[Path, Span]], int, int]] = []
        for path, span in zip(paths, spans, strict=True):
            if not span.lines:
                continue
            item = (Path(path), span)
            if self._groups:
                members, first, last = self._groups[-1]
                if span.first <= last and first <= span.last:
                    members.append(item)
                    self._groups[-1] = (members, min(first, span.first), max(last, span.last))
                    continue
            self._groups.append(([item], span.first, span.last))

    @staticmethod
    def scan(
        path: str | Path, event_time: Callable[[Line], int | None], visit: Callable[[Line], Any] | None = None
    ) -> Span:
        """Read a whole file once for its span, showing every line to ``visit``."""
        recording = Recording(path)
        first: int | None = None
        last = 0
        for line in recording:
            ts = line.recv_ns
            if ts is None:
                ts = event_time(line)
            if ts is not None:
                if first is None or ts < first:
                    first = ts
                if ts > last:
                    last = ts
            if visit is not None:
                visit(line)
        return Span(first or 0, last, recording.lines, recording.torn, recording.bad_lines)

    def _lines(self, path: Path, span: Span) -> Iterator[tuple[int, Line]]:
        ts = span.first
        for line in Recording(path):
            time = line.recv_ns
            if time is None:
                time = self._event_time(line)
            if time is not None and time > ts:  # never back: the order of lines is the order of arrival
                ts = time
            yield ts, line

    def __iter__(self) -> Iterator[tuple[int, Line]]:
        """Yield (timeline ns, line); timeline times never fall."""
        shift = 0
        end: int | None = None
        for members, first, last in self._groups:
            if end is not None:
                pause = first + shift - end
                if pause < 0 or pause > _FILE_GAP:
                    shift = end - first
            streams = [self._lines(path, span) for path, span in members]
            merged = streams[0] if len(streams) == 1 else heapq.merge(*streams, key=lambda item: item[0])
            if shift:
                for ts, line in merged:
                    yield ts + shift, line
            else:
                yield from merged
            end = last + shift

    @property
    def first(self) -> int:
        """Timeline time of the first line."""
        return self._groups[0][1] if self._groups else 0
