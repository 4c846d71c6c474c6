"""A nautilus catalog as Arrow sees it; examples/export/test_nautilus.py has nautilus_trader itself read one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cmd_common.commands import EXIT_GAPS, EXIT_OK, ExportOptions, LogReporter, Result
from cmd_common.errors import UsageError
from cmd_common.io import open_writer
from cmd_common.records import (
    REST,
    BookDelta,
    BookSnapshot,
    Candle,
    Gap,
    InstrumentRecord,
    Quote,
    Record,
    Trade,
    pack_levels,
)
from cmd_parquet.export import run
from cmd_parquet.nautilus import instrument_id

S = 1_000_000_000
START = 1_735_689_600 * S
STAMP = "2025-01-01T00-00-"
UNIT = 10**16


def trade(n: int, recv: int = 2, flags: int = 0) -> Trade:
    ts = START + n * S
    return Trade(ts, ts + recv if recv else 0, "binance-spot", "A", str(n), n, 100.25, 0.5, "buy", flags)


def quote(n: int) -> Quote:
    return Quote(START + n * S, START + n * S + 1, "binance-spot", "A", n, 99.5, 1.0, 100.5, 2.0)


def candle(n: int, state: Any = "final", interval: str = "1m") -> Candle:
    at = START + n * 60 * S
    values = 1.0, 3.0, 0.5, 2.0, 7.0, 8.0
    return Candle(
        at, at + 60 * S, at + 60 * S, 0, "binance-spot", "A", interval, "exchange", state, *values, 4, 1.0, 1.0
    )


def snapshot(n: int, epoch: int, seq: int) -> BookSnapshot:
    ts = START + n * S
    bids, asks = pack_levels([(99.0, 1.0), (98.0, 2.0)]), pack_levels([(101.0, 1.5)])
    return BookSnapshot(ts, ts + 2, "binance-spot", "A", epoch, seq, 2, 1, bids, asks)


def delta(n: int, epoch: int, seq: int, price: float, quantity: float) -> BookDelta:
    ts = START + n * S
    return BookDelta(
        ts, ts + 2, "binance-spot", "A", epoch, seq, seq, pack_levels([(price, quantity)]), pack_levels([])
    )


def instrument(tick: str = "0.01", lot: str = "0.001", **more: Any) -> InstrumentRecord:
    fields: dict[str, Any] = {
        "ts_event": START,
        "ts_recv": START + 5,
        "venue": "binance-spot",
        "symbol": "A",
        "base": "BTC",
        "quote": "USDT",
        "settle": "USDT",
        "kind": "spot",
        "tick_size": tick,
        "lot_size": lot,
        "min_quantity": "0.001",
        "min_notional": "5",
        "contract_size": "",
        "inverse": False,
        "expiry": None,
        "status": "trading",
        **more,
    }
    return InstrumentRecord(**fields)


def stored(tmp_path: Path, rows: list[Record]) -> str:
    url = f"parquet:{tmp_path / 'data'}"
    with open_writer(url) as writer:
        writer.write(rows)
    return url


def export(store: str, target: Path, **more: Any) -> Result:
    options: dict[str, Any] = {"tables": (), "venue": "binance-spot", "symbols": ("A",), "format": "nautilus", **more}
    return run(ExportOptions(store=store, target=str(target), **options), LogReporter())


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return [{k: int.from_bytes(v, "little") / UNIT if isinstance(v, bytes) else v for k, v in r.items()} for r in found]


def one(folder: Path) -> Path:
    """The only file of a folder."""
    (path,) = folder.iterdir()
    return path


def test_trades_quotes_and_bars_have_their_files(tmp_path: Path) -> None:
    store = stored(
        tmp_path, [instrument(), trade(1), trade(2, recv=0), trade(3, flags=REST), quote(1), candle(0), candle(1)]
    )
    done = export(store, tmp_path / "cat", latency=7)
    assert done.exit_code == EXIT_OK
    assert done.summary["rows"]["A"]["trade_tick"] == 3
    data = tmp_path / "cat" / "data"
    trades = one(data / "trade_tick" / "A.BINANCE")
    assert trades.name == f"{STAMP}01-000000002Z_{STAMP}03-000000007Z.parquet"
    assert [(r["price"], r["size"], r["aggressor_side"], r["trade_id"]) for r in rows(trades)] == [
        (100.25, 0.5, 1, str(n)) for n in (1, 2, 3)
    ]
    assert [r["ts_init"] - r["ts_event"] for r in rows(trades)] == [2, 7, 7]
    about = pq.read_schema(trades).metadata
    assert about == {b"instrument_id": b"A.BINANCE", b"price_precision": b"2", b"size_precision": b"3"}
    (row,) = rows(one(data / "quote_tick" / "A.BINANCE"))
    assert (row["bid_price"], row["ask_price"], row["bid_size"], row["ask_size"]) == (99.5, 100.5, 1.0, 2.0)
    bars = one(data / "bar" / "A.BINANCE-1-MINUTE-LAST-EXTERNAL")
    assert [(r["open"], r["high"], r["low"], r["close"], r["volume"]) for r in rows(bars)] == [
        (1.0, 3.0, 0.5, 2.0, 7.0)
    ] * 2
    assert [r["ts_event"] for r in rows(bars)] == [START + 60 * S, START + 120 * S]
    (defined,) = pq.read_table(one(data / "currency_pair" / "A.BINANCE")).to_pylist()
    assert (defined["price_increment"], defined["size_increment"], defined["min_notional"]) == (
        "0.01",
        "0.001",
        "5 USDT",
    )
    assert not [p for p in data.rglob("*") if p.name.endswith(".part")]


def test_a_book_begins_with_its_snapshot_and_periodic_ones_are_left_out(tmp_path: Path) -> None:
    book = [
        snapshot(0, 1, 10),
        delta(1, 1, 11, 99.0, 0.0),
        snapshot(2, 1, 11),
        delta(3, 1, 12, 97.0, 4.0),
        delta(4, 9, 50, 1.0, 1.0),
    ]
    done = export(stored(tmp_path, [*book]), tmp_path / "cat", tables=("book_snapshots", "book_deltas"))
    assert done.summary["rows"]["A"]["dropped_updates"] == 1
    found = rows(one(tmp_path / "cat/data/order_book_delta/A.BINANCE"))
    assert [(r["action"], r["side"], r["price"], r["size"], r["flags"], r["sequence"]) for r in found] == [
        (4, 0, 0.0, 0.0, 32, 10),
        (1, 1, 99.0, 1.0, 32, 10),
        (1, 1, 98.0, 2.0, 32, 10),
        (1, 2, 101.0, 1.5, 160, 10),
        (3, 1, 99.0, 0.0, 128, 11),
        (2, 1, 97.0, 4.0, 128, 12),
    ]


def test_digits_that_the_reference_data_does_not_have_are_kept(tmp_path: Path) -> None:
    store = stored(tmp_path, [instrument(tick="0.5", lot="1"), trade(1)])
    export(store, tmp_path / "cat")
    trades = one(tmp_path / "cat/data/trade_tick/A.BINANCE")
    assert pq.read_schema(trades).metadata[b"price_precision"] == b"2"
    (defined,) = pq.read_table(one(tmp_path / "cat/data/currency_pair/A.BINANCE")).to_pylist()
    assert (defined["price_increment"], defined["size_increment"]) == ("0.50", "1.0")


def test_without_reference_data_there_is_no_definition(tmp_path: Path) -> None:
    export(stored(tmp_path, [trade(1)]), tmp_path / "cat")
    assert [p.name for p in (tmp_path / "cat/data").iterdir()] == ["trade_tick"]


def test_a_row_that_was_received_before_the_one_in_front_gets_its_time(tmp_path: Path) -> None:
    done = export(stored(tmp_path, [trade(1, recv=5 * S), trade(2)]), tmp_path / "cat")
    found = rows(one(tmp_path / "cat/data/trade_tick/A.BINANCE"))
    assert [r["ts_init"] for r in found] == [START + 6 * S] * 2
    assert done.summary["rows"]["A"]["raised_ts_init"] == 1


def test_rows_of_the_same_time_are_replaced_only_by_force(tmp_path: Path) -> None:
    store = stored(tmp_path, [trade(n) for n in range(1, 7)])
    target = tmp_path / "cat"
    export(store, target, end=START + 4 * S)
    export(store, target, start=START + 4 * S)  # behind the first
    folder = target / "data/trade_tick/A.BINANCE"
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(UsageError, match="has rows of that time"):
        export(store, target, start=START + 2 * S)
    assert len(list(folder.iterdir())) == 2
    export(store, target, force=True)
    assert [r["trade_id"] for r in rows(one(folder))] == ["1", "2", "3", "4", "5", "6"]


def test_gaps_are_named(tmp_path: Path) -> None:
    gap = Gap(START + S, START + 2 * S, "binance-spot", "A", "trades", "disconnect", "lost")
    done = export(stored(tmp_path, [trade(1), trade(2), gap]), tmp_path / "cat")
    assert (done.exit_code, done.summary["open_gaps"]) == (EXIT_GAPS, 1)


def test_an_open_candle_is_no_bar(tmp_path: Path) -> None:
    done = export(stored(tmp_path, [candle(0), candle(1, "provisional")]), tmp_path / "cat")
    assert done.summary["rows"]["A"]["bar"] == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tables": ("agg_trades",)}, "has no agg_trades"),
        ({"symbols": ()}, "is of instruments"),
        ({"symbols": ("A", "B"), "instrument_id": "X.Y"}, "several symbols"),
        ({"format": "csv", "tables": ("trades",), "instrument_id": "X.Y"}, "nautilus alone"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    store = stored(tmp_path, [trade(1)])
    with pytest.raises(UsageError, match=words):
        export(store, tmp_path / "cat", **more)


def test_a_trade_id_that_is_too_long_leaves_nothing_behind(tmp_path: Path) -> None:
    long = Trade(START, START, "binance-spot", "A", "x" * 37, None, 1.0, 1.0, "buy")
    with pytest.raises(UsageError, match="no trade id as long"):
        export(stored(tmp_path, [long]), tmp_path / "cat")
    assert not [p for p in (tmp_path / "cat").rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("venue", "symbol", "kind", "name"),
    [
        ("binance-spot", "BTCUSDT", "spot", "BTCUSDT.BINANCE"),
        ("binance-usdm", "BTCUSDT", "perpetual", "BTCUSDT-PERP.BINANCE"),
        ("binance-usdm", "BTCUSDT_260327", "future", "BTCUSDT_260327.BINANCE"),
        ("bybit-linear", "BTCUSDT", "perpetual", "BTCUSDT-LINEAR.BYBIT"),
        ("okx", "BTC-USDT-SWAP", "perpetual", "BTC-USDT-SWAP.OKX"),
        ("coinbase", "BTC-USD", "spot", "BTC-USD.COINBASE"),
    ],
)
def test_names_are_those_of_its_adapters(venue: str, symbol: str, kind: str, name: str) -> None:
    assert instrument_id(venue, symbol, instrument(kind=kind)) == name
    assert instrument_id(venue, symbol) == name
