"""Benchmarks AE1 to AE6: Aeron beside sockets, and the server over it.

One run measures every way once a round, interleaved, each in fresh processes; the medians of the rounds are compared.
What was received is compared with what was to be sent, outside every clock.

    raw       64 bytes between two Python processes as fast as they go: messages/s, and CPU of both sides and the driver
    fanout    the same to four readers at once
    latency   one way at 1,000 messages/s, from the sender's hands to the reader's, by how the reader waits
    pyaeron   the package pyaeron on Python 3.12, where such an interpreter is found: the same work on both sides
    path      record -> hub -> transport -> client's book for 1, 4 and 16 clients: CPU of the server and of its clients
    lossless  10,000,000 trades with three restarts of either side: each is there once, or a gap says why not

    python benchmarks/aeron.py [PART ...] [--rounds 5] [--quick] [--messages N] [--python312 PATH]

Needs the package cmd-aeron. Writes its results into benchmarks/results/latest.json, leaving other entries alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
from harness import save  # noqa: E402
from server import Entry, entry, rounds  # noqa: E402

PARTS = ("raw", "fanout", "latency", "pyaeron", "path", "lossless")
PYAERON = "pyaeron==0.1.0"
NAMES = {
    "asyncio": "asyncio, Unix socket, a write a message",
    "asyncio_joined": "asyncio, Unix socket, 1,000 joined by hand",
    "asyncio_tcp": "asyncio, TCP",
    "unix": "blocking Unix socket, a call a message",
    "tcp": "blocking TCP",
    "aeron": "Aeron IPC, offer_many and poll_wait",
    "aeron_call": "Aeron IPC, a call a message",
    "aeron_claim": "Aeron IPC, claimed buffers",
    "aeron_joined": "Aeron IPC, 1,000 joined by hand",
    "aeron_poll": "Aeron IPC, poll",
    "aeron_low-cpu": "Aeron IPC, low-cpu",
    "aeron_balanced": "Aeron IPC, balanced",
    "aeron_spin": "Aeron IPC, spin",
    "aeron_udp": "Aeron UDP, loopback",
    "aeron_udp8k": "Aeron UDP, loopback, mtu 8k",
    "pyaeron": "pyaeron, poll with a handler",
}
RAW = {  # messages of one run
    "aeron": 3_000_000, "aeron_call": 2_000_000, "aeron_claim": 1_000_000, "aeron_joined": 5_000_000,
    "aeron_udp": 1_500_000, "aeron_udp8k": 1_500_000,
    "asyncio": 400_000, "asyncio_joined": 5_000_000, "unix": 400_000,
}  # fmt: skip
FANOUT = {"aeron": 2_000_000, "asyncio": 60_000, "asyncio_joined": 1_500_000, "unix": 60_000}
READERS = 4
LATENCY = ("aeron_spin", "aeron_balanced", "aeron_low-cpu", "unix", "asyncio", "tcp", "asyncio_tcp", "aeron_udp")
SOCKETS = ("unix", "asyncio", "tcp", "asyncio_tcp")


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in ("cmd-aeron", "cmd-server"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    import cmd_aeron

    return ", ".join([*found, f"Aeron {cmd_aeron.version()}", f"{os.cpu_count()} cores"])


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A fresh folder in shared memory; nothing of it is left."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    path = Path(place) / f"cmd-bench-{os.getpid()}-{secrets.token_hex(4)}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def driver(directory: Path) -> Iterator[int]:
    """A media driver in a process of its own: its id."""
    command = [sys.executable, "-m", "cmd_aeron.driver", "--dir", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise SystemExit("the media driver did not start")
            yield process.pid
        finally:
            process.terminate()


def child(script: str, *arguments: object, python: str = sys.executable, path: str = "") -> dict[str, Any]:
    """One way once, in a process of its own."""
    command = [python, str(HERE / script), *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": path} if path else None
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=env)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}: {done.stderr[-3000:]}{done.stdout[-500:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(what: str, kind: str, *arguments: object, **more: str) -> dict[str, Any]:
    """One measurement of aeron_run.py, with a driver of its own where it needs one."""
    with folder() as place:
        if "aeron" not in kind:
            return child("aeron_run.py", what, kind, *arguments, place, *([0] if what == "flow" else []), **more)
        with driver(place / "d") as pid:
            last = [pid] if what == "flow" else []
            return child("aeron_run.py", what, kind, *arguments, place / "d", *last, **more)


class Flow:
    """Rates and CPU of ways, over the rounds."""

    def __init__(self) -> None:
        self.found: dict[str, list[dict[str, float]]] = defaultdict(list)

    def add(self, kind: str, result: dict[str, float]) -> None:
        self.found[kind].append(result | {"cpu": result["send"] + result["receive"] + result["driver"]})

    def of(self, kind: str, what: str) -> float:
        return median(each[what] for each in self.found[kind])

    def show(self, readers: int) -> None:
        print("  ns of CPU a message                                msg/s      send  receive   driver")
        for kind in self.found:
            rate, send, receive, moved = (self.of(kind, what) for what in ("rate", "send", "receive", "driver"))
            print(f"  {NAMES[kind]:<44} {rate:>11,.0f}  {send:>8.0f} {receive:>8.0f} {moved:>8.0f}")

    def rate(self, id_: str, path: str, ours: str, peer: str, target: float | None = None) -> Entry:
        ns = [1e9 / self.of(kind, "rate") for kind in (ours, peer)]
        return entry(id_, f"{path}, ns a message", *ns, NAMES[peer], target)

    def cpu(self, id_: str, path: str, ours: str, peer: str, target: float | None = None) -> Entry:
        times = [self.of(kind, "cpu") for kind in (ours, peer)]
        return entry(id_, f"{path}, ns of CPU a message, both sides and driver", *times, NAMES[peer], target)


# -- the parts


def raw(options: argparse.Namespace) -> list[Entry]:
    flow = Flow()
    for _, kind in rounds(options.rounds, list(RAW)):
        flow.add(kind, run("flow", kind, 1, RAW[kind] // (10 if options.quick else 1)))
    print("\nraw: 64 bytes from one process to another")
    flow.show(1)
    path = "64 B between two processes, Aeron IPC"
    found = [
        flow.rate("AE1/rate_asyncio", path, "aeron", "asyncio", 8.0),
        flow.cpu("AE1/cpu_asyncio", path, "aeron", "asyncio", 5.0),
    ]
    for kind in ("unix", "asyncio_joined"):
        ours = "aeron_joined" if kind.endswith("joined") else "aeron"
        found.append(flow.rate(f"AE1/rate_{kind}", path, ours, kind))
        found.append(flow.cpu(f"AE1/cpu_{kind}", path, ours, kind))
    for kind in ("aeron_call", "aeron_claim", "aeron_udp", "aeron_udp8k"):
        found.append(flow.rate(f"AE1/rate_{kind}", f"64 B, {NAMES[kind]}", kind, "asyncio"))
        found.append(flow.cpu(f"AE1/cpu_{kind}", f"64 B, {NAMES[kind]}", kind, "asyncio"))
    return found


def fanout(options: argparse.Namespace) -> list[Entry]:
    flow = Flow()
    for _, kind in rounds(options.rounds, list(FANOUT)):
        flow.add(kind, run("flow", kind, READERS, FANOUT[kind] // (10 if options.quick else 1)))
    print(f"\nfanout: 64 bytes to {READERS} processes, each gets all; receive is of one of them")
    flow.show(READERS)
    path = f"64 B to {READERS} processes, one publication"
    found = [flow.rate("AE2/rate_asyncio", path, "aeron", "asyncio", 20.0)]
    found += [flow.rate(f"AE2/rate_{kind}", path, "aeron", kind) for kind in ("unix", "asyncio_joined")]
    for kind in ("asyncio", "unix", "asyncio_joined"):
        times = [flow.of(way, "send") + flow.of(way, "driver") for way in ("aeron", kind)]
        found.append(entry(f"AE2/send_{kind}", f"{path}, ns of CPU of sender and driver", *times, NAMES[kind]))
    return found


def latency(options: argparse.Namespace) -> list[Entry]:
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    messages = 500 if options.quick else 2_000
    for _, kind in rounds(options.rounds, LATENCY):
        out = run("latency", kind, messages)
        found[kind].append((out["p50"], out["p99"]))
    middle = {kind: tuple(median(part) for part in zip(*each, strict=True)) for kind, each in found.items()}
    print("\nlatency: us one way at 1,000 messages/s, median of the rounds' p50 and p99")
    for kind in LATENCY:
        print(f"  {NAMES[kind]:<44} {middle[kind][0]:>8.1f} {middle[kind][1]:>9.1f}")
    path = "one way at 1,000 messages/s, us, p50"
    spin = middle["aeron_spin"][0]
    best = min(SOCKETS, key=lambda kind: middle[kind][0])
    made = [
        entry("AE3/spin_limit", f"{path}, spin", spin, 10.0, "the target of 10 us", 1.0),
        entry("AE3/spin_socket", f"{path}, spin", spin, middle[best][0], f"the best socket: {NAMES[best]}", 1.0),
    ]
    for ours in ("spin", "balanced", "low-cpu"):
        for kind in SOCKETS:
            for number, what in enumerate(("p50", "p99") if kind == "unix" else ("p50",)):
                words = f"one way at 1,000 messages/s, us, {what}, {ours}"
                times = [middle[way][number] for way in (f"aeron_{ours}", kind)]
                made.append(entry(f"AE3/{ours}_{kind}_{what}", words, *times, NAMES[kind]))
    return made


def interpreter(wanted: str) -> str:
    """An interpreter of Python 3.12; empty where there is none."""
    found = [wanted] if wanted else ["python3.12", *map(str, Path.home().glob(".pyenv/versions/3.12*/bin/python"))]
    for name in found:
        python = shutil.which(name)
        if python is None:
            continue
        words = "import sys; print(sys.version_info[:2] == (3, 12))"
        done = subprocess.run([python, "-c", words], capture_output=True, text=True, check=False)
        if done.stdout.strip() == "True":
            return python
    return ""


def pyaeron(options: argparse.Namespace) -> list[Entry]:
    python = interpreter(options.python312)
    if not python:
        print("\npyaeron: no Python 3.12 is found, so it is left out (--python312 PATH)")
        return []
    import cmd_aeron

    with tempfile.TemporaryDirectory() as place:
        subprocess.run([python, "-m", "venv", f"{place}/v"], check=True)
        there = f"{place}/v/bin/python"
        done = subprocess.run([there, "-m", "pip", "install", "-q", PYAERON], check=False, capture_output=True)
        if done.returncode:
            print(f"\npyaeron: {PYAERON} cannot be installed, so it is left out: {done.stderr.decode()[-300:]}")
            return []
        # Our package is one for every Python from 3.11 on: the very files that run here.
        os.symlink(Path(cmd_aeron.__file__).parent, f"{place}/cmd_aeron")
        return _pyaeron(options, {"python": there, "path": place})


def _pyaeron(options: argparse.Namespace, where: dict[str, str]) -> list[Entry]:
    flow = Flow()
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    count = 1_000_000 // (10 if options.quick else 1)
    for _, kind in rounds(options.rounds, ["aeron", "aeron_call", "pyaeron"]):
        flow.add(kind, run("flow", kind, 1, count, **where))
    for _, kind in rounds(options.rounds, ["aeron_spin", "pyaeron"]):
        out = run("latency", kind, 500 if options.quick else 2_000, **where)
        times[kind].append((out["p50"], out["p99"]))
    print(f"\npyaeron: {PYAERON} on Python 3.12, all with the same driver")
    flow.show(1)
    middle = {kind: tuple(median(part) for part in zip(*each, strict=True)) for kind, each in times.items()}
    for kind, (p50, p99) in middle.items():
        print(f"  {NAMES[kind]:<44} one way, spinning: p50 {p50:.1f} us, p99 {p99:.1f} us")
    path = "64 B between two processes on Python 3.12"
    p50, p99 = ([middle[kind][n] for kind in ("aeron_spin", "pyaeron")] for n in (0, 1))
    return [
        flow.rate("AE4/rate", path, "aeron", "pyaeron", 1.0),
        flow.cpu("AE4/cpu", path, "aeron", "pyaeron", 1.0),
        flow.rate("AE4/rate_call", f"{path}, a call a message", "aeron_call", "pyaeron", 1.0),
        flow.cpu("AE4/cpu_call", f"{path}, a call a message", "aeron_call", "pyaeron", 1.0),
        entry("AE4/spin_p50", "one way at 1,000 messages/s, us, p50, spinning", *p50, NAMES["pyaeron"], None),
        entry("AE4/spin_p99", "one way at 1,000 messages/s, us, p99, spinning", *p99, NAMES["pyaeron"], None),
    ]


PATHS = {"unix": "Unix socket", "aeron": "Aeron, a publication a client", "shared": "Aeron, one stream for all"}
CLIENTS = (1, 4, 16)


def path(options: argparse.Namespace) -> list[Entry]:
    found: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    ways = [(kind, clients) for clients in CLIENTS for kind in PATHS]
    for turn, (kind, clients) in rounds(options.rounds, ways):
        if clients == 16 and turn >= 3:
            continue  # sixteen processes take long to start: three rounds tell
        with folder() as place:
            out = child("aeron_path.py", "server", kind, clients, 5 if options.quick else 1, options.idle, place)
        found[kind, clients].append(out)
    middle = {way: {what: median(each[what] for each in runs) for what in runs[0]} for way, runs in found.items()}
    print(
        f"\npath: records to books; us of CPU for one message to one client, at a rate and flat out; idle={options.idle}"
    )
    print(
        "                                             at a rate                       flat out                       to each"
    )
    for (kind, clients), row in middle.items():
        print(
            f"  {clients:>3} clients {PATHS[kind]:<32} server {row['server']:>6.2f} (loop {row['loop']:>5.2f})  client {row['client']:>6.2f}   "
            f"server {row['server_flat']:>6.2f}  client {row['client_flat']:>6.2f}  {row['rate']:>9,.0f} msg/s"
        )
    made = []
    for clients in CLIENTS:
        for kind in ("shared", "aeron"):
            ours, peer = middle[kind, clients], middle["unix", clients]
            name, words = PATHS["unix"], f"record to book, {clients} clients, {PATHS[kind]}"
            wanted = 1.0 if kind == "shared" and clients >= 4 else None
            for what, unit, target in (
                ("server", "us of server CPU per delivery", wanted),
                ("server_flat", "flat out, us of server CPU per delivery", wanted),
                ("client", "us of client CPU per message", None),
            ):
                id_ = f"AE5/{kind}_{clients}_{what}"
                made.append(entry(id_, f"{words}, {unit}", ours[what], peer[what], name, target))
            rates = [1e6 / row["rate"] for row in (ours, peer)]
            made.append(entry(f"AE5/{kind}_{clients}_rate", f"{words}, flat out, us a message", *rates, name))
    return made


def lossless(options: argparse.Namespace) -> list[Entry]:
    sys.path.append(str(HERE.parent / "tests" / "cmd_server"))  # where a shorter run of it is a test
    from aeron_lossless import Plan, carry_out

    made = []
    for kind in ("own", "shared"):
        count = options.messages or (300_000 if options.quick else 10_000_000 if kind == "own" else 1_000_000)
        with folder() as place:
            begin = time.monotonic()
            report = carry_out(Plan(place, count, kind))
            took = time.monotonic() - begin
        print(f"\nlossless, {PATHS['shared' if kind == 'shared' else 'aeron']}: {report.words()}; {took:.0f} s")
        made.append(
            {
                "id": f"AE6/lossless_{kind}", "path": f"{count:,} trades, three restarts of either side: {report.words()}",
                "ours": report.unexplained, "peer": 0, "peer_name": "none may be lost or doubled", "ratio": 1.0,
                "target": 1.0, "met": report.unexplained == 0,
            }
        )  # fmt: skip
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer messages; for trying it out, results are not kept")
    parser.add_argument("--messages", type=int, default=0, help="of lossless")
    parser.add_argument("--idle", default="low-cpu", help="how the clients of path wait: low-cpu, balanced or spin")
    parser.add_argument("--python312", default="", help="interpreter for pyaeron; default: looked for")
    options = parser.parse_args()
    parts = options.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.rounds < 5 and not options.quick and set(parts) != {"lossless"}:
        parser.error("--rounds must be at least 5, or --quick be given")
    begin = time.monotonic()
    print(f"{versions()}; {options.rounds} rounds")
    for part in parts:
        entries = globals()[part](options)
        for made in entries:
            made["peer_name"] = f"{made['peer_name']} ({versions()})"
        if not options.quick:
            save(entries)
    print(f"\n{time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
