"""The sizing model, and the bytes a row that it builds on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from questdb import Sender, TimestampNanos
from questdb_server import QuestDBServer

from cmd_common.commands import LogReporter, SizeOptions
from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.io import TableSize
from cmd_common.schema import TABLES
from cmd_questdb import convert
from cmd_questdb.admin import QuestDBAdmin
from cmd_questdb.conf import Conf
from cmd_questdb.migrations import migrate
from cmd_questdb.size import CLASSES, RATES, ROW, Rate, model, rates_of, run
from cmd_questdb.sql import SqlClient

DAY = 86_400_000_000_000


def options(**more: object) -> SizeOptions:
    base: dict[str, object] = {"symbols": 100, "types": ("trades", "candles"), "keep": 365 * DAY}
    return SizeOptions(**(base | more))  # type: ignore[arg-type]


def test_every_table_has_a_row_and_a_rate() -> None:
    assert set(ROW) == set(RATES) == set(TABLES)


def test_the_model_is_the_sum_of_rows_times_bytes() -> None:
    got = model(options(rows_per_day={"trades": 200_000}), {})
    assert got["tables"]["trades"] == {
        "rows_per_day": 20_000_000,
        "source": "given",
        "bytes_per_row": 82.1,
        "gb_per_day": 1.64,
        "keep_days": 365.0,
        "gb_kept": 599.3,
    }
    assert got["tables"]["candles"]["source"] == "definition"
    assert got["gb_kept"] == pytest.approx((20_000_000 * 82.1 + 144_000 * 128.2) * 365 / 1e9, abs=0.1)
    assert got["disk_gb"] == pytest.approx(got["gb_kept"] * 2.6, abs=2)
    assert got["disk_gb_converted"] < got["disk_gb"]
    assert got["machine"].startswith("standard with 64 GB")


def test_more_of_anything_never_needs_less() -> None:
    base = model(options(types=tuple(TABLES)), {})
    for more in (
        {"symbols": 101},
        {"keep": 366 * DAY},
        {"rows_per_day": {"trades": RATES["trades"].rows + 10_000}},
        {"depth": 1001},
    ):
        got = model(options(types=tuple(TABLES), **more), {})
        for key in ("gb_kept", "disk_gb", "disk_gb_converted", "memory_gb", "cores"):
            assert got[key] >= base[key], (more, key)
        assert got["disk_gb"] > base["disk_gb"]


@pytest.mark.parametrize(
    ("symbols", "types", "keep", "machine"),
    [
        (20, ("trades", "candles"), 365, "small"),
        (100, ("trades", "candles"), 365, "standard"),
        (20, ("trades", "book_snapshots", "book_deltas"), 7, "standard"),
        (1000, ("book_deltas",), 365, "none"),
    ],
)
def test_classes_of_machines(symbols: int, types: tuple[str, ...], keep: int, machine: str) -> None:
    got = model(options(symbols=symbols, types=types, keep=keep * DAY), {})
    assert got["machine"].startswith(machine)
    sizes = [(m.cores, m.memory, m.disk) for m in CLASSES]
    assert sizes == sorted(sizes)


def test_what_the_user_says_beats_what_is_measured_and_that_an_assumption() -> None:
    measured = {"trades": Rate(5.0, "measured"), "quotes": Rate(7.0, "measured")}
    got = model(options(symbols=1, types=("trades", "quotes", "agg_trades"), rows_per_day={"trades": 3.0}), measured)
    assert {t: (r["rows_per_day"], r["source"]) for t, r in got["tables"].items()} == {
        "trades": (3, "given"),
        "quotes": (7, "measured"),
        "agg_trades": (100_000, "assumption"),
    }


def test_a_table_may_be_kept_for_another_time() -> None:
    got = model(options(types=("trades", "book_deltas"), keep_of={"book_deltas": 7 * DAY}), {})["tables"]
    assert (got["trades"]["keep_days"], got["book_deltas"]["keep_days"]) == (365.0, 7.0)
    assert got["book_deltas"]["gb_kept"] == pytest.approx(7 * got["book_deltas"]["gb_per_day"], rel=0.01)


def test_books_that_take_most_are_said() -> None:
    advice = model(options(types=("trades", "book_deltas")), {})["advice"]
    assert "ttl_book_deltas" in advice[0]
    assert "no single machine" in model(options(types=("book_deltas",), symbols=1000), {})["advice"][-1]
    assert "advice" not in model(options(), {})


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"symbols": 0}, UsageError),
        ({"types": ()}, UsageError),
        ({"keep": DAY - 1}, UsageError),
        ({"keep_of": {"trades": DAY - 1}}, UsageError),
        ({"types": ("trade",)}, UnknownNameError),
        ({"rows_per_day": {"trade": 1.0}}, UnknownNameError),
    ],
)
def test_what_cannot_be_worked_out_is_refused(more: Mapping[str, object], kind: type[UsageError]) -> None:
    with pytest.raises(kind):
        model(options(**more), {})


def test_rates_are_rows_of_one_stream_in_a_day() -> None:
    sizes = {
        "trades": TableSize(1_000, 1, 0, DAY // 2, 4),
        "quotes": TableSize(1_000, 1, 0, 1_000, 4),  # too short to tell
        "gaps": TableSize(1, 1, 0, DAY, 1),
        "candles": TableSize(0, 0, 0, 0, 0),
    }
    assert rates_of(sizes) == {"trades": Rate(500.0, "measured")}


def test_bytes_a_row_are_what_the_server_takes(questdb: QuestDBServer) -> None:
    """The model's facts against closed partitions of the running server: within 3 %."""
    rows = 20_000
    with SqlClient(Conf.parse(questdb.conf())) as client:
        migrate(client)
        at = "('2025-01-01T00:00:00Z'::TIMESTAMP_NS::LONG + {})::TIMESTAMP_NS"
        last = at.format(3 * DAY) + " FROM long_sequence(1)"
        tail = ", NULL, 'v', 'BTCUSDT', (4000000000 + x)::VARCHAR, x, x + 0.5, x / 7.0, 'buy', 0 FROM"
        client.exec(f"INSERT INTO trades SELECT {at.format('x * 1000000')}{tail} long_sequence({rows})")
        client.exec(f"INSERT INTO trades SELECT {last.replace(' FROM', tail)}")
        tail = ", NULL, 'v', 'BTCUSDT', x, x + 0.5, 1.0, x + 0.6, 2.0, 0 FROM"
        client.exec(f"INSERT INTO quotes SELECT {at.format('x * 1000000')}{tail} long_sequence({rows})")
        client.exec(f"INSERT INTO quotes SELECT {last.replace(' FROM', tail)}")
        with Sender.from_conf(questdb.conf(auto_flush="off", protocol_version=3)) as sender:
            for n in range(2_001):
                side = np.ones((2, 23))
                sender.row(
                    "book_deltas",
                    symbols={"venue": "v", "symbol": "S"},
                    columns={"epoch": 1, "seq": n, "first_seq": n, "bids": side, "asks": side, "flags": 0},
                    at=TimestampNanos(1_735_689_600_000_000_000 + n * 1_000_000 + (3 * DAY if n == 2_000 else 0)),
                )
            sender.flush()
        client.wait_applied()
        for table in ("trades", "quotes", "book_deltas"):
            closed = [p for p in convert.partitions(client, table) if not p.active]
            real = sum(p.bytes for p in closed) / sum(p.rows for p in closed)
            assert real == pytest.approx(ROW[table].bytes(1000), rel=0.03), table
    with QuestDBAdmin(Conf.parse(questdb.conf())) as admin:
        found = admin.sizes()
    assert found["trades"].rows == rows + 1
    assert found["trades"].streams == 1
    assert found["trades"].end - found["trades"].start == 3 * DAY - 1_000_000

    measured = run(options(measure=questdb.location(), types=("trades", "quotes")), LogReporter()).summary
    assert measured["tables"]["trades"]["source"] == "measured"
    assert measured["tables"]["trades"]["rows_per_day"] == pytest.approx(100 * (rows + 1) / 3, rel=0.01)
