"""Stream sockets in an event loop, the server's side: one driver for TCP, Unix sockets, TLS and what runs over them.

Theory of operation. A ``Channel`` drives one non-blocking socket by the loop's readers and writers. What it reads
goes to its handler in a buffer that all channels share; what it is given goes through a ``SendBuffer``. It lives in
four stages: handshake (TLS only), open, closing (what is unsent goes out, then the sending half is closed and what
still arrives is thrown away, so that the other side can read our last words), lost. Every stage but ``open`` ends by
a timer at the latest. A ``SocketListener`` accepts; where the system has no descriptors left it stops for a while
and goes on, and the connections wait in the backlog.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from .errors import ConnectionBrokenError, ServerError
from .sendbuffer import SendBuffer
from .transport import Address, ListenOptions, ServerSide, Session

__all__ = ["Channel", "Handler", "SocketListener", "StreamPort", "shut", "tls_receive", "tls_send"]

UNIX: Final = getattr(socket, "AF_UNIX", None)  # not on Windows
_LOG: Final = logging.getLogger("cmd_server")
_READ: Final = 64 << 10  # bytes a turn of the loop and a connection, so that none starves the others
_ACCEPTS: Final = 64  # connections a turn of the loop, likewise
_DRAIN: Final = 5.0  # s from close until what is unsent must have gone
_LINGER: Final = 1.0  # s from then on until the other side must have closed
_REST: Final = 0.1  # s without accepting when the system has no descriptors left
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_NOTSENT: Final = 256 << 10  # bytes of a TCP connection that the system takes before it can send them
_shared: Final = memoryview(bytearray(_READ))  # what was read is handled before the next read


def tls_send(sock: ssl.SSLSocket) -> Callable[[memoryview], int]:
    """Return ``sock.send`` that says "nothing now" as a plain socket does."""
    send = sock.send

    def quiet(data: memoryview) -> int:
        try:
            return send(data)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError) as error:
            raise BlockingIOError from error

    return quiet


def tls_receive(sock: ssl.SSLSocket) -> Callable[[memoryview], int]:
    """Return ``sock.recv_into`` that says "nothing now" and "the end" as a plain socket does."""
    receive = sock.recv_into

    def quiet(buffer: memoryview) -> int:
        try:
            return receive(buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error
        except ssl.SSLEOFError:
            return 0  # without a goodbye; a frame that was cut off is noticed above

    return quiet


def shut(sock: socket.socket, how: int) -> None:
    """Shut a socket down; of a TLS connection, whose goodbye was said already, the socket below it."""
    if isinstance(sock, ssl.SSLSocket):
        socket.socket.shutdown(sock, how)
    else:
        sock.shutdown(how)


class Handler(Protocol):
    """What a channel tells its owner."""

    def connected(self) -> None:
        """The handshake is done, or there was none."""

    def received(self, data: memoryview) -> None:
        """Bytes came; the buffer is used again after the call."""

    def drained(self) -> None:
        """It has become writable again."""

    def lost(self, error: Exception | None) -> None:
        """It is gone; said once, and the last of all."""


class Channel:
    """One connected non-blocking socket. ``start`` begins; no call blocks or raises.

    ``low_water``: with more unsent bytes it is not ``writable``. ``bound``: unsent bytes at which a write breaks it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        low_water: int = 64 << 10,
        bound: int = 4 << 20,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = loop
        self._tls = tls
        self._sock = sock
        self._receive: Callable[[memoryview], int] = sock.recv_into
        self._handler: Handler | None = None
        self._buffer = SendBuffer(sock.send, bound, sock.fileno() if tls is None else -1)
        self._low = low_water
        self._fd = sock.fileno()
        self._reading = self._writing = False
        self._paused = self._blocked = False
        self._stage = "new"  # handshake, open, closing, ending, lost
        self._timer: asyncio.TimerHandle | None = None

    @property
    def writable(self) -> bool:
        """Whether it takes more."""
        return self._stage == "open" and self._buffer.waiting <= self._low

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network."""
        return self._buffer.waiting

    @property
    def sock(self) -> socket.socket:
        """The socket, for its options and addresses; its bytes are the channel's."""
        return self._sock

    def start(self, handler: Handler, timeout: int = 0) -> None:
        """Begin; ``timeout`` ns for the handshake and until ``settled`` is called, 0: none."""
        self._handler = handler
        self._sock.setblocking(False)
        if timeout:
            self._timer = self._loop.call_later(timeout / 1e9, self._late)
        if self._tls is None:
            self._open()
            return
        self._stage = "handshake"
        try:
            secure = self._tls.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            self._end(ConnectionBrokenError(f"connection broken: {error}"))
            return
        self._sock = secure
        self._fd = secure.fileno()
        self._receive = tls_receive(secure)
        self._buffer = SendBuffer(tls_send(secure), self._buffer.bound)
        self._handshake()

    def settled(self) -> None:
        """Stop the timer of the handshakes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def write(self, chunks: Sequence[bytes]) -> None:
        """Send ``chunks``; at once where nothing waits. Dropped where the channel is not open."""
        if self._stage != "open":
            return
        try:
            self._buffer.write(chunks)
        except ServerError as error:
            self.wrote(error)
            return
        if self._buffer.waiting:
            self.wrote(None)

    @property
    def empty(self) -> SendBuffer | None:
        """Its buffer, to be written to beside others where it is open and nothing waits; call ``wrote`` then."""
        buffer = self._buffer
        return buffer if self._stage == "open" and not buffer.waiting and not buffer.broken else None

    def wrote(self, error: ServerError | None) -> None:
        """Go on after a write that left something, or failed."""
        if error is not None:
            # Not from within the caller, who is in the middle of its own work.
            self._stage = "ending"
            self._watch(read=False, write=False)
            self._loop.call_soon(self._end, error)
            return
        if self._buffer.waiting and not self._writing:
            self._blocked = self._buffer.waiting > self._low
            self._watch(read=self._reading, write=True)
        elif self._buffer.waiting > self._low:
            self._blocked = True

    def pause(self) -> None:
        """Read nothing more until ``resume``."""
        self._paused = True
        if self._stage == "open":
            self._watch(read=False, write=self._writing)

    def resume(self) -> None:
        """Read again."""
        self._paused = False
        if self._stage == "open":
            self._watch(read=True, write=self._writing)
            if self._tls is not None:
                self._loop.call_soon(self._on_readable)  # decrypted already: the descriptor tells nothing of it

    def close(self) -> None:
        """Send what is unsent, say goodbye and close, within some seconds; ``lost`` follows."""
        if self._stage not in ("open", "handshake", "new"):
            return
        opened = self._stage == "open"
        self._stage = "closing"
        self.settled()
        self._timer = self._loop.call_later(_DRAIN, self._late)
        # Never ``lost`` from within the caller.
        if not opened:
            self._watch(read=False, write=False)
            self._loop.call_soon(self._end, None)
        elif not self._buffer.waiting:
            self._watch(read=True, write=False)
            self._loop.call_soon(self._shut)
        else:
            # Reading goes on, and is thrown away: an end that is gone is noticed, and nothing of it is kept.
            self._watch(read=True, write=True)

    def abort(self) -> None:
        """Close at once; ``lost`` follows."""
        if self._stage not in ("lost", "ending"):
            self._stage = "ending"
            self._watch(read=False, write=False)
            self._loop.call_soon(self._end, None)

    # -- inside

    def _open(self) -> None:
        self._stage = "open"
        assert self._handler is not None
        self._handler.connected()
        if self._stage == "open":
            self._watch(read=not self._paused, write=self._writing)

    def _handshake(self) -> None:
        assert isinstance(self._sock, ssl.SSLSocket)
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._watch(read=True, write=False)
        except ssl.SSLWantWriteError:
            self._watch(read=False, write=True)
        except (OSError, ValueError) as error:
            self._end(ConnectionBrokenError(f"no TLS connection: {error}"))
        else:
            self._watch(read=False, write=False)
            self._open()
            self._on_readable()  # what came along with the handshake makes no descriptor readable

    def _watch(self, *, read: bool, write: bool) -> None:
        if read != self._reading:
            self._reading = read
            if read:
                self._loop.add_reader(self._fd, self._on_readable)
            else:
                self._loop.remove_reader(self._fd)
        if write != self._writing:
            self._writing = write
            if write:
                self._loop.add_writer(self._fd, self._on_writable)
            else:
                self._loop.remove_writer(self._fd)

    def _on_readable(self) -> None:
        if self._stage == "handshake":
            self._handshake()
            return
        if self._stage not in ("open", "closing") or (self._paused and self._stage == "open"):
            return
        try:
            n = self._receive(_shared)
        except BlockingIOError:
            n = -1
        except OSError as error:
            self._end(ConnectionBrokenError(f"connection broken: {error.strerror or error}"))
            return
        if n == 0:
            self._end(None)
            return
        if n > 0 and self._stage == "open":
            assert self._handler is not None
            self._handler.received(_shared[:n])
        if self._tls is not None and self._stage in ("open", "closing"):
            if isinstance(self._sock, ssl.SSLSocket) and n > 0 and self._sock.pending():
                self._loop.call_soon(self._on_readable)  # decrypted already: the descriptor tells nothing of it
            if self._stage == "open" and self._buffer.waiting:
                self._on_writable()  # TLS may have waited for bytes before it could send

    def _on_writable(self) -> None:
        if self._stage == "handshake":
            self._handshake()
            return
        if self._stage not in ("open", "closing"):
            return
        try:
            empty = self._buffer.flush()
        except ServerError as error:
            self._end(error)
            return
        if empty:
            self._watch(read=self._reading, write=False)
        if self._stage == "closing":
            if empty:
                self._shut()
        elif self._blocked and self._buffer.waiting <= self._low:
            self._blocked = False
            assert self._handler is not None
            self._handler.drained()

    def _shut(self) -> None:
        """Close the sending half; the end comes when the other side has closed too, or by the timer."""
        if self._stage != "closing":
            return
        self.settled()
        self._timer = self._loop.call_later(_LINGER, self._late)
        if isinstance(self._sock, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._sock.unwrap()  # sends the goodbye of TLS; its answer is not waited for
        try:
            shut(self._sock, socket.SHUT_WR)
        except OSError:
            self._end(None)

    def _late(self) -> None:
        self._timer = None
        self._end(None if self._stage == "closing" else ConnectionBrokenError("the handshake took too long"))

    def _end(self, error: Exception | None) -> None:
        if self._stage == "lost":
            return
        self._stage = "lost"
        self.settled()
        self._watch(read=False, write=False)
        self._buffer.clear()
        with contextlib.suppress(OSError):
            self._sock.close()
        if self._handler is not None:
            self._handler.lost(error)


class StreamPort:
    """A port whose bytes are SBE frames and nothing else: TCP, Unix sockets, with or without TLS."""

    form = "sbe"

    def __init__(self, server: ServerSide, channel: Channel, peer: str, settle: Callable[[], None]) -> None:
        self.peer = peer
        self._server = server
        self._channel = channel
        self._settle = settle
        self._session: Session = None
        self._closing = False
        self.direct = channel  # frames as they are: the same bytes may go to many at once
        self.send = channel.write  # the hot path goes straight through
        self.pause = channel.pause
        self.resume = channel.resume
        self.abort = channel.abort

    @property
    def writable(self) -> bool:
        """Whether it takes more."""
        return self._channel.writable

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network."""
        return self._channel.unsent

    def close(self, code: str = "", text: str = "") -> None:
        """Send what is unsent, then close; Bye was among the frames."""
        self._channel.close()

    def connected(self) -> None:
        """Greet the client."""
        self._channel.settled()
        self._session = self._server.opened(self)
        self._settle()

    def received(self, data: memoryview) -> None:
        """Pass on bytes."""
        self._server.received(self._session, data)

    def drained(self) -> None:
        """Pass on that more can be sent."""
        self._server.writable(self._session)

    def lost(self, error: Exception | None) -> None:
        """Pass on that it is over."""
        self._settle()
        if self._session is not None:
            self._server.closed(self._session, error)


Make = Callable[[Channel, str, Callable[[], None]], Handler]
"""Makes the handler of a channel: the channel, its peer, and what to call once it is open or lost."""


class SocketListener:
    """A listening socket; ``make`` gives each accepted connection its handler.

    ``peer`` names a connection for people. Connections that are not open yet are bounded: where more than
    ``options.pending`` come, the oldest of them go.
    """

    def __init__(
        self,
        address: Address,
        sock: socket.socket,
        make: Make,
        options: ListenOptions,
        *,
        tls: ssl.SSLContext | None = None,
        peer: Callable[[socket.socket, object], str] = lambda sock, name: str(name),
        cleanup: Callable[[], None] | None = None,
    ) -> None:
        self.address = address
        self.exhausted = 0  # how often the system had no descriptors left
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._make = make
        self._options = options
        self._tls = tls
        self._peer = peer
        self._cleanup = cleanup
        self._pending: dict[Channel, None] = {}
        self._rest: asyncio.TimerHandle | None = None
        self._closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._accept)

    async def close(self) -> None:
        """Accept nothing more; connections that are not open yet are closed, open ones stay."""
        if self._closed:
            return
        self._closed = True
        if self._rest is not None:
            self._rest.cancel()
        else:
            self._loop.remove_reader(self._sock.fileno())
        if self._cleanup is not None:
            self._cleanup()
        self._sock.close()
        for channel in list(self._pending):
            channel.abort()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            if self._closed:
                return
            try:
                sock, name = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # that connection was gone before it was accepted
            try:
                self._begin(sock, name)
            except OSError:  # gone while its options were set
                sock.close()

    def _begin(self, sock: socket.socket, name: object) -> None:
        options = self._options
        peer = self._peer(sock, name)
        if sock.family != UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # What the system has not sent yet is old when it arrives: it belongs in the hub's queue, with its policy.
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # not on every system
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOTSENT)
        if options.send_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.send_buffer)
        channel = Channel(self._loop, sock, low_water=options.low_water, tls=self._tls)
        while len(self._pending) >= options.pending:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            oldest.abort()
        self._pending[channel] = None
        channel.start(self._make(channel, peer, lambda: self._settled(channel)), options.handshake)

    def _settled(self, channel: Channel) -> None:
        self._pending.pop(channel, None)

    def _pause(self, error: OSError) -> None:
        if not self.exhausted:
            _LOG.warning(
                "%s accepts nothing for a while: %s; raise the limit of open files", self.address, error.strerror
            )
        self.exhausted += 1
        self._loop.remove_reader(self._sock.fileno())
        self._rest = self._loop.call_later(_REST, self._continue)

    def _continue(self) -> None:
        self._rest = None
        if not self._closed:
            self._loop.add_reader(self._sock.fileno(), self._accept)


def port_maker(server: ServerSide) -> Make:
    """Return what makes the ports of plain frames."""

    def make(channel: Channel, peer: str, settle: Callable[[], None]) -> Handler:
        return StreamPort(server, channel, peer, settle)

    return make


def listening(
    family: int, place: object, address: Address, options: ListenOptions, what: str, *, mode: int | None = None
) -> socket.socket:
    """Return a socket that listens at ``place``, its file with ``mode`` at most; raises ServerError in one line."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if mode is not None:
            os.fchmod(sock.fileno(), mode)  # Linux: the file that bind makes takes its mode from the descriptor
        sock.bind(place)  # type: ignore[arg-type]
        sock.listen(options.backlog)
    except OSError as error:
        sock.close()
        hint = "stop the other program or choose another address" if error.errno == errno.EADDRINUSE else what
        raise ServerError(f"cannot listen at {address}: {error.strerror or error}", hint=hint) from error
    return sock
