from __future__ import annotations

import socket

import pytest

from cmd_common.testing import ports
from cmd_common.testing.ports import free_ports


def test_ports_are_free_and_follow_each_other() -> None:
    found = free_ports(3)
    assert found == list(range(found[0], found[0] + 3))
    for port in found:
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_port_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    (taken,) = free_ports()
    monkeypatch.setattr(ports, "_FIRST", taken)
    monkeypatch.setattr(ports, "_LAST", taken + 1)
    with socket.create_server(("127.0.0.1", taken)), pytest.raises(OSError, match="no 1 free ports"):
        free_ports()
