"""What a client tells beside records: connections, subscriptions, losses and states of books, as typed objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from cmd_common.sequence import BookState
from cmd_server.messages import CONFLATED, REPLAYED, Kind, view_text

if TYPE_CHECKING:
    from cmd_common.records import Record
    from cmd_server.codec import Head

__all__ = ["BookChanged", "Connected", "Disconnected", "Event", "Item", "Lost", "Message", "Subscribed"]


class Message(NamedTuple):
    """One record as it was sent: with the sequence, view and flags of its stream."""

    record: Record
    head: Head

    @property
    def seq(self) -> int:
        """Sequence in its stream, from 1; 0 for instruments."""
        return self.head.seq

    @property
    def replayed(self) -> bool:
        """Whether it was sent again after a reconnect, or comes from a store."""
        return bool(self.head.flags & REPLAYED)

    @property
    def conflated(self) -> bool:
        """Whether it stands for messages before it that were left out on purpose."""
        return bool(self.head.flags & CONFLATED)


class Connected(Struct, frozen=True, tag="connected"):
    """A server answered and let us in; ``resumed``: the streams go on where they were."""

    address: str
    server: str
    epoch: int  # which run of the server; sequences count from 1 in each
    resumed: bool = False


class Disconnected(Struct, frozen=True, tag="disconnected"):
    """The connection is gone; books are STALE until it is back."""

    reason: str
    code: str = ""  # slow, shutdown, limit, idle: the server's word; empty: no goodbye was said
    attempt: int = 0  # failures in a row
    retry_in: int = 0  # ns until the next attempt


class Subscribed(Struct, frozen=True, tag="subscribed"):
    """The server took topics; ``streams`` match now, and more may later."""

    topics: tuple[str, ...]
    streams: int


class Lost(Struct, frozen=True, tag="lost"):
    """Messages ``from_seq..to_seq`` (inclusive) of a stream never come; ``to_seq`` 0: unknown, another server epoch.

    ``reason``: slow (this client), resume (away for longer than the replay buffer), restart (of the server), overflow.
    """

    venue: str  # empty with ``symbol``: a stream of the server or of a whole venue
    symbol: str
    kind: Kind
    view: str  # depth or interval, as topics write it
    from_seq: int
    to_seq: int
    reason: str

    @property
    def count(self) -> int:
        """How many messages; 0: unknown."""
        return self.to_seq - self.from_seq + 1 if self.to_seq else 0


class BookChanged(Struct, frozen=True, tag="book_changed"):
    """A book of this client changed its state; ``client.book`` is worth trading on only while LIVE."""

    venue: str
    symbol: str
    view: str  # depth; empty: the whole book
    state: BookState
    reason: str = ""


Event = Connected | Disconnected | Subscribed | Lost | BookChanged
Item = Message | Event


def stream_view(kind: int, view: int) -> str:
    """A view's text as events carry it; the derived best bid and offer is ``bbo``."""
    return ("bbo" if view else "") if kind == Kind.QUOTES else view_text(kind, view)
