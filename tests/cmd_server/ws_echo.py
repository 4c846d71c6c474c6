"""An endpoint that sends back what it gets, over the very code that serves clients; and a client that does so."""

from __future__ import annotations

from typing import Any

from cmd_server.transport import LinkOptions
from cmd_server.websocket import WebSocketLink, WebSocketPort, WebSocketTransport
from cmd_server.wsprotocol import ClientPeer, Message


class EchoPort(WebSocketPort):
    def begin(self, token: str) -> None:
        pass

    def message(self, message: Message) -> None:
        self.say(message)


class NoServer:
    """Nobody behind the transport."""

    hub: Any = None

    def names(self, instrument_id: int) -> tuple[str, str]:
        return "", ""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"an echo asked the server for {name}")


ECHO = WebSocketTransport(EchoPort)


async def talk(url: str, inner: Any, *, echo: bool) -> list[Message]:
    """Connect by the client's own link, and echo until the server closes; returns what came."""
    link = WebSocketLink(inner, ClientPeer(url, protocol="", limit=LinkOptions().max_message))
    got: list[Message] = []
    link.ws.start()
    await link.flush()
    while not link.ws.finished:
        for message in await link.messages():
            got.append(message)
            if echo and link.ws.open:
                await link.say(message)
    await link.close()
    return got
