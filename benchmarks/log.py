"""Benchmarks L1 and L2: the logger beside its peers.

    python benchmarks/log.py [--rounds 5] [--calls 100000]

L1: CPU time of the calling thread for a call with four numbers, in bursts that fit into everybody's buffers; between the
bursts, outside the clock, each is made to write what it holds. L2: bytes that a call leaves behind, and the CPU time of
the whole process from the first call until every line is formatted and in the file. Every competitor runs in fresh
processes, A B A B ...; the medians of the rounds are compared. Each one's file is read afterwards: every line must be
there, in order, with its values. Writes into benchmarks/results/latest.json, leaving other benchmarks' entries alone.
"""

from __future__ import annotations

import argparse
import glob
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
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
from harness import results, save  # noqa: E402

BURST = 4000
SLOW = {"picologging", "loguru", "stdlib"}  # a tenth of the calls is enough


PERCENT = 'logger.info("sent %s %s %s %s", price, qty, id, n)'
BRACES = 'logger.info("sent {} {} {} {}", price, qty, id, n)'
TEXT = 'logger.info(f"sent {price} {qty} {id} {n}")'  # it takes no arguments


class Rig(NamedTuple):
    """A competitor that is ready: a burst of calls, how it writes what it holds, how it ends, its files."""

    burst: Callable[[int, int], object]
    flush: Callable[[], object]
    close: Callable[[], object]
    files: str  # a pattern; empty: nothing is written


def nothing() -> None:
    return None


def bursts(call: str, **names: object) -> Callable[[int, int], object]:
    """A loop over a call that is written out as it stands in a caller's code, with variables as arguments."""
    scope = dict(names)
    local = ", ".join(f"{name}={name}" for name in names)
    exec(
        f"def burst(start, end, {local}):\n    price, qty, id = 101.5, 0.25, 7\n    for n in range(start, end):\n        {call}\n",
        scope,
    )
    burst: Callable[[int, int], object] = scope["burst"]  # type: ignore[assignment]
    return burst


def ours(folder: str, form: str, *, wrapped: bool = False, off: bool = False) -> Rig:
    from cmd_common import log

    sent = log.event("order.sent", "sent {price:f8} {qty:f8} {id:i8} {n:i8}")

    def order_sent(price: float, qty: float, number: int, n: int) -> None:
        sent(price, qty, number, n)

    if off:
        log.set_level("warning")
    log.open(f"{folder}/out", format=form, rotate_bytes=0)
    loop = bursts("sent(price, qty, id, n)", sent=order_sent if wrapped else sent)
    return Rig(loop, log.flush, log.close, "" if off else f"{folder}/out")


def disabled(folder: str, form: str) -> Rig:
    import logging

    logger = logging.getLogger("bench")
    logger.setLevel(logging.WARNING)
    return Rig(bursts(PERCENT, logger=logger), nothing, nothing, "")


def stdlib(folder: str, form: str) -> Rig:
    import logging

    logger = logging.getLogger("bench")
    logger.setLevel(logging.INFO)
    handler = logging.FileHandler(f"{folder}/out")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
    return Rig(bursts(PERCENT, logger=logger), handler.flush, handler.close, f"{folder}/out")


def picologging(folder: str, form: str) -> Rig:
    import picologging as logging

    logger = logging.Logger("bench", logging.INFO)
    handler = logging.FileHandler(f"{folder}/out")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
    return Rig(bursts(PERCENT, logger=logger), nothing, handler.close, f"{folder}/out")


def loguru(folder: str, form: str) -> Rig:
    from loguru import logger

    logger.remove()
    logger.add(f"{folder}/out", format="{time} {level} {name} {message}")
    return Rig(bursts(BRACES, logger=logger), nothing, logger.remove, f"{folder}/out")


def pyfastlogging(folder: str, form: str) -> Rig:
    import pyfastlogging as fast

    logger = fast.Logging(fast.DEBUG, "bench", [fast.FileWriterConfig(fast.DEBUG, f"{folder}/out")])
    return Rig(bursts(TEXT, logger=logger), logger.sync_all, logger.shutdown, f"{folder}/out")


def bqlog(folder: str, form: str) -> Rig:
    from bq.log import log

    logger = log.create_log(
        "bench",
        "appenders_config.f.type=text_file\nappenders_config.f.time_zone=utc\nappenders_config.f.levels=[all]\n"
        f"appenders_config.f.file_name={folder}/out\nappenders_config.f.max_file_size=0\nlog.thread_mode=async\n",
    )
    flush = log.force_flush_all_logs
    return Rig(bursts(BRACES, logger=logger), flush, flush, f"{folder}/out*")


def pack_into(folder: str, form: str) -> Rig:
    import struct

    buffer = bytearray(64)
    pack = struct.Struct("<QddqqI").pack_into
    return Rig(
        bursts("pack(buffer, 0, 1234567890, price, qty, id, n, 16)", pack=pack, buffer=buffer), nothing, nothing, ""
    )


# name -> (words, how it is made, distributions); a name that ends in _pure runs with CMD_PURE=1
RIGS: dict[str, tuple[str, Callable[[str, str], Rig], tuple[str, ...]]] = {
    "native": ("ours, native", ours, ("cmd-native",)),
    "native_wrapped": (
        "ours, native, through a Python function", lambda f, form: ours(f, form, wrapped=True), ("cmd-native",),
    ),
    "native_off": ("ours, native, below the level", lambda f, form: ours(f, form, off=True), ("cmd-native",)),
    "ours_pure": ("ours, pure Python", ours, ()),
    "disabled": ("a disabled stdlib call", disabled, ()),
    "pack_into": ("struct.pack_into of the same values, no clock", pack_into, ()),
    "pyfastlogging": ("pyfastlogging", pyfastlogging, ("pyfastlogging",)),
    "bqlog": ("bqlog", bqlog, ("bqlog",)),
    "picologging": ("picologging", picologging, ("picologging",)),
    "loguru": ("loguru", loguru, ("loguru",)),
    "stdlib": ("stdlib FileHandler", stdlib, ()),
}  # fmt: skip


def check(rig: Rig, calls: int, *, binary: bool = False) -> None:
    """Every line is in the file, in order, with its values."""
    if not rig.files:
        return
    if binary:
        from cmd_common.log import Reader

        reader = Reader(rig.files)
        rows = [r.values for r in reader.records()]
        if reader.lost:
            raise SystemExit(f"lost: {reader.lost}")
    else:
        rows = []
        for path in sorted(glob.glob(rig.files)):
            with open(path, encoding="utf-8") as f:
                for line in f:
                    price, qty, number, n = line.split()[-4:]
                    rows.append((float(price), float(qty), int(number), int(n)))
    if rows != [(101.5, 0.25, 7, n) for n in range(calls)]:
        raise SystemExit(f"{len(rows)} lines of {calls}, or wrong ones")


def calls_of(name: str, calls: int) -> int:
    return max(BURST, (calls // 10 if name in SLOW else calls) // BURST * BURST)


def run_call(name: str, calls: int, folder: str) -> float:
    """CPU ns of the calling thread for a call."""
    rig = RIGS[name][1](folder, "binary")
    used = 0
    for start in range(0, calls, BURST):
        before = time.thread_time_ns()
        rig.burst(start, start + BURST)
        used += time.thread_time_ns() - before
        rig.flush()
    rig.close()
    check(rig, calls, binary=name.startswith(("native", "ours")))
    return used / calls


def run_lines(name: str, calls: int, folder: str) -> float:
    """CPU ns of the process for a line, until all are in the file."""
    rig = RIGS[name][1](folder, "text")
    before = time.process_time_ns()
    rig.burst(0, calls)
    rig.flush()
    rig.close()
    used = time.process_time_ns() - before
    check(rig, calls)
    return used / calls


def run_bytes(name: str, calls: int, folder: str) -> float:
    """Bytes that stay allocated after a call."""
    import tracemalloc

    rig = RIGS[name][1](folder, "binary")
    rig.burst(0, BURST)
    rig.flush()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    rig.burst(0, BURST)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    rig.close()
    return 0.0 if used < 1000 else used / BURST  # tracemalloc's own and the loop's are some hundred bytes in all


MODES = {"call": run_call, "lines": run_lines, "bytes": run_bytes}


def child(mode: str, name: str, calls: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return MODES[mode](name, calls, folder)


def measure(mode: str, names: list[str], calls: int, rounds: int) -> dict[str, float]:
    """Medians of the rounds, in which every competitor has its turn."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            command = [sys.executable, str(Path(__file__).resolve()), "--child", mode, name]
            env = {k: v for k, v in os.environ.items() if k != "CMD_PURE"}
            if name.endswith("_pure"):
                env["CMD_PURE"] = "1"
            command += ["--calls", str(calls_of(name, calls))]
            ran = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
            if ran.returncode:
                raise SystemExit(f"{mode} {name}: {ran.stderr.strip()[-500:]}")
            found[name].append(float(ran.stdout.split()[-1]))
    return {name: median(times) for name, times in found.items()}


def words(name: str) -> str:
    text, _, distributions = RIGS[name]
    known = []
    for one in distributions:
        try:
            known.append(f"{one} {version(one)}")
        except PackageNotFoundError:
            known.append(f"{one} missing")
    return f"{text} ({', '.join(known)})" if known else text


def row(number: str, path: str, mine: float, theirs: float, name: str, target: float) -> dict[str, object]:
    ratio = theirs / mine if mine else float("inf")
    verdict = "met" if ratio >= target else "NOT met"
    print(f"  {number}: ours {mine:.1f}, {name} {theirs:.1f}: {ratio:.2f}x, target {target}x: {verdict}")
    return {
        "id": number, "path": path, "ours": round(mine, 1), "peer": round(theirs, 1), "peer_name": name,
        "ratio": round(ratio, 3) if mine else None, "target": target, "met": ratio >= target,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(child(*options.child, options.calls))
        return 0
    if options.rounds < 5:
        parser.error("--rounds must be at least 5")
    print(f"L1: CPU ns a call, {options.rounds} rounds, Python {platform.python_version()}, {platform.machine()}")
    call = measure("call", list(RIGS), options.calls, options.rounds)
    for name, ns in call.items():
        print(f"  {words(name)}: {ns:.1f} ns")
    path = "log call with 4 numbers on the calling thread, CPU ns"
    rows = [
        row("L1/native", path, call["native"], 60, "the limit", 1.0),
        row("L1/wrapped", f"{path}, through one Python function", call["native_wrapped"], 120, "the limit", 1.0),
        row("L1/pure", f"{path}, pure Python", call["ours_pure"], 1.2 * call["disabled"], f"1.2 x {words('disabled')}", 1.0),
        row("L1/off", "an event below the level, CPU ns", call["native_off"], call["disabled"], words("disabled"), 1.0),
    ]  # fmt: skip
    rows += [
        row(f"L1/{name}", path, call["native"], call[name], words(name), 30.0 if name in ("pyfastlogging", "bqlog") else 1.0)
        for name in ("pyfastlogging", "bqlog", "picologging", "loguru", "stdlib")
    ]  # fmt: skip
    print("L2: CPU ns of the process for a line, formatted and in the file, none lost")
    named = ["native", "ours_pure", "pyfastlogging", "bqlog", "picologging", "loguru", "stdlib"]
    lines = measure("lines", named, options.calls, options.rounds)
    for name, ns in lines.items():
        print(f"  {words(name)}: {ns:.0f} ns")
    path = "a line formatted and in the file, CPU ns of the process, none lost"
    for name in named[2:]:
        rows.append(
            row(f"L2/{name}", path, lines["native"], lines[name], words(name), 5.0 if name == "stdlib" else 1.0)
        )
    rows.append(row("L2/pure", f"{path}, pure Python", lines["ours_pure"], lines["stdlib"], words("stdlib"), 1.0))
    for name in ("native", "ours_pure"):
        stay = measure("bytes", [name], options.calls, 1)[name]
        rows.append(
            row(f"L2/bytes_{name.removeprefix('ours_')}", "bytes that stay allocated a call", stay, 0, "none", 0.0)
        )
        rows[-1]["met"] = stay == 0
    save(rows)
    print(f"  saved in {results()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
