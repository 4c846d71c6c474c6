"""The server's side of a group: a client of the hub with fixed topics, whose frames are sent once for all receivers.

What the medium does not take at once waits in a backlog; while it is not empty the port is not writable and the hub
keeps what follows, up to its limit, then drops the oldest. The backlog is bounded by what the hub gives at a time.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

from .group import Group
from .messages import Login, Ping, Policy, Subscribe
from .transport import ServerSide

__all__ = ["GroupSender"]


class GroupSender(ABC):
    """A port whose frames become packets of a group; a medium says how they are sent. All of it runs in the loop.

    ``interval`` is the time between two heartbeats in seconds. ``packets`` counts what the medium has taken and
    ``failed`` what it refused for good: receivers see a hole and fetch what was in it.
    """

    form = "sbe"
    multicast = True

    def __init__(self, peer: str, group: Group, interval: float) -> None:
        self.peer = peer
        self.packets = 0
        self.failed = 0
        self.group = group
        self._interval = interval
        self._backlog: deque[bytes] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._closing = False
        self._closed = False
        self._server: ServerSide | None = None
        self._session: Any = None

    @abstractmethod
    def _put(self, backlog: deque[bytes]) -> float:
        """Send packets from the left and remove them; returns when to try the rest again, in seconds, 0: all is gone."""

    @abstractmethod
    def _release(self) -> None:
        """Close the medium; called once."""

    def start(self, server: ServerSide) -> None:
        """Become a client of the server."""
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._session = server.opened(self, trusted=True, snapshots=False)
        server.request(self._session, Login("", self.peer))
        # A group is never slow but by a full buffer of its medium; then the oldest go, and the receivers fetch them.
        server.request(self._session, Subscribe(1, self.group.topics, Policy.DROP_OLDEST, server.hub.limits.queue_max))
        self._timer = self._loop.call_later(self._interval, self._beat)

    @property
    def writable(self) -> bool:
        """Whether no packet waits for the medium."""
        return not self._backlog and not self._closing

    @property
    def unsent(self) -> int:
        """Bytes of packets that wait for the medium."""
        return sum(map(len, self._backlog))

    def send(self, frames: Sequence[bytes]) -> None:
        """Pack frames and send them."""
        if self._closing:
            return
        self._backlog.extend(self.group.pack(frames, self._now()))
        self._flush()

    def pause(self) -> None:  # noqa: B027  a group has nothing to read
        """Do nothing: nothing is read."""

    def resume(self) -> None:  # noqa: B027  a group has nothing to read
        """Do nothing: nothing is read."""

    def close(self, code: str = "", text: str = "") -> None:
        """Say that nothing follows, and close."""
        if self._closing:
            return
        self._closing = True
        self._backlog.extend(self.group.heartbeat(self._now(), end=True))
        self._flush()
        self._loop.call_soon(self.abort)

    def abort(self) -> None:
        """Close at once."""
        if self._closed:
            return
        self._closing = self._closed = True
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        self._release()
        self._backlog.clear()
        if self._server is not None:
            self._server.closed(self._session, None)

    def _now(self) -> int:
        assert self._server is not None
        return self._server.hub.now

    def _beat(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._beat)
        if self._server is None or self._closing:
            return
        self._server.request(self._session, Ping(self._now()))
        if not self._backlog:
            self._backlog.extend(self.group.heartbeat(self._now()))
            self._flush()

    def _flush(self) -> None:
        if not self._backlog:
            return
        delay = self._put(self._backlog)
        if delay and self._retry is None and not self._closing:
            self._retry = self._loop.call_later(delay, self._again)

    def _again(self) -> None:
        self._retry = None
        if self._closing or not self._backlog:
            return
        self._flush()
        if not self._backlog and self._server is not None:
            self._server.writable(self._session)
