"""Benchmark B6 and the gate of CI: instructions a depth message, counted by callgrind, which repeat exactly.

    full    bytes of a message to the best prices, by the decoder that the product chooses for this CPU
    scalar  the same without vector instructions
    book    the book alone, from ticks to the best prices

    python benchmarks/instructions.py            measure, print, write into benchmarks/results/latest.json
    python benchmarks/instructions.py --check    fail where a count is more than 3 % above the recorded one, or above the
                                                 target (full 6,000; book 1,300); nothing is written
    python benchmarks/instructions.py --update   record the counts in benchmarks/instructions.json: do this in the change
                                                 that moves them, and say there why

The program is benchmarks/rust, compiled for baseline x86-64 as the wheels are, whatever RUSTFLAGS say; only what it does
between two messages is counted, not reading the stream. The decoder looks at the CPU when it runs, and valgrind shows it
the host's AVX2 but never AVX-512, so counts are the same on all hosts with AVX2; on one without, ``full`` runs as
``scalar`` does and is not judged. Another compiler than the recorded one may count differently: update then.
Needs cargo and valgrind.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
import book_stream  # noqa: E402
from harness import Entry, Missing, entry, folder, save, show  # noqa: E402

RECORDED = HERE / "instructions.json"
MESSAGES, SEED = 2000, 1
MORE = 1.03
LIMITS = {"full": 6000, "book": 1300}
PATHS = {
    "full": "depth message, bytes to best prices, instructions",
    "book": "book alone, ticks to best prices, instructions",
}


def build() -> str:
    """The program that is counted."""
    if shutil.which("cargo") is None:
        raise Missing("no Rust toolchain (cargo); install one (rustup)")
    if shutil.which("valgrind") is None:
        raise Missing("valgrind is missing; install it (Debian: apt install valgrind)")
    target = Path(os.environ.get("CMD_BENCH_TARGET") or folder() / "cargo") / "count"
    flags = "-C target-cpu=x86-64" if platform.machine() in ("x86_64", "AMD64") else ""
    env = {key: value for key, value in os.environ.items() if key != "CARGO_ENCODED_RUSTFLAGS"}
    env |= {"CARGO_TARGET_DIR": str(target), "RUSTFLAGS": flags}
    command = [
        "cargo",
        "build",
        "-q",
        "--release",
        "--bin",
        "count",
        "--manifest-path",
        str(HERE / "rust" / "Cargo.toml"),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"benchmarks/rust cannot be built: {done.stderr.strip()[-800:]}")
    return str(target / "release" / "count")


def count(program: str, way: str, place: str, messages: int) -> int:
    """Instructions a message, rounded."""
    command = [
        "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no",
        "--toggle-collect=*counted*", program, way, place,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None or int(found[1]) == 0:
        raise SystemExit(f"instructions: {way} cannot be counted: {(done.stderr + done.stdout)[-1500:]}")
    return round(int(found[1]) / messages)


def counts(messages: int = MESSAGES) -> dict[str, int]:
    """All counts."""
    program = build()
    with tempfile.TemporaryDirectory() as place:
        book_stream.write(place, messages, SEED)
        return {way: count(program, way, place, messages) for way in ("full", "scalar", "book")}


def compiler() -> str:
    said = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[1]


def vector() -> bool:
    """Whether the host has what the vector decoder needs."""
    try:
        with open("/proc/cpuinfo") as f:
            flags = next((set(line.split()) for line in f if line.startswith("flags")), set())
    except OSError:
        return False
    return {"avx2", "bmi1", "bmi2"} <= flags


def judge(found: dict[str, int], recorded: dict[str, int], here: str, there: str) -> list[str]:
    """What is wrong with the counts, as sentences; empty: nothing."""
    wrong = []
    for way, now in found.items():
        if way == "full" and not vector():
            print("instructions: this CPU has no AVX2, so full is not judged")
            continue
        before = recorded[way]
        print(f"instructions: {way} {now:,} a message, recorded {before:,} ({now / before - 1:+.1%})")
        if now > LIMITS.get(way, now):
            wrong.append(f"{way} takes {now:,} instructions a message; the target is at most {LIMITS[way]:,}")
        elif now > before * MORE:
            other = "" if here == there else f"; recorded with rustc {there}, this is {here}"
            wrong.append(
                f"{way} takes {now:,} instructions a message, {now / before - 1:.1%} more than the recorded {before:,}"
                f"{other}. Mend it, or run python benchmarks/instructions.py --update and say why in the change"
            )
    return wrong


def entries(found: dict[str, int]) -> list[Entry]:
    return [entry(f"B6/{way}", path, found[way], LIMITS[way], "the limit", 1.0) for way, path in PATHS.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="compare with the recorded counts")
    group.add_argument("--update", action="store_true", help="record the counts")
    group.add_argument("--quick", action="store_true", help="few messages, for trying it out: not kept")
    options = parser.parse_args()
    try:
        found = counts(200 if options.quick else MESSAGES)
    except Missing as error:
        print(f"instructions: error: {error}", file=sys.stderr)
        return 1
    if options.update:
        RECORDED.write_text(json.dumps({"rustc": compiler(), **found}, indent=1) + "\n")
        print(f"instructions: recorded {found}")
        return 0
    if options.check:
        known = json.loads(RECORDED.read_text())
        wrong = judge(found, known, compiler(), known["rustc"])
        for line in wrong:
            print(f"instructions: error: {line}", file=sys.stderr)
        return 1 if wrong else 0
    made = entries(found)
    show(made)
    if not options.quick:
        save(made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
