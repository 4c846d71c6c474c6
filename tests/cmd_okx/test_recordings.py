"""Real traffic: the chain of 2026, single messages of 2022, and both served by the emulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import okx_wire as w
import pytest
from okx_session import Session, check_books

from cmd_common.emulation import MarketSource
from cmd_common.feed import Subscription
from cmd_common.instruments import Instrument
from cmd_common.recording import frame_line, read
from cmd_common.records import BookDelta, BookSnapshot, Candle, Gap, Quote, Trade
from cmd_common.sequence import BookState
from cmd_okx import OKX
from cmd_okx.emulator import OkxEmulator
from cmd_okx.sync import plain_text

NOW = 1_787_612_490_000_000_000
SPOT = "BTC-USDT"
CHAIN = "okx/tickvault_books_btcusdt_20260824.ndjson"
SAMPLES = "okx/crypto_msg_parser_samples.ndjson"
REFERENCE = "okx/cryptofeed_instruments_20220513.ndjson.gz"
KNOWN = {i.symbol: i for i in OKX.parse_instruments(w.INSTRUMENTS)}


def texts(path: Path) -> list[str]:
    return [line.text for line in read(path) if line.src in ("ws", "sample")]


def test_the_chain_of_2026_is_unbroken_and_its_checksum_zero(recordings: Path) -> None:
    (feed,) = OKX.feeds(Subscription((SPOT,), ("book",)), KNOWN, OKX.endpoints)
    feed.connected(NOW)
    records = [r for text in texts(recordings / CHAIN) for r in feed.receive(text, NOW).records]
    (snapshot,) = [r for r in records if isinstance(r, BookSnapshot)]
    assert (snapshot.known_bids, snapshot.known_asks) == (400, 400)
    deltas = [r for r in records if isinstance(r, BookDelta)]
    assert len(deltas) == 6
    assert [d.epoch for d in deltas] == [snapshot.seq] * 6
    assert not [r for r in records if isinstance(r, Gap)]
    counters = feed.counters
    assert counters.malformed == counters.unknown_fields == counters.unknown_messages == counters.duplicates == 0
    book = feed.books[SPOT].book
    book.check()
    assert book.state is BookState.LIVE
    assert not book.crossed
    rows = [row for text in texts(recordings / CHAIN)[1:] for row in json.loads(text)["data"]]
    assert [row["checksum"] for row in rows] == [0] * 7
    previous = [row["prevSeqId"] for row in rows]
    assert previous == [-1] + [row["seqId"] for row in rows[:-1]]


def test_numbers_are_recorded_in_their_plain_form(recordings: Path) -> None:
    """What the checksum's fallback relies on: a float written back is the exchange's own text."""
    count = 0
    for text in texts(recordings / CHAIN)[1:]:
        for row in json.loads(text)["data"]:
            for level in (*row["bids"], *row["asks"]):
                assert [plain_text(float(x)) for x in level[:2]] == level[:2]
                count += 1
    assert count >= 800


@pytest.mark.parametrize("missing", range(2, 7))
def test_a_missing_update_shows_at_the_next_one(recordings: Path, missing: int) -> None:
    (feed,) = OKX.feeds(Subscription((SPOT,), ("book",)), KNOWN, OKX.endpoints)
    feed.connected(NOW)
    for n, text in enumerate(texts(recordings / CHAIN)):
        if n == missing:
            continue
        feed.receive(text, NOW)
        if n == missing + 1:
            assert feed.books[SPOT].state is BookState.STALE
    assert feed.counters.resyncs == 1


def instruments_of_2022(recordings: Path) -> dict[str, Instrument]:
    found: dict[str, Instrument] = {}
    for line in read(recordings / REFERENCE):
        found |= {i.symbol: i for i in OKX.parse_instruments(line.text.encode())}
    return found


def test_single_messages_of_2022(recordings: Path) -> None:
    """Every channel that is read here, of every kind of instrument; expired ones get the shape of a listed one."""
    from msgspec.structs import replace

    known = instruments_of_2022(recordings)
    seen: dict[str, int] = {}
    for text in texts(recordings / SAMPLES):
        frame = json.loads(text)
        if "arg" not in frame or "data" not in frame:
            continue
        channel, symbol = frame["arg"]["channel"], frame["arg"]["instId"]
        kind = {"books": "book", "books-l2-tbt": "book", "books5": "book", "bbo-tbt": "quotes", "tickers": "quotes", "trades": "trades", "candle1m": "candles"}.get(channel)  # fmt: skip
        if kind is None:
            continue
        instruments = {**known, symbol: replace(known.get(symbol, known[SPOT]), symbol=symbol)}
        depth = 5 if channel == "books5" else None
        (feed,) = OKX.feeds(Subscription((symbol,), (kind,), depth=depth), instruments, OKX.endpoints)
        feed.connected(NOW)
        # Checksums are over 25 levels, the samples were shortened to three: their sums cannot fit.
        for row in frame["data"]:
            if isinstance(row, dict) and "checksum" in row:
                row["checksum"] = 0
        records = feed.receive(json.dumps(frame, separators=(",", ":")), NOW).records
        data = [r for r in records if isinstance(r, Trade | Quote | Candle | BookSnapshot)]
        counters = feed.counters
        assert counters.malformed == counters.unknown_fields == counters.unknown_messages == 0, text
        update = frame.get("action") == "update"
        assert len(data) == (0 if update else len(frame["data"])), text
        seen[channel] = seen.get(channel, 0) + 1
    assert seen == {"trades": 6, "books-l2-tbt": 5, "books5": 6, "bbo-tbt": 6, "candle1m": 6, "tickers": 6}


# Served by the emulator


def recorded(*paths: Path, **options: Any) -> OkxEmulator:
    return OkxEmulator(MarketSource("okx", recordings=tuple(map(str, paths)), speed=0, **options))


def test_the_recording_is_served_verbatim(recordings: Path) -> None:
    s = Session(recorded(recordings / CHAIN))
    assert s.instruments()[SPOT].unified == "BTC-USDT"
    feeds = s.start(Subscription((SPOT,), ("book",)))
    s.run()
    wanted = texts(recordings / CHAIN)[1:]
    assert [f for f in s.frames if '"data"' in f] == wanted
    check_books(s, feeds)
    assert s.of(Gap) == []
    assert len(s.of(BookDelta)) == 6


def test_a_lost_update_of_the_recording_is_repaired_by_a_made_snapshot(recordings: Path) -> None:
    s = Session(recorded(recordings / CHAIN, faults=()))
    from cmd_common.faults import parse_fault

    s = Session(recorded(recordings / CHAIN, faults=(parse_fault("drop:at=3,stream=depth"),)))
    feeds = s.start(Subscription((SPOT,), ("book",)))
    s.run()
    check_books(s, feeds)
    assert [g.reason for g in s.of(Gap)] == ["sequence"]
    assert len(s.of(BookSnapshot)) == 2


def test_five_levels_are_made_of_recorded_updates(recordings: Path) -> None:
    s = Session(recorded(recordings / CHAIN))
    feeds = s.start(Subscription((SPOT,), ("book",), depth=5))
    s.run()
    assert len(s.of(BookSnapshot)) == 7
    truth = s.emulator.truth(5)["books"][SPOT]
    assert feeds[0].books[SPOT].book.asks(5) == truth["asks"]


def test_recorded_reference_data_is_served_type_by_type(recordings: Path) -> None:
    s = Session(recorded(recordings / CHAIN, instruments=str(recordings / REFERENCE)))
    found = s.instruments()
    assert {i.kind for i in found.values()} == {"spot", "perpetual", "future"}
    assert len(found) == 513 + 166 + 104


def test_made_up_traffic_of_2022_with_checksums(tmp_path: Path) -> None:
    """Books without ids, tickers, trades: read as they are, and a client that comes back gets a snapshot that fits."""
    lines = [w.old(w.snapshot(SPOT, 0, **w.summed(SPOT, 0)))]
    for n in range(1, 40):
        lines.append(w.old(w.depth(SPOT, n, **w.summed(SPOT, n))))
        row = w.trade_row(SPOT, n)
        for key in ("count", "source", "seqId"):
            del row[key]
        lines.append(w.frame("trades", SPOT, row))
        ticker = {"instId": SPOT, "askPx": "101", "askSz": "2", "bidPx": "99", "bidSz": str(n), "ts": str(w.MS + n)}
        lines.append(w.frame("tickers", SPOT, ticker))
    path = tmp_path / "old.ndjson"
    path.write_bytes(b"".join(frame_line(w.NOW + n * 10**8, "ws", None, text) for n, text in enumerate(lines)))
    from cmd_common.faults import parse_fault

    for faults in ((), (parse_fault("drop:at=10,stream=depth"),), (parse_fault("disconnect:at=30,ms=300"),)):
        s = Session(recorded(path, faults=faults))
        feeds = s.start(Subscription((SPOT,), ("trades", "quotes", "book", "candles")))
        s.run()
        book = feeds[0].books[SPOT].book
        truth = s.emulator.truth(400)["books"][SPOT]
        assert book.state is BookState.LIVE
        assert (book.bids(), book.asks()) == (truth["bids"], truth["asks"])
        assert len(s.of(BookDelta)) >= 30
        assert len(s.of(Quote)) >= 30
        assert s.of(Candle)  # derived from the recorded trades
        reasons = [g.reason for g in s.of(Gap) if g.record_type == "book_deltas"]
        assert reasons == ([] if not faults else ["checksum"] if faults[0].kind == "drop" else ["disconnect"])
        if not faults:
            assert len(s.of(Trade)) == 39
            assert s.of(Gap) == []
