from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parquet_models import one_of_each, trade

from cmd_common.errors import StoreError
from cmd_common.testing.simdisk import SimDisk
from cmd_parquet.journal import CONFIRMED, Journal, confirmed_length, encode_rows, frame, frames, rows_in, scan


def framed(payloads: list[bytes]) -> bytes:
    data = b""
    for payload in payloads:
        data += frame(len(data), payload)
    return data


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_frames_come_back(payloads: list[bytes]) -> None:
    data = framed(payloads)
    assert [p for _, p in frames(data)] == payloads
    assert scan(data) == (len(payloads), len(data), [])


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8), st.data())
def test_a_torn_tail_costs_only_the_last_frames(payloads: list[bytes], data: st.DataObject) -> None:
    whole = framed(payloads)
    cut = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.binary(max_size=20))
    found = [p for _, p in frames(whole[:cut] + junk)]
    ends = [len(framed(payloads[: i + 1])) for i in range(len(payloads))]
    kept = sum(e <= cut for e in ends)
    assert found[:kept] == payloads[:kept]
    assert len(found) <= kept + (junk[:1] != b"")


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=2, max_size=6), st.data())
def test_a_flipped_bit_costs_one_frame_and_is_seen(payloads: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(framed(payloads))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    found = [p for _, p in frames(bytes(whole))]
    assert len(found) == len(payloads) - 1
    assert all(p in payloads for p in found)
    seen = scan(bytes(whole))
    assert seen.holes or seen.end < len(whole)


def test_frames_are_bound_to_their_place() -> None:
    data = framed([b"one", b"two"])
    assert [p for _, p in frames(data, base=100)] == []


def test_rows_come_back_with_their_order() -> None:
    disk = SimDisk()
    disk.makedirs("/j")
    journal = Journal(disk, "/j/a.journal", "w1")
    records = [trade(1), trade(2)]
    import msgspec

    rows = [msgspec.structs.astuple(r) for r in records]
    journal.commit([encode_rows(5, "trades", rows)])
    journal.commit([encode_rows(9, "trades", rows[:1])])
    assert list(rows_in(disk.read("/j/a.journal"), "a")) == [(5, "trades", rows), (9, "trades", rows[:1])]
    assert confirmed_length(disk.read("/j/a.journal" + CONFIRMED)) == (journal.size, True)


def test_a_row_that_does_not_fit_is_refused_before_it_is_written() -> None:
    for row in ((1, 2), ("x",) * 10, (1, 1, "v", "s", "1", 2**63, 1.0, 1.0, "buy", 0)):
        with pytest.raises(StoreError, match="record for table trades does not fit"):
            encode_rows(1, "trades", [row])
    bad = (1, 1, "v", "\ud800", "1", 1, 1.0, 1.0, "buy", 0)
    with pytest.raises(StoreError, match="does not fit"):
        encode_rows(1, "trades", [bad])


def test_every_record_type_is_encoded() -> None:
    from cmd_common.records import TABLE_OF
    from cmd_parquet.columns import row_getter
    from cmd_parquet.journal import rows_of

    for record in one_of_each():
        name = TABLE_OF[type(record)]
        row = row_getter(name)(record)
        assert rows_of(encode_rows(3, name, [row]), "x") == (3, name, [row])


@pytest.mark.parametrize("kind", ["eio", "enospc", "torn"])
@pytest.mark.parametrize("n", range(1, 8))
def test_a_failed_commit_can_be_tried_again(kind: str, n: int) -> None:
    disk = SimDisk(n)
    disk.makedirs("/j")
    disk.sync_dir("/")
    base = disk.ops
    disk.faults[base + n] = kind  # type: ignore[assignment]
    journals = [Journal(disk, "/j/0", "w")]
    confirmed = []
    for i in range(3):
        payload = encode_rows(i, "gaps", [])
        for _ in range(3):
            if journals[-1].broken:
                journals.append(Journal(disk, f"/j/{len(journals)}", "w"))
            try:
                journals[-1].commit([payload])
            except OSError:
                continue
            confirmed.append(i)
            break
    assert confirmed == [0, 1, 2]
    disk.crash()
    found = [o for j in journals if disk.exists(j.path) for o, _, _ in rows_in(disk.read(j.path)[: j.size], "x")]
    assert found == [0, 1, 2]


def test_scan_of_random_bytes_finds_nothing() -> None:
    rng = random.Random(1)
    for _ in range(50):
        assert scan(rng.randbytes(500)).frames == 0
