"""The schema's tables in QuestDB: DDL, column types, and the views that build candles from trades.

Names of tables and columns are those of ``cmd_common.schema``. How its types are stored:

| schema | QuestDB | what is exact |
|---|---|---|
| int64, a moment | TIMESTAMP_NS | NULL is null; a receive time of 0 is NULL, as in every store |
| int64 | LONG | NULL is null; -2^63 is QuestDB's null and refused at the door |
| int32 | INT | never null; -2^31 is QuestDB's null and refused |
| float64 | DOUBLE | NaN is NULL, where an exchange does not tell (`UNKNOWN`); elsewhere NaN, as infinities anywhere, is refused |
| string of few values | SYMBOL | '' is kept apart from NULL; never null |
| other strings | VARCHAR | the same |
| bool | BOOLEAN | has no null |
| levels | DOUBLE[][], 2 x n | row 1 prices, row 2 quantities, best first; an empty side is an empty array, not NULL |
| venue_levels | DOUBLE[][], 3 x n | row 3 indexes into venues |

``best_bid`` and ``best_ask`` of book_snapshots are extra: queries of the touch read 16 bytes a row instead of the
arrays. They are no part of the record; NULL where the side is empty.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from cmd_common.schema import LEVEL_WIDTH, SCHEMA, TABLES, Column
from cmd_common.schema import table as table_of

from .conf import Conf, ttl_text

__all__ = [
    "DURATIONS",
    "EXTRA",
    "INT_NULL",
    "LONG_NULL",
    "PARTITION",
    "SYMBOLS",
    "TIMES",
    "UNKNOWN",
    "VERSION",
    "VIEWS",
    "View",
    "all_column_types",
    "column_types",
    "create_statements",
    "create_table",
    "create_view",
]

VERSION: Final = 3
"""The version of the schema that this code reads and writes; ``migrations`` leads to it from every older one."""

LONG_NULL: Final = -(2**63)
INT_NULL: Final = -(2**31)
TIMES: Final = frozenset({"ts_event", "ts_recv", "ts_from", "ts_to", "open_time", "close_time", "expiry"})
DURATIONS: Final = frozenset({"crossed_for"})  # of unit ns, but no moment

UNKNOWN: Final = frozenset({"quote_volume", "taker_buy_volume", "taker_buy_quote_volume"})
"""Columns of candles that are NaN where an exchange does not tell them; NULL in QuestDB."""

SYMBOLS: Final[dict[str, int]] = {
    "venue": 64,
    "symbol": 4096,
    "instrument": 4096,
    "side": 8,
    "interval": 32,
    "source": 8,
    "state": 32,
    "record_type": 32,
    "severity": 8,
    "base": 2048,
    "quote": 256,
    "settle": 256,
    "kind": 8,
    "status": 64,
}
"""Strings with few values, by column name, with the capacity that QuestDB reserves; all others are VARCHAR."""

Unit = Literal["HOUR", "DAY", "MONTH", "YEAR"]
PARTITION: Final[dict[str, Unit]] = {
    "trades": "DAY",
    "agg_trades": "DAY",
    "quotes": "HOUR",
    "candles": "MONTH",
    "book_snapshots": "DAY",
    "book_deltas": "HOUR",
    "aggregated_books": "DAY",
    "feed_status": "MONTH",
    "gaps": "MONTH",
    "instruments": "MONTH",
}
"""By volume: below 100,000 rows a day a month, up to some 10 million a day, above an hour."""

EXTRA: Final[dict[str, dict[str, str]]] = {"book_snapshots": {"best_bid": "DOUBLE", "best_ask": "DOUBLE"}}
"""Columns beyond the record, by table."""

_TYPES: Final = {"int64": "LONG", "int32": "INT", "float64": "DOUBLE", "bool": "BOOLEAN"}


def _type(column: Column) -> str:
    if column.name in TIMES:
        return "TIMESTAMP_NS"
    if column.type == "string":
        return "SYMBOL" if column.name in SYMBOLS else "VARCHAR"
    return "DOUBLE[][]" if column.type in LEVEL_WIDTH else _TYPES[column.type]


def column_types(name: str) -> dict[str, str]:
    """QuestDB types of the record's columns of table ``name``, in the schema's order; without ``EXTRA``."""
    return {c.name: _type(c) for c in table_of(name).columns}


def all_column_types(name: str) -> dict[str, str]:
    """QuestDB types of all columns of table ``name``, ``EXTRA`` last: what the server must have."""
    return column_types(name) | EXTRA.get(name, {})


def create_table(name: str, conf: Conf | None = None) -> str:
    """The statement that creates a table."""
    table = table_of(name)
    conf = conf or _NO_CONF
    columns = [
        f"{c} {t} CAPACITY {SYMBOLS[c]}" if t == "SYMBOL" else f"{c} {t}" for c, t in all_column_types(name).items()
    ]
    ttl = f" TTL {ttl_text(conf.ttl[name], PARTITION[name])}" if name in conf.ttl else ""
    return (
        f"CREATE TABLE IF NOT EXISTS {conf.table(name)} ({', '.join(columns)}) TIMESTAMP({table.time}) "
        f"PARTITION BY {PARTITION[name]}{ttl} WAL DEDUP UPSERT KEYS({', '.join(table.key)})"
    )


class View(Struct, frozen=True):
    """A materialized view of candles of one interval."""

    name: str
    base: str  # table or view that it is built from
    interval: str
    partition: Unit


VIEWS: Final[dict[str, View]] = {
    v.name: v
    for v in (
        View("candles_1m", "trades", "1m", "MONTH"),
        View("candles_5m", "candles_1m", "5m", "MONTH"),
        View("candles_1h", "candles_1m", "1h", "YEAR"),
        View("candles_1d", "candles_1h", "1d", "YEAR"),
    )
}

# By the exchange's sequence, not first() and last(): those follow the stored order of trades with one stamp, which
# is the order of their ids as text. Where ids are no numbers, the stamp decides.
_ORDER: Final = "coalesce(trade_seq, ts_event::LONG)"
_FROM_TRADES: Final = (
    "SELECT ts_event AS open_time, venue, symbol, "
    f"arg_min(price, {_ORDER}) AS open, max(price) AS high, min(price) AS low, arg_max(price, {_ORDER}) AS close, "
    "sum(quantity) AS volume, sum(price * quantity) AS quote_volume, count() AS trades, "
    "sum(CASE WHEN side = 'buy' THEN quantity ELSE 0.0 END) AS taker_buy_volume, "
    "sum(CASE WHEN side = 'buy' THEN price * quantity ELSE 0.0 END) AS taker_buy_quote_volume"
)
_FROM_CANDLES: Final = (
    "SELECT open_time, venue, symbol, "
    "arg_min(open, open_time) AS open, max(high) AS high, min(low) AS low, arg_max(close, open_time) AS close, "
    "sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(trades) AS trades, "
    "sum(taker_buy_volume) AS taker_buy_volume, sum(taker_buy_quote_volume) AS taker_buy_quote_volume"
)


def create_view(name: str, conf: Conf | None = None) -> str:
    """The statement that creates a materialized view of candles; quote_volume is price times quantity."""
    view = VIEWS[name]
    conf = conf or _NO_CONF
    head = _FROM_TRADES if view.base == "trades" else _FROM_CANDLES
    base = conf.table(view.base)
    rows = " WHERE flags IS NOT NULL" if view.base == "trades" else ""  # no tombstones, see merge
    return (
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {conf.table(name)} WITH BASE {base} REFRESH IMMEDIATE AS "
        f"({head} FROM {base}{rows} SAMPLE BY {view.interval}) PARTITION BY {view.partition}"
    )


def create_statements(conf: Conf | None = None) -> list[str]:
    """All statements that make the current schema in an empty database, in order."""
    return [create_table(n, conf) for n in TABLES] + [create_view(n, conf) for n in VIEWS]


_NO_CONF: Final = Conf(scheme="http", addrs=(("127.0.0.1", 9000),))
_unknown: Final = {c.name for t in SCHEMA.values() for c in t.columns if c.unit == "ns"} - TIMES - DURATIONS
if _unknown or set(PARTITION) != set(TABLES):  # pragma: no cover - a programming error, caught at import
    raise AssertionError(f"say how these columns or tables are stored in QuestDB: {_unknown}")
