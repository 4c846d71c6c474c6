"""Which instruments of a store are served, where no exchange is asked: from its reference data, or from its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, cast

from cmd_common import get_symbols
from cmd_common.errors import DataError, StoreError
from cmd_common.instruments import Instrument
from cmd_common.records import InstrumentRecord

from .history import TABLES_OF, Selection

if TYPE_CHECKING:
    from cmd_common.io import IReader

__all__ = ["stored_selection"]


def stored_selection(
    open_reader: Callable[[], IReader], selectors: Sequence[str], types: Sequence[str], venues: Sequence[str] = ()
) -> Selection:
    """Native symbols by venue that a store has rows of; ``venues``: only of these, empty: of all.

    Raises StoreError where it has no rows of the types, else as ``get_symbols``.
    """
    tables = [table for type_ in types for table in TABLES_OF[type_]]
    with open_reader() as reader:
        held = set(reader.tables())
        known = _instruments(reader) if "instruments" in held else {}
        listed: dict[str, dict[str, Instrument]] = {}
        for table in (t for t in tables if t in held):
            for venue, symbol in reader.sql(f"SELECT DISTINCT venue, symbol FROM {table}").rows():
                if not venues or venue in venues:
                    instrument = known.get((venue, symbol)) or _bare(venue, symbol)
                    listed.setdefault(venue, {})[symbol] = instrument
    if not listed:
        where = f" of {', '.join(venues)}" if venues else ""
        raise StoreError(f"the store has no {', '.join(types)}{where}", hint="see what it has: cmd-cli store status")
    return get_symbols(
        selectors, {v: list(found.values()) for v, found in sorted(listed.items())}, include_inactive=True
    )


def _instruments(reader: IReader) -> dict[tuple[str, str], Instrument]:
    found: dict[tuple[str, str], Instrument] = {}
    for record in reader.records("instruments"):
        row = cast(InstrumentRecord, record)
        try:
            found[row.venue, row.symbol] = Instrument.from_record(row)
        except DataError:
            continue  # its rows are served all the same
    return found


def _bare(venue: str, symbol: str) -> Instrument:
    """An instrument of which only the name is known: it has no unified name."""
    return Instrument(venue, symbol, symbol, "", "spot", Decimal(0), Decimal(0))
