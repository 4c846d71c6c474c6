"""The extension module, written in Rust (rust/)."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, final

from typing_extensions import Buffer

from .records import Counter, DriverStatus, Image, ImageEvent

__all__ = [
    "Claim",
    "Client",
    "ExclusivePublication",
    "MediaDriver",
    "Publication",
    "Subscription",
    "default_directory",
    "driver_status",
    "shutdown",
    "version",
]

def version() -> str:
    """Aeron's version, as "1.54.0"."""

def default_directory() -> str:
    """The directory that Aeron itself takes: AERON_DIR, or one of the user in /dev/shm."""

def driver_status(directory: str) -> DriverStatus:
    """Who owns a directory; takes at most 1.5 s, and only where a driver was killed moments ago.

    Raises VersionMismatchError where the directory's files are of another version, AeronError where they cannot be read.
    """

def shutdown() -> None:
    """End all waits and close all clients and drivers of this process; registered to run at the interpreter's exit."""

@final
class MediaDriver:
    """Aeron's media driver inside this process, with threads of its own.

    Lengths are bytes, times ns; 0 is Aeron's own default (3 s for ``client_liveness``). ``threading`` is "shared",
    "shared-network" or "dedicated" (1, 2, 3 threads); ``idle`` is "backoff", "sleep", "yield", "spin" or "noop".
    The directory is deleted at the start and at the end.

    Raises DirectoryInUseError while a live driver owns the directory, StorageError where it has no room or holds other
    files, VersionMismatchError where another version's driver left it, ValueError on wrong settings, AeronError else.
    """

    def __new__(
        cls,
        directory: str = "",
        *,
        threading: str = "shared",
        idle: str = "backoff",
        term_length: int = 0,
        ipc_term_length: int = 0,
        mtu: int = 0,
        ipc_mtu: int = 0,
        window: int = 0,
        client_liveness: int = 0,
        driver_timeout: int = 0,
        untethered_window_limit: int = 0,
        untethered_resting: int = 0,
        publication_linger: int = 0,
        image_liveness: int = 0,
    ) -> Self: ...
    @property
    def directory(self) -> str:
        """Where clients find it."""

    @property
    def closed(self) -> bool: ...
    def close(self) -> None:
        """End its threads and delete its directory; clients that are left see it as gone."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class Client:
    """A connection to the media driver of a directory, with one thread of its own; safe to use from any thread.

    ``driver_timeout`` in ns: without a sign of life for so long the driver counts as gone. ``name`` shows in counters.

    Raises DriverMissingError where no driver runs, VersionMismatchError where another version's does.
    """

    def __new__(cls, directory: str = "", *, driver_timeout: int = 10_000_000_000, name: str = "") -> Self: ...
    @property
    def client_id(self) -> int: ...
    @property
    def directory(self) -> str: ...
    @property
    def closed(self) -> bool:
        """Whether it cannot be used any more, for whatever reason; ``check`` tells which."""

    def check(self) -> None:
        """Raise DriverTimeoutError or ClientClosedError, with the cause, where the client cannot be used any more."""

    def take_errors(self) -> list[tuple[int, str]]:
        """Codes and texts of errors that came up in the background since the last call: the newest 256."""

    def add_publication(self, channel: str, stream_id: int, timeout: int = 5_000_000_000) -> Publication:
        """A publication that others of the same channel and stream share; ``timeout`` in ns.

        Raises RegistrationError, EndpointClosingError, StorageError, AeronTimeoutError, or what ``check`` raises.
        """

    def add_exclusive_publication(
        self, channel: str, stream_id: int, timeout: int = 5_000_000_000
    ) -> ExclusivePublication:
        """A publication with a session of its own; ``timeout`` in ns. Raises as ``add_publication``."""

    def add_subscription(self, channel: str, stream_id: int, timeout: int = 5_000_000_000) -> Subscription:
        """A subscription to all publishers of a channel and stream; ``timeout`` in ns. Raises as ``add_publication``."""

    def counters(self) -> list[Counter]:
        """All counters of the driver."""

    def close(self) -> None:
        """Close everything made with the client, then the client."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class Claim:
    """Room for one message in a publication's log: write into ``memoryview(claim)``, then commit.

    ``with`` commits, and aborts on an exception. A claim that is forgotten is aborted; one that is kept open holds up
    the stream. Once it is finished, memoryviews that are left look at memory of their own.
    """

    @property
    def open(self) -> bool:
        """Neither committed nor aborted."""

    def commit(self) -> None:
        """Send it. Raises PublicationClosedError where the publication is closed or the claim was finished before."""

    def abort(self) -> None:
        """Give it up; subscribers skip its place."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __release_buffer__(self, buffer: memoryview, /) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

class _Publication:
    def offer(self, data: Buffer) -> int:
        """Send a message: the new position, or one of the codes below zero; never waits.

        Raises ValueError where it is longer than ``max_message_length``.
        """

    def offer_many(self, items: Sequence[Buffer], start: int = 0) -> tuple[int, int]:
        """Send ``items[start:]`` in order until one is refused: how many were accepted, and the last result."""

    def try_claim(self, length: int) -> Claim | int:
        """Room for a message of ``length`` bytes to be written in place, or one of the codes below zero.

        Raises ValueError where it is longer than ``max_payload_length``.
        """

    @property
    def connected(self) -> bool:
        """Whether a subscriber is there."""

    @property
    def closed(self) -> bool: ...
    @property
    def position(self) -> int:
        """Bytes sent, headers included; -4 once it is closed."""

    @property
    def position_limit(self) -> int:
        """How far it may send before it is back-pressured; -4 once it is closed."""

    @property
    def channel_status(self) -> int:
        """1: its channel works; -1: it does not; -4: closed."""

    @property
    def session_id(self) -> int: ...
    @property
    def stream_id(self) -> int: ...
    @property
    def channel(self) -> str: ...
    @property
    def max_message_length(self) -> int:
        """Bytes of the longest message: an eighth of the term, at most 16 MiB."""

    @property
    def max_payload_length(self) -> int:
        """Bytes of the longest message in one fragment, which is the longest claim."""

    @property
    def term_length(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class Publication(_Publication):
    """A stream that several publishers, of any process, may share. Safe to use from any thread."""

@final
class ExclusivePublication(_Publication):
    """A stream of one publisher, with a session of its own. Safe to use from any thread."""

@final
class Subscription:
    """A stream's messages, of all its publishers; whole, however many fragments they came in.

    One thread polls at a time (AeronError in a second one); everything else may be called from any thread.
    """

    def poll(self, limit: int = 256) -> list[bytes]:
        """What is there, at most ``limit`` fragments of it; never waits."""

    def poll_wait(self, timeout: int, limit: int = 256, idle: str = "balanced") -> list[bytes]:
        """Wait up to ``timeout`` ns for messages, with the GIL released; [] on timeout or ``stop``."""

    def poll_into(self, buffer: Buffer, timeout: int = 0, idle: str = "balanced") -> int:
        """Whole messages of one session, joined in ``buffer``: how many bytes; 0 on timeout or ``stop``.

        A message that does not fit any more comes next time; one longer than the whole buffer comes in parts.
        """

    def stop(self) -> None:
        """End a waiting poll, and all later ones: from now on polls do not wait."""

    @property
    def stopped(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    @property
    def connected(self) -> bool:
        """Whether a publisher is there."""

    @property
    def images(self) -> list[Image]:
        """The publishers that are there."""

    def take_events(self) -> list[ImageEvent]:
        """Publishers that came and went since the last call: the newest 1,024."""

    @property
    def endpoint(self) -> str:
        """HOST:PORT of a UDP subscription, with the port that the system chose for port 0; "" of others."""

    @property
    def stream_id(self) -> int: ...
    @property
    def channel(self) -> str: ...
    def close(self) -> None:
        """End a waiting poll and close."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
