"""What watch shows of books merged over venues: lines, facts for a pipe, the application."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import pytest

from cmd_cli.watch import lines, merged, plain, screen
from cmd_cli.watch.app import LinesWidget, WatchApp
from cmd_cli.watch.merged import MergedView
from cmd_common.aggregate import AggregatedOrderBook
from cmd_common.errors import CmdError
from cmd_common.multibook import MultiSymbolOrderBook
from cmd_common.records import FeedStatus, Record, Trade
from cmd_common.seams import SystemClock
from cmd_common.sequence import BookState

T0 = 1_723_161_253_000_000_000
S = 1_000_000_000


def made(**more: Any) -> MergedView:
    """Three venues, of which the third is not LIVE."""
    books = MultiSymbolOrderBook()
    book = AggregatedOrderBook("BTC-USDT", **more)
    for venue, bid, ask in (("alpha", 100.0, 101.5), ("beta", 100.5, 102.0), ("gamma", 99.0, 103.0)):
        single = books.add(venue, "BTCUSDT")
        single.load([(bid, 1.0), (bid - 1, 2.0)], [(ask, 0.5), (ask + 1, 4.0)])
        single.state = BookState.LIVE if venue != "gamma" else BookState.STALE
        single.ts_event = T0
        book.add(single, now=T0)
    return MergedView(books, {"BTC-USDT": book})


def trade(n: int, venue: str = "alpha", symbol: str = "BTCUSDT") -> Trade:
    return Trade(T0 + n, T0, venue, symbol, str(n), n, 100.0 + n, 0.25, "buy")


def text(shown: Sequence[lines.Line]) -> list[str]:
    return ["".join(t for t, _ in line) for line in shown]


class TestLadder:
    def test_a_column_a_book_shows_its_part(self) -> None:
        view = made()
        assert view.book is not None
        shown = text(merged.ladder(view, 120, 12, T0))
        assert shown[0].split() == ["BTC-USDT", "PARTIAL"]
        assert shown[1].split() == ["price", "quantity", "alpha", "beta"]
        assert [row.split() for row in shown if row.strip().startswith(("ask", "bid"))] == [
            ["ask", "103.0", "4.0", "·", "4.0"],
            ["ask", "102.5", "4.0", "4.0", "·"],
            ["ask", "102.0", "0.5", "·", "0.5"],
            ["ask", "101.5", "0.5", "0.5", "·"],
            ["bid", "100.5", "1.0", "·", "1.0"],
            ["bid", "100.0", "1.0", "1.0", "·"],
            ["bid", "99.5", "2.0", "·", "2.0"],
            ["bid", "99.0", "2.0", "2.0", "·"],
        ]
        assert any("bid beta" in row and "ask alpha" in row and "spread 1.0" in row for row in shown)

    def test_who_is_left_out_is_said_with_the_reason(self) -> None:
        view = made(max_age=5 * S)
        assert text(merged.ladder(view, 80, 12, T0))[-1] == "left out: gamma:BTCUSDT: stale"
        shown = text(merged.ladder(view, 80, 12, T0 + 6 * S))
        assert [row for row in shown if row.startswith("left out")] == [
            "left out: alpha:BTCUSDT: old",
            "left out: beta:BTCUSDT: old",
            "left out: gamma:BTCUSDT: stale",
        ]
        assert "waiting for the order books" in shown
        assert "STALE" in shown[0]
        assert text(merged.ladder(view, 80, 6, T0 + 6 * S))[-1] == "left out: 2 more"

    def test_a_crossed_book_is_said_with_its_age_and_both_venues(self) -> None:
        view = made()
        view.books["beta:BTCUSDT"].apply([(101.75, 1.0)], [])
        view.aggregates["BTC-USDT"].update("beta:BTCUSDT", T0)
        shown = text(merged.ladder(view, 120, 12, T0 + 2 * S))
        assert "CROSSED for 2.0 s: bid 101.75 of beta:BTCUSDT, ask 101.50 of alpha:BTCUSDT" in shown
        view.books["beta:BTCUSDT"].apply([(101.75, 0.0), (101.5, 1.0)], [])
        view.aggregates["BTC-USDT"].update("beta:BTCUSDT", T0)
        assert any(row.startswith("LOCKED for") for row in text(merged.ladder(view, 120, 12, T0)))

    def test_with_fees_the_price_that_the_venue_shows_stays_there(self) -> None:
        shown = text(merged.ladder(made(fees={"alpha": 100.0}), 120, 12, T0))
        assert shown[1].split() == ["price", "shown", "quantity", "alpha", "beta"]
        assert ["bid", "99.000", "100.0", "1.0", "1.0", "·"] in [row.split() for row in shown]

    def test_two_books_of_a_venue_have_their_symbols_in_the_head(self) -> None:
        view = made()
        other = view.books.add("alpha", "BTCUSD")  # type: ignore[attr-defined]
        other.load([(100.0, 3.0)], [])
        other.state = BookState.LIVE
        view.aggregates["BTC-USDT"].add(other, now=T0)
        head = text(merged.ladder(view, 120, 12, T0))[1]
        assert head.split() == ["price", "quantity", "alpha:BTCUSDT", "beta", "alpha:BTCUSD"]

    @pytest.mark.parametrize("width", [1, 10, 40, 200])
    @pytest.mark.parametrize("height", [1, 4, 5, 9, 50])
    def test_nothing_is_wider_or_higher_than_its_place(self, width: int, height: int) -> None:
        view = made()
        view.apply([trade(n) for n in range(100)], T0)
        for shown in (
            merged.ladder(view, width, height, T0),
            merged.trades(view, width, height),
            merged.venues(view, width, height),
        ):
            assert all(len(row) <= max(width, len("waiting for the order books")) for row in text(shown))
        assert len(merged.ladder(view, 80, height, T0)) <= max(1, height)

    def test_one_side_and_nothing(self) -> None:
        view = made()
        for name in ("alpha:BTCUSDT", "beta:BTCUSDT"):
            view.books[name].load([(1.0, 1.0)], [])
            view.aggregates["BTC-USDT"].update(name, T0)
        assert "one side is empty" in text(merged.ladder(view, 80, 12, T0))
        assert text(merged.ladder(MergedView(MultiSymbolOrderBook(), {}), 80, 12, T0)) == ["no order book"]


class TestPanels:
    def test_trades_of_all_its_books(self) -> None:
        view = made()
        view.apply([trade(1), trade(2, "beta"), trade(3, "beta", "ETHUSDT"), trade(4, "delta")], T0)
        shown = text(merged.trades(view, 80, 8))
        assert [row.split()[1] for row in shown[1:]] == ["beta", "alpha"]
        assert view.markets["BTC-USDT"].count == 2

    def test_every_book_with_its_state_age_and_prices(self) -> None:
        view = made()
        view.aggregates["BTC-USDT"].refresh(T0 + 3 * S // 2)
        shown = [row.split() for row in text(merged.venues(view, 80, 8))]
        assert shown == [
            ["book", "state", "updated", "bid", "ask"],
            ["alpha:BTCUSDT", "in", "1.5", "s", "100.0", "101.5"],
            ["beta:BTCUSDT", "in", "1.5", "s", "100.5", "102.0"],
            ["gamma:BTCUSDT", "stale", "1.5", "s", "·", "·"],
        ]

    def test_the_state_of_a_merged_book(self) -> None:
        view = made()
        assert view.state("BTC-USDT") == "PARTIAL"
        view.books["gamma:BTCUSDT"].state = BookState.LIVE
        assert view.state("BTC-USDT") == "LIVE"
        view.apply([FeedStatus(T0, T0, "alpha", "BTCUSDT", "book", "c", "LIVE", "")], T0)
        assert view.markets["BTC-USDT"].seen == T0
        view.ended = True
        assert view.state("BTC-USDT") == "ENDED"


class TestPipe:
    def test_facts(self) -> None:
        view = made()
        view.books["beta:BTCUSDT"].apply([(101.75, 1.0)], [])
        view.aggregates["BTC-USDT"].update("beta:BTCUSDT", T0)
        found = merged.facts(view, "BTC-USDT", T0 + S)
        assert found["best_bid"] == [101.75, 1.0, ["beta:BTCUSDT"]]
        assert found["excluded"] == {"gamma:BTCUSDT": "stale"}
        assert found["crossed"] == {
            "locked": False,
            "age": S,
            "bid": [101.75, "beta:BTCUSDT"],
            "ask": [101.5, "alpha:BTCUSDT"],
        }
        assert found["asks"][0] == [101.5, 0.5, [["alpha:BTCUSDT", 101.5, 0.5]]]  # type: ignore[index]
        assert merged.words(found) == (
            "23:54:13.000 BTC-USDT PARTIAL  bid 101.75 x 1 beta:BTCUSDT  ask 101.5 x 0.5 alpha:BTCUSDT"
            "  CROSSED for 1.0 s (beta:BTCUSDT, alpha:BTCUSDT)  left out gamma:BTCUSDT (stale)"
        )

    def test_without_any_book(self) -> None:
        view = MergedView(MultiSymbolOrderBook(), {"BTC-USDT": AggregatedOrderBook("BTC-USDT")})
        assert merged.words(screen.facts(view, "BTC-USDT", T0)) == "BTC-USDT STALE"


class Source:
    """A live source of merged books."""

    def __init__(self, records: Sequence[Sequence[Record]]) -> None:
        view = made()
        self.books = view.books
        self.aggregates: dict[str, AggregatedOrderBook] = {}
        self._aggregates = dict(view.aggregates)
        self.error: CmdError | None = None
        self.records = records
        self.go_on = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.aggregates = self._aggregates
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def subscribe(self) -> AsyncIterator[Sequence[Record]]:
        for records in self.records:
            yield records
        await self.go_on.wait()


class Frozen(SystemClock):
    """Our clock stands still, so that no book grows old."""

    def now(self) -> int:
        return T0


async def test_a_pipe_gets_the_merged_book() -> None:
    source, out = Source([[trade(1)]]), io.StringIO()
    source.go_on.set()
    await plain.watch(source, Frozen(), json=True, out=out)  # type: ignore[arg-type]
    shown = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [s["instrument"] for s in shown] == ["BTC-USDT"]
    assert shown[0]["trades"] == 1
    assert shown[0]["best_ask"] == [101.5, 0.5, ["alpha:BTCUSDT"]]


def test_a_plain_frame() -> None:
    shown = plain.frame(made(), 120, 30, T0)
    assert "alpha:BTCUSDT" in shown
    assert "left out: gamma:BTCUSDT: stale" in shown


async def test_the_application() -> None:
    source = Source([[trade(1)], [trade(2, "beta")]])
    app = WatchApp(source, Frozen())  # type: ignore[arg-type]
    async with app.run_test(size=(150, 30)) as pilot:
        panel = {p.id: p for p in app.query(LinesWidget)}
        for _ in range(200):
            if "beta" in " ".join(text(panel["trades"].shown)):
                break
            await pilot.pause(0.02)
        assert text(panel["ladder"].shown)[0].split() == ["BTC-USDT", "PARTIAL"]
        assert text(panel["ladder"].shown)[1].split() == ["price", "quantity", "alpha", "beta"]
        assert "gamma:BTCUSDT" in text(panel["candles"].shown)[3]
        source.books["gamma:BTCUSDT"].state = BookState.LIVE
        for _ in range(200):
            if "LIVE" in text(panel["ladder"].shown)[0]:
                break
            await pilot.pause(0.02)
        assert text(panel["ladder"].shown)[1].split()[-1] == "gamma"
        await pilot.press("q")
    assert app.error is None
