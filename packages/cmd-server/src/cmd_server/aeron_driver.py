"""Media drivers and Aeron clients of this process: one each per directory, shared by all who ask for it.

Theory of operation. An Aeron client has a thread of its own and maps files of its driver, so a process wants one for
each directory, however many connections it has; a driver can be there only once. Both are counted: who acquires one
releases it, and the last release closes it. A client that cannot be used any more (its driver died, this process was
stopped for longer than the liveness time) is not given out again: the next who asks gets a new one, while those who
hold the old one find out by themselves. All calls may take seconds and are for threads, never for an event loop; they
may come from any thread.

Which driver: a client on IPC uses the server's, whatever it is. Everybody else uses the live one in the directory or,
where there is none, starts one in this process (``driver=auto``); ``embedded`` insists on the latter, ``external`` on
the former.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Final

from .aeron import Settings, native
from .errors import ConnectionBrokenError, ServerError

if TYPE_CHECKING:
    from cmd_aeron import Client, MediaDriver

__all__ = ["ClientHandle", "DriverHandle", "acquire_client", "acquire_driver", "broken", "explained", "running"]

_lock: Final = threading.Lock()
_drivers: Final[dict[tuple[int, str], _Driver]] = {}  # by process, because a fork inherits none of their threads
_clients: Final[dict[tuple[int, str], _Client]] = {}


def explained(error: Exception) -> ServerError:
    """Return an error of cmd_aeron as one of ours, with its hint."""
    return ServerError(getattr(error, "message", str(error)), hint=getattr(error, "hint", ""))


def broken(error: Exception) -> ConnectionBrokenError:
    """Return an error of cmd_aeron as a connection that is gone, with its hint."""
    return ConnectionBrokenError(getattr(error, "message", str(error)), hint=getattr(error, "hint", ""))


class _Shared:
    """What is counted; its own lock is held while it is made, so that nothing else waits for that."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0


class _Driver(_Shared):
    driver: MediaDriver | None = None
    file: tuple[int, int] | None = None  # which it made in its directory


class _Client(_Shared):
    client: Client | None = None


class DriverHandle:
    """A driver that may be used until ``release``: ``directory`` is where, ``embedded`` whether it runs in here."""

    def __init__(self, directory: str, shared: _Driver | None = None, key: tuple[int, str] = (0, "")) -> None:
        self.directory = directory
        self.embedded = shared is not None
        self._shared = shared
        self._key = key

    @property
    def intact(self) -> bool:
        """Whether a driver of this process still has the directory that it made; True of others. Never waits."""
        shared = self._shared
        return shared is None or shared.file == _file(self.directory)

    def release(self) -> None:
        """Give it back; the last one who does ends a driver of this process and removes its directory."""
        with _lock:
            shared, self._shared = self._shared, None
        if shared is None or self._key[0] != os.getpid():
            return
        with shared.lock:
            shared.users -= 1
            if shared.users:
                return
            with _lock:
                if _drivers.get(self._key) is shared:
                    del _drivers[self._key]
            driver, shared.driver = shared.driver, None
            if driver is not None:
                driver.close()  # which deletes its directory, where that is not another's by now


class ClientHandle:
    """A client that may be used until ``release``; ``client`` is the object of cmd_aeron."""

    def __init__(self, client: Client, shared: _Client, key: tuple[int, str]) -> None:
        self.client = client
        self._shared: _Client | None = shared
        self._key = key

    @property
    def usable(self) -> bool:
        """Whether it can still be used; where not, acquire another. Never waits."""
        return _usable(self.client)

    def release(self, *, retire: bool = False) -> None:
        """Give it back; the last one who does closes it, and with it what was made by it.

        ``retire``: it is of no use although it does not know it yet, so that nobody else gets it.
        """
        with _lock:
            shared, self._shared = self._shared, None
            if retire and shared is not None and _clients.get(self._key) is shared:
                del _clients[self._key]
        if shared is None or self._key[0] != os.getpid():
            return
        with shared.lock:
            shared.users -= 1
            if shared.users:
                return
            with _lock:
                if _clients.get(self._key) is shared:
                    del _clients[self._key]
            client, shared.client = shared.client, None
            if client is not None:
                client.close()


def _file(directory: str) -> tuple[int, int] | None:
    """Return which file of a driver is in a directory, None where there is none."""
    try:
        found = os.stat(os.path.join(directory, "cnc.dat"))
    except OSError:
        return None
    return found.st_dev, found.st_ino


def running(directory: str) -> bool:
    """Whether a driver runs in a directory, of this process or of another; waits 1.5 s at most.

    Raises ServerError in one line where its files are of another version.
    """
    with _lock:
        shared = _drivers.get((os.getpid(), directory))
    if shared is not None and shared.driver is not None and shared.file == _file(directory):
        return True
    aeron = native()
    try:
        return bool(aeron.driver_status(directory).running)
    except aeron.AeronError as error:
        raise explained(error) from error


def acquire_driver(settings: Settings) -> DriverHandle:
    """Return the driver that an address asks for, started here where it may be; raises ServerError in one line."""
    directory, choice = settings.directory, settings.driver
    if settings.side == "client":
        if settings.medium == "ipc":
            choice = "external"
        elif not directory:
            directory = str(native().default_directory())
            if choice == "embedded" or (choice == "auto" and not running(directory)):
                directory, choice = _private(), "embedded"
    key = (os.getpid(), directory)
    if choice == "external":
        if not running(directory):
            raise ServerError(
                f"no media driver runs in {directory}",
                hint="is the server running, and is dir= its directory?"
                if settings.side == "client"
                else f"start one: python -m cmd_aeron.driver --dir {directory}",
            )
        return DriverHandle(directory)
    while True:
        with _lock:
            shared = _drivers.setdefault(key, _Driver())
        with shared.lock:
            with _lock:
                if _drivers.get(key) is not shared:
                    continue  # it was closed meanwhile
            if shared.driver is None:
                try:
                    shared.driver = _start(directory, settings)
                    shared.file = _file(directory)
                except BaseException as error:
                    with _lock:
                        del _drivers[key]
                    # Only the attempt tells: to look first takes as long again where a killed driver left its files.
                    if isinstance(error, native().DirectoryInUseError):
                        if choice == "auto":
                            return DriverHandle(directory)
                        raise explained(error) from error
                    raise
            elif shared.file != _file(directory):
                hint = "it is made again when all who use it here have let go"
                raise ServerError(f"the directory {directory} was deleted under its driver", hint=hint)
            shared.users += 1
            return DriverHandle(directory, shared, key)


def _private() -> str:
    """Return the directory of a driver for this process alone: the one that it has, or a new one's name."""
    with _lock:
        for (pid, directory), shared in _drivers.items():
            if pid == os.getpid() and _PRIVATE in directory and shared.driver is not None:
                return directory
    place = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    return os.path.join(place, f"{_PRIVATE}{os.getpid()}-{secrets.token_hex(4)}")


_PRIVATE: Final = "cmd-aeron-private-"


def _start(directory: str, settings: Settings) -> MediaDriver:
    aeron = native()
    options: dict[str, Any] = {
        "term_length": settings.term_length,
        "ipc_term_length": settings.term_length,
        "client_liveness": settings.liveness,
        "image_liveness": settings.liveness,
    }
    if settings.mtu:
        options |= {"mtu": settings.mtu, "ipc_mtu": settings.mtu}
    if settings.window and settings.medium == "udp":
        options["window"] = settings.window
    try:
        driver: MediaDriver = aeron.MediaDriver(directory, **options)
    except aeron.DirectoryInUseError:
        raise
    except aeron.AeronError as error:
        raise explained(error) from error
    return driver


def _usable(client: Client) -> bool:
    if client.closed:
        return False
    try:
        client.check()
    except native().AeronError:
        return False
    return True


def acquire_client(directory: str, *, timeout: int = 10_000_000_000, name: str = "cmd-server") -> ClientHandle:
    """Return this process's client of the driver in a directory, made within ``timeout`` ns where there is none.

    Raises ServerError in one line: no driver runs there, or it is of another version.
    """
    aeron = native()
    key = (os.getpid(), directory)
    while True:
        with _lock:
            shared = _clients.setdefault(key, _Client())
        with shared.lock:
            with _lock:
                if _clients.get(key) is not shared:
                    continue  # it was closed meanwhile
            if shared.client is not None and not _usable(shared.client):
                with _lock:
                    del _clients[key]  # those who hold it close it when they release it
                continue
            if shared.client is None:
                try:
                    shared.client = aeron.Client(directory, driver_timeout=timeout, name=name)
                except BaseException as error:
                    with _lock:
                        del _clients[key]
                    if isinstance(error, aeron.AeronError):
                        raise explained(error) from error
                    raise
            shared.users += 1
            return ClientHandle(shared.client, shared, key)


@atexit.register
def _end() -> None:
    """Close what a program has not released, so that no driver's directory is left behind."""
    pid = os.getpid()
    with _lock:
        clients = [shared.client for (owner, _), shared in _clients.items() if owner == pid]
        drivers = [shared.driver for key, shared in _drivers.items() if key[0] == pid]
    for client in clients:
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()
    for driver in drivers:
        if driver is not None:
            with contextlib.suppress(Exception):
                driver.close()
