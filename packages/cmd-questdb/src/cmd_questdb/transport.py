"""How rows reach the server: a seam with ILP over HTTP behind it, and one for QWP that no server of ours speaks yet.

Theory of operation of ``HttpTransport``. A ``questdb.Sender`` belongs to one thread, and a call of it was once seen
to hang for minutes although both of its time-outs were set. So it lives in a thread of its own; ``start`` hands
encoded rows over and ``finish`` waits, but only so long (the watchdog): then that thread and its Sender are given up,
which is counted, and the next rows get new ones. The given-up call may still come through: to send the same chunk
again is safe, because the tables deduplicate by key.

Rows are encoded in the caller's thread, by a Sender that is never connected (``prepare``). So the next chunk can be
encoded while the server is busy with the one before; bulk rows are sent like that. Still only one request is under
way at any time, or a chunk could be stored before an older one that has to be sent again.

The client's own retries are switched off: they do not cover a server that is gone, and the writer has its own. Of
each failure ``TransportError`` says whether the same chunk may be sent again:

    away      not connected, so nothing was sent                               again
    doubt     the connection broke or timed out: it may have been stored       again
    failed    the server failed by itself (5xx)                                again
    hung      the watchdog gave up                                             again
    refused   4xx: the server will never take this request                     no
    row       4xx that names a row                                             not with that row
    table     4xx: the table or a column is not there or of another type       no
    auth      401, 403                                                         no
"""

from __future__ import annotations

import queue
import re
import socket
import threading
from contextlib import suppress
from functools import cache
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from .conf import Conf
from .frames import Frame

__all__ = [
    "HttpTransport",
    "Kind",
    "Packet",
    "QwpTransport",
    "Transport",
    "TransportCounters",
    "TransportError",
    "classify",
]

Kind = Literal["away", "doubt", "failed", "hung", "refused", "row", "table", "auth"]
_AGAIN: Final = frozenset({"away", "doubt", "failed", "hung"})
_MARGIN: Final = 5.0  # s that the watchdog grants beyond the time-outs
_CONNECT: Final = 5.0  # s
_PROTOCOL: Final = 3  # of ILP: with arrays

_LINE: Final = re.compile(r"error in line (\d+): table: ([^,;]+)(?:, column: ([^;,]+?))?(?:;|,| does not| ?$)")
_GONE: Final = re.compile(r"creating new (?:tables|columns) is disabled|table does not exist|is being dropped")
_OWN: Final = re.compile(r"errno: ?\d+|write error|no space left|out of memory|too many open files|timed out", re.I)
_CAST: Final = re.compile(r"cast error from protocol type|cannot (?:be )?cast|type mismatch")
_REFUSED: Final = re.compile(
    r'"code":\s*"invalid"|\[code: invalid\]|failed to parse line protocol|too large|not accepting writes|'
    r"content.?length|unsupported|malformed|bad request|too many requests",
    re.I,
)


class TransportError(Exception):
    """A chunk was not confirmed. ``row`` is its position in the chunk where the server named one, else -1."""

    def __init__(self, kind: Kind, message: str, *, row: int = -1, column: str = "") -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.row = row
        self.column = column

    @property
    def again(self) -> bool:
        """Whether the same chunk may be sent again."""
        return self.kind in _AGAIN


class TransportCounters(msgspec.Struct):
    """Counts since the transport was made."""

    sent: int = 0  # transactions that the server confirmed
    rows: int = 0
    connects: int = 0
    hung: int = 0  # calls that the watchdog gave up


class Packet(NamedTuple):
    """Rows of one table as they go to the server."""

    table: str
    rows: int
    content: Any  # what the client makes of a frame


class Transport(Protocol):
    """Sends frames, one transaction each. Used from one thread."""

    counters: TransportCounters

    def prepare(self, table: str, frame: Frame) -> Packet:
        """Encode a frame, also while another is being sent; raises TransportError when the client refuses it."""

    def start(self, packet: Packet) -> None:
        """Begin to send; what was begun before has to be finished."""

    def finish(self) -> None:
        """Return when the server has stored what was begun; raises TransportError when it has not, or nobody knows."""

    def send(self, table: str, frame: Frame) -> None:
        """All three in one."""

    def close(self) -> None:
        """Release; never raises."""


def classify(code: str, text: str) -> TransportError:
    """Make an error of what the client raised: the name of its code and its words."""
    words = _words(text)
    if (code in ("AuthError", "TlsError", "ConfigError") and "authentication" in text.lower()) or code == "AuthError":
        return TransportError("auth", words)
    if code in ("SocketError", "CouldNotResolveAddr", "ProtocolVersionError"):
        nothing_sent = "Connection refused" in text or code != "SocketError"
        return TransportError("away" if nothing_sent else "doubt", words)
    if code == "HttpNotSupported":
        return TransportError("refused", words)
    if code != "ServerFlushError":
        return TransportError("refused", words)
    if _OWN.search(words):  # a full disk, for one, is answered with 400 as if the rows were bad
        return TransportError("failed", words)
    line = _LINE.search(words)
    row, column = (int(line[1]) - 1, (line[3] or "").strip()) if line is not None else (-1, "")
    if _GONE.search(words) or _CAST.search(words):
        return TransportError("table", words, row=row, column=column)
    if line is not None:
        return TransportError("row", words, row=row, column=column)
    # The client hides the HTTP status. QuestDB words every 4xx as one of these; all else is a proxy's or a 5xx.
    return TransportError("refused" if _REFUSED.search(text) else "failed", words)


def _words(text: str) -> str:
    """What the server said, out of what the client made of it."""
    text = text.removeprefix("Could not flush buffer: ")
    if text.startswith("{"):
        try:
            answer = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            answer = None
        if isinstance(answer, dict) and isinstance(answer.get("message"), str):
            text = answer["message"]
    return " ".join(text.split())


class _Job:
    """One call for the thread of a Sender."""

    __slots__ = ("done", "error", "packet")

    def __init__(self, packet: Packet) -> None:
        self.packet = packet
        self.error: TransportError | None = None
        self.done = threading.Event()


class _Worker(threading.Thread):
    """The thread that one Sender belongs to."""

    def __init__(self, conf: Conf, address: int, connect_timeout: float) -> None:
        super().__init__(name="cmd-questdb sender", daemon=True)  # a hanging call must not keep the process
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._conf = conf
        self._address = address
        self._connect_timeout = connect_timeout
        self._sender: Any = None

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            try:
                self._send(job)
            except TransportError as error:
                job.error = error
            except Exception as error:  # a fault of the client: no retry will help
                job.error = TransportError("refused", f"{type(error).__name__}: {error}")
            job.done.set()
        self._close()

    def _send(self, job: _Job) -> None:
        from questdb import QuestDBError

        try:
            sender = self._open()
            sender.flush(job.packet.content, clear=False, transactional=True)
        except QuestDBError as error:
            raise classify(error.code.name, str(error)) from error

    def _open(self) -> Any:
        from questdb import Sender

        if self._sender is None:
            host, port = self._conf.addrs[self._address]
            try:  # the client has no time-out for connecting
                socket.create_connection((host, port), self._connect_timeout).close()
            except OSError as error:
                words = error.strerror or str(error) or type(error).__name__
                raise TransportError("away", f"cannot connect to {host}:{port}: {words}") from error
            # A given version spares the question for the server's; retry_timeout 0: the writer has its own retries.
            text = self._conf.client_conf(
                self._address, protocol_version=_PROTOCOL, auto_flush="off", retry_timeout=0, request_min_throughput=0
            )
            sender = Sender.from_conf(text)
            _establish(sender)
            self._sender = sender
        return self._sender

    def _close(self) -> None:
        if self._sender is not None:
            try:
                self._sender.close(False)
            except Exception as error:  # whatever it is, nothing waits for this Sender any more
                del error
            self._sender = None


@cache
def _encoder() -> Any:
    """The Sender that makes all buffers and is never connected; one, as the client warns of many new ones."""
    from questdb import Sender

    sender: Any = Sender.from_conf(f"http::addr=127.0.0.1:1;protocol_version={_PROTOCOL};auto_flush=off;")
    _establish(sender)
    return sender


def _establish(sender: Any) -> None:
    """Make a Sender ready, which does not connect: the version is given."""
    with suppress(UserWarning):  # that Senders are made quickly, as an error where a test asks for it: it is ready then
        sender.establish()


class HttpTransport:
    """ILP over HTTP by the standalone Sender. Several addresses are taken in turn when one does not answer."""

    def __init__(self, conf: Conf, *, connect_timeout: float = _CONNECT, watchdog: float | None = None) -> None:
        self.counters = TransportCounters()
        self._conf = conf
        self._connect_timeout = connect_timeout
        self._watchdog = watchdog if watchdog is not None else conf.request_timeout / 1000 + connect_timeout + _MARGIN
        self._address = 0
        self._worker: _Worker | None = None
        self._job: _Job | None = None  # what is under way

    def prepare(self, table: str, frame: Frame) -> Packet:
        """Encode a frame; raises TransportError, which no retry will mend."""
        from questdb import QuestDBError

        try:
            buffer = _encoder().new_buffer()
            buffer.dataframe(frame.data, table_name=table, symbols=frame.symbols, at=frame.at)
        except QuestDBError as error:
            raise classify(error.code.name, str(error)) from error
        except Exception as error:  # a fault of the client or of the frame
            raise TransportError("refused", f"{type(error).__name__}: {error}") from error
        return Packet(table, len(frame.data), buffer)

    def start(self, packet: Packet) -> None:
        """Begin to send one transaction."""
        if self._worker is None:
            self._worker = _Worker(self._conf, self._address, self._connect_timeout)
            self._worker.start()
            self.counters.connects += 1
        self._job = _Job(packet)
        self._worker.jobs.put(self._job)

    def finish(self) -> None:
        """Wait for what was begun; raises TransportError."""
        job, self._job = self._job, None
        if job is None:
            return
        if not job.done.wait(self._watchdog):
            self.counters.hung += 1
            self._give_up()
            raise TransportError("hung", f"no answer within {self._watchdog:g} s; the connection was given up")
        if job.error is not None:
            if job.error.again and len(self._conf.addrs) > 1:
                self._give_up()
            raise job.error
        self.counters.sent += 1
        self.counters.rows += job.packet.rows

    def send(self, table: str, frame: Frame) -> None:
        """Send one transaction; raises TransportError."""
        self.start(self.prepare(table, frame))
        self.finish()

    def _give_up(self) -> None:
        """Leave the thread to end by itself; the next frame goes to the next address."""
        if self._worker is not None:
            self._worker.jobs.put(None)
            self._worker = None
        self._address = (self._address + 1) % len(self._conf.addrs)

    def close(self) -> None:
        """End the thread."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.jobs.put(None)
            worker.join(_MARGIN)


class QwpTransport:
    """QWP over WebSocket, for servers from version 10 on. Untested: no such server could be had; see decision 0008.

    It exists so that the seam is known to fit: a DataFrame in, confirmed or an error. Nothing chooses it by itself.
    """

    def __init__(self, conf: Conf) -> None:
        self.counters = TransportCounters()
        self._conf = conf
        self._client: Any = None
        self._packet: Packet | None = None

    def prepare(self, table: str, frame: Frame) -> Packet:
        """The client encodes while it sends."""
        return Packet(table, len(frame.data), frame)

    def start(self, packet: Packet) -> None:
        """Nothing goes before ``finish``."""
        self._packet = packet

    def finish(self) -> None:
        """Send what was begun."""
        packet, self._packet = self._packet, None
        if packet is not None:
            self.send(packet.table, packet.content)

    def send(self, table: str, frame: Frame) -> None:
        """Send one frame; the call returns when every batch of it is committed."""
        import questdb

        try:
            if self._client is None:
                ws = "wss" if self._conf.scheme == "https" else "ws"
                text = (
                    self._conf.client_conf()
                    .partition("::")[2]
                    .replace(f"request_timeout={self._conf.request_timeout};", "")
                )
                self._client = questdb.connect(f"{ws}::{text}")
                self.counters.connects += 1
            self._client.dataframe(frame.data, table_name=table, symbols=frame.symbols, at=frame.at)
        except questdb.QuestDBError as error:
            raise classify(error.code.name, str(error)) from error
        self.counters.sent += 1
        self.counters.rows += len(frame.data)

    def close(self) -> None:
        """Close the client."""
        client, self._client = self._client, None
        if client is not None:
            client.close(timeout=_MARGIN)
