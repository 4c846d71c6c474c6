"""The main job end to end: record live data, archive two days of history, query both from one store.

By default everything comes from a simulated Binance on loopback, so no network is needed;
``--live`` uses the real exchange. Run it through ``deploy/demo.sh``, which sets everything up.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

CLI = str(Path(sysconfig.get_path("scripts")) / "cmd-cli")
VENUE = "binance-spot"
DATA = "data/demo"
QUERIES = (
    (
        "trades by symbol, live and archived in one table",
        "SELECT symbol, count(*) AS trades, round(sum(quantity), 4) AS volume, "
        "count(*) FILTER (ts_recv IS NOT NULL) AS live, count(*) FILTER (ts_recv IS NULL) AS archived "
        "FROM trades GROUP BY symbol ORDER BY symbol",
    ),
    (
        "hourly candles of the first archived day",
        "SELECT symbol, make_timestamp_ns(open_time // 3600000000000 * 3600000000000) AS hour, "
        "arg_min(open, open_time) AS open, max(high) AS high, min(low) AS low, arg_max(close, open_time) AS close "
        "FROM candles WHERE interval = '1m' AND state <> 'provisional' GROUP BY ALL ORDER BY symbol, hour LIMIT 6",
    ),
    (
        "average spread of the recorded quotes, and what is missing",
        "SELECT q.symbol, count(*) AS quotes, round(avg(ask_price - bid_price), 8) AS average_spread, "
        "(SELECT count(*) FROM gaps g WHERE g.symbol = q.symbol) AS gaps "
        "FROM quotes q GROUP BY q.symbol ORDER BY q.symbol",
    ),
)

QUESTDB = Path(__file__).resolve().parent / "questdb" / "local.sh"
QUESTDB_QUERIES = (
    (
        "trades by symbol, live and archived in one table",
        "SELECT symbol, count() AS trades, round(sum(quantity), 4) AS volume, "
        "sum(CASE WHEN ts_recv IS NOT NULL THEN 1 ELSE 0 END) AS live, "
        "sum(CASE WHEN ts_recv IS NULL THEN 1 ELSE 0 END) AS archived "
        "FROM trades GROUP BY symbol ORDER BY symbol",
    ),
    (
        "hourly candles, kept by the server from the trades of the archived days",
        "SELECT symbol, open_time, open, high, low, close, trades FROM candles_1h ORDER BY symbol, open_time LIMIT 6",
    ),
    (
        "average spread of the recorded quotes, and what is missing",
        "SELECT q.symbol, q.quotes, q.average_spread, coalesce(g.gaps, 0) AS gaps FROM "
        "(SELECT symbol, count() AS quotes, round(avg(ask_price - bid_price), 8) AS average_spread FROM quotes) q "
        "LEFT JOIN (SELECT symbol, count() AS gaps FROM gaps) g ON (symbol) ORDER BY symbol",
    ),
)


def say(text: str) -> None:
    """Print a headline."""
    print(f"\n--- {text}", flush=True)


def run(arguments: Sequence[str], *, quiet: bool = False) -> str:
    """Run cmd-cli and return what it printed; its words go to the terminal. Ends the demo on failure."""
    if not quiet:
        print(f"$ cmd-cli {' '.join(a if a and ' ' not in a else repr(a) for a in arguments)}", flush=True)
    done = subprocess.run([CLI, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):  # 3: done, but data is missing; the gaps table says what
        raise SystemExit(f"demo: error: cmd-cli {arguments[0]} ended with {done.returncode}")
    return done.stdout


def start_replay(symbols: int, seed: int) -> tuple[subprocess.Popen[str], dict[str, object]]:
    """Start the simulated exchange and wait for its ready line."""
    command = [CLI, "replay", "--exchange", VENUE, "--simulate", "--symbols", str(symbols), "--seed", str(seed)]
    print(f"$ cmd-cli {' '.join(command[1:])} &", flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"demo: error: cmd-cli replay did not start (exit code {process.wait()})")
    return process, json.loads(line)


def start_questdb(root: Path) -> str:
    """Start a QuestDB in ``root`` on free loopback ports and return its connection string."""
    command = [str(QUESTDB), "--root", str(root), "--port", "0", "--pg-port", "0", "--min-port", "0"]
    print(f"$ deploy/questdb/local.sh {' '.join(command[1:])}", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("demo: error: QuestDB did not start; the line above says why")
    return done.stdout.strip()


def stop_questdb(root: Path) -> None:
    """End the QuestDB of ``root``, where one runs."""
    subprocess.run([str(QUESTDB), "--stop", "--root", str(root)], check=False, stderr=subprocess.DEVNULL)


def fresh_folder(data: Path, store: str) -> None:
    """Make way for a new store; refuses to remove what is not one."""
    mark = "conf/server.conf" if store == "questdb" else "_store"
    if not data.exists():
        return
    if not data.is_dir() or (any(data.iterdir()) and not (data / mark).exists()):
        raise SystemExit(f"demo: error: {data} is not a store, so it is not replaced; choose another --data")
    if store == "questdb":
        stop_questdb(data)
    shutil.rmtree(data)


def demo(arguments: argparse.Namespace) -> None:
    """Run the whole job and print where the data is."""
    data = Path(arguments.data).resolve()
    store, queries = f"parquet:{data}", QUERIES
    if arguments.store == "questdb":
        data = data.with_name(data.name + "-questdb") if arguments.data == DATA else data
        queries = QUESTDB_QUERIES
    fresh_folder(data, arguments.store)
    began = time.monotonic()
    replay: subprocess.Popen[str] | None = None
    endpoint: list[str] = []
    try:
        if arguments.store == "questdb":
            say("a QuestDB server on loopback")
            store = f"questdb:{start_questdb(data)}"
        if arguments.live:
            symbols = ["BTCUSDT", "ETHUSDT"]
            archive_symbols = symbols
            last = datetime.now(UTC).date() - timedelta(days=2)  # a day's file appears the next morning
            days = [str(last - timedelta(days=1)), str(last)]
        else:
            say("a simulated Binance, served over the real protocol on loopback")
            replay, ready = start_replay(arguments.symbols, arguments.seed)
            print(json.dumps(ready), flush=True)
            endpoint = ["--endpoint", str(ready["endpoint"])]
            symbols = [str(s) for s in ready["symbols"]]  # type: ignore[attr-defined]
            archive_symbols = symbols[:2]
            days = [str(d) for d in ready["history_days"]][-2:]  # type: ignore[attr-defined]

        say(f"recording books, trades, quotes and candles of {len(symbols)} symbols for {arguments.seconds} seconds")
        out = run(
            ["record", "--exchange", VENUE, "--symbols", ",".join(symbols), "--types", "trades,quotes,book,candles",
             "--store", store, *endpoint, "--duration", f"{arguments.seconds}s", "--json"]
        )  # fmt: skip
        summary = json.loads(out.strip().splitlines()[-1])
        print(f"{'book':28} {'state':8} {'last id':>14} {'best bid':>14} {'best ask':>14}")
        for name, book in summary["books"].items():
            bid, ask = book["best_bid"] or ["-"], book["best_ask"] or ["-"]
            print(f"{name:28} {book['state']:8} {book['last_id']:>14} {bid[0]:>14} {ask[0]:>14}")

        say(f"archiving trades and candles of {', '.join(archive_symbols)} from {days[0]} to {days[-1]}")
        archived = run(
            ["archive", "--exchange", VENUE, "--symbols", ",".join(archive_symbols), "--types", "trades,candles",
             "--start", days[0], "--end", days[-1], "--store", store, *endpoint, "--json"]
        )  # fmt: skip
        archive_summary = json.loads(archived.strip().splitlines()[-1])

        say("three queries over the one store")
        for title, query in queries:
            print(f"\n{title}")
            print(run(["query", query, "--store", store, "--format", "table"], quiet=True), end="", flush=True)

        say("summary")
        counts = run(
            ["query", " UNION ALL ".join(
                f"SELECT '{t}' AS \"table\", count(*) AS \"rows\" FROM {t}"
                for t in ("trades", "quotes", "candles", "book_snapshots", "book_deltas", "instruments", "gaps")),
             "--store", store, "--format", "table"],
            quiet=True,
        )  # fmt: skip
        print(counts, end="")
        print(f"recorded: {sum(summary['records'].values())} records, {summary['gaps']} gaps")
        print(f"archived: {json.dumps(archive_summary)}")
        files = data / "db" if arguments.store == "questdb" else data
        size = sum(f.stat().st_size for f in files.rglob("*") if f.is_file())
        print(f"the data is in {data} ({size / 1e6:.1f} MB), after {time.monotonic() - began:.0f} s")
        if arguments.store == "questdb":
            print(f"start its server again: {QUESTDB} --root {data}")
            store = "questdb:CONNECTION  (the line that prints)"
        print(f'ask it something: {CLI} query "SELECT * FROM trades LIMIT 5" --store {store}')
    finally:
        if replay is not None:
            replay.send_signal(signal.SIGTERM)
            try:
                replay.wait(timeout=10)
            except subprocess.TimeoutExpired:
                replay.kill()
                replay.wait()
        if arguments.store == "questdb":
            stop_questdb(data)


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(prog="deploy/demo.sh", description="Record, archive and query: the main job.")
    parser.add_argument("--live", action="store_true", help="use the real Binance instead of the simulation")
    parser.add_argument("--seconds", type=int, default=10, help="how long to record (default 10)")
    parser.add_argument("--symbols", type=int, default=4, help="simulated symbols (default 4)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulation (default 1)")
    parser.add_argument("--data", default=DATA, help=f"folder of the store, replaced (default {DATA})")
    parser.add_argument(
        "--store",
        choices=("parquet", "questdb"),
        default="parquet",
        help="the embedded store, or a QuestDB server started for the demo (default parquet)",
    )
    arguments = parser.parse_args()
    if arguments.seconds < 1:
        parser.error("--seconds must be at least 1")
    try:
        demo(arguments)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
