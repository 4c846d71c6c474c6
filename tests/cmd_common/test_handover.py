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


# -- a second connection for good


def kept() -> Overlap:
    o = Overlap(Numbers(), 1, 0, keep=True)
    o.second("ok", 0)
    assert o.verdict(5 * S) is Verdict.TAKE
    return o


def test_a_kept_one_lets_go_of_what_the_first_has_delivered() -> None:
    o = kept()
    for n in range(1, 6):
        o.second(f"a:{n}", n * S)
    o.second("b:1", 6 * S)
    o.first("a:3")
    assert o.trim(6 * S) == []
    assert o.held == ["ok", "a:4", "a:5", "b:1"]
    o.first("a:5")
    o.first("b:1")
    assert o.trim(7 * S) == []
    assert o.take() == ["ok"]
    assert o.held == []


def test_a_kept_one_tells_what_the_first_lacks() -> None:
    o = kept()
    o.second("a:1", 6 * S)
    o.second("b:1", 7 * S)
    o.first("a:1")
    assert o.trim(16 * S) == []
    assert o.trim(17 * S) == ["b"]
    assert o.held == ["ok", "b:1"]


def test_a_kept_one_that_says_nothing_is_given_up() -> None:
    o = kept()
    o.second("a:1", 6 * S)
    for n in range(1, 102):
        o.first(f"a:{n}")
    assert o.verdict(15 * S) is Verdict.TAKE
    assert o.verdict(16 * S) is Verdict.GIVE_UP
    o.second("a:102", 16 * S)
    assert o.verdict(17 * S) is Verdict.TAKE


def test_frames_that_are_no_data_and_times_of_sending_are_not_kept() -> None:
    class Times(Numbers):
        def position(self, frame: str | bytes) -> Position | None:
            found = super().position(frame)
            return found and Position(found.stream, found.last, found.last, exact=False)

    o = Overlap(Times(), 1, 0, keep=True)
    o.second("hello", 0)
    o.second("ok", 0)
    o.second("ok", 0)
    o.second("kline:1000", S)
    assert o.held == ["ok", "kline:1000"]
    assert o.trim(10 * S) == []
    assert o.held == ["ok", "kline:1000"]
    assert o.trim(11 * S) == []  # the first has sent it at another time
    assert o.held == ["ok"]


@given(st.lists(st.tuples(st.sampled_from("12t"), st.sampled_from("ab")), max_size=200), st.integers(0, 8))
def test_at_any_moment_the_kept_one_holds_what_the_first_has_not_delivered(
    steps: list[tuple[str, str]], ahead: int
) -> None:
    o = Overlap(Numbers(), 1, 0, keep=True)
    o.second("ok", 0)
    first = {"a": ahead, "b": 0}
    second = {"a": 0, "b": ahead}
    begun: dict[str, int] = {}
    for who, stream in steps:
        if who == "1":
            first[stream] += 1
            o.first(f"{stream}:{first[stream]}")
        elif who == "2":
            second[stream] += 1
            begun.setdefault(stream, second[stream])
            o.second(f"{stream}:{second[stream]}", S)
        else:
            o.trim(S)
        for name in begun:
            held = [int(str(f).partition(":")[2]) for f in o.held if str(f).startswith(name + ":")]
            wanted = range(max(first[name] + 1, begun[name]), second[name] + 1)
            assert set(wanted) <= set(held)  # what is needed is there, in order
            assert held == sorted(held)
    if o.verdict(6 * S) is Verdict.TAKE:  # and then nothing lies between
        assert all(begun[name] <= first[name] + 1 for name in begun)
