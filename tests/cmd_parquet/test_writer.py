from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parquet_models import (
    DAY,
    T0,
    VENUE,
    ManualClock,
    candle,
    gap,
    key_of,
    model,
    one_of_each,
    random_records,
    stored,
    to_batches,
    trade,
)

from cmd_common import open_reader, open_writer
from cmd_common.errors import StoreBusyError, StoreError, UnknownNameError
from cmd_common.records import Record, Trade
from cmd_common.seams import OsDisk
from cmd_common.testing.simdisk import SimDisk
from cmd_parquet import ParquetReader, ParquetStore, ParquetWriter, WriterOptions, verify


def rows(location: str) -> dict[tuple[object, ...], Record]:
    with ParquetReader(location) as reader:
        return stored(reader)


def parquet(location: str) -> list[Path]:
    return sorted(Path(location).rglob("*.parquet"))


def test_every_record_type_survives_the_journal_and_the_files(location: str) -> None:
    records = [r for i in range(3) for r in one_of_each(i)]
    with open_writer(f"parquet:{location}") as writer:
        writer.write(records)
        writer.flush()
        assert rows(location) == {key_of(r): r for r in records}
        assert not parquet(location)
    assert rows(location) == {key_of(r): r for r in records}
    assert parquet(location)
    assert verify(location) == []
    assert writer.counters.records == dict.fromkeys(writer.counters.records, 3)


def test_every_record_type_survives_a_batch(location: str) -> None:
    records = [r for i in range(3) for r in one_of_each(i)]
    with open_writer(f"parquet:{location}") as writer:
        for name, data in to_batches(records).items():
            assert writer.write_batch(name, data) == 3
        with ParquetReader(location) as reader:
            assert reader.tables() == []  # nothing is visible before the flush
        writer.flush()
        assert rows(location) == {key_of(r): r for r in records}


@given(seed=st.integers(0, 10**6), data=st.data())
@settings(max_examples=40)
def test_any_order_batching_and_repetition_ends_with_the_same_rows(seed: int, data: st.DataObject) -> None:
    disk = SimDisk()
    rng = random.Random(seed)
    written: list[Record] = []
    options = WriterOptions(buffer_bytes=300, memory_limit=1_000, compact_files=2)
    for _ in range(data.draw(st.integers(1, 3))):
        with ParquetWriter("/store", disk=disk, options=options) as writer:
            for _ in range(data.draw(st.integers(1, 4))):
                records = random_records(rng, data.draw(st.integers(0, 15)))
                if data.draw(st.booleans()):
                    writer.write(records)
                    written += records
                else:
                    for batch in to_batches(records).items():
                        writer.write_batch(*batch)
                    written += [r for name in to_batches(records) for r in records if key_of(r)[0] == name]
                if data.draw(st.booleans()):
                    writer.flush()
                if data.draw(st.booleans()):
                    writer.roll()
    with ParquetReader("/store", disk=disk) as reader:
        assert stored(reader) == model(written)
    # After a clean close the files alone hold every key once.
    files = [path for path in disk._files if path.endswith(".parquet")]
    assert sum(pq.read_metadata(pa.BufferReader(disk.read(p))).num_rows for p in files) == len(model(written))


def test_live_and_archived_rows_of_one_trade_become_the_live_row(location: str) -> None:
    live = [trade(i) for i in range(100)]
    archived = [trade(i, live=False) for i in range(50, 150)]
    expected = {key_of(r): r for r in [*archived, *live]}
    for order in ((live, archived), (archived, live)):
        folder = f"{location}-{order[0] is live}"
        with ParquetWriter(folder) as writer:
            for part in order:
                if part is live:
                    writer.write(part)
                else:
                    writer.write_batch("trades", to_batches(part)["trades"])
                writer.flush()
                writer.roll()
            assert rows(folder) == expected
        assert rows(folder) == expected
        assert len(parquet(folder)) == 1
        # archived again: the same rows
        with ParquetWriter(folder) as writer:
            writer.write_batch("trades", to_batches(archived)["trades"])
        assert rows(folder) == expected


def test_a_repaired_gap_and_a_corrected_candle_win(location: str) -> None:
    with ParquetWriter(location) as writer:
        writer.write([gap(1), gap(2), candle(1, "corrected", close=2.0), candle(1, "provisional", close=3.0)])
        writer.flush()
        writer.write([gap(1, "archive"), candle(1, "final", close=4.0)])
        writer.flush()
        assert rows(location) == model([gap(1, "archive"), gap(2), candle(1, "corrected", close=2.0)])
    assert rows(location) == model([gap(1, "archive"), gap(2), candle(1, "corrected", close=2.0)])


def test_the_row_written_last_stays_whichever_process_rolls_first(location: str) -> None:
    clock = ManualClock()
    recorder = ParquetWriter(location, clock=clock)
    repairer = ParquetWriter(location, clock=clock)
    recorder.write([gap(1), gap(2)])
    recorder.flush()
    repairer.write_batch("gaps", to_batches([gap(1, "repair"), gap(2, "repair")])["gaps"])
    repairer.flush()
    recorder.write([gap(2, "later")])
    recorder.flush()
    expected = model([gap(1, "repair"), gap(2, "later")])
    assert rows(location) == expected
    recorder.roll()
    assert rows(location) == expected
    recorder.close()
    assert rows(location) == expected
    repairer.close()
    with ParquetWriter(location) as writer:
        writer.compact()
    assert rows(location) == expected


def test_rolled_by_time_and_by_size(location: str) -> None:
    clock = ManualClock()
    writer = ParquetWriter(location, clock=clock, options=WriterOptions(roll_interval=10**9, roll_bytes=10_000))
    writer.write([trade(1)])
    writer.flush()
    assert parquet(location) == []
    clock.t += 10**9
    writer.write([trade(2)])
    writer.flush()
    assert len(parquet(location)) == 1
    writer.write([trade(i) for i in range(500)])
    writer.flush()
    assert len(parquet(location)) == 2
    writer.close()
    assert len(parquet(location)) == 1
    assert rows(location) == model([trade(i) for i in range(500)])


def test_a_long_recording_keeps_few_files(location: str) -> None:
    clock = ManualClock()
    writer = ParquetWriter(location, clock=clock, options=WriterOptions(compact_files=4))
    most = 0
    for i in range(40):
        writer.write([trade(i * 10 + k) for k in range(10)])
        writer.roll()
        writer.flush()
        most = max(most, len(parquet(location)))
    assert most <= 12
    assert rows(location) == model([trade(i) for i in range(400)])
    clock.t += 4 * DAY
    writer.write([trade(0)])
    writer.roll()
    writer.flush()
    assert len(parquet(location)) == 1  # a day that is over is one file
    writer.close()


def test_rows_are_partitioned_by_the_utc_day_of_the_tables_time(location: str) -> None:
    edge = T0 + DAY
    records: list[Record] = [trade(1, at=edge - 1), trade(2, at=edge), trade(3, at=0), trade(4, at=-1)]
    with ParquetWriter(location) as writer:
        writer.write(records)
    folders = [p.parent.name for p in parquet(location)]
    assert folders == ["date=1969-12-31", "date=1970-01-01", "date=2024-08-08", "date=2024-08-09"]
    assert rows(location) == {key_of(r): r for r in records}


def test_writing_after_close_and_wrong_input(location: str) -> None:
    writer = ParquetWriter(location)
    with pytest.raises(UnknownNameError, match="unknown table 'trade'; did you mean trades"):
        writer.write_batch("trade", to_batches([trade(1)])["trades"])
    with pytest.raises(StoreError, match="cannot be read"):
        writer.write_batch("trades", object())  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="lacks"):
        writer.write_batch("trades", pa.table({"a": [1]}))
    with pytest.raises(StoreError, match="not a record"):
        writer.write([object()])  # type: ignore[list-item]
    bad = Trade("x", 1, VENUE, "A", "1", 1, 1.0, 1.0, "buy")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="record for table trades does not fit the schema"):
        writer.write([trade(1), bad])
    with pytest.raises(StoreError, match="no column interval"):
        writer.delete("trades", VENUE, "A", 0, 1, interval="1m")
    writer.flush()
    writer.close()
    writer.close()
    assert rows(location) == {}
    with pytest.raises(StoreError, match="is closed"):
        writer.write([trade(1)])
    with pytest.raises(StoreError, match="is closed"):
        writer.flush()


def test_a_stream_that_fails_leaves_nothing_of_its_unit(location: str) -> None:
    good = to_batches([trade(i) for i in range(10)])["trades"]

    def broken() -> object:
        yield good.to_batches()[0]
        raise pa.ArrowInvalid("line 11 is torn")

    with ParquetWriter(location, options=WriterOptions(memory_limit=100)) as writer:
        writer.write([trade(99)])
        writer.write_batch("trades", good)
        stream = pa.RecordBatchReader.from_batches(good.schema, broken())
        with pytest.raises(StoreError, match="line 11 is torn"):
            writer.write_batch("trades", stream)
        writer.flush()
        assert rows(location) == model([trade(99)])
    assert verify(location) == []


def fail_inside(location: str) -> None:
    with ParquetWriter(location) as writer:
        writer.write([trade(1)])
        writer.write_batch("trades", to_batches([trade(2)])["trades"])
        raise RuntimeError("the caller fails")


def test_an_error_in_the_callers_block_drops_batches_and_keeps_live_rows(location: str) -> None:
    with pytest.raises(RuntimeError):
        fail_inside(location)
    assert rows(location) == model([trade(1)])


def test_a_replaced_file_is_archived_again(location: str) -> None:
    with ParquetWriter(location) as writer:
        writer.write([trade(5), trade(500)])
        writer.write_batch("trades", to_batches([trade(i, live=False) for i in range(100)])["trades"])
        writer.write_batch("trades", to_batches([trade(1, live=False, symbol="ETHUSDT")])["trades"])
    with ParquetWriter(location) as writer:
        # the published file now lacks 3 and 5 and has 200
        writer.delete("trades", VENUE, "BTCUSDT", T0, T0 + DAY)
        new = [trade(i, live=False, price=7.0) for i in [*range(100), 200] if i not in (3, 5)]
        writer.write_batch("trades", to_batches(new)["trades"])
        before = rows(location)
        assert len(before) == 102
        writer.flush()
        expected = model([*new, trade(5), trade(500), trade(1, live=False, symbol="ETHUSDT")])
        assert rows(location) == expected
    assert rows(location) == expected
    assert verify(location) == []


def test_deleting_candles_of_one_interval(location: str) -> None:
    with ParquetWriter(location) as writer:
        candles = [candle(i, live=False) for i in range(10)]
        writer.write_batch("candles", to_batches(candles)["candles"])
        writer.flush()
        writer.delete("candles", VENUE, "BTCUSDT", T0, T0 + DAY, interval="5m", source="exchange")
        writer.flush()
        assert len(rows(location)) == 10
        writer.delete("candles", VENUE, "BTCUSDT", T0, T0 + 120_000_000_000, interval="1m", source="exchange")
        writer.flush()
        assert len(rows(location)) == 8
        writer.delete("candles", VENUE, "BTCUSDT", T0, T0 + DAY)
        writer.discard()
        writer.flush()
        assert len(rows(location)) == 8
        writer.delete("candles", VENUE, "BTCUSDT", T0, T0 + DAY)
    assert rows(location) == {}
    assert parquet(location) == []


def test_locks(location: str) -> None:
    name = "binance-spot/trades/BTC USDT/2024-08-08"
    with ParquetWriter(location) as one, ParquetWriter(location) as two:
        with one.lock(name):
            with pytest.raises(StoreBusyError, match=f"is held by process {os.getpid()}; wait"), two.lock(name):
                pass
            with two.lock(name + "x"):
                pass
        with two.lock(name):
            pass
    assert list(Path(location, "_store/locks").iterdir()) == []


def test_a_lock_dies_with_its_process(location: str) -> None:
    code = f"""
        from cmd_parquet import ParquetWriter
        w = ParquetWriter({location!r})
        with w.lock("day"):
            print("locked", flush=True)
            input()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "locked\n"
    with ParquetWriter(location) as writer:
        with pytest.raises(StoreBusyError, match=f"process {child.pid}"), writer.lock("day"):
            pass
        child.kill()
        child.communicate()
        with writer.lock("day"):
            pass


def test_a_path_that_cannot_be_a_store(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for path in (str(file), str(file / "below")):
        with pytest.raises(StoreError, match=r"cannot open the store at .*file.*choose another place"):
            ParquetStore().writer(path)
        with pytest.raises(StoreError, match=r"there is no store|a part of the path is a file"):
            ParquetStore().reader(path)
    if Path("/proc/self").exists():
        with pytest.raises(StoreError, match="cannot open the store at /proc/self/store"):
            ParquetStore().writer("/proc/self/store")


class FullDisk(OsDisk):
    """A real disk on which every file may grow to ``limit`` bytes."""

    limit = 1 << 40

    def append(self, path: str, data: bytes) -> None:
        room = self.limit - (os.path.getsize(path) if os.path.exists(path) else 0)
        super().append(path, data[: max(room, 0)])
        if len(data) > room:
            raise OSError(28, "No space left on device", path)

    def write(self, path: str, data: bytes) -> None:
        super().write(path, b"")
        self.append(path, data)


def test_a_full_disk_is_one_clear_line_and_loses_nothing(location: str) -> None:
    disk = FullDisk()
    writer = ParquetWriter(location, disk=disk)
    writer.write([trade(1)])
    writer.flush()
    disk.limit = 100
    writer.write([trade(2)])
    with pytest.raises(StoreError, match=r"cannot write the journal .*No space left on device.*free some space"):
        writer.flush()
    assert rows(location) == model([trade(1)])
    writer.write_batch("trades", to_batches([trade(7)])["trades"])
    with pytest.raises(StoreError, match="No space left on device"):
        writer.flush()
    disk.limit = 1 << 40
    writer.flush()
    assert rows(location) == model([trade(1), trade(2), trade(7)])
    disk.limit = 100
    with pytest.raises(StoreError, match="No space left on device"):
        writer.close()
    assert rows(location) == model([trade(1), trade(2), trade(7)])
    with ParquetWriter(location):
        pass
    assert rows(location) == model([trade(1), trade(2), trade(7)])
    assert verify(location) == []


def test_a_damaged_journal_is_named_and_the_rest_is_kept(location: str, tmp_path: Path) -> None:
    writer = ParquetWriter(location)
    for i in range(10):
        writer.write([trade(i)])
        writer.flush()
    writer._lock.release()  # type: ignore[union-attr]  # as if killed
    (journal,) = Path(location, "_store/journal").glob("*.journal")
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 4
    journal.write_bytes(data + b"torn")
    (problem,) = [p for p in verify(location) if "fail their check" in p.what]
    assert problem.kind == "journal"
    assert problem.path == str(journal)
    with ParquetWriter(location) as next_writer:
        (notice,) = next_writer.notices
        assert "is damaged" in notice
        assert str(journal) in notice
    assert len(rows(location)) == 9
    assert [p.name for p in Path(location, "_store/damaged").iterdir()] == [journal.name]


def test_a_torn_tail_is_cut_quietly(location: str) -> None:
    writer = ParquetWriter(location)
    writer.write([trade(1)])
    writer.flush()
    writer._lock.release()  # type: ignore[union-attr]  # as if killed
    (journal,) = Path(location, "_store/journal").glob("*.journal")
    journal.write_bytes(journal.read_bytes() + b"\xc5MDJ torn frame")
    assert rows(location) == model([trade(1)])
    with ParquetWriter(location) as next_writer:
        assert "never confirmed" in next_writer.notices[0]
    assert rows(location) == model([trade(1)])


MILLION = 1_000_000


def test_a_million_rows_in_bounded_memory(location: str) -> None:
    """A published day arrives as a stream: the memory of Arrow stays far below the day's size."""
    schema = to_batches([trade(1)])["trades"].schema
    step = 50_000

    def day() -> object:
        for start in range(0, MILLION, step):
            ids = range(start, start + step)
            yield pa.record_batch(
                [
                    pa.array(range(T0 + start * 80_000, T0 + (start + step) * 80_000, 80_000)),
                    pa.nulls(step, pa.int64()),
                    pa.repeat(VENUE, step),
                    pa.repeat("BTCUSDT", step),
                    pa.array(map(str, ids)),
                    pa.array(ids),
                    pa.repeat(60_000.5, step),
                    pa.repeat(0.25, step),
                    pa.repeat("sell", step),
                    pa.repeat(pa.scalar(0, pa.int32()), step),
                ],
                schema=schema,
            )

    pool = pa.default_memory_pool()
    base = pool.bytes_allocated()
    peak = 0

    def watched() -> object:
        nonlocal peak
        for batch in day():
            yield batch
            peak = max(peak, pool.bytes_allocated() - base)

    with ParquetWriter(location, options=WriterOptions(memory_limit=16 << 20)) as writer:
        assert writer.write_batch("trades", pa.RecordBatchReader.from_batches(schema, watched())) == MILLION
        writer.flush()
        (file,) = parquet(location)
        assert peak < 64 << 20
        # once more, and compacted: the same million
        writer.write_batch("trades", pa.RecordBatchReader.from_batches(schema, day()))
    assert len(parquet(location)) == 1
    del file
    peak = 0
    with open_reader(f"parquet:{location}") as reader:
        total = 0
        for batch in reader.batches("trades"):
            total += batch.num_rows
            peak = max(peak, pool.bytes_allocated() - base)
        assert total == MILLION
        assert peak < 64 << 20
        ((count, ids, last),) = reader.sql(
            "SELECT count(*), count(DISTINCT trade_id), max(trade_seq) FROM trades"
        ).rows()
    assert (count, ids, last) == (MILLION, MILLION, MILLION - 1)
