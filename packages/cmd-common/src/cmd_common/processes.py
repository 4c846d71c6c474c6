"""What runs on this machine: each process keeps a small file of its state, and holds a lock beside it while it lives.

The lock dies with its process, so that one that was killed is told from one that ended. Nothing depends on these files: what
cannot be written is left out, for a full disk must not stop a recording.

    with ProcessState("record", store="parquet:data") as process:
        process.running("recording trades of binance-spot 2", metrics="http://127.0.0.1:9100")
        async with process.alive(lambda: {"records": 7}):
            ...
        process.finish(0)

``cmd-cli status`` shows what ``processes`` finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import stat
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final, Literal, Self

import msgspec
from msgspec import Struct

from . import filelock
from .config import mask

__all__ = ["STUCK", "Found", "Process", "ProcessState", "folders", "forget", "judge", "processes", "run_folder"]

STUCK: Final = 20_000_000_000
"""Ns without a sign of life after which a process counts as stuck."""

Phase = Literal["starting", "running", "stopping", "ended"]
State = Literal["starting", "running", "stopping", "stuck", "killed", "ended", "failed"]

_NAME: Final = "cryptomarketdata"
_SYSTEM: Final = f"/run/{_NAME}"
_EVERY: Final = 2.0  # s between two signs of life
_KEEP: Final = 7 * 86_400_000_000_000  # ns that the file of an ended process is kept
_KEPT: Final = 20  # ended ones of a command
_LARGE: Final = 1 << 20  # bytes of a file that is no state of ours
_GOOD: Final = (0, 3, 4)  # done, done with gaps, another one works on it


class Process(Struct):
    """One process as its file tells it; times are Unix ns."""

    command: str
    pid: int
    phase: Phase
    started: int
    updated: int
    version: str = ""
    words: str = ""  # what it does, for people
    store: str = ""  # without passwords
    metrics: str = ""  # URL
    exit_code: int | None = None
    error: str = ""
    facts: dict[str, Any] = msgspec.field(default_factory=dict)  # numbers of the command's own


class Found(Struct, frozen=True):
    """A process and what is to be thought of it."""

    process: Process
    state: State
    path: str


def run_folder(environ: Mapping[str, str] | None = None) -> str:
    """Where this process keeps its file: CMD_RUN_DIR, what systemd gives, or a folder of the user."""
    environ = os.environ if environ is None else environ
    if own := environ.get("CMD_RUN_DIR"):
        return own
    if given := environ.get("RUNTIME_DIRECTORY"):  # of the unit; several are parted by colons
        return given.split(":")[0]
    if base := environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(base, _NAME)
    return os.path.join(tempfile.gettempdir(), f"{_NAME}-{_user()}")


def folders(environ: Mapping[str, str] | None = None) -> list[str]:
    """Where ``processes`` looks: the user's own folder and that of the system's units; with CMD_RUN_DIR only there."""
    environ = os.environ if environ is None else environ
    own = run_folder(environ)
    if environ.get("CMD_RUN_DIR") or own == _SYSTEM:
        return [own]
    return [own, _SYSTEM]


def _user() -> str:
    if hasattr(os, "getuid"):
        return str(os.getuid())
    with contextlib.suppress(Exception):
        return getpass.getuser()
    return "user"


def judge(process: Process, held: bool, now: int) -> State:
    """What is to be thought of a process whose lock is ``held`` or not. Pure."""
    if process.phase == "ended":
        return "ended" if process.exit_code in _GOOD else "failed"
    if not held:
        return "killed"
    return "stuck" if now - process.updated > STUCK else process.phase


def processes(places: list[str] | None = None, now: int | None = None) -> list[Found]:
    """Every process that is known, the newest first. What cannot be read is left out."""
    now = time.time_ns() if now is None else now
    found: list[Found] = []
    for folder in folders() if places is None else places:
        for name, process in _read(folder):
            path = os.path.join(folder, name)
            found.append(Found(process, judge(process, _held(path, process), now), path))
    return sorted(found, key=lambda f: -f.process.started)


def forget(found: Found) -> bool:
    """Remove the file of a process that does not live any more; returns whether it is gone."""
    if found.state not in ("killed", "ended", "failed"):
        return False
    with contextlib.suppress(OSError):
        os.remove(found.path)
        with contextlib.suppress(OSError):
            os.remove(_lock_of(found.path))
        return True
    return False


def _read(folder: str) -> Iterator[tuple[str, Process]]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        if not name.endswith(".json"):
            continue
        try:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size > _LARGE:
                    continue
                yield name, msgspec.json.decode(file.read(), type=Process)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            continue


def _lock_of(path: str) -> str:
    return path.removesuffix(".json") + ".lock"


def _held(path: str, process: Process) -> bool:
    """Whether the process of a state file lives."""
    lock = _lock_of(path)
    if not os.path.exists(lock):
        return False
    try:
        fd = filelock.take(lock)
    except OSError:  # of another user: all that can be seen is whether there is such a process
        return _exists(process.pid)
    if fd is None:
        return True
    filelock.give_back(fd, lock)
    return False


def _exists(pid: int) -> bool:
    if sys.platform == "win32" or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class ProcessState:
    """The state file of this process, for one command that it runs; a context manager.

    Leaving it by an error writes the error; without ``finish`` the exit code is then 1.
    """

    def __init__(
        self,
        command: str,
        *,
        store: str = "",
        folder: str | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        from . import __version__

        self._clock = clock
        self._folder = run_folder() if folder is None else folder
        self._path = ""
        self._lock: int | None = None
        self._mutex = threading.Lock()
        now = clock()
        self.process = Process(command, os.getpid(), "starting", now, now, __version__, store=str(mask(store)))

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):
            self._open()
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.process.phase != "ended":
            self.finish(0 if error is None else 1, "" if error is None else str(error) or type(error).__name__)
        lock, self._lock = self._lock, None
        if lock is not None:
            filelock.give_back(lock, _lock_of(self._path))

    def running(self, words: str = "", *, metrics: str = "") -> None:
        """The process does its work from now on."""
        self.process.phase = "running"
        self.process.words, self.process.metrics = str(mask(words)), metrics
        self._write()

    def stopping(self) -> None:
        """The process is ending."""
        self.process.phase = "stopping"
        self._write()

    def finish(self, exit_code: int, error: str = "", facts: Mapping[str, Any] | None = None) -> None:
        """The process has ended with this exit code; ``facts`` are what it leaves."""
        self.process.phase, self.process.exit_code, self.process.error = "ended", exit_code, str(mask(error))
        if facts is not None:
            self.process.facts = dict(facts)
        self._write()

    def update(self, facts: Mapping[str, Any]) -> None:
        """A sign of life, with the numbers of this moment."""
        self.process.facts = dict(facts)
        self._write()

    @contextlib.asynccontextmanager
    async def alive(self, facts: Callable[[], Mapping[str, Any]] = dict) -> AsyncIterator[None]:
        """Give signs of life out of the running event loop, so that one that stands still is seen to be stuck."""

        async def signs() -> None:
            while True:
                self.update(facts())
                await asyncio.sleep(_EVERY)

        task = asyncio.create_task(signs(), name="process state")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @contextlib.contextmanager
    def beating(self, facts: Callable[[], Mapping[str, Any]] = dict) -> Iterator[None]:
        """Give signs of life out of a thread, for a command that has no event loop of its own."""
        over = threading.Event()

        def signs() -> None:
            while not over.wait(_EVERY):
                self.update(facts())

        thread = threading.Thread(target=signs, name="process state", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    # -- files

    def _open(self) -> None:
        folder = self._folder
        os.makedirs(folder, mode=0o755 if folder == _SYSTEM else 0o700, exist_ok=True)
        if not _ours(folder):
            return
        self._tidy()
        base = f"{self.process.command}-{os.getpid()}-{self.process.started}"
        path = os.path.join(folder, f"{base}.json")
        self._lock = filelock.take(_lock_of(path))
        if self._lock is not None:
            self._path = path

    def _tidy(self) -> None:
        """Remove files of ended processes of this command that are old, or too many."""
        now, ended = self._clock(), []
        for name, process in _read(self._folder):
            path = os.path.join(self._folder, name)
            if process.command == self.process.command and not _held(path, process):
                ended.append((process.updated, path))
        ended.sort(reverse=True)
        for n, (updated, path) in enumerate(ended):
            if n >= _KEPT or now - updated > _KEEP:
                with contextlib.suppress(OSError):
                    os.remove(path)

    def _write(self) -> None:
        if not self._path:
            return
        with self._mutex:
            self.process.updated = self._clock()
            fresh = f"{self._path}.new"
            try:
                with open(fresh, "wb") as file:
                    file.write(msgspec.json.encode(self.process, enc_hook=str))
                if self._folder == _SYSTEM:
                    os.chmod(fresh, 0o644)  # whatever the unit's umask is
                os.replace(fresh, self._path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.remove(fresh)


def _ours(folder: str) -> bool:
    """Whether a folder is one that nobody else can put a link into."""
    if sys.platform == "win32":
        return True
    info = os.lstat(folder)
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o022
