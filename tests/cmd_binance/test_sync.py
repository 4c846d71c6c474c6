"""The two rules of continuity, as tables; docs/exchanges.md says where each line comes from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_binance import instruments
from cmd_binance.sync import FuturesRule, SpotRule, rule_for
from cmd_common.sequence import SequenceRule, Verdict

APPLY, DROP, GAP = Verdict.APPLY, Verdict.DROP, Verdict.GAP


@pytest.mark.parametrize(
    ("first", "last", "verdict"),
    [
        (90, 99, DROP),
        (90, 100, DROP),  # ends exactly at the snapshot
        (95, 105, APPLY),  # straddles it
        (100, 101, APPLY),
        (101, 105, APPLY),  # starts right behind it: the case of quiet symbols
        (102, 105, GAP),
    ],
)
def test_spot_first_event(first: int, last: int, verdict: Verdict) -> None:
    assert SpotRule().first(100, first, last, None) is verdict


@pytest.mark.parametrize(
    ("first", "last", "verdict"),
    [(101, 101, APPLY), (101, 110, APPLY), (99, 110, APPLY), (102, 110, GAP), (95, 100, DROP), (95, 99, DROP)],
)
def test_spot_next_event(first: int, last: int, verdict: Verdict) -> None:
    assert SpotRule().next(100, first, last, None) is verdict


@pytest.mark.parametrize(
    ("first", "last", "prev", "verdict"),
    [
        (90, 99, 80, DROP),
        (90, 100, 80, APPLY),  # u == lastUpdateId: applied, changes nothing
        (90, 110, 80, APPLY),
        (100, 110, 80, APPLY),
        (105, 110, 100, APPLY),  # pu == lastUpdateId
        (105, 110, 101, GAP),
        (101, 110, 99, GAP),
    ],
)
def test_futures_first_event(first: int, last: int, prev: int, verdict: Verdict) -> None:
    assert FuturesRule().first(100, first, last, prev) is verdict


@pytest.mark.parametrize(
    ("first", "last", "prev", "verdict"),
    [
        (101, 110, 100, APPLY),
        (150, 160, 100, APPLY),  # U jumps: it is shared by all symbols
        (101, 110, 99, GAP),  # U would fit, pu does not
        (101, 110, None, GAP),
        (90, 100, 80, DROP),
        (90, 99, 80, DROP),
    ],
)
def test_futures_next_event(first: int, last: int, prev: int | None, verdict: Verdict) -> None:
    assert FuturesRule().next(100, first, last, prev) is verdict


def test_a_snapshot_is_too_old_when_ids_are_missing_behind_it() -> None:
    spot, futures = SpotRule(), FuturesRule()
    assert not spot.too_old(100, 90, 95, None)
    assert not spot.too_old(100, 101, 105, None)  # no hole
    assert spot.too_old(100, 102, 105, None)
    assert not futures.too_old(100, 90, 105, 80)
    assert not futures.too_old(100, 100, 105, 80)
    assert not futures.too_old(100, 103, 105, 100)
    assert futures.too_old(100, 103, 105, 101)


def test_each_market_has_its_rule() -> None:
    assert isinstance(rule_for(instruments.SPOT), SpotRule)
    assert isinstance(rule_for(instruments.USDM), FuturesRule)
    assert isinstance(rule_for(instruments.COINM), FuturesRule)


@st.composite
def streams(draw: st.DrawFn) -> tuple[SequenceRule, list[tuple[int, int, int | None]]]:
    """An undamaged stream of one market: ids as the exchange gives them."""
    futures = draw(st.booleans())
    at = draw(st.integers(1, 10**12))
    events: list[tuple[int, int, int | None]] = []
    for width, jump in draw(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=3, max_size=30)):
        first = at + 1 + (jump if futures else 0)
        last = first + width - 1
        events.append((first, last, at if futures else None))
        at = last
    return (FuturesRule() if futures else SpotRule()), events


@given(streams(), st.data())
def test_every_undamaged_stream_is_applied_and_every_hole_is_a_gap(
    stream: tuple[SequenceRule, list[tuple[int, int, int | None]]], data: st.DataObject
) -> None:
    rule, events = stream
    book_id = events[0][1]
    for event in events[1:]:
        assert rule.next(book_id, *event) is APPLY
        assert rule.next(event[1], *event) is DROP
        book_id = event[1]
    lost = data.draw(st.integers(1, len(events) - 2))
    assert rule.next(events[lost - 1][1], *events[lost + 1]) is GAP
    # A snapshot inside an event, or at its end, chains with it or with the next one, and with no other.
    at = data.draw(st.integers(1, len(events) - 2))
    first, last, _ = events[at]
    snapshot_id = data.draw(st.integers(first, last))
    verdicts = [rule.first(snapshot_id, *e) for e in events]
    chain = verdicts.index(APPLY)
    assert chain == (at if snapshot_id < last or isinstance(rule, FuturesRule) else at + 1)
    assert set(verdicts[:chain]) <= {DROP}
    assert not rule.too_old(snapshot_id, *events[chain])
    if at + 2 < len(events):
        assert rule.first(snapshot_id, *events[at + 2]) is GAP
        assert rule.too_old(snapshot_id, *events[at + 2])
