"""Errors of the server and its clients; all of them end as one clear line.

    cmd_common.errors.CmdError
    +-- ServerError                 everything between a server and its clients
        +-- WireError               bytes that break the wire format
        |   +-- FrameError          a stream that is no longer a sequence of frames: nothing after it can be read
        +-- ConnectionBrokenError   the other side is gone, or never was there
        +-- RefusedError            the server said no; ``code`` is a word for programs

Whose fault it is follows from the class: WireError the side that wrote the bytes, ConnectionBrokenError the
network's, RefusedError the caller's (a wrong token, a limit) unless its code is ``shutdown``.
"""

from __future__ import annotations

from cmd_common.errors import CmdError

__all__ = ["ConnectionBrokenError", "FrameError", "RefusedError", "ServerError", "WireError"]


class ServerError(CmdError):
    """Base of the errors between a server and its clients."""


class WireError(ServerError):
    """A message breaks the wire format; the frames around it can still be read."""


class FrameError(WireError):
    """The bytes are no sequence of frames (a wrong encoding type, a length over the limit): close the connection."""


class ConnectionBrokenError(ServerError):
    """The connection was lost, or could not be opened."""


class RefusedError(ServerError):
    """The server refused a request or closed the connection; ``code`` as in Reject and Bye."""

    def __init__(self, message: str, code: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
