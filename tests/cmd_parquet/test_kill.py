"""Real processes on one store, killed with SIGKILL at random moments."""

from __future__ import annotations

import random
import select
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from parquet_models import T0, VENUE
from tests.tally import amount, note

from cmd_common.records import Trade
from cmd_parquet import ParquetReader, ParquetWriter, verify

WRITER = """
import sys
from cmd_common.records import Trade
from cmd_parquet import ParquetWriter, WriterOptions
from cmd_parquet.columns import ORDER, arrow_schema, rows_to_arrow
import msgspec
location, first, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
options = WriterOptions(roll_interval=1, compact_files=2) if mode == "roll" else WriterOptions(roll_bytes=20_000)
writer = ParquetWriter(location, options=options)
print("open", flush=True)
i = first
while True:
    trades = [Trade({t0} + k, 1, {venue!r}, "BTCUSDT", str(k), k, float(k), 1.0, "buy") for k in range(i, i + 20)]
    if mode == "batch":
        rows = [msgspec.structs.astuple(t) for t in trades]
        data = rows_to_arrow("trades", rows, range(20)).drop_columns([ORDER]).cast(arrow_schema("trades"))
        writer.write_batch("trades", data)
    else:
        writer.write(trades)
    writer.flush()
    i += 20
    print(i, flush=True)
"""


def spawn(location: str, first: int, mode: str) -> subprocess.Popen[str]:
    code = textwrap.dedent(WRITER).format(t0=T0, venue=VENUE)
    return subprocess.Popen([sys.executable, "-c", code, location, str(first), mode], stdout=subprocess.PIPE, text=True)


def confirmed_at_kill(child: subprocess.Popen[str], lines: int) -> int:
    """Let the child confirm some lines, kill it in the middle of its work and return what it had confirmed."""
    assert child.stdout is not None
    last = 0
    for _ in range(lines + 1):
        line = child.stdout.readline().strip()
        assert line, "the writer died by itself"
        last = int(line) if line != "open" else last
    # Whatever it does at this moment is interrupted; lines it has already printed are confirmed too.
    child.kill()
    rest, _ = child.communicate()
    numbers = [int(n) for n in rest.split("\n")[:-1] if n.isdigit()]
    return max([last, *numbers])


def check(location: str, confirmed: int) -> int:
    with ParquetReader(location) as reader:
        found = [r.trade_seq for r in reader.records("trades") if isinstance(r, Trade)]
        assert found[:confirmed] == list(range(confirmed))
        assert found == list(range(len(found)))  # whole batches only, and each row once
        assert len(found) % 20 == 0
        ((count,),) = reader.sql("SELECT count(*) FROM trades").rows()
        assert count == len(found)
    return len(found)


@pytest.mark.parametrize("store", range(amount(1, 3)))
@pytest.mark.parametrize("mode", ["journal", "roll", "batch"])
def test_kill_at_any_moment_loses_nothing_confirmed(location: str, mode: str, store: int) -> None:
    rng = random.Random(f"{mode} {store}")
    confirmed = 0
    for _ in range(7):
        child = spawn(location, confirmed, mode)
        confirmed = max(confirmed, confirmed_at_kill(child, rng.randrange(1, 12)))
        confirmed = check(location, confirmed)
        note("kills", 1, "parquet")
    with ParquetWriter(location):
        pass
    assert check(location, confirmed) == confirmed
    assert verify(location) == []
    assert list(Path(location, "_store/tmp").iterdir()) == []
    assert list(Path(location, "_store/journal").iterdir()) == []


def test_recorder_archiver_and_reader_at_once(location: str) -> None:
    """Three processes write while this one reads; every row read is whole and each key comes once."""
    children = [spawn(location, first, mode) for first, mode in ((0, "roll"), (0, "batch"), (0, "journal"))]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
        confirmed = [0, 0, 0]
        with ParquetReader(location) as reader:
            for _ in range(6):
                for i, child in enumerate(children):
                    assert child.stdout is not None
                    while select.select([child.stdout], [], [], 0)[0] or not confirmed[i]:
                        confirmed[i] = int(child.stdout.readline())
                found = [r.trade_seq for r in reader.records("trades") if isinstance(r, Trade)]
                assert found == list(range(len(found)))
                assert len(found) >= max(confirmed)
                ((count, ids),) = reader.sql("SELECT count(*), count(DISTINCT trade_id) FROM trades").rows()
                assert count == ids >= len(found)
    finally:
        for child in children:
            child.kill()
            child.communicate()
    with ParquetWriter(location):
        pass
    assert check(location, max(confirmed)) >= max(confirmed)
    assert verify(location) == []
