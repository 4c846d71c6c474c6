"""The whole suite: every row of the targets in one run, with a table, a plot and docs/performance.md at its end.

    hatch run bench:all                 everything that has a target: book, sockets, instructions, bp, log, ingest, server
    hatch run bench:all book log        only these
    hatch run bench:all --quick         a smoke run with tiny sizes and one round, nothing is kept

Each part is a script of its own beside this file and can be run alone. A part that fails is said at the end; the others
run all the same. cmd-native and cmd-server's encoder run natively: cmd-native is built first if its sources changed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
import report  # noqa: E402
from harness import ROOT, Missing, load, machine, results, uv  # noqa: E402

# part -> the script, its arguments, those of a smoke run
PARTS: dict[str, tuple[str, list[str], list[str]]] = {
    "book": ("book.py", [], ["--quick", "--messages", "500"]),
    "sockets": ("sockets.py", [], ["--quick", "--messages", "500"]),
    "instructions": ("instructions.py", [], ["--quick"]),
    "bp": ("bp.py", [], ["--rounds", "5", "--messages", "200"]),
    "log": ("log.py", [], ["--rounds", "5", "--calls", "4000"]),
    "ingest": ("ingest.py", [], ["--rounds", "5", "--rows", "5000"]),
    "server": ("server.py", ["fanout", "latency", "receive", "codec"], ["codec", "--quick", "--rounds", "1"]),
}


def native() -> None:
    """Install cmd-native as it is in the sources into this interpreter's environment."""
    if os.environ.get("CMD_BENCH_NATIVE") == "installed":
        return
    ask = ["bash", "-c", ". deploy/lib.sh; setup_tools; native_wheel cmd-native"]
    done = subprocess.run(ask, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Missing(
            "cmd-native cannot be built; what has a native part is measured without it only by hand (CMD_PURE=1)"
        )
    wheel = done.stdout.split()[-1]
    stamp = Path(sys.prefix) / ".cmd-native-wheel"
    if not stamp.exists() or stamp.read_text() != wheel:
        command = [*uv(), "pip", "install", "-q", "--reinstall", "--no-deps", "--python", sys.executable, wheel]
        if subprocess.run(command, check=False).returncode:
            raise Missing(f"{wheel} cannot be installed")
        stamp.write_text(wheel)


def run(name: str, quick: bool) -> bool:
    """Run a part; whether it went well."""
    script, usual, small = PARTS[name]
    start = time.monotonic()
    print(f"\n== {name}", flush=True)
    done = subprocess.run([sys.executable, str(HERE / script), *(small if quick else usual)], check=False)
    print(f"== {name}: {time.monotonic() - start:.0f} s", flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is kept")
    options = parser.parse_args()
    parts = options.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    start = time.monotonic()
    try:
        native()
    except Missing as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            os.environ["CMD_BENCH_RESULTS"] = str(Path(folder) / "latest.json")
        failed = [name for name in parts if not run(name, options.quick)]
        here = machine()
        print(f"\n{here['date']}, {here['cpu']}, {here['cores']} cores, {here['system']}, Python {here['python']}\n")
        print(report.text(load()))
        if not options.quick:
            report.write()
            print(f"\nkept in {results()}; docs/performance.md and its plot are made anew")
    print(f"{time.monotonic() - start:.0f} s in all")
    if failed:
        print(f"bench: error: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
