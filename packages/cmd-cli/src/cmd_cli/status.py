"""What ``cmd-cli status`` shows: pure, from the processes that are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from cmd_common.processes import Found

__all__ = ["BAD", "COLUMNS", "age", "as_json", "details", "row", "shown"]

BAD: Final = ("stuck", "killed", "failed")
"""States that somebody should look at."""
COLUMNS: Final = ("command", "state", "pid", "since", "what", "numbers")

_LIVE: Final = ("starting", "running", "stopping", "stuck")
_S: Final = 1_000_000_000
_UNITS: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def shown(found: Iterable[Found], *, everything: bool = False) -> list[Found]:
    """Those that live, and the newest dead one of a command and store where none lives; ``everything``: all of them."""
    ordered = sorted(found, key=lambda f: (f.state not in _LIVE, -f.process.started))
    if everything:
        return ordered
    out: list[Found] = []
    known: set[tuple[str, str]] = set()
    for one in ordered:
        key = (one.process.command, one.process.store)
        if one.state in _LIVE or key not in known:
            out.append(one)
        known.add(key)
    return out


def row(found: Found, now: int) -> tuple[object, ...]:
    """A line of the table, in the order of COLUMNS."""
    process = found.process
    what = process.words or (f"into {process.store}" if process.store else "")
    if process.error:
        what = process.error
    return (
        process.command,
        found.state if found.state != "failed" else f"failed ({process.exit_code})",
        process.pid if found.state in _LIVE else "",
        age(now - (process.started if found.state in _LIVE else process.updated)),
        what,
        details(process.facts),
    )


def age(ns: int) -> str:
    """A length of time in its two largest units, such as ``2h 5m``."""
    seconds = max(0, ns // _S)
    words: list[str] = []
    for name, size in _UNITS:
        count, seconds = divmod(seconds, size)
        if count or words:
            words.append(f"{count}{name}")
        if len(words) == 2:
            break
    return " ".join(w for n, w in enumerate(words) if n == 0 or not w.startswith("0")) or "0s"


def details(facts: Mapping[str, Any]) -> str:
    """Numbers of a command in one line: ``records 7, books LIVE 2, connections 1 of 1``."""
    words = []
    for name, value in facts.items():
        shown = name.replace("_", " ")
        if isinstance(value, Mapping):
            inner = _inner(value)
            if inner:
                words.append(f"{shown} {inner}")
        elif isinstance(value, int) and not isinstance(value, bool):
            words.append(f"{shown} {value:,}")
        elif value not in ("", None):
            words.append(f"{shown} {value}")
    return ", ".join(words)


def _inner(value: Mapping[str, Any]) -> str:
    if set(value) == {"up", "all"}:
        return f"{value['up']} of {value['all']}"
    if set(value) == {"waiting", "limit"}:
        return f"{value['waiting']:,} of {value['limit']:,}"
    return " ".join(f"{name} {count}" for name, count in value.items() if count)


def as_json(found: Sequence[Found]) -> list[dict[str, Any]]:
    """What ``--json`` prints; times are Unix ns."""
    out = []
    for one in found:
        p = one.process
        out.append(
            {
                "command": p.command,
                "state": one.state,
                "pid": p.pid,
                "started": p.started,
                "updated": p.updated,
                "version": p.version,
                "what": p.words,
                "store": p.store,
                "metrics": p.metrics,
                "exit_code": p.exit_code,
                "error": p.error,
                "facts": p.facts,
            }
        )
    return out
