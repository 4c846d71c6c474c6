"""What both clients share: reading what the core holds, and deciding whether to connect again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from cmd_common.backoff import SECOND, Backoff
from cmd_common.errors import CmdError, UnknownNameError, UsageError
from cmd_common.multibook import MultiSymbolOrderBook
from cmd_common.orderbook import OrderBook
from cmd_common.records import AggregatedBook, InstrumentRecord, Quote, Record
from cmd_common.seams import Rng, system_rng
from cmd_common.symbols import nearest
from cmd_server.errors import ConnectionBrokenError, RefusedError
from cmd_server.messages import Ack, Policy, Reject
from cmd_server.transport import Address, LinkOptions, Transport, transport_of

from .asking import policy_of, unreachable
from .core import ClientCore, ClientOptions
from .events import Event, Item, Message

__all__ = ["BaseClient", "ClientCounters", "OnEvent", "OnRecord"]

OnRecord = Callable[[Record], None]
OnEvent = Callable[[Event], None]

BUFFER: Final = 10_000  # messages that wait for the program
RETRY: Final = 0.25  # s before the first attempt to connect again


class ClientCounters(Struct, frozen=True):
    """What a client has seen so far."""

    messages: int  # records
    duplicates: int  # came already, and were dropped
    lost: int  # said by the server to be left out, where it knows how many
    holes: int  # not explained by the server: each made this client connect again and resume
    unknown: int  # of a kind that this version does not know
    connects: int  # connections that were let in


class BaseClient:
    """Books, instruments and latest values of a client; see ``connect`` for the arguments."""

    def __init__(
        self,
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
        rng: Rng | None = None,
    ) -> None:
        if buffer < 1 or queue < 0 or attempts < 0 or not 0 < retry <= 30:
            raise UsageError(f"buffer {buffer}, queue {queue}, attempts {attempts} or retry {retry} s cannot be")
        self.address = address
        self.buffer = buffer
        self._where = Address.parse(address)
        self._transport: Transport = transport_of(self._where)
        self.core = ClientCore(
            ClientOptions(
                (topics,) if isinstance(topics, str) else tuple(topics),
                policy_of(policy),
                queue,
                token,
                name,
                int(hello_timeout * SECOND),
            )
        )
        core = self.core.options
        self._link_options = LinkOptions(
            timeout=core.hello_timeout, max_message=core.max_message, token=token, client=name
        )
        self._on_record = on_record
        self._on_event = on_event
        if on_record is not None or on_event is not None:
            self.core.on_item = self._tell
        self._backoff = Backoff(
            rng or system_rng(), base=int(retry * SECOND), cap=30 * SECOND, stable=10 * SECOND, limit=attempts
        )

    @property
    def books(self) -> MultiSymbolOrderBook:
        """All order books by full name, of each instrument the deepest that is subscribed."""
        return self.core.local.mapping

    @property
    def instruments(self) -> Mapping[str, InstrumentRecord]:
        """Reference data by full name."""
        return self.core.instruments

    @property
    def quotes(self) -> Mapping[str, Quote]:
        """The latest best bid and offer by full name, of topics ``bbo`` and ``quotes``."""
        return self.core.quotes

    @property
    def aggregates(self) -> Mapping[str, AggregatedBook]:
        """The latest merged books by unified name, of topic ``aggregate``."""
        return self.core.aggregates

    @property
    def topics(self) -> tuple[str, ...]:
        """What is subscribed, or will be once there is a connection."""
        return tuple(self.core.topics)

    @property
    def connected(self) -> bool:
        """Whether the server has taken the topics and the connection stands."""
        return self.core.ready

    @property
    def counters(self) -> ClientCounters:
        """What was seen so far."""
        core = self.core
        return ClientCounters(core.messages, core.duplicates, core.lost, core.holes, core.unknown, core.connects)

    def book(self, name: str, view: int | None = None) -> OrderBook:
        """Return the order book ``venue:symbol``, or of a bare symbol that is unique; ``view``: of this depth.

        It is one object that is kept in step; worth trading on only while its ``state`` is LIVE. Raises
        UnknownBookError with the nearest names.
        """
        return self.core.local.of(name, view)

    def quote(self, name: str) -> Quote:
        """Return the latest best bid and offer of ``venue:symbol``; raises UnknownNameError."""
        found = self.core.quotes.get(name)
        if found is None:
            close = nearest(name, self.core.quotes)
            raise UnknownNameError("quote", name, close, hint="" if close else f"subscribe to bbo {name}")
        return found

    def _tell(self, item: Item) -> None:
        """Call the program back."""
        if type(item) is Message:
            if self._on_record is not None:
                self._on_record(item.record)
        elif self._on_event is not None:
            self._on_event(item)  # type: ignore[arg-type]  # whatever is no message is an event

    def _down_items(self, reason: str, delay: int) -> list[Item]:
        """Tell the core and the program that the connection is gone."""
        items = self.core.disconnected(reason, attempt=self._backoff.attempts, retry_in=delay)
        if self.core.on_item is not None:
            for item in items:
                self._tell(item)
        return items

    def _again(self, error: CmdError | None, now: int) -> tuple[CmdError | None, str, int]:
        """Decide after a connection ended, or was not made: the final error or None, the reason, and ns to wait."""
        core = self.core
        reason = core.broken or (error.message if error is not None else "the connection was closed")
        final = core.final(error)
        if final is None and not core.connects:
            final = self._first(error or ConnectionBrokenError(reason))
        if final is not None:
            return final, reason, 0
        delay = self._backoff.failed(now)
        if self._backoff.limit and self._backoff.attempts > self._backoff.limit:
            gone = ConnectionBrokenError(
                f"the server at {self.address} is gone, {self._backoff.limit} attempts failed: {reason}",
                hint="is it running there?",
            )
            return gone, reason, 0
        return None, reason, delay

    def _first(self, error: CmdError) -> CmdError:
        """The error of a first connection that did not come about: most likely the address is wrong."""
        bye = self.core.bye
        if bye is not None:
            return RefusedError(f"the server at {self.address} refused: {bye.text or bye.code}", bye.code)
        return unreachable(self.address, error)

    def _check_answer(self, answer: Ack | Reject) -> int:
        """Return how many streams match; raises RefusedError."""
        if isinstance(answer, Reject):
            raise RefusedError(f"the server refused: {answer.text}", answer.code, hint=answer.hint)
        return answer.streams
