"""The numbers of a live session: connections, the queue before the store, the store's writer, request budgets.

Pure: they are read from the session at the moment that somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cmd_common.metrics import Family, Kind, one

if TYPE_CHECKING:
    from .session import LiveSession

__all__ = ["session_facts", "session_families"]

_RUNNER: Final = (
    ("messages", "Messages that were received."),
    ("bytes", "Bytes of these messages."),
    ("connects", "Connections that were made."),
    ("disconnects", "Connections that ended."),
    ("defects", "Exceptions of the feed's own code."),
)
_FEED: Final = (
    ("resyncs", "Order books that were made anew."),
    ("duplicates", "Messages or records that had come before."),
    ("malformed", "Messages that could not be read."),
    ("unknown_messages", "Messages of a kind that is not known."),
    ("errors", "Error replies of the exchange."),
)
_HANDOVER: Final = (("started", "begun"), ("done", "done"), ("failed", "failed"))
_PIPELINE: Final = (
    ("accepted", "Records that were handed over."),
    ("written", "Records that were written."),
    ("confirmed", "Records that are durable."),
    ("dropped", "Records that were dropped, each of them in a gap."),
    ("flushes", "Times that the store made records durable."),
    ("blocked", "Times that the queue was full, so that reading paused."),
)


def session_families(session: LiveSession) -> Iterator[Family]:
    """Everything that a session can tell, but for what its records tell (``FeedMeter``)."""
    labels = ("venue", "connection")
    connections = session.connections()

    def each(kind: Kind, name: str, words: str, values: Sequence[float]) -> Family:
        samples = [((c.venue, c.name), v) for c, v in zip(connections, values, strict=True)]
        return Family(kind, f"cmd_connection_{name}", words, labels, samples)

    yield each("gauge", "up", "Whether it is connected.", [c.state == "connected" for c in connections])
    yield each("gauge", "symbols", "Symbols of a connection.", [c.symbols for c in connections])
    yield each("gauge", "message_rate", "Messages a second, of late.", [c.counters.rate for c in connections])
    for name, words in _RUNNER:
        yield each("counter", name, words, [getattr(c.counters, name) for c in connections])
    for name, words in _FEED:
        yield each("counter", name, words, [getattr(c.feed, name) for c in connections])
    samples = [
        ((c.venue, c.name, outcome), float(getattr(c.counters.handovers, name)))
        for c in connections
        for name, outcome in _HANDOVER
    ]
    words = "Handovers to a second connection, by what became of them."
    yield Family("counter", "cmd_connection_handovers", words, (*labels, "outcome"), samples)
    second = [((c.venue, c.name), float(c.counters.second)) for c in connections if c.counters.second >= 0]
    words = "Whether a second connection could take over now, where one is asked for."
    yield Family("gauge", "cmd_connection_second", words, labels, second)
    yield from _queue(session)
    yield from _writer(session)


def _queue(session: LiveSession) -> Iterator[Family]:
    """The queues before the store and the raw recording."""
    pipelines = [(p.name.partition(" ")[0], p) for p in (session.pipeline, session.raw) if p is not None]
    if not pipelines:
        return
    label = ("queue",)
    queued = [((name,), p.queued) for name, p in pipelines]
    yield Family("gauge", "cmd_queue_records", "Records that wait or are being written.", label, queued)
    limits = [((name,), p.limit) for name, p in pipelines]
    yield Family("gauge", "cmd_queue_limit", "The bound of that queue.", label, limits)
    most = [((name,), p.counters.high_water) for name, p in pipelines]
    yield Family("gauge", "cmd_queue_high_water", "Most records that waited at once.", label, most)
    failed = [((name,), float(p.error is not None)) for name, p in pipelines]
    yield Family("gauge", "cmd_queue_failed", "Whether writing has failed for good.", label, failed)
    for field, words in _PIPELINE:
        values = [((name,), getattr(p.counters, field)) for name, p in pipelines]
        yield Family("counter", f"cmd_queue_{field}", words, label, values)


def _writer(session: LiveSession) -> Iterator[Family]:
    """Whatever the store's writer counts; kinds of stores count different things."""
    counters = session.writer_counters
    if counters is None:
        return
    samples = [
        ((field,), float(value))
        for field, value in msgspec.structs.asdict(counters).items()
        if isinstance(value, int) and field != "spill_bytes"
    ]
    yield Family("counter", "cmd_store_events", "What the store's writer counts, by its own names.", ("kind",), samples)
    waiting = getattr(counters, "spill_bytes", 0)  # of a store that is a server
    yield one("gauge", "cmd_store_spill_bytes", "Bytes of records on disk that wait for the store's server.", waiting)


def session_facts(session: LiveSession) -> dict[str, Any]:
    """The same in short, for people."""
    states: dict[str, int] = {}
    for book in session.book_states().values():
        states[book.state] = states.get(book.state, 0) + 1
    connections = session.connections()
    facts: dict[str, Any] = {
        "records": session.ledger.records.total(),
        "gaps": session.ledger.gaps,
        "books": states,
        "connections": {"up": sum(c.state == "connected" for c in connections), "all": len(connections)},
        "messages_a_second": round(sum(c.counters.rate for c in connections), 1),
    }
    if session.store_failed:
        facts["store_failed"] = True
    if session.pipeline is not None:
        facts["confirmed"] = session.pipeline.counters.confirmed
        facts["queue"] = {"waiting": session.pipeline.queued, "limit": session.pipeline.limit}
    if waiting := getattr(session.writer_counters, "spill_bytes", 0):
        facts["bytes_spilled"] = waiting
    return facts
