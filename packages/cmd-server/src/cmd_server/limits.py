"""What one server allows its clients, so that none of them can slow the others or fill the memory."""

from __future__ import annotations

from msgspec import Struct

from cmd_common.errors import UsageError

__all__ = ["Limits"]

_SECOND = 1_000_000_000


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds of a server; times in ns, queues in messages. Raises UsageError for a bound that holds nothing."""

    clients: int = 1_000
    topics: int = 1_000  # a client
    streams: int = 50_000  # a client
    views: int = 32  # different depths and intervals of a client; of an instrument, as many are kept unread
    queue: int = 10_000  # messages that wait for a client that asks for no other bound
    queue_max: int = 100_000  # the largest bound that a client may ask for
    answers: int = 256  # answers to requests that wait for a client; one that does not read them is let go
    replay_messages: int = 1_024  # a stream, kept for clients that come back
    replay_bytes: int = 1 << 20  # a stream
    heartbeat: int = 5 * _SECOND  # the server says something at least so often
    login: int = 10 * _SECOND  # from the connection to the login
    idle: int = 60 * _SECOND  # a client that says nothing for so long is gone
    max_message: int = 1 << 20  # bytes of the longest message that is taken from a client

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            least = 0 if name.startswith("replay_") else 1
            if getattr(self, name) < least:
                raise UsageError(f"the limit {name} must be at least {least}, not {getattr(self, name)}")
        if self.queue > self.queue_max:
            raise UsageError(f"the default queue of {self.queue} is longer than the longest, {self.queue_max}")
