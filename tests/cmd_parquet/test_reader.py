from __future__ import annotations

import random
from math import nan
from pathlib import Path

import pytest
from msgspec.structs import replace
from parquet_models import DAY, T0, VENUE, candle, key_of, model, random_records, stored, to_batches, trade

from cmd_common import open_reader, open_writer
from cmd_common.errors import StoreError, UnknownNameError
from cmd_common.records import BookDelta, BookSnapshot, Candle, Gap, Trade, pack_levels
from cmd_common.sequence import BookState
from cmd_parquet import ParquetReader, ParquetWriter, WriterOptions
from cmd_parquet.columns import arrow_schema


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store at .*; check the path, or fill one with cmd-cli record"):
        open_reader(f"parquet:{tmp_path}/none")
    assert not (tmp_path / "none").exists()


def test_filters_and_order_over_days_symbols_and_venues(location: str) -> None:
    rng = random.Random(3)
    records = [
        Trade(T0 + rng.randrange(3 * DAY), T0, venue, symbol, str(i), i, 1.0, 1.0, "buy")
        for i in range(600)
        for venue, symbol in [(rng.choice(("binance-spot", "kraken")), rng.choice(("AAA", "BBB", "X/Y")))]
    ]
    with ParquetWriter(location, options=WriterOptions(compact_files=100)) as writer:
        for k in range(0, 500, 100):
            writer.write(records[k : k + 100])
            writer.roll()
        writer.write(records[500:])
        writer.flush()
        with ParquetReader(location) as reader:
            wanted = sorted(records, key=lambda r: (r.ts_event, r.venue, r.symbol, len(r.trade_id), r.trade_id))
            assert list(reader.records("trades")) == wanted
            for _ in range(30):
                start, end = sorted((T0 + rng.randrange(3 * DAY), T0 + rng.randrange(3 * DAY)))
                venue = rng.choice((None, "kraken", "nowhere"))
                symbols = rng.choice((None, ["AAA"], ["X/Y", "BBB"], []))
                found = list(reader.records("trades", venue=venue, symbols=symbols, start=start, end=end))
                assert found == [
                    r
                    for r in wanted
                    if start <= r.ts_event < end
                    and venue in (None, r.venue)
                    and (symbols is None or r.symbol in symbols)
                ]
            assert list(reader.records("trades", start=wanted[5].ts_event, end=wanted[5].ts_event)) == []


def test_batches_have_the_schemas_types_and_the_columns_asked_for(location: str) -> None:
    with ParquetWriter(location) as writer:
        writer.write([trade(i) for i in range(10)])
        writer.roll()
        writer.write([trade(i) for i in range(5, 15)])
        writer.flush()
        with ParquetReader(location) as reader:
            (batch,) = reader.batches("trades")
            assert batch.schema.types == arrow_schema("trades").types
            assert batch.schema.names == arrow_schema("trades").names
            (few,) = reader.batches("trades", columns=["price", "symbol"], symbols=["BTCUSDT"])
            assert few.schema.names == ["price", "symbol"]
            assert few.num_rows == 15
            with pytest.raises(UnknownNameError, match=r"column of trades 'pric'; did you mean price\?"):
                reader.batches("trades", columns=["pric"])
            with pytest.raises(UnknownNameError, match="unknown table"):
                reader.records("trade")
            assert list(reader.batches("quotes")) == []


def test_latest_over_files_and_journal(location: str) -> None:
    with ParquetWriter(location) as writer, ParquetWriter(location) as other, ParquetReader(location) as reader:
        assert reader.latest("trades", venue=VENUE, symbol="BTCUSDT") is None
        writer.write_batch("trades", to_batches([trade(i, live=False) for i in range(9, 12)])["trades"])
        writer.flush()
        assert reader.latest("trades", venue=VENUE, symbol="BTCUSDT") == trade(11, live=False)
        other.write([trade(11, price=5.0), trade(3)])
        other.flush()
        assert reader.latest("trades", venue=VENUE, symbol="BTCUSDT") == trade(11, price=5.0)
        assert reader.latest("trades", venue=VENUE, symbol="ETHUSDT") is None
        assert reader.latest("trades", venue="kraken", symbol="BTCUSDT") is None


def test_a_reader_follows_writers_through_rolls_and_compaction(location: str) -> None:
    with ParquetWriter(location, options=WriterOptions(compact_files=2)) as writer, ParquetReader(location) as reader:
        written = []
        rng = random.Random(9)
        for i in range(12):
            records = random_records(rng, 20)
            writer.write(records)
            writer.flush()
            written += records
            if i % 3 == 2:
                writer.roll()
            if i % 5 == 4:
                writer.compact()
            assert stored(reader) == model(written)


def test_iteration_goes_on_when_files_are_compacted_away(location: str) -> None:
    writer = ParquetWriter(location, options=WriterOptions(compact_files=100))
    total = 0
    for k in range(6):
        ids = range(k * 20_000, (k + 1) * 20_000 + 5)
        writer.write_batch("trades", to_batches([trade(i) for i in ids])["trades"])
        writer.flush()
        total = ids[-1] + 1
    with ParquetReader(location) as reader:
        seen: list[int] = []
        batches = reader.batches("trades", columns=["trade_seq"])
        seen += next(batches).column(0).to_pylist()
        assert writer.compact() == 5
        for batch in batches:
            seen += batch.column(0).to_pylist()
        assert seen == list(range(total))
    writer.close()


def test_a_file_that_is_gone_for_good_is_named(location: str) -> None:
    with ParquetWriter(location) as writer:
        writer.write([trade(1)])
    (file,) = Path(location).rglob("*.parquet")
    file.unlink()
    with ParquetReader(location) as reader:
        with pytest.raises(StoreError, match=f"{file.name} is missing though the manifest .* lists it"):
            list(reader.records("trades"))
        with pytest.raises(StoreError, match=f"{file.name} is missing"):
            reader.sql("SELECT * FROM trades")


def test_a_damaged_file_is_named(location: str) -> None:
    with ParquetWriter(location) as writer:
        writer.write([trade(i, price=1 + random.random()) for i in range(5000)])
    (file,) = Path(location).rglob("*.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with ParquetReader(location) as reader, pytest.raises(StoreError, match=f"{file.name} is damaged: .*archive that"):
        list(reader.records("trades"))
    file.write_bytes(data[: len(data) // 2])
    with ParquetReader(location) as reader, pytest.raises(StoreError, match=f"{file.name} is damaged"):
        list(reader.records("trades"))


def snapshot(t: int, epoch: int, seq: int, bid: float) -> BookSnapshot:
    bids, asks = pack_levels([(bid, 1.0), (bid - 1, 2.0)]), pack_levels([(bid + 1, 1.0)])
    return BookSnapshot(T0 + t, T0 + t, VENUE, "BTCUSDT", epoch, seq, 2, 1, bids, asks)


def delta(t: int, epoch: int, seq: int, bids: list[tuple[float, float]]) -> BookDelta:
    return BookDelta(T0 + t, T0 + t, VENUE, "BTCUSDT", epoch, seq, seq, pack_levels(bids), b"")


def test_book_at(location: str) -> None:
    records = [
        snapshot(10, 5, 5, 100.0),
        delta(10, 5, 6, [(100.0, 3.0)]),
        delta(20, 5, 7, [(100.5, 1.0)]),
        delta(20, 5, 8, [(99.0, 0.0)]),
        delta(30, 5, 9, [(100.5, 0.0)]),
        snapshot(60, 20, 20, 200.0),
        delta(70, 20, 21, [(200.0, 9.0)]),
        delta(80, 33, 34, [(1.0, 1.0)]),
    ]
    gaps = [Gap(T0 + 40, T0 + 60, VENUE, "BTCUSDT", "book_deltas", "sequence", "lost")]
    with open_writer(f"parquet:{location}") as writer:
        writer.write([*records, *gaps])
    with open_reader(f"parquet:{location}") as reader:

        def book(t: int) -> tuple[object, ...] | None:
            found = reader.book_at(VENUE, "BTCUSDT", T0 + t)
            if found is None:
                return None
            found.check()
            assert found.state is BookState.LIVE
            return found.bids(), found.asks(), found.last_id, found.ts_event - T0

        assert book(9) is None
        assert book(15) == ([(100.0, 3.0), (99.0, 2.0)], [(101.0, 1.0)], 6, 10)
        assert book(25) == ([(100.5, 1.0), (100.0, 3.0)], [(101.0, 1.0)], 8, 20)
        assert book(40) == ([(100.0, 3.0)], [(101.0, 1.0)], 9, 30)
        assert book(50) is None  # in the gap
        assert book(60) == ([(200.0, 1.0), (199.0, 2.0)], [(201.0, 1.0)], 20, 60)
        assert book(75) == ([(200.0, 9.0), (199.0, 2.0)], [(201.0, 1.0)], 21, 70)
        assert book(80) is None  # another epoch without its snapshot
        assert reader.book_at(VENUE, "ETHUSDT", T0 + 20) is None


def test_book_at_a_gap_that_ends_with_the_snapshot_does_not_break_it(location: str) -> None:
    """The connection was lost and taken up again before anything was sent: the gap has no length."""
    gap = Gap(T0 + 10, T0 + 10, VENUE, "BTCUSDT", "book_deltas", "disconnect", "lost")
    with open_writer(f"parquet:{location}") as writer:
        writer.write([snapshot(0, 5, 5, 100.0), delta(10, 5, 6, [(100.0, 3.0)]), snapshot(10, 7, 7, 200.0), gap])
        writer.write([delta(20, 7, 8, [(200.0, 2.0)])])
    with open_reader(f"parquet:{location}") as reader:
        book = reader.book_at(VENUE, "BTCUSDT", T0 + 30)
        assert book is not None
        assert book.bids() == [(200.0, 2.0), (199.0, 2.0)]
    with open_writer(f"parquet:{location}") as writer:
        writer.write([Gap(T0 + 10, T0 + 15, VENUE, "BTCUSDT", "book_deltas", "sequence", "lost")])
    with open_reader(f"parquet:{location}") as reader:
        assert reader.book_at(VENUE, "BTCUSDT", T0 + 30) is None  # this one begins with the snapshot


def test_book_at_knows_no_more_than_the_snapshot(location: str) -> None:
    bids = pack_levels([(100.0, 1.0), (99.0, 2.0), (90.0, 5.0)])
    asks = pack_levels([(101.0, 1.0), (120.0, 5.0)])
    record = BookSnapshot(T0, T0, VENUE, "BTCUSDT", 5, 5, 2, 1, bids, asks)
    with open_writer(f"parquet:{location}") as writer:
        writer.write([record, delta(1, 5, 6, [(99.5, 3.0), (89.0, 1.0)])])
    with open_reader(f"parquet:{location}") as reader:
        book = reader.book_at(VENUE, "BTCUSDT", T0 + 1)
    assert book is not None
    book.check()
    assert book.known_depth == (3, 1)
    assert [p for p, _ in book.bids()] == [100.0, 99.5, 99.0, 90.0, 89.0]
    assert [p for p, _ in book.asks()] == [101.0, 120.0]


def test_closed(location: str) -> None:
    with ParquetWriter(location) as writer:
        writer.write([candle(1)])
    reader = ParquetReader(location)
    (record,) = reader.records("candles")
    assert isinstance(record, Candle)
    assert key_of(record) == key_of(candle(1))
    reader.close()
    reader.close()
    with pytest.raises(StoreError, match="is closed"):
        reader.tables()


def test_values_that_no_exchange_told_are_found_by_sql(location: str) -> None:
    with ParquetWriter(location) as writer:
        rows = [candle(n) for n in range(10)]
        writer.write([replace(r, quote_volume=nan if n % 2 else 5.0, trades=-1) for n, r in enumerate(rows)])
        writer.roll()
        with ParquetReader(location) as reader:
            assert list(reader.sql("SELECT count(*) FROM candles WHERE isnan(quote_volume)").rows()) == [(5,)]
            assert list(reader.sql("SELECT count(*) FROM candles WHERE quote_volume = 5").rows()) == [(5,)]
