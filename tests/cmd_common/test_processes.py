"""State files of processes: what is told of those that live, hang, end and are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmd_common.processes import STUCK, Found, Process, ProcessState, folders, forget, judge, processes, run_folder

S = 1_000_000_000

CHILD = """
import sys, time
from cmd_common.processes import ProcessState
with ProcessState("record", store="questdb:http::addr=h:1;password=geheim;", folder=sys.argv[1]) as state:
    state.running("recording", metrics="http://127.0.0.1:1")
    print("ready", flush=True)
    time.sleep(120)
"""


def only(folder: Path, now: int | None = None) -> Found:
    (found,) = processes([str(folder)], now)
    return found


@pytest.mark.parametrize(
    ("phase", "exit_code", "held", "late", "state"),
    [
        ("running", None, True, 0, "running"),
        ("starting", None, True, STUCK, "starting"),
        ("running", None, True, STUCK + 1, "stuck"),
        ("stopping", None, True, 0, "stopping"),
        ("running", None, False, 0, "killed"),
        ("ended", 0, False, 10 * STUCK, "ended"),
        ("ended", 3, True, 0, "ended"),
        ("ended", 4, False, 0, "ended"),
        ("ended", 1, False, 0, "failed"),
        ("ended", None, False, 0, "failed"),
    ],
)
def test_what_is_thought_of_a_process(phase: str, exit_code: int | None, held: bool, late: int, state: str) -> None:
    process = Process("record", 1, phase, S, S, exit_code=exit_code)  # type: ignore[arg-type]
    assert judge(process, held, S + late) == state


def test_from_the_start_to_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with ProcessState("archive", store="parquet:data", folder=str(folder)) as state:
        assert only(folder).state == "starting"
        state.running("archiving", metrics="http://127.0.0.1:1")
        state.update({"files": 3})
        found = only(folder)
        assert (found.state, found.process.words, found.process.facts) == ("running", "archiving", {"files": 3})
        assert (found.process.pid, found.process.store) == (os.getpid(), "parquet:data")
        assert not forget(found)
        assert only(folder, time.time_ns() + STUCK + S).state == "stuck"
        state.stopping()
        assert only(folder).state == "stopping"
        state.finish(3, facts={"gaps": 1})
    found = only(folder)
    assert (found.state, found.process.exit_code, found.process.facts) == ("ended", 3, {"gaps": 1})
    assert [p.suffix for p in folder.iterdir()] == [".json"]
    assert forget(found)
    assert list(folder.iterdir()) == []


def test_an_error_is_told_without_its_secrets(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), ProcessState("record", folder=str(tmp_path)):
        raise ValueError("broken: questdb:http::addr=h:1;password=geheim;")
    found = only(tmp_path)
    assert (found.state, found.process.exit_code) == ("failed", 1)
    assert found.process.error.startswith("broken")
    assert "geheim" not in found.process.error


def test_a_killed_process_is_told_from_one_that_lives(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        found = only(tmp_path)
        assert (found.state, found.process.pid) == ("running", child.pid)
        assert found.process.store == "questdb:http::addr=h:1;password=********;"
        assert "geheim" not in Path(found.path).read_text()
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    found = only(tmp_path)
    assert found.state == "killed"
    assert forget(found)
    assert processes([str(tmp_path)]) == []
    assert list(tmp_path.iterdir()) == []


async def test_signs_of_life_come_out_of_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmd_common.processes._EVERY", 0.01)
    seen = 0
    enough = asyncio.Event()

    def facts() -> dict[str, int]:
        nonlocal seen
        seen += 1
        if seen == 5:
            enough.set()
        return {"seen": seen}

    with ProcessState("serve", folder=str(tmp_path)) as state:
        async with state.alive(facts):
            await asyncio.wait_for(enough.wait(), 60)
        assert only(tmp_path).process.facts["seen"] >= 4
        before = seen
        await asyncio.sleep(0.05)
        assert seen == before


def test_signs_of_life_come_out_of_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmd_common.processes._EVERY", 0.01)
    with ProcessState("archive", folder=str(tmp_path)) as state, state.beating(lambda: {"files": 1}):
        end = time.monotonic() + 60
        while only(tmp_path).process.facts != {"files": 1}:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_what_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with ProcessState("record", folder=str(tmp_path / "file" / "below")) as state:
        state.running("anyway")
        state.finish(0)
    assert processes([str(tmp_path / "file" / "below")]) == []


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of another kind")
def test_a_folder_into_which_others_can_write_is_not_used(tmp_path: Path) -> None:
    open_to_all, link = tmp_path / "open", tmp_path / "link"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    (tmp_path / "target").mkdir()
    link.symlink_to(tmp_path / "target")
    for folder in (open_to_all, link):
        with ProcessState("record", folder=str(folder)) as state:
            state.running()
        assert list(folder.iterdir()) == []


def test_what_is_no_state_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text('{"command": 1}')
    (tmp_path / "c.json").mkdir()
    (tmp_path / "d.json").write_bytes(b"\xff\xfe")
    (tmp_path / "e.txt").write_text("{}")
    (tmp_path / "f.json").write_text("[" * (2 << 20))
    assert processes([str(tmp_path), str(tmp_path / "nowhere")]) == []


def test_old_and_too_many_ended_ones_are_removed(tmp_path: Path) -> None:
    time_of = [0]

    def clock() -> int:
        time_of[0] += S
        return time_of[0]

    for _ in range(30):
        with ProcessState("archive", folder=str(tmp_path), clock=clock):
            pass
    with ProcessState("repair", folder=str(tmp_path), clock=clock):
        pass
    assert len([f for f in processes([str(tmp_path)]) if f.process.command == "archive"]) == 21
    time_of[0] += 8 * 86_400 * S
    with ProcessState("archive", folder=str(tmp_path), clock=clock):
        assert sorted(f.process.command for f in processes([str(tmp_path)])) == ["archive", "repair"]


def test_where_processes_keep_their_state() -> None:
    assert run_folder({"CMD_RUN_DIR": "/x", "RUNTIME_DIRECTORY": "/y"}) == "/x"
    assert run_folder({"RUNTIME_DIRECTORY": "/run/cryptomarketdata:/run/other"}) == "/run/cryptomarketdata"
    assert run_folder({"XDG_RUNTIME_DIR": "/run/user/7"}) == os.path.join("/run/user/7", "cryptomarketdata")
    assert os.path.basename(run_folder({})).startswith("cryptomarketdata-")
    assert folders({"CMD_RUN_DIR": "/x"}) == ["/x"]
    assert folders({"XDG_RUNTIME_DIR": "/run/user/7"})[1:] == ["/run/cryptomarketdata"]
    assert folders({"RUNTIME_DIRECTORY": "/run/cryptomarketdata"}) == ["/run/cryptomarketdata"]
