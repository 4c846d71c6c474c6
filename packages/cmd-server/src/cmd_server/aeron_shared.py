"""One stream of Aeron for all readers: each packet is written once, whoever reads it.

    server: aeron:ipc?shared=1&topics=trades *,book *         client: aeron:ipc?shared=1&control=unix:PATH
    both:   aeron:udp?shared=1&endpoint=239.1.2.3:9997        a multicast group, or the one receiver

Theory of operation. What multicast does with datagrams is done here with messages of Aeron: the server's side is a
client of the hub with fixed topics (``GroupSender``), whose frames become packets with epoch and sequence; a client's
side merges them with its control connection (``GroupLink``), from which books begin and what was missed is fetched.

Nobody may hold up the others for long. A reader that stands still is put off the stream by the driver after a second
or two and on again later, with a hole; one that reads too slowly meets the same. While it holds the stream, the hub
keeps what follows, then drops the oldest, and the readers fetch it. Where nobody listens, packets are dropped.

The publication is made anew where it is lost (the driver died, this process was stopped for too long), and so is a
reader's subscription; meanwhile readers have everything by control. Epoch and sequence decide what belongs where,
also while the images of an old and a new publication are both there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from cmd_common.errors import CmdError, UsageError

from .aeron import Settings, native
from .aeron_source import ADD, FIRST_WAIT, LONGEST_WAIT, SharedSource, Way
from .datagrams import HEADER
from .errors import ConnectionBrokenError
from .group import Group
from .group_link import BlockingGroupLink, GroupLink, Seam, as_it_is
from .group_sender import GroupSender
from .merger import Merger
from .transport import Address, LinkOptions, ListenOptions, ServerSide, transport_of

if TYPE_CHECKING:
    from cmd_aeron import ExclusivePublication

__all__ = ["SharedListener", "SharedSender", "connect_shared", "listen", "open_shared"]

_LOG: Final = logging.getLogger("cmd_server")
_MTU: Final = 8 << 10  # of a stream on IPC unless ``mtu`` says another: fewer headers for the same frames
_LARGEST: Final = 64 << 10  # bytes; no mtu of Aeron is larger
_NOT_CONNECTED: Final = -1
_BACK_PRESSURED: Final = -2
_ADMIN_ACTION: Final = -3
_SOON: Final = 0.000_1  # s until what was refused is offered again, doubled each time
_LATER: Final = 0.002  # s at most
_LOOK: Final = 1.0  # s between two looks at a driver of another process
# When a reader that stands still is put off the stream, how long its image lingers, and when it may come back. A
# driver looks once a second, so all of it is rounded up to seconds.
_PUT_OFF: Final = {
    "untethered_window_limit_timeout": "1s",
    "untethered_linger_timeout": "500ms",
    "untethered_resting_timeout": "500ms",
}

seam: Seam = as_it_is
"""What becomes of a packet between Aeron and a client made afterwards; tests replace it."""


# -- the server's side


async def listen(address: Address, settings: Settings, server: ServerSide, options: ListenOptions) -> SharedListener:
    """Begin to send; raises UsageError, and ServerError where there is no driver or no publication."""
    listener = SharedListener(address, settings)
    try:
        await listener.start(server)
    except BaseException:
        await listener.finish()
        raise
    return listener


class SharedSender(GroupSender):
    """The port of a shared stream. ``unheard`` counts packets that were dropped because nobody listened.

    ``lost`` is called when the publication is of no use any more; ``publication`` is then to be set to another.
    """

    def __init__(self, peer: str, group: Group, interval: float, lost: Callable[[], None]) -> None:
        super().__init__(peer, group, interval)
        self.publication: ExclusivePublication | None = None
        self.unheard = 0
        self.retries = 0  # how often what was refused was offered again
        self._lost = lost
        self._pause = _SOON

    def _put(self, backlog: deque[bytes]) -> float:
        result = _NOT_CONNECTED
        if self.publication is not None:
            try:
                accepted, result = self.publication.offer_many(list(backlog))
            except native().AeronError:  # closed
                accepted, result = 0, -4
            self.packets += accepted
            for _ in range(accepted):
                backlog.popleft()
            if not backlog:
                self._pause = _SOON
                return 0
            if result >= 0 or result in (_BACK_PRESSURED, _ADMIN_ACTION):
                self.retries += 1
                self._pause = _SOON if accepted else min(_LATER, self._pause * 2)
                return self._pause
            if result != _NOT_CONNECTED:
                self.publication = None
                self._lost()
        if result == _NOT_CONNECTED:
            self.unheard += len(backlog)
        else:
            self.failed += len(backlog)
        backlog.clear()
        return 0

    def _release(self) -> None:
        self.publication = None


class SharedListener:
    """A shared stream that is sent to; ``rebuilt`` counts how often its publication was made anew."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self.address = address
        self.settings = settings
        self.rebuilt = 0
        self.sender: SharedSender | None = None
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(1, "cmd-aeron-shared")  # one after the other, in order
        self._way: Way[ExclusivePublication] | None = None
        self._task: asyncio.Task[None] | None = None
        self._trouble = asyncio.Event()
        self._closed = False

    async def start(self, server: ServerSide) -> None:
        """Make the publication and become a client of the server; raises UsageError, ServerError."""
        way = await self._thread(self._make)
        self._way = way
        settings = self.settings
        group = Group(settings.topics, way.made.max_payload_length - HEADER)
        if not group.fits:
            raise UsageError("the topics of a shared stream must fit into one packet", hint="use wildcards, or mtu=8k")
        name = f"aeron {settings.medium} {settings.endpoint}".rstrip() + f" stream {settings.stream}"
        self.sender = SharedSender(name, group, settings.heartbeat / 1e9, self._trouble.set)
        self.sender.publication = way.made
        self.sender.start(server)
        self._task = self._loop.create_task(self._watch(), name="cmd-server shared stream")

    async def close(self) -> None:
        """Tell the readers that nothing follows, stop sending and give back client and driver."""
        if self.sender is not None:
            self.sender.close("shutdown")
            await asyncio.sleep(0)  # in which it is closed
            self.sender.abort()
        await self.finish()

    async def finish(self) -> None:
        """Give back what is held; for ``close``, and where the start failed."""
        if self._closed:
            return
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

        def end() -> None:
            self._pool.shutdown(wait=True)  # what is being made is made first
            if self._way is not None:
                self._way.close()

        await asyncio.shield(self._loop.run_in_executor(None, end))

    def _channel(self) -> str:
        more: dict[str, str | int] = {}
        if self.settings.medium == "ipc":
            more |= _PUT_OFF
            if not self.settings.mtu:
                more["mtu"] = min(_MTU, self.settings.term_length // 8)
        return self.settings.publication("", **more)

    def _make(self) -> Way[ExclusivePublication]:
        """Make a publication, in a thread; raises ServerError."""
        channel, stream = self._channel(), self.settings.stream
        way = Way(self.settings, lambda client: client.add_exclusive_publication(channel, stream, ADD))
        self._way = way  # here, so that it is closed also where nobody waits for it any more
        return way

    async def _thread(self, work: Callable[[], Any]) -> Any:
        working = self._loop.run_in_executor(self._pool, work)
        # An error is known then, also where nobody waits for it any more.
        working.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(working)

    async def _watch(self) -> None:
        """Look at the driver, and make the publication anew where it was lost."""
        sender = self.sender
        assert sender is not None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._trouble.wait()
            way = self._way
            if way is not None and not self._trouble.is_set() and await self._thread(way.alive):
                continue
            sender.publication = None
            _LOG.warning("%s: the publication is lost; readers have everything by control meanwhile", self.address)
            await self._again(sender)
            _LOG.warning("%s: sending again", self.address)

    async def _again(self, sender: SharedSender) -> None:
        old, self._way = self._way, None
        if old is not None:
            await self._thread(old.close)
        wait = FIRST_WAIT
        while True:
            try:
                way = await self._thread(self._make)
            except CmdError:
                await asyncio.sleep(wait)
                wait = min(LONGEST_WAIT, wait * 2)
                continue
            self._trouble.clear()
            self.rebuilt += 1
            sender.publication = way.made
            return


# -- a client's side


async def connect_shared(address: Address, settings: Settings, options: LinkOptions) -> GroupLink:
    """Read the stream and open the control connection; raises as the latter's transport, and ConnectionBrokenError."""
    control = Address.parse(settings.control)
    transport = transport_of(control)
    source = SharedSource(settings)
    try:
        link = await transport.connect(control, options)
        try:
            async with asyncio.timeout(options.timeout / 1e9):
                await source.opened
        except BaseException as error:
            await link.close()
            if isinstance(error, TimeoutError):
                text = f"the media driver in {settings.directory} did not answer in {options.timeout / 1e9:g} s"
                raise ConnectionBrokenError(text) from None
            raise
    except BaseException:
        source.stop()
        raise
    return GroupLink(source, link, options, seam, Merger(body=_LARGEST))


def open_shared(address: Address, settings: Settings, options: LinkOptions) -> BlockingGroupLink:
    """Do the same for threads: the merging runs in a thread of its own."""
    return BlockingGroupLink(lambda: connect_shared(address, settings, options))
