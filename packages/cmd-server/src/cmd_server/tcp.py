"""The transport ``tcp``: SBE frames over TCP, with or without TLS.

tcp:127.0.0.1:9999                                       loopback
tcp:0.0.0.0:9999?tls_cert=server.pem&tls_key=server.key  a server that others can reach
tcp:feed.example.org:9999?tls=1                          a client, certificate checked by the system's own
tcp:10.0.0.5:9999?tls=1&ca=ca.pem                        a client, certificate checked by one file
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

from .errors import ServerError
from .links import BlockingSocketLink, SocketLink, broken, secure_async, secure_blocking
from .security import client_tls, loopback, server_tls
from .sockets import SocketListener, listening, port_maker
from .transport import Address, LinkOptions, ListenOptions, ServerSide, only

__all__ = ["TLS_KEYS", "TRANSPORT", "TcpTransport", "peer_name", "resolve"]

TLS_KEYS: Final = {"tls_cert": "server", "tls_key": "server", "tls": "client", "ca": "client"}
"""The options of an address that TLS knows, and whose side they are for."""


async def resolve(host: str, port: int, address: Address) -> tuple[int, object]:
    """Return the family and the place to bind for a host; raises ServerError where it has no address."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ServerError(f"cannot listen at {address}: no address is known for {host!r} ({error.strerror})") from error
    # localhost has two: the one of IPv4 is the one that every program tries.
    family, _, _, _, place = min(found, key=lambda info: info[0] != socket.AF_INET)
    return family, place


def peer_name(_: socket.socket, name: object) -> str:
    """Return the text of a connection's other end."""
    assert isinstance(name, tuple)
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _connect(address: Address, options: LinkOptions) -> socket.socket:
    """Return a connected, non-blocking socket, TLS included; raises ConnectionBrokenError. The caller owns it."""
    host, port, _ = address.host_port()
    tls = client_tls(address)
    loop = asyncio.get_running_loop()
    last: Exception = OSError("no address")
    try:
        async with asyncio.timeout(options.timeout / 1e9):
            for family, kind, proto, _, place in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                sock = socket.socket(family, kind, proto)
                try:
                    _prepare(sock, options)
                    sock.setblocking(False)
                    await loop.sock_connect(sock, place)
                    return sock if tls is None else await secure_async(sock, tls, host)
                except OSError as error:
                    sock.close()
                    last = error
                except BaseException:
                    sock.close()
                    raise
    except OSError as error:  # TimeoutError is one
        raise broken(str(address), error) from error
    raise broken(str(address), last) from last


def _open(address: Address, options: LinkOptions) -> socket.socket:
    """Return a connected socket, TLS included; raises ConnectionBrokenError. The caller owns it."""
    host, port, _ = address.host_port()
    tls = client_tls(address)
    last: Exception = OSError("no address")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise broken(str(address), error) from error
    for family, kind, proto, _, place in found:
        sock = socket.socket(family, kind, proto)
        try:
            _prepare(sock, options)
            sock.settimeout(options.timeout / 1e9)
            sock.connect(place)
            return sock if tls is None else secure_blocking(sock, tls, host)
        except OSError as error:
            sock.close()
            last = error
    raise broken(str(address), last) from last


def _prepare(sock: socket.socket, options: LinkOptions) -> None:
    if options.receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.receive_buffer)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class TcpTransport:
    """SBE frames over TCP."""

    def local(self, address: Address) -> bool:
        """Whether it is a loopback address."""
        return loopback(address.host_port()[0])

    async def listen(self, address: Address, server: ServerSide, options: ListenOptions) -> SocketListener:
        """Bind; see ``Transport``."""
        only(address, TLS_KEYS, "server")
        host, port, _ = address.host_port()
        tls = server_tls(address)
        family, place = await resolve(host, port, address)
        sock = listening(family, place, address, options, "choose an address of this machine, such as 127.0.0.1")
        shown = f"[{host}]" if ":" in host else host
        bound = address.at(f"{shown}:{sock.getsockname()[1]}")
        return SocketListener(bound, sock, port_maker(server), options, tls=tls, peer=peer_name)

    async def connect(self, address: Address, options: LinkOptions) -> SocketLink:
        """Open a link; see ``Transport``."""
        only(address, TLS_KEYS, "client")
        address.host_port()
        return SocketLink(await _connect(address, options), str(address))

    def open(self, address: Address, options: LinkOptions) -> BlockingSocketLink:
        """Open a blocking link; see ``Transport``."""
        only(address, TLS_KEYS, "client")
        address.host_port()
        return BlockingSocketLink(_open(address, options), str(address), options.timeout)


TRANSPORT: Final = TcpTransport()
