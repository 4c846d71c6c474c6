"""Six exchanges at once: ten simulated minutes with faults, recorded and compared with what the simulators know.

Not every loss can be seen. Coinbase's ``level2_batch`` and Bitstamp's ``diff_order_book`` number nothing: a lost
book message cannot be told from none, so there only cuts, silence of the whole connection, torn frames and
shutdowns are injected. Kraken's checksum covers the best ten levels, which not every message changes: there several
in a row are dropped. Trade ids rise by one on Coinbase, Kraken and OKX; on the others a trade that is lost while the
connection stays is not missed by anybody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cmd_common.records import Gap, Trade
from cmd_parquet.reader import ParquetReader

VENUES = ("coinbase", "gemini", "kraken", "okx", "bybit-spot", "bitstamp")
CHAINED = ("gemini", "kraken", "okx", "bybit-spot")  # a lost book message shows
NUMBERED = ("coinbase", "kraken", "okx")  # a lost trade shows
DEPTH = {"okx": 400, "kraken": 1000, "bybit-spot": 1000, "bybit-linear": 1000}  # levels a side that the channel has
MS = 1_000_000

FAULTS = (
    "repeat:rate=0.003",
    "disconnect:at=2500,ms=3000",
    "tear:stream=depth,at=4000",
    "malformed:at=8000,count=3",
    "delay:stream=trades,at=1500,ms=400",
    "disconnect:stream=trades,at=3000,ms=500",
    "shutdown:at=13000,ms=1000",
    "rate_limit:venue=bitstamp,path=order_book,at=1",
    *(f"drop:venue={venue},stream=depth,at=700" for venue in CHAINED if venue != "kraken"),
    *(f"drop:venue={venue},stream=depth,at=5000,count=20" for venue in CHAINED),
    *(f"reorder:venue={venue},stream=depth,at=7000" for venue in CHAINED),
    *(f"silence:venue={venue},stream=depth,at=9000,ms=2000" for venue in CHAINED),
    *(f"drop:venue={venue},stream=trades,at=2000,count=5" for venue in NUMBERED),
)


class Seen:
    """The rows of one symbol and the faults of its streams."""

    def __init__(self, reader: ParquetReader, venue: str, symbol: str, truth: dict[str, Any]) -> None:
        self.trades = [
            r for r in reader.records("trades", venue=venue, symbols=[symbol]) if isinstance(r, Trade)
        ]  # fmt: skip
        self.gaps = [g for g in reader.records("gaps", venue=venue) if isinstance(g, Gap) and g.symbol in (symbol, "")]
        self.faults = [f for f in truth["faults"] if f.get("symbol") == symbol]

    def covered(self, table: str, first: int, last: int) -> bool:
        """Whether one gap row spans the time; some venues tell milliseconds only."""
        gaps = (g for g in self.gaps if g.record_type == table)
        return any(g.ts_from - MS <= first and last <= g.ts_to + MS for g in gaps)


@pytest.mark.slow
def test_ten_minutes_of_six_exchanges_with_faults(cmd, tmp_path: Path) -> None:
    faults = [option for fault in FAULTS for option in ("--fault", fault)]
    replay = cmd.replay(
        "--simulate", "--symbols", "2", "--seed", "29", "--speed", "max", "--duration", "600s", *faults, venues=VENUES
    )
    store = tmp_path / "store"
    summary = cmd.summary(
        "record", "--exchange", ",".join(VENUES), "--symbols", "all", "--types", "trades,book",
        "--store", f"parquet:{store}", *replay.endpoints, "--until-end", code=3,
    )  # fmt: skip
    kinds = ("repeat", "disconnect", "tear", "malformed", "delay", "shutdown", "lost")
    with ParquetReader(str(store)) as reader:
        for venue in VENUES:
            _check(reader, venue, summary, replay.truth(venue, "depth=5000&trades=1"), kinds)


def test_numbered_connections_and_perpetuals_with_faults(cmd, tmp_path: Path) -> None:
    """Coinbase numbers every frame of a connection, so that a loss anywhere is one everywhere."""
    venues = ("coinbase-advanced", "bybit-linear", "okx")
    faults = ("drop:stream=depth,at=300", "drop:stream=trades,at=400", "disconnect:at=2000,ms=1500")
    replay = cmd.replay(
        "--simulate", "--symbols", "BTC-USDT-PERP,ETH-USDT-PERP", "--seed", "31", "--speed", "max",
        "--duration", "90s", *(option for fault in faults for option in ("--fault", fault)), venues=venues,
    )  # fmt: skip
    assert replay.ready["okx"]["symbols"] == ["BTC-USDT-SWAP", "ETH-USDT-SWAP"]
    store = tmp_path / "store"
    summary = cmd.summary(
        "record", "--exchange", ",".join(venues), "--symbols", "all", "--types", "trades,quotes,candles,book",
        "--interval", "5m", "--store", f"parquet:{store}", *replay.endpoints, "--until-end", code=3,
    )  # fmt: skip
    with ParquetReader(str(store)) as reader:
        for venue in venues:
            truth = replay.truth(venue, "depth=5000&trades=1")
            if venue == "bybit-linear":  # its trade ids follow nothing: the dropped one is not missed
                dropped = {f["name"] for f in truth["faults"] if f["kind"] == "drop" and "name" in f}
                assert len(dropped) == 1
                for ids in truth["trade_ids"].values():
                    ids[:] = [name for name in ids if name not in dropped]
            _check(reader, venue, summary, truth, ("drop", "disconnect", "lost"))
            for table in ("quotes", "candles"):
                for symbol in truth["books"]:
                    assert next(iter(reader.records(table, venue=venue, symbols=[symbol])), None), (venue, table)


def _check(
    reader: ParquetReader, venue: str, summary: dict[str, Any], truth: dict[str, Any], kinds: tuple[str, ...]
) -> None:
    assert truth["finished"]
    assert len(truth["books"]) == 2
    for kind in kinds:
        assert truth["fault_counts"][kind] >= 1, (venue, kind)
    for symbol, book in truth["books"].items():
        where = f"{venue}:{symbol}"
        assert summary["books"][where]["state"] == "LIVE", where
        _check_book(reader, venue, symbol, truth, book)
        seen = Seen(reader, venue, symbol, truth)
        _check_gaps(seen, where)
        _check_trades(seen, where, truth["trade_ids"][symbol])


def _check_book(reader: ParquetReader, venue: str, symbol: str, truth: dict[str, Any], true: dict[str, Any]) -> None:
    book = reader.book_at(venue, symbol, truth["position"] + 1_000 * MS)
    assert book is not None, (venue, symbol)
    limit = DEPTH.get(venue)
    for side, levels in (("bids", book.bids()), ("asks", book.asks())):
        assert [list(level) for level in levels] == true[side][:limit], (venue, symbol, side)
        assert len(levels) >= 300


def _check_gaps(seen: Seen, where: str) -> None:
    """Every injected loss lies in a gap row."""
    for fault in seen.faults:
        kind, stream = fault["kind"], fault.get("stream", "").partition(":")[0]
        if kind in ("drop", "lost", "tear") and stream in ("depth", "top"):
            assert seen.covered("book_deltas", fault["ts"], fault["ts"]), (where, fault)


def _check_trades(seen: Seen, where: str, true: list[str]) -> None:
    """Stored ids and those that gap rows cover are all ids; nothing is stored twice.

    Missing are lost ones and what was on its way to a connection that its client gave up.
    """
    times = {t.trade_id: t.ts_event for t in seen.trades}
    assert len(times) == len(seen.trades), where
    assert true[0] in times, where
    assert true[-1] in times, where
    before = 0
    holes: list[tuple[int, int]] = []  # times of the stored trades around missing ones
    missing = 0
    for name in true:
        if name not in times:
            missing += 1
            if not holes or holes[-1][1]:
                holes.append((before, 0))
        else:
            before = times[name]
            if holes and not holes[-1][1]:
                holes[-1] = (holes[-1][0], before)
    for first, last in holes:
        assert seen.covered("trades", first, last), (where, first, last)
    assert missing < len(true) / 10, where
    # What a subscription brings besides is history from before the start.
    known = set(true)
    assert all(ts <= times[true[0]] for name, ts in times.items() if name not in known), where
