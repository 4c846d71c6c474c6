"""Faults on request for emulators: parsing ``KIND[:k=v,...]``, and a seeded schedule of each.

Frames: ``drop``, ``repeat``, ``reorder`` (the message changes places with the next of its stream), ``tear``
(the JSON is cut off), ``delay`` (``ms``), ``malformed`` (an extra frame; ``form=text|unknown|shape|huge``,
``bytes`` of the huge one), ``disconnect`` (without a close frame; what the exchange sends in the next
``ms`` is lost too), ``silence`` (everything matching is lost for ``ms`` while the connection stays open),
``shutdown`` (the exchange's notice that it shuts down; whoever is still connected after ``ms`` is closed).
REST: ``rate_limit`` (429), ``ban`` (418). Bulk files: ``bad_checksum``, ``truncated_zip``
(``checksum=match``: with the checksum of the truncated file), ``missing_day``.

``at`` counts matching messages (or requests) from 1; ``rate`` is a probability; ``count`` limits how
often. With neither ``at`` nor ``rate``: one message in a hundred, or the hundredth message for
disconnect, silence and shutdown, the first request for rate_limit and ban, every matching file. ``venue``
names the one of several exchanges that is meant. ``stream`` is a whole stream name or its part after the
symbol (``depth`` matches ``btcusdt@depth@100ms``); on venues other than Binance its kind: ``trades``,
``quotes``, ``depth`` (books of any depth), ``candles``, ``clock``.
"""

from __future__ import annotations

from datetime import date
from random import Random
from typing import Any, Final

from .emulation import Fault
from .errors import UnknownNameError, UsageError
from .symbols import nearest

__all__ = ["FAULTS", "FaultPlan", "Injector", "check_fault", "parse_fault"]

_FRAME: Final = ("rate", "at", "count", "venue", "symbol", "stream")
_REQUEST: Final = ("rate", "at", "count", "venue", "symbol", "path", "ms")
_FILE: Final = ("rate", "at", "count", "venue", "symbol", "day")

FAULTS: Final[dict[str, tuple[str, ...]]] = {
    "drop": _FRAME,
    "repeat": _FRAME,
    "reorder": _FRAME,
    "tear": _FRAME,
    "delay": (*_FRAME, "ms"),
    "disconnect": (*_FRAME, "ms"),
    "silence": (*_FRAME, "ms"),
    "shutdown": (*_FRAME, "ms"),
    "malformed": (*_FRAME, "form", "bytes"),
    "rate_limit": _REQUEST,
    "ban": _REQUEST,
    "bad_checksum": _FILE,
    "truncated_zip": (*_FILE, "checksum"),
    "missing_day": _FILE,
}
"""Kinds of faults and the parameters that mean something for them."""

FRAME_FAULTS: Final = ("drop", "repeat", "reorder", "tear", "delay", "disconnect", "silence", "shutdown", "malformed")
REST_FAULTS: Final = ("rate_limit", "ban")
FILE_FAULTS: Final = ("bad_checksum", "truncated_zip", "missing_day")
_FORMS: Final = ("text", "unknown", "shape", "huge")
_LOG_LIMIT: Final = 100_000


def parse_fault(text: str) -> Fault:
    """Read ``KIND[:k=v,...]``; raises UsageError that names what is wrong."""
    kind, _, rest = text.strip().partition(":")
    kind = kind.strip().replace("-", "_")
    parameters: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not value.strip():
            raise UsageError(f"fault parameter {part!r} is not k=v", hint=f"for example {kind}:rate=0.01")
        parameters[name.strip()] = value.strip()
    fault = Fault(kind, parameters)
    check_fault(fault)
    return fault


def check_fault(fault: Fault) -> None:
    """Raise UsageError for an unknown kind or parameter, or a value that is none."""
    kind = fault.kind
    if kind not in FAULTS:
        near = nearest(kind, FAULTS)
        raise UnknownNameError("fault", kind, near, hint="" if near else f"faults are: {', '.join(FAULTS)}")
    for name, value in fault.parameters.items():
        if name not in FAULTS[kind]:
            near = nearest(name, FAULTS[kind])
            raise UnknownNameError(
                f"parameter of fault {kind}", name, near, hint="" if near else f"there are: {', '.join(FAULTS[kind])}"
            )
        form = _wrong(name, value)
        if form:
            raise UsageError(f"fault parameter {name}={value} is not {form}")


def _wrong(name: str, value: str) -> str:
    """Return what a value should be, or nothing where it is right."""
    try:
        if name == "rate":
            return "" if 0 <= float(value) <= 1 else "a number from 0 to 1"
        if name in ("at", "count", "ms", "bytes"):
            return "" if int(value) >= 1 else "a whole number from 1"
        if name == "day":
            date.fromisoformat(value if len(value) > 7 else f"{value}-01")
        elif name == "form":
            return "" if value in _FORMS else f"one of {', '.join(_FORMS)}"
        elif name == "checksum":
            return "" if value == "match" else "match"
    except ValueError:
        return {"rate": "a number from 0 to 1", "day": "a date"}.get(name, "a whole number from 1")
    return ""


class FaultPlan:
    """One fault with its own randomness; ``take`` says for each matching message whether it strikes."""

    def __init__(self, fault: Fault, seed: int | str) -> None:
        check_fault(fault)
        kind, given = fault.kind, fault.parameters
        self.kind = kind
        self.rate = float(given["rate"]) if "rate" in given else None
        self.at = int(given["at"]) if "at" in given else None
        self.ms = int(given.get("ms", 500))
        self.bytes = int(given.get("bytes", 2_000_000))
        self.symbol = given.get("symbol", "").upper()
        self.stream = given.get("stream", "").lower()
        self.day = given.get("day", "")
        self.path = given.get("path", "")
        self.form = given.get("form", "")
        self.matching_checksum = "checksum" in given
        if self.at is None and self.rate is None:
            if kind in ("disconnect", "silence", "shutdown"):
                self.at = 100
            elif kind in REST_FAULTS:
                self.at = 1
            elif kind in FRAME_FAULTS:
                self.rate = 0.01
        self.count = int(given["count"]) if "count" in given else 1 if self.at is not None else None
        self.seen = 0
        self.struck = 0
        self.random = Random(f"{seed}/{kind}/{sorted(given.items())}")

    def matches(self, stream: str, symbol: str) -> bool:
        """Whether a message of this stream is meant; empty filters match everything."""
        if self.symbol and self.symbol != symbol:
            return False
        if not self.stream:
            return True
        stream = stream.lower()
        if stream == self.stream or stream.partition("@")[2].startswith(self.stream):
            return True
        kind, colon, _ = stream.partition(":")  # as cmd_common.venue_world names streams
        if kind in ("depth", "top") and self.stream in ("depth", "book"):
            return True
        return bool(colon) and kind.startswith(self.stream)

    def take(self) -> bool:
        """Count one matching message and say whether the fault strikes it."""
        self.seen += 1
        if self.count is not None and self.struck >= self.count:
            return False
        if self.at is not None:
            hit = self.seen >= self.at
        elif self.rate is not None:
            hit = self.random.random() < self.rate
        else:
            hit = True
        self.struck += hit
        return hit


class Injector:
    """All faults of one emulator, and the list of what they did."""

    def __init__(self, faults: tuple[Fault, ...], seed: int, venue: str = "") -> None:
        mine = [(n, f) for n, f in enumerate(faults) if f.parameters.get("venue", venue).lower() == venue]
        plans = [FaultPlan(fault, f"{seed}/{n}") for n, fault in mine]
        self.frame_plans = [p for p in plans if p.kind in FRAME_FAULTS]
        self.rest_plans = [p for p in plans if p.kind in REST_FAULTS]
        self.file_plans = [p for p in plans if p.kind in FILE_FAULTS]
        self.applied: list[dict[str, Any]] = []
        self.counts: dict[str, int] = {}

    def frame(self, stream: str, symbol: str) -> list[FaultPlan]:
        """Return the plans that strike this message."""
        return [p for p in self.frame_plans if p.matches(stream, symbol) and p.take()]

    def rest(self, path: str, symbol: str) -> FaultPlan | None:
        """Return the plan that strikes this request."""
        hit = None
        for plan in self.rest_plans:
            if (not plan.path or plan.path in path) and plan.symbol in ("", symbol) and plan.take() and hit is None:
                hit = plan
        return hit

    def file(self, kind: str, symbol: str, day: str, *, count: bool = True) -> FaultPlan | None:
        """Return the plan of this kind that strikes a file; ``count=False`` only looks."""
        for plan in self.file_plans:
            if plan.kind == kind and plan.symbol in ("", symbol) and plan.day in ("", day):
                if not count:
                    if plan.count is None or plan.struck < plan.count:
                        return plan
                elif plan.take():
                    return plan
        return None

    def log(self, kind: str, **facts: Any) -> None:
        """Remember an applied fault; beyond a limit only the count goes on."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if len(self.applied) < _LOG_LIMIT:
            self.applied.append({"kind": kind, **facts})
