"""Aeron's Java media driver works in place of ours: server and clients, in Python and in Java, over it and across."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest
from aeron_raw import folder, present
from java_parts import TOKEN, TOPICS, S, Tap, build, client, ended, java_driver, market, needed, run
from raw_client import DEADLINE, until

from cmd_common.records import Record
from cmd_server.client import connect
from cmd_server.limits import Limits
from cmd_server.server import Server

COUNT = 6_000
LEVELS = 3_000  # a side: frames longer than the longest message of Aeron


@pytest.fixture(scope="module")
def jar() -> Path:
    needed()
    return build()


class Running(NamedTuple):
    directory: Path
    pid: int


@pytest.fixture(scope="module")
def running(jar: Path) -> Iterator[Running]:
    """A Java driver."""
    present()
    with folder() as place, java_driver(jar, place / "java") as process:
        yield Running(place / "java", process.pid)


@pytest.fixture
def driver(running: Running) -> Path:
    """Its directory."""
    return running.directory


def server() -> Server:
    return Server(token=TOKEN, limits=Limits(idle=600 * S, login=200 * S))


def read(address: str, count: int) -> list[Record]:
    """What a client in Python gets, every message of it."""
    with connect(address, topics=TOPICS, token=TOKEN, policy="disconnect", queue=100_000, attempts=1) as reader:
        return list(islice(reader, count))


async def test_python_and_java_read_over_the_java_driver(jar: Path, driver: Path) -> None:
    records = market(COUNT, LEVELS)
    async with server() as served:
        at = f"aeron:ipc?driver=external&dir={driver}&term-length=64k&mtu=4k&window=16k"
        _, control, _ = await served.listen_all([at, "tcp:127.0.0.1:0"])  # and the Unix socket beside the driver
        tap = Tap(served, COUNT)
        clients = asyncio.gather(
            asyncio.to_thread(read, f"aeron:ipc?dir={driver}", COUNT),
            run(*client(jar, f"aeron:ipc?dir={driver}&control={control.address}", COUNT)),
        )
        from_python, from_java = await tap.publish(records, clients, 2)
    assert from_java == tap.result
    assert list(map(repr, from_python)) == list(map(repr, tap.decoded))
    assert Counter(map(repr, from_python)) == Counter(map(repr, records))


async def test_over_udp_from_the_java_driver_to_ours_and_back(jar: Path, driver: Path) -> None:
    records = market(COUNT, LEVELS)
    with folder() as place:
        async with server() as over_java, server() as over_ours:
            both = "control=tcp:127.0.0.1:0&term-length=64k"
            _, one = await over_java.listen_all([f"aeron:udp?driver=external&dir={driver}&{both}"])
            _, two = await over_ours.listen_all([f"aeron:udp?driver=embedded&dir={place / 'server'}&{both}"])
            taps = Tap(over_java, COUNT), Tap(over_ours, COUNT)
            ours = f"aeron:udp?driver=embedded&dir={place / 'client'}&control={one.address}"
            theirs = f"aeron:udp?dir={driver}&control={two.address}"
            from_python, from_java = await asyncio.gather(
                taps[0].publish(records, asyncio.gather(asyncio.to_thread(read, ours, COUNT)), 1),
                taps[1].publish(records, asyncio.gather(run(*client(jar, theirs, COUNT))), 1),
            )
    assert from_java == [taps[1].result]
    assert list(map(repr, from_python[0])) == list(map(repr, taps[0].decoded))
    assert Counter(map(repr, from_python[0])) == Counter(map(repr, records))


def test_the_package_knows_a_java_driver(running: Running) -> None:
    import cmd_aeron

    driver = running.directory
    status = cmd_aeron.driver_status(str(driver))
    assert status.running
    assert status.pid == running.pid
    before = sorted(driver.iterdir())
    with pytest.raises(cmd_aeron.DirectoryInUseError):
        cmd_aeron.MediaDriver(str(driver))
    assert sorted(driver.iterdir()) == before  # nothing was wiped
    assert cmd_aeron.driver_status(str(driver)).running


def test_messages_of_any_length_go_through_the_java_driver(driver: Path) -> None:
    import cmd_aeron

    lengths = [0, 1, 31, 32, 1_376, 1_377, 4_000, 8_192]
    client = cmd_aeron.Client(str(driver))
    try:
        subscription = client.add_subscription("aeron:ipc", 77)
        publication = client.add_exclusive_publication("aeron:ipc?term-length=64k", 77)
        assert publication.max_message_length == 8_192
        sent = [bytes([n % 251]) * lengths[n % len(lengths)] for n in range(500)]
        found: list[bytes] = []
        begun, end = 0, time.monotonic() + DEADLINE
        while len(found) < len(sent):
            assert time.monotonic() < end, (begun, len(found))
            accepted, _ = publication.offer_many(sent, begun)  # none before the subscriber is known
            begun += accepted
            found += subscription.poll_wait(1_000_000)
        assert found == sent
    finally:
        client.close()


async def test_a_java_driver_that_is_killed_and_comes_again(jar: Path) -> None:
    present()
    records = market(COUNT)
    with folder() as place:
        directory = place / "java"
        async with server() as served:
            with java_driver(jar, directory) as process:
                listener, _ = await served.listen_all([f"aeron:ipc?driver=external&dir={directory}&term-length=64k"])
                tap = Tap(served, COUNT)
                address = f"aeron:ipc?dir={directory}"
                reading = asyncio.gather(ended(*client(jar, address, COUNT)))
                await until(lambda: reading.done() or tap.subscribed == 1)
                process.kill()
                ((code, out, err),) = await reading
            assert (code, out) == (1, "")
            assert err.splitlines()[-1].startswith("error: ")
            assert all(line.startswith(("subscribed; ", "error: ")) for line in err.splitlines())
            shutil.rmtree(directory)  # what a killed one leaves keeps another from starting for 10 s
            with java_driver(jar, directory):
                await until(lambda: listener.rebuilt)  # the server finds it by itself; until then it is "unavailable"
                clients = asyncio.gather(asyncio.to_thread(read, address, COUNT), run(*client(jar, address, COUNT)))
                from_python, from_java = await tap.publish(records, clients, 2)
    assert from_java == tap.result
    assert list(map(repr, from_python)) == list(map(repr, tap.decoded))
