"""Record with losses, ``verify``, ``repair``, ``verify``: real processes, and the emulator's REST and files."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cmd_common.io import open_reader

from .conftest import finish, replaying, start

COMMON = ("--store", "parquet:data", "--endpoint")


def call(*args: str) -> tuple[int, dict[str, Any]]:
    ran = finish(start(*args, "--json"))
    assert "Traceback" not in ran.err
    return ran.code, json.loads(ran.out.splitlines()[-1])


def verdicts(summary: dict[str, Any]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for day in summary["days"]:
        found.setdefault(day["table"], set()).add(day["verdict"])
    return found


@pytest.mark.parametrize("begins", ["2025-06-02T12:00:00", ""], ids=["a day that is over", "today"])
def test_what_was_dropped_is_had_again(begins: str) -> None:
    when = begins or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    simulated = (
        "--simulate",
        "--symbols",
        "BTCUSDT",
        "--start",
        when,
        "--fault",
        "drop:rate=0.3",
        "--history-trades",
        "300",
    )
    with replaying("--exchange", "binance-spot", *simulated) as endpoints:
        url = endpoints["binance-spot"]
        types = ("--types", "trades,book", "--exchange", "binance-spot", "--symbols", "BTCUSDT")
        code, recorded = call("record", *types, "--duration", "4s", *COMMON, url)
        assert code == 3
        assert recorded["gap_reasons"]["trade_id"] >= 1
        code, found = call("verify", *COMMON, url, "--html", "report.html")
        assert code == 3
        assert "incomplete" in verdicts(found)["trades"]
        assert Path("report.html").stat().st_size > 1000
        code, planned = call("repair", *COMMON, url, "--types", "trades", "--dry-run")
        assert (code, planned["days"] >= 1) == (3, True)
        code, done = call("repair", *COMMON, url, "--types", "trades")
        assert (code, done["not_whole"]) == (0, 0)
        assert done["closed"] >= recorded["gap_reasons"]["trade_id"]
        code, found = call("verify", *COMMON, url, "--types", "trades")
        assert code == 0
        assert verdicts(found)["trades"] <= {"complete", "partial", "maintenance"}
    with open_reader("parquet:data") as reader:
        ids = sorted(int(r.trade_seq) for r in reader.records("trades"))  # type: ignore[union-attr, arg-type]
        gaps: list[Any] = [g for g in reader.records("gaps") if g.record_type == "trades"]  # type: ignore[union-attr]
    assert ids == list(range(ids[0], ids[-1] + 1))
    assert {g.repaired_by for g in gaps} == ({"archive"} if begins else {"rest"})
