"""The Java client reads over Aeron, from the media driver inside the real server, what clients of sockets read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aeron_raw import folder, present
from java_parts import TOKEN, S, Tap, build, client, ended, market, needed, run
from raw_client import until

from cmd_server.limits import Limits
from cmd_server.server import Server

COUNT = 20_000
LEVELS = 3_000  # a side: frames of 96 kB, where the longest message of Aeron has 8


@pytest.fixture(scope="module", autouse=True)
def _parts() -> None:
    present()
    needed()


def server() -> Server:
    return Server(token=TOKEN, limits=Limits(idle=600 * S, login=200 * S))


async def test_java_reads_over_shared_memory() -> None:
    jar = await asyncio.to_thread(build)
    with folder() as place:
        directory = place / "driver"
        async with server() as served:
            at = f"aeron:ipc?dir={directory}&term-length=64k"
            _, control, _ = await served.listen_all([at, "tcp:127.0.0.1:0"])  # and the Unix socket beside the driver
            tap = Tap(served, COUNT)
            clients = asyncio.gather(
                run(*client(jar, f"aeron:ipc?dir={directory}", COUNT)),  # control: the Unix socket beside it
                run(*client(jar, f"aeron:ipc?dir={directory}&control={control.address}", COUNT)),
                run(*client(jar, str(control.address), COUNT)),
            )
            found = await tap.publish(market(COUNT + 1_000, LEVELS), clients, 3)
    assert found == [tap.result] * 3
    assert found[0]["messages"] == COUNT
    assert set(found[0]["templates"]) == {"1", "2", "3", "4", "5", "6", "7"}


async def test_java_reads_over_udp() -> None:
    jar = await asyncio.to_thread(build)
    with folder() as place:
        directory = place / "driver"
        async with server() as served:
            at = f"aeron:udp?dir={directory}&control=tcp:127.0.0.1:0&term-length=64k"
            _, control = await served.listen_all([at])
            tap = Tap(served, COUNT)
            address = f"aeron:udp?dir={directory}&control={control.address}"
            clients = asyncio.gather(run(*client(jar, address, COUNT)))
            found = await tap.publish(market(COUNT + 1_000, LEVELS), clients, 1)
    assert found == [tap.result]


async def said(jar: Path, address: str, token: str = TOKEN) -> str:
    """What a client that cannot go on says, which is one line."""
    code, out, err = await ended(*client(jar, address, 1), token=token)
    assert (code, out, err.count("\n")) == (1, "", 1), err
    return err


async def test_what_goes_wrong_is_one_line() -> None:
    jar = await asyncio.to_thread(build)
    with folder() as place:
        directory = place / "driver"
        async with server() as served:
            (only,) = await served.listen_all(["tcp:127.0.0.1:0"])
            missing = await said(jar, f"aeron:ipc?dir={place / 'none'}&control={only.address}")
            assert missing == f"error: no media driver runs in {place / 'none'}\n"
            await served.listen_all([f"aeron:ipc?dir={directory}"])
            way = f"dir={directory}&control={only.address}"
            assert (await said(jar, f"aeron:ipc?{way}", "wrong")).startswith("error: refused (token): ")
            # This server offers shared memory, not UDP.
            assert (await said(jar, f"aeron:udp?{way}")).startswith("error: refused (")


async def test_the_end_of_the_server_is_told() -> None:
    jar = await asyncio.to_thread(build)
    with folder() as place:
        directory = place / "driver"
        served = server()
        async with served:
            await served.listen_all([f"aeron:ipc?dir={directory}"])
            tap = Tap(served, 1)
            waiting = asyncio.gather(ended(*client(jar, f"aeron:ipc?dir={directory}", COUNT)))
            records = market(1_000)
            # It is served, and then there is nothing more to come.
            publishing = asyncio.ensure_future(tap.publish(records, waiting, 1))
            await until(lambda: publishing.done() or len(tap.decoded) == len(records))
        ((code, out, err),) = await publishing
    assert (code, out) == (1, "")
    assert err.splitlines()[0].startswith("subscribed; ")
    assert err.splitlines()[1].startswith("error: the server closed the connection (")
    assert len(err.splitlines()) == 2
