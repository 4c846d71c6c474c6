"""Asking an exchange's REST address once, the way the feeds would, and saying what came back; for ``cmd-cli doctor``."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Mapping, Sequence

from msgspec import Struct

from cmd_common.errors import CmdError
from cmd_common.http import HttpRequest, HttpResponse

from .net import HandshakeError, SystemNet, proxy_for

__all__ = ["Answer", "kind_of", "probe"]

TIMEOUT = 15.0  # s for one answer in all


class Answer(Struct, frozen=True):
    """What one request came to: ``response``, or ``kind`` (dns, tls, refused, timeout, proxy, other) and ``error``.

    ``sent`` and ``received`` are this machine's time, ns UTC.
    """

    sent: int
    received: int
    response: HttpResponse | None = None
    kind: str = ""
    error: str = ""


def probe(
    requests: Mapping[str, Sequence[HttpRequest]], proxy: str, streams: Mapping[str, str] | None = None
) -> dict[str, list[Answer]]:
    """Make each venue's requests one after the other, venues side by side; what fails is an answer too.

    ``streams``: WebSocket URLs by venue, of which one connection is opened and closed; its answer is the venue's last, with
    the status 101 where it opened.
    """
    return asyncio.run(_probe(requests, proxy, streams or {}))


async def _probe(
    requests: Mapping[str, Sequence[HttpRequest]], proxy: str, streams: Mapping[str, str]
) -> dict[str, list[Answer]]:
    net = SystemNet(proxy=proxy)

    async def one(request: HttpRequest) -> Answer:
        sent = time.time_ns()
        try:
            async with asyncio.timeout(TIMEOUT):
                response = await net.request(request)
        except (CmdError, TimeoutError) as error:
            words = str(error) or f"no answer within {TIMEOUT:g} s"
            return Answer(sent, time.time_ns(), kind=kind_of(error, bool(proxy_for(request.url, proxy))), error=words)
        return Answer(sent, time.time_ns(), response)

    async def stream(url: str) -> Answer:
        sent = time.time_ns()
        try:
            async with asyncio.timeout(TIMEOUT):
                ws = await net.connect(url)
                await ws.close()
        except HandshakeError as error:
            return Answer(sent, time.time_ns(), error.response)
        except (CmdError, TimeoutError) as error:
            if status := getattr(error, "status", 0):
                return Answer(sent, time.time_ns(), HttpResponse(status))
            words = str(error) or f"no answer within {TIMEOUT:g} s"
            return Answer(sent, time.time_ns(), kind=kind_of(error, bool(proxy_for(url, proxy))), error=words)
        return Answer(sent, time.time_ns(), HttpResponse(101))

    async def several(venue: str) -> list[Answer]:
        found = [await one(request) for request in requests[venue]]
        return [*found, await stream(streams[venue])] if venue in streams else found

    try:
        found = await asyncio.gather(*(several(venue) for venue in requests))
    finally:
        await net.close()
    return dict(zip(requests, found, strict=True))


def kind_of(error: BaseException, proxied: bool) -> str:
    """The kind of a failure, from the causes below it; ``proxied``: the connection went through a proxy."""
    link: BaseException | None = error
    kinds = set()
    for _ in range(16):
        if link is None:
            break
        if isinstance(link, socket.gaierror):
            kinds.add("dns")
        elif isinstance(link, ssl.SSLError):
            kinds.add("tls")
        elif isinstance(link, ConnectionRefusedError):
            kinds.add("refused")
        elif isinstance(link, TimeoutError) or type(link).__name__.endswith("Timeout"):
            kinds.add("timeout")
        elif type(link).__name__ == "ProxyError":
            kinds.add("proxy")
        link = link.__cause__ or link.__context__
    if proxied and kinds & {"dns", "refused", "proxy"}:
        return "proxy"  # what is looked up and connected to is the proxy
    return next((kind for kind in ("tls", "dns", "refused", "timeout", "proxy") if kind in kinds), "other")
