"""``cmd-cli record`` against ``cmd-cli replay``: real recordings, kills, faults."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

FIRST_TRADE, LAST_TRADE = 3735683259, 3735703162  # of the two recordings, contiguous
TRADES = LAST_TRADE - FIRST_TRADE + 1
KEYS = {
    "trades": "ts_event, venue, symbol, trade_id, price, quantity, side",
    "book_deltas": "ts_event, venue, symbol, epoch, seq, first_seq, bids, asks",
    "book_snapshots": "ts_event, venue, symbol, epoch, seq, bids, asks",
}


def _keys(cmd, store: str, table: str) -> list[dict[str, object]]:
    return cmd.query(f"SELECT {KEYS[table]} FROM {table} ORDER BY ALL", store)


def _two_days(recordings: Path) -> list[str]:
    folder = recordings / "binance_spot"
    return ["--recording", *(str(folder / f"hft_btcusdt_{day}.ndjson.gz") for day in ("20240808", "20240809"))]


def test_two_recorded_days_give_every_trade_once_split_at_midnight(cmd, recordings: Path, tmp_path: Path) -> None:
    replay = cmd.replay(*_two_days(recordings), "--speed", "max", "--exit-at-end")
    store = f"parquet:{tmp_path / 'store'}"
    summary = cmd.summary(
        "record", "--exchange", "binance-spot", "--symbols", "BTCUSDT", "--types", "trades,quotes,book",
        "--store", store, *replay.endpoints, "--until-end",
    )  # fmt: skip
    assert summary["gaps"] == 0
    assert summary["records"]["trades"] == TRADES
    assert summary["records"]["quotes"] == 73_174
    book = summary["books"]["binance-spot:BTCUSDT"]
    assert book["state"] == "LIVE"

    rows = cmd.query(
        "SELECT count(*) AS n, count(DISTINCT trade_id) AS ids, min(trade_seq) AS low, max(trade_seq) AS high FROM trades",
        store,
    )
    assert rows == [{"n": TRADES, "ids": TRADES, "low": FIRST_TRADE, "high": LAST_TRADE}]
    days = cmd.query(
        "SELECT CAST(make_timestamp_ns(ts_event) AS DATE)::VARCHAR AS day, count(*) AS n FROM trades GROUP BY ALL ORDER BY ALL",
        store,
    )
    assert [d["day"] for d in days] == ["2024-08-08", "2024-08-09"]
    folder = tmp_path / "store" / "table=trades" / "venue=binance-spot" / "symbol=BTCUSDT"
    assert sorted(p.name for p in folder.iterdir()) == ["date=2024-08-08", "date=2024-08-09"]

    # The book at the end agrees with the exchange's own last best bid and offer that is not newer than it.
    quote = cmd.query(f"SELECT * FROM quotes WHERE seq <= {book['last_id']} ORDER BY seq DESC LIMIT 1", store)[0]
    assert book["best_bid"] == [quote["bid_price"], quote["bid_quantity"]]
    assert book["best_ask"] == [quote["ask_price"], quote["ask_quantity"]]
    assert replay.process.wait(timeout=20) == 0  # --exit-at-end


def test_a_killed_recorder_run_again_ends_with_the_same_rows(cmd, recordings: Path, tmp_path: Path) -> None:
    first40s = ["--recording", str(recordings / "binance_spot" / "hft_btcusdt_20240808_first40s.ndjson")]
    command = ["record", "--exchange", "binance-spot", "--symbols", "BTCUSDT", "--types", "trades,book", "--until-end"]

    clean = f"parquet:{tmp_path / 'clean'}"
    replay = cmd.replay(*first40s, "--speed", "max", "--exit-at-end")
    cmd.summary(*command, "--store", clean, *replay.endpoints)

    killed = f"parquet:{tmp_path / 'killed'}"
    dice = random.Random(20240808)
    for _ in range(3):
        replay = cmd.replay(*first40s, "--speed", "20")  # two seconds for the whole recording
        process = cmd.start(*command, "--store", killed, *replay.endpoints)
        time.sleep(1.5 + 2.0 * dice.random())  # a random moment is the point: a kill has no right time
        process.kill()
        process.wait()
        replay.stop()
    replay = cmd.replay(*first40s, "--speed", "max", "--exit-at-end")
    cmd.summary(*command, "--store", killed, *replay.endpoints)

    for table in KEYS:
        assert _keys(cmd, killed, table) == _keys(cmd, clean, table)
    assert not list((tmp_path / "killed").rglob(".tmp-*"))


@pytest.mark.parametrize("venue", ["binance-spot", "binance-usdm", "binance-coinm"])
def test_a_lost_depth_message_is_noticed_recorded_and_healed(cmd, venue: str, tmp_path: Path) -> None:
    replay = cmd.replay(
        "--simulate", "--symbols", "3", "--seed", "7", "--speed", "20", "--duration", "60s",
        "--fault", "drop:stream=depth,at=40", "--fault", "drop:stream=depth,at=200", venues=[venue],
    )  # fmt: skip
    store = f"parquet:{tmp_path / 'store'}"
    summary = cmd.summary(
        "record", "--exchange", venue, "--symbols", "all", "--types", "trades,book", "--store", store,
        *replay.endpoints, "--until-end", code=3,
    )  # fmt: skip
    truth = replay.truth(venue)
    assert len(truth["faults"]) == 2
    gaps = cmd.query("SELECT symbol, record_type, reason, ts_from, ts_to FROM gaps", store)
    assert {g["symbol"] for g in gaps if g["record_type"] == "book_deltas"} == {f["symbol"] for f in truth["faults"]}
    assert all(g["ts_from"] <= g["ts_to"] for g in gaps)
    assert len(summary["books"]) == 3
    for name, book in summary["books"].items():
        true = truth["books"][name.split(":")[1]]
        assert book["state"] == "LIVE"
        assert book["last_id"] == true["last_id"]
        assert book["best_bid"] == [float(x) for x in true["bids"][0]]
        assert book["best_ask"] == [float(x) for x in true["asks"][0]]


def test_live_and_archived_rows_of_a_simulated_day_are_one_row(cmd, tmp_path: Path) -> None:
    replay = cmd.replay("--simulate", "--symbols", "2", "--seed", "3", "--speed", "10", "--duration", "60s")
    facts = replay.ready["binance-spot"]
    symbols = ",".join(facts["symbols"])
    store = f"parquet:{tmp_path / 'store'}"
    live = cmd.summary(
        "record", "--exchange", "binance-spot", "--symbols", symbols, "--types", "trades", "--store", store,
        *replay.endpoints, "--until-end",
    )  # fmt: skip
    assert live["records"]["trades"] > 100
    day = cmd.query("SELECT DISTINCT CAST(make_timestamp_ns(ts_event) AS DATE)::VARCHAR AS day FROM trades", store)
    assert len(day) == 1
    assert day[0]["day"] >= "2025-01-01"  # published in microseconds since then

    archive = [
        "archive", "--exchange", "binance-spot", "--symbols", symbols, "--types", "trades",
        "--start", day[0]["day"], "--end", day[0]["day"], *replay.endpoints,
    ]  # fmt: skip
    cmd.summary(*archive, "--store", store, code=None)
    alone = f"parquet:{tmp_path / 'alone'}"
    cmd.summary(*archive, "--store", alone, code=None)
    columns = "ts_event, symbol, trade_id, price, quantity, side"
    both = cmd.query(f"SELECT {columns} FROM trades ORDER BY ALL", store)
    assert both == cmd.query(f"SELECT {columns} FROM trades ORDER BY ALL", alone)
    counts = cmd.query(
        "SELECT count(ts_recv) AS live, count(DISTINCT (symbol, trade_id)) AS ids, count(*) AS n FROM trades", store
    )
    assert counts == [{"live": live["records"]["trades"], "ids": len(both), "n": len(both)}]


def test_a_clock_behind_the_exchange_is_normal(cmd, tmp_path: Path) -> None:
    replay = cmd.replay(
        "--simulate", "--symbols", "2", "--seed", "5", "--start", "2090-01-01T00:00:00", "--duration", "20s",
        "--speed", "10",
    )  # fmt: skip
    store = f"parquet:{tmp_path / 'store'}"
    summary = cmd.summary(
        "record", "--exchange", "binance-spot", "--symbols", "all", "--types", "trades,book,candles", "--store", store,
        *replay.endpoints, "--until-end",
    )  # fmt: skip
    assert summary["gaps"] == 0
    assert {b["state"] for b in summary["books"].values()} == {"LIVE"}
    counts = cmd.query("SELECT count(*) AS n, count(*) FILTER (ts_recv < ts_event) AS early FROM trades", store)
    assert counts[0]["n"] == counts[0]["early"] == summary["records"]["trades"]  # neither clamped nor dropped
