"""The thread that polls a subscription for an event loop: order, bounds, wake-ups, and every way to end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aeron_raw import folder, present
from client_children import DEADLINE, until

from cmd_server.aeron_pump import BUFFERS, Pump

TERM = 64 << 10
STREAM = 7


@pytest.fixture(scope="module")
def aeron() -> Iterator[Any]:
    """A driver and a client of it."""
    present()
    import cmd_aeron

    with (
        folder() as place,
        cmd_aeron.MediaDriver(str(place / "a"), ipc_term_length=TERM) as driver,
        cmd_aeron.Client(driver.directory) as client,
    ):
        yield client


class World:
    """A publication, a subscription and a pump between them."""

    def __init__(self, client: Any, stream: int, size: int = 4_096, patience: int = 20_000_000_000) -> None:
        self.publication = client.add_exclusive_publication("aeron:ipc", stream)
        self.subscription = client.add_subscription("aeron:ipc", stream)
        self.woken = 0
        self.ends = 0
        self.loop = True  # whether there is one
        self.why = ""
        self.pump = Pump(
            self.subscription,
            "test",
            idle="balanced",
            patience=patience,
            state=lambda: self.why,
            wake=self._wake,
            alive=lambda: self.loop,
            ended=self._ended,
            size=size,
        )

    def _wake(self) -> None:
        if not self.loop:
            raise RuntimeError("Event loop is closed")
        self.woken += 1

    def _ended(self) -> None:
        self.ends += 1

    def send(self, data: bytes, keep: Callable[[], Any] = lambda: None) -> None:
        """Publish, waiting while it is refused; ``keep`` is called meanwhile."""
        end = time.monotonic() + DEADLINE
        while self.publication.offer(data) < 0:
            assert time.monotonic() < end
            keep()

    def fill(self, data: bytes) -> int:
        """Publish until it stays refused; how many were taken."""
        taken, since = 0, time.monotonic()
        while time.monotonic() - since < 0.5:
            if self.publication.offer(data) >= 0:
                taken, since = taken + 1, time.monotonic()
            else:
                time.sleep(0.001)
        return taken

    def take(self, room: int = 1 << 16) -> bytes:
        data = bytearray(room)
        found = bytes(data[: self.pump.take(memoryview(data))])
        return found

    def take_all(self) -> bytes:
        """Take until the pump has finished."""
        found = bytearray()
        end = time.monotonic() + DEADLINE
        while True:
            finished = self.pump.finished
            piece = bytearray(1 << 16)
            size = self.pump.take(memoryview(piece))
            found += piece[:size]
            if finished and not size:
                return bytes(found)
            assert time.monotonic() < end
            if not size:
                time.sleep(0.001)

    def over(self) -> None:
        """Everything has ended, once, within bounds."""
        self.pump.join(DEADLINE)
        assert self.pump.finished
        assert self.ends == 1
        self.pump.check()

    def close(self) -> None:
        self.pump.stop()
        if self.pump._thread.ident is not None:
            self.pump.join(DEADLINE)
        self.publication.close()
        self.subscription.close()
        assert not [t for t in threading.enumerate() if t is self.pump._thread]


@pytest.fixture
def world(aeron: Any, request: pytest.FixtureRequest) -> Iterator[World]:
    found = World(aeron, STREAM + sum(map(ord, request.node.name)), **getattr(request, "param", {}))
    yield found
    found.close()


def number(n: int, size: int) -> bytes:
    return n.to_bytes(4, "little") * (size // 4)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_byte_comes_once_and_in_order_however_it_is_cut(world: World, seed: int) -> None:
    rng = random.Random(seed)
    sent, got = bytearray(), bytearray()

    def take() -> None:
        got.extend(world.take(rng.choice((1, 3, 100, 4_096, 20_000))))
        world.pump.check()

    world.pump.start()
    for n in range(700):
        data = number(n, rng.choice((4, 64, 1_400, 8_000)))  # the last is longer than a buffer of the pump
        world.send(data, take)
        sent += data
        if not n % 5:
            take()
    until(lambda: take() is None and len(got) >= len(sent))
    assert got == sent
    assert world.pump.error is None


def test_a_loop_that_does_not_look_is_woken_once_and_holds_up_the_publisher(world: World) -> None:
    world.pump.start()
    taken = world.fill(number(1, 1_024))
    assert world.woken == world.pump.wakes == 1
    # What the buffers and the window hold, and not more.
    assert taken * 1_024 <= BUFFERS * 4_096 + TERM
    assert taken * 1_024 >= BUFFERS * 3_072
    got = bytearray()
    until(lambda: got.extend(world.take()) is None and len(got) == taken * 1_024)
    assert got == number(1, 1_024) * taken
    assert world.take() == b""
    before = world.pump.wakes
    world.send(b"more")
    until(lambda: world.pump.wakes == before + 1)
    assert world.take() == b"more"


@pytest.mark.parametrize("full", [False, True])
def test_it_stops_when_it_is_told_to(world: World, full: bool) -> None:
    world.pump.start()
    if full:
        world.fill(number(1, 1_024))
    world.pump.stop()
    world.pump.stop()
    world.over()
    assert world.pump.error is None


@pytest.mark.parametrize("full", [False, True])
def test_it_ends_with_its_loop(world: World, full: bool) -> None:
    world.pump.start()
    if full:
        world.fill(number(1, 1_024))
    world.loop = False
    world.over()
    assert world.pump.error is None


def test_the_end_of_the_publication_comes_behind_all_of_it(world: World) -> None:
    world.pump.start()
    sent = bytearray()
    for n in range(20):
        world.send(number(n, 1_024))
        sent += number(n, 1_024)
    world.publication.close()
    assert world.take_all() == sent
    world.over()
    assert str(world.pump.error) == "test: the server's stream has ended"


def test_what_is_under_way_when_control_ends_comes_first_and_is_no_error(world: World) -> None:
    world.pump.start()
    for n in range(30):
        world.send(number(n, 1_024))
    world.pump.drain()
    assert world.take_all() == b"".join(number(n, 1_024) for n in range(30))
    world.over()
    assert world.pump.error is None


@pytest.mark.parametrize("world", [{"patience": 1}], indirect=True)
def test_a_publisher_that_never_comes(world: World) -> None:
    world.publication.close()
    until(lambda: not world.subscription.connected)
    world.pump.start()
    world.over()
    assert str(world.pump.error) == "test: the server's stream never came"


def test_a_reason_from_outside_ends_it(world: World) -> None:
    world.pump.start()
    world.why = "the media driver is gone"
    world.over()
    assert str(world.pump.error) == "test: the media driver is gone"


def test_a_subscription_that_is_closed_under_its_feet(world: World) -> None:
    world.pump.start()
    world.send(b"a")
    until(lambda: world.take() == b"a")
    world.subscription.close()
    world.over()
    assert "\n" not in str(world.pump.error)
    assert "closed" in str(world.pump.error) or "ended" in str(world.pump.error)
