"""cmd-cli as processes: replay, record, query and watch together, signals, and what a script relies on."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Ran, finish, replaying, start

TERMINAL = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with replaying("--exchange", "binance-spot", "--simulate", "--symbols", "BTCUSDT,ETHUSDT") as endpoints:
        yield endpoints["binance-spot"]


def cmd(*args: str) -> Ran:
    return finish(start(*args))


def record(endpoint: str, *args: str) -> list[str]:
    return ["record", "--exchange", "binance-spot", "--store", "parquet:data", "--endpoint", endpoint, *args]


def check_summary(line: str) -> dict[str, dict[str, dict[str, object]]]:
    summary = json.loads(line)
    assert {"records", "gaps", "books"} <= set(summary)
    for name, book in summary["books"].items():
        assert name.startswith("binance-")
        assert {"state", "last_id", "best_bid", "best_ask"} <= set(book)
    return summary  # type: ignore[no-any-return]


def test_a_recording_is_replayed_recorded_and_queried(recordings: Path) -> None:
    file = str(recordings / "binance_spot" / "hft_btcusdt_20240808_first40s.ndjson")
    # --exit-at-end: the timeline begins when the streams are subscribed, and ends with the recording
    with replaying("--exchange", "binance-spot", "--recording", file, "--speed", "max", "--exit-at-end") as endpoints:
        args = ["--symbols", "BTCUSDT", "--types", "trades", "quotes", "book", "--until-end", "--json"]
        ran = cmd(*record(endpoints["binance-spot"], *args))
    assert ran.code == 0, ran.err
    summary = check_summary(ran.out.splitlines()[-1])
    assert summary["gaps"] == 0
    assert summary["books"]["binance-spot:BTCUSDT"]["state"] == "LIVE"
    query = cmd(
        "query", "SELECT count(*) AS n, count(DISTINCT trade_id) AS d FROM trades", "--store", "parquet:data", "--json"
    )
    assert query.code == 0, query.err
    rows = json.loads(query.out)
    assert rows == [{"n": summary["records"]["trades"], "d": summary["records"]["trades"]}]
    assert rows[0]["n"] > 100


def test_two_exchanges_with_an_endpoint_each() -> None:
    process = start("replay", "--exchange", "binance-spot", "binance-usdm", "--simulate", "--symbols", "1")
    assert process.stdout is not None
    ready = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [r["venue"] for r in ready] == ["binance-spot", "binance-usdm"]
    endpoints = [f"{r['venue']}={r['endpoint']}" for r in ready]
    ran = cmd(
        "record", "--exchange", "binance-spot", "binance-usdm", "--symbols", "all", "--types", "trades,book",
        "--endpoint", *endpoints, "--store", "parquet:data", "--duration", "2s", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    books = check_summary(ran.out.splitlines()[-1])["books"]
    assert {name.partition(":")[0] for name in books} == {"binance-spot", "binance-usdm"}
    assert finish(process, signal.SIGTERM).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_record_cleanly(endpoint: str, number: signal.Signals) -> None:
    process = start(*record(endpoint, "--symbols", "BTCUSDT", "--types", "trades,book", "--json"))
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("books live: 100 %"):
            break
    ran = finish(process, number)
    assert ran.code == 0, ran.err
    summary = check_summary(ran.out.splitlines()[-1])
    assert summary["books"]["binance-spot:BTCUSDT"]["state"] == "LIVE"
    assert summary["gaps"] == 0
    assert "Traceback" not in ran.err


def test_a_configuration_file_can_say_everything(endpoint: str) -> None:
    Path("job.toml").write_text(
        f'exchange = "binance-spot"\nstore = "parquet:data"\nendpoint = "{endpoint}"\n'
        '[symbols]\nbinance-spot = ["*USDT"]\n[record]\ntypes = "trades"\nduration = "1s"\n'
    )
    ran = cmd("record", "--config", "job.toml", "--json")
    assert ran.code == 0, ran.err
    assert "trades" in check_summary(ran.out.splitlines()[-1])["records"]
    assert "symbols: binance-spot 2" in ran.err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--symbols", "BTCUSTD"], 2, "unknown symbol of binance-spot 'BTCUSTD'; did you mean BTCUSDT"),
        (["--symbols", "XRP*"], 2, "no trading symbol of binance-spot matches 'XRP*'; list them with: cmd-cli symbols"),
        (["--symbols", "BTCUSDT", "--store", "parquet:file/x"], 1, "file"),
    ],
)
def test_what_is_only_known_later_is_one_line_too(endpoint: str, args: list[str], code: int, words: str) -> None:
    Path("file").write_text("")
    ran = cmd(*record(endpoint, *args, "--duration", "1s"))
    assert ran.code == code, ran.err
    line = ran.err.splitlines()[-1]
    assert line.startswith("cmd-cli: error: ")
    assert words in line
    assert "Traceback" not in ran.err
    assert not Path("data").exists()


def test_an_exchange_that_does_not_answer_is_one_line() -> None:
    ran = cmd(*record("http://127.0.0.1:9", "--symbols", "BTCUSDT", "--duration", "1s"))
    assert ran.code == 1, ran.err
    assert ran.err.splitlines()[-1].startswith("cmd-cli: error: ")
    assert "127.0.0.1:9" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("sql", "store", "code"), [("SELECT 1", "parquet:nowhere", 1), ("SELEC 1", "parquet:data", 2), ("SELECT x FROM trades", "parquet:data", 2)]
)  # fmt: skip
def test_queries_that_cannot_run(endpoint: str, sql: str, store: str, code: int) -> None:
    if store == "parquet:data":
        assert cmd(*record(endpoint, "--symbols", "BTCUSDT", "--types", "trades", "--duration", "1s")).code == 0
    ran = cmd("query", sql, "--store", store)
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert ran.err.startswith("cmd-cli: error: ")
    assert "Traceback" not in ran.err


def test_symbols_are_kept_for_completion(endpoint: str) -> None:
    ran = cmd("symbols", "--exchange", "binance-spot", "--symbols", "BTC-USDT", "--endpoint", endpoint, "--json")
    assert ran.code == 0, ran.err
    assert [(i["symbol"], i["unified"]) for i in json.loads(ran.out)] == [("BTCUSDT", "BTC-USDT")]
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "cryptomarketdata" / "symbols" / "binance-spot"
    assert cache.read_text() == "BTCUSDT\n"
    ran = cmd("symbols", "--exchange", "binance-spot", "--endpoint", endpoint, "--format", "csv")
    assert len(ran.out.splitlines()) == 3


def test_archive_dry_run_stores_nothing(endpoint: str) -> None:
    ran = cmd(
        "archive", "--exchange", "binance-spot", "--types", "trades", "--symbols", "BTCUSDT", "--start", "2025-06-01",
        "--store", "parquet:data", "--endpoint", endpoint, "--dry-run", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    json.loads(ran.out.splitlines()[-1])
    assert not any(Path("data").rglob("*.parquet")) if Path("data").exists() else True


def test_exit_codes_of_a_damaged_archive() -> None:
    damage = {"BTCUSDT": ("missing_day", 3), "ETHUSDT": ("bad_checksum", 1), "SOLUSDT": ("truncated_zip", 1)}
    faults = [f"{kind}:day=2025-06-01,symbol={symbol}" for symbol, (kind, _) in damage.items()]
    with replaying(
        "--exchange", "binance-spot", "--simulate", "--symbols", ",".join(damage), "--start", "2025-06-02",
        "--history-days", "1", "--fault", *faults,
    ) as endpoints:  # fmt: skip
        for symbol, (_, code) in damage.items():
            ran = cmd(
                "archive", "--exchange", "binance-spot", "--types", "trades", "--symbols", symbol,
                "--start", "2025-06-01", "--store", "parquet:data", "--json", "--endpoint", endpoints["binance-spot"],
            )  # fmt: skip
            assert ran.code == code, ran.err
            assert "2025-06-01" in ran.err
            assert "Traceback" not in ran.err
            json.loads(ran.out.splitlines()[-1])
    assert list(Path("data").rglob("table=trades/**/*.parquet")) == []


class Terminal:
    """A process on a pseudo-terminal."""

    def __init__(self, *args: str) -> None:
        import pty
        import subprocess

        self.master, slave = pty.openpty()
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cmd_cli", *args], stdin=slave, stdout=slave, stderr=slave, env=env
        )
        os.close(slave)
        self.text = ""

    def until(self, words: str) -> None:
        import select

        end = time.monotonic() + 60
        while words not in self.text:
            assert time.monotonic() < end, self.text[-3000:]
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.master, 65536).decode("utf-8", "replace")
                except OSError:  # the other end is closed
                    break
        assert words in self.text, self.text[-3000:]

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def finish(self) -> int:
        import select

        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.master, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        code = self.process.wait(60)
        os.close(self.master)
        return code


@TERMINAL
def test_watch_plain_on_a_terminal(endpoint: str) -> None:
    args = ["--exchange", "binance-spot", "--symbols", "all", "--types", "book", "--plain", "--endpoint", endpoint]
    terminal = Terminal("watch", *args)
    terminal.until("\x1b[?2026h")
    terminal.until("spread")
    terminal.press("n")
    terminal.until("\x1b[1mbinance-spot:ETHUSDT ")
    terminal.press("q")
    assert terminal.finish() == 0
    assert terminal.text.count("\x1b[?1049h") == terminal.text.count("\x1b[?1049l") == 1
    assert terminal.text.rstrip().endswith("\x1b[?25h\x1b[?1049l")  # the cursor is back


@TERMINAL
def test_watch_full_screen_on_a_terminal(endpoint: str) -> None:
    terminal = Terminal("watch", "--exchange", "binance-spot", "--symbols", "all", "--endpoint", endpoint)
    terminal.until("spread")
    terminal.press("q")
    assert terminal.finish() == 0
    assert "Traceback" not in terminal.text


@TERMINAL
def test_a_table_on_a_terminal_and_colours_as_wanted(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal("symbols", "--exchange", "binance-spot", "--endpoint", endpoint)
    assert terminal.finish() == 0
    assert "BTCUSDT" in terminal.text
    assert "\x1b[1m" in terminal.text
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal("symbols", "--exchange", "binance-sopt")
    assert terminal.finish() == 2
    assert terminal.text.startswith("cmd-cli: error: unknown exchange")
