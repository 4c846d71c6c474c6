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
import ssl
from typing import Final

from cmd_common.errors import UsageError

from .errors import ServerError
from .links import BlockingSocketLink, SocketLink, broken, secure_async, secure_blocking
from .security import client_tls, is_loopback, server_tls
from .sockets import SocketListener, listening, port_maker
from .transport import Address, LinkOptions, ListenOptions, ServerSide, only

__all__ = ["TLS_KEYS", "TRANSPORT", "TcpTransport", "connect_tcp", "listen_tcp", "open_tcp", "server_context"]

TLS_KEYS: Final = {"tls_cert": "server", "tls_key": "server", "tls": "client", "ca": "client"}
"""The options of an address that TLS knows, and whose side they are for."""


def server_context(address: Address) -> ssl.SSLContext | None:
    """Return the server's TLS of an address, None where it has none; raises UsageError."""
    cert, key = address.options.get("tls_cert", ""), address.options.get("tls_key", "")
    if bool(cert) != bool(key):
        raise UsageError(f"{address} names only one of tls_cert and tls_key", hint="TLS needs both")
    return server_tls(cert, key) if cert else None


def _client_context(address: Address) -> ssl.SSLContext | None:
    ca = address.options.get("ca", "")
    return client_tls(ca) if address.switch("tls") or ca else None


def listen_tcp(address: Address, options: ListenOptions) -> tuple[socket.socket, Address]:
    """Return a socket that listens at HOST:PORT of an address, and the address with its real port.

    Raises ServerError.
    """
    host, port, path = address.host_port(path=True)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ServerError(f"cannot listen at {address}: no address is known for {host!r} ({error.strerror})") from error
    found.sort(key=lambda info: info[0] != socket.AF_INET)  # localhost: the one that every program tries
    family, _, _, _, place = found[0]
    sock = listening(family, place, address, options, "choose an address of this machine, such as 127.0.0.1")
    shown = f"[{host}]" if ":" in host else host
    return sock, address.at(f"{shown}:{sock.getsockname()[1]}{path}")


def _peer(_: socket.socket, name: object) -> str:
    assert isinstance(name, tuple)
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def connect_tcp(address: Address, options: LinkOptions) -> socket.socket:
    """Return a connected, non-blocking socket, TLS included; raises ConnectionBrokenError. The caller owns it."""
    host, port, _ = address.host_port(path=True)
    tls = _client_context(address)
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


def open_tcp(address: Address, options: LinkOptions) -> socket.socket:
    """Return a connected socket, TLS included; raises ConnectionBrokenError. The caller owns it."""
    host, port, _ = address.host_port(path=True)
    tls = _client_context(address)
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
        return is_loopback(address.host_port()[0])

    async def listen(self, address: Address, server: ServerSide, options: ListenOptions) -> SocketListener:
        """Bind; see ``Transport``."""
        only(address, TLS_KEYS, "server")
        address.host_port()
        tls = server_context(address)
        sock, bound = listen_tcp(address, options)
        return SocketListener(bound, sock, port_maker(server), options, tls=tls, peer=_peer)

    async def connect(self, address: Address, options: LinkOptions) -> SocketLink:
        """Open a link; see ``Transport``."""
        only(address, TLS_KEYS, "client")
        address.host_port()
        return SocketLink(await connect_tcp(address, options), str(address))

    def open(self, address: Address, options: LinkOptions) -> BlockingSocketLink:
        """Open a blocking link; see ``Transport``."""
        only(address, TLS_KEYS, "client")
        address.host_port()
        return BlockingSocketLink(open_tcp(address, options), str(address), options.timeout)


TRANSPORT: Final = TcpTransport()
