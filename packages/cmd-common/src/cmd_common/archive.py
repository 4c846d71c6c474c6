"""How an exchange describes its bulk files, as data; cmd-archiver does the work.

The description holds no I/O and no Arrow: file names and URLs, how to read the listing and the
checksum, the layouts of the CSV, and how each schema column comes from the file's columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Struct

from .http import HttpRequest

if TYPE_CHECKING:
    from .exchange import Endpoints

__all__ = ["ArchiveFile", "ArchiveSource", "CsvColumn", "CsvLayout", "Derive", "ListingPage"]


class ArchiveFile(Struct, frozen=True):
    """One published file: covers whole UTC days from ``first_day`` to ``last_day``, inclusive."""

    venue: str
    table: str  # trades, agg_trades or candles
    symbol: str
    interval: str  # of candles, else empty
    period: Literal["daily", "monthly"]
    first_day: date
    last_day: date
    key: str  # path in the archive
    url: str
    checksum_url: str
    name: str  # file name


class CsvColumn(Struct, frozen=True):
    """One column of the file, in file order."""

    name: str
    type: Literal["int64", "float64", "string", "bool"]


class Derive(Struct, frozen=True):
    """How a schema column is made from a file column.

    ``copy`` as it is; ``text`` number to text; ``time`` an instant whose unit (s, ms, us, ns) follows
    from its size, to ns; ``time_end`` an inclusive last instant, to ns, plus one unit of the file (so
    that it is exclusive); ``taker_from_buyer_maker`` true to sell, false to buy; ``side`` text of
    either case to buy or sell; ``const`` the value itself.
    """

    target: str
    how: Literal["copy", "text", "time", "time_end", "taker_from_buyer_maker", "side", "const"]
    source: str = ""
    value: str | int | float | None = None


class CsvLayout(Struct, frozen=True):
    """Columns of a CSV and what becomes of them. A first row whose first cell is not a number is a header."""

    columns: tuple[CsvColumn, ...]
    derive: tuple[Derive, ...]
    id_column: str = ""  # file column with ids that rise by one; empty: none
    notional_column: str = ""  # file column with price times quantity as the exchange counts it
    delimiter: str = ","


class ListingPage(Struct, frozen=True):
    """One page of a listing; ``marker`` asks for the next page and is empty on the last one."""

    keys: tuple[tuple[str, int], ...]  # (key, size in bytes)
    marker: str
    prefixes: tuple[str, ...] = ()  # folders below the prefix


class ArchiveSource(Protocol):
    """A venue's bulk files."""

    tables: tuple[str, ...]
    periods: tuple[str, ...]
    intervals: tuple[str, ...]  # of candles

    def file(
        self, table: str, symbol: str, day: date, endpoints: Endpoints, *, interval: str = "", period: str = "daily"
    ) -> ArchiveFile:
        """Name the file that holds ``day``; raises UsageError for what is never published."""

    def listing_request(self, prefix: str, marker: str, endpoints: Endpoints) -> HttpRequest:
        """The request for one page of the listing below ``prefix``."""

    def listing_prefix(self, table: str, symbol: str, *, interval: str = "", period: str = "daily") -> str:
        """The prefix under which the files of one symbol and type are listed."""

    def parse_listing(self, body: bytes) -> ListingPage:
        """Parse one page; raises ProtocolError."""

    def parse_checksum(self, body: bytes, name: str) -> str:
        """Return the SHA-256 as 64 lower-case hex digits; raises ProtocolError when it is for another file."""

    def member(self, names: Sequence[str], file: ArchiveFile) -> str:
        """Choose the CSV among a zip's members; stray ones are normal. Raises ProtocolError."""

    def layout(self, table: str, header: Sequence[str] | None, width: int) -> CsvLayout:
        """The layout for a header (None: no header) and a number of cells; raises ProtocolError."""
