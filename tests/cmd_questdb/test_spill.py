"""The spill: order, durability, kills at every byte, damage, bounds, and rows that dead writers left."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from qdb_kit import one_of_each, to_batches, trade

from cmd_common.errors import StoreError
from cmd_common.schema import SCHEMA_VERSION
from cmd_common.seams import OsDisk
from cmd_questdb.frames import rows, to_batch
from cmd_questdb.spill import Spill, SpillFull, decode, encode

LIMIT = 1 << 30


def chunk(i: int, size: int = 3):
    return "trades", to_batch("trades", rows("trades", [trade(i * 100 + k) for k in range(size)]))


def drain(spill: Spill, rows: int = 1) -> list[str]:
    """First trade id of every chunk, in the order in which they leave."""
    found = []
    while (waiting := spill.peek(rows)) is not None:
        found += [data.column("trade_id")[0].as_py() for _, data in waiting.chunks]
        spill.sent(waiting.token)
    return found


def firsts(*numbers: int) -> list[str]:
    return [str(n * 100) for n in numbers]


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_every_table_survives_encoding() -> None:
    for name, data in to_batches(one_of_each()).items():
        table, again = decode(encode(name, data))
        assert table == name
        assert again.equals(data)


def test_a_payload_of_an_unknown_table_is_refused() -> None:
    with pytest.raises(StoreError, match="nonsense"):
        decode(encode("nonsense", chunk(1)[1]))


def test_chunks_leave_in_the_order_in_which_they_came_and_nothing_remains(tmp_path: Path) -> None:
    spill = Spill(str(tmp_path), LIMIT, segment=2_000)
    assert not spill.waiting
    spill.append([chunk(1), chunk(2)])
    spill.append([chunk(3)])
    assert spill.waiting
    first = spill.peek()
    assert first is not None
    assert [name for name, _ in first.chunks] == ["trades"]
    spill.append([chunk(4)])  # while it is being read
    assert drain(spill) == firsts(1, 2, 3, 4)
    assert not spill.waiting
    assert spill.bytes == 0
    spill.append([chunk(5)])
    assert drain(spill) == firsts(5)
    spill.close()
    assert files(tmp_path) == []


def test_small_chunks_leave_together_but_not_too_many(tmp_path: Path) -> None:
    spill = Spill(str(tmp_path), LIMIT)
    for i in range(1, 8):
        spill.append([chunk(i)])
    group = spill.peek(7)
    assert group is not None
    assert len(group.chunks) == 3
    assert spill.peek(7) is not group  # not sent: the same once more
    spill.sent(group.token)
    assert drain(spill, 7) == firsts(4, 5, 6, 7)
    spill.close()


def test_what_a_dead_writer_left_comes_before_our_own(tmp_path: Path) -> None:
    dead = Spill(str(tmp_path), LIMIT)
    dead.append([chunk(1), chunk(2)])
    first = dead.peek()
    assert first is not None
    dead.sent(first.token)
    dead.close()
    spill = Spill(str(tmp_path), LIMIT)
    assert spill.adopted == 1
    assert spill.bytes > 0
    spill.append([chunk(3)])
    assert drain(spill) == firsts(2, 3)
    spill.close()
    assert files(tmp_path) == []


def test_the_rows_of_a_living_writer_are_left_alone(tmp_path: Path) -> None:
    living = Spill(str(tmp_path), LIMIT)
    living.append([chunk(1)])
    other = Spill(str(tmp_path), LIMIT)
    assert not other.waiting
    other.close()
    assert drain(living) == firsts(1)
    living.close()


def test_a_kill_at_any_byte_loses_nothing_confirmed(tmp_path: Path) -> None:
    spill = Spill(str(tmp_path / "a"), LIMIT)
    ends = []
    for i in range(1, 5):
        spill.append([chunk(i)])
        (path,) = (tmp_path / "a").rglob("*.spill")
        ends.append(path.stat().st_size)
    spill.close()
    data = path.read_bytes()
    rng = random.Random(1)
    cuts = {0, 3, 5, 6, *ends, *(e - 1 for e in ends), *(rng.randrange(len(data)) for _ in range(60))}
    for number, size in enumerate(sorted(cuts)):
        folder = tmp_path / f"cut{number}"
        (folder / "w-1-dead").mkdir(parents=True)
        (folder / "w-1-dead" / "00000001.spill").write_bytes(data[:size])
        again = Spill(str(folder), LIMIT)
        assert drain(again) == firsts(*range(1, 1 + sum(e <= size for e in ends))), size
        assert again.damaged == 0
        again.close()
        assert files(folder) == []


def test_damage_in_the_middle_costs_that_chunk_is_counted_and_kept(tmp_path: Path) -> None:
    spill = Spill(str(tmp_path), LIMIT)
    spill.append([chunk(1)])
    (path,) = tmp_path.rglob("*.spill")
    middle = path.stat().st_size + 40
    spill.append([chunk(2)])
    spill.append([chunk(3)])
    spill.close()
    data = bytearray(path.read_bytes())
    data[middle] ^= 0xFF
    path.write_bytes(data)
    again = Spill(str(tmp_path), LIMIT)
    assert drain(again, 100) == firsts(1, 3)
    assert again.damaged == 1
    again.close()
    assert [n for n in files(tmp_path) if not n.endswith(".lock")] == ["00000001.spill.damaged"]


def test_another_version_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    spill = Spill(str(tmp_path), LIMIT)
    spill.append([chunk(1)])
    spill.close()
    (path,) = tmp_path.rglob("*.spill")
    data = bytearray(path.read_bytes())
    data[5] = SCHEMA_VERSION + 1
    path.write_bytes(data)
    again = Spill(str(tmp_path), LIMIT)
    with pytest.raises(StoreError, match="another version"):
        again.peek()
    again.close()
    assert path.read_bytes() == data


def test_a_full_spill_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    spill = Spill(str(tmp_path), 6_000)
    kept = 0
    while spill.bytes < 4_000:
        kept += 1
        spill.append([chunk(kept)])
    with pytest.raises(SpillFull, match="takes no more"):
        spill.append([chunk(50, size=200)])
    assert kept > 1
    assert drain(spill) == firsts(*range(1, kept + 1))
    spill.append([chunk(99)])  # there is room again
    assert drain(spill) == firsts(99)
    spill.close()


class FullDisk(OsDisk):
    """A disk that fails at the chosen step, half of the bytes written."""

    def __init__(self) -> None:
        self.fail = ""

    def append(self, path: str, data: bytes) -> None:
        if self.fail == "append":
            super().append(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(path, data)

    def sync(self, path: str) -> None:
        if self.fail == "sync":
            raise OSError(errno.EIO, "Input/output error")
        super().sync(path)


@pytest.mark.parametrize("step", ["append", "sync"])
def test_a_failing_disk_is_reported_and_the_next_append_goes_on(tmp_path: Path, step: str) -> None:
    disk = FullDisk()
    spill = Spill(str(tmp_path), LIMIT, disk=disk)
    spill.append([chunk(1)])
    disk.fail = step
    with pytest.raises(StoreError, match="cannot write to the spill"):
        spill.append([chunk(2)])
    disk.fail = ""
    spill.append([chunk(3)])
    assert drain(spill) == firsts(1, 3)
    spill.close()


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"spill folder .* cannot be used"):
        Spill(str(tmp_path / "file" / "spill"), LIMIT)


def test_random_work_with_kills_keeps_the_order(tmp_path: Path) -> None:
    """Appends, sends and kills at random: every chunk leaves in order, one at most twice in a row after a kill."""
    rng = random.Random(7)
    number = 0
    left: list[str] = []
    for _ in range(30):
        spill = Spill(str(tmp_path), LIMIT, segment=1_500)
        for _ in range(rng.randrange(6)):
            if rng.random() < 0.6:
                number += 1
                spill.append([chunk(number)])
            elif (waiting := spill.peek()) is not None:
                left.append(waiting.chunks[0][1].column("trade_id")[0].as_py())
                if rng.random() < 0.8:
                    spill.sent(waiting.token)
        for path, lock in spill._locks.items():  # what a killed process leaves: its files, and locks that are free
            os.close(lock)
            assert os.path.exists(path + ".lock")
    spill = Spill(str(tmp_path), LIMIT)
    left += drain(spill)
    spill.close()
    once = list(dict.fromkeys(left))
    assert once == firsts(*range(1, number + 1))
    assert left == sorted(left, key=int)
