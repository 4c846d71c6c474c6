"""What goes past the queues is what would have gone through them: the same bytes, in the same order, counted alike."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import wire_ways
from hub_world import T0, quote, trade
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict
from raw_client import LOOPS, Raw, run

from cmd_common.records import Record
from cmd_server import codec, sendbuffer
from cmd_server import server as server_module
from cmd_server.hub import Client, Hub
from cmd_server.limits import Limits
from cmd_server.messages import Login, Policy, Subscribe, Template
from cmd_server.server import Server
from cmd_server.transport import ListenOptions


class Shell:
    """A hub and its clients, of which some take nothing for a while; with ``fan`` or without."""

    def __init__(self, fan: bool, policies: list[Policy]) -> None:
        limits = Limits(queue=20, replay_messages=64)
        self.hub = Hub(epoch=7, now=T0, limits=limits, wake=self.wake, fan=self.fan if fan else None)
        self.out: dict[Client, list[bytes]] = {}
        self.open: dict[Client, bool] = {}
        self.fanned = 0
        for policy in policies:
            client = self.hub.attach("test", T0)
            self.out[client], self.open[client] = [], True
            self.wake(client)  # what greets it
            self.hub.handle(client, Login(), T0)
            self.hub.handle(client, Subscribe(1, ("trades v:A", "quotes v:A"), policy, 20), T0)

    def wake(self, client: Client) -> None:
        if self.open.get(client):
            while frames := client.take(1 << 20):
                self.out[client] += frames

    def fan(self, clients: Iterable[Client], frames: list[bytes], size: int) -> list[Client]:
        assert size == sum(map(len, frames))
        left = []
        for client in clients:
            if self.open[client] and client.takes(len(frames)):
                client.passed(len(frames), size)
                self.out[client] += frames
                self.fanned += 1
            else:
                left.append(client)
        return left

    def switch(self, number: int) -> None:
        client = list(self.open)[number % len(self.open)]
        self.open[client] = not self.open[client]
        self.wake(client)

    def state(self) -> Any:
        return [
            (frames, asdict(client.counters), client.closing, client.pending, client.idle, client.said)
            for client, frames in self.out.items()
        ]


_batches = st.lists(
    st.tuples(st.sampled_from(("trades", "one", "many", "other", "mixed", "switch")), st.integers(0, 60)), max_size=25
)


@given(st.lists(st.sampled_from(Policy), min_size=1, max_size=4), _batches)
def test_past_the_queue_or_through_it_is_the_same(policies: list[Policy], batches: list[tuple[str, int]]) -> None:
    shells = [Shell(fan, policies) for fan in (True, False)]
    n = 0
    for what, count in batches:
        records: list[Record] = [trade(n + i) for i in range(count if what != "many" else count * 3)]
        if what == "one":
            records = [quote(n) if count % 3 else trade(n)]
        elif what == "other":
            records = [trade(n + i, symbol="AB"[i % 7 == 3]) for i in range(count)]
        elif what == "mixed":
            records = [trade(n + i) if i % 9 else quote(n + i) for i in range(count)]
        n += len(records)
        for shell in shells:
            if what == "switch":
                shell.switch(count)
            else:
                shell.hub.publish(records, T0 + n)
            shell.hub.check()
        assert shells[0].state() == shells[1].state()
    assert not shells[1].fanned


def test_a_run_of_one_stream_goes_past_the_queues_of_those_that_keep_up() -> None:
    shell = Shell(True, [Policy.DISCONNECT] * 3)
    shell.hub.publish([trade(0)], T0)  # brings the instrument with it
    shell.switch(1)
    shell.hub.publish([trade(n) for n in range(1, 20)], T0)
    assert shell.fanned == 2
    shell.hub.publish([trade(n) for n in range(20, 40)], T0)
    assert shell.fanned == 4
    trades = [[f for f in frames if codec.head(f).template == Template.TRADE] for frames in shell.out.values()]
    assert [len(frames) for frames in trades] == [40, 1, 40]
    assert [client.closing for client in shell.out] == [False, True, False]


@pytest.mark.parametrize("way", wire_ways.WAYS)
@pytest.mark.parametrize("loop", LOOPS)
def test_batches_arrive_whole_over_sockets(
    loop: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers and one that does not read, in batches that sockets take in pieces; pure and native."""
    found = wire_ways.native_module().send_all if way == "native" else None
    monkeypatch.setattr(sendbuffer, "_send_all", found)
    calls: list[tuple[int, int]] = []

    def write_all(buffers: list[Any], data: bytes) -> Any:
        left = sendbuffer.write_all(buffers, data)
        calls.append((len(buffers), len(left)))
        return left

    monkeypatch.setattr(server_module, "write_all", write_all)
    count, size = 8_000, 50

    async def main() -> None:
        options = ListenOptions(send_buffer=1)
        async with Server(limits=Limits(queue=count, queue_max=count), options=options) as server:
            listeners = await server.listen_all(["tcp:127.0.0.1:0", f"unix:{tmp_path}/s.sock"])
            clients = [await Raw.connect(listener.address) for listener in listeners for _ in range(2)]
            for client in clients:
                await client.login("trades v:A", policy=Policy.DISCONNECT, queue=count)
                await client.messages(Template.ACK, 2)
            for n in range(0, count, size):
                server.publish([trade(n + i) for i in range(size)])
                if not n % 1_000:
                    await asyncio.sleep(0)  # the loop turns, but nobody reads
            for client in clients:
                got = await client.messages(Template.TRADE, count)
                assert [codec.head(f).seq for f in got] == [*range(1, count + 1)]
                client.close()

    run(loop, main())
    assert calls
    assert max(buffers for buffers, _ in calls) == 4
    assert any(left for _, left in calls)
