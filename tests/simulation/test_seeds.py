"""Many seeds through the whole path; CMD_SIM_SEEDS says how many, CMD_RELIABILITY_JSON where the totals go.

Seeds are run in chunks, so that pytest-xdist spreads them over the cores. Each chunk leaves its totals
in a file beside the summary; the summary is their sum, whichever chunk ends last.
"""

import json
import os
import random
import uuid
from pathlib import Path

import pytest
import sim_run
from sim_chunks import CHUNKS, SEEDS, TWICE, chunk_of
from sim_options import expand, simpler

from cmd_common.testing.simulation import Summary, Violation, shrink

REPORT = os.environ.get("CMD_RELIABILITY_JSON", "")


def explained(seed, error):
    """A failure in words: what the seed expands to, and the simplest options that still fail."""

    def fails(options):
        try:
            sim_run.run_options(options)
        except Violation as again:
            return again.rule == error.rule
        return False

    options = expand(seed)
    least = shrink(options, simpler, fails, tries=60)
    return (
        f"seed {seed}: {error}\n  {options.describe()}\n  simplest that still fails: {least.describe()}\n"
        f"  python tests/simulation/run.py --seed {seed} -v"
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_seeds(chunk, testrun_uid):
    total = Summary()
    for seed in chunk_of(chunk, SEEDS, CHUNKS):
        try:
            total.add(sim_run.run_options(expand(seed))[0])
        except Violation as error:
            pytest.fail(explained(seed, error), pytrace=False)
    assert total.seeds == len(chunk_of(chunk, SEEDS, CHUNKS))
    if REPORT:
        report(Path(REPORT), total, testrun_uid, chunk)


@pytest.mark.parametrize("chunk", range(8))
def test_the_same_seed_gives_the_same_hash(chunk):
    for seed in chunk_of(chunk, TWICE, 8):
        random.seed(seed)  # what others do with the global generator changes nothing
        first = sim_run.run_options(expand(seed))[1]
        assert sim_run.run_options(expand(seed))[1] == first, f"seed {seed}"
    assert len({sim_run.run_options(expand(s))[1] for s in range(3)}) == 3  # and different ones differ


def report(path, total, run, chunk):
    """Leave this chunk's totals, and write the sum of all chunks of this run."""
    parts = path.parent / f"{path.name}.parts"
    parts.mkdir(parents=True, exist_ok=True)
    for old in parts.glob("*.json"):
        if not old.name.startswith(f"{run}-"):
            old.unlink(missing_ok=True)
    (parts / f"{run}-{chunk}.json").write_text(
        json.dumps(
            {
                "seeds": total.seeds,
                "kills": total.kills,
                "virtual_seconds": total.virtual_seconds,
                "stored": total.stored,
                "faults": dict(total.faults),
            }
        )
    )
    seen: set[Path] = set()
    while (found := set(parts.glob(f"{run}-*.json"))) != seen:  # another chunk may end while we sum up
        seen = found
        whole = Summary()
        for part in sorted(found):
            try:
                data = json.loads(part.read_text())
            except ValueError:
                continue  # being written; that worker sums up again
            whole.seeds += data["seeds"]
            whole.kills += data["kills"]
            whole.virtual_seconds += data["virtual_seconds"]
            whole.stored += data["stored"]
            whole.faults.update(data["faults"])
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        temporary.write_text(json.dumps(whole.as_json(), indent=1) + "\n")
        temporary.replace(path)


def test_all_fault_kinds_occur():
    """The kinds of fault that reliability asks for are all among those that a few hundred seeds expand to."""
    options = [expand(seed) for seed in range(400)]
    for kind in ("drop", "duplicate", "reorder", "split", "malformed", "stall", "reset", "refuse", "rate_limit", "ban"):
        assert sum(getattr(o.net, kind) > 0 for o in options) > 20, kind
    for kind in ("eio", "enospc", "torn", "kill", "crash"):
        assert sum(getattr(o.disk, kind) > 0 for o in options) > 10, kind
    for kind in ("partitions", "resets", "bans", "jumps", "kills"):
        assert sum(bool(getattr(o, kind)) for o in options) > 10, kind
    assert {o.market for o in options} == {"spot", "usdm", "coinm"}
    assert sum(o.store == "parquet" for o in options) == 80


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5, 10])
def test_without_faults_nothing_is_missing(seed):
    options = sim_run.fault_free(expand(seed))
    run = sim_run.Run(options)
    summary = run.execute()
    assert not +summary.faults
    assert run.acknowledged.rows


def test_a_failing_seed_is_shrunk(monkeypatch):
    """Shrinking keeps the rule and drops what does not matter."""
    from cmd_common.continuity import IdTracker, Judgement

    def judge(self, id_, ts):
        accept = id_ > self.last
        self.last, self.ts = max(id_, self.last), ts
        return Judgement(accept=accept)

    monkeypatch.setattr(IdTracker, "judge", judge)
    seed = next(s for s in range(1, 200) if s % 5 and _rule(expand(s)) == "lost")
    options = expand(seed)
    least = shrink(options, simpler, lambda o: _rule(o) == "lost", tries=80)
    assert _rule(least) == "lost"
    assert len(least.describe()) <= len(options.describe())
    assert least.store == "light"
    assert f"seed={seed}" in explained(seed, Violation("lost", "made up"))


def _rule(options):
    try:
        sim_run.run_options(options)
    except Violation as error:
        return error.rule
    return ""
