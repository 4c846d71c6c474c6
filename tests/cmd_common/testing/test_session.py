from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cmd_common.history import Walk
from cmd_common.http import HttpResponse
from cmd_common.testing.session import VenueSession, Walked


class Emulated:
    """An emulator whose every page names the same next cursor."""

    def __init__(self, cursors: list[str | None]) -> None:
        self.cursors = cursors
        self.asked: list[str] = []

    def http(self, method: str, target: str, headers: object, now: int) -> HttpResponse:
        self.asked.append(target)
        return HttpResponse(200, {}, b"")


class Venue:
    """An exchange whose history has one record a page."""

    def __init__(self, cursors: list[str | None]) -> None:
        self.history = self
        self._cursors = iter(cursors)

    def check(self, response: HttpResponse, url: str) -> None:
        return None

    def first(self, walk: Walk, endpoints: object) -> Any:
        return SimpleNamespace(url="http://emulated/first")

    def next(self, walk: Walk, cursor: str, endpoints: object) -> Any:
        return SimpleNamespace(url=f"http://emulated/next?cursor={cursor}")

    def page(self, walk: Walk, cursor: str, response: HttpResponse, now: int) -> Any:
        record = SimpleNamespace(trade_id=cursor or "first")
        return SimpleNamespace(records=[record], lost="", cursor=next(self._cursors), wait=0)


def walked(cursors: list[str | None], **options: Any) -> tuple[Walked, list[str]]:
    emulator: Any = Emulated(cursors)
    venue: Any = Venue(cursors)
    return VenueSession(venue, emulator).walk(Walk("trades", "X", 0, 1), 0, **options), emulator.asked


def test_a_walk_asks_page_after_page_until_the_end() -> None:
    found, asked = walked(["a", "b", None])
    assert asked == ["/first", "/next?cursor=a", "/next?cursor=b"]
    assert (list(found.rows()), found.asked, found.cursor) == (["first", "a", "b"], ["", "a", "b"], None)


def test_a_walk_stops_where_it_is_told_and_goes_on_from_a_cursor() -> None:
    found, _ = walked(["a", "b", None], most=2)
    assert (found.asked, found.cursor) == (["", "a"], "b")
    found, asked = walked([None], cursor="b")
    assert (asked, found.cursor) == (["/next?cursor=b"], None)


def test_a_cursor_that_comes_again_and_a_record_that_comes_twice_are_found() -> None:
    with pytest.raises(AssertionError, match="endless"):
        walked(["a", "b", "a"])
    twice = Walked([SimpleNamespace(trade_id="1"), SimpleNamespace(trade_id="1")], [], [], None)
    with pytest.raises(AssertionError, match="twice"):
        twice.rows()
