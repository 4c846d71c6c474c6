"""Real traffic: books against bookTicker, trade ids, faults, and samples of many channels."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cmd_binance
from cmd_binance import BinanceExchange
from cmd_common.feed import FetchSnapshot, Output, Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.orderbook import OrderBook
from cmd_common.recording import Line, read
from cmd_common.records import AggTrade, BookDelta, BookSnapshot, Candle, FeedStatus, Gap, Quote, Record, Trade, levels
from cmd_common.sequence import BookState

SPOT, USDM, COINM = cmd_binance.SPOT, cmd_binance.USDM, cmd_binance.COINM
ALL = ("trades", "agg_trades", "quotes", "candles", "book")


def instruments(exchange: BinanceExchange, symbols: Iterable[str]) -> dict[str, Instrument]:
    """Reference data of the day is not in the recordings; names are enough for a feed."""
    return {s: Instrument(exchange.venue, s, "B", "Q", "spot", Decimal("0.01"), Decimal("0.001")) for s in symbols}


def unwrapped(text: str) -> dict[str, object] | None:
    message = json.loads(text)
    event = message.get("data", message) if isinstance(message, dict) else None
    return event if isinstance(event, dict) else None


class Player:
    """Plays recorded lines to feeds; answers snapshot requests like the exchange at that moment.

    It keeps its own undamaged book from the recorded snapshot on. A request before that waits for the
    recorded snapshot; a later one is answered from the undamaged book.
    """

    def __init__(self, exchange: BinanceExchange, symbols: Iterable[str], types: tuple[str, ...] = ALL) -> None:
        symbols = tuple(symbols)
        self.feeds = exchange.feeds(Subscription(symbols, types), instruments(exchange, symbols), exchange.endpoints)
        self.records: list[Record] = []
        self.truth: dict[str, OrderBook] = {}
        self.waiting: dict[str, int] = {}
        self.early: dict[str, list[dict[str, object]]] = {s: [] for s in symbols}
        self.states: dict[str, list[str]] = {s: [] for s in symbols}
        self.answers = 0
        self.now = 1_723_161_250_000_000_000
        for feed in self.feeds:
            self.take(feed, feed.connected(self.now))

    def take(self, feed: object, output: Output) -> None:
        self.records += output.records
        for record in output.records:
            if isinstance(record, FeedStatus) and record.record_type == "book" and record.symbol:
                self.states[record.symbol].append(record.state)
        for action in output.actions:
            if isinstance(action, Send):
                reply = json.dumps({"result": None, "id": json.loads(action.frame)["id"]})
                self.take(feed, feed.receive(reply, self.now))  # type: ignore[attr-defined]
            elif isinstance(action, FetchSnapshot):
                if action.symbol in self.truth:
                    self.answer(action.symbol)
                else:
                    self.waiting[action.symbol] = 1

    def answer(self, symbol: str) -> None:
        book = self.truth[symbol]
        body = {
            "lastUpdateId": book.last_id,
            "bids": [[repr(p), repr(q)] for p, q in book.bids()],
            "asks": [[repr(p), repr(q)] for p, q in book.asks()],
        }
        self.answers += 1
        self.deliver(symbol, json.dumps(body).encode())

    def deliver(self, symbol: str, body: bytes) -> None:
        for feed in self.feeds:
            if symbol in feed.books:
                self.take(feed, feed.snapshot(symbol, body, self.now))

    def true_delta(self, event: dict[str, object]) -> None:
        symbol = str(event["s"])
        book = self.truth.get(symbol)
        if book is None:
            self.early.setdefault(symbol, []).append(event)
            return
        if int(event["u"]) <= book.last_id:  # type: ignore[call-overload]
            return
        book.apply(
            [(float(p), float(q)) for p, q in event["b"]],  # type: ignore[attr-defined]
            [(float(p), float(q)) for p, q in event["a"]],  # type: ignore[attr-defined]
        )
        book.last_id = int(event["u"])  # type: ignore[call-overload]

    def play(self, line: Line, *, lose: bool = False) -> dict[str, object] | None:
        """Play one line; returns a depth event."""
        self.now = line.recv_ns or self.now + 1
        if line.src == "rest" and line.url and "/depth?" in line.url:
            symbol = line.url.split("symbol=")[1].split("&")[0]
            body = json.loads(line.text)
            if symbol not in self.truth:
                book = self.truth[symbol] = OrderBook()
                book.load(
                    [(float(p), float(q)) for p, q in body["bids"]], [(float(p), float(q)) for p, q in body["asks"]]
                )
                book.last_id = body["lastUpdateId"]
                for event in self.early.pop(symbol, ()):
                    self.true_delta(event)
                if self.waiting.pop(symbol, None):
                    self.deliver(symbol, line.text.encode())
            return None
        if line.src != "ws":
            return None
        event = None
        if '"depthUpdate"' in line.text:
            event = unwrapped(line.text)
            assert event is not None
            self.true_delta(event)
        if not lose:
            for feed in self.feeds:
                self.take(feed, feed.receive(line.text, self.now))
        return event

    def book(self, symbol: str) -> OrderBook:
        return next(feed.books[symbol].book for feed in self.feeds if symbol in feed.books)

    def of(self, kind: type[Record]) -> list[Record]:
        return [r for r in self.records if isinstance(r, kind)]


def quotes_by_symbol(lines: Iterable[Line]) -> dict[str, tuple[list[int], list[tuple[float, float, float, float]]]]:
    quotes: dict[str, tuple[list[int], list[tuple[float, float, float, float]]]] = {}
    for line in lines:
        if line.src == "ws" and '@bookTicker"' in line.text:
            q = json.loads(line.text)["data"]
            ids, values = quotes.setdefault(q["s"], ([], []))
            ids.append(q["u"])
            values.append((float(q["b"]), float(q["B"]), float(q["a"]), float(q["A"])))
    return quotes


def compare(player: Player, lines: list[Line]) -> Counter[str]:
    """Play everything; compare the book after each event u with the last quote whose u is not greater.

    The book is rebuilt from the recorded rows, so that deltas which were buffered before the snapshot
    are compared one by one too; after every line it must equal the feed's own book.
    """
    quotes = quotes_by_symbol(lines)
    rows: dict[str, OrderBook] = {}
    result: Counter[str] = Counter()
    for line in lines:
        before = len(player.records)
        player.play(line)
        for record in player.records[before:]:
            if isinstance(record, BookSnapshot):
                rows[record.symbol] = OrderBook()
                rows[record.symbol].load(levels(record.bids), levels(record.asks))
            elif isinstance(record, BookDelta):
                book = rows[record.symbol]
                book.apply(list(levels(record.bids)), list(levels(record.asks)))
                book.last_id = record.seq
                if record.symbol not in quotes:
                    continue
                ids, values = quotes[record.symbol]
                at = bisect_right(ids, record.seq) - 1
                if at < 0:
                    continue
                assert book.best_bid is not None
                assert book.best_ask is not None
                equal = (*book.best_bid, *book.best_ask) == values[at]
                result["equal" if equal else "different"] += 1
        for symbol, book in rows.items():
            own = player.book(symbol)
            assert own.state is BookState.LIVE
            if book.last_id == own.last_id:
                assert (own.best_bid, own.best_ask) == (book.best_bid, book.best_ask)
    return result


def load(recordings: Path, *names: str) -> list[Line]:
    return [line for name in names for line in read(str(recordings / name))]


SPOT_HFT = ("binance_spot/hft_btcusdt_20240808.ndjson.gz", "binance_spot/hft_btcusdt_20240809.ndjson.gz")


def test_spot_books_agree_with_book_ticker(recordings: Path) -> None:
    player = Player(SPOT, ["BTCUSDT"])
    result = compare(player, load(recordings, *SPOT_HFT))
    assert result["equal"] >= 6491
    assert result.total() == 6493
    assert player.states["BTCUSDT"] == ["SYNCING", "LIVE"]
    assert player.of(Gap) == []
    trades = [r for r in player.of(Trade) if isinstance(r, Trade)]
    assert len(trades) == 19_904
    assert [t.trade_seq for t in trades] == list(range(3_735_683_259, 3_735_703_163))
    assert len(player.of(Quote)) == 73_174
    assert any(t.ts_event > t.ts_recv for t in trades)  # the recorder's clock ran behind
    (feed,) = player.feeds
    counters = feed.counters
    assert (counters.malformed, counters.unknown_messages, counters.unknown_fields, counters.duplicates) == (0,) * 4
    feed.books["BTCUSDT"].check()


def test_recorded_rows_rebuild_the_same_books(recordings: Path) -> None:
    """What a store would hold is enough: snapshot, deltas of its epoch, next snapshot."""
    player = Player(SPOT, ["BTCUSDT"])
    book: OrderBook | None = None
    epoch = last = compared = 0
    for line in load(recordings, *SPOT_HFT):
        before = len(player.records)
        player.play(line)
        for record in player.records[before:]:
            if isinstance(record, BookSnapshot):
                if record.epoch == epoch and book is not None:  # periodic: the rows so far must give it
                    assert last == record.seq
                    assert book.packed_bids(200) == record.bids[: 200 * 16]
                    assert book.packed_asks(200) == record.asks[: 200 * 16]
                    compared += 1
                book = OrderBook()
                book.load(levels(record.bids), levels(record.asks))
                epoch, last = record.epoch, record.seq
            elif isinstance(record, BookDelta):
                assert book is not None
                assert record.epoch == epoch
                assert record.first_seq <= last + 1 <= record.seq
                book.apply(list(levels(record.bids)), list(levels(record.asks)))
                last = record.seq
    assert compared >= 8


def test_usdm_books_agree_with_book_ticker(recordings: Path) -> None:
    player = Player(USDM, ["BTCUSDT"])
    result = compare(player, load(recordings, "binance_usdm/hft_btcusdt_20240808.ndjson.gz"))
    assert result == Counter(equal=6547)
    assert player.states["BTCUSDT"] == ["SYNCING", "LIVE"]
    assert player.of(Gap) == []
    assert len(player.of(Trade)) == 21_313
    assert len(player.of(Quote)) == 66_089


@pytest.mark.parametrize(
    ("exchange", "name", "symbols", "least"),
    [
        (SPOT, "binance_spot/hft_btcusdt_20240808_first40s.ndjson", ["BTCUSDT"], 397),
        (SPOT, "binance_spot/cryptofeed_4symbols_20211012.ndjson", ["NKNUSDT", "BLZETH", "LRCBTC", "RUNEEUR"], 60),
        (
            USDM,
            "binance_usdm/cryptofeed_4symbols_20210722.ndjson",
            ["SUSHIUSDT", "AKROUSDT", "KEEPUSDT", "CTKUSDT"],
            700,
        ),
        (COINM, "binance_coinm/hft_btcusd_perp_20240808_first15s.ndjson", ["BTCUSD_PERP"], 1200),
    ],
)
def test_smaller_recordings_agree_in_every_comparison(
    recordings: Path, exchange: BinanceExchange, name: str, symbols: list[str], least: int
) -> None:
    player = Player(exchange, symbols)
    result = compare(player, load(recordings, name))
    assert result["different"] == 0
    assert result["equal"] >= least
    for symbol in symbols:
        assert player.states[symbol] == ["SYNCING", "LIVE"], symbol
    assert player.of(Gap) == []
    assert sum(f.counters.malformed + f.counters.unknown_messages for f in player.feeds) == 0


def test_aggregates_and_candles_of_2021(recordings: Path) -> None:
    player = Player(USDM, ["SUSHIUSDT", "AKROUSDT", "KEEPUSDT", "CTKUSDT"])
    for line in load(recordings, "binance_usdm/cryptofeed_4symbols_20210722.ndjson"):
        player.play(line)
    aggregates = [r for r in player.of(AggTrade) if isinstance(r, AggTrade)]
    candles = [r for r in player.of(Candle) if isinstance(r, Candle)]
    assert len(aggregates) == 91
    assert all(a.first_trade_id <= a.last_trade_id for a in aggregates)
    assert len(candles) == 67
    for candle in candles:
        assert candle.close_time - candle.open_time == 60_000_000_000
        assert candle.low <= min(candle.open, candle.close) <= max(candle.open, candle.close) <= candle.high
        assert candle.taker_buy_volume <= candle.volume


def test_raw_streams_without_wrapper(recordings: Path) -> None:
    player = Player(SPOT, ["BTCUSDT"])
    lines = load(recordings, "binance_spot/tickvault_binanceus_depth100ms_20260824.ndjson")
    for line in lines:
        player.play(line)
    assert player.book("BTCUSDT").state is BookState.LIVE
    assert player.book("BTCUSDT").bids() == player.truth["BTCUSDT"].bids()
    snapshot_id = json.loads(lines[0].text)["lastUpdateId"]
    later = [e for line in lines[1:] if (e := unwrapped(line.text)) and int(str(e["u"])) > snapshot_id]
    assert len(player.of(BookDelta)) == len(later) >= 15
    assert player.of(Gap) == []


def test_trades_hit_the_side_that_they_say(recordings: Path) -> None:
    """``m`` true is a sell: it trades at or below the best bid of the book of that moment, a buy at the ask."""
    agree: Counter[bool] = Counter()
    player = Player(SPOT, ["BTCUSDT"], ("trades", "book"))
    for line in load(recordings, "binance_spot/hft_btcusdt_20240808_first40s.ndjson"):
        before = len(player.records)
        player.play(line)
        book = player.book("BTCUSDT")
        for record in player.records[before:]:
            if isinstance(record, Trade) and book.best_bid and book.best_ask:
                if record.price <= book.best_bid[0]:
                    agree[record.side == "sell"] += 1
                elif record.price >= book.best_ask[0]:
                    agree[record.side == "buy"] += 1
    assert agree[True] > 4 * agree[False]


# Faults


@cache
def depth_lines(path: Path) -> list[Line]:
    """Depth messages and snapshots only: what a book is made of."""
    return [line for line in read(str(path)) if line.src == "rest" or '"depthUpdate"' in line.text]


SPOT_40S = "binance_spot/hft_btcusdt_20240808_first40s.ndjson"
USDM_MULTI = "binance_usdm/cryptofeed_4symbols_20210722.ndjson"
USDM_SYMBOLS = ["SUSHIUSDT", "AKROUSDT", "KEEPUSDT", "CTKUSDT"]


def symbol_of(line: Line) -> str:
    return str((unwrapped(line.text) or {}).get("s", ""))


def loses_one(player: Player, lines: list[Line], lost: int) -> None:
    """Play all lines but one and check that its loss is noticed at the symbol's next message."""
    victim = symbol_of(lines[lost])
    successor = next(i for i in range(lost + 1, len(lines)) if symbol_of(lines[i]) == victim)
    others = [s for s in player.states if s != victim]
    for index, line in enumerate(lines):
        if index == lost:
            assert player.book(victim).state is BookState.LIVE
        if index == successor:
            before = list(player.states[victim])
            answers, resyncs = player.answers, sum(f.counters.resyncs for f in player.feeds)
            untouched = {s: list(player.states[s]) for s in others}
        player.play(line, lose=index == lost)
        if index == successor:
            # STALE, a snapshot was asked for and answered, LIVE: all within this message.
            assert player.states[victim] == [*before, "STALE", "LIVE"]
            assert player.answers == answers + 1
            assert sum(f.counters.resyncs for f in player.feeds) == resyncs + 1
            assert {s: player.states[s] for s in others} == untouched
    truth = player.truth[victim]
    book = player.book(victim)
    assert book.state is BookState.LIVE
    assert (book.last_id, book.best_bid, book.best_ask) == (truth.last_id, truth.best_bid, truth.best_ask)
    assert book.bids(50) == truth.bids(50)
    assert book.asks(50) == truth.asks(50)
    gaps = [g for g in player.of(Gap) if isinstance(g, Gap)]
    # The gap is written with the first delta that is applied after it. A futures snapshot at the very
    # message that showed the loss applies that message again; on spot a later one is needed.
    assert all((g.symbol, g.record_type, g.reason) == (victim, "book_deltas", "sequence") for g in gaps)
    follow = [i for i in range(successor + 1, len(lines)) if symbol_of(lines[i]) == victim]
    assert len(gaps) == (1 if follow or player.feeds[0].venue != SPOT.venue else 0)


@cache
def candidates(exchange: BinanceExchange, symbols: tuple[str, ...], path: Path) -> list[int]:
    """Lines whose loss must show: their symbol's book is LIVE and behind them, and a later one follows."""
    lines = depth_lines(path)
    player = Player(exchange, symbols, ("book",))
    last = {symbol_of(line): index for index, line in enumerate(lines)}
    result = []
    for index, line in enumerate(lines):
        symbol = symbol_of(line)
        if symbol and last[symbol] > index:
            book = player.book(symbol)
            event = unwrapped(line.text)
            assert event is not None
            if book.state is BookState.LIVE and int(str(event["u"])) > book.last_id:
                result.append(index)
        player.play(line)
    return result


@settings(max_examples=25)
@given(data=st.data())
def test_a_deleted_spot_depth_line_is_noticed(recordings: Path, data: st.DataObject) -> None:
    path = recordings / SPOT_40S
    lost = data.draw(st.sampled_from(candidates(SPOT, ("BTCUSDT",), path)))
    loses_one(Player(SPOT, ["BTCUSDT"], ("book",)), depth_lines(path), lost)


@settings(max_examples=40)
@given(data=st.data())
def test_a_deleted_futures_depth_line_disturbs_no_other_symbol(recordings: Path, data: st.DataObject) -> None:
    path = recordings / USDM_MULTI
    lost = data.draw(st.sampled_from(candidates(USDM, tuple(USDM_SYMBOLS), path)))
    loses_one(Player(USDM, USDM_SYMBOLS, ("book",)), depth_lines(path), lost)


FAULTS = st.lists(
    st.tuples(st.sampled_from(["lose", "repeat", "swap", "tear", "disconnect"]), st.integers(0, 10_000)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30)
@given(faults=FAULTS)
def test_random_faults_never_leave_a_wrong_live_book(recordings: Path, faults: list[tuple[str, int]]) -> None:
    """Whatever is lost, repeated, swapped or torn: a LIVE book equals the exchange's at its update id."""
    lines = depth_lines(recordings / USDM_MULTI)
    symbols = USDM_SYMBOLS
    player = Player(USDM, symbols, ("book",))
    plan = {at % len(lines): kind for kind, at in faults}
    history: dict[tuple[str, int], tuple[object, object]] = {}
    for index, line in enumerate(lines):
        kind = plan.get(index) if line.src == "ws" else None
        if kind == "disconnect":
            for feed in player.feeds:
                player.take(feed, feed.disconnected(player.now, "fault"))
                player.take(feed, feed.connected(player.now))
        if kind == "tear":
            player.play(line, lose=True)
            for feed in player.feeds:
                player.take(feed, feed.receive(line.text[: len(line.text) // 2], player.now))
        elif kind == "swap" and index + 1 < len(lines) and lines[index + 1].src == "ws":
            player.play(line, lose=True)
            for feed in player.feeds:  # the later one first, then this one; then the later one again
                player.take(feed, feed.receive(lines[index + 1].text, player.now))
                player.take(feed, feed.receive(line.text, player.now))
        else:
            player.play(line, lose=kind == "lose")
            if kind == "repeat":
                player.play(line)
        for symbol, truth in player.truth.items():
            history[symbol, truth.last_id] = (truth.best_bid, truth.best_ask)
        for symbol in symbols:
            book = player.book(symbol)
            if book.state is BookState.LIVE and (symbol, book.last_id) in history:
                assert (book.best_bid, book.best_ask) == history[symbol, book.last_id]
    for feed in player.feeds:
        for builder in feed.books.values():
            builder.check()


# Samples


def test_every_sample_is_parsed_or_counted(recordings: Path) -> None:
    """51 messages of many channels, some of products that are not ours: nothing raises."""
    path = recordings / "binance_mixed" / "crypto_msg_parser_samples.ndjson"
    texts = [text[text.index('"msg":') + 6 : -1] for text in path.read_text().splitlines()]
    lines = [Line(None, "sample", None, text) for text in texts]
    assert len(lines) == 51
    symbols = sorted({symbol_of(line) for line in lines} | {"ETHUSDT", "BTCUSDT"} - {""})
    symbols = [s for s in symbols if s]
    kinds: Counter[str] = Counter()
    for exchange in (SPOT, USDM, COINM):
        for depth in (None, 20):
            subscription = Subscription(tuple(symbols), ALL, ("1m", "1M"), depth=depth)
            feeds = exchange.feeds(subscription, instruments(exchange, symbols), exchange.endpoints)
            for feed in feeds:
                feed.connected(1)
                for line in lines:
                    for text in (line.text, line.text.encode()):
                        before = feed.counters.unknown_messages + feed.counters.skipped + feed.counters.duplicates
                        output = feed.receive(text, 1_700_000_000_000_000_000)
                        data = [r for r in output.records if not isinstance(r, FeedStatus | Gap)]
                        kinds.update(type(r).__name__ for r in data)
                        after = feed.counters.unknown_messages + feed.counters.skipped + feed.counters.duplicates
                        book = '"depthUpdate"' in text if isinstance(text, str) else b'"depthUpdate"' in text
                        assert data or after > before or book, line.text[:200]
                assert feed.counters.malformed == 0
    assert set(kinds) == {"AggTrade", "Quote", "Candle", "BookSnapshot"}
