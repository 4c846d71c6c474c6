"""``archive --since-last``: from the oldest day of late that is not done to yesterday, one run at a time."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from archive_kit import Lines
from hypothesis import given
from hypothesis import strategies as st

from cmd_archiver.command import state_folder
from cmd_archiver.locks import FileLock
from cmd_archiver.manifest import Entry
from cmd_archiver.since import LOOK_BACK, first_day, run_since_last
from cmd_common.commands import EXIT_BUSY, EXIT_GAPS, EXIT_OK, EXIT_UNREACHABLE, ArchiveOptions
from cmd_common.errors import UsageError
from cmd_common.io import open_reader

YESTERDAY = date(2025, 6, 30)


def row(back: int, state: Any = "done", symbol: str = "A", product: str = "trades", venue: str = "v") -> Any:
    day = (YESTERDAY - timedelta(days=back)).isoformat()
    return venue, product, symbol, "", day, Entry(f"{symbol}{day}", product, state, last_day=day)


@given(st.dictionaries(st.integers(0, 40), st.sampled_from(["done", "missing", "quarantined", "writing"])))
def test_it_begins_with_the_oldest_day_of_late_that_is_not_done(states: dict[int, str]) -> None:
    first = first_day(
        [row(back, state) for back, state in sorted(states.items(), reverse=True)], ["v"], ["trades"], YESTERDAY
    )
    back = (YESTERDAY - first).days
    assert 0 <= back <= LOOK_BACK
    asked = max(states, default=0)
    begun = list(range(min(asked, LOOK_BACK), 0, -1))
    undone = [n for n in begun if states.get(n) != "done"]
    assert back == (undone[0] if undone else 0)


def test_other_streams_do_not_count() -> None:
    rows = [row(20, venue="w"), row(20, product="agg_trades"), row(3), row(2), row(1)]
    assert first_day(rows, ["v"], ["trades"], YESTERDAY) == YESTERDAY
    assert first_day(rows, ["v", "w"], ["trades"], YESTERDAY) == YESTERDAY - timedelta(days=19)
    assert first_day(rows, ["v"], ["trades", "agg_trades"], YESTERDAY) == YESTERDAY - timedelta(days=19)


def test_a_start_is_where_nothing_was_archived_and_a_limit_elsewhere() -> None:
    start = YESTERDAY - timedelta(days=10)
    assert first_day([], ["v"], ["trades"], YESTERDAY) == YESTERDAY
    assert first_day([], ["v"], ["trades"], YESTERDAY, start) == start
    assert first_day([], ["v"], ["trades"], YESTERDAY, start - timedelta(days=90)) == YESTERDAY - timedelta(
        days=LOOK_BACK
    )
    assert first_day([row(25)], ["v"], ["trades"], YESTERDAY, start) == start


@pytest.fixture
def every_day(server, store):
    """One run on the morning of a day; returns (result, reporter)."""
    from cmd_archiver.command import run

    def go(today: date, **changes: Any):
        options = {
            "exchanges": ("binance-spot",), "symbols": ("BTCUSDT",), "types": ("trades",), "start": date.min, "end": date.min,
            "store": store, "endpoints": {"": server.url}, "since_last": True, **changes,
        }  # fmt: skip
        lines = Lines()
        return run_since_last(ArchiveOptions(**options), lines, today, run), lines

    return go


def test_every_morning_takes_yesterday_and_what_failed_before(every_day, server, store, made_up) -> None:
    days = [date(2024, 8, 8) + timedelta(days=n) for n in range(4)]
    for n in (0, 1, 3):
        server.add_trades(days[n], made_up(days[n], 100, first_id=1000 + 100 * n))
    morning = [day + timedelta(days=1) for day in days]
    done, _ = every_day(morning[0])
    assert (done.exit_code, done.summary["start"], done.summary["files"]) == (EXIT_OK, "2024-08-08", 1)
    assert every_day(morning[1])[0].summary["files"] == 1
    late, _ = every_day(morning[2])  # the day's file is not there yet
    assert (late.exit_code, late.summary["missing"], late.summary["start"]) == (EXIT_GAPS, 1, "2024-08-10")
    server.add_trades(days[2], made_up(days[2], 100, first_id=1200))
    done, _ = every_day(morning[3])
    assert (done.exit_code, done.summary["files"], done.summary["start"]) == (EXIT_OK, 2, "2024-08-10")
    again, _ = every_day(morning[3])
    assert (again.exit_code, again.summary["files"]) == (EXIT_OK, 0)
    with open_reader(store) as reader:
        assert [t.trade_seq for t in reader.records("trades")] == list(range(1000, 1400))


def test_one_run_at_a_time(every_day, server, store, made_up) -> None:
    server.add_trades(date(2024, 8, 8), made_up(date(2024, 8, 8), 10))
    with FileLock(state_folder(store) / "_locks", "since-last"):
        result, lines = every_day(date(2024, 8, 9))
    assert (result.exit_code, len(lines.warnings)) == (EXIT_BUSY, 1)
    assert every_day(date(2024, 8, 9))[0].exit_code == EXIT_OK


def test_a_server_that_cannot_be_reached_has_its_own_code(every_day, server, made_up) -> None:
    result, _ = every_day(date(2024, 8, 9), endpoints={"": "http://127.0.0.1:9"})
    assert result.exit_code == EXIT_UNREACHABLE
    server.add_trades(date(2024, 8, 8), made_up(date(2024, 8, 8), 10))
    assert every_day(date(2024, 8, 9))[0].exit_code == EXIT_OK


def test_a_start_that_is_not_over_is_refused(every_day) -> None:
    with pytest.raises(UsageError, match="is not over"):
        every_day(date(2024, 8, 9), start=date(2024, 8, 9))
