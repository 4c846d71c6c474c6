"""VenueEmulator over recordings: verbatim frames beside own books, trades, candles and REST."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
from venue_sample import SECOND, SampleEmulator, SeededEmulator, Session

from cmd_common.emulation import MarketSource, Pending
from cmd_common.errors import UsageError
from cmd_common.faults import parse_fault
from cmd_common.recording import frame_line

BTC = "BTC-USD"
TS = 1_700_000_000 * SECOND  # 2023-11-14 22:13:20 UTC


def text(**data: Any) -> str:
    return msgspec.json.encode(data).decode()


def snapshot(u: int, bids: list[Any], asks: list[Any], at: float = 0, **more: Any) -> str:
    return text(**{"is": "snapshot", "y": BTC, "ts": TS + int(at * SECOND), "u": u, "b": bids, "a": asks, **more})


def update(u: int, bids: list[Any], asks: list[Any], at: float = 0, **more: Any) -> str:
    facts = {"is": "update", "y": BTC, "ts": TS + int(at * SECOND), "u": u, "p": u - 1, "b": bids, "a": asks}
    return text(**{**facts, **more})


def trades(at: float, *rows: tuple[str, str, str, str]) -> str:
    return text(**{"is": "trade", "y": BTC, "ts": TS + int(at * SECOND), "t": rows})


def write(path: Path, *lines: tuple[float, str] | tuple[float, str, str], start: int = TS) -> Path:
    with open(path, "wb") as file:
        for line in lines:
            url = line[2] if len(line) > 2 else None
            file.write(frame_line(start + int(line[0] * SECOND), "rest" if url else "ws", url, line[1]))
    return path


def serve(
    *paths: Path, kind: type[SampleEmulator] = SampleEmulator, faults: tuple[str, ...] = (), **more: Any
) -> Session:
    made = tuple(parse_fault(f) for f in faults)
    source = MarketSource("sample", recordings=tuple(map(str, paths)), speed=0, faults=made, **more)
    return Session(kind(source))


STREAM = [
    (0.0, text(**{"is": "hello", "n": 1})),
    (0.1, snapshot(10, [["100.5", "1"], ["100", "2"]], [["101", "1.5"], ["102", "3"]], 0.1)),
    (0.2, update(11, [["100.75", "0.25"]], [["101", "0"]], 0.2)),
    (0.3, trades(0.3, ("7", "101.00", "0.5", "buy"), ("8", "101.25", "0.125", "buy"))),
    (1.4, update(12, [["100", "0"]], [["103", "1"]], 1.4)),
    (1.5, text(**{"is": "beat"})),
    (61.6, trades(61.6, ("9", "99.5", "2", "sell"))),
    (61.7, update(13, [], [["102", "2"]], 61.7)),
]


def test_frames_are_served_as_they_came_to_those_who_asked(tmp_path: Path) -> None:
    s = serve(write(tmp_path / "r.ndjson", *STREAM))
    s.open()
    s.send("join", "book.BTC-USD", "trade.BTC-USD", "beat.")
    got = [msgspec.json.encode(f).decode() for f in s.run() if isinstance(f, dict) and "n" not in f]
    assert got == [line for _, line in STREAM[1:]]
    truth = s.emulator.truth()
    assert truth["books"] == {
        BTC: {
            "last_id": 13,
            "ts": TS + int(61.7 * SECOND),
            "bids": [(100.75, 0.25), (100.5, 1.0)],
            "asks": [(102.0, 2.0), (103.0, 1.0)],
        }
    }
    assert truth["trades"] == {BTC: {"first_id": 7, "last_id": 9, "count": 3}}
    assert s.emulator.trade_ids() == {BTC: ["7", "8", "9"]}
    assert truth["sent"] == {"depth:BTC-USD": 4, "trades:BTC-USD": 2, "clock": 1}


def test_the_ready_line_says_what_there_is(tmp_path: Path) -> None:
    path = write(tmp_path / "r.ndjson", *STREAM)
    with open(path, "ab") as file:
        file.write(b'{"recv_ns":1,"src":"ws","msg":{"torn')
    facts = serve(path).emulator.ready()
    assert facts["streams"] == {"depth:BTC-USD": 4, "trades:BTC-USD": 2, "clock": 1}
    assert facts["derived"] == ["candles"]
    assert (facts["first_event"], facts["last_event"]) == (TS + SECOND // 10, TS + int(61.7 * SECOND))
    assert "torn" in facts["notes"][0]


def test_a_late_client_gets_the_own_book_at_the_position(tmp_path: Path) -> None:
    s = serve(write(tmp_path / "r.ndjson", *STREAM))
    s.open(1)
    assert [f["is"] for f in s.send("join", "book.BTC-USD")] == ["hello", "joined"]  # it comes with the recording
    s.run(position=TS + int(1.4 * SECOND))
    s.open(2)
    first = s.send("join", "book1.BTC-USD", connection=2)[1]
    assert first["is"] == "snapshot"
    assert (first["data"]["bids"], first["data"]["asks"]) == (
        [["100.75", "0.25"], ["100.5", "1"]],
        [["102", "3"], ["103", "1"]],
    )
    assert first["data"]["last_id"] == 12
    s.run()
    mine = [f for c, f in s.frames if c == 2 and isinstance(f, dict) and "n" not in f]
    assert [f["u"] for f in mine] == [13]


def test_what_the_recording_lacks_holds_the_timeline_for_a_new_subscription(tmp_path: Path) -> None:
    lines = [STREAM[1], (0.3, update(13, [["102.5", "1"]], [], 0.3)), (0.4, update(14, [], [["104", "1"]], 0.4))]
    s = serve(write(tmp_path / "r.ndjson", *lines))
    s.open()
    s.send("join", "book.BTC-USD")
    s.run(seconds=0.1)
    assert s.emulator.world.position == TS + int(0.3 * SECOND)
    s.send("leave", "book.BTC-USD")
    again = s.send("join", "book.BTC-USD")[0]["data"]
    # What the new bid contradicts cannot be there any more.
    assert again["asks"] == []
    assert again["bids"][0] == ["102.5", "1"]
    s.run()
    assert s.emulator.truth()["books"][BTC]["asks"] == [(104.0, 1.0)]


def test_a_snapshot_that_is_still_to_come_is_waited_for(tmp_path: Path) -> None:
    lines = [STREAM[1], (0.3, update(13, [["99", "1"]], [], 0.3)), (0.4, snapshot(14, [["1", "1"]], [["2", "1"]], 0.4))]
    s = serve(write(tmp_path / "r.ndjson", *lines))
    s.open()
    s.send("join", "book.BTC-USD")
    s.run(position=TS + int(0.3 * SECOND))
    assert s.emulator.truth()["books"] == {}
    s.run()
    assert s.emulator.truth()["books"][BTC]["bids"] == [(1.0, 1.0)]


def test_a_book_is_cut_to_the_depth_of_its_channel(tmp_path: Path) -> None:
    lines = [
        (0.0, snapshot(10, [["100", "1"], ["99", "1"]], [["101", "1"], ["102", "1"]], depth=2)),
        (0.1, update(11, [["99.5", "1"]], [["100.5", "1"]], 0.1)),
        (0.2, update(12, [["99.5", "0"]], [["102", "4"]], 0.2)),
    ]
    s = serve(write(tmp_path / "r.ndjson", *lines))
    s.open()
    s.send("join", "book.BTC-USD")
    s.run()
    book = s.emulator.truth()["books"][BTC]
    assert book["bids"] == [(100.0, 1.0)]  # 99 was pushed out and the exchange said nothing more of it
    assert book["asks"] == [(100.5, 1.0), (101.0, 1.0)]


def test_a_request_for_a_book_waits_for_the_recorded_snapshot(tmp_path: Path) -> None:
    body = text(ts=TS + SECOND // 4, u=11, b=[["100.5", "1"], ["100.75", "0.25"]], a=[["102", "3"]])
    lines = [STREAM[2], (0.25, body, "https://sample.example/book/BTC-USD"), *STREAM[3:]]
    s = serve(write(tmp_path / "r.ndjson", STREAM[4], *lines, start=TS - 10 * SECOND), kind=SeededEmulator)
    assert s.json("/book/BTC-USD")["last_id"] == 11  # nobody listens: the first that was recorded
    s.open()
    s.send("join", "book.BTC-USD")
    pending = s.get("/book/BTC-USD?limit=1")
    assert isinstance(pending, Pending)
    s.run()
    book = msgspec.json.decode(s.responses[pending.token].body)
    # The update with id 12 came before the snapshot with id 11 and is newer.
    assert (book["last_id"], book["bids"], book["asks"]) == (12, [["100.75", "0.25"]], [["102", "3"]])
    assert s.emulator.truth()["books"][BTC]["last_id"] == 13
    assert s.emulator.truth()["books"][BTC]["asks"] == [(102.0, 2.0), (103.0, 1.0)]


def test_a_book_that_was_never_recorded_is_empty(tmp_path: Path) -> None:
    s = serve(write(tmp_path / "r.ndjson", STREAM[3]), kind=SeededEmulator)
    assert s.json("/book/BTC-USD")["bids"] == []


def test_history_comes_from_the_recorded_trades(tmp_path: Path) -> None:
    s = serve(write(tmp_path / "r.ndjson", *STREAM))
    market = s.emulator.market
    assert [(i.symbol, i.base, i.quote, i.tick, i.lot) for i in market.listed()] == [
        (BTC, "BTC", "USD", "0.01", "0.001")
    ]
    assert market.latest_trades(BTC, 10) == []  # nothing has happened yet
    assert market.days(BTC) == [date(2023, 11, 14)]
    day = market.day_trades(BTC, date(2023, 11, 14))
    assert [(t.id, t.name, t.price) for t in day] == [(7, "7", "101.00"), (8, "8", "101.25"), (9, "9", "99.5")]
    s.open()
    s.send("join", "candle_1m.BTC-USD")
    s.run()
    assert [t.id for t in market.trades_from(BTC, 8, 5)] == [8, 9]
    assert [t.id for t in market.trades_before(BTC, 9, 1)] == [8]
    assert [t.id for t in market.trades_between(BTC, TS, TS + SECOND)] == [7, 8]
    assert [t.id for t in market.latest_trades(BTC, 1)] == [9]
    candles = market.candles(BTC, "1m", 0, 2 * TS)
    assert [(c.open, c.high, c.low, c.close, c.volume, c.count) for c in candles] == [
        ("101.00", "101.25", "101.00", "101.25", "0.625", 2),
        ("99.50", "99.50", "99.50", "99.50", "2.000", 1),
    ]
    assert candles[0].amount == "63.15625"
    sent = s.of("candle")
    assert [c["closed"] for c in sent][-1] is False
    assert [(c["close"], c["count"]) for c in sent if c["closed"]] == [("101.25", 2)]
    assert sent[-1]["volume"] == candles[-1].volume
    assert market.day_candles(BTC, date(2023, 11, 14), "1m") == candles


def test_seconds_are_made_where_none_were_recorded(tmp_path: Path) -> None:
    s = serve(write(tmp_path / "r.ndjson", *(line for line in STREAM if "beat" not in line[1])))
    s.open()
    s.send("join", "beat.")
    s.run()
    assert [b["number"] for b in s.of("beat")] == [2]  # of two seconds that saw something; odd ones are not written


def test_ids_that_are_no_numbers_are_kept_as_text(tmp_path: Path) -> None:
    rows = (("b0-4", "1", "1", "buy"), ("a9-1", "1", "2", "sell"), ("b0-4", "1", "1", "buy"))
    s = serve(write(tmp_path / "r.ndjson", (0.0, trades(0, *rows)), (0.1, trades(0.1, rows[0]))))
    s.open()
    s.send("join", "trade.BTC-USD")
    s.run()
    assert s.emulator.trade_ids() == {BTC: ["b0-4", "a9-1"]}
    assert s.emulator.truth()["trades"][BTC]["count"] == 2


def test_recorded_bodies_and_reference_data_are_served_verbatim(tmp_path: Path) -> None:
    body, url = '{"trades": [1.50]}', "https://sample.example/trades/ETH-USD?limit=3"
    path = write(tmp_path / "r.ndjson", *STREAM, (70.0, body, url))
    (tmp_path / "info.json").write_text('{"symbols":  [1]}')
    s = serve(path, instruments=str(tmp_path / "info.json"))
    assert s.get("/trades/ETH-USD").body.decode() == body
    assert s.get("/instruments").body == b'{"symbols":  [1]}'
    recorded = write(tmp_path / "info.ndjson", (0.0, '{"all":  1}', "https://sample.example/info?x=1"))
    s = serve(path, instruments=str(recorded))
    assert s.get("/instruments").body == b'{"all":  1}'
    assert s.emulator.market.body("/info") == b'{"all":  1}'
    (tmp_path / "none.json").write_text("none")
    with pytest.raises(UsageError, match="no reference data"):
        serve(path, instruments=str(tmp_path / "none.json"))


def test_faults_name_the_ids_of_recorded_frames(tmp_path: Path) -> None:
    s = serve(write(tmp_path / "r.ndjson", *STREAM), faults=("drop:stream=trades,at=1", "drop:stream=depth,at=2"))
    s.open()
    s.send("join", "book.BTC-USD", "trade.BTC-USD")
    s.run()
    facts = {f["stream"]: f for f in s.emulator.truth()["faults"]}
    assert facts["trades:BTC-USD"]["names"] == ["7", "8"]
    assert (facts["depth:BTC-USD"]["first_id"], facts["depth:BTC-USD"]["last_id"]) == (11, 11)


def test_foreign_and_broken_lines_are_nobodys(tmp_path: Path) -> None:
    foreign = [
        (0.0, '{"e":"trade"}'),
        (0.1, "[1,2]"),
        (0.2, '"text"'),
        (0.3, '{"is":"update"}'),
        (0.4, '{"is":"trade","y":1}'),
    ]
    with pytest.raises(UsageError, match="no message of sample"):
        serve(write(tmp_path / "f.ndjson", *foreign))
    s = serve(write(tmp_path / "r.ndjson", *foreign, *STREAM))
    s.open()
    s.send("join", "book.BTC-USD")
    s.run()
    assert s.emulator.truth()["books"][BTC]["last_id"] == 13
