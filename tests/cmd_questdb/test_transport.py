"""The transport against a fake server: what each failure is called, time-outs, the watchdog, several addresses."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from qdb_kit import trade

from cmd_common.testing.ports import free_ports
from cmd_questdb.conf import Conf
from cmd_questdb.frames import Frame, frame, rows, to_batch
from cmd_questdb.transport import HttpTransport, QwpTransport, TransportError, classify

PARSE = (
    b'{"code":"invalid","message":"failed to parse line protocol:errors encountered on line(s):\\nerror in line 3: '
    b'table: trades, column: flags; line protocol value: 1099511627776 is out of bounds of column type: INT",'
    b'"line":3,"errorId":"x-1"}'
)


class Fake(ThreadingHTTPServer):
    """Answers writes with what it is told: a status and body, or ``hang`` or ``drop``."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: list[tuple[int | str, bytes]] = []
        self.paths: list[str] = []
        self.go = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client hung up: that is what the tests do."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        server: Any = self.server
        self.rfile.read(int(self.headers["content-length"]))
        server.paths.append(self.path)
        status, body = server.answers.pop(0) if server.answers else (204, b"")
        if status == "hang":
            server.go.wait(20)
        if not isinstance(status, int):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        self.send_header("content-type", "application/json" if body[:1] == b"{" else "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.go.set()
    server.shutdown()
    thread.join()
    server.server_close()


def conf(server: Fake, more: str = "") -> Conf:
    return Conf.parse(f"http::addr=127.0.0.1:{server.server_address[1]};request_timeout=2000;{more}")


def some(n: int = 3) -> Frame:
    return frame("trades", to_batch("trades", rows("trades", [trade(i) for i in range(n)])))


@pytest.mark.parametrize(
    ("status", "body", "kind", "row", "column"),
    [
        (400, PARSE, "row", 2, "flags"),
        (400, PARSE.replace(b"line protocol value: 1099511627776 is out of bounds of column type: INT",
                            b"cast error from protocol type: STRING to column type: LONG"), "table", 2, "flags"),
        (400, b'{"code":"invalid","message":"failed to parse line protocol:errors encountered on line(s):\\nerror in '
              b'line 1: table: trades; table does not exist, creating new tables is disabled","line":1}', "table", 0, ""),
        (400, b'{"code":"invalid","message":"something else"}', "refused", -1, ""),
        (401, b"", "auth", -1, ""),
        (403, b"", "auth", -1, ""),
        (404, b"", "refused", -1, ""),
        (413, b'{"code":"request too large","message":"too large"}', "refused", -1, ""),
        (421, b'{"code":"x","message":"not accepting writes"}', "refused", -1, ""),
        (429, b"Too Many Requests", "refused", -1, ""),
        (400, b'{"code":"invalid","message":"failed to parse line protocol:errors encountered on line(s):write error: '
              b'trades, errno: 28, error: No space left [size=131072, fd=2231235511522]"}', "failed", -1, ""),
        (500, b'{"code":"internal error","message":"could not write"}', "failed", -1, ""),
        (502, b"<html>502 Bad Gateway</html>", "failed", -1, ""),
        (503, b"busy", "failed", -1, ""),
        ("drop", b"", "doubt", -1, ""),
    ],
)  # fmt: skip
def test_each_failure_has_its_name(
    fake: Fake, status: int | str, body: bytes, kind: str, row: int, column: str
) -> None:
    transport = HttpTransport(conf(fake))
    fake.answers = [(status, body)]
    with pytest.raises(TransportError) as caught:
        transport.send("trades", some())
    assert (caught.value.kind, caught.value.row, caught.value.column) == (kind, row, column)
    assert caught.value.again == (kind in ("failed", "doubt"))
    transport.send("trades", some(5))  # the same connection or a new one: it goes on
    assert (transport.counters.sent, transport.counters.rows) == (1, 5)
    assert len(fake.paths) == 2
    transport.close()


def test_nobody_listens_is_away_and_a_later_server_is_found() -> None:
    (port,) = free_ports()
    transport = HttpTransport(Conf.parse(f"http::addr=127.0.0.1:{port};"), connect_timeout=1.0)
    with pytest.raises(TransportError, match="cannot connect") as caught:
        transport.send("trades", some())
    assert caught.value.kind == "away"
    transport.close()


def test_the_request_timeout_leaves_it_in_doubt(fake: Fake) -> None:
    transport = HttpTransport(Conf.parse(f"http::addr=127.0.0.1:{fake.server_address[1]};request_timeout=300;"))
    fake.answers = [("hang", b"")]
    began = time.monotonic()
    with pytest.raises(TransportError) as caught:
        transport.send("trades", some())
    assert caught.value.kind == "doubt"
    assert time.monotonic() - began < 5
    transport.close()


def test_a_call_that_hangs_is_given_up_counted_and_replaced(fake: Fake) -> None:
    """The client's own time-out is far away: only the watchdog ends the wait."""
    long = Conf.parse(f"http::addr=127.0.0.1:{fake.server_address[1]};request_timeout=60000;")
    transport = HttpTransport(long, watchdog=0.4)
    fake.answers = [("hang", b"")]
    with pytest.raises(TransportError, match="given up") as caught:
        transport.send("trades", some())
    assert caught.value.kind == "hung"
    assert caught.value.again
    transport.send("trades", some())
    assert (transport.counters.hung, transport.counters.connects, transport.counters.sent) == (1, 2, 1)
    fake.go.set()
    transport.close()


def test_another_address_is_taken_when_one_does_not_answer(fake: Fake) -> None:
    (dead,) = free_ports()
    transport = HttpTransport(Conf.parse(f"http::addr=127.0.0.1:{dead},127.0.0.1:{fake.server_address[1]};"))
    with pytest.raises(TransportError):
        transport.send("trades", some())
    transport.send("trades", some())
    assert transport.counters.sent == 1
    transport.close()


def test_a_frame_that_the_client_refuses_is_no_reason_to_try_again(fake: Fake) -> None:
    import pandas as pd

    transport = HttpTransport(conf(fake))
    with pytest.raises(TransportError) as caught:
        transport.send("trades", Frame(pd.DataFrame({"a": [object()], "ts_event": [1]}), [], "ts_event"))
    assert not caught.value.again
    assert fake.paths == []
    transport.send("trades", some())
    transport.close()
    transport.close()


def test_words_of_the_client_are_told_apart() -> None:
    assert classify("SocketError", "http://x/write: io: Connection refused").kind == "away"
    assert classify("SocketError", "Could not flush buffer: io: Connection reset by peer").kind == "doubt"
    assert classify("CouldNotResolveAddr", "no such host").kind == "away"
    assert classify("TlsError", "bad certificate").kind == "refused"
    assert classify("BadDataFrame", "column x").kind == "refused"


def test_the_qwp_seam_says_that_nobody_answers() -> None:
    """All that can be tested without a server of version 10: an error of the client becomes one of ours."""
    transport = QwpTransport(Conf.parse("http::addr=127.0.0.1:1;"))
    with pytest.raises(TransportError):
        transport.send("trades", some())
    transport.close()
