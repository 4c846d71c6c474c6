"""Errors of cmd-aeron.

    AeronError
        DriverMissingError         no media driver runs in the directory, or it does not answer
        DriverTimeoutError         the driver of a client that was connected is gone
        ClientClosedError          the client is closed, by its owner or by the library (a process stopped too long)
        DirectoryInUseError        a live driver owns the directory
        RegistrationError          the driver refused a publication or subscription; ``code`` says why
            EndpointClosingError   the endpoint was closed a moment ago: try again
        AeronTimeoutError          the driver did not answer in time
        StorageError               no room for the directory or for a publication's terms
        VersionMismatchError       the directory's driver writes another version of the command-and-control file
        PublicationClosedError     a claim whose publication is closed, or which is finished already
        SubscriptionClosedError    a subscription used after its close

Wrong arguments are ValueError or TypeError.
"""

from __future__ import annotations

__all__ = [
    "AeronError",
    "AeronTimeoutError",
    "ClientClosedError",
    "DirectoryInUseError",
    "DriverMissingError",
    "DriverTimeoutError",
    "EndpointClosingError",
    "PublicationClosedError",
    "RegistrationError",
    "StorageError",
    "SubscriptionClosedError",
    "VersionMismatchError",
]


class AeronError(Exception):
    """Base of all errors of this package: ``message`` says what happened, ``hint`` what to do; one line together."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.hint)


class DriverMissingError(AeronError):
    """No media driver runs in the directory, or it does not answer."""


class DriverTimeoutError(AeronError):
    """The driver of a client that was connected is gone: the client must be made anew."""


class ClientClosedError(AeronError):
    """The client is closed, by its owner or by the library."""


class DirectoryInUseError(AeronError):
    """A live driver owns the directory."""


class RegistrationError(AeronError):
    """The driver refused a publication or subscription; ``code`` is Aeron's, below zero, or an errno above it."""

    def __init__(self, message: str, hint: str = "", code: int = 0) -> None:
        super().__init__(message, hint)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.hint, self.code)


class EndpointClosingError(RegistrationError):
    """The endpoint was closed a moment ago (code -10): try again."""


class AeronTimeoutError(AeronError):
    """The driver did not answer in time."""


class StorageError(AeronError):
    """No room for the directory or for a publication's terms, or the directory is not one for a driver."""


class VersionMismatchError(AeronError):
    """The directory's driver writes another version of the command-and-control file."""


class PublicationClosedError(AeronError):
    """A claim whose publication is closed, or which is finished already."""


class SubscriptionClosedError(AeronError):
    """A subscription used after its close."""
