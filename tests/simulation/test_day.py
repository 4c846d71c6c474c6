"""A simulated day with twenty scripted faults: verify names each of them and nothing else, repair closes what can be had.

Sixteen hit the recorder of one day on virtual time (``sim_day``): connections, messages, the exchange's limits, the disk, kills. Four
are in the exchange's archive of the days before. Then real files, a real server and the real commands: what is stored is
held against what happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sim_day import START, DayRun, Window
from tests.cmd_archiver.conftest import Kit, Server
from tests.tally import note

from cmd_archiver.command import run as archive
from cmd_archiver.verify.repair import run as repair
from cmd_archiver.verify.run import run as verify
from cmd_common.commands import EXIT_FAILED, EXIT_GAPS, ArchiveOptions, LogReporter, RepairOptions, VerifyOptions
from cmd_common.gaps import GapIndex
from cmd_common.io import open_reader
from cmd_common.records import BookDelta, FeedStatus, Gap, Trade

DAY = datetime.fromtimestamp(START // 10**9, UTC).date()
EDGES = {"begins", "ends"}  # of the recording
A_DAY = 1000  # trades of a day in the archive


def before(n: int) -> date:
    return DAY - timedelta(days=n)


def archived(n: int, first_id: int) -> list[tuple[int, str, str, int, bool]]:
    """The trades of the n-th day before: their ids go up to that of the day after."""
    start = int(datetime.combine(before(n), datetime.min.time(), UTC).timestamp()) * 1000
    low = first_id - n * A_DAY
    return [(low + i, f"{100 + i % 7 * 0.01:.8f}", "0.50000000", start + i * 86_000, i % 3 == 0) for i in range(A_DAY)]


def publish(server: Server, day: date, csv: bytes) -> str:
    name = f"BTCUSDT-trades-{day}"
    key = f"data/spot/daily/trades/BTCUSDT/{name}.zip"
    server.add(key, Kit.zip(name, csv))
    return key


def day_csv(world: DayRun) -> bytes:
    """The whole day as the exchange publishes it the next morning."""
    lines = []
    for id_, (ts, price, quantity, side) in sorted(world.oracle.symbols["BTCUSDT"].trades.items()):
        worth, maker = f"{price * quantity:.8f}", side == "sell"
        lines.append(f"{id_},{price:.8f},{quantity:.8f},{worth},{ts // 1000},{maker},True\n")
    return "".join(lines).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def world() -> DayRun:
    run = DayRun()
    run.execute()  # raises where anything is lost that no gap covers, or a stored row never happened
    return run


def findings(summary: dict[str, Any], day: date, *tables: str) -> list[dict[str, Any]]:
    return [
        f
        for d in summary["days"]
        for f in d["findings"]
        if d["day"] == day.isoformat() and d["table"] in tables and f["kind"] not in EDGES
    ]


def test_a_day_with_twenty_faults(world: DayRun, server: Server, tmp_path: Path) -> None:
    store = f"parquet:{tmp_path / 'data'}"
    world.save(tmp_path / "data")
    first = min(world.oracle.symbols["BTCUSDT"].trades)
    reporter = LogReporter()

    # Its books were compared with fresh copies all day, and were right.
    with open_reader(store) as reader:
        audits = [r.state for r in reader.records("feed_status") if isinstance(r, FeedStatus) and "audit" in r.state]
    assert len(audits) >= 70
    assert set(audits) == {"audited"}

    # The archive of the five days before, with four faults in it.
    for n in (5, 1):
        publish(server, before(n), Kit.trades_csv(archived(n, first), us=True))
    replaced = archived(5, first)
    publish(server, before(5), Kit.trades_csv(replaced[:900], us=True))  # what is published first is not all
    wrong = publish(server, before(4), Kit.trades_csv(archived(4, first), us=True))
    server.checksums[wrong] = f"{'0' * 64}  BTCUSDT-trades-{before(4)}.zip\n".encode()
    holed = archived(3, first)
    publish(server, before(3), Kit.trades_csv(holed[:500] + holed[510:], us=True))
    options = ArchiveOptions(
        ("binance-spot",), ("BTCUSDT",), ("trades",), before(5), before(1), store, endpoints={"": server.url}
    )  # before(2) is not published
    assert archive(options, reporter).exit_code == EXIT_FAILED
    publish(server, before(5), Kit.trades_csv(replaced, us=True))

    # Every fault is named, and nothing else.
    asked = VerifyOptions(store, endpoints={"": server.url})
    result = verify(asked, reporter)
    assert result.exit_code == EXIT_GAPS
    of_day = findings(result.summary, DAY, "trades", "book_deltas", "book_snapshots")
    named = {w.name: [f for f in of_day if w.holds(f["ts_from"], f["ts_to"])] for w in world.windows}
    assert [name for name, found in named.items() if not found] == []
    assert [f for f in of_day if not any(w.holds(f["ts_from"], f["ts_to"]) for w in world.windows)] == []
    older = {n: {f["reason"] or f["kind"] for f in findings(result.summary, before(n), "trades")} for n in range(1, 6)}
    assert older == {
        1: set(),
        2: {"missing_file"},
        3: {"archive_hole"},
        4: {"bad_file"},
        5: {"replaced"},
    }

    # The exchange mends what it can; so does repair.
    del server.checksums[wrong]
    publish(server, before(2), Kit.trades_csv(archived(2, first), us=True))
    publish(server, DAY, day_csv(world))
    result = repair(RepairOptions(store, recheck=True, endpoints={"": server.url}), reporter)
    assert result.exit_code == EXIT_GAPS  # books cannot be had again, nor what the exchange itself lacks
    done = result.summary
    result = verify(asked, reporter)
    assert findings(result.summary, DAY, "trades") == []
    left = {n: {f["reason"] for f in findings(result.summary, before(n), "trades")} for n in range(1, 6)}
    assert left == {1: set(), 2: set(), 3: {"archive_hole"}, 4: set(), 5: set()}
    truth_is_stored(world, store, first)
    again = repair(RepairOptions(store, endpoints={"": server.url}), reporter).summary
    assert (again["closed"], again["split"], again["rows"]) == (0, 0, 0)
    with open_reader(store) as reader:
        open_gaps = len(GapIndex.load(reader))
    for name, found in named.items():
        print(f"\n{name}: {len(found)} findings", end="")
    print(
        f"\n{len(world.windows) + 4} faults, {sum(map(len, named.values()))} findings of the day, "
        f"{done['closed']} gaps closed, {done['split']} split, {done['rows']} rows fetched, {open_gaps} gaps left"
    )
    note("virtual_hours", world.length / 3600, "a day")
    for window in world.windows:
        note("faults", 1, window.name.replace(" ", "_"))


def truth_is_stored(world: DayRun, store: str, first: int) -> None:
    """Every trade of all days but those that the exchange lacks; every update of the book outside of open gaps."""
    truth = world.oracle.symbols["BTCUSDT"]
    with open_reader(store) as reader:
        index = GapIndex.load(reader)
        trades = [r for r in reader.records("trades") if isinstance(r, Trade)]
        deltas = {r.seq: r for r in reader.records("book_deltas") if isinstance(r, BookDelta)}
        gaps = [g for g in reader.records("gaps") if isinstance(g, Gap)]
    ids = sorted(int(t.trade_seq or 0) for t in trades)
    lacking = range(first - 3 * A_DAY + 500, first - 3 * A_DAY + 510)
    last = max(truth.trades)
    assert ids == [n for n in range(first - 5 * A_DAY, last + 1) if n not in lacking]
    recorded = {t.trade_seq: (t.ts_event, t.price, t.quantity, t.side) for t in trades if (t.trade_seq or 0) >= first}
    assert recorded == truth.trades
    begun, ended = min(deltas), max(deltas)
    missing = [m for m in truth.depth if begun < m.last <= ended and m.last not in deltas]
    assert missing
    for message in missing:
        assert not index.complete("binance-spot", "BTCUSDT", "book_deltas", message.ts, message.ts + 1), message
    assert {g.repaired_by for g in gaps if g.record_type == "trades"} <= {"", "archive", "live", "archive+split"}
    assert [g.reason for g in gaps if g.record_type == "trades" and not g.repaired_by] == ["archive_hole"]


def test_windows_hold_what_overlaps_them() -> None:
    window = Window("x", 100, 110)
    at = START + 105 * 10**9
    assert window.holds(at, at)
    assert not window.holds(START, START + 90 * 10**9)
    assert not window.holds(START + 400 * 10**9, START + 500 * 10**9)
