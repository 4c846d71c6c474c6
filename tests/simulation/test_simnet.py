"""SimNet against a real emulator: what arrives without faults, and what each fault does."""

import json
import random
from collections import Counter

import pytest
from sim_market import make_emulator
from sim_options import Options

import cmd_binance
from cmd_common.errors import DisconnectedError, VenueError
from cmd_common.http import HttpRequest
from cmd_common.testing.simnet import GARBAGE, NetFaults, SimNet
from cmd_common.testing.virtual import VirtualClock, VirtualLoop

SECOND = 1_000_000_000
START = 1_748_907_900 * SECOND
STREAMS = ["btcusdt@trade", "btcusdt@depth@100ms"]
SUBSCRIBE = json.dumps({"method": "SUBSCRIBE", "params": STREAMS, "id": 1})


class World:
    def __init__(self, faults=None, seed=1, **options):
        self.loop = VirtualLoop(limit=3600 * SECOND)
        self.clock = VirtualClock(self.loop, START)
        self.emulator = make_emulator(cmd_binance.SPOT, Options(seed=seed, rate=20.0), START)
        self.seen = []
        self.sent = []
        self.net = SimNet(
            self.loop, self.clock, {"sim": self.emulator}, random.Random(seed), sent=self.sent.append, **options
        )
        self.net.spy("ws://sim/stream", self.seen.append, [SUBSCRIBE])
        self.faults = faults or NetFaults()

    def record(self, seconds):
        """Frames that one client gets in so many seconds, and how it ended."""

        async def main():
            socket = await self.net.connect("ws://sim/stream")
            await socket.send(SUBSCRIBE)
            frames = [await socket.receive()]
            assert json.loads(frames[0])["result"] is None
            self.net.faults = self.faults
            self.loop.call_later(seconds, lambda: self.loop.create_task(socket.close()))
            try:
                while True:
                    frames.append(await socket.receive())
            except DisconnectedError:
                return frames[1:], socket.close_code

        return self.loop.run(main())


def test_without_faults_everything_arrives_once_and_in_order():
    world = World()
    frames, code = world.record(20)
    assert code == 1000
    assert len(frames) > 100
    truth = [f for f in world.seen if "result" not in json.loads(f)]
    assert truth[: len(frames)] == frames
    assert not world.net.counts


def test_the_same_seed_does_the_same():
    faults = NetFaults(drop=0.1, duplicate=0.1, reorder=0.1, split=0.1, malformed=0.1, stall=0.02)
    assert World(faults, seed=3).record(20) == World(faults, seed=3).record(20)
    assert World(faults, seed=3).record(20) != World(faults, seed=4).record(20)


@pytest.mark.parametrize("kind", ["drop", "duplicate", "reorder", "split", "malformed"])
def test_what_faults_of_frames_do(kind):
    world = World(NetFaults(**{kind: 0.2}))
    frames, code = world.record(30)
    assert code == 1000
    hits = world.net.counts[kind]
    assert hits > 10
    truth = [f for f in world.sent if "result" not in json.loads(f)]
    got, sent = Counter(frames), Counter(truth)
    if kind == "drop":
        assert not got - sent
        assert (sent - got).total() >= hits - 1
    elif kind == "duplicate":
        assert {n for f, n in got.items() if sent[f]} == {1, 2}
    elif kind == "reorder":
        common = [f for f in truth if f in got]
        assert common != frames
        assert not got - sent
    else:
        strange = got - sent
        assert strange
        if kind == "split":
            assert all(any(f in t for t in truth) for f in strange)
        else:
            assert all(f in GARBAGE for f in strange)


def test_a_stall_delays_and_keeps_the_order():
    world = World(NetFaults(stall=0.02))
    frames, _ = world.record(60)
    truth = [f for f in world.seen if "result" not in json.loads(f)]
    assert world.net.counts["stall"]
    assert truth[: len(frames)] == frames


def test_a_reset_ends_the_connection():
    frames, code = World(NetFaults(reset=0.05)).record(60)
    assert code == 1006
    assert len(frames) < 1000


@pytest.mark.parametrize(("seconds", "code"), [(5, 1000), (40, 1006)])
def test_connections_outlive_a_short_partition_only(seconds, code):
    world = World(keepalive=20 * SECOND)
    world.loop.call_later(10, world.net.partition, seconds * SECOND)
    frames, ended = world.record(60)
    assert ended == code
    truth = [f for f in world.seen if "result" not in json.loads(f)]
    assert truth[: len(frames)] == frames  # late, but none is missing in between


def test_nobody_is_reached_in_a_partition():
    world = World()

    async def main():
        world.net.partition(30 * SECOND)
        with pytest.raises(DisconnectedError, match="timed out"):
            await world.net.connect("ws://sim/stream")
        with pytest.raises(DisconnectedError, match="timed out"):
            await world.net.request(HttpRequest("http://sim/api/v3/time"))
        world.net.calm()
        return (await world.net.request(HttpRequest("http://sim/api/v3/time"))).status

    assert world.loop.run(main()) == 200


def test_requests_are_limited_and_banned():
    world = World()

    async def main():
        ask = HttpRequest("http://sim/api/v3/time")
        world.net.faults = NetFaults(rate_limit=1.0)
        limited = await world.net.request(ask)
        world.net.faults = NetFaults()
        world.net.ban(90 * SECOND)
        banned = await world.net.request(ask)
        await world.clock.sleep(91 * SECOND)
        return limited, banned, await world.net.request(ask)

    limited, banned, good = world.loop.run(main())
    assert (limited.status, banned.status, good.status) == (429, 418, 200)
    assert int(limited.header("Retry-After")) >= 1
    assert 88 <= int(banned.header("retry-after")) <= 90
    assert world.net.counts == {"rate_limit": 1, "ban": 1}


def test_requests_fail_in_three_ways():
    world = World()

    async def main():
        world.net.faults = NetFaults(request=1.0)
        found = set()
        whole = None
        for _ in range(60):
            try:
                answer = await world.net.request(HttpRequest("http://sim/api/v3/exchangeInfo"))
            except DisconnectedError:
                found.add("none")
            else:
                found.add(answer.status)
                whole = answer if answer.status == 200 else whole
        return found, whole

    found, whole = world.loop.run(main())
    assert found == {"none", 503, 200}
    with pytest.raises(ValueError, match=r"."):
        json.loads(whole.body)


def test_a_body_can_be_streamed_and_an_unknown_host_is_refused():
    world = World()

    async def main():
        body = b"".join([c async for c in world.net.stream(HttpRequest("http://sim/api/v3/exchangeInfo"))])
        with pytest.raises(VenueError):
            async for _ in world.net.stream(HttpRequest("http://sim/api/v3/nothing")):
                pass
        with pytest.raises(DisconnectedError, match="no such host"):
            await world.net.connect("ws://elsewhere/stream")
        return body

    assert json.loads(world.loop.run(main()))["symbols"]


def test_a_dead_client_hears_nothing_and_the_server_knows():
    world = World()

    async def main():
        socket = await world.net.connect("ws://sim/stream")
        await socket.send(SUBSCRIBE)
        await socket.receive()
        world.net.drop_client()
        with pytest.raises(DisconnectedError):
            await socket.receive()
        with pytest.raises(DisconnectedError):
            await socket.send("{}")
        return socket

    socket = world.loop.run(main())
    assert socket.close_code == 1006
    assert socket.number not in world.emulator.connections
