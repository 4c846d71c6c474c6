"""Benchmark QD: rows into a QuestDB server, ours beside the bare client, psycopg and CSV import.

A server of its own is started on loopback, with pages and heap as in production. Every round runs every way once,
interleaved, each into the emptied table and each in a fresh process, over the same trades: from the call until the
rows can be read, and until the server has acknowledged them. The medians of the rounds are compared; every way's
rows are counted and summed afterwards, outside the clock; imports and the connection are made before it. The server needs two or three times the client's time, so
wall time is what counts here, not the client's CPU time.

    ours, archive day         writer.write_batch of Arrow batches and flush: file into the import folder, proof of the day
    ours, archive over HTTP   the same without an import folder: frames, proof of the day
    ours, live                writer.write of record objects, a flush every 20,000
    bare client               Sender.dataframe of a pandas frame that is ready, DEDUP on, default flushing
    psycopg executemany       one INSERT a row, fewer rows (it is slow); microseconds only
    CSV import                COPY of a CSV file that is ready into such a table with microseconds

    python benchmarks/questdb.py [--rounds 5] [--rows 1000000] [--seed 1] [--jar PATH]

Needs Java 17 and the server's jar (deploy/questdb/local.sh --fetch-only), pandas and psycopg. Writes its results into
benchmarks/results/latest.json, leaving other benchmarks' entries alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "cmd_questdb")]
from harness import save  # noqa: E402

sys.path.remove(str(HERE))  # or this file would be imported instead of the client of that name
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]

DAY = 86_400_000_000_000
T0 = time.time_ns() // DAY * DAY - DAY  # yesterday: what is archived and recorded is young
SLOW_ROWS = 20_000  # of psycopg
LIVE_ROWS = 300_000
FLUSH = 20_000

WAYS = {
    "archive_file": "ours, archive day, import folder",
    "archive_http": "ours, archive day, over HTTP",
    "live": "ours, live records",
    "client": "bare client, Sender.dataframe",
    "psycopg": "psycopg executemany",
    "csv": "CSV import (COPY)",
}
# id -> (our way, the peer, how many times the peer's rate we want; None: no target)
RATIOS: dict[str, tuple[str, str, float | None]] = {
    "QD/archive_file": ("archive_file", "client", 0.9),
    "QD/archive_http": ("archive_http", "client", 0.9),
    "QD/archive_csv": ("archive_file", "csv", None),
    "QD/live_client": ("live", "client", None),
    "QD/live_psycopg": ("live", "psycopg", None),
}
LIVE_TARGET = 100_000  # rows a second
TABLE_OF = {"csv": "trades_csv"}  # COPY takes no TIMESTAMP_NS, so there it is microseconds


def arrow(rows: int, seed: int) -> Any:
    """One day of trades of one symbol: millisecond stamps, a third of them shared, rising ids."""
    import numpy as np
    import pyarrow as pa

    rng = np.random.default_rng(seed)
    ms = np.sort(rng.integers(0, 86_400_000, rows))
    ms = np.where(rng.random(rows) < 0.35, np.concatenate((ms[:1], ms[:-1])), ms)
    ids = 3_735_683_259 + np.arange(rows)
    return pa.table(
        {
            "ts_event": pa.array(T0 + np.sort(ms) * 1_000_000, pa.int64()),
            "ts_recv": pa.nulls(rows, pa.int64()),
            "venue": pa.array(["binance-spot"] * rows),
            "symbol": pa.array(["BTCUSDT"] * rows),
            "trade_id": pa.array(ids).cast(pa.string()),
            "trade_seq": pa.array(ids),
            "price": pa.array(61_837.0 + np.round(np.cumsum(rng.normal(0, 0.5, rows)), 2)),
            "quantity": pa.array(np.round(rng.pareto(1.2, rows) * 1e-3 + 1e-5, 5)),
            "side": pa.array(np.where(rng.random(rows) < 0.5, "buy", "sell")),
            "flags": pa.array(np.zeros(rows, np.int32)),
        }
    )


def pandas_frame(data: Any) -> Any:
    """What the bare client takes, ready to be sent."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    text = pd.ArrowDtype(pa.string())
    frame = {}
    for name in data.column_names:
        column = data.column(name)
        if name == "ts_event":
            frame[name] = column.to_numpy().astype("datetime64[ns]")
        elif name == "ts_recv":
            continue  # NULL in every row
        elif pa.types.is_string(column.type):
            frame[name] = pd.array(column.combine_chunks(), dtype=text)
        else:
            frame[name] = column.to_numpy().astype(np.int64) if name == "flags" else column.to_numpy()
    return pd.DataFrame(frame)


def opened(conf: str) -> Any:
    """Our writer, connected and with everything imported, as the bare client is before its clock starts."""
    import pyarrow.parquet

    from cmd_common import open_writer
    from cmd_common.records import Gap

    assert pyarrow.parquet
    writer = open_writer(f"questdb:{conf}")
    writer.write([Gap(T0, T0 + 1, "benchmark", "NONE", "trades", "warm", "suspect")])
    writer.flush()
    return writer


def archive(data: Any, conf: str, rows: int) -> Callable[[], None]:
    batches = data.to_batches(max_chunksize=65_536)
    writer = opened(conf)

    def run() -> None:
        for batch in batches:
            writer.write_batch("trades", batch)
        writer.flush()  # returns when the rows can be read

    return run


def live(data: Any, conf: str, rows: int) -> Callable[[], None]:
    from cmd_common.records import Trade

    columns = [c.to_pylist() for c in data.slice(0, LIVE_ROWS).columns]
    columns[1] = [t + 5_000_000 for t in columns[0]]  # live rows have a receive time
    records = [Trade(*row) for row in zip(*columns, strict=True)]
    writer = opened(conf)

    def run() -> None:
        for start in range(0, len(records), FLUSH):
            writer.write(records[start : start + FLUSH])
            writer.flush()

    return run


def client(data: Any, conf: str, rows: int) -> Callable[[], None]:
    from questdb import Sender

    from cmd_questdb.conf import Conf

    frame = pandas_frame(data)
    sender = Sender.from_conf(Conf.parse(conf).client_conf())
    sender.establish()

    def run() -> None:
        sender.dataframe(frame, table_name="trades", symbols=["venue", "symbol", "side"], at="ts_event")
        sender.flush()

    return run


def psycopg(data: Any, conf: str, rows: int) -> Callable[[], None]:
    import psycopg as pg

    names = [n for n in data.column_names if n != "ts_recv"]
    columns = [data.slice(0, SLOW_ROWS).column(n).to_pylist() for n in names]
    values = [(row[0] // 1000, *row[1:]) for row in zip(*columns, strict=True)]
    holes = ", ".join(["cast(%s AS TIMESTAMP)", *["%s"] * (len(names) - 1)])
    port = os.environ["BENCH_PG_PORT"]
    connection = pg.connect(
        host="127.0.0.1", port=port, user="admin", password="quest", dbname="qdb", autocommit=True
    )  # the server's defaults, on loopback

    def run() -> None:
        with connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO trades ({', '.join(names)}) VALUES ({holes})", values)

    return run


def csv(data: Any, conf: str, rows: int) -> Callable[[], None]:
    from cmd_questdb.conf import Conf
    from cmd_questdb.sql import SqlClient

    sql = SqlClient(Conf.parse(conf))

    def run() -> None:
        answer = sql.exec(
            "COPY trades_csv FROM 'trades.csv' WITH HEADER true TIMESTAMP 'ts_event' "
            "FORMAT 'yyyy-MM-ddTHH:mm:ss.SSSUUUZ' ON ERROR ABORT"
        )
        import_id = answer.value()
        while True:
            found = sql.exec(
                f"SELECT status, message FROM sys.text_import_log WHERE id = '{import_id}' AND phase IS NULL "
                "AND status <> 'started'"
            ).rows
            if found:
                if found[0][0] != "finished":
                    raise SystemExit(f"COPY: {found[0]}")
                return
            time.sleep(0.005)

    return run


MAKERS: dict[str, Callable[[Any, str, int], Callable[[], None]]] = {
    "archive_file": archive,
    "archive_http": archive,
    "live": live,
    "client": client,
    "psycopg": psycopg,
    "csv": csv,
}


def measure(way: str, conf: str, path: str, rows: int) -> None:
    """One way once, in this process; prints seconds until acknowledged and until readable, and what is stored."""
    import pyarrow.parquet as pq

    from cmd_questdb.conf import Conf
    from cmd_questdb.sql import SqlClient

    data = pq.read_table(path)
    run = MAKERS[way](data, conf, rows)
    with SqlClient(Conf.parse(conf)) as sql:
        begin = time.perf_counter()
        run()
        acknowledged = time.perf_counter() - begin
        table = TABLE_OF.get(way, "trades")
        sql.wait_applied([table])
        visible = time.perf_counter() - begin
        count, ids, total = sql.exec(f"SELECT count(), sum(trade_seq), sum(price) FROM {table}").rows[0]
    print(json.dumps({"acknowledged": acknowledged, "visible": visible, "rows": count, "ids": ids, "price": total}))


def child(way: str, server: Any, path: Path, rows: int) -> dict[str, Any]:
    more = {"import_dir": server.import_dir} if way == "archive_file" else {}
    command = [
        sys.executable, str(Path(__file__).resolve()), "--measure", way, server.conf(**more), str(path), "--rows",
        str(rows),
    ]  # fmt: skip
    environment = os.environ | {"BENCH_PG_PORT": str(server.pg)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{way}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def prepare(server: Any) -> None:
    """Our tables without the candle views, which would be built in the rounds: no peer builds any."""
    from cmd_questdb.conf import Conf
    from cmd_questdb.migrations import ensure
    from cmd_questdb.schema import VIEWS
    from cmd_questdb.sql import SqlClient

    with SqlClient(Conf.parse(server.conf())) as sql:
        ensure(sql, create=True)
        for view in reversed(VIEWS):
            sql.exec(f"DROP MATERIALIZED VIEW IF EXISTS {view}")
        sql.exec(
            "CREATE TABLE trades_csv (ts_event TIMESTAMP, venue SYMBOL, symbol SYMBOL, trade_id VARCHAR, trade_seq LONG, "
            "price DOUBLE, quantity DOUBLE, side SYMBOL, flags INT) TIMESTAMP(ts_event) PARTITION BY DAY WAL "
            "DEDUP UPSERT KEYS(ts_event, venue, symbol, trade_id)"
        )


def rows_of(way: str, rows: int) -> int:
    return {"psycopg": min(SLOW_ROWS, rows), "live": min(LIVE_ROWS, rows)}.get(way, rows)


def write_csv(data: Any, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import csv as pa_csv

    names = [n for n in data.column_names if n != "ts_recv"]
    text = data.select(names)
    times = data.column("ts_event").cast(pa.timestamp("ns")).cast(pa.timestamp("us"))
    import pyarrow.compute as pc

    stamps = pc.binary_join_element_wise(pc.strftime(times, "%Y-%m-%dT%H:%M:%S"), "Z", "")
    pa_csv.write_csv(text.set_column(0, "ts_event", stamps), path, pa_csv.WriteOptions(quoting_style="none"))


def versions() -> str:
    found = []
    for name in ("questdb", "pyarrow", "pandas", "psycopg"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    return ", ".join([f"Python {platform.python_version()}", *found, f"{os.cpu_count()} cores"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jar", help="the server's jar; default: the one that deploy/questdb/local.sh fetched")
    parser.add_argument("--measure", nargs=3, metavar=("WAY", "CONF", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(*options.measure, options.rows)
    if options.rounds < 5:
        parser.error("a median needs at least 5 rounds")
    if options.jar:
        os.environ["CMD_QUESTDB_JAR"] = options.jar
    import pyarrow.parquet as pq
    from questdb_server import HOW, QuestDBServer, find_jar, find_java

    if find_jar() is None or find_java() is None:
        parser.error(f"the server is missing; {HOW}")
    times: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trades.parquet"
        data = arrow(options.rows, options.seed)
        pq.write_table(data, path)
        server = QuestDBServer(
            Path(folder) / "server",
            settings={
                "cairo.writer.data.append.page.size": "16M",
                "cairo.wal.writer.data.append.page.size": "1M",
                "cairo.o3.column.memory.size": "8M",
            },
        )
        server.java_options = ("-XX:TieredStopAtLevel=4", "-XX:-UseSerialGC", "-XX:+UseParallelGC")
        try:
            server.start()
            prepare(server)
            write_csv(data, server.import_dir / "trades.csv")
            for number in range(options.rounds + 1):  # the first warms the server up
                order = list(WAYS) if number % 2 == 0 else list(WAYS)[::-1]
                for way in order:
                    table = TABLE_OF.get(way, "trades")
                    server.sql(f"TRUNCATE TABLE {table}")
                    server.wait_applied(table)
                    out = child(way, server, path, options.rows)
                    part = data.slice(0, rows_of(way, options.rows))
                    wanted = (part.num_rows, sum(part.column("trade_seq").to_pylist()))
                    if (out["rows"], out["ids"]) != wanted:
                        raise SystemExit(f"{way} stored {out['rows']} rows instead of {wanted[0]}")
                    if number:
                        times[way].append(out)
                    print(f"round {number} {way:<13} {part.num_rows / out['visible']:>10,.0f} rows/s", flush=True)
        finally:
            server.close()
    report(times, options.rows)


def report(times: dict[str, list[dict[str, float]]], rows: int) -> None:
    """Print and save the medians."""
    rate = {w: rows_of(w, rows) / median(t["visible"] for t in found) for w, found in times.items()}
    acknowledged = {w: rows_of(w, rows) / median(t["acknowledged"] for t in found) for w, found in times.items()}
    print(versions())
    for way, words in WAYS.items():
        print(f"{words:<36} {rate[way]:>10,.0f} rows/s readable {acknowledged[way]:>12,.0f} rows/s acknowledged")
    entries: list[dict[str, object]] = []
    for name, (mine, peer, target) in RATIOS.items():
        ratio = rate[mine] / rate[peer]
        met = target is None or ratio >= target
        entries.append(
            {
                "id": name,
                "path": f"{WAYS[mine]} into QuestDB, rows/s until readable",
                "ours": round(rate[mine]),
                "peer": round(rate[peer]),
                "peer_name": f"{WAYS[peer]} ({versions()})",
                "ratio": round(ratio, 3),
                "target": target,
                "met": met,
            }
        )
        verdict = "" if target is None else f", target {target}x: {'met' if met else 'NOT met'}"
        print(f"  {WAYS[mine]} is {ratio:.2f}x as fast as {WAYS[peer]}{verdict}")
    entries.append(
        {
            "id": "QD/live",
            "path": "live records into QuestDB, rows/s until readable",
            "ours": round(rate["live"]),
            "peer": LIVE_TARGET,
            "peer_name": "the target",
            "ratio": round(rate["live"] / LIVE_TARGET, 3),
            "target": 1.0,
            "met": rate["live"] >= LIVE_TARGET,
        }
    )
    print(
        f"  live rows: {rate['live']:,.0f} a second, target {LIVE_TARGET:,}: {'met' if rate['live'] >= LIVE_TARGET else 'NOT met'}"
    )
    save(entries)


if __name__ == "__main__":
    main()
