"""/metrics, /health and /ready over real sockets, and what they count."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cmd_common.errors import UsageError
from cmd_common.metrics import FeedMeter, book_families
from cmd_common.orderbook import OrderBook
from cmd_common.records import FeedStatus, Gap, InstrumentRecord, Trade
from cmd_common.sequence import BookState
from cmd_server.errors import ServerError
from cmd_server.health import HealthServer, json_answer, readiness
from cmd_server.hub import Hub
from cmd_server.messages import Login, Policy, Subscribe
from cmd_server.metrics import Collector, exposition, hub_families, registry_of

S = 1_000_000_000


def trade(n: int) -> Trade:
    return Trade(n * S, n * S + S // 4, "v", "A", str(n), n, 1.0, 1.0, "buy")


def status(state: str, connection: str = "c") -> FeedStatus:
    return FeedStatus(1, 1, "v", "", "", connection, state, "")


async def ask(url: str, text: str) -> tuple[int, dict[str, str], bytes]:
    """Send raw text and read the answer to its end."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text.encode())
    data = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    await writer.wait_closed()
    if not data:
        return 0, {}, b""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:]), body


async def get(url: str, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
    return await ask(url, "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]))


ANSWERS = {"/metrics": lambda: (200, b"numbers", "text/plain"), "/ready": lambda: json_answer({"a": 1}, ok=False)}


async def test_paths_and_methods() -> None:
    server = HealthServer(ANSWERS)
    url = await server.listen("127.0.0.1:0")
    try:
        code, headers, body = await get(url, "/metrics?x=1")
        assert (code, headers["content-type"], body) == (200, "text/plain", b"numbers")
        code, headers, body = await get(url, "/ready")
        assert (code, headers["content-type"], json.loads(body)) == (503, "application/json", {"a": 1})
        assert (await get(url, "/"))[0] == 404
        assert (await ask(url, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"))[0] == 405
        # no path becomes a WebSocket
        upgrade = [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: " + "A" * 22 + "==",
        ]
        assert (await get(url, "/metrics", *upgrade))[0] == 200
        assert (await get(url, "/ws", *upgrade))[0] == 404
        for garbage in (
            "\x00\x01\r\n\r\n",
            "GET\r\n\r\n",
            "GET / HTTP/9\r\n\r\n",
            f"GET /{'x' * 100_000} HTTP/1.1\r\n\r\n",
        ):
            assert (await ask(url, garbage))[0] in (0, 400, 414, 431, 500)
        assert (await get(url, "/metrics"))[0] == 200
    finally:
        await server.close()
        await server.close()


async def test_one_that_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmd_server.health._OPEN", 0.2)
    server = HealthServer(ANSWERS)
    url = await server.listen("127.0.0.1:0")
    try:
        assert (await ask(url, "GET /metr"))[2] in (b"", b"Failed to open a WebSocket connection: timed out.\n")
    finally:
        await server.close()


async def test_elsewhere_needs_a_token_for_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there is no token"):
        await HealthServer(ANSWERS).listen("0.0.0.0:0")
    monkeypatch.setattr("cmd_server.health.loopback", lambda host: False)  # nothing here listens elsewhere
    server = HealthServer(ANSWERS, token="secret", protected=frozenset({"/metrics"}))
    url = await server.listen("127.0.0.1:0")
    try:
        assert (await get(url, "/metrics"))[:2][0] == 401
        assert (await get(url, "/metrics", "Authorization: Bearer wrong"))[0] == 401
        assert (await get(url, "/metrics", "Authorization: Bearer secret"))[0] == 200
        assert (await get(url, "/ready"))[0] == 503
    finally:
        await server.close()


async def test_a_port_in_use() -> None:
    first = HealthServer(ANSWERS)
    url = await first.listen("127.0.0.1:0")
    try:
        with pytest.raises(ServerError, match=r"in use.*choose another port"):
            await HealthServer(ANSWERS).listen(url.removeprefix("http://"))
    finally:
        await first.close()


def test_ready_says_what_is_missing() -> None:
    meter = FeedMeter()
    books = {name: OrderBook() for name in ("v:A", "v:B")}
    assert not readiness("live", {}, meter).ready  # no connection yet
    meter.take([status("connected"), status("connected", "d")])
    found = readiness("live", books, meter)
    assert (found.ready, found.books, found.not_live) == (False, {"EMPTY": 2}, ["v:A", "v:B"])
    for book in books.values():
        book.state = BookState.LIVE
    assert readiness("live", books, meter).ready
    assert not readiness("history", books, meter).ready
    assert readiness("replay", books, FeedMeter()).ready
    meter.take([status("disconnected", "d")])
    assert readiness("live", books, meter).disconnected == ["v d"]
    assert not readiness("live", books, meter).ready


def test_the_meter_counts_gaps_once_and_connections() -> None:
    meter = FeedMeter()
    gap = Gap(1, 2, "v", "A", "trades", "disconnect", "lost")
    repaired = Gap(1, 2, "v", "A", "trades", "disconnect", "lost", repaired_by="rest")
    instrument = InstrumentRecord(1, 9 * S, "v", "A", "A", "B", "", "spot", "1", "1", "", "", "", False, None, "")
    meter.take([trade(1), gap, gap, repaired, status("disconnected"), instrument])
    assert meter.gaps == {("v", "trades", "disconnect"): 1}
    assert meter.open_gaps == set()
    assert meter.disconnects == {("v", "c"): 1}
    assert meter.lag == {"v": S // 4}
    assert meter.records["v", "trades"] == 1


def test_every_number_is_there_and_of_this_moment() -> None:
    hub = Hub(epoch=1, now=S, wake=lambda client: None)
    meter = FeedMeter()
    clients = [hub.attach("same", S) for _ in range(2)]
    hub.handle(hub.attach("other", S), Login("", "same #2"), S)  # a name that is taken is numbered too
    for client in clients:
        hub.handle(client, Login(), S)
        hub.handle(client, Subscribe(1, ("trades *",), Policy.DROP_OLDEST, 16), S)
        client.take(1 << 20)
    records = [trade(n) for n in range(1, 41)]
    meter.take([*records, Gap(1, 2, "v", "A", "trades", "disconnect", "lost"), status("disconnected")])
    hub.publish(records, 41 * S)
    hub.now += 2 * S
    books = {"v:A": OrderBook()}
    collector = Collector(lambda: hub_families(hub), meter.families, lambda: book_families(books))
    text, kind = exposition(registry_of(collector))
    assert kind.startswith("text/plain")
    found = {
        (s.name, *sorted(s.labels.values())): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
    }
    assert len(found) == text.count(b"\n") - text.count(b"\n#") - text.startswith(b"#")  # no row comes twice
    assert found["cmd_server_clients",] == 3
    assert found["cmd_server_records_total",] == 40
    assert found["cmd_feed_books", "EMPTY"] == 1
    assert found["cmd_feed_records_total", "trades", "v"] == 40
    for name in ("same", "same #2"):
        label = ("drop-oldest", name)
        assert found["cmd_client_queue_messages", *label] == clients[0].pending > 0
        assert found["cmd_client_queue_limit", *label] == 16
        assert found["cmd_client_dropped_total", *label] == clients[0].counters.dropped > 0
        assert found["cmd_client_sent_total", *label] == clients[0].counters.sent > 0
        assert found["cmd_client_sent_bytes_total", *label] == clients[0].counters.bytes > 0
        assert found["cmd_client_lag_seconds", *label] == 2
        assert found["cmd_client_queue_high_water", *label] == clients[0].counters.high_water > 0
    assert found["cmd_feed_lag_seconds", "v"] == 0.25
    assert found["cmd_feed_last_seconds", "v"] == 40.25
    assert found["cmd_feed_gaps_total", "disconnect", "trades", "v"] == 1
    assert found["cmd_feed_reconnects_total", "c", "v"] == 1
    assert found["cmd_feed_connected", "c", "v"] == 0
    assert any(name[0].startswith("process_") for name in found)


def test_the_documentation_names_every_number() -> None:
    text = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
    words = set(re.findall(r"`(\w+)`", text))
    hub = Hub(epoch=1, now=S, wake=lambda client: None)
    collector = Collector(lambda: hub_families(hub))
    for family in collector.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        assert name in words or name.removeprefix("cmd_client") in words, name
