"""Loopback ports for tests that must know a port before somebody listens there."""

from __future__ import annotations

import random
import socket

__all__ = ["free_ports"]

_FIRST, _LAST = 15_000, 32_000  # below what systems give to outgoing connections, from 32768 on or higher


def free_ports(count: int = 1) -> list[int]:
    """Return consecutive TCP ports of 127.0.0.1 that nobody has; raises OSError where there are none.

    They lie below the range from which the system itself takes ports, so that they stay free until a server is
    started, or started again: no connection of another test is given one of them in between.
    """
    rng = random.SystemRandom()
    for _ in range(500):
        first = rng.randint(_FIRST, _LAST - count)
        held: list[socket.socket] = []
        try:
            for port in range(first, first + count):
                held.append(socket.socket())
                held[-1].bind(("127.0.0.1", port))
            return list(range(first, first + count))
        except OSError:
            continue
        finally:
            for sock in held:
                sock.close()
    raise OSError(f"no {count} free ports of 127.0.0.1 from {_FIRST} to {_LAST}")
