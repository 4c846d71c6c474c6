"""The store under kills, power losses and disk faults between any two operations, on the simulated disk."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from parquet_models import ManualClock, gap, key_of, model, random_records, stored, to_batches, trade

from cmd_common.errors import StoreError
from cmd_common.records import Record
from cmd_common.testing.simdisk import FAULT_KINDS, FaultKind, SimDisk, SimulatedCrash
from cmd_parquet import ParquetReader, ParquetWriter, WriterOptions, verify

SMALL = WriterOptions(
    roll_interval=2_000_000, roll_bytes=1 << 40, buffer_bytes=400, memory_limit=2_000, compact_files=2
)
LOCATION = "/data/store"
Step = tuple[str, list[Record]]


def plan(seed: int, steps: int = 12) -> list[Step]:
    rng = random.Random(seed)
    kinds = ["write"] * 5 + ["batch"] * 3 + ["flush"] * 4 + ["roll", "compact", "reopen"]
    return [(rng.choice(kinds), random_records(rng, rng.randrange(1, 12))) for _ in range(steps)]


class Machine:
    """A process that carries out a plan, dies, comes back and repeats what was not confirmed."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self.clock = ManualClock()
        self.writer: ParquetWriter | None = None
        self.confirmed: list[Record] = []  # in order of writing
        self.open: list[Record] = []  # accepted or attempted since then
        self.unsettled: list[Record] = []  # every attempt that may have reached the disk unconfirmed
        self.deaths = 0

    def opened(self) -> ParquetWriter:
        if self.writer is None:
            self.writer = ParquetWriter(LOCATION, disk=self.disk, clock=self.clock, options=SMALL)
        return self.writer

    def flush(self) -> None:
        self.opened().flush()
        self.confirmed += self.open
        self.open = []

    def step(self, kind: str, records: list[Record]) -> None:
        """Do one step until it succeeded; nothing of it is repeated once it is confirmed."""
        if kind in ("write", "batch"):
            self._until_done(lambda: self._accept(kind, records))
        elif kind == "flush":
            self._until_done(self.flush)
        elif kind == "roll":
            self._until_done(lambda: self.opened().roll())
        elif kind == "compact":
            self._until_done(lambda: self.opened().compact())
        else:
            self._until_done(self.close)

    def close(self) -> None:
        writer = self.opened()
        self.flush()
        self.writer = None
        writer.close()

    def _accept(self, kind: str, records: list[Record]) -> None:
        """Write records and confirm them at once where the step is a batch, so that a repeat is whole."""
        writer = self.opened()
        self.unsettled += records
        if kind == "write":
            writer.write(records)
            self.open += records
        else:
            self.flush()
            for name, data in to_batches(records).items():
                writer.write_batch(name, data)
            writer.flush()
            self.confirmed += [r for name in to_batches(records) for r in records if key_of(r)[0] == name]

    def _until_done(self, action: Callable[[], None]) -> None:
        rates = self.disk.rates
        for attempt in range(20):
            if attempt == 8:  # a step of a hundred operations would never end
                self.disk.rates = {}
            try:
                action()
                self.disk.rates = rates
                return
            except StoreError:
                if self.writer is not None and self.writer._closed:
                    self.writer = None
                    self._again()
            except SimulatedCrash:
                self.deaths += 1
                self.writer = None
                self.disk.restart()
                self.check()
                self._again()
        raise AssertionError("the step never succeeds")

    def _again(self) -> None:
        """What was not confirmed is written again first, as a rerun does."""
        repeat, self.open = self.open, []
        if repeat:
            self._until_done(lambda: self._repeat(repeat))

    def _repeat(self, records: list[Record]) -> None:
        self.opened().write(records)
        self.open = list(records)
        self.flush()

    def check(self) -> None:
        """After a death, before any writer: every confirmed key is there once, with a value that was written."""
        faults, rates = self.disk.faults, self.disk.rates
        self.disk.faults, self.disk.rates = {}, {}
        try:
            if not self.confirmed and not self.disk.exists(f"{LOCATION}/_store/manifest.sqlite"):
                return
            with ParquetReader(LOCATION, disk=self.disk) as reader:
                found = stored(reader)
            wanted = model(self.confirmed)
            tried = [*self.open, *self.unsettled]
            for key, row in wanted.items():
                assert key in found, f"confirmed row is lost: {row}"
                if found[key] != row:
                    assert found[key] in tried, f"{found[key]} instead of {row}"
            for key, row in found.items():
                assert key in wanted or row in tried
        finally:
            self.disk.faults, self.disk.rates = faults, rates

    def finish(self, *, sql: bool = False) -> None:
        self.disk.rates.clear()
        self._until_done(self.close)
        with ParquetReader(LOCATION, disk=self.disk) as reader:
            found = stored(reader)
            for table in reader.tables() if sql else ():
                ((count,),) = reader.sql(f"SELECT count(*) FROM {table}").rows()
                assert count == sum(key[0] == table for key in found)
        assert found == model(self.confirmed)
        self._until_done(self.close)  # a fresh writer finishes what an earlier one could not clean up
        with ParquetReader(LOCATION, disk=self.disk) as reader:
            assert stored(reader) == found
        assert verify(LOCATION, disk=self.disk) == []
        for folder in ("journal", "tmp", "locks"):
            left = self.disk.listdir(f"{LOCATION}/_store/{folder}")
            assert left == [], left


def run(disk: SimDisk, steps: Sequence[Step], *, sql: bool = False) -> Machine:
    machine = Machine(disk)
    for kind, records in steps:
        machine.step(kind, records)
    machine.finish(sql=sql)
    return machine


FIXED: list[Step] = [
    ("write", [trade(1), trade(2), gap(1)]),
    ("flush", []),
    ("batch", [trade(2, live=False), trade(3, live=False), gap(1, "repair")]),
    ("write", [trade(i, price=7.0) for i in range(2, 6)]),
    ("roll", []),
    ("compact", []),
]


def operations() -> int:
    disk = SimDisk(0)
    run(disk, FIXED)
    return disk.ops


OPERATIONS = operations()


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_a_fault_at_any_operation_loses_and_doubles_nothing(kind: FaultKind) -> None:
    assert OPERATIONS > 100
    deaths = kind in ("kill", "crash")
    # Every operation for deaths; every third for errors, which the random plans below repeat at random places.
    for n in range(1 + FAULT_KINDS.index(kind) % 3, OPERATIONS + 1, 1 if deaths else 3):
        disk = SimDisk(n, faults={n: kind})
        try:
            machine = run(disk, FIXED)
        except AssertionError as error:
            raise AssertionError(f"operation {n}, {disk.injected}: {error}") from error
        assert machine.deaths == deaths


@pytest.mark.parametrize("seed", range(40))
def test_random_plans_under_random_faults(seed: int) -> None:
    rng = random.Random(seed)
    rates: dict[FaultKind, float] = {kind: rng.choice((0, 0.001, 0.008)) for kind in FAULT_KINDS}
    run(SimDisk(seed, rates=rates), plan(seed), sql=seed % 5 == 0)


@pytest.mark.parametrize("kind", ["crash", "kill"])
def test_rows_behind_a_hole_never_outlive_the_gap_that_tells_of_it(kind: FaultKind) -> None:
    """A power loss leaves some first bytes of what was being written; the recorder's next start sees only new rows."""
    alone = 0
    for seed in range(60):
        disk = SimDisk(seed)
        writer = ParquetWriter(LOCATION, disk=disk, clock=ManualClock())
        writer.write([trade(1)])
        writer.flush()
        disk.faults[disk.ops + 2] = kind  # the sync of what is appended
        writer.write([trade(2), gap(1), trade(9)])
        with pytest.raises(SimulatedCrash):
            writer.flush()
        disk.restart()
        with ParquetReader(LOCATION, disk=disk) as reader:
            tables = [key[0] for key in stored(reader)]
        assert "gaps" in tables or tables.count("trades") == 1, seed
        alone += tables.count("trades") == 1
    assert alone < 60  # some deaths leave all of it


def test_the_same_seed_gives_the_same_bytes() -> None:
    def image(seed: int) -> Any:
        disk = SimDisk(seed, rates={"crash": 0.01, "eio": 0.01})
        run(disk, plan(seed))
        return disk.injected, {path: bytes(inode.data) for path, inode in disk._files.items()}

    for seed in range(5):
        assert image(seed) == image(seed)


def test_a_full_disk_keeps_what_was_flushed_and_goes_on_when_there_is_space() -> None:
    disk = SimDisk(1, capacity=200_000)
    clock = ManualClock()
    writer = ParquetWriter(LOCATION, disk=disk, clock=clock)
    records = random_records(random.Random(5), 300)
    done: list[Record] = []

    def fill() -> None:
        for _ in range(100):
            writer.write(records)
            writer.flush()
            done.extend(records)

    with pytest.raises(StoreError, match=r"No space left on device.*free some space"):
        fill()
    with ParquetReader(LOCATION, disk=disk) as reader:
        assert stored(reader) == model(done)
    disk.capacity = None
    writer.flush()
    writer.close()
    with ParquetReader(LOCATION, disk=disk) as reader:
        assert stored(reader) == model([*done, *records])
