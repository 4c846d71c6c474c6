"""Instruments of a store as a data catalog of nautilus_trader: ``data/trade_tick/ID/FROM_TO.parquet`` and so on.

Written without nautilus_trader. A row's ``ts_event`` is the exchange's, ``ts_init`` when it was received; rows are in the order
of ``ts_init``. Prices and quantities are exact: the file has the precision that the instrument and all of its rows need.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec import Struct

from cmd_common.errors import UsageError
from cmd_common.log.render import iso
from cmd_common.records import REST, BookDelta, BookSnapshot, Candle, Gap, InstrumentRecord, Trade

from .book_messages import BookCounts, BookMessages, Levels, merged, received
from .nautilus_values import decimals, needed, raw

if TYPE_CHECKING:
    import pyarrow as pa

    from cmd_common.io import IReader

__all__ = ["TABLES", "Catalog", "Counts", "instrument_id"]

TABLES: Final = ("trades", "quotes", "book_snapshots", "book_deltas", "candles")

_BATCH: Final = 65_536
_SIDES: Final = {"unknown": 0, "buy": 1, "sell": 2}
_BUY, _SELL = 1, 2
_ADD, _UPDATE, _DELETE, _CLEAR = 1, 2, 3, 4
_SNAPSHOT, _LAST = 32, 128
_STEPS: Final = {"s": "SECOND", "m": "MINUTE", "h": "HOUR", "d": "DAY", "w": "WEEK", "M": "MONTH"}
_LONGEST_ID: Final = 36
_VENUES: Final = {
    "binance-spot": "{symbol}.BINANCE",
    "binance-usdm": "{symbol}-PERP.BINANCE",
    "bybit-spot": "{symbol}-SPOT.BYBIT",
    "bybit-linear": "{symbol}-LINEAR.BYBIT",
}
_COLUMNS: Final[dict[str, dict[str, str]]] = {
    "trade_tick": {"price": "n", "size": "n", "aggressor_side": "u8", "trade_id": "s", "ts_event": "t", "ts_init": "t"},
    "quote_tick": {
        **dict.fromkeys(("bid_price", "ask_price", "bid_size", "ask_size"), "n"),
        "ts_event": "t",
        "ts_init": "t",
    },
    "bar": {**dict.fromkeys(("open", "high", "low", "close", "volume"), "n"), "ts_event": "t", "ts_init": "t"},
    "order_book_delta": {
        "action": "u8",
        "side": "u8",
        "price": "n",
        "size": "n",
        "order_id": "t",
        "flags": "u8",
        "sequence": "t",
        "ts_event": "t",
        "ts_init": "t",
    },
}


class Counts(BookCounts):
    """What was written of an instrument, and what was left out."""

    trade_tick: int = 0
    quote_tick: int = 0
    bar: int = 0
    order_book_delta: int = 0
    raised_ts_init: int = 0  # rows that were received before the row in front of them

    @property
    def rows(self) -> int:
        """All rows."""
        return self.trade_tick + self.quote_tick + self.bar + self.order_book_delta


def instrument_id(venue: str, symbol: str, instrument: InstrumentRecord | None = None) -> str:
    """The name that nautilus_trader's own adapter gives an instrument where it has one, else ``SYMBOL.VENUE``."""
    pattern = _VENUES.get(venue, "{symbol}." + venue.upper())
    if venue == "binance-usdm" and (instrument.kind == "future" if instrument is not None else "_" in symbol):
        pattern = _VENUES["binance-spot"]
    return pattern.format(symbol=symbol)


class Catalog(Struct):
    """Writes instruments of one store into the catalog in ``folder``.

    ``latency`` (ns) is added to the exchange time where no receive time is known. Raises StoreError, DataError, OSError, and
    UsageError where the catalog has rows of the same time already and ``replace`` is not set.
    """

    reader: IReader
    folder: str
    venue: str
    start: int | None = None
    end: int | None = None
    latency: int = 0
    replace: bool = False

    def write(self, symbol: str, tables: Sequence[str], name: str = "", gaps: Iterable[Gap] = ()) -> Counts:
        """Write one instrument; after each of ``gaps`` in the book the next snapshot replaces it."""
        counts = Counts()
        instrument = self._instrument(symbol)
        name = name or instrument_id(self.venue, symbol, instrument)
        digits = self._precisions(symbol, tables, instrument)
        about = {"instrument_id": name, "price_precision": str(digits[0]), "size_precision": str(digits[1])}
        if "trades" in tables:
            with self._file("trade_tick", name, about, digits, counts) as file:
                for trade in cast("Iterator[Trade]", self._records("trades", symbol)):
                    if len(trade.trade_id) > _LONGEST_ID:
                        raise UsageError(f"nautilus_trader has no trade id as long as {trade.trade_id!r}")
                    at = received(trade.ts_event, 0 if trade.flags & REST else trade.ts_recv, self.latency)
                    side = _SIDES[trade.side]
                    file.add(at, (trade.price, trade.quantity, side, trade.trade_id, trade.ts_event))
        if "quotes" in tables:
            with self._file("quote_tick", name, about, digits, counts) as file:
                for quote in self._records("quotes", symbol):
                    prices = quote.bid_price, quote.ask_price, quote.bid_quantity, quote.ask_quantity
                    file.add(received(quote.ts_event, quote.ts_recv, self.latency), (*prices, quote.ts_event))
        if "book_deltas" in tables or "book_snapshots" in tables:
            self._book(symbol, name, tables, about, digits, counts, gaps)
        if "candles" in tables:
            self._bars(symbol, name, about, digits, counts)
        if instrument is not None:
            self._define(instrument, name, digits)
        return counts

    def _book(
        self,
        symbol: str,
        name: str,
        tables: Sequence[str],
        about: dict[str, str],
        digits: tuple[int, int],
        counts: Counts,
        gaps: Iterable[Gap],
    ) -> None:
        with self._file("order_book_delta", name, about, digits, counts) as file:

            def send(exch_ts: int, local_ts: int, seq: int, replaces: bool, bids: Levels, asks: Levels) -> None:
                rows: list[list[Any]] = []
                flags = _SNAPSHOT if replaces else 0
                if replaces:
                    rows.append([_CLEAR, 0, 0.0, 0.0, 0, flags, seq, exch_ts])
                for side, book in ((_BUY, bids), (_SELL, asks)):
                    for price, quantity in book:
                        action = _ADD if replaces else _UPDATE if quantity else _DELETE
                        rows.append([action, side, price, quantity, 0, flags, seq, exch_ts])
                if rows:
                    rows[-1][5] |= _LAST
                for row in rows:
                    file.add(local_ts, tuple(row))

            book = BookMessages(send, counts, self.latency, gaps)
            if self.start is not None and "book_deltas" in tables:
                book.begin(self.reader, self.venue, symbol, self.start)
            chosen = [t for t in tables if t in ("book_snapshots", "book_deltas")]
            for record in merged(self.reader, self.venue, symbol, chosen, self.start, self.end):
                if isinstance(record, BookSnapshot):
                    book.snapshot(record)
                elif isinstance(record, BookDelta):
                    book.delta(record)
            book.close()

    def _bars(self, symbol: str, name: str, about: dict[str, str], digits: tuple[int, int], counts: Counts) -> None:
        files: dict[str, _File] = {}
        try:
            for candle in cast("Iterator[Candle]", self._records("candles", symbol)):
                if candle.state == "provisional":
                    continue
                bar = _bar_type(name, candle)
                if bar not in files:
                    files[bar] = self._file("bar", bar, {**about, "bar_type": bar}, digits, counts)
                prices = candle.open, candle.high, candle.low, candle.close
                # A bar is known when it is over.
                files[bar].add(candle.close_time + self.latency, (*prices, candle.volume, candle.close_time))
        except BaseException:
            for file in files.values():
                file.discard()
            raise
        for file in files.values():
            file.close()

    def _records(self, table: str, symbol: str) -> Iterator[Any]:
        return self.reader.records(table, venue=self.venue, symbols=[symbol], start=self.start, end=self.end)

    def _instrument(self, symbol: str) -> InstrumentRecord | None:
        """The newest reference data of the interval, or before it."""
        newest = None
        for row in self.reader.records("instruments", venue=self.venue, symbols=[symbol], end=self.end):
            newest = cast(InstrumentRecord, row)
        return newest

    def _precisions(self, symbol: str, tables: Sequence[str], instrument: InstrumentRecord | None) -> tuple[int, int]:
        """Digits after the point of prices and of quantities, which a catalog has one of a file."""
        price = size = 0
        if instrument is not None:
            price = decimals(instrument.tick_size) if instrument.tick_size else 0
            size = decimals(instrument.lot_size) if instrument.lot_size else 0
        for table in tables:
            for batch in self.reader.batches(table, venue=self.venue, symbols=[symbol], start=self.start, end=self.end):
                for column in _PRICES[table]:
                    price = needed(_flat(batch, column, 0), price)
                for column in _SIZES[table]:
                    size = needed(_flat(batch, column, 1), size)
        return price, size

    def _file(self, kind: str, folder: str, about: dict[str, str], digits: tuple[int, int], counts: Counts) -> _File:
        path = os.path.join(self.folder, "data", kind, folder)
        return _File(path, kind, about, digits, counts, self.replace)

    def _define(self, row: InstrumentRecord, name: str, digits: tuple[int, int]) -> None:
        """The instrument's definition; fees and margins, which nobody tells us, are 0."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        kind, extra = _definition(row)
        tick = f"{float(row.tick_size or 0) or 10.0 ** -digits[0]:.{digits[0]}f}"
        lot = f"{float(row.lot_size or 0) or 10.0 ** -digits[1]:.{digits[1]}f}"
        least = row.min_quantity if row.min_quantity and float(row.min_quantity) else None
        values: dict[str, Any] = {
            "id": name,
            "raw_symbol": row.symbol,
            **extra,
            "price_precision": digits[0],
            "size_precision": digits[1],
            "price_increment": tick,
            "size_increment": lot,
            "multiplier": row.contract_size or "1",
            "max_quantity": None,
            "min_quantity": f"{float(least):.{digits[1]}f}" if least else None,
            "max_notional": None,
            "min_notional": f"{row.min_notional} {row.quote}" if row.min_notional and float(row.min_notional) else None,
            "max_price": None,
            "min_price": None,
            **dict.fromkeys(("margin_init", "margin_maint", "maker_fee", "taker_fee"), "0"),
            "info": b"null",
            "ts_event": row.ts_event,
            "ts_init": row.ts_recv or row.ts_event,
        }
        fields = [pa.field(key, _type_of(key, value)) for key, value in values.items()]
        schema = pa.schema(fields, metadata={"class": kind})
        folder = os.path.join(self.folder, "data", _snake(kind), name)
        os.makedirs(folder, exist_ok=True)
        at = _stamp(values["ts_init"])
        path = os.path.join(folder, f"{at}_{at}.parquet")
        pq.write_table(pa.Table.from_pylist([values], schema=schema), f"{path}.part")
        os.replace(f"{path}.part", path)


_PRICES: Final[dict[str, tuple[str, ...]]] = {
    "trades": ("price",),
    "quotes": ("bid_price", "ask_price"),
    "candles": ("open", "high", "low", "close"),
    "book_snapshots": ("bids", "asks"),
    "book_deltas": ("bids", "asks"),
}
_SIZES: Final[dict[str, tuple[str, ...]]] = {
    **_PRICES,
    "trades": ("quantity",),
    "quotes": ("bid_quantity", "ask_quantity"),
    "candles": ("volume",),
}


class _File:
    """One file of a catalog; it has its name, which tells its first and last time, once it is whole."""

    def __init__(
        self, folder: str, kind: str, about: dict[str, str], digits: tuple[int, int], counts: Counts, replace: bool
    ) -> None:
        import pyarrow as pa

        types = {"n": pa.binary(16), "u8": pa.uint8(), "s": pa.string(), "t": pa.uint64()}
        words: dict[bytes | str, bytes | str] = {}
        words.update(about.items())
        self._kinds = _COLUMNS[kind]
        self._schema = pa.schema(
            [pa.field(name, types[of], nullable=False) for name, of in self._kinds.items()],
            metadata=words,
        )
        self._folder, self._kind, self._digits = folder, kind, digits
        self._counts, self._replace = counts, replace
        self._part = os.path.join(folder, f".{os.getpid()}.part")
        self._rows: list[tuple[Any, ...]] = []
        self._writer: Any = None
        self._first = self._last = 0
        self._written = 0

    def __enter__(self) -> _File:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def add(self, at: int, row: tuple[Any, ...]) -> None:
        """Add a row that was received at ``at`` (ns); one that was received before the row in front gets its time."""
        if not self._written and not self._rows:
            self._first = self._last = at
        if at < self._last:
            self._counts.raised_ts_init += 1
        else:
            self._last = at
        self._rows.append((*row, self._last))
        if len(self._rows) == _BATCH:
            self._flush()

    def close(self) -> None:
        """End the file; without a row there is none."""
        self._flush()
        if self._writer is None:
            return
        self._writer.close()
        name = f"{_stamp(self._first)}_{_stamp(self._last)}.parquet"
        try:
            others = self._overlapping()
            if others and not self._replace:
                raise UsageError(
                    f"the catalog has rows of that time: {os.path.join(self._folder, others[0])}",
                    hint="add --force to replace them, or export the time behind them",
                )
            with open(self._part, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(self._part, os.path.join(self._folder, name))
            for other in others:
                if other != name:
                    os.remove(os.path.join(self._folder, other))
        except BaseException:
            self.discard()
            raise
        setattr(self._counts, self._kind, getattr(self._counts, self._kind) + self._written)

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.close()
        if os.path.exists(self._part):
            os.remove(self._part)

    def _overlapping(self) -> list[str]:
        """Files beside this one whose times meet its own; nautilus_trader wants them apart."""
        first, last = _stamp(self._first), _stamp(self._last)
        found = []
        for name in sorted(os.listdir(self._folder)):
            match = re.fullmatch(r"(\d{4}-\d\d-\d\dT[0-9-]+Z)_(\d{4}-\d\d-\d\dT[0-9-]+Z)\.parquet", name)
            if match and match[1] <= last and match[2] >= first:
                found.append(name)
        return found

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows:
            return
        if self._writer is None:
            os.makedirs(self._folder, exist_ok=True)
            self._writer = pq.ParquetWriter(self._part, self._schema, compression="zstd")
        columns = []
        for field, of, values in zip(self._schema, self._kinds.values(), zip(*self._rows, strict=True), strict=True):
            if of == "n":
                digits = self._digits["size" in field.name or field.name == "volume"]
                columns.append(raw(pa.array(values, pa.float64()), digits))
            else:
                columns.append(pa.array(values, field.type))
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._written += len(self._rows)
        self._rows = []


def _flat(batch: Any, column: str, which: int) -> Any:
    """The prices (0) or quantities (1) of a column, those of all levels where it has the sides of books."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute
    values = batch.column(column)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_floating(values.type):
        return pc.drop_null(pc.if_else(pc.is_nan(values), None, values))
    numbers = pc.list_flatten(values)
    return numbers.take(pa.array(range(which, len(numbers), 2), pa.int64()))


def _bar_type(name: str, candle: Candle) -> str:
    match = re.fullmatch(r"(\d+)([smhdwM])", candle.interval)
    if match is None:
        raise UsageError(f"nautilus_trader has no bars of {candle.interval!r}")
    return f"{name}-{match[1]}-{_STEPS[match[2]]}-LAST-EXTERNAL"


def _definition(row: InstrumentRecord) -> tuple[str, dict[str, Any]]:
    """The class of an instrument, and the fields that it alone has."""
    if row.kind == "spot":
        return "CurrencyPair", {"base_currency": row.base, "quote_currency": row.quote, "lot_size": None}
    common = {"quote_currency": row.quote, "settlement_currency": row.settle, "is_inverse": row.inverse}
    if row.expiry is None:
        return "CryptoPerpetual", {"base_currency": row.base, **common}
    return "CryptoFuture", {"underlying": row.base, **common, "activation_ns": 0, "expiration_ns": row.expiry}


def _type_of(key: str, value: object) -> pa.DataType:
    import pyarrow as pa

    if key in ("price_precision", "size_precision"):
        return pa.uint8()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, bytes):
        return pa.binary()
    return pa.uint64() if isinstance(value, int) else pa.string()


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _stamp(at: int) -> str:
    """A time in a file's name: ``2025-03-01T00-00-00-000000000Z``."""
    return iso(at).replace(":", "-").replace(".", "-")
