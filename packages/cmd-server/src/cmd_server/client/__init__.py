"""Clients of a server: live records, order books kept in step, reconnect and resume.

    with connect("tcp:127.0.0.1:9999", topics=["book binance-spot:BTCUSDT", "trades *"]) as client:
        for record in client:
            print(record, client.book("binance-spot:BTCUSDT").best_bid)

``cmd_server.client.aio.connect`` is the same for asyncio. See ``docs/client.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmd_server.messages import Policy

from .base import BUFFER, RETRY, OnEvent, OnRecord
from .batches import Batch
from .events import BookChanged, Connected, Disconnected, Event, Item, Lost, Message, Subscribed
from .sync import Client

if TYPE_CHECKING:
    from .aio import AsyncClient

__all__ = [
    "AsyncClient",
    "Batch",
    "BookChanged",
    "Client",
    "Connected",
    "Disconnected",
    "Event",
    "Item",
    "Lost",
    "Message",
    "Policy",
    "Subscribed",
    "connect",
]


def connect(
    address: str,
    *,
    topics: Sequence[str] | str = (),
    token: str = "",
    policy: Policy | str = Policy.CONFLATE,
    queue: int = 0,
    buffer: int = BUFFER,
    name: str = "",
    on_record: OnRecord | None = None,
    on_event: OnEvent | None = None,
    attempts: int = 0,
    retry: float = RETRY,
    hello_timeout: float = 10.0,
) -> Client:
    """Connect to a server, log in and subscribe; returns the client, which closes itself as a context manager.

    ``address`` is SCHEME:TARGET, such as ``tcp:127.0.0.1:9999`` or ``unix:/run/cmd.sock``. ``topics`` are as
    ``cmd_server.topics`` reads them. ``policy`` says what the server does when this client is slow and more than
    ``queue`` messages (0: the server's default) wait for it: ``conflate``, ``drop-oldest`` or ``disconnect``.
    ``buffer`` bounds what waits inside this process. ``on_record`` and ``on_event`` are called for everything.

    A connection that is lost is opened again after ``retry`` seconds, then twice that, up to 30 s, with jitter; after
    ``attempts`` failures in a row (0: never) the client ends with ConnectionBrokenError. The first connection is not
    tried again. Raises ConnectionBrokenError, RefusedError (its ``code`` says why) or UsageError.
    """
    client = Client(
        address,
        topics=topics,
        token=token,
        policy=policy,
        queue=queue,
        buffer=buffer,
        name=name,
        on_record=on_record,
        on_event=on_event,
        attempts=attempts,
        retry=retry,
        hello_timeout=hello_timeout,
    )
    try:
        client.start()
    except BaseException:
        client.close()
        raise
    return client


def __getattr__(name: str) -> object:
    if name == "AsyncClient":  # asyncio is not loaded for those who do not use it
        from .aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
