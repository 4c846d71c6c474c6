"""Searches seeds for a failure: ``python tests/simulation/run.py --seeds 0:5000 --workers 2``.

A failing seed is printed with what it expands to and with the simplest options that still fail.
``--seed N -v`` runs one seed and prints its last events; ``--twice`` compares the hashes of two runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import sim_run
from sim_options import Options, expand, simpler

from cmd_common.testing.simulation import Summary, Violation, search, shrink


def fails(options: Options, rule: str) -> bool:
    """Whether options break the same rule."""
    try:
        sim_run.run_options(options)
    except Violation as error:
        return error.rule == rule
    return False


def explain(options: Options, *, events: int, shrinking: bool) -> bool:
    """Run one seed's options; print the failure, if any, and its simplest form. True when it holds."""
    run = sim_run.Run(options)
    try:
        summary = run.execute()
    except Exception as error:
        rule = error.rule if isinstance(error, Violation) else "crash"
        print(f"seed {options.seed} FAILS: {error if isinstance(error, Violation) else repr(error)}")
        print(f"  {options.describe()}")
        if shrinking:
            least = shrink(options, simpler, lambda o: fails(o, rule))
            print(f"  simplest that still fails by {rule!r}:\n  {least.describe()}")
            if events:
                run = sim_run.Run(least)
                try:
                    run.execute()
                except Exception as again:
                    print(f"  {again}")
        for line in run.log.tail(events):
            print(f"  {line}")
        return False
    print(f"seed {options.seed} holds: {summary.as_json()} hash {run.log.digest()}")
    for line in run.log.tail(events):
        print(f"  {line}")
    return True


def main() -> int:
    """Run; the exit code is 1 when a seed failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:1000", help="range A:B, B exclusive")
    parser.add_argument("--seed", type=int, help="one seed, explained")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--twice", action="store_true", help="with --seed: run twice and compare the hashes")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the last events of a seed")
    args = parser.parse_args()
    events = 80 if args.verbose else 0
    if args.seed is not None:
        options = expand(args.seed)
        print(options.describe())
        if args.twice:
            first, second = (sim_run.run_options(options)[1] for _ in range(2))
            print(f"{first} and {second}: {'equal' if first == second else 'DIFFERENT'}")
            return int(first != second)
        return int(not explain(options, events=events, shrinking=not args.no_shrink))
    start, _, end = args.seeds.partition(":")
    seeds = range(int(start), int(end))
    total = Summary()
    failed: list[int] = []
    began = time.perf_counter()
    for summary, failures in search(
        seeds, sim_run.run_seed, workers=args.workers, stop_after=0 if args.keep_going else 1
    ):
        total.add(summary)
        for seed, words in failures:
            failed.append(seed)
            print(f"\nseed {seed}: {words}", flush=True)
        rate = total.seeds / (time.perf_counter() - began)
        print(f"\r{total.seeds} seeds, {rate:.1f}/s, {len(failed)} failed", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(total.as_json())
    for seed in sorted(failed)[:3]:
        explain(expand(seed), events=events, shrinking=not args.no_shrink)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
