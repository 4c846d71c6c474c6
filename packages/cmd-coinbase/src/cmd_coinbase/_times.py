"""Coinbase's times: ISO 8601 text with up to nine places, and whole seconds; never through a float."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

__all__ = ["NEVER", "iso_text", "parse_iso"]

NEVER: Final = 0
"""What ``parse_iso`` gives for a time before 1970: Coinbase writes year 1 (or 1970) where it has none."""

_ISO: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:(Z)|([+-]\d\d):?(\d\d))", re.ASCII
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE: Final = timedelta(minutes=1)
_SECOND: Final = 1_000_000_000
_END: Final = 2**63  # ns; records have 64 bits


@lru_cache(maxsize=4096)
def _minutes(head: str) -> int:
    """Return the minutes since 1970 of ``YYYY-MM-DDTHH:MM``; the clock's minute changes rarely."""
    moment = datetime(int(head[:4]), int(head[5:7]), int(head[8:10]), int(head[11:13]), int(head[14:16]), tzinfo=UTC)
    return (moment - _EPOCH) // _MINUTE


def parse_iso(text: str) -> int:
    """Return ns since 1970, UTC, of a time such as ``2026-08-24T22:34:13.793075885Z``; raises ValueError.

    Places beyond the ninth are cut off. A time before 1970 (``0001-01-01T00:00:00.000000Z``) is ``NEVER``, which
    is 0, as is the first instant of 1970, which Coinbase writes in some snapshots.
    """
    match = _ISO.fullmatch(text)
    if match is None:
        raise ValueError(f"time {text[:40]!r} is not in ISO 8601")
    seconds = int(match[6])
    if seconds > 60:
        raise ValueError(f"time {text[:40]!r} has {seconds} seconds")
    minutes = _minutes(f"{text[:10]}T{text[11:16]}")
    if match[9] is not None:
        sign = -1 if match[9][0] == "-" else 1
        minutes -= sign * (int(match[9][1:]) * 60 + int(match[10]))
    ns = (minutes * 60 + seconds) * _SECOND + int((match[7] or "0").ljust(9, "0"))
    if ns >= _END:
        raise ValueError(f"time {text[:40]!r} does not fit into 64 bits of ns")
    return max(ns, NEVER)


def iso_text(ns: int, places: int = 6) -> str:
    """Write ns since 1970 as Coinbase does, with so many places (0 to 9), cut off."""
    seconds, rest = divmod(ns, _SECOND)
    head = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09d}"[: places + 1] if places else ""
    return f"{head}{fraction}Z"
