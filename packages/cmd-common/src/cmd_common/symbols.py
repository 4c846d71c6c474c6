"""Selecting symbols: one generic function for command lines and configuration files.

A selector is one of
    BTCUSDT                 the exchange's own name, in any case
    BTC-USDT, BTC/USDT      the unified name, mapped to each exchange's own; a venue that trades no spot
                            takes a bare pair as its perpetual
    BTC-USDT-PERP           the unified name of a derivative
    *USDT, BTC-*            a wildcard over own and unified names (``*``, ``?``, ``[abc]``)
    all                     everything that is trading
    binance-spot:BTCUSDT    any of these (and @file) for one venue only
    @file                   selectors from a file: lines with ``#`` comments, or .toml, .yaml, .json
and a text may hold a comma list of them. The order is kept and duplicates collapse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import translate
from typing import TYPE_CHECKING, Final

from .errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from .instruments import Instrument

__all__ = ["Selectors", "expand_selectors", "get_symbols", "native_symbols", "nearest"]

Selectors = str | Sequence[str] | Mapping[str, str | Sequence[str]]
"""A comma list, several of them, or a mapping from venue (or ``all``) to them."""

_WILD: Final = re.compile(r"[*?\[]")
_EVERY_VENUE: Final = ("all", "*")
_MAX_FILE: Final = 16 * 1024 * 1024  # a symbol list is small; more is a wrong path


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to ``limit`` known names that look like ``name``, best first, whatever their case."""
    by_fold = {k.casefold(): k for k in known}
    return [by_fold[m] for m in get_close_matches(name.casefold(), by_fold, n=limit, cutoff=0.6)]


def get_symbols(
    selectors: Selectors,
    instruments: Mapping[str, Sequence[Instrument]],
    *,
    venues: Sequence[str] | None = None,
    include_inactive: bool = False,
) -> dict[str, list[str]]:
    """Resolve selectors to each venue's own symbols.

    ``instruments`` maps a venue to what it trades; ``venues`` chooses and orders venues (default: all of
    ``instruments``). Venues without a match are left out of the result; a selector must match on at
    least one venue. Wildcards and ``all`` skip what is not trading, unless ``include_inactive``; a name
    that is given in full may be halted or delisted. Raises UnknownNameError with the nearest names, and
    UsageError for a wildcard without a match, an unreadable file or an empty selection.
    """
    chosen = list(dict.fromkeys(instruments if venues is None else venues))
    for venue in chosen:
        if venue not in instruments:
            raise UnknownNameError("exchange", venue, nearest(venue, instruments))
    indexes = {venue: _Index(instruments[venue]) for venue in chosen}
    found: dict[str, dict[str, None]] = {venue: {} for venue in chosen}
    for venue_wanted, selector in expand_selectors(selectors, venues=chosen):
        scope = chosen if venue_wanted is None else [venue_wanted]
        hit = False
        for venue in scope:
            symbols = indexes[venue].find(selector, include_inactive)
            found[venue].update(dict.fromkeys(symbols))
            hit = hit or bool(symbols)
        if not hit:
            raise _no_match(selector, {venue: indexes[venue] for venue in scope})
    return {venue: list(symbols) for venue, symbols in found.items() if symbols}


def native_symbols(selectors: Selectors, *, venues: Sequence[str]) -> dict[str, list[str]]:
    """Resolve selectors that are literal names of the exchanges, without reference data.

    For work where an exchange's instrument list cannot be had: names are upper-cased and taken as they
    are, for every venue that they are not restricted from. Raises UsageError for wildcards and ``all``.
    """
    chosen = list(dict.fromkeys(venues))
    found: dict[str, dict[str, None]] = {venue: {} for venue in chosen}
    for venue_wanted, selector in expand_selectors(selectors, venues=chosen):
        if _WILD.search(selector) or selector.casefold() == "all":
            raise UsageError(
                f"symbol selector {selector!r} needs the exchange's list of instruments, which is not available",
                hint="name the symbols as the exchange writes them, such as BTCUSDT",
            )
        for venue in chosen if venue_wanted is None else [venue_wanted]:
            found[venue][selector.upper()] = None
    return {venue: list(symbols) for venue, symbols in found.items() if symbols}


def expand_selectors(selectors: Selectors, *, venues: Sequence[str]) -> list[tuple[str | None, str]]:
    """Flatten comma lists, files and mappings to ``(venue or None, selector)``, in order.

    Raises UsageError for an empty selection or an unreadable file, UnknownNameError for a venue that is
    not among ``venues``.
    """
    flat = list(dict.fromkeys(_flatten(selectors, venues, None, in_file="")))
    if not flat:
        raise UsageError("no symbols are given", hint="name them, such as BTCUSDT, or say all")
    return flat


def _flatten(
    selectors: object, venues: Sequence[str], venue: str | None, *, in_file: str
) -> Iterator[tuple[str | None, str]]:
    where = f" in {in_file}" if in_file else ""
    if isinstance(selectors, str):
        for part in selectors.split(","):
            if text := part.strip():
                yield from _one(text, venues, venue, in_file)
    elif isinstance(selectors, Mapping):
        if in_file and set(selectors) == {"symbols"}:  # the same form as in the configuration
            yield from _flatten(selectors["symbols"], venues, venue, in_file=in_file)
            return
        if venue is not None:
            raise UsageError(f"symbols of {venue}{where} are a mapping", hint="write a list of names")
        for key, value in selectors.items():
            name = str(key)
            if name.casefold() in _EVERY_VENUE:
                yield from _flatten(value, venues, None, in_file=in_file)
            else:
                yield from _flatten(value, venues, _venue(name, venues, where), in_file=in_file)
    elif isinstance(selectors, Sequence) and not isinstance(selectors, bytes | bytearray):
        for item in selectors:
            if not isinstance(item, str):
                raise UsageError(f"symbol {item!r}{where} is not text", hint='write names in quotes, such as "BTCUSDT"')
            yield from _flatten(item, venues, venue, in_file=in_file)
    else:
        raise UsageError(f"symbols{where} are neither text nor a list: {selectors!r}")


def _one(text: str, venues: Sequence[str], venue: str | None, in_file: str) -> Iterator[tuple[str | None, str]]:
    if text.startswith("@"):
        yield from _include(text[1:], venues, venue, in_file)
        return
    head, colon, tail = text.partition(":")
    if colon and venue is None:
        where = f" in {in_file}" if in_file else ""
        venue = _venue(head.strip(), venues, where)
        text = tail.strip()
        if not text:
            raise UsageError(f"{head}:{where} names no symbol", hint=f"write it as {head}:SYMBOL")
    elif colon and head.strip() == venue:  # a full name inside the list of its own venue
        text = tail.strip()
    if text.startswith("@"):
        yield from _include(text[1:], venues, venue, in_file)
    else:
        yield venue, text


def _include(path: str, venues: Sequence[str], venue: str | None, in_file: str) -> Iterator[tuple[str | None, str]]:
    if in_file:
        raise UsageError(f"{in_file} includes {path}", hint="a file of symbols cannot include another one")
    yield from _flatten(_read(path), venues, venue, in_file=path)


def _venue(name: str, venues: Sequence[str], where: str) -> str:
    for venue in venues:
        if venue.casefold() == name.casefold():
            return venue
    hint = "" if nearest(name, venues) else f"selected are: {', '.join(venues)}"
    raise UnknownNameError(f"exchange{where}", name, nearest(name, venues), hint=hint)


def _read(path: str) -> object:
    """Return the selectors of a file: the parsed document, or a list of its lines."""
    try:
        with open(path, "rb") as f:
            data = f.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise UsageError(f"cannot read symbols from {path}: the file is larger than 16 MiB")
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read symbols from {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read symbols from {path}: it is not UTF-8 text") from error
    suffix = path.rpartition(".")[2].casefold()
    try:
        if suffix == "toml":
            import tomllib

            return tomllib.loads(text)
        if suffix == "json":
            import json

            return json.loads(text)
        if suffix in ("yaml", "yml"):
            return _yaml(path, text)
    except ValueError as error:  # both decode errors derive from it
        raise UsageError(f"cannot read symbols from {path}: {error}") from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _yaml(path: str, text: str) -> object:
    try:
        import yaml
    except ModuleNotFoundError as error:
        if error.name != "yaml":
            raise
        raise UsageError(
            f"cannot read symbols from {path}: PyYAML is not installed", hint="pip install 'cmd-common[yaml]'"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"cannot read symbols from {path}: {' '.join(str(error).split())}") from error


class _Index:
    """The instruments of one venue by own and unified name, whatever the case."""

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        self.instruments = instruments
        self.native: dict[str, str] = {}
        self.exact: set[str] = set()
        self.unified: dict[str, list[str]] = {}
        self.spot = False
        for instrument in instruments:
            self.exact.add(instrument.symbol)
            self.native.setdefault(instrument.symbol.casefold(), instrument.symbol)
            self.unified.setdefault(instrument.unified.casefold(), []).append(instrument.symbol)
            self.spot = self.spot or instrument.kind == "spot"

    def find(self, selector: str, include_inactive: bool) -> list[str]:
        """Symbols that a selector names, in the venue's order."""
        if selector in self.exact:
            return [selector]
        fold = selector.casefold()
        if fold in self.native:
            return [self.native[fold]]
        if fold == "all":
            return [i.symbol for i in self.instruments if include_inactive or _active(i)]
        fold = fold.replace("/", "-")
        if _WILD.search(fold):
            match = re.compile(translate(fold)).match
            return [
                i.symbol
                for i in self.instruments
                if (include_inactive or _active(i)) and (match(i.symbol.casefold()) or match(i.unified.casefold()))
            ]
        if fold in self.unified:
            return self.unified[fold]
        if not self.spot and fold.count("-") == 1:  # a bare pair where only derivatives are traded
            return self.unified.get(f"{fold}-perp", [])
        return []

    def names(self) -> Iterator[str]:
        """Every name that could have been meant."""
        for instrument in self.instruments:
            yield instrument.symbol
            yield instrument.unified


def _active(instrument: Instrument) -> bool:
    return instrument.status in ("trading", "unknown")


def _no_match(selector: str, indexes: Mapping[str, _Index]) -> UsageError:
    where = " or ".join(indexes)
    if _WILD.search(selector) or selector.casefold() == "all":
        inactive = any(index.find(selector, True) for index in indexes.values())
        hint = (
            "only halted or delisted instruments match; name one in full"
            if inactive
            else f"list them with: cmd-cli symbols --exchange {','.join(indexes)}"
        )
        return UsageError(f"no trading symbol of {where} matches {selector!r}", hint=hint)
    close = nearest(selector.replace("/", "-"), dict.fromkeys(n for index in indexes.values() for n in index.names()))
    hint = "" if close else f"list them with: cmd-cli symbols --exchange {','.join(indexes)}"
    return UnknownNameError(f"symbol of {where}", selector, close, hint=hint)
