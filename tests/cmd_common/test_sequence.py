from __future__ import annotations

from itertools import product

import pytest

from cmd_common.sequence import TRANSITIONS, BookEvent, BookState


def test_every_state_answers_every_event_but_an_unasked_snapshot() -> None:
    assert set(product(BookState, BookEvent)) - set(TRANSITIONS) == {(BookState.EMPTY, BookEvent.SNAPSHOT)}


@pytest.mark.parametrize("state", BookState)
def test_only_a_snapshot_makes_a_book_live(state: BookState) -> None:
    for event in BookEvent:
        after = TRANSITIONS.get((state, event))
        if after is BookState.LIVE and state is not BookState.LIVE:
            assert event is BookEvent.SNAPSHOT


def test_a_book_that_was_live_never_looks_as_if_it_had_not_been() -> None:
    for (before, _), after in TRANSITIONS.items():
        if before in (BookState.LIVE, BookState.STALE):
            assert after in (BookState.LIVE, BookState.STALE)


def test_losing_a_book_never_leaves_it_live() -> None:
    assert all(after is not BookState.LIVE for (_, event), after in TRANSITIONS.items() if event is BookEvent.LOST)
