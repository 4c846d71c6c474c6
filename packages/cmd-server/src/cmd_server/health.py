"""``/metrics``, ``/health`` and ``/ready`` over HTTP on a port of their own.

``/health`` answers 200 while the process works. ``/ready`` answers 200 when everything that was asked for can be
trusted: books are LIVE, connections stand; else 503 and what is missing. Both bodies are one JSON object.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from cmd_common.errors import CmdError, UsageError
from cmd_common.metrics import Families, FeedMeter
from cmd_common.sequence import BookState

from .errors import ServerError
from .metrics import Collector, exposition, registry_of
from .security import loopback

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

    from cmd_common.orderbook import OrderBook

__all__ = ["HealthServer", "Readiness", "json_answer", "open_health", "readiness"]

_NAMED: Final = 20  # books that are named one by one
_OPEN: Final = 5.0  # s for a request to be complete
_JSON: Final = "application/json"
Answer = Callable[[], tuple[int, bytes, str]]
"""Makes status, body and content type."""


class Readiness(Struct, frozen=True):
    """Whether clients can trust what is served now, and what is missing if not."""

    ready: bool
    phase: str  # starting, history, live, replay (nothing but history)
    books: dict[str, int]  # by state
    not_live: list[str]  # the first of them
    disconnected: list[str]  # ``venue connection``


def readiness(phase: str, books: Mapping[str, OrderBook], meter: FeedMeter) -> Readiness:
    """Judge it. O(books)."""
    states: dict[str, int] = {}
    waiting: list[str] = []
    for name, book in books.items():
        states[book.state.value] = states.get(book.state.value, 0) + 1
        if book.state is not BookState.LIVE:
            waiting.append(name)
    down = [f"{venue} {name}" for (venue, name), state in meter.connections.items() if state != "connected"]
    live = phase == "live" and bool(meter.connections) and not down
    return Readiness((live or phase == "replay") and not waiting, phase, states, sorted(waiting)[:_NAMED], sorted(down))


class HealthServer:
    """Answers GET requests of a few paths; anything else is 404 or 405, and never logged."""

    def __init__(
        self, answers: Mapping[str, Answer], *, token: str = "", protected: frozenset[str] = frozenset()
    ) -> None:
        self._answers = answers
        self._token = token
        self._protected = protected  # paths that ask for the token where others can reach them
        self._server: Server | None = None
        self._guarded = False
        self.address = ""

    async def listen(self, text: str) -> str:
        """Bind ``HOST:PORT``; returns the URL. Raises UsageError, ServerError, CmdError where websockets is missing."""
        host, _, port = text.rpartition(":")
        host = host.strip("[]")
        self._guarded = not loopback(host)
        if self._guarded and not self._token:
            raise UsageError(
                f"metrics at {text} can be read from elsewhere, and there is no token",
                hint="give --token-file, or an address such as 127.0.0.1:9100",
            )
        try:
            from websockets.asyncio.server import serve
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "websockets":
                raise
            raise CmdError("metrics need websockets", hint="install cmd-server[metrics]") from error
        quiet = logging.getLogger("cmd.server.health")
        quiet.disabled = True  # what strangers send is no concern of the operator's log
        try:
            self._server = await serve(
                _nothing,
                host,
                int(port),
                process_request=self._request,
                open_timeout=_OPEN,
                close_timeout=1.0,
                compression=None,
                logger=quiet,
            )
        except OSError as error:
            raise ServerError(
                f"cannot serve metrics at {text}: {error.strerror or error}",
                hint="choose another port; 0 is any free one",
            ) from error
        bound = next(iter(self._server.sockets)).getsockname()
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        self.address = f"http://{shown}:{bound[1]}"
        return self.address

    async def close(self) -> None:
        """Stop; calling it again does nothing."""
        if self._server is not None:
            server, self._server = self._server, None
            server.close()
            await server.wait_closed()

    def _request(self, connection: ServerConnection, request: Request) -> Response:
        from websockets.datastructures import Headers
        from websockets.http11 import Response

        path = request.path.partition("?")[0]
        answer = self._answers.get(path)
        if getattr(request, "method", "GET") not in ("GET", "HEAD"):
            status, body, kind = 405, b"only GET\n", "text/plain"
        elif answer is None:
            status, body, kind = 404, f"try {', '.join(self._answers)}\n".encode(), "text/plain"
        elif not self._allowed(path, request.headers):
            status, body, kind = 401, b"a token is needed: Authorization: Bearer TOKEN\n", "text/plain"
        else:
            status, body, kind = answer()
        reasons = {
            200: "OK",
            401: "Unauthorized",
            404: "Not Found",
            405: "Method Not Allowed",
            503: "Service Unavailable",
        }
        headers = Headers(
            [
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("Connection", "close"),
            ]
        )
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if getattr(request, "method", "GET") == "HEAD":
            body = b""
        return Response(status, reasons[status], headers, body)

    def _allowed(self, path: str, headers: Any) -> bool:
        if not self._guarded or path not in self._protected:
            return True
        shown = headers.get_all("Authorization")
        given = shown[0] if len(shown) == 1 else ""
        return hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode())


async def open_health(
    address: str,
    families: Sequence[Families],
    *,
    phase: Callable[[], str],
    books: Callable[[], Mapping[str, OrderBook]],
    meter: FeedMeter,
    facts: Callable[[], Mapping[str, Any]] = dict,
    token: str = "",
) -> HealthServer:
    """Answer at ``HOST:PORT`` for a process with feeds; the entry point ``http`` of ``cmd.metrics``.

    ``families`` are all numbers, ``facts`` what ``/health`` says beside status and phase; the other arguments are those of
    ``readiness``. Raises as ``HealthServer.listen``, and CmdError where prometheus-client is not installed.
    """
    registry = registry_of(Collector(*families))

    def ready() -> tuple[int, bytes, str]:
        found = readiness(phase(), books(), meter)
        return json_answer(found, ok=found.ready)

    server = HealthServer(
        {
            "/metrics": lambda: (200, *exposition(registry)),
            "/health": lambda: json_answer({"status": "ok", "phase": phase(), **facts()}),
            "/ready": ready,
        },
        token=token,
        protected=frozenset({"/metrics"}),
    )
    await server.listen(address)
    return server


async def _nothing(connection: ServerConnection) -> None:
    """No request becomes a WebSocket."""


def json_answer(found: Struct | Mapping[str, Any], *, ok: bool = True) -> tuple[int, bytes, str]:
    """An answer of one JSON object: 200, or 503 where all is not well."""
    return 200 if ok else 503, msgspec.json.encode(found) + b"\n", _JSON
