"""History at a speed, and live data that waits for its end; by a clock of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cmd_common.records import FeedStatus, InstrumentRecord, Record, Trade
from cmd_server.messages import REPLAYED
from cmd_server.playing import Player

S = 1_000_000_000


class Clock:
    """Time passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.time = 1_000 * S
        self.on_sleep: Callable[[], None] = lambda: None

    def now(self) -> int:
        return self.time

    def monotonic(self) -> int:
        return self.time

    async def sleep(self, ns: int) -> None:
        assert ns >= 0
        self.time += ns
        self.on_sleep()
        await asyncio.sleep(0)


class Store:
    """What a Reading is to a Player; ``passes`` are given one after another."""

    def __init__(self, *passes: list[Record]) -> None:
        self.passes = [list(p) for p in passes]
        self.closed = False
        self.book: list[Record] = []

    def instruments(self) -> list[Record]:
        return [INSTRUMENT]

    def book_at_start(self) -> list[Record]:
        return self.book

    def next(self) -> list[Record]:
        if not self.passes:
            return []
        rows = self.passes[0][:10]
        del self.passes[0][:10]
        if not rows:
            del self.passes[0]
        return rows

    def close(self) -> None:
        self.closed = True


INSTRUMENT = InstrumentRecord(1, 1, "v", "A", "A", "B", "", "spot", "1", "1", "", "", "", False, None, "trading")


def trade(n: int, at: int | None = None) -> Trade:
    return Trade(n * S if at is None else at, n * S + 5, "v", "A", str(n), n, 1.0, 1.0, "buy")


class Played:
    def __init__(self, store: Store, **options: Any) -> None:
        self.clock = Clock()
        self.out: list[tuple[int, Record, int]] = []
        self.most = options.pop("most", 1000)
        self.player = Player(store, self.publish, self.clock, self.room, **options)  # type: ignore[arg-type]

    def publish(self, records: Sequence[Record], flags: int) -> None:
        self.out += [(self.clock.time - 1_000 * S, record, flags) for record in records]

    async def room(self) -> int:
        return self.most  # type: ignore[no-any-return]

    @property
    def ids(self) -> list[int]:
        return [r.trade_seq or 0 for _, r, _ in self.out if isinstance(r, Trade)]


async def test_a_store_is_played_at_its_speed() -> None:
    store = Store([trade(n) for n in range(10, 40)])
    played = Played(store, speed=10.0)
    await played.player.play(join=False, instruments=True)
    times = [at for at, r, _ in played.out if isinstance(r, Trade)]
    assert played.out[0][1:] == (INSTRUMENT, 0)
    assert [f for _, r, f in played.out if isinstance(r, Trade)] == [REPLAYED] * 30
    assert times == [pytest.approx(n * S / 10, abs=S / 100) for n in range(30)]
    assert store.closed


async def test_a_long_hole_is_shortened_and_another_clock_does_not_matter() -> None:
    status = FeedStatus(10**18, 10**18, "v", "", "", "c", "connected", "")
    played = Played(Store([trade(1), status, trade(100_000), trade(100_001)]), speed=1.0)
    await played.player.play(join=False, instruments=False)
    assert [at // S for at, _, _ in played.out] == [0, 0, 5, 6]


@pytest.mark.parametrize("most", [1, 3, 1000])
async def test_live_data_waits_and_follows_once(most: int) -> None:
    played = Played(Store([trade(n) for n in range(1, 20)]), most=most)
    played.player.live([INSTRUMENT, trade(18), trade(19)])
    assert [r for _, r, _ in played.out] == [INSTRUMENT]
    await played.player.play(join=True, instruments=False)
    played.player.live([trade(20)])
    assert played.ids == list(range(1, 21))
    assert [f for _, r, f in played.out if isinstance(r, Trade)] == [REPLAYED] * 17 + [0] * 3
    assert played.player.played == 17


async def test_a_store_that_is_recorded_into_is_read_until_it_reaches_live_data() -> None:
    store = Store([trade(n) for n in range(1, 10)], [trade(n) for n in range(10, 15)], [trade(15), trade(16)])
    played = Played(store)
    played.player.live([trade(16)])
    await played.player.play(join=True, instruments=False)
    assert played.ids == list(range(1, 17))
    assert played.player.seam.gaps == 0


async def test_a_store_that_does_not_grow_is_left_after_a_while() -> None:
    played = Played(Store([trade(n) for n in range(1, 10)]))
    played.player.live([trade(16)])
    await played.player.play(join=True, instruments=False)
    assert played.ids == [*range(1, 10), 16]
    assert played.player.seam.gaps == 1
    assert 5 * S <= played.clock.time - 1_000 * S <= 6 * S


async def test_live_records_that_come_while_history_plays() -> None:
    played = Played(Store([trade(n) for n in range(1, 60)]), speed=20.0)
    live = iter(range(30, 200))
    played.clock.on_sleep = lambda: played.player.live([trade(next(live))])
    await played.player.play(join=True, instruments=False)
    assert played.ids == list(range(1, played.ids[-1] + 1))


async def test_a_store_that_fails_says_so_and_is_closed() -> None:
    from cmd_common.errors import StoreError

    class Broken(Store):
        def next(self) -> list[Record]:
            raise StoreError("gone")

    store = Broken()
    with pytest.raises(StoreError, match="gone"):
        await Played(store).player.play(join=True, instruments=False)
    assert store.closed


async def test_a_reader_is_not_closed_while_it_reads() -> None:
    reading, go = threading.Event(), threading.Event()

    class Slow(Store):
        inside = False

        def next(self) -> list[Record]:
            self.inside = True
            reading.set()
            go.wait(60)
            self.inside = False
            return [trade(1)]

        def close(self) -> None:
            assert not self.inside
            super().close()

    store = Slow()
    task = asyncio.create_task(Played(store).player.play(join=False, instruments=False))
    await asyncio.to_thread(reading.wait, 60)
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.closed
