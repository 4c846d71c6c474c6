"""F3: the CPU of a client that reads and splits messages which wait for it; the producer is another process.

All bytes stay in one large buffer (or list) and are compared with what was sent once the clock has stopped.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import tempfile
import time
from typing import Any

from server_work import FRAME, LENGTH, READ, TOPIC, frames, fresh, plug, trades

BASE = 10_000  # distinct messages; what is sent repeats them with their own sequences


def expected(messages: int) -> bytes:
    """The whole stream: the base messages over and over, numbered on."""
    base = frames(trades(BASE))
    put = struct.Struct("<Q").pack
    return b"".join(
        frame[:14] + put(round_ * BASE + n + 1) + frame[22:]
        for round_ in range(-(-messages // BASE))
        for n, frame in enumerate(base)
    )[: messages * FRAME]


def producer(kind: str, address: str, messages: int) -> None:
    """Send it all as fast as the client reads."""
    if kind.startswith("library"):
        asyncio.run(_serve(address, messages))
        return
    data = expected(messages)
    if kind == "zmq":
        import zmq
        from server_peers import zmq_address

        context = zmq.Context()
        sock = context.socket(zmq.XPUB)
        sock.setsockopt(zmq.SNDHWM, 0)
        sock.bind(zmq_address(address))
        print("ready", flush=True)
        sock.recv()
        for n in range(messages):
            sock.send(data[n * FRAME : (n + 1) * FRAME])
        time.sleep(60)
        return
    scheme, _, target = address.partition(":")
    if scheme == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(target)
        listener.listen()
    else:
        host, _, port = target.rpartition(":")
        listener = socket.create_server((host, int(port)))
    print("ready", flush=True)
    peer, _ = listener.accept()
    peer.sendall(data)
    time.sleep(60)


async def _serve(address: str, messages: int) -> None:
    from server_peers import Ours, line_from_stdin

    publisher = Ours(1_000_000)
    await publisher.open(address)
    print("ready", flush=True)
    await line_from_stdin()
    records = trades(messages)
    for n in range(0, messages, 100):
        publisher.send(records[n : n + 100], [])
        if n % 1_000 == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(60)


def _split(address: str, messages: int) -> tuple[float, bytes]:
    from cmd_server.framing import split

    sock = plug(address)
    total = messages * FRAME
    buffer = memoryview(bytearray(b"\1") * (total + READ))
    end = start = count = 0
    began = time.process_time()
    while end < total:
        end += sock.recv_into(buffer[end : end + READ])
        found, start = split(buffer, end, 1 << 20, start)
        count += len(found)
    used = time.process_time() - began
    if count != messages:
        raise SystemExit(f"{count} frames instead of {messages}")
    return used, bytes(buffer[:total])


def _buffered(address: str, messages: int) -> tuple[float, bytes]:
    import uvloop

    total = messages * FRAME
    buffer = memoryview(bytearray(b"\1") * (total + READ))

    class Reader(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.end = self.at = self.count = 0
            self.done = asyncio.get_running_loop().create_future()

        def get_buffer(self, sizehint: int) -> memoryview:
            return buffer[self.end : self.end + READ]

        def buffer_updated(self, size: int) -> None:
            self.end += size
            at, end, found = self.at, self.end, []
            while end - at >= 6:
                stop = at + LENGTH(buffer, at)[0]
                if stop > end:
                    break
                found.append((at, stop))
                at = stop
            self.at = at
            self.count += len(found)
            if end >= total and not self.done.done():
                self.done.set_result(None)

    async def run() -> float:
        loop = asyncio.get_running_loop()
        reader = Reader()
        began = time.process_time()
        scheme, _, target = address.partition(":")
        if scheme == "unix":
            await loop.create_unix_connection(lambda: reader, target)
        else:
            host, _, port = target.rpartition(":")
            await loop.create_connection(lambda: reader, host, int(port))
        await reader.done
        used = time.process_time() - began
        if reader.count != messages:
            raise SystemExit(f"{reader.count} frames instead of {messages}")
        return used

    return uvloop.run(run()), bytes(buffer[:total])


def _streams(address: str, messages: int) -> tuple[float, bytes]:
    async def run() -> tuple[float, bytes]:
        scheme, _, target = address.partition(":")
        if scheme == "unix":
            reader, writer = await asyncio.open_unix_connection(target)
        else:
            host, _, port = target.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        found = []
        began = time.process_time()
        for _ in range(messages):
            head = await reader.readexactly(6)
            found.append(head + await reader.readexactly(LENGTH(head)[0] - 6))
        used = time.process_time() - began
        writer.close()
        return used, b"".join(found)

    return asyncio.run(run())


def _zmq(address: str, messages: int) -> tuple[float, bytes]:
    import zmq
    from server_peers import zmq_address

    context = zmq.Context()
    sock = context.socket(zmq.SUB)
    sock.setsockopt(zmq.RCVHWM, 0)
    sock.setsockopt(zmq.SUBSCRIBE, b"")
    sock.connect(zmq_address(address))
    began = time.process_time()  # its own thread included
    found = [sock.recv() for _ in range(messages)]
    return time.process_time() - began, b"".join(found)


def _library(address: str, messages: int, go: Any) -> tuple[float, bytes]:
    from cmd_common.records import Trade
    from cmd_server.client import connect

    found: list[Trade] = []
    with connect(address, topics=[TOPIC], policy="disconnect", queue=1_000_000) as client:
        go()
        began = time.process_time()
        for record in client:
            if type(record) is Trade:
                found.append(record)
                if len(found) == messages:
                    break
        used = time.process_time() - began
    if found != trades(messages):
        raise SystemExit("the client library gave other records")
    return used, b""


def receive(kind: str, transport: str, messages: int) -> dict[str, Any]:
    from server_run import other

    with tempfile.TemporaryDirectory() as folder:
        address = fresh(transport, folder)
        peer = other("producer", kind, address, messages, stdin=-1)
        assert peer.stdout is not None
        assert peer.stdin is not None
        stdin = peer.stdin
        try:
            peer.stdout.readline()
            if kind.startswith("library"):
                used, data = _library(address, messages, lambda: os.write(stdin.fileno(), b"\n"))
            else:
                used, data = WAYS[kind](address, messages)
                if data != expected(messages):
                    raise SystemExit(f"{kind}: other bytes came than were sent")
        finally:
            peer.kill()
            peer.wait()
    return {"cpu": used}


WAYS = {"split": _split, "split_pure": _split, "buffered": _buffered, "streams": _streams, "zmq": _zmq}
