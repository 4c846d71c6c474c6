"""The seam between a store and live data: everything once, in order, and what is missing is told."""

from __future__ import annotations

from collections import defaultdict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.records import (
    BookDelta,
    BookSnapshot,
    Candle,
    FeedStatus,
    Gap,
    InstrumentRecord,
    Quote,
    Record,
    Trade,
    pack_levels,
)
from cmd_common.replica import BookReplica
from cmd_server.seam import Seam

S = 1_000_000_000


def trade(n: int, symbol: str = "A", *, ts: int | None = None, number: bool = True) -> Trade:
    ts = n * S if ts is None else ts
    id_ = str(n) if number else f"x{n:06x}"
    return Trade(ts, ts + 5, "v", symbol, id_, n if number else None, 100.0, 1.0, "buy")


def side(*pairs: tuple[float, float]) -> bytes:
    return pack_levels(pairs)


def snapshot(seq: int, epoch: int, quantity: float | None = None) -> BookSnapshot:
    bids, asks = side((99.0, seq if quantity is None else quantity)), side((101.0, 1.0))
    return BookSnapshot(seq * S, seq * S + 5, "v", "A", epoch, seq, 1, 1, bids, asks)


def delta(seq: int, epoch: int) -> BookDelta:
    return BookDelta(seq * S, seq * S + 5, "v", "A", epoch, seq, seq, side((99.0, seq)), side())


def candle(n: int, state: str = "final", ts: int = 0) -> Candle:
    at = n * 60 * S
    return Candle(at, at + 60 * S, ts or at + 60 * S, 1, "v", "A", "1m", "exchange", state, *[1.0] * 4, 1.0, 1.0, 1, 1.0, 1.0)  # type: ignore[arg-type]  # fmt: skip


def ids(records: list[Record]) -> list[int]:
    return [int(r.trade_id) for r in records if isinstance(r, Trade)]


def test_what_the_store_has_already_is_not_told_again() -> None:
    seam = Seam()
    assert seam.live([trade(5), trade(6)]) == []
    assert ids(seam.stored([trade(n) for n in range(1, 9)])) == [1, 2, 3, 4]
    assert seam.complete
    assert ids(seam.join()) == [5, 6]
    after = [trade(7)]
    assert seam.live(after) is after


def test_the_first_live_record_may_come_after_history_has_played_it() -> None:
    seam = Seam()
    assert ids(seam.stored([trade(n) for n in range(1, 6)])) == [1, 2, 3, 4, 5]
    assert not seam.complete  # no live data yet: another recorder may go on
    assert seam.live([trade(4)]) == []
    assert seam.live([trade(5), trade(6)]) == []
    assert seam.complete
    assert ids(seam.join()) == [6]
    assert (seam.repeats, seam.gaps) == (2, 0)


@pytest.mark.parametrize("number", [True, False])
def test_a_quiet_stream_is_compared_when_it_speaks(number: bool) -> None:
    seam = Seam()
    seam.stored([trade(n, number=number) for n in range(1, 4)])
    seam.live([trade(1, "B")])
    assert len(seam.join()) == 1
    got = [*seam.live([trade(2, number=number), trade(3, number=number)]), *seam.live([trade(4, number=number)])]
    assert [r.ts_event for r in got if isinstance(r, Trade)] == [4 * S]


def test_ids_prove_a_hole() -> None:
    seam = Seam()
    seam.stored([trade(n) for n in range(1, 11)])
    seam.live([trade(15)])
    assert not seam.complete
    gap, first = seam.join()
    assert isinstance(gap, Gap)
    assert (gap.first_id, gap.last_id, gap.record_type, gap.severity) == (11, 14, "trades", "lost")
    assert (gap.ts_from, gap.ts_to) == (10 * S, 15 * S)
    assert first == trade(15)


def test_ids_prove_a_hole_after_the_join_too() -> None:
    seam = Seam()
    seam.stored([trade(n) for n in range(1, 11)])
    seam.join()
    gap, first = seam.live([trade(12)])
    assert isinstance(gap, Gap)
    assert (gap.first_id, gap.last_id, first) == (11, 11, trade(12))


def test_ids_that_do_not_rise_by_one_prove_nothing_while_the_store_is_recorded_into() -> None:
    seam = Seam()
    seam.live([trade(100), trade(90, "B")])
    seam.stored([trade(n) for n in (3, 17, 60, 88, 101)])
    seam.stored([trade(n, "B") for n in (1, 20, 50)])
    assert [type(r) for r in seam.join()] == [Trade, Trade]


def test_a_gap_that_the_feed_tells_is_not_told_twice() -> None:
    told = Gap(10 * S, 15 * S, "v", "A", "trades", "restart", "lost", 11, 14)
    seam = Seam()
    seam.stored([trade(n) for n in range(1, 11)])
    seam.live([told, trade(15)])
    assert seam.join() == [told, trade(15)]


def lost(first: int, last: int, reason: str = "restart") -> Gap:
    return Gap((first - 1) * S, (last + 1) * S, "v", "A", "trades", reason, "lost", first, last)


@pytest.mark.parametrize("apart", [True, False])
def test_a_gap_that_the_feed_tells_after_the_join_is_not_told_twice(apart: bool) -> None:
    seam = Seam()
    seam.stored([trade(n) for n in range(1, 11)])
    assert seam.join() == []  # the live source was silent for longer than one waits
    told, rest = [lost(11, 14)], [trade(15), trade(16)]
    got = [*seam.live(told), *seam.live(rest)] if apart else list(seam.live([*told, *rest]))
    assert got == [*told, *rest]
    assert seam.gaps == 0


def test_a_gap_of_another_stream_excuses_no_hole() -> None:
    seam = Seam()
    seam.stored([trade(n) for n in range(1, 11)])
    seam.join()
    other = Gap(S, 2 * S, "v", "B", "trades", "restart", "lost", 1, 2)
    assert [type(r) for r in seam.live([other, trade(15)])] == [Gap, Gap, Trade]
    assert seam.gaps == 1


@pytest.mark.parametrize("joined", [True, False])
def test_a_gap_that_was_stored_before_live_data_is_taken_is_not_told_twice(joined: bool) -> None:
    seam = Seam()
    gap = lost(11, 14)
    played = seam.stored([*[trade(n) for n in range(1, 11)], gap])
    assert played[-1] == gap
    got = [] if not joined else seam.join()
    got = [*got, *seam.live([gap, trade(15)])]
    if not joined:
        got += seam.join()
    assert got == [trade(15)]
    assert (seam.repeats, seam.gaps) == (1, 0)


def test_records_without_ids_are_told_apart_by_their_keys() -> None:
    seam = Seam()
    live = [trade(n, ts=7 * S, number=False) for n in (3, 4)]
    seam.live(live)
    stored = [trade(1, ts=6 * S, number=False), *(trade(n, ts=7 * S, number=False) for n in (2, 3, 4, 5))]
    out = seam.stored(stored)
    # what came at the same time and is not live is older than what is
    assert [r.trade_id for r in out if isinstance(r, Trade)] == ["x000001", "x000002", "x000005"]
    assert seam.join() == live


def test_instruments_go_on_at_once_and_states_follow_in_order() -> None:
    instrument = InstrumentRecord(1, 1, "v", "A", "A", "B", "", "spot", "1", "1", "", "", "", False, None, "trading")
    old = FeedStatus(1, 1, "v", "A", "book", "c", "STALE", "")
    new = FeedStatus(9, 9, "v", "A", "book", "c", "SYNCING", "")
    seam = Seam()
    assert seam.live([instrument, new, trade(1)]) == [instrument]
    assert seam.stored([old, new]) == [old]
    assert seam.join() == [new, trade(1)]


def test_an_open_candle_is_told_by_live_data() -> None:
    seam = Seam()
    seam.live([candle(3, "provisional", 190 * S), candle(3)])
    assert seam.stored([candle(1), candle(2), candle(3), candle(4, "provisional")]) == [candle(1), candle(2)]
    assert seam.complete
    assert seam.join() == [candle(3, "provisional", 190 * S), candle(3)]


def test_candles_that_nobody_has_are_a_gap() -> None:
    seam = Seam()
    seam.stored([candle(1), candle(2)])
    seam.live([candle(5, "provisional", 301 * S)])
    gap = seam.join()[0]
    assert isinstance(gap, Gap)
    assert (gap.ts_from, gap.ts_to, gap.detail) == (180 * S, 300 * S, "1m")


def test_a_quote_repeats_only_at_its_own_time() -> None:
    quotes = [Quote(n * S, n * S, "v", "A", n, 1.0, 1.0, 2.0, 1.0) for n in range(6)]
    seam = Seam()
    seam.live(quotes[3:])
    assert seam.stored(quotes) == quotes[:3]
    assert seam.join() == quotes[3:]


def replica_of(records: list[Record]) -> BookReplica:
    replica = BookReplica("v", "A")
    for record in records:
        if isinstance(record, BookSnapshot):
            replica.load(record)
        elif isinstance(record, BookDelta):
            replica.apply(record)
        elif isinstance(record, FeedStatus):
            replica.status(record)
    return replica


def test_a_book_begins_again_with_the_live_snapshot() -> None:
    seam = Seam()
    seam.live([snapshot(10, 10), delta(11, 10)])
    out = seam.stored([snapshot(1, 1), *(delta(n, 1) for n in range(2, 10)), delta(10, 1), delta(11, 1)])
    assert seam.complete
    book = replica_of([*out, *seam.join()])
    assert book.live
    assert (book.book.last_id, book.book.best_bid) == (11, (99.0, 11.0))


def test_a_book_whose_updates_nobody_has_is_made_from_the_live_one() -> None:
    seam = Seam(limit=3)
    seam.stored([snapshot(1, 1), delta(2, 1)])
    seam.live([snapshot(10, 10), *(delta(n, 10) for n in range(11, 16))])
    assert seam.dropped == 3
    now = snapshot(15, 10)
    out = seam.join(lambda venue, symbol, epoch: now)
    assert [type(r) for r in out] == [Gap, BookSnapshot]
    assert isinstance(out[0], Gap)
    assert (out[0].record_type, out[0].first_id, out[0].last_id) == ("book_deltas", 3, 12)
    book = replica_of([*out, *seam.live([delta(16, 10)])])
    assert (book.live, book.book.last_id) == (True, 16)


def test_a_book_that_cannot_be_made_is_stale_until_the_next_snapshot() -> None:
    seam = Seam(limit=2)
    out: list[Record] = [*seam.stored([snapshot(1, 1)])]
    seam.live([snapshot(10, 10), *(delta(n, 10) for n in range(11, 15))])
    out += seam.join(lambda venue, symbol, epoch: None)
    assert not replica_of(out).live
    out += seam.live([delta(15, 10)])
    assert not replica_of(out).live
    assert replica_of([*out, *seam.live([snapshot(15, 10)])]).live


def test_states_and_gaps_are_never_dropped() -> None:
    seam = Seam(limit=1)
    state = FeedStatus(1, 1, "v", "", "", "c", "connected", "")
    assert list(seam.live([state, trade(1), trade(2)])) == [state]


class World:
    """A venue whose trades are recorded with a delay, and heard live from some moment on."""

    def __init__(self, limit: int, recorded: bool, held_back: int, lag: bool) -> None:
        self.seam = Seam(limit)
        self.lag = lag  # the store may be ahead of what is heard
        self.heard: deque[Record] = deque()
        self.recorded = recorded
        self.delay = held_back
        self.happened: list[Trade] = []
        self.store: list[Trade] = []
        self.read = 0
        self.out: list[Record] = []
        self.next: dict[str, int] = defaultdict(int)
        self.listening = False

    def trade(self, symbol: str) -> None:
        self.next[symbol] += 1
        record = trade(self.next[symbol], symbol, ts=(len(self.happened) + 1) * S)
        self.happened.append(record)
        if self.recorded or not self.listening:
            self.store = self.happened[: max(len(self.store), len(self.happened) - self.delay)]
        if self.listening:
            self.heard.append(record)
            self.deliver(0 if self.lag else 1)

    def deliver(self, n: int) -> None:
        for _ in range(min(n, len(self.heard))):
            self.out += self.seam.live([self.heard.popleft()])

    def listen(self) -> None:
        if not self.recorded:
            self.store = list(self.happened)
        self.listening = True

    def play(self, n: int) -> None:
        if not self.seam.joined:
            rows = self.store[self.read : self.read + n]
            self.read += len(rows)
            self.out += self.seam.stored(rows)

    def finish(self) -> None:
        """The delay passes, the store is read to its end, and live data goes on."""
        if self.recorded:
            self.store = list(self.happened)
        self.play(len(self.happened))
        self.out += self.seam.join()
        self.lag = False
        self.deliver(len(self.heard))


STEPS = st.lists(
    st.one_of(
        st.sampled_from(["A", "A", "A", "B", "C"]).map(lambda s: ("trade", s)),
        st.integers(1, 20).map(lambda n: ("play", n)),
        st.integers(1, 20).map(lambda n: ("deliver", n)),
        st.just(("listen", "")),
    ),
    max_size=120,
)


@given(
    steps=STEPS,
    limit=st.sampled_from([1, 2, 5, 1000]),
    recorded=st.booleans(),
    delay=st.integers(0, 10),
    lag=st.booleans(),
    more=STEPS,
)
def test_every_trade_once_and_in_order_or_a_gap(
    steps: list[tuple[str, object]], limit: int, recorded: bool, delay: int, lag: bool, more: list[tuple[str, object]]
) -> None:
    world = World(limit, recorded, delay, lag)
    for symbol in "AAABBBCCC":
        world.trade(symbol)
    for what, value in steps:
        if what == "trade":
            world.trade(str(value))
        elif what == "play":
            world.play(int(str(value)))
        elif what == "deliver":
            world.deliver(int(str(value)))
        elif not world.listening:
            world.listen()
        world.seam.check()
    if not world.listening:
        world.listen()
    world.play(9)
    world.finish()
    for what, value in more:
        if what == "trade":
            world.trade(str(value))
    world.seam.check()
    for symbol, last in world.next.items():
        got = ids([r for r in world.out if isinstance(r, Trade) and r.symbol == symbol])
        assert got == sorted(set(got))
        missing = set(range(1, last + 1)) - set(got)
        if recorded or limit == 1000:
            assert missing == set()
        told = {
            n
            for gap in world.out
            if isinstance(gap, Gap) and gap.symbol == symbol and gap.first_id is not None and gap.last_id is not None
            for n in range(gap.first_id, gap.last_id + 1)
        }
        assert told == missing


class BookWorld:
    """A venue with one book, recorded by another process (its own epoch) or by this one, and heard live from some moment on."""

    def __init__(self, limit: int, own: bool, recorded: bool, delay: int, lag: bool) -> None:
        self.seam = Seam(limit)
        self.lag = lag and not own  # another recorder may be ahead of what is heard
        self.heard: deque[list[Record]] = deque()
        self.known: BookSnapshot | None = None  # the live book as far as it was heard
        self.own, self.recorded, self.delay = own, recorded, delay
        self.levels: dict[float, float] = {1.0: 1.0}
        self.seq = 1
        self.all: list[Record] = [self.snap(1)]  # what recorders write, in order
        self.store: list[Record] = []
        self.read = 0
        self.epoch = 0  # of the live book; 0: nobody listens
        self.replica = BookReplica("v", "A")

    def snap(self, epoch: int) -> BookSnapshot:
        bids = pack_levels(sorted(self.levels.items(), reverse=True))
        at = self.seq * S
        return BookSnapshot(at, at + 5, "v", "A", epoch, self.seq, len(self.levels), 1, bids, side((99.0, 1.0)))

    def hear(self, records: list[Record]) -> None:
        self.heard.append([*records, self.snap(self.epoch)])  # with the book that the feed has then
        self.deliver(0 if self.lag else 1)

    def deliver(self, n: int) -> None:
        for _ in range(min(n, len(self.heard))):
            *records, self.known = self.heard.popleft()  # type: ignore[assignment]  # the last one is the book
            self.tell(list(self.seam.live(records)))

    def tell(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, BookSnapshot):
                self.replica.load(record)
            elif isinstance(record, BookDelta):
                self.replica.apply(record)
            elif isinstance(record, FeedStatus):
                self.replica.status(record)

    def update(self, price: int, *, snapshot: bool = False) -> None:
        self.seq += 1
        at, quantity = self.seq * S, float(self.seq)
        self.levels[float(price)] = quantity

        def change(epoch: int) -> list[Record]:
            found: list[Record] = [
                BookDelta(at, at + 5, "v", "A", epoch, self.seq, self.seq, side((float(price), quantity)), b"")
            ]
            return [*found, self.snap(epoch)] if snapshot else found

        live = change(self.epoch) if self.epoch else []
        if not self.epoch or (self.recorded and not self.own):
            self.all += change(1)
        elif self.recorded:
            self.all += live
        self.flush(self.delay)
        if live:
            self.hear(live)

    def flush(self, delay: int) -> None:
        self.store = self.all[: max(len(self.store), len(self.all) - delay)]

    def listen(self) -> None:
        if not self.recorded or self.own:
            self.flush(0)  # the recorder before us has ended
        self.epoch = self.seq
        first = self.snap(self.epoch)
        if self.recorded and self.own:
            self.all.append(first)
        self.hear([first])

    def play(self, n: int) -> None:
        if not self.seam.joined:
            rows = self.store[self.read : self.read + n]
            self.read += len(rows)
            self.tell(self.seam.stored(rows))

    def live_book(self, venue: str, symbol: str, epoch: int) -> BookSnapshot | None:
        assert epoch == self.epoch
        return self.known


BOOK_STEPS = st.lists(
    st.one_of(
        st.integers(1, 6).map(lambda p: ("update", p)),
        st.integers(1, 6).map(lambda p: ("update", p)),
        st.integers(1, 6).map(lambda p: ("snapshot", p)),
        st.integers(1, 12).map(lambda n: ("play", n)),
        st.integers(1, 12).map(lambda n: ("deliver", n)),
        st.just(("listen", 0)),
    ),
    max_size=80,
)


@given(
    steps=BOOK_STEPS,
    limit=st.sampled_from([1, 3, 1000]),
    own=st.booleans(),
    recorded=st.booleans(),
    delay=st.integers(0, 6),
    lag=st.booleans(),
    more=st.lists(st.integers(1, 6), max_size=10),
)
def test_a_book_is_right_after_the_join_whoever_records(
    steps: list[tuple[str, int]], limit: int, own: bool, recorded: bool, delay: int, lag: bool, more: list[int]
) -> None:
    world = BookWorld(limit, own, recorded, delay, lag)
    for what, value in steps:
        if what == "play":
            world.play(value)
        elif what == "deliver":
            world.deliver(value)
        elif what == "listen":
            if not world.epoch:
                world.listen()
        else:
            world.update(value, snapshot=what == "snapshot")
        world.seam.check()
    if not world.epoch:
        world.listen()
    if recorded:
        world.flush(0)
    world.play(10_000)
    world.tell(world.seam.join(world.live_book))
    world.lag = False
    world.deliver(len(world.heard))
    for price in more:
        world.update(price)
    replica = world.replica
    assert replica.live
    assert replica.book.last_id == world.seq
    assert dict(replica.book.bids()) == world.levels
