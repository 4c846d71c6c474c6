"""A group that loses, doubles and reorders, and a connection that lags: merged, every message comes exactly once.

The server's side is the real hub, twice: once as the group's sender, once as the recovery connection. What the merger
hands on is read by ``Reader``, which asserts the rules of a stream (a sequence after the other, books that apply).
"""

from __future__ import annotations

import random
import struct
from collections import deque
from typing import Any

import pytest
from hub_world import T0, Reader, S, delta, publish, quote, same, snapshot, status, trade, world
from hypothesis import given, settings
from hypothesis import strategies as st

from cmd_common.errors import CmdError
from cmd_server import codec
from cmd_server.datagrams import Packet, unpack
from cmd_server.framing import Splitter
from cmd_server.group import Group
from cmd_server.hub import Hub
from cmd_server.limits import Limits
from cmd_server.merger import Merger, State
from cmd_server.messages import Ack, Kind, Login, Policy, Subscribe, Unsubscribe

MS = 1_000_000


class Mirror(Reader):
    """Reads what the merger hands on, as ``Reader`` reads what a hub sends."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, login=False)
        hub.detach(self.client)
        self.client = self  # type: ignore[assignment]
        self.waiting: list[bytes] = []

    def take(self, max_bytes: int) -> list[bytes]:
        out, self.waiting = self.waiting, []
        return out


class World:
    """One hub, its group, its recovery connection and one merging client, on a network that a test drives."""

    def __init__(self, *topics: str, seed: int = 0, loss: float = 0.0, limits: Limits | None = None) -> None:
        self.hub = world(limits=limits or Limits(heartbeat=S, idle=10**9 * S, login=10**9 * S))
        self.now = T0
        self.rng = random.Random(seed)
        self.loss = loss
        self.group = Group(topics)
        self.sender = self.hub.attach("group", T0, authorize=None, snapshots=False)
        self.hub.handle(self.sender, Login(), T0)
        self.hub.handle(self.sender, Subscribe(1, topics, Policy.DROP_OLDEST, 100_000), T0)
        self.server = self.hub.attach("connection", T0)
        self.merger = Merger()
        self.mirror = Mirror(self.hub)
        self.air: list[tuple[int, bytes]] = []  # datagrams with the time at which they arrive
        self.wire: deque[tuple[int, bytes]] = deque()  # frames to the client, in order
        self.back: deque[tuple[int, bytes]] = deque()  # requests to the server, in order
        self.delay = 1 * MS
        self.heard = 0  # records over the connection
        self.silent = False
        self.number = 0
        self.beat()

    def send(self, message: Any) -> None:
        self.merger.request(codec.encode_request(message), self.now)
        self.collect()

    def collect(self) -> None:
        self.merger.check()
        self.mirror.waiting += self.merger.take_frames()
        self.mirror.read()
        for frame in self.merger.take_requests():
            self.back.append((self.now + self.delay, frame))

    def beat(self) -> None:
        self.pump()
        for datagram in self.group.heartbeat(self.now):
            self.fly(datagram)

    def fly(self, datagram: bytes) -> None:
        if self.silent or self.rng.random() < self.loss:
            return
        for _ in range(2 if self.rng.random() < self.loss else 1):
            jitter = self.rng.randrange(MS) if self.loss else 0
            self.air.append((self.now + MS // 10 + jitter, datagram))

    def pump(self) -> None:
        """What the server's shell does: takes what waits and sends it."""
        for datagram in self.group.pack(self.sender.take(1 << 20), self.now):
            self.fly(datagram)
        while frames := self.server.take(1 << 20):
            for frame in frames:
                self.heard += codec.head(frame).template < 20
                self.wire.append((self.now + self.delay, frame))

    def step(self, ns: int = MS) -> None:
        self.now += ns
        self.hub.tick(self.now)
        while self.back and self.back[0][0] <= self.now:
            frame = self.back.popleft()[1]
            self.hub.handle(self.server, codec.decode_request(frame), self.now)
        self.pump()
        arrived = sorted((t, d) for t, d in self.air if t <= self.now)
        self.air = [(t, d) for t, d in self.air if t > self.now]
        for _, datagram in arrived:
            self.merger.datagram(unpack(datagram), self.now)
            self.collect()
        frames = []
        while self.wire and self.wire[0][0] <= self.now:
            frames.append(self.wire.popleft()[1])
        if frames:
            self.merger.frames(Splitter().feed(b"".join(frames)), self.now)
            self.collect()
        deadline = self.merger.deadline
        if deadline is not None and deadline <= self.now:
            self.merger.tick(self.now)
            self.collect()

    def run(self, steps: int, ns: int = MS) -> None:
        for n in range(steps):
            if n % 50 == 0:
                self.beat()
            self.step(ns)

    def publish(self, *records: Any) -> None:
        publish(self.hub, *records, now=self.now, check=False)

    def start(self, *topics: str, policy: Policy = Policy.DROP_OLDEST) -> None:
        self.step()
        self.step()
        self.send(Login())
        self.number += 1
        self.send(Subscribe(self.number, topics, policy))

    def settle(self) -> None:
        loss, self.loss = self.loss, 0.0
        self.run(400)
        self.loss = loss


def started(*topics: str, **more: Any) -> World:
    w = World(*topics, **more)
    w.publish(snapshot(1), trade(1), quote(1), status("LIVE"))
    w.start(*topics)
    w.run(100)
    assert w.merger.state is State.DETACHED
    return w


def test_a_client_begins_over_the_connection_and_then_hears_the_group_only() -> None:
    w = started("trades *", "book *", "quotes *")
    heard = w.heard
    for n in range(2, 500):
        w.publish(trade(n), delta(n, [(99.0, n)]), quote(n))
        w.step()
    w.run(50)
    assert w.heard == heard  # nothing came over the connection
    assert w.mirror.seqs(Kind.TRADES)[-1] == 499
    assert same(w.mirror.book(), w.hub.books["v:A"])
    w.mirror.check_complete()
    assert w.merger.recoveries == 0
    assert not w.mirror.gaps


def test_a_lost_packet_is_fetched_over_the_connection() -> None:
    w = started("trades *", "book *")
    w.publish(trade(2), delta(2, [(99.0, 2.0)]))
    w.step()
    w.silent = True
    w.publish(trade(3), delta(3, [(99.0, 3.0)]))
    w.step()
    w.silent = False
    w.publish(trade(4), delta(4, [(98.0, 4.0)]))
    w.run(200)
    assert w.mirror.seqs(Kind.TRADES)[-3:] == [2, 3, 4] or w.mirror.seqs(Kind.TRADES)[-2:] == [3, 4]
    assert w.merger.recoveries == 1
    assert w.merger.state is State.DETACHED
    assert same(w.mirror.book(), w.hub.books["v:A"])
    assert not w.mirror.gaps


def test_a_hole_in_a_stream_is_fetched_though_no_packet_is_missing() -> None:
    w = started("trades *")
    w.publish(trade(2))
    w.run(5)
    w.publish(trade(3))
    assert len(w.sender.take(1 << 20)) == 1  # the sender gives it up
    w.publish(trade(4))
    w.run(100)
    seqs = w.mirror.seqs(Kind.TRADES)
    assert seqs == list(range(seqs[0], seqs[0] + 3))
    assert (w.merger.recoveries, w.merger.order.lost) == (1, 0)


def test_a_lost_last_packet_is_fetched_when_the_heartbeat_tells() -> None:
    w = started("trades *")
    w.publish(trade(2))
    w.run(5)
    w.silent = True
    w.publish(trade(3))
    w.step()
    w.silent = False
    w.run(200)
    last = w.hub.streams[(1, Kind.TRADES, 0)].seq  # type: ignore[index]
    assert w.mirror.seqs(Kind.TRADES) == [last - 1, last]


def test_a_group_that_falls_silent_is_left_for_the_connection_until_it_speaks_again() -> None:
    w = started("trades *")
    w.silent = True
    w.run(6, S)
    assert w.merger.state is State.ATTACHED
    w.publish(trade(2))
    w.run(20)
    assert w.mirror.seqs(Kind.TRADES)[-1] == 2
    w.silent = False
    w.run(200)
    assert w.merger.state is State.DETACHED
    w.publish(trade(3))
    w.run(20)
    assert w.mirror.seqs(Kind.TRADES)[-2:] == [2, 3]
    assert not w.mirror.gaps


def test_a_group_that_cannot_be_heard_is_left_at_once_and_followed_when_it_speaks_again() -> None:
    w = started("trades *", "book *")
    w.silent = True
    w.publish(trade(2), delta(2, [(99.0, 2.0)]))
    w.step()
    w.merger.deaf(w.now)
    w.collect()
    w.run(20)
    assert w.merger.state is State.ATTACHED
    assert same(w.mirror.book(), w.hub.books["v:A"])
    w.publish(trade(3))
    w.run(100)
    assert w.merger.state is State.ATTACHED  # nothing was heard yet
    w.silent = False
    w.run(200)
    assert w.merger.state is State.DETACHED
    w.publish(trade(4))
    w.run(20)
    seqs = w.mirror.seqs(Kind.TRADES)
    assert seqs == list(range(seqs[0], w.hub.streams[(1, Kind.TRADES, 0)].seq + 1))  # type: ignore[index]
    assert not w.mirror.gaps


@pytest.mark.parametrize("steps", range(12))
def test_deafness_may_come_at_any_step_of_the_switch(steps: int) -> None:
    w = World("trades *", "book *")
    w.publish(snapshot(1), trade(1))
    w.start("trades *", "book *")
    for n in range(2, 40):
        w.publish(trade(n), delta(n, [(99.0, n)]))
        if n - 2 == steps:
            w.merger.deaf(w.now)
            w.collect()
        w.step()
    w.run(300)
    assert w.merger.state is State.DETACHED
    seqs = w.mirror.seqs(Kind.TRADES)
    assert seqs == list(range(seqs[0], w.hub.streams[(1, Kind.TRADES, 0)].seq + 1))  # type: ignore[index]
    assert same(w.mirror.book(), w.hub.books["v:A"])
    w.mirror.check_complete()


def test_what_the_server_no_longer_has_is_told_as_a_gap() -> None:
    w = started("trades *", "book *", limits=Limits(heartbeat=S, idle=10**9 * S, login=10**9 * S, replay_messages=4))
    w.silent = True
    for n in range(2, 30):
        w.publish(trade(n), delta(n, [(99.0, n)]))
        w.step()
    w.silent = False
    w.publish(trade(30), delta(30, [(99.0, 30.0)]))
    w.run(300)
    assert w.mirror.gaps
    w.mirror.check_complete()
    assert same(w.mirror.book(), w.hub.books["v:A"])
    w.publish(trade(31), delta(31, [(99.0, 31.0)]))
    w.run(20)
    assert w.mirror.seqs(Kind.TRADES)[-1] == w.hub.streams[(1, Kind.TRADES, 0)].seq
    assert same(w.mirror.book(), w.hub.books["v:A"])


def test_topics_that_the_group_does_not_carry_stay_on_the_connection() -> None:
    w = World("trades *")
    w.publish(snapshot(1), trade(1))
    w.start("trades v:A", "book *")
    w.run(100)
    assert w.merger.state is State.DETACHED
    for n in range(2, 20):
        w.publish(trade(n), delta(n, [(99.0, n)]))
        w.step()
    w.run(20)
    assert same(w.mirror.book(), w.hub.books["v:A"])
    assert w.mirror.seqs(Kind.TRADES)[-1] == 19
    assert set(w.server.topics) == {"book *", "instruments *"}
    w.mirror.check_complete()


@pytest.mark.parametrize("delay", [0, 1, 7])
@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_what_comes_both_ways_is_handed_on_once(delay: int, loss: float) -> None:
    w = World("trades v:*", "book v:*", loss=loss, seed=delay)
    w.delay = delay * MS
    w.publish(snapshot(1), trade(1))
    # The group carries the first two, the others stay on the connection: every message comes twice.
    w.start("trades v:A", "book v:A", "trades *", "book *")
    w.run(100)
    assert loss or w.merger.state is State.DETACHED
    for n in range(2, 400):
        w.publish(trade(n), delta(n, [(99.0, n)]))
        if n % 50 == 0:
            w.beat()
        w.step()
    w.settle()
    seqs = w.mirror.seqs(Kind.TRADES)
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert seqs[-1] == w.hub.streams[(1, Kind.TRADES, 0)].seq  # type: ignore[index]
    assert same(w.mirror.book(), w.hub.books["v:A"])


def test_only_what_was_asked_for_is_handed_on() -> None:
    w = World("trades *", "book *")
    w.publish(trade(1), trade(1, symbol="B"))
    w.start("trades v:B")
    w.run(100)
    for n in range(2, 9):
        w.publish(trade(n), trade(n, symbol="B"), snapshot(n, symbol="B"))
        w.step()
    w.run(20)
    assert set(w.mirror.names.values()) == {("v", "B")}
    assert w.mirror.seqs(Kind.TRADES, "B")[-1] == 8
    assert not w.mirror.books


def test_topics_can_be_given_up_whichever_way_they_come() -> None:
    w = started("trades *", "quotes *")
    w.send(Unsubscribe(50, ("trades *",)))
    w.run(20)
    assert Ack(50) in w.mirror.service
    before = len(w.mirror.seqs(Kind.TRADES))
    w.publish(trade(2), quote(2))
    w.run(20)
    assert len(w.mirror.seqs(Kind.TRADES)) == before
    assert w.mirror.seqs(Kind.QUOTES)[-1] == 2
    w.send(Subscribe(51, ("trades v:A",), Policy.DROP_OLDEST))
    w.run(100)
    w.publish(trade(3))
    w.run(20)
    assert w.mirror.seqs(Kind.TRADES)[-1] == 3


def test_a_published_snapshot_is_fetched() -> None:
    w = started("book *")
    w.publish(status("STALE", 2))
    w.run(10)
    w.publish(snapshot(9, [(90.0, 1.0)]), status("LIVE", 9))
    w.run(300)
    w.publish(delta(10, [(91.0, 1.0)]))
    w.run(100)
    assert same(w.mirror.book(), w.hub.books["v:A"])
    w.mirror.check_complete()


def test_a_quiet_stream_that_may_have_lost_its_first_messages_says_so() -> None:
    w = World("trades *")
    w.publish(trade(1), trade(1, symbol="B"))
    w.start("trades *")
    w.run(100)
    w.silent = True
    w.publish(trade(2, symbol="B"))  # the client has never seen a message of this stream
    w.step()
    w.silent = False
    w.run(100)
    w.publish(trade(3, symbol="B"))
    w.run(100)
    assert w.mirror.seqs(Kind.TRADES, "B")[-1] == w.hub.streams[(2, Kind.TRADES, 0)].seq
    assert w.mirror.gaps[0].to_seq == w.mirror.seqs(Kind.TRADES, "B")[-1] - 1


def test_packets_of_another_run_are_ignored() -> None:
    w = started("trades *")
    other = World("trades *")
    other.group._packer.epoch = 99  # type: ignore[union-attr]
    for datagram in other.group.heartbeat(0):
        w.merger.datagram(unpack(datagram), w.now)
    assert w.merger.foreign == 1
    assert w.merger.state is State.DETACHED


@settings(max_examples=40)
@given(st.integers(0, 1 << 32), st.sampled_from((0.0, 0.01, 0.05, 0.2, 0.4)), st.integers(1, 30), st.booleans())
def test_every_message_comes_exactly_once_whatever_the_network_does(
    seed: int, loss: float, delay: int, conflate: bool
) -> None:
    w = World("trades *", "book *", "quotes *", seed=seed, loss=loss)
    w.delay = delay * MS
    rng = random.Random(seed)
    w.publish(snapshot(1), snapshot(1, symbol="B"))
    w.start("trades *", "book *", "quotes *", policy=Policy.CONFLATE if conflate else Policy.DROP_OLDEST)
    w.run(rng.choice((0, 5, 100)))
    numbers = {"A": 1, "B": 1}
    for n in range(250):
        for _ in range(rng.choice((0, 0, 1, 3))):
            symbol = rng.choice("AB")
            numbers[symbol] += 1
            m = numbers[symbol]
            what = rng.randrange(4)
            if what == 0:
                w.publish(trade(m, symbol=symbol))
            elif what == 1:
                w.publish(quote(m, symbol=symbol))
            elif what == 2 and rng.random() < 0.02:
                w.publish(
                    status("STALE", m, symbol=symbol),
                    snapshot(m, [(90.0, m)], symbol=symbol),
                    status("LIVE", m, symbol=symbol),
                )
            else:
                many = [(50.0 + i, float(m)) for i in range(rng.choice((1, 1, 150)))]
                w.publish(delta(m, many, symbol=symbol))
        if n % 37 == 0:
            w.beat()
        w.step(rng.choice((MS // 10, MS, 3 * MS)))
    w.settle()
    w.mirror.check_complete()
    assert not w.mirror.lost or loss  # gaps only where packets were lost
    for symbol in "AB":
        assert same(w.mirror.book(symbol), w.hub.books[f"v:{symbol}"])
        id_ = w.hub._by_name["v", symbol].id
        for kind in (Kind.TRADES, Kind.QUOTES, Kind.BOOK):
            stream = w.hub.streams.get((id_, kind, 0))  # type: ignore[call-overload]
            key = next((k for k in w.mirror.positions if k[:2] == (id_, kind)), None)
            if stream is not None and key is not None:
                assert w.mirror.positions[key] == stream.seq


def test_recoveries_are_bounded_where_packets_are_lost_all_the_time() -> None:
    w = started("trades *")
    w.loss = 0.1
    for n in range(2, 1500):
        w.publish(trade(n))
        if n % 50 == 0:
            w.beat()
        w.step(10 * MS)
    w.settle()
    assert w.mirror.seqs(Kind.TRADES)[-1] == w.hub.streams[(1, Kind.TRADES, 0)].seq  # type: ignore[index]
    w.mirror.check_complete()
    assert 2 < w.merger.recoveries < 20


@given(
    st.lists(st.tuples(st.sampled_from((0, 1, 2, 6, 18, 22)), st.integers(1, 6), st.binary(max_size=120)), max_size=8)
)
def test_forged_datagrams_raise_only_errors_of_one_line(datagrams: list[tuple[int, int, bytes]]) -> None:
    w = started("trades *", "book *")
    for flags, count, body in datagrams:
        frame = struct.pack(">IH", len(body) + 14, 0xEB50) + body[:8].ljust(8, b"\0") + body
        for payload in (body, frame[: len(body) + 14]):
            packet = Packet(flags, count, 7, w.merger.order.expected, 0, payload)
            try:
                w.merger.datagram(packet, w.now)
            except CmdError as error:
                assert "\n" not in str(error)  # noqa: PT017  it need not be raised
            w.merger.order.check()
    for template in range(60):
        short = struct.pack(">IHHHHH", 20, 0xEB50, 6, template, 7100, 1) + bytes(6)
        w.merger.datagram(Packet(0, 1, 7, w.merger.order.expected, 0, short), w.now)
        w.merger.frames([short], w.now)


@pytest.mark.parametrize(
    ("group", "topic", "carried"),
    [
        ("trades *", "trades v:A", True),
        ("trades *", "trades v:*", True),
        ("trades v:*", "trades v:A", True),
        ("trades v:*", "trades w:A", False),
        ("trades v:*", "trades v:A*", False),  # in doubt: over the connection
        ("trades v:A*", "trades v:A*", True),
        ("book *", "book@20 v:A", False),
        ("candles@1m *", "candles@1m v:A", True),
        ("trades *", "instruments *", False),
        ("trades *", "trades A", True),
        ("trades v:*", "trades A", False),  # A on every venue
    ],
)
def test_what_a_group_carries(group: str, topic: str, carried: bool) -> None:
    w = World(group)
    w.start(topic)
    w.run(60)
    assert (w.merger._covered == (topic,)) is carried
