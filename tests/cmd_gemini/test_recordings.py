"""The recording of Gemini's v2 feed: books that never cross, sides of trades, numbers of its messages."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmd_common.feed import Subscription
from cmd_common.records import BookDelta, BookSnapshot, Gap, Quote, Trade
from cmd_common.sequence import BookState
from cmd_gemini import GEMINI

ROOT = os.environ.get("CMD_RECORDINGS", "")
FOLDER = Path(ROOT) / "gemini"
pytestmark = pytest.mark.skipif(not ROOT, reason="CMD_RECORDINGS is not set")
SYMBOLS = ("ANKRUSD", "FILUSD", "LINKETH", "LTCETH", "ZECLTC")


def lines(name: str) -> Iterator[tuple[str, str, int, str]]:
    for line in (FOLDER / name).read_text().splitlines():
        head = json.loads(line)
        yield (
            head["src"],
            head.get("url") or "",
            head["recv_ns"] or 0,
            line[line.index('"msg":') + 6 : line.rindex("}")],
        )


def test_books_never_cross_and_trades_have_the_side_of_the_taker() -> None:
    bodies = [t for _, url, _, t in lines("cryptofeed_symbols_details_20210624.ndjson") if "/details/" in url]
    known = {i.symbol: i for body in bodies for i in GEMINI.parse_instruments(body.encode())}
    subscription = Subscription(SYMBOLS, ("trades", "quotes", "book"), options={"api": "v2"})
    (feed,) = GEMINI.feeds(subscription, known, GEMINI.endpoints)
    counted: Counter[str] = Counter()
    records: list[object] = []
    hits: Counter[tuple[str, str]] = Counter()
    for src, _, now, text in lines("cryptofeed_v2_10symbols_20210624.ndjson"):
        if src == "ws_open":
            records += feed.connected(now).records
        if src != "ws":
            continue
        touches = {s: (b.book.best_bid, b.book.best_ask) for s, b in feed.books.items() if b.state is BookState.LIVE}
        new = feed.receive(text, now).records
        records += new
        counted.update(type(r).__name__ for r in new)
        single = [r for r in new if isinstance(r, Trade)]
        if len(single) == 1:  # not the fifty that come with a book
            (trade,) = single
            bid, ask = touches[trade.symbol]
            assert bid is not None
            assert ask is not None
            # Which side of the book it hit; one inside the spread says nothing.
            hit = "buy" if trade.price >= ask[0] else "sell" if trade.price <= bid[0] else ""
            hits[trade.side, hit] += 1
        for builder in feed.books.values():
            if builder.state is BookState.LIVE:
                assert not builder.book.crossed
    counters = feed.counters
    assert counters.malformed == counters.unknown_messages == counters.unknown_fields == counters.errors == 0
    assert counters.resyncs == 0
    assert [r for r in records if isinstance(r, Gap)] == []
    assert {s for s, b in feed.books.items() if b.state is BookState.LIVE} == set(SYMBOLS)
    # 15 trades on their own and 50 with each book; 296 changes and 5 books.
    assert len([r for r in records if isinstance(r, Trade)]) == 15 + 250
    assert len([r for r in records if isinstance(r, BookDelta)]) == 296
    assert len([r for r in records if isinstance(r, BookSnapshot)]) >= 5
    assert len([r for r in records if isinstance(r, Quote)]) > 20
    agreeing = sum(n for (side, hit), n in hits.items() if side == hit)
    against = sum(n for (side, hit), n in hits.items() if hit and side != hit)
    assert (agreeing, against) == (15, 0), hits  # all of them buys
