"""``cmd-cli archive`` of every exchange against ``cmd-cli replay --simulate``: two days, killed twice on the way."""

from __future__ import annotations

import itertools
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from cmd_common import registry
from cmd_common.emulation import MarketSource
from cmd_common.io import open_reader

# Candles of which interval: Kraken and Gemini give only the newest ones, which are two days of hours.
VENUES = {
    "binance-spot": "1m",
    "coinbase": "1m",
    "coinbase-advanced": "1m",
    "gemini": "1h",
    "kraken": "1h",
    "okx": "1m",
    "bybit-spot": "1m",
    "bybit-linear": "1m",
    "bitstamp": "1m",
}
NO_IDS = ("bybit-spot",)  # its files number their rows themselves
SEED, TRADES, DAYS = 11, 1000, 3
DAY = 86_400_000_000_000
MINUTE = 60_000_000_000


def something_downloaded(store: Path) -> bool:
    folder = store / "_downloads"
    return folder.is_dir() and any(p.is_file() for p in folder.rglob("*"))


def something_done(store: Path) -> bool:
    path = store / "_archive.sqlite"
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return bool(db.execute("SELECT count(*) FROM files WHERE state = 'done'").fetchone()[0])
    except sqlite3.OperationalError:  # just being made
        return False


def kill_when(process: Any, seen: Callable[[], bool]) -> None:
    """Kill the process in the middle of its work, as soon as ``seen``."""
    until = time.monotonic() + 60
    while not seen():
        assert process.poll() is None, f"ended before it could be killed: {process.communicate()}"
        assert time.monotonic() < until, "nothing came"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def archive(cmd: Any, replay: Any, venue: str, store: Path, days: tuple[date, date]) -> list[dict[str, Any]]:
    """Kill it after its first download and after its first finished unit, then let it end; then run it again."""
    arguments = (
        "archive", "--exchange", venue, "--symbols", "all", "--types", "trades,candles", "--interval", VENUES[venue],
        "--start", days[0].isoformat(), "--end", days[1].isoformat(), "--store", f"parquet:{store}", "--parallel", "1",
        "--endpoint", f"{venue}={replay.ready[venue]['endpoint']}",
    )  # fmt: skip
    kill_when(cmd.start(*arguments), lambda: something_downloaded(store))
    kill_when(cmd.start(*arguments), lambda: something_done(store))
    return [cmd.summary(*arguments, code=None) for _ in range(2)]


def query(sql: str, store: Path) -> list[dict[str, Any]]:
    with open_reader(f"parquet:{store}") as reader:
        result = reader.sql(sql)
        return [dict(zip(result.columns, row, strict=True)) for row in result.rows()]


def check(venue: str, store: Path, days: tuple[date, date], start: int, runs: list[dict[str, Any]]) -> None:
    """Compare the store with what the emulator's market was."""
    source = MarketSource(
        venue, simulate=True, symbols=1, seed=SEED, start=start, history_days=DAYS, history_trades=TRADES
    )
    emulator: Any = registry.exchange(venue).emulator(source)
    market = emulator.market if hasattr(emulator, "market") else None
    (symbol,) = emulator.ready()["symbols"]
    first, last = runs
    assert (first["failed"], last["failed"]) == (0, 0), (first["failures"], last["failures"])
    assert last["files"] == 0, "the second run had something to do"
    gaps = query("SELECT ts_from, ts_to, record_type, reason FROM gaps WHERE repaired_by = ''", store)
    begin = datetime(days[0].year, days[0].month, days[0].day, tzinfo=UTC).timestamp()
    low, high = int(begin) * 10**9, int(begin) * 10**9 + 2 * DAY
    if venue == "bitstamp":  # it answers for the trades of the last 24 hours only, and the ledger says so
        assert {g["record_type"] for g in gaps} == {"trades"}
        covered = sorted((g["ts_from"], g["ts_to"]) for g in gaps)
        assert covered[0][0] == low
        assert all(a[1] >= b[0] for a, b in itertools.pairwise(covered))
        low = covered[-1][1]
        assert low < high
    else:
        assert gaps == []

    rows = query(
        "SELECT ts_event, trade_id, price, quantity, side, symbol FROM trades ORDER BY ts_event, trade_seq",
        store,
    )
    assert {r["symbol"] for r in rows} == {symbol}
    if market is None:  # Binance: ids are contiguous, and the files were checked against their checksums
        ids = [int(r["trade_id"]) for r in rows]
        assert (len(rows), ids) == (2 * TRADES, list(range(ids[0], ids[0] + 2 * TRADES)))
        return
    unit = _unit([r["ts_event"] for r in rows])
    true = [t for day in days for t in market.day_trades(symbol, day) if t.ts >= low]
    want = Counter(
        (
            t.ts // unit * unit,
            "" if venue in NO_IDS else emulator.trade_name(t),
            float(t.price),
            float(t.quantity),
            t.side,
        )
        for t in true
    )
    have = Counter(
        (r["ts_event"], "" if venue in NO_IDS else r["trade_id"], r["price"], r["quantity"], r["side"])
        for r in rows
        if r["ts_event"] >= low
    )
    assert 0 < len(true) <= 2 * TRADES
    assert venue == "bitstamp" or len(true) == 2 * TRADES
    assert have == want, (
        len(have - want),
        len(want - have),
        list((have - want).items())[:2],
        list((want - have).items())[:2],
    )

    candles = query(
        f"SELECT open_time, open, high, low, close, volume FROM candles WHERE interval = '{VENUES[venue]}'",
        store,
    )
    assert len({c["open_time"] for c in candles}) == len(candles)
    stored = {c["open_time"]: tuple(c[n] for n in ("open", "high", "low", "close", "volume")) for c in candles}
    truth = {}
    for day in days:
        for c in market.day_candles(symbol, day, VENUES[venue]):
            truth[c.open_time] = (c.count, tuple(float(x) for x in (c.open, c.high, c.low, c.close, c.volume)))
    traded = {t: numbers for t, (count, numbers) in truth.items() if count}
    assert {t: stored.get(t) for t in traded} == traded
    assert all(
        numbers[4] == 0 for t, numbers in stored.items() if t not in traded
    )  # empty ones, where a venue has them


def _unit(times: list[int]) -> int:
    """The finest unit of the venue's times."""
    return next(u for u in (10**9, 10**6, 10**3, 1) if all(t % u == 0 for t in times))


def test_two_days_of_every_exchange_killed_twice_are_complete_and_without_duplicates(cmd: Any, tmp_path: Path) -> None:
    start = time.time_ns() // MINUTE * MINUTE
    today = datetime.fromtimestamp(start // 10**9, UTC).date()
    days = (today - timedelta(days=2), today - timedelta(days=1))
    replay = cmd.replay(
        "--simulate", "--symbols", "1", "--seed", str(SEED), "--history-days", str(DAYS), "--history-trades", str(TRADES),
        "--start", datetime.fromtimestamp(start // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), venues=tuple(VENUES),
    )  # fmt: skip
    with ThreadPoolExecutor(3) as pool:  # most of them wait for their rate limits
        jobs = {v: pool.submit(archive, cmd, replay, v, tmp_path / v, days) for v in VENUES}
        problems = {v: repr(e) for v, job in jobs.items() if (e := job.exception()) is not None}
    for venue, job in jobs.items():
        if venue not in problems:
            try:
                check(venue, tmp_path / venue, days, start, job.result())
            except AssertionError as error:
                problems[venue] = str(error)
    assert problems == {}
