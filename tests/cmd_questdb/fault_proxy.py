"""A TCP proxy before the server that loses acknowledgements, delays, refuses, cuts and answers in its place.

It knows where an HTTP message ends, so a fault hits one chosen request and nothing beside it::

    with FaultProxy(server.port) as proxy:
        proxy.drop_ack(times=2)              # the server commits, the client never hears of it
        conf = f"http::addr=127.0.0.1:{proxy.port};"
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Fault:
    """What happens to the next ``times`` requests whose path begins with ``path``."""

    kind: str
    path: str
    times: int
    seconds: float = 0.0
    after: int = 0
    status: int = 503
    body: bytes = b""
    skip: int = 0
    released: threading.Event = field(default_factory=threading.Event)


class _Gone(Exception):
    """The peer closed the connection."""


class _Messages:
    """Cuts what arrives on one socket into HTTP messages."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.held = b""

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise _Gone
        self.held += data

    def head(self) -> bytes:
        while b"\r\n\r\n" not in self.held:
            self._more()
        head, _, self.held = self.held.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def _take(self, size: int) -> Iterator[bytes]:
        while size:
            if not self.held:
                self._more()
            piece, self.held = self.held[:size], self.held[size:]
            size -= len(piece)
            yield piece

    def _line(self) -> bytes:
        while b"\r\n" not in self.held:
            self._more()
        line, _, self.held = self.held.partition(b"\r\n")
        return line + b"\r\n"

    def body(self, head: bytes, *, empty: bool = False) -> Iterator[bytes]:
        """The body that belongs to a head, piece by piece."""
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        if empty:
            return
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            while True:
                line = self._line()
                yield line
                size = int(line.split(b";")[0], 16)
                yield from self._take(size + 2)  # with the line end behind it
                if size == 0:
                    return
        else:
            yield from self._take(int(fields.get(b"content-length", b"0")))


class FaultProxy:
    """Listens on a free loopback port and passes everything to the server, faults aside."""

    def __init__(self, target_port: int, target_host: str = "127.0.0.1") -> None:
        self.target = (target_host, target_port)
        self.host = "127.0.0.1"
        self.port = 0
        self.requests: list[tuple[str, str]] = []  # (path, what happened: pass or the fault's kind)
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._closed = False

    def __enter__(self) -> FaultProxy:
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- faults

    def drop_ack(self, times: int = 1, path: str = "/write", skip: int = 0) -> None:
        """The request reaches the server and is done; its answer is lost and the connection reset."""
        self._add(Fault("drop_ack", path, times, skip=skip))

    def cut(self, after: int = 1000, times: int = 1, path: str = "/write", skip: int = 0) -> None:
        """Only the first ``after`` bytes of the body reach the server; both sides are reset."""
        self._add(Fault("cut", path, times, after=after, skip=skip))

    def delay(self, seconds: float, times: int = 1_000_000, path: str = "/") -> None:
        """Answers come this much later."""
        self._add(Fault("delay", path, times, seconds=seconds))

    def stall(self, times: int = 1, path: str = "/write") -> None:
        """The server does the request; the answer is held back until ``clear()``, then the connection ends."""
        self._add(Fault("stall", path, times))

    def answer(self, status: int, body: bytes = b"", times: int = 1, path: str = "/write", skip: int = 0) -> None:
        """The proxy answers itself; the server never sees the request."""
        self._add(Fault("answer", path, times, status=status, body=body, skip=skip))

    def clear(self) -> None:
        """No more faults; what is held back is let go."""
        with self._lock:
            for fault in self._faults:
                fault.released.set()
            self._faults.clear()

    def count(self, kind: str, path: str = "/") -> int:
        """How many requests met this fault (or "pass")."""
        with self._lock:
            return sum(1 for p, k in self.requests if k == kind and p.startswith(path))

    def refuse(self) -> None:
        """Nobody listens any more, and every open connection is reset."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # shutdown wakes the thread in accept(); without it the port stays open until that returns.
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listener.close()
        self.reset()

    def reset(self) -> None:
        """Reset every open connection."""
        with self._lock:
            sockets = list(self._open)
        for sock in sockets:
            _reset(sock)

    def accept(self) -> None:
        """Listen, on the same port as before."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(64)
        self.port = int(listener.getsockname()[1])
        self._listener = listener
        threading.Thread(target=self._listen, args=(listener,), daemon=True).start()

    def close(self) -> None:
        self._closed = True
        self.clear()
        self.refuse()

    # --- the work

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _fault_for(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if not path.startswith(fault.path) or fault.times <= 0:
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                self.requests.append((path, fault.kind))
                return fault
            self.requests.append((path, "pass"))
            return None

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if self._listener is not listener:
                _reset(client)
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        with self._lock:
            self._open.add(client)
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            incoming = _Messages(client)
            outgoing: _Messages | None = None
            while True:
                head = incoming.head()
                method, path = head.split(b" ", 2)[:2]
                fault = self._fault_for(path.decode("latin-1"))
                if fault is not None and fault.kind == "answer":
                    for _ in incoming.body(head):
                        pass
                    client.sendall(
                        b"HTTP/1.1 %d Fault\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s"
                        % (fault.status, len(fault.body), fault.body)
                    )
                    continue
                if server is None:
                    server = socket.create_connection(self.target, timeout=None)
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    with self._lock:
                        self._open.add(server)
                    outgoing = _Messages(server)
                assert outgoing is not None
                server.sendall(head)
                sent = 0
                for piece in incoming.body(head):
                    if fault is not None and fault.kind == "cut" and sent + len(piece) >= fault.after:
                        server.sendall(piece[: max(0, fault.after - sent)])
                        time.sleep(0.02)  # let the part arrive: a reset throws away what is still on its way
                        return
                    server.sendall(piece)
                    sent += len(piece)
                if fault is not None and fault.kind == "cut":
                    return  # shorter than the cut: the answer is lost then
                answer = outgoing.head()
                status = int(answer.split(b" ", 2)[1])
                body = outgoing.body(answer, empty=method == b"HEAD" or status in (204, 304))
                if fault is not None:
                    parts = list(body)
                    if fault.kind == "drop_ack":
                        return
                    if fault.kind == "stall":
                        fault.released.wait()
                        return
                    fault.released.wait(fault.seconds)
                    client.sendall(answer + b"".join(parts))
                else:
                    client.sendall(answer)
                    for piece in body:
                        client.sendall(piece)
        except (_Gone, OSError):
            pass
        finally:
            for sock in (client, server):
                if sock is not None:
                    with self._lock:
                        self._open.discard(sock)
                    _reset(sock)
                    sock.close()


def _reset(sock: socket.socket) -> None:
    """End a connection with a reset; the thread that waits on it wakes."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
