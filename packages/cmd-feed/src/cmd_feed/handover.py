"""The second connection of a handover: it is opened and subscribed, and its frames are held until it is taken.

With ``keep`` it stays beside the first one for good, and holds only what that has not delivered yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cmd_common.errors import CmdError
from cmd_common.handover import Movable, Overlap, Verdict
from cmd_common.seams import Clock, Net, WebSocket

from .limiter import WindowLimiter

__all__ = ["Standby"]


class Standby:
    """A second connection beside a running one. After ``take`` it is a WebSocket that gives the held frames first.

    ``connects`` and ``messages`` are the exchange's limits; ``error`` says why it ended early.
    """

    def __init__(
        self,
        feed: Movable,
        url: str,
        *,
        net: Net,
        clock: Clock,
        connects: WindowLimiter,
        messages: WindowLimiter,
        raw: Callable[[str, str], None] = lambda src, text: None,
        keep: bool = False,
    ) -> None:
        self.keep = keep
        self.error = ""
        self.opened = 0  # monotonic ns
        self._feed = feed
        self._url = url
        self._net = net
        self._clock = clock
        self._connects = connects
        self._messages = messages
        self._raw = raw
        self._ws: WebSocket | None = None
        self._overlap: Overlap | None = None
        self._pending: asyncio.Task[list[str | bytes]] | None = None
        self._task = asyncio.create_task(self._run(), name=f"standby {url}")

    async def _run(self) -> None:
        try:
            while delay := self._connects.delay(self._clock.monotonic()):
                self._connects.waited += 1
                await self._clock.sleep(delay)
            self._connects.take(self._clock.monotonic())
            ws = self._ws = await self._net.connect(self._url)
            self.opened = self._clock.monotonic()
            self._raw("ws_open", "null")
            frames = self._feed.resubscribe(self._clock.now())
            overlap = self._overlap = Overlap(self._feed, len(frames), self.opened, keep=self.keep)
            sender = asyncio.create_task(self._send(ws, frames), name=f"standby send {self._url}")
            try:
                await self._hold(ws, overlap)
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
        except CmdError as error:
            self.error = error.message

    async def _send(self, ws: WebSocket, frames: list[str]) -> None:
        for frame in frames:
            while delay := self._messages.delay(self._clock.monotonic()):
                self._messages.waited += 1
                await self._clock.sleep(delay)
            self._messages.take(self._clock.monotonic())
            await ws.send(frame)
            self._raw("ws_out", frame)

    async def _hold(self, ws: WebSocket, overlap: Overlap) -> None:
        while True:
            # A task of its own: when holding ends, what is being received is not lost.
            if self._pending is None:
                self._pending = asyncio.create_task(ws.receive_all(), name=f"standby receive {self._url}")
            await asyncio.wait({self._pending})
            done, self._pending = self._pending, None
            for frame in done.result():
                overlap.second(frame, self._clock.monotonic())

    # ---- for the runner

    def first(self, frame: str | bytes) -> None:
        """Take note of a frame that the first connection has delivered."""
        if self._overlap is not None:
            self._overlap.first(frame)

    def verdict(self) -> Verdict:
        """Whether it can be taken now."""
        if self.error or self._task.done():
            return Verdict.GIVE_UP
        if self._overlap is None:
            return Verdict.WAIT
        verdict = self._overlap.verdict(self._clock.monotonic())
        if verdict is Verdict.GIVE_UP:
            behind = ", ".join(self._overlap.behind[:3])
            self.error = f"the two connections did not meet{f' on {behind}' if behind else ''}"
            if self.keep and not behind:
                self.error = "it says nothing"
        return verdict

    def trim(self) -> Sequence[str]:
        """Let go of what the first connection has delivered, too; returns streams of which it lacks some for long."""
        return self._overlap.trim(self._clock.monotonic()) if self._overlap is not None else ()

    async def take(self) -> None:
        """End holding; from now on ``receive_all`` gives what was held, then what comes."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def close(self) -> None:
        """Close the connection, taken or not; never raises."""
        await self.take()
        pending, self._pending = self._pending, None
        if self._ws is not None:
            await self._ws.close()
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)

    # ---- as a WebSocket

    async def send(self, frame: str) -> None:
        """Send one text frame; raises DisconnectedError."""
        assert self._ws is not None
        await self._ws.send(frame)

    async def receive(self) -> str | bytes:
        """Not used by the runner, which takes all frames that are there."""
        raise NotImplementedError

    async def receive_all(self) -> list[str | bytes]:
        """Return the held frames, then what arrives; raises DisconnectedError."""
        assert self._ws is not None
        assert self._overlap is not None
        if self._overlap.held and (held := self._overlap.take()):
            return held
        if self._pending is not None:
            pending, self._pending = self._pending, None
            return await pending
        return await self._ws.receive_all()

    @property
    def close_code(self) -> int | None:
        """The close code once closed, else None."""
        return self._ws.close_code if self._ws is not None else None
