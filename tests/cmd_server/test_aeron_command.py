"""``cmd-cli serve --listen aeron:ipc`` as a process: what it says when it is ready, what it serves, what it leaves."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aeron_raw import DEADLINE, AeronRaw, folder, present
from raw_client import Raw

from cmd_server import codec
from cmd_server.messages import Template
from cmd_server.transport import Address


@pytest.fixture(autouse=True)
def _present() -> None:
    present()


@contextmanager
def command(*args: str, home: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A command of cmd-cli and its first line; it ends on SIGTERM, with code 0 and without a traceback."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("CMD_")} | {"HOME": str(home)}
    parts = [sys.executable, "-m", "cmd_cli", *args]
    with subprocess.Popen(parts, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=home) as child:
        try:
            assert child.stdout is not None
            line = child.stdout.readline()
            assert line, child.communicate(timeout=DEADLINE)
            yield child, json.loads(line)
            child.send_signal(signal.SIGTERM)
            _, err = child.communicate(timeout=DEADLINE)
            assert child.returncode == 0, err
            assert "Traceback" not in err
        finally:
            child.kill()


async def _trades(control: str, directory: str, count: int) -> list[int]:
    """The sequences of so many trades, by Aeron."""
    client = AeronRaw(await Raw.connect(Address.parse(control)), directory)
    await client.control.login("trades *")
    await client.divert()
    found = await client.messages(Template.TRADE, count)
    client.close()
    return [codec.head(frame).seq for frame in found]


def test_aeron_alone_and_beside_another_address(tmp_path: Path) -> None:
    simulated = ["replay", "--exchange", "binance-spot", "--simulate", "--symbols", "BTCUSDT", "--speed", "4"]
    with folder() as place, command(*simulated, home=tmp_path) as (_, exchange):
        serve = ["serve", "--exchange", "binance-spot", "--symbols", "BTCUSDT", "--types", "trades", "--json"]
        serve += ["--endpoint", exchange["endpoint"], "--metrics", "127.0.0.1:0", "--listen"]
        one = f"aeron:ipc?dir={place}/d&term-length=64k"
        with command(*serve, one, home=tmp_path) as (_, ready):
            assert ready["listen"] == [one, f"unix:{place}/d.control"]
            seqs = asyncio.run(_trades(ready["listen"][1], f"{place}/d", 10))
            assert seqs == [*range(seqs[0], seqs[0] + len(seqs))]
            with urllib.request.urlopen(f"{ready['metrics']}/metrics", timeout=DEADLINE) as answer:
                assert b"cmd_server_accepted_total 1.0" in answer.read()
        assert list(place.iterdir()) == []
        two = [f"unix:{place}/s.sock", f"aeron:ipc?dir={place}/d&term-length=64k&control=unix:{place}/s.sock"]
        with command(*serve, *two, home=tmp_path) as (_, ready):
            assert ready["listen"] == two
            seqs = asyncio.run(_trades(two[0], f"{place}/d", 10))
            assert len(seqs) >= 10
        assert list(place.iterdir()) == []


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    with folder() as place:
        for text, code, words in (
            (f"aeron:ipc?dir={place}/d&driver=external", 1, f"no media driver runs in {place}/d"),
            (f"aeron:udp?dir={place}/d", 2, "aeron:udp.* has no control connection"),
            (f"aeron:ipc?dir={place}/d&term-length=3m", 2, "is no power of two"),
            (f"aeron:ipc?dir={place}/d&control=unix:{place}/no/such", 1, "cannot listen at unix"),
        ):
            parts = ["serve", "--exchange", "binance-spot", "--symbols", "BTCUSDT", "--listen", text]
            ran = subprocess.run(
                [sys.executable, "-m", "cmd_cli", *parts],
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                cwd=tmp_path,
            )
            assert ran.returncode == code, ran
            lines = ran.stderr.strip().splitlines()
            assert len(lines) == 1, ran.stderr
            assert re.search(words, lines[0]), lines
            assert ran.stdout == ""
            assert list(place.iterdir()) == []
