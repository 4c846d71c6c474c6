"""Drivers and clients of a process: one each per directory, counted, and made anew where one died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aeron_raw import DEADLINE, driver_process, folder, present

from cmd_server.aeron import Settings, parse
from cmd_server.aeron_driver import acquire_client, acquire_driver, running
from cmd_server.errors import ServerError
from cmd_server.transport import Address


@pytest.fixture(autouse=True)
def _present() -> None:
    present()


@pytest.fixture
def place() -> Iterator[Path]:
    with folder() as path:
        yield path / "d"


def settings(place: Path, more: str = "", side: str = "server", medium: str = "ipc") -> Settings:
    text = f"aeron:{medium}?dir={place}&control=unix:@x" + (f"&{more}" if more else "")
    return parse(Address.parse(text + ("&term-length=64k" if side == "server" else "")), side)


def wait(what: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_driver_is_shared_and_goes_with_its_last_user(place: Path) -> None:
    assert not running(str(place))
    first = acquire_driver(settings(place))
    second = acquire_driver(settings(place, "driver=embedded"))
    assert first.embedded
    assert second.embedded
    assert place.is_dir()
    assert running(str(place))
    # A client on IPC uses it and does not keep it.
    third = acquire_driver(settings(place, side="client"))
    assert not third.embedded
    first.release()
    first.release()
    assert running(str(place))
    second.release()
    assert not running(str(place))
    assert not place.exists()
    third.release()


def test_an_external_driver_that_is_missing_is_one_line(place: Path) -> None:
    with pytest.raises(ServerError, match=f"no media driver runs in {place}; start one: python -m cmd_aeron.driver"):
        acquire_driver(settings(place, "driver=external"))
    with pytest.raises(ServerError, match=f"no media driver runs in {place}; is the server running"):
        acquire_driver(settings(place, side="client"))
    with pytest.raises(ServerError) as caught:
        acquire_client(str(place))
    assert "\n" not in str(caught.value)
    assert not place.exists()


def test_a_live_driver_of_another_process_is_used_and_never_wiped(place: Path) -> None:
    with driver_process(place) as child:
        for more in ("", "driver=external"):
            found = acquire_driver(settings(place, more))
            assert not found.embedded
            found.release()
        with pytest.raises(ServerError, match=str(place)) as caught:
            acquire_driver(settings(place, "driver=embedded"))
        assert "\n" not in str(caught.value)
        client = acquire_client(str(place))
        assert client.usable
        client.release()
        assert child.poll() is None
        assert running(str(place))


def test_a_directory_that_a_killed_driver_left_is_used_at_once(place: Path) -> None:
    with driver_process(place) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert place.is_dir()
        assert not running(str(place))
        found = acquire_driver(settings(place))
        assert found.embedded
        client = acquire_client(str(place))
        assert client.usable
        client.release()
        found.release()
    assert not place.exists()


def test_clients_are_shared_and_made_anew_where_one_is_of_no_use(place: Path) -> None:
    driver = acquire_driver(settings(place))
    first, second = acquire_client(str(place)), acquire_client(str(place))
    assert first.client is second.client
    first.release()
    first.release()
    assert second.usable
    second.client.close()
    assert not second.usable
    third = acquire_client(str(place))
    assert third.client is not second.client
    assert third.usable
    second.release()
    assert third.usable
    fourth = acquire_client(str(place))
    assert fourth.client is third.client
    third.release(retire=True)
    fifth = acquire_client(str(place))
    assert fifth.client is not fourth.client
    assert fourth.usable  # until its last user gives it back
    fourth.release()
    assert fourth.client.closed
    fifth.release()
    assert fifth.client.closed
    driver.release()


def test_many_threads_get_the_same_and_leave_nothing(place: Path) -> None:
    problems: list[BaseException] = []
    most = 0
    begin = threading.Barrier(8)

    def work() -> None:
        nonlocal most
        try:
            for _ in range(3):
                begin.wait(DEADLINE)
                driver = acquire_driver(settings(place))
                client = acquire_client(driver.directory)
                assert client.usable
                assert driver.embedded
                most += 1
                client.release()
                driver.release()
        except BaseException as error:
            problems.append(error)
            begin.abort()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert most == 24
    assert not place.exists()
    assert not running(str(place))


def test_a_client_over_udp_brings_its_own_driver_where_none_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AERON_DIR", str(place))
    ours = parse(Address.parse("aeron:udp?control=unix:@x"), "client")
    first, second = acquire_driver(ours), acquire_driver(ours)
    assert first.directory == second.directory != str(place)
    assert first.embedded
    assert os.path.isdir(first.directory)
    first.release()
    second.release()
    assert not os.path.exists(first.directory)
    with driver_process(place):
        found = acquire_driver(ours)
        assert (found.directory, found.embedded) == (str(place), False)
        found.release()


_FORGETFUL = """
import sys
from cmd_server.aeron import parse
from cmd_server.aeron_driver import acquire_client, acquire_driver
from cmd_server.transport import Address
driver = acquire_driver(parse(Address.parse(f"aeron:ipc?dir={sys.argv[1]}&term-length=64k"), "server"))
client = acquire_client(driver.directory)
print("ready", flush=True)
"""


def test_a_program_that_releases_nothing_leaves_nothing(place: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", _FORGETFUL, str(place)], capture_output=True, text=True, timeout=DEADLINE
    )
    assert (found.stdout, found.stderr, found.returncode) == ("ready\n", "", 0)
    wait(lambda: not place.exists())
