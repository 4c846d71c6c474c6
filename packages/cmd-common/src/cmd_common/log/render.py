"""Records as Python objects, lines of text and lines of JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from cmd_common import _native

from .events import Event, Field, Value, level_name
from .layout import DROPPED, OVERWRITTEN, VOID, Frame, check
from .stamps import Line

__all__ = ["BUILT_IN", "Record", "Table", "json_line", "lines", "records", "text_line"]

_NS: Final = 1_000_000_000
_ESCAPES: Final = {n: f"\\x{n:02x}" for n in (*range(32), 127)} | {9: "\\t", 10: "\\n", 13: "\\r", 92: "\\\\"}
_encode: Final = msgspec.json.Encoder().encode


class Record(NamedTuple):
    """A record as it is read: when, which event, with which values."""

    ts: int  # ns since the epoch, UTC
    event: Event
    values: tuple[Value, ...]  # interned texts as text
    ring: int
    position: int  # in its ring since the start of the session
    session: int
    checked: bool  # a checksum says that it is what was written

    @property
    def message(self) -> str:
        """The event's format with its values."""
        event = self.event
        out = [event.pieces[0]]
        for field, value, piece in zip(event.fields, self.values, event.pieces[1:], strict=True):
            out.append(_shown(field, value))
            out.append(piece)
        return "".join(out)

    @property
    def fields(self) -> dict[str, Value]:
        """Values by name."""
        return {f.name: v for f, v in zip(self.event.fields, self.values, strict=True)}


_COUNT: Final = (Field("count", "u8", 0, 0, 8),)
BUILT_IN: Final = (
    Event(DROPPED, "log.dropped", "{count:u8} records were dropped: the ring was full", 30, _COUNT,
          ("", " records were dropped: the ring was full")),
    Event(OVERWRITTEN, "log.overwritten", "{count:u8} records were overwritten: the ring was full", 30, _COUNT,
          ("", " records were overwritten: the ring was full")),
)  # fmt: skip


class Table:
    """The events and interned texts of a session, by number."""

    def __init__(self) -> None:
        self.events: dict[int, Event] = {e.id: e for e in BUILT_IN}
        self.symbols: dict[int, str] = {}
        self.version = 0  # changes with every addition
        self._readers: dict[int, tuple[Event, object]] = {}
        self._native: object = None
        self._native_version = -1

    def add(self, event: Event) -> None:
        """Add an event, or replace the one with its number."""
        self.events[event.id] = event
        self._readers.pop(event.id, None)
        self.version += 1

    def name(self, number: int, text: str) -> None:
        """Add an interned text."""
        self.symbols[number] = text
        self.version += 1

    def values(self, event: Event, data: bytes | memoryview, at: int) -> tuple[int, tuple[Value, ...]]:
        """Stamp and values of the slot at ``at``."""
        found = self._readers.get(event.id)
        if found is None or found[0] is not event:
            found = self._readers[event.id] = (event, event.unpacker().unpack_from)
        stamp, *raw = found[1](data, at)  # type: ignore[operator]
        for n, field in enumerate(event.fields):
            if field.limit:
                size = min(raw[n][0] | raw[n][1] << 8, field.limit)
                raw[n] = raw[n][2 : 2 + size].decode("utf-8", "replace")
            elif field.kind == "sym":
                raw[n] = self.symbols.get(raw[n], f"#{raw[n]}")
        return stamp, tuple(raw)

    def native(self) -> object:
        """This table for the native formatter."""
        if self._native_version != self.version and _native.module is not None:
            rows = [
                (e.id, e.name, level_name(e.level), list(e.pieces), [tuple(f) for f in e.fields])
                for e in self.events.values()
            ]
            self._native = _native.module.LogTable(rows, self.symbols)
            self._native_version = self.version
        return self._native


def records(frame: Frame, line: Line, table: Table, *, verify: bool = False) -> Iterator[Record | int]:
    """Yield the records of a frame; a number instead of one is an event that is not known.

    With ``verify`` the frame is raw memory of a ring: a wrong checksum yields -1, none yields a record that is not ``checked``.
    """
    data, slot = frame.payload, frame.slot
    for n in range(len(data) // slot):
        end = (n + 1) * slot
        number = int.from_bytes(data[end - 4 : end], "little")
        if number == VOID:
            continue
        event = table.events.get(number)
        if event is None or event.size + 16 > slot:
            yield number
            continue
        checked = True
        if verify:
            found = int.from_bytes(data[end - 8 : end - 4], "little")
            checked = found != 0
            if checked and check(data[end - slot : end]) != found:
                yield -1
                continue
        stamp, values = table.values(event, data, end - slot)
        yield Record(line.at(stamp), event, values, frame.ring, frame.position + n, frame.session, checked)


def lines(form: str, frames: Sequence[Frame], line: Line, table: Table) -> tuple[bytes, int]:
    """Frames that were drained together as lines of ``text`` or ``json``, and how many records could not be shown."""
    if _native.module is not None:
        parts = [(f.payload, f.slot) for f in frames]
        out: tuple[bytes, int] = _native.module.log_lines(form == "json", parts, tuple(line), table.native())
        return out
    one = json_line if form == "json" else text_line
    found = [r for f in frames for r in records(f, line, table)]
    shown = [r for r in found if isinstance(r, Record)]
    if len(frames) > 1:
        shown.sort(key=lambda r: r.ts)
    text = [one(r) for r in shown]
    return "\n".join([*text, ""]).encode() if text else b"", len(found) - len(shown)


def text_line(record: Record) -> str:
    """``2026-01-02T03:04:05.123456789Z INFO order.sent sent 101.5 0.25``, without a line's end."""
    event = record.event
    return f"{iso(record.ts)} {level_name(event.level)} {event.name} {record.message}"


def json_line(record: Record) -> str:
    """One JSON object: ``ts`` in ns, ``level``, ``event``, ``fields``."""
    event = record.event
    fields = ",".join(f'"{f.name}":{_json(f, v)}' for f, v in zip(event.fields, record.values, strict=True))
    name = _encode(event.name).decode()
    return f'{{"ts":{record.ts},"level":"{level_name(event.level)}","event":{name},"fields":{{{fields}}}}}'


def iso(ns: int) -> str:
    """UTC with nine digits; years outside 0 to 9999 as the bare number."""
    second, rest = divmod(ns, _NS)
    return f"{_second(second)}.{rest:09d}Z"


_last: tuple[int, str] = (0, "1970-01-01T00:00:00")


def _second(second: int) -> str:
    global _last
    known, text = _last
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _last = (second, text)
    return text


def _shown(field: Field, value: Value) -> str:
    if isinstance(value, str):
        return value.translate(_ESCAPES) if not value.isprintable() or "\\" in value else value
    if value is True or value is False:
        return "true" if value else "false"
    if field.kind == "ts":
        return iso(int(value))
    return repr(value)


def _json(field: Field, value: Value) -> str:
    if isinstance(value, str):
        return _encode(value).decode()
    if isinstance(value, float):
        return repr(value) if value - value == 0 else "null"
    if value is True or value is False:
        return "true" if value else "false"
    return repr(value)


def names(symbols: Mapping[int, str]) -> bytes:
    """Payload of a SYMBOLS frame."""
    return msgspec.json.encode(list(symbols.items()))
