"""Numbers and times of Kraken's messages, taken from their text and never through a float.

Rules: docs/exchanges/kraken.md#numbers-and-times.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final

__all__ = ["decimal_digits", "iso_to_ns", "ns_to_iso", "ns_to_seconds", "plain", "seconds_to_ns"]

_SECOND: Final = 1_000_000_000
_LAST: Final = 9_223_372_035  # seconds that still fit into 64 bits of ns
_LONGEST: Final = 40  # characters of a number; Kraken's have at most about 30


def plain(text: str) -> str:
    """Return a JSON number or decimal text without an exponent; raises ValueError for anything else.

    Written out it stays at most about a hundred characters long, so that ``1e999999`` costs nothing.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"a number of {len(text)} characters")
    if not ("e" in text or "E" in text):
        return text
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not a number") from error
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or not -_LONGEST < exponent < _LONGEST:
        raise ValueError(f"{text!r} is out of range")
    return format(value, "f")


def decimal_digits(text: str, decimals: int) -> str:
    """Return the digits of a number as the checksum takes them: no point, no leading zeros.

    The text is taken as it came. One with an exponent, which the exchange does not send, is written out with
    ``decimals`` places, as the exchange would have done. Raises ValueError for what is not a number.
    """
    whole, _, fraction = text.partition(".")
    if "e" in text or "E" in text or len(text) > _LONGEST:
        whole, _, fraction = plain(text).partition(".")
        fraction = fraction.ljust(decimals, "0")
    digits = whole + fraction
    if not digits.isdigit() or not digits.isascii():
        raise ValueError(f"{text!r} is not a price or quantity")
    return digits.lstrip("0")


def seconds_to_ns(text: str) -> int:
    """Turn decimal seconds since 1970 into ns, exactly; places beyond the ninth are cut off.

    Raises ValueError for what is not a time that fits.
    """
    whole, _, fraction = plain(text).partition(".")
    if not whole.isdigit() or not whole.isascii() or (fraction and not (fraction.isdigit() and fraction.isascii())):
        raise ValueError(f"{text!r} is not a time in seconds")
    seconds = int(whole)
    if seconds > _LAST:
        raise ValueError(f"{text!r} is not a time in seconds since 1970")
    return seconds * _SECOND + int(fraction[:9].ljust(9, "0"))


@lru_cache(maxsize=256)
def _minute(text: str) -> int:
    """Return the ns of ``2026-08-24T22:21``."""
    if len(text) != 16 or not text.isascii():
        raise ValueError(f"{text!r} is not a time")
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M").replace(tzinfo=UTC)
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * _SECOND


def iso_to_ns(text: str) -> int:
    """Turn ``2026-08-24T22:21:57.110183Z`` (UTC, 0 to 9 places) into ns; raises ValueError."""
    rest = text[16:]
    if text[-1:] != "Z" or rest[:1] != ":" or not rest.isascii() or len(text) > 30:
        raise ValueError(f"{text[:40]!r} is not a time in UTC")
    seconds, _, fraction = rest[1:-1].partition(".")
    if len(seconds) != 2 or not seconds.isdigit() or (fraction and not fraction.isdigit()):
        raise ValueError(f"{text!r} is not a time in UTC")
    ns = _minute(text[:16]) + int(seconds) * _SECOND + int(fraction[:9].ljust(9, "0"))
    if not 0 <= ns < _LAST * _SECOND or int(seconds) > 60:
        raise ValueError(f"{text!r} is not a time since 1970")
    return ns


def ns_to_iso(ns: int, places: int = 6) -> str:
    """Write a time as Kraken v2 does: UTC with so many decimal places."""
    seconds, rest = divmod(ns, _SECOND)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{f'{rest:09d}'[:places]}Z"


def ns_to_seconds(ns: int, places: int = 6) -> str:
    """Write a time as decimal seconds with so many places, as v1 and REST do."""
    seconds, rest = divmod(ns, _SECOND)
    return f"{seconds}.{f'{rest:09d}'[:places]}"
