"""What the server did, for Prometheus: clients, feeds and books, read from the hub when it is asked.

``FeedMeter`` counts records on their way; everything else is read from the hub at the moment of a scrape. The text
form is that of the package prometheus-client (extra ``metrics``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from cmd_common.errors import CmdError
from cmd_common.records import TABLE_OF, TS_FROM_RECV, AggregatedBook, FeedStatus, Gap, InstrumentRecord, Record
from cmd_common.sequence import BookState

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import CollectorRegistry

    from cmd_common.orderbook import OrderBook

    from .hub import Hub

__all__ = ["FeedMeter", "HubCollector", "exposition", "registry_of"]

_TABLES: Final[dict[type, str]] = dict(TABLE_OF)
_NS: Final = 1e-9


class FeedMeter:
    """Counts what feeds deliver: records by venue and table, gaps, connections, and how late data comes; pure."""

    __slots__ = ("connections", "disconnects", "gaps", "lag", "open_gaps", "records", "seen")

    def __init__(self) -> None:
        self.records: Counter[tuple[str, str]] = Counter()  # by venue and table
        self.gaps: Counter[tuple[str, str, str]] = Counter()  # by venue, table and reason; rows, repairs left out
        self.open_gaps: set[tuple[str, str, str, int, int]] = set()
        self.disconnects: Counter[tuple[str, str]] = Counter()  # by venue and connection
        self.connections: dict[tuple[str, str], str] = {}  # state by venue and connection
        self.lag: dict[str, int] = {}  # ns from event to receipt of the last record, by venue
        self.seen: dict[str, int] = {}  # our time of it, ns

    def take(self, records: Sequence[Record]) -> None:
        """Count records. O(n)."""
        counts = self.records
        last: Any = None
        for record in records:
            kind = type(record)
            row: Any = record
            if kind is Gap:
                self._gap(row)
            elif kind is FeedStatus:
                self._status(row)
            elif kind is AggregatedBook:
                counts["", "aggregated_books"] += 1
                continue
            elif kind is not InstrumentRecord:
                last = row
            counts[row.venue, _TABLES[kind]] += 1
        if last is not None and last.ts_recv:
            self.seen[last.venue] = last.ts_recv
            if not last.flags & TS_FROM_RECV:
                self.lag[last.venue] = last.ts_recv - last.ts_event

    def _gap(self, gap: Gap) -> None:
        key = (gap.venue, gap.symbol, gap.record_type, gap.ts_from, gap.ts_to)
        if gap.repaired_by:
            self.open_gaps.discard(key)
        elif key not in self.open_gaps:
            self.gaps[gap.venue, gap.record_type, gap.reason] += 1
            if len(self.open_gaps) < 100_000:
                self.open_gaps.add(key)

    def _status(self, status: FeedStatus) -> None:
        if status.symbol or status.record_type or status.state not in ("connected", "disconnected"):
            return
        self.connections[status.venue, status.connection] = status.state
        if status.state == "disconnected":
            self.disconnects[status.venue, status.connection] += 1


class HubCollector:
    """A collector of prometheus-client over a hub and a meter; ``books`` are those that shall be LIVE.

    Raises CmdError where the package is not installed.
    """

    def __init__(self, hub: Hub, meter: FeedMeter, books: Mapping[str, OrderBook]) -> None:
        self._hub = hub
        self._meter = meter
        self._books = books
        try:
            from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "prometheus_client":
                raise
            raise CmdError("metrics need prometheus-client", hint="install cmd-server[metrics]") from error
        self._counter = CounterMetricFamily
        self._gauge = GaugeMetricFamily

    def collect(self) -> Iterator[Metric]:
        """Read everything now."""
        yield from self._server()
        yield from self._clients()
        yield from self._feeds()

    def _one(self, make: Any, name: str, words: str, value: float) -> Metric:
        metric: Metric = make(name, words)
        metric.add_metric([], value)  # type: ignore[attr-defined]  # both families have it
        return metric

    def _many(
        self, make: Any, name: str, words: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]
    ) -> Metric:
        metric: Metric = make(name, words, labels=labels)
        for found, value in values:
            metric.add_metric(found, value)  # type: ignore[attr-defined]  # both families have it
        return metric

    def _server(self) -> Iterator[Metric]:
        hub, counters = self._hub, self._hub.counters
        yield self._one(self._gauge, "cmd_server_clients", "Clients that are connected.", len(hub.clients))
        yield self._one(self._counter, "cmd_server_accepted", "Clients that were accepted.", counters.clients)
        yield self._one(self._counter, "cmd_server_records", "Records that were published.", counters.records)
        yield self._one(self._counter, "cmd_server_messages", "Messages that were encoded.", counters.messages)
        yield self._one(self._counter, "cmd_server_encoded_bytes", "Bytes of these messages.", counters.bytes)
        yield self._one(self._counter, "cmd_server_rejects", "Requests that were refused.", counters.rejects)
        yield self._one(self._gauge, "cmd_server_streams", "Streams that somebody has asked for.", len(hub.streams))
        byes = [([code], n) for code, n in counters.byes.items()]
        yield self._many(self._counter, "cmd_server_byes", "Clients that were let go, by reason.", ["code"], byes)
        states = Counter(book.state for book in self._books.values())
        yield self._many(
            self._gauge,
            "cmd_server_books",
            "Order books by state.",
            ["state"],
            [([state.value], states[state]) for state in BookState],
        )

    def _clients(self) -> Iterator[Metric]:
        hub = self._hub
        clients = list(zip(_names(hub), hub.clients, strict=True))
        for make, name, words, read in (
            (self._gauge, "queue_messages", "Messages that wait for a client.", lambda c: c.pending),
            (self._gauge, "queue_limit", "The bound of that queue.", lambda c: c.bound),
            (self._gauge, "queue_high_water", "Most messages that waited at once.", lambda c: c.counters.high_water),
            (self._gauge, "lag_seconds", "Age of the oldest message that waits.", lambda c: c.lag(hub.now) * _NS),
            (self._gauge, "streams", "Streams of a client.", lambda c: len(c.streams)),
            (self._counter, "sent", "Messages that were sent.", lambda c: c.counters.sent),
            (self._counter, "sent_bytes", "Bytes that were sent.", lambda c: c.counters.bytes),
            (self._counter, "dropped", "Messages that a slow client lost.", lambda c: c.counters.dropped),
            (self._counter, "conflated", "Messages that were merged into later ones.", lambda c: c.counters.conflated),
        ):
            values = [([label, c.policy.name.lower().replace("_", "-")], read(c)) for label, c in clients]
            yield self._many(make, f"cmd_client_{name}", words, ["client", "policy"], values)

    def _feeds(self) -> Iterator[Metric]:
        meter = self._meter
        yield self._many(
            self._counter, "cmd_feed_records", "Records of a venue.", ["venue", "table"], meter.records.items()
        )
        lag = [([venue], ns * _NS) for venue, ns in meter.lag.items()]
        yield self._many(self._gauge, "cmd_feed_lag_seconds", "From event to receipt, of the last.", ["venue"], lag)
        seen = [([venue], ns * _NS) for venue, ns in meter.seen.items()]
        yield self._many(self._gauge, "cmd_feed_last_seconds", "Unix time of the last record.", ["venue"], seen)
        gaps = ["venue", "table", "reason"]
        yield self._many(self._counter, "cmd_feed_gaps", "Gaps that were noted.", gaps, meter.gaps.items())
        pair = ["venue", "connection"]
        up = [(key, state == "connected") for key, state in meter.connections.items()]
        yield self._many(self._gauge, "cmd_feed_connected", "Whether a connection stands.", pair, up)
        yield self._many(
            self._counter, "cmd_feed_reconnects", "Connections that were lost.", pair, meter.disconnects.items()
        )


def _names(hub: Hub) -> Iterator[str]:
    """A label for every client; clients of one name are numbered, for two rows must not have one label."""
    seen: Counter[str] = Counter()
    used: set[str] = set()
    for client in hub.clients:
        label = client.name
        while label in used:  # a client may call itself "name #2"
            seen[client.name] += 1
            label = f"{client.name} #{seen[client.name] + 1}"
        used.add(label)
        yield label


def registry_of(collector: HubCollector) -> CollectorRegistry:
    """Return a registry with this collector and what the process itself tells."""
    from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry) -> tuple[bytes, str]:
    """The text that Prometheus reads, and its content type."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return generate_latest(registry), CONTENT_TYPE_LATEST
