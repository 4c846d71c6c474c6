"""Messages with two times: each reader of a file sees all of them once, in the order of its own time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.errors import DataError
from cmd_parquet import event_order
from cmd_parquet.event_order import AT_EXCHANGE, AT_LOCAL, EventOrder

Emitted = list[tuple[int, int, int, bytes]]


def ordered(messages: list[tuple[int, int]]) -> tuple[Emitted, EventOrder]:
    out: Emitted = []
    order = EventOrder(lambda *row: out.append(row))
    for n, (exch, local) in enumerate(messages):
        order.add(exch, local, str(n).encode())
    order.close()
    return out, order


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(-5, 60)), max_size=60), st.integers(1, 8))
def test_both_readers_see_every_message_once_and_in_order(steps: list[tuple[int, int]], look: int) -> None:
    at = 0
    messages = []
    for step, latency in steps:
        at += step
        messages.append((at, at + latency))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_order, "_LOOK", look)
        out, order = ordered(messages)
    assert order.raised == sum(local < exch for exch, local in messages)
    raised = [(exch, max(exch, local)) for exch, local in messages]
    for bit, column in ((AT_EXCHANGE, 1), (AT_LOCAL, 2)):
        seen = [row for row in out if row[0] & bit]
        assert [row[column] for row in seen] == sorted(row[column] for row in seen)
        assert sorted((int(m), e, r) for _, e, r, m in seen) == [(n, e, r) for n, (e, r) in enumerate(raised)]
    assert len(out) == len(messages) + order.doubled


def test_messages_in_order_are_written_once() -> None:
    out, order = ordered([(n, n + 5) for n in range(5_000)])
    assert [row[0] for row in out] == [AT_EXCHANGE | AT_LOCAL] * 5_000
    assert order.doubled == 0


def test_a_message_that_overtakes_another_is_there_for_each_reader() -> None:
    out, _ = ordered([(1, 9), (2, 3), (10, 11)])
    assert out == [(2, 1, 9, b"0"), (2, 2, 3, b"1"), (1, 2, 3, b"1"), (1, 1, 9, b"0"), (3, 10, 11, b"2")]


def test_what_waits_for_a_wrong_receive_time_is_bounded() -> None:
    order = EventOrder(lambda *_: None, limit=3_000)
    order.add(0, 10**9, b"")
    for n in range(1, 2_999):
        order.add(n, n, b"")
    with pytest.raises(DataError, match=r"^3000 messages came .* exchange time 0 .*; its receive time is wrong"):
        order.add(2_999, 2_999, b"")
