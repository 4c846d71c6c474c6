"""What was missed while no recorder ran becomes a Gap; a replay that begins again does not."""

import pytest

from cmd_common.records import BookDelta, BookSnapshot, Candle, Gap, Quote, Trade
from cmd_feed.resume import Resume

V, S = "binance-spot", "BTCUSDT"


def trade(n, ts_recv=1):
    return Trade(n * 1000, ts_recv, V, S, str(n), n, 1.0, 1.0, "buy")


def delta(first, last, epoch=1):
    return BookDelta(last * 10, 1, V, S, epoch, last, first, b"", b"")


def quote(n):
    return Quote(n * 10, 1, V, S, n, 1.0, 1.0, 2.0, 1.0)


def candle(minute, state="final", interval="1m"):
    m = 60_000_000_000
    return Candle(
        minute * m, (minute + 1) * m, minute * m, 1, V, S, interval, "exchange", state, *[1.0] * 6, 1, 1.0, 1.0
    )


def resume(*stored):
    tables = {type(r).__name__: r for r in stored}
    names = {
        "trades": "Trade",
        "agg_trades": "AggTrade",
        "quotes": "Quote",
        "candles": "Candle",
        "book_deltas": "BookDelta",
    }
    r = Resume(lambda table, venue, symbol: tables.get(names[table]) if symbol == S else None)
    r.expect(V, [S, "ETHUSDT"], ["trades", "quotes", "candles", "book"])
    return r


def test_missing_trade_ids_are_named():
    r = resume(trade(5))
    assert r.gaps([quote(3), trade(9), trade(12)]) == [
        Gap(5000, 9000, V, S, "trades", "restart", "lost", 6, 8, detail="nothing was recorded in between")
    ]
    assert r.open == 0
    assert r.gaps([trade(99)]) == []  # once


@pytest.mark.parametrize("first", [6, 5, 1])
def test_following_or_repeated_trades_are_no_gap(first):
    assert resume(trade(5)).gaps([trade(first)]) == []


def test_rows_from_files_are_not_a_recorders_past():
    assert resume(trade(5, ts_recv=0)).open == 0


def test_book_gap_ends_at_the_first_row_of_the_new_epoch():
    snapshot = BookSnapshot(700, 1, V, S, 60, 60, 1, 1, b"", b"")
    (gap,) = resume(delta(41, 50)).gaps([snapshot, delta(61, 62, 60)])
    assert (gap.ts_from, gap.ts_to, gap.record_type, gap.first_id, gap.last_id) == (500, 700, "book_deltas", 51, 60)
    assert resume(delta(41, 50)).gaps([delta(51, 53)]) == []
    assert resume(delta(41, 50)).gaps([delta(2, 3)]) == []


def test_quotes_are_judged_by_time():
    (gap,) = resume(quote(5)).gaps([quote(8)])
    assert (gap.ts_from, gap.ts_to, gap.first_id) == (50, 80, None)
    assert resume(quote(5)).gaps([quote(5)]) == []


def test_quotes_that_are_counted_anew_are_judged_by_time():
    """A venue without ids of quotes: the count begins again, the time goes on."""
    first = Quote(9_000, 2, V, S, 1, 1.0, 1.0, 3.0, 1.0)
    assert resume(quote(50)).gaps([first]) == [
        Gap(500, 9_000, V, S, "quotes", "restart", "lost", detail="nothing was recorded in between")
    ]
    assert resume(quote(50)).gaps([Quote(400, 2, V, S, 1, 1.0, 1.0, 3.0, 1.0)]) == []  # a replay that begins again
    same = quote(50)
    assert resume(same).gaps([Quote(9_000, 2, V, S, 50, 1.0, 1.0, 2.0, 1.0)]) == []  # an unchanged one, told again


def test_candles_are_judged_within_their_interval():
    r = resume(candle(5))
    assert r.gaps([candle(9, interval="5m")]) == []
    (gap,) = r.gaps([candle(9)])
    assert (gap.ts_from, gap.ts_to, gap.detail) == (6 * 60_000_000_000, 9 * 60_000_000_000, "1m")
    assert resume(candle(5)).gaps([candle(6)]) == []
    (gap,) = resume(candle(5, "provisional")).gaps([candle(6)])
    assert gap.ts_from == 5 * 60_000_000_000  # its final form was never seen
