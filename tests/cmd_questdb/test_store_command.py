"""``cmd-cli store`` against a real server, as people and scripts run it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from questdb_server import QuestDBServer

from cmd_cli.main import main
from cmd_questdb.migrations import VERSION_TABLE
from cmd_questdb.schema import VERSION


def cli(*arguments: str) -> tuple[int, str, str]:
    """One command line in this process: two dozen starts of Python would be most of the time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["store", *arguments])
    assert "Traceback" not in err.getvalue()
    assert "internal error" not in err.getvalue()
    return code, out.getvalue(), err.getvalue()


def summary(*arguments: str, code: int = 0) -> dict[str, object]:
    got, out, err = cli(*arguments, "--json", "-q")
    assert got == code, (out, err)
    value: dict[str, object] = json.loads(out.splitlines()[-1])
    return value


def test_a_database_from_empty_to_restored(
    questdb: QuestDBServer,
    questdb_factory: Callable[..., QuestDBServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # How full the disk of the machine that tests is must not decide: test_check.py asks about disks that fill.
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("cmd_questdb.check.shutil.disk_usage", lambda _: usage._replace(free=usage.total // 2))
    url = ["--store", questdb.location(root=questdb.root)]
    code, out, _ = cli("check", *url)
    assert code == 1
    assert "cmd-cli store migrate" in out
    assert summary("status", *url)["schema"] == "none"
    dry = summary("migrate", *url, "--dry-run")
    assert questdb.tables() == []
    assert len(dry["statements"]) > 10  # type: ignore[arg-type]
    done = summary("migrate", *url)
    assert (done["before"], done["after"]) == ("none", VERSION)
    assert summary("migrate", *url)["statements"] == 0
    for day in (1, 2, 3):
        questdb.sql(f"INSERT INTO trades VALUES ('2025-01-0{day}', NULL, 'v', 'S', '{day}', {day}, 1.5, 2.0, 'buy', 0)")
    questdb.wait_applied()
    assert summary("check", *url) == {"ok": True, "findings": []}
    status = summary("status", *url)
    assert status["schema"] == VERSION
    assert status["tables"]["trades"]["rows"] == 3  # type: ignore[index]

    assert summary("convert", *url, "--types", "trades", "--dry-run")["converted"] == {
        "trades": ["2025-01-01", "2025-01-02"]
    }
    assert summary("status", *url)["tables"]["trades"]["parquet"] == 0  # type: ignore[index]
    assert summary("convert", *url)["converted"] == {"trades": ["2025-01-01", "2025-01-02"]}
    assert summary("status", *url)["tables"]["trades"]["parquet"] == 2  # type: ignore[index]

    made = summary("backup", *url, "--to", str(tmp_path / "copies"), "--keep-last", "2")
    assert made["rows"]["trades"] == 3  # type: ignore[index]
    restored = summary("restore", *url, "--from", str(tmp_path / "copies"), "--to", str(tmp_path / "root"))
    assert restored["restored"] == made["backup"]
    other = questdb_factory(root=tmp_path / "root").start()
    assert other.count("trades") == 3
    assert summary("check", "--store", other.location()) == {"ok": True, "findings": []}

    assert summary("convert", *url, "--back")["converted"] == {"trades": ["2025-01-01", "2025-01-02"]}
    questdb.sql("DROP TABLE gaps")
    found = summary("check", *url, code=1)
    assert [(f["kind"], f["where"]) for f in found["findings"]] == [("table", "gaps")]  # type: ignore[attr-defined]
    assert summary("status", *url, code=1)["problems"] == ["gaps: the table is missing"]
    assert summary("check", *url, "--repair") == {"ok": True, "findings": []}
    questdb.sql(f"INSERT INTO {VERSION_TABLE} VALUES (now(), 99, 'later')")
    code, _, err = cli("migrate", *url)
    assert code == 1
    assert err == (
        f"cmd-cli: error: the database at http://127.0.0.1:{questdb.http} has schema version 99, newer than the {VERSION} "
        "of this program; upgrade cmd-questdb here\n"
    )


def test_export_reads_from_the_server(questdb: QuestDBServer, tmp_path: Path) -> None:
    url = ["--store", questdb.location()]
    summary("migrate", *url)
    for n in range(5):
        questdb.sql(
            f"INSERT INTO trades VALUES ('2025-01-01T00:00:0{n}', NULL, 'v', 'S', 'id {n}', {2**53 + 1 + n}, 0.1, 1e-8, 'buy', 0)"
        )
    questdb.wait_applied()
    chosen = [
        "--types",
        "trades",
        "--exchange",
        "v",
        "--symbols",
        "S",
        "--start",
        "2025-01-01T00:00:01",
        "--end",
        "2025-01-01T00:00:04",
    ]
    done = summary("export", *url, *chosen, "--to", str(tmp_path / "t.csv"))
    assert done["rows"] == {"trades": 3}
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[1].split(",")[4:8] == ['"id 1"', str(2**53 + 2), "0.1", "1e-8"]


def test_usage_and_failures_are_one_line(questdb_auth: QuestDBServer) -> None:
    secret = questdb_auth.location().replace("s3cret-word", "wr0ng-word")
    for arguments, code, words in (
        (["check", "--store", secret], 1, "refuses user cmd_ingest (HTTP 401)"),
        (
            ["check", "--store", "questdb:http::addr=127.0.0.1:1;password=s3cret-word;username=u;"],
            1,
            "cannot reach QuestDB",
        ),
        (["check", "--store", "questdb:http::adr=127.0.0.1:1;"], 2, "did you mean addr"),
        (["check", "--to", "x", "--store", "parquet:x"], 2, "store check takes no --to"),
        (["restore", "--store", "questdb:http::addr=127.0.0.1:1;"], 2, "no --from is given"),
        (["backup", "--store", questdb_auth.location(), "--to", "/nowhere"], 2, "root=DIR"),
        (["convert", "--store", questdb_auth.location(), "--older", "1h"], 1, "store migrate"),
        (["size", "--types", "trades"], 2, "no symbols are given"),
        (["size", "--symbols", "3", "--types", "tradez"], 2, "did you mean trades"),
        (["size", "--symbols", "3", "--rows-per-day", "trades"], 2, "is not TYPE=NUMBER"),
        (["size", "--symbols", "3", "--keep", "soon"], 2, "is not a time"),
        (["mend"], 2, "mend"),
    ):
        got, out, err = cli(*arguments)
        assert (got, out) == (code, ""), (arguments, err)
        assert err.count("\n") == 1
        assert words in err
        assert "-word" not in err
