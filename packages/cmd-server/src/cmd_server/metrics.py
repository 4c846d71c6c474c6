"""Numbers of ``cmd_common.metrics`` for Prometheus, and those of the hub.

Everything is read at the moment of a scrape. The text form is that of the package prometheus-client (extra ``metrics``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from cmd_common.errors import CmdError
from cmd_common.metrics import Families, Family, one

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import CollectorRegistry

    from .hub import Hub

__all__ = ["Collector", "exposition", "hub_families", "registry_of", "text_of"]

_NS: Final = 1e-9


class Collector:
    """A collector of prometheus-client over several sources of numbers.

    Raises CmdError where the package is not installed.
    """

    def __init__(self, *sources: Families) -> None:
        self._sources = sources
        try:
            from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "prometheus_client":
                raise
            raise CmdError("metrics need prometheus-client", hint="install cmd-server[metrics]") from error
        self._make: dict[str, Any] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}

    def collect(self) -> Iterator[Metric]:
        """Read everything now."""
        for source in self._sources:
            for family in source():
                metric = self._make[family.kind](family.name, family.words, labels=family.labels)
                for labels, value in family.samples:
                    metric.add_metric(labels, value)
                yield metric


def hub_families(hub: Hub) -> Iterator[Family]:
    """What a hub did: the server as a whole, ``cmd_server_*``, and each client, ``cmd_client_*``."""
    counters = hub.counters
    yield one("gauge", "cmd_server_clients", "Clients that are connected.", len(hub.clients))
    yield one("counter", "cmd_server_accepted", "Clients that were accepted.", counters.clients)
    yield one("counter", "cmd_server_records", "Records that were published.", counters.records)
    yield one("counter", "cmd_server_messages", "Messages that were encoded.", counters.messages)
    yield one("counter", "cmd_server_encoded_bytes", "Bytes of these messages.", counters.bytes)
    yield one("counter", "cmd_server_rejects", "Requests that were refused.", counters.rejects)
    yield one("gauge", "cmd_server_streams", "Streams that somebody has asked for.", len(hub.streams))
    byes = [((code,), n) for code, n in counters.byes.items()]
    yield Family("counter", "cmd_server_byes", "Clients that were let go, by reason.", ("code",), byes)
    clients = list(zip(_names(hub), hub.clients, strict=True))
    read: Any
    kind: Any
    for kind, name, words, read in (
        ("gauge", "queue_messages", "Messages that wait for a client.", lambda c: c.pending),
        ("gauge", "queue_limit", "The bound of that queue.", lambda c: c.bound),
        ("gauge", "queue_high_water", "Most messages that waited at once.", lambda c: c.counters.high_water),
        ("gauge", "lag_seconds", "Age of the oldest message that waits.", lambda c: c.lag(hub.now) * _NS),
        ("gauge", "streams", "Streams of a client.", lambda c: len(c.streams)),
        ("counter", "sent", "Messages that were sent.", lambda c: c.counters.sent),
        ("counter", "sent_bytes", "Bytes that were sent.", lambda c: c.counters.bytes),
        ("counter", "dropped", "Messages that a slow client lost.", lambda c: c.counters.dropped),
        ("counter", "conflated", "Messages that were merged into later ones.", lambda c: c.counters.conflated),
    ):
        values = [((label, c.policy.name.lower().replace("_", "-")), read(c)) for label, c in clients]
        yield Family(kind, f"cmd_client_{name}", words, ("client", "policy"), values)


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


def registry_of(collector: Collector, *, process: bool = True) -> CollectorRegistry:
    """Return a registry with this collector and, with ``process``, what the process itself tells."""
    from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    if process:
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry) -> tuple[bytes, str]:
    """The text that Prometheus reads, and its content type."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return generate_latest(registry), CONTENT_TYPE_LATEST


def text_of(families: Iterable[Family]) -> bytes:
    """The text form of some numbers, for a file that node_exporter reads; the entry point ``text`` of ``cmd.metrics``.

    Raises CmdError where prometheus-client is not installed.
    """
    found = list(families)
    return exposition(registry_of(Collector(lambda: found), process=False))[0]
