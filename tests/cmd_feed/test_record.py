"""``record`` from a socket to the store: real frames, real store, real signals."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from cmd_common.commands import RecordOptions
from cmd_common.errors import BlockedError, StoreError, UnknownNameError, UsageError
from cmd_common.io import open_reader
from cmd_feed.record import record

TYPES = ("trades", "quotes", "book")


def options(server: Any, store: str, **more: Any) -> RecordOptions:
    settings = {
        "exchanges": ("binance-spot",),
        "symbols": ("BTCUSDT",),
        "types": TYPES,
        "store": store,
        "endpoints": {"": server.http},
        "until_end": True,
        **more,
    }
    return RecordOptions(**settings)


def rows(store: str, table: str, columns: str) -> list[tuple[Any, ...]]:
    with open_reader(store) as reader:
        found = reader.sql(f"SELECT {columns} FROM {table} ORDER BY ALL").rows()
        return [tuple(tuple(v) if isinstance(v, list) else v for v in row) for row in found]


DATA = {
    "trades": "ts_event, symbol, trade_id, price, quantity, side",
    # a spot quote has no time of its own: its ts_event is ours and differs from run to run
    "quotes": "DISTINCT symbol, seq, bid_price, bid_quantity, ask_price, ask_quantity",
    "book_deltas": "ts_event, symbol, epoch, seq, first_seq, bids, asks",
    "book_snapshots": "ts_event, symbol, epoch, seq, bids, asks",
}


def content(store: str) -> dict[str, list[tuple[Any, ...]]]:
    return {table: rows(store, table, columns) for table, columns in DATA.items()}


def expected_trades(server: Any) -> list[int]:
    found = [json.loads(f)["data"] for f in server.frames if "@trade" in f[:40]]
    return sorted(t["t"] for t in found)


async def test_a_recording_ends_up_whole_in_the_store(spot: Any, tmp_path: Path, words: Any) -> None:
    store = f"parquet:{tmp_path / 'data'}"
    result = await record(options(spot, store), words)
    assert result.exit_code == 0
    assert words.warnings == []
    summary = result.summary
    trades = expected_trades(spot)
    quotes = sum("@bookTicker" in f[:40] for f in spot.frames)
    assert summary["records"]["trades"] == len(trades)
    assert summary["records"]["quotes"] == quotes
    assert summary["gaps"] == 0
    book = summary["books"]["binance-spot:BTCUSDT"]
    last = [json.loads(f)["data"] for f in spot.frames if "@depth" in f[:40]][-1]
    assert book["state"] == "LIVE"
    assert book["last_id"] == last["u"]
    assert book["best_bid"][0] < book["best_ask"][0]
    assert summary["confirmed"] == sum(summary["records"].values())
    assert sorted(int(r[0]) for r in rows(store, "trades", "trade_id")) == trades
    states = {r[0] for r in rows(store, "feed_status", "state")}
    assert {"connected", "LIVE"} <= states
    assert len(rows(store, "instruments", "symbol")) == 1
    with open_reader(store) as reader:
        stored = reader.book_at("binance-spot", "BTCUSDT", last["E"] * 1_000_000)
        assert stored is not None
        assert list(stored.best_bid or ()) == book["best_bid"]
        assert list(stored.best_ask or ()) == book["best_ask"]


async def test_recorded_twice_the_rows_are_the_same(spot: Any, tmp_path: Path, words: Any) -> None:
    store = f"parquet:{tmp_path / 'data'}"
    await record(options(spot, store), words)
    first = content(store)
    assert first["book_deltas"]
    await record(options(spot, store), words)
    assert content(store) == first


async def test_a_server_that_closes_is_connected_again_and_leaves_gaps(
    spot: Any, tmp_path: Path, words: Any, until: Any
) -> None:
    store = f"parquet:{tmp_path / 'data'}"
    frames = spot.frames
    half = len(frames) // 2

    async def script(server: Any, connection: Any, number: int) -> None:
        spot.frames = frames[:half] if number == 1 else frames[half + 50 :]
        spot.close_code = 1001 if number == 1 else 4000
        await spot._play(server, connection, number)

    spot.script = script
    # the second snapshot must continue from where the second half begins
    result = await record(options(spot, store, types=("trades", "quotes")), words)
    assert result.exit_code == 3
    assert result.summary["gaps"] > 0
    assert any("closed by the server with code 1001" in w for w in words.warnings)
    gaps = rows(store, "gaps", "record_type, reason, ts_from, ts_to")
    assert {g[0] for g in gaps} == {"trades", "quotes"}
    assert all(g[2] <= g[3] for g in gaps)


async def test_429_on_the_snapshot_is_waited_for(spot: Any, tmp_path: Path, words: Any) -> None:
    spot.on_depth = lambda n: (429, {"Retry-After": "1"}, b'{"code":-1003,"msg":"too much"}') if n == 1 else None
    result = await record(options(spot, f"parquet:{tmp_path / 'data'}"), words)
    assert result.summary["books"]["binance-spot:BTCUSDT"]["state"] == "LIVE"
    assert any("no requests for 1 s" in w for w in words.warnings)
    assert spot.depths == 2


@pytest.mark.parametrize("status", [403, 451])
async def test_a_blocked_country_is_told_in_clear_words(spot: Any, tmp_path: Path, words: Any, status: int) -> None:
    spot.rest = lambda path, n: (status, {}, b"")
    with pytest.raises(BlockedError, match=str(status)) as caught:
        await record(options(spot, f"parquet:{tmp_path / 'data'}"), words)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


async def test_wrong_usage(spot: Any, tmp_path: Path, words: Any) -> None:
    store = f"parquet:{tmp_path / 'data'}"
    with pytest.raises(UnknownNameError, match="BTCUSDT"):
        await record(options(spot, store, symbols=("BTCUDST",)), words)
    with pytest.raises(UnknownNameError, match="binance-spot"):
        await record(options(spot, store, exchanges=("binance-spott",)), words)
    with pytest.raises(UsageError, match="unknown type"):
        await record(options(spot, store, types=("tradez",)), words)
    with pytest.raises(UnknownNameError, match="store"):
        await record(options(spot, "parket:x"), words)
    with pytest.raises(UsageError, match="nowhere to record"):
        await record(options(spot, ""), words)
    with pytest.raises(UsageError, match="duration"):
        await record(options(spot, store, duration=0), words)
    with pytest.raises(UsageError, match="not selected"):
        await record(options(spot, store, endpoints={"": spot.http, "binance-usdm": spot.http}), words)


async def test_a_store_that_cannot_be_made_is_one_clear_line(spot: Any, tmp_path: Path, words: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        await record(options(spot, f"parquet:{tmp_path / 'file' / 'data'}"), words)
    assert not [t for t in asyncio.all_tasks() if "binance" in t.get_name()]


async def test_a_duration_ends_a_quiet_recording_cleanly(spot: Any, tmp_path: Path, words: Any) -> None:
    spot.pause_after = 200
    result = await record(options(spot, f"parquet:{tmp_path / 'data'}", until_end=False, duration=1_500_000_000), words)
    assert result.exit_code == 0
    assert result.summary["records"]["quotes"] > 0
    assert result.summary["gaps"] == 0


async def test_the_raw_recording_can_be_read_again(spot: Any, tmp_path: Path, words: Any) -> None:
    from cmd_common.recording import read

    raw = tmp_path / "raw"
    result = await record(options(spot, "", raw=str(raw)), words)
    assert result.exit_code == 0
    (path,) = raw.iterdir()
    lines = list(read(path))
    assert [line.text for line in lines if line.src == "ws"][-len(spot.frames) :] == spot.frames
    assert [line.text.encode() for line in lines if line.src == "rest"] == [spot.depth]
    times = [line.recv_ns or 0 for line in lines]
    assert times == sorted(times)  # responses keep their place among the frames
    assert lines[0].src == "ws_open"
    assert any(line.src == "ws_out" and "SUBSCRIBE" in line.text for line in lines)


# ---- a real process


CHILD = """
import json, sys
from cmd_common.commands import RecordOptions
from cmd_common.errors import CmdError
from cmd_feed.record import run

class Words:
    def info(self, message): print(message, file=sys.stderr, flush=True)
    warn = info
    def ready(self, facts): pass
    def progress(self, *a, **k): pass

o = json.loads(sys.argv[1])
try:
    result = run(RecordOptions(**{k: tuple(v) if isinstance(v, list) else v for k, v in o.items()}), Words())
except CmdError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
print(json.dumps(result.summary), flush=True)
sys.exit(result.exit_code)
"""


async def child(server: Any, store: str, **more: Any) -> asyncio.subprocess.Process:
    import msgspec

    settings = msgspec.to_builtins(options(server, store, **more))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        json.dumps(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_end_it_cleanly_with_everything_stored(spot: Any, tmp_path: Path, number: signal.Signals) -> None:
    store = f"parquet:{tmp_path / 'data'}"
    spot.pause_after = 1000
    process = await child(spot, store)
    async with asyncio.timeout(30):
        while not spot.open or spot.depths == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)  # some of it has come; how much does not matter
        process.send_signal(number)
        out, err = await process.communicate()
    assert process.returncode == 0, err
    assert number.name in err.decode()
    summary = json.loads(out)
    assert summary["gaps"] == 0
    stored = {table: len(rows(store, table, "*")) for table in ("trades", "quotes")}
    assert stored == {table: summary["records"][table] for table in stored}
    assert stored["quotes"] > 0


async def test_kill_9_at_random_moments_and_a_rerun_end_with_the_same_rows(
    spot: Any, tmp_path: Path, words: Any
) -> None:
    reference = f"parquet:{tmp_path / 'reference'}"
    await record(options(spot, reference), words)
    expected = content(reference)
    rng = random.Random(7)
    store = f"parquet:{tmp_path / 'data'}"
    for round_ in range(4):
        spot.resume = asyncio.Event()
        spot.pause_after = rng.randrange(300, len(spot.frames))
        spot.connections = 0
        process = await child(spot, store)
        async with asyncio.timeout(30):
            while spot.depths < 2 + round_:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await asyncio.sleep(rng.random() * 1.6)  # around the first flush
            process.kill()
            await process.communicate()
        spot.resume.set()
        if (tmp_path / "data").is_dir():
            for table, found in content(store).items():
                assert set(found) <= set(expected[table]), table  # nothing torn, nothing made up
    spot.pause_after = None
    result = await record(options(spot, store), words)
    assert result.exit_code == 0
    assert content(store) == expected


async def test_a_full_disk_is_one_clear_line_and_exit_1(spot: Any, tmp_path: Path) -> None:
    """The limit on file sizes makes real writes fail in a real process."""
    import resource

    import msgspec

    settings = msgspec.to_builtins(options(spot, f"parquet:{tmp_path / 'data'}"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        json.dumps(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)),
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    words = err.decode()
    assert process.returncode == 1, words
    assert "Traceback" not in words
    (line,) = [x for x in words.splitlines() if "recording ended early" in x]
    assert "are confirmed and stay" in line
    assert json.loads(out)["error"]
