from __future__ import annotations

from cmd_common.records import FeedStatus, Gap, Quote, Record, Trade
from cmd_feed.gaps import GapLedger, overflow_gaps


def trade(ts: int, symbol: str = "BTCUSDT") -> Trade:
    return Trade(ts, ts + 1, "binance-spot", symbol, str(ts), ts, 1.0, 2.0, "buy")


def test_open_gaps_are_counted_by_reason_and_repairs_close_them() -> None:
    ledger = GapLedger()
    gap = Gap(1, 2, "v", "S", "trades", "disconnect", "lost")
    status = FeedStatus(1, 1, "v", "", "", "v/0", "connected", "")
    ledger.count([trade(1), trade(2), gap, status])
    other = Gap(1, 2, "v", "S", "quotes", "disconnect", "lost")
    ledger.count([other])
    assert ledger.records == {"trades": 2, "gaps": 2, "feed_status": 1}
    assert ledger.gaps == 2
    assert ledger.states == {"connected": 1}
    ledger.count([Gap(1, 2, "v", "S", "trades", "disconnect", "lost", repaired_by="archive")])
    assert ledger.gaps == 1


def test_rows_of_one_key_are_one_gap_as_in_the_store() -> None:
    ledger = GapLedger()
    ledger.count([Gap(1, 1, "v", "S", "trades", "trade_id", "lost", 5, 6)])
    ledger.count([Gap(1, 1, "v", "S", "trades", "trade_id", "lost", 5, 9)])  # it grew
    assert ledger.gaps == 1
    ledger.count([Gap(1, 1, "v", "S", "trades", "trade_id", "lost", 5, 9, repaired_by="late messages")])
    assert ledger.gaps == 0
    ledger.count([Gap(1, 1, "v", "S", "trades", "trade_id", "lost", 11, 11)])
    assert ledger.gaps == 1


def test_beyond_its_limit_the_ledger_counts_rows() -> None:
    ledger = GapLedger(limit=1)
    ledger.count([Gap(n, n, "v", "S", "trades", "trade_id", "lost", n, n) for n in range(3)])
    ledger.count([Gap(2, 2, "v", "S", "trades", "trade_id", "lost", 2, 2, repaired_by="late messages")])
    assert ledger.gaps == 2


def test_dropped_records_become_one_gap_per_stream_and_gaps_among_them_stay() -> None:
    gap = Gap(1, 2, "v", "S", "trades", "disconnect", "lost")
    quote = Quote(50, 51, "binance-spot", "BTCUSDT", 1, 1.0, 1.0, 2.0, 1.0)
    dropped: list[Record] = [trade(30), trade(10), gap, trade(20, "ETHUSDT"), quote, trade(15)]
    made = overflow_gaps(dropped)
    assert made[0] is gap
    spans = {(g.symbol, g.record_type): (g.ts_from, g.ts_to, g.detail[:2]) for g in made[1:] if isinstance(g, Gap)}
    assert spans == {
        ("BTCUSDT", "trades"): (10, 30, "3 "),
        ("ETHUSDT", "trades"): (20, 20, "1 "),
        ("BTCUSDT", "quotes"): (50, 50, "1 "),
    }
    assert all(g.reason == "overflow" and g.severity == "lost" for g in made[1:] if isinstance(g, Gap))
