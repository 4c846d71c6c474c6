"""The port over Aeron: a real publication whose reader is slow, gone, late or never comes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aeron_raw import folder, present
from hypothesis import given
from hypothesis import strategies as st
from raw_client import until

from cmd_server import codec
from cmd_server.aeron_port import AeronPort, joined
from cmd_server.errors import ConnectionBrokenError
from cmd_server.messages import Bye

SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def _present() -> None:
    present()


# -- packing


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=30), st.integers(1, 40), st.integers(0, 30))
def test_messages_are_whole_frames_in_order(frames: list[bytes], payload: int, more: int) -> None:
    longest = payload + more
    found = joined(frames, payload, longest)
    assert b"".join(found) == b"".join(frames)
    assert all(0 < len(message) <= longest for message in found)
    # Only a frame that is longer than the longest message is cut.
    ends, cut = set(), 0
    for frame in frames:
        cut += len(frame)
        ends.add(cut)
    at = 0
    for message in found:
        begin, at = at, at + len(message)
        if at not in ends:
            assert len(message) == longest
            assert any(
                end - len(f) <= begin < end for f, end in zip(frames, sorted(ends), strict=False) if len(f) > longest
            )
    if all(len(frame) <= longest for frame in frames):  # as few as that allows: no two neighbours fit into one
        assert all(len(a) + len(b) > payload for a, b in pairwise(found))


# -- a real publication


class Side:
    """What a port tells its server."""

    def __init__(self) -> None:
        self.wakes = 0
        self.ended: list[Exception | None] = []
        self.port: Any = None

    def writable(self, session: object) -> None:
        assert session is self
        self.wakes += 1

    def closed(self, session: object, error: Exception | None = None) -> None:
        assert session is self
        self.ended.append(error)
        self.port.release()


class Control:
    """What a port does with the connection below it."""

    peer = "unix:/x"
    form = "sbe"
    writable = True
    unsent = 0

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.calls: list[str] = []

    def send(self, frames: Sequence[bytes]) -> None:
        self.sent += frames

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def close(self, code: str = "", text: str = "") -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")


class World:
    """A driver with small terms, a publication in it, a port over that."""

    def __init__(self, directory: Path) -> None:
        import cmd_aeron

        self.driver = cmd_aeron.MediaDriver(str(directory), client_liveness=3 * SECOND // 2)
        self.client = cmd_aeron.Client(str(directory))
        self.readers = cmd_aeron.Client(str(directory))
        self.released: list[AeronPort] = []

    def port(self, *, low_water: int = 8_192, patience: int = 60 * SECOND) -> tuple[AeronPort, Side, Control]:
        publication = self.client.add_exclusive_publication("aeron:ipc?term-length=64k", 11)
        side, control = Side(), Control()
        port = AeronPort(
            side, control, publication, low_water=low_water, patience=patience, released=self.released.append  # type: ignore[arg-type]
        )  # fmt: skip
        side.port = port
        port.start(side)
        return port, side, control

    def reader(self, port: AeronPort) -> Any:
        return self.readers.add_subscription(f"aeron:ipc?session-id={port.publication.session_id}", 11)

    def close(self) -> None:
        self.readers.close()
        self.client.close()
        self.driver.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with folder() as path:
        made = await asyncio.to_thread(World, path / "d")
        yield made
        await asyncio.to_thread(made.close)


@pytest.mark.parametrize("seed", range(4))
async def test_every_byte_comes_once_and_in_order_however_slowly_it_is_read(world: World, seed: int) -> None:
    dice = random.Random(seed)
    port, side, _ = world.port()
    assert not port.writable  # nobody has subscribed
    reader = await asyncio.to_thread(world.reader, port)
    await until(lambda: port.writable)
    assert side.wakes == 1
    sent, came = bytearray(), bytearray()
    total = 600_000  # several times what the terms hold
    refused = 0
    sizes = (46, 90, 400, 1_376, 1_377, 5_000, 8_192, 8_193, 30_000)
    while len(came) < total or len(came) < len(sent):
        if port.writable and len(sent) < total:
            frames = [dice.randbytes(dice.choice(sizes)) for _ in range(dice.randint(1, 40))]
            sent += b"".join(frames)
            port.send(frames)
            port.check()
            refused += bool(port.unsent)
        if limit := dice.choice((0, 1, 3, 40)):
            came += b"".join(reader.poll(limit))
        assert sent.startswith(came[-100:], len(came) - len(came[-100:])), "something came twice, or not at all"
        await asyncio.sleep(0)
        port.check()
        assert len(came) <= len(sent)
    assert came == sent
    assert refused, "the publication took everything: this tests nothing"
    assert port.retries
    await until(lambda: port.writable)
    assert side.ended == []
    port.release()
    assert world.released == [port]


async def test_a_lone_message_goes_out_at_once(world: World) -> None:
    port, _, _ = world.port()
    reader = await asyncio.to_thread(world.reader, port)
    await until(lambda: port.writable)
    port.send([b"x" * 50])
    assert port.unsent == 0
    found: list[bytes] = []
    await until(lambda: found.extend(reader.poll()) or found)
    assert found == [b"x" * 50]
    port.release()


async def _pressed(world: World) -> tuple[AeronPort, Side, Control, Any]:
    """A port whose client has stopped reading."""
    port, side, control = world.port()
    reader = await asyncio.to_thread(world.reader, port)
    await until(lambda: port.writable)
    while port.writable:
        port.send([b"y" * 3_000] * 10)
    assert port.unsent > 8_192
    return port, side, control, reader


async def test_a_client_that_is_gone_while_it_was_waited_for(world: World) -> None:
    port, side, control, reader = await _pressed(world)
    await asyncio.to_thread(reader.close)
    await until(lambda: (port.look(), side.ended)[1])
    (error,) = side.ended
    assert isinstance(error, ConnectionBrokenError)
    assert "does not receive any more" in str(error)
    await until(lambda: control.calls)
    assert control.calls == ["abort"]
    assert world.released == [port]
    assert port.unsent == 0
    assert not port.writable
    port.send([b"late"])
    port.close("shutdown", "")
    port.abort()
    port.release()
    assert (len(side.ended), len(world.released), control.calls) == (1, 1, ["abort"])


async def test_an_idle_client_that_is_gone_is_noticed(world: World) -> None:
    port, side, _ = world.port()
    reader = await asyncio.to_thread(world.reader, port)
    await until(lambda: port.writable)
    port.look()
    await asyncio.to_thread(reader.close)
    await until(lambda: (port.look(), side.ended)[1])
    assert "does not receive any more" in str(side.ended[0])


async def test_a_client_that_never_subscribes_is_let_go(world: World) -> None:
    port, side, control = world.port(patience=SECOND // 20)
    await until(lambda: side.ended)
    assert "the client did not subscribe to stream 11 in 0.05 s" in str(side.ended[0])
    assert control.calls == ["abort"]
    assert world.released == [port]


async def test_a_publication_that_is_closed_ends_the_session(world: World) -> None:
    port, side, _, _ = await _pressed(world)
    await asyncio.to_thread(port.publication.close)
    await until(lambda: side.ended)
    assert isinstance(side.ended[0], ConnectionBrokenError)
    assert "\n" not in str(side.ended[0])


async def test_the_client_of_aeron_is_closed(world: World) -> None:
    _port, side, _, _ = await _pressed(world)
    await asyncio.to_thread(world.client.close)
    await until(lambda: side.ended)
    assert isinstance(side.ended[0], ConnectionBrokenError)


async def test_closing_sends_what_is_unsent_and_says_bye_by_control(world: World) -> None:
    port, side, control, reader = await _pressed(world)
    port.close("slow", "too slow")
    assert not port.writable
    await asyncio.sleep(0.02)
    assert control.calls == []  # not before the rest has gone
    came: list[bytes] = []
    await until(lambda: came.extend(reader.poll()) or control.calls)
    await until(lambda: came.extend(reader.poll()) or not reader.poll())
    assert control.calls == ["close"]
    assert [codec.decode_service(frame) for frame in control.sent] == [Bye("slow", "too slow")]
    assert side.ended == []  # control says it
    assert set(b"".join(came)) == {ord("y")}
    port.release()
    assert world.released == [port]


async def test_closing_an_idle_port(world: World) -> None:
    port, _, control = world.port()
    port.close("idle", "")
    port.close("idle", "")
    await until(lambda: control.calls)
    assert control.calls == ["close"]
    assert len(control.sent) == 1


async def test_abort_at_any_time(world: World) -> None:
    port, _, control, _ = await _pressed(world)
    port.abort()
    port.abort()
    assert control.calls == ["abort"]
    assert port.unsent == 0
    port.pause()
    port.resume()
    assert control.calls == ["abort", "pause", "resume"]
    port.release()
    port.release()
    assert world.released == [port]
