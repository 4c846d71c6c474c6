"""The chain rule and the checksum, as tables and as properties."""

from __future__ import annotations

from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.sequence import Verdict
from cmd_okx.sync import RULE, checksum, plain_text

ID = st.integers(0, 10**12)


@pytest.mark.parametrize(
    ("book", "last", "prev", "verdict"),
    [
        (100, 107, 100, Verdict.APPLY),
        (100, 100, 100, Verdict.APPLY),  # keepalive
        (100, 3, 100, Verdict.APPLY),  # sequence reset
        (100, 107, 99, Verdict.GAP),
        (100, 107, 101, Verdict.GAP),
        (100, 100, 95, Verdict.DROP),  # again
        (100, 95, 90, Verdict.DROP),
        (100, 3, 99, Verdict.GAP),  # a reset that does not chain
        (100, 101, None, Verdict.APPLY),  # counted here
        (100, 100, None, Verdict.DROP),
    ],
)
def test_rule(book: int, last: int, prev: int | None, verdict: Verdict) -> None:
    assert RULE.next(book, (prev or 0) + 1, last, prev) is verdict
    assert RULE.first(book, (prev or 0) + 1, last, prev) is verdict


def test_old_snapshots() -> None:
    assert RULE.too_old(99, 101, 107, 100)
    assert not RULE.too_old(100, 101, 107, 100)
    assert not RULE.too_old(105, 101, 107, 100)


@given(st.lists(st.integers(1, 50), min_size=3, max_size=30), st.data())
def test_a_chain_applies_and_any_missing_link_shows_at_the_next_one(steps: list[int], data: st.DataObject) -> None:
    ids = [1000]
    for step in steps:
        ids.append(ids[-1] + step)
    links = list(pairwise(ids))
    book = ids[0]
    for prev, last in links:
        assert RULE.next(book, prev + 1, last, prev) is Verdict.APPLY
        assert RULE.next(last, prev + 1, last, prev) is Verdict.DROP  # the same again
        book = last
    missing = data.draw(st.integers(0, len(links) - 2))
    prev, last = links[missing + 1]
    assert RULE.next(links[missing][0], prev + 1, last, prev) is Verdict.GAP


@given(ID, ID, ID)
def test_only_what_names_the_book_applies(book: int, last: int, prev: int) -> None:
    verdict = RULE.next(book, prev + 1, last, prev)
    assert (verdict is Verdict.APPLY) == (prev == book)
    if verdict is Verdict.DROP:
        assert prev < last <= book


def test_checksum_interleaves_and_is_signed() -> None:
    bids = [("3366.1", "7"), ("3366", "6")]
    asks = [("3366.8", "9"), ("3368", "8"), ("3372", "8")]
    text = "3366.1:7:3366.8:9:3366:6:3368:8:3372:8"
    value = crc32(text.encode())
    assert checksum(bids, asks) == (value - (1 << 32) if value >= 1 << 31 else value)
    assert checksum([], []) == 0
    assert any(checksum([(str(i), "1")], []) < 0 for i in range(20))


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), max_size=60))
def test_levels_behind_the_best_25_do_not_matter(levels: list[tuple[int, int]]) -> None:
    side = [(str(p), str(q)) for p, q in levels]
    value = checksum(side, side)
    assert value == checksum(side[:25], side[:25])
    assert -(1 << 31) <= value < 1 << 31
    if side:
        changed = [(side[0][0], side[0][1] + "1"), *side[1:]]
        assert checksum(changed, side) != value


@pytest.mark.parametrize(
    ("value", "text"), [(78725.0, "78725"), (0.0000102, "0.0000102"), (1e-8, "0.00000001"), (43666.1, "43666.1"), (1e15, "1000000000000000")]
)  # fmt: skip
def test_numbers_are_written_without_exponent_and_trailing_zeros(value: float, text: str) -> None:
    assert plain_text(value) == text


@given(st.decimals(min_value="0.00000001", max_value="9999999", places=8))
def test_written_numbers_read_back(value: object) -> None:
    number = float(str(value))
    assert float(plain_text(number)) == number
