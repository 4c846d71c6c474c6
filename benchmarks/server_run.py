"""One measurement of benchmarks/server.py in a process of its own; prints one JSON line.

    server_run.py fanout KIND TRANSPORT CLIENTS MESSAGES PAIR     CPU seconds of the publisher
    server_run.py latency KIND TRANSPORT MESSAGES PAIR [PLACE]    p50 and p99 in us; PLACE: free, pinned
    server_run.py receive KIND TRANSPORT MESSAGES                 CPU seconds of the client
    server_run.py codec WAY COUNT                                 ns by what was done
    server_run.py stop KIND TRANSPORT STOPPED MESSAGES            p50 in us of nine clients beside a tenth
    server_run.py rate KIND DELIVERIES_PER_SECOND SECONDS         whether 100 clients had everything in time
    server_run.py sink | client | feeder | producer ...           the processes on the other side

A KIND or WAY that ends in _pure is ours without cmd-native. The other side's processes say a line when they are ready and one when they are done, and are waited for.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

BURST = 50
PATIENCE = 60.0  # seconds without anything new, after which a run has failed


def other(*arguments: object, stdin: Any = None, stdout: Any = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """Start a process of the other side."""
    command = [sys.executable, str(Path(__file__).resolve()), *map(str, arguments)]
    # Without a buffer: of two lines that come at once the second would be in it, where no select sees it.
    return subprocess.Popen(command, stdout=stdout, stdin=stdin, bufsize=0)


def say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def has(pipe: IO[bytes]) -> bool:
    return bool(select.select([pipe], [], [], 0)[0])


async def line(pipe: IO[bytes], seconds: float = PATIENCE) -> str:
    """The next line of a process, while the loop goes on."""
    until = time.monotonic() + seconds
    while not has(pipe):
        if time.monotonic() > until:
            raise SystemExit("the other side says nothing")
        await asyncio.sleep(0.01)
    text = pipe.readline().decode().strip()
    if not text:
        raise SystemExit("the other side has ended")
    return text


async def known(publisher: Any, clients: int) -> None:
    """Wait until the publisher knows every client."""
    until = time.monotonic() + PATIENCE
    while publisher.clients() < clients:
        if time.monotonic() > until:
            raise SystemExit(f"{publisher.clients()} of {clients} clients came")
        await asyncio.sleep(0.005)


# -- fanout


async def _fanout(kind: str, transport: str, clients: int, messages: int) -> dict[str, Any]:
    from server_peers import PUBLISHERS
    from server_work import frames, fresh, trades

    records = trades(messages)
    made = frames(records)
    batches = [(records[n : n + BURST], made[n : n + BURST]) for n in range(0, messages, BURST)]
    pause = min(BURST * clients / 120_000, 0.02)
    with tempfile.TemporaryDirectory() as folder:
        address = fresh(transport, folder)
        publisher = PUBLISHERS[kind]()
        await publisher.open(address)
        sink = other("sink", kind, address, clients, messages, 0)
        assert sink.stdout is not None
        try:
            await line(sink.stdout)
            await known(publisher, clients)
            await asyncio.sleep(0.05)
            start = time.process_time()
            begin = time.monotonic()
            for number, (part, ready) in enumerate(batches, 1):
                publisher.send(part, ready)
                await publisher.drain()
                await asyncio.sleep(max(0.0, begin + number * pause - time.monotonic()))
            await line(sink.stdout)  # the last client has the last message
            used = time.process_time() - start
            said = await line(sink.stdout)
            await publisher.close()
        finally:
            sink.kill()
            sink.wait()
    if said != "complete":
        raise SystemExit(said)
    return {"cpu": used}


def sink(kind: str, addresses: str, clients: str, messages: str, speed: str) -> None:
    """Count and keep; with ``speed`` only count, and say how many were complete."""
    from server_peers import sinks
    from server_work import frames, trades

    count, wanted, rated = int(clients), int(messages), speed != "0"
    found, pump = sinks(
        kind, addresses.split(","), count, keep=not rated, high_water=1000 if rated else 0, said=lambda: say("ready")
    )
    last, seen = time.monotonic(), -1
    while True:
        going = pump(0.5)
        total = sum(one.seen for one in found)
        if total != seen:
            last, seen = time.monotonic(), total
        if total >= count * wanted or not going or time.monotonic() - last > (4 if rated else PATIENCE):
            break
    if rated:
        say(json.dumps({"complete": sum(one.seen == wanted and not one.bad for one in found)}))
    else:
        say("counted")
        expected = frames(trades(wanted))
        try:
            for one in found:
                one.verify(expected)
        except SystemExit as error:
            say(str(error).replace("\n", " "))
            return
        say("complete")
    time.sleep(60)  # connections stay open until the publisher's clock has stopped


def fanout(kind: str, transport: str, clients: str, messages: str, pair: str) -> dict[str, Any]:
    from server_peers import run_on

    if kind == "rust":
        return _rust_fanout(transport, int(clients), int(messages), pair)
    return dict(run_on(kind, _fanout(kind, transport, int(clients), int(messages))))


def _rust_fanout(transport: str, clients: int, messages: int, pair: str) -> dict[str, Any]:
    """The Rust program sends numbered frames of 104 bytes from a file; the sinks are the same as for all."""
    from server_work import frames, fresh, trades

    with tempfile.TemporaryDirectory() as folder:
        address = fresh(transport, folder)
        data = Path(folder) / "frames"
        data.write_bytes(b"".join(frames(trades(messages))))
        pause = min(BURST * clients / 120_000, 0.02)
        command = [pair, "fanout", address, str(clients), str(data), str(BURST), str(round(pause * 1e9))]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdout.readline()  # listening
            reader = other("sink", "streams", address, clients, messages, 0)
            assert reader.stdout is not None
            try:
                reader.stdout.readline()
                reader.stdout.readline()
                said = reader.stdout.readline().decode().strip()
                server.stdin.close()
                cpu = float(server.stdout.readline())
            finally:
                reader.kill()
                reader.wait()
        finally:
            server.kill()
            server.wait()
    if said != "complete":
        raise SystemExit(said)
    return {"cpu": cpu}


# -- latency


class Ticks:
    """A process that says one byte every 500 us: what arrives from an exchange, for every competitor alike."""

    def __init__(self, count: int) -> None:
        self.process = other("feeder", count, stdin=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.pipe = self.process.stdout
        os.set_blocking(self.pipe.fileno(), False)

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def feeder(count: str) -> None:
    sys.stdin.readline()
    start = time.monotonic_ns()
    for number in range(int(count)):
        wait = start + number * 500_000 - time.monotonic_ns()
        if wait > 0:
            time.sleep(wait / 1e9)
        os.write(1, b".")
    time.sleep(60)


def stamped(records: list[Any], made: list[bytes], number: int, now: int) -> tuple[list[Any], list[bytes]]:
    """One record and its frame as of now; a frame is stamped by copying, which is cheaper than encoding."""
    import msgspec

    frame = made[number]
    return [msgspec.structs.replace(records[number], ts_recv=now)], [
        frame[:30] + now.to_bytes(8, "little") + frame[38:]
    ]


async def _publish_ticks(publisher: Any, messages: int, ticks: Ticks) -> None:
    """Publish a message at each tick."""
    from server_work import frames, trades

    records = trades(messages)
    made = frames(records)
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    sent = 0

    def tick() -> None:
        nonlocal sent
        for _ in os.read(ticks.pipe.fileno(), 64):
            publisher.send(*stamped(records, made, sent, time.time_ns()))
            sent += 1
        if sent == messages and not done.done():
            done.set_result(None)

    loop.add_reader(ticks.pipe.fileno(), tick)
    ticks.go()
    await done
    loop.remove_reader(ticks.pipe.fileno())


def _pin(core: int) -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})


async def _latency(kind: str, transport: str, messages: int, place: str) -> dict[str, Any]:
    from server_peers import PUBLISHERS
    from server_work import fresh

    with tempfile.TemporaryDirectory() as folder:
        address = fresh(transport, folder)
        publisher = PUBLISHERS["ours" if kind == "ours_raw" else kind]()
        await publisher.open(address)
        ticks = Ticks(messages)
        client = other("client", kind, address, messages, place)
        assert client.stdout is not None
        try:
            await line(client.stdout)
            await known(publisher, 1)
            if place == "pinned":  # what says the ticks stays with the publisher, as what an exchange sends would
                _pin(0)
                os.sched_setaffinity(ticks.process.pid, os.sched_getaffinity(0))
            await asyncio.sleep(0.2)
            await _publish_ticks(publisher, messages, ticks)
            out = json.loads(await line(client.stdout))
            await publisher.close()
        finally:
            ticks.close()
            client.kill()
            client.wait()
    return dict(out)


def percentiles(found: list[int]) -> dict[str, Any]:
    """p50 and p99 in us, without the first tenth, in which everything is still cold."""
    kept = sorted(found[len(found) // 10 :])
    return {"p50": kept[len(kept) // 2] / 1000, "p99": kept[len(kept) * 99 // 100] / 1000, "count": len(found)}


def client(kind: str, address: str, messages: str, place: str) -> None:
    from server_peers import latency_client

    if place == "pinned":
        _pin(-1)
    found = latency_client(kind, address, int(messages), lambda: say("ready"))
    assert len(found) == int(messages)
    say(json.dumps(percentiles(found)))
    time.sleep(60)


def latency(kind: str, transport: str, messages: str, pair: str, place: str = "free") -> dict[str, Any]:
    from server_peers import run_on

    if kind == "rust":
        return _rust_latency(transport, int(messages), pair)
    return dict(run_on(kind, _latency(kind, transport, int(messages), place)))


def _rust_latency(transport: str, messages: int, pair: str) -> dict[str, Any]:
    from server_work import fresh

    with tempfile.TemporaryDirectory() as folder:
        address = fresh(transport, folder)
        ticks = other("feeder", messages, stdin=subprocess.PIPE)
        assert ticks.stdin is not None
        server = subprocess.Popen([pair, "ticks", address], stdin=ticks.stdout, stdout=subprocess.PIPE)
        assert server.stdout is not None
        try:
            server.stdout.readline()
            reader = subprocess.Popen([pair, "client", address, str(messages)], stdout=subprocess.PIPE)
            server.stdout.readline()  # the client is there
            time.sleep(0.2)
            ticks.stdin.write(b"\n")
            ticks.stdin.flush()
            out, _ = reader.communicate(timeout=PATIENCE)
        finally:
            for process in (server, ticks):
                process.kill()
                process.wait()
    found = [int(n) for n in out.split()]
    if len(found) != messages:
        raise SystemExit(f"the Rust client has {len(found)} messages instead of {messages}")
    return percentiles(found)


# -- one client stopped


async def _stop(kind: str, transport: str, stopped: int, messages: int) -> dict[str, Any]:
    """Nine clients measured in one process, the tenth in its own; it is stopped before the first message.

    So that the stopped client's socket is full, 6 MB go before the clock starts. Ours keeps 2,000 messages for it and
    drops the oldest; the peers keep everything, for asyncio streams that drain would wait for it for ever.
    """
    from server_peers import PUBLISHERS
    from server_work import frames, fresh, trades

    with tempfile.TemporaryDirectory() as folder:
        address = fresh(transport, folder)
        publisher = PUBLISHERS[kind]()
        await publisher.open(address)
        ticks = Ticks(messages)
        warm = trades(60_000)
        made = frames(warm)
        nine = other("nine", kind, address, len(warm), messages)
        tenth = other("tenth", kind, address)
        assert nine.stdout is not None
        assert tenth.stdout is not None
        try:
            await line(nine.stdout)
            await line(tenth.stdout)
            await known(publisher, 10)
            if stopped:
                os.kill(tenth.pid, signal.SIGSTOP)
            for n in range(0, len(warm), BURST):  # more than any socket's buffers
                publisher.send(warm[n : n + BURST], made[n : n + BURST])
                await asyncio.sleep(0.001)
            await line(nine.stdout)  # they have all of it
            await _publish_ticks(publisher, messages, ticks)
            out = json.loads(await line(nine.stdout))
        finally:
            ticks.close()
            for process in (nine, tenth):
                if stopped:
                    process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
    return dict(out)


def nine(kind: str, address: str, warm: str, messages: str) -> None:
    """Nine clients; their latencies together, once each has had ``warm`` messages."""
    from server_peers import sinks
    from server_work import STAMP

    found, pump = sinks(kind, [address], 9, keep=True, high_water=0, said=lambda: say("ready"))
    while any(one.seen < int(warm) for one in found):
        pump(0.5)
    for one in found:
        one.data.clear()
    say("warm")
    taken: list[int] = []
    while len(taken) < 9 * int(messages):
        pump(0.5)
        now = time.time_ns()
        for one in found:
            if one.data:
                taken += [now - STAMP(frame, 30)[0] for frame in one.data]
                one.data.clear()
    wrong = [one.bad for one in found if one.bad]
    if wrong:
        raise SystemExit(wrong[0])
    say(json.dumps(percentiles(taken)))
    time.sleep(60)


def tenth(kind: str, address: str) -> None:
    from server_peers import sinks
    from server_work import login

    from cmd_server.messages import Policy

    ask = login(Policy.DROP_OLDEST, 2_000)
    _, pump = sinks(kind, [address], 1, keep=False, high_water=1000, said=lambda: say("ready"), ask=ask)
    while pump(0.5):
        pass
    time.sleep(60)


def stop(kind: str, transport: str, stopped: str, messages: str) -> dict[str, Any]:
    from server_peers import run_on

    return dict(run_on(kind, _stop(kind, transport, int(stopped), int(messages))))


# -- the highest rate


async def _rate(kind: str, per_second: int, seconds: int) -> dict[str, Any]:
    """100 clients, half over TCP, half over Unix socket, every side with its own default bounds; 10 ms a burst."""
    from server_peers import PUBLISHERS, Ours, Zmq
    from server_work import frames, fresh, trades

    clients = 100
    bursts = seconds * 100
    size = max(1, per_second // clients // 100)
    records = trades(bursts * size)
    made = frames(records)
    with tempfile.TemporaryDirectory() as folder:
        addresses = f"{fresh('tcp', folder)},{fresh('unix', folder)}"
        publisher = Ours() if kind == "ours" else Zmq(1000) if kind == "zmq" else PUBLISHERS[kind]()
        await publisher.open(addresses)
        reader = other("sink", kind, addresses, clients, len(records), 1)
        assert reader.stdout is not None
        try:
            await line(reader.stdout)
            await known(publisher, clients)
            await asyncio.sleep(0.1)
            begin = time.monotonic()
            for number in range(bursts):
                part = slice(number * size, (number + 1) * size)
                publisher.send(records[part], made[part])
                await publisher.drain()
                await asyncio.sleep(max(0.0, begin + (number + 1) / 100 - time.monotonic()))
            late = time.monotonic() - begin - seconds
            out = json.loads(await line(reader.stdout))
            behind = time.monotonic() - begin - seconds
            await publisher.close()
        finally:
            reader.kill()
            reader.wait()
    held = out["complete"] == clients and late < 0.05 * seconds and behind < 0.25 * seconds
    return {"held": held, "complete": out["complete"], "late": late, "behind": behind}


def rate(kind: str, per_second: str, seconds: str) -> dict[str, Any]:
    from server_peers import run_on

    return dict(run_on(kind, _rate(kind, int(per_second), int(seconds))))


def receive(kind: str, transport: str, messages: str) -> dict[str, Any]:
    from server_receive import receive as run

    return run(kind, transport, int(messages))


def producer(kind: str, address: str, messages: str) -> None:
    from server_receive import producer as run

    run(kind, address, int(messages))


def codec(way: str, count: str) -> dict[str, Any]:
    from server_codec import codec as run

    return run(way, int(count))


WAYS = {
    each.__name__: each
    for each in (fanout, latency, receive, codec, stop, rate, sink, client, feeder, producer, nine, tenth)
}

if __name__ == "__main__":
    if any(argument.endswith("_pure") for argument in sys.argv[2:]):
        os.environ["CMD_PURE"] = "1"  # nothing of ours is imported yet
    result = WAYS[sys.argv[1]](*sys.argv[2:])  # type: ignore[operator]
    if result is not None:
        say(json.dumps(result))
