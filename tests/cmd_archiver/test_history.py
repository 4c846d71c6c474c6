"""REST history through the whole command: every way of paging, kills, limits, bad answers, gaps."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import pytest
from archive_kit import end_of, files_in, rows
from history_venue import (
    DAY,
    DAY_NS,
    MINUTE,
    NEXT,
    SYMBOL,
    VENUE,
    History,
    MadeUp,
    fill,
    rows_of,
    start_of,
    stored,
    truth,
)

import cmd_archiver.rest
from cmd_archiver.plan import utc_day
from cmd_archiver.storing import Storing
from cmd_common.commands import EXIT_FAILED, EXIT_GAPS, EXIT_OK
from cmd_common.errors import StoreError, UsageError
from cmd_common.io import open_writer
from cmd_common.records import Trade

WAYS = ("backward", "forward", "seek")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("page", [4, 10, 1000])
def test_whatever_the_way_of_paging_every_trade_is_there_once(ask, venue, store, way, page):
    fill(venue)
    venue.page = page
    result, lines = ask(MadeUp(History(way)))
    assert (result.exit_code, result.summary["rows"]) == (EXIT_OK, {"trades": 120}), lines.warnings
    assert stored(store) == truth(venue)
    assert rows(store, "SELECT DISTINCT ts_recv, flags FROM trades") == [(None, 16)]
    assert files_in(store, "_downloads") == []
    assert files_in(store, "_locks") == []
    before = len(venue.pages())
    again, _ = ask(MadeUp(History(way)))
    assert (again.exit_code, again.summary["files"], again.summary["unchanged"]) == (EXIT_OK, 0, 2)
    assert len(venue.pages()) == before


def test_force_asks_again_and_replaces(ask, venue, store):
    fill(venue)
    ask()
    venue.trades = [(i, t + (i % 5 == 0), p, q, s) for i, t, p, q, s in venue.trades]
    result, _ = ask(force=True)
    assert (result.summary["files"], result.summary["replaced"]) == (2, 2)
    assert stored(store) == truth(venue)


@pytest.mark.parametrize("way", WAYS)
def test_killed_in_the_middle_of_days_it_goes_on_from_its_last_page(venue, tmp_path, way):
    fill(venue, 100)
    venue.page = 5
    store = f"parquet:{tmp_path / 'store'}"
    script = str(Path(__file__).with_name("history_venue.py"))

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, script, venue.url, store, way, "trades,candles", NEXT.isoformat()],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    for pages in (7, 13):
        venue.hang_after = pages
        venue.hanging.clear()
        venue.let_go.clear()
        process = start()
        assert venue.hanging.wait(30)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        venue.let_go.set()
    assert [n for n in files_in(store, "_downloads") if n.endswith(".pages")]
    result = end_of(start())
    assert result["code"] == EXIT_OK
    assert stored(store) == truth(venue)
    assert files_in(store, "_downloads") == []
    asked = len(venue.pages())
    result, pages = end_of(start()), venue.pages()
    assert (result["files"], len(pages)) == (0, asked)
    # Each page was asked for once, but those that were under way at the two kills.
    if way == "forward":  # backwards both days begin at the newest trade
        assert len(pages) - len(set(pages)) <= 2 * 2
    assert rows(store, "SELECT sum(trades) FROM candles WHERE source = 'built'") == [(200,)]


def test_a_signal_leaves_the_pages_for_the_next_run(venue, tmp_path):
    fill(venue)
    store = f"parquet:{tmp_path / 'store'}"
    script = str(Path(__file__).with_name("history_venue.py"))
    command = [sys.executable, script, venue.url, store, "backward", "trades", NEXT.isoformat()]
    venue.hang_after = 6
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert venue.hanging.wait(30)
    process.send_signal(signal.SIGTERM)
    summary = end_of(process)
    assert (summary["code"], summary["interrupted"]) == (EXIT_OK, True)
    venue.let_go.set()
    assert end_of(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))["code"] == EXIT_OK
    assert stored(store) == truth(venue)


def test_cut_between_the_rows_and_the_manifest_it_ends_with_the_same_rows(ask, venue, store, monkeypatch):
    fill(venue)
    real = Storing.write

    def cut(self, *arguments):
        real(self, *arguments)
        raise StoreError("killed")

    monkeypatch.setattr(Storing, "write", cut)
    with pytest.raises(StoreError, match="killed"):
        ask()
    monkeypatch.setattr(Storing, "write", real)
    assert ask()[0].exit_code == EXIT_OK
    assert stored(store) == truth(venue)


@pytest.fixture
def quick(monkeypatch):
    """Waits between attempts of a few ms: what is told is that they are made, not how long they are."""
    monkeypatch.setattr(cmd_archiver.rest, "SECOND", 1_000_000)


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (429, b"", {"Retry_After": "0"}),
        (418, b"", {"Retry_After": "1"}),
        (200, b'{"error":"too many requests"}', {}),
        (200, b'{"error":"busy"}', {}),
        (503, b"maintenance", {}),
        (200, b'[[1001, 17', {}),
        (200, b"<html>not the page</html>", {}),
    ],
)  # fmt: skip
def test_trouble_that_passes_costs_retries_and_no_rows(ask, venue, store, quick, status, body, headers):
    fill(venue)
    venue.trouble("/trades", status, body, times=3, **headers)
    result, lines = ask()
    assert result.exit_code == EXIT_OK, lines.warnings
    assert result.summary["retries"] >= 1
    assert (result.summary["limited"] > 0) == (status in (418, 429) or b"many" in body)
    assert stored(store) == truth(venue)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, b"", "not from here"),
        (404, b"", "HTTP 404"),
        (200, b'{"error":"unknown symbol"}', "unknown symbol"),
        (200, b"[[", "not JSON"),
        (500, b"", "HTTP 500"),
    ],
)
def test_trouble_that_stays_ends_the_day_and_the_next_run_goes_on(ask, venue, store, quick, status, body, words):
    fill(venue)
    venue.page = 5
    assert ask(end=DAY)[0].exit_code == EXIT_OK
    venue.troubles.clear()
    venue.trouble("/trades", 200, json.dumps(venue.trades[-5:][::-1]).encode())
    venue.trouble("/trades", status, body, times=100)
    result, lines = ask(start=NEXT)
    assert result.exit_code == EXIT_FAILED
    assert any(words in w for w in lines.warnings)
    venue.troubles.clear()
    asked = len(venue.pages())
    assert ask()[0].exit_code == EXIT_OK
    assert "/trades" not in venue.pages()[asked:]  # the first page was kept
    assert stored(store) == truth(venue)


def test_a_ban_that_is_too_long_ends_with_the_exchange_s_words(ask, venue):
    fill(venue)
    venue.trouble("/trades", 418, Retry_After="86400", times=5)
    result, lines = ask(end=DAY + timedelta(days=9), parallel=1)
    assert result.exit_code == EXIT_FAILED
    assert any("slow down" in w and "1440 minutes" in w for w in lines.warnings)
    assert len(venue.pages()) == 1  # nobody asks on while it lasts


def test_a_cursor_that_the_exchange_forgot_begins_the_day_again(ask, venue, store, quick):
    fill(venue)
    venue.page = 5
    venue.trouble("/trades", 200, json.dumps(venue.trades[-5:][::-1]).encode())
    venue.trouble("/trades", 403, times=1)
    assert ask(end=DAY)[0].exit_code == EXIT_FAILED
    venue.trouble("/trades", 200, b'{"error":"unknown id"}')
    assert ask(end=DAY)[0].exit_code == EXIT_OK
    assert stored(store) == truth(venue, DAY, DAY)


def test_a_walk_that_does_not_advance_is_told(ask, venue):
    fill(venue)
    history = History()
    history.stuck = True
    result, lines = ask(MadeUp(history), end=DAY)
    assert result.exit_code == EXIT_FAILED
    assert any("does not advance" in w for w in lines.warnings)


def test_missing_ids_become_gap_rows_within_days_and_between_them(ask, venue, store):
    fill(venue)
    ids = [row[0] for row in venue.trades if start_of(DAY) <= row[1]]
    gone = {ids[10], ids[11], ids[59], ids[60]}
    venue.trades = [row for row in venue.trades if row[0] not in gone]
    result, lines = ask()
    assert (result.exit_code, result.summary["gaps"]) == (EXIT_GAPS, 2)
    query = "SELECT first_id, last_id, reason FROM gaps ORDER BY ts_from"
    assert rows(store, query) == [(ids[10], ids[11], "archive_hole"), (ids[59], ids[60], "archive_hole")]
    assert any("misses ids in 1 places" in w for w in lines.warnings)
    assert ask()[0].exit_code == EXIT_GAPS
    fill(venue)
    assert ask(force=True)[0].exit_code == EXIT_OK
    assert {r[0] for r in rows(store, "SELECT repaired_by FROM gaps")} == {"archive"}


def test_a_trade_that_was_recorded_live_with_other_digits_stays_one_row(ask, venue, store):
    fill(venue)
    mine = [row for row in venue.trades if start_of(DAY) <= row[1] < start_of(NEXT)]
    live = mine[3:9] + mine[-1:]
    with open_writer(store) as writer:
        writer.write(
            [Trade(t // 1000 * 1000, 7, VENUE, SYMBOL, str(i), i, float(p), float(q), s) for i, t, p, q, s in live]
        )
    result, _ = ask(end=DAY, types=("trades", "candles"), candles="built")
    assert (result.exit_code, result.summary["rows"]["trades"]) == (EXIT_OK, 53)
    assert rows(store, "SELECT count(*), count(DISTINCT trade_id), count(ts_recv) FROM trades") == [(60, 60, 7)]
    assert rows(store, "SELECT sum(trades) FROM candles") == [(60,)]
    ask(end=DAY, force=True)
    assert rows(store, "SELECT count(*) FROM trades") == [(60,)]


def test_ids_that_are_not_contiguous_have_no_holes(ask, venue, store):
    fill(venue)
    venue.trades = [(i * 7, *rest) for i, *rest in venue.trades]
    result, _ = ask(MadeUp(History(contiguous=False)))
    assert (result.exit_code, result.summary["gaps"]) == (EXIT_OK, 0)
    assert stored(store) == truth(venue)


def test_days_older_than_the_exchange_answers_for_are_gaps(ask, venue, store):
    fill(venue)
    history = History(reach=10 * DAY_NS)
    result, lines = ask(MadeUp(history))
    assert (result.exit_code, result.summary["missing"]) == (EXIT_GAPS, 2)
    assert any("last 10 days only" in w for w in lines.warnings)
    assert venue.pages() == []
    query = "SELECT ts_from, ts_to, reason, repaired_by FROM gaps ORDER BY ts_from"
    begin = start_of(DAY)
    assert rows(store, query) == [
        (begin, begin + DAY_NS, "out_of_reach", ""),
        (begin + DAY_NS, begin + 2 * DAY_NS, "out_of_reach", ""),
    ]
    assert ask(MadeUp(history))[0].exit_code == EXIT_GAPS
    assert ask(MadeUp(History()))[0].exit_code == EXIT_OK
    assert {r[3] for r in rows(store, query)} == {"archive"}


def test_a_day_that_is_partly_within_reach_says_from_when_on_it_is_whole(ask, venue, store):
    today = utc_day(time.time_ns())
    day = today - timedelta(days=3)
    venue.trades = rows_of(day, 60)
    reach = int((time.time() * 1e9 - start_of(day)) - DAY_NS // 2)
    result, _ = ask(MadeUp(History(reach=reach)), start=day, end=day)
    assert (result.exit_code, result.summary["rows"]) == (EXIT_GAPS, {"trades": 60})
    ((low, high, reason),) = rows(store, "SELECT ts_from, ts_to, reason FROM gaps")
    assert (low, reason) == (start_of(day), "out_of_reach")
    assert 0 < high - low - DAY_NS // 2 < 600_000_000_000


def test_what_the_source_calls_lost_becomes_a_gap(ask, venue, store):
    fill(venue)
    history = History()
    history.lost, history.lost_span = "the exchange skipped some", (start_of(DAY) + 5, start_of(DAY) + 9)
    result, lines = ask(MadeUp(history), end=DAY)
    assert result.exit_code == EXIT_GAPS
    assert rows(store, "SELECT ts_from, ts_to, reason, detail FROM gaps") == [
        (*history.lost_span, "not_served", "the exchange skipped some")
    ]
    assert any("skipped some" in w for w in lines.warnings)


def test_a_day_that_is_lost_as_a_whole_is_missing_and_asked_for_again(ask, venue, store):
    history = History()
    history.lost = "gone for good"
    result, _ = ask(MadeUp(history), end=DAY)
    assert (result.exit_code, result.summary["missing"], result.summary["files"]) == (EXIT_GAPS, 1, 0)
    assert rows(store, "SELECT ts_to - ts_from, reason FROM gaps") == [(DAY_NS, "not_served")]
    fill(venue)
    assert ask(end=DAY)[0].exit_code == EXIT_OK
    assert rows(store, "SELECT repaired_by FROM gaps") == [("archive",)]


def test_a_day_without_a_trade_is_done(ask, venue, store):
    fill(venue)
    venue.trades = [row for row in venue.trades if not start_of(NEXT) <= row[1] < start_of(NEXT) + DAY_NS]
    result, lines = ask(MadeUp(History(contiguous=False)))
    assert (result.exit_code, result.summary["files"]) == (EXIT_OK, 2)
    assert any("no rows" in i for i in lines.infos)
    assert ask(MadeUp(History(contiguous=False)))[0].summary["unchanged"] == 2


def candles(day: date, count: int, step: int = 60) -> list[tuple[int, str]]:
    return [(start_of(day) // 1_000_000_000 + n * step, f"{100 + n % 5}.5") for n in range(count)]


def test_candles_come_over_rest_and_a_missing_one_is_a_gap_unless_they_are_sparse(ask, venue, store):
    venue.page = 300
    venue.candles["1m"] = candles(DAY, 2880)
    del venue.candles["1m"][700:703]
    result, _ = ask(types=("candles",))
    assert (result.exit_code, result.summary["rows"]) == (EXIT_GAPS, {"candles": 2877})
    ((low, high, reason),) = rows(store, "SELECT ts_from, ts_to, reason FROM gaps")
    assert (high - low, reason) == (3 * MINUTE, "archive_hole")
    query = "SELECT open_time, close, trades, quote_volume FROM candles ORDER BY open_time LIMIT 1"
    ((opened, close, trades, volume),) = rows(store, query)
    assert (opened, close, trades, math.isnan(volume)) == (start_of(DAY), 100.5, -1, True)
    result, _ = ask(MadeUp(History(sparse=True)), types=("candles",), force=True)
    assert (result.exit_code, result.summary["gaps"]) == (EXIT_OK, 0)


def test_candles_built_of_trades_are_compared_with_the_exchange_s(ask, venue, store):
    fill(venue, 1440)
    venue.page = 500
    closes: dict[int, str] = {}
    for _, t, price, _, _ in venue.trades:
        closes[t // MINUTE * 60] = price
    venue.candles["1m"] = sorted(closes.items())
    result, _ = ask(MadeUp(History(sparse=True)), types=("trades", "candles"), compare=True, end=DAY)
    assert result.exit_code == EXIT_OK
    compared = result.summary["comparison"][f"{VENUE}:{SYMBOL} 1m"]
    assert compared["equal"] + compared["different"] == len(
        [t for t in closes if t // 86_400 == start_of(DAY) // DAY_NS]
    )
    assert compared["equal"] > 0
    assert compared["only_exchange"] == 0


def test_long_candles_wait_for_their_end(ask, venue, store):
    monday = date(2025, 6, 2)
    venue.candles["1w"] = [(start_of(monday) // 1_000_000_000, "7")]
    result, _ = ask(types=("candles",), intervals=("1w",), start=DAY, end=monday)
    assert (result.exit_code, result.summary["rows"]) == (EXIT_OK, {"candles": 1})
    yesterday = utc_day(time.time_ns()) - timedelta(days=1)
    result, lines = ask(types=("candles",), intervals=("1w",), start=yesterday, end=yesterday)
    assert (result.exit_code, len(result.summary["unpublished"])) == (EXIT_GAPS, 1)
    assert "not over" in lines.warnings[0]


def test_a_dry_run_says_what_would_be_asked(ask, venue, store, tmp_path):
    fill(venue)
    result, lines = ask(MadeUp(History("forward")), dry_run=True)
    (one,) = result.summary["rest"]
    assert (one["symbol"], one["table"], one["days"], one["out_of_reach"]) == (SYMBOL, "trades", 2, 0)
    assert one["first"].endswith(f"/trades?since={start_of(DAY)}")
    assert any("2 days over REST" in i for i in lines.infos)
    assert list(tmp_path.iterdir()) == []
    assert venue.pages() == []
    ask()
    assert ask(dry_run=True)[0].summary["done_before"] == 2


@pytest.mark.parametrize(
    ("made", "changes", "words"),
    [
        (MadeUp(), {}, "no history here"),
        (MadeUp(History()), {"source": "files"}, "publishes no bulk files"),
        (MadeUp(), {"source": "rest"}, "no REST history"),
        (MadeUp(History()), {"source": "ftp"}, "unknown source"),
        (MadeUp(History()), {"types": ("agg_trades",)}, "agg_trades"),
        (MadeUp(History()), {"types": ("candles",), "intervals": ("7m",)}, "7m"),
        (MadeUp(History()), {"from_files": ("nothing.zip",)}, "no local files"),
        (MadeUp(History()), {"symbols": ("BTC/USX",)}, "did you mean BTC-USD or BTC/USD"),
    ],
)
def test_wrong_options_are_told_before_anything_is_asked(ask, venue, made, changes, words):
    with pytest.raises(UsageError, match=words):
        ask(made, **changes)
    assert venue.pages() == []


def test_many_units_share_one_budget_and_say_what_they_asked(ask, venue, store):
    fill(venue)
    result, _ = ask(MadeUp(History(), weight_per_minute=60_000), parallel=8)
    assert result.exit_code == EXIT_OK
    assert result.summary["requests"] == len(venue.pages())
