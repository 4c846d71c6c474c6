"""Hostile and unlucky clients: none of them slows the others, grows memory or stops the server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from raw_client import DEADLINE, Raw, big_book, trade, until

from cmd_server import codec
from cmd_server.formats import ENCODING_TYPE
from cmd_server.limits import Limits
from cmd_server.messages import Bye, Login, Ping, Policy, Subscribe, Template
from cmd_server.server import Server
from cmd_server.transport import Address, ListenOptions

SECOND = 1_000_000_000


class World:
    """A server, a good client that must never miss a message, and who comes to disturb them."""

    def __init__(self, server: Server, address: Address, good: Raw) -> None:
        self.server = server
        self.address = address
        self.good = good
        self.published = 0
        self.mark = 0  # bytes of splitters, most of all times

    def publish(self, count: int = 10) -> None:
        self.server.publish([trade(self.published + n) for n in range(count)])
        self.published += count
        for session in self.server.sessions:
            self.mark = max(self.mark, session.splitter.pending)

    async def stays_well(self) -> None:
        """Everything published so far and now arrives at the good client."""
        self.publish()
        got = await self.good.messages(Template.TRADE, self.published)
        assert [codec.head(f).seq for f in got] == [*range(1, self.published + 1)]
        self.server.hub.check()

    async def alone(self) -> None:
        """The disturber is gone, and nothing of it is left."""
        await until(lambda: len(self.server.sessions) == 1, "the hostile session stays")
        assert len(self.server.hub.clients) == 1
        await self.stays_well()


@contextlib.asynccontextmanager
async def world(**options: Any) -> AsyncIterator[World]:
    async with Server(**options) as server:
        listener = await server.listen("tcp:127.0.0.1:0")
        good = await Raw.connect(listener.address)
        await good.login("trades v:A", policy=Policy.DROP_OLDEST, queue=100_000)
        await good.messages(Template.ACK, 2)
        try:
            yield World(server, listener.address, good)
        finally:
            good.close()


def frame(length: int, kind: int = ENCODING_TYPE, body: bytes = b"") -> bytes:
    return struct.pack(">IH", length, kind) + body


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + b"\1" * 200,
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "wrong encoding type": frame(100, 0xEB51, bytes(94)),
    "too long": frame(2 << 20, body=bytes(100)),
    "longest of all": frame(0xFFFFFFFF, body=bytes(100)),
    "too short": frame(3),
    "shorter than a header": frame(8, body=bytes(2)),
    "no message": frame(14, body=bytes(8)),
    "another schema": frame(14, body=struct.pack("<HHHH", 0, 40, 999, 1)),
    "a message of the server": codec.encode_service(Bye("x", "y")),
    "cut off inside": frame(30, body=codec.encode_request(Login("token", "name"))[6:30]),
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage_instead_of_a_login_is_told_off_and_closed(what: str) -> None:
    async with world() as w:
        bad = await Raw.connect(w.address)
        await bad.send(GARBAGE[what])
        w.publish()
        await bad.read_to_end()
        assert bad.services[-1].code == "protocol"  # type: ignore[union-attr]
        bad.close()
        await w.alone()


@pytest.mark.parametrize("what", ["wrong encoding type", "too long", "too short"])
async def test_what_is_no_frame_ends_a_login_too(what: str) -> None:
    async with world() as w:
        bad = await Raw.connect(w.address)
        await bad.login("trades *")
        await bad.messages(Template.ACK, 2)
        await bad.send(GARBAGE[what])
        await bad.read_to_end()
        assert bad.services[-1].code == "protocol"  # type: ignore[union-attr]
        bad.close()
        await w.alone()


async def test_a_frame_that_is_no_request_is_refused_and_the_client_stays() -> None:
    async with world() as w:
        odd = await Raw.connect(w.address)
        await odd.login("trades *")
        await odd.messages(Template.ACK, 2)
        await odd.send(GARBAGE["another schema"], codec.encode_request(Ping(1)))
        reject = await odd.service(Template.REJECT)
        assert reject.code == "protocol"
        await odd.messages(Template.HEARTBEAT)
        odd.close()
        await w.alone()


async def test_random_bytes_of_many_clients() -> None:
    rng = random.Random(61)
    async with world() as w:
        good = codec.encode_request(Login("", "x")) + codec.encode_request(Subscribe(1, ("trades *",)))
        for round_ in range(60):
            bad = await Raw.connect(w.address)
            data = bytearray(rng.choice([good, good * 3, rng.randbytes(200)]))
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            with contextlib.suppress(ConnectionError):
                await bad.send(bytes(data[: rng.randrange(1, len(data) + 1)]))
            if round_ % 2:
                await asyncio.sleep(0)
            bad.close()
            if not round_ % 10:
                await w.stays_well()
        await w.alone()


async def test_a_slow_loris_keeps_few_bytes_and_is_let_go() -> None:
    """A byte at a time, of a login that never ends, and of a message of the longest length that is allowed."""
    async with world(limits=Limits(login=3 * SECOND)) as w:
        loris, glutton = await Raw.connect(w.address), await Raw.connect(w.address)
        login = codec.encode_request(Login("x" * 100, "y" * 100))

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                for byte in login[:-1] * 1_000:
                    await loris.send(bytes([byte]))
                    await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        with contextlib.suppress(ConnectionError):
            await glutton.send(frame(1 << 20))
            for _ in range(1_000):
                await glutton.send(bytes(1_000))
                w.publish(1)
        await glutton.read_to_end()
        assert "no login" in glutton.services[-1].text  # type: ignore[union-attr]
        await loris.read_to_end()
        assert loris.services[-1].code == "idle"  # type: ignore[union-attr]
        dripping.cancel()
        loris.close()
        glutton.close()
        await w.alone()
        assert w.mark <= (16 << 10) + (64 << 10)


async def test_a_client_that_asks_and_never_reads_the_answers() -> None:
    """Answers are bounded; it is let go although nothing can be sent to it any more."""
    async with world(requests=1_000_000, limits=Limits(answers=50), options=ListenOptions(send_buffer=1)) as w:
        bad = await Raw.connect(w.address, receive_buffer=1)
        await bad.login()
        ask = codec.encode_request(Ping()) * 200
        with contextlib.suppress(ConnectionError):
            for _ in range(300):
                await asyncio.wait_for(bad.send(ask), 0.2)
                if len(w.server.sessions) == 1:
                    break
        session = [s for s in w.server.sessions if s.port.peer != next(iter(w.server.sessions)).port.peer]
        for s in session:
            assert s.client.pending <= 60
            assert s.port.unsent <= (64 << 10) + (256 << 10)
        await w.stays_well()
        bad.close()
        await w.alone()


@pytest.mark.parametrize("policy", Policy)
async def test_a_client_that_stops_reading_is_bounded_and_the_others_miss_nothing(policy: Policy) -> None:
    async with world(options=ListenOptions(send_buffer=1)) as w:
        stopped = await Raw.connect(w.address, receive_buffer=1)
        await stopped.login("trades *", "book *", policy=policy, queue=100)
        await stopped.messages(Template.ACK, 2)
        session = [*w.server.sessions][-1]
        for n in range(60):
            w.server.publish([big_book(n, levels=1_000)])
            w.publish(20)
            assert len(session.client.queue) <= 100
            assert session.port.unsent <= (64 << 10) + (256 << 10) + (1 << 16)
            await asyncio.sleep(0)
        await w.stays_well()
        if policy is Policy.DROP_OLDEST:
            assert session.client.counters.dropped
            await stopped.read_until(lambda raw: any(codec.head(f).seq == w.published for f in raw.of(Template.TRADE)))
            assert stopped.of(Template.STREAM_GAP)
        else:  # trades are not merged: more of them than the bound may wait end a conflating client too
            await stopped.read_to_end()
            assert stopped.services[-1].code == "slow"  # type: ignore[union-attr]
        stopped.close()
        await w.alone()


async def test_a_thousand_connections_as_fast_as_they_come() -> None:
    async with world(limits=Limits(clients=100)) as w:
        host, port, _ = w.address.host_port()
        failed: list[OSError] = []

        def storm() -> None:
            open_: list[socket.socket] = []
            for n in range(1_000):
                try:
                    sock = socket.create_connection((host, port), timeout=DEADLINE)
                    if n % 3 == 0:
                        sock.sendall(b"x" * (n % 50))
                    open_.append(sock)
                except OSError as error:
                    failed.append(error)
                if len(open_) > 200:
                    open_.pop(0).close()
            for sock in open_:
                sock.close()

        storming = threading.Thread(target=storm)
        storming.start()
        while storming.is_alive():
            w.publish()
            await asyncio.sleep(0.005)
            assert len(w.server.hub.clients) <= 101
        storming.join()
        await w.stays_well()
        await w.alone()
        assert w.server.accepted >= 1_001 - len(failed)
        assert not failed
        newcomer = await Raw.connect(w.address)
        await newcomer.login("trades *")
        await newcomer.messages(Template.ACK, 2)
        newcomer.close()


async def test_resets_at_every_moment() -> None:
    async with world() as w:
        for n in range(50):
            bad = await Raw.connect(w.address)
            bad.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if n % 3:
                await bad.login("trades *")
            if n % 3 == 2:
                await bad.messages(Template.ACK, 2)
                w.publish()
            bad.close()
            w.publish()
        await w.alone()


async def test_memory_is_flat_while_hostile_clients_come_and_go() -> None:
    async with world(limits=Limits(replay_messages=16)) as w:

        async def hostile(n: int) -> None:
            bad = await Raw.connect(w.address)
            with contextlib.suppress(ConnectionError):
                if n % 4 == 0:
                    await bad.send([*GARBAGE.values()][n % len(GARBAGE)])
                elif n % 4 == 1:
                    await bad.send(frame(1 << 20), bytes(20_000))
                else:
                    await bad.login(f"trades v:X{n}*", f"book *:Y{n}", policy=Policy(n % 3))
                    await bad.messages(Template.ACK, 2)
                    await bad.send(frame(1 << 20), bytes(20_000) if n % 4 == 2 else b"")
            bad.close()

        async def round_() -> int:
            for n in range(150):
                await hostile(n)
            await w.alone()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            used = [await round_() for _ in range(4)]
        finally:
            tracemalloc.stop()
        assert used[3] - used[1] < 300_000, used  # of 9 MB that they have sent since


_CHILD = """
    import asyncio, json, resource, sys
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    from cmd_common.records import Trade
    from cmd_server.server import Server

    async def main():
        async with Server() as server:
            listener = await server.listen(f"unix:{sys.argv[1]}")
            print("ready", flush=True)
            loop = asyncio.get_running_loop()
            lines = asyncio.StreamReader()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
            n = 0
            while await lines.readline():
                n += 1
                server.publish([Trade(n, n, "v", "A", str(n), n, 1.0, 1.0, "buy")])
                print(json.dumps({"sessions": len(server.sessions), "exhausted": listener.exhausted}), flush=True)

    asyncio.run(main())
"""


async def test_without_descriptors_accept_rests_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(_CHILD), str(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert await asyncio.wait_for(child.stdout.readline(), DEADLINE) == b"ready\n"
        address = Address.parse(f"unix:{path}")

        async def step() -> dict[str, int]:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(b"\n")
            return json.loads(await asyncio.wait_for(child.stdout.readline(), DEADLINE))  # type: ignore[no-any-return]

        first = await Raw.connect(address)
        await first.login("trades *", policy=Policy.DISCONNECT)
        await first.messages(Template.ACK, 2)
        crowd = [await Raw.connect(address) for _ in range(60)]  # the backlog takes whom accept does not
        steps = 0
        said = {"exhausted": 0}
        while not said["exhausted"]:
            said = await step()
            steps += 1
        assert said["sessions"] < 40
        for _ in range(5):
            said = await step()
            steps += 1
        assert len(await first.messages(Template.TRADE, steps)) == steps  # who is connected notices nothing
        for raw in crowd[:50]:
            raw.close()
        last = crowd[-1]
        await last.login()
        assert await last.messages(Template.ACK)  # its turn has come
        for raw in (first, *crowd):
            raw.close()
    finally:
        child.stdin.close()
        await asyncio.wait_for(child.wait(), DEADLINE)
    assert child.returncode == 0
