"""Many seeds of a server with its clients, and that a broken part is noticed; CMD_SIM_SEEDS says how many seeds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import serve_sim
from serve_sim import Plan, expand, simpler
from sim_chunks import CHUNKS, SEEDS, TWICE, chunk_of
from tests.tally import note

from cmd_common.replica import BookReplica
from cmd_common.testing.simulation import Summary, Violation, shrink
from cmd_server.client.core import ClientCore
from cmd_server.queues import Client
from cmd_server.sendbuffer import SendBuffer
from cmd_server.streams import Stream


def explained(plan: Plan, error: Violation) -> str:
    """A failure in words: what the seed expands to, and the simplest plan that still fails."""

    def fails(candidate: Plan) -> bool:
        try:
            serve_sim.run_plan(candidate)
        except Violation as again:
            return again.rule == error.rule
        return False

    least = shrink(plan, simpler, fails, tries=60)
    return f"{error}\n  {plan.describe()}\n  simplest that still fails: {least.describe()}"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_seeds(chunk: int) -> None:
    total = Summary()
    for seed in chunk_of(chunk, SEEDS, CHUNKS):
        plan = expand(seed)
        try:
            total.add(serve_sim.run_plan(plan))
        except Violation as error:
            pytest.fail(f"seed {seed}: {explained(plan, error)}", pytrace=False)
    assert total.seeds == len(chunk_of(chunk, SEEDS, CHUNKS))
    note("seeds", total.seeds, "server and clients")
    note("virtual_hours", total.virtual_seconds / 3600, "server and clients")
    note("simulated_kills", total.kills, "server and clients")
    for kind, count in total.faults.items():
        note("faults", count, kind)


@pytest.mark.parametrize("chunk", range(4))
def test_the_same_seed_gives_the_same_hash(chunk: int) -> None:
    for seed in chunk_of(chunk, TWICE, 4):
        assert serve_sim.digest(seed) == serve_sim.digest(seed), f"seed {seed}"
    assert len({serve_sim.digest(seed) for seed in range(3)}) == 3  # and different ones differ


def test_the_seeds_contain_every_fault() -> None:
    plans = [expand(seed) for seed in range(300)]
    for name in ("resets", "freezes", "kills", "losses", "partial", "again"):
        assert sum(bool(getattr(p, name)) for p in plans) > 60, name
    assert sum(p.ring == 0 for p in plans) > 30
    assert {c.policy for p in plans for c in p.clients} == set(serve_sim.POLICIES)
    assert {t for p in plans for c in p.clients for t in c.topics} == set(serve_sim.TOPICS)
    total = Summary()
    for seed in range(40):
        total.add(serve_sim.run_seed(seed))
    assert min(total.kills, total.faults["reset"], total.faults["freeze"], total.faults["disconnected"]) >= 10


def resend(self: SendBuffer) -> bool:
    """The defect of old: after a partial send everything is sent again from the beginning."""
    while self.waiting:
        head = self._head or memoryview(b"".join(self._rest))
        if not self._head:
            self._rest.clear()
        self._head = head
        try:
            taken = self._send(head)
        except BlockingIOError:
            return False
        if taken == len(head):
            self._head = memoryview(b"")
            self.waiting = sum(map(len, self._rest))
    return True


def drop_in_silence(self: Client) -> None:
    """Drop the oldest messages and tell nobody."""
    while len(self.queue) > self.bound:
        self.queue.popleft()


def forget_books(self: Client) -> None:
    """Merge by throwing away, and make nothing that stands for it."""
    self._replace(deque(), conflated=True)


MUTANTS: list[tuple[type, str, Callable[..., Any], set[str]]] = [
    (SendBuffer, "flush", resend, {"crash", "alive"}),
    (Stream, "reach", lambda self, position: True, {"alive", "hole"}),
    (BookReplica, "same", lambda self, snapshot: True, {"book"}),
    (Client, "_drop_oldest", drop_in_silence, {"alive", "hole", "crash"}),
    (Client, "_conflate", forget_books, {"book", "hole", "quote", "alive"}),
    (ClientCore, "positions", lambda self: (), {"hole", "published"}),
    (Client, "_overflow", lambda self: None, {"bound", "crash"}),
]


@pytest.mark.parametrize(("owner", "name", "broken", "rules"), MUTANTS, ids=[m[1].strip("_") for m in MUTANTS])
def test_a_broken_part_is_noticed(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, broken: Callable[..., Any], rules: set[str]
) -> None:
    assert hasattr(owner, name)
    monkeypatch.setattr(owner, name, broken)
    for seed in range(1, 150):
        found = rule_of(seed)
        if found:
            assert found in rules
            return
    pytest.fail("150 seeds did not notice")


def rule_of(seed: int) -> str:
    """The rule that a seed breaks; empty: none."""
    try:
        serve_sim.run_seed(seed)
    except Violation as error:
        return error.rule
    except Exception:
        return "crash"
    return ""
