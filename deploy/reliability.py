"""Adds up what the tests have counted, and says whether the goals are met: python deploy/reliability.py FOLDER [--check ci]

FOLDER is what ``CMD_RELIABILITY_DIR`` named. ``--write FILE`` writes the sums as JSON: seeds, virtual hours, faults, kills,
inputs, open defects. ``--check ci`` or ``--check release`` exits with 1 where a goal of that column is not met.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
OPEN = "## Open defects"

Counts = dict[str, dict[str, float]]

GOALS: tuple[tuple[str, str, str, float, float], ...] = (
    # what, the least of (each: of every key of its own), words, every CI run, a release
    ("seeds", "sum", "simulation seeds over the whole path", 5_000, 1_000_000),
    ("virtual_hours", "sum", "simulated hours", 1, 2_500),
    ("same_seeds", "sum", "seeds run twice with the same hash", 200, 10_000),
    ("fuzz_seconds", "each", "seconds of fuzzing a target", 60, 60),
    ("inputs", "each", "inputs of a fuzz target", 1_000, 100_000_000),
    ("model_steps", "sum", "steps of stateful model tests", 100_000, 10_000_000),
    ("kills", "sum", "kill -9 of real processes, nothing confirmed lost", 200, 40_000),
    ("damages", "sum", "bit flips and truncations, all detected", 1_000, 100_000),
    ("conformance_cases", "sum", "WebSocket conformance cases, server and client", 494, 494),
    ("connections", "sum", "clients at once, some of them stopped", 500, 5_000),
)


def read(folder: Path) -> Counts:
    """Sum the lines of all processes by what and whose it was; raises ValueError for a damaged line."""
    counts: Counts = defaultdict(lambda: defaultdict(float))
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                found = json.loads(line)
                counts[found["what"]][found["of"]] += found["count"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: not a line of counts: {line[:80]}") from error
    return {what: dict(of) for what, of in counts.items()}


def open_defects(page: str) -> int:
    """How many rows the table of open defects has; raises ValueError where the page has none."""
    _, found, rest = page.partition(f"\n{OPEN}\n")
    if not found:
        raise ValueError(f"docs/reliability.md has no part {OPEN!r}")
    part = rest.split("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("|")]
    return max(0, len(rows) - 2)  # without the head and the line below it


def summary(counts: Counts, defects: int) -> dict[str, Any]:
    """The sums as ``reliability.json`` has them."""

    def total(what: str) -> float:
        return round(sum(counts.get(what, {}).values()), 3)

    return {
        "seeds": int(total("seeds")),
        "hours": total("virtual_hours"),
        "faults": {kind: int(n) for kind, n in sorted(counts.get("faults", {}).items())},
        "kills": int(total("kills")),
        "simulated_kills": int(total("simulated_kills")),
        "inputs": int(total("inputs")),
        "open_defects": defects,
        "same_seeds": int(total("same_seeds")),
        "model_steps": int(total("model_steps")),
        "damages": int(total("damages")),
        "conformance_cases": int(total("conformance_cases")),
        "connections": int(counts.get("connections", {}).get("at once", 0)),
        "of": {
            what: {of: int(n) for of, n in sorted(found.items())}
            for what, found in sorted(counts.items())
            if what in ("kills", "inputs", "fuzz_seconds", "model_steps", "seeds")
        },
    }


def missed(counts: Counts, column: str) -> list[tuple[str, float, float]]:
    """Goals of a column that are not met: words, what there is, what is wanted."""
    found = []
    for what, how, words, ci, release in GOALS:
        wanted = ci if column == "ci" else release
        of = counts.get(what, {})
        if what == "connections":
            of = {"at once": of.get("at once", 0)} if of.get("stopped", 0) >= 5 else {}
        if how == "sum":
            if sum(of.values()) < wanted:
                found.append((words, sum(of.values()), wanted))
            continue
        found += [(f"{words}: {name}", n, wanted) for name, n in of.items() if n < wanted]
        if not of:
            found.append((words, 0, wanted))
    return found


def main(argv: list[str] | None = None) -> int:
    """Run; the exit code is 1 where a goal is missed, 2 where something cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", choices=("ci", "release"))
    parser.add_argument("--write", type=Path)
    args = parser.parse_args(argv)
    try:
        counts = read(args.folder)
        found = summary(counts, open_defects(PAGE.read_text()))
        if args.write:
            args.write.write_text(json.dumps(found, indent=1) + "\n")
    except (OSError, ValueError) as error:
        print(f"reliability.py: error: {error}", file=sys.stderr)
        return 2
    for name in ("seeds", "hours", "same_seeds", "model_steps", "kills", "damages", "inputs", "connections"):
        print(f"{name:20} {found[name]:>16,}")
    print(f"{'faults':20} {sum(found['faults'].values()):>16,}  of {len(found['faults'])} kinds")
    print(f"{'open defects':20} {found['open_defects']:>16,}")
    misses = missed(counts, args.check) if args.check else []
    for words, have, wanted in misses:
        print(f"reliability.py: not met: {words}: {have:,.0f} of {wanted:,.0f}", file=sys.stderr)
    return 1 if misses else 0


if __name__ == "__main__":
    raise SystemExit(main())
