"""The runner over real sockets, with both WebSocket implementations."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from cmd_common.errors import DisconnectedError
from cmd_common.exchange import Limits
from cmd_common.records import FeedStatus, Gap
from cmd_common.seams import SystemClock
from cmd_common.testing.virtual import VirtualClock, VirtualLoop
from cmd_feed.net import SystemNet
from cmd_feed.runner import RunnerState


@pytest.fixture(params=[False, True], ids=["websockets", "picows"])
def net(request: pytest.FixtureRequest) -> SystemNet:
    return SystemNet(fast=request.param)


def quote(n: int, symbol: str = "BTC") -> str:
    return json.dumps({"q": n, "s": symbol, "t": 1_700_000_000_000_000_000 + n})


async def send_then_close(connection: Any, numbers: range, code: int = 1001) -> None:
    for n in numbers:
        await connection.send(quote(n))
    await connection.close(code)


async def test_records_come_in_order_and_in_lists(server: Any, rig: Any, net: SystemNet, until: Any) -> None:
    async def script(_: Any, connection: Any, __: int) -> None:
        for n in range(20_000):
            await connection.send(quote(n))
        await connection.wait_closed()

    server.script = script
    r = rig(server, net=net)
    async with r.running():
        await until(lambda: len(r.quotes()) == 20_000)
    assert r.quotes() == list(range(20_000))
    assert len(r.batches) < 10_000  # lists, not single records
    assert r.runner.counters.messages == 20_000
    assert r.runner.counters.records == len(r.records)
    assert isinstance(r.records[0], FeedStatus)
    assert r.records[-1].state == "closed"
    assert r.runner.state is RunnerState.STOPPED


async def test_after_a_close_by_the_server_it_connects_again_and_the_feed_knows(
    server: Any, rig: Any, net: SystemNet, until: Any
) -> None:
    async def script(_: Any, connection: Any, number: int) -> None:
        if number <= 3:
            await send_then_close(connection, range(number * 10, number * 10 + 10))
        await connection.wait_closed()

    server.script = script
    r = rig(server, net=net)
    async with r.running():
        await until(lambda: server.connections == 4)
    assert r.quotes() == list(range(10, 40))
    assert r.runner.counters.disconnects == 3
    assert len(r.feed.lost) == 3
    assert "code 1001" in r.feed.lost[0]
    assert sum(isinstance(x, Gap) for x in r.records) == 3
    assert len([w for w in r.warnings if "connecting again" in w]) == 3


async def test_code_4000_is_the_end_only_where_it_is_asked_for(server: Any, rig: Any, net: SystemNet) -> None:
    async def script(_: Any, connection: Any, __: int) -> None:
        await send_then_close(connection, range(5), 4000)

    server.script = script
    r = rig(server, net=net, until_end=True)
    async with r.running() as task:
        await asyncio.wait_for(task, 10)
        assert r.runner.state is RunnerState.ENDED
    assert r.quotes() == list(range(5))
    assert not any(isinstance(x, Gap) for x in r.records)
    assert r.feed.lost == []


async def test_code_4000_is_a_disconnect_otherwise(server: Any, rig: Any, until: Any) -> None:
    async def script(_: Any, connection: Any, number: int) -> None:
        if number == 1:
            await send_then_close(connection, range(5), 4000)
        await connection.wait_closed()

    server.script = script
    r = rig(server)
    async with r.running():
        await until(lambda: server.connections == 2)
    assert len(r.feed.lost) == 1


async def test_the_feed_can_ask_for_a_new_connection(server: Any, rig: Any, until: Any) -> None:
    r = rig(server)
    r.feed.reconnect_on_tick = True
    async with r.running():
        await until(lambda: server.connections == 2)
    assert r.feed.lost == ["silence"]


async def test_a_defect_of_a_feed_becomes_one_line_and_a_new_connection(server: Any, rig: Any, until: Any) -> None:
    async def script(_: Any, connection: Any, number: int) -> None:
        if number == 1:
            await connection.send(quote(1))
            await connection.send("defect")
            await connection.send(quote(2))
        else:
            await connection.send(quote(3))
        await connection.wait_closed()

    server.script = script
    r = rig(server)
    async with r.running():
        await until(lambda: 3 in r.quotes())
    assert r.quotes() == [1, 3]
    lines = [w for w in r.warnings if "defect while reading" in w]
    assert lines == [
        "tiny/0: defect while reading a message (RuntimeError: a defect of two lines); the connection is opened anew"
    ]
    assert r.runner.counters.defects == 1


async def test_a_feed_that_always_fails_is_given_up_and_no_other_connection_suffers(
    server: Any, rig: Any, until: Any
) -> None:
    async def bad(_: Any, connection: Any, __: int) -> None:
        await connection.send("defect")
        await connection.wait_closed()

    server.script = bad
    broken, healthy = rig(server), rig(server)
    healthy.feed.receive = lambda frame, now: type(broken.feed).receive(healthy.feed, quote(1), now)
    async with healthy.running(), broken.running() as task:
        await asyncio.wait_for(task, 20)
        assert broken.runner.state is RunnerState.FAILED
        assert healthy.runner.state is RunnerState.CONNECTED
    assert "given up" in broken.warnings[-1]


async def test_a_server_that_is_not_there_is_given_up_after_the_first_attempts(rig: Any, server: Any) -> None:
    r = rig(server, first_attempts=3)
    r.feed.url = "ws://127.0.0.1:1/ws"
    async with r.running() as task:
        await asyncio.wait_for(task, 20)
    assert r.runner.state is RunnerState.FAILED
    assert "cannot connect to ws://127.0.0.1:1/ws" in str(r.runner.error)


async def test_a_refused_handshake_says_what_the_exchange_says(server: Any, rig: Any, net: SystemNet) -> None:
    server.refuse = lambda n: (451, {}, b"")
    r = rig(server, net=net)
    async with r.running() as task:
        await asyncio.wait_for(task, 20)
    assert server.attempts == 3
    assert r.runner.state is RunnerState.FAILED
    assert "refuses this address" in str(r.runner.error)


async def test_429_on_the_handshake_waits_as_long_as_told(server: Any, rig: Any, net: SystemNet, until: Any) -> None:
    server.refuse = lambda n: (429, {"Retry-After": "0.3"}, b"") if n == 1 else None
    r = rig(server, net=net)
    async with r.running():
        await until(lambda: server.connections == 1)
    assert "tiny says HTTP 429; next attempt in 0.3 s" in r.warnings[0]


async def test_messages_stay_within_the_rate_of_the_exchange(server: Any, rig: Any, net: SystemNet) -> None:
    r = rig(server, net=net, symbols=[f"S{n}" for n in range(25)], limits=Limits(0, "p", 10, 0, 0, 0))
    r.feed.subscribe_one_by_one = True
    async with r.running():
        await asyncio.wait_for(server.wait_received(25), 20)
    times = [t for t, _ in server.received]
    for start in times:
        assert sum(start <= t < start + 1.0 for t in times) <= 10
    assert [json.loads(m)["sub"][0] for _, m in server.received] == [f"S{n}" for n in range(25)]
    assert r.runner._messages.waited > 0


async def test_symbols_can_be_added_and_removed_while_running(server: Any, rig: Any, until: Any) -> None:
    r = rig(server)
    async with r.running():
        await server.wait_received(1)
        r.runner.add(["ETH"])
        r.runner.remove(["BTC"])
        await server.wait_received(3)
    assert [m for _, m in server.received] == ['{"sub": ["BTC"]}', '{"sub": ["ETH"]}', '{"unsub": ["BTC"]}']


async def test_snapshots_are_fetched_and_handed_over(server: Any, rig: Any, until: Any) -> None:
    server.rest = lambda path, n: (200, {"x-used": "30"}, path.encode())
    r = rig(server, symbols=[f"S{n}" for n in range(30)], rest=True)
    async with r.running():
        await until(lambda: len(r.feed.snapshots) == 30)
    assert sorted(r.feed.snapshots) == sorted((f"S{n}", f"/depth?symbol=S{n}".encode()) for n in range(30))


async def test_a_rate_limit_on_snapshots_is_waited_for_and_all_come(server: Any, rig: Any, until: Any) -> None:
    server.rest = lambda path, n: (429, {"Retry-After": "0.2"}, b"") if n == 3 else (200, {}, b"ok")
    r = rig(server, symbols=[f"S{n}" for n in range(10)], rest=True)
    async with r.running():
        await until(lambda: len(r.feed.snapshots) == 10)
    assert r.budget.bans == 1
    assert any("tiny says HTTP 429" in w and "snapshots wait" in w for w in r.warnings)


async def test_a_blocked_snapshot_is_reported_to_the_feed_at_once(server: Any, rig: Any, until: Any) -> None:
    server.rest = lambda path, n: (451, {}, b"")
    r = rig(server, rest=True)
    async with r.running():
        await until(lambda: r.feed.failed)
    assert r.feed.failed == [("BTC", "tiny does not serve this country")]
    assert any("tiny does not serve this country; use another endpoint" in w for w in r.warnings)
    assert len(server.requests) == 1


async def test_a_snapshot_that_fails_for_a_moment_is_asked_for_again(server: Any, rig: Any, until: Any) -> None:
    server.rest = lambda path, n: (503, {}, b"") if n < 3 else (200, {}, b"ok")
    r = rig(server, rest=True)
    async with r.running():
        await until(lambda: r.feed.snapshots)
    assert len(server.requests) == 3
    assert r.scheduler.queue.counters.retried == 2


async def test_a_full_pipeline_stops_reading_and_nothing_is_lost(
    server: Any, rig: Any, net: SystemNet, until: Any
) -> None:
    sent = 0

    async def script(_: Any, connection: Any, __: int) -> None:
        nonlocal sent
        for n in range(60_000):
            await connection.send(quote(n) + " " * 400)
            sent += 1
        await connection.wait_closed()

    server.script = script
    r = rig(server, net=net)
    r.full = True
    async with r.running():
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.3)
        assert len(r.quotes()) < 2000
        assert sent < 60_000
        r.full = False
        await until(lambda: len(r.quotes()) == 60_000)
    assert r.quotes() == list(range(60_000))


async def test_unknown_malformed_and_huge_messages_pass_to_the_feed_and_nothing_breaks(
    server: Any, rig: Any, net: SystemNet, until: Any
) -> None:
    async def script(_: Any, connection: Any, __: int) -> None:
        for frame in ("{", b"\xff\xfe", "[1", '{"z":1}', "z" * 5_000_000):
            await connection.send(frame)
        await connection.send(quote(1))
        await connection.wait_closed()

    server.script = script
    r = rig(server, net=net)
    async with r.running():
        await until(lambda: r.quotes() == [1])
    assert r.runner.counters.connects == 1
    assert r.feed.counters.malformed == 4


async def test_raw_lines_tell_the_whole_conversation(server: Any, rig: Any, until: Any) -> None:
    async def script(s: Any, connection: Any, __: int) -> None:
        await s.wait_received(1)
        await connection.send(quote(1))
        await connection.wait_closed()

    server.script = script
    r = rig(server, raw=True)
    async with r.running():
        await until(lambda: r.quotes() == [1])
    assert [(src, text) for _, src, _, text in r.raw] == [
        ("ws_open", "null"),
        ("ws_out", '{"sub": ["BTC"]}'),
        ("ws", quote(1)),
    ]
    assert {url for _, _, url, _ in r.raw} == {server.ws}


async def test_no_task_is_left_behind(server: Any, rig: Any, until: Any) -> None:
    before = asyncio.all_tasks()
    r = rig(server, rest=True, symbols=["A", "B"])
    async with r.running():
        await until(lambda: len(r.feed.snapshots) == 2)
    await until(lambda: not any("tiny" in t.get_name() for t in asyncio.all_tasks() - before))


async def test_a_stop_while_the_handshake_is_under_way_ends_at_once(rig: Any, server: Any) -> None:
    class SlowNet(SystemNet):
        async def connect(self, url: str, **more: Any) -> Any:
            ws = await super().connect(url, **more)
            connecting.set()
            await go_on.wait()
            return ws

    connecting, go_on = asyncio.Event(), asyncio.Event()
    r = rig(server, net=SlowNet())
    async with r.running() as task:
        await connecting.wait()
        await r.runner.stop()
        go_on.set()
        await asyncio.wait_for(task, 10)
    assert r.runner.state is RunnerState.STOPPED
    assert r.records[0].state == "closed"


# ---- virtual time


class QuietSocket:
    """A connection on which nothing ever comes."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.sent: list[str] = []

    @property
    def close_code(self) -> int | None:
        return 1000 if self.closed.is_set() else None

    async def send(self, frame: str) -> None:
        self.sent.append(frame)

    async def receive(self) -> str:
        from cmd_common.errors import DisconnectedError

        await self.closed.wait()
        raise DisconnectedError("closed by us with code 1000")

    async def receive_all(self) -> list[str]:
        return [await self.receive()]

    async def close(self) -> None:
        self.closed.set()


class QuietNet:
    """A network of such connections, in virtual time."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.opened: list[int] = []

    async def connect(self, url: str, *, headers: object = None) -> QuietSocket:
        self.opened.append(self.clock.monotonic())
        return QuietSocket()

    async def close(self) -> None:
        return


def in_virtual_time(main: Callable[[VirtualClock], Any]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(main(VirtualClock(loop, 1_700_000_000_000_000_000)))
    finally:
        loop.close()


def test_a_connection_is_renewed_before_the_exchange_ends_it(rig: Any) -> None:
    day = 86_400_000_000_000

    async def main(clock: VirtualClock) -> None:
        class Server:
            ws, http = "ws://x", ""

        net = QuietNet(clock)
        r = rig(Server, net=net, clock=clock, limits=Limits(0, "p", 0, 0, 0, day))
        async with r.running():
            await clock.sleep(3 * day)
        assert 4 <= len(net.opened) <= 5
        for a, b in zip(net.opened, net.opened[1:], strict=False):
            assert 0.94 * day < b - a < 0.98 * day
        assert all("planned" in reason for reason in r.feed.lost)
        assert r.feed.ticks > 200_000

    in_virtual_time(main)


def test_connection_attempts_stay_within_the_limit_of_the_exchange(rig: Any) -> None:
    minute = 60_000_000_000

    async def main(clock: VirtualClock) -> None:
        class Server:
            ws, http = "ws://x", ""

        net = QuietNet(clock)
        r = rig(Server, net=net, clock=clock, limits=Limits(0, "p", 0, 20, 0, 2_000_000_000))
        async with r.running():
            await clock.sleep(60 * minute)
        assert len(net.opened) > 100
        for start in net.opened:
            assert sum(start <= t < start + 5 * minute for t in net.opened) <= 20

    in_virtual_time(main)


async def test_who_waits_for_the_end_gives_up_a_server_that_is_gone(server: Any, rig: Any) -> None:
    async def script(_: Any, connection: Any, __: int) -> None:
        await send_then_close(connection, range(5))

    server.script = script
    server.refuse = lambda n: None if n in (1, 2, 3) else (503, {}, b"")
    r = rig(server, until_end=True, first_attempts=4)
    async with r.running() as task:
        await asyncio.wait_for(task, 20)
    assert r.runner.state is RunnerState.FAILED
    assert server.attempts == 3 + 4  # connections that worked do not count, whatever became of them


async def test_who_is_given_up_for_defects_says_the_last_one(server: Any, rig: Any) -> None:
    async def bad(_: Any, connection: Any, __: int) -> None:
        await connection.send("defect")
        await connection.wait_closed()

    server.script = bad
    r = rig(server)
    async with r.running() as task:
        await asyncio.wait_for(task, 20)
    assert str(r.runner.error) == "5 defects in a row, the last one RuntimeError: a defect of two lines"


async def test_defects_far_apart_are_not_in_a_row(server: Any, rig: Any, until: Any) -> None:
    async def bad(_: Any, connection: Any, __: int) -> None:
        await connection.send("defect")
        await connection.wait_closed()

    server.script = bad
    r = rig(server)
    r.runner._backoff.stable = 0  # every connection counts as one that lasted
    async with r.running():
        await until(lambda: r.runner.counters.defects > 6)
        assert r.runner.state is not RunnerState.FAILED


async def test_a_ticker_that_breaks_opens_the_connection_anew(server: Any, rig: Any, until: Any) -> None:
    r = rig(server)
    real, calls = r.hooks.sink, []

    def sink(records: list[Any]) -> None:
        calls.append(records)
        if len(calls) == 2:  # outside of the Feed: no guard of a call of the Feed sees it
            raise RuntimeError("the sink broke")
        real(records)

    r.hooks.sink = sink
    r.feed.tick = lambda now: type(r.feed.close(now))(r.feed.close(now).records * 2048)
    async with r.running():
        await until(lambda: server.connections == 2)
    assert any("the sink broke" in w for w in r.warnings)


async def test_waiting_connections_do_not_all_take_the_place_that_comes_free(rig: Any, server: Any) -> None:
    times: list[int] = []

    class Refused:
        async def connect(self, url: str, *, headers: object = None) -> Any:
            times.append(clock.monotonic())
            raise DisconnectedError("refused")

        async def close(self) -> None: ...

    class Jump(SystemClock):
        """Time passes only while somebody sleeps, and then at once."""

        def __init__(self) -> None:
            self.ns = 0

        def monotonic(self) -> int:
            return self.ns

        async def sleep(self, ns: int) -> None:
            wake = self.ns + ns
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.ns = max(self.ns, wake)

    clock = Jump()
    limits = Limits(0, "p", 0, 3, 0, 0)  # three in 5 minutes; one is kept free
    rigs = [rig(server, net=Refused(), clock=clock, limits=limits, first_attempts=3) for _ in range(4)]
    for r in rigs[1:]:
        r.runner._connects = rigs[0].runner._connects
    await asyncio.wait_for(asyncio.gather(*(r.runner.run() for r in rigs)), 20)
    assert len(times) == 12
    for start in times:
        assert sum(start <= t < start + 300_000_000_000 for t in times) <= 3


async def test_while_reading_waits_for_the_store_no_time_passes_for_the_feed(server: Any, rig: Any, until: Any) -> None:
    async def script(_: Any, connection: Any, __: int) -> None:
        await connection.send(quote(1))
        await connection.wait_closed()

    class Fast(SystemClock):
        async def sleep(self, ns: int) -> None:
            await asyncio.sleep(ns / 1e11)

    server.script = script
    r = rig(server, clock=Fast())
    async with r.running():
        await until(lambda: r.quotes() == [1])
        await until(lambda: r.feed.ticks > 2)
        r.full = True
        await next(iter(server.open)).send(quote(2))
        await until(lambda: r.runner._blocked)
        ticks = r.feed.ticks
        await asyncio.sleep(0.1)  # ten ticks' time
        assert r.feed.ticks == ticks
        r.full = False
        await until(lambda: r.feed.ticks > ticks + 2)
    assert r.quotes() == [1, 2]
