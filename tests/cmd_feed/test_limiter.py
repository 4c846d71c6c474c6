from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cmd_feed.limiter import SECOND, WindowLimiter


def most_in_any_window(times: list[int], window: int) -> int:
    """The oracle: events in the fullest half-open window of that length."""
    return max((sum(start <= t < start + window for t in times) for start in times), default=0)


@given(
    st.integers(1, 20),
    st.integers(1, 5 * SECOND),
    st.lists(st.integers(0, 2 * SECOND), min_size=1, max_size=120),
)
def test_no_window_ever_holds_more_than_the_limit(limit: int, window: int, pauses: list[int]) -> None:
    limiter = WindowLimiter(limit, window)
    now = 0
    times = []
    for pause in pauses:
        now += pause
        now += limiter.delay(now)
        assert limiter.delay(now) == 0
        limiter.take(now)
        times.append(now)
    assert most_in_any_window(times, window) <= limit


@given(st.integers(1, 20), st.integers(1, 5 * SECOND), st.integers(1, 100))
def test_it_never_waits_longer_than_needed(limit: int, window: int, events: int) -> None:
    limiter = WindowLimiter(limit, window)
    now = 0
    for n in range(events):
        now += limiter.delay(now)
        limiter.take(now)
        assert now == n // limit * window


def test_zero_means_no_limit() -> None:
    limiter = WindowLimiter(0, SECOND)
    for _ in range(1000):
        assert limiter.delay(5) == 0
        limiter.take(5)


def test_messages_leave_room_for_a_pong() -> None:
    assert WindowLimiter.messages(5).limit == 4  # Binance spot: 5 a second, pongs included
    assert WindowLimiter.messages(1).limit == 1
    assert WindowLimiter.messages(0).limit == 0
    assert WindowLimiter.connects(300).limit == 270
