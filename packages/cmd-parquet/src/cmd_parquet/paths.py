"""Names inside a store: partitions, percent-encoding and the store's own files.

    LOCATION/
        table=trades/venue=binance-spot/symbol=BTCUSDT/date=2024-08-08/*.parquet   data
        _store/manifest.sqlite      which of these files are live
        _store/manifest.sum         checksum of the manifest, written when a writer closes
        _store/journal/             rows that are durable and not yet in Parquet
        _store/tmp/                 files that are being written, and intents of commits
        _store/locks/               one file a lock
        _store/damaged/             journals that could not be read whole

Names that begin with ``_`` are passed over by Spark and Arrow when they list a folder.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from cmd_common.schema import Table

__all__ = [
    "DAMAGED",
    "DAY",
    "INTERNAL",
    "JOURNAL",
    "LOCKS",
    "MANIFEST",
    "MANIFEST_SUM",
    "TMP",
    "Partition",
    "date_of",
    "decode",
    "encode",
    "join",
    "partition_columns",
    "start_of",
]

INTERNAL: Final = "_store"
MANIFEST: Final = "_store/manifest.sqlite"
MANIFEST_SUM: Final = "_store/manifest.sum"
JOURNAL: Final = "_store/journal"
TMP: Final = "_store/tmp"
LOCKS: Final = "_store/locks"
DAMAGED: Final = "_store/damaged"

DAY: Final = 86_400_000_000_000  # ns
_EPOCH: Final = date(1970, 1, 1)


def encode(name: str) -> str:
    """Percent-encode a venue or symbol so that it is one safe directory name on every system.

    Letters, digits, ``-``, ``_``, ``~`` and inner ``.`` stay; everything else becomes ``%XX`` of its UTF-8 bytes.
    """
    text = quote(name, safe="")
    if text.startswith("."):
        text = "%2E" + text[1:]
    if text.endswith("."):  # Windows drops a dot at the end
        text = text[:-1] + "%2E"
    return text


def decode(text: str) -> str:
    """Undo ``encode``."""
    return unquote(text)


def join(*parts: str) -> str:
    """Join path parts with ``/``, which every system takes."""
    return "/".join(p for p in parts if p)


def date_of(ns: int) -> str:
    """The UTC date of a time as ``YYYY-MM-DD``."""
    return (_EPOCH + timedelta(days=ns // DAY)).isoformat()


def start_of(day: str) -> int:
    """The first ns of a UTC date."""
    d = date.fromisoformat(day)
    return int(datetime(d.year, d.month, d.day, tzinfo=UTC).timestamp()) * 1_000_000_000


class Partition(NamedTuple):
    """One folder of one table: an instrument and a UTC day."""

    table: str
    venue: str
    symbol: str
    date: str

    @property
    def folder(self) -> str:
        """Path below the store's location."""
        return f"table={self.table}/venue={encode(self.venue)}/symbol={encode(self.symbol)}/date={encode(self.date)}"


def partition_columns(table: Table) -> tuple[str | None, str]:
    """The columns that name a row's venue and symbol in its path.

    A table over several venues has no venue column: its venue folder is ``all`` and its symbol the unified name.
    """
    names = table.names
    if "venue" in names and "symbol" in names:
        return "venue", "symbol"
    return None, "instrument"
