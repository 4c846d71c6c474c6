"""Every cause of a gap, made to happen, in both kinds of stores: the row says venue, symbol, table, from, to, reason and severity.

``CAUSES`` maps what can go wrong to the reasons that tell of it; the rest of the reasons has its tests where it is made.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cmd_questdb"))

import questdb_server as qs

from cmd_common import open_reader, open_writer
from cmd_common.gaps import KINDS, REASONS
from cmd_common.records import Gap, Record, Trade
from cmd_feed.gaps import overflow_gaps
from cmd_feed.pipeline import Pipeline

SIMULATED = ["--simulate", "--symbols", "1", "--seed", "3", "--speed", "8", "--duration", "40s"]
BINANCE = ["--exchange", "binance-spot", "--types", "trades,book"]

# cause: (venue, fault, options of the recorder, tables of the gaps, reasons of which one at least is there)
CAUSES: dict[str, tuple[str, str, list[str], set[str], set[str]]] = {
    "disconnect": ("binance-spot", "disconnect:at=150,ms=3000", [], {"trades", "book_deltas"}, {"disconnect"}),
    "resync": ("kraken", "drop:stream=depth,at=60,count=20", [], {"book_deltas"}, {"checksum"}),
    "sequence": ("binance-spot", "drop:stream=trade,at=30", [], {"trades"}, {"trade_id"}),
    "dropped": ("binance-spot", "tear:stream=trade,at=40", [], {"trades", "book_deltas", ""}, {"malformed"}),
    "silence": (
        "binance-spot",
        "silence:stream=trade,at=1,ms=30000",
        ["--options", "silence=2"],
        {"trades"},
        {"silence"},
    ),
    "late_snapshot": (
        "binance-spot",
        "rate_limit:path=depth,ms=14000",
        [],
        {"book_deltas"},
        {"late_snapshot", "no_snapshot"},
    ),
}
ELSEWHERE = {
    "overflow": "test_a_queue_that_is_full",
    "store_outage": "test_a_store_that_fails",
    "stop": "test_a_recorder_that_is_killed",
    "archive": "tests/cmd_archiver: files and REST, test_job.py, test_rest.py; tests/simulation/test_day.py",
}


def test_every_kind_of_cause_is_here() -> None:
    assert set(CAUSES) | set(ELSEWHERE) == set(KINDS)


def test_every_reason_is_written_somewhere() -> None:
    """A reason that no code writes would be a promise that nobody keeps."""
    root = Path(__file__).parents[2] / "packages"
    sources = [p for p in root.glob("*/src/**/*.py") if p.name != "gaps.py" or p.parent.name != "cmd_common"]
    text = "\n".join(p.read_text() for p in sources)
    assert [name for name in REASONS if f'"{name}"' not in text] == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[qs.QuestDBServer]:
    if qs.find_jar() is None or qs.find_java() is None:
        pytest.skip(f"questdb is missing; {qs.HOW}")
    made = qs.QuestDBServer(tmp_path_factory.mktemp("questdb"))
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture(params=["parquet", "questdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of either kind; all tables of the test have a name of its own in the database."""
    if request.param == "parquet":
        return f"parquet:{tmp_path / 'data'}"
    server: qs.QuestDBServer = request.getfixturevalue("server")
    prefix = "".join(c if c.isalnum() else "_" for c in request.node.name) + "_"
    return str(server.location(table_prefix=prefix, retry_timeout=1500, request_timeout=1500))


def gaps(store: str, kind: str) -> list[Gap]:
    """The open gaps of one cause."""
    with open_reader(store) as reader:
        rows = [r for r in reader.records("gaps") if isinstance(r, Gap)]
    return [g for g in rows if not g.repaired_by and REASONS[g.reason].kind == kind]


def told(found: list[Gap], venue: str, symbols: set[str]) -> None:
    assert found
    for gap in found:
        assert gap.venue == venue
        assert gap.symbol in {*symbols, ""}  # empty: of all, where a damaged message does not say whose it was
        assert gap.severity in ("lost", "suspect")
        assert 10**18 < gap.ts_from <= gap.ts_to


def wait_for(what: Callable[[], object], words: str) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, f"waited in vain for: {words}"
        time.sleep(0.1)


@pytest.mark.parametrize("kind", CAUSES)
def test_what_goes_wrong_live_is_a_gap(cmd: Any, store: str, kind: str) -> None:
    venue, fault, more, tables, reasons = CAUSES[kind]
    # a snapshot is late after ten seconds of our own clock, and its market goes on meanwhile
    length = ["--duration", "150s"] if kind == "late_snapshot" else []
    replay = cmd.replay(*SIMULATED, *length, "--fault", fault, venues=[venue])
    symbols = set(replay.ready[venue]["symbols"])
    summary = cmd.summary(
        "record", "--exchange", venue, "--symbols", "all", "--types", "trades,book", "--store", store, *replay.endpoints,
        "--until-end", *more, code=3,
    )  # fmt: skip
    found = gaps(store, kind)
    told(found, venue, symbols)
    assert {g.reason for g in found} & reasons
    assert {g.record_type for g in found} <= tables
    assert summary["gap_reasons"].keys() & reasons


def test_a_recorder_that_is_killed(cmd: Any, store: str) -> None:
    replay = cmd.replay("--simulate", "--symbols", "1", "--seed", "3")
    words = ["record", *BINANCE, "--symbols", "all", "--store", store, *replay.endpoints]
    first = cmd.start(*words)
    wait_for(lambda: has_trades(store), "the first trades")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    time.sleep(1.5)
    cmd.summary(*words, "--duration", "2s", code=3)
    found = gaps(store, "stop")
    told(found, "binance-spot", set(replay.ready["binance-spot"]["symbols"]))
    assert {g.reason for g in found} == {"restart"}
    (trades,) = [g for g in found if g.record_type == "trades"]
    assert trades.first_id is not None
    assert trades.last_id is not None
    assert trades.first_id <= trades.last_id


def has_trades(store: str) -> bool:
    try:
        with open_reader(store) as reader:
            return "trades" in reader.tables() and next(iter(reader.records("trades")), None) is not None
    except Exception:  # it is being made
        return False


def test_a_store_that_fails(
    cmd: Any, store: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CMD_RUN_DIR", str(tmp_path / "run"))
    replay = cmd.replay("--simulate", "--symbols", "1", "--seed", "3", "--speed", "4")
    words = ["record", *BINANCE, "--symbols", "all", "--store", store, *replay.endpoints]
    if store.startswith("parquet"):  # a disk that takes no more: no file may grow beyond this
        limited = subprocess.Popen(
            [sys.executable, "-m", "cmd_cli", *words], cwd=cmd.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
        )  # fmt: skip
        cmd.started.append(limited)
        out, err = limited.communicate(timeout=90)
        assert limited.returncode == 1, out + err
        assert "recording ended early" in err
    else:
        server: qs.QuestDBServer = request.getfixturevalue("server")
        recorder = cmd.start(*words)
        wait_for(lambda: has_trades(store), "the first trades")
        server.kill()
        out, err = recorder.communicate(timeout=90)
        server.start()
        assert recorder.returncode == 1, out + err
        # systemd starts it again and again: an attempt that cannot begin changes nothing
    cmd.summary(*words, "--duration", "3s", code=3)
    found = gaps(store, "store_outage")
    told(found, "binance-spot", set(replay.ready["binance-spot"]["symbols"]))
    assert {g.record_type for g in found} >= {"trades"}
    assert gaps(store, "stop") == []
    time.sleep(1)
    cmd.summary(*words, "--duration", "2s", code=3)  # that one ended well: what is between them is no outage
    assert gaps(store, "stop")
    assert len(gaps(store, "store_outage")) == len(found)


async def test_a_queue_that_is_full(store: str) -> None:
    """With the policy drop-oldest; a recorder's own queue blocks, and loses nothing."""
    writer = open_writer(store)

    class Slow:
        def write(self, records: Any, /) -> None:
            time.sleep(0.05)
            writer.write(records)

        def flush(self) -> None:
            writer.flush()

        def close(self) -> None:
            writer.close()

    pipeline = Pipeline[Record](Slow(), limit=200, policy="drop-oldest", replace=overflow_gaps)
    now = 1_700_000_000_000_000_000
    for n in range(300):
        rows = [
            Trade(now + (10 * n + i) * 10**6, now, "v", "A", str(10 * n + i), 10 * n + i, 1.0, 1.0, "buy")
            for i in range(10)
        ]
        pipeline.put(rows)
    await pipeline.close()
    assert pipeline.error is None
    found = gaps(store, "overflow")
    told(found, "v", {"A"})
    with open_reader(store) as reader:
        stored = {r.trade_seq for r in reader.records("trades") if isinstance(r, Trade)}
    missing = set(range(3000)) - stored
    assert missing
    for n in missing:  # each lies within a gap
        assert any(g.ts_from <= now + n * 10**6 <= g.ts_to for g in found), n
