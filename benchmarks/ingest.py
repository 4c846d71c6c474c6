"""Benchmarks I1 and I2: a published zip of 1,000,000 spot trades to typed columns, its CRC checked, and the memory for it.

Ours is the archiver's own way, every column typed and validated, in bounded memory: natively, and (``pure``) with
Arrow's CSV reader. Most peers inflate the whole file and parse it at once. Every round runs each competitor once,
interleaved, each in a fresh process, and takes the process's CPU time (all threads); the medians of the rounds are
compared. The bytes of all columns are compared with Python's own int() and float(), outside the clock.

    python benchmarks/ingest.py [--rounds 5] [--rows 1000000] [--seed 1]

Writes its results into benchmarks/results/latest.json, leaving other benchmarks' entries alone.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from array import array
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]
from harness import Entry, entry, save, show  # noqa: E402

STEM = "BTCUSDT-trades-2024-08-08"
COLUMNS = ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match")
# peer -> (its name in words, how many times its speed we want to reach, the distributions it uses)
PEERS: dict[str, tuple[str, float | None, tuple[str, ...]]] = {
    "polars_isal": ("polars + isal", 1 / 0.75, ("polars", "isal")),
    "polars_zipfile": ("polars + zipfile", 2.2, ("polars",)),
    "pandas": ("pandas + zipfile", 1.0, ("pandas",)),
    "pyarrow_stream": ("pyarrow's CSV stream + zipfile", None, ("pyarrow",)),
    "duckdb": ("zipfile to a file + duckdb", None, ("duckdb",)),
    "stdlib": ("csv, int, float + zipfile", None, ()),
    "pure": ("ours without cmd-native", None, ("pyarrow", "isal")),
}
MEMORY_TARGET = 64  # MiB over the baseline
Run = Callable[[], Any]


def batches(path: Path) -> Callable[[], Iterator[Any]]:
    """The archiver's own way, batch by batch."""
    from datetime import date

    from cmd_archiver.parse import CsvFile
    from cmd_binance.archive import BinanceArchive
    from cmd_binance.instruments import SPOT
    from cmd_common.exchange import Endpoints

    source = BinanceArchive(SPOT)
    file = source.file("trades", "BTCUSDT", date(2024, 8, 8), Endpoints("ws://x", "http://x", "http://x", "http://x"))
    return lambda: CsvFile(path, file, source).batches()


def ours(path: Path) -> Run:
    stream = batches(path)
    return lambda: list(stream())


def _polars_schema() -> dict[str, Any]:
    import polars

    types = (polars.Int64, *[polars.Float64] * 3, polars.Int64, polars.String, polars.String)
    return dict(zip(COLUMNS, types, strict=True))


def _polars_table(text: bytes) -> Any:
    import polars

    frame = polars.read_csv(text, has_header=False, schema=_polars_schema())
    # polars reads "true" but not Binance's "True" as a boolean
    flags = [polars.col(name).eq("True") for name in COLUMNS[-2:]]
    return frame.with_columns(flags)


def polars_isal(path: Path) -> Run:
    import polars
    from isal import isal_zlib

    assert polars

    def run() -> Any:
        with zipfile.ZipFile(path) as archive:
            info = archive.infolist()[0]
        with path.open("rb") as f:
            f.seek(info.header_offset + 26)
            skip = int.from_bytes(f.read(2), "little") + int.from_bytes(f.read(2), "little")
            f.seek(skip, 1)
            text = isal_zlib.decompress(f.read(info.compress_size), -15, info.file_size)
        if isal_zlib.crc32(text) != info.CRC:
            raise ValueError("CRC")
        return _polars_table(text)

    return run


def polars_zipfile(path: Path) -> Run:
    import polars

    assert polars

    def run() -> Any:
        with zipfile.ZipFile(path) as archive:
            return _polars_table(archive.read(archive.infolist()[0]))

    return run


def pandas(path: Path) -> Run:
    import pandas

    types = dict(zip(COLUMNS, ("int64", "float64", "float64", "float64", "int64", "bool", "bool"), strict=True))

    def run() -> Any:
        with zipfile.ZipFile(path) as archive, archive.open(archive.infolist()[0]) as member:
            # The default converter is off by one unit in the last place at times.
            return pandas.read_csv(member, header=None, names=COLUMNS, dtype=types, float_precision="round_trip")

    return run


def _pyarrow_stream(path: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.csv

    types = (pyarrow.int64(), *[pyarrow.float64()] * 3, pyarrow.int64(), pyarrow.bool_(), pyarrow.bool_())
    options = pyarrow.csv.ConvertOptions(
        column_types=dict(zip(COLUMNS, types, strict=True)), true_values=["True"], false_values=["False"]
    )
    names = pyarrow.csv.ReadOptions(column_names=COLUMNS)
    with zipfile.ZipFile(path) as archive, archive.open(archive.infolist()[0]) as member:
        yield from pyarrow.csv.open_csv(member, read_options=names, convert_options=options)


def pyarrow_stream(path: Path) -> Run:
    import pyarrow.csv

    assert pyarrow.csv
    return lambda: list(_pyarrow_stream(path))


def duckdb(path: Path) -> Run:
    import duckdb

    kinds = ("BIGINT", "DOUBLE", "DOUBLE", "DOUBLE", "BIGINT", "BOOLEAN", "BOOLEAN")
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in zip(COLUMNS, kinds, strict=True))

    def run() -> Any:
        # It reads no zip: the text goes through a file, in memory where the system has such a place.
        place = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.NamedTemporaryFile(suffix=".csv", dir=place) as file:
            with zipfile.ZipFile(path) as archive, archive.open(archive.infolist()[0]) as member:
                shutil.copyfileobj(member, file, 1 << 20)
            file.flush()
            query = f"SELECT * FROM read_csv('{file.name}', header=false, auto_detect=false, columns={{{columns}}})"
            with duckdb.connect() as connection:
                return connection.sql(query).to_arrow_table()

    return run


def stdlib(path: Path) -> Run:
    def run() -> Any:
        kept: dict[str, Any] = {name: array("q" if name in ("id", "time") else "d") for name in COLUMNS[:5]}
        kept |= {name: bytearray() for name in COLUMNS[5:]}
        adds = [kept[name].append for name in COLUMNS]
        with zipfile.ZipFile(path) as archive, archive.open(archive.infolist()[0]) as member:
            for ident, price, qty, worth, ms, maker, best in csv.reader(io.TextIOWrapper(member, newline="")):
                adds[0](int(ident))
                adds[1](float(price))
                adds[2](float(qty))
                adds[3](float(worth))
                adds[4](int(ms))
                adds[5](maker == "True")
                adds[6](best == "True")
        return kept

    return run


RUNS: dict[str, Callable[[Path], Run]] = {
    "ours": ours,
    "polars_isal": polars_isal,
    "polars_zipfile": polars_zipfile,
    "pandas": pandas,
    "pyarrow_stream": pyarrow_stream,
    "duckdb": duckdb,
    "stdlib": stdlib,
    "pure": ours,
}


def digest_of(columns: dict[str, bytes]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(columns[name]).digest() for name in COLUMNS)).hexdigest()


def digest(result: Any) -> str:
    """The same digest from Arrow batches, a table, a frame of polars or pandas, or arrays."""
    import pyarrow as pa

    if isinstance(result, dict):
        return digest_of({name: bytes(values) for name, values in result.items()})
    if isinstance(result, list):
        table = pa.Table.from_batches(result)
    elif isinstance(result, pa.Table):
        table = result
    elif hasattr(result, "to_arrow"):
        table = result.to_arrow()
    else:
        table = pa.Table.from_pandas(result, preserve_index=False)
    columns = {}
    for name in COLUMNS:
        column = table.column(name).cast(pa.uint8()) if table.column(name).type == pa.bool_() else table.column(name)
        columns[name] = b"".join(
            memoryview(c.buffers()[1])[c.offset * c.type.bit_width // 8 :][: len(c) * c.type.bit_width // 8]
            for c in column.chunks
        )
    return digest_of(columns)


def publish(path: Path, rows: int, seed: int) -> str:
    """Write the zip; returns the oracle's digest."""
    rng = random.Random(seed)
    price, ms, ident = 6_183_763, 1_723_075_200_000, 3_735_683_259
    lines = []
    for _ in range(rows):
        price += rng.choice((0, 0, 0, 0, 1, -1, 3, -3))
        qty = int(rng.paretovariate(0.7) * 1000) % 500_000_000 + 1000
        worth = price * qty
        ident += 1
        ms += rng.randrange(0, 160) if rng.random() < 0.5 else 0
        lines.append(
            f"{ident},{price // 100}.{price % 100:02}000000,{qty // 10**8}.{qty % 10**8:08},"
            f"{worth // 10**10}.{worth % 10**10 // 100:08},{ms},{rng.random() < 0.5},True"
        )
    text = "\n".join([*lines, ""])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{STEM}.csv", text)
    cells = list(zip(*(line.split(",") for line in lines), strict=True))
    return digest_of(
        {
            name: (
                array("q", map(int, column)).tobytes()
                if name in ("id", "time")
                else bytes(cell == "True" for cell in column)
                if name.startswith("is_")
                else array("d", map(float, column)).tobytes()
            )
            for name, column in zip(COLUMNS, cells, strict=True)
        }
    )


def memory(which: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process, bytes.

    Not getrusage: its peak is inherited from the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the kernel does not tell the peak memory")


def measure(which: str, path: Path) -> None:
    """One competitor once; prints CPU seconds and the digest of its columns."""
    run = RUNS[which](path)
    begin = time.process_time()
    result = run()
    seconds = time.process_time() - begin
    print(json.dumps({"seconds": seconds, "digest": digest(result)}))


def measure_memory(which: str, path: Path) -> None:
    """Peak memory over the baseline of streaming the file, batch by batch, each dropped after it was counted."""
    stream = (lambda: _pyarrow_stream(path)) if which == "pyarrow_stream" else batches(path)
    import pyarrow.csv

    assert pyarrow.csv  # its memory is no part of it
    base = memory("VmRSS")
    rows = sum(batch.num_rows for batch in stream())
    print(json.dumps({"rows": rows, "mib": (memory("VmHWM") - base) / (1 << 20)}))


def child(which: str, path: Path, what: str = "time") -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", what, which, str(path)]
    env = {**os.environ, "CMD_PURE": "1" if which == "pure" else "0"}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    return dict(json.loads(out))


def versions() -> str:
    found = []
    for name in ("pyarrow", "polars", "pandas", "duckdb", "isal"):
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
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "WHICH", "ZIP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, which, path = options.measure
        return (measure_memory if what == "memory" else measure)(which, Path(path))
    if find_spec("cmd_native") is None:
        raise SystemExit("cmd-native is not installed: hatch run bench:all builds it")
    if options.rounds < 5:
        parser.error("a median needs at least 5 rounds")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{STEM}.zip"
        oracle = publish(path, options.rows, options.seed)
        times: dict[str, list[float]] = {name: [] for name in RUNS}
        for name in RUNS:  # bytecode and file cache are warm for all
            child(name, path)
        for number in range(options.rounds):
            order = list(RUNS) if number % 2 == 0 else list(RUNS)[::-1]
            for name in order:
                out = child(name, path)
                if out["digest"] != oracle:
                    raise SystemExit(f"{name} read other values than Python does")
                times[name].append(out["seconds"])
        streams = ("ours", "pure", "pyarrow_stream")
        peaks = {name: [child(name, path, "memory") for _ in range(3)] for name in streams}
    if any(out["rows"] != options.rows for outs in peaks.values() for out in outs):
        raise SystemExit("a stream lost rows")
    print(versions())
    mine = median(times["ours"])
    what = f"zip of {options.rows} trades to typed columns, CRC checked, s CPU"
    entries: list[Entry] = []
    for name, (words, target, parts) in PEERS.items():
        used = f" ({', '.join(f'{p} {version(p)}' for p in parts)})" if parts else ""
        entries.append(entry(f"I1/{name}", what, mine, median(times[name]), words + used, target))
    what = f"memory over the baseline for {options.rows} trades, streamed, MiB"
    mib = {name: median(out["mib"] for out in outs) for name, outs in peaks.items()}
    entries.append(entry("I2/memory", what, max(mib["ours"], 0.1), MEMORY_TARGET, "the limit", 1.0, 1))
    entries += [
        entry(f"I2/{name}", what, max(mib["ours"], 0.1), mib[name], PEERS[name][0], digits=1) for name in streams[1:]
    ]
    show(entries)
    save(entries)


if __name__ == "__main__":
    main()
