"""Event log, guard, shrinking and search."""

import os
import random
import socket
import sqlite3
import threading
import time
import types

import pytest
from sim_odd import run_odd

from cmd_common.testing.simulation import EventLog, Guard, Summary, Violation, search, shrink


def test_the_hash_depends_on_every_part_and_on_the_order():
    def digest(*events):
        log = EventLog(keep=2)
        for event in events:
            log.add(*event)
        return log.digest()

    base = digest((1, "a", "x"), (2, "b", b"y"))
    assert base == digest((1, "a", "x"), (2, "b", "y"))
    assert base != digest((2, "b", b"y"), (1, "a", "x"))
    assert base != digest((1, "a", "x"), (3, "b", "y"))
    assert base != digest((1, "a", "x2 b"), (2, "b", "y"))
    log = EventLog(keep=2)
    for n in range(5):
        log.add(n, "k", str(n))
    assert (log.count, len(log.tail(9)), len(log.tail(1)), log.tail(0)) == (5, 2, 1, [])


def module(name, source):
    made = types.ModuleType(name)
    exec(source, made.__dict__)
    return made


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef f(): return time.time()",
        "import time\ndef f(): time.sleep(0)",
        "import time\ndef f(): return time.monotonic_ns()",
        "import random\ndef f(): return random.random()",
    ],
)
def test_our_modules_may_not_use_the_real_world(source):
    ours, others = module("cmd_made_up.x", source), module("elsewhere", source)
    with Guard() as guard:
        others.f()
        assert not guard.broken
        with pytest.raises(Violation):
            ours.f()
        assert len(guard.broken) == 1
    ours.f()  # as before


def test_files_sockets_threads_and_databases_are_refused(tmp_path):
    existing = tmp_path / "there"
    existing.write_text("x")
    with Guard() as guard:
        with pytest.raises(Violation):
            (tmp_path / "new").open("w")
        with pytest.raises(Violation):
            os.rename(existing, tmp_path / "other")
        with pytest.raises(Violation):
            sqlite3.connect(tmp_path / "db")
        with socket.socket() as s, pytest.raises(Violation):
            s.connect(("127.0.0.1", 9))
        with pytest.raises(Violation):
            threading.Thread(target=print).start()
        sqlite3.connect(":memory:").close()
        assert existing.read_text() == "x"
        assert len(guard.broken) == 5
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").write_text("y")


def test_shrinking_finds_a_small_failure():
    def simpler(numbers):
        for at in range(len(numbers)):
            yield numbers[:at] + numbers[at + 1 :]
        for at, n in enumerate(numbers):
            if n > 0:
                yield (*numbers[:at], n // 2, *numbers[at + 1 :])

    tried = []

    def fails(numbers):
        tried.append(numbers)
        return sum(numbers) >= 10

    assert sum(shrink((9, 3, 40, 7), simpler, fails)) in range(10, 20)
    tried.clear()
    shrink((9, 3, 40, 7), simpler, fails, tries=5)
    assert len(tried) == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_search_runs_all_seeds_and_tells_failures(workers):
    total, failed = Summary(), []
    for summary, failures in search(range(40), run_odd, workers=workers, chunk=7, stop_after=0):
        total.add(summary)
        failed += failures
    assert (total.seeds, total.kills) == (40, 18)
    words = dict(failed)
    assert words.keys() == {13, 17}
    assert words[13] == "made up: thirteen"
    assert "RuntimeError: broken" in words[17]
    early = [f for _, failures in search(range(40), run_odd, workers=1, chunk=1) for f, _ in failures]
    assert early == [13]


def test_summary_as_json():
    total = Summary()
    for seed in range(4):
        total.add(Summary(seeds=1, kills=seed, virtual_seconds=900.0, faults={"b": 1, "a": seed}))
    assert total.as_json() == {
        "seeds": 4,
        "faults": {"a": 6, "b": 4},
        "kills": 6,
        "virtual_hours": 1.0,
        "full_store_seeds": 0,
    }


def test_random_numbers_of_a_seed_are_untouched_by_the_guard():
    with Guard():
        assert random.Random(5).random() == random.Random(5).random()
    assert time.time() > 0
