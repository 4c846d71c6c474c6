"""The single source of column names, types, units and keys.

Parquet files, SQL tables, Arrow batches and the wire format are checked against it by tests;
``docs/schema.md`` is written from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

from .records import RECORD_TYPES

__all__ = [
    "LEVEL_WIDTH",
    "SCHEMA",
    "SCHEMA_VERSION",
    "TABLES",
    "Column",
    "ColumnType",
    "Table",
    "check_columns",
    "markdown",
    "table",
]

SCHEMA_VERSION: Final = 1

ColumnType = Literal["int64", "int32", "float64", "string", "bool", "levels", "venue_levels"]
"""``levels`` is a list of float64, price and quantity alternating, best level first. ``venue_levels`` is one too, but of
triples: price, quantity and the index of a book in column ``venues``.
"""
LEVEL_WIDTH: Final[dict[str, int]] = {"levels": 2, "venue_levels": 3}
"""How many float64 one level has, by the column types that are lists of levels."""


class Column(Struct, frozen=True):
    """One column: ``unit`` is ``ns`` for times, else what a value counts."""

    name: str
    type: ColumnType
    unit: str = ""
    nullable: bool = False
    doc: str = ""


class Table(Struct, frozen=True):
    """One table: ``key`` identifies a row in every store; ``time`` orders and partitions it.

    ``prefer`` says which of several rows with one key stays: a column and its values, best first.
    A row with a receive time beats one without; otherwise the row written last stays.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    time: str
    doc: str
    prefer: tuple[str, tuple[str, ...]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in stored order."""
        return tuple(c.name for c in self.columns)


def _c(name: str, type_: ColumnType, unit: str = "", doc: str = "", *, null: bool = False) -> Column:
    return Column(name, type_, unit, null, doc)


_TS_EVENT = _c("ts_event", "int64", "ns", "exchange time, UTC; equal to ts_recv where flag 1 is set")
_TS_RECV = _c("ts_recv", "int64", "ns", "our receive time, UTC; null in rows that came from a file", null=True)
_VENUE = _c("venue", "string", doc="exchange and market, such as binance-spot")
_SYMBOL = _c("symbol", "string", doc="the exchange's own name, upper case")
_FLAGS = _c(
    "flags",
    "int32",
    doc="bits: 1 time from receive clock, 2 inexact number, 4 snapshot, 8 last in event, 16 by REST, 32 crossed",
)
_PRICE = _c("price", "float64", "quote asset")
_QUANTITY = _c("quantity", "float64", "base asset, or contracts where the instrument has a contract size")
_SIDE = _c("side", "string", doc="aggressor side: buy, sell or unknown")
_HEAD = (_TS_EVENT, _TS_RECV, _VENUE, _SYMBOL)
_EPOCH = _c("epoch", "int64", "update id", "id of the exchange snapshot that began the unbroken chain of updates")
_SEQ = _c("seq", "int64", "update id", "the venue's update id, or our count where it has none")
_UNTOLD = "NaN: the exchange does not tell"
_BIDS = _c("bids", "levels", doc="price and quantity alternating, highest price first")
_ASKS = _c("asks", "levels", doc="price and quantity alternating, lowest price first")

SCHEMA: Final[dict[str, Table]] = {
    t.name: t
    for t in (
        Table(
            "trades",
            (
                *_HEAD,
                _c("trade_id", "string", doc="the exchange's trade id"),
                _c("trade_seq", "int64", "id", "the trade id as a number where it is one", null=True),
                _PRICE,
                _QUANTITY,
                _SIDE,
                _FLAGS,
            ),
            ("ts_event", "venue", "symbol", "trade_id"),
            "ts_event",
            "Every executed trade.",
        ),
        Table(
            "agg_trades",
            (
                *_HEAD,
                _c("trade_id", "string", doc="the exchange's id of the aggregate"),
                _c("trade_seq", "int64", "id", "the same as a number where it is one", null=True),
                _c("first_trade_id", "int64", "id"),
                _c("last_trade_id", "int64", "id"),
                _PRICE,
                _QUANTITY,
                _SIDE,
                _FLAGS,
            ),
            ("ts_event", "venue", "symbol", "trade_id"),
            "ts_event",
            "Trades merged by the exchange: one taker order, one price.",
        ),
        Table(
            "quotes",
            (
                *_HEAD,
                _SEQ,
                _c("bid_price", "float64", "quote asset"),
                _c("bid_quantity", "float64", "like quantity"),
                _c("ask_price", "float64", "quote asset"),
                _c("ask_quantity", "float64", "like quantity"),
                _FLAGS,
            ),
            ("ts_event", "venue", "symbol", "seq"),
            "ts_event",
            "Best bid and offer, every change.",
        ),
        Table(
            "candles",
            (
                _c("open_time", "int64", "ns", "start of the interval, inclusive, UTC"),
                _c("close_time", "int64", "ns", "end of the interval, exclusive, UTC"),
                _TS_EVENT,
                _TS_RECV,
                _VENUE,
                _SYMBOL,
                _c("interval", "string", doc="1s, 1m, 5m, 1h, 1d, ..."),
                _c("source", "string", doc="exchange: the exchange's own; built: from trades"),
                _c("state", "string", doc="provisional, final or corrected"),
                _c("open", "float64", "quote asset"),
                _c("high", "float64", "quote asset"),
                _c("low", "float64", "quote asset"),
                _c("close", "float64", "quote asset"),
                _c("volume", "float64", "like quantity", _UNTOLD),
                _c("quote_volume", "float64", "quote asset; base asset on inverse contracts", _UNTOLD),
                _c("trades", "int64", "trades", "-1: the exchange does not tell"),
                _c("taker_buy_volume", "float64", "like quantity", _UNTOLD),
                _c("taker_buy_quote_volume", "float64", "like quote_volume", _UNTOLD),
                _FLAGS,
            ),
            ("open_time", "venue", "symbol", "interval", "source"),
            "open_time",
            "Open, high, low, close and volume.",
            ("state", ("corrected", "final", "provisional")),
        ),
        Table(
            "book_snapshots",
            (
                *_HEAD,
                _EPOCH,
                _SEQ,
                _c("known_bids", "int32", "levels", "bid levels from the touch that are known to be complete"),
                _c("known_asks", "int32", "levels", "ask levels from the touch that are known to be complete"),
                _BIDS,
                _ASKS,
                _FLAGS,
            ),
            ("ts_event", "venue", "symbol", "epoch", "seq"),
            "ts_event",
            "Full order books, from LIVE books only.",
        ),
        Table(
            "book_deltas",
            (
                *_HEAD,
                _EPOCH,
                _SEQ,
                _c("first_seq", "int64", "update id", "first update id of the message"),
                _BIDS,
                _ASKS,
                _FLAGS,
            ),
            ("ts_event", "venue", "symbol", "epoch", "seq"),
            "ts_event",
            "Order book changes: absolute new quantities, 0 deletes the level.",
        ),
        Table(
            "aggregated_books",
            (
                _c(
                    "ts_event",
                    "int64",
                    "ns",
                    "newest exchange time among the books in it, UTC; with none in it that of the row before",
                ),
                _TS_RECV,
                _c("instrument", "string", doc="unified name, such as BTC-USDT"),
                _c("seq", "int64", "", "0; counts the rows that are not newer than all rows before them"),
                _c("venues", "string", doc="comma list venue:symbol of the books in it"),
                _c("excluded", "string", doc="comma list venue:symbol=reason of the books left out"),
                _c("bids", "venue_levels", doc="price, base quantity, index into venues (from 0); highest price first"),
                _c("asks", "venue_levels", doc="price, base quantity, index into venues (from 0); lowest price first"),
                _c("crossed_for", "int64", "ns", "how long it has been crossed or locked; null: it is not", null=True),
                _FLAGS,
            ),
            ("ts_event", "instrument", "seq"),
            "ts_event",
            "Order books merged over venues: a price at which two venues offer is two levels, one a venue.",
        ),
        Table(
            "feed_status",
            (
                *_HEAD,
                _c("record_type", "string", doc="table the state is about; empty for the connection"),
                _c("connection", "string"),
                _c("state", "string", doc="connected, disconnected, SYNCING, LIVE, STALE, silent, ..."),
                _c("reason", "string"),
                _FLAGS,
            ),
            ("ts_event", "venue", "symbol", "record_type", "connection", "state"),
            "ts_event",
            "Changes of state of connections, streams and books.",
        ),
        Table(
            "gaps",
            (
                _c("ts_from", "int64", "ns", "last moment before the gap, UTC"),
                _c("ts_to", "int64", "ns", "first moment after the gap, UTC"),
                _VENUE,
                _SYMBOL,
                _c("record_type", "string", doc="the table that misses data"),
                _c("reason", "string"),
                _c("severity", "string", doc="lost or suspect"),
                _c("first_id", "int64", "id", "first missing id", null=True),
                _c("last_id", "int64", "id", "last missing id", null=True),
                _c("repaired_by", "string", doc="empty while it is open"),
                _c("detail", "string"),
            ),
            ("ts_from", "venue", "symbol", "record_type", "ts_to"),
            "ts_from",
            "The gap ledger: what is known to be missing.",
        ),
        Table(
            "instruments",
            (
                *_HEAD,
                _c("base", "string"),
                _c("quote", "string"),
                _c("settle", "string"),
                _c("kind", "string", doc="spot, perpetual, future or option"),
                _c("tick_size", "string", "quote asset", "exact decimal text"),
                _c("lot_size", "string", "like quantity", "exact decimal text"),
                _c("min_quantity", "string", "like quantity"),
                _c("min_notional", "string", "quote asset"),
                _c("contract_size", "string", doc="exact decimal text; empty: quantities in base asset"),
                _c("inverse", "bool", doc="margined and settled in the base asset"),
                _c("expiry", "int64", "ns", null=True),
                _c("status", "string"),
            ),
            ("ts_event", "venue", "symbol"),
            "ts_event",
            "Reference data as of a moment.",
        ),
    )
}
TABLES: Final = tuple(SCHEMA)


def table(name: str) -> Table:
    """Return the table called ``name``.

    Raises UnknownNameError for a name that is not in the schema.
    """
    try:
        return SCHEMA[name]
    except KeyError:
        from .errors import UnknownNameError
        from .symbols import nearest

        raise UnknownNameError("table", name, nearest(name, TABLES)) from None


def check_columns(name: str, columns: Sequence[str] | Mapping[str, str]) -> None:
    """Check that a batch or file has exactly the columns of table ``name``, in any order.

    With a mapping from column to type (``ColumnType`` words) the types are checked too. Raises StoreError
    that names what is missing, unknown or of another type; UnknownNameError for an unknown table.
    """
    wanted = {column.name: column for column in table(name).columns}
    problems = []
    if missing := [c for c in wanted if c not in columns]:
        problems.append(f"missing {', '.join(missing)}")
    if unknown := [c for c in columns if c not in wanted]:
        problems.append(f"unknown {', '.join(unknown)}")
    if len(set(columns)) != len(columns):
        problems.append("a column is there twice")
    if isinstance(columns, Mapping):
        problems += [
            f"{c} is {columns[c]} instead of {wanted[c].type}"
            for c in wanted
            if c in columns and columns[c] != wanted[c].type
        ]
    if problems:
        from .errors import StoreError

        raise StoreError(f"columns of table {name} do not fit the schema: {'; '.join(problems)}")


def markdown() -> str:
    """The schema as a Markdown document, which is ``docs/schema.md``."""
    lines = [
        "# Tables and columns",
        "",
        f"Schema version {SCHEMA_VERSION}. This file is written from `cmd_common.schema` by",
        "`python -m cmd_common.schema > docs/schema.md`; a test compares the two.",
        "",
        "Every store, SQL query and Arrow batch uses these names, types and units. Times are int64 nanoseconds since",
        "1970-01-01T00:00:00Z. `levels` is a list of float64: price and quantity alternate, the best level first.",
        "`venue_levels` is a list of float64 as well, but of triples: price, quantity and the index of the book in `venues`.",
        "Rows with the same key are one row: writing them again, live or from an archive, changes nothing.",
        "",
    ]
    for t in SCHEMA.values():
        lines += [f"## {t.name}", "", t.doc, "", f"Key: `{', '.join(t.key)}`. Ordered and partitioned by `{t.time}`."]
        if t.prefer is not None:
            column, values = t.prefer
            lines[-1] += f" Of several rows with one key, `{column}` decides: {' before '.join(values)}."
        lines += ["", "| column | type | unit | null | meaning |", "|---|---|---|---|---|"]
        lines += [f"| {c.name} | {c.type} | {c.unit} | {'yes' if c.nullable else ''} | {c.doc} |" for c in t.columns]
        lines.append("")
    return "\n".join(lines)


if set(RECORD_TYPES) != set(SCHEMA):  # pragma: no cover - a programming error, caught at import
    raise AssertionError("records and schema name different tables")

if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
