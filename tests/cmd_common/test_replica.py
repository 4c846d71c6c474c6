from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.builder import OrderBookBuilder
from cmd_common.feed_books import CountRule
from cmd_common.orderbook import OrderBook
from cmd_common.records import BookDelta, BookSnapshot, FeedStatus, pack_levels
from cmd_common.replica import BookReplica
from cmd_common.sequence import BookState

pytestmark = pytest.mark.usefixtures("either_book")


def snapshot(
    seq: int, bids: object, asks: object, epoch: int = 1, known: tuple[int, int] | None = None
) -> BookSnapshot:
    b, a = list(bids), list(asks)  # type: ignore[call-overload]
    return BookSnapshot(seq, seq, "v", "A", epoch, seq, *(known or (len(b), len(a))), pack_levels(b), pack_levels(a))


def delta(seq: int, bids: object = (), asks: object = (), epoch: int = 1) -> BookDelta:
    return BookDelta(seq, seq, "v", "A", epoch, seq, seq, pack_levels(bids), pack_levels(asks))  # type: ignore[arg-type]


def status(state: str, what: str = "book") -> FeedStatus:
    return FeedStatus(1, 1, "v", "A", what, "c", state, "")


def test_a_snapshot_makes_it_live_and_deltas_change_it() -> None:
    r = BookReplica("v", "A")
    assert not r.apply(delta(1, [(1.0, 1.0)]))
    assert not r.live
    assert r.load(snapshot(5, [(10.0, 1.0), (9.0, 1.0)], [(11.0, 1.0)], known=(1, 1)))
    assert r.live
    assert r.book.known_depth == (1, 1)
    assert r.apply(delta(6, [(10.0, 0.0)], [(12.0, 2.0)]))
    assert r.apply(delta(6, [(9.5, 3.0)]))  # another part of the same message
    assert not r.apply(delta(5, [(9.5, 4.0)]))
    assert r.book.bids() == [(9.5, 3.0), (9.0, 1.0)]
    assert (r.book.last_id, r.book.ts_event, r.ts_recv, r.epoch, r.ignored) == (6, 6, 6, 1, 2)
    r.check()


def test_its_snapshot_says_what_it_holds() -> None:
    r = BookReplica("v", "A")
    whole = snapshot(5, [(10.0, 1.0), (9.0, 1.0)], [(11.0, 1.0)])
    r.load(whole)
    assert r.snapshot() == whole
    assert r.same(whole)
    assert r.snapshot(1).bids == pack_levels([(10.0, 1.0)])
    assert r.snapshot(1).known_bids == 1
    assert not r.same(snapshot(6, [(10.0, 1.0), (9.0, 1.0)], [(11.0, 1.0)]))
    assert not r.same(snapshot(5, [(10.0, 1.0)], [(11.0, 1.0)]))
    r.lose()
    assert not r.same(whole)


def test_what_does_not_belong_to_it_makes_it_stale_and_leaves_it_readable() -> None:
    r = BookReplica("v", "A")
    for bad in (delta(6, epoch=2), delta(6, [(-1.0, 1.0)])):
        r.load(snapshot(5, [(10.0, 1.0)], [(11.0, 1.0)]))
        assert not r.apply(bad)
        assert r.book.state is BookState.STALE
        assert r.book.best_bid == (10.0, 1.0)
    r.load(snapshot(5, [(10.0, 1.0)], [(11.0, 1.0)]))
    assert not r.load(snapshot(6, [(10.0, -1.0)], []))
    assert r.book.state is BookState.STALE
    assert r.book.best_bid == (10.0, 1.0)
    assert r.malformed == 2


def test_states_are_followed_but_only_a_snapshot_makes_it_live() -> None:
    r = BookReplica("v", "A")
    assert r.status(status("SYNCING"))
    assert not r.status(status("LIVE"))
    assert r.book.state is BookState.SYNCING
    r.load(snapshot(5, [(10.0, 1.0)], [(11.0, 1.0)]))
    assert not r.status(status("snapshot_failed"))
    assert r.live
    assert r.status(status("STALE"))
    assert not r.status(status("STALE"))
    assert not r.status(status("LIVE"))
    assert r.book.state is BookState.STALE
    assert r.status(status("EMPTY"))
    assert r.book.bids() == []
    assert r.book.state is BookState.EMPTY
    r.check()


_LEVEL = st.tuples(st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0]), st.sampled_from([0.0, 1.0, 2.5]))
_CHANGES = st.lists(st.tuples(st.lists(_LEVEL, max_size=3), st.lists(_LEVEL, max_size=3)), max_size=30)


@given(_CHANGES, st.integers(0, 30))
def test_it_equals_the_book_whose_records_it_takes_from_any_snapshot_on(
    changes: list[tuple[list[tuple[float, float]], list[tuple[float, float]]]], joins: int
) -> None:
    book = OrderBook(venue="v", symbol="A")
    builder = OrderBookBuilder(book, CountRule(), snapshot_levels=1000)
    builder.start()
    builder.replace(1, [(0.5, 1.0)], [(9.0, 1.0)], ts_event=1, complete=True)
    source, joiner = BookReplica("v", "A"), BookReplica("v", "A")
    source.load(snapshot(1, [(0.5, 1.0)], [(9.0, 1.0)]))
    for n, (bids, asks) in enumerate(changes, 2):
        asks = [(price + 5.0, quantity) for price, quantity in asks]
        builder.delta(n, n, None, bids, asks, n)
        for replica in (source, joiner):
            replica.apply(delta(n, bids, asks))
        if n == joins:
            joiner.load(source.snapshot())
        source.check()
    assert source.book.bids() == book.bids()
    assert source.book.asks() == book.asks()
    if joiner.live:
        mine, theirs = joiner.snapshot(), source.snapshot()
        assert (mine.seq, mine.bids, mine.asks) == (theirs.seq, theirs.bids, theirs.asks)
        # A side that was empty when it joined says nothing of the range that is known.
        assert mine.known_bids <= theirs.known_bids
        assert mine.known_asks <= theirs.known_asks
