"""Errors of CryptoMarketData, one tree for all distributions.

    CmdError                    everything that is reported in one line
    +-- UsageError              the caller's input is wrong            (exit code 2)
    |   +-- UnknownNameError    a name that does not exist; carries the nearest ones
    +-- DataError               data that breaks a rule of its source
    |   +-- ProtocolError       an exchange sent something that its own rules forbid
    |   +-- ChecksumError       bytes do not match their published checksum
    +-- VenueError              the exchange refused or failed a request
    |   +-- RateLimitError      429 or 418; carries when to come back
    |   +-- BlockedError        403 or 451: this address may not use the endpoint
    |   +-- DisconnectedError   the connection was lost
    +-- StoreError              a store could not read or write
        +-- StoreBusyError      another process holds the lock

A message says what is wrong and where; ``hint`` says what to do next. Whose fault it is follows
from the class: UsageError the caller's, VenueError and DataError the remote side's, StoreError ours
or the disk's.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BlockedError",
    "ChecksumError",
    "CmdError",
    "DataError",
    "DisconnectedError",
    "ProtocolError",
    "RateLimitError",
    "StoreBusyError",
    "StoreError",
    "UnknownNameError",
    "UsageError",
    "VenueError",
]


class CmdError(Exception):
    """Base of all errors that end as one clear line; ``hint`` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(CmdError):
    """The caller's options, configuration or arguments are wrong."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name (exchange, symbol, table, store) that does not exist; carries the nearest known ones."""

    def __init__(self, what: str, name: str, nearest: Sequence[str] = (), *, hint: str = "") -> None:
        self.what = what
        self.name = name
        self.nearest = tuple(nearest)
        if nearest and not hint:
            hint = "did you mean " + " or ".join(self.nearest) + "?"
        super().__init__(f"unknown {what} {name!r}", hint=hint)


class DataError(CmdError):
    """Data that breaks a rule of its source."""


class ProtocolError(DataError):
    """An exchange sent something that its own documentation forbids."""


class ChecksumError(DataError):
    """Bytes do not match the checksum that was published for them."""


class VenueError(CmdError):
    """The exchange refused or failed a request; ``status`` is the HTTP status or 0."""

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class RateLimitError(VenueError):
    """HTTP 429 or 418; ``retry_after`` is in ns, 0 where the exchange did not say."""

    def __init__(self, message: str, *, status: int, retry_after: int, hint: str = "") -> None:
        super().__init__(message, status=status, hint=hint)
        self.retry_after = retry_after


class BlockedError(VenueError):
    """HTTP 403 or 451: the exchange does not serve this address."""


class DisconnectedError(VenueError):
    """A connection was lost or could not be opened."""


class StoreError(CmdError):
    """A store could not read or write."""


class StoreBusyError(StoreError):
    """Another process holds the lock that this work needs."""
