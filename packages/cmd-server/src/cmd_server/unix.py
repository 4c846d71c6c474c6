"""The transport ``unix``: SBE frames over a Unix domain socket, a file or (Linux) an abstract name.

    unix:/run/user/1000/cmd.sock          only the same user may connect (mode 600)
    unix:/run/cmd/cmd.sock?mode=660       its group too
    unix:@cmd                             an abstract name: no file, and everybody on the machine may connect

A socket file that a killed server has left is removed when nobody listens behind it any more. Servers that start at
the same time take turns by a lock on the directory, so that none removes the file of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from typing import Final

from cmd_common.errors import UsageError

from .errors import ServerError
from .links import BlockingSocketLink, SocketLink, broken
from .sockets import SocketListener, listening, port_maker
from .transport import Address, LinkOptions, ListenOptions, ServerSide, only

__all__ = ["TRANSPORT", "UnixTransport"]

_KEYS: Final = {"mode": "server"}
_LONGEST: Final = 107  # bytes of a path, by the system's own structure
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid
_RETRY: Final = 0.01  # s; a full backlog is no reason to give up before the timeout
_TURN: Final = 2.0  # s that a server waits for the others that start in the same directory


def _place(address: Address) -> str:
    """Return what to bind or connect to; raises UsageError."""
    target = address.target
    if len(os.fsencode(target)) > _LONGEST:
        raise UsageError(
            f"{address}: a path of a Unix socket has {_LONGEST} bytes at most", hint="choose a shorter one"
        )
    if target == "@" or target.endswith("/"):
        raise UsageError(f"{str(address)!r} names no socket", hint="write it as unix:/run/cmd.sock or unix:@name")
    return "\0" + target[1:] if target.startswith("@") else target


@contextlib.contextmanager
def _turn(path: str, address: Address) -> Iterator[None]:
    """Hold the lock of a socket's directory; raises ServerError where there is none, or somebody else keeps its lock."""
    directory = os.path.dirname(path) or "."
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        hint = "create it first" if error.errno == errno.ENOENT else "choose a directory of your own"
        raise ServerError(f"cannot listen at {address}: {directory}: {error.strerror}", hint=hint) from error
    try:
        end = time.monotonic() + _TURN
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # whoever may read the directory may hold its lock, for as long as they like
                if time.monotonic() > end:
                    raise ServerError(
                        f"cannot listen at {address}: another program holds the lock of {directory}",
                        hint="choose a directory of your own",
                    ) from None
                time.sleep(_RETRY)
        yield
    finally:
        os.close(fd)


def _theirs(address: Address, error: OSError) -> ServerError:
    return ServerError(
        f"cannot listen at {address}: a socket is there that cannot be removed: {error.strerror}",
        hint="it may be another user's; choose another path",
    )


def _make_way(path: str, address: Address) -> None:
    """Remove a socket file behind which nobody listens; raises ServerError for anything else that is there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ServerError(f"cannot listen at {address}: {error.strerror}") from error
    if not stat.S_ISSOCK(found.st_mode):
        raise ServerError(f"cannot listen at {address}: a file that is no socket is there", hint="choose another path")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(path)
    except ConnectionRefusedError:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:  # in a directory where everybody may only remove their own
            raise _theirs(address, error) from error
        return
    except BlockingIOError:
        pass  # its backlog is full: somebody is there
    except FileNotFoundError:
        return
    except OSError as error:
        raise _theirs(address, error) from error
    finally:
        probe.close()
    raise ServerError(
        f"cannot listen at {address}: another server listens there", hint="stop it or choose another path"
    )


def _bind(address: Address, options: ListenOptions, mode: int) -> tuple[socket.socket, str, tuple[int, int]]:
    """Return a listening socket with a file of its own, and which file that is."""
    path = _place(address)
    with _turn(path, address):
        _make_way(path, address)
        # From its first moment the file has no more permissions than ``mode``; what the umask took is added after.
        sock = listening(socket.AF_UNIX, path, address, options, "choose a path that may be written", mode=mode)
        try:
            os.chmod(path, mode)
            made = os.stat(path)
        except OSError as error:
            sock.close()
            raise ServerError(f"cannot listen at {address}: {error.strerror}") from error
    # The process may change its directory before it removes the file.
    return sock, os.path.abspath(path), (made.st_dev, made.st_ino)


def _remove(path: str, made: tuple[int, int]) -> None:
    """Remove our own socket file; one that another has put in its place stays."""
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == made:
            os.unlink(path)


class UnixTransport:
    """SBE frames over a Unix domain socket."""

    def local(self, address: Address) -> bool:
        """Always: nobody else can reach it."""
        return True

    async def listen(self, address: Address, server: ServerSide, options: ListenOptions) -> SocketListener:
        """Bind; see ``Transport``."""
        only(address, _KEYS, "server")
        mode = address.number("mode", 0o600, 0, 0o777, base=8)
        place = _place(address)

        def peer(sock: socket.socket, _: object) -> str:
            if not hasattr(socket, "SO_PEERCRED"):  # Linux only
                return f"unix:{address.target}"
            data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, uid, _gid = _CREDENTIALS.unpack(data)
            return f"unix:{address.target} pid {pid} uid {uid}"

        if place.startswith("\0"):
            if "mode" in address.options:
                raise UsageError(f"{address}: an abstract name has no file, hence no mode")
            sock = listening(socket.AF_UNIX, place, address, options, "choose another name")
            return SocketListener(address, sock, port_maker(server), options, peer=peer)
        sock, path, made = _bind(address, options, mode)
        return SocketListener(
            address, sock, port_maker(server), options, peer=peer, cleanup=lambda: _remove(path, made)
        )

    async def connect(self, address: Address, options: LinkOptions) -> SocketLink:
        """Open a link; see ``Transport``."""
        place = self._client(address)
        sock = _socket(options)
        end = time.monotonic() + options.timeout / 1e9
        try:
            while True:
                try:
                    sock.connect(place)  # never waits: it is done, refused, or the backlog is full
                    return SocketLink(sock, str(address))
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise TimeoutError from None
                    await asyncio.sleep(_RETRY)
        except OSError as error:
            sock.close()
            raise _explained(address, error) from error
        except BaseException:
            sock.close()
            raise

    def open(self, address: Address, options: LinkOptions) -> BlockingSocketLink:
        """Open a blocking link; see ``Transport``."""
        place = self._client(address)
        sock = _socket(options)
        end = time.monotonic() + options.timeout / 1e9
        try:
            while True:
                try:
                    sock.connect(place)
                    return BlockingSocketLink(sock, str(address), options.timeout)
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise TimeoutError from None
                    time.sleep(_RETRY)
        except OSError as error:
            sock.close()
            raise _explained(address, error) from error

    def _client(self, address: Address) -> str:
        only(address, _KEYS, "client")
        return _place(address)


def _socket(options: LinkOptions) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    if options.receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.receive_buffer)
    return sock


def _explained(address: Address, error: OSError) -> ServerError:
    if error.errno == errno.ENOENT:
        return broken(str(address), error, "is the server running, and is this its path?")
    if error.errno == errno.EACCES:
        return broken(str(address), error, "its mode lets only some users in; ask for ?mode=660 and its group")
    return broken(str(address), error)


TRANSPORT: Final = UnixTransport()
