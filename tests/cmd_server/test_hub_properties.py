"""Random feeds, subscriptions, slow readers and resumes; every reader checks every rule as it reads."""

from __future__ import annotations

from typing import Any

from hub_world import T0, Reader, S, delta, quote, same, snapshot, status, trade, world
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from msgspec.structs import replace
from tests.tally import CountedSteps, amount

from cmd_common.orderbook import OrderBook
from cmd_common.records import Record, Trade
from cmd_common.sequence import BookState
from cmd_server import codec
from cmd_server.hub import Hub
from cmd_server.messages import Kind, Policy, Unsubscribe

SYMBOLS = ("A", "B")
TOPICS = (
    "trades *",
    "book *",
    "book v:A",
    "book@2 *",
    "bbo v:*",
    "quotes v:B",
    "candles@1s v:A",
    "status *",
    "gaps v:B",
)
SLACK = 64  # messages between two looks at the queues


class HubMachine(CountedSteps):
    readers: list[Reader]

    @initialize(replay=st.sampled_from([0, 3, 50]), early=st.booleans())
    def begin(self, replay: int, early: bool) -> None:
        self.hub = world(replay_messages=replay, replay_bytes=10_000, idle=10**18, login=10**18, heartbeat=10**15)
        self.n = 10
        self.truth: dict[str, OrderBook] = {}
        self.epoch: dict[str, int] = {}
        self.readers = []
        self.trades: dict[str, int] = dict.fromkeys(SYMBOLS, 0)
        if early:
            self.hub.publish([trade(1, symbol=s) for s in SYMBOLS], T0)

    def _next(self) -> int:
        self.n += 1
        return self.n

    def _records(self, symbol: str, what: str, levels: list[tuple[float, float]]) -> list[Record]:
        n = self._next()
        book = self.truth.setdefault(symbol, OrderBook(venue="v", symbol=symbol))
        bids = [level for level in levels if level[0] < 50]
        asks = [level for level in levels if level[0] >= 50]
        if what == "trade":
            return [trade(n, symbol=symbol, ts=T0 + n * S // 10)]
        if what == "quote":
            return [quote(n, symbol=symbol)]
        if what == "lost":
            book.state = BookState.STALE
            return [status("STALE", n, symbol=symbol)]
        if what == "odd":
            return [status("silent", n, symbol=symbol, what="trades"), status("connected", n, symbol="", what="")]
        if what == "snapshot":
            bids, asks = [(p, q) for p, q in bids if q], [(p, q) for p, q in asks if q]
            bids, asks = sorted(dict(bids).items(), reverse=True), sorted(dict(asks).items())
            book.load(bids, asks)
            book.state = BookState.LIVE
            self.epoch[symbol] = n
            return [status("LIVE", n, symbol=symbol), snapshot(n, bids, asks, symbol=symbol, epoch=n)]
        if book.state is BookState.LIVE:
            book.apply(bids, asks)
        return [delta(n, bids, asks, symbol=symbol, epoch=self.epoch.get(symbol, 1))]

    @rule(
        records=st.lists(
            st.tuples(
                st.sampled_from(SYMBOLS),
                st.sampled_from(["trade", "quote", "delta", "delta", "delta", "snapshot", "lost", "odd"]),
                st.lists(
                    st.tuples(
                        st.sampled_from([10.0, 20.0, 30.0, 40.0, 60.0, 70.0, 80.0, 90.0]),
                        st.sampled_from([0.0, 1.0, 2.0, 3.0]),
                    ),
                    max_size=4,
                ),
            ),
            max_size=30,
        ),
        times=st.integers(1, 6),
    )
    def publish(self, records: list[Any], times: int) -> None:
        found = [r for _ in range(times) for item in records for r in self._records(*item)]
        self.hub.publish(found, self.hub.now + S // 20)

    @precondition(lambda self: len(self.readers) < 6)
    @rule(
        topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=5, unique=True),
        policy=st.sampled_from(list(Policy)),
        queue=st.sampled_from([0, 1, 2, 7, 40]),
    )
    def join(self, topics: list[str], policy: Policy, queue: int) -> None:
        reader = Reader(self.hub)
        reader.topics, reader.policy, reader.queue = topics, policy, queue  # type: ignore[attr-defined]
        reader.subscribe(*topics, policy=policy, queue=queue)
        self.readers.append(reader)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), size=st.sampled_from([1, 100, 500, 3000, 1 << 20]))
    def read(self, data: Any, size: int) -> None:
        data.draw(st.sampled_from(self.readers)).read(size)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), drain=st.booleans())
    def reconnect(self, data: Any, drain: bool) -> None:
        index = data.draw(st.integers(0, len(self.readers) - 1))
        old = self.readers[index]
        if drain:
            old.drain()
        self.hub.detach(old.client)
        new = Reader(self.hub)
        new.topics, new.policy, new.queue = old.topics, old.policy, old.queue  # type: ignore[attr-defined]
        new.resume(old, *old.topics, policy=old.policy, queue=old.queue)  # type: ignore[attr-defined]
        self.readers[index] = new

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def give_up_and_take_again(self, data: Any) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        if reader.client.closing or reader.bye:
            return
        reader.drain()
        topic = reader.topics[0]
        self.hub.handle(reader.client, Unsubscribe(1, (topic,)), self.hub.now)
        kept = {stream.key for stream in reader.client.streams}
        for key in [key for key in reader.positions if key not in kept]:
            for held in (reader.positions, reader.books, reader.got, reader.lost, reader.first):
                held.pop(key, None)
        reader.subscribe(topic, policy=reader.policy, queue=reader.queue)

    @rule()
    def tick(self) -> None:
        self.hub.tick(self.hub.now + S)

    @invariant()
    def everything_holds(self) -> None:
        if not hasattr(self, "hub"):
            return
        self.hub.check()
        for reader in self.readers:
            client = reader.client
            assert len(client.queue) <= client.bound
            assert client.counters.high_water <= client.bound + SLACK

    def teardown(self) -> None:
        if not hasattr(self, "hub"):
            return
        for symbol in SYMBOLS:
            self.hub.publish(self._records(symbol, "snapshot", [(10.0, 1.0), (90.0, 1.0)]), self.hub.now + 1)
        for reader in self.readers:
            reader.drain()
            reader.check_complete()
            if reader.bye is not None:
                assert reader.bye.code == "slow"
                assert reader.policy is not Policy.DROP_OLDEST  # type: ignore[attr-defined]
                continue
            for key, replica in reader.books.items():
                if key not in {stream.key for stream in reader.client.streams}:
                    continue
                theirs = self.hub.books[f"v:{replica.book.symbol}"]
                assert replica.live
                assert same(replica.book, theirs, key.view or None)
            for key, last in reader.positions.items():
                stream = self.hub.streams[key]
                if stream in reader.client.streams:
                    assert last == stream.seq or (key.kind == Kind.GAPS and not last)
        for symbol, book in self.truth.items():
            assert same(book, self.hub.books[f"v:{symbol}"])
        for reader in self.readers:
            self.hub.detach(reader.client)
        self.hub.check()
        assert not any(stream.readers or stream.waiting for stream in self.hub.streams.values())
        super().teardown()


HubMachine.TestCase.settings = settings(max_examples=amount(60, 150), stateful_step_count=30, deadline=None)
TestHub = HubMachine.TestCase


def _readers(hub: Hub) -> list[Reader]:
    """Clients of all policies, some of which read nothing."""
    found = []
    for policy in (Policy.DROP_OLDEST, Policy.DISCONNECT, Policy.CONFLATE):
        for topics in (("trades *",), ("trades v:A", "candles@1s v:B", "quotes *"), ("trades v:B",)):
            reader = Reader(hub)
            reader.subscribe(*topics, policy=policy, queue=100)
            found.append(reader)
    return found


@given(
    st.lists(
        st.tuples(st.sampled_from("AB"), st.sampled_from(("trade", "trade", "text", "quote")), st.integers(1, 90)),
        max_size=12,
    ),
    st.lists(st.integers(0, 8), max_size=6),
    st.integers(50, 4_000),
)
def test_a_run_of_trades_is_sent_as_its_records_one_by_one(
    runs: list[tuple[str, str, int]], busy: list[int], portion: int
) -> None:
    one, many = world(replay_messages=70), world(replay_messages=70)
    one._on_trades = lambda trades: [one._on_trade(each) for each in trades]  # type: ignore[method-assign,assignment,return-value]
    pairs = list(zip(_readers(one), _readers(many), strict=True))
    n = 0
    for symbol, what, count in runs:
        records: list[Record] = []
        for _ in range(count):
            n += 1
            made = quote(n, symbol=symbol) if what == "quote" else trade(n, symbol=symbol, ts=T0 + n * S // 10)
            records.append(replace(made, trade_id=f"id {n}") if what == "text" and isinstance(made, Trade) else made)
        one.publish(records, T0 + n)
        many.publish(records, T0 + n)
        many.check()
        for number, (left, right) in enumerate(pairs):
            if number not in busy:
                assert [*left.read(portion)] == [*right.read(portion)]
    for left, right in pairs:
        assert [*left.read()] == [*right.read()]
        assert left.positions == right.positions
        assert left.bye == right.bye
        assert left.client.counters == right.client.counters
    assert [s.ring for s in one.streams.values()] == [s.ring for s in many.streams.values()]
    assert (one.counters.messages, one.counters.bytes) == (many.counters.messages, many.counters.bytes)


def test_what_many_clients_take_at_once_is_one_object() -> None:
    hub = world()
    readers = [Reader(hub) for _ in range(3)]
    for reader in readers:
        reader.subscribe("trades *")
    hub.publish([trade(1)], T0)
    for reader in readers:
        reader.drain()
    hub.publish([trade(n) for n in range(2, 9)], T0)
    first, second, third = (reader.client.take(1 << 20) for reader in readers)
    assert first is second
    assert third is second
    assert [codec.head(frame).seq for frame in first] == list(range(2, 9))
    assert {reader.client.counters.bytes for reader in readers} == {readers[0].client.counters.bytes}
    hub.publish([trade(9), trade(10)], T0)
    small = readers[0].client.take(1)
    assert len(small) == 1
    assert len(readers[1].client.take(1 << 20)) == 2
    hub.check()
