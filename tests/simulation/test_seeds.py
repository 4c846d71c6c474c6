"""Many seeds through the whole path; CMD_SIM_SEEDS says how many, CMD_SIM_FROM where they begin.

Seeds are run in chunks, so that pytest-xdist spreads them over the cores. What they add up to goes where the totals of all
tests go (``tests.tally``).
"""

import random

import pytest
import sim_run
from sim_chunks import CHUNKS, SEEDS, TWICE, chunk_of
from sim_options import expand, simpler
from tests.tally import note

from cmd_common.testing.simulation import Summary, Violation, shrink


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
def test_seeds(chunk):
    total = Summary()
    for seed in chunk_of(chunk, SEEDS, CHUNKS):
        try:
            total.add(sim_run.run_options(expand(seed))[0])
        except Violation as error:
            pytest.fail(explained(seed, error), pytrace=False)
    assert total.seeds == len(chunk_of(chunk, SEEDS, CHUNKS))
    tell(total)


@pytest.mark.parametrize("chunk", range(8))
def test_the_same_seed_gives_the_same_hash(chunk):
    for seed in chunk_of(chunk, TWICE, 8):
        random.seed(seed)  # what others do with the global generator changes nothing
        first = sim_run.run_options(expand(seed))[1]
        assert sim_run.run_options(expand(seed))[1] == first, f"seed {seed}"
        note("same_seeds")
    assert len({sim_run.run_options(expand(s))[1] for s in range(3)}) == 3  # and different ones differ


def tell(total):
    """Count what so many seeds were."""
    note("seeds", total.seeds, "feeds and store")
    note("virtual_hours", total.virtual_seconds / 3600, "feeds and store")
    note("simulated_kills", total.kills, "feeds and store")
    for kind, count in total.faults.items():
        note("faults", count, kind)


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
