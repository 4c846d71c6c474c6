from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from cmd_common.signals import done_before, finish_on_signals

CHILD = """
import asyncio, sys
from cmd_common.signals import finish_on_signals

class Words:
    def info(self, text):
        print(text, flush=True)
    warn = info

async def main():
    stop = asyncio.Event()
    with finish_on_signals(stop.set, Words()):
        Words().info("ready")
        await stop.wait()
        await asyncio.to_thread(sys.stdin.readline)  # what there is to finish
    Words().info("finished")

asyncio.run(main())
"""


class Silent:
    """A reporter that nothing is said to."""

    def info(self, message: str) -> None:
        raise AssertionError(message)

    warn = info

    def ready(self, facts: Mapping[str, Any]) -> None:
        raise AssertionError(facts)

    def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None:
        raise AssertionError(task)


@pytest.mark.parametrize(
    "numbers", [(signal.SIGINT,), (signal.SIGHUP,), (signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)]
)
def test_one_or_two_signals_let_it_finish(numbers: tuple[signal.Signals, ...]) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in numbers:
            process.send_signal(number)
            assert number.name in process.stdout.readline()
        out, err = process.communicate("\n", timeout=20)
    assert (process.returncode, out, err) == (0, "finished\n", "")


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    command = ["nohup", sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline().startswith("SIGTERM:")
        process.communicate("\n", timeout=20)
    assert process.returncode == 0


def test_the_third_signal_ends_it() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        for expected in ("ready", "SIGTERM:", "SIGTERM again"):
            assert process.stdout.readline().startswith(expected)
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM


def test_another_thread_catches_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside: list[object] = []

    def work() -> None:
        with finish_on_signals(lambda: None, Silent()):
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]


async def test_work_is_awaited_until_the_stop_is_set() -> None:
    stop = asyncio.Event()
    assert await done_before(stop, asyncio.sleep(0))
    with pytest.raises(ValueError, match="of the work"):
        await done_before(stop, fail())
    cancelled: list[bool] = []

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    asyncio.get_running_loop().call_later(0.01, stop.set)
    assert not await done_before(stop, never())
    assert cancelled == [True]  # before it returns


async def fail() -> None:
    raise ValueError("of the work")
