"""What the benchmarks share: child processes, interleaving, peers with their own interpreters, results.

A *way* is one competitor on one path; it runs in a fresh process, prints one line of JSON and has compared its own
results with the oracle before. ``interleaved`` gives every way its turn in each round, every second round backwards.
Results are entries of exactly the keys ``KEYS`` in ``results/latest.json``; ``CMD_BENCH_RESULTS`` names another file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
KEYS = ("id", "path", "ours", "peer", "peer_name", "ratio", "target", "met")
Entry = dict[str, Any]

# Peers that cannot live in the environment bench: name -> (version of Python, distributions with their versions).
PEERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "order-book-0.6.1": ("3.11", ("order-book==0.6.1", "orjson==3.13.0")),
    "order-book-1.1.0": ("3.13", ("order-book==1.1.0", "orjson==3.13.0", "msgspec==0.22.0")),
    "nautilus": ("3.11", ("nautilus_trader==1.221.0", "msgspec==0.22.0")),
    "cryptofeed": ("3.11", ("cryptofeed==2.4.1", "order-book==0.6.1", "websockets==17.4")),
}


class Missing(Exception):
    """A peer or a tool is not there; the text says why and what helps."""


# -- results


def results() -> Path:
    """The file of the entries."""
    return Path(os.environ.get("CMD_BENCH_RESULTS") or HERE / "results" / "latest.json")


def machine_file() -> Path:
    """The file beside it that says when and where each benchmark ran."""
    return results().with_name("machine.json")


def load() -> list[Entry]:
    """All entries that are kept."""
    return list(json.loads(results().read_text())) if results().exists() else []


def entry(
    id_: str, path: str, ours: float, peer: float, peer_name: str, target: float | None = None, digits: int = 4
) -> Entry:
    """An entry of costs, whose ratio above 1 means that ours is lower; a target is the least ratio wanted."""
    ratio = peer / ours if ours else None
    return {
        "id": id_, "path": path, "ours": round(ours, digits), "peer": round(peer, digits), "peer_name": peer_name,
        "ratio": None if ratio is None else round(ratio, 3),
        "target": None if target is None else round(target, 3),
        "met": None if target is None else (ratio is None or ratio >= target),
    }  # fmt: skip


def show(entries: Iterable[Entry]) -> None:
    """Print entries as lines."""
    for e in entries:
        verdict = "" if e["target"] is None else f", target {e['target']:g}: {'met' if e['met'] else 'NOT met'}"
        ratio = "-" if e["ratio"] is None else f"{e['ratio']:.2f}"
        print(f"  {e['id']:<26} ours {e['ours']:>9.4g}  {e['peer_name']} {e['peer']:>9.4g}  ratio {ratio}{verdict}")


def save(entries: Sequence[Mapping[str, Any]]) -> None:
    """Put entries into the file in place of those with the same ids; says where and when in the file beside it."""
    if not entries:
        return
    for made in entries:
        if unknown := set(made) - set(KEYS):
            raise SystemExit(f"{made['id']}: {', '.join(sorted(unknown))} is no key of an entry")
    full = [{key: made.get(key) for key in KEYS} for made in entries]
    for made in full:
        if made["target"] is None:
            made["met"] = None
    path, beside = results(), machine_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ids = {made["id"] for made in full}
        _write(path, [old for old in load() if old["id"] not in ids] + full)
        known = json.loads(beside.read_text()) if beside.exists() else {}
        here = machine()
        for made in full:
            known[made["id"].split("/")[0]] = here
        _write(beside, dict(sorted(known.items())))
    if path == HERE / "results" / "latest.json":
        import report  # which imports this module

        report.write_page()  # it says what the results say, whoever measured


def drop(ids: Iterable[str]) -> None:
    """Forget entries whose id starts so: what a benchmark no longer measures."""
    starts = tuple(ids)
    _write(results(), [old for old in load() if not old["id"].startswith(starts)])


def _write(path: Path, content: object) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.replace(path)


def machine() -> dict[str, str]:
    """What the figures depend on, and the date."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpu() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        found = dict(line.split(":", 1) for line in f if ":" in line)  # the last core's, which are all alike
        words = {key.strip(): value.strip() for key, value in found.items()}
        model = f" (family {words['cpu family']}, model {words['model']})" if "cpu family" in words else ""
        return words.get("model name", platform.machine()) + model
    return platform.processor() or platform.machine()


def versions(*distributions: str) -> str:
    """Each with its version, as text."""
    found = []
    for one in distributions:
        try:
            found.append(f"{one} {version(one)}")
        except PackageNotFoundError:
            found.append(f"{one} missing")
    return ", ".join(found)


# -- processes


def environment(pure: bool = False) -> dict[str, str]:
    """A child's environment: natively unless told otherwise, whatever the caller has set."""
    env = {key: value for key, value in os.environ.items() if key not in ("CMD_PURE", "CMD_FAST")}
    if pure:
        env["CMD_PURE"] = "1"
    return env


def child(command: Sequence[object], *, env: Mapping[str, str] | None = None, patience: float = 600) -> dict[str, Any]:
    """Run a process to its end; its last line is JSON. Ends the benchmark with what the process said if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=patience, env=env)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-3000:]
        raise SystemExit(f"{' '.join(words[1:])}: {said}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def interleaved(rounds: int, ways: Sequence[Any]) -> Iterator[Any]:
    """Every way once a round, every second round backwards."""
    for turn in range(rounds):
        yield from ways if turn % 2 == 0 else ways[::-1]


class Times:
    """What was measured of each way."""

    def __init__(self) -> None:
        self._all: dict[Hashable, list[float]] = defaultdict(list)

    def add(self, way: Hashable, value: float) -> None:
        self._all[way].append(value)

    def __contains__(self, way: Hashable) -> bool:
        return way in self._all

    def __getitem__(self, way: Hashable) -> float:
        """The median of the rounds."""
        return median(self._all[way])


# -- peers


def folder() -> Path:
    """Where environments of peers and what is built are kept."""
    return Path(os.environ.get("CMD_BENCH_ENVS") or ROOT / ".venv" / "bench")


def interpreter(wanted: str) -> str:
    """An interpreter of a version such as 3.13."""
    if platform.python_version().startswith(f"{wanted}."):
        return sys.executable
    names = [f"python{wanted}", *map(str, sorted(Path.home().glob(f".pyenv/versions/{wanted}.*/bin/python")))]
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    for name in names:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            said = subprocess.run([name, "-c", ask], capture_output=True, text=True, check=True, timeout=60).stdout
            if said.strip() == wanted:
                return name
    raise Missing(f"no Python {wanted} is found; install one (uv python install {wanted})")


def uv() -> list[str]:
    """The command uv."""
    given = os.environ.get("HATCH_UV") or shutil.which("uv")
    if given:
        return [given]
    with contextlib.suppress(subprocess.SubprocessError):
        subprocess.run([sys.executable, "-m", "uv", "--version"], capture_output=True, check=True, timeout=60)
        return [sys.executable, "-m", "uv"]
    raise Missing("uv is missing; hatch run bench:all brings it")


def peer_python(name: str) -> str:
    """The interpreter of a peer's own environment, made once; raises Missing where it cannot be."""
    wanted, distributions = PEERS[name]
    place = folder() / f"{name}-{hashlib.sha256(repr(PEERS[name]).encode()).hexdigest()[:8]}"
    python = place / "bin" / "python"
    if (place / ".ready").exists():
        return str(python)
    tool = uv()
    print(f"  installing {', '.join(distributions)} for Python {wanted} (once)", flush=True)
    # Peers ask for other versions than our constraints name, so those must not reach them.
    env = {key: value for key, value in os.environ.items() if key not in ("UV_CONSTRAINT", "VIRTUAL_ENV")}
    for command in (
        [*tool, "venv", "-q", "--clear", "--python", interpreter(wanted), place],
        [*tool, "pip", "install", "-q", "--python", python, *distributions],
    ):
        done = subprocess.run([str(w) for w in command], capture_output=True, text=True, check=False, env=env)
        if done.returncode:
            raise Missing(f"{name}: {done.stderr.strip()[-500:]}")
    (place / ".ready").touch()
    return str(python)


def rust_program(*, hftbacktest: bool = True) -> str:
    """The program of benchmarks/rust, built; raises Missing without Cargo or where it cannot be built."""
    if shutil.which("cargo") is None:
        raise Missing("no Rust toolchain (cargo); install one (rustup)")
    target = Path(os.environ.get("CMD_BENCH_TARGET") or folder() / "cargo")
    command = ["cargo", "build", "-q", "--release", "--manifest-path", HERE / "rust" / "Cargo.toml"]
    if hftbacktest:
        command += ["--features", "hftbacktest"]
    env = os.environ | {"CARGO_TARGET_DIR": str(target)}
    done = subprocess.run([str(w) for w in command], capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise Missing(f"benchmarks/rust cannot be built: {done.stderr.strip()[-800:]}")
    return str(target / "release" / "bench")
