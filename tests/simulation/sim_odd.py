"""A made-up run in which two seeds fail; in a module of its own, because worker processes import it."""

from cmd_common.testing.simulation import Summary, Violation


def run_odd(seed):
    if seed == 13:
        raise Violation("made up", "thirteen")
    if seed == 17:
        raise RuntimeError("broken")
    return Summary(seeds=1, kills=seed % 2)
