"""``verify`` over real stores, and a loopback archive that publishes, changes and withdraws files."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from archive_kit import DAY, NEXT, Lines, publish

from cmd_archiver.plan import day_start
from cmd_archiver.verify.run import run
from cmd_archiver.verify.verdicts import EXIT_CORRUPT
from cmd_common.commands import EXIT_GAPS, EXIT_OK, VerifyOptions
from cmd_common.errors import StoreError, UnknownNameError
from cmd_common.io import open_reader, open_writer
from cmd_common.records import BookDelta, BookSnapshot, Candle, Gap, Record, Trade, pack_levels

S = 1_000_000_000
MIN = 60 * S
DAY_NS = 86_400 * S
AFTER = NEXT + timedelta(days=1)


@pytest.fixture
def check(server, store) -> Callable[..., Any]:
    """Verify the store; returns (exit code, days by (table, day), reporter)."""

    def check(**changes: Any) -> tuple[int, dict[tuple[str, str], dict[str, Any]], Lines]:
        lines = Lines()
        result = run(VerifyOptions(**{"store": store, "endpoints": {"": server.url}, **changes}), lines)
        days = {(d["table"] + d["interval"], d["day"]): d for d in result.summary["days"]}
        return result.exit_code, days, lines

    return check


def kinds(day: dict[str, Any]) -> list[str]:
    return [f["kind"] for f in day["findings"]]


def put(store: str, rows: Iterable[Record]) -> None:
    with open_writer(store) as writer:
        writer.write(list(rows))


def trade(n: int, at: int, *, day: date = DAY, symbol: str = "BTCUSDT", price: float = 100.0) -> Trade:
    ts = day_start(day) + at
    return Trade(ts, ts + 5, "binance-spot", symbol, str(n), n, price, 0.5, "buy")


def hours(day: date, first: int = 1, ids: Iterable[int] | None = None) -> list[Trade]:
    """A trade every two minutes of a day."""
    wanted = set(ids) if ids is not None else None
    found = [trade(first + n, n * 2 * MIN, day=day) for n in range(720)]
    return [t for t in found if wanted is None or t.trade_seq in wanted]


def test_days_that_were_archived_are_complete(go, server, check, recorded) -> None:
    publish(server, recorded)
    go()
    code, days, lines = check()
    assert code == EXIT_OK
    assert {key: (d["verdict"], d["origin"], d["findings"]) for key, d in days.items()} == {
        ("trades", "2024-08-08"): ("complete", "archive", []),
        ("trades", "2024-08-09"): ("complete", "archive", []),
    }
    assert sum(d["rows"] for d in days.values()) == 19_904
    assert lines.bars["verify"] == (1, 1)


def test_a_hole_that_the_ledger_knows_is_named_once(go, server, check, made_up) -> None:
    rows = made_up(DAY, 1000)
    server.add_trades(DAY, rows[:400] + rows[410:])
    go(end=DAY)
    code, days, _ = check()
    (finding,) = days["trades", "2024-08-08"]["findings"]
    assert (code, finding["kind"], finding["reason"]) == (EXIT_GAPS, "gap", "archive_hole")
    assert (finding["first_id"], finding["last_id"]) == (1400, 1409)


def test_ids_that_nobody_missed_are_found(check, store) -> None:
    put(store, hours(DAY, 1, {*range(1, 300), *range(310, 721)}))
    code, days, _ = check(offline=True)
    day = days["trades", "2024-08-08"]
    found = {f["kind"]: f for f in day["findings"]}
    assert (code, day["verdict"], set(found)) == (EXIT_GAPS, "incomplete", {"ids", "begins", "ends"})
    assert (found["ids"]["first_id"], found["ids"]["last_id"]) == (300, 309)
    assert found["ids"]["ts_from"] == day_start(DAY) + 298 * 2 * MIN


def test_ids_across_midnight_may_come_in_any_order(check, store) -> None:
    last = [trade(721, DAY_NS - 2), trade(723, DAY_NS - 1)]
    put(store, [*hours(DAY), *last, trade(722, 0, day=NEXT), trade(724, 1, day=NEXT)])
    code, days, _ = check(offline=True)
    assert code == EXIT_OK
    assert {k for d in days.values() for k in kinds(d)} == {"begins", "ends"}


def test_a_hole_between_two_days_is_of_the_later_one(check, store) -> None:
    put(store, [*hours(DAY), *hours(NEXT, 731)])
    code, days, _ = check(offline=True)
    assert code == EXIT_GAPS
    assert kinds(days["trades", "2024-08-08"]) == ["begins"]
    (ids,) = (f for f in days["trades", "2024-08-09"]["findings"] if f["kind"] == "ids")
    assert (ids["first_id"], ids["last_id"]) == (721, 730)


@pytest.mark.parametrize(("first", "kind", "code"), [(721, "quiet_day", EXIT_OK), (722, "missing_day", EXIT_GAPS)])
def test_a_day_without_rows_is_maintenance_where_ids_go_on(check, store, first: int, kind: str, code: int) -> None:
    put(store, [*hours(DAY), *hours(AFTER, first)])
    got, days, _ = check(offline=True)
    day = days["trades", NEXT.isoformat()]
    assert (got, kinds(day), day["rows"]) == (code, [kind], 0)


def test_a_pause_without_a_missing_id_is_maintenance(check, store) -> None:
    rows = [
        t if t.trade_seq < 300 else trade(t.trade_seq, t.ts_event - day_start(DAY) + 3 * 3600 * S) for t in hours(DAY)
    ]
    put(store, [t for t in rows if t.ts_event < day_start(NEXT)])
    code, days, _ = check(offline=True)
    day = days["trades", "2024-08-08"]
    assert (code, day["verdict"]) == (EXIT_OK, "maintenance")
    (pause,) = (f for f in day["findings"] if f["kind"] == "pause")
    assert pause["ts_to"] - pause["ts_from"] == 3 * 3600 * S + 2 * MIN


def test_one_id_with_two_times_is_a_contradiction(check, store) -> None:
    put(store, [*hours(DAY), trade(5, 9 * MIN)])
    code, days, _ = check(offline=True)
    (twice,) = (f for f in days["trades", "2024-08-08"]["findings"] if f["kind"] == "duplicate")
    assert (code, twice["first_id"]) == (EXIT_CORRUPT, 5)


def test_time_that_goes_back_where_ids_go_on_is_suspect(check, store) -> None:
    put(store, [t for t in hours(DAY) if t.trade_seq != 5] + [trade(5, 11 * MIN)])
    code, days, _ = check(offline=True)
    assert code == EXIT_GAPS
    assert "order" in kinds(days["trades", "2024-08-08"])


def test_rows_that_were_archived_and_are_gone_are_told(go, server, store, check, made_up) -> None:
    server.add_trades(DAY, made_up(DAY, 1000))
    go(end=DAY)
    path = Path(store.partition(":")[2]) / "_archive.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE files SET rows = rows + 3")
        db.commit()
    code, days, _ = check()
    (rows,) = days["trades", "2024-08-08"]["findings"]
    assert (code, rows["kind"]) == (EXIT_CORRUPT, "rows")
    assert rows["detail"] == "1,003 rows were archived, 1,000 of them are stored"


def test_live_trades_that_the_file_lacks_are_told(go, server, store, check, made_up) -> None:
    rows = made_up(DAY, 1000)
    server.add_trades(DAY, rows[:400] + rows[401:])
    put(store, [trade(1400, 400 * S)])
    go(end=DAY)
    code, days, _ = check()
    assert code == EXIT_GAPS
    assert set(kinds(days["trades", "2024-08-08"])) == {"filled", "more_rows"}


def test_a_file_that_was_replaced_or_withdrawn_is_told_and_offline_asks_nobody(go, server, check, made_up) -> None:
    server.add_trades(DAY, made_up(DAY, 1000))
    key = server.add_trades(NEXT, made_up(NEXT, 1000, first_id=2000))
    go()
    server.add_trades(DAY, made_up(DAY, 999))
    del server.files[key]
    before = len(server.requests)
    assert check(offline=True)[0] == EXIT_OK
    assert len(server.requests) == before
    code, days, _ = check()
    assert code == EXIT_GAPS
    assert kinds(days["trades", "2024-08-08"]) == ["replaced"]
    assert kinds(days["trades", "2024-08-09"]) == ["withdrawn"]


def test_a_day_that_is_missing_is_looked_for_in_the_listing(server, store, check, made_up) -> None:
    put(store, [*hours(DAY), *hours(AFTER, 5000)])
    assert check()[1]["trades", NEXT.isoformat()]["listed"] is False
    server.add_trades(NEXT, made_up(NEXT, 10))
    _, days, _ = check()
    assert days["trades", NEXT.isoformat()]["listed"] is True
    assert days["trades", DAY.isoformat()]["listed"] is None  # nothing is missing there


def test_without_a_server_the_rest_is_judged(store, check) -> None:
    put(store, [*hours(DAY), *hours(AFTER, 5000)])
    lines = Lines()
    result = run(VerifyOptions(store, endpoints={"": "http://127.0.0.1:9"}), lines)
    assert result.exit_code == EXIT_GAPS
    assert len(result.summary["unasked"]) == 1


def test_what_the_ledger_misses_and_the_store_has_is_filled(store, check) -> None:
    start = day_start(DAY)
    put(store, hours(DAY))
    put(
        store,
        [
            Gap(start + 2 * MIN, start + 10 * MIN, "binance-spot", "BTCUSDT", "trades", "trade_id", "lost", 3, 5),
            Gap(start + 20 * MIN, start + 30 * MIN, "binance-spot", "BTCUSDT", "trades", "disconnect", "lost"),
            Gap(start + 90 * MIN, start + 99 * MIN, "binance-spot", "BTCUSDT", "trades", "restart", "lost", 800, 900),
            Gap(
                start + 40 * MIN,
                start + 50 * MIN,
                "binance-spot",
                "BTCUSDT",
                "trades",
                "silence",
                "suspect",
                repaired_by="ids",
            ),
            Gap(start + 40 * MIN, start + 60 * MIN, "binance-spot", "ETHUSDT", "trades", "disconnect", "lost"),
        ],
    )
    code, days, _ = check(offline=True, symbols=("BTCUSDT",))
    found = [(f["kind"], f["reason"]) for f in days["trades", "2024-08-08"]["findings"] if f["reason"]]
    assert (code, found) == (EXIT_GAPS, [("filled", "trade_id"), ("filled", "disconnect"), ("gap", "restart")])


def candle(n: int, state: Any = "final", *, close: float = 100.0, trades: int = 1) -> Candle:
    at = day_start(DAY) + n * 2 * MIN
    values = 100.0, max(100.0, close), min(100.0, close), close, 0.5 * trades, 50.0 * trades
    return Candle(at, at + 2 * MIN, at + 2 * MIN, 1, "binance-spot", "BTCUSDT", "2m", "exchange", state, *values, trades, 0.5 * trades, 50.0 * trades)  # fmt: skip


def test_candles_are_held_against_trades(store, check) -> None:
    put(store, hours(DAY))
    put(store, [candle(n, close=101.0 if n == 7 else 100.0) for n in range(720)])
    code, days, _ = check(offline=True)
    (found,) = (f for f in days["candles2m", "2024-08-08"]["findings"] if f["kind"] == "candle_differs")
    assert (code, found["ts_from"]) == (EXIT_CORRUPT, day_start(DAY) + 14 * MIN)
    assert "close 101.0 and 100.0" in found["detail"]
    assert check(offline=True, compare=False)[0] == EXIT_OK


def test_candles_of_times_with_missing_trades_are_not_held_against_them(store, check) -> None:
    put(store, hours(DAY, 1, {*range(1, 300), *range(310, 721)}))
    put(
        store,
        [
            Gap(
                day_start(DAY) + 596 * MIN,
                day_start(DAY) + 618 * MIN,
                "binance-spot",
                "BTCUSDT",
                "trades",
                "trade_id",
                "lost",
                300,
                309,
            )
        ],
    )
    put(store, [candle(n) for n in range(720)])
    _, days, _ = check(offline=True)
    assert kinds(days["candles2m", "2024-08-08"]) == ["begins", "ends"]


def test_missing_and_open_candles_are_told(store, check) -> None:
    put(store, [candle(n, "provisional" if n == 9 else "final") for n in range(720) if n not in (3, 4)])
    put(store, [candle(720)])  # the first of the next day
    code, days, _ = check(offline=True)
    found = {f["kind"]: f for f in days["candles2m", "2024-08-08"]["findings"]}
    assert (code, set(found)) == (EXIT_GAPS, {"candles", "provisional", "begins"})
    assert found["candles"]["detail"] == "2 candles of 2m are missing"
    assert (found["candles"]["ts_from"], found["candles"]["ts_to"]) == (
        day_start(DAY) + 6 * MIN,
        day_start(DAY) + 10 * MIN,
    )


def book(n: int, epoch: int, seq: int, first_seq: int | None = None) -> BookDelta:
    ts, sides = day_start(DAY) + n * MIN, (pack_levels([(99.0, 1.0)]), pack_levels([]))
    return BookDelta(ts, ts + 1, "binance-spot", "BTCUSDT", epoch, seq, seq if first_seq is None else first_seq, *sides)


def begun(n: int, epoch: int) -> BookSnapshot:
    ts, sides = day_start(DAY) + n * MIN, (pack_levels([(99.0, 1.0)]), pack_levels([(101.0, 1.0)]))
    return BookSnapshot(ts, ts + 1, "binance-spot", "BTCUSDT", epoch, epoch, 1, 1, *sides)


def test_chains_of_updates(store, check) -> None:
    whole = [
        begun(0, 10),
        *(book(n, 10, 10 + n) for n in range(1, 40)),
        begun(50, 90),
        *(book(n, 90, 40 + n) for n in range(51, 90)),
    ]
    put(store, whole)
    assert check(offline=True)[0] == EXIT_OK
    put(store, [book(91, 90, 135), book(95, 200, 201)])
    code, days, _ = check(offline=True)
    found = {f["kind"]: f for f in days["book_deltas", "2024-08-08"]["findings"]}
    assert (code, set(found)) == (EXIT_GAPS, {"chain", "no_snapshot", "begins", "ends"})
    assert (found["chain"]["first_id"], found["chain"]["last_id"]) == (130, 134)
    assert found["no_snapshot"]["detail"] == "chain 200"


def test_what_is_missing_goes_into_the_ledger_once(store, check) -> None:
    put(store, hours(DAY, 1, {*range(1, 300), *range(310, 721)}))
    for _ in range(2):
        check(offline=True, write_gaps=True)
    with open_reader(store) as reader:
        (gap,) = reader.records("gaps")
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.severity, gap.first_id, gap.last_id) == ("verify", "lost", 300, 309)
    assert kinds(check(offline=True)[1]["trades", "2024-08-08"]) == ["begins", "ends", "gap"]


def test_days_streams_and_types_are_chosen(store, check) -> None:
    put(store, [*hours(DAY), *hours(NEXT, 721), *hours(AFTER, 1441), candle(1)])
    assert set(check(offline=True, tables=("trades",), start=NEXT, end=AFTER)[1]) == {("trades", NEXT.isoformat())}
    assert set(check(offline=True, venues=("binance-spot",), tables=("candles",))[1]) == {
        ("candles2m", DAY.isoformat())
    }
    with pytest.raises(StoreError, match="no such rows"):
        check(offline=True, symbols=("NONE",))
    with pytest.raises(UnknownNameError):
        check(offline=True, tables=("trade",))


def test_a_report_needs_nothing_else(store, check, tmp_path) -> None:
    from html.parser import HTMLParser

    put(store, [*hours(DAY, 1, {*range(1, 300), *range(310, 721)}), *hours(AFTER, 721)])
    put(
        store,
        [
            Gap(
                day_start(AFTER),
                day_start(AFTER) + S,
                "binance-spot",
                "BTCUSDT",
                "trades",
                "silence",
                "suspect",
                detail="<b>&",
            )
        ],
    )
    path = tmp_path / "new" / "report.html"
    check(offline=True, html=str(path))
    text = path.read_text()
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Reader().feed(text)
    assert not [a for _, a in tags if any(k in a for k in ("src", "srcset")) or str(a.get("href", "#"))[0] != "#"]
    assert "http" not in text
    assert "&lt;b&gt;&amp;" in text
    assert "<b>&" not in text
    assert sum(tag == "rect" and "rx" in a and "fill" in a for tag, a in tags) == 3  # a cell a day
    assert not path.with_name("report.html.part").exists()


def test_days_on_which_a_recording_began_or_ended_are_not_called_whole(store, check, tmp_path) -> None:
    put(store, hours(DAY, 1, {*range(1, 300)}))
    path = tmp_path / "report.html"
    check(offline=True, html=str(path))
    assert "no whole day yet" in path.read_text()
