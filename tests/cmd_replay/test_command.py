from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from cmd_common.commands import ReplayOptions, Result
from cmd_common.errors import UsageError
from cmd_common.registry import exchange
from cmd_common.testing.ports import free_ports
from cmd_replay.command import assign, make_emulators, run, serve

SECOND = 1_000_000_000
VENUES = ("binance-spot", "binance-usdm", "binance-coinm")


class Lines:
    """A Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.facts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.warnings: list[str] = []

    def info(self, message: str) -> None: ...

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def ready(self, facts: Mapping[str, Any]) -> None:
        json.dumps(facts)
        self.facts.put_nowait(dict(facts))

    def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None: ...


async def listen_to(endpoint: str, target: str) -> tuple[int, int | None]:
    frames = 0
    async with connect(endpoint.replace("http", "ws", 1) + target, proxy=None) as client:
        try:
            while True:
                await client.recv()
                frames += 1
        except ConnectionClosed as closed:
            return frames, closed.rcvd.code if closed.rcvd else None


async def test_one_port_and_one_ready_line_a_venue_and_exit_at_the_end() -> None:
    lines = Lines()
    options = ReplayOptions(VENUES, simulate=True, symbols=1, speed=0, exit_at_end=True, duration=2 * SECOND, seed=9)
    task: asyncio.Task[Result] = asyncio.create_task(serve(options, lines))
    facts = [await asyncio.wait_for(lines.facts.get(), 10) for _ in VENUES]
    assert [f["venue"] for f in facts] == list(VENUES)
    assert len({f["endpoint"] for f in facts}) == 3
    assert all(f["endpoint"].startswith("http://127.0.0.1:") for f in facts)
    targets = ("/ws/btcusdt@trade", "/public/ws/btcusdt@trade", "/ws/btcusd_perp@trade")
    ends = await asyncio.gather(*(listen_to(f["endpoint"], t) for f, t in zip(facts, targets, strict=True)))
    assert {code for _, code in ends} == {4000}
    result = await asyncio.wait_for(task, 10)
    assert result.exit_code == 0
    venues = result.summary["venues"]
    assert [venues[v]["messages"] for v in VENUES] == [frames for frames, _ in ends]
    assert all(venues[v]["finished"] for v in VENUES)


async def test_a_simulation_that_must_end_but_has_no_length_ends() -> None:
    (made,) = make_emulators(ReplayOptions(("binance-spot",), simulate=True, exit_at_end=True))
    facts = made.ready()
    assert facts["last_event"] - facts["first_event"] == 60 * SECOND
    (endless,) = make_emulators(ReplayOptions(("binance-spot",), simulate=True))
    assert endless.ready()["last_event"] is None


async def test_a_fixed_port_counts_up() -> None:
    port, _ = free_ports(2)
    lines = Lines()
    options = ReplayOptions(VENUES[:2], simulate=True, symbols=1, listen=f"127.0.0.1:{port}")
    task = asyncio.create_task(serve(options, lines))
    facts = [await asyncio.wait_for(lines.facts.get(), 10) for _ in range(2)]
    assert [f["endpoint"].rpartition(":")[2] for f in facts] == [str(port), str(port + 1)]
    os.kill(os.getpid(), signal.SIGTERM)
    assert (await asyncio.wait_for(task, 10)).exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_cleanly(number: signal.Signals) -> None:
    code = (
        "import json,sys\n"
        "from cmd_common.commands import ReplayOptions\n"
        "from cmd_replay.command import run\n"
        "class R:\n"
        "    def info(self, m): pass\n"
        "    warn = info\n"
        "    def progress(self, *a, **k): pass\n"
        "    def ready(self, facts): print(json.dumps(facts), flush=True)\n"
        "sys.exit(run(ReplayOptions(('binance-spot',), simulate=True), R()).exit_code)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["venue"] == "binance-spot"
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ReplayOptions(()), "no exchange"),
        (ReplayOptions(("binance-spot",)), "nothing to serve"),
        (ReplayOptions(("binance-spto",), simulate=True), "did you mean binance-spot"),
        (ReplayOptions(("binance-spot",), simulate=True, recordings=("x",)), "exclude each other"),
        (ReplayOptions(("binance-spot",), recordings=("/nowhere/x.ndjson",)), "does not exist"),
        (ReplayOptions(("binance-spot",), simulate=True, listen="nonsense"), "is not ADDRESS:PORT"),
        (ReplayOptions(("binance-spot",), simulate=True, listen="127.0.0.1:99999"), "is not ADDRESS:PORT"),
        (ReplayOptions(("binance-spot",), simulate=True, speed=-1), "negative"),
        (ReplayOptions(("binance-spot",), simulate=True, symbols=0), "cannot simulate 0 symbols"),
    ],
)
def test_wrong_use_is_one_clear_line(options: ReplayOptions, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(options, Lines())


def test_recordings_find_their_venue(recordings: Path, tmp_path: Path) -> None:
    exchanges = {v: exchange(v) for v in VENUES}
    spot = str(recordings / "binance_spot" / "cryptofeed_4symbols_20211012.ndjson")
    usdm = str(recordings / "binance_usdm" / "cryptofeed_4symbols_20210722.ndjson")
    coinm = str(recordings / "binance_coinm" / "hft_btcusd_perp_20240808_first15s.ndjson")
    assert assign((usdm, coinm, spot), exchanges) == dict(zip(VENUES, ([spot], [usdm], [coinm]), strict=True))
    with pytest.raises(UsageError, match="no recording of binance-usdm"):
        assign((spot, coinm), exchanges)
    named = tmp_path / "binance_coinm.ndjson"
    named.write_bytes(b'{"recv_ns":1,"src":"ws","msg":{}}\n')
    two = {v: exchanges[v] for v in VENUES[1:]}
    assert assign((str(named), usdm), two)["binance-coinm"] == [str(named)]
    unknown = tmp_path / "other.ndjson"
    unknown.write_bytes(named.read_bytes())
    with pytest.raises(UsageError, match="cannot tell"):
        assign((str(unknown), usdm), two)
    assert assign((str(unknown),), {"binance-spot": exchanges["binance-spot"]}) == {"binance-spot": [str(unknown)]}


async def test_a_torn_recording_is_served_with_a_warning(recordings: Path, tmp_path: Path) -> None:
    path = recordings / "binance_spot" / "hft_btcusdt_20240808_first40s.ndjson"
    torn = tmp_path / "torn.ndjson"
    torn.write_bytes(path.read_bytes()[:200_000])
    lines = Lines()
    options = ReplayOptions(("binance-spot",), recordings=(str(torn),), speed=0, exit_at_end=True)
    task = asyncio.create_task(serve(options, lines))
    facts = await asyncio.wait_for(lines.facts.get(), 10)
    assert "notes" not in facts
    assert len(lines.warnings) == 1
    assert "torn line" in lines.warnings[0]
    frames, code = await listen_to(facts["endpoint"], "/ws/btcusdt@trade")
    assert (frames, code) == (facts["streams"]["btcusdt@trade"], 4000)
    assert (await asyncio.wait_for(task, 10)).exit_code == 0
