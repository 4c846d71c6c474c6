"""Instruments and the reference-data service: symbols, integer ids, tick and lot sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec
from msgspec import Struct

from .errors import DataError, StoreError, UnknownNameError, UsageError
from .records import InstrumentRecord, full_name
from .symbols import nearest

if TYPE_CHECKING:
    from .seams import Disk

__all__ = [
    "IdAllocator",
    "Instrument",
    "InstrumentChange",
    "InstrumentKind",
    "InstrumentStatus",
    "ReferenceData",
    "Rounding",
]

InstrumentKind = Literal["spot", "perpetual", "future", "option"]
InstrumentStatus = Literal["trading", "halted", "pre_trading", "delisted", "unknown"]
Rounding = Literal["nearest", "down", "up"]

_ROUNDING: Final = {"nearest": ROUND_HALF_EVEN, "down": ROUND_FLOOR, "up": ROUND_CEILING}
_FILE_VERSION: Final = 1


class Instrument(Struct, frozen=True):
    """One tradable instrument of one venue; decimals are exact."""

    venue: str
    symbol: str  # the exchange's own name, upper case
    base: str
    quote: str
    kind: InstrumentKind
    tick_size: Decimal
    lot_size: Decimal
    settle: str = ""  # asset that profit is paid in; empty: the quote asset
    min_quantity: Decimal = Decimal(0)
    min_notional: Decimal = Decimal(0)
    contract_size: Decimal | None = None  # None: quantities are in the base asset
    inverse: bool = False
    expiry: int | None = None  # ns
    status: InstrumentStatus = "trading"
    raw_status: str = ""  # the exchange's own word

    @property
    def name(self) -> str:
        """The full name, ``venue:symbol``."""
        return full_name(self.venue, self.symbol)

    @property
    def unified(self) -> str:
        """The name that is the same on every venue: ``BTC-USDT``, ``BTC-USDT-PERP``, ``BTC-USD-20270326``."""
        pair = f"{self.base}-{self.quote}"
        if self.kind == "spot":
            return pair
        if self.kind == "perpetual":
            return f"{pair}-PERP"
        if self.expiry is not None:
            from datetime import UTC, datetime

            return f"{pair}-{datetime.fromtimestamp(self.expiry // 1_000_000_000, UTC):%Y%m%d}"
        return f"{pair}-{self.symbol}"

    def base_quantity(self, price: float, quantity: float) -> float:
        """The quantity in the base asset.

        Contracts of a linear market are worth ``contract_size`` of the base asset, those of an inverse
        one ``contract_size`` of the quote asset, which is ``contract_size / price`` of the base asset.
        Raises ValueError for an inverse contract at price 0.
        """
        if self.contract_size is None:
            return quantity
        if not self.inverse:
            return quantity * float(self.contract_size)
        if price <= 0:
            raise ValueError(f"price {price} of inverse contract {self.name} is not positive")
        return quantity * float(self.contract_size) / price

    def notional(self, price: float, quantity: float) -> float:
        """The value in the quote asset."""
        if self.contract_size is None:
            return price * quantity
        size = quantity * float(self.contract_size)
        return size if self.inverse else price * size

    def on_tick(self, price: float | Decimal) -> bool:
        """Whether a price is a multiple of the tick size; true where the tick size is unknown (0)."""
        return _multiple(price, self.tick_size)

    def on_lot(self, quantity: float | Decimal) -> bool:
        """Whether a quantity is a multiple of the lot size; true where the lot size is unknown (0)."""
        return _multiple(quantity, self.lot_size)

    def round_price(self, price: float | Decimal, rounding: Rounding = "nearest") -> Decimal:
        """The price on the tick grid; half a tick goes to the even one. Unchanged where the tick is unknown."""
        return _round(price, self.tick_size, rounding)

    def round_quantity(self, quantity: float | Decimal, rounding: Rounding = "down") -> Decimal:
        """The quantity on the lot grid."""
        return _round(quantity, self.lot_size, rounding)

    def to_record(self, ts_event: int, ts_recv: int) -> InstrumentRecord:
        """The row of table ``instruments`` as of ``ts_event``; ``raw_status`` is not stored."""
        return InstrumentRecord(
            ts_event=ts_event,
            ts_recv=ts_recv,
            venue=self.venue,
            symbol=self.symbol,
            base=self.base,
            quote=self.quote,
            settle=self.settle,
            kind=self.kind,
            tick_size=_text(self.tick_size),
            lot_size=_text(self.lot_size),
            min_quantity=_text(self.min_quantity),
            min_notional=_text(self.min_notional),
            contract_size="" if self.contract_size is None else _text(self.contract_size),
            inverse=self.inverse,
            expiry=self.expiry,
            status=self.status,
        )

    @staticmethod
    def from_record(record: InstrumentRecord) -> Instrument:
        """The instrument of a stored row; raises DataError for text that is not a decimal or a known word."""
        fields = {name: getattr(record, name) for name in Instrument.__struct_fields__ if hasattr(record, name)}
        fields["contract_size"] = record.contract_size or None
        try:
            return msgspec.convert(fields, Instrument)
        except (msgspec.ValidationError, UnicodeDecodeError) as error:
            raise DataError(f"instrument {record.venue}:{record.symbol} is malformed: {error}") from error


def _text(value: Decimal) -> str:
    return format(value, "f")  # never 1E-8


def _exact(value: float | Decimal) -> Decimal:
    # repr is the shortest text of a float: the decimal that the exchange wrote
    return value if isinstance(value, Decimal) else Decimal(repr(float(value)))


def _multiple(value: float | Decimal, step: Decimal) -> bool:
    return step == 0 or _exact(value) % step == 0


def _round(value: float | Decimal, step: Decimal, rounding: Rounding) -> Decimal:
    exact = _exact(value)
    if step == 0:
        return exact
    return (exact / step).to_integral_value(_ROUNDING[rounding]) * step


class IdAllocator(Protocol):
    """Gives integer ids that were never given before; worker processes share one."""

    def __next__(self) -> int:
        """Return the next id."""


class InstrumentChange(Struct, frozen=True):
    """What an update did to one instrument; ``before`` and ``after`` hold the fields that differ."""

    id: int
    name: str
    kind: Literal["added", "changed", "removed"]
    before: dict[str, Any]
    after: dict[str, Any]


class _Entry(Struct, frozen=True):
    id: int
    instrument: Instrument


class _File(Struct, frozen=True):
    version: int
    instruments: tuple[_Entry, ...]


class ReferenceData:
    """All known instruments: by integer id, by ``venue:symbol``, by unified name.

    Ids count from 0 and are stable while the object lives: an instrument that changes or is delisted
    keeps its id, and no id is given twice. They mean nothing in another process, unless it shares the
    allocator or loads the saved file. Lookups are O(1). Not thread-safe.
    """

    def __init__(self, instruments: Iterable[Instrument] = (), *, allocator: IdAllocator | None = None) -> None:
        self._next: IdAllocator = count() if allocator is None else allocator
        self._by_id: dict[int, Instrument] = {}
        self._ids: dict[str, int] = {}
        self._bare: dict[str, list[int]] = {}  # own symbol in lower case
        self._unified: dict[str, list[int]] = {}
        for instrument in instruments:
            self.add(instrument)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Instrument]:
        """Instruments in the order of their ids."""
        return iter([self._by_id[i] for i in sorted(self._by_id)])

    def __contains__(self, name: object) -> bool:
        return name in self._ids or name in self._by_id

    def __getitem__(self, name: str | int) -> Instrument:
        """By id, full name, or bare symbol where it is unique; raises UnknownNameError."""
        return self._by_id[self.id(name) if isinstance(name, str) else self._known(name)]

    def _known(self, id_: int) -> int:
        if id_ not in self._by_id:
            raise UnknownNameError("instrument id", str(id_))
        return id_

    def get(self, venue: str, symbol: str) -> Instrument | None:
        """The instrument of a venue by its own symbol, or None."""
        id_ = self._ids.get(full_name(venue, symbol))
        return None if id_ is None else self._by_id[id_]

    def id(self, name: str) -> int:
        """The integer id of a full name, or of a bare symbol that only one venue has.

        Raises UnknownNameError with the nearest names, UsageError where a bare symbol is ambiguous.
        """
        id_ = self._ids.get(name)
        if id_ is not None:
            return id_
        ids = self._bare.get(name.casefold(), [])
        if len(ids) == 1:
            return ids[0]
        if ids:
            names = ", ".join(self._by_id[i].name for i in ids)
            raise UsageError(f"symbol {name!r} is on several venues", hint=f"say which: {names}")
        raise UnknownNameError("instrument", name, nearest(name, self._ids) or nearest(name, self._symbols()))

    def _symbols(self) -> list[str]:
        return [i.symbol for i in self._by_id.values()]

    def by_id(self, id_: int) -> Instrument:
        """The instrument of an integer id; raises UnknownNameError."""
        return self._by_id[self._known(id_)]

    def by_unified(self, unified: str, *, venues: Sequence[str] | None = None) -> list[Instrument]:
        """Instruments with this unified name, one a venue as a rule, in the order of ``venues`` or of ids."""
        found = [self._by_id[i] for i in self._unified.get(unified.upper(), [])]
        if venues is None:
            return found
        order = {venue: n for n, venue in enumerate(venues)}
        return sorted((i for i in found if i.venue in order), key=lambda i: order[i.venue])

    def of(self, venue: str) -> list[Instrument]:
        """A venue's instruments in the order of their ids."""
        return [i for i in self if i.venue == venue]

    @property
    def venues(self) -> list[str]:
        """Venues in the order in which they came."""
        return list(dict.fromkeys(i.venue for i in self))

    def add(self, instrument: Instrument) -> int:
        """Add or replace one instrument; returns its id, which stays what it was if it is known."""
        id_ = self._ids.get(instrument.name)
        if id_ is None:
            id_ = next(self._next)
            if id_ in self._by_id:
                raise ValueError(f"the allocator gave id {id_} twice")
            self._ids[instrument.name] = id_
            self._bare.setdefault(instrument.symbol.casefold(), []).append(id_)
        else:
            self._unified[self._by_id[id_].unified.upper()].remove(id_)
        self._by_id[id_] = instrument
        self._unified.setdefault(instrument.unified.upper(), []).append(id_)
        return id_

    def update(self, instruments: Iterable[Instrument], *, complete: str = "") -> list[InstrumentChange]:
        """Take a newer list; returns what differs from the present one, such as a new tick size.

        ``complete`` names a venue for which the list is complete: its instruments that are missing from
        it get status ``delisted`` and are reported as removed.
        """
        changes: list[InstrumentChange] = []
        seen: set[str] = set()
        for new in instruments:
            seen.add(new.name)
            known = self._ids.get(new.name)
            if known is None:
                changes.append(InstrumentChange(self.add(new), new.name, "added", {}, msgspec.structs.asdict(new)))
            elif change := self._replace(known, new, "changed"):
                changes.append(change)
        if complete:
            for old in self.of(complete):
                if old.name not in seen and old.status != "delisted":
                    gone = msgspec.structs.replace(old, status="delisted")
                    if change := self._replace(self._ids[old.name], gone, "removed"):
                        changes.append(change)
        return changes

    def _replace(self, id_: int, new: Instrument, kind: Literal["changed", "removed"]) -> InstrumentChange | None:
        old = self._by_id[id_]
        before, after = msgspec.structs.asdict(old), msgspec.structs.asdict(new)
        differing = [field for field in before if before[field] != after[field]]
        if not differing:
            return None
        self.add(new)
        return InstrumentChange(
            id_, new.name, kind, {f: before[f] for f in differing}, {f: after[f] for f in differing}
        )

    def save(self, path: str, *, disk: Disk | None = None) -> None:
        """Write everything with its ids to a JSON file, atomically and durably; raises StoreError."""
        entries = tuple(_Entry(i, self._by_id[i]) for i in sorted(self._by_id))
        data = msgspec.json.format(msgspec.json.encode(_File(_FILE_VERSION, entries)), indent=1)
        disk = disk or _os_disk()
        part = f"{path}.part"
        try:
            disk.write(part, data + b"\n")
            disk.sync(part)
            disk.rename(part, path)
            disk.sync_dir(_parent(path))
        except OSError as error:
            raise StoreError(f"cannot save reference data to {path}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str, *, disk: Disk | None = None, allocator: IdAllocator | None = None) -> ReferenceData:
        """Read a saved file: same ids; new instruments go on behind the highest one.

        With an ``allocator`` ids are given anew. Raises StoreError where the file cannot be read, is of
        another version or is damaged.
        """
        try:
            data = (disk or _os_disk()).read(path)
        except OSError as error:
            raise StoreError(f"cannot read reference data from {path}: {error.strerror or error}") from error
        try:
            version = msgspec.json.decode(data, type=_Version).version
            if version != _FILE_VERSION:
                raise StoreError(
                    f"reference data in {path} has version {version}, this program knows {_FILE_VERSION}",
                    hint="delete the file; it is written again from the exchange",
                )
            file = msgspec.json.decode(data, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"reference data in {path} is damaged: {error}", hint="delete the file") from error
        if allocator is not None:
            return cls((e.instrument for e in file.instruments), allocator=allocator)
        ids = [e.id for e in file.instruments]
        names = {e.instrument.name for e in file.instruments}
        if len(set(ids)) != len(ids) or len(names) != len(ids) or (ids and min(ids) < 0):
            raise StoreError(f"reference data in {path} is damaged: an id or a name is there twice", hint="delete it")
        loaded = cls(allocator=iter(ids))
        for entry in file.instruments:
            loaded.add(entry.instrument)
        loaded._next = count(max(ids, default=-1) + 1)
        return loaded

    def check(self) -> None:
        """Assert all invariants: every index names the same instruments."""
        assert set(self._ids.values()) == set(self._by_id)
        assert all(self._by_id[i].name == name for name, i in self._ids.items())
        assert sorted(i for ids in self._bare.values() for i in ids) == sorted(self._by_id)
        assert sorted(i for ids in self._unified.values() for i in ids) == sorted(self._by_id)
        assert all(self._by_id[i].unified.upper() == u for u, ids in self._unified.items() for i in ids)
        assert all(self._by_id[i].symbol.casefold() == s for s, ids in self._bare.items() for i in ids)


class _Version(Struct, frozen=True):
    version: int


def _os_disk() -> Disk:
    from .seams import OsDisk  # loads asyncio

    return OsDisk()


def _parent(path: str) -> str:
    import os

    return os.path.dirname(path) or "."
