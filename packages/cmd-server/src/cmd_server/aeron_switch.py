"""What both links of an Aeron client share: how it moves over, and what it holds of Aeron.

Theory of operation. Control begins as any connection. Behind the first frame that the program sends (its login) goes
``Divert``; everything that control brings up to ``Diverted`` is passed on. From then on the frames come by Aeron, and
control brings Bye at most, which is passed on behind what Aeron still has.

Over IPC the server makes the stream and tells its id and session; over UDP the client subscribes first, to a stream id
of its own, and tells where. An answer of a server that does not know ``Divert`` ends the attempt with one clear error.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from typing import TYPE_CHECKING, Final

from cmd_common.errors import CmdError

from . import codec
from .aeron import Route, Settings, native
from .aeron_driver import ClientHandle, DriverHandle, acquire_client, acquire_driver, broken
from .errors import ConnectionBrokenError, FrameError, RefusedError, ServerError
from .formats import TEMPLATE_AT
from .framing import Splitter
from .messages import Divert, Diverted, Reject, Template
from .transport import Address, Buffer

if TYPE_CHECKING:
    from cmd_aeron import Subscription

__all__ = ["ADD", "Switch", "Way"]

ADD: Final = 5_000_000_000
"""ns for a subscription to be made."""
_REQUEST: Final = 0xE000_0001  # neither a program's request nor the merger's
_RETRY: Final = 0.05  # s until a closing endpoint is tried again


class Way:
    """A client's driver, Aeron client and subscription; made and closed in threads, never in an event loop."""

    def __init__(self, address: Address, settings: Settings) -> None:
        """Get hold of driver and client, and subscribe where that comes first (UDP); raises ConnectionBrokenError."""
        aeron = native()
        self.subscription: Subscription | None = None
        self._settings = settings
        self._retire = False  # the client is of no use, although it does not know it yet
        self._driver: DriverHandle | None = None
        self._client: ClientHandle | None = None
        try:
            self._driver = acquire_driver(settings)
            self._client = acquire_client(self._driver.directory)
            if settings.medium == "ipc":
                self.route = Route(medium="ipc")
                return
            # Two clients of one driver may receive at one endpoint: only the stream tells them apart.
            stream = settings.stream if "stream" in address.options else secrets.randbelow(1 << 30) + 1
            endpoint = settings.endpoint or f"{_own_host(settings.control)}:0"
            self.subscription = self._add(settings.subscription(endpoint), stream)
            self.route = Route(medium="udp", endpoint=self._endpoint(endpoint), stream=stream)
        except BaseException as error:
            self._retire = isinstance(error, aeron.AeronTimeoutError)
            self.close()
            if isinstance(error, aeron.AeronError):
                raise broken(error) from error
            if isinstance(error, ServerError) and not isinstance(error, ConnectionBrokenError):
                # The server may be starting its driver again: worth another attempt once a program was connected.
                raise ConnectionBrokenError(error.message, hint=error.hint) from error
            raise

    def follow(self, route: Route) -> Subscription:
        """Return the subscription to the stream that the server has made; raises ConnectionBrokenError."""
        if self.subscription is None:
            try:
                self.subscription = self._add(self._settings.subscription(session=route.session), route.stream)
            except native().AeronError as error:
                self._retire = isinstance(error, native().AeronTimeoutError)
                raise broken(error) from error
        return self.subscription

    def state(self) -> str:
        """Say why nothing more can come, "" where it can; cheap."""
        if self._client is None or not self._client.usable:
            return "the media driver is gone, or this process was stopped for too long"
        if self.subscription is None or self.subscription.closed:
            return "the subscription was closed"
        return ""

    def close(self) -> None:
        """Give all of it back; never raises, and may be called again."""
        subscription, self.subscription = self.subscription, None
        client, self._client = self._client, None
        driver, self._driver = self._driver, None
        if subscription is not None:
            with contextlib.suppress(native().AeronError):
                subscription.close()
        if client is not None:
            client.release(retire=self._retire or not client.usable)
        if driver is not None:
            driver.release()

    def _add(self, channel: str, stream: int) -> Subscription:
        assert self._client is not None
        aeron = native()
        deadline = time.monotonic_ns() + ADD
        while True:
            try:
                found: Subscription = self._client.client.add_subscription(channel, stream, ADD)
                return found
            except aeron.EndpointClosingError:  # of one who has just left; it takes a moment
                if time.monotonic_ns() > deadline:
                    raise
                time.sleep(_RETRY)

    def _endpoint(self, wanted: str) -> str:
        """Return where it really receives: with the port that the system chose."""
        assert self.subscription is not None
        deadline = time.monotonic_ns() + ADD
        while time.monotonic_ns() < deadline:
            if found := self.subscription.endpoint:
                return str(found)
            time.sleep(_RETRY / 10)
        raise ConnectionBrokenError(f"the media driver did not say where {wanted} receives")


def _own_host(control: str) -> str:
    """Return this machine's address as the server at ``control`` reaches it; raises ConnectionBrokenError."""
    host, port, _ = Address.parse(control).host_port(path=True)
    why: Exception | None = None
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        places, why = [], error
    for family, kind, protocol, _, place in places:
        try:
            with socket.socket(family, kind, protocol) as sock:
                sock.connect(place)  # sends nothing: it only chooses the way
                found = str(sock.getsockname()[0])
        except OSError as error:
            why = error
            continue
        return f"[{found}]" if ":" in found else found
    raise ConnectionBrokenError(
        f"no way to {host} from here: {why}", hint="say where to receive by endpoint=ADDRESS:PORT"
    )


class Switch:
    """Reads control until the stream comes by Aeron; pure. ``route`` is set from then on, ``late`` what came after."""

    def __init__(self, wanted: Route, max_message: int) -> None:
        self.route: Route | None = None
        self.late = bytearray()
        self._wanted = wanted
        self._asked = False
        self._splitter = Splitter(max_message)

    def outgoing(self, frame: bytes) -> bytes:
        """Return what to send for a frame of the program: itself, the first one with our request behind it."""
        if self._asked:
            return frame
        self._asked = True
        return frame + codec.encode_request(Divert(_REQUEST, str(self._wanted)))

    def incoming(self, data: Buffer) -> bytes:
        """Return what is to be passed on of bytes that control brought; raises RefusedError, ConnectionBrokenError."""
        found: list[bytes] = []
        for view in self._splitter.feed(data):
            frame = bytes(view)
            if self.route is not None:
                self.late += frame
                continue
            template = frame[TEMPLATE_AT] if len(frame) > TEMPLATE_AT else 0
            if template == Template.DIVERTED:
                self._diverted(frame)
            elif template == Template.REJECT and self._refused(frame):
                continue
            else:
                found.append(frame)
        return b"".join(found)

    def _diverted(self, frame: bytes) -> None:
        message = codec.decode_service(frame)
        if not isinstance(message, Diverted) or message.request_id != _REQUEST:
            raise FrameError("the server has moved a connection that did not ask for it")
        try:
            self.route = Route.parse(message.to)
        except CmdError as error:
            raise FrameError(
                f"the server has moved the connection to {message.to[:100]!r}, which is nowhere"
            ) from error

    def _refused(self, frame: bytes) -> bool:
        """Whether a Reject answers our request, which it never does in silence."""
        message = codec.decode_service(frame)
        assert isinstance(message, Reject)
        unknown = message.request_id == 0 and message.code == "protocol" and self._asked
        if message.request_id != _REQUEST and not unknown:
            return False
        if message.code == "unavailable":
            raise ConnectionBrokenError(f"the server cannot send by Aeron now: {message.text}", hint=message.hint)
        hint = message.hint or ("it is older than its clients; connect by tcp or unix" if unknown else "")
        raise RefusedError(f"the server does not send by Aeron: {message.text}", message.code, hint=hint)
