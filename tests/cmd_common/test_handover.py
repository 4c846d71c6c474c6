"""The overlap of two connections: it may end only when nothing between them can be missing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cmd_common.feed import Output
from cmd_common.handover import Overlap, Position, Verdict

S = 1_000_000_000


class Numbers:
    """Frames ``stream:id``; ``ok`` confirms. Ids rise by one."""

    handover = True

    def resubscribe(self, now: int) -> list[str]:
        return ["subscribe"]

    def confirms(self, frame: str | bytes) -> bool:
        return frame == "ok"

    def position(self, frame: str | bytes) -> Position | None:
        name, _, number = str(frame).partition(":")
        return Position(name, int(number) - 1, int(number)) if number else None

    def moved(self, now: int, reason: str) -> Output:
        return Output()


def overlap(**options: int) -> Overlap:
    return Overlap(Numbers(), 1, 0, **options)


def test_it_waits_for_the_confirmation_and_for_time() -> None:
    o = overlap()
    assert o.verdict(10 * S) is Verdict.WAIT
    o.second("ok", 10 * S)
    assert o.verdict(14 * S) is Verdict.WAIT
    assert o.verdict(15 * S) is Verdict.TAKE


def test_it_waits_until_the_first_connection_has_reached_the_second_ones_beginning() -> None:
    o = overlap()
    o.second("ok", S)
    o.first("a:7")
    o.second("a:10", S)
    assert o.verdict(20 * S) is Verdict.WAIT
    assert o.behind == ["a"]
    o.first("a:8")
    assert o.verdict(20 * S) is Verdict.WAIT
    o.first("a:10")
    assert o.verdict(20 * S) is Verdict.TAKE
    assert o.held == ["ok", "a:10"]


def test_one_that_may_be_taken_stays_so_when_a_quiet_stream_speaks() -> None:
    o = overlap()
    o.second("ok", 0)
    assert o.verdict(5 * S) is Verdict.TAKE
    o.second("quiet:1", 6 * S)
    assert o.verdict(6 * S) is Verdict.TAKE


def test_it_is_given_up_after_a_time_and_when_too_much_is_held() -> None:
    o = overlap()
    o.second("a:5", 0)
    assert o.verdict(59 * S) is Verdict.WAIT
    assert o.verdict(60 * S) is Verdict.GIVE_UP
    small = overlap(limit=20)
    small.second("ok", 0)
    for n in range(10):
        small.second(f"a:{n}", 0)
    assert small.verdict(S) is Verdict.GIVE_UP
    assert sum(map(len, small.held)) <= 20


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=40),
    st.integers(0, 40),
    st.lists(st.booleans(), max_size=120),
    st.data(),
)
def test_what_both_brought_has_no_hole_whenever_it_may_be_taken(
    names: list[str], joins: int, turns: list[bool], data: st.DataObject
) -> None:
    """The second one joins at any message; each brings its messages at its own pace, in its own interleaving."""
    ids: dict[str, int] = {}
    sent = []
    for name in names:
        ids[name] = ids.get(name, 0) + 1
        sent.append(f"{name}:{ids[name]}")
    later = sent[joins:]
    # streams are in order, but not among each other
    order = data.draw(st.permutations(later)) if later else []
    streams: dict[str, list[str]] = {}
    for frame in later:
        streams.setdefault(frame[0], []).append(frame)
    second = [streams[frame[0]].pop(0) for frame in order]
    o = overlap(settle=0)
    o.second("ok", 0)
    first, got = list(sent), []
    for turn in turns:
        if turn and first:
            got.append(first.pop(0))
            o.first(got[-1])
        elif not turn and second:
            o.second(second.pop(0), 0)
        spoken = {str(f)[0] for f in o.held if ":" in str(f)}
        if o.verdict(0) is Verdict.TAKE:
            merged = got + [str(f) for f in o.held + second if ":" in str(f) and f not in got]
            for name in spoken:
                mine = [f for f in merged if f[0] == name]
                assert mine == [f for f in sent if f[0] == name][: len(mine)]
            return
