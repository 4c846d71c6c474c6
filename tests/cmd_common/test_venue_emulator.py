"""VenueEmulator over a simulation: sessions, snapshots in the stream, every fault, REST, the truth."""

from __future__ import annotations

import gzip
from typing import Any

import msgspec
import pytest
from venue_sample import SECOND, START, SampleEmulator, SeededEmulator, Session, simulated

from cmd_common.emulation import Accept, Close, MarketSource, Pending
from cmd_common.emulation_base import END_CODE
from cmd_common.errors import UsageError
from cmd_common.http import HttpResponse

BTC = "BTC-USD"


class Book:
    """A client's book of the sample venue: what it holds, and whether the chain broke."""

    def __init__(self) -> None:
        self.sides: list[dict[str, str]] = [{}, {}]
        self.last = 0
        self.holes = 0

    def take(self, kind: str, data: dict[str, Any]) -> bool:
        if kind == "snapshot":
            self.sides = [dict(data["bids"]), dict(data["asks"])]
        elif data["prev_id"] != self.last:
            self.holes += 1
            return False
        else:
            for side, levels in zip(self.sides, (data["bids"], data["asks"]), strict=True):
                for price, quantity in levels:
                    if float(quantity):
                        side[price] = quantity
                    else:
                        side.pop(price, None)
        self.last = data["last_id"]
        return True

    def levels(self) -> list[list[list[float]]]:
        return [
            sorted(([float(p), float(q)] for p, q in side.items()), reverse=not n) for n, side in enumerate(self.sides)
        ]


def follow(s: Session, name: str, connection: int = 1) -> Book:
    """A client that subscribes anew when its chain breaks."""
    book = Book()
    broken = False
    at = len(s.frames)

    def look() -> None:
        nonlocal broken, at
        new, at = s.frames[at:], len(s.frames)
        for f in (f for c, f in new if c == connection):
            if isinstance(f, dict) and f["is"] in ("snapshot", "book") and f["data"]["name"] == name:
                if f["is"] == "snapshot":
                    broken = False
                if not broken:
                    broken = not book.take(f["is"], f["data"])

    s.send("join", name, connection=connection)
    look()
    while True:
        s.run(seconds=0.05)
        look()
        if broken:
            s.send("leave", name, connection=connection)
            s.send("join", name, connection=connection)
            look()
            assert not broken
        if any(isinstance(f, Close) for c, f in s.frames[-3:] if c == connection):
            return book
        s.now += SECOND // 20


def truth_book(emulator: SampleEmulator, depth: int = 1000) -> list[list[list[float]]]:
    book = emulator.truth(depth)["books"][BTC]
    return [[list(level) for level in book[side]] for side in ("bids", "asks")]


def test_a_session_greets_answers_and_counts_its_frames() -> None:
    s = Session(simulated())
    refused = s.open(9, "/elsewhere")
    assert isinstance(refused, HttpResponse)
    assert refused.status == 404
    assert isinstance(s.open(), Accept)
    assert s.text("ping") == [{"n": 1, "is": "hello", "data": {"path": "/feed"}}, "pong"]
    assert s.text("{") == [{"n": 2, "is": "error", "data": "not JSON"}]
    answer = s.send("join", "trade.btc-usd", "nothing.BTC-USD", "trade.NO-USD", "beat.")
    assert answer == [{"n": 3, "is": "joined", "data": {"refused": ["nothing.BTC-USD", "trade.NO-USD"]}}]
    s.run()
    numbers = [f["n"] for _, f in s.frames if isinstance(f, dict)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert isinstance(s.frames[-1][1], Close)
    beats = s.of("beat")
    assert [b["number"] for b in beats] == list(range(2, 20, 2))  # an empty text sends nothing
    assert s.emulator.trade_ids()[BTC] == [f"T{t['id']}" for t in s.of("trade")]


def test_a_greeting_comes_unasked() -> None:
    s = Session(simulated())
    s.open()
    assert s.run(seconds=1) == [{"n": 1, "is": "hello", "data": {"path": "/feed"}}]
    s.emulator.ws_closed(1, s.now)
    s.open(2)
    s.emulator.ws_closed(2, s.now)
    assert s.run(seconds=1) == []  # nobody is there to greet


@pytest.mark.parametrize("name", ["book.BTC-USD", "book10.BTC-USD"])
def test_a_book_is_snapshot_and_changes_up_to_the_truth(name: str) -> None:
    s = Session(simulated())
    s.open()
    book = follow(s, name)
    assert book.holes == 0
    assert book.levels() == truth_book(s.emulator, 10 if "10" in name else 1000)


@pytest.mark.parametrize("name", ["book.BTC-USD", "book10.BTC-USD"])
@pytest.mark.parametrize(
    "fault", ["drop:stream=depth,rate=0.05,count=5", "drop:stream=depth,at=20", "delay:stream=book,at=30,ms=300"]
)
def test_a_damaged_book_is_seen_and_loaded_anew_at_any_place(name: str, fault: str) -> None:
    s = Session(simulated(fault))
    s.open()
    book = follow(s, name)
    applied = [f for f in s.emulator.truth()["faults"] if f["symbol"] == BTC]
    assert applied
    assert book.holes >= len([f for f in applied if f["kind"] == "drop"]) * 0.5  # neighbours make one hole
    assert book.holes
    assert book.levels() == truth_book(s.emulator, 10 if "10" in name else 1000)


def test_silence_on_an_open_connection_breaks_the_book_and_time_waits_for_it() -> None:
    s = Session(simulated("silence:stream=depth,symbol=BTC-USD,at=20,ms=500"))
    s.open()
    book = follow(s, "book10.BTC-USD")
    assert book.holes == 1
    assert s.emulator.truth()["fault_counts"]["lost"] >= 4
    assert len(s.of("snapshot")) == 2
    snapshot, change = (next(f for f in s.of(kind)[n:]) for kind, n in (("snapshot", 1), ("book", 20)))
    assert change["prev_id"] == snapshot["last_id"]  # nothing passed between the hole and the new snapshot
    assert book.levels() == truth_book(s.emulator, 10)


def test_after_an_outage_time_waits_for_the_client_that_then_lacks_nothing() -> None:
    s = Session(simulated("disconnect:stream=depth,at=20,ms=2000"))
    s.open()
    s.send("join", "book.BTC-USD", "trade.BTC-USD")
    s.run(seconds=1)
    assert s.frames[-1][1] == Close(1, 0, "fault")
    cut = s.of("book")[-1]["ts"]
    assert s.emulator.world.position - cut == pytest.approx(2 * SECOND, abs=SECOND // 5)
    s.open(2)
    s.send("join", "trade.BTC-USD", connection=2)
    book = follow(s, "book.BTC-USD", connection=2)
    assert book.holes == 0
    assert book.levels() == truth_book(s.emulator)
    lost = [f for f in s.emulator.truth()["faults"] if f["kind"] == "lost"]
    assert {f["stream"] for f in lost} == {"depth:BTC-USD", "trades:BTC-USD"}
    got = {t["id"] for c in (1, 2) for t in s.of("trade", c)}
    truth = s.emulator.truth()["trades"][BTC]
    assert got | {f["id"] for f in lost if "id" in f} == set(range(truth["first_id"], truth["last_id"] + 1))


class NumberedEmulator(SampleEmulator):
    """The number of every frame counts."""

    connection_sequence = True


def test_where_frames_are_numbered_any_loss_makes_time_wait_for_new_books() -> None:
    s = Session(simulated("drop:stream=trades,at=20", kind=NumberedEmulator))
    s.open()
    s.send("join", "book.BTC-USD", "trade.BTC-USD", "quote.ETH-USD")
    s.run(seconds=0.1)
    numbers = [f["n"] for _, f in s.frames if isinstance(f, dict)]
    holes = [n for n in range(1, numbers[-1] + 1) if n not in numbers]
    assert len(holes) == 1
    assert numbers[-1] - holes[0] <= 8  # a poll's frames: time stands still behind the first that shows it
    at = s.emulator.world.position
    s.send("leave", "book.BTC-USD")
    s.send("join", "book.BTC-USD")
    assert s.emulator.world.position == at
    s.run()
    snapshot = s.of("snapshot")[1]
    after = next(c for c in s.of("book") if c["last_id"] > snapshot["last_id"])
    assert after["prev_id"] == snapshot["last_id"]


def test_a_fault_may_be_meant_for_one_venue() -> None:
    for venue, count in (("sample", 3), ("Sample", 3), ("other", 0)):
        s = Session(simulated(f"drop:venue={venue},stream=trades,at=2,count=3"))
        s.open()
        s.send("join", "trade.BTC-USD")
        s.run()
        assert len(s.emulator.truth()["faults"]) == count


def test_a_second_client_gets_a_snapshot_at_the_position_of_the_stream() -> None:
    s = Session(simulated())
    s.open(1)
    s.send("join", "book10.BTC-USD")
    s.run(position=START + 7 * SECOND)
    s.open(2)
    late = follow(s, "book10.BTC-USD", connection=2)
    assert late.holes == 0
    assert late.levels() == truth_book(s.emulator, 10)
    one, two = s.of("snapshot", 1)[0], s.of("snapshot", 2)[0]
    assert one["last_id"] < two["last_id"]


@pytest.mark.parametrize("kind", ["drop", "silence", "reorder", "delay", "repeat"])
def test_numbers_of_a_connection_show_every_loss(kind: str) -> None:
    fault = f"{kind}:stream=trades,at=5,count=1" + (",ms=700" if kind in ("silence", "delay") else "")
    s = Session(simulated(fault))
    s.open()
    s.send("join", "trade.BTC-USD", "quote.BTC-USD")
    s.run()
    numbers = [f["n"] for _, f in s.frames if isinstance(f, dict)]
    holes = [n for n in range(1, numbers[-1] + 1) if n not in numbers]
    applied = s.emulator.truth()["faults"]
    if kind in ("drop", "silence"):
        assert len(holes) == len([f for f in applied if f["kind"] in ("drop", "lost")])
        assert numbers == sorted(numbers)
    elif kind == "repeat":
        assert not holes
        assert len(numbers) == len(set(numbers)) + 1
    else:
        assert not holes
        assert numbers != sorted(numbers)
    names = [f["name"] for f in applied if "name" in f]
    assert names
    assert set(names) <= set(s.emulator.trade_ids()[BTC])


def test_the_venue_gives_its_farewell_and_its_garbage() -> None:
    s = Session(simulated("shutdown:stream=trades,at=3,ms=1", "malformed:stream=trades,at=2,count=2"))
    s.open()
    s.send("join", "trade.BTC-USD")
    s.run()
    assert s.of("farewell") == [None]
    assert [f for _, f in s.frames if isinstance(f, str)] == ["garbage text BTC-USD", "garbage unknown BTC-USD"]
    assert s.emulator.truth()["fault_counts"] == {"shutdown": 1, "malformed": 2}
    assert s.frames[-1][1].code in (1001, END_CODE)


def test_a_torn_frame_and_a_cut_connection() -> None:
    s = Session(simulated("tear:stream=trades,at=2,count=1", "disconnect:stream=trades,at=9,ms=1000"))
    s.open()
    s.send("join", "trade.BTC-USD")
    s.run(seconds=1)
    torn = [f for _, f in s.frames if isinstance(f, str)]
    assert len(torn) == 1
    assert s.frames[-1][1] == Close(1, 0, "fault")
    assert isinstance(s.open(2), Accept)
    s.send("join", "trade.BTC-USD", connection=2)
    s.run()
    lost = {f["id"] for f in s.emulator.truth()["faults"] if f["kind"] in ("lost", "tear")}
    got = {t["id"] for c in (1, 2) for t in s.of("trade", c)}
    truth = s.emulator.truth()["trades"][BTC]
    assert got | lost == set(range(truth["first_id"], truth["last_id"] + 1))
    assert not got & lost
    assert len(lost) > 2


def test_rest_refusals_files_and_unknown_paths() -> None:
    faults = ("rate_limit:path=book,at=1", "ban:symbol=ETH-USD,at=1,ms=3000", "truncated_zip:symbol=ETH-USD,at=1",
              "missing_day:symbol=BTC-USD,day=2025-06-01")  # fmt: skip
    s = Session(simulated(*faults))
    assert s.get("/book/BTC-USD").status == 429
    banned = s.get("/trades/eth-usd?before=10&limit=1")
    assert (banned.status, banned.header("retry-after")) == (418, "3")
    assert s.get("/unknown/thing").status == 404
    assert s.emulator.http("POST", "/book/BTC-USD", {}, s.now).status == 405  # type: ignore[union-attr]
    assert [i["symbol"] for i in s.json("/instruments")] == [BTC, "ETH-USD"]
    book = s.json("/book/BTC-USD?limit=5")
    assert [len(book["bids"]), len(book["asks"])] == [5, 5]
    assert float(book["bids"][0][0]) < float(book["asks"][0][0])
    last = s.emulator.market.latest_trades(BTC, 1)[0].id
    page = s.json(f"/trades/BTC-USD?before={last + 1}&limit=3")
    assert [t["id"] for t in page] == [last - 2, last - 1, last]
    assert s.get("/file/BTC-USD/2025-06-01").status == 404
    whole = gzip.decompress(s.get("/file/BTC-USD/2025-05-31").body)
    assert whole.count(b"\n") == 8640
    with pytest.raises(EOFError):
        gzip.decompress(s.get("/file/ETH-USD/2025-06-01").body)
    assert len(gzip.decompress(s.get("/file/ETH-USD/2025-06-01").body)) > 1000


def test_the_truth_tells_the_ids_on_request() -> None:
    s = Session(simulated(symbols=1, duration=3 * SECOND))
    s.open()
    s.send("join", "trade.BTC-USD")
    s.run()
    truth = s.json("/__replay/truth?depth=5&trades=1")
    assert len(truth["books"][BTC]["bids"]) == 5
    assert truth["trade_ids"][BTC] == [f"T{t['id']}" for t in s.of("trade")]
    assert truth["trades"][BTC]["count"] == len(truth["trade_ids"][BTC])
    assert "trade_ids" not in s.json("/__replay/truth")
    assert truth["finished"] is True


def test_a_venue_seeded_by_rest_waits_for_the_request_and_lets_levels_leave_in_silence() -> None:
    s = Session(simulated("drop:stream=depth,at=30", kind=SeededEmulator, symbols=1))
    s.open()
    answer = s.send("join", "book.BTC-USD", "book10.BTC-USD")
    assert [f["is"] for f in answer] == ["hello", "joined"]
    first = s.emulator.poll(s.now, 1)
    assert first.next_time is not None
    assert first.next_time - s.now >= 2 * SECOND  # the book was not asked for yet
    seed = s.json("/book/BTC-USD")
    s.run()
    changes = s.of("book")
    ids = [c["last_id"] for c in changes if c["name"] == "book.BTC-USD"]
    assert ids == sorted(ids)
    assert changes[0]["prev_id"] == seed["last_id"]
    assert any(c["last_id"] - c["first_id"] > 100 for c in changes)  # ids jump
    tops: list[dict[str, str]] = [{}, {}]
    for c in (c for c in changes if c["name"] == "book10.BTC-USD"):
        for side, levels in zip(tops, (c["bids"], c["asks"]), strict=True):
            for price, quantity in levels:
                if float(quantity):
                    side[price] = quantity
                else:
                    side.pop(price, None)
    assert max(map(len, tops)) > 10  # nothing told the client to forget what was pushed out


def test_a_command_may_close_and_a_session_may_end_by_itself() -> None:
    s = Session(simulated())
    s.open()
    s.run(seconds=1)
    assert s.text(msgspec.json.encode({"op": "bye"}).decode()) == [Close(1, 1000, "as you wish")]
    assert not isinstance(s.get("/instruments"), Pending)


@pytest.mark.parametrize("source", [MarketSource("sample"), MarketSource("sample", recordings=("x",), simulate=True)])
def test_it_must_be_told_one_thing_to_serve(source: MarketSource) -> None:
    with pytest.raises(UsageError, match=r"serve|either"):
        SampleEmulator(source)


def test_the_same_seed_gives_the_same_frames() -> None:
    def frames() -> list[Any]:
        s = Session(simulated(duration=5 * SECOND))
        s.open()
        s.send("join", "trade.BTC-USD", "book10.ETH-USD", "candle_1m.BTC-USD", "quote.ETH-USD")
        s.run()
        return s.frames

    one = frames()
    assert one == frames()
    assert len(one) > 50
