"""What a failed request is called, from the errors below it."""

from __future__ import annotations

import socket
import ssl

import pytest

from cmd_common.http import HttpRequest
from cmd_feed.probe import kind_of, probe


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (socket.gaierror(-2, "not known"), "dns"),
        (ssl.SSLError("bad certificate"), "tls"),
        (ConnectionRefusedError(), "refused"),
        (TimeoutError(), "timeout"),
        (ValueError(), "other"),
    ],
)
def test_the_kind_is_that_of_the_cause(cause: Exception, kind: str) -> None:
    error = RuntimeError("outer")
    error.__cause__ = cause
    assert kind_of(error, False) == kind
    assert kind_of(error, True) == ("proxy" if kind in ("dns", "refused") else kind)


def test_a_tls_address_that_speaks_no_tls_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        import threading

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 no\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        found = probe({"x": [HttpRequest(f"https://127.0.0.1:{server.getsockname()[1]}/")]}, "")
        thread.join()
    assert found["x"][0].kind == "tls", found
