"""Data on stdout, words on stderr, in every form."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_cli.output import Output, progress_words, summary_lines
from cmd_common.commands import Result

COLUMNS = ["symbol", "price", "n", "levels"]
ROWS: list[Sequence[Any]] = [("BTCUSDT", 61000.1, 7, [1.0, 2.0]), ("a,\"b\"", None, -1, []), ("e", math.nan, 10**18, None)]  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make(**kwargs: Any) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Output(stdout=out, stderr=err, **kwargs), out, err


def written(format_: str, rows: list[Sequence[Any]] = ROWS) -> str:
    output, out, err = make()
    assert output.rows(COLUMNS, rows, format_) == len(rows)
    assert err.getvalue() == ""
    return out.getvalue()


def test_plain_table() -> None:
    assert written("table", ROWS[:2]).splitlines() == [
        'symbol     price   n  levels',
        'BTCUSDT  61000.1   7  [1.0,2.0]',
        'a,"b"             -1  []',
    ]  # fmt: skip


def test_csv_reads_back() -> None:
    rows = list(csv.reader(io.StringIO(written("csv"))))
    assert rows[0] == COLUMNS
    assert rows[1] == ["BTCUSDT", "61000.1", "7", "[1.0,2.0]"]
    assert rows[2] == ['a,"b"', "", "-1", "[]"]


def test_ndjson_and_json_are_the_same_rows() -> None:
    lines = [json.loads(line) for line in written("ndjson").splitlines()]
    assert json.loads(written("json")) == lines
    assert lines[0] == {"symbol": "BTCUSDT", "price": 61000.1, "n": 7, "levels": [1.0, 2.0]}
    assert lines[2] == {"symbol": "e", "price": None, "n": 10**18, "levels": None}
    assert len(written("json").splitlines()) == len(ROWS)


def test_no_rows() -> None:
    assert written("json", []) == "[]\n"
    assert written("ndjson", []) == ""
    assert written("table", []) == "symbol  price  n  levels\n"
    assert written("csv", []) == "symbol,price,n,levels\n"


def test_a_table_streams_beyond_the_rows_that_decide_its_widths() -> None:
    text = written("table", [("s", 1.0, n, None) for n in range(2_500)])
    assert len(text.splitlines()) == 2_501


def test_a_terminal_gets_a_rich_table_with_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out, err = Terminal(), io.StringIO()
    output = Output(stdout=out, stderr=err)
    assert output.rows(COLUMNS, [("[bold]x", 1.0, n, None) for n in range(1_200)], "table") == 1_000
    assert "[bold]x" in out.getvalue()
    assert "only the first 1000 rows are shown" in err.getvalue()


def test_a_table_wider_than_the_terminal_stays_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()
    columns = [f"column{n}" for n in range(12)]
    Output(stdout=out, stderr=io.StringIO()).rows(columns, [["BTCUSDT"] * 12], "table")
    assert out.getvalue().splitlines()[1].split() == ["BTCUSDT"] * 12


def test_words_go_to_stderr_and_quiet_leaves_warnings() -> None:
    output, out, err = make(quiet=True)
    output.info("hello")
    output.warn("careful")
    output.progress("x", 1, 2)
    assert (out.getvalue(), err.getvalue()) == ("", "warning: careful\n")
    output, out, err = make()
    output.info("hello")
    assert (out.getvalue(), err.getvalue()) == ("", "hello\n")


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    err = Terminal()
    Output(stderr=err).warn("careful")
    assert "\x1b[33m" in err.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    err = Terminal()
    Output(stderr=err).warn("careful")
    assert "\x1b[" not in err.getvalue()


def test_ready_lines_are_json_on_stdout() -> None:
    output, out, _ = make(quiet=True)
    output.ready({"venue": "binance-spot", "endpoint": "http://127.0.0.1:1"})
    assert json.loads(out.getvalue()) == {"venue": "binance-spot", "endpoint": "http://127.0.0.1:1"}


def test_plain_progress_speaks_every_five_seconds_and_at_the_end() -> None:
    now = 0
    output, _, err = make(clock=lambda: now)
    for second in range(12):
        now = second * 1_000_000_000
        output.progress("file", second * 1_000_000, 12_000_000)
    now = 12_000_000_000
    output.progress("file", 12_000_000, 12_000_000)
    output.progress("file", 12_000_000, 12_000_000)
    assert err.getvalue().splitlines() == [
        "file: 41 %, 5.0 MB of 12.0 MB, 1.0 MB/s, 7 s left",
        "file: 83 %, 10.0 MB of 12.0 MB, 1.0 MB/s, 2 s left",
        "file: 100 %, 12.0 MB of 12.0 MB, 1.0 MB/s",
    ]


def test_progress_on_a_terminal_is_a_bar_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    err = Terminal()
    with Output(stdout=io.StringIO(), stderr=err) as output:
        output.progress("BTCUSDT", 1_000, 2_000)
        output.info("a line between")
        output.progress("BTCUSDT", 2_000, 2_000)
        output.progress("no total", 5, None, unit="files")
    text = err.getvalue()
    assert "BTCUSDT" in text
    assert "a line between" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is back


def test_units() -> None:
    assert progress_words(3, 4, "books", 0) == "75 %, 3 books of 4 books"
    assert progress_words(999, None, "bytes", 0) == "999 B"
    assert progress_words(5_000_000_000, None, "bytes", 0) == "5.0 GB"


def test_the_summary_is_the_last_line_with_json() -> None:
    output, out, _ = make(json=True)
    assert output.finish(Result(3, {"records": {"trades": 1}, "gaps": 2})) == 3
    assert json.loads(out.getvalue().splitlines()[-1]) == {"records": {"trades": 1}, "gaps": 2}


def test_the_summary_for_a_person() -> None:
    summary = {
        "records": {"trades": 12345, "quotes": 7},
        "gaps": 0,
        "books": {"v:S": {"state": "LIVE", "best_bid": [1.5, 2.0]}},
        "files": ["a", {"name": "b", "rows": 1}],
        "numbers": [1, 2],
        "none": [],
    }
    assert list(summary_lines(summary)) == [
        "records:",
        "  trades  12,345",
        "  quotes  7",
        "gaps  0",
        "books:",
        "  v:S:",
        "    state  LIVE",
        "    best_bid: 1.5 2.0",
        "files:",
        "  a",
        "  name b, rows 1",
        "numbers: 1 2",
    ]


@given(st.lists(st.tuples(st.text(), st.floats() | st.none(), st.integers(-(2**63), 2**63 - 1), st.none())))
def test_any_rows_can_be_written_in_any_form(rows: list[Sequence[Any]]) -> None:
    for format_ in ("table", "csv", "ndjson", "json"):
        text = written(format_, rows)
        if format_ == "json":
            assert [r["symbol"] for r in json.loads(text)] == [r[0] for r in rows]
