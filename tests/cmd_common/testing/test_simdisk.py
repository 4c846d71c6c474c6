from __future__ import annotations

import pytest

from cmd_common.seams import Disk
from cmd_common.testing.simdisk import SimDisk, SimulatedCrash


def made(seed: int = 0) -> SimDisk:
    disk = SimDisk(seed)
    disk.makedirs("/a/b")
    for path in ("/", "/a"):
        disk.sync_dir(path)
    return disk


def test_it_is_a_disk() -> None:
    disk = made()
    assert isinstance(disk, Disk)
    disk.write("/a/b/x", b"12")
    disk.append("/a/b/x", b"345")
    disk.append("/a/b/y", b"6")
    assert (disk.read("/a/b/x"), disk.size("/a/b/x"), disk.exists("/a/b"), disk.exists("/a/z")) == (
        b"12345",
        5,
        True,
        False,
    )
    assert disk.listdir("/a/b") == ["x", "y"]
    assert disk.listdir("/none") == []
    disk.truncate("/a/b/x", 2)
    disk.rename("/a/b/x", "/a/b/y")
    assert disk.read("/a/b/y") == b"12"
    disk.remove("/a/b/x")
    for action in (lambda: disk.read("/a/b/x"), lambda: disk.write("/no/x", b""), lambda: disk.sync_dir("/no")):
        with pytest.raises(FileNotFoundError):
            action()
    with pytest.raises(FileExistsError):
        disk.makedirs("/a/b/y/z")


def test_what_is_synced_survives_and_the_rest_may_be_lost_or_torn() -> None:
    outcomes = set()
    for seed in range(200):
        disk = made(seed)
        disk.write("/a/b/x", b"safe")
        disk.sync("/a/b/x")
        disk.sync_dir("/a/b")
        disk.append("/a/b/x", b"12345678")
        disk.crash()
        data = disk.read("/a/b/x")
        assert data.startswith(b"safe")
        outcomes.add(data)
    assert b"safe" in outcomes
    assert b"safe12345678" in outcomes
    assert any(d not in b"safe12345678" for d in outcomes)  # a damaged tail
    assert any(4 < len(d) < 12 for d in outcomes)  # a short one


def test_names_need_their_directory_synced() -> None:
    kept = set()
    for seed in range(60):
        disk = made(seed)
        disk.write("/a/b/x", b"1")
        disk.sync("/a/b/x")
        disk.crash()
        kept.add(disk.exists("/a/b/x"))
    assert kept == {True, False}


def test_a_rename_happens_whole_or_not_at_all() -> None:
    outcomes = set()
    for seed in range(60):
        disk = made(seed)
        for path, data in (("/a/b/new", b"new"), ("/a/b/x", b"old")):
            disk.write(path, data)
            disk.sync(path)
        disk.sync_dir("/a/b")
        disk.rename("/a/b/new", "/a/b/x")
        if seed % 2:
            disk.sync_dir("/a/b")
        disk.crash()
        outcomes.add((seed % 2, disk.read("/a/b/x"), disk.exists("/a/b/new")))
    assert outcomes == {(0, b"old", True), (0, b"new", False), (1, b"new", False)}


def test_a_directory_without_its_parents_is_gone() -> None:
    disk = SimDisk(1)
    disk.makedirs("/p/q")
    disk.sync_dir("/p")
    disk.write("/p/q/x", b"1")
    disk.sync("/p/q/x")
    disk.sync_dir("/p/q")
    disk._pending.clear()  # nothing of what was not synced survives
    disk.crash()
    assert not disk.exists("/p/q/x")
    assert disk.listdir("/") == []


@pytest.mark.parametrize(("kind", "code"), [("eio", 5), ("enospc", 28), ("torn", 5)])
def test_errors_at_the_chosen_operation(kind: str, code: int) -> None:
    disk = made()
    disk.faults[disk.ops + 2] = kind  # type: ignore[assignment]
    disk.write("/a/b/x", b"1")
    with pytest.raises(OSError, match=r"error|space") as caught:
        disk.append("/a/b/x", b"2345")
    assert caught.value.errno == code
    assert disk.read("/a/b/x").startswith(b"1")
    disk.append("/a/b/x", b"6")
    assert [k for _, k, _ in disk.injected] == [kind]


def test_the_dead_touch_nothing_until_restart_and_lose_their_locks() -> None:
    disk = made()
    assert disk.try_lock("/a/l")
    assert not disk.try_lock("/a/l")
    disk.faults[disk.ops + 1] = "kill"
    with pytest.raises(SimulatedCrash):
        disk.write("/a/b/x", b"1")
    for action in (lambda: disk.write("/a/b/x", b"1"), lambda: disk.read("/a/b/x"), lambda: disk.remove("/a/b")):
        with pytest.raises(SimulatedCrash):
            action()
    disk.restart()
    assert disk.try_lock("/a/l")
    disk.unlock("/a/l")
    assert disk.try_lock("/a/l")


def test_capacity() -> None:
    disk = SimDisk(capacity=5)
    disk.write("/x", b"123")
    with pytest.raises(OSError, match="No space left"):
        disk.append("/x", b"4567")
    assert disk.used() == 5


def test_one_seed_gives_one_behaviour() -> None:
    def play(seed: int) -> object:
        disk = SimDisk(seed, rates={"eio": 0.2, "torn": 0.2})
        for i in range(50):
            try:
                disk.append("/x", bytes([i]) * 10)
            except OSError:
                pass
        disk.crash()
        return disk.injected, disk.read("/x") if disk.exists("/x") else None

    assert play(5) == play(5)
    assert play(5) != play(6)


def test_an_absolute_path_is_the_same_however_many_slashes_it_begins_with() -> None:
    disk = SimDisk()
    disk.makedirs("/store/x")  # a normalised path may keep two leading slashes: then it has no parent that is known
    disk.write("//store/x/y", b"1")
    assert disk.read("store/x/y") == b"1"
    assert disk.listdir("/") == ["store"]
