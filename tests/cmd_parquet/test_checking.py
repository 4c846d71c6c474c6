from __future__ import annotations

import random
from pathlib import Path

import pytest
from parquet_models import key_of, model, one_of_each, random_records, stored, to_batches, trade
from tests.tally import amount, note

from cmd_common.errors import StoreBusyError, StoreError
from cmd_common.testing.simdisk import SimDisk
from cmd_parquet import ParquetReader, ParquetWriter, rebuild, verify

LOCATION = "/store"


def images() -> tuple[SimDisk, dict[str, bytes]]:
    """A small store with files, a manifest with its sum, and a journal whose writer was killed."""
    disk = SimDisk()
    with ParquetWriter(LOCATION, disk=disk) as writer:
        writer.write(one_of_each())
        writer.write([trade(i) for i in range(50)])
    keep = ParquetWriter(LOCATION, disk=disk)
    for i in range(5):
        keep.write([trade(100 + i)])
        keep.flush()
    keep._manifest.write_sum()
    disk.kill()
    assert verify(LOCATION, disk=disk) == []
    names = [p for p in disk._files if "/table=" in p or "/journal/" in p or "/manifest" in p]
    return disk, {p: disk.read(p) for p in names}


def test_a_thousand_flips_and_cuts_are_all_detected() -> None:
    disk, files = images()
    kinds = {
        "parquet": [p for p in files if p.endswith(".parquet")][:2],
        "journal": [p for p in files if p.endswith(".journal")],
        "confirmed": [p for p in files if p.endswith(".confirmed")],
        "manifest": [p for p in files if p.endswith(".sqlite")],
        "sum": [p for p in files if p.endswith(".sum")],
    }
    assert all(kinds.values())
    rng = random.Random(1)
    count = amount(1_000, 1_000)
    for i in range(count):
        path = rng.choice(kinds[rng.choice(list(kinds))])
        data = bytearray(files[path])
        if i % 4 == 0:
            cut = rng.randrange(len(data))
            # Fewer whole notes are what a kill between sync and note leaves: no row is lost, nothing is wrong.
            del data[cut + (path.endswith(".confirmed") and cut % 12 == 0) :]
        else:
            bit = rng.randrange(len(data) * 8)
            data[bit // 8] ^= 1 << bit % 8
        disk.write(path, bytes(data))
        problems = verify(LOCATION, disk=disk)
        assert problems, f"damage {i} of {path} is not seen"
        assert any(p.path in (path, path.removesuffix(".sum") + ".sqlite") for p in problems), (path, problems)
        disk.write(path, files[path])
    assert verify(LOCATION, disk=disk) == []
    note("damages", count, "parquet")


def test_damage_on_a_real_disk_is_named(location: str) -> None:
    with ParquetWriter(location) as writer:
        writer.write(one_of_each())
    assert verify(location) == []
    rng = random.Random(2)
    for path in [p for p in Path(location).rglob("*") if p.is_file()]:
        whole = path.read_bytes()
        for _ in range(15):
            data = bytearray(whole)
            if rng.random() < 0.3:
                del data[rng.randrange(len(data)) :]
            else:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            assert verify(location), f"damage of {path} is not seen"
        path.write_bytes(whole)
    assert verify(location) == []


def test_missing_and_unlisted_files(location: str) -> None:
    with ParquetWriter(location) as writer:
        writer.write([trade(1), trade(1, symbol="ETHUSDT")])
    one, two = sorted(Path(location).rglob("*.parquet"))
    two.rename(two.with_name("other.parquet"))
    missing, leftover = verify(location)
    assert (missing.kind, missing.path, missing.what) == ("file", str(two), "it is missing")
    assert (leftover.kind, leftover.path) == ("leftover", str(two.with_name("other.parquet")))
    assert str(leftover).endswith("other.parquet: the manifest does not list it")
    assert one.exists()


def test_a_damaged_manifest_stops_readers_and_writers_with_its_name(location: str) -> None:
    with ParquetWriter(location) as writer:
        writer.write([trade(1)])
    path = Path(location, "_store/manifest.sqlite")
    whole = path.read_bytes()
    path.write_bytes(b"not a database at all, but long enough to be one" * 100)
    for opener in (ParquetReader, ParquetWriter):
        with pytest.raises(StoreError, match=r"manifest .*manifest.sqlite is damaged: .*rebuild"):
            opener(location)
    # a row that was altered behind SQLite's back
    data = whole.replace(b"BTCUSDT", b"BTCUSDC", 1)
    assert data != whole
    path.write_bytes(data)
    assert verify(location)


def test_rebuild_from_the_files(location: str) -> None:
    records = random_records(random.Random(4), 100)
    with ParquetWriter(location) as writer:
        writer.write(records)
        writer.roll()
        writer.write_batch("trades", to_batches([trade(i, live=False) for i in range(30)])["trades"])
        writer.flush()
        writer.write([trade(77)])
        writer.flush()
        with pytest.raises(StoreBusyError):
            rebuild(location)
        writer._lock.release()  # type: ignore[union-attr]  # as if killed
        expected = model([*records, *(trade(i, live=False) for i in range(30)), trade(77)])
        for name in ("manifest.sqlite", "manifest.sum"):
            Path(location, "_store", name).unlink(missing_ok=True)
        with pytest.raises(StoreError, match="its manifest is missing; rebuild it"):
            ParquetReader(location)
        assert rebuild(location) > 3
        with ParquetReader(location) as reader:
            assert stored(reader) == expected
        writer._closed = True
        writer._manifest.close()
    with ParquetWriter(location) as again:
        assert again.writer_id != writer.writer_id
        again.write([trade(78)])
    with ParquetReader(location) as reader:
        assert stored(reader) == {**expected, key_of(trade(78)): trade(78)}
    assert verify(location) == []


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        verify(str(tmp_path))
    with pytest.raises(StoreError, match="there is no store"):
        rebuild(str(tmp_path / "none"))
