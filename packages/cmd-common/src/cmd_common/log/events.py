"""What is logged: events with a number, a name, a level and typed fields, declared once.

A format is text with typed fields in braces, ``"sent {price:f8} {qty:f8} {id:i8}"``; ``{{`` and ``}}`` are
braces. The types:

    f8                      float
    i1 i2 i4 i8             integer with a sign, of that many bytes
    u1 u2 u4 u8             integer without one
    bool                    truth
    ts                      time, int ns since the epoch, UTC; shown as ISO 8601
    sym                     a text that ``Logger.intern`` gave a number; the number is passed
    s4 ... s1000            text of at most that many bytes in UTF-8; a longer one is cut and ends in ``…``
"""

from __future__ import annotations

import re
from struct import Struct
from typing import Final, NamedTuple

from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.symbols import nearest

__all__ = ["CUT", "LEVELS", "MAX_FIELDS", "Event", "Field", "Value", "cut", "level_name", "level_number"]

Value = float | int | bool | str

LEVELS: Final = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}
MAX_FIELDS: Final = 32
CUT: Final = "…".encode()  # the end of a text that did not fit
_CODES: Final = {
    "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "bool": "?", "ts": "q", "sym": "I",
}  # fmt: skip
_TEXT: Final = re.compile(r"s([1-9]\d{0,3})")
_PART: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Field(NamedTuple):
    """One argument of an event."""

    name: str
    kind: str  # as it is written in the format
    limit: int  # bytes of a text; 0 for all else
    offset: int  # within the arguments
    size: int  # bytes

    @property
    def code(self) -> str:
        """Its code in ``struct``."""
        return f"{self.size}s" if self.limit else _CODES[self.kind]


class Event(NamedTuple):
    """A declared event; ``pieces`` are the constant texts before, between and after its fields."""

    id: int
    name: str
    format: str
    level: int
    fields: tuple[Field, ...]
    pieces: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the arguments."""
        return sum(f.size for f in self.fields)

    def packer(self, slot: int) -> Struct:
        """Stamp, arguments, no checksum, number: a whole slot, whose last word says that it is complete."""
        return Struct(f"<Q{''.join(f.code for f in self.fields)}{slot - 12 - self.size}xI")

    def unpacker(self) -> Struct:
        """Stamp and arguments."""
        return Struct(f"<Q{''.join(f.code for f in self.fields)}")


def parse(number: int, name: str, text: str, level: int) -> Event:
    """Make an event from its declaration; raises UsageError for one that cannot be."""
    if not name or len(name) > 200 or any(c.isspace() or not c.isprintable() for c in name):
        raise UsageError(f"event name {name!r} is empty, too long or has spaces", hint='for example "order.sent"')
    if level not in LEVELS:
        raise UsageError(f"level {level} of event {name} is not known", hint=f"levels are {_levels()}")
    fields: list[Field] = []
    pieces = [""]
    end = offset = 0
    for part in _PART.finditer(text):
        pieces[-1] += text[end : part.start()]
        end = part.end()
        if part[0] in ("{{", "}}"):
            pieces[-1] += part[0][0]
            continue
        if part[1] is None:
            raise UsageError(f"format of event {name} has a single {part[0]!r}", hint=f"write {part[0] * 2} for one")
        field = _field(name, part[1], offset)
        if any(f.name == field.name for f in fields):
            raise UsageError(f"event {name} has two fields {field.name!r}")
        fields.append(field)
        offset += field.size
        pieces.append("")
    pieces[-1] += text[end:]
    if len(fields) > MAX_FIELDS:
        raise UsageError(f"event {name} has {len(fields)} fields; {MAX_FIELDS} are the most")
    return Event(number, name, text, level, tuple(fields), tuple(pieces))


def _field(event: str, text: str, offset: int) -> Field:
    name, colon, kind = text.partition(":")
    if not colon or not name.isidentifier() or not name.isascii():
        raise UsageError(f"field {{{text}}} of event {event} is not {{name:type}}", hint="for example {price:f8}")
    if kind in _CODES:
        return Field(name, kind, 0, offset, Struct(f"<{_CODES[kind]}").size)
    limit = int(found[1]) if (found := _TEXT.fullmatch(kind)) else 0
    if not 4 <= limit <= 1000:
        raise UnknownNameError(
            f"type of field {name} in event {event}",
            kind,
            nearest(kind, _CODES),
            hint=f"types are {', '.join(_CODES)}, s4 to s1000",
        )
    return Field(name, kind, limit, offset, limit + 2)


def cut(value: str, limit: int) -> bytes:
    """Text as it lies in a record: two bytes of length, then UTF-8, cut between characters where it is too long."""
    data = value.encode("utf-8", "replace")
    size = len(data)
    if size > limit:
        size = limit - len(CUT)
        while data[size] & 0xC0 == 0x80:  # within a character
            size -= 1
        data = data[:size] + CUT
        size += len(CUT)
    return bytes((size & 0xFF, size >> 8)) + data


def level_number(level: int | str) -> int:
    """A level by its number or name; raises UsageError."""
    if isinstance(level, str):
        for number, name in LEVELS.items():
            if name == level.upper():
                return number
        near = [n.casefold() for n in nearest(level, LEVELS.values())]
        raise UnknownNameError("level", level, near, hint="" if near else f"levels are {_levels()}")
    return level


def level_name(level: int) -> str:
    """A level's name."""
    return LEVELS.get(level, str(level))


def _levels() -> str:
    return ", ".join(f"{n} ({name.casefold()})" for n, name in LEVELS.items())
