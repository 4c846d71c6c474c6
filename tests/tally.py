"""What a run of the tests counts for ``reliability.json``: seeds, steps, kills, damages, inputs.

Every process appends lines to a file of its own in the folder that ``CMD_RELIABILITY_DIR`` names; ``deploy/reliability.py``
adds them up. Without the variable nothing is written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from hypothesis.stateful import RuleBasedStateMachine, invariant

__all__ = ["CountedSteps", "amount", "note"]

EVERYTHING = os.environ.get("CMD_REQUIRE") == "all"


def note(what: str, count: float = 1, of: str = "") -> None:
    """Count something that has been done and was right; ``of`` says whose it was: a store, a target, a kind."""
    folder = os.environ.get("CMD_RELIABILITY_DIR", "")
    if folder and count:
        Path(folder).mkdir(parents=True, exist_ok=True)
        line = json.dumps({"what": what, "of": of, "count": count})
        with open(Path(folder, f"{os.getpid()}.jsonl"), "a") as file:
            file.write(line + "\n")


def amount(usual: int, everything: int) -> int:
    """How much of something a run does: ``everything`` where every part is required, as in CI; CMD_RELIABILITY_TIMES more."""
    return (everything if EVERYTHING else usual) * int(os.environ.get("CMD_RELIABILITY_TIMES", "1"))


class CountedSteps(RuleBasedStateMachine):
    """A model test whose steps count."""

    _steps = 0

    @invariant()
    def counts(self) -> None:
        """Run after every step."""
        self._steps += 1

    def teardown(self) -> None:
        """End an example."""
        note("model_steps", self._steps, type(self).__name__)
        super().teardown()
