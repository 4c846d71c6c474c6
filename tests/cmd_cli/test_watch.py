"""What watch shows: lines from records and books, the plain screen, the application under textual's pilot."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Self

import pytest

from cmd_cli.commands.watch import Held
from cmd_cli.output import Output
from cmd_cli.watch import lines, plain
from cmd_cli.watch.app import LinesWidget, WatchApp
from cmd_cli.watch.model import View
from cmd_common.aggregate import AggregatedOrderBook
from cmd_common.errors import CmdError, DisconnectedError
from cmd_common.multibook import MultiSymbolOrderBook
from cmd_common.records import Candle, FeedStatus, Quote, Record, Trade
from cmd_common.seams import SystemClock
from cmd_common.sequence import BookState

T0 = 1_723_161_253_000_000_000
BTC, ETH = "spot:BTCUSDT", "spot:ETHUSDT"


def trade(n: int, symbol: str = "BTCUSDT", side: str = "buy") -> Trade:
    return Trade(T0 + n * 1_000_000, T0, "spot", symbol, str(n), n, 61_000.5 + n, 0.25, side)  # type: ignore[arg-type]


def candle(minute: int, close: float = 2.0, interval: str = "1m", length: int = 60_000_000_000) -> Candle:
    at = T0 // length * length + minute * length
    return Candle(at, at + length, at, at, "spot", "BTCUSDT", interval, "exchange", "final", 1.0, 3.0, 0.5, close, 7.0, 9.0, 4, 1.0, 1.0)  # fmt: skip


def books() -> MultiSymbolOrderBook:
    found = MultiSymbolOrderBook()
    book = found.add("spot", "BTCUSDT", tick_size=Decimal("0.01"))
    book.load([(61_000.0, 1.0), (60_999.5, 2.0)], [(61_000.5, 0.5), (61_001.0, 4.0)])
    book.state = BookState.LIVE
    found.add("spot", "ETHUSDT")
    return found


class Source:
    """A live source whose records the test chooses; the books are real."""

    def __init__(self, records: Sequence[Sequence[Record]] = (), error: CmdError | None = None) -> None:
        self.books = MultiSymbolOrderBook()
        self.aggregates: dict[str, AggregatedOrderBook] = {}
        self.error = error
        self.records = records
        self.entered = self.left = 0
        self.go_on = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.entered += 1
        for book in books().values():
            self.books.add(book.venue, book.symbol, book=book)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left += 1

    async def subscribe(self) -> AsyncIterator[Sequence[Record]]:
        for records in self.records:
            yield records
        await self.go_on.wait()


def text(shown: Sequence[lines.Line]) -> list[str]:
    return ["".join(t for t, _ in line) for line in shown]


def roles(shown: Sequence[lines.Line]) -> set[str]:
    return {role for line in shown for _, role in line}


class TestLines:
    def test_the_ladder_has_asks_above_and_bids_below(self) -> None:
        shown = text(lines.ladder(View(books()), 80, 8))
        assert shown[0].split() == [BTC, "LIVE"]
        assert [row.split()[:4] for row in shown if row.startswith(("ask", "bid"))] == [
            ["ask", "61,001.00", "4.0", "4.5"],
            ["ask", "61,000.50", "0.5", "0.5"],
            ["bid", "61,000.00", "1.0", "1.0"],
            ["bid", "60,999.50", "2.0", "3.0"],
        ]
        assert "spread 0.50" in shown[4]

    def test_a_stale_book_is_said_in_words_and_loses_its_colours(self) -> None:
        found = books()
        assert {"bid", "ask", "live"} <= roles(lines.ladder(View(found), 80, 8))
        found[BTC].state = BookState.STALE
        shown = lines.ladder(View(found), 80, 8)
        assert "STALE" in text(shown)[0]
        assert any("not current" in row for row in text(shown))
        assert "stale" in roles(shown)
        assert not {"bid", "ask", "live"} & roles(shown)

    @pytest.mark.parametrize("width", [1, 10, 40, 80, 200])
    @pytest.mark.parametrize("height", [1, 3, 4, 9, 50])
    def test_nothing_is_wider_or_higher_than_its_place(self, width: int, height: int) -> None:
        view = View(books())
        view.apply([trade(n) for n in range(100)] + [candle(n) for n in range(30)], T0)
        market = view.current
        for shown in (
            lines.ladder(view, width, height),
            lines.trades(market, width, height),
            lines.candles(market, width, height),
        ):
            assert all(len(row) <= max(width, 13) for row in text(shown))
        assert len(text(lines.ladder(view, 80, height))) <= max(1, height)
        assert len("".join(t for t, _ in lines.instruments(view, width, T0))) <= width

    def test_what_is_not_there_yet(self) -> None:
        view = View(books())
        view.step(1)
        assert "waiting for the order book" in text(lines.ladder(view, 80, 8))
        assert text(lines.trades(view.current, 80, 8))[1] == "no trades yet"
        assert text(lines.candles(view.current, 80, 8))[1] == "no candles yet"
        empty = View(MultiSymbolOrderBook())
        assert text([lines.instruments(empty, 80, T0)]) == ["connecting ..."]
        assert text(lines.ladder(empty, 80, 8)) == ["no order book"]
        one_sided = books()
        one_sided[BTC].load([(1.0, 1.0)], [])
        assert "one side is empty" in text(lines.ladder(View(one_sided), 80, 8))

    def test_trades_newest_first(self) -> None:
        view = View(books())
        view.apply([trade(1), trade(2, side="sell"), trade(3, "ETHUSDT")], T0)
        shown = text(lines.trades(view.current, 80, 8))
        assert shown[1].split() == ["23:54:13.002", "sell", "61,002.5", "0.25"]
        assert shown[2].split() == ["23:54:13.001", "buy", "61,001.5", "0.25"]
        assert len(shown) == 3

    def test_candles_of_the_shortest_interval_newest_first(self) -> None:
        view = View(books())
        view.apply([candle(0, interval="1h", length=3_600_000_000_000), candle(0), candle(1), candle(1, 0.75)], T0)
        shown = text(lines.candles(view.current, 80, 8))
        assert shown[0].startswith("1m")
        assert [row.split()[4] for row in shown[1:]] == ["0.75", "2.00"]

    def test_silence_is_said(self) -> None:
        view = View(books())
        view.apply([trade(1)], T0)
        assert "silent" not in text([lines.instruments(view, 200, T0 + 9_000_000_000)])[0]
        assert "silent 11 s" in text([lines.instruments(view, 200, T0 + 11_000_000_000)])[0]

    def test_one_line_for_a_pipe(self) -> None:
        view = View(books())
        view.apply([trade(1), candle(0), Quote(T0, T0, "spot", "XUSDT", 1, 1e-7, 2.0, 3.0, 4.0)], T0)
        facts = lines.one_line(view, BTC)
        assert facts["best_bid"] == [61_000.0, 1.0]
        assert facts["trades"] == 1
        assert "bid 61000 x 1  ask 61000.5 x 0.5  last 61001.5 buy 0.25  trades 1" in lines.words(facts)
        assert "bid 0.0000001 x 2  ask 3 x 4" in lines.words(lines.one_line(view, "spot:XUSDT"))

    def test_numbers_have_no_exponent(self) -> None:
        assert [lines.number(x) for x in (1e-8, 12.5, 100.0, 1e15)] == ["0.00000001", "12.5", "100", "1000000000000000"]


class TestView:
    def test_memory_is_bounded(self) -> None:
        view = View(books())
        view.apply([trade(n) for n in range(1_000)] + [candle(n) for n in range(1_000)], T0)
        market = view.markets[BTC]
        assert (len(market.trades), market.count, len(market.candles["1m"])) == (200, 1_000, 200)
        assert market.last_candles(1)[0].open_time == candle(999).open_time

    def test_choosing(self) -> None:
        view = View(books())
        assert view.names == [BTC, ETH]
        view.step(-1)
        assert view.current is view.markets[ETH]
        view.choose(0)
        view.choose(7)
        assert view.current is view.markets[BTC]

    def test_the_state_without_a_book_is_that_of_the_connection(self) -> None:
        view = View({})
        view.apply([trade(1)], T0)
        assert view.state(BTC) == "CONNECTING"
        for state, expected in (("connected", "LIVE"), ("disconnected", "STALE")):
            view.apply([FeedStatus(T0, T0, "spot", "", "", "c0", state, "")], T0)
            assert view.state(BTC) == expected
        view.ended = True
        assert view.state(BTC) == "ENDED"


class TestPlain:
    def test_a_frame_is_one_synchronized_update_of_the_right_size(self) -> None:
        view = View(books())
        view.apply([trade(1), candle(0)], T0)
        shown = plain.frame(view, 100, 30, T0)
        assert shown.startswith("\x1b[?2026h")
        assert shown.endswith("\x1b[?2026l")
        rows = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", shown).split("\r\n")
        assert len(rows) == 30
        assert rows[-1].startswith("q quit")
        assert all(len(row) <= 100 for row in rows)

    def test_without_colour_the_state_still_stands_out(self) -> None:
        found = books()
        found[BTC].state = BookState.STALE
        shown = plain.frame(View(found), 100, 30, T0, colour=False)
        assert "\x1b[36m" not in shown
        assert "\x1b[33m" not in shown
        assert "\x1b[1;7m" in shown

    async def test_a_pipe_gets_a_line_a_symbol_and_the_last_state(self) -> None:
        source, out = Source([[trade(1)]]), io.StringIO()
        source.go_on.set()
        await plain.watch(source, SystemClock(), json=True, out=out)
        shown = [json.loads(line) for line in out.getvalue().splitlines()]
        assert [s["instrument"] for s in shown] == [BTC, ETH]
        assert shown[0]["trades"] == 1
        assert (source.entered, source.left) == (1, 1)

    async def test_it_stops_after_its_time(self) -> None:
        source = Source([[trade(1)]])
        await plain.watch(source, SystemClock(), duration=1_000_000, out=io.StringIO())
        assert source.left == 1

    async def test_what_ends_the_source_is_raised(self) -> None:
        source = Source(error=DisconnectedError("gone"))
        source.go_on.set()
        with pytest.raises(DisconnectedError, match="gone"):
            await plain.watch(source, SystemClock(), out=io.StringIO())
        assert source.left == 1


class TestApp:
    @staticmethod
    async def until(pilot: object, condition: Callable[[], bool]) -> None:
        for _ in range(200):
            if condition():
                return
            await pilot.pause(0.02)  # type: ignore[attr-defined]
        pytest.fail("the screen did not come to show it")

    async def test_books_trades_and_candles_are_shown_and_keys_work(self) -> None:
        source = Source([[trade(1), candle(0)], [trade(2, "ETHUSDT")]])
        app = WatchApp(source, SystemClock())
        async with app.run_test(size=(140, 30)) as pilot:
            panel = {p.id: p for p in app.query(LinesWidget)}
            await self.until(pilot, lambda: "61,001.5" in " ".join(text(panel["trades"].shown)))
            strip = panel["ladder"].render_line(0)
            assert strip.text.startswith(f"{BTC}  LIVE")
            assert strip.cell_length == panel["ladder"].size.width
            assert "1m" in text(panel["candles"].shown)[0]
            assert ETH in text(panel["instruments"].shown)[0]
            await pilot.press("n")
            assert ETH in text(panel["ladder"].shown)[0]
            await pilot.press("left")
            assert BTC in text(panel["ladder"].shown)[0]
            await pilot.press("2")
            assert ETH in text(panel["ladder"].shown)[0]
            await pilot.press("tab")
            dark = app.current_theme.dark
            await pilot.press("t")
            assert app.current_theme.dark != dark
            app.view.books[BTC].state = BookState.STALE
            await self.until(pilot, lambda: "STALE" in text(panel["ladder"].shown)[0])
            segments = list(panel["ladder"].render_line(0))
            assert any("STALE" in s.text and s.style and s.style.reverse for s in segments)
            await pilot.press("q")
        assert source.left == 1
        assert app.error is None

    async def test_unchanged_lines_are_not_drawn_again(self) -> None:
        app = WatchApp(Source(), SystemClock())
        async with app.run_test(size=(140, 30)) as pilot:
            ladder = app.query_one("#ladder", LinesWidget)
            await self.until(pilot, lambda: bool(ladder.shown))
            before = ladder.shown
            ladder.update_lines()
            assert ladder.shown is before

    async def test_an_error_of_the_source_ends_it(self) -> None:
        source = Source(error=DisconnectedError("gone"))
        source.go_on.set()
        app = WatchApp(source, SystemClock())
        async with app.run_test() as pilot:
            await self.until(pilot, lambda: app.error is not None)
        assert str(app.error) == "gone"


def test_words_do_not_tear_the_screen() -> None:
    err = io.StringIO()
    held = Held(Output(stderr=err), limit=2)
    held.info("hello")
    for n in range(3):
        held.warn(f"trouble {n}")
    assert err.getvalue() == ""
    held.release()
    assert err.getvalue() == "warning: trouble 1\nwarning: trouble 2\n"
