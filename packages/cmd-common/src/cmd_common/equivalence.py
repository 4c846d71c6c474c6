"""Which instruments are the same one on several venues: by base, quote and kind, with assets that count as equal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from .errors import UnknownNameError, UsageError
from .symbols import nearest

if TYPE_CHECKING:
    from .instruments import Instrument

__all__ = ["Equivalents", "Match", "Target", "match_instruments", "matches", "quote_pairs"]


class Equivalents:
    """Assets that count as one, such as USD, USDT and USDC. Each group is text: ``USD=USDT=USDC``.

    Groups that share an asset are one group. Names are upper-cased. Raises UsageError for a group of fewer than two.
    """

    __slots__ = ("_of", "groups")

    def __init__(self, groups: Iterable[str] = ()) -> None:
        self._of: dict[str, str] = {}
        self.groups: dict[str, tuple[str, ...]] = {}  # first name -> all names, in the order given
        for text in groups:
            names = [name.strip().upper() for name in text.split("=")]
            if len(names) < 2 or not all(names):
                raise UsageError(f"{text!r} names no equivalent assets", hint="write them as USD=USDT=USDC")
            known = dict.fromkeys(self._of[name] for name in names if name in self._of)
            members = dict.fromkeys(m for first in known for m in self.groups.pop(first))
            members.update(dict.fromkeys(names))
            first = next(iter(members))
            self.groups[first] = tuple(members)
            self._of.update(dict.fromkeys(members, first))

    def of(self, asset: str) -> str:
        """The name that stands for an asset's group: the asset itself where it has none."""
        return self._of.get(asset.upper(), asset.upper())

    def same(self, one: str, other: str) -> bool:
        """Whether two assets count as one."""
        return self.of(one) == self.of(other)

    def __repr__(self) -> str:
        return f"<Equivalents {' '.join('='.join(names) for names in self.groups.values())}>"


class Target(Struct, frozen=True):
    """What an aggregate is of: ``BTC-USDT``, ``BTC-USDT-PERP``, ``BTC-USD-20270326``."""

    base: str
    quote: str
    suffix: str  # empty: spot, or the perpetual on a venue that trades no spot

    @classmethod
    def parse(cls, text: str) -> Target:
        """Parse a unified name; ``/`` is as good as ``-``. Raises UsageError."""
        parts = text.strip().upper().replace("/", "-").split("-", 2)
        if len(parts) < 2 or not all(parts):
            raise UsageError(f"{text!r} is not an instrument", hint="write it as BTC-USDT or BTC-USDT-PERP")
        return cls(parts[0], parts[1], parts[2] if len(parts) == 3 else "")

    @property
    def name(self) -> str:
        """The unified name."""
        return f"{self.base}-{self.quote}" + (f"-{self.suffix}" if self.suffix else "")


class Match(Struct, frozen=True):
    """One instrument that belongs to a target; ``convert_from`` is its quote asset where prices must be converted."""

    instrument: Instrument
    convert_from: str = ""


def matches(
    target: Target, instrument: Instrument, equivalents: Equivalents, convert: Sequence[str] = (), *, spot: bool = True
) -> Match | None:
    """Whether an instrument belongs to a target. ``spot``: its venue trades spot.

    ``convert`` are quote assets that may be converted into the target's.
    """
    suffix = _suffix(instrument)
    if suffix != target.suffix and not (not target.suffix and not spot and suffix == "PERP"):
        return None
    if not equivalents.same(instrument.base, target.base):
        return None
    if equivalents.same(instrument.quote, target.quote):
        return Match(instrument)
    for asset in convert:
        if equivalents.same(instrument.quote, asset):
            return Match(instrument, equivalents.of(instrument.quote))
    return None


def match_instruments(
    target: Target,
    instruments: Mapping[str, Iterable[Instrument]],
    equivalents: Equivalents,
    convert: Sequence[str] = (),
) -> list[Match]:
    """All trading instruments of all venues that belong to a target, in their order.

    Raises UnknownNameError with the nearest unified names when there is none.
    """
    found: list[Match] = []
    known: dict[str, None] = {}
    for listed in instruments.values():
        trading = [i for i in listed if i.status in ("trading", "unknown")]
        spot = any(i.kind == "spot" for i in trading)
        for instrument in trading:
            known[instrument.unified] = None
            match = matches(target, instrument, equivalents, convert, spot=spot)
            if match is not None:
                found.append(match)
    if not found:
        near = nearest(target.name, known)
        raise UnknownNameError(
            f"instrument of {' or '.join(instruments)}", target.name, near, hint="" if near else "see cmd-cli symbols"
        )
    return found


def quote_pairs(
    asset: str, quote: str, instruments: Iterable[Instrument], equivalents: Equivalents
) -> list[tuple[Instrument, bool]]:
    """Spot instruments whose price converts ``asset`` into ``quote``; True: the price must be inverted."""
    found = []
    for instrument in instruments:
        if instrument.kind != "spot" or instrument.status not in ("trading", "unknown"):
            continue
        if equivalents.same(instrument.base, asset) and equivalents.same(instrument.quote, quote):
            found.append((instrument, False))
        elif equivalents.same(instrument.base, quote) and equivalents.same(instrument.quote, asset):
            found.append((instrument, True))
    return found


def _suffix(instrument: Instrument) -> str:
    """What follows base and quote in the unified name."""
    return instrument.unified[len(instrument.base) + len(instrument.quote) + 2 :].upper()
