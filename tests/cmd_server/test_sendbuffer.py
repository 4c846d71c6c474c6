"""The send buffer: every byte once and in order, whatever the network does."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import threading
from collections.abc import Callable

import pytest
import wire_ways
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from tests.tally import CountedSteps, amount

from cmd_common.errors import CmdError
from cmd_server import sendbuffer
from cmd_server.errors import ConnectionBrokenError, ServerError
from cmd_server.sendbuffer import SendBuffer, write_all


class FromStartAgain(SendBuffer):
    """The defect of the original program: after a partial send the whole piece is sent again."""

    def flush(self) -> bool:
        while self.waiting:
            head = self._head or memoryview(b"".join(self._rest))
            if not self._head:
                self._rest.clear()
            self._head = head
            try:
                taken = self._send(head)
            except BlockingIOError:
                return False
            self.waiting = max(0, self.waiting - taken)
            self.sent += taken
            if taken == len(head):
                self._head = memoryview(b"")
        return True


class Network:
    """Takes what a plan of numbers says: n bytes at most, 0 is EAGAIN; afterwards all. ``got`` is what arrived."""

    def __init__(self, plan: list[int]) -> None:
        self.plan = list(plan)
        self.got = bytearray()
        self.empty_offers = 0

    def send(self, data: memoryview) -> int:
        self.empty_offers += not len(data)
        most = self.plan.pop(0) if self.plan else len(data)
        if not most:
            raise BlockingIOError
        taken = min(most, len(data))
        self.got += data[:taken]
        return taken


Make = Callable[[Callable[[memoryview], int]], SendBuffer]


def carry(make: Make, writes: list[list[bytes]], plan: list[int]) -> tuple[bytes, bytes, Network]:
    """Write everything, flushing as a loop does; what was written and what arrived."""
    network = Network(plan)
    buffer = make(network.send)
    for chunks in writes:
        buffer.write(chunks)
        if type(buffer) is SendBuffer:
            buffer.check()
    for _ in range(len(plan) + 2):
        if buffer.flush():
            break
    assert buffer.waiting == 0
    return b"".join(c for chunks in writes for c in chunks), bytes(network.got), network


_writes = st.lists(st.lists(st.binary(max_size=40), max_size=5), max_size=12)
_plan = st.lists(st.integers(0, 30), max_size=60)


@given(_writes, _plan)
def test_every_byte_arrives_once_and_in_order(writes: list[list[bytes]], plan: list[int]) -> None:
    wanted, got, network = carry(SendBuffer, writes, plan)
    assert got == wanted
    assert network.empty_offers == 0


def test_the_defect_of_sending_from_the_start_again_would_be_caught() -> None:
    """The property fails for the mutant as soon as a send is partial, and only then: so it was not noticed."""
    writes, plan = [[b"abcdefgh"], [b"ijkl"]], [3, 0, 2]
    assert carry(SendBuffer, writes, plan)[:2] == (b"abcdefghijkl", b"abcdefghijkl")
    wanted, got, _ = carry(FromStartAgain, writes, plan)
    assert got != wanted
    assert got.startswith(b"abcabcde"[:5])  # old data again
    assert carry(FromStartAgain, writes, [])[:2] == (b"abcdefghijkl", b"abcdefghijkl")


def test_the_property_itself_finds_the_defect() -> None:
    def holds(writes: list[list[bytes]], plan: list[int]) -> bool:
        try:
            wanted, got, _ = carry(FromStartAgain, writes, plan)
        except AssertionError:
            return False
        return wanted == got

    writes, plan = find(st.tuples(_writes, _plan), lambda case: not holds(*case))
    assert carry(SendBuffer, writes, plan)[0] == carry(SendBuffer, writes, plan)[1]
    assert any(plan)  # a partial send is what it takes


def test_a_send_that_takes_nothing_breaks_the_connection() -> None:
    buffer = SendBuffer(lambda data: 0)
    with pytest.raises(ConnectionBrokenError, match=r"^connection broken$"):
        buffer.write([b"x"])
    assert buffer.broken
    assert buffer.waiting == 0
    with pytest.raises(ConnectionBrokenError, match="connection broken"):
        buffer.write([b"y"])
    assert not buffer.flush()
    buffer.check()


@pytest.mark.parametrize("answer", [-1, 2, 1_000])
def test_a_send_that_answers_nonsense_breaks_the_connection(answer: int) -> None:
    buffer = SendBuffer(lambda data: answer)
    with pytest.raises(ConnectionBrokenError):
        buffer.write([b"x"])
    buffer.check()


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.EBADF])
def test_an_error_of_the_system_is_one_line_and_drops_what_waits(code: int) -> None:
    def send(data: memoryview) -> int:
        raise OSError(code, os.strerror(code))

    buffer = SendBuffer(send)
    with pytest.raises(ConnectionBrokenError, match=os.strerror(code)) as caught:
        buffer.write([b"x" * 100, b"y"])
    assert isinstance(caught.value, CmdError)
    assert buffer.waiting == 0
    buffer.check()


def test_the_bound_holds_and_one_write_may_pass_it() -> None:
    network = Network([0] * 10)
    buffer = SendBuffer(network.send, bound=10)
    buffer.write([b"x" * 9])
    buffer.write([b"y" * 50])
    assert buffer.waiting == 59
    with pytest.raises(ServerError, match="59 bytes wait"):
        buffer.write([b"z"])
    assert buffer.waiting == 59
    network.plan.clear()
    assert buffer.flush()
    assert network.got == b"x" * 9 + b"y" * 50


def test_nothing_waits_costs_one_call_and_what_waits_is_sent_together() -> None:
    calls: list[int] = []
    network = Network([])

    def send(data: memoryview) -> int:
        calls.append(len(data))
        return network.send(data)

    buffer = SendBuffer(send)
    buffer.write([b"ab", b"cd", b"ef"])
    assert calls == [6]
    network.plan = [0]
    for _ in range(5):
        buffer.write([b"gh"])
    assert buffer.waiting == 10
    assert buffer.flush()
    assert calls[1:] == [2, 2, 8]  # EAGAIN, the same two bytes again as TLS demands, then all the rest at once


def test_empty_writes_send_nothing() -> None:
    network = Network([])
    buffer = SendBuffer(network.send)
    buffer.write([])
    buffer.write([b"", b""])
    assert network.got == b""
    assert buffer.flush()


class SendBufferMachine(CountedSteps):
    """Random writes and flushes against a network of moods; the model is a byte string."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network([])
        self.buffer = SendBuffer(self.network.send, bound=500)
        self.wanted = bytearray()

    @rule(chunks=st.lists(st.binary(max_size=100), max_size=4), plan=st.lists(st.integers(0, 60), max_size=4))
    def write(self, chunks: list[bytes], plan: list[int]) -> None:
        self.network.plan = [*plan, 0]
        full = self.buffer.waiting >= 500
        try:
            self.buffer.write(chunks)
        except ServerError:
            assert full
        else:
            assert not full
            self.wanted += b"".join(chunks)

    @rule(plan=st.lists(st.integers(0, 60), max_size=6))
    def flush(self, plan: list[int]) -> None:
        self.network.plan = [*plan, 0]
        assert self.buffer.flush() == (self.buffer.waiting == 0)

    @invariant()
    def arrived_and_waiting_are_all(self) -> None:
        self.buffer.check()
        assert self.network.got == self.wanted[: len(self.network.got)]
        assert len(self.network.got) + self.buffer.waiting == len(self.wanted)
        assert self.buffer.sent == len(self.network.got)
        assert self.buffer.waiting < 500 + 400


SendBufferMachine.TestCase.settings = settings(max_examples=amount(100, 500), stateful_step_count=50, deadline=None)
TestSendBufferMachine = SendBufferMachine.TestCase


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_tiny_buffers_of_real_sockets(family: socket.AddressFamily) -> None:
    """Real partial writes: a sender with the smallest buffer, a reader that takes odd pieces."""
    if family == socket.AF_UNIX:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        ours.setblocking(False)
        rng = random.Random(6)
        writes = [[rng.randbytes(rng.randrange(30_000)) for _ in range(rng.randrange(1, 4))] for _ in range(20)]
        got = bytearray()

        full = threading.Event()  # a fast reader might never let the sender's buffer fill

        def read() -> None:
            sizes = random.Random(7)
            full.wait(60)
            while data := theirs.recv(sizes.randrange(1, 9_000)):
                got.extend(data)

        partial = eagain = 0

        def send(data: memoryview) -> int:
            nonlocal partial, eagain
            try:
                taken = ours.send(data)
            except BlockingIOError:
                eagain += 1
                full.set()
                raise
            partial += taken < len(data)
            return taken

        reader = threading.Thread(target=read)
        reader.start()
        buffer = SendBuffer(send)
        ours_ready = select.poll()
        ours_ready.register(ours, select.POLLOUT)
        for chunks in writes:
            buffer.write(chunks)
            while not buffer.flush():
                ours_ready.poll(10_000)
        ours.shutdown(socket.SHUT_WR)
        reader.join(60)
        assert bytes(got) == b"".join(c for chunks in writes for c in chunks)
        assert eagain
        assert partial


# -- the same bytes to many, pure and native


@pytest.fixture(params=wire_ways.WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether ``write_all`` offers by itself or asks cmd-native to."""
    found = wire_ways.native_module().send_all if request.param == "native" else None
    monkeypatch.setattr(sendbuffer, "_send_all", found)
    return str(request.param)


class Pair:
    """A sender with a small buffer, and what its reader has got of it."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.got = bytearray()
        self.buffer = SendBuffer(self.ours.send, bound=1 << 30, fd=self.ours.fileno())

    def read(self, most: int) -> None:
        try:
            self.got += self.theirs.recv(most)
        except BlockingIOError:
            pass

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.mark.parametrize("seed", range(3))
def test_many_get_every_byte_once_and_in_order(way: str, seed: int) -> None:
    """Some read, some do not, some are gone: each has what it should, and only those that are not done are told."""
    rng = random.Random(seed)
    pairs = [Pair() for _ in range(6)]
    gone, errors = pairs[-1], 0
    wanted = bytearray()
    partial = 0
    try:
        for turn in range(60):
            data = rng.randbytes(rng.choice((1, 100, 5_000, 60_000)))
            if turn == 30:
                while not gone.buffer.flush():
                    gone.read(1 << 20)
                gone.theirs.close()
            free = [pair for pair in pairs if not (pair.buffer.waiting or pair.buffer.broken)]
            left = dict(write_all([pair.buffer for pair in free], data))
            wanted += data
            for place, pair in enumerate(free):
                pair.buffer.check()
                assert (place in left) == bool(pair.buffer.waiting or pair.buffer.broken)
                error = left.get(place)
                assert (error is not None) == pair.buffer.broken
                if error is not None:
                    assert pair is gone
                    assert isinstance(error, ConnectionBrokenError)
                    assert str(error) == f"connection broken: {os.strerror(errno.EPIPE)}"
                    errors += 1
                partial += pair.buffer.waiting not in (0, len(data))
            for pair in pairs:
                if pair not in free and not pair.buffer.broken:
                    pair.buffer.write((data,))  # behind what waits
            for pair in pairs[: rng.randrange(7)]:
                if turn >= 30 and pair is gone:
                    continue
                pair.read(rng.randrange(1, 200_000))
                if not pair.buffer.broken:
                    pair.buffer.flush()
        assert errors == 1
        assert partial
        for pair in pairs[:-1]:
            for _ in range(100_000):
                pair.read(1 << 20)
                if pair.buffer.flush() and len(pair.got) == len(wanted):
                    break
            assert pair.got == wanted
            assert pair.buffer.sent == len(wanted)
    finally:
        for pair in pairs:
            pair.close()


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ECONNRESET, errno.EBADF])
def test_what_came_of_an_offer_is_judged_as_if_it_had_been_ours(code: int) -> None:
    network = Network([0])
    buffer = SendBuffer(network.send)
    buffer.offered(b"abcdef", 2)  # the rest is offered at once, and waits
    assert (buffer.waiting, buffer.sent) == (4, 2)
    network.plan = [1]
    assert buffer.flush()
    assert network.got == b"cdef"
    buffer.offered(b"gh", -errno.EAGAIN)
    assert buffer.waiting == 2
    assert buffer.flush()
    buffer.offered(b"ij", 2)
    assert (buffer.waiting, buffer.sent, network.got) == (0, 10, b"cdefgh")
    buffer.check()
    for taken, words in (
        (0, "connection broken"),
        (3, "connection broken"),
        (-code, f"connection broken: {os.strerror(code)}"),
    ):
        broken = SendBuffer(network.send)
        with pytest.raises(ConnectionBrokenError) as caught:
            broken.offered(b"ij", taken)
        assert str(caught.value) == words
        assert broken.broken
        broken.check()


def test_one_socket_that_is_not_plain_sends_all_the_usual_way(way: str) -> None:
    pair, network = Pair(), Network([3, 0])
    try:
        tls = SendBuffer(network.send)
        assert write_all([pair.buffer, tls], b"abcdef") == [(1, None)]
        pair.read(100)
        assert (pair.got, network.got, tls.waiting) == (b"abcdef", b"abc", 3)
        assert write_all([], b"x") == []
    finally:
        pair.close()
