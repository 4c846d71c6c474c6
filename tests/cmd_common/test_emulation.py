"""The shared timeline, driven by the smallest exchange that can be written on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cmd_common.emulation import Accept, Close, MarketSource, Pending, Ping, Poll, ServerFrame, Text
from cmd_common.emulation_base import END_CODE, Connection, Item, TimelineEmulator, TrueBook, json_response
from cmd_common.faults import parse_fault
from cmd_common.http import HttpResponse

SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND


class Counting:
    """A world with a message of stream ``a`` every 100 ms and one of ``b`` every second."""

    def __init__(self, count: int = 100) -> None:
        self.start = self.position = 5_000 * SECOND
        self.count = count
        self.n = 0

    def next_time(self) -> int | None:
        return self.start + self.n * SECOND // 10 if self.n < self.count else None

    def step(self) -> Iterable[Item]:
        self.n += 1
        self.position = self.start + (self.n - 1) * SECOND // 10
        yield Item("a@depth", "A", self.n)
        if self.n % 10 == 0:
            yield Item("b@trade", "B", self.n)

    def finish(self) -> Iterable[Item]:
        return [Item("a@depth", "A", -1)]


class Tiny(TimelineEmulator):
    venue = "tiny"

    def encode(self, item: Item, connection: Connection, name: str) -> str:
        return msgspec.json.encode({"name": name, "n": item.payload}).decode()

    def resolve(self, name: str, connection: Connection) -> str | None:
        return name if name in ("a@depth", "b@trade") else None

    def accept(self, connection: Connection, target: str, headers: Mapping[str, str]) -> list[str] | HttpResponse:
        return [n for n in target.strip("/").split("/") if n] if target != "/no" else HttpResponse(404)

    def control(self, connection: Connection, text: str, now: int) -> list[ServerFrame]:
        self.subscribe(connection, text.split(), now)
        return [Text(connection.number, "ok")]

    def request(self, method: str, target: str, headers: Mapping[str, str], now: int) -> HttpResponse | str:
        if target == "/depth":
            self.snapshot_given("A", now)
            return json_response({"n": self.world.position})
        return "later"

    def answer(self, target: str, headers: Mapping[str, str], now: int) -> HttpResponse | str:
        return json_response({"late": True})

    def known(self, key: str) -> bool:
        return self.world.position >= 5_003 * SECOND

    def timeout(self, target: str) -> HttpResponse:
        return json_response({}, 408)

    def books(self, depth: int) -> dict[str, Any]:
        return {}

    def trades(self) -> dict[str, Any]:
        return {}

    def facts(self) -> dict[str, Any]:
        return {}

    def describe(self, item: Item) -> dict[str, Any]:
        return {"n": item.payload}

    def farewell(self, connection: Connection) -> str:
        return f"farewell {connection.number}"

    def book_key(self, item: Item) -> str | None:
        return "A" if item.stream == "a@depth" else None


def make(*faults: str, count: int = 100, speed: float = 0, **source: Any) -> Tiny:
    made = tuple(parse_fault(f) for f in faults)
    return Tiny(MarketSource("tiny", speed=speed, faults=made, **source), Counting(count))


def numbers(frames: list[ServerFrame], connection: int = 1) -> list[int]:
    texts = [f.text for f in frames if isinstance(f, Text) and f.connection == connection]
    return [msgspec.json.decode(t)["n"] for t in texts if t.startswith('{"name":"a@depth"') and t.endswith("}")]


def run(emulator: Tiny, now: int = T0, *, until: int | None = None, limit: int = 256) -> tuple[list[ServerFrame], int]:
    """Poll on a clock that jumps to the next thing to do; returns the frames and the time then."""
    frames: list[ServerFrame] = []
    for _ in range(100_000):
        poll: Poll = emulator.poll(now, limit)
        frames += poll.frames
        if poll.finished or (until is not None and now >= until) or poll.next_time is None:
            return frames, now
        now = max(now + 1, poll.next_time)
        if until is not None and now > until:
            return frames, until
    raise AssertionError("the timeline does not end")


def closes(frames: list[ServerFrame]) -> list[tuple[int, int]]:
    return [(f.connection, f.code) for f in frames if isinstance(f, Close)]


def test_the_timeline_starts_a_second_after_the_last_subscription() -> None:
    emulator = make()
    assert emulator.poll(T0).next_time is None
    assert emulator.ws_open(1, "/", {}, T0) == Accept()
    emulator.ws_receive(1, "a@depth", T0)
    emulator.ws_receive(1, "b@trade", T0 + SECOND // 2)
    poll = emulator.poll(T0 + SECOND)
    assert (poll.frames, poll.next_time) == ([], T0 + 3 * SECOND // 2)
    assert emulator.poll(T0 + 3 * SECOND // 2).frames


def test_expected_streams_start_it_at_once() -> None:
    emulator = make(expected_streams=2)
    emulator.ws_open(1, "/a@depth", {}, T0)
    assert not emulator.poll(T0).frames
    emulator.ws_open(2, "/b@trade", {}, T0)
    assert emulator.poll(T0).frames


def test_real_time_and_multiples_of_it() -> None:
    for speed, at in ((1.0, 9_900_000_000), (10.0, 990_000_000)):
        emulator = make(speed=speed)
        emulator.ws_open(1, "/a@depth", {}, T0)
        frames, now = run(emulator)
        assert numbers(frames) == [*range(1, 101), -1]
        assert now == T0 + SECOND + at


def test_everything_ends_with_4000_and_a_late_client_gets_it_at_once() -> None:
    emulator = make()
    emulator.ws_open(1, "/a@depth", {}, T0)
    emulator.ws_open(2, "/", {}, T0)
    frames, now = run(emulator)
    assert closes(frames) == [(1, END_CODE)]  # the second has not subscribed
    assert closes(emulator.ws_receive(2, "b@trade", now)) == [(2, END_CODE)]
    emulator.ws_open(3, "/a@depth", {}, now)
    assert closes(emulator.poll(now).frames) == [(3, END_CODE)]
    assert emulator.truth()["sent"] == {"a@depth": 101}


def test_limits_split_the_work() -> None:
    emulator = make()
    emulator.ws_open(1, "/a@depth", {}, T0)
    frames, _ = run(emulator, limit=7)
    assert numbers(frames) == [*range(1, 101), -1]


def test_a_request_waits_for_its_place_on_the_timeline() -> None:
    emulator = make(speed=1.0)
    emulator.ws_open(1, "/a@depth", {}, T0)
    assert emulator.http("GET", "/later", {}, T0) == Pending(1)
    now, answers = T0, []
    while not answers:
        poll = emulator.poll(now)
        answers = poll.responses
        now = poll.next_time or now
    assert answers[0][0] == 1
    assert answers[0][1].status == 200
    assert emulator.world.position == 5_003 * SECOND


def test_a_request_whose_answer_never_comes_is_answered_at_the_end() -> None:
    emulator = make(count=5)
    emulator.ws_open(1, "/a@depth", {}, T0)
    emulator.http("GET", "/later", {}, T0)
    run(emulator)
    assert emulator.truth()["finished"]
    late = make()
    late.http("GET", "/later", {}, T0)
    assert not late.poll(T0 + SECOND).responses
    assert [r.status for _, r in late.poll(T0 + 3600 * SECOND).responses] == [408]


def test_pings_and_the_24_hours() -> None:
    emulator = make()
    emulator.ws_open(1, "/", {}, T0)
    poll = emulator.poll(T0)
    assert poll.next_time == T0 + 20 * SECOND
    assert [type(f) for f in emulator.poll(T0 + 20 * SECOND).frames] == [Ping]
    assert closes(emulator.poll(T0 + 24 * 3600 * SECOND).frames) == [(1, 1001)]


def test_too_many_messages_a_second_disconnect() -> None:
    emulator = make()
    emulator.ws_open(1, "/", {}, T0)
    for n in range(5):
        assert not closes(emulator.ws_receive(1, "a@depth", T0 + n))
    assert closes(emulator.ws_receive(1, "a@depth", T0 + 9)) == [(1, 1008)]
    emulator.ws_open(2, "/", {}, T0)
    for n in range(50):
        assert not closes(emulator.ws_receive(2, "a@depth", T0 + n * SECOND // 4))


def test_faults_do_what_they_say_and_are_listed() -> None:
    whole = [*range(1, 101), -1]

    def played(*faults: str) -> tuple[list[int], Tiny]:
        emulator = make(*faults)
        emulator.ws_open(1, "/a@depth", {}, T0)
        frames, _ = run(emulator)
        return numbers(frames), emulator

    got, emulator = played("drop:at=10,count=2")
    assert got == [n for n in whole if n not in (10, 11)]
    assert [f["n"] for f in emulator.truth()["faults"]] == [10, 11]
    assert played("repeat:at=10")[0] == [*range(1, 11), 10, *range(11, 101), -1]
    assert played("reorder:at=10")[0] == [*range(1, 10), 11, 10, *range(12, 101), -1]
    assert played("reorder:at=101")[0] == whole  # the last has no next one, but is not lost
    assert played("delay:at=10,ms=350")[0] == [*range(1, 10), 11, 12, 13, 10, *range(14, 101), -1]
    assert played("tear:at=10")[0] == [n for n in whole if n != 10]
    got, emulator = played("silence:at=10,ms=450")
    assert got == [n for n in whole if n not in range(10, 15)]
    assert emulator.truth()["fault_counts"] == {"silence": 1, "lost": 5}
    assert played("malformed:at=10,form=text")[0] == whole


def test_torn_and_malformed_frames_are_really_sent() -> None:
    emulator = make("tear:at=3", "malformed:at=5,form=huge,bytes=5000", "malformed:at=7,form=text")
    emulator.ws_open(1, "/a@depth", {}, T0)
    texts = [f.text for f in run(emulator)[0] if isinstance(f, Text)]
    whole = '{"name":"a@depth","n":3}'
    assert len([t for t in texts if t and whole.startswith(t) and t != whole]) == 1
    assert len([t for t in texts if len(t) > 5000]) == 1
    assert len([t for t in texts if t.startswith("<html>")]) == 1


def test_a_disconnect_loses_messages_and_full_speed_waits_for_the_client() -> None:
    emulator = make("disconnect:at=10,ms=300")
    emulator.ws_open(1, "/a@depth", {}, T0)
    frames, now = run(emulator, until=T0 + 2 * SECOND)
    assert numbers(frames) == [*range(1, 10)]
    assert closes(frames) == [(1, 0)]
    emulator.ws_closed(1, now)
    emulator.ws_open(2, "/a@depth", {}, now + SECOND)
    frames, _ = run(emulator, now + SECOND)
    assert numbers(frames, 2) == [*range(13, 101), -1]


def test_full_speed_does_not_wait_for_ever_for_a_client_that_is_gone() -> None:
    emulator = make()
    emulator.ws_open(1, "/a@depth", {}, T0)
    emulator.poll(T0 + SECOND, 5)
    emulator.ws_closed(1, T0 + SECOND)
    frames, now = run(emulator, T0 + SECOND)
    assert (frames, now) == ([], T0 + 31 * SECOND)
    assert emulator.finished


def test_real_time_goes_on_without_clients() -> None:
    emulator = make(speed=1.0)
    emulator.ws_open(1, "/a@depth", {}, T0)
    _, now = run(emulator, until=T0 + 3 * SECOND)
    emulator.ws_closed(1, now)
    run(emulator, now, until=T0 + 6 * SECOND)
    emulator.ws_open(2, "/a@depth", {}, T0 + 6 * SECOND)
    frames, _ = run(emulator, T0 + 6 * SECOND)
    assert numbers(frames, 2)[0] > 50


def test_full_speed_waits_for_the_resync_after_a_damaged_book_message() -> None:
    emulator = make("drop:at=10")
    emulator.ws_open(1, "/a@depth", {}, T0)
    frames = emulator.poll(T0 + SECOND).frames
    assert numbers(frames) == [*range(1, 10), 11]  # the next message shows the gap
    assert not emulator.poll(T0 + SECOND + 1).frames
    emulator.http("GET", "/depth", {}, T0 + SECOND + 2)
    assert not emulator.poll(T0 + SECOND + 3).frames
    assert numbers(run(emulator, T0 + SECOND + 3)[0]) == [*range(12, 101), -1]


def test_a_cut_connection_is_waited_for_at_the_end_at_any_speed() -> None:
    for fault in ("disconnect:at=90,stream=depth", "shutdown:at=90,stream=depth,ms=1"):
        emulator = make(fault, speed=1, count=100)
        emulator.ws_open(1, "/a@depth", {}, T0)
        frames, now = run(emulator, until=T0 + 14 * SECOND)
        assert len(closes(frames)) == 1
        assert not emulator.finished
        emulator.ws_closed(1, now)
        emulator.ws_open(2, "/a@depth", {}, now)
        frames, now = run(emulator, now)
        assert closes(frames) == [(2, END_CODE)]
        assert now < T0 + 19 * SECOND


def test_a_client_that_went_by_itself_is_not_waited_for() -> None:
    emulator = make(speed=1, count=20)
    emulator.ws_open(1, "/a@depth", {}, T0)
    _, now = run(emulator, until=T0 + 2 * SECOND)
    emulator.ws_closed(1, now)
    _, now = run(emulator, now)
    assert emulator.finished
    assert now < T0 + 5 * SECOND


def test_a_shutdown_is_announced_and_then_carried_out() -> None:
    emulator = make("shutdown:at=5,stream=trade,ms=1500", speed=1)
    emulator.ws_open(1, "/a@depth/b@trade", {}, T0)
    emulator.ws_open(2, "/a@depth", {}, T0)
    frames, _ = run(emulator, until=T0 + 9 * SECOND)
    at = [i for i, f in enumerate(frames) if isinstance(f, Text) and f.text == "farewell 1"]
    assert len(at) == 1
    end = next(i for i, f in enumerate(frames) if isinstance(f, Close))
    assert frames[end] == Close(1, 1001, "server shutdown")
    assert at[0] < end
    assert [f.connection for f in frames[end:] if isinstance(f, Text)] == [2] * len(frames[end + 1 :])
    assert emulator.truth()["fault_counts"] == {"shutdown": 1}


def test_handshakes_over_the_limit_are_refused_until_the_window_has_passed() -> None:
    class Limited(Tiny):
        connects_per_5min = 3

    emulator = Limited(MarketSource("tiny", speed=0), Counting(1))
    for n in range(3):
        assert isinstance(emulator.ws_open(n, "/", {}, T0 + n * SECOND), Accept)
    refused = emulator.ws_open(3, "/", {}, T0 + 100 * SECOND)
    assert isinstance(refused, HttpResponse)
    assert (refused.status, refused.header("retry-after")) == (429, "200")
    assert isinstance(emulator.ws_open(4, "/", {}, T0 + 301 * SECOND), Accept)  # the refused one counts, too
    assert isinstance(emulator.ws_open(5, "/", {}, T0 + 302 * SECOND - 1), HttpResponse)


def test_full_speed_waits_for_the_first_request_of_a_subscribed_book() -> None:
    class Booked(Tiny):
        def awaited_book(self, stream: str) -> str | None:
            return "A" if stream == "a@depth" else None

        def request(self, method: str, target: str, headers: Mapping[str, str], now: int) -> HttpResponse | str:
            return "A" if target == "/held" else super().request(method, target, headers, now)

    def start() -> Tiny:
        emulator = Booked(MarketSource("tiny", speed=0), Counting(5))
        emulator.ws_open(1, "/a@depth", {}, T0)
        run(emulator, until=T0 + 2 * SECOND)
        assert emulator.sent == {}
        return emulator

    emulator = start()
    assert isinstance(emulator.http("GET", "/depth", {}, T0 + 2 * SECOND), HttpResponse)
    _, now = run(emulator, T0 + 2 * SECOND)
    assert emulator.finished
    assert now < T0 + 3 * SECOND
    emulator = start()
    assert isinstance(emulator.http("GET", "/held", {}, T0 + 2 * SECOND), Pending)  # waits for a later position
    run(emulator, T0 + 2 * SECOND, until=T0 + 2 * SECOND + SECOND // 2)
    assert emulator.sent["a@depth"] == 6
    emulator = start()
    _, now = run(emulator, T0 + 2 * SECOND)  # nobody asks
    assert emulator.finished
    assert now >= T0 + 3 * SECOND


def test_same_seed_same_frames() -> None:
    def played(seed: int) -> list[ServerFrame]:
        emulator = make("drop:rate=0.1", "repeat:rate=0.1", "tear:rate=0.1", "reorder:rate=0.1", seed=seed)
        emulator.ws_open(1, "/a@depth/b@trade", {}, T0)
        return run(emulator)[0]

    assert played(3) == played(3)
    assert played(3) != played(4)


def test_refusals_and_unknown_connections() -> None:
    emulator = make()
    assert isinstance(emulator.ws_open(1, "/no", {}, T0), HttpResponse)
    assert emulator.ws_receive(9, "a@depth", T0) == []
    emulator.ws_closed(9, T0)


def test_the_true_book() -> None:
    book = TrueBook()
    book.load(5, [("1.0", "2"), ("1.1", "3"), ("0.9", "0")], [("1.2", "1")])
    book.apply(6, [("1.10", "0"), ("1.05", "7")], [("1.3", "4")])
    assert book.top(10) == ([("1.05", "7"), ("1.0", "2")], [("1.2", "1"), ("1.3", "4")])
    assert book.top(1) == ([("1.05", "7")], [("1.2", "1")])
    assert book.top(100) == book.top(10)
    assert (book.last_id, book.known) == (6, True)
