"""Benchmark I1: a published zip of 1,000,000 spot trades to typed columns, its CRC checked.

Ours is the archiver's own parser: streamed, every column typed and validated, bounded memory. The
peers inflate the whole file and parse it at once. Every round runs each competitor once, interleaved,
each in a fresh process, and takes the process's CPU time (all threads); the medians of the rounds are
compared. The bytes of all columns are compared with Python's own int() and float(), outside the clock.

    python benchmarks/ingest.py [--rounds 5] [--rows 1000000] [--seed 1]

Writes its results into benchmarks/results/latest.json, leaving other benchmarks' entries alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from array import array
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "latest.json"
STEM = "BTCUSDT-trades-2024-08-08"
COLUMNS = ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match")
# peer -> (its name in words, how many times its speed we want to reach, the distributions it uses)
PEERS = {
    "polars_isal": ("polars + isal", 1 / 0.75, ("polars", "isal")),
    "polars_zipfile": ("polars + zipfile", 2.2, ("polars",)),
    "pandas": ("pandas + zipfile", 1.0, ("pandas",)),
}
MEMORY_TARGET = 64  # MiB over the baseline
Run = Callable[[], Any]


def ours(path: Path) -> Run:
    from datetime import date

    from cmd_archiver.parse import CsvFile
    from cmd_binance.archive import BinanceArchive
    from cmd_binance.instruments import SPOT
    from cmd_common.exchange import Endpoints

    source = BinanceArchive(SPOT)
    file = source.file("trades", "BTCUSDT", date(2024, 8, 8), Endpoints("ws://x", "http://x", "http://x", "http://x"))
    return lambda: list(CsvFile(path, file, source).batches())


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


RUNS: dict[str, Callable[[Path], Run]] = {
    "ours": ours,
    "polars_isal": polars_isal,
    "polars_zipfile": polars_zipfile,
    "pandas": pandas,
}


def digest_of(columns: dict[str, bytes]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(columns[name]).digest() for name in COLUMNS)).hexdigest()


def digest(result: Any) -> str:
    """The same digest from Arrow batches, a polars frame or a pandas frame."""
    import pyarrow as pa

    if isinstance(result, list):
        table = pa.Table.from_batches(result)
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


def measure_memory(path: Path) -> None:
    """Peak memory over the baseline of streaming the file, batch by batch, as the archiver does."""
    from datetime import date

    from cmd_archiver.parse import CsvFile
    from cmd_binance.archive import BinanceArchive
    from cmd_binance.instruments import SPOT
    from cmd_common.exchange import Endpoints

    source = BinanceArchive(SPOT)
    file = source.file("trades", "BTCUSDT", date(2024, 8, 8), Endpoints("ws://x", "http://x", "http://x", "http://x"))
    base = memory("VmRSS")
    rows = sum(batch.num_rows for batch in CsvFile(path, file, source).batches())
    print(json.dumps({"rows": rows, "mib": (memory("VmHWM") - base) / (1 << 20)}))


def child(which: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", which, str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out))


def versions() -> str:
    found = []
    for name in ("pyarrow", "polars", "pandas", "isal"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    return ", ".join([f"Python {platform.python_version()}", *found, f"{os.cpu_count()} cores"])


def save(entries: list[dict[str, Any]]) -> None:
    ids = {e["id"] for e in entries}
    kept = []
    if RESULTS.exists():
        kept = [e for e in json.loads(RESULTS.read_text()) if e["id"] not in ids]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps([*kept, *entries], indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--measure", nargs=2, metavar=("WHICH", "ZIP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        which, path = options.measure
        return measure_memory(Path(path)) if which == "memory" else measure(which, Path(path))
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
        peaks = [child("memory", path) for _ in range(3)]
    print(versions())
    mine = median(times["ours"])
    print(f"{'ours':<18} {mine:7.3f} s CPU")
    entries: list[dict[str, Any]] = []
    for name, (words, target, parts) in PEERS.items():
        theirs = median(times[name])
        ratio = theirs / mine
        entries.append(
            {
                "id": f"I1/{name}",
                "path": f"zip of {options.rows} trades to typed columns, CRC checked, s CPU",
                "ours": round(mine, 3),
                "peer": round(theirs, 3),
                "peer_name": f"{words} ({', '.join(f'{p} {version(p)}' for p in parts)})",
                "ratio": round(ratio, 3),
                "target": round(target, 3),
                "met": ratio >= target,
            }
        )
        state = "met" if ratio >= target else "not met"
        print(f"{words:<18} {theirs:7.3f} s CPU   {ratio:5.2f} x (target {target:.2f}: {state})")
    mib = median(m["mib"] for m in peaks)
    entries.append(
        {
            "id": "I2/memory",
            "path": f"memory over the baseline for {options.rows} trades, streamed, MiB",
            "ours": round(mib, 1),
            "peer": MEMORY_TARGET,
            "peer_name": "the limit",
            "ratio": round(MEMORY_TARGET / max(mib, 0.1), 3),
            "target": 1.0,
            "met": mib <= MEMORY_TARGET,
        }
    )
    print(f"memory over the baseline: {mib:.1f} MiB (limit {MEMORY_TARGET})")
    save(entries)


if __name__ == "__main__":
    main()
