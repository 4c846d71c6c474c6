"""What tests of Aeron share: directories of their own, driver processes, and a client that has diverted its stream."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raw_client import DEADLINE, Raw, until
from tests.conftest import require

from cmd_server import codec
from cmd_server.aeron import Route
from cmd_server.framing import Splitter
from cmd_server.messages import Divert, Template
from cmd_server.transport import Address


def present() -> None:
    """Skip, or fail where everything is required, without the package."""
    require("aeron", find_spec("cmd_aeron") is not None, "pip install 'cmd-server[aeron]'")


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A fresh folder in shared memory, where there is one; nothing of it is left."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    path = Path(place) / f"cmd-test-{os.getpid()}-{secrets.token_hex(4)}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def driver_process(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A media driver in a process of its own; yielded when it is ready, killed at the end."""
    command = [sys.executable, "-m", "cmd_aeron.driver", "--dir", str(directory), "--term-length", "64k"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline(), "the driver did not start"
            yield child
        finally:
            child.kill()


class AeronRaw:
    """A bare control connection and a subscription. ``frames`` is what came by Aeron, in order."""

    def __init__(self, control: Raw, directory: str) -> None:
        import cmd_aeron

        self.control = control
        self.client = cmd_aeron.Client(directory)
        self.subscription: Any = None
        self.route = Route(medium="ipc")
        self.frames: list[bytes] = []
        self.sizes: list[int] = []  # of messages
        self._splitter = Splitter()

    @classmethod
    async def connect(cls, control: Address, directory: str) -> AeronRaw:
        raw = await Raw.connect(control)
        return cls(raw, directory)

    async def divert(self, to: str = "aeron:ipc", request_id: int = 7) -> Any:
        """Ask for a stream and subscribe to it; what the server said."""
        await self.control.send(codec.encode_request(Divert(request_id, to)))
        found = await self.control.service(Template.DIVERTED)
        assert found.request_id == request_id
        self.route = Route.parse(found.to)
        if self.subscription is None:
            channel = f"aeron:ipc?session-id={self.route.session}"
            self.subscription = await asyncio.to_thread(self.client.add_subscription, channel, self.route.stream)
        return found

    async def divert_udp(self, stream: int = 5) -> Any:
        """Receive at a port that the system chooses, and ask for a stream there."""
        self.subscription = await asyncio.to_thread(
            self.client.add_subscription, "aeron:udp?endpoint=127.0.0.1:0", stream
        )
        await until(lambda: self.subscription.endpoint)
        return await self.divert(f"aeron:udp?endpoint={self.subscription.endpoint}&stream={stream}")

    def poll(self, limit: int = 256) -> int:
        """Take what is there; how many messages."""
        found = self.subscription.poll(limit)
        for data in found:
            self.sizes.append(len(data))
            self.frames += [bytes(f) for f in self._splitter.feed(data)]
        return len(found)

    async def messages(self, template: Template, count: int = 1) -> list[bytes]:
        """Read until so many messages of a kind came; all of that kind."""

        def there() -> bool:
            self.poll()
            return len(self.of(template)) >= count

        await until(there, f"{count} of {template!r} never came: {self.templates}")
        return self.of(template)

    def of(self, template: Template) -> list[bytes]:
        return [f for f in self.frames if codec.head(f).template == template]

    @property
    def templates(self) -> list[int]:
        return [codec.head(f).template for f in self.frames]

    def close(self) -> None:
        """End as a program does that is gone: control first, then all the rest."""
        self.control.close()
        self.client.close()


def publications(directory: str) -> int:
    """How many publications a driver has, by its counters."""
    import cmd_aeron

    client = cmd_aeron.Client(directory)
    try:
        return sum(counter.label.startswith("pub-lmt") for counter in client.counters())
    finally:
        client.close()


__all__ = ["DEADLINE", "AeronRaw", "driver_process", "folder", "present", "publications"]
