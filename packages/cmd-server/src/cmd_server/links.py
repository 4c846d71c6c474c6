"""A client's connections over stream sockets, for asyncio and for threads; with or without TLS.

Both pull: nothing is read before the client asks, so that a slow client holds back the server and not its own memory.
What is sent goes through a ``SendBuffer``, as on the server's side.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from .errors import ConnectionBrokenError
from .sendbuffer import SendBuffer
from .sockets import shut, tls_receive, tls_send

__all__ = ["BlockingSocketLink", "SocketLink", "broken", "secure_async", "secure_blocking"]

_LONG: Final = 3600.0  # s of one wait where there is no limit
_RUN: Final = 16  # reads without a wait, after which others in the loop get their turn


def broken(peer: str, error: Exception, hint: str = "") -> ConnectionBrokenError:
    """Return the one-line error of a connection that failed."""
    if isinstance(error, TimeoutError):
        what = "no answer in time"
    elif isinstance(error, ssl.SSLCertVerificationError):
        what = f"its certificate was not accepted ({error.verify_message})"
        hint = hint or "name the certificate of who signed it by ?tls=1&ca=FILE"
    elif isinstance(error, ssl.SSLError):
        what = f"no TLS connection ({error.reason or error})"
    elif isinstance(error, ConnectionRefusedError):
        what = "nobody listens there"
        hint = hint or "is the server running, and is this its address?"
    else:
        what = str(getattr(error, "strerror", "") or error) or type(error).__name__
    return ConnectionBrokenError(f"{peer}: {what}", hint=hint)


def _calls(sock: socket.socket) -> tuple[Callable[[memoryview], int], Callable[[memoryview], int]]:
    """Return what receives and what sends."""
    if isinstance(sock, ssl.SSLSocket):
        return tls_receive(sock), tls_send(sock)
    return sock.recv_into, sock.send


async def _ready(loop: asyncio.AbstractEventLoop, fd: int, *, write: bool = False) -> None:
    """Wait until a descriptor can be read or written."""
    future: asyncio.Future[None] = loop.create_future()
    (loop.add_writer if write else loop.add_reader)(fd, _done, future)
    try:
        await future
    finally:
        (loop.remove_writer if write else loop.remove_reader)(fd)


async def secure_async(sock: socket.socket, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    """Do a client's TLS handshake; raises OSError. The caller closes the socket and limits the time."""
    loop = asyncio.get_running_loop()
    secure = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secure.do_handshake()
                return secure
            except ssl.SSLWantReadError:
                await _ready(loop, secure.fileno())
            except ssl.SSLWantWriteError:
                await _ready(loop, secure.fileno(), write=True)
    except BaseException:
        secure.close()
        raise


def secure_blocking(sock: socket.socket, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    """Do a client's TLS handshake within the socket's own timeout; raises OSError."""
    return context.wrap_socket(sock, server_hostname=name)


class SocketLink:
    """A link for asyncio over a connected socket, which it owns."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        sock.setblocking(False)
        self.peer = peer
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._fd = sock.fileno()
        self._receive, send = _calls(sock)
        self._buffer = SendBuffer(send)
        self._sending = asyncio.Lock()
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed = False
        self._run = 0

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes; see ``Link``."""
        while not self._closed:
            if self._run >= _RUN:
                self._run = 0
                await asyncio.sleep(0)
                continue
            try:
                n = self._receive(buffer)
            except BlockingIOError:
                self._run = 0
                await self._wait(write=False)
                continue
            except OSError as error:
                raise broken(self.peer, error) from error
            self._run += 1
            return n
        return 0

    async def send(self, frame: bytes) -> None:
        """Send whole frames; see ``Link``. A cancelled call may have sent a part: the next sends the rest first."""
        async with self._sending:
            self._check()
            self._buffer.write([frame])
            while self._buffer.waiting:
                await self._wait(write=True)
                self._check()
                self._buffer.flush()

    async def close(self) -> None:
        """Close; see ``Link``."""
        if self._closed:
            return
        self._closed = True
        self._buffer.clear()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        for future in self._waiters:
            if not future.done():
                future.set_result(None)
        _goodbye(self._sock)
        self._sock.close()

    async def _wait(self, *, write: bool) -> None:
        loop = self._loop
        future: asyncio.Future[None] = loop.create_future()
        self._waiters.add(future)
        (loop.add_writer if write else loop.add_reader)(self._fd, _done, future)
        try:
            await future
        finally:
            self._waiters.discard(future)
            if not self._closed:  # else the descriptor may be another's by now
                (loop.remove_writer if write else loop.remove_reader)(self._fd)

    def _check(self) -> None:
        if self._closed:
            raise ConnectionBrokenError(f"{self.peer}: this side has closed the connection")


def _able(sock: socket.socket, seconds: float | None, *, write: bool = False) -> bool:
    """Wait until a socket can be read or written, for so many seconds at most; whether it can."""
    if not hasattr(select, "poll"):  # Windows; elsewhere select cannot take descriptors above 1023
        found = select.select([] if write else [sock], [sock] if write else [], [], seconds)
        return any(found)
    poll = select.poll()
    poll.register(sock, select.POLLOUT if write else select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


class BlockingSocketLink:
    """A link for threads over a connected socket, which it owns. ``timeout`` ns: how long a send may take."""

    def __init__(self, sock: socket.socket, peer: str, timeout: int = 10_000_000_000) -> None:
        sock.setblocking(False)
        self.peer = peer
        self._sock = sock
        self._timeout = timeout / 1e9
        self._receive, send = _calls(sock)
        self._buffer = SendBuffer(send)
        # A TLS connection is one state for both directions: only one thread may be inside at a time.
        self._calling = threading.Lock()
        self._sending = threading.Lock()
        self._count = threading.Lock()
        self._users = 0  # threads that use the descriptor: the last one closes it
        self._closed = False
        # A second object for the same connection that waits by itself: one call a message instead of a try, a wait
        # and another try. The time it waits is its own; that the descriptor does not block is common to both.
        self._waiting: socket.socket | None = None
        self._seconds = -1.0  # for which it waits
        if not isinstance(sock, ssl.SSLSocket):
            with contextlib.suppress(OSError):  # no descriptors left: it works without
                self._waiting = sock.dup()

    @property
    def closed(self) -> bool:
        """Whether this side has closed it."""
        return self._closed

    def receive_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        """Wait for bytes; see ``BlockingLink``."""
        waiting = self._waiting
        if waiting is None:
            return self._poll_into(buffer, timeout)
        with self._count:
            if self._closed:
                return 0
            self._users += 1
        try:
            seconds = _LONG if timeout is None else timeout
            if seconds != self._seconds:
                waiting.settimeout(seconds)
                self._seconds = seconds
            while True:
                try:
                    return waiting.recv_into(buffer)
                except BlockingIOError:  # of a time of 0
                    raise TimeoutError from None
                except TimeoutError as error:
                    if self.closed:
                        return 0
                    if error.errno is not None:  # not ours, but that of a connection whose other side is gone
                        raise broken(self.peer, error) from error
                    if timeout is not None:
                        raise TimeoutError from None
                except OSError as error:
                    if self.closed:
                        return 0
                    raise broken(self.peer, error) from error
        finally:
            self._leave()

    def _poll_into(self, buffer: memoryview, timeout: float | None) -> int:
        """Wait for bytes outside the call that reads them, as TLS needs it: its bytes are not those of the socket."""
        with self._using() as usable:
            end = None if timeout is None else time.monotonic() + timeout
            while usable and not self._closed:
                try:
                    with self._calling:
                        return self._receive(buffer)
                except BlockingIOError:
                    pass
                except OSError as error:
                    if self.closed:
                        return 0
                    raise broken(self.peer, error) from error
                left = None if end is None else max(0.0, end - time.monotonic())
                if not _able(self._sock, left) and left is not None:
                    raise TimeoutError
            return 0

    def send(self, frame: bytes) -> None:
        """Send whole frames; see ``BlockingLink``."""
        with self._using() as usable, self._sending:
            if not usable:
                raise ConnectionBrokenError(f"{self.peer}: this side has closed the connection")
            with self._calling:
                self._buffer.write([frame])
            end = time.monotonic() + self._timeout
            while self._buffer.waiting:
                left = end - time.monotonic()
                if left <= 0:
                    raise broken(self.peer, TimeoutError())
                _able(self._sock, left, write=True)
                with self._calling:
                    self._buffer.flush()

    def close(self) -> None:
        """Close; see ``BlockingLink``."""
        with self._using() as usable:
            if usable:
                with self._calling:
                    self._closed = True
                    self._buffer.clear()
                    _goodbye(self._sock)  # wakes a thread that waits

    @contextlib.contextmanager
    def _using(self) -> Iterator[bool]:
        """Keep the descriptor from being closed, and so from being another's, while a thread is inside."""
        with self._count:
            usable = not self._closed
            self._users += 1
        try:
            yield usable
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._count:
            self._users -= 1
            if self._closed and not self._users:
                self._sock.close()
                if self._waiting is not None:
                    self._waiting.close()


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _goodbye(sock: socket.socket) -> None:
    if isinstance(sock, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):
            sock.unwrap()
    with contextlib.suppress(OSError):
        shut(sock, socket.SHUT_RDWR)
