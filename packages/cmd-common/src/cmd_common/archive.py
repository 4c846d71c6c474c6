"""How an exchange describes its bulk files, as data; cmd-archiver does the work.

The description holds no I/O and no Arrow: file names and URLs, how to read the listing and the
checksum, the layouts of the CSV, and how each schema column comes from the file's columns.

A file is packed as its name says: ``.zip`` (one CSV among its members, see ``member``), ``.gz`` (one CSV)
or anything else (the CSV itself). The archiver stores whole UTC days. Where a file's day begins at another
hour, ``ArchiveFile`` says its exact span and the archiver takes the rows of a UTC day out of all the files
(of the day before, of the day, of the day after) whose spans touch it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Struct

from .errors import ProtocolError, UsageError
from .http import HttpRequest

if TYPE_CHECKING:
    from .exchange import Endpoints

__all__ = ["ArchiveFile", "ArchiveSource", "CsvColumn", "CsvLayout", "Derive", "ListingPage"]

_DAY = 86_400_000_000_000
_EPOCH = date(1970, 1, 1).toordinal()


class ArchiveFile(Struct, frozen=True):
    """One published file: covers whole days from ``first_day`` to ``last_day``, inclusive.

    The days are UTC and its rows lie in ``[start_ns, end_ns)``, unless ``offset`` moves both ends: the file
    of a day of UTC+8 begins 8 hours before the UTC day of the same name, ``offset = -8 h`` in ns.
    """

    venue: str
    table: str  # trades, agg_trades or candles
    symbol: str
    interval: str  # of candles, else empty
    period: Literal["daily", "monthly"]
    first_day: date
    last_day: date
    key: str  # path in the archive; unique over all venues
    url: str
    checksum_url: str  # empty: no checksum is published
    name: str  # file name
    offset: int = 0  # ns from UTC midnight to the moment at which the file's days begin

    @property
    def start_ns(self) -> int:
        """The first instant that the file covers."""
        return (self.first_day.toordinal() - _EPOCH) * _DAY + self.offset

    @property
    def end_ns(self) -> int:
        """The first instant after the file."""
        return (self.last_day.toordinal() - _EPOCH + 1) * _DAY + self.offset


class CsvColumn(Struct, frozen=True):
    """One column of the file, in file order. ``float64`` takes ``1.5``, ``4.50554e+08`` and ``12``."""

    name: str
    type: Literal["int64", "float64", "string", "bool"]


class Derive(Struct, frozen=True):
    """How a schema column is made from a file column.

    ``copy`` as it is; ``text`` number to text; ``time`` an integer instant whose unit (s, ms, us, ns) follows
    from its size, to ns; ``time_end`` an inclusive last instant, to ns, plus one unit of the file (so that it
    is exclusive); ``seconds`` a string column of decimal seconds such as ``1696982287.4922``, to ns exactly,
    cut off to a multiple of ``value`` ns where it is given; ``interval_end`` an integer instant as in
    ``time`` plus the length of the candle's interval; ``taker_from_buyer_maker`` true to sell, false to buy;
    ``side`` text of any case (buy, b, bid; sell, s, ask) to buy or sell, anything else is an error;
    ``row_id`` the id of rows that have none, ``dump:<ns>:<n>`` from the time column, where ``n`` counts the
    rows of one instant in the file's order from 0; ``const`` the value itself, None where the schema's column
    may be null.
    """

    target: str
    how: Literal[
        "copy",
        "text",
        "time",
        "time_end",
        "seconds",
        "interval_end",
        "taker_from_buyer_maker",
        "side",
        "row_id",
        "const",
    ]
    source: str = ""
    value: str | int | float | None = None


class CsvLayout(Struct, frozen=True):
    """Columns of a CSV and what becomes of them. A first row without any number is a header."""

    columns: tuple[CsvColumn, ...]
    derive: tuple[Derive, ...]
    id_column: str = ""  # file column (int64) with ids that rise from row to row; empty: none
    notional_column: str = ""  # file column with price times quantity as the exchange counts it
    delimiter: str = ","
    contiguous: bool = True  # ids of ``id_column`` rise by one, so that a missing one shows
    sparse: bool = False  # candles without a trade are left out: a missing one is no hole


class ListingPage(Struct, frozen=True):
    """One page of a listing; ``marker`` asks for the next page and is empty on the last one."""

    keys: tuple[tuple[str, int], ...]  # (key, size in bytes; 0 where the listing does not say)
    marker: str
    prefixes: tuple[str, ...] = ()  # folders below the prefix


class ArchiveSource(Protocol):
    """A venue's bulk files. Subclass this class explicitly to get its defaults, which are those of an
    exchange that publishes neither a listing nor checksums and has no files for ``--from-file``.
    """

    tables: tuple[str, ...]
    periods: tuple[str, ...]  # empty: nothing can be downloaded, only local files are read
    intervals: tuple[str, ...]  # of candles
    local_tables: tuple[str, ...] = ()  # tables that ``--from-file`` reads
    encodings: tuple[str, ...] = ("utf-8",)  # of header lines, tried in this order; rows are ASCII

    def file(
        self, table: str, symbol: str, day: date, endpoints: Endpoints, *, interval: str = "", period: str = "daily"
    ) -> ArchiveFile:
        """Name the file that holds ``day`` (as the exchange counts days); raises UsageError for what is never published."""
        raise UsageError(f"{table} of {symbol} are not published as files")

    def listing_request(self, prefix: str, marker: str, endpoints: Endpoints) -> HttpRequest | None:
        """The request for one page of the listing of keys that begin with ``prefix``, which need not end
        with a slash; a server that only lists folders is asked for the folder. None: there is no listing.
        """
        return None

    def listing_prefix(self, table: str, symbol: str, *, interval: str = "", period: str = "daily") -> str:
        """The prefix under which the files of one symbol and type are listed."""
        raise UsageError(f"{table} of {symbol} are not listed")

    def parse_listing(self, body: bytes, prefix: str = "") -> ListingPage:
        """Parse one page of the listing of ``prefix``; keys are whole keys. Raises ProtocolError."""
        raise ProtocolError("a listing where none is published")

    def parse_checksum(self, body: bytes, name: str) -> str:
        """Return the SHA-256 as 64 lower-case hex digits; raises ProtocolError when it is for another file."""
        raise ProtocolError(f"a checksum of {name} where none is published")

    def member(self, names: Sequence[str], file: ArchiveFile) -> str:
        """Choose the CSV among a zip's members; stray ones are normal. Raises ProtocolError."""
        wanted = file.name.rpartition(".")[0] + ".csv"
        for name in names:
            if name.rpartition("/")[2] == wanted and not name.startswith("__MACOSX/"):
                return name
        raise ProtocolError(f"{file.name} holds no {wanted}, only {', '.join(names[:5]) or 'nothing'}")

    def layout(self, table: str, header: Sequence[str] | None, width: int) -> CsvLayout:
        """The layout for a header (None: no header) and a number of cells; raises ProtocolError."""

    def local(self, names: Sequence[str], table: str, symbol: str, interval: str = "") -> str | None:
        """Choose the CSV of a table (in ``local_tables``) of a native symbol in a file that the user has.

        ``names`` are the members of a zip, or the one name of a CSV (without ``.gz``), with or without
        folders; None: it is not there. The rows may cover any time and must rise in time; their layout is
        asked of ``layout`` as for published files.
        """
        return None
