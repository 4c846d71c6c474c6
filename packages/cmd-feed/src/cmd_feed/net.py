"""The network seam over real sockets: WebSocket by websockets or picows, HTTP by httpx2.

picows (extra ``fast``) is used where it is installed and CMD_FAST is not 0; both behave alike. Every
WebSocket answers pings, notices a dead peer by pinging when idle, takes messages of up to 64 MiB and
tells the close code. Loopback addresses never go through a proxy.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from cmd_common.errors import BlockedError, DisconnectedError, UsageError, VenueError
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.seams import WebSocket

if TYPE_CHECKING:
    import httpx2

__all__ = ["MAX_MESSAGE", "HandshakeError", "SystemNet", "event_loop_factory", "fast_available", "proxy_for"]

MAX_MESSAGE: Final = 64 * 1024 * 1024  # an order book of every level is about 2 MiB
MAX_BODY: Final = 512 * 1024 * 1024  # of a whole response in memory
OPEN_TIMEOUT: Final = 10.0  # s
IDLE_PING: Final = 30.0  # s without data before a ping, and then until the peer counts as dead
USER_AGENT: Final = "CryptoMarketData/0.1"


class HandshakeError(DisconnectedError):
    """The server refused the WebSocket handshake; ``response`` is what it said."""

    def __init__(self, message: str, response: HttpResponse) -> None:
        super().__init__(message, status=response.status)
        self.response = response


def fast_available() -> bool:
    """Whether picows is installed and CMD_FAST does not switch it off."""
    if os.environ.get("CMD_FAST", "") == "0":
        return False
    try:
        import picows  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "picows":
            raise
        return False
    return True


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop factory where it is installed and CMD_FAST is not 0, else None."""
    if os.environ.get("CMD_FAST", "") == "0":
        return None
    try:
        import uvloop
    except ModuleNotFoundError as error:
        if error.name != "uvloop":
            raise
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def proxy_for(url: str, explicit: str = "") -> str | None:
    """Return the proxy for a URL: ``explicit``, else the environment's; None for loopback addresses."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host):
        return None
    if explicit:
        return explicit
    from urllib.request import getproxies, proxy_bypass

    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    return None if not proxy or proxy_bypass(host) else proxy


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _where(url: str) -> str:
    """The part of a URL that belongs into an error line: no query, no credentials."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class SystemNet:
    """Real connections; ``proxy`` is a URL, empty: what the environment says. Not shared between loops."""

    def __init__(
        self,
        *,
        proxy: str = "",
        timeout: float = 30.0,
        fast: bool | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if proxy and urlsplit(proxy).scheme not in ("http", "https", "socks5", "socks5h"):
            raise UsageError(f"proxy {proxy!r} is not a URL", hint="give http://HOST:PORT or socks5://HOST:PORT")
        self.proxy = proxy
        self.timeout = timeout  # s without a byte of a response
        self.fast = fast_available() if fast is None else fast
        self._tls = tls
        self._clients: dict[str, httpx2.AsyncClient] = {}

    async def connect(self, url: str, *, headers: Mapping[str, str] | None = None) -> WebSocket:
        """Open a WebSocket.

        Raises HandshakeError where the server answered with another status, BlockedError for 403 and
        451, DisconnectedError where it did not answer.
        """
        proxy = proxy_for(url, self.proxy)
        secure = self._context() if urlsplit(url).scheme == "wss" else None
        extra = {"User-Agent": USER_AGENT, **(headers or {})}
        connect: Callable[..., Awaitable[WebSocket]]
        if self.fast:
            from .fastws import connect as connect_fast

            connect = connect_fast
        else:
            from .plainws import connect as connect_plain

            connect = connect_plain
        try:
            return await connect(url, headers=extra, proxy=proxy, tls=secure)
        except HandshakeError as error:
            if error.status in (403, 451):
                raise BlockedError(
                    f"{_where(url)} refuses this address (HTTP {error.status})",
                    status=error.status,
                    hint="use a network, proxy or endpoint that the exchange serves",
                ) from error
            raise
        except (OSError, TimeoutError, ssl.SSLError) as error:
            raise DisconnectedError(f"cannot connect to {_where(url)}: {_words(error)}") from error

    async def request(self, request: HttpRequest) -> HttpResponse:
        """Make a request and read its whole body, up to 512 MiB; raises DisconnectedError."""
        import httpx2

        try:
            async with self._client(request.url).stream(
                request.method, request.url, headers=dict(request.headers)
            ) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise VenueError(f"{_where(request.url)} sent more than 512 MiB", status=response.status_code)
                return HttpResponse(
                    response.status_code,
                    bytes(body),
                    {k.lower(): v for k, v in response.headers.items()},
                    response.reason_phrase,
                )
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise self._lost(request.url, error) from error

    async def stream(self, request: HttpRequest) -> AsyncIterator[bytes]:
        """Stream a body as sent, without decoding a content encoding.

        Raises VenueError with the status when it is not 200 or 206, DisconnectedError when it breaks off.
        """
        import httpx2

        headers = {"Accept-Encoding": "identity", **request.headers}
        try:
            async with self._client(request.url).stream(request.method, request.url, headers=headers) as response:
                if response.status_code not in (200, 206):
                    raise VenueError(
                        f"{_where(request.url)} answered HTTP {response.status_code} {response.reason_phrase}".rstrip(),
                        status=response.status_code,
                    )
                async for chunk in response.aiter_raw():
                    yield chunk
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise self._lost(request.url, error) from error

    async def close(self) -> None:
        """Close pooled connections; the object may be used again."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    def _client(self, url: str) -> httpx2.AsyncClient:
        proxy = proxy_for(url, self.proxy)
        # loading the system's certificates costs tens of milliseconds, and loopback needs none
        secure = urlsplit(url).scheme == "https" or bool(proxy and proxy.startswith("https"))
        key = f"{proxy or ''}{'+tls' if secure else ''}"
        client = self._clients.get(key)
        if client is None:
            import httpx2

            client = self._clients[key] = httpx2.AsyncClient(
                proxy=proxy,
                verify=self._context() if secure else False,
                trust_env=False,
                follow_redirects=True,
                max_redirects=5,
                headers={"User-Agent": USER_AGENT},
                timeout=httpx2.Timeout(self.timeout, connect=OPEN_TIMEOUT),
                limits=httpx2.Limits(max_connections=64, max_keepalive_connections=16),
            )
        return client

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            import httpx2

            self._tls = httpx2.create_ssl_context()
        return self._tls

    def _lost(self, url: str, error: Exception) -> DisconnectedError:
        return DisconnectedError(f"no answer from {_where(url)}: {_words(error)}")


def _words(error: BaseException) -> str:
    """One line for a low-level error: its text, or its kind where it has none."""
    text = " ".join(str(error).split())
    if isinstance(error, TimeoutError) or type(error).__name__.endswith("Timeout"):
        return text or "timed out"
    return text or type(error).__name__


def handshake_error(url: str, status: int, headers: Mapping[str, str], body: bytes) -> HandshakeError:
    """Make the error for a refused handshake."""
    response = HttpResponse(status, body, {k.lower(): v for k, v in headers.items()})
    return HandshakeError(f"{_where(url)} refused the WebSocket handshake with HTTP {status}", response)
