"""The conformance suite: what every exchange package must do, as tests to inherit.

An exchange package describes its wire format once, as a ``ConformanceCase`` of small made-up
messages, and inherits the checks::

    from cmd_common.testing.conformance import Conformance, ConformanceCase

    class TestMyExchange(Conformance):
        case = ConformanceCase(exchange=MY, ...)

pytest then runs every ``test_`` method. Nothing here needs pytest, a network or a clock: each check
is a plain method, so it can be called from anything else too.

The streams of a case are functions of a number: ``case.depth("BTCUSDT", 7)`` is the seventh depth
message of a consecutive stream, ``case.snapshot("BTCUSDT", 7)`` the book after it. So a check can
leave one out, repeat it, swap two, and knows what the undamaged stream would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from cmd_common.errors import BlockedError, CmdError, ProtocolError, RateLimitError, UnknownNameError, UsageError
from cmd_common.feed import Subscription
from cmd_common.http import HttpResponse
from cmd_common.records import SIDES, BookDelta, BookSnapshot, FeedStatus, Gap, Quote, Record, Trade
from cmd_common.sequence import BookState

from .harness import ConformanceCase, Harness, ParserCase

__all__ = ["Conformance", "ConformanceCase", "Harness", "ParserCase"]

_SECOND: Final = 1_000_000_000
_YEAR_2009: Final = 1_230_768_000 * _SECOND  # no crypto exchange is older
_YEAR_2100: Final = 4_102_444_800 * _SECOND


def _raised(call: Callable[[], object]) -> Exception | None:
    """Run ``call`` and return the exception it raises, None for none."""
    try:
        call()
    except Exception as error:
        return error
    return None


def _data(records: Iterable[Record]) -> list[Record]:
    return [r for r in records if not isinstance(r, FeedStatus)]


class Conformance:
    """The checks; inherit and set ``case``."""

    case: ConformanceCase

    def harness(self, types: Sequence[str] | None = None, symbols: Sequence[str] | None = None) -> Harness:
        """A connected harness with all books LIVE."""
        harness = Harness(self.case, types=types, symbols=symbols)
        harness.connect()
        return harness

    def synced(self) -> Harness:
        """A harness with two LIVE books that have taken three messages each."""
        harness = self.harness(("book",))
        for _ in range(3):
            for symbol in self.case.symbols:
                harness.depth(symbol)
        for symbol in self.case.symbols:
            assert harness.book(symbol).state is BookState.LIVE
        return harness

    # Reference data

    def test_instruments_have_exact_names_and_sizes(self) -> None:
        """Symbols map to unified names; tick and lot sizes are positive; names are unique."""
        instruments = self.case.exchange.parse_instruments(self.case.instruments)
        assert {i.symbol: i.unified for i in instruments} == dict(self.case.unified)
        assert len({i.name for i in instruments}) == len(instruments)
        for instrument in instruments:
            assert instrument.venue == self.case.exchange.venue
            assert instrument.name == f"{self.case.exchange.venue}:{instrument.symbol}"
            assert instrument.tick_size > 0
            assert instrument.lot_size > 0
            assert (instrument.contract_size is None) or instrument.contract_size > 0

    def test_damaged_reference_data_is_one_clear_error(self) -> None:
        """Whatever bytes come, ProtocolError or a list: nothing else is raised."""
        body = self.case.instruments
        for damaged in (b"", b"{", b"null", b"[]", b"\xff\xfe", body[: len(body) // 2]):
            error = _raised(lambda damaged=damaged: self.case.exchange.parse_instruments(damaged))  # type: ignore[misc]
            assert isinstance(error, ProtocolError)
            assert "\n" not in str(error)

    # What can be asked for

    def test_wrong_subscriptions_are_usage_errors(self) -> None:
        """Unknown symbols (with the nearest ones), types and intervals are refused before connecting."""
        exchange = self.case.exchange
        instruments = {i.symbol: i for i in exchange.parse_instruments(self.case.instruments)}
        symbol = self.case.symbols[0]

        def feeds(subscription: Subscription) -> Exception | None:
            return _raised(lambda: exchange.feeds(subscription, instruments, exchange.endpoints))

        unknown = feeds(Subscription((f"{symbol}X",), ("trades",)))
        assert isinstance(unknown, UnknownNameError)
        assert symbol in unknown.nearest
        assert isinstance(feeds(Subscription((symbol,), ("nonsense",))), UsageError)
        if "candles" in exchange.types:
            assert isinstance(feeds(Subscription((symbol,), ("candles",), ("7m",))), UsageError)

    def test_feeds_cover_the_subscription_with_unique_names(self) -> None:
        """Every symbol is in some feed, every feed has its own name and a WebSocket URL of the endpoint."""
        harness = Harness(self.case, types=self.case.exchange.types)
        names = [feed.name for feed in harness.feeds]
        assert len(set(names)) == len(names)
        assert {s for feed in harness.feeds for s in feed.symbols} == set(self.case.symbols)
        for feed in harness.feeds:
            assert feed.venue == self.case.exchange.venue
            assert feed.url.startswith(("ws://", "wss://"))
        local = self.case.exchange.endpoints.override("http://127.0.0.1:1")
        for feed in self.case.exchange.feeds(harness.subscription, harness.instruments, local):
            assert feed.url.startswith("ws://127.0.0.1:1")

    # Parsers

    def parse(self, frame: str | bytes, types: Sequence[str] | None = None) -> tuple[list[Record], Harness]:
        """Parse one frame with fresh feeds of all types."""
        harness = self.harness(types if types is not None else self.case.exchange.types)
        return _data(harness.receive(frame)), harness

    def test_parser_table(self) -> None:
        """Every frame of the table becomes exactly its records, as text and as bytes."""
        for parser in self.case.parsers:
            for frame in (parser.frame, parser.frame.encode()):
                records, harness = self.parse(frame)
                assert records == list(parser.expected), parser.name
                assert harness.counters("malformed") == harness.counters("unknown_messages") == 0, parser.name
                assert harness.counters("unknown_fields") == 0, parser.name

    def test_parser_table_shows_both_sides_and_sane_units(self) -> None:
        """The table has a buy and a sell; times are ns as int, prices and quantities floats."""
        records = [r for parser in self.case.parsers for r in parser.expected]
        sides = {r.side for r in records if isinstance(r, Trade)}
        assert {"buy", "sell"} <= sides <= set(SIDES)
        for record in records:
            ts = getattr(record, "ts_event", None)
            assert ts is None or (type(ts) is int and _YEAR_2009 < ts < _YEAR_2100)
            for name in ("price", "quantity", "bid_price", "ask_price"):
                value = getattr(record, name, None)
                assert value is None or type(value) is float

    def test_receive_time_may_precede_event_time(self) -> None:
        """Clocks differ: neither time is clamped or changed."""
        early = self.harness(("trades",))
        early.now -= 3600 * _SECOND
        late = self.harness(("trades",))
        symbol = self.case.symbols[0]
        (a,) = _data(early.receive(self.case.trade(symbol, 1)))
        (b,) = _data(late.receive(self.case.trade(symbol, 1)))
        assert isinstance(a, Trade)
        assert isinstance(b, Trade)
        assert a.ts_event == b.ts_event
        assert (a.ts_recv, b.ts_recv) == (early.now, late.now)

    def test_unknown_fields_are_ignored_and_counted(self) -> None:
        """A key that this version does not know changes nothing but a counter."""
        for parser in self.case.parsers:
            records, harness = self.parse(self.case.with_unknown_field(parser.frame))
            assert records == list(parser.expected), parser.name
            assert harness.counters("unknown_fields") > 0, parser.name
            assert harness.counters("malformed") == 0, parser.name

    def test_unknown_events_are_ignored_and_counted(self) -> None:
        """An event of a new type is no error."""
        records, harness = self.parse(self.case.unknown_event)
        assert records == []
        assert harness.counters("unknown_messages") > 0
        assert harness.counters("malformed") == 0

    def test_damage_never_raises_and_is_reported(self) -> None:
        """Torn, empty, binary and huge frames: no exception, never a record of market data."""
        frames: list[str | bytes] = [*self.case.malformed, b"\xff\xfe\x00", "[" * 100_000, "{" * 100_000]
        frames += [p.frame[: len(p.frame) * k // 7] for p in self.case.parsers for k in range(1, 7)]
        frames.append(self.case.parsers[0].frame + " " * 17_000_000)
        harness = self.harness(self.case.exchange.types)
        harness.hold_snapshots = True  # a venue without a sequence asks for its books anew
        for frame in frames:
            for record in harness.receive(frame):
                assert isinstance(record, FeedStatus | Gap), frame[:80]
        counted = harness.counters("malformed") + harness.counters("unknown_messages")
        assert counted >= len(frames) - 1
        torn = self.case.parsers[0].frame[:-3]
        harness = self.harness(self.case.exchange.types)
        records = harness.receive(torn)
        assert any(isinstance(r, FeedStatus) and r.state == "malformed" for r in records)
        harness.now += _SECOND
        harness.close()
        assert any(isinstance(r, Gap) and r.reason == "malformed" for r in harness.records)

    # Control

    def test_refused_subscription_is_counted_and_reported(self) -> None:
        """An error reply becomes a counter and a FeedStatus row with the exchange's words."""
        harness = Harness(self.case)
        harness.refusing = True
        harness.connect()
        assert harness.counters("errors") > 0
        assert any(isinstance(r, FeedStatus) and r.state == "error" and r.reason for r in harness.records)
        for _ in range(30):
            harness.tick(2)
        assert len(harness.sent) < 300  # retries have a limit

    def test_silent_streams_raise_an_alarm(self) -> None:
        """Confirmed and nothing came: FeedStatus ``silent`` within two minutes, once a stream."""
        harness = self.harness(("trades",))
        for _ in range(150):
            harness.tick()
        silent = [r for r in harness.of(FeedStatus) if isinstance(r, FeedStatus) and r.state == "silent"]
        assert {r.symbol for r in silent} == set(self.case.symbols)
        assert len(silent) == len(self.case.symbols)
        harness.close()
        assert {g.symbol for g in harness.of(Gap) if isinstance(g, Gap) and g.reason == "silence"} == set(
            self.case.symbols
        )

    def test_symbols_come_and_go_while_running(self) -> None:
        """``add`` subscribes, syncs and streams; ``remove`` ends it and drops the book."""
        first, second = self.case.symbols
        harness = self.harness(("book", "trades"), (first,))
        harness.depth(first)
        for feed in harness.feeds:
            harness.take(feed, feed.add((second,), harness.now))
        for _ in range(3):
            harness.depth(second)
        assert harness.book(second).state is BookState.LIVE
        assert harness.of(Trade) == []
        harness.receive(self.case.trade(second, 1))
        assert len(harness.of(Trade, second)) == 1
        for feed in harness.feeds:
            harness.take(feed, feed.remove((second,), harness.now))
        harness.receive(self.case.trade(second, 2))
        assert len(harness.of(Trade, second)) == 1
        assert all(second not in feed.books and second not in feed.symbols for feed in harness.feeds)
        assert harness.book(first).state is BookState.LIVE
        for feed in harness.feeds:
            error = _raised(lambda feed=feed: feed.add(("NO-SUCH-SYMBOL",), harness.now))  # type: ignore[misc]
            assert isinstance(error, UsageError)

    # Trades

    def trades(self, numbers: Iterable[int]) -> Harness:
        """A harness that has received these trades of the first symbol."""
        harness = self.harness(("trades",))
        for number in numbers:
            harness.receive(self.case.trade(self.case.symbols[0], number))
        return harness

    def test_missing_trades_become_a_gap_with_their_ids(self) -> None:
        """A jump of ids is a Gap row that names the missing ones; nothing else is a gap."""
        if not self.case.trade_ids:
            return
        symbol = self.case.symbols[0]
        assert self.trades(range(1, 10)).of(Gap) == []
        harness = self.trades([1, 2, 5, 6])
        (gap,) = harness.of(Gap)
        assert isinstance(gap, Gap)
        assert (gap.record_type, gap.symbol, gap.reason) == ("trades", symbol, "trade_id")
        assert (gap.first_id, gap.last_id) == (self.case.trade_id(symbol, 3), self.case.trade_id(symbol, 4))
        trades = [r for r in harness.of(Trade) if isinstance(r, Trade)]
        assert (gap.ts_from, gap.ts_to) == (trades[1].ts_event, trades[2].ts_event)

    def test_repeated_trades_are_dropped(self) -> None:
        """A trade that was seen is counted and dropped, also after a reconnect."""
        harness = self.trades([1, 2, 2, 3, 1])
        assert len(harness.of(Trade)) == 3
        assert harness.counters("duplicates") == 2
        harness.disconnect()
        harness.connect()
        harness.receive(self.case.trade(self.case.symbols[0], 3))
        harness.receive(self.case.trade(self.case.symbols[0], 4))
        assert len(harness.of(Trade)) == 4
        assert harness.of(Gap) == []

    def test_late_trades_are_taken_once_and_close_the_gap(self) -> None:
        """An id inside a hole is taken once; the last one marks the gap as repaired, under the same key."""
        if not self.case.trade_ids:
            return
        harness = self.trades([1, 4, 2, 2, 3, 5])
        assert len(harness.of(Trade)) == 5
        opened, closed = (g for g in harness.of(Gap) if isinstance(g, Gap))
        assert opened.repaired_by == ""
        assert closed.repaired_by
        assert (opened.ts_from, opened.ts_to) == (closed.ts_from, closed.ts_to)

    def test_trades_lost_by_a_disconnect_become_a_gap(self) -> None:
        """Ids are followed across connections."""
        if not self.case.trade_ids:
            return
        harness = self.trades([1, 2])
        harness.disconnect()
        harness.connect()
        harness.receive(self.case.trade(self.case.symbols[0], 5))
        (gap,) = harness.of(Gap)
        assert isinstance(gap, Gap)
        symbol = self.case.symbols[0]
        assert (gap.first_id, gap.last_id) == (self.case.trade_id(symbol, 3), self.case.trade_id(symbol, 4))

    # Books

    def levels(self, harness: Harness, symbol: str) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        """All levels of a book, checked."""
        book = harness.book(symbol)
        book.check()
        return book.bids(), book.asks()

    def test_books_sync_and_follow(self) -> None:
        """Two books become LIVE and equal the exchange's own after every message."""
        harness = self.synced()
        for symbol in self.case.symbols:
            other = Harness(self.case, types=("book",), symbols=(symbol,))
            other.position[symbol] = harness.position[symbol]
            other.connect()
            assert self.levels(harness, symbol) == self.levels(other, symbol)
            states = [r.state for r in harness.of(FeedStatus, symbol) if isinstance(r, FeedStatus)]
            assert states == ["SYNCING", "LIVE"]
        assert harness.of(Gap) == []

    def test_nothing_is_published_before_the_book_is_live(self) -> None:
        """Deltas before the snapshot give no records; they follow it, each once, in order."""
        if self.case.snapshot_in_stream:
            return
        harness = Harness(self.case, types=("book",), symbols=self.case.symbols[:1])
        harness.hold_snapshots = True
        harness.connect()
        symbol = self.case.symbols[0]
        for _ in range(3):
            assert _data(harness.depth(symbol)) == []
        harness.position[symbol] -= 1  # a snapshot that the second message is the last one of
        before = len(harness.records)
        harness.answer_snapshots()
        harness.position[symbol] += 1
        records = _data(harness.records[before:])
        assert harness.book(symbol).state is BookState.LIVE
        snapshot, *deltas = records
        assert isinstance(snapshot, BookSnapshot)
        assert all(isinstance(d, BookDelta) for d in deltas)
        assert len(deltas) >= 1
        first = deltas[0]
        assert isinstance(first, BookDelta)
        assert snapshot.ts_event == first.ts_event
        assert snapshot.seq == snapshot.epoch == first.epoch
        assert _data(harness.depth(symbol)) != []

    def test_a_lost_depth_message_is_noticed_at_the_next_one(self) -> None:
        """The book is STALE, is synchronised again and LIVE; the loss is a Gap; the other book goes on."""
        if not self.case.depth_ids:
            return
        first, second = self.case.symbols
        harness, twin = self.synced(), self.synced()
        other = self.levels(harness, second)
        harness.hold_snapshots = True
        harness.depth(first, lose=True)
        twin.depth(first)
        assert harness.book(first).state is BookState.LIVE
        assert _data(harness.depth(first)) == []
        twin.depth(first)
        assert harness.book(first).state is BookState.STALE
        assert harness.book(second).state is BookState.LIVE
        assert self.levels(harness, second) == other
        assert len(_data(harness.depth(second))) == 1
        harness.hold_snapshots = False
        harness.answer_snapshots()
        assert harness.book(first).state is BookState.LIVE
        harness.depth(first)
        twin.depth(first)
        assert self.levels(harness, first) == self.levels(twin, first)
        (gap,) = harness.of(Gap)
        assert isinstance(gap, Gap)
        assert (gap.symbol, gap.record_type) == (first, "book_deltas")
        assert gap.ts_from < gap.ts_to
        states = [r.state for r in harness.of(FeedStatus, first) if isinstance(r, FeedStatus)]
        assert states == ["SYNCING", "LIVE", "STALE", "LIVE"]
        assert harness.counters("resyncs") == 1

    def test_repeated_depth_messages_change_nothing(self) -> None:
        """A message that comes twice, or an old one, leaves the book and its state alone."""
        if not self.case.depth_ids:
            return
        harness = self.synced()
        symbol = self.case.symbols[0]
        before = self.levels(harness, symbol)
        for number in (harness.position[symbol], harness.position[symbol] - 1):
            assert _data(harness.receive(self.case.depth(symbol, number))) == []
        assert harness.book(symbol).state is BookState.LIVE
        assert self.levels(harness, symbol) == before
        assert harness.counters("duplicates") == 2

    def test_a_disconnect_makes_books_stale_until_they_are_synced_again(self) -> None:
        """STALE and readable while disconnected, LIVE and right afterwards, with a Gap between."""
        harness = self.synced()
        symbol = self.case.symbols[0]
        before = self.levels(harness, symbol)
        harness.disconnect()
        assert harness.book(symbol).state is BookState.STALE
        assert self.levels(harness, symbol) == before
        for _ in range(2):
            harness.position[symbol] += 1
        harness.connect()
        harness.depth(symbol)
        assert harness.book(symbol).state is BookState.LIVE
        gaps = [g for g in harness.of(Gap, symbol) if isinstance(g, Gap)]
        assert [(g.record_type, g.reason) for g in gaps] == [("book_deltas", "disconnect")]

    def test_a_failed_snapshot_is_asked_for_again(self) -> None:
        """Given up, damaged or too old: the feed asks again, not at once without end."""
        if self.case.snapshot_in_stream:
            return
        symbol = self.case.symbols[0]
        harness = Harness(self.case, types=("book",), symbols=(symbol,))
        harness.hold_snapshots = True
        harness.connect()
        (feed,) = (f for f in harness.feeds if symbol in f.books)
        for outcome in ("failed", "damaged"):
            assert len(harness.requests) == 1
            harness.requests.clear()
            if outcome == "failed":
                harness.take(feed, feed.snapshot_failed(symbol, "HTTP 500", harness.now))
            else:
                harness.take(feed, feed.snapshot(symbol, b"{", harness.now))
            for _ in range(40):
                if harness.requests:
                    break
                harness.tick()
        for _ in range(3):
            harness.depth(symbol)
        late, harness.requests = harness.requests, []
        del late
        old = self.case.snapshot(symbol, 0)
        harness.position[symbol] += 1
        harness.receive(self.case.depth(symbol, harness.position[symbol] + 1))  # a hole behind the old snapshot
        harness.position[symbol] += 1
        harness.take(feed, feed.snapshot(symbol, old.encode() if isinstance(old, str) else old, harness.now))
        for _ in range(40):
            if harness.requests:
                break
            harness.tick()
        assert len(harness.requests) == 1
        harness.hold_snapshots = False
        harness.answer_snapshots()
        harness.depth(symbol)
        assert harness.book(symbol).state is BookState.LIVE

    # Losses without ids

    def test_a_disconnect_is_a_gap_of_quotes(self) -> None:
        """Quotes carry no id that tells a loss: from the last one before to the first one after."""
        frames = [p for p in self.case.parsers if p.expected and isinstance(p.expected[0], Quote)]
        if not frames:
            return
        harness = self.harness(("quotes",))
        harness.receive(frames[0].frame)
        harness.disconnect()
        harness.now += 5 * _SECOND
        harness.connect()
        harness.now += 5 * _SECOND
        harness.close()
        gaps = [g for g in harness.of(Gap) if isinstance(g, Gap)]
        assert [(g.record_type, g.reason) for g in gaps] == [("quotes", "disconnect")]

    def test_the_same_frames_give_the_same_records(self) -> None:
        """No clock, randomness or set order inside: two runs are equal."""

        def run() -> list[Record]:
            harness = self.synced()
            for symbol in self.case.symbols:
                harness.depth(symbol, lose=True)
                harness.depth(symbol)
                harness.depth(symbol)
            harness.close()
            return harness.records

        assert run() == run()

    # Errors of REST

    def test_error_responses_are_clear_words(self) -> None:
        """429 and 418 carry when to come back, 403 and 451 say what to do; 200 is no error."""
        check = self.case.exchange.check
        url = self.case.exchange.endpoints.rest + "/x"
        assert check(HttpResponse(200, b"{}"), url) is None
        for status in (418, 429):
            limited = check(HttpResponse(status, b"", {"retry-after": "7"}), url)
            assert isinstance(limited, RateLimitError)
            assert limited.retry_after == 7 * _SECOND
            for text in ("9" * 5000, "soon", "-1", "\u0663", ""):
                limited = check(HttpResponse(status, b"", {"retry-after": text}), url)
                assert isinstance(limited, RateLimitError)
                assert 0 <= limited.retry_after <= 3600 * _SECOND
        for status in (403, 451):
            assert isinstance(check(HttpResponse(status, b"<html>"), url), BlockedError)
        for status in (400, 404, 500, 503):
            error = check(HttpResponse(status, b"\xff"), url)
            assert isinstance(error, CmdError)
            assert "\n" not in str(error)
