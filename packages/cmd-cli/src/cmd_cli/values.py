"""From settings to the options of a command: what a value must be beyond its form.

Everything here raises UsageError (exit code 2) with the nearest match or the next thing to do, before
any connection is opened.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.symbols import nearest

if TYPE_CHECKING:
    from cmd_cli.command import Run
    from cmd_common.commands import AggregateOptions, RecordOptions
    from cmd_common.emulation import Fault

__all__ = [
    "check_intervals",
    "check_store",
    "check_types",
    "day",
    "days",
    "endpoints",
    "equivalents",
    "exchanges",
    "fault",
    "fees",
    "instant",
    "listen",
    "number_or_names",
    "record_options",
    "secret_options",
    "recordings",
    "selectors",
    "stored_selectors",
    "token",
    "topics",
]


def exchanges(names: Sequence[str] | None, symbols: object = None) -> tuple[str, ...]:
    """Check exchanges; without any, those that a mapping of symbols names."""
    from cmd_common.registry import names as registered

    known = registered("cmd.exchanges")
    chosen = list(names or ())
    if not chosen and isinstance(symbols, Mapping):
        chosen = [str(venue) for venue in symbols if venue not in ("all", "*")]
    if not chosen:
        raise UsageError("no exchange is given", hint=f"add --exchange with any of: {', '.join(known)}")
    for name in chosen:
        if name not in known:
            near = nearest(name, known)
            raise UnknownNameError(
                "exchange", name, near, hint="" if near else f"installed are: {', '.join(known) or 'none'}"
            )
    return tuple(chosen)


def selectors(symbols: object, venues: Sequence[str]) -> tuple[str, ...]:
    """Flatten symbols to selectors of ``get_symbols``; a mapping's other venues are left out."""
    from cmd_common.registry import names as registered
    from cmd_common.symbols import expand_selectors

    if isinstance(symbols, Mapping):
        known = registered("cmd.exchanges")
        for venue in symbols:
            if venue not in known and venue not in ("all", "*"):
                raise UnknownNameError("exchange", str(venue), nearest(str(venue), known))
        symbols = {k: v for k, v in symbols.items() if k in venues or k in ("all", "*")}
    if not symbols:
        raise UsageError(
            f"no symbols are given for {', '.join(venues)}", hint="add --symbols, such as --symbols BTCUSDT or all"
        )
    pairs = expand_selectors(symbols, venues=venues)  # type: ignore[arg-type]  # its form was checked before
    return tuple(f"{venue}:{selector}" if venue else selector for venue, selector in pairs)


def check_types(types: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Check record types."""
    if not types:
        raise UsageError("no types are given", hint=f"types are: {', '.join(known)}")
    for name in types:
        if name not in known:
            near = nearest(name, known)
            raise UnknownNameError("type", name, near, hint="" if near else f"types are: {', '.join(known)}")
    return tuple(types)


def equivalents(groups: Sequence[str] | None) -> tuple[str, ...]:
    """Check groups of assets that count as one."""
    from cmd_common.equivalence import Equivalents

    Equivalents(groups or ())
    return tuple(groups or ())


def fees(found: Mapping[str, str], venues: Sequence[str]) -> dict[str, float]:
    """Check taker fees: basis points by exchange or by ``exchange:symbol``."""
    out: dict[str, float] = {}
    for name, text in found.items():
        venue = name.partition(":")[0]
        if venue not in venues:
            raise UnknownNameError("exchange in fee", venue, nearest(venue, venues))
        try:
            out[name] = float(text)
            if not -10_000 < out[name] < 10_000:
                raise ValueError
        except ValueError:
            raise UsageError(f"fee {text!r} of {name} is not a number of basis points", hint="0.26 % is 26") from None
    return out


def check_intervals(intervals: Sequence[str], venues: Sequence[str]) -> tuple[str, ...]:
    """Check candle intervals: each must be one that some venue has; who lacks it says so later."""
    from cmd_common.registry import exchange

    tables = {venue: tuple(exchange(venue).intervals) for venue in venues}
    for name in intervals:
        if any(not known or name in known for known in tables.values()):
            continue
        for venue, known in tables.items():
            near = [k for k in known if k.casefold() == name.casefold()] or nearest(name, known)
            raise UnknownNameError(
                f"interval of {venue}", name, near, hint="" if near else f"intervals are: {', '.join(known)}"
            )
    return tuple(intervals)


def check_store(url: str | None) -> str:
    """Check a store's URL without opening it."""
    from cmd_common.registry import names as registered

    known = registered("cmd.stores")
    if not url:
        raise UsageError("no store is given", hint="add --store parquet:DIR, or store = ... in cmd.toml")
    scheme, colon, location = url.partition(":")
    if not colon:
        raise UsageError(f"store {url!r} names no kind of store", hint=f"write it as {known[0]}:{url}" if known else "")
    if scheme not in known:
        near = nearest(scheme, known)
        raise UnknownNameError(
            "store", scheme, near, hint="" if near else f"installed are: {', '.join(known) or 'none'}"
        )
    if not location:
        raise UsageError(f"store {url!r} has no location", hint=f"write it as {scheme}:PATH")
    return url


def endpoints(found: Mapping[str, str] | None, venues: Sequence[str]) -> dict[str, str]:
    """Check endpoints, a mapping from venue (empty: all) to URL; those of other venues are left out, where some are named."""
    from cmd_common.registry import names as registered

    known = registered("cmd.exchanges")
    for venue in found or ():
        if venue and venue not in known:
            raise UnknownNameError("exchange in endpoint", venue, nearest(venue, known))
    return {venue: url for venue, url in (found or {}).items() if not venue or not venues or venue in venues}


def day(text: str, what: str) -> date:
    """Parse ``2024-08-08``, ``today`` or ``yesterday`` (UTC)."""
    today = datetime.now(UTC).date()
    if text in ("today", "yesterday"):
        return today if text == "today" else today - timedelta(days=1)
    try:
        if len(text) != 10:
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{what} {text!r} is not a date", hint="write it as 2024-08-08") from None


def days(start: str | None, end: str | None) -> tuple[date, date]:
    """Check the first and last day of an archive, both inclusive; without an end it is one day."""
    if not start:
        raise UsageError("no start is given", hint="add --start 2024-08-08 (and --end, inclusive)")
    first = day(start, "start")
    last = day(end, "end") if end else first
    if last < first:
        raise UsageError(f"end {last} is before start {first}", hint="both days are inclusive")
    today = datetime.now(UTC).date()
    for what, value in (("start", first), ("end", last)):
        if value > today:
            raise UsageError(f"{what} {value} is in the future", hint=f"today is {today}, UTC")
    return first, last


def instant(text: str, what: str) -> int:
    """Parse a date or an ISO 8601 time, UTC where no offset is given, to ns."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{what} {text!r} is not a time", hint="write it as 2025-03-01 or 2025-03-01T23:59:00"
        ) from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


def fault(text: str) -> Fault:
    """Parse ``KIND[:k=v,...]``."""
    from cmd_common.faults import parse_fault

    return parse_fault(text)


def listen(text: str) -> str:
    """Check ``HOST:PORT``."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(
            f"address {text!r} is not HOST:PORT", hint="for example 127.0.0.1:9001; port 0 is any free one"
        )
    return text


def recordings(paths: Sequence[str]) -> tuple[str, ...]:
    """Check that recordings are there and readable."""
    for path in paths:
        if not os.path.isfile(path):
            folder = os.path.dirname(path) or "."
            there = os.listdir(folder) if os.path.isdir(folder) else []
            near = nearest(os.path.basename(path), there, 1)
            raise UsageError(
                f"recording {path} is not a file", hint=f"did you mean {os.path.join(folder, near[0])}?" if near else ""
            )
        if not os.access(path, os.R_OK):
            raise UsageError(f"recording {path} is not readable")
    return tuple(paths)


def number_or_names(text: str) -> tuple[int, tuple[str, ...]]:
    """Symbols of a simulation: their number, or their names."""
    names: tuple[Any, ...] = tuple(dict.fromkeys(p.strip().upper() for p in text.split(",") if p.strip()))
    if len(names) == 1 and names[0].isdecimal():
        number = int(names[0])
        if not 1 <= number <= 10_000:
            raise UsageError(f"number of symbols {number} is not from 1 to 10000")
        return number, ()
    if not names:
        raise UsageError("no symbols are given", hint="--symbols 4, or --symbols BTCUSDT,ETHUSDT")
    return len(names), names


def secret_options(options: Mapping[str, str]) -> dict[str, str]:
    """Settings of exchange packages, with secrets in place of the files that are named as ``file:PATH``; raises UsageError."""
    from cmd_common.secrets import resolve

    return {k: resolve(v, f"option {k}") if v.startswith("file:") else v for k, v in options.items()}


def token(text: str | None, path: str | None) -> str:
    """The secret of a server: the text, else the first line of a file; empty where there is none."""
    if text or not path:
        return text or ""
    try:
        with open(path, encoding="utf-8") as f:
            found = f.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"cannot read the token from {path}: {words}") from error
    if not found:
        raise UsageError(f"token file {path} is empty", hint="its first line is the token")
    return found


def topics(types: Sequence[str], venues: Sequence[str], symbols: object, intervals: Sequence[str]) -> tuple[str, ...]:
    """What to ask a server for: topics of types, for native symbols or wildcards of any or of some venues."""
    wanted: list[str] = []
    for venue, selector in _patterns(symbols):
        scopes = [venue] if venue else list(venues) or ["*"]
        wanted += [f"{scope}:{'*' if selector.casefold() == 'all' else selector}" for scope in scopes]
    kinds = [f"{t}@{i}" for t in types if t == "candles" for i in intervals]
    kinds = [t for t in types if t != "candles"] + kinds
    return tuple(dict.fromkeys(f"{kind} {name}" for kind in kinds for name in wanted))


def stored_selectors(symbols: object) -> tuple[str, ...]:
    """Flatten symbols to selectors for a store, whose exchanges are known only when it is open."""
    return tuple(f"{venue}:{selector}" if venue else selector for venue, selector in _patterns(symbols))


def _patterns(symbols: object) -> list[tuple[str | None, str]]:
    """Selectors with their venues, of any installed exchange; without any: everything."""
    from cmd_common.registry import names as registered
    from cmd_common.symbols import expand_selectors

    if not symbols:
        return [(None, "all")]
    return expand_selectors(symbols, venues=registered("cmd.exchanges"))  # type: ignore[arg-type]  # its form was checked before


def record_options(
    run: Run,
    venues: tuple[str, ...],
    *,
    symbols: tuple[str, ...],
    types: tuple[str, ...],
    store: str,
    aggregate: AggregateOptions,
) -> RecordOptions:
    """Return the options of a live session from the flags that all commands with one have."""
    from cmd_common.commands import RecordOptions

    return RecordOptions(
        exchanges=venues,
        symbols=symbols,
        types=types,
        store=store,
        intervals=check_intervals(run.get("interval"), venues),
        depth=run.get("depth"),
        endpoints=endpoints(run.get("endpoint"), venues),
        duration=run.get("duration"),
        until_end=run.get("until-end"),
        snapshot_every=run.get("snapshot-every"),
        raw=run.get("raw"),
        proxy=run.get("proxy"),
        queue_limit=run.get("queue-limit"),
        options=secret_options(run.get("options")),
        aggregate=aggregate,
    )
