"""``repair`` over real stores and a loopback archive: what can be had is had, and the ledger tells it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from archive_kit import DAY, NEXT, Lines

from cmd_archiver.command import state_folder
from cmd_archiver.locks import FileLock
from cmd_archiver.plan import day_start
from cmd_archiver.verify.repair import run
from cmd_archiver.verify.run import run as run_verify
from cmd_common.commands import EXIT_BUSY, EXIT_GAPS, EXIT_OK, EXIT_UNREACHABLE, RepairOptions, VerifyOptions
from cmd_common.errors import UsageError
from cmd_common.gaps import GapIndex
from cmd_common.io import open_reader, open_writer
from cmd_common.records import Gap, Quote, Trade

S = 1_000_000_000
DAY_NS = 86_400 * S


@pytest.fixture
def mend(server, store) -> Callable[..., Any]:
    """Repair the store; returns (exit code, summary, reporter)."""

    def mend(**changes: Any) -> tuple[int, dict[str, Any], Lines]:
        lines = Lines()
        result = run(RepairOptions(**{"store": store, "endpoints": {"": server.url}, **changes}), lines)
        return result.exit_code, result.summary, lines

    return mend


def put(store: str, rows) -> None:
    with open_writer(store) as writer:
        writer.write(list(rows))


def live(rows, *, symbol: str = "BTCUSDT") -> list[Trade]:
    """Trades of a published file, as a recorder has them."""
    return [
        Trade(ms * 10**6, ms * 10**6 + 5, "binance-spot", symbol, str(i), i, float(p), float(q), "sell" if m else "buy")
        for i, p, q, ms, m in rows
    ]


def ids(store: str) -> list[int]:
    with open_reader(store) as reader:
        return sorted(r.trade_seq for r in reader.records("trades"))


def ledger(store: str) -> list[tuple[str, str, str, int | None, int | None, str]]:
    with open_reader(store) as reader:
        found = list(reader.records("gaps")) if "gaps" in reader.tables() else []
    return [(g.symbol, g.record_type, g.reason, g.first_id, g.last_id, g.repaired_by) for g in found]


def gap(first: int, last: int, reason: str = "trade_id", *, day: date = DAY, **more: Any) -> Gap:
    """A gap of ids of a day with a trade a second from id 1000 on."""
    start = day_start(day)
    fields: dict[str, Any] = {"symbol": "BTCUSDT", "record_type": "trades", "severity": "lost", **more}
    at = start + (first - 1001) * S, start + (last - 999) * S
    return Gap(*at, "binance-spot", fields["symbol"], fields["record_type"], reason, fields["severity"], first, last)


def whole(store: str, server) -> bool:
    return run_verify(VerifyOptions(store, endpoints={"": server.url}), Lines()).exit_code == EXIT_OK


def test_gaps_of_a_live_day_are_filled_from_the_next_days_file(server, store, mend, made_up) -> None:
    rows = made_up(DAY, 1000)
    put(store, [*live(rows[:300] + rows[400:600] + rows[610:]), gap(1300, 1399)])
    server.add_trades(DAY, rows)
    code, summary, _ = mend(dry_run=True)
    assert (code, summary["days"], len(server.downloads())) == (EXIT_GAPS, 1, 0)
    code, summary, _ = mend()
    assert (code, summary["not_whole"], summary["closed"]) == (EXIT_OK, 0, 2)
    assert ids(store) == list(range(1000, 2000))
    assert sorted(ledger(store)) == [
        ("BTCUSDT", "trades", "trade_id", 1300, 1399, "archive"),
        ("BTCUSDT", "trades", "verify", 1600, 1609, "archive"),  # nobody had told of it
    ]
    assert whole(store, server)
    asked = len(server.requests)
    code, summary, _ = mend()
    assert (code, summary["fetched_days"], summary["closed"], len(server.requests)) == (EXIT_OK, 0, 0, asked)


def test_days_that_are_missing_are_archived_in_one_go(server, store, mend, made_up) -> None:
    put(store, live(made_up(DAY, 100)))
    put(store, live(made_up(DAY + timedelta(days=4), 100, first_id=1400)))
    for n in (0, 1, 2, 3, 4):
        server.add_trades(DAY + timedelta(days=n), made_up(DAY + timedelta(days=n), 100, first_id=1000 + 100 * n))
    code, summary, lines = mend()
    assert (code, summary["fetched_days"]) == (EXIT_OK, 3)
    assert lines.bars["repair"] == (1, 1)
    assert ids(store) == list(range(1000, 1500))


def test_a_gap_without_ids_is_split_where_only_some_of_it_comes(server, store, mend, made_up) -> None:
    rows = made_up(DAY, 1000)
    start = day_start(DAY)
    put(store, live(rows[:300] + rows[400:]))
    put(store, [Gap(start + 299 * S, start + 400 * S, "binance-spot", "BTCUSDT", "trades", "disconnect", "lost")])
    server.add_trades(DAY, rows[:340] + rows[350:])  # the exchange itself lacks ten
    code, summary, _ = mend()
    assert (code, summary["not_whole"]) == (EXIT_GAPS, 1)
    with open_reader(store) as reader:
        found = sorted(reader.records("gaps"), key=lambda g: (g.reason, g.ts_from))
        index = GapIndex.load(reader)
    assert [(g.reason, g.first_id, g.last_id, g.repaired_by) for g in found] == [
        ("archive_hole", 1340, 1349, ""),
        ("disconnect", None, None, "archive+split"),
    ]
    (left,) = index.open("binance-spot", "BTCUSDT", "trades")
    assert (left.start, left.end) == (start + 339 * S, start + 350 * S)
    again = mend()[1]
    assert (again["closed"], again["split"]) == (0, 0)


def test_a_gap_of_all_symbols_is_closed_for_those_that_can_be_had(server, store, mend, made_up) -> None:
    rows = made_up(DAY, 1000)
    start = day_start(DAY)
    for symbol in ("BTCUSDT", "ETHUSDT"):
        put(store, live(rows[:300] + rows[400:], symbol=symbol))
        server.add_trades(DAY, rows, symbol=symbol)
    put(
        store,
        [Quote(start + n * S, start + n * S, "binance-spot", "BTCUSDT", n, 1.0, 1.0, 2.0, 1.0) for n in (1, 2, 900)],
    )
    put(store, [Gap(start + 299 * S, start + 400 * S, "binance-spot", "", "", "stop", "lost")])
    code, summary, _ = mend()
    assert (code, summary["split"], summary["left"]) == (
        EXIT_GAPS,
        1,
        ["binance-spot:BTCUSDT quotes 2024-08-08: begins, ends, gap"],
    )
    assert sorted(ledger(store)) == [
        ("", "", "stop", None, None, "archive+split"),
        ("BTCUSDT", "quotes", "stop", None, None, ""),
    ]
    with open_reader(store) as reader:
        index = GapIndex.load(reader)
    assert index.open("binance-spot", "ETHUSDT", "trades") == []
    assert len(index.open("binance-spot", "BTCUSDT", "quotes")) == 1


def test_a_gap_over_days_is_split_by_day(server, store, mend, made_up) -> None:
    put(store, live(made_up(DAY, 100)))
    put(store, live(made_up(NEXT + timedelta(days=2), 100, first_id=1300)))
    start = day_start(DAY)
    put(
        store,
        [Gap(start + 99 * S, start + 3 * DAY_NS, "binance-spot", "BTCUSDT", "trades", "restart", "lost", 1100, 1299)],
    )
    server.add_trades(DAY, made_up(DAY, 100))
    server.add_trades(NEXT, made_up(NEXT, 100, first_id=1100))  # the other day is not published
    assert mend()[0] == EXIT_GAPS
    assert ids(store) == [*range(1000, 1200), *range(1300, 1400)]
    with open_reader(store) as reader:
        index = GapIndex.load(reader)
    left = index.open("binance-spot", "BTCUSDT", "trades")
    third = start + 2 * DAY_NS
    assert left
    assert all(i.end > third - DAY_NS + 99 * S for i in left)
    assert not index.complete("binance-spot", "BTCUSDT", "trades", third, third + DAY_NS)
    assert index.complete("binance-spot", "BTCUSDT", "trades", start, start + 50 * S)


def test_rows_that_were_lost_are_fetched_again_although_they_were_archived(go, server, store, mend, made_up) -> None:
    server.add_trades(DAY, made_up(DAY, 1000))
    go(end=DAY)
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(state_folder(store) / "_archive.sqlite")) as db:
        db.execute("UPDATE files SET rows = 1003")
        db.commit()
    assert not whole(store, server)
    assert mend()[0] == EXIT_OK
    assert whole(store, server)


def test_replaced_files_are_archived_again_when_asked_for(go, server, store, mend, made_up) -> None:
    rows = made_up(DAY, 1000)
    server.add_trades(DAY, rows[:900])
    go(end=DAY)
    server.add_trades(DAY, rows)
    assert mend()[1]["fetched_days"] == 0
    code, summary, _ = mend(recheck=True)
    assert (code, summary["fetched_days"]) == (EXIT_OK, 1)
    assert ids(store) == list(range(1000, 2000))


def test_a_published_list_of_replaced_files_is_followed(go, server, store, mend, made_up, tmp_path) -> None:
    rows, others = made_up(DAY, 1000), made_up(NEXT, 1000, first_id=2000)
    server.add_trades(DAY, rows[:900])
    server.add_trades(NEXT, others[:900])
    go(end=NEXT)
    server.add_trades(DAY, rows)
    server.add_trades(NEXT, others)
    before = len(server.requests)
    lists = tmp_path / "updates.csv"
    sums = f"{'0' * 64}  BTCUSDT-trades-{DAY}.zip,{'1' * 64}  BTCUSDT-trades-{DAY}.zip"
    lists.write_text(
        f"File,Original File Checksum,New File Checksum\nBTCUSDT-trades-{DAY},{sums}\nETHUSDT-trades-2018-01,a,b\n"
    )
    code, summary, lines = mend(replaced=str(lists))
    assert (code, summary["fetched_days"]) == (EXIT_OK, 1)
    assert "2 replaced files are listed; 1 days of the store came from them" in lines.infos
    assert ids(store) == [*range(1000, 2000), *range(2000, 2900)]  # the other day is not on the list
    assert not any(str(NEXT) in path for path in server.requests[before:])
    assert mend(replaced=str(lists))[1]["fetched_days"] == 0
    lists.write_text(f"| BTCUSDT-trades-{NEXT:%Y-%m}.zip | {'0' * 64} | {'1' * 64} |\n")  # a month
    assert mend(replaced=str(lists))[1]["fetched_days"] == 1
    assert ids(store) == list(range(1000, 3000))
    lists.write_text("nothing of use\n")
    with pytest.raises(UsageError, match="names no file"):
        mend(replaced=str(lists))
    with pytest.raises(UsageError, match="cannot read the list"):
        mend(replaced=str(tmp_path / "nowhere"))


def test_what_came_by_itself_is_closed_without_a_question(server, store, mend, made_up) -> None:
    put(store, [*live(made_up(DAY, 1000)), gap(1300, 1399, "restart")])
    code, summary, _ = mend()
    assert (code, summary["fetched_days"], server.requests) == (EXIT_OK, 0, [])
    assert ledger(store) == [("BTCUSDT", "trades", "restart", 1300, 1399, "live")]


def test_two_repairs_do_not_work_on_one_store(server, store, mend, made_up) -> None:
    put(store, live(made_up(DAY, 10)))
    with FileLock(state_folder(store) / "_locks", "repair"):
        assert mend()[0] == EXIT_BUSY
    assert mend()[0] == EXIT_OK


def test_an_exchange_that_cannot_be_reached_is_told_and_nothing_is_lost(server, store, mend, made_up) -> None:
    rows = made_up(DAY, 100)
    put(store, [*live(rows[:30] + rows[40:]), gap(1030, 1039)])
    code, summary, lines = mend(endpoints={"": "http://127.0.0.1:9"})
    assert (code, len(summary["failures"])) == (EXIT_UNREACHABLE, 1)
    assert lines.warnings
    assert ledger(store) == [("BTCUSDT", "trades", "trade_id", 1030, 1039, "")]
    server.add_trades(DAY, rows)
    assert mend()[0] == EXIT_OK
