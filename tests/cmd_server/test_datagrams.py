"""Datagrams arrive lost, doubled and in any order; frames come out in order, once, and every loss is counted."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_server.datagrams import FRAGMENT, HEADER, HEARTBEAT, MAX_DATAGRAM, Packer, PacketOrder, unpack
from cmd_server.errors import FrameError

HUGE = 10**18


def a_frame(number: int, length: int) -> bytes:
    body = struct.pack("<HHHHI", 32, 2, 7100, 1, number)
    length = max(length, 18)
    return struct.pack(">IH", length, 0xEB50) + body + bytes(length - 18)


def batches_of(lengths: list[list[int]]) -> list[list[bytes]]:
    number = 0
    batches = []
    for batch in lengths:
        frames = []
        for length in batch:
            frames.append(a_frame(number, length))
            number += 1
        batches.append(frames)
    return batches


LENGTHS = st.lists(st.lists(st.one_of(st.integers(18, 300), st.integers(1300, 6000)), max_size=12), max_size=12)


@given(LENGTHS, st.integers(0, 1 << 32), st.booleans())
def test_what_is_packed_comes_out_whatever_the_order(lengths: list[list[int]], seed: int, doubled: bool) -> None:
    batches = batches_of(lengths)
    packer = Packer(7)
    datagrams = [packer.heartbeat((), 0)] + [d for b in batches for d in packer.pack(b, 5)]
    assert all(len(d) <= MAX_DATAGRAM for d in datagrams)
    rng = random.Random(seed)
    keyed = sorted(enumerate(datagrams[1:]), key=lambda pair: pair[0] + rng.uniform(0, 6))
    arriving = [datagrams[0]] + [d for _, d in keyed]
    if doubled:
        arriving = [d for d in arriving for _ in range(rng.randint(1, 3))]
    order = PacketOrder(patience=HUGE)
    out: list[bytes] = []
    for datagram in arriving:
        out += order.take(unpack(datagram), 0)
        order.check()
    assert out == [f for b in batches for f in b]
    assert order.lost == 0
    assert order.doubles == len([d for d in arriving if not unpack(d).flags & HEARTBEAT]) - len(datagrams) + 1


@given(LENGTHS, st.lists(st.integers(64, 9000), min_size=1, max_size=4))
def test_packets_are_as_large_as_the_medium_takes_also_where_that_changes(
    lengths: list[list[int]], sizes: list[int]
) -> None:
    batches = batches_of(lengths)
    packer = Packer(7, sizes[0])
    order = PacketOrder()
    out: list[bytes] = []
    for n, batch in enumerate(batches):
        packer.body = body = sizes[n % len(sizes)]
        packets = packer.pack(batch, 5)
        assert all(len(p) <= HEADER + body for p in packets)
        if sum(map(len, batch)) <= body:
            assert len(packets) == min(1, len(batch))
        for packet in packets:
            out += order.take(unpack(packet), 0)
    assert out == [f for b in batches for f in b]
    assert (order.lost, order.doubles) == (0, 0)


@given(LENGTHS, st.integers(0, 1 << 32), st.integers(1, 20))
def test_lost_packets_are_counted_and_nothing_comes_twice_or_out_of_order(
    lengths: list[list[int]], seed: int, window: int
) -> None:
    packer = Packer(7)
    first = packer.heartbeat((), 0)
    datagrams = [d for b in batches_of(lengths) for d in packer.pack(b, 5)]
    rng = random.Random(seed)
    kept = [d for d in datagrams if rng.random() > 0.3]
    arriving = [d for _, d in sorted(enumerate(kept), key=lambda pair: pair[0] + rng.uniform(0, 3))]
    order = PacketOrder(window=window, patience=10)
    now = 0
    out = order.take(unpack(first), now)
    for datagram in arriving:
        now += rng.randint(0, 4)
        out += order.take(unpack(datagram), now)
        order.check()
    out += order.take(unpack(packer.heartbeat((), 0)), now)
    deadline = order.deadline
    while deadline is not None:
        out += order.tick(deadline)
        order.check()
        deadline = order.deadline
    numbers = [struct.unpack_from("<I", f, 14)[0] for f in out]
    assert numbers == sorted(set(numbers))
    whole = {f for b in batches_of(lengths) for f in b}
    assert set(out) <= whole  # no frame is put together from pieces of two
    # Every packet was handed on or is counted: lost before it came, or too late.
    assert order.expected - 1 == len(datagrams)
    assert order.lost >= len(datagrams) - len(kept)
    assert order.lost - (len(datagrams) - len(kept)) <= order.doubles  # what came after it was given up


def test_a_lost_last_packet_is_noticed_by_the_heartbeat() -> None:
    packer = Packer(1)
    order = PacketOrder(patience=10)
    (one,) = packer.pack([a_frame(1, 50)], 0)
    assert len(order.take(unpack(one), 0)) == 1
    packer.pack([a_frame(2, 50)], 0)
    order.take(unpack(packer.heartbeat((), 0)), 100)
    assert (order.lost, order.deadline) == (0, 110)
    order.tick(109)
    assert order.lost == 0
    order.tick(110)
    assert (order.lost, order.deadline) == (1, None)


def test_a_restart_begins_anew_and_late_packets_of_the_old_run_change_nothing() -> None:
    old, new = Packer(1), Packer(2)
    order = PacketOrder(patience=10)
    first, late = old.pack([a_frame(1, 1000), a_frame(2, 1000)], 0)
    order.take(unpack(first), 0)
    (begun,) = new.pack([a_frame(3, 50)], 0)
    assert order.take(unpack(begun), 1) == [a_frame(3, 50)]
    assert order.take(unpack(late), 2) == []
    assert (order.epoch, order.restarts, order.stale, order.lost) == (2, 1, 1, 0)


def test_a_joiner_in_the_middle_of_a_cut_frame_waits_for_the_next_one() -> None:
    packer = Packer(1)
    pieces = packer.pack([a_frame(1, 5000)], 0)
    after = packer.pack([a_frame(2, 60)], 0)
    assert [unpack(p).flags & FRAGMENT for p in pieces] == [FRAGMENT] * 4
    order = PacketOrder()
    out = [f for p in [*pieces[2:], *after] for f in order.take(unpack(p), 0)]
    assert out == [a_frame(2, 60)]


def test_the_end_is_said() -> None:
    packer = Packer(1)
    order = PacketOrder()
    order.take(unpack(packer.heartbeat((), 0)), 0)
    assert not order.ended
    order.take(unpack(packer.heartbeat((), 0, end=True)), 0)
    assert order.ended


@given(st.binary(max_size=200))
def test_foreign_datagrams_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(FrameError) as error:
        unpack(b"x" + data)
    assert "\n" not in str(error.value)


@given(st.binary(max_size=300), st.integers(0, 31), st.integers(0, 5))
def test_bodies_that_are_no_frames_raise_only_frame_errors(body: bytes, flags: int, count: int) -> None:
    order = PacketOrder(limit=1 << 16)
    data = struct.pack("<4sBBHQQq", b"CMDM", 1, flags, count, 1, 1, 0) + body
    try:
        order.take(unpack(data), 0)
    except FrameError:
        pass
    order.check()


def test_memory_is_bounded_whatever_sequences_are_claimed() -> None:
    order = PacketOrder(window=16, patience=HUGE, limit=5000)
    rng = random.Random(5)
    for _ in range(3000):
        flags = rng.choice((0, 0, FRAGMENT, FRAGMENT | 16))
        head = struct.pack("<4sBBHQQq", b"CMDM", 1, flags, 1, 1, rng.randrange(1 << 40), 0)
        try:
            order.take(unpack(head + a_frame(1, 1000)), 0)
        except FrameError:
            pass
        assert order.waiting <= 16
    order.check()
