"""Benchmarks F1, F2, F3, S1: the server and its clients beside ZeroMQ, asyncio streams, uvloop and others.

One run measures every way once a round, interleaved, each in fresh processes; the medians of the rounds are compared.
What was received is compared with what was to be sent, outside every clock.

    fanout    CPU of the publishing process for one message to one client, 1, 10 and 100 clients, TCP and Unix socket:
              frames of 104 bytes in bursts of 50, all threads of the process counted. We start from records (route,
              number, encode, queue, write); the others send frames that are ready.
    latency   from the publisher's call to the client's hands, both on one clock, 2,000 messages/s one at a time; also
              with publisher and client pinned to one core each: where the system puts them decides as much as the code
    receive   CPU of a client that reads and splits frames that wait for it
    codec     a trade and a book of 20 x 20 to bytes and back, and many trades to columns
    stop      how the median latency of nine clients changes while a tenth is stopped by SIGSTOP
    rate      the highest rate to 100 clients at which every lossless one has every sequence

    python benchmarks/server.py [PART ...] [--rounds 5] [--quick] [--no-native]

Needs pyzmq, uvloop, numpy, the package sbe and cmd-native, without which "ours" is measured, too; with rustc on the path a pair of Rust programs shows the floor of
fanout and latency. Writes its results into benchmarks/results/latest.json, leaving other entries alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
from harness import save  # noqa: E402

PARTS = ("fanout", "latency", "receive", "codec", "stop", "rate")
FANOUT = ("ours", "ours_pure", "ours_uvloop", "zmq", "zmq_records", "streams", "joined", "uvloop")
LATENCY = ("ours", "ours_raw", "ours_uvloop", "uvloop", "zmq", "streams")
PINNED = ("ours", "ours_raw", "uvloop")
STOP = ("ours", "zmq", "streams")
RATE = ("ours", "zmq", "streams")
TRANSPORTS = ("tcp", "unix")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
CLIENTS = (1, 10, 100)
MESSAGES = {1: 40_000, 10: 15_000, 100: 2_500}  # of one run of fanout
NAMES = {
    "ours": "server on asyncio",
    "ours_pure": "server on asyncio without cmd-native",
    "ours_raw": "server on asyncio, bare socket and split as client",
    "ours_uvloop": "server on uvloop",
    "zmq": "ZeroMQ PUB/SUB",
    "zmq_records": "ZeroMQ PUB/SUB from records",
    "streams": "asyncio streams",
    "joined": "asyncio streams, bursts joined by hand",
    "uvloop": "uvloop Protocol",
    "rust": "Rust pair",
}

Entry = dict[str, object]


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in ("pyzmq", "uvloop", "msgspec", "sbe", "numpy"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    return ", ".join([*found, f"{os.cpu_count()} cores"])


def child(*arguments: object) -> dict[str, Any]:
    """One way once, in a process of its own."""
    command = [sys.executable, str(HERE / "server_run.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}: {done.stderr[-3000:]}{done.stdout[-500:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def native(folder: str) -> str:
    """Build the Rust pair; empty where there is no compiler."""
    if shutil.which("rustc") is None:
        return ""
    target = str(Path(folder) / "pair")
    subprocess.run(
        ["rustc", "-O", "--edition=2021", "-o", target, str(HERE / "server_pair.rs")], check=True, capture_output=True
    )
    return target


def entry(id_: str, path: str, ours: float, peer: float, name: str, target: float | None = None) -> Entry:
    """A result whose ratio above 1 means that we are better; printed as it is made."""
    ratio = peer / ours
    made: Entry = {
        "id": id_, "path": path, "ours": round(ours, 4), "peer": round(peer, 4), "peer_name": name,
        "ratio": round(ratio, 3),
    }  # fmt: skip
    verdict = ""
    if target is not None:
        made |= {"target": round(target, 3), "met": ratio >= target}
        verdict = f", target {target:.3g}: {'met' if ratio >= target else 'NOT met'}"
    print(f"  {id_:<34} ours {ours:>9.3g}  {name} {peer:>9.3g}  ratio {ratio:.2f}{verdict}")
    return made


def rounds(number: int, ways: Sequence[Any]) -> Any:
    """Every way once a round, every second round backwards."""
    for turn in range(number):
        for way in ways if turn % 2 == 0 else ways[::-1]:
            yield turn, way


# -- the parts


def fanout(options: argparse.Namespace, pair: str) -> list[Entry]:
    ways = [(kind, transport, n) for n in CLIENTS for transport in TRANSPORTS for kind in FANOUT]
    if pair:
        ways += [("rust", transport, n) for n in CLIENTS for transport in TRANSPORTS]
    times: dict[Any, list[float]] = defaultdict(list)
    for turn, (kind, transport, n) in rounds(options.rounds, ways):
        if kind in ("streams", "uvloop") and n == 100 and turn >= 3:
            continue  # ten times dearer than the others: three rounds tell
        messages = MESSAGES[n] // (5 if options.quick or kind in ("streams",) else 1)
        out = child("fanout", kind, transport, n, messages, pair or "-")
        times[kind, transport, n].append(out["cpu"] * 1e9 / (n * messages))
    kinds = [*FANOUT, *(["rust"] if pair else [])]
    print("\nfanout: ns of CPU for a delivery of 104 bytes")
    for n in CLIENTS:
        for transport in TRANSPORTS:
            row = "  ".join(f"{kind} {median(times[kind, transport, n]):>6.0f}" for kind in kinds)
            print(f"  {n:>3} clients {transport:<4}  {row}")
    entries = []
    for n in CLIENTS:
        for transport in TRANSPORTS:
            ours = median(times["ours", transport, n])
            path = f"fan-out to {n} clients over {transport}, 104 B, ns of CPU per delivery"
            for kind in kinds:
                target = {"zmq": 1.0, "streams": 10.0}.get(kind)
                if not kind.startswith("ours"):
                    peer = median(times[kind, transport, n])
                    wanted = target if n == 10 else None
                    entries.append(entry(f"F1/{kind}_{transport}_{n}", path, ours, peer, NAMES[kind], wanted))
            pure = median(times["ours_pure", transport, n])
            entries.append(entry(f"F1/native_or_pure_{transport}_{n}", path, ours, pure, NAMES["ours_pure"]))
            if n == 10:
                for kind in ("zmq", "streams"):
                    peer = median(times[kind, transport, n])
                    entries.append(
                        entry(f"F1/pure_{kind}_{transport}_{n}", f"{path}, no cmd-native", pure, peer, NAMES[kind])
                    )
            better = median(times["ours_uvloop", transport, n])
            entries.append(entry(f"F1/uvloop_or_asyncio_{transport}_{n}", path, ours, better, NAMES["ours_uvloop"]))
    return entries


def latency(options: argparse.Namespace, pair: str) -> list[Entry]:
    ways = [(kind, transport) for transport in TRANSPORTS for kind in (*LATENCY, *(["rust"] if pair else []))]
    pinned = [(kind, transport, "pinned") for transport in TRANSPORTS for kind in PINNED] if CORES > 1 else []
    times: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    messages = 1_000 if options.quick else 4_000
    for _, (kind, transport, *place) in rounds(options.rounds, [*ways, *pinned]):
        out = child("latency", kind, transport, messages, pair or "-", *place)
        times[kind, transport, *place].append((out["p50"], out["p99"]))
    print("\nlatency: us one way at 2,000 messages/s, median of the rounds' p50 and p99")
    middle = {way: tuple(median(part) for part in zip(*found, strict=True)) for way, found in times.items()}
    for kind, transport in ways:
        print(
            f"  {NAMES[kind]:<52} {transport:<4}  {middle[kind, transport][0]:>7.1f}  {middle[kind, transport][1]:>8.1f}"
        )
    for kind, transport, place in pinned:
        name, (p50, p99) = f"{NAMES[kind]}, {place}", middle[kind, transport, place]
        print(f"  {name:<60} {transport:<4}  {p50:>7.1f}  {p99:>8.1f}")
    entries = []
    for transport in TRANSPORTS:
        p50, p99 = middle["ours", transport]
        path = f"one-way latency at 2,000 messages/s over {transport}, us"
        for kind, target in (("uvloop", 1.0), ("zmq", None), ("streams", None), ("rust", 1 / 3)):
            if (kind, transport) in middle:
                other50, other99 = middle[kind, transport]
                entries.append(entry(f"F2/{kind}_{transport}_p50", f"{path}, p50", p50, other50, NAMES[kind], target))
                entries.append(entry(f"F2/{kind}_{transport}_p99", f"{path}, p99", p99, other99, NAMES[kind]))
        raw = middle["ours_raw", transport][0]
        other = middle["uvloop", transport][0]
        entries.append(entry(f"F2/raw_{transport}_p50", f"{path}, p50, client: socket and split", raw, other, "uvloop"))
        if pinned:
            path = f"{path}, p50, publisher and client on one core each"
            other = middle["uvloop", transport, "pinned"][0]
            for kind, id_, words in (("ours", "pinned", "records"), ("ours_raw", "pinned_raw", "bytes handed over")):
                mine = middle[kind, transport, "pinned"][0]
                entries.append(entry(f"F2/{id_}_{transport}_p50", f"{path}, {words}", mine, other, NAMES["uvloop"]))
    entries.append(
        entry(
            "F2/unix_below_tcp", "one-way latency p50, Unix socket against TCP, us", middle["ours", "unix"][0],
            middle["ours", "tcp"][0], "the same over TCP", 1.0,
        )
    )  # fmt: skip
    return entries


RECEIVE = ("split", "split_pure", "library", "library_pure", "buffered", "streams", "zmq")


def receive(options: argparse.Namespace, pair: str) -> list[Entry]:
    ways = [(kind, transport) for transport in TRANSPORTS for kind in RECEIVE]
    times: dict[Any, list[float]] = defaultdict(list)
    messages = 100_000 if options.quick else 300_000
    for _, (kind, transport) in rounds(options.rounds, ways):
        used = messages // (3 if kind in ("streams", "library", "library_pure") else 1)
        times[kind, transport].append(child("receive", kind, transport, used)["cpu"] * 1e9 / used)
    words = {
        "split": "recv_into and framing.split", "split_pure": "the same without cmd-native",
        "library": "client library, records", "library_pure": "the same without cmd-native",
        "buffered": "uvloop BufferedProtocol", "streams": "asyncio streams", "zmq": "ZeroMQ SUB",
    }  # fmt: skip
    print("\nreceive: ns of CPU for a message of 104 bytes that waits")
    middle = {way: median(found) for way, found in times.items()}
    for kind in RECEIVE:
        print(f"  {words[kind]:<30} tcp {middle[kind, 'tcp']:>7.0f}  unix {middle[kind, 'unix']:>7.0f}")
    entries = []
    for transport in TRANSPORTS:
        path = f"receive and split over {transport}, ns a message"
        ours = middle["split", transport]
        entries.append(entry(f"F3/limit_{transport}", path, ours, 150.0, "the target of 150 ns", 1.0))
        entries += [
            entry(f"F3/{kind}_{transport}", path, ours, middle[kind, transport], words[kind])
            for kind in ("split_pure", "buffered", "streams", "zmq")
        ]
        entries.append(
            entry(
                f"F3/records_pure_{transport}", "receive, split, decode to records, ns a message",
                middle["library", transport], middle["library_pure", transport], words["library_pure"],
            )
        )  # fmt: skip
        entries.append(
            entry(
                f"F3/records_{transport}", "receive, split, decode to records, ns a message",
                middle["library", transport], middle["zmq", transport], "ZeroMQ SUB, bytes only",
            )
        )  # fmt: skip
    return entries


def codec(options: argparse.Namespace, pair: str) -> list[Entry]:
    times: dict[str, list[float]] = defaultdict(list)
    for _, way in rounds(options.rounds, ["ours", "ours_pure", "struct", "msgspec", "sbe"]):
        for name, value in child("codec", way, 20_000 if options.quick else 100_000).items():
            times[f"{way} {name}"].append(value)
    middle = {name: median(found) for name, found in times.items()}
    print("\ncodec: ns of CPU")
    for name, value in sorted(middle.items(), key=lambda item: item[0].split()[::-1]):
        print(f"  {name:<28} {value:>9.0f}")
    found = []
    singly = "a trade into a caller's buffer by FrameWriter, ns"
    for peer, target in (("struct", 4.0), ("msgspec", 2.5)):
        found.append(
            entry(f"S1/native_{peer}", singly, middle["ours writer_into"], middle[f"{peer} encode_into"], peer, target)
        )
    in_batch = "trades of a batch into a caller's buffer beside single calls, ns each"
    for peer, target in (("struct", 4.0), ("msgspec", 2.5)):
        found.append(
            entry(
                f"S1/native_batch_{peer}",
                in_batch,
                middle["ours trades_into"],
                middle[f"{peer} encode_into"],
                peer,
                target,
            )
        )
    for what, path in (
        ("encode_into", "a trade into a caller's buffer, ns"), ("encode", "a trade to bytes, ns"),
        ("decode", "a trade from bytes, ns"), ("book_encode", "a book of 20 x 20 to bytes, ns"),
        ("book_decode", "a book of 20 x 20 from bytes, ns"), ("columns_of_list", "trades to numpy columns, ns a record"),
    ):  # fmt: skip
        found.append(
            entry(f"S1/{what}_pure", path, middle[f"ours {what}"], middle[f"ours_pure {what}"], NAMES["ours_pure"])
        )
    for what in ("encode_into", "quote_into", "trades_into", "quotes_into"):
        pure, other = middle[f"ours_pure {what}"], middle[f"struct {what}"]
        found.append(entry(f"S1/pure_{what}_struct", f"{what} without cmd-native, ns", pure, other, "struct", 1 / 1.1))
    for what, path, peers in (
        ("encode_into", "a trade into a caller's buffer, ns", (("struct", None), ("msgspec", None))),
        ("quote_into", "a quote into a caller's buffer, ns", (("struct", None),)),
        ("trades_into", "trades of a batch into a caller's buffer, ns each", (("struct", None),)),
        ("quotes_into", "quotes of a batch into a caller's buffer, ns each", (("struct", None),)),
        ("encode", "a trade to bytes, ns", (("struct", None), ("msgspec", None), ("sbe", None))),
        ("decode", "a trade from bytes, ns", (("struct", None), ("msgspec", None), ("sbe", None))),
        ("book_encode", "a book of 20 x 20 to bytes, ns", (("struct", None), ("msgspec", None))),
        ("book_decode", "a book of 20 x 20 from bytes, ns", (("struct", None), ("msgspec", None))),
        ("columns", "trades to numpy columns, ns a record", (("msgspec", None),)),
    ):
        for peer, target in peers:
            if f"{peer} {what}" in middle and f"ours {what}" in middle:
                ours, other = middle[f"ours {what}"], middle[f"{peer} {what}"]
                found.append(entry(f"S1/{what}_{peer}", path, ours, other, peer, target))
    for what, single in (("trades", "encode"), ("quotes", "quote")):
        path = f"{what} of a batch into a caller's buffer beside single calls that write always the same place, ns each"
        ours, other = middle[f"ours {what}_into"], middle[f"struct {single}_into"]
        found.append(entry(f"S1/{what}_into_struct_in_place", path, ours, other, "struct", 1 / 1.1))
    if "ours columns" in middle:
        path = "trades to numpy columns, ns a record"
        found.append(entry("S1/columns", path, middle["ours columns"], 30.0, "the target of 30 ns", 1.0))
    return found


def stop(options: argparse.Namespace, pair: str) -> list[Entry]:
    ways = [(kind, transport, stopped) for transport in TRANSPORTS for kind in STOP for stopped in (0, 1)]
    times: dict[Any, list[float]] = defaultdict(list)
    for _, (kind, transport, stopped) in rounds(options.rounds, ways):
        out = child("stop", kind, transport, stopped, 1_000 if options.quick else 3_000)
        times[kind, transport, stopped].append(out["p50"])
    print("\nstop: us, p50 of nine clients at 2,000 messages/s while a tenth is stopped, and while it is not")
    entries = []
    for transport in TRANSPORTS:
        effect = {}
        for kind in STOP:
            before, while_ = median(times[kind, transport, 0]), median(times[kind, transport, 1])
            effect[kind] = while_ / before
            print(f"  {NAMES[kind]:<24} {transport:<4}  {before:>8.1f}  stopped {while_:>9.1f}  {while_ / before:.2f}x")
        path = f"p50 of nine clients over {transport} with a stopped tenth, times that without"
        entries += [
            entry(f"SL/stopped_{peer}_{transport}", path, effect["ours"], effect[peer], NAMES[peer])
            for peer in ("zmq", "streams")
        ]
    return entries


def rate(options: argparse.Namespace, pair: str) -> list[Entry]:
    """Search the highest rate that holds: by halves up to the first failure, then between the two."""
    best: dict[str, list[float]] = defaultdict(list)
    for _, kind in rounds(1 if options.quick else min(options.rounds, 3), RATE):
        good, bad, now = 0.0, 0.0, 200_000.0
        for _ in range(16):
            if child("rate", kind, round(now), 2)["held"]:
                good = now
                now = (now + bad) / 2 if bad else now * 1.6
            else:
                bad = now
                now = (now + good) / 2
            if bad and good and bad / good < 1.08:
                break
        best[kind].append(good)
        print(f"  {NAMES[kind]:<24} {good:>9,.0f} deliveries/s", flush=True)
    middle = {kind: median(found) for kind, found in best.items()}
    print("\nrate: highest deliveries/s to 100 clients (50 TCP, 50 Unix) with no sequence lost and the schedule kept")
    entries = []
    for peer in ("zmq", "streams"):
        made = entry(
            f"RT/{peer}", "us a delivery at the highest lossless rate, 100 clients", 1e6 / middle["ours"],
            1e6 / max(middle[peer], 1.0), NAMES[peer],
        )  # fmt: skip
        entries.append(made)
    return entries


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer messages; for trying it out, results are not kept")
    parser.add_argument("--no-native", action="store_true", help="leave the Rust pair out")
    options = parser.parse_args()
    parts = options.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.rounds < 5 and not options.quick:
        parser.error("--rounds must be at least 5, or --quick be given")
    print(f"{versions()}; {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        pair = "" if options.no_native else native(folder)
        for part in parts:
            entries = globals()[part](options, pair)
            for made in entries:
                made["peer_name"] = f"{made['peer_name']} ({versions()})"
            if not options.quick:
                save(entries)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
