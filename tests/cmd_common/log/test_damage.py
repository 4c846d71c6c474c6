"""Damaged logs: nothing crashes or hangs, nothing wrong is read, and what is lost is said."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import require

from cmd_common import _native
from cmd_common.errors import UsageError
from cmd_common.log import Logger, Reader
from cmd_common.log.decode import FrameSplitter
from cmd_common.log.layout import HEADER, PAGE, check, frame_of

Files = dict[str, bytes]


def written(folder: Path) -> Files:
    """A log of three files and a ring that holds more, as a killed process leaves them."""
    logger = Logger()
    one = logger.event("one", "{n:i8} {twice:i8} {symbol:sym}")
    note = logger.event("note", "{n:i8} {text:s100}")
    symbol = logger.intern("BTCUSDT")
    logger.open(folder / "a.log", thread=False, rotate_bytes=4000, keep=0, slots=64, large_slots=16)
    for n in range(200):
        note(n, f"number {n} of many") if n % 7 == 0 else one(n, 2 * n, symbol)
        if n % 20 == 0 and n < 180:
            logger.flush()
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    logger.close()
    return {k: v for k, v in files.items() if not k.endswith(".lock")}


@pytest.fixture(params=["pure", "native"], scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Files]:
    patch = pytest.MonkeyPatch()
    if request.param == "pure":
        patch.setattr(_native, "module", None)
        patch.setattr(_native, "native", False)
    else:
        require("native", find_spec("cmd_native") is not None, "install cmd-native")
        import cmd_native

        patch.setattr(_native, "module", cmd_native)
        patch.setattr(_native, "native", True)
    try:
        return request.param, written(tmp_path_factory.mktemp("whole"))
    finally:
        patch.undo()


def put(files: Files, folder: Path) -> Path:
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder / "a.log"


def read(path: Path) -> tuple[list[int], Reader]:
    """Numbers of the records that a checksum vouches for, after a look at all their values."""
    reader = Reader(path)
    found = []
    for record in reader.records():
        if not record.checked:
            continue
        n = int(record.values[0])
        if n % 7 == 0:
            assert record.values == (n, f"number {n} of many")
        else:
            assert record.values in ((n, 2 * n, "BTCUSDT"), (n, 2 * n, "#1"))  # a name may be lost
        found.append(n)
    return found, reader


def test_undamaged(whole: tuple[str, Files], tmp_path: Path) -> None:
    kind, files = whole
    path = put(files, tmp_path)
    records = list(Reader(path).records())
    assert [r.values[0] for r in records] == list(range(200))
    assert {r.checked for r in records} == ({True} if kind == "native" else {True, False})
    assert Reader(path).lost == []


DAMAGE = st.lists(
    st.tuples(
        st.integers(0, 9), st.floats(0, 1, exclude_max=True), st.sampled_from(["flip", "zero", "noise", "cut", "insert", "remove"]),
        st.binary(min_size=1, max_size=80),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def damaged(files: Files, damage: list[tuple[int, float, str, bytes]]) -> Files:
    out = {name: bytearray(data) for name, data in files.items()}
    names = sorted(out)
    for which, where, how, noise in damage:
        data = out[names[which % len(names)]]
        at = int(where * len(data))
        if how == "flip" and data:
            data[at] ^= 1 << (noise[0] % 8)
        elif how == "zero":
            data[at : at + len(noise)] = bytes(len(data[at : at + len(noise)]))
        elif how == "noise":
            data[at : at + len(noise)] = noise[: len(data[at : at + len(noise)])]
        elif how == "cut":
            del data[at:]
        elif how == "insert":
            data[at:at] = noise
        else:
            del data[at : at + len(noise)]
    return {name: bytes(data) for name, data in out.items()}


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(damage=DAMAGE)
def test_no_damage_yields_a_wrong_record(
    whole: tuple[str, Files], tmp_path: Path, damage: list[tuple[int, float, str, bytes]]
) -> None:
    kind, files = whole
    try:
        found, reader = read(put(damaged(files, damage), tmp_path))
    except UsageError:  # a file became something that is no binary log
        return
    assert len(set(found)) == len(found)
    assert set(found) <= set(range(200))
    if kind == "native" and len(found) < 200:
        assert reader.lost or reader.open_ends


@settings(max_examples=100)
@given(data=st.binary(max_size=400), sizes=st.lists(st.integers(1, 50), min_size=1))
def test_noise_holds_no_frame(data: bytes, sizes: list[int]) -> None:
    splitter = FrameSplitter("x")
    frames = []
    at = 0
    while at < len(data):
        step = sizes[at % len(sizes)]
        frames += list(splitter.feed(data[at : at + step]))
        at += step
    frames += list(splitter.end())
    assert frames == []
    assert sum(one.bytes for one in splitter.lost) + (splitter.torn.bytes if splitter.torn else 0) == len(data)


@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=20))
def test_frames_do_not_depend_on_how_they_arrive(whole: tuple[str, Files], sizes: list[int]) -> None:
    data = whole[1]["a.log"]
    splitter = FrameSplitter("x")
    frames = []
    at = n = 0
    while at < len(data):
        step = sizes[n % len(sizes)]
        frames += list(splitter.feed(data[at : at + step]))
        at, n = at + step, n + 1
    whole_at_once = FrameSplitter("x")
    assert frames == list(whole_at_once.feed(data))
    assert splitter.lost == []


def test_a_damaged_frame_costs_its_own_records_only(whole: tuple[str, Files], tmp_path: Path) -> None:
    files = dict(whole[1])
    name = min(n for n in files if n.startswith("a.log.0"))
    data = bytearray(files[name])
    starts = [at for at in range(len(data)) if frame_of(data, at)[0] is not None]
    records = [at for at in starts if data[at + 4] == 4]
    frame, size = frame_of(data, records[1])
    assert frame is not None
    data[records[1] + HEADER.size + 9] ^= 1
    files[name] = bytes(data)
    everything = [r.values[0] for r in Reader(put(files, tmp_path)).records()]
    reader = Reader(tmp_path / "a.log")
    assert [r.values[0] for r in reader.records()] == everything
    missing = len(frame.payload) // frame.slot
    assert len(everything) == 200 - missing
    assert [(one.what, one.records, one.bytes) for one in reader.lost] == [
        ("missing", missing, 0),
        ("damaged or cut", 0, size),
    ]


def test_every_bit_of_a_native_record_in_the_ring_counts(whole: tuple[str, Files], tmp_path: Path) -> None:
    kind, files = whole
    if kind == "pure":
        return  # it writes no checksum into a slot
    whole_ring = files["a.log.ring"]
    slots = [at for at in range(PAGE, PAGE + 64 * 64, 64) if any(whole_ring[at + 60 : at + 64])]
    assert len(slots) > 10
    at = slots[3]
    for bit in range(64 * 8 - 32):  # without the number, whose loss is a record that was not complete
        data = bytearray(whole_ring)
        data[at + bit // 8] ^= 1 << bit % 8
        found, reader = read(put({**files, "a.log.ring": bytes(data)}, tmp_path))
        if 448 <= bit < 480 and not any(data[at + 56 : at + 60]):
            continue  # its checksum became the one of a record without
        assert len(found) == 199
        assert [(one.what, one.records) for one in reader.lost] == [("wrong checksum", 1)]


@given(data=st.binary(min_size=64, max_size=64), at=st.integers(0, 55), bit=st.integers(0, 7))
def test_the_checksum_sees_every_changed_bit(data: bytes, at: int, bit: int) -> None:
    other = bytearray(data)
    other[at] ^= 1 << bit
    assert check(data) != check(bytes(other))
    assert check(data) > 0
